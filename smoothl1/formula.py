"""The mathematics of one residual: loss, gradient and Hessian.

Every kernel of the library, on CPU and GPU, calls these scalar functions and
holds no arithmetic of its own. They are jitted without signature or fast-math
flags, so that they inline into whatever calls them, and they keep the
floating type of the residual.

With the residual clipped to [-beta, beta], both branches are one expression:

    slope = clipped / beta            loss = slope * (residual - clipped / 2)

Comparisons with NaN are false, so NaN stays; outside, the slope is exactly
beta / beta = 1; nothing overflows or underflows before the result does.
``beta = 0`` would be 0 / 0, and is replaced by the smallest positive number of
the type: no residual but 0 lies below it, and its half rounds to 0.
"""

import llvmlite.ir as ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _multiply_add(typing_context, a, b, c):
    """Compute a * b + c, in one instruction where the processor has it."""

    def codegen(context, builder, signature, args):
        double = ir.DoubleType()
        kind = ir.FunctionType(double, [double] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.f64")
        return builder.call(function, args)

    return types.float64(types.float64, types.float64, types.float64), codegen


@njit(inline="always")
def clip(residual, beta):
    """The residual where it lies within [-beta, beta], else the nearer end."""
    clipped = residual
    if clipped > beta:
        clipped = beta
    if clipped < -beta:  # of clipped, not of residual: one instruction each, a minimum, a maximum
        clipped = -beta
    return clipped


@njit(inline="always")
def grad(clipped, beta):
    """Slope of the loss: residual / beta inside, the sign outside; beta > 0."""
    return clipped / beta


@njit(inline="always")
def narrow_grad(clipped, inverse):
    """Slope by a reciprocal: enough for what is rounded to float32 or less."""
    return clipped * inverse


@njit(inline="always")
def loss(residual, clipped, slope):
    """Half the slope times the residual inside, |residual| - beta / 2 outside."""
    half = type(residual)(0.5)
    return slope * (residual - half * clipped)


@njit(inline="always")
def narrow_loss(residual, clipped, slope):
    """`loss` of residuals whose halves are exact: the same bits, fused or not."""
    return slope * _multiply_add(-0.5, clipped, residual)


@njit(inline="always")
def hess(residual, beta):
    """1 / beta strictly inside, 0 from |residual| = beta on, NaN for NaN."""
    curvature = type(residual)(0.0)
    if -beta < residual and residual < beta:
        curvature = type(residual)(1.0) / beta
    if residual != residual:
        curvature = residual
    return curvature
