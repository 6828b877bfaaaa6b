"""The mathematics of one residual: loss, gradient and Hessian.

Every kernel of the library, on CPU and GPU, calls these scalar functions and
holds no arithmetic of its own. They are jitted without signature or fast-math
flags, so that they inline into whatever calls them, and they keep the
floating type of the residual.

The select form below has no cases of its own for NaN, infinities or
``beta = 0``: comparisons with NaN are false, so NaN stays; a residual beyond
``beta`` never uses the quotient; and a residual of zero replaces the 0/0 that
``beta = 0`` would give.
"""

from numba import njit


@njit(inline="always")
def grad(residual, beta):
    """Slope of the loss: residual / beta inside, the sign outside."""
    one = type(residual)(1.0)
    slope = residual / beta
    if residual > beta:
        slope = one
    if residual < -beta:
        slope = -one
    if residual == 0:
        slope = residual
    return slope


@njit(inline="always")
def loss(residual, beta):
    """Half the slope times the residual inside, |residual| - beta / 2 outside.

    Written as slope * (residual - clipped / 2): one expression for both
    branches that neither overflows nor underflows before the result does.
    """
    half = type(residual)(0.5)
    clipped = residual
    if residual > beta:
        clipped = beta
    if residual < -beta:
        clipped = -beta
    return grad(residual, beta) * (residual - half * clipped)


@njit(inline="always")
def hess(residual, beta):
    """1 / beta strictly inside, 0 from |residual| = beta on, NaN for NaN."""
    curvature = type(residual)(0.0)
    if -beta < residual and residual < beta:
        curvature = type(residual)(1.0) / beta
    if residual != residual:
        curvature = residual
    return curvature
