"""Objectives for `scipy.optimize`: linear models, residual functions, least squares.

What there is::

    LinearObjective     loss of a linear model, from one pass over its matrix
    ResidualObjective   loss of any model, from its residuals and their derivatives
    least_squares_loss  a loss for `scipy.optimize.least_squares`

The objectives are functions of a vector of parameters with gradient and
Hessian; their method ``minimize`` hands them to `scipy.optimize.minimize`.
"""

from .least_squares import least_squares_loss
from .linear_objective import LinearObjective
from .residual_objective import ResidualObjective

__all__ = ["LinearObjective", "ResidualObjective", "least_squares_loss"]
