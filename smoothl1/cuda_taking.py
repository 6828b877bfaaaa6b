"""Elements of operands with any strides: fetched, computed, and stored one by one.

The functions that a form stands for are bound when a kernel is made; absent operands give
None, whose branches the compiler drops.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from . import cuda_elements as elements
from . import cuda_numbers as numbers
from .cuda_forms import Form


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


def element_of(form: Form) -> Any:
    """Function of one element."""
    if not form.reads[0]:
        return _wide_share if form.wide else _share
    if form.wide:
        return elements.wide_element
    if not form.is_plain():
        return elements.narrow_element
    return elements.coarse_element if form.coarse else elements.plain_element


@cuda.jit(device=True)
def _absent(operand, position, sizes):
    return None


@cuda.jit(device=True)
def _drop(operand, position, sizes, value):
    pass


def _locator(large: bool) -> Any:
    return numbers.locate_large if large else numbers.locate_small


@cache
def reader(name: str, large: bool) -> Any:
    """Function that fetches the element at a position."""
    if not name:
        return _absent
    convert, locate = getattr(numbers, name), _locator(large)

    @cuda.jit(device=True)
    def read(operand, position, sizes):
        return convert(operand[0][locate(operand, position, sizes)])

    return read


@cache
def writer(name: str, large: bool) -> Any:
    """Function that stores a value at a position."""
    if not name:
        return _drop
    convert, locate = getattr(numbers, name), _locator(large)

    @cuda.jit(device=True)
    def write(operand, position, sizes, value):
        operand[0][locate(operand, position, sizes)] = convert(value)

    return write


@cache
def _fetcher(form: Form) -> Any:
    """Function that computes the element at a position."""
    readers = [reader(name, form.large) for name in form.reads]
    x, target, betas, weight, where, factor, divisors = readers
    element, huber, curvature = element_of(form), form.huber or None, form.curvature or None

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
    write_loss, write_slope = (writer(name, form.large) for name in form.writes)

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
def _mover(name: str, large: bool) -> Any:
    """Function that lets an operand begin at a position, and walk along other axes from there."""
    if not name:
        return _stay
    locate, number = (_locator(large), np.int64 if large else np.uint32)

    @cuda.jit(device=True)
    def move(operand, steps, position, sizes):
        return operand[0], number(locate(operand, position, sizes)), steps

    return move


@cuda.jit(device=True)
def _stay(operand, steps, position, sizes):
    return 0


@cache
def mover(form: Form) -> Any:
    """Function that lets all operands and elementwise outputs begin at a position."""
    movers = [_mover(name, form.large) for name in (*form.reads, *form.writes)]
    x, target, betas, weight, where, factor, divisors, losses, slopes = movers

    @cuda.jit(device=True)
    def move(o, outputs, steps, position, sizes):
        moved = (
            x(o[0], steps[0], position, sizes), target(o[1], steps[1], position, sizes),
            betas(o[2], steps[2], position, sizes), weight(o[3], steps[3], position, sizes),
            where(o[4], steps[4], position, sizes), factor(o[5], steps[5], position, sizes),
            divisors(o[6], steps[6], position, sizes),
        )  # fmt: skip
        return moved, (
            losses(outputs[0], steps[7], position, sizes),
            slopes(outputs[1], steps[8], position, sizes),
        )

    return move
