"""Non-linear models as objectives, by their residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .arguments import Vector, at_least_0, check_total, vector, weights
from .functional import smooth_l1_hess, smooth_l1_value_and_grad
from .objective import Objective
from .validate import Array, numbers

DIFFERENCES = ("2-point", "3-point", "cs")


class ResidualObjective(Objective):
    """Smooth L1 loss of the residuals of a model, as a function of its parameters.

    Parameters
    ----------
    residual : callable
        ``residual(p)`` returns the m residuals at the parameters p.
    jac : callable or {"2-point", "3-point", "cs"}
        ``jac(p)`` returns their derivatives, a matrix of shape (m, p.size), dense
        or sparse; or the scheme of differences by which SciPy estimates them.
        "cs" calls `residual` with complex parameters.
    beta : float, default 1.0
        Threshold of at least 0, in the unit of the residuals.
    weight : array_like of shape (m,), optional
        Weights of at least 0, not all 0. "mean" divides by their sum.
    reduction : {"mean", "sum"}, default "mean"
        Whether losses are averaged or added.

    Raises
    ------
    TypeError
        If `residual` or `jac` is no callable, or they return no real numbers.
    ValueError
        For values out of range, and shapes that do not fit, when called.

    Notes
    -----
    ``hess`` and ``hessp`` are those of Gauss and Newton: they leave out the
    second derivatives of the residuals. Values and derivatives of the residuals at
    the last parameters are kept, so ``fun``, ``jac`` and ``hess`` at the same point
    call `residual` and `jac` once.

    References
    ----------
    .. [1] J. Nocedal, S. J. Wright, "Numerical Optimization", chapter 10, 2006,
       https://doi.org/10.1007/978-0-387-40065-5

    Examples
    --------
    >>> import numpy as np
    >>> from smoothl1.optimize import ResidualObjective
    >>> t = np.linspace(0.0, 2.0, 9)
    >>> y = 3.0 * np.exp(-t)
    >>> y[2] = 50.0
    >>> model = ResidualObjective(lambda p: p[0] * np.exp(-p[1] * t) - y, "cs", beta=0.01)
    >>> model.minimize([1.0, 0.5], method="BFGS").x.round(2)
    array([3., 1.])

    """

    _residuals_at: tuple[Vector, Vector, float, Array] | None = None
    _jacobian_at: tuple[Vector, Any] | None = None

    def __init__(
        self,
        residual: Callable[[Any], Any],
        jac: Callable[[Any], Any] | str,
        *,
        beta: float = 1.0,
        weight: Any = None,
        reduction: str = "mean",
    ) -> None:
        if not callable(residual):
            raise TypeError(f"residual must be callable, got {residual!r}")
        if not callable(jac) and jac not in DIFFERENCES:
            raise TypeError(f"jac must be callable or one of {', '.join(DIFFERENCES)}, got {jac!r}")
        self._beta = at_least_0("beta", beta)
        self._reduction = check_total(reduction)
        self._weight = None if weight is None else weights("weight", weight, None)
        self._residual, self._jac = residual, jac

    def hess(self, w: Any) -> Array:
        """Return the Hessian of Gauss and Newton.

        Parameters
        ----------
        w : array_like of shape (k,)
            Parameters.

        Returns
        -------
        ndarray of shape (k, k)
            Hessian at `w` without the second derivatives of the residuals, dense.

        Examples
        --------
        >>> import numpy as np
        >>> from smoothl1.optimize import ResidualObjective
        >>> t = np.array([1.0, 2.0])
        >>> objective = ResidualObjective(lambda p: p * t, lambda p: t[:, None], beta=0.5)
        >>> objective.hess([0.1])
        array([[5.]])

        """
        w = self._check(w)
        curvature, jacobian = self._curvature(w)
        product = jacobian.T @ (
            jacobian.multiply(curvature[:, None]) if _is_sparse(jacobian)
            else jacobian * curvature[:, None]
        )  # fmt: skip
        return product.toarray() if _is_sparse(product) else product

    def _loss_product(self, w: Vector, v: Vector) -> Vector:
        curvature, jacobian = self._curvature(w)
        return np.asarray(jacobian.T @ (curvature * (jacobian @ v)))

    def _bound_product(self, w: Vector, v: Vector) -> Vector:
        _, residual, _, slope = self._losses(w)
        curvature = np.divide(slope, residual, out=np.zeros_like(slope), where=residual != 0)
        jacobian = self._jacobian(w, residual)
        return np.asarray(jacobian.T @ (curvature * (jacobian @ v)))

    def minimize(
        self,
        w0: Any,
        *,
        method: str = "L-BFGS-B",
        progress: Callable[[int, float], Any] | None = None,
        **options: Any,
    ) -> Any:
        """Minimise with `scipy.optimize.minimize`.

        Parameters
        ----------
        w0 : array_like of shape (k,)
            Parameters to start from.
        method, progress, **options
            As for `LinearObjective.minimize`.

        Returns
        -------
        scipy.optimize.OptimizeResult
            With `n_outliers`, the number of residuals of at least beta.

        Raises
        ------
        TypeError, ValueError
            As `LinearObjective.minimize`.

        Examples
        --------
        >>> import numpy as np
        >>> from smoothl1.optimize import ResidualObjective
        >>> y = np.array([1.0, 1.1, 0.9, 30.0])
        >>> objective = ResidualObjective(lambda p: p - y, "2-point", beta=0.5)
        >>> result = objective.minimize([0.0])
        >>> result.x.round(3), result.n_outliers
        (array([1.167]), 1)

        """
        return self._minimize(w0, method, progress, options)

    def _describe(self, result: Any) -> None:
        residual = self._losses(result.x)[1]
        result.n_outliers = int(np.count_nonzero(np.abs(residual) >= self.beta))

    def fun(self, w: Any) -> float:
        """Return the value, without computing the derivatives of the residuals.

        Parameters
        ----------
        w : array_like of shape (k,)
            Parameters.

        Returns
        -------
        float
            Value at `w`.

        """
        return self._losses(self._check(w))[2]

    def _check(self, w: Any, name: str = "w") -> Vector:
        return vector(name, w, None)

    def _losses(self, w: Vector) -> tuple[Vector, Vector, float, Array]:
        """Parameters, residuals, value and slopes; kept for the same parameters."""
        last = self._residuals_at
        if last is None or not np.array_equal(last[0], w):
            residual = self._residuals(w)
            loss, slope = smooth_l1_value_and_grad(
                residual, np.zeros_like(residual), beta=self.beta, weight=self._weight,
                reduction=str(self.reduction),
            )  # fmt: skip
            last = (w.copy(), residual, float(loss), slope)
            self._residuals_at = last
        return last

    def _value_and_gradient(self, w: Vector) -> tuple[float, Vector]:
        _, residual, loss, slope = self._losses(w)
        return loss, np.asarray(self._jacobian(w, residual).T @ slope, np.float64)

    def _curvature(self, w: Vector) -> tuple[Array, Any]:
        residual = self._losses(w)[1]
        curvature = smooth_l1_hess(
            residual, np.zeros_like(residual), beta=self.beta, weight=self._weight,
            reduction=str(self.reduction),
        )  # fmt: skip
        return curvature, self._jacobian(w, residual)

    def _residuals(self, w: Vector) -> Vector:
        residual = vector("residual(w)", self._residual(w.copy()), None).copy()
        if residual.size == 0:
            raise ValueError("residual(w) must return at least one residual, got none")
        if self._weight is not None and self._weight.size != residual.size:
            raise ValueError(
                f"weight must have one value per residual, got {self._weight.size} "
                f"for {residual.size} residuals"
            )
        return residual

    def _jacobian(self, w: Vector, residual: Vector) -> Any:
        """Derivatives of the residuals; kept for the same parameters."""
        last = self._jacobian_at
        if last is None or not np.array_equal(last[0], w):
            last = (w.copy(), self._new_jacobian(w, residual))
            self._jacobian_at = last
        return last[1]

    def _new_jacobian(self, w: Vector, residual: Vector) -> Any:
        if callable(self._jac):
            matrix = self._jac(w.copy())
            if not _is_sparse(matrix):
                matrix = np.array(numbers("jac(w)", matrix))
            elif matrix.dtype.kind not in "fiu":
                raise TypeError(f"jac(w) must hold real numbers, got {matrix.dtype}")
            else:
                matrix = matrix.copy()
        else:
            # The one function of SciPy's with all three schemes for vectors.
            from scipy.optimize._numdiff import approx_derivative

            def fresh(w: Any) -> Array:  # SciPy keeps values that a user may overwrite
                return np.array(self._residual(w))

            matrix = approx_derivative(fresh, w, method=self._jac)
            matrix = np.reshape(matrix, (residual.size, -1))
        if np.shape(matrix) != (residual.size, w.size):
            raise ValueError(
                f"jac(w) must have shape {(residual.size, w.size)} "
                f"(residuals, parameters), got {np.shape(matrix)}"
            )
        return matrix


def _is_sparse(matrix: Any) -> bool:
    from scipy import sparse

    return bool(sparse.issparse(matrix))
