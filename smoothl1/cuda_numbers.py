"""How numbers are found, converted and stored in the memory of a GPU.

Every function here is compiled into kernels, which choose some of them by name.
Values of 16 bits are computed in float32; bfloat16 comes as bits.
"""

from __future__ import annotations

import numpy as np
from numba import config, cuda


@cuda.jit(device=True)
def locate_large(operand, position, sizes):
    """Index in memory of the element at a position in the order of the plan."""
    _, offset, strides = operand
    at = np.int64(offset)
    for back in range(len(sizes) - 1):
        axis = len(sizes) - 1 - back
        rest = np.int64(np.uint64(position) // np.uint64(sizes[axis][0]))
        at += np.int64(position - rest * sizes[axis][0]) * strides[axis]
        position = rest
    return np.uint64(at + np.int64(position) * strides[0])


@cuda.jit(device=True)
def locate_small(operand, position, sizes):
    """The same in memory of fewer than 2**31 elements, where 32 bits do.

    Sums and products may wrap around: their low bits are right, and no more are there at the end.
    """
    _, offset, strides = operand
    at, position = low(offset), low(position)
    for back in range(len(sizes) - 1):
        axis = len(sizes) - 1 - back
        rest = split(position, sizes[axis])
        at = plus(at, times(minus(position, times(rest, sizes[axis][0])), strides[axis]))
        position = rest
    return np.uint64(plus(at, times(position, strides[0])))


@cuda.jit(device=True)
def split(position, size):
    """Quotient of a position below 2**31, by multiplication (see `cuda_arguments.divider`)."""
    product = np.uint64(plus(position, position)) * np.uint64(low(size[1]))
    return low(low(product >> np.uint64(32)) >> low(size[2]))


# Values of operands.


@cuda.jit(device=True)
def wide(value):
    """A number as float64."""
    return np.float64(value)


@cuda.jit(device=True)
def single(value):
    """A number as float32."""
    return np.float32(value)


@cuda.jit(device=True)
def wide_single(value):
    """An integer rounded to float32, as float64."""
    return np.float64(np.float32(value))


@cuda.jit(device=True)
def half(value):
    """An integer rounded to float16, as float32."""
    return np.float32(np.float16(np.float32(value)))


@cuda.jit(device=True)
def wide_half(value):
    """An integer rounded to float16, as float64."""
    return np.float64(np.float16(np.float32(value)))


@cuda.jit(device=True)
def brain(bits):
    """Bits of a bfloat16, as float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@cuda.jit(device=True)
def wide_brain(bits):
    """Bits of a bfloat16, as float64."""
    return np.float64(np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32))


@cuda.jit(device=True)
def brain_bits(value):
    """Bits of the bfloat16 nearest to a float32, ties to even."""
    bits = np.uint32(np.float32(value).view(np.uint32))
    if value != value:
        return np.uint16(0x7FC0)
    odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@cuda.jit(device=True)
def single_brain(value):
    """An integer rounded to bfloat16, as float32."""
    return brain(brain_bits(sticky(np.float64(value))))


@cuda.jit(device=True)
def wide_single_brain(value):
    """An integer rounded to bfloat16, as float64."""
    return np.float64(brain(brain_bits(sticky(np.float64(value)))))


@cuda.jit(device=True)
def flag(value):
    """Whether an element is selected."""
    return value != 0


@cuda.jit(device=True)
def sticky(value):
    """Float32 next to a float64 towards 0, its last bit set if that is not exact.

    Rounded once more, to fewer bits, it gives what the float64 would.
    """
    near = np.float32(value)
    if np.float64(near) == value or value != value or np.float64(near) - np.float64(near) != 0.0:
        return near
    bits = np.uint32(near.view(np.uint32))
    if abs(np.float64(near)) > abs(value):
        bits = np.uint32(bits - np.uint32(1))
    return np.uint32(bits | np.uint32(1)).view(np.float32)


# What is stored.


@cuda.jit(device=True)
def keep_half(value):
    """Round to float16."""
    return np.float16(value)


@cuda.jit(device=True)
def keep_wide_half(value):
    """Round a float64 to float16, once."""
    return np.float16(sticky(value))


@cuda.jit(device=True)
def keep_wide_brain(value):
    """Round a float64 to the bits of a bfloat16, once."""
    return brain_bits(sticky(value))


# Sixteen bytes at once. Numbers of two bytes travel in words of four.


@cuda.jit(device=True)
def item(items, i):
    """Number of an array."""
    return items[i]


@cuda.jit(device=True)
def item_of_half_words(words, i):
    """Float16 of an array of words."""
    return half_of(np.uint16(words[i >> 1] >> np.uint32(16 * (i & 1))))


@cuda.jit(device=True)
def item_of_brain_words(words, i):
    """Bits of a bfloat16 of an array of words."""
    return np.uint16(words[i >> 1] >> np.uint32(16 * (i & 1)))


@cuda.jit(device=True)
def put(items, i, value):
    """Set a number of an array."""
    items[i] = value


@cuda.jit(device=True)
def put_even_half(words, i, value):
    """Set a float16 of an array of words, and clear its neighbour."""
    words[i >> 1] = np.uint32(bits_of_half(value))


@cuda.jit(device=True)
def put_odd_half(words, i, value):
    """Set a float16 of an array of words, after its neighbour."""
    words[i >> 1] |= np.uint32(np.uint32(bits_of_half(value)) << np.uint32(16))


@cuda.jit(device=True)
def put_even_brain(words, i, bits):
    """Set the bits of a bfloat16 of an array of words, and clear its neighbour."""
    words[i >> 1] = np.uint32(bits)


@cuda.jit(device=True)
def put_odd_brain(words, i, bits):
    """Set the bits of a bfloat16 of an array of words, after its neighbour."""
    words[i >> 1] |= np.uint32(np.uint32(bits) << np.uint32(16))


def _copy16(typing_context, target, to, source, start):
    """Copy 16 bytes between arrays of one type, aligned to 16 in global memory."""

    def pointer(context, builder, kind, value, index):
        array = context.make_array(kind)(context, builder, value)
        size = kind.dtype.bitwidth // 8
        vector = ir.VectorType(ir.IntType(8 * size), 16 // size)
        return builder.bitcast(builder.gep(array.data, [index]), vector.as_pointer())

    def codegen(context, builder, signature, args):
        kinds = signature.args
        load = builder.load(pointer(context, builder, kinds[2], args[2], args[3]))
        load.align = 16
        store = builder.store(load, pointer(context, builder, kinds[0], args[0], args[1]))
        store.align = 16
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), codegen


def _in_32_bits(operation):
    """Intrinsic of two integers whose low 32 bits are taken, and no more computed."""

    def typed(typing_context, a, b):
        def codegen(context, builder, signature, args):
            pair = (context.cast(builder, arg, kind, types.uint32)
                    for arg, kind in zip(args, signature.args, strict=True))  # fmt: skip
            return getattr(builder, operation)(*pair)

        return types.uint32(a, b), codegen

    return intrinsic(typed)


def _half_of(typing_context, bits):
    """Float16 of 16 bits, which is how it is held."""
    return types.float16(types.uint16), lambda context, builder, signature, args: args[0]


def _bits_of_half(typing_context, value):
    """Bits of a float16."""
    return types.uint16(types.float16), lambda context, builder, signature, args: args[0]


if config.ENABLE_CUDASIM:  # it runs Python, and has no such instructions

    def copy16(target, to, source, start):
        """Copy 16 bytes between arrays of one type."""
        n = 16 // source.dtype.itemsize
        target[to : to + n] = source[start : start + n]

    def half_of(bits):
        """Float16 of 16 bits."""
        return np.uint16(bits).view(np.float16)

    def bits_of_half(value):
        """Bits of a float16."""
        return np.float16(value).view(np.uint16)

    def low(number):
        """The low 32 bits of an integer."""
        return np.uint32(int(number) & 0xFFFFFFFF)

    def plus(a, b):
        """Sum, in 32 bits."""
        return low(int(a) + int(b))

    def minus(a, b):
        """Difference, in 32 bits."""
        return low(int(a) - int(b))

    def times(a, b):
        """Product, in 32 bits."""
        return low(int(a) * int(b))
else:
    import llvmlite.ir as ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    copy16 = intrinsic(_copy16)
    half_of = intrinsic(_half_of)
    bits_of_half = intrinsic(_bits_of_half)
    plus, minus, times = (_in_32_bits(name) for name in ("add", "sub", "mul"))

    @cuda.jit(device=True)
    def low(number):
        """The low 32 bits of an integer."""
        return np.uint32(number)
