"""A robust linear fit of columns, beside least squares, on any scale of the data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arguments import Vector
from .linear_objective import LinearObjective
from .table import InputError
from .validate import Array

EFFICIENT = 1.345  # robust standard deviations: 95 % efficiency for normal errors
NORMAL = 0.6744897501960817  # median of the absolute value of a standard normal
ROUNDS = 1000
CLOSE = 1e-9  # relative change of the scale at which it has converged
TIGHT = {"L-BFGS-B": {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 100_000, "maxfun": 1_000_000}}

Tell = Callable[[int, float], Any]


@dataclass(frozen=True)
class Fit:
    """Coefficients, the intercept last, and how they came about."""

    coefficients: Vector
    least_squares: Vector
    predicted: Vector
    beta: float
    scale: float | None
    loss: float
    rows: int
    linear: int
    rank: int
    iterations: int
    seconds: float
    method: str
    problem: str | None  # why this is not the minimum; None if it is


class _Scaled:
    """The data brought to a size of about one, so that every method does well."""

    def __init__(self, X: Array, y: Vector, weight: Vector | None) -> None:
        self._centre, self._level = X.mean(axis=0), float(np.median(y))
        self.spread = np.abs(X - self._centre).mean(axis=0)
        self.size = float(np.abs(y - self._level).mean()) or 1.0
        self.X = (X - self._centre) / self.spread
        self.y = (y - self._level) / self.size
        self.weight = weight

    def least_squares(self) -> tuple[Vector, int]:
        """Weighted least squares, and the rank of the columns with the intercept."""
        ones = np.column_stack([self.X, np.ones(len(self.y))])
        root = np.ones(len(self.y)) if self.weight is None else np.sqrt(self.weight)
        solution, _, rank, _ = np.linalg.lstsq(ones * root[:, None], self.y * root, rcond=None)
        return self.original(solution), int(rank)

    def objective(self, beta: float, l2: float) -> LinearObjective:
        """The loss of the original data divided by its size."""
        penalty = l2 * self.size / self.spread**2
        return LinearObjective(
            self.X, self.y, beta=beta / self.size, sample_weight=self.weight, l2=penalty
        )

    def original(self, w: Vector) -> Vector:
        """Coefficients of the original data."""
        coefficients = w[:-1] * (self.size / self.spread)
        intercept = w[-1] * self.size + self._level - coefficients @ self._centre
        return np.append(coefficients, intercept)


def fit(
    X: Array,
    y: Vector,
    weight: Vector | None,
    beta: float | None,
    l2: float,
    method: str,
    tell: Tell | None = None,
) -> Fit:
    """Fit a linear model; without `beta` it is found from the residuals.

    That is 1.345 times their robust standard deviation, the median of their
    absolute values over 0.6745, at the fit with this very beta.
    """
    began = time.perf_counter()
    scaled = _Scaled(X, y, weight)
    plain, rank = scaled.least_squares()
    search = _Search(scaled, l2, method, tell)
    if beta is None:
        beta, scale = search.by_scale(scaled.size)
    else:
        scale = None
        search.run(beta)
    solution = scaled.original(search.w)
    predicted = X @ solution[:-1] + solution[-1]
    residual = (scaled.X @ search.w[:-1] + search.w[-1] - scaled.y) * scaled.size
    return Fit(
        coefficients=solution,
        least_squares=plain,
        predicted=predicted,
        beta=beta,
        scale=scale,
        loss=search.loss * scaled.size,
        rows=len(y),
        linear=int(np.count_nonzero(np.abs(residual) >= beta)),
        rank=rank,
        iterations=search.iterations,
        seconds=time.perf_counter() - began,
        method=method,
        problem=search.problem,
    )


class _Search:
    """Minimisations one after another, each from where the last one ended."""

    def __init__(self, scaled: _Scaled, l2: float, method: str, tell: Tell | None) -> None:
        self._scaled, self._l2, self._method, self._tell = scaled, l2, method, tell
        self.w: Vector = np.zeros(scaled.X.shape[1] + 1)
        self.loss = np.nan
        self.iterations = 0
        self.problem: str | None = None

    def run(self, beta: float) -> None:
        """Minimise for one threshold."""
        before = self.iterations

        def progress(iteration: int, loss: float) -> None:
            if self._tell is not None:
                self._tell(before + iteration, loss * self._scaled.size)

        options: dict[str, Any] = {"tol": 1e-10}
        if self._method in TIGHT:
            options = {"options": TIGHT[self._method]}
        result = self._scaled.objective(beta, self._l2).minimize(
            self.w, method=self._method, progress=progress, **options
        )
        self.w, self.loss = result.x, float(result.fun)
        self.iterations += int(result.get("nit", 0))
        at_limit = bool(np.abs(result.get("jac", np.inf)).max() < 1e-6)
        self.problem = None if result.success or at_limit else str(result.message)

    def by_scale(self, scale: float) -> tuple[float, float]:
        """Minimise, and make beta of the scale of the residuals, until that stays."""
        for _ in range(ROUNDS):
            self.run(EFFICIENT * scale)
            residual = self._scaled.X @ self.w[:-1] + self.w[-1] - self._scaled.y
            found = float(np.median(np.abs(residual))) * self._scaled.size / NORMAL
            if not found > 1e-12 * self._scaled.size:
                raise InputError(
                    "--beta mad: at least half of the rows lie exactly on the model, "
                    "so their scale is 0; give a number"
                )
            if abs(found - scale) <= CLOSE * scale:
                return EFFICIENT * scale, scale
            scale = found
        self.problem = f"the scale of the residuals still changes after {ROUNDS} rounds"
        return EFFICIENT * scale, scale
