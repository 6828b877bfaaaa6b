"""Calls on plain arrays of JAX: those that come often are made operations of XLA.

The first calls go by `short_jax`. What a call is, but for the values of its arrays, is
counted, and after a thousand calls an operation is compiled (see `xla`): 20 to 30 ms, or
seconds where its kernels are not in the cache on disk yet. From then on a call takes as
long as one of `jax.jit`, and the checks. Results have the same bits.

All this is for Python's main thread. Functions that XLA calls on threads of its own, as by
`jax.pure_callback`, must not wait for XLA: it may be waiting for them.
"""

from __future__ import annotations

import importlib
from threading import get_ident
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.extend.backend import backends

from . import operations, plain, short, short_jax
from .jit import cache_folder
from .kernels import map_runs, total_loss_and_grad_at, total_loss_at
from .xla import Work, operation

ENOUGH = 1000
MOST = 4096  # calls to be kept count of
NEVER = -1

_counts: dict[Any, int] = {}  # how often each call came, or NEVER


def _find_tracing() -> tuple[Any, Any]:
    """Where JAX says what it traces, and what it says when it computes at once."""
    try:
        core = importlib.import_module("jax._src.core")
        core.trace_state_strong_ref.value  # noqa: B018
        return core.trace_state_strong_ref, core.eval_trace
    except (ImportError, AttributeError):
        return SimpleNamespace(value=None), object()


operations.tracing, operations.nothing = _find_tracing()

# Whether there is only one device, so that calls need not be told apart by it.
_IS_ALONE = sum(client.device_count() for client in backends().values()) == 1


def _often(way: Any, name: str, curved: str = "") -> Any:
    """A way of this kind of array, as in `short`; None if the arrays are not for it.

    It has operations under a name, or another if it is asked for the second derivatives.
    """

    def run(
        x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any,
        more: Any = None, out: Any = None,
    ) -> Any:  # fmt: skip
        if type(target) is not type(x) or type(keepdims) is not bool:
            return None
        if axis is not None and type(axis) is not int and not plain.is_plain(axis):
            return None
        if out is not None or (more is not None and type(more) is not bool):
            return None
        key: Any = x.aval, target.aval, beta, divides, axis, keepdims, curved if more else name
        if not _IS_ALONE:
            key += (x.sharding, target.sharding, x.committed, target.committed,
                    jax.config.jax_default_device)  # fmt: skip
        call = operations.made.get(key)
        if call is not None and operations.is_now():
            try:
                return call(x, target)
            except Exception:  # the other way raises it as well, or is the one that works
                pass
            result = way(x, target, beta, divides, axis, keepdims, more)
            _give_up(key)
            return result
        result = way(x, target, beta, divides, axis, keepdims, more)
        if call is None and result is not None and get_ident() == operations.MAIN:
            _count(key, result, x, target)
        return result

    return run


def _loss(
    x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: bool, more: None
) -> Any:
    return short_jax.loss(x, target, beta, divides, axis, keepdims)


loss = _often(_loss, "loss")
slope = _often(short_jax.slope, "grad", "hess")
value_and_grad = _often(short_jax.value_and_grad, "both")


def _count(key: Any, result: Any, x: Any, target: Any) -> None:
    """Keep count of a call, and make its operation when it has come often."""
    count = _counts.get(key, 0)
    if count == NEVER:
        return
    if x.size >= short.SERIAL:
        _give_up(key)
    elif count < ENOUGH:
        _keep(_counts, key, count + 1)
    elif operations.is_now():
        made = _operation(key, result, x, target)
        if made is None:
            _give_up(key)
        else:
            _counts.pop(key, None)
            _keep(operations.made, key, made)
            operations.kind = type(x) if _IS_ALONE else None


def _give_up(key: Any) -> None:
    """Have a call go by `short_jax` from now on."""
    operations.made.pop(key, None)
    _keep(_counts, key, NEVER)


def _keep(calls: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep something for a call; what there is too much of is begun anew."""
    if len(calls) >= MOST:
        calls.clear()
    calls[key] = value


def _operation(key: Any, result: Any, x: Any, target: Any) -> Any:
    """Operation for a call that had this result; None if it has another, or takes seconds."""
    if cache_folder() is None:
        return None
    _, _, beta, divides, axis, keepdims, name = key[:7]
    results = jax.tree.leaves(result)
    shapes = tuple(array.shape for array in results)
    try:
        work, divisor, rest = _work(name, x, divides, axis, keepdims, results[0].size)
        made = operation(work, shapes, [beta, divisor, x.size, *rest])
        found = jax.tree.leaves(made(x, target))
        if all(map(_is_alike, found, results)):
            return made
    except Exception:  # other axes, another XLA, a guard: the other way needs none of it
        return None
    return None


def _work(
    name: str, x: Any, divides: bool | None, axis: Any, keepdims: bool, outputs: int
) -> tuple[Work, float, tuple[int, ...]]:
    """Kernel for a call, what it divides by, and numbers that it takes.

    Raises NotImplementedError for axes that are summed as in `along`.
    """
    divisor: Any = plain.count_of(x.shape, axis) if divides else 1.0
    if name in ("grad", "hess"):
        curvature = True if name == "hess" else None
        return Work(map_runs, x.dtype, True, curvature), divisor, ()
    if divides is None:
        return Work(map_runs, x.dtype), divisor, ()
    slopes = name == "both"
    along = plain.along_axes(x.shape, axis, keepdims)
    if along is None and outputs != 1:
        raise NotImplementedError("no operations of XLA for sums along such axes")
    if along is None:
        kernel = total_loss_and_grad_at if slopes else total_loss_at
        return Work(kernel, x.dtype, slopes), divisor, ()
    numbers = along.outputs, along.tasks, *along.geometry
    return Work(along.kernel, x.dtype, slopes), divisor, numbers


def _is_alike(one: Any, other: Any) -> bool:
    """Whether arrays have the same bits, type and place."""
    return (
        one.dtype == other.dtype
        and one.committed == other.committed
        and one.sharding == other.sharding
        and np.asarray(one).tobytes() == np.asarray(other).tobytes()
    )
