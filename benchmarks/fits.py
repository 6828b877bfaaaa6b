"""`LinearObjective` beside the same objective in NumPy, one evaluation and whole fits.

scikit-learn's `HuberRegressor` fits the scale along with the coefficients and
statsmodels' `RLM` estimates it between its steps: neighbours, not the same problem, so
they are timed once and their minima are not compared.
"""

from __future__ import annotations

import time
import warnings
from importlib.util import find_spec

import numpy as np
import scipy.sparse
from scipy.optimize import minimize

from smoothl1.optimize import LinearObjective

from .measure import interleave, summarise
from .results import Row

BETA = 1.3
COLUMNS = 20
OPENBLAS = 0.2  # seconds for which its threads spin, and slow down whoever comes next
TIGHT = {"ftol": 1e-14, "gtol": 1e-9}


def dense(rows):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, COLUMNS))
    y = X @ rng.normal(size=COLUMNS) + 1 + rng.standard_t(2, size=rows)
    return X, y


def single(rows):
    X, y = dense(rows)
    return X.astype(np.float32), y


def fortran(rows):
    X, y = dense(rows)
    return np.asfortranarray(X), y


def sparse(rows):
    """Ten of 500 columns in each row."""
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 500, size=10 * rows)
    values = rng.normal(size=10 * rows)
    X = scipy.sparse.csr_array((values, columns, 10 * np.arange(rows + 1)), shape=(rows, 500))
    X.sum_duplicates()
    return X, X @ rng.normal(size=500) + 1 + rng.standard_t(2, size=rows)


DESIGNS = {"float64": dense, "float32": single, "F order": fortran, "sparse": sparse}


def plain(X, y):
    """The objective as its definition reads, in NumPy."""

    def objective(w):
        r = X @ w[:-1] + w[-1] - y
        size = np.abs(r)
        loss = np.where(size < BETA, r * r / (2 * BETA), size - BETA / 2).mean()
        slope = np.clip(r / BETA, -1, 1)
        return loss, np.append(X.T @ slope, slope.sum()) / len(y)

    return objective


def lean(X, y):
    """The same with as few temporaries as NumPy can do with."""

    def objective(w):
        r = X @ w[:-1]
        r += w[-1]
        r -= y
        slope = np.clip(r, -BETA, BETA)
        r -= 0.5 * slope
        loss = np.dot(r, slope) / (BETA * len(y))
        slope /= BETA * len(y)
        return loss, np.append(X.T @ slope, slope.sum())

    return objective


def fresh(objective):
    """A callable that cannot answer from memory: each call has other coefficients."""
    ones = np.linspace(-1, 1, objective.w0().size)
    count = iter(range(1, 1 << 62))
    return lambda: objective(ones * (1 + 1e-9 * next(count)))


def evaluations(X, y):
    ours = LinearObjective(X, y, beta=BETA)
    w = np.linspace(-1, 1, X.shape[1] + 1)
    others = {"numpy": plain(X, y), "numpy, few temporaries": lean(X, y)}
    for other in others.values():
        np.testing.assert_allclose(ours(w)[0], other(w)[0], rtol=1e-6)
        np.testing.assert_allclose(ours(w)[1], other(w)[1], rtol=1e-4, atol=1e-6)
    work = {name: (lambda other=other: other(w)) for name, other in others.items()}
    return {"smoothl1": fresh(ours)} | work


def fits(X, y):
    """Fits by L-BFGS-B, which must end at the same minimum."""

    def fit(make):
        return minimize(
            make(X, y), np.zeros(X.shape[1] + 1), jac=True, method="L-BFGS-B", options=TIGHT
        )

    makers = {
        "smoothl1": lambda X, y: LinearObjective(X, y, beta=BETA),
        "numpy": plain,
        "numpy, few temporaries": lean,
    }
    single = X.dtype == np.float32  # NumPy then rounds residuals to float32 in parts
    lowest = fit(makers["smoothl1"]).fun
    for make in makers.values():
        assert abs(fit(make).fun - lowest) < (1e-6 if single else 1e-9)
    return {name: (lambda make=make: fit(make)) for name, make in makers.items()}


def regressor(X, y):
    from sklearn.linear_model import HuberRegressor

    HuberRegressor(max_iter=1000).fit(X, y)


def reweighted(X, y):
    import statsmodels.api as sm

    sm.RLM(y, sm.add_constant(X), M=sm.robust.norms.HuberT()).fit()


NEIGHBOURS = {"sklearn HuberRegressor": ("sklearn", regressor),
              "statsmodels RLM": ("statsmodels", reweighted)}  # fmt: skip


def once(function, *arguments):
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(*arguments)
    return summarise([time.perf_counter() - start])


def measure(name, what, label, settings):
    """Rows of a design, for one evaluation or for fits."""
    X, y = DESIGNS[label](settings.rows)
    if what == "evaluation":
        times = interleave(evaluations(X, y), settings.seconds, settings.rounds, settle=OPENBLAS)
    else:
        times = interleave(fits(X, y), settings.seconds, min(3, settings.rounds), 15, OPENBLAS)
        if label == "float64" and settings.expensive:
            for peer, (library, fit) in NEIGHBOURS.items():
                if find_spec(library) is not None:
                    times[peer] = once(fit, X, y)
    moved = (X.data.nbytes + X.indices.nbytes if label == "sparse" else X.nbytes) + y.nbytes
    return [
        Row(name, peer, "s", timing.median, timing.low, timing.high, timing.rounds, settings.rows,
            X.dtype.name, moved, timing.ratios)
        for peer, timing in times.items()
    ]  # fmt: skip
