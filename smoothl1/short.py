"""The shortest way from two small NumPy arrays to their total loss.

Every call of the public functions comes by here first, so `fits` only looks at
types and flags.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernels import total_loss, total_loss_and_grad
from .validate import Array

SMALL = 1 << 19  # elements; above, two threads save more than the long way costs, 60 us
FLAT = 0x101  # flags of an array that is C-contiguous and aligned
LARGEST_FLOAT32 = 3.4e38


def fits(x: Array, target: Any) -> bool:
    """Whether arrays are of one native float type and shape, contiguous, aligned, not empty."""
    if type(target) is not np.ndarray:
        return False
    dtype = x.dtype
    return (
        dtype is target.dtype
        and dtype.char in "df"
        and dtype.isnative
        and x.shape == target.shape
        and 0 < x.size < SMALL
        and x.flags.num & target.flags.num & FLAT == FLAT
    )


def loss(x: Array, target: Array, beta: float, divides: bool) -> Any:
    """Mean or sum of the losses."""
    narrow = None if x.itemsize == 8 else True
    total = total_loss(x.reshape(-1), target.reshape(-1), beta, narrow)
    return _scalar(total / x.size if divides else total, x.dtype)


def value_and_grad(x: Array, target: Array, beta: float, divides: bool) -> tuple[Any, Array]:
    """Mean or sum of the losses, and its gradient in x."""
    narrow = None if x.itemsize == 8 else True
    divisor = float(x.size) if divides else 1.0
    grad = np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), target.reshape(-1), beta, divisor, narrow, grad.reshape(-1)
    return _scalar(total_loss_and_grad(*flat) / divisor, x.dtype), grad


def _scalar(value: float, dtype: np.dtype[Any]) -> Any:
    """Make a NumPy scalar; one that float32 cannot hold is infinite, without a warning."""
    if abs(value) < LARGEST_FLOAT32 or dtype.itemsize == 8:
        return dtype.type(value)
    with np.errstate(all="ignore"):
        return dtype.type(value)
