"""The kernels of a GPU, each made for one form of call.

A form says which operands there are, how each is converted, and what is
wanted. The functions it stands for (see `cuda_elements`) are bound when the
kernel is made; absent operands give None, whose branches the compiler drops.

spread  elementwise outputs of operands with any strides
total   partial sums of all elements, one chunk for each block
fold    partial sums of all chunks, divided and stored
squeeze partial sums of some chunks, where they are many
copy    elements from one place to another

Sums over rows, and operands that lie side by side, have kernels of their own (see
`cuda_rows` and `cuda_flat`). The
order of additions follows from the plan, from the type and from the constants
here, and not from the device: threads add their own elements in float64, a tree in
shared memory adds up threads, and a second kernel adds up blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float64

from . import cuda_elements as elements
from . import cuda_numbers as numbers

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

    def rows(self) -> tuple[int, int, int]:
        """Rows that sums of losses, of weights and of slopes have in parts."""
        loss, weight, _ = self.sums()
        return 0, int(loss), int(loss) + int(weight)

    def of_total(self) -> Form:
        """Only its sums of losses and weights."""
        return replace(self, results=(*self.results[:2], ""))

    def of_slopes(self) -> Form:
        """Only its sums of slopes."""
        return replace(self, results=("", "", self.results[2]), by_weight=False)

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
    return numbers.split_large if large else numbers.split_small


@cache
def _reader(name: str, large: bool) -> Any:
    """Function that fetches the element at a position."""
    if not name:
        return _absent
    convert, split, locate = getattr(numbers, name), _split(large), numbers.locate

    @cuda.jit(device=True)
    def read(operand, position, sizes):
        return convert(operand[0][locate(operand, position, sizes, split)])

    return read


@cache
def _writer(name: str, large: bool) -> Any:
    """Function that stores a value at a position."""
    if not name:
        return _drop
    convert, split, locate = getattr(numbers, name), _split(large), numbers.locate

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
def four_of(form: Form) -> Any:
    """Function that takes four elements side by side, all fetched before any is stored."""
    fetch, write = _fetcher(form), _output_writer(form)

    @cuda.jit(device=True)
    def four(o, outputs, at, step, sizes, constants):
        a, f, k = fetch(o, at, sizes, constants)
        b, g, m = fetch(o, at + step, sizes, constants)
        c, h, n = fetch(o, at + 2 * step, sizes, constants)
        d, i, p = fetch(o, at + 3 * step, sizes, constants)
        write(outputs, at, sizes, a, f)
        write(outputs, at + step, sizes, b, g)
        write(outputs, at + 2 * step, sizes, c, h)
        write(outputs, at + 3 * step, sizes, d, i)
        return (a, f, k), (b, g, m), (c, h, n), (d, i, p)

    return four


@cache
def taker(form: Form) -> Any:
    """Function that takes one element."""
    fetch, write = _fetcher(form), _output_writer(form)

    @cuda.jit(device=True)
    def take(o, outputs, at, sizes, constants):
        loss, slope, share = fetch(o, at, sizes, constants)
        write(outputs, at, sizes, loss, slope)
        return loss, slope, share

    return take


@cache
def adder(form: Form) -> Any:
    """Function that adds an element to the sums of losses, weights and slopes."""
    has_loss, has_weight, has_slope = form.sums()

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
def tree_of(form: Form) -> Any:
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
def part_store(form: Form) -> Any:
    """Function that puts partial sums into the rows of parts."""
    has_loss, has_weight, has_slope = form.sums()
    loss_row, weight_row, slope_row = form.rows()

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
def finisher(form: Form) -> Any:
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
def _part_adder(form: Form) -> Any:
    """Function that adds up parts of one output, which are ``step`` apart."""
    has_loss, has_weight, has_slope = form.sums()
    loss_row, weight_row, slope_row = form.rows()

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
def _folder(form: Form) -> Any:
    """Function in which the threads of a block add up some chunks of some outputs."""
    tree, add_parts = tree_of(form), _part_adder(form)

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
def fold_kernel(form: Form) -> Any:
    """Make the kernel that adds up the chunks of each output."""
    finish, fold_some = finisher(form), _folder(form)

    @cuda.jit
    def fold(parts, chunks, outputs, wide, results, result_sizes, divisor):
        tile = np.int64(cuda.blockIdx.x)
        output, (loss, weight, slope) = fold_some(parts, 0, chunks, outputs, wide, tile)
        if output < outputs and cuda.threadIdx.x < wide:
            finish(results, result_sizes, output, loss, weight, slope, divisor)

    return fold


@cache
def squeeze_kernel(form: Form) -> Any:
    """Make the kernel that adds up so many chunks of each output, for others to add up."""
    store, fold_some = part_store(form), _folder(form)

    @cuda.jit
    def squeeze(parts, chunks, outputs, wide, each, fewer):
        tiles = (outputs + wide - 1) // wide
        group, tile = cuda.blockIdx.x // tiles, cuda.blockIdx.x % tiles
        low, high = group * each, min((group + 1) * each, chunks)
        output, (loss, weight, slope) = fold_some(parts, low, high, outputs, wide, tile)
        if low < chunks and output < outputs and cuda.threadIdx.x < wide:
            store(fewer, group * outputs + output, loss, weight, slope)

    return squeeze


@cache
def total_kernel(form: Form, count: int) -> Any:
    """Make the kernel of sums over all elements, with any strides.

    It adds the elements in the order of `cuda_flat`, whose vectors hold
    ``count``: where operands lie does not change the bits of their sum.
    """
    take, add, tree, store = taker(form), adder(form), tree_of(form), part_store(form)
    threads = THREADS

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
    fetch, keep = _reader(read, large), _writer(write, large)

    @cuda.jit
    def copy(source, target, sizes, size):
        i = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
        if i < size:
            keep(target, i, sizes, fetch(source, i, sizes))

    return copy
