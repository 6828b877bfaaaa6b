"""float16 and bfloat16 by their bits, as numba has neither on the CPU.

Most x86-64 processors convert float16 themselves (F16C); for others integers do. Bits are the
same.
"""

from __future__ import annotations

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic

from .jit import helper

HALF, SINGLE, DOUBLE, SHORT = ir.HalfType(), ir.FloatType(), ir.DoubleType(), ir.IntType(16)


def _converts_halves(context):
    return "+f16c" in context.codegen().magic_tuple()[2].split(",")


@helper
def _bits(value):
    return np.float64(value).view(np.int64)


@helper
def _float(bits):
    return np.int64(bits).view(np.float64)


def _from_half(bits):
    wide = np.int64(bits)
    exponent, fraction = (wide >> 10) & 31, wide & 1023
    shifted = exponent + 1008 if exponent != 31 else np.int64(2047)
    size = _float((shifted << 52) | (fraction << 42))
    size = size if exponent != 0 else fraction * 5.960464477539063e-08
    return -size if wide & 0x8000 else size


@intrinsic
def from_half(typing_context, bits):
    """Value of a float16 given by its bits."""

    def build(context, builder, signature, arguments):
        if not _converts_halves(context):
            return context.compile_internal(builder, _from_half, signature, arguments)
        half = builder.bitcast(arguments[0], HALF)
        return builder.fpext(builder.fpext(half, SINGLE), DOUBLE)

    return types.float64(types.uint16), build


@helper
def from_brain(bits):
    """Value of a bfloat16 given by its bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@helper
def _nearest(value, fraction, smallest, infinity):
    """Bits of the nearest number with so many bits of fraction and smallest exponent."""
    below = 52 - fraction
    size = _bits(abs(value))
    up = (np.int64(1) << (below - 1)) - 1 + (size >> below & 1)  # ties to even
    normal = (size + up >> below) - ((smallest + 1022) << fraction)
    # Subnormal numbers are whole multiples of the smallest one, to which adding this rounds.
    magic = _float((smallest - fraction + 52 + 1023) << 52)
    tiny = _bits(abs(value) + magic) - _bits(magic)
    nearest = normal if abs(value) >= _float((smallest + 1023) << 52) else tiny
    nearest = min(nearest, np.int64(infinity)) | (_bits(value) >> 48 & 0x8000)
    nan = infinity | 1 << (fraction - 1)
    return np.uint16(nearest if value == value else nan)


def _nearest_half(value):
    return _nearest(value, 10, -14, 0x7C00)


@intrinsic
def half_bits(typing_context, value):
    """Bits of the nearest float16."""

    def build(context, builder, signature, arguments):
        if not _converts_halves(context):
            return context.compile_internal(builder, _nearest_half, signature, arguments)
        kind = types.float64(types.float64)
        kept = context.compile_internal(builder, _round_to_odd, kind, arguments)
        return builder.bitcast(builder.fptrunc(builder.fptrunc(kept, SINGLE), HALF), SHORT)

    return types.uint16(types.float64), build


def _round_to_odd(value):
    """Round to what float32 can hold, on the way to less, and all NaN to one.

    The last bit that is kept stands for all below it, so that what follows finds no tie that
    there was not.
    """
    bits = _bits(value)
    odd = bits & ~np.int64(0x1FFFFFFF) | ((bits & 0x1FFFFFFF) + 0x1FFFFFFF & 0x20000000)
    return _float(odd if value == value else np.int64(0x7FF8000000000000))


@helper
def brain_bits(value):
    """Bits of the nearest bfloat16."""
    return _nearest(value, 7, -126, 0x7F80)
