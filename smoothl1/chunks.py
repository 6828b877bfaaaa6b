"""What lazy results of every kind share: known chunks, and trees of sums."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np

from .validate import Array

WIDTH = 8  # partial sums that a task of a tree adds up


def check_chunks(name: str, array: Any) -> None:
    """Refuse an array of unknown size, or one whose blocks are not NumPy's."""
    if any(np.isnan(size) for size in array.shape):
        raise ValueError(
            f"{name} must have known chunk sizes, got shape {array.shape}; call "
            f"{name}.compute_chunk_sizes() first, or df.to_dask_array(lengths=True)"
        )
    kind = type(array._meta)
    if kind is not np.ndarray:
        raise TypeError(
            f"{name} must be a Dask array of numpy.ndarray blocks, got blocks of "
            f"{kind.__module__}.{kind.__qualname__}; pass {name}.map_blocks(np.asarray) if that "
            "loses nothing"
        )


def empty(ndim: int, dtype: Any) -> Array:
    """Array without elements, by which Dask knows the kind of a result."""
    return np.empty((0,) * ndim, dtype)


def add_up(parts: Any, axes: tuple[int, ...]) -> Any:
    """Sum of the blocks along axes, in which every block has size 1.

    The tree depends on the grid of blocks alone, so that sums have the same
    bits whichever worker is done first.
    """
    if not axes:
        return parts
    return da.reduction(
        parts, _same, _add, combine=_add, axis=axes, keepdims=True, concatenate=False,
        dtype=parts.dtype, split_every=WIDTH, meta=empty(parts.ndim, parts.dtype),
    )  # fmt: skip


def _same(part: Array, axis: Any, keepdims: bool) -> Array:
    return part


def _add(parts: Any, axis: Any, keepdims: bool) -> Array:
    leaves = _leaves(parts)
    total = np.array(next(leaves))
    with np.errstate(all="ignore"):
        for part in leaves:
            total += part
    return total


def _leaves(parts: Any) -> Iterator[Array]:
    """Arrays in nested lists, in order."""
    if not isinstance(parts, list):
        yield parts
        return
    for part in parts:
        yield from _leaves(part)
