"""Kernel of sums over two sets of axes from one pass: a block of threads takes a box.

The elements of a box are computed in the order of memory, side by side, and kept in
shared memory. From there losses (and weights) are summed over some of its axes and slopes
over others; the sums of several boxes meet in ``parts``. See `boxes`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, float64

from . import cuda_folds as folds
from . import cuda_rows as rows
from .cuda_forms import Form, Sums
from .cuda_numbers import locate_small, low, minus, plus, split, times
from .cuda_taking import four_of, mover, taker

ROOM = 1 << 15  # bytes of shared memory for elements; 48 KiB hold them and the trees of sums
BANKS = 5  # there are 2**5 of shared memory


def elements_of(wide: bool, weighted: bool) -> int:
    """Most elements of a box, a power of two."""
    bytes_of_one = (8 if wide else 4) * (3 if weighted else 2)
    return 1 << (ROOM // bytes_of_one).bit_length() - 1


def gap_of(line: int) -> int:
    """One place is left out of 2**gap in shared memory, so that lines begin in other banks."""
    return max(BANKS, line.bit_length() - 1)


@cuda.jit(device=True)
def _is_inside(place, number, cut):
    """Whether an element of a box is one of the array: boxes may reach beyond its end."""
    sides, counts, sizes, _, _ = cut
    inside = True
    for back in range(len(sizes)):
        axis = len(sizes) - 1 - back
        rest, more = split(place, sides[axis]), split(number, counts[axis])
        first = times(minus(number, times(more, counts[axis][0])), sides[axis][0])
        here = plus(first, minus(place, times(rest, sides[axis][0])))
        inside = inside and here < sizes[axis][0]
        place, number = rest, more
    return inside


@cuda.jit(device=True)
def _along(steps, position, sizes):
    """How far a position is from the first one."""
    return low(locate_small((0, low(0), steps), position, sizes))


@cuda.jit(device=True)
def _in_shared(place, gap):
    """Where an element of a box is kept."""
    return plus(place, low(place) >> low(gap))


@cache
def _putter(has_weight: bool) -> Any:
    """Function that keeps what is summed of an element."""

    @cuda.jit(device=True)
    def put(kept, place, gap, element):
        loss, slope, share = element
        at = _in_shared(place, gap)
        kept[0][at] = loss
        if has_weight:
            kept[1][at] = share
        kept[2][at] = slope

    return put


@cache
def _filler(form: Form, has_weight: bool) -> Any:
    """Function that computes the elements of a box, and keeps zeros for those beyond the end."""
    four, take, put = four_of(form), taker(form), _putter(has_weight)
    zero = np.float64(0.0) if form.wide else np.float32(0.0)

    @cuda.jit(device=True)
    def fill(kept, gap, o, outputs, sizes, size, constants, number, cut, is_whole):
        place, step = low(cuda.threadIdx.x), low(cuda.blockDim.x)
        while is_whole and plus(place, times(step, 3)) < size:
            a, b, c, d = four(o, outputs, place, step, sizes, constants)
            put(kept, place, gap, a)
            put(kept, plus(place, step), gap, b)
            put(kept, plus(place, times(step, 2)), gap, c)
            put(kept, plus(place, times(step, 3)), gap, d)
            place = plus(place, times(step, 4))
        while place < size:
            element = zero, zero, zero
            if is_whole or _is_inside(place, number, cut):
                element = take(o, outputs, place, sizes, constants)
            put(kept, place, gap, element)
            place = plus(place, step)

    return fill


@cache
def _summer(sums: Sums, direct: bool) -> Any:
    """Function that sums what is kept over some axes of a box."""
    flags = has_loss, has_weight, has_slope = sums.flags()
    add, tree, keep = folds.adder(flags), folds.tree_of(flags), rows.keeper(sums, direct)

    @cuda.jit(device=True)
    def one(kept, at):
        loss = kept[0][at] if has_loss else 0.0
        share = kept[1][at] if has_weight else 0.0
        slope = kept[2][at] if has_slope else 0.0
        return loss, slope, share

    @cuda.jit(device=True)
    def sum_up(kept, gap, walks, goals, results, number, cut, is_whole):
        _, _, _, local_sizes, counts = cut
        (outputs, output_steps, output_sizes), (length, row_steps, row_sizes), shape = walks
        lanes, wide, bits = shape
        steps, first_steps, chunk_steps, count = goals
        parts, kept_by, result_sizes, divisor = results
        thread = low(cuda.threadIdx.x)
        lane, own = low(thread >> bits), minus(thread, times(low(thread >> bits), wide))
        begun = low(0)
        while begun < outputs:
            output = plus(begun, own)
            valid = output < outputs
            total = (0.0, 0.0, 0.0)
            begin = _along(output_steps, output, output_sizes)
            row = lane
            while valid and row < length:
                at = plus(begin, _along(row_steps, row, row_sizes))
                total = add(total, one(kept, _in_shared(at, gap)))
                row = plus(row, lanes)
            loss, weight, slope = tree(total[0], total[1], total[2], lane, lanes, wide)
            if valid and lane == 0 and (is_whole or _is_inside(begin, number, cut)):
                first = np.int64(_along(first_steps, number, counts))
                goal = first + np.int64(_along(steps, begin, local_sizes))
                chunk = np.int64(_along(chunk_steps, number, counts))
                total = loss, weight, slope
                keep(parts, chunk, count, kept_by, result_sizes, goal, total, divisor)
            cuda.syncthreads()  # the next round writes where this one reads
            begun = plus(begun, wide)

    return sum_up


@cache
def box_kernel(form: Form, sums: Sums, elements: int, direct: tuple[bool, bool]) -> Any:
    """Make the kernel of boxes of at most so many elements.

    Sums of losses and of slopes are finished where they are ``direct``; others go to parts.
    """
    _, has_weight, _ = sums.flags()
    move, fill, number_type = (
        mover(form),
        _filler(form, has_weight),
        float64 if form.wide else float32,
    )
    sum_losses = _summer(sums.of_total(), direct[0])
    sum_slopes = _summer(sums.of_slopes(), direct[1])
    places = elements + (elements >> BANKS)
    weight_room = places if has_weight else 1

    @cuda.jit
    def box(o, outputs, walks, size, boxes, cut, gap, constants, losses, slopes):
        kept = (
            cuda.shared.array(places, number_type),
            cuda.shared.array(weight_room, number_type),
            cuda.shared.array(places, number_type),
        )
        number = low(cuda.blockIdx.x)
        if number < boxes:
            steps, counts, sizes = walks
            here, there = move(o, outputs, steps, number, counts)
            is_whole = _is_inside(minus(size, 1), number, cut)
            fill(kept, gap, here, there, sizes, size, constants, number, cut, is_whole)
            cuda.syncthreads()
            sum_losses(kept, gap, losses[0], losses[1], losses[2], number, cut, is_whole)
            sum_slopes(kept, gap, slopes[0], slopes[1], slopes[2], number, cut, is_whole)

    return box
