"""Losses of plain NumPy arrays along axes, with as little Python as that takes.

For large arrays, and for small ones that are not for `plain`. What follows from shape and axes
is kept. The long way asks five times as much, in code that operands of some MiB have pushed
out of the caches: 0.2 ms where this takes 0.1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import kernels, threads
from .gather import describe_input, describe_output
from .new_arrays import new_array
from .plain import TOTAL, count_of, has_axes
from .plan import Division, Plan, make_plan
from .records import LOSS, Operands, Outputs, Sums
from .sums_run import FEW, add_up, assign, describe_results, divide_for, kernel_for
from .validate import Array, Reduction, check_axis


class _Way(NamedTuple):
    """How to sum arrays of one shape along axes."""

    plan: Plan
    in_order: bool  # of memory
    is_few: bool  # rows of many columns
    parts: int  # of each sum; 0 if kernels finish the sums
    tasks: int
    kernel: Any
    rest: tuple[Any, ...]  # of the arguments of kernels, but for what sums are divided by


def loss_along(
    x: Array, target: Array, beta: float, divides: bool, axis: Any, keepdims: Any,
    grad: Array | None,
) -> Any:  # fmt: skip
    """Mean or sum of the losses along axes, and the gradient in ``grad`` unless that is None.

    None for odd axes.
    """
    if not has_axes(x.shape, axis, keepdims):
        return None
    alone = threads.choose_runner(x.size) == threads.SERIAL
    way = _way(x.shape, axis, keepdims, 1 if alone else threads.get_num_threads())
    plan = way.plan
    out = new_array(plan.result_shape, x.dtype)
    by = count_of(x.shape, axis) if divides else None
    xs, targets, slopes = _arrange(x, target, grad, way)
    narrow, divisor = None if x.itemsize == 8 else True, None if grad is None else by
    operands = Operands(xs, targets, beta, divisor=divisor, narrow=narrow)
    rest = way.rest
    if way.parts:
        table: Any = np.empty((3, way.parts * plan.outputs))
    else:
        rest = 1.0 if by is None else by, *rest[1:]
        flat = Sums(loss=out.reshape(-1)) if way.is_few else None
        table = describe_results({LOSS: out}, [LOSS], plan) if flat is None else flat
    arguments = operands, Outputs(slope=slopes), TOTAL, table, *rest
    kind = (narrow, divisor is None, grad is None, bool(way.parts)) if way.in_order else None
    tasks = threads.all_tasks(way.tasks)
    threads.run(way.kernel, arguments, tasks, x.size, kind)
    if way.parts:
        assign(out, add_up(table[LOSS], way.parts), plan, by)
    return out if out.shape else out[()]


@lru_cache(maxsize=512)
def _way(shape: tuple[int, ...], axis: Any, keepdims: bool, number: int) -> _Way:
    """How to sum along axes on so many threads."""
    axes = check_axis(axis, len(shape), Reduction.MEAN)
    plan = make_plan(shape, axes, keepdims, tuple(range(len(shape))))
    in_order, many = plan.order == tuple(sorted(plan.order)), plan.outputs > FEW
    division = Division(plan, 1, max(1, plan.blocks)) if many else divide_for(plan, number)
    kernel, rest = kernel_for(division, 1.0)
    is_few = many and plan.few and in_order
    if is_few:
        kernel = kernels.reduce_few
    parts = 0 if many else division.count
    return _Way(plan, in_order, is_few, parts, division.tasks, kernel, rest)


def _arrange(x: Array, target: Array, grad: Array | None, way: _Way) -> Any:
    """Operands and gradient as kernels take them, as in `launch`."""
    if way.in_order:
        xs, targets = x.reshape(-1), target.reshape(-1)
        xs.setflags(write=False)
        targets.setflags(write=False)
        return xs, targets, None if grad is None else grad.reshape(-1)
    name, order = x.dtype.name, way.plan.order
    return (
        describe_input(x, order, name),
        describe_input(target, order, name),
        None if grad is None else describe_output(grad, order),
    )
