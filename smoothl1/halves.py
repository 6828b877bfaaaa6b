"""float16 and bfloat16 by their bits, as numba has neither on the CPU."""

from __future__ import annotations

import numpy as np

from .jit import helper


@helper
def _bits(value):
    return np.float64(value).view(np.int64)


@helper
def _float(bits):
    return np.int64(bits).view(np.float64)


@helper
def round_to(value, bits, smallest):
    """Round to a float of so many significant bits and smallest exponent."""
    exponent = (_bits(value) >> 52) & 0x7FF
    exponent = max(exponent, smallest + 1023)
    scale = _float((2046 + bits - 1 - exponent) << 52)
    back = _float((exponent - bits + 1) << 52)
    magic = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer
    rounded = ((abs(value) * scale + magic) - magic) * back
    rounded = -rounded if _bits(value) < 0 else rounded
    return rounded if abs(value) < np.inf else value


@helper
def half_bits(value):
    """Bits of the nearest float16."""
    rounded = round_to(value, 11, -14)
    sign = np.int64(0x8000) if _bits(value) < 0 else np.int64(0)
    size = abs(rounded)
    normal = (_bits(size) >> 42) - (1008 << 10)
    small = np.int64(size * 16777216.0) if size < 1.0 else np.int64(0)
    bits = normal if size >= 6.103515625e-05 else small
    bits = bits if size < 65536.0 else np.int64(0x7C00)
    bits = bits if value == value else np.int64(0x7E00)
    return np.uint16(sign | bits)


@helper
def from_half(bits):
    """Value of a float16 given by its bits."""
    wide = np.int64(bits)
    exponent, fraction = (wide >> 10) & 31, wide & 1023
    shifted = exponent + 1008 if exponent != 31 else np.int64(2047)
    size = _float((shifted << 52) | (fraction << 42))
    size = size if exponent != 0 else fraction * 5.960464477539063e-08
    return -size if wide & 0x8000 else size


@helper
def brain_bits(value):
    """Bits of the nearest bfloat16."""
    rounded = np.float32(round_to(value, 8, -126)).view(np.int32)
    return np.uint16(rounded >> 16) if value == value else np.uint16(0x7FC0)
