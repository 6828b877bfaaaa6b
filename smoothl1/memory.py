"""Memory as kernels see it: addresses, single items, views, rooms on the stack, copies."""

from __future__ import annotations

import llvmlite.ir as ir
import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj
from numba.np.numpy_support import as_dtype

from .jit import by_type, helper

DISTANCE = 3072  # bytes from what is read to what is asked for


@intrinsic
def pointer(typing_context, address):
    """Address as a pointer."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@intrinsic
def read(typing_context, address, example):
    """Load a number of the type of ``example``, aligned or not."""

    def codegen(context, builder, signature, args):
        pointer_type = context.get_value_type(example).as_pointer()
        load = builder.load(builder.inttoptr(args[0], pointer_type))
        load.align = 1
        return load

    return example(types.int64, example), codegen


@intrinsic
def write(typing_context, address, value):
    """Store an integer, aligned or not."""

    def codegen(context, builder, signature, args):
        store = builder.store(args[1], builder.inttoptr(args[0], args[1].type.as_pointer()))
        store.align = 1
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


def _prefetcher(write, locality):
    """Make a function that asks for lines of the cache from an address on, which need not exist."""

    @intrinsic(prefer_literal=True)
    def prefetch_lines(typing_context, address, count):
        def codegen(context, builder, signature, args):
            integer = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[integer] * 3])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            for line in range(count.literal_value):
                place = builder.add(args[0], args[0].type(64 * line))
                pointer = builder.inttoptr(place, cgutils.voidptr_t)
                builder.call(function, [pointer, integer(write), integer(locality), integer(1)])
            return context.get_dummy_value()

        return types.void(types.int64, types.literal(count.literal_value)), codegen

    return prefetch_lines


prefetch_lines, prefetch_lines_to_write = _prefetcher(0, 2), _prefetcher(1, 3)


@helper
def prefetch(address, size):
    """Ask for so many bytes."""
    for offset in range(0, size, 64):
        prefetch_lines(address + offset, 1)


@helper
def view(address, size, dtype):
    """Array over the memory at an address."""
    return carray(pointer(address), (size,), dtype)


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


@intrinsic(prefer_literal=True)
def stack(typing_context, count):
    """Array of float64 on the stack: if all that uses it is inlined, LLVM takes registers."""
    kind, size = types.Array(types.float64, 1, "C"), count.literal_value

    def codegen(context, builder, signature, args):
        word = ir.IntType(64)
        memory = cgutils.alloca_once(builder, ir.DoubleType(), word(size))
        shape, strides = (cgutils.pack_array(builder, [word(n)]) for n in (size, 8))
        out = arrayobj.make_array(kind)(context, builder)
        arrayobj.populate_array(out, memory, shape, strides, word(8), None)
        return out._getvalue()

    return kind(types.literal(size)), codegen


@intrinsic
def keep(typing_context, array):
    """Let an array live until here, for what has been `borrowed` from it."""

    def codegen(context, builder, signature, args):
        return context.get_dummy_value()

    return types.void(array), codegen


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

    Helpers and loops count references to arrays, one by one in a line of memory that all
    threads write to. Also in memory of one thread each count waits for what was read and
    written before: that took up to a third of the time of a loss.
    """
    if isinstance(value, types.Array):
        dtype = as_dtype(value.dtype).type
        return lambda value: carray(pointer(value.ctypes.data), value.shape, dtype)
    return lambda value: value


@helper
def _copy_strided(target, target_step, source, source_step, n, size, dtype):
    if target_step == size and source_step == 0:
        _fill(view(target, n, dtype), read(source, dtype(0)))
        return
    for i in range(n):
        write(target + i * target_step, read(source + i * source_step, dtype(0)))


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
    write(target + 4 * last, read(source + 8 * last, np.uint32(0)))


@helper
def copy(target, target_step, source, source_step, itemsize, n):
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
