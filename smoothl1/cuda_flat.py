"""Kernels of operands that lie side by side: 16 bytes at a time.

Elementwise outputs, and the partial sums of one chunk for each block. The
elements that fill no vector go one by one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, float64, uint32

from . import cuda_folds as folds
from . import cuda_numbers as numbers
from .cuda_forms import Form
from .cuda_taking import element_of

# How numbers of a type travel 16 bytes at a time: how many they are, in how
# many slots of which type, and how one is taken from there and put there.
VECTORS: dict[str, tuple[int, int, Any, Any, Any, Any]] = {
    "float64": (2, 2, float64, numbers.item, numbers.put, numbers.put),
    "float32": (4, 4, float32, numbers.item, numbers.put, numbers.put),
    "float16": (
        *(8, 4, uint32, numbers.item_of_half_words),
        *(numbers.put_even_half, numbers.put_odd_half),
    ),
    "bfloat16": (
        *(8, 4, uint32, numbers.item_of_brain_words),
        *(numbers.put_even_brain, numbers.put_odd_brain),
    ),
}


@cache
def _vector_writer(name: str, dtype: str) -> Any:
    """Function that stores 16 bytes of values."""
    if not name:
        return _drop_vector
    count, slots, kind, _, put_even, put_odd = VECTORS[dtype]
    convert, copy16 = getattr(numbers, name), numbers.copy16

    @cuda.jit(device=True)
    def write(data, vector, values):
        packed = cuda.local.array(slots, kind)
        for i in range(0, count, 2):
            put_even(packed, i, convert(values[i]))
            put_odd(packed, i + 1, convert(values[i + 1]))
        copy16(data, vector * slots, packed, 0)

    return write


@cuda.jit(device=True)
def _drop_vector(data, place, values):
    pass


@cache
def _item_writer(name: str) -> Any:
    """Function that stores one value."""
    if not name:
        return _drop_vector
    convert = getattr(numbers, name)

    @cuda.jit(device=True)
    def write(data, i, value):
        data[i] = convert(value)

    return write


@cache
def flat_kernel(form: Form, has_sum: bool, dtype: str) -> Any:
    """Make the kernel of operands that lie side by side, all of one type.

    Each thread has two vectors of both operands on their way at a time. The
    first block also takes the elements that fill no vector.
    """
    count, slots, kind, item, _, _ = VECTORS[dtype]
    write_losses, write_slopes = (_vector_writer(name, dtype) for name in form.writes)
    write_loss, write_slope = (_item_writer(name) for name in form.writes)
    element, convert, copy16 = element_of(form), getattr(numbers, form.reads[0]), numbers.copy16
    huber, curvature = form.huber or None, form.curvature or None
    number = float64 if form.wide else float32
    flags, threads = (has_sum, False, False), folds.THREADS
    tree, store = folds.tree_of(flags), folds.part_store(flags)

    @cuda.jit(device=True)
    def compute(x, target, constants):
        loss, slope, _ = element(
            convert(x), convert(target), None, None, None, None, None, huber, curvature, constants
        )
        return loss, slope

    @cuda.jit(device=True)
    def take(xs, targets, outputs, vector, constants):
        losses, slopes = cuda.local.array(count, number), cuda.local.array(count, number)
        total = 0.0
        for i in range(count):
            losses[i], slopes[i] = compute(item(xs, i), item(targets, i), constants)
            if has_sum:
                total += np.float64(losses[i])
        write_losses(outputs[0], vector, losses)
        write_slopes(outputs[1], vector, slopes)
        return total

    @cuda.jit
    def flat(x, target, outputs, items, size, chunk, constants, parts):
        xs, targets = cuda.local.array(slots, kind), cuda.local.array(slots, kind)
        more_xs, more_targets = cuda.local.array(slots, kind), cuda.local.array(slots, kind)
        first, thread = cuda.blockIdx.x * np.int64(chunk), cuda.threadIdx.x
        vectors = size // count
        last = min(first + chunk, vectors)
        vector, total = first + thread, 0.0
        while vector < last:
            copy16(xs, 0, x, vector * slots)
            copy16(targets, 0, target, vector * slots)
            more = vector + threads < last
            if more:
                copy16(more_xs, 0, x, (vector + threads) * slots)
                copy16(more_targets, 0, target, (vector + threads) * slots)
            total += take(xs, targets, outputs, vector, constants)
            if more:
                total += take(more_xs, more_targets, outputs, vector + threads, constants)
            vector += 2 * threads
        i = vectors * count + thread
        while cuda.blockIdx.x == 0 and i < size:
            loss, slope = compute(items[0][i], items[1][i], constants)
            write_loss(items[2], i, loss)
            write_slope(items[3], i, slope)
            total += np.float64(loss)
            i += threads
        if has_sum:
            total, _, _ = tree(total, 0.0, 0.0, thread, threads, 1)
            if thread == 0 and cuda.blockIdx.x < parts.shape[1]:
                store(parts, cuda.blockIdx.x, total, 0.0, 0.0)

    return flat
