"""Which backend computes a checked problem, and the shortest way for small arrays.

A backend is a module with `loss`, `slope` and `value_and_grad` over a checked
`problem.Problem`. Only that for CPUs is there. Arrays of other libraries come
here as NumPy views (see `kinds`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .problem import Problem
from .threads import WORTH_A_THREAD

SMALL = 2 * WORTH_A_THREAD  # elements below which one thread does the work
FLAT = 0x101  # flags of an array that is C-contiguous and aligned

_cpu: Any = None
_kernels: Any = None


def choose(problem: Problem) -> Any:
    """Backend for the arrays of a problem."""
    global _cpu
    if _cpu is None:
        from . import cpu

        _cpu = cpu
    return _cpu


def small_kernels(x: Any, target: Any) -> Any:
    """Kernels for two plain arrays, if they are small and alike; else None.

    This is the first thing that every call does, so it only looks at types
    and flags: arrays of one native float type and one shape, contiguous,
    aligned, not empty.
    """
    global _kernels
    if type(x) is not np.ndarray or type(target) is not np.ndarray:
        return None
    dtype = x.dtype
    if dtype is not target.dtype or dtype.char not in "df" or not dtype.isnative:
        return None
    if x.shape != target.shape or not 0 < x.size < SMALL:
        return None
    if x.flags.num & target.flags.num & FLAT != FLAT:
        return None
    if _kernels is None:
        from . import kernels

        _kernels = kernels
    return _kernels
