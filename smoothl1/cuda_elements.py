"""One element on a GPU: fetched, taken through the formula, kept.

Every function here is compiled into kernels. Which of them a kernel uses is
chosen when it is made (see `cuda_kernels`), so that what a call does without
leaves no trace in its code.

Calls without float64 compute each element in float32, since many GPUs have few
units for float64. The CPU rounds once; to stay within 2 ulps of it, what
a float32 cannot hold is carried in a second one: a pair (high, low) stands for
their sum. Four elements of rising cost:

coarse  results of 16 bits, which hide errors of float32
plain   the residual and the scalars as pairs; four roundings in all
narrow  weights, thresholds or factors per element: products as pairs too
wide    in float64, by the scalars of `formula`
"""

from __future__ import annotations

import numpy as np
from numba import config, cuda

from . import formula

SMALLEST = 5e-324


@cuda.jit(device=True)
def locate(operand, position, sizes, split):
    """Index in memory of the element at a position in the order of the plan."""
    _, offset, strides = operand
    at = np.int64(offset)
    for back in range(len(sizes) - 1):
        axis = len(sizes) - 1 - back
        rest = split(position, sizes[axis])
        at += np.int64(position - rest * sizes[axis][0]) * strides[axis]
        position = rest
    return np.uint64(at + np.int64(position) * strides[0])


@cuda.jit(device=True)
def split_small(position, size):
    """Quotient of a position below 2**31, by multiplication (see `cuda.magic`)."""
    return np.int64((np.uint64(position) * np.uint64(size[1])) >> np.uint64(size[2]))


@cuda.jit(device=True)
def split_large(position, size):
    """Quotient of any position."""
    return np.int64(np.uint64(position) // np.uint64(size[0]))


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


# Pairs.


@cuda.jit(device=True)
def joined(high, low):
    """The float32 nearest to a pair."""
    return high if high - high != 0.0 else high + low


@cuda.jit(device=True)
def difference_error(a, b, difference):
    """What the rounded difference a - b lacks, 0 if it is not finite."""
    if difference - difference != 0.0:
        return np.float32(0.0)
    back = difference - a
    return (a - (difference - back)) - (b + back)


@cuda.jit(device=True)
def times(high, low, factor, factor_low):
    """Product of two pairs.

    The first product is a fused one with 0, since the compiler would fuse a
    plain one into additions, and count its error twice.
    """
    product = cuda.fma(high, factor, np.float32(0.0))
    rest = cuda.fma(high, factor_low, low * factor)
    return product, cuda.fma(high, factor, -product) + rest


@cuda.jit(device=True)
def over(high, low, divisor):
    """Quotient of a pair and a number."""
    quotient = high / divisor
    if quotient - quotient != 0.0:
        return quotient, np.float32(0.0)
    return quotient, (cuda.fma(-quotient, divisor, high) + low) / divisor


# The formula.


@cuda.jit(device=True)
def coarse_element(x, target, betas, weight, where, factor, divisors, huber, curvature, constants):
    """Loss, slope and share of one element, some 2**-22 off."""
    beta, half_beta, _, inverse, _, scale, _, share = constants
    residual = x - target
    size = abs(residual)
    inside = size < beta
    loss = residual * (residual * inverse) if inside else size - half_beta
    slope = residual * scale if inside else signed(share, residual)
    return kept(where, loss, slope)


@cuda.jit(device=True)
def plain_element(x, target, betas, weight, where, factor, divisors, huber, curvature, constants):
    """Loss, slope and share of one element with two roundings each.

    Where a pair straddles beta either branch will do: the loss is smooth.
    """
    beta, half_beta, half_low, inverse, inverse_low, scale, scale_low, share = constants
    residual = x - target
    low = difference_error(x, target, residual)
    size, size_low = abs(residual), low if residual > np.float32(0.0) else -low
    inside = size < beta
    half_slope = cuda.fma(residual, inverse, cuda.fma(residual, inverse_low, low * inverse))
    near = cuda.fma(residual, half_slope, low * half_slope)
    loss = near if inside else (size - half_beta) + (size_low - half_low)
    slope = cuda.fma(residual, scale, residual * scale_low)
    return kept(where, loss, slope if inside else signed(share, residual))


@cuda.jit(device=True)
def signed(share, residual):
    """Slope outside of beta: the share with the sign of the residual, NaN for NaN."""
    slope = share if residual > np.float32(0.0) else -share
    return slope if abs(residual) > np.float32(0.0) else residual


@cuda.jit(device=True)
def kept(where, loss, slope):
    """Nothing of an element that is left out."""
    share = np.float32(1.0)
    if where is not None and not where:
        loss = slope = share = np.float32(0.0)
    return loss, slope, share


@cuda.jit(device=True)
def narrow_loss_and_slope(x, target, betas, huber, curvature, constants):
    """Loss and slope of one element as pairs; branches as in `formula`.

    The constants are the pairs of beta, of its reciprocal and of the share, and
    what the pair of beta lacks, which decides where the residual is that pair.
    """
    beta, beta_low, inverse, inverse_low = constants[0], constants[1], constants[2], constants[3]
    zero, a_half = np.float32(0.0), np.float32(0.5)
    if betas is not None:
        beta, beta_low = betas, zero
    residual = x - target
    residual_low = difference_error(x, target, residual)
    size, size_low = abs(residual), residual_low if residual > zero else -residual_low
    inside = size < beta or (size == beta and size_low < beta_low)
    if betas is None and size == beta and size_low == beta_low:
        inside = zero < constants[6]
    slope = np.float32(1.0) if residual > zero else np.float32(-1.0)
    if not size > zero:
        slope = residual
    slope_low = zero
    if inside:
        if betas is not None:
            slope, slope_low = over(residual, residual_low, beta)
        else:
            slope, slope_low = times(residual, residual_low, inverse, inverse_low)
    if inside:
        scale, scale_low = slope, slope_low
        if huber is not None:
            scale, scale_low = residual, residual_low
        loss, loss_low = times(a_half * residual, a_half * residual_low, scale, scale_low)
    else:
        loss = size - a_half * beta
        loss_low = zero
        if loss - loss == 0.0:
            loss_low = ((size - loss) - a_half * beta) + (size_low - a_half * beta_low)
        if huber is not None:
            loss, loss_low = times(loss, loss_low, beta, beta_low)
    if curvature is not None:
        slope, slope_low = residual - residual, zero
        if slope != zero and residual == residual:
            slope = zero
        if inside:
            slope, slope_low = inverse, inverse_low
            if betas is not None:
                slope, slope_low = over(np.float32(1.0), zero, beta)
    return loss, loss_low, slope, slope_low


@cuda.jit(device=True)
def narrow_element(x, target, betas, weight, where, factor, divisors, huber, curvature, constants):
    """Loss, slope and share of one element in float32."""
    loss, loss_low, slope, slope_low = narrow_loss_and_slope(
        x, target, betas, huber, curvature, constants
    )
    zero, share = np.float32(0.0), np.float32(1.0)
    if weight is not None:
        share = weight
        loss, loss_low = times(loss, loss_low, weight, zero)
        slope, slope_low = times(slope, slope_low, weight, zero)
    if factor is not None:
        slope, slope_low = times(slope, slope_low, factor, zero)
    if divisors is not None:
        slope, slope_low = over(slope, slope_low, divisors)
    slope, slope_low = times(slope, slope_low, constants[4], constants[5])
    loss, slope = joined(loss, loss_low), joined(slope, slope_low)
    if where is not None and not where:
        loss = slope = share = zero
    return loss, slope, share


@cuda.jit(device=True)
def wide_element(x, target, betas, weight, where, factor, divisors, huber, curvature, constants):
    """Loss, slope and share of one element in float64; the constants are beta and a divisor."""
    residual = x - target
    threshold = constants[0]
    if betas is not None:
        threshold = betas
    positive = threshold if threshold > SMALLEST else SMALLEST
    clipped = formula.clip(residual, positive)
    slope = formula.grad(clipped, positive)
    if huber is None:
        loss = formula.loss(residual, clipped, slope)
    else:
        loss = formula.loss(residual, clipped, formula.clip(residual, threshold))
    if curvature is not None:
        slope = formula.hess(residual, threshold)
    share = 1.0
    if weight is not None:
        share = weight
        loss *= weight
        slope *= weight
    if factor is not None:
        slope *= factor
    if divisors is not None:
        slope /= divisors
    slope /= constants[1]
    if where is not None and not where:
        loss = slope = share = 0.0
    return loss, slope, share


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
else:
    import llvmlite.ir as ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    copy16 = intrinsic(_copy16)
    half_of = intrinsic(_half_of)
    bits_of_half = intrinsic(_bits_of_half)
