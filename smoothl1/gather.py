"""Runs of an array of any layout and type, to and from contiguous float64.

An array that a kernel cannot index directly is described by one int64 vector
(`describe_input`, `describe_output`). `transfer` then brings any run of its
elements, in the order of the plan, into a small float64 buffer, or takes one
back, rounding once. One compiled copy serves every number of dimensions,
stride, byte order, alignment and element type, and kernels call it by its
address.
"""

from __future__ import annotations

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic

from . import descriptions as field
from .descriptions import BY_COLUMN, ITEMSIZE, NDIM, SIZES, Array, describe, described, locate
from .halves import brain_bits, from_brain, from_half, half_bits
from .jit import helper, native
from .memory import copy, prefetch, view
from .panels import move_by_panel, owns_panel
from .seconds import take_seconds
from .turn import ROWS, turn


def describe_input(array: Array, order: tuple[int, ...], rounding: str) -> Array:
    """Describe an array as something to read (see `describe`)."""
    return describe(gather_address(), array, order, rounding)


def describe_output(array: Array, order: tuple[int, ...]) -> Array:
    """Describe an array of floats as something to write to."""
    return describe(scatter_address(), array, order, "float64")


@helper
def _move(operand, start, n, raw, inward):
    """Copy n elements into the bytes at ``raw``, or out of them, unconverted."""
    itemsize, step = operand[ITEMSIZE], operand[operand.size - 1]
    address, left = locate(operand, start)
    done = 0
    while True:
        count = min(left, n - done)
        here = raw + done * itemsize
        if inward:
            copy(here, itemsize, address, step, itemsize, count)
        else:
            copy(address, step, here, itemsize, itemsize, count)
        done += count
        if done >= n:
            return
        if operand[NDIM] == 2:  # the next row: a fifth of the time to look for it
            address += operand[SIZES + 2] - (operand[SIZES + 1] - left) * step
            left = operand[SIZES + 1]
        else:
            address, left = locate(operand, start + done)


@helper
def _move_by_column(operand, start, n, raw):
    """Copy n elements of short rows into the bytes at ``raw``, column by column."""
    itemsize, ndim = operand[ITEMSIZE], operand[NDIM]
    columns, rows = operand[SIZES + ndim - 1], operand[SIZES + ndim - 2]
    done = min(n, -start % columns)
    if done > 0:
        _move(operand, start, done, raw, True)
    while n - done >= columns:
        row = (start + done) // columns
        count = min((n - done) // columns, rows - row % rows)
        _move_whole_rows(operand, start + done, columns, count, raw + done * itemsize)
        done += count * columns
    if done < n:
        _move(operand, start + done, n - done, raw + done * itemsize, True)


@helper
def _move_whole_rows(operand, start, columns, count, target):
    """Copy rows in which each column is a stretch of memory, or which are very short."""
    itemsize, step = operand[ITEMSIZE], operand[operand.size - 1]
    below, pitch = operand[operand.size - 2], columns * itemsize
    source, _ = locate(operand, start)
    if columns < ROWS:
        for column in range(columns):
            copy(target + column * itemsize, pitch, source + column * step, below, itemsize, count)
        return
    whole = count // ROWS * ROWS
    for row in range(0, whole, ROWS):
        turn(source + row * itemsize, step, target + row * pitch, pitch, columns, itemsize)
    for row in range(whole, count):
        copy(target + row * pitch, itemsize, source + row * itemsize, step, itemsize, columns)


@helper
def _swap_bytes(raw, itemsize, n):
    """Reverse the bytes of items: swap their halves, then those of the halves, and so on."""
    if itemsize == 8:
        longs = view(raw, n, np.uint64)
        for i in range(n):
            longs[i] = longs[i] >> np.uint64(32) | longs[i] << np.uint64(32)
    if itemsize >= 4:
        ints = view(raw, n * itemsize // 4, np.uint32)
        for i in range(ints.size):
            ints[i] = ints[i] >> np.uint32(16) | ints[i] << np.uint32(16)
    shorts = view(raw, n * itemsize // 2, np.uint16)
    for i in range(shorts.size):
        shorts[i] = shorts[i] >> np.uint16(8) | shorts[i] << np.uint16(8)


@helper
def _widen(source, out):
    for i in range(out.size):
        out[i] = source[i]


@helper
def _widen_once(source, out, rounding):
    """Convert 64-bit integers, which float64 may round, to the type they stand for."""
    if rounding == field.F32:
        for i in range(out.size):
            out[i] = np.float32(source[i])
    else:
        _widen(source, out)


@helper
def _round_run(values, rounding):
    """Round numbers that were integers to the floating type they stand for."""
    for i in range(values.size):
        if rounding == field.F32:
            values[i] = np.float32(values[i])
        elif rounding == field.F16:
            values[i] = from_half(half_bits(values[i]))
        else:
            values[i] = from_brain(brain_bits(values[i]))


@helper
def _decode_float(code, raw, out):
    n = out.size
    if code == field.F64:
        _widen(view(raw, n, np.float64), out)
    elif code == field.F32:
        _widen(view(raw, n, np.float32), out)
    elif code == field.F16:
        bits = view(raw, n, np.uint16)
        for i in range(n):
            out[i] = from_half(bits[i])
    else:
        bits = view(raw, n, np.uint16)
        for i in range(n):
            out[i] = from_brain(bits[i])


@helper
def _decode_integer(code, raw, out, rounding):
    n = out.size
    if code == field.I64:
        _widen_once(view(raw, n, np.int64), out, rounding)
    elif code == field.I32:
        _widen(view(raw, n, np.int32), out)
    elif code == field.I16:
        _widen(view(raw, n, np.int16), out)
    elif code == field.I8:
        _widen(view(raw, n, np.int8), out)
    elif code == field.U64:
        _widen_once(view(raw, n, np.uint64), out, rounding)
    elif code == field.U32:
        _widen(view(raw, n, np.uint32), out)
    elif code == field.U16:
        _widen(view(raw, n, np.uint16), out)
    else:
        _widen(view(raw, n, np.uint8), out)


@helper
def _encode(code, values, raw):
    n = values.size
    if code == field.F64:
        doubles = view(raw, n, np.float64)
        for i in range(n):
            doubles[i] = values[i]
    elif code == field.F32:
        singles = view(raw, n, np.float32)
        for i in range(n):
            singles[i] = np.float32(values[i])
    else:
        bits = view(raw, n, np.uint16)
        for i in range(n):
            bits[i] = half_bits(values[i]) if code == field.F16 else brain_bits(values[i])


@helper
def _prefetch_run(operand, start, n):
    """Ask for the next run while this one is computed: memory never idles."""
    address, left = locate(operand, start)
    step, n = operand[operand.size - 1], min(left, n)
    if abs(step) <= 64:
        prefetch(min(address, address + (n - 1) * step), n * abs(step))


@native("void(int64, int64, int64, int64, int64)")
def gather_address(description, start, values, n, raw):
    """Fill n values with the elements from ``start`` on, as float64."""
    operand, out = described(description), view(values, n, np.float64)
    itemsize, code = operand[ITEMSIZE], operand[field.CODE]
    source, left = locate(operand, start)
    step = operand[operand.size - 1]
    plain = left >= n and source % itemsize == 0 and not operand[field.SWAPPED]
    if plain and step == 2 * itemsize and code <= field.F32:
        take_seconds(source, itemsize, values, n)
        return
    if not plain or step != itemsize:
        source = raw
        if operand[field.PANEL] == BY_COLUMN:
            _move_by_column(operand, start, n, raw)
        elif owns_panel(operand, raw):
            move_by_panel(operand, start, n, raw)
        else:
            _move(operand, start, n, raw, True)
    _prefetch_run(operand, start + n, n)
    if operand[field.SWAPPED]:
        _swap_bytes(source, itemsize, n)
    if code < field.BOOL:
        _decode_float(code, source, out)
    else:
        _decode_integer(code, source, out, operand[field.ROUNDING])
        if operand[field.ROUNDING] != field.F64:
            _round_run(out, operand[field.ROUNDING])


@native("void(int64, int64, int64, int64, int64)")
def scatter_address(description, start, values, n, raw):
    """Store n values as the elements from ``start`` on, each rounded once."""
    operand, rounded = described(description), view(values, n, np.float64)
    itemsize = operand[ITEMSIZE]
    target, left = locate(operand, start)
    if left >= n and operand[operand.size - 1] == itemsize and target % itemsize == 0:
        _encode(operand[field.CODE], rounded, target)
    else:
        _encode(operand[field.CODE], rounded, raw)
        _move(operand, start, n, raw, False)


@intrinsic
def _call(typing_context, function, description, start, values, n, raw):
    def codegen(context, builder, signature, args):
        integer = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [integer] * 5)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@helper
def transfer(operand, start, values, first, n, raw):
    """Gather or scatter n elements from ``start`` on, as described, to or from values[first:]."""
    function, description = operand[field.FUNCTION], operand.ctypes.data
    if function != 0 and n > 0:
        _call(function, description, start, values.ctypes.data + 8 * first, n, raw.ctypes.data)
