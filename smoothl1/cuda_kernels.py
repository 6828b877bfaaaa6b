"""The kernels of a GPU, each made for one form of call.

A form says which operands there are, how each is converted, and what is
wanted. The functions it stands for (see `cuda_elements`) are bound when the
kernel is made; absent operands give None, whose branches the compiler drops.

flat    operands that lie side by side, 16 bytes at a time: elementwise
        outputs, and the partial sums of one chunk for each block
total   the same sums of operands with any strides
spread  elementwise outputs of operands with any strides
sums    sums over rows of operands with any strides: a block takes some
        outputs and a chunk of their rows
fold    partial sums of all chunks, divided and stored

The order of additions follows from the plan and from the constants here, and
not from the device: threads add their own elements in float64, a tree in
shared memory adds up threads, and a second kernel adds up blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, float64, uint32

from . import cuda_elements as elements

THREADS = 256  # of a block
SIDE_BY_SIDE = 4  # elements of any strides that a thread loads before it needs one
OPERANDS = ("x", "target", "betas", "weight", "where", "factor", "divisors")


@dataclass(frozen=True, slots=True)
class Form:
    """What the code of a kernel depends on.

    ``reads`` and ``writes`` name functions of `cuda_elements`; "" is absent.
    """

    reads: tuple[str, ...]  # in the order of OPERANDS
    writes: tuple[str, str] = ("", "")  # elementwise losses and slopes
    results: tuple[str, str, str] = ("", "", "")  # sums of losses, weights and slopes
    wide: bool = False
    large: bool = False  # 2**31 elements or more
    huber: bool = False
    curvature: bool = False
    by_weight: bool = False  # the sum of losses is divided by that of weights
    coarse: bool = False  # all results have 16 bits

    def sums(self) -> tuple[bool, bool, bool]:
        """Whether there are sums of losses, of weights and of slopes."""
        loss, weight, slope = map(bool, self.results)
        return loss, weight or self.by_weight, slope

    def element(self) -> Any:
        """Function of one element."""
        if not self.reads[0]:
            return _wide_share if self.wide else _share
        if self.wide:
            return elements.wide_element
        if not self.is_plain():
            return elements.narrow_element
        return elements.coarse_element if self.coarse else elements.plain_element

    def is_plain(self) -> bool:
        """Whether all but x and target are scalars, and nothing but slopes is asked.

        A loss and its gradient agree in this, so that their losses have the same bits.
        """
        scalar = not any(self.reads[2:])
        return scalar and not (self.wide or self.huber or self.curvature)


@cuda.jit(device=True)
def _share(x, target, betas, weight, where, factor, divisors, huber, curvature, constants):
    share = np.float32(1.0) if weight is None else weight
    if where is not None and not where:
        share = np.float32(0.0)
    return np.float32(0.0), np.float32(0.0), share


@cuda.jit(device=True)
def _wide_share(x, target, betas, weight, where, factor, divisors, huber, curvature, constants):
    share = 1.0 if weight is None else weight
    if where is not None and not where:
        share = 0.0
    return 0.0, 0.0, share


@cuda.jit(device=True)
def _absent(operand, position, sizes):
    return None


@cuda.jit(device=True)
def _drop(operand, position, sizes, value):
    pass


def _split(large: bool) -> Any:
    return elements.split_large if large else elements.split_small


@cache
def _reader(name: str, large: bool) -> Any:
    """Function that fetches the element at a position."""
    if not name:
        return _absent
    convert, split, locate = getattr(elements, name), _split(large), elements.locate

    @cuda.jit(device=True)
    def read(operand, position, sizes):
        return convert(operand[0][locate(operand, position, sizes, split)])

    return read


@cache
def _writer(name: str, large: bool) -> Any:
    """Function that stores a value at a position."""
    if not name:
        return _drop
    convert, split, locate = getattr(elements, name), _split(large), elements.locate

    @cuda.jit(device=True)
    def write(operand, position, sizes, value):
        operand[0][locate(operand, position, sizes, split)] = convert(value)

    return write


@cache
def _fetcher(form: Form) -> Any:
    """Function that computes the element at a position."""
    readers = [_reader(name, form.large) for name in form.reads]
    x, target, betas, weight, where, factor, divisors = readers
    element, huber, curvature = form.element(), form.huber or None, form.curvature or None

    @cuda.jit(device=True)
    def fetch(o, position, sizes, constants):
        return element(
            x(o[0], position, sizes), target(o[1], position, sizes), betas(o[2], position, sizes),
            weight(o[3], position, sizes), where(o[4], position, sizes),
            factor(o[5], position, sizes), divisors(o[6], position, sizes),
            huber, curvature, constants,
        )  # fmt: skip

    return fetch


@cache
def _output_writer(form: Form) -> Any:
    """Function that stores the elementwise outputs at a position."""
    write_loss, write_slope = (_writer(name, form.large) for name in form.writes)

    @cuda.jit(device=True)
    def write(outputs, position, sizes, loss, slope):
        write_loss(outputs[0], position, sizes, loss)
        write_slope(outputs[1], position, sizes, slope)

    return write


@cache
def spread_kernel(form: Form) -> Any:
    """Make the kernel of elementwise outputs."""
    fetch, write = _fetcher(form), _output_writer(form)

    @cuda.jit
    def spread(o, outputs, sizes, size, constants):
        step = np.int64(cuda.blockDim.x)
        at = cuda.blockIdx.x * (step * SIDE_BY_SIDE) + cuda.threadIdx.x
        if at + 3 * step < size:
            a, f, _ = fetch(o, at, sizes, constants)
            b, g, _ = fetch(o, at + step, sizes, constants)
            c, h, _ = fetch(o, at + 2 * step, sizes, constants)
            d, i, _ = fetch(o, at + 3 * step, sizes, constants)
            write(outputs, at, sizes, a, f)
            write(outputs, at + step, sizes, b, g)
            write(outputs, at + 2 * step, sizes, c, h)
            write(outputs, at + 3 * step, sizes, d, i)
        else:
            while at < size:
                a, f, _ = fetch(o, at, sizes, constants)
                write(outputs, at, sizes, a, f)
                at += step

    return spread


@cache
def _tree(form: Form) -> Any:
    """Function that adds up the threads of a block by halving along one of its axes."""
    threads = THREADS
    has_loss, has_weight, has_slope = form.sums()

    @cuda.jit(device=True)
    def tree(loss, weight, slope, lane, lanes, step):
        shared = cuda.shared.array((3, threads), float64)
        thread = cuda.threadIdx.x
        shared[0, thread], shared[1, thread], shared[2, thread] = loss, weight, slope
        half = lanes >> 1
        while half > 0:
            cuda.syncthreads()
            if lane < half:
                other = thread + half * step
                if has_loss:
                    shared[0, thread] += shared[0, other]
                if has_weight:
                    shared[1, thread] += shared[1, other]
                if has_slope:
                    shared[2, thread] += shared[2, other]
            half >>= 1
        return shared[0, thread], shared[1, thread], shared[2, thread]

    return tree


@cache
def _part_store(form: Form) -> Any:
    """Function that puts partial sums into the rows of parts."""
    has_loss, has_weight, has_slope = form.sums()

    @cuda.jit(device=True)
    def store(parts, place, loss, weight, slope):
        if has_loss:
            parts[0, place] = loss
        if has_weight:
            parts[1, place] = weight
        if has_slope:
            parts[2, place] = slope

    return store


@cuda.jit(device=True)
def _place(thread, block, geometry):
    """Column, lane, outer index and chunk of a thread."""
    outer, _, columns, _, wide, lanes = geometry
    deep = cuda.blockDim.x // (wide * lanes)
    column, lane, group = thread % wide, thread // wide % lanes, thread // (wide * lanes)
    tiles, groups = (columns + wide - 1) // wide, (outer + deep - 1) // deep
    tile, rest = block % tiles, block // tiles
    return tile * wide + column, lane, rest % groups * deep + group, rest // groups


@cache
def _finisher(form: Form) -> Any:
    """Function that divides the sums of one output and stores them."""
    write_loss, write_weight, write_slope = (_writer(name, True) for name in form.results)
    by_weight = form.by_weight

    @cuda.jit(device=True)
    def finish(results, sizes, output, loss, weight, slope, divisor):
        if by_weight:
            divisor = weight
        write_loss(results[0], output, sizes, np.float64(loss) / np.float64(divisor))
        write_weight(results[1], output, sizes, weight)
        write_slope(results[2], output, sizes, slope)

    return finish


@cache
def sums_kernel(form: Form, direct: bool) -> Any:
    """Make the kernel of sums over rows; direct ones are finished, others go to ``parts``."""
    fetch, finish, tree, store = _fetcher(form), _finisher(form), _tree(form), _part_store(form)
    write = _output_writer(form)
    has_loss, has_weight, has_slope = form.sums()

    @cuda.jit(device=True)
    def add(sums, loss, slope, share):
        a, b, c = sums
        if has_loss:
            a += np.float64(loss)
        if has_weight:
            b += np.float64(share)
        if has_slope:
            c += np.float64(slope)
        return a, b, c

    @cuda.jit
    def sums(o, outputs, sizes, constants, geometry, parts, results, result_sizes, divisor):
        column, lane, outer, chunk = _place(cuda.threadIdx.x, cuda.blockIdx.x, geometry)
        outers, rows, columns, chunk_rows, wide, lanes = geometry
        total = (0.0, 0.0, 0.0)
        valid = column < columns and outer < outers
        if chunk > 0 and chunk * chunk_rows >= rows:  # a block too many
            valid = False
        if valid:
            row, high = chunk * chunk_rows + lane, min((chunk + 1) * chunk_rows, rows)
            at, step = (outer * rows + row) * columns + column, lanes * columns
            while row + 3 * lanes < high:
                a, f, k = fetch(o, at, sizes, constants)
                b, g, m = fetch(o, at + step, sizes, constants)
                c, h, n = fetch(o, at + 2 * step, sizes, constants)
                d, i, p = fetch(o, at + 3 * step, sizes, constants)
                write(outputs, at, sizes, a, f)
                write(outputs, at + step, sizes, b, g)
                write(outputs, at + 2 * step, sizes, c, h)
                write(outputs, at + 3 * step, sizes, d, i)
                total = add(add(total, a, f, k), b, g, m)
                total = add(add(total, c, h, n), d, i, p)
                row += 4 * lanes
                at += 4 * step
            while row < high:
                a, f, k = fetch(o, at, sizes, constants)
                write(outputs, at, sizes, a, f)
                total = add(total, a, f, k)
                row += lanes
                at += step
        loss, weight, slope = total
        loss, weight, slope = tree(loss, weight, slope, lane, lanes, wide)
        if valid and lane == 0:
            output = outer * columns + column
            if direct:
                finish(results, result_sizes, output, loss, weight, slope, divisor)
            else:
                store(parts, chunk * (outers * columns) + output, loss, weight, slope)

    return sums


@cache
def fold_kernel(form: Form) -> Any:
    """Make the kernel that adds up the chunks of each output."""
    finish, tree = _finisher(form), _tree(form)
    has_loss, has_weight, has_slope = form.sums()

    @cuda.jit
    def fold(parts, chunks, outputs, wide, results, result_sizes, divisor):
        lanes = cuda.blockDim.x // wide
        lane = cuda.threadIdx.x // wide
        output = cuda.blockIdx.x * np.int64(wide) + cuda.threadIdx.x % wide
        loss = weight = slope = 0.0
        if output < outputs:
            place = lane * outputs + output
            while place < chunks * outputs:
                if has_loss:
                    loss += parts[0, place]
                if has_weight:
                    weight += parts[1, place]
                if has_slope:
                    slope += parts[2, place]
                place += lanes * outputs
        loss, weight, slope = tree(loss, weight, slope, lane, lanes, wide)
        if output < outputs and lane == 0:
            finish(results, result_sizes, output, loss, weight, slope, divisor)

    return fold


# How numbers of a type travel 16 bytes at a time: how many they are, in how
# many slots of which type, and how one is taken from there and put there.
VECTORS: dict[str, tuple[int, int, Any, Any, Any, Any]] = {
    "float64": (2, 2, float64, elements.item, elements.put, elements.put),
    "float32": (4, 4, float32, elements.item, elements.put, elements.put),
    "float16": (
        *(8, 4, uint32, elements.item_of_half_words),
        *(elements.put_even_half, elements.put_odd_half),
    ),
    "bfloat16": (
        *(8, 4, uint32, elements.item_of_brain_words),
        *(elements.put_even_brain, elements.put_odd_brain),
    ),
}


@cache
def _vector_writer(name: str, dtype: str) -> Any:
    """Function that stores 16 bytes of values."""
    if not name:
        return _drop_vector
    count, slots, kind, _, put_even, put_odd = VECTORS[dtype]
    convert, copy16 = getattr(elements, name), elements.copy16

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
    convert = getattr(elements, name)

    @cuda.jit(device=True)
    def write(data, i, value):
        data[i] = convert(value)

    return write


@cache
def flat_kernel(form: Form, dtype: str) -> Any:
    """Make the kernel of operands that lie side by side, all of one type.

    Each thread has two vectors of both operands on their way at a time. The
    first block also takes the elements that fill no vector.
    """
    count, slots, kind, item, _, _ = VECTORS[dtype]
    write_losses, write_slopes = (_vector_writer(name, dtype) for name in form.writes)
    write_loss, write_slope = (_item_writer(name) for name in form.writes)
    element, convert, copy16 = form.element(), getattr(elements, form.reads[0]), elements.copy16
    huber, curvature = form.huber or None, form.curvature or None
    number = float64 if form.wide else float32
    has_sum, tree, store = bool(form.results[0]), _tree(form), _part_store(form)
    threads = THREADS

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


@cache
def total_kernel(form: Form, count: int) -> Any:
    """Make the kernel of sums over all elements, with any strides.

    It adds the elements in the order of `flat_kernel`, whose vectors hold
    ``count``: where operands lie does not change the bits of their sum.
    """
    fetch, tree, store, write = _fetcher(form), _tree(form), _part_store(form), _output_writer(form)
    has_loss, has_weight, has_slope = form.sums()
    threads = THREADS

    @cuda.jit(device=True)
    def take(o, outputs, first, sizes, constants):
        a, b, c = 0.0, 0.0, 0.0
        for i in range(count):
            loss, slope, share = fetch(o, first + i, sizes, constants)
            write(outputs, first + i, sizes, loss, slope)
            if has_loss:
                a += np.float64(loss)
            if has_weight:
                b += np.float64(share)
            if has_slope:
                c += np.float64(slope)
        return a, b, c

    @cuda.jit
    def total(o, outputs, sizes, size, chunk, constants, parts):
        first, thread = cuda.blockIdx.x * np.int64(chunk), cuda.threadIdx.x
        vectors = size // count
        last = min(first + chunk, vectors)
        vector, loss, weight, slope = first + thread, 0.0, 0.0, 0.0
        while vector < last:
            a, b, c = take(o, outputs, vector * count, sizes, constants)
            loss += a
            weight += b
            slope += c
            vector += threads
        i = vectors * count + thread
        while cuda.blockIdx.x == 0 and i < size:
            one_loss, one_slope, share = fetch(o, i, sizes, constants)
            write(outputs, i, sizes, one_loss, one_slope)
            if has_loss:
                loss += np.float64(one_loss)
            if has_weight:
                weight += np.float64(share)
            if has_slope:
                slope += np.float64(one_slope)
            i += threads
        loss, weight, slope = tree(loss, weight, slope, thread, threads, 1)
        if thread == 0 and cuda.blockIdx.x < parts.shape[1]:
            store(parts, cuda.blockIdx.x, loss, weight, slope)

    return total


@cache
def copy_kernel(read: str, write: str, large: bool) -> Any:
    """Make the kernel that copies elements of any strides."""
    fetch, keep = _reader(read, large), _writer(write, large)

    @cuda.jit
    def copy(source, target, sizes, size):
        i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
        if i < size:
            keep(target, i, sizes, fetch(source, i, sizes))

    return copy
