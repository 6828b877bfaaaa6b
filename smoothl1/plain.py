"""Plain NumPy arrays with few options: what such calls need is prepared once for all of them.

Between `short`, for one number from all elements, and the long way, which takes any
options: elementwise losses, gradients and Hessians, and losses of small arrays along
axes. What follows from shapes and axes is kept, and kernels are called without numba's
look at their arguments, which takes 4 us. The kernels, and so the bits, are those of the
long way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import threads
from .jit import compiled
from .kernels import map_runs
from .new_arrays import new_array
from .plan import SPAN, divide, make_plan
from .records import Operands, Outputs, Sums
from .sums_run import FEW, kernel_for
from .validate import Array, Reduction, check_axis

TOTAL = Sums(loss=True)

_entries: dict[Any, Callable[..., None]] = {}


class _Along(NamedTuple):
    """How to sum arrays of one shape along axes."""

    kernel: Any
    geometry: Any
    tasks: int
    outputs: int
    shape: tuple[int, ...]
    each: float  # elements of one sum


def losses(x: Array, target: Array, beta: float) -> Array:
    """Loss of each element."""
    out = new_array(x.shape, x.dtype)
    _map(x, target, beta, Outputs(loss=out.reshape(-1)), None, None)
    return out


def slopes(
    x: Array, target: Array, beta: float, divides: bool | None, axis: Any, curvature: bool,
    out: Array | None,
) -> Any:  # fmt: skip
    """Slope or curvature of each element, of a mean divided by its count; None for odd axes."""
    count = count_of(x.shape, axis) if is_plain(axis) else None
    if count is None or (divides is None and axis is not None):
        return None
    if out is None:
        out = new_array(x.shape, x.dtype)
    divisor = count if divides else None
    _map(x, target, beta, Outputs(slope=out.reshape(-1)), divisor, True if curvature else None)
    return out


def loss_along(
    x: Array, target: Array, beta: float, divides: bool, axis: Any, keepdims: Any, grad: Any
) -> Any:
    """Mean or sum of the losses along axes, and the gradient in ``grad`` unless that is None.

    None for what is not for this way: odd axes, many results or only one.
    """
    if not is_plain(axis) or type(keepdims) is not bool:
        return None
    along = along_axes(x.shape, axis, keepdims)
    if along is None:
        return None
    count = along.each if divides else 1.0
    sums = np.empty((1, along.outputs))
    rest = TOTAL, sums, count, along.geometry, 0, along.tasks
    if grad is None:
        _run(along.kernel, x, target, beta, Outputs(), None, None, rest)
    else:
        _run(along.kernel, x, target, beta, Outputs(slope=grad.reshape(-1)), count, None, rest)
    result = sums.reshape(along.shape)
    if x.itemsize == 8:
        return result
    with np.errstate(all="ignore"):
        return result.astype(x.dtype)


def is_plain(axis: Any) -> bool:
    """Whether an axis can be looked up: True would be taken for 1."""
    if type(axis) is tuple:
        return all(type(one) is int for one in axis)
    return axis is None or type(axis) is int


def has_axes(shape: tuple[int, ...], axis: Any, keepdims: Any) -> bool:
    """Whether an array of a shape can be summed along axes by `loss_along` here or in `along`."""
    return type(keepdims) is bool and is_plain(axis) and count_of(shape, axis) is not None


@lru_cache(maxsize=512)
def count_of(shape: tuple[int, ...], axis: Any) -> float | None:
    """Elements of one sum along axes; None for axes that the shape does not have."""
    try:
        axes = check_axis(axis, len(shape), Reduction.MEAN)
    except (TypeError, ValueError):  # which the long way raises
        return None
    return float(math.prod(shape[a] for a in axes))


@lru_cache(maxsize=512)
def along_axes(shape: tuple[int, ...], axis: Any, keepdims: bool) -> _Along | None:
    """How to sum along axes; None as in `loss_along`."""
    count = count_of(shape, axis)
    if count is None:
        return None
    axes = check_axis(axis, len(shape), Reduction.MEAN)
    plan = make_plan(shape, axes, keepdims, tuple(range(len(shape))))
    in_order = plan.order == tuple(sorted(plan.order))
    if not in_order or not 1 < plan.outputs <= FEW:
        return None
    division = divide(plan, 1)
    kernel, (_, geometry) = kernel_for(division, 1.0)
    return _Along(kernel, geometry, division.tasks, plan.outputs, plan.result_shape, count)


def _map(
    x: Array, target: Array, beta: float, outputs: Outputs, divisor: Any, curvature: Any
) -> None:
    tasks = -(-x.size // SPAN)
    if threads.choose_runner(x.size) == threads.SERIAL:
        _run(map_runs, x, target, beta, outputs, divisor, curvature, (x.size, 0, tasks))
        return
    operands = _operands(x, target, beta, divisor, curvature)
    kind = operands.narrow, outputs.loss is None, divisor is None, curvature
    rest = (operands, outputs, x.size), threads.all_tasks(tasks), x.size, kind
    threads.run(map_runs, *rest)


def _run(
    kernel: Any, x: Array, target: Array, beta: float, outputs: Outputs, divisor: Any,
    curvature: Any, rest: tuple[Any, ...],
) -> None:  # fmt: skip
    arguments = _operands(x, target, beta, divisor, curvature), outputs, *rest, threads.NO_JOB
    key = kernel, x.dtype, outputs.loss is None, outputs.slope is None, divisor is None, curvature
    entry = _entries.get(key)
    if entry is None:
        entry = _entries[key] = compiled(kernel, arguments)
    entry(*arguments)


def _operands(x: Array, target: Array, beta: float, divisor: Any, curvature: Any) -> Operands:
    xs, targets = x.reshape(-1), target.reshape(-1)
    xs.setflags(write=False)  # as in `launch`: one kernel for both
    targets.setflags(write=False)
    narrow = None if x.itemsize == 8 else True
    return Operands(xs, targets, beta, divisor=divisor, curvature=curvature, narrow=narrow)
