"""Fused linear model: predictions, slopes and their gradient while rows are in cache.

A block of rows of X is read once: ``X @ w``, the loss and the slope of each
residual, and the block's share of ``X.T @ slope``. With a direction, slopes
are second derivatives times ``X @ direction``, for products with the Hessian.

Rows stored row by row or column by column are read where they lie, all others
(integers, half precision, swapped bytes, any strides) are gathered block by
block. Every layout gives the same bits: predictions add the columns in order,
in tiles of COLUMNS; gradients add the rows of a block in groups of eight, and
the blocks in a tree of neighbouring pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from .blocks import accumulate
from .gather import transfer
from .jit import by_type, helper, kernel, merged
from .memory import borrowed, prefetch
from .panels import new_raw
from .parallel import runs_in_parallel
from .plan import GROUP, LANES, SPAN
from .products import add_group, multiply_group
from .sums import add_elements, clear, fold

COLUMNS = 512  # products added one after another
AHEAD = 1 << 14  # bytes of a group of rows, or of columns, that are asked for
SECOND, NEXT = 1, 2  # halves of a block, from its start on


class Matrix(NamedTuple):
    """X, as kernels take it."""

    data: Any  # flat array, or a description (see `gather.describe_input`)
    step: int  # elements from one row to the next, or from one column
    by_column: Any  # True if columns lie together, None if rows do


class Scratch(NamedTuple):
    """Memory of one thread."""

    rows: Any  # gathered rows
    raw: Any  # their bytes
    predicted: Any
    factor: Any
    slope: Any
    part: Any
    lanes: Any  # of the sums of losses and slopes, and behind them these
    tree: Any  # one row for each level: gradient, sum of slopes, sum of losses


@helper
def _predict(data, base, step, by_column, w, out, part, halves):
    """Put the products of the rows with w, and the intercept at its end, into out.

    On the way so many halves of blocks of rows are asked for, from the second of this one on.
    """
    p, n = np.uintp(w.size - 1), np.uintp(out.size)
    for i in range(n):
        out[i] = w[p]
    for low in range(np.uintp(0), p, np.uintp(COLUMNS)):
        high = min(low + np.uintp(COLUMNS), p)
        if by_column is None:
            _multiply_rows(data, np.uintp(base), np.uintp(step), w, low, high, part[:n], halves)
        else:
            _multiply_columns(data, np.uintp(base), np.uintp(step), w, low, high, part[:n])
        for i in range(n):
            out[i] += part[i]


@helper
def _ask(data, place, elements):
    """Prefetch elements that a short while later will be read."""
    size = np.int64(elements) * data.itemsize
    if size <= AHEAD:
        prefetch(data.ctypes.data + np.int64(place) * data.itemsize, size)


@helper
def _half_a_group(data, step):
    """Bytes of half a group of rows; 0 if these are so long that processors foresee them."""
    size = GROUP * np.int64(step) * data.itemsize
    return size // 2 if size <= AHEAD else 0


@merged
def _ask_for_half(data, base, n, i, half, share):
    """Prefetch a group's share of half a block of n rows, when at row i of it.

    The second half of the block while it is multiplied, the first of the next one while it
    is projected, if it is: nothing waits for memory, and memory for nothing.
    """
    if share > 0:
        ahead = (half * np.int64(n) + np.int64(i)) // GROUP * share
        prefetch(data.ctypes.data + np.int64(base) * data.itemsize + ahead, share)


@helper
def _multiply_rows(data, base, step, w, low, high, out, halves):
    n, itemsize, share = np.uintp(out.size), data.itemsize, _half_a_group(data, step)
    i, at = np.uintp(0), base
    while i + np.uintp(GROUP) <= n:
        if low == 0:
            for half in range(SECOND, SECOND + halves):
                _ask_for_half(data, base, n, i, half, share)
        multiply_group(
            data.ctypes.data + np.int64(at + low) * itemsize, np.int64(step) * itemsize,
            w.ctypes.data + 8 * np.int64(low), np.int64(high - low),
            out.ctypes.data + 8 * np.int64(i), data.dtype.type(0),
        )  # fmt: skip
        i += np.uintp(GROUP)
        at += np.uintp(GROUP) * step
    while i < n:
        a = 0.0
        for j in range(low, high):
            a += data[at + j] * w[j]
        out[i] = a
        i += np.uintp(1)
        at += step


@helper
def _multiply_columns(data, base, step, w, low, high, out):
    n = np.uintp(out.size)
    for i in range(n):
        out[i] = 0.0
    j, at = low, base + low * step
    while j + np.uintp(4) <= high:  # four at once, so that out is touched less
        a, b, c, d = w[j], w[j + np.uintp(1)], w[j + np.uintp(2)], w[j + np.uintp(3)]
        for k in range(4):
            _ask(data, at + np.uintp(k) * step + n, n)
        for i in range(n):
            q = at + i
            partial = (out[i] + data[q] * a) + data[q + step] * b
            partial += data[q + np.uintp(2) * step] * c
            out[i] = partial + data[q + np.uintp(3) * step] * d
        j += np.uintp(4)
        at += np.uintp(4) * step
    while j < high:
        a = w[j]
        for i in range(n):
            out[i] += data[at + i] * a
        j += np.uintp(1)
        at += step


@helper
def _project(data, base, step, by_column, slope, out, halves):
    """Put the sums of rows times slopes into the first entries of out, all but two.

    On the way so many halves of the next block of rows are asked for.
    """
    if by_column is None:
        _project_rows(data, np.uintp(base), np.uintp(step), slope, out, halves)
    else:
        _project_columns(data, np.uintp(base), np.uintp(step), slope, out)


@helper
def _project_rows(data, base, step, slope, out, halves):
    p, n, itemsize = np.uintp(out.size - 2), np.uintp(slope.size), data.itemsize
    share = _half_a_group(data, step)
    for j in range(p):
        out[j] = 0.0
    i, at = np.uintp(0), base
    while i + np.uintp(GROUP) <= n:
        for half in range(NEXT, NEXT + halves):
            _ask_for_half(data, base, n, i, half, share)
        add_group(
            data.ctypes.data + np.int64(at) * itemsize, np.int64(step) * itemsize,
            slope.ctypes.data + 8 * np.int64(i), np.int64(p),
            out.ctypes.data, data.dtype.type(0),
        )  # fmt: skip
        i += np.uintp(GROUP)
        at += np.uintp(GROUP) * step
    while i < n:
        a = slope[i]
        for j in range(p):
            out[j] += data[at + j] * a
        i += np.uintp(1)
        at += step


@helper
def _project_columns(data, base, step, slope, out):
    n = np.uintp(slope.size)
    whole = n // np.uintp(GROUP) * np.uintp(GROUP)
    at = base
    for j in range(np.uintp(out.size - 2)):
        total = 0.0
        for group in range(whole // np.uintp(GROUP)):
            i = group * np.uintp(GROUP)
            q = at + i
            first = data[q] * slope[i] + data[q + np.uintp(1)] * slope[i + np.uintp(1)]
            i, q = i + np.uintp(2), q + np.uintp(2)
            second = data[q] * slope[i] + data[q + np.uintp(1)] * slope[i + np.uintp(1)]
            i, q = i + np.uintp(2), q + np.uintp(2)
            third = data[q] * slope[i] + data[q + np.uintp(1)] * slope[i + np.uintp(1)]
            i, q = i + np.uintp(2), q + np.uintp(2)
            fourth = data[q] * slope[i] + data[q + np.uintp(1)] * slope[i + np.uintp(1)]
            total += (first + second) + (third + fourth)
        for i in range(whole, n):
            total += data[at + i] * slope[i]
        out[j] = total
        at += step


@helper
def _part(array, low, high):
    if array is None:
        return None
    return array[low:high]


@helper
def _slopes(predicted, y, weight, factor, beta, slope, lanes):
    """Put slopes, or second derivatives times a factor, into slope; sum them and the losses."""
    n = slope.size
    clear(lanes, 0, LANES)
    clear(lanes, 1, LANES)
    if factor is None:
        accumulate(
            predicted, y, beta, None, weight, None, None, None, None, None, None, None,
            None, slope, lanes[0], None, lanes[1], 0, n, None, None, None, None,
        )  # fmt: skip
    else:
        accumulate(
            predicted, y, beta, None, weight, None, factor, None, None, None, True, None,
            None, slope, lanes[0], None, lanes[1], 0, n, None, None, None, None,
        )  # fmt: skip
    for row in range(2):
        add_elements(lanes[row], n)
        fold(lanes, row, LANES, 1)


@helper
def _factor(data, base, step, by_column, direction, scratch, n):
    if direction is None:
        return None
    _predict(data, base, step, by_column, direction, scratch.factor[:n], scratch.part, 0)
    return scratch.factor[:n]


@helper
def _add_rows(data, base, step, by_column, y, weight, w, direction, beta, scratch, halves):
    """Sums of a block of rows, into the first level of the tree."""
    n, sums = y.size, scratch.tree[0]
    predicted, slope, lanes = scratch.predicted[:n], scratch.slope[:n], scratch.lanes
    _predict(data, base, step, by_column, w, predicted, scratch.part, halves)
    factor = _factor(data, base, step, by_column, direction, scratch, n)
    _slopes(predicted, y, weight, factor, beta, slope, lanes)
    _project(data, base, step, by_column, slope, sums, halves)
    sums[sums.size - 1] = lanes[0, 0]
    sums[sums.size - 2] = lanes[1, 0]


@helper
def _gather(matrix, place, elements, rows, raw):
    """Bring elements of a described matrix into scratch, row by row."""
    for start in range(0, elements, SPAN):
        stop = min(start + SPAN, elements)
        transfer(matrix.data, place + start, rows, start, stop - start, raw)


@by_type
def _add_block(matrix, y, weight, w, direction, beta, low, scratch):
    if matrix[0].dtype == types.int64:

        def gathered(matrix, y, weight, w, direction, beta, low, scratch):
            p, rows = w.size - 1, scratch.rows
            _gather(matrix, low * p, y.size * p, rows, scratch.raw)
            _add_rows(rows, 0, p, None, y, weight, w, direction, beta, scratch, 0)

        return gathered

    def where_it_lies(matrix, y, weight, w, direction, beta, low, scratch):
        step, by_column = matrix.step, matrix.by_column
        base = low * step if by_column is None else low
        _add_rows(matrix.data, base, step, by_column, y, weight, w, direction, beta, scratch, 1)

    return where_it_lies


@by_type
def _predict_block(matrix, w, low, out, rows, raw, part):
    if matrix[0].dtype == types.int64:

        def gathered(matrix, w, low, out, rows, raw, part):
            p = w.size - 1
            _gather(matrix, low * p, out.size * p, rows, raw)
            _predict(rows, 0, p, None, w, out, part, 0)

        return gathered

    def where_it_lies(matrix, w, low, out, rows, raw, part):
        base = low * matrix.step if matrix.by_column is None else low
        _predict(matrix.data, base, matrix.step, matrix.by_column, w, out, part, 2)

    return where_it_lies


@helper
def _borrow(matrix):
    return Matrix(borrowed(matrix.data), matrix.step, matrix.by_column)


@kernel
def linear_predictions(matrix, w, out, block_rows, first, last, job):
    """Values of the model for all rows: a task is a block of rows."""
    if runs_in_parallel(job):
        return
    room = block_rows * (w.size - 1) if matrix.by_column is None else 0
    rows, raw, part = np.empty(room), new_raw(), np.empty(block_rows)
    mine, outs = _borrow(matrix), borrowed(out)
    for block in range(first, last):
        low = block * block_rows
        high = min(low + block_rows, out.size)
        _predict_block(mine, w, low, outs[low:high], rows, raw, part)


@helper
def _push(tree, block):
    """Put the sums of the block of this number into the tree, as a binary counter."""
    level = 1
    while block & 1:
        for i in range(tree.shape[1]):
            tree[0, i] += tree[level, i]
        block >>= 1
        level += 1
    for i in range(tree.shape[1]):
        tree[level, i] = tree[0, i]


@helper
def _drain(tree, blocks, out):
    """Add up what a tree of so many blocks holds."""
    level, first = 1, True
    while blocks:
        if blocks & 1:
            for i in range(out.size):
                out[i] = tree[level, i] if first else tree[level, i] + out[i]
            first = False
        blocks >>= 1
        level += 1


@kernel
def linear_sums(
    matrix, y, weight, w, direction, beta, parts, block_rows, unit_blocks, levels, first, last, job
):
    """Gradient, sum of slopes and sum of losses: a task is a unit of blocks of rows."""
    if runs_in_parallel(job):
        return
    p, blocks = w.size - 1, -(-y.size // block_rows)
    mine, ys, weights = _borrow(matrix), borrowed(y), borrowed(weight)
    room = block_rows * p if matrix.by_column is None else 0
    buffers = np.empty((4, block_rows))
    scratch = Scratch(
        np.empty(room), new_raw(), buffers[0], buffers[1], buffers[2],
        buffers[3], np.empty((2, LANES + block_rows)), np.empty((levels + 2, p + 2)),
    )  # fmt: skip
    for task in range(first, last):
        start = task * unit_blocks
        stop = min(start + unit_blocks, blocks)
        for block in range(start, stop):
            low = block * block_rows
            high = min(low + block_rows, y.size)
            share = _part(weights, low, high)
            _add_block(mine, ys[low:high], share, w, direction, beta, low, scratch)
            _push(scratch.tree, block - start)
        _drain(scratch.tree, stop - start, parts[task])
