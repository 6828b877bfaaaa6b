"""A robust linear fit of columns, beside least squares, on any scale of the data."""

from __future__ import annotations

import time
import warnings
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
FLAT = 1e-7  # slope of a minimum; far away it is about one
POLISHING, MOST_POLISHED = 20, 500
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
    """The data brought to a size of about one, so that every method does well.

    Sizes are those of the bulk of the data, which outliers cannot move. Powers
    of two come first, so that nothing overflows on the way.
    """

    def __init__(self, X: Array, y: Vector, weight: Vector | None) -> None:
        self._powers = np.array([_power_of_two(column) for column in X.T])
        self._power = _power_of_two(y)
        X, y = X / self._powers, y / self._power
        self._centre, self._level = np.median(X, axis=0), float(np.median(y))
        self._spread = np.array([_spread(column) for column in (X - self._centre).T])
        self._size = _spread(y - self._level)
        self.X = (X - self._centre) / self._spread
        self.y = (y - self._level) / self._size
        self.weight = None if weight is None else weight / weight.max()

    @property
    def size(self) -> float:
        """Unit of the scaled target in the original one."""
        return self._size * self._power

    def least_squares(self) -> tuple[Vector, int]:
        """Weighted least squares, and the rank of the columns with the intercept."""
        ones = np.column_stack([self.X, np.ones(len(self.y))])
        root = np.ones(len(self.y)) if self.weight is None else np.sqrt(self.weight)
        solution, _, rank, _ = np.linalg.lstsq(ones * root[:, None], self.y * root, rcond=None)
        return self.original(solution), int(rank)

    def objective(self, beta: float, l2: float) -> tuple[LinearObjective, float]:
        """A multiple of the loss with slopes of about one, and what it is multiplied by."""
        beta = beta / self.size
        times = max(1.0, beta)
        weight = np.ones(len(self.y)) if self.weight is None else self.weight
        penalty = np.zeros(self.X.shape[1])
        if l2:
            with np.errstate(all="ignore"):
                unit = self.size / (self._spread * self._powers)
                penalty = l2 * unit / (self._spread * self._powers) * times
        if not (np.isfinite(penalty).all() and np.isfinite(beta)):
            raise InputError("--beta or --l2 is out of all proportion to the data")
        return LinearObjective(
            self.X, self.y, beta=beta, sample_weight=weight * (times / weight.sum()),
            l2=penalty, reduction="sum",
        ), times  # fmt: skip

    def original(self, w: Vector) -> Vector:
        """Coefficients of the original data."""
        coefficients = w[:-1] * (self._size / self._spread)
        intercept = w[-1] * self._size + self._level - coefficients @ self._centre
        with np.errstate(all="ignore"):
            found = np.append(coefficients / self._powers, intercept) * self._power
        if not np.isfinite(found).all():
            raise InputError("the coefficients are too large for float64")
        return found


def _power_of_two(values: Vector) -> float:
    """A power of two near the largest value."""
    largest = np.frexp(np.abs(values).max())[1]
    return float(np.ldexp(1.0, int(np.clip(largest, -1000, 1000))))


def _spread(values: Vector) -> float:
    """Median of the absolute values, or their mean if it is 0, or one."""
    size = np.abs(values)
    return float(np.median(size)) or float(size.mean()) or 1.0


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
    residual = scaled.X @ search.w[:-1] + search.w[-1] - scaled.y
    return Fit(
        coefficients=solution,
        least_squares=plain,
        predicted=y + residual * scaled.size,
        beta=beta,
        scale=scale,
        loss=search.loss * scaled.size,
        rows=len(y),
        linear=int(np.count_nonzero(np.abs(residual) >= beta / scaled.size)),
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
        objective, times = self._scaled.objective(beta, self._l2)

        def progress(iteration: int, loss: float) -> None:
            if self._tell is not None:
                self._tell(before + iteration, loss / times * self._scaled.size)

        options: dict[str, Any] = {"tol": 1e-10}
        if self._method in TIGHT:
            options = {"options": TIGHT[self._method]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of SciPy's methods: what counts is checked below
            result = objective.minimize(self.w, method=self._method, progress=progress, **options)
        self.w = _polished(objective, result.x)
        self.loss = objective.fun(self.w) / times
        self.iterations += int(result.get("nit", 0))
        slope = float(np.abs(objective.jac(self.w)).max())
        # At beta = 0 the slope jumps at the minimum, and only the method can tell.
        good = slope < FLAT if beta else result.success
        self.problem = None if good else f"{result.message} (slope {slope:.1e})"

    def by_scale(self, scale: float) -> tuple[float, float]:
        """Minimise, and make beta of the scale of the residuals, until that stays."""
        for _ in range(ROUNDS):
            self.run(EFFICIENT * scale)
            residual = self._scaled.X @ self.w[:-1] + self.w[-1] - self._scaled.y
            found = float(np.median(np.abs(residual))) / NORMAL * self._scaled.size
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


def _polished(objective: LinearObjective, w: Vector) -> Vector:
    """Take Newton steps while they make the slope smaller.

    Methods compare losses, which one huge outlier makes too large to tell
    small differences; slopes stay exact.
    """
    if not objective.beta or w.size > MOST_POLISHED:
        return w
    slope = np.abs(objective.jac(w)).max()
    for _ in range(POLISHING):
        step = np.linalg.lstsq(objective.hess(w), objective.jac(w), rcond=None)[0]
        better = np.abs(objective.jac(w - step)).max()
        if not better < 0.5 * slope:
            break
        w, slope = w - step, better
    return w
