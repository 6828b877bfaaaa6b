"""Which backend computes a checked problem, and the shortest way for small arrays.

A backend is a module with `loss`, `slope` and `value_and_grad` over a checked
`problem.Problem`. Only that for CPUs is there. Arrays of other libraries come
here as NumPy views (see `kinds`).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .problem import Problem

_cpu: Any = None
short_ways: dict[type, Any] = {}  # by kind of array, what `find_way` has found


def choose(problem: Problem) -> Any:
    """Backend for the arrays of a problem."""
    global _cpu
    if _cpu is None:
        from . import cpu

        _cpu = cpu
    return _cpu


def find_way(kind: type) -> Any:
    """Module with the shortest way for plain arrays of a kind; None if there is none."""
    if kind is np.ndarray:
        from . import short

        short_ways[kind] = short
    elif "torch" in sys.modules and kind.__module__.partition(".")[0] == "torch":
        from . import short_tensors
        from .autograd import PLAIN

        short_ways.update(dict.fromkeys(PLAIN, short_tensors))
    elif "jax" in sys.modules and kind.__name__ == "ArrayImpl" and kind.__module__[:3] == "jax":
        from . import often_jax

        short_ways[kind] = often_jax
    return short_ways.get(kind)
