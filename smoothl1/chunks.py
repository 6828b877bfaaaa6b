"""What lazy results of every kind share: known chunks, and trees of sums."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

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
    for axis in axes:
        while parts.numblocks[axis] > 1:
            parts = _add_neighbours(parts, axis)
    return parts


def _add_neighbours(parts: Any, axis: int) -> Any:
    """One level of a tree. The reductions of Dask put one more task on each block."""
    before = parts.numblocks[axis]
    counts = [-(-n // WIDTH) if a == axis else n for a, n in enumerate(parts.numblocks)]
    name = f"add-{tokenize(parts.name, axis, WIDTH)}"
    tasks: dict[Any, Any] = {}
    for place in np.ndindex(*counts):
        low = place[axis] * WIDTH
        along = range(low, min(low + WIDTH, before))
        blocks = [(parts.name, *place[:axis], i, *place[axis + 1 :]) for i in along]
        tasks[(name, *place)] = (_add, blocks)
    chunks = tuple((1,) * counts[axis] if a == axis else c for a, c in enumerate(parts.chunks))
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[parts])
    return da.Array(graph, name, chunks, meta=parts._meta)


def _add(blocks: list[Array]) -> Array:
    total = np.array(blocks[0])
    with np.errstate(all="ignore"):
        for block in blocks[1:]:
            total += block
    return total
