"""The shortest way from two plain NumPy arrays to their total loss, and to what `plain` makes.

Every call of the public functions comes by here first, so `fits` only looks at
types and flags. Small arrays take one compiled call. Large ones are divided among
threads with as little Python as that needs: code that has been pushed out of the
caches by 100 MB of operands runs five times slower than it does in a warm loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import along, plain, threads
from .kernels import (
    add_numbers,
    reduce_flat,
    total_loss,
    total_loss_and_grad,
)
from .new_arrays import new_array
from .plan import divide, make_plan
from .records import Operands, Outputs, Sums
from .small import LOSS, LOSS_AND_GRAD, MOST, PLAIN
from .sums_run import UNITS_PER_THREAD
from .validate import Array

WRITABLE = 0x400
SERIAL = 2 * threads.WORTH_A_THREAD  # elements: fewer are computed by one thread
LARGEST_FLOAT32 = 3.4e38


def fits(x: Array, target: Array) -> bool:
    """Whether arrays are of one native float type and shape, contiguous, aligned, not empty."""
    dtype = x.dtype
    return (
        dtype is target.dtype
        and dtype.char in "df"
        and dtype.isnative
        and x.shape == target.shape
        and x.size > 0
        and x.flags.num & target.flags.num & PLAIN == PLAIN
    )


def takes(grad_out: Any, x: Array, target: Array) -> bool:
    """Whether a gradient can go there as it is made, far from both operands."""
    return (
        type(grad_out) is np.ndarray
        and grad_out.dtype is x.dtype
        and grad_out.shape == x.shape
        and grad_out.flags.num & (PLAIN | WRITABLE) == PLAIN | WRITABLE
        and not np.may_share_memory(grad_out, x)
        and not np.may_share_memory(grad_out, target)
    )


def loss(x: Array, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any) -> Any:
    """Loss of plain arrays, elementwise if ``divides`` is None; None if this is not for them."""
    if type(target) is not np.ndarray:
        return None
    if axis is None and keepdims is False and divides is not None:
        if x.size <= MOST:
            dtype = x.dtype
            value = LOSS[dtype](id(x), id(target), beta, divides)
            if not value < 0.0:
                return dtype.type(value)
        return _large_loss(x, target, beta, divides) if fits(x, target) else None
    if not fits(x, target):
        return None
    if divides is not None:
        return _loss_along(x, target, beta, divides, axis, keepdims, None)
    return plain.losses(x, target, beta) if axis is None and keepdims is False else None


def _large_loss(x: Array, target: Array, beta: float, divides: bool) -> Any:
    narrow = None if x.itemsize == 8 else True
    flat = x.reshape(-1), target.reshape(-1)
    if is_small(x.size):
        total = total_loss(*flat, beta, narrow)
    else:
        total = total_on_threads(*flat, beta, None, narrow, None)
    return _scalar(total / x.size if divides else total, x.dtype)


def value_and_grad(
    x: Array, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any,
    grad_out: Array | None,
) -> tuple[Any, Array] | None:  # fmt: skip
    """Loss and its gradient in x; None as in `loss`, and for elementwise losses."""
    if type(target) is not np.ndarray or not (grad_out is None or takes(grad_out, x, target)):
        return None
    if axis is not None or keepdims is not False or divides is None:
        return _along(x, target, beta, divides, axis, keepdims, grad_out)
    if x.size <= MOST:
        dtype = x.dtype
        grad = np.empty(x.shape, dtype) if grad_out is None else grad_out
        value = LOSS_AND_GRAD[dtype](id(x), id(target), beta, divides, id(grad))
        if not value < 0.0:
            return dtype.type(value), grad
    return _large_value_and_grad(x, target, beta, divides, grad_out) if fits(x, target) else None


def _along(
    x: Array, target: Array, beta: float, divides: bool | None, axis: Any, keepdims: Any,
    grad_out: Array | None,
) -> tuple[Any, Array] | None:  # fmt: skip
    if divides is None or not fits(x, target):
        return None
    if x.size >= SERIAL and not plain.has_axes(x.shape, axis, keepdims):  # before memory is taken
        return None
    grad = new_array(x.shape, x.dtype) if grad_out is None else grad_out
    losses = _loss_along(x, target, beta, divides, axis, keepdims, grad)
    return None if losses is None else (losses, grad)


def _loss_along(x: Array, *options: Any) -> Any:
    losses = plain.loss_along(x, *options) if x.size < SERIAL else None
    return along.loss_along(x, *options) if losses is None else losses


def slope(
    x: Array, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any,
    curvature: bool, out: Array | None = None,
) -> Any:  # fmt: skip
    """Gradient in x, or the second derivatives; None if the arrays are not for this way."""
    if type(target) is not np.ndarray or type(keepdims) is not bool or not fits(x, target):
        return None
    if not (out is None or takes(out, x, target)):
        return None
    return plain.slopes(x, target, beta, divides, axis, curvature, out)


def _large_value_and_grad(
    x: Array, target: Array, beta: float, divides: bool, grad_out: Array | None
) -> tuple[Any, Array]:
    narrow = None if x.itemsize == 8 else True
    divisor = float(x.size) if divides else 1.0
    grad = new_array(x.shape, x.dtype) if grad_out is None else grad_out
    total = total_loss_and_grad if is_small(x.size) else total_on_threads
    flat = x.reshape(-1), target.reshape(-1), beta, divisor, narrow, grad.reshape(-1)
    return _scalar(total(*flat) / divisor, x.dtype), grad


def is_small(n: int) -> bool:
    """Whether one thread does best, or has to."""
    return n < SERIAL or threads.choose_runner(n) == threads.SERIAL


def total_on_threads(
    x: Array,
    target: Array,
    beta: float,
    divisor: float | None,
    narrow: bool | None,
    grad: Array | None,
) -> float:
    """Sum of the losses of flat arrays, and their gradients divided by ``divisor``."""
    x.setflags(write=False)  # as in `launch`: one kernel for both
    target.setflags(write=False)
    plan = make_plan(x.shape, (0,), False, (0,))
    division = divide(plan, UNITS_PER_THREAD * threads.get_num_threads())
    parts = np.empty((3, division.tasks))
    operands = Operands(x, target, beta, divisor=divisor, narrow=narrow)
    arguments = (operands, Outputs(slope=grad), Sums(loss=True), parts, division.each, x.size)
    tasks = threads.all_tasks(division.tasks)
    kind = narrow, divisor is None, grad is None
    threads.run(reduce_flat, arguments, tasks, x.size, kind)
    return float(add_numbers(parts[0]))


def _scalar(value: float, dtype: np.dtype[Any]) -> Any:
    """Make a NumPy scalar; one that float32 cannot hold is infinite, without a warning."""
    if abs(value) < LARGEST_FLOAT32 or dtype.itemsize == 8:
        return dtype.type(value)
    with np.errstate(all="ignore"):
        return dtype.type(value)
