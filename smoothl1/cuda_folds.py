"""Sums that kernels make: in a thread, in a block, and of all blocks.

fold     adds up the partial sums of all chunks, divides and stores them
squeeze  adds up partial sums of some chunks, where they are many
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float64

from .cuda_forms import Flags, Sums, rows_of
from .cuda_taking import writer

THREADS = 256  # of a block


@cache
def adder(flags: Flags) -> Any:
    """Function that adds an element to the sums of losses, weights and slopes."""
    has_loss, has_weight, has_slope = flags

    @cuda.jit(device=True)
    def add(sums, element):
        a, b, c = sums
        loss, slope, share = element
        if has_loss:
            a += np.float64(loss)
        if has_weight:
            b += np.float64(share)
        if has_slope:
            c += np.float64(slope)
        return a, b, c

    return add


@cache
def tree_of(flags: Flags) -> Any:
    """Function that adds up the threads of a block by halving along one of its axes."""
    threads, rows = THREADS, max(1, sum(flags))
    has_loss, has_weight, has_slope = flags
    loss_row, weight_row, slope_row = rows_of(flags)

    @cuda.jit(device=True)
    def tree(loss, weight, slope, lane, lanes, step):
        shared = cuda.shared.array((rows, threads), float64)
        thread = cuda.threadIdx.x
        if has_loss:
            shared[loss_row, thread] = loss
        if has_weight:
            shared[weight_row, thread] = weight
        if has_slope:
            shared[slope_row, thread] = slope
        half = lanes >> 1
        while half > 0:
            cuda.syncthreads()
            if lane < half:
                other = thread + half * step
                if has_loss:
                    shared[loss_row, thread] += shared[loss_row, other]
                if has_weight:
                    shared[weight_row, thread] += shared[weight_row, other]
                if has_slope:
                    shared[slope_row, thread] += shared[slope_row, other]
            half >>= 1
        if has_loss:
            loss = shared[loss_row, thread]
        if has_weight:
            weight = shared[weight_row, thread]
        if has_slope:
            slope = shared[slope_row, thread]
        return loss, weight, slope

    return tree


@cache
def part_store(flags: Flags) -> Any:
    """Function that puts partial sums into the rows of parts."""
    has_loss, has_weight, has_slope = flags
    loss_row, weight_row, slope_row = rows_of(flags)

    @cuda.jit(device=True)
    def store(parts, place, loss, weight, slope):
        if has_loss:
            parts[loss_row, place] = loss
        if has_weight:
            parts[weight_row, place] = weight
        if has_slope:
            parts[slope_row, place] = slope

    return store


@cache
def finisher(sums: Sums) -> Any:
    """Function that divides the sums of one output and stores them."""
    write_loss, write_weight, write_slope = (
        writer(name, True) for name in (sums.loss, sums.weight, sums.slope)
    )
    by_weight = sums.by_weight

    @cuda.jit(device=True)
    def finish(results, sizes, output, loss, weight, slope, divisor):
        if by_weight:
            divisor = weight
        write_loss(results[0], output, sizes, np.float64(loss) / np.float64(divisor))
        write_weight(results[1], output, sizes, weight)
        write_slope(results[2], output, sizes, slope)

    return finish


@cache
def _part_adder(flags: Flags) -> Any:
    """Function that adds up parts of one output, which are ``step`` apart."""
    has_loss, has_weight, has_slope = flags
    loss_row, weight_row, slope_row = rows_of(flags)

    @cuda.jit(device=True)
    def add_parts(parts, place, end, step):
        loss, weight, slope = 0.0, 0.0, 0.0
        while place < end:
            if has_loss:
                loss += parts[loss_row, place]
            if has_weight:
                weight += parts[weight_row, place]
            if has_slope:
                slope += parts[slope_row, place]
            place += step
        return loss, weight, slope

    return add_parts


@cache
def _folder(flags: Flags) -> Any:
    """Function in which the threads of a block add up some chunks of some outputs."""
    tree, add_parts = tree_of(flags), _part_adder(flags)

    @cuda.jit(device=True)
    def fold_some(parts, low, high, outputs, wide, tile):
        lanes, lane = cuda.blockDim.x // wide, cuda.threadIdx.x // wide
        output = tile * wide + cuda.threadIdx.x % wide
        loss, weight, slope = 0.0, 0.0, 0.0
        if output < outputs:
            loss, weight, slope = add_parts(
                parts, (low + lane) * outputs + output, high * outputs, lanes * outputs
            )
        return output, tree(loss, weight, slope, lane, lanes, wide)

    return fold_some


@cache
def fold_kernel(sums: Sums) -> Any:
    """Make the kernel that adds up the chunks of each output."""
    finish, fold_some = finisher(sums), _folder(sums.flags())

    @cuda.jit
    def fold(parts, chunks, outputs, wide, results, result_sizes, divisor):
        tile = np.int64(cuda.blockIdx.x)
        output, (loss, weight, slope) = fold_some(parts, 0, chunks, outputs, wide, tile)
        if output < outputs and cuda.threadIdx.x < wide:
            finish(results, result_sizes, output, loss, weight, slope, divisor)

    return fold


@cache
def squeeze_kernel(flags: Flags) -> Any:
    """Make the kernel that adds up so many chunks of each output, for others to add up."""
    store, fold_some = part_store(flags), _folder(flags)

    @cuda.jit
    def squeeze(parts, chunks, outputs, wide, each, fewer):
        tiles = (outputs + wide - 1) // wide
        group, tile = cuda.blockIdx.x // tiles, cuda.blockIdx.x % tiles
        low, high = group * each, min((group + 1) * each, chunks)
        output, (loss, weight, slope) = fold_some(parts, low, high, outputs, wide, tile)
        if low < chunks and output < outputs and cuda.threadIdx.x < wide:
            store(fewer, group * outputs + output, loss, weight, slope)

    return squeeze
