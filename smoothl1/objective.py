"""What all objectives share: one evaluation for value and gradient, and SciPy's methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from .arguments import Vector
from .validate import Array, Reduction

BY_HESSIAN = ("trust-exact", "dogleg")
BY_PRODUCT = ("newton-cg", "trust-ncg", "trust-krylov", "trust-constr")
BY_GRADIENT = ("cg", "bfgs", "l-bfgs-b", "tnc", "slsqp")
BY_VALUE = ("nelder-mead", "powell", "cobyla", "cobyqa")
STOP = {"ftol": 1e-12}  # of L-BFGS-B: columns of unlike sizes meet SciPy's 2e-9 half way


class Objective(ABC):
    """A function of a vector of parameters, in the form that SciPy's optimisers call."""

    _beta: float
    _reduction: Reduction
    _last: tuple[Vector, float, Vector] | None = None

    @property
    def beta(self) -> float:
        """Threshold, in the unit of the residuals."""
        return self._beta

    @property
    def reduction(self) -> Reduction:
        """How losses are combined, "mean" or "sum"."""
        return self._reduction

    def __call__(self, w: Any) -> tuple[float, Vector]:
        """Return value and gradient, for ``scipy.optimize.minimize(..., jac=True)``.

        Parameters
        ----------
        w : array_like of shape (k,)
            Parameters.

        Returns
        -------
        value : float
            Value at `w`.
        gradient : ndarray of shape (k,)
            Gradient at `w`, a new float64 array.

        Raises
        ------
        TypeError, ValueError
            If `w` is no vector of numbers of that length.

        Examples
        --------
        >>> from smoothl1.optimize import LinearObjective
        >>> objective = LinearObjective([[0.0], [1.0]], [1.0, 4.0], reduction="sum")
        >>> objective([2.0, 1.0])  # residuals are 0 and -1
        (0.5, array([-1., -1.]))

        """
        value, gradient = self._evaluate(self._check(w))
        return value, gradient.copy()

    def fun(self, w: Any) -> float:
        """Return the value.

        Parameters
        ----------
        w : array_like of shape (k,)
            Parameters.

        Returns
        -------
        float
            Value at `w`.

        """
        return self(w)[0]

    def jac(self, w: Any) -> Vector:
        """Return the gradient.

        Parameters
        ----------
        w : array_like of shape (k,)
            Parameters.

        Returns
        -------
        ndarray of shape (k,)
            Gradient at `w`, a new float64 array.

        """
        return self(w)[1]

    @abstractmethod
    def hess(self, w: Any) -> Array:
        """Return the Hessian, a matrix."""

    def hessp(self, w: Any, v: Any) -> Vector:
        """Return the product of the Hessian with a vector.

        Parameters
        ----------
        w : array_like of shape (k,)
            Parameters.
        v : array_like of shape (k,)
            Vector to multiply with.

        Returns
        -------
        ndarray of shape (k,)
            The product at `w`, float64.

        """
        w, v = self._check(w), self._check(v, "v")
        return self._loss_product(w, v) + self._penalty_product(v)

    @abstractmethod
    def _loss_product(self, w: Vector, v: Vector) -> Vector:
        """Product with the Hessian of the loss without the penalty."""

    def _penalty_product(self, v: Vector) -> Vector:
        return np.zeros_like(v)

    @abstractmethod
    def _bound_product(self, w: Vector, v: Vector) -> Vector:
        """Product with the Hessian of parabolas that touch the losses from above."""

    @abstractmethod
    def _check(self, w: Any, name: str = "w") -> Vector: ...

    @abstractmethod
    def _value_and_gradient(self, w: Vector) -> tuple[float, Vector]: ...

    @abstractmethod
    def _describe(self, result: Any) -> None:
        """Add to a result what it means."""

    def _evaluate(self, w: Vector) -> tuple[float, Vector]:
        """Value and gradient, those of the last call if the parameters are the same."""
        last = self._last
        if last is None or not np.array_equal(last[0], w):
            last = (w.copy(), *self._value_and_gradient(w))
            self._last = last
        return last[1:]

    def _minimize(
        self, w0: Any, method: str, progress: Callable[[int, float], Any] | None, options: Any
    ) -> Any:
        from scipy import optimize

        taken = {"fun", "x0", "jac", "args"} & options.keys()
        if taken:
            raise TypeError(
                f"{', '.join(sorted(taken))} cannot be given: the objective has its own"
            )
        start = self._check(w0, "w0")
        if not np.isfinite(self.fun(start)):
            raise ValueError(
                f"the objective is {self.fun(start)} at w0: the data or w0 hold NaN or infinite "
                "values, or are too large to be squared and summed"
            )
        options = _with_tolerances(method, options)
        wanted = self._derivatives(method, options)
        function = self if "jac" in wanted else self.fun
        if progress is not None:
            if "callback" in options:
                raise TypeError("give progress or callback, not both")
            wanted["callback"] = _Progress(self, progress)
        # SciPy's trlib divides by the length of a vector that is 0 at a minimum.
        noisy = isinstance(method, str) and method.lower() == "trust-krylov"
        with np.errstate(invalid="ignore") if noisy else nullcontext():
            result = optimize.minimize(function, start, method=method, **wanted, **options)
        self._describe(result)
        return result

    def _steady_hessp(self, w: Vector, v: Vector) -> Vector:
        """`hessp`, but positive where all residuals that v moves are linear.

        There the Hessian is 0, and Newton-CG would report success where it stands.
        """
        product = self._loss_product(w, v)
        if not v @ product > 0:
            product = self._bound_product(w, v)
        return product + self._penalty_product(v)

    def _derivatives(self, method: Any, options: dict[str, Any]) -> dict[str, Any]:
        """What a method of `scipy.optimize.minimize` is to be given."""
        name = method.lower() if isinstance(method, str) else ""
        if name in BY_HESSIAN + BY_PRODUCT:
            given = {"hess", "hessp"} & options.keys()
            if self.beta == 0 and not given:
                raise ValueError(
                    f"method {method!r} needs second derivatives, which are 0 for beta=0; use one "
                    f"of {', '.join(BY_GRADIENT)}, or a small beta"
                )
            second = {"hess": self.hess} if name in BY_HESSIAN else {"hessp": self._steady_hessp}
            return {"jac": True} | ({} if given else second)
        return {} if name in BY_VALUE else {"jac": True}


def _with_tolerances(method: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a call, with tolerances that do not take badly scaled columns for a minimum."""
    if options.get("tol") is not None or str(method).lower() != "l-bfgs-b":
        return options
    return options | {"options": STOP | (options.get("options") or {})}


class _Progress:
    """A callback of SciPy's that tells the number of iterations and the value."""

    def __init__(self, objective: Objective, tell: Callable[[int, float], Any]) -> None:
        self._objective = objective
        self._tell = tell
        self._iteration = 0

    def __call__(self, w: Vector, *_: Any) -> None:
        self._iteration += 1
        self._tell(self._iteration, self._objective.fun(w))
