"""Checks of what objectives are made from."""

from __future__ import annotations

from typing import Any

import numpy as np

from .validate import Reduction, check_real, check_reduction, numbers

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


def at_least_0(name: str, value: Any) -> float:
    """Return a finite number of at least 0."""
    number = check_real(name, value)
    if not 0.0 <= number < np.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return number


def check_total(reduction: Any) -> Reduction:
    """Return a reduction to one number."""
    kind = check_reduction(reduction)
    if kind is Reduction.NONE:
        raise ValueError("reduction must be 'mean' or 'sum' for an objective, got 'none'")
    return kind


def refuse_masked(name: str, value: Any) -> None:
    """Refuse an array whose mask would be lost."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must not be a masked array; pass {name}.filled(0), and weights of 0 for the "
            "rows with masked values"
        )


def vector(name: str, value: Any, size: int | None) -> Vector:
    """Return a contiguous float64 vector."""
    refuse_masked(name, value)
    if type(value) is not np.ndarray or value.dtype != np.float64:
        value = np.asarray(numbers(name, value), np.float64)
    if value.ndim != 1 or size not in (None, value.size):
        wanted = "one dimension" if size is None else f"shape {(size,)}"
        flat = value.ndim > 1 and value.size in (size, max(value.shape))
        hint = f"; pass {name}.ravel()" if flat and name.isidentifier() else ""
        raise ValueError(f"{name} must have {wanted}, got shape {value.shape}{hint}")
    return np.ascontiguousarray(value)


def finite_vector(name: str, value: Any) -> Vector:
    """Return a vector of finite numbers."""
    values = vector(name, value, None)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(f"{name} must be finite, got {values[bad[0]]} at index {bad[0]}")
    return values


def weights(name: str, value: Any, size: int | None) -> Vector | None:
    """Return weights of at least 0, not all 0."""
    if value is None:
        return None
    weight = finite_vector(name, value).copy()
    if size not in (None, weight.size):
        raise ValueError(f"{name} must have shape {(size,)} as y, got {weight.shape}")
    if weight.size and weight.min() < 0:
        raise ValueError(f"{name} must be at least 0, got {weight.min()}")
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not 0 < total < np.inf:
        raise ValueError(f"{name} must have a finite sum above 0, got {total}")
    return weight
