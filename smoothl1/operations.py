"""Operations of XLA that `often_jax` has made, and calls by them.

Apart from it, so that nothing of JAX is needed to look: a call of the public functions
looks here first if x is of the kind that has operations, and a call of 7 us takes 0.5 us
less than by `backend.short_ways`.
"""

from __future__ import annotations

from threading import get_ident, main_thread
from types import SimpleNamespace
from typing import Any

from .validate import DIVIDES

MAIN = main_thread().ident

kind: Any = None  # of the arrays that may have operations; None while there are none
made: dict[Any, Any] = {}  # by types of two arrays, beta, divides, axis, keepdims, function
tracing: Any = SimpleNamespace(value=None)  # where JAX says what it traces
nothing: Any = object()  # what it says when it computes at once


def result(
    x: Any, target: Any, beta: Any, reduction: Any, axis: Any, keepdims: Any, name: str
) -> Any:
    """Result of a call by its operation; None if it has none, or not here and now."""
    if (
        type(target) is not kind
        or type(beta) is not float
        or type(keepdims) is not bool
        or not (axis is None or type(axis) is int)
    ):
        return None
    try:
        call = made.get((x.aval, target.aval, beta, DIVIDES[reduction], axis, keepdims, name))
        if call is None or tracing.value is not nothing or get_ident() != MAIN:  # `is_now`, inlined
            return None
        return call(x, target)
    except Exception:  # the other ways raise it as well, or are those that work
        return None


def is_now() -> bool:
    """Whether operations may be called here, and compute at once."""
    return tracing.value is nothing and get_ident() == MAIN
