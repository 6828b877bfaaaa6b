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
from .cuda_forms import Flags, Form, Sums
from .cuda_numbers import locate, split_small
from .cuda_taking import four_of, taker

ROOM = 1 << 15  # bytes of shared memory for elements; 48 KiB hold them and the trees of sums
BANKS = 32  # of shared memory: one place in so many is left out, so that columns use them all


def elements_of(wide: bool, weighted: bool) -> int:
    """Most elements of a box, a power of two."""
    bytes_of_one = (8 if wide else 4) * (3 if weighted else 2)
    return 1 << (ROOM // bytes_of_one).bit_length() - 1


@cuda.jit(device=True)
def _is_inside(place, number, cut):
    """Whether an element of a box is one of the array: boxes may reach beyond its end."""
    sides, counts, sizes = cut
    inside = True
    for back in range(len(sizes)):
        axis = len(sizes) - 1 - back
        rest, more = split_small(place, sides[axis]), split_small(number, counts[axis])
        first = (number - more * counts[axis][0]) * sides[axis][0]
        inside = inside and first + (place - rest * sides[axis][0]) < sizes[axis]
        place, number = rest, more
    return inside


@cuda.jit(device=True)
def _first_place(steps, number, cut):
    """Place of the first element of a box."""
    return np.int64(locate((0, 0, steps), number, cut[1], split_small))


@cuda.jit(device=True)
def _in_shared(place):
    """Where an element of a box is kept."""
    return place + place // BANKS


@cache
def _mover(name: str) -> Any:
    """Function that lets an operand begin at a box."""
    if not name:
        return _absent

    @cuda.jit(device=True)
    def move(operand, steps, number, cut):
        start = np.int64(locate(operand, number, cut[1], split_small))
        return operand[0], start, steps

    return move


@cuda.jit(device=True)
def _absent(operand, steps, number, cut):
    return 0


@cache
def _box_mover(form: Form) -> Any:
    """Function that lets all operands and elementwise outputs begin at a box."""
    x, target, betas, weight, where, factor, divisors = (_mover(name) for name in form.reads)
    losses, slopes = (_mover(name) for name in form.writes)

    @cuda.jit(device=True)
    def move(o, outputs, steps, number, cut):
        moved = (
            x(o[0], steps[0], number, cut), target(o[1], steps[1], number, cut),
            betas(o[2], steps[2], number, cut), weight(o[3], steps[3], number, cut),
            where(o[4], steps[4], number, cut), factor(o[5], steps[5], number, cut),
            divisors(o[6], steps[6], number, cut),
        )  # fmt: skip
        return moved, (
            losses(outputs[0], steps[7], number, cut),
            slopes(outputs[1], steps[8], number, cut),
        )

    return move


@cache
def _putter(flags: Flags) -> Any:
    """Function that keeps what is summed of an element."""
    has_loss, has_weight, has_slope = flags

    @cuda.jit(device=True)
    def put(kept, place, element):
        loss, slope, share = element
        at = _in_shared(place)
        if has_loss:
            kept[0][at] = loss
        if has_weight:
            kept[1][at] = share
        if has_slope:
            kept[2][at] = slope

    return put


@cache
def _filler(form: Form, flags: Flags) -> Any:
    """Function that computes the elements of a box, and keeps zeros for those beyond the end."""
    four, take, put = four_of(form), taker(form), _putter(flags)
    zero = np.float64(0.0) if form.wide else np.float32(0.0)

    @cuda.jit(device=True)
    def fill(kept, o, outputs, sizes, size, constants, number, cut):
        place, step = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
        is_whole = _is_inside(size - 1, number, cut)
        while is_whole and place + 3 * step < size:
            a, b, c, d = four(o, outputs, place, step, sizes, constants)
            put(kept, place, a)
            put(kept, place + step, b)
            put(kept, place + 2 * step, c)
            put(kept, place + 3 * step, d)
            place += 4 * step
        while place < size:
            element = zero, zero, zero
            if is_whole or _is_inside(place, number, cut):
                element = take(o, outputs, place, sizes, constants)
            put(kept, place, element)
            place += step

    return fill


@cache
def _summer(sums: Sums, direct: bool) -> Any:
    """Function that sums what is kept over some axes of a box."""
    flags = has_loss, has_weight, has_slope = sums.flags()
    add, tree, keep = folds.adder(flags), folds.tree_of(flags), rows.keeper(sums, direct)

    @cuda.jit(device=True)
    def one(kept, place):
        at = _in_shared(place)
        loss = kept[0][at] if has_loss else 0.0
        share = kept[1][at] if has_weight else 0.0
        slope = kept[2][at] if has_slope else 0.0
        return loss, slope, share

    @cuda.jit(device=True)
    def sum_up(kept, places, local_sizes, number, cut):
        (walk, sizes, geometry), (steps, first_steps, chunk_steps, count), kept_by = places
        parts, results, result_sizes, divisor = kept_by
        outers, length, columns, _, wide, lanes = geometry
        deep = cuda.blockDim.x // (wide * lanes)
        first = _first_place(first_steps, number, cut)
        chunk = _first_place(chunk_steps, number, cut)
        for block in range((columns + wide - 1) // wide * ((outers + deep - 1) // deep)):
            column, lane, outer, _ = rows.place(cuda.threadIdx.x, block, geometry)
            total, valid = (0.0, 0.0, 0.0), column < columns and outer < outers
            begin = outer * length * columns + column
            if valid:
                row = lane
                while row < length:
                    at = locate((0, 0, walk), begin + row * columns, sizes, split_small)
                    total = add(total, one(kept, np.int64(at)))
                    row += lanes
            loss, weight, slope = tree(total[0], total[1], total[2], lane, lanes, wide)
            if valid and lane == 0:
                at = np.int64(locate((0, 0, walk), begin, sizes, split_small))
                if _is_inside(at, number, cut):
                    output = first + np.int64(locate((0, 0, steps), at, local_sizes, split_small))
                    total = loss, weight, slope
                    keep(parts, chunk, count, results, result_sizes, output, total, divisor)
            cuda.syncthreads()  # the next round writes where this one reads

    return sum_up


@cache
def box_kernel(form: Form, sums: Sums, elements: int, direct: tuple[bool, bool]) -> Any:
    """Make the kernel of boxes of at most so many elements.

    Sums of losses and of slopes are finished where they are ``direct``; others go to parts.
    """
    flags = has_loss, _, has_slope = sums.flags()
    move, fill, number_type = (
        _box_mover(form),
        _filler(form, flags),
        float64 if form.wide else float32,
    )
    sum_losses = _summer(sums.of_total(), direct[0])
    sum_slopes = _summer(sums.of_slopes(), direct[1])
    places = elements + elements // BANKS
    loss_room, weight_room, slope_room = (places if has else 1 for has in flags)

    @cuda.jit
    def box(o, outputs, steps, sizes, size, boxes, cut, constants, losses, slopes):
        kept = (
            cuda.shared.array(loss_room, number_type),
            cuda.shared.array(weight_room, number_type),
            cuda.shared.array(slope_room, number_type),
        )
        number = np.int64(cuda.blockIdx.x)
        if number < boxes:
            here, there = move(o, outputs, steps, number, cut)
            fill(kept, here, there, sizes, size, constants, number, cut)
            cuda.syncthreads()
            if has_loss:
                sum_losses(kept, losses, sizes, number, cut)
            if has_slope:
                sum_slopes(kept, slopes, sizes, number, cut)

    return box
