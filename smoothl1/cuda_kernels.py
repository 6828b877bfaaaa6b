"""The kernels of a GPU, each made for one form of call (see `cuda_forms`).

spread  elementwise outputs of operands with any strides
total   partial sums of all elements, one chunk for each block
copy    elements from one place to another

Sums over rows and over two sets of axes, and operands that lie side by side, have kernels
of their own (see `cuda_rows`, `cuda_boxes` and `cuda_flat`). The order of additions
follows from the plan, from the type and from constants, and not from the device: threads
add their own elements in float64, a tree in shared memory adds up threads, and a second
kernel adds up blocks (see `cuda_folds`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from . import cuda_folds as folds
from .cuda_forms import Flags, Form
from .cuda_taking import four_of, reader, taker, writer

SIDE_BY_SIDE = 4  # elements of any strides that a thread loads before it needs one


@cache
def spread_kernel(form: Form) -> Any:
    """Make the kernel of elementwise outputs."""
    four, take = four_of(form), taker(form)

    @cuda.jit
    def spread(o, outputs, sizes, size, constants):
        step = np.int64(cuda.blockDim.x)
        at = cuda.blockIdx.x * (step * SIDE_BY_SIDE) + cuda.threadIdx.x
        if at + 3 * step < size:
            four(o, outputs, at, step, sizes, constants)
        else:
            while at < size:
                take(o, outputs, at, sizes, constants)
                at += step

    return spread


@cache
def total_kernel(form: Form, flags: Flags, count: int) -> Any:
    """Make the kernel of sums over all elements, with any strides.

    It adds the elements in the order of `cuda_flat`, whose vectors hold
    ``count``: where operands lie does not change the bits of their sum.
    """
    take, add, threads = taker(form), folds.adder(flags), folds.THREADS
    tree, store = folds.tree_of(flags), folds.part_store(flags)

    @cuda.jit
    def total(o, outputs, sizes, size, chunk, constants, parts):
        first, thread = cuda.blockIdx.x * np.int64(chunk), cuda.threadIdx.x
        vectors = size // count
        last = min(first + chunk, vectors)
        vector, loss, weight, slope = first + thread, 0.0, 0.0, 0.0
        while vector < last:
            sums = (0.0, 0.0, 0.0)
            for i in range(count):
                sums = add(sums, take(o, outputs, vector * count + i, sizes, constants))
            loss += sums[0]
            weight += sums[1]
            slope += sums[2]
            vector += threads
        sums, i = (loss, weight, slope), vectors * count + thread
        while cuda.blockIdx.x == 0 and i < size:
            sums = add(sums, take(o, outputs, i, sizes, constants))
            i += threads
        loss, weight, slope = sums
        loss, weight, slope = tree(loss, weight, slope, thread, threads, 1)
        if thread == 0 and cuda.blockIdx.x < parts.shape[1]:
            store(parts, cuda.blockIdx.x, loss, weight, slope)

    return total


@cache
def copy_kernel(read: str, write: str, large: bool) -> Any:
    """Make the kernel that copies elements of any strides."""
    fetch, keep = reader(read, large), writer(write, large)

    @cuda.jit
    def copy(source, target, sizes, size):
        i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
        if i < size:
            keep(target, i, sizes, fetch(source, i, sizes))

    return copy
