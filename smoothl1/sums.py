"""Sums with one fixed order of additions.

Each wanted sum has one row of a `lanes` matrix: SPAN lanes, then the levels
of a tree. Lanes are folded by halving; block sums meet in a tree of
neighbouring pairs, kept like the bits of a binary counter, so that any number
of blocks needs only logarithmic room and any aligned 2**k blocks form a
subtree.
"""

from __future__ import annotations

from math import frexp, nan

import numpy as np
from numba import types

from .gather import transfer
from .jit import by_type, helper
from .plan import DEPTH, LANES, SPAN
from .records import LOSS, SLOPE, WEIGHT, Sums


@by_type
def _choose(wanted, lanes, row, start, stop):
    # By type: an array that may be None would be counted as a reference by every helper.
    if isinstance(wanted, types.NoneType):
        return lambda wanted, lanes, row, start, stop: None
    return lambda wanted, lanes, row, start, stop: lanes[row, start:stop]


@helper
def lanes_of(wanted, lanes, start, stop):
    """Lanes start .. stop of each wanted sum."""
    return Sums(
        _choose(wanted.loss, lanes, LOSS, start, stop),
        _choose(wanted.weight, lanes, WEIGHT, start, stop),
        _choose(wanted.slope, lanes, SLOPE, start, stop),
    )


@helper
def add_elements(lanes, n):
    """Add n elements that lie side by side behind the LANES, the i-th to lane i % LANES.

    One loop makes the elements and this one keeps the lanes in registers: 1.2 to 1.3
    times as fast as adding each at once. One array with constant distances lets LLVM see
    that nothing overlaps.
    """
    if lanes is None:
        return
    if n == DEPTH * LANES:
        for lane in range(np.uintp(LANES)):
            total = lanes[lane]
            for row in range(np.uintp(DEPTH)):
                total += lanes[np.uintp(LANES) + row * np.uintp(LANES) + lane]
            lanes[lane] = total
        return
    first, last = np.uintp(LANES), np.uintp(n)
    while first <= last:
        for lane in range(np.uintp(LANES)):
            lanes[lane] += lanes[first + lane]
        first += np.uintp(LANES)
    for lane in range(last + np.uintp(LANES) - first):
        lanes[lane] += lanes[first + lane]


@by_type
def used_rows(wanted):
    """Numbers of the rows whose sums are wanted, as a tuple of constants."""
    used = tuple(row for row, flag in enumerate(wanted) if not isinstance(flag, types.NoneType))
    return lambda wanted: used


# Below, rows are indexed and never sliced: a slice costs a reference count and,
# assigned to, 1.5 s of compiling numba's error texts.


@helper
def clear(lanes, row, n):
    """Set the first n lanes to zero."""
    for i in range(np.uintp(n)):
        lanes[row, i] = 0.0


@helper
def fold(lanes, row, count, width):
    """Fold so many lanes of ``width`` outputs by halving, into the first lane."""
    if width == 1 and count == LANES:
        fold_lanes(lanes[row])
        return
    half = np.uintp(count * width // 2)
    while half >= width:
        for i in range(half):
            lanes[row, i] += lanes[row, half + i]
        half //= np.uintp(2)


@helper
def fold_lanes(lane):
    """`fold` with constant bounds, which unroll into a few vector additions."""
    for i in range(32):
        lane[i] += lane[32 + i]
    for i in range(16):
        lane[i] += lane[16 + i]
    for i in range(8):
        lane[i] += lane[8 + i]
    for i in range(4):
        lane[i] += lane[4 + i]
    lane[0] = (lane[0] + lane[2]) + (lane[1] + lane[3])


@helper
def push(lanes, row, block, width):
    """Put the folded sums of the block of this number into the tree."""
    level = SPAN
    while block & 1:
        for i in range(width):
            lanes[row, i] += lanes[row, level + i]
        block >>= 1
        level += width
    for i in range(width):
        lanes[row, level + i] = lanes[row, i]


@helper
def drain(lanes, row, blocks, width):
    """Add up what a tree of so many blocks still holds, into the first lane."""
    clear(lanes, row, width)
    level, first = SPAN, True
    while blocks:
        if blocks & 1:
            for i in range(width):
                branch = lanes[row, level + i]
                lanes[row, i] = branch if first else branch + lanes[row, i]
            first = False
        blocks >>= 1
        level += width


@helper
def add_groups(lanes, row, groups, rows, columns):
    """Sum the rows of each group of the elements behind the LANES; sums end in the first lanes."""
    lane = lanes[row]
    if rows >= LANES:
        _add_long_groups(lane, groups, rows)
    else:
        _add_short_groups(lane, groups, rows, columns)


@helper
def _add_long_groups(lane, groups, rows):
    """Sum groups of one column, each in its first LANES elements and folded like a block."""
    groups, rows, count = np.uintp(groups), np.uintp(rows), np.uintp(LANES)
    for group in range(groups):
        start = count + group * rows
        stop = start + rows
        first = start + count
        while first + count <= stop:
            for i in range(count):
                lane[start + i] += lane[first + i]
            first += count
        for i in range(stop - first):
            lane[start + i] += lane[first + i]
        _fold_here(lane, start)
        lane[group] = 0.0 + lane[start]


@helper
def _fold_here(lane, start):
    """`fold_lanes` of the lanes from ``start`` on."""
    for i in range(np.uintp(32)):
        lane[start + i] += lane[start + np.uintp(32) + i]
    for i in range(np.uintp(16)):
        lane[start + i] += lane[start + np.uintp(16) + i]
    for i in range(np.uintp(8)):
        lane[start + i] += lane[start + np.uintp(8) + i]
    for i in range(np.uintp(4)):
        lane[start + i] += lane[start + np.uintp(4) + i]
    one, two, three = start + np.uintp(1), start + np.uintp(2), start + np.uintp(3)
    lane[start] = (lane[start] + lane[two]) + (lane[one] + lane[three])


@helper
def _add_short_groups(lane, groups, rows, columns):
    """Pair neighbouring rows while their number is even, and sum what is left in fours."""
    here, there = lane[LANES : LANES + SPAN], lane[LANES + SPAN :]
    passes = 0
    while rows > 1:
        if rows % 4 == 0:
            rows //= 4
            _add_quads(here, there[: groups * rows * columns], columns)
        elif rows % 2 == 0:
            rows //= 2
            _add_twos(here, there[: groups * rows * columns], columns)
        else:
            _add_in_fours(here, there, groups, rows, columns)
            rows = 1
        here, there = there, here
        passes += 1
    n = np.uintp(groups * columns)
    if passes % 2 == 0:
        for i in range(n):
            lane[i] = 0.0 + lane[np.uintp(LANES) + i]
    else:
        for i in range(n):
            lane[i] = 0.0 + lane[np.uintp(LANES + SPAN) + i]


@helper
def _add_twos(lane, out, columns):
    columns = np.uintp(columns)
    if columns == 1:
        for i in range(np.uintp(out.size)):
            out[i] = lane[i + i] + lane[i + i + np.uintp(1)]
        return
    for pair in range(np.uintp(out.size) // columns):
        to = pair * columns
        for column in range(columns):
            out[to + column] = lane[to + to + column] + lane[to + to + columns + column]


@helper
def _add_quads(lane, out, columns):
    """Two levels of pairs at once."""
    columns, one, two = np.uintp(columns), np.uintp(1), np.uintp(2)
    if columns == 1:
        for i in range(np.uintp(out.size)):
            at = np.uintp(4) * i
            out[i] = (lane[at] + lane[at + one]) + (lane[at + two] + lane[at + two + one])
        return
    for quad in range(np.uintp(out.size) // columns):
        to = quad * columns
        a = np.uintp(4) * to
        b = a + columns
        c = b + columns
        d = c + columns
        for i in range(columns):
            out[to + i] = (lane[a + i] + lane[b + i]) + (lane[c + i] + lane[d + i])


@helper
def _add_in_fours(lane, out, groups, rows, columns):
    """Sum every fourth row, so that no sum is long and four run side by side."""
    rows, columns = np.uintp(rows), np.uintp(columns)
    whole = rows // np.uintp(4) * np.uintp(4)
    for group in range(np.uintp(groups)):
        for column in range(columns):
            at = group * rows * columns + column
            a = b = c = d = 0.0
            for _ in range(whole // np.uintp(4)):
                a += lane[at]
                b += lane[at + columns]
                c += lane[at + columns + columns]
                d += lane[at + columns + columns + columns]
                at += columns + columns + columns + columns
            for _ in range(rows - whole):
                a += lane[at]
                at += columns
            out[group * columns + column] = (a + b) + (c + d)


@helper
def _has_reciprocal(number):
    """Whether a number is a power of two, by whose reciprocal one may multiply: the same bits."""
    return abs(frexp(number)[0]) == 0.5 and 1e-300 < abs(number) < 1e300


@by_type
def reciprocal(denominator):
    """Reciprocal of a number by which one may multiply; NaN if there is none."""
    if isinstance(denominator, types.Boolean):
        return lambda denominator: nan
    return lambda denominator: 1.0 / denominator if _has_reciprocal(denominator) else nan


@by_type
def divide(lanes, denominator, n):
    """Divide the sums of losses by a number, or by the weight sums (True)."""
    if isinstance(denominator, types.Boolean):

        def by_weight(lanes, denominator, n):
            for i in range(np.uintp(n)):
                lanes[LOSS, i] /= lanes[WEIGHT, i]

        return by_weight

    def by_number(lanes, denominator, n):
        share = reciprocal(denominator)
        if share == share:
            for i in range(np.uintp(n)):
                lanes[LOSS, i] *= share
        else:
            for i in range(np.uintp(n)):
                lanes[LOSS, i] /= denominator

    return by_number


@by_type
def store(results, row, start, lanes, n, raw):
    """Write sums as results start .. of a float64 matrix, or by description."""
    if results.dtype == types.int64:
        return lambda results, row, start, lanes, n, raw: transfer(
            results[row], start, lanes, row * lanes.shape[1], n, raw
        )

    def copy(results, row, start, lanes, n, raw):
        for i in range(n):
            results[row, start + i] = lanes[row, i]

    return copy


@by_type
def copy_losses(lanes, denominator, share, out, start, n):
    """Write losses, divided as by `divide`, as elements start .. of an array; None takes none."""
    if isinstance(out, types.NoneType):
        return lambda lanes, denominator, share, out, start, n: None
    if isinstance(denominator, types.Boolean):

        def by_weight(lanes, denominator, share, out, start, n):
            for i in range(np.uintp(n)):
                out[np.uintp(start) + i] = lanes[LOSS, i] / lanes[WEIGHT, i]

        return by_weight

    def by_number(lanes, denominator, share, out, start, n):
        if share == share:
            for i in range(np.uintp(n)):
                out[np.uintp(start) + i] = lanes[LOSS, i] * share
        else:
            for i in range(np.uintp(n)):
                out[np.uintp(start) + i] = lanes[LOSS, i] / denominator

    return by_number


@helper
def copy_sums(lanes, row, out, start, n):
    """Write sums as elements start .. of an array; None takes none."""
    if out is not None:
        for i in range(np.uintp(n)):
            out[np.uintp(start) + i] = lanes[row, i]
