"""Block kernels: runs of elements through the formula, into sums and outputs.

A run is at most SPAN elements that follow each other in the order of the
plan. Contiguous operands are read and written where they lie. All others are
gathered into buffers that stay in the L1 or L2 cache, and the same loop runs
on those. Operands, outputs and sums that a call does without are None,
and numba drops their branches: one loop, not a family of copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.np.numpy_support import as_dtype

from . import formula
from .gather import transfer
from .jit import by_type, helper, merged
from .memory import (
    DISTANCE,
    borrowed,
    part,
    prefetch,
    prefetch_lines,
    prefetch_lines_to_write,
    stack,
)
from .panels import new_raw
from .plan import LANES, SPAN
from .records import Buffers, Operands
from .vectors import prefer_wide

SMALLEST = 5e-324
SMALLEST_OF_NARROW = 1e-300  # below any residual of a narrow type, with a finite reciprocal


@merged
def accumulate(
    x, target, beta, betas, weight, where, factor, divisors, divisor, huber, curvature, narrow,
    loss_out, slope_out, loss_sum, weight_sum, slope_sum, start, n, width, step, ahead,
    options_ahead,
):  # fmt: skip
    """Take elements start .. start + n through the formula, the i-th to lane i % width.

    True as width: whole rows of LANES, whose sums stay in registers and replace what the
    lanes hold. With a step, rows begin so many elements apart.
    None: elements are put side by side behind the LANES, not added to sums.

    Ahead (True): operands are in memory rather than in the cache, and asked for early, and
    weights and masks too if options_ahead; for a width of LANES.
    """
    prefer_wide()
    # Flat arguments, as only those let numba drop a branch on None; unsigned
    # indices, as negative ones would be checked for and end vectorisation.
    place, row, n = np.uintp(start), np.uintp(0), np.uintp(n)
    lanes = _lanes(width, n)
    losses = _registers(loss_sum, width)
    weights = _registers(weight_sum, width)
    slopes = _registers(slope_sum, width)
    first = np.uintp(LANES if width is None else 0)
    smallest = SMALLEST if narrow is None else SMALLEST_OF_NARROW
    inverse = 1.0 / max(beta, smallest)
    share_of_one = 1.0 if divisor is None else 1.0 / divisor
    while row < n:
        if ahead is not None:
            if x is not None:
                _ask_ahead(x, place)
                _ask_ahead(target, place)
            if options_ahead is not None:
                if weight is not None:
                    _ask_ahead(weight, place)
                if where is not None:
                    _ask_ahead(where, place)
            if loss_out is not None:
                _ask_ahead_to_write(loss_out, place)
            if slope_out is not None:
                _ask_ahead_to_write(slope_out, place)
        for lane in range(_lanes(width, n - row)):
            i = place + lane
            residual = 0.0 if x is None else np.float64(x[i]) - np.float64(target[i])
            threshold = beta if betas is None else betas[i]
            positive = max(threshold, smallest)
            clipped = formula.clip(residual, positive)
            if curvature is not None:
                slope = formula.hess(residual, threshold)
            elif narrow is None:
                slope = formula.grad(clipped, positive)
            elif betas is None:
                slope = formula.narrow_grad(clipped, inverse)
            else:
                slope = formula.narrow_grad(clipped, 1.0 / positive)
            factor_of_loss = slope if huber is None else formula.clip(residual, threshold)
            if narrow is None:
                loss = formula.loss(residual, clipped, factor_of_loss)
            else:
                loss = formula.narrow_loss(residual, clipped, factor_of_loss)
            share = 1.0
            if weight is not None:
                share = np.float64(weight[i])
                loss *= share
                slope *= share
            if factor is not None:
                slope *= factor[i]
            if divisors is not None:
                slope /= divisors[i]
            if narrow is not None:
                slope *= share_of_one
            elif divisor is not None:
                slope /= divisor
            if where is not None and where[i] == 0:
                loss = slope = share = 0.0
            if loss_out is not None:
                loss_out[i] = loss
            if slope_out is not None:
                slope_out[i] = slope
            if loss_sum is not None:
                losses[first + lane] = _put(losses[first + lane], loss, width)
            if weight_sum is not None:
                weights[first + lane] = _put(weights[first + lane], share, width)
            if slope_sum is not None:
                slopes[first + lane] = _put(slopes[first + lane], slope, width)
        row += lanes
        place += lanes if step is None else np.uintp(step)
    _store(losses, loss_sum, width)
    _store(weights, weight_sum, width)
    _store(slopes, slope_sum, width)


@by_type
def _ask_ahead(operand, place):
    """Ask for LANES elements that are to be read a short while later.

    Processors foresee what follows, but not beyond a page of memory: on a Xeon of 2023 losses
    of large arrays take a quarter less time for this, and gradients an eighth.
    """
    lines = _lines_of(operand)
    return lambda operand, place: prefetch_lines(
        operand.ctypes.data + np.intp(place) * operand.itemsize + DISTANCE, lines
    )


@by_type
def _ask_ahead_to_write(output, place):
    lines = _lines_of(output)
    return lambda output, place: prefetch_lines_to_write(
        output.ctypes.data + np.intp(place) * output.itemsize + DISTANCE, lines
    )


def _lines_of(kind: types.Array) -> int:
    """Lines of the cache that LANES elements fill."""
    return int(LANES * as_dtype(kind.dtype).itemsize // 64)


def _is_description(kind: types.Type) -> bool:
    return isinstance(kind, types.Array) and bool(kind.dtype == types.int64)


@by_type
def _lanes(width, left):
    """Number of elements that go to different lanes, of those that are left."""
    if isinstance(width, types.NoneType):
        return lambda width, left: left
    if isinstance(width, types.Boolean):
        return lambda width, left: np.uintp(LANES)
    return lambda width, left: min(np.uintp(width), left)


@by_type
def _registers(lanes, width):
    """LANES zeros on the stack instead of lanes, if they are to be kept in registers."""
    if isinstance(lanes, types.NoneType) or not isinstance(width, types.Boolean):
        return lambda lanes, width: lanes

    def zeros(lanes, width):
        sums: Any = stack(LANES)
        for lane in range(LANES):
            sums[lane] = 0.0
        return sums

    return zeros


@by_type
def _store(sums, lanes, width):
    if isinstance(lanes, types.NoneType) or not isinstance(width, types.Boolean):
        return lambda sums, lanes, width: None

    def copy(sums, lanes, width):
        for lane in range(LANES):
            lanes[lane] = sums[lane]

    return copy


@helper
def _put(sum_so_far, term, width):
    """Add to a lane; without a width the place is empty yet."""
    if width is None:
        return term
    return sum_so_far + term


@by_type
def ask_for(o, outputs, start, n):
    """Ask for the memory of a run, if it can be read where it lies."""
    if any(_is_description(kind) for kind in o):
        return lambda o, outputs, start, n: None

    def ask(o, outputs, start, n):
        _ask_for_one(o.x, start, n)
        _ask_for_one(o.target, start, n)
        _ask_for_one(o.weight, start, n)
        _ask_for_one(o.where, start, n)
        _ask_for_one(outputs.slope, start, n)

    return ask


@helper
def _ask_for_one(operand, start, n):
    if operand is not None:
        prefetch(operand.ctypes.data + start * operand.itemsize, n * operand.itemsize)


@by_type
def process(o, outputs, sums, start, n, width, buffers):
    """Fetch a run, `accumulate` it, and put its outputs where they belong.

    Without sums the width is to be LANES.
    """
    elementwise = all(isinstance(kind, types.NoneType) for kind in sums)
    ahead = True if elementwise or width == types.boolean else None
    if any(_is_description(kind) for kind in (*o, *outputs)):
        return _process_described(o, outputs, ahead)

    def process_contiguous(o, outputs, sums, start, n, width, buffers):
        accumulate(
            o.x, o.target, o.beta, o.betas, o.weight, o.where, o.factor, o.divisors, o.divisor,
            o.huber, o.curvature, o.narrow, outputs.loss, outputs.slope,
            sums.loss, sums.weight, sums.slope, start, n, width, None, ahead, ahead,
        )  # fmt: skip

    return process_contiguous


@helper
def process_stripe(o, outputs, sums, start, rows, step):
    """`accumulate` LANES neighbours of each of some rows, all in registers."""
    accumulate(
        o.x, o.target, o.beta, o.betas, o.weight, o.where, o.factor, o.divisors, o.divisor,
        o.huber, o.curvature, o.narrow, outputs.loss, outputs.slope,
        sums.loss, sums.weight, sums.slope, start, rows * LANES, True, step, True, True,
    )  # fmt: skip


@helper
def _nothing(operand, start, runs, row, n, raw):
    return None


@helper
def _here(operand, start, runs, row, n, raw):
    return part(operand, start)


@helper
def _buffer(operand, start, runs, row, n, raw):
    return part(runs, row * SPAN)


@helper
def _gathered(operand, start, runs, row, n, raw):
    transfer(operand, start, runs, row * SPAN, n, raw)
    return part(runs, row * SPAN)


@helper
def _put_back(output, start, runs, row, n, raw):
    transfer(output, start, runs, row * SPAN, n, raw)


def _way(kind: types.Type, described: Any) -> Any:
    """What finds a run of an operand or output: chosen here, as inlining by type takes longer."""
    if isinstance(kind, types.NoneType):
        return _nothing
    return described if _is_description(kind) else _here


def _process_described(o: Any, outputs: Any, ahead: bool | None) -> Any:
    """Make `process` for operands of these types, of which some are gathered."""
    kinds = dict(zip(Operands._fields, o, strict=True))
    ahead = None if _is_description(kinds["x"]) else ahead
    x_of, target_of, betas_of, weight_of, where_of, factor_of, divisors_of = (
        _way(kinds[name], _gathered)
        for name in ("x", "target", "betas", "weight", "where", "factor", "divisors")
    )
    losses_of, slopes_of = (_way(kind, _buffer) for kind in outputs)
    put_losses, put_slopes = (_put_back if _is_description(k) else _nothing for k in outputs)

    def process_described(o, outputs, sums, start, n, width, buffers):
        runs, raw = buffers.runs, buffers.raw
        x = x_of(o.x, start, runs, 0, n, raw)
        target = target_of(o.target, start, runs, 1, n, raw)
        betas = betas_of(o.betas, start, runs, 2, n, raw)
        weight = weight_of(o.weight, start, runs, 3, n, raw)
        where = where_of(o.where, start, runs, 4, n, raw)
        factor = factor_of(o.factor, start, runs, 5, n, raw)
        divisors = divisors_of(o.divisors, start, runs, 6, n, raw)
        losses = losses_of(outputs.loss, start, runs, 7, n, raw)
        slopes = slopes_of(outputs.slope, start, runs, 8, n, raw)
        accumulate(
            x, target, o.beta, betas, weight, where, factor, divisors, o.divisor, o.huber,
            o.curvature, o.narrow, losses, slopes,
            sums.loss, sums.weight, sums.slope, 0, n, width, None, ahead, None,
        )  # fmt: skip
        put_losses(outputs.loss, start, runs, 7, n, raw)
        put_slopes(outputs.slope, start, runs, 8, n, raw)

    return process_described


@by_type
def new_buffers(o, outputs, results):
    """Room for one run of every operand and output, if any is described."""
    if any(_is_description(kind) for kind in (*o, *outputs, results)):
        return lambda o, outputs, results: _filled_buffers(o.beta)
    return lambda o, outputs, results: Buffers(None, None)


@helper
def borrowed_buffers(buffers):
    """The same memory; the caller is to `keep` the buffers."""
    return Buffers(borrowed(buffers.runs), borrowed(buffers.raw))


@helper
def _filled_buffers(beta):
    """Buffers that hold what an absent operand stands for: beta, or ones."""
    runs = np.empty(9 * SPAN)
    for i in range(2 * SPAN, 3 * SPAN):
        runs[i] = beta
    for i in range(3 * SPAN, 7 * SPAN):
        runs[i] = 1.0
    return Buffers(runs, new_raw())
