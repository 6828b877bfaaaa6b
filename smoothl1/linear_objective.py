"""Linear models as objectives."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from .arguments import Vector, at_least_0, check_total, finite_vector, vector, weights
from .designs import make_design
from .kinds import is_dask
from .objective import Objective
from .validate import Array, Reduction, check_flag, numbers


class LinearObjective(Objective):
    """Smooth L1 loss of a linear model, as a function of its coefficients.

    ``average(l(X @ coef + intercept - y), weight) + l2 / 2 * sum(coef**2)`` with
    the loss l of `smoothl1.smooth_l1_loss`. The parameters are one vector: the
    coefficients, then the intercept if there is one.

    Parameters
    ----------
    X : array_like, Dask array, sparse matrix or LinearOperator of shape (n, p)
        One row per observation, n at least 1. Arrays are read where they lie,
        in one pass per evaluation that takes constant extra memory, whatever
        their order, strides or number type; a `numpy.memmap` may be larger
        than the memory. A Dask array should be in blocks of whole rows, and
        is computed anew by each evaluation unless it is persisted.
    y : array_like of shape (n,)
        Observed values, finite. With a Dask array X, `y` and `sample_weight`
        may be Dask arrays too; they are computed once here, for the checks.
    beta : float, default 1.0
        Threshold of at least 0, in the unit of `y`.
    sample_weight : array_like of shape (n,), optional
        Weights of at least 0, not all 0. "mean" divides by their sum.
    l2 : float or array_like of shape (p,), default 0.0
        Strength of the quadratic penalty, one for all coefficients or for each;
        it leaves out the intercept.
    fit_intercept : bool, default True
        Whether the model has an intercept, the last parameter.
    reduction : {"mean", "sum"}, default "mean"
        Whether losses are averaged or added. The penalty is not.

    Raises
    ------
    TypeError
        For kinds of array and number types that are not supported.
    ValueError
        For shapes that do not fit, no rows, and values out of range.

    Notes
    -----
    Gradients and losses are float64 with the same bits for any number of
    threads and any layout of `X`. `X` is not copied and must not change while
    the objective is in use. A pickle holds `X`, but of a mapped file only the
    name. The value and the gradient of the last
    parameters are kept, so ``fun`` and ``jac`` at the same point cost one pass.
    ``hess`` is the generalised Hessian: where a residual is exactly at the
    threshold it counts as linear. For ``beta=0`` the gradient is a subgradient
    and the Hessian is that of the penalty alone; methods that need second
    derivatives are refused.

    References
    ----------
    .. [1] P. J. Huber, "Robust estimation of a location parameter", 1964,
       https://doi.org/10.1214/aoms/1177703732

    Examples
    --------
    >>> import numpy as np
    >>> from smoothl1.optimize import LinearObjective
    >>> X = np.arange(6.0)[:, None]
    >>> y = 2.0 * X[:, 0] + 1.0
    >>> y[5] = 100.0
    >>> result = LinearObjective(X, y, beta=0.01).minimize(method="BFGS")
    >>> result.coef.round(2), round(result.intercept, 2), result.n_outliers
    (array([2.]), 1.0, 1)

    """

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        beta: float = 1.0,
        sample_weight: Any = None,
        l2: Any = 0.0,
        fit_intercept: bool = True,
        reduction: str = "mean",
    ) -> None:
        self._beta = at_least_0("beta", beta)
        self._fit_intercept = check_flag("fit_intercept", fit_intercept)
        self._reduction = check_total(reduction)
        self._y, self._weight = _observed(X, y, sample_weight)
        self._design = _design(X, self._y, self._weight, self.beta)
        n, p = self._design.shape
        if n != self._y.size:
            raise ValueError(f"y must have one value per row of X, got {self._y.size} for {n} rows")
        if n == 0:
            raise ValueError("X must have at least one row, got none")
        if p + self.fit_intercept == 0:
            raise ValueError("X must have a column if there is no intercept, got none")
        self._penalty = np.append(_strengths(l2, p), np.zeros(int(self.fit_intercept)))
        total = self._design.total_weight()
        self._total = total if self.reduction is Reduction.MEAN else 1.0

    def __reduce__(self) -> Any:
        l2 = self._penalty[: self._design.shape[1]]
        options = (self.beta, self._weight, l2, self.fit_intercept, str(self.reduction))
        return _rebuild, (type(self), _Saved(self._design.array), self._y, *options)

    @property
    def fit_intercept(self) -> bool:
        """Whether the last parameter is an intercept."""
        return self._fit_intercept

    def w0(self) -> Vector:
        """Return parameters to start from.

        Returns
        -------
        ndarray of shape (p,) or (p + 1,)
            Zeros: the coefficients, then the intercept if there is one.

        """
        return np.zeros(self._design.shape[1] + self.fit_intercept)

    def hess(self, w: Any) -> Array:
        """Return the Hessian, with the penalty.

        Parameters
        ----------
        w : array_like of shape (p,) or (p + 1,)
            Parameters.

        Returns
        -------
        ndarray of shape (w.size, w.size)
            Hessian at `w`, dense and float64.

        Examples
        --------
        >>> from smoothl1.optimize import LinearObjective
        >>> objective = LinearObjective([[0.0], [2.0]], [1.0, 1.0], beta=0.5, l2=0.1)
        >>> objective.hess([0.0, 1.0])
        array([[4.1, 2. ],
               [2. , 2. ]])

        """
        w = self._check(w)
        matrix = self._design.curvature_matrix(self._padded(w))[: w.size, : w.size] / self._total
        matrix[np.diag_indices(w.size)] += self._penalty
        return matrix

    def _loss_product(self, w: Vector, v: Vector) -> Vector:
        product = self._design.curvature_product(self._padded(w), self._padded(v))
        return product[: w.size] / self._total

    def _bound_product(self, w: Vector, v: Vector) -> Vector:
        product = self._design.bound_product(self._padded(w), self._padded(v))
        return product[: w.size] / self._total

    def _penalty_product(self, v: Vector) -> Vector:
        return self._penalty * v

    def predict(self, w: Any, X: Any = None) -> Any:
        """Return the values of the model, for the rows of `X` or of the data.

        Parameters
        ----------
        w : array_like of shape (p,) or (p + 1,)
            Parameters.
        X : array_like, Dask array, sparse matrix or LinearOperator of shape (m, p), optional
            Rows to predict for; those of the data by default.

        Returns
        -------
        ndarray or Dask array of shape (n,) or (m,)
            Float64, in the unit of `y`; lazy if the rows are.

        Raises
        ------
        TypeError, ValueError
            As for the arguments of `LinearObjective`.

        Examples
        --------
        >>> from smoothl1.optimize import LinearObjective
        >>> objective = LinearObjective([[0.0], [1.0]], [1.0, 4.0])
        >>> objective.predict([2.0, 1.0], [[3.0], [4.0]])
        array([7., 9.])

        """
        w = self._padded(self._check(w))
        if X is None:
            return self._design.predict(w)
        design = _design(X, np.empty(0), None, self.beta)
        if design.shape[1] != self._design.shape[1]:
            raise ValueError(
                f"X must have {self._design.shape[1]} columns as the data has, "
                f"got shape {design.shape}"
            )
        return design.predict(w)

    def minimize(
        self,
        w0: Any = None,
        *,
        method: str = "L-BFGS-B",
        progress: Callable[[int, float], Any] | None = None,
        **options: Any,
    ) -> Any:
        """Minimise with `scipy.optimize.minimize`.

        Parameters
        ----------
        w0 : array_like, optional
            Where to start; zeros by default.
        method : str, default "L-BFGS-B"
            Any method of SciPy's. It gets the gradient, ``hessp`` or ``hess``,
            as it needs.
        progress : callable, optional
            Called as ``progress(iteration, value)`` after each iteration.
        **options
            Further arguments of `scipy.optimize.minimize`, such as `tol`,
            `bounds` or `options`.

        Returns
        -------
        scipy.optimize.OptimizeResult
            With `coef`, `intercept` (0.0 if there is none) and `n_outliers`,
            the number of residuals of at least beta.

        Raises
        ------
        TypeError
            If `options` hold what the objective gives: `fun`, `x0`, `jac`, `args`.
        ValueError
            If the objective is not finite at `w0`, or the method needs second
            derivatives and beta is 0.

        Notes
        -----
        L-BFGS-B goes on until the loss changes by less than 1e-12 of itself
        (of one, if it is below), unless `tol` or `options` say otherwise.
        Columns of very different sizes make all methods slow, and Newton-CG
        and CG stop early: scale them to about one first. While no residual is below beta the
        Hessian is 0; Newton-CG and the like then get the curvature of
        parabolas that touch the losses from above, since they would stop.

        References
        ----------
        .. [1] https://docs.scipy.org/doc/scipy/reference/generated/scipy.optimize.minimize.html

        Examples
        --------
        >>> import numpy as np
        >>> from smoothl1.optimize import LinearObjective
        >>> X = np.arange(10.0)[:, None]
        >>> y = 2.0 * X[:, 0] + 1.0
        >>> y[9] = 100.0
        >>> result = LinearObjective(X, y, beta=0.1).minimize(method="trust-exact")
        >>> result.success, result.coef.round(1), result.n_outliers
        (True, array([2.]), 1)

        """
        return self._minimize(self.w0() if w0 is None else w0, method, progress, options)

    def _describe(self, result: Any) -> None:
        p = self._design.shape[1]
        result.coef = result.x[:p].copy()
        result.intercept = float(result.x[p]) if self.fit_intercept else 0.0
        result.n_outliers = self._design.outliers(self._padded(result.x))

    def _check(self, w: Any, name: str = "w") -> Vector:
        return vector(name, w, self._design.shape[1] + self.fit_intercept)

    def _value_and_gradient(self, w: Vector) -> tuple[float, Vector]:
        sums = self._design.sums(self._padded(w))
        value = float(sums[-1]) / self._total
        gradient = sums[: w.size] / self._total
        if self._penalty.any():
            value += 0.5 * float(w @ (self._penalty * w))
            gradient += self._penalty * w
        return value, gradient

    def _padded(self, w: Vector) -> Vector:
        return w if self.fit_intercept else np.append(w, 0.0)


def _observed(X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Values and weights of the rows, checked; those of Dask's rows later."""
    if is_dask(X):
        from .dask_rows import observed

        return observed(X, y, sample_weight)
    y = finite_vector("y", y).copy()
    return y, weights("sample_weight", sample_weight, y.size)


def _design(X: Any, y: Any, weight: Any, beta: float) -> Any:
    """Bring X of any supported kind into a form with sums."""
    if is_dask(X):
        from .dask_rows import DaskRows

        return DaskRows(X, y, weight, beta)
    return make_design(X, y, weight, beta)


def _strengths(l2: Any, p: int) -> Vector:
    """One strength of the penalty for each coefficient."""
    values = np.asarray(numbers("l2", l2), np.float64)
    if values.shape not in ((), (p,)):
        raise ValueError(f"l2 must be a number or have shape {(p,)}, got {values.shape}")
    if not ((values >= 0) & (values < np.inf)).all():
        raise ValueError(f"l2 must be finite and at least 0, got {l2!r}")
    return np.full(p, values)


class _Saved:
    """X on its way to another process: a file mapped whole goes by its name."""

    def __init__(self, X: Any) -> None:
        self.X = X

    def __getstate__(self) -> Any:
        X = self.X
        if type(X) is not np.memmap or not isinstance(X.base, mmap.mmap) or X.filename is None:
            return X, None
        order = "C" if X.flags.c_contiguous else "F"
        return None, (X.filename, X.dtype, "r", X.offset, X.shape, order)

    def __setstate__(self, state: Any) -> None:
        array, file = state
        self.X = array if file is None else np.memmap(*file)


def _rebuild(
    kind: Any, X: _Saved, y: Any, beta: Any, weight: Any, l2: Any, fit: Any, reduction: Any
) -> Any:
    return kind(
        X.X, y, beta=beta, sample_weight=weight, l2=l2, fit_intercept=fit, reduction=reduction
    )
