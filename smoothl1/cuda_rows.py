"""Kernels of sums over rows: a block takes some outputs and a chunk of their rows.

sums   sums of losses, weights and slopes, each over the same axes
mixed  the sum of all losses, and sums of slopes over some axes, from one pass
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from . import cuda_folds as folds
from .cuda_forms import Flags, Form, Sums
from .cuda_numbers import low, minus, plus, split, times
from .cuda_taking import four_of, mover, taker


@cuda.jit(device=True)
def _place(block, layout):
    """Column, lane, outer index and chunk of a thread, by divisions that are shifts or cheap."""
    wide_bits, lane_bits, tiles, groups = layout
    thread, block = low(cuda.threadIdx.x), low(block)
    column = minus(thread, times(thread >> wide_bits, low(1) << wide_bits))
    rest = low(thread >> wide_bits)
    group = low(rest >> lane_bits)
    lane = minus(rest, low(group << lane_bits))
    deep = low(cuda.blockDim.x) >> plus(wide_bits, lane_bits)
    row = split(block, tiles)
    tile = minus(block, times(row, tiles[0]))
    chunk = split(row, groups)
    first = minus(row, times(chunk, groups[0]))
    return (
        np.int64(tile << wide_bits) + np.int64(column),
        np.int64(lane),
        np.int64(first) * np.int64(deep) + np.int64(group),
        np.int64(chunk),
    )


@cuda.jit(device=True)
def _has_rows(column, outer, chunk, geometry):
    """Whether there is anything at a place: some blocks are too many."""
    outers, rows, columns, chunk_rows, _ = geometry
    return column < columns and outer < outers and (chunk == 0 or chunk * chunk_rows < rows)


@cache
def _row_adder(form: Form, flags: Flags) -> Any:
    """Function that adds the rows of a thread to its sums."""
    four, take, add, move = four_of(form), taker(form), folds.adder(flags), mover(form)

    @cuda.jit(device=True)
    def add_rows(total, o, outputs, walks, constants, geometry, column, lane, outer, chunk):
        _, rows, columns, chunk_rows, lanes = geometry
        steps, kept, sizes = walks
        row, high = chunk * chunk_rows + lane, min((chunk + 1) * chunk_rows, rows)
        here, there = move(o, outputs, steps, outer * columns + column, kept)
        while row + 3 * lanes < high:
            a, b, c, d = four(here, there, row, lanes, sizes, constants)
            total = add(add(add(add(total, a), b), c), d)
            row += 4 * lanes
        while row < high:
            total = add(total, take(here, there, row, sizes, constants))
            row += lanes
        return total

    return add_rows


@cache
def keeper(sums: Sums, direct: bool) -> Any:
    """Function that finishes the sums of an output, or puts those of a chunk into ``parts``."""
    finish, store = folds.finisher(sums), folds.part_store(sums.flags())

    @cuda.jit(device=True)
    def keep(parts, chunk, count, results, sizes, output, sums, divisor):
        loss, weight, slope = sums
        if direct:
            finish(results, sizes, output, loss, weight, slope, divisor)
        else:
            store(parts, chunk * count + output, loss, weight, slope)

    return keep


@cache
def sums_kernel(form: Form, sums: Sums, direct: bool) -> Any:
    """Make the kernel of sums over rows; direct ones are finished, others go to ``parts``."""
    add_rows, tree = _row_adder(form, sums.flags()), folds.tree_of(sums.flags())
    keep = keeper(sums, direct)

    @cuda.jit
    def sums_of_rows(
        o, outputs, walks, constants, geometry, layout, parts, results, result_sizes, divisor
    ):
        column, lane, outer, chunk = _place(cuda.blockIdx.x, layout)
        outers, _, columns, _, lanes = geometry
        wide = np.int64(1) << np.int64(layout[0])
        total, valid = (0.0, 0.0, 0.0), _has_rows(column, outer, chunk, geometry)
        if valid:
            total = add_rows(
                total, o, outputs, walks, constants, geometry, column, lane, outer, chunk
            )
        total = tree(total[0], total[1], total[2], lane, lanes, wide)
        if valid and lane == 0:
            output, count = outer * columns + column, outers * columns
            keep(parts, chunk, count, results, result_sizes, output, total, divisor)

    return sums_of_rows


@cache
def mixed_kernel(form: Form, sums: Sums, direct: bool) -> Any:
    """Make the kernel of the sum of all losses, and of sums of slopes over rows.

    A block takes ``repeat`` places one after the other, and puts its losses into ``totals``.
    Slopes are finished or go to ``parts``, as in `sums_kernel`.
    """
    of_total, of_slopes = sums.of_total().flags(), sums.of_slopes().flags()
    add_rows, keep = _row_adder(form, sums.flags()), keeper(sums.of_slopes(), direct)
    total_tree, tree = folds.tree_of(of_total), folds.tree_of(of_slopes)
    store, has_slopes, threads = folds.part_store(of_total), of_slopes[2], folds.THREADS

    @cuda.jit
    def mixed(
        o, outputs, walks, constants, geometry, layout, repeat, totals, parts, results, result_sizes
    ):
        thread, first = cuda.threadIdx.x, cuda.blockIdx.x * np.int64(repeat)
        outers, _, columns, _, lanes = geometry
        wide = np.int64(1) << np.int64(layout[0])
        loss, weight = 0.0, 0.0
        for i in range(repeat):
            column, lane, outer, chunk = _place(first + i, layout)
            slope, valid = 0.0, _has_rows(column, outer, chunk, geometry)
            if valid:
                loss, weight, slope = add_rows(
                    (loss, weight, slope), o, outputs, walks, constants, geometry,
                    column, lane, outer, chunk,
                )  # fmt: skip
            if has_slopes:
                total = tree(0.0, 0.0, slope, lane, lanes, wide)
                if valid and lane == 0:
                    output, count = outer * columns + column, outers * columns
                    keep(parts, chunk, count, results, result_sizes, output, total, 1.0)
                cuda.syncthreads()  # the next round writes where this one reads
        loss, weight, _ = total_tree(loss, weight, 0.0, thread, threads, 1)
        if thread == 0 and cuda.blockIdx.x < totals.shape[1]:
            store(totals, cuda.blockIdx.x, loss, weight, 0.0)

    return mixed
