"""The loss in the form that `scipy.optimize.least_squares` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .arguments import at_least_0
from .functional import smooth_l1_hess, smooth_l1_value_and_grad
from .validate import Array


class _Rho:
    """Rows rho, rho', rho'' of the smooth L1 loss as a function of z = (f / f_scale)**2."""

    def __init__(self, beta: float) -> None:
        self.f_scale = beta

    def __call__(self, z: Any) -> Array:
        z = np.asarray(z, np.float64)
        size = np.sqrt(z)
        zero = np.zeros_like(size)
        rows = np.empty((3, *size.shape))
        loss, _ = smooth_l1_value_and_grad(size, zero, reduction="none", grad_out=rows[1])
        inside = smooth_l1_hess(size, zero, reduction="none") == 1.0
        outside = ~inside
        rows[:, inside] = z[inside], np.ones(inside.sum()), np.zeros(inside.sum())
        rows[0, outside] = 2.0 * loss[outside]
        rows[1, outside] /= size[outside]
        rows[2, outside] = -0.5 * rows[1, outside] / z[outside]
        return rows

    def __repr__(self) -> str:
        return f"least_squares_loss({self.f_scale!r})"


def least_squares_loss(beta: float) -> Callable[[Any], Array]:
    """Smooth L1 loss for `scipy.optimize.least_squares`.

    Parameters
    ----------
    beta : float
        Threshold above 0, in the unit of the residuals. Give it as `f_scale` too:
        SciPy passes squared residuals in that unit.

    Returns
    -------
    callable
        ``rho(z)`` returns a new array of shape (3, m): the loss and its first two
        derivatives in z. It has the attribute `f_scale`.

    Raises
    ------
    TypeError
        If `beta` is not a real number.
    ValueError
        If it is not finite and above 0.

    Notes
    -----
    SciPy's cost is then beta times the sum of the smooth L1 losses, which is the
    sum of Huber losses, as with ``loss="huber"``.

    References
    ----------
    .. [1] https://docs.scipy.org/doc/scipy/reference/generated/scipy.optimize.least_squares.html

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import least_squares
    >>> from smoothl1.optimize import least_squares_loss
    >>> rho = least_squares_loss(0.5)
    >>> y = np.array([1.0, 1.1, 0.9, 30.0])
    >>> fit = least_squares(lambda p: p - y, [0.0], loss=rho, f_scale=rho.f_scale)
    >>> fit.x.round(3)
    array([1.167])

    """
    value = at_least_0("beta", beta)
    if value == 0.0:
        raise ValueError("beta must be above 0 for least_squares, got 0")
    return _Rho(value)
