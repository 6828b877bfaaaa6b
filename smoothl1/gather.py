"""Runs of an array of any layout and type, to and from contiguous float64.

An array that a kernel cannot index directly is described by one int64 vector
(`describe_input`, `describe_output`). `transfer` then brings any run of its
elements, in the order of the plan, into a small float64 buffer, or takes one
back, rounding once. One compiled copy serves every number of dimensions,
stride, byte order, alignment and element type, and kernels call it by its
address.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj
from numba.np.numpy_support import as_dtype

from .halves import brain_bits, from_half, half_bits, round_to
from .jit import by_type, helper, native
from .plan import coalesce

# Fields of a description; sizes and then byte strides follow, outermost first.
FUNCTION, ADDRESS, CODE, ITEMSIZE, SWAPPED, ROUNDING, NDIM, SIZES = range(8)

NAMES = (
    *("float64", "float32", "float16", "bfloat16", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
F64, F32, F16, BF16, BOOL, I8, I16, I32, I64, U8, U16, U32, U64 = range(len(NAMES))

ABSENT = np.zeros(SIZES, np.int64)  # in place of a description: leave the buffer alone

Array = np.ndarray[Any, np.dtype[Any]]


def describe_input(array: Array, order: tuple[int, ...], rounding: str) -> Array:
    """Describe an array, its axes taken in ``order``, as something to read.

    ``rounding`` names the floating type that integers are rounded to.
    The caller keeps the array alive.
    """
    return _describe(gather_address(), array, order, rounding)


def describe_output(array: Array, order: tuple[int, ...]) -> Array:
    """Describe an array of floats, its axes taken in ``order``, to write to."""
    return _describe(scatter_address(), array, order, "float64")


def _describe(function: int, array: Array, order: tuple[int, ...], rounding: str) -> Array:
    description = _layout(array.dtype, array.shape, array.strides, order, rounding).copy()
    description[FUNCTION] = function
    description[ADDRESS] = array.ctypes.data
    return description


@lru_cache(maxsize=1024)
def _layout(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    steps: tuple[int, ...],
    order: tuple[int, ...],
    rounding: str,
) -> Array:
    """Description that lacks only the addresses."""
    sizes, strides = coalesce([shape[a] for a in order], [steps[a] for a in order])
    code = NAMES.index(dtype.name)
    rounded = NAMES.index(rounding) if code > BOOL else F64
    swapped = not dtype.isnative
    fields = (0, 0, code, dtype.itemsize, swapped, rounded, len(sizes), *sizes, *strides)
    return np.array(fields, dtype=np.int64)


@intrinsic
def _pointer(typing_context, address):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@intrinsic
def _read(typing_context, address, example):
    """Load an integer of the type of ``example``, aligned or not."""

    def codegen(context, builder, signature, args):
        pointer_type = ir.IntType(example.bitwidth).as_pointer()
        load = builder.load(builder.inttoptr(args[0], pointer_type))
        load.align = 1
        return load

    return example(types.int64, example), codegen


@intrinsic
def _write(typing_context, address, value):
    """Store an integer, aligned or not."""

    def codegen(context, builder, signature, args):
        store = builder.store(args[1], builder.inttoptr(args[0], args[1].type.as_pointer()))
        store.align = 1
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


@intrinsic
def _prefetch_line(typing_context, address):
    """Ask for the cache line of an address, which need not exist."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], cgutils.voidptr_t)
        integer = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[integer] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, integer(0), integer(2), integer(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@helper
def prefetch(address, size):
    """Ask for so many bytes."""
    for offset in range(0, size, 64):
        _prefetch_line(address + offset)


@helper
def view(address, size, dtype):
    """Array over the memory at an address."""
    return carray(_pointer(address), (size,), dtype)


@by_type
def floats(address, size, narrow):
    """Array of float64 over the memory at an address; of float32 if ``narrow`` is not None."""
    dtype = np.float64 if isinstance(narrow, types.NoneType) else np.float32
    return lambda address, size, narrow: view(address, size, dtype)


@intrinsic(prefer_literal=True)
def room(typing_context, count):
    """Address of so many numbers on the stack, without the time of an allocation."""

    def codegen(context, builder, signature, args):
        memory = cgutils.alloca_once(builder, ir.DoubleType(), ir.IntType(64)(count.literal_value))
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(types.literal(count.literal_value)), codegen


@intrinsic
def part(typing_context, array, start):
    """Array from an element of another on. LLVM sees that parts of one do not overlap."""

    def codegen(context, builder, signature, args):
        make = arrayobj.make_array(array)
        of, out = make(context, builder, args[0]), make(context, builder)
        arrayobj.populate_array(
            out, builder.gep(of.data, [args[1]]), of.shape, of.strides, of.itemsize, None
        )
        return out._getvalue()

    return array(array, types.int64), codegen


@by_type
def borrowed(value):
    """The same memory without a reference to count; the caller keeps the array.

    Helpers count references to the arrays they are given, in one line of memory
    that all threads then write to.
    """
    if isinstance(value, types.Array):
        dtype = as_dtype(value.dtype).type
        return lambda value: carray(_pointer(value.ctypes.data), value.shape, dtype)
    return lambda value: value


@helper
def _copy_strided(target, target_step, source, source_step, n, size, dtype):
    if target_step == size and source_step == 0:
        _fill(view(target, n, dtype), _read(source, dtype(0)))
        return
    for i in range(n):
        _write(target + i * target_step, _read(source + i * source_step, dtype(0)))


@helper
def _fill(to, item):
    for i in range(np.uintp(to.size)):
        to[i] = item


@helper
def _copy_halves(target, source, n):
    """Copy every second of 4 bytes, as the lower half of 8: only that becomes vector code."""
    to, of = view(target, n - 1, np.uint32), view(source, n - 1, np.uint64)
    for i in range(np.uintp(to.size)):
        to[i] = np.uint32(of[i])
    last = n - 1  # whose other half may be beyond the end
    _write(target + 4 * last, _read(source + 8 * last, np.uint32(0)))


@helper
def _copy(target, target_step, source, source_step, itemsize, n):
    """Copy n items between two addresses with any steps between items."""
    if target_step == itemsize and source_step == itemsize:
        to, of = view(target, n * itemsize, np.uint8), view(source, n * itemsize, np.uint8)
        for i in range(to.size):
            to[i] = of[i]
    elif itemsize == 4 and target_step == 4 and source_step == 8:
        _copy_halves(target, source, n)
    elif itemsize == 8:
        _copy_strided(target, target_step, source, source_step, n, 8, np.uint64)
    elif itemsize == 4:
        _copy_strided(target, target_step, source, source_step, n, 4, np.uint32)
    elif itemsize == 2:
        _copy_strided(target, target_step, source, source_step, n, 2, np.uint16)
    else:
        _copy_strided(target, target_step, source, source_step, n, 1, np.uint8)


@helper
def _locate(operand, position):
    """Address of an element, and how many follow it on the innermost axis."""
    ndim = operand[NDIM]
    address = operand[ADDRESS]
    left = 0
    for axis in range(ndim - 1, -1, -1):
        size = operand[SIZES + axis]
        index = position % size
        position //= size
        address += index * operand[SIZES + ndim + axis]
        if axis == ndim - 1:
            left = size - index
    return address, left


@helper
def _move(operand, start, n, raw, inward):
    """Copy n elements into the bytes at ``raw``, or out of them, unconverted."""
    itemsize, step = operand[ITEMSIZE], operand[operand.size - 1]
    address, left = _locate(operand, start)
    done = 0
    while True:
        count = min(left, n - done)
        here = raw + done * itemsize
        if inward:
            _copy(here, itemsize, address, step, itemsize, count)
        else:
            _copy(address, step, here, itemsize, itemsize, count)
        done += count
        if done >= n:
            return
        if operand[NDIM] == 2:  # the next row: a fifth of the time to look for it
            address += operand[SIZES + 2] - (operand[SIZES + 1] - left) * step
            left = operand[SIZES + 1]
        else:
            address, left = _locate(operand, start + done)


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
    if rounding == F32:
        for i in range(out.size):
            out[i] = np.float32(source[i])
    else:
        _widen(source, out)


@helper
def _round_run(values, rounding):
    """Round numbers that were integers to the floating type they stand for."""
    for i in range(values.size):
        if rounding == F32:
            values[i] = np.float32(values[i])
        elif rounding == F16:
            values[i] = from_half(half_bits(values[i]))
        else:
            values[i] = round_to(values[i], 8, -126)


@helper
def _decode_float(code, raw, out):
    n = out.size
    if code == F64:
        _widen(view(raw, n, np.float64), out)
    elif code == F32:
        _widen(view(raw, n, np.float32), out)
    elif code == F16:
        bits = view(raw, n, np.uint16)
        for i in range(n):
            out[i] = from_half(bits[i])
    else:
        bits = view(raw, n, np.uint16)
        for i in range(n):
            out[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)


@helper
def _decode_integer(code, raw, out, rounding):
    n = out.size
    if code == I64:
        _widen_once(view(raw, n, np.int64), out, rounding)
    elif code == I32:
        _widen(view(raw, n, np.int32), out)
    elif code == I16:
        _widen(view(raw, n, np.int16), out)
    elif code == I8:
        _widen(view(raw, n, np.int8), out)
    elif code == U64:
        _widen_once(view(raw, n, np.uint64), out, rounding)
    elif code == U32:
        _widen(view(raw, n, np.uint32), out)
    elif code == U16:
        _widen(view(raw, n, np.uint16), out)
    else:
        _widen(view(raw, n, np.uint8), out)


@helper
def _encode(code, values, raw):
    n = values.size
    if code == F64:
        doubles = view(raw, n, np.float64)
        for i in range(n):
            doubles[i] = values[i]
    elif code == F32:
        singles = view(raw, n, np.float32)
        for i in range(n):
            singles[i] = np.float32(values[i])
    else:
        bits = view(raw, n, np.uint16)
        for i in range(n):
            bits[i] = half_bits(values[i]) if code == F16 else brain_bits(values[i])


@helper
def _description(address):
    ndim = view(address, SIZES, np.int64)[NDIM]
    return view(address, SIZES + 2 * ndim, np.int64)


@helper
def _prefetch_run(operand, start, n):
    """Ask for the next run while this one is computed: memory never idles."""
    address, left = _locate(operand, start)
    step = abs(operand[operand.size - 1])
    if step <= 64:
        prefetch(address, min(left, n) * step)


@native("void(int64, int64, int64, int64, int64)")
def gather_address(description, start, values, n, raw):
    """Fill n values with the elements from ``start`` on, as float64."""
    operand, out = _description(description), view(values, n, np.float64)
    itemsize, code = operand[ITEMSIZE], operand[CODE]
    source, left = _locate(operand, start)
    direct = left >= n and operand[operand.size - 1] == itemsize and not operand[SWAPPED]
    if not direct or source % itemsize != 0:
        source = raw
        _move(operand, start, n, source, True)
    _prefetch_run(operand, start + n, n)
    if operand[SWAPPED]:
        _swap_bytes(source, itemsize, n)
    if code < BOOL:
        _decode_float(code, source, out)
    else:
        _decode_integer(code, source, out, operand[ROUNDING])
        if operand[ROUNDING] != F64:
            _round_run(out, operand[ROUNDING])


@native("void(int64, int64, int64, int64, int64)")
def scatter_address(description, start, values, n, raw):
    """Store n values as the elements from ``start`` on, each rounded once."""
    operand, rounded = _description(description), view(values, n, np.float64)
    itemsize = operand[ITEMSIZE]
    target, left = _locate(operand, start)
    if left >= n and operand[operand.size - 1] == itemsize and target % itemsize == 0:
        _encode(operand[CODE], rounded, target)
    else:
        _encode(operand[CODE], rounded, raw)
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
    function, description = operand[FUNCTION], operand.ctypes.data
    if function != 0:
        _call(function, description, start, values.ctypes.data + 8 * first, n, raw.ctypes.data)
