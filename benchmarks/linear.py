"""Figure P6: the linear objective against the same objective in NumPy, and its memory.

    python benchmarks/linear.py [--rows 1000000] [--columns 20] [--repeats 15] [--gigabytes 4]

Competitors run round after round, each twice in a row, and the second run
counts. Two NumPy objectives are measured: one as the definition reads, and
one that allocates as little as NumPy can. The floor is a bare numba kernel that
only adds up X. Values and minima are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np
from core import interleave, show
from numba import njit, prange
from scipy.optimize import minimize

from smoothl1.optimize import LinearObjective

BETA = 1.3
TIGHT = {"ftol": 1e-14, "gtol": 1e-9}


@njit(parallel=True, fastmath=True)
def add_up(x):
    total = 0.0
    for i in prange(x.size):
        total += x[i]
    return total


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
    """The same with few temporaries."""

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


def fresh(objective, w):
    """An evaluation that cannot be answered from memory."""

    def call():
        objective._last = None
        return objective(w)

    return call


def compare(label, X, y, repeats):
    ours, others = LinearObjective(X, y, beta=BETA), {"numpy": plain(X, y), "lean": lean(X, y)}
    w = np.linspace(-1, 1, X.shape[1] + 1)
    for other in others.values():
        np.testing.assert_allclose(ours(w)[0], other(w)[0], rtol=1e-6)
        np.testing.assert_allclose(ours(w)[1], other(w)[1], rtol=1e-4, atol=1e-6)
    flat = X.ravel("K")
    work = {"smoothl1": fresh(ours, w)} | {
        name: (lambda other=other: other(w)) for name, other in others.items()
    }
    show(f"evaluation, {label}", interleave(work | {"read X": lambda: add_up(flat)}, repeats))

    def fit(objective):
        return minimize(objective, np.zeros_like(w), jac=True, method="L-BFGS-B", options=TIGHT)

    found = {"smoothl1": fit(ours)} | {name: fit(other) for name, other in others.items()}
    for name, result in found.items():
        gap = abs(result.fun - found["smoothl1"].fun)
        print(f"{'':34s} {name}: {result.nfev} evaluations, minimum {gap:.1e} away from ours")
    fits = {"smoothl1": lambda: fit(ours)} | {
        name: (lambda other=other: fit(other)) for name, other in others.items()
    }
    show(f"L-BFGS-B fit, {label}", interleave(fits, max(3, repeats // 3)))


def anonymous():
    """MiB of memory that no file backs."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def measure_memory(gigabytes, columns=20):
    rows = int(gigabytes * 1e9) // (8 * columns)
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(8 * rows * columns)  # a hole: it takes no room on the disk
        X = np.memmap(file.name, np.float64, "r", shape=(rows, columns))
        y, w = np.ones(rows), np.full(columns + 1, 0.5)
        LinearObjective(X[:50_000], y[:50_000])(w)
        objective = LinearObjective(X, y)
        before, start = anonymous(), time.perf_counter()
        value, _ = objective(w)
        seconds = time.perf_counter() - start
        assert value == 0.125
        print(f"memmap of {X.nbytes / 1e9:.1f} GB: {anonymous() - before:.1f} MiB, {seconds:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(options.rows, options.columns))
    y = X @ rng.normal(size=options.columns) + 1 + rng.standard_t(2, size=options.rows)
    compare("float64, C order", X, y, options.repeats)
    compare("float64, F order", np.asfortranarray(X), y, options.repeats)
    compare("float32, C order", X.astype(np.float32), y, options.repeats)
    measure_memory(options.gigabytes)


if __name__ == "__main__":
    main()
