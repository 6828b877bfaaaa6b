"""The compiled entry points: loops over tasks that do not depend on each other.

Each takes a range of tasks, or a job: ranges that the one parallel loop is to call it with.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from .blocks import (
    ask_for,
    borrowed_buffers,
    new_buffers,
    process,
    process_stripe,
)
from .jit import brief_kernel, helper, inlined, kernel
from .memory import borrowed, floats, keep, pointer, room
from .parallel import runs_in_parallel
from .plan import DEPTH, LANES, SPAN
from .records import SLOPE, WEIGHT, Buffers, Operands, Outputs, Sums
from .sums import (
    add_groups,
    clear,
    copy_losses,
    copy_sums,
    divide,
    drain,
    fold,
    lanes_of,
    push,
    reciprocal,
    store,
    used_rows,
)

BLOCK = DEPTH * LANES
AHEAD = 256  # elements between two requests for what the processor does not foresee
LEVELS = 64  # more than the levels of any tree
ROOM = SPAN + LEVELS


@inlined
def _whole_rows(o, outputs, wanted, lanes, geometry, outer, low, high, buffers):
    """Rows low .. high when one tile holds all columns: one contiguous stretch."""
    columns = geometry.columns
    start = (outer * geometry.rows + low) * columns
    size = (high - low) * columns
    width = geometry.lanes * columns
    sums = lanes_of(wanted, lanes, 0, SPAN)
    if width == LANES:
        _add_up(o, outputs, sums, start, size, buffers)
    else:
        step = SPAN // width * width
        for done in range(0, size, step):
            process(o, outputs, sums, start + done, min(step, size - done), width, buffers)


@inlined
def _add_up(o, outputs, sums, start, n, buffers):
    """Sum elements in LANES lanes: whole rows of them in registers, then the rest."""
    rest = n % LANES
    process(o, outputs, sums, start, n - rest, True, buffers)
    if rest > 0:
        process(o, outputs, sums, start + n - rest, rest, LANES, buffers)


@inlined
def _tile_rows(o, outputs, wanted, lanes, geometry, outer, column, width, low, high, buffers):
    """Rows low .. high of a tile that is narrower than a row.

    Each row lies elsewhere in memory. While one is computed, the next is asked for part
    by part: 1.3 to 1.6 times as fast, and nothing gained if all of it is asked for at once.
    """
    for row in range(low, high):
        start = (outer * geometry.rows + row) * geometry.columns + column
        lane = (row % geometry.lanes) * width
        ahead = geometry.columns if row + 1 < geometry.rows else width - row * geometry.columns
        for part in range(0, width, AHEAD):
            n = min(AHEAD, width - part)
            ask_for(o, outputs, start + part + ahead, n)
            sums = lanes_of(wanted, lanes, lane + part, lane + part + n)
            process(o, outputs, sums, start + part, n, n, buffers)


@inlined
def _reduce_unit(o, outputs, wanted, lanes, used, geometry, outer, column, width, unit, buffers):
    """Sum one unit of blocks of a tile; the sums end in the first lanes."""
    block_rows = DEPTH * geometry.lanes
    first = unit * geometry.unit_blocks
    last = min(first + geometry.unit_blocks, -(-geometry.rows // block_rows))
    for block in range(first, last):
        for row in used:
            clear(lanes, row, geometry.lanes * width)
        low = block * block_rows
        high = min(low + block_rows, geometry.rows)
        if width == geometry.columns:
            _whole_rows(o, outputs, wanted, lanes, geometry, outer, low, high, buffers)
        else:
            _tile_rows(
                o, outputs, wanted, lanes, geometry, outer, column, width, low, high, buffers
            )
        for row in used:
            fold(lanes, row, geometry.lanes, width)
            if last - first > 1:
                push(lanes, row, block - first, width)
    for row in used:
        if last == first:
            clear(lanes, row, width)
        elif last - first > 1:
            drain(lanes, row, last - first, width)


@inlined
def _finish(results, used, lanes, denominator, start, n, buffers):
    """Divide the sums and store them as results start .. start + n."""
    divide(lanes, denominator, n)
    for row in used:
        store(results, row, start, lanes, n, buffers.raw)


@inlined
def _flat_unit(o, outputs, wanted, lanes, used, size, first, last, buffers):
    """Sum blocks first .. last of all elements; the sums end in the first lane."""
    sums = lanes_of(wanted, lanes, 0, SPAN)
    for block in range(first, last):
        stop = min((block + 1) * BLOCK, size)
        _add_up(o, outputs, sums, block * BLOCK, stop - block * BLOCK, buffers)
        for row in used:
            fold(lanes, row, LANES, 1)
            push(lanes, row, block - first, 1)
    for row in used:
        drain(lanes, row, last - first, 1)


@helper
def _borrow(o):
    return Operands(
        borrowed(o.x), borrowed(o.target), o.beta, borrowed(o.betas), borrowed(o.weight),
        borrowed(o.where), borrowed(o.factor), borrowed(o.divisors), o.divisor, o.huber,
        o.curvature, o.narrow,
    )  # fmt: skip


@helper
def _borrow_outputs(outputs):
    return Outputs(borrowed(outputs.loss), borrowed(outputs.slope))


@kernel
def reduce_flat(given, places, wanted, table, unit_blocks, size, first, last, job):
    """Sums over all elements: a task is one unit of blocks."""
    if runs_in_parallel(job):
        return
    o, outputs, results = _borrow(given), _borrow_outputs(places), borrowed(table)
    blocks = -(-size // BLOCK)
    owned = new_buffers(o, outputs, results), np.empty((3, SPAN + LEVELS))
    buffers, lanes = borrowed_buffers(owned[0]), borrowed(owned[1])
    used = used_rows(wanted)
    for task in range(first, last):
        low = task * unit_blocks
        high = min(low + unit_blocks, blocks)
        _flat_unit(o, outputs, wanted, lanes, used, size, low, high, buffers)
        for row in used:
            results[row, task] = lanes[row, 0]
    keep(owned)


@kernel
def reduce_long(given, places, wanted, table, denominator, geometry, first, last, job):
    """Sums over rows: a task is one unit of one tile of outputs."""
    if runs_in_parallel(job):
        return
    o, outputs, results = _borrow(given), _borrow_outputs(places), borrowed(table)
    columns, tile = geometry.columns, geometry.tile
    tiles = -(-columns // tile)
    owned = new_buffers(o, outputs, results), np.empty((3, SPAN + (geometry.levels + 1) * tile))
    buffers, lanes = borrowed_buffers(owned[0]), borrowed(owned[1])
    used = used_rows(wanted)
    for task in range(first, last):
        unit, place = divmod(task, geometry.outer * tiles)
        outer, column = place // tiles, place % tiles * tile
        width = min(tile, columns - column)
        _reduce_unit(o, outputs, wanted, lanes, used, geometry, outer, column, width, unit, buffers)
        start = (unit * geometry.outer + outer) * columns + column
        _finish(results, used, lanes, denominator, start, width, buffers)
    keep(owned)


@kernel
def reduce_few(given, places, wanted, found, denominator, geometry, first, last, job):
    """Sums over few rows of many columns: a task is one tile.

    Sums of LANES columns are made in registers and go straight to the results: twice as
    fast as rows that are added to a tile one after the other, and the same bits.
    """
    if runs_in_parallel(job):
        return
    o, outputs = _borrow(given), _borrow_outputs(places)
    results = Sums(borrowed(found.loss), borrowed(found.weight), borrowed(found.slope))
    rows, columns, tile = geometry.rows, geometry.columns, geometry.tile
    tiles = -(-columns // tile)
    owned = np.empty((3, LANES))
    lanes = borrowed(owned)
    used = used_rows(wanted)
    sums = lanes_of(wanted, lanes, 0, LANES)
    share = reciprocal(denominator)
    for task in range(first, last):
        outer, place = divmod(task, tiles)
        low = place * tile
        high = min(low + tile, columns)
        for column in range(low, high, LANES):
            n = min(LANES, high - column)
            start = outer * rows * columns + column
            if n == LANES:
                process_stripe(o, outputs, sums, start, rows, columns)
            else:
                for row in used:
                    clear(lanes, row, n)
                for _ in range(rows):
                    process(o, outputs, sums, start, n, n, Buffers(None, None))
                    start += columns
            to = outer * columns + column
            copy_losses(lanes, denominator, share, results.loss, to, n)
            copy_sums(lanes, WEIGHT, results.weight, to, n)
            copy_sums(lanes, SLOPE, results.slope, to, n)
    keep(owned)


@kernel
def reduce_short(given, places, wanted, table, denominator, geometry, first, last, job):
    """Sums over few rows: a task is one run that holds several outputs."""
    if runs_in_parallel(job):
        return
    o, outputs, results = _borrow(given), _borrow_outputs(places), borrowed(table)
    rows, columns = geometry.rows, geometry.columns
    groups = SPAN // (rows * columns)
    owned = new_buffers(o, outputs, results), np.empty((3, LANES + 2 * SPAN))
    buffers, lanes = borrowed_buffers(owned[0]), borrowed(owned[1])
    used = used_rows(wanted)
    for task in range(first, last):
        outer = task * groups
        count = min(groups, geometry.outer - outer)
        n = count * rows * columns
        sums = lanes_of(wanted, lanes, 0, LANES + n)
        process(o, outputs, sums, outer * rows * columns, n, None, buffers)
        for row in used:
            add_groups(lanes, row, count, rows, columns)
        _finish(results, used, lanes, denominator, outer * columns, count * columns, buffers)
    keep(owned)


@kernel
def map_runs(given, places, size, first, last, job):
    """Elementwise outputs: a task is one run."""
    if runs_in_parallel(job):
        return
    o, outputs = _borrow(given), _borrow_outputs(places)
    sums = Sums(None, None, None)
    owned = new_buffers(o, outputs, None)
    buffers = borrowed_buffers(owned)
    for task in range(first, last):
        start = task * SPAN
        process(o, outputs, sums, start, min(SPAN, size - start), LANES, buffers)
    keep(owned)


@brief_kernel
def add_numbers(numbers):
    """Add up numbers in neighbouring pairs, in their own memory."""
    n = numbers.size
    while n > 1:
        pairs = n // 2
        for i in range(pairs):
            numbers[i] = numbers[2 * i] + numbers[2 * i + 1]
        if n % 2:
            numbers[pairs] = numbers[n - 1]
        n -= pairs
    return numbers[0]


@inlined
def _total_loss(given, places):
    o, outputs, size = _borrow(given), _borrow_outputs(places), given.x.size
    wanted, buffers = Sums(True, None, None), Buffers(None, None)
    lanes = carray(pointer(room(ROOM)), (1, ROOM), np.float64)
    _flat_unit(o, outputs, wanted, lanes, (0,), size, 0, -(-size // BLOCK), buffers)
    return lanes[0, 0]


@kernel
def total_loss(x, target, beta, narrow):
    """Sum of the losses of two flat arrays: the shortest way for small input."""
    o = Operands(x, target, beta, None, None, None, None, None, None, None, None, narrow)
    return _total_loss(o, Outputs(None, None))


@kernel
def total_loss_and_grad(x, target, beta, divisor, narrow, grad):
    """Sum of the losses, and their gradients divided by ``divisor``."""
    o = Operands(x, target, beta, None, None, None, None, None, divisor, None, None, narrow)
    return _total_loss(o, Outputs(None, grad))


@kernel
def total_loss_at(x, target, size, beta, divisor, narrow, out):
    """`total_loss` of arrays at addresses, divided and stored at another."""
    total = total_loss(floats(x, size, narrow), floats(target, size, narrow), beta, narrow)
    floats(out, 1, narrow)[0] = total / divisor


@kernel
def total_loss_and_grad_at(x, target, size, beta, divisor, narrow, out, grad):
    """`total_loss_and_grad` of arrays at addresses, the loss divided and stored too."""
    xs, targets = floats(x, size, narrow), floats(target, size, narrow)
    grads = floats(grad, size, narrow)
    total = total_loss_and_grad(xs, targets, beta, divisor, narrow, grads)
    floats(out, 1, narrow)[0] = total / divisor
