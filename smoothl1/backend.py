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
_ways: dict[type, Any] = {}  # modules of short ways, by kind of array


def choose(problem: Problem) -> Any:
    """Backend for the arrays of a problem."""
    global _cpu
    if _cpu is None:
        from . import cpu

        _cpu = cpu
    return _cpu


def short_way(x: Any) -> Any:
    """Module with the shortest way for plain arrays of the kind of `x`; None if there is none."""
    return _ways.get(type(x)) or _find_way(type(x))


def _find_way(kind: type) -> Any:
    if kind is np.ndarray:
        from . import short

        _ways[kind] = short
    elif "torch" in sys.modules and kind.__module__.partition(".")[0] == "torch":
        from . import short_tensors
        from .autograd import PLAIN

        _ways.update(dict.fromkeys(PLAIN, short_tensors))
    elif "jax" in sys.modules and kind.__name__ == "ArrayImpl" and kind.__module__[:3] == "jax":
        from . import often_jax

        _ways[kind] = often_jax
    return _ways.get(kind)
