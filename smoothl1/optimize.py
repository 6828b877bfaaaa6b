"""Objectives for `scipy.optimize`: linear models, residual functions, least squares.

`LinearObjective` and `ResidualObjective` are functions of a parameter vector
with gradient and Hessian; `least_squares_loss` is a loss for
`scipy.optimize.least_squares`.
"""

from .least_squares import least_squares_loss
from .linear_objective import LinearObjective
from .residual_objective import ResidualObjective

__all__ = ["LinearObjective", "ResidualObjective", "least_squares_loss"]
