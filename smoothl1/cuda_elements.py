"""One element on a GPU, taken through the formula.

Every function here is compiled into kernels. Which of them a kernel uses is
chosen when it is made (see `cuda_taking`), so that what a call does without
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
from numba import cuda

from . import formula

SMALLEST = 5e-324


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
