"""The fused kernels: right sums, and the same bits for every layout and number of threads."""

from fractions import Fraction

import numpy as np
import pytest

import smoothl1 as sl
from smoothl1 import designs, linear
from smoothl1.designs import Dense


def exact_sums(X, y, weight, beta, w):
    """Gradient and loss in rational numbers, from the definition."""
    beta, p = Fraction(beta), X.shape[1]
    total = [Fraction(0)] * (p + 2)
    for row, observed, share in zip(X.tolist(), y.tolist(), weight.tolist(), strict=True):
        values = [Fraction(v) for v in row] + [Fraction(1)]
        residual = sum(v * Fraction(c) for v, c in zip(values, w.tolist(), strict=True))
        residual -= Fraction(observed)
        inside = abs(residual) < beta
        slope = residual / beta if inside else Fraction((residual > 0) - (residual < 0))
        loss = residual**2 / (2 * beta) if inside else abs(residual) - beta / 2
        for j, v in enumerate(values):
            total[j] += Fraction(share) * slope * v
        total[p + 1] += Fraction(share) * loss
    return np.array([float(t) for t in total])


def problem(rng, n, p):
    X, y = rng.normal(size=(n, p)), rng.normal(size=n)
    return X, y, rng.random(n), rng.normal(size=p + 1)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 127, 128, 129, 1000])
@pytest.mark.parametrize("p", [0, 1, 3, 8, 20])
def test_sums(rng, n, p):
    X, y, weight, w = problem(rng, n, p)
    for beta in (0.3, 2.5):
        wanted = exact_sums(X, y, weight, beta, w)
        np.testing.assert_allclose(Dense(X, y, weight, beta).sums(w), wanted, rtol=1e-12)


def test_wide_rows(rng):
    X, y, weight, w = problem(rng, 30, 1700)
    wanted = exact_sums(X, y, weight, 40.0, w)
    got = Dense(X, y, weight, 40.0).sums(w)
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-12)
    assert np.array_equal(Dense(np.asfortranarray(X), y, weight, 40.0).sums(w), got)


def layouts(X):
    wide = np.zeros((2 * X.shape[0], X.shape[1] + 3), X.dtype)
    wide[::2, 2:-1] = X
    unaligned = np.frombuffer(b"x" + X.tobytes(), X.dtype, offset=1).reshape(X.shape)
    read_only = X.copy()
    read_only.flags.writeable = False
    return {
        "F": np.asfortranarray(X), "rows apart": wide[::2, 2:-1],
        "columns apart": np.asfortranarray(wide)[: X.shape[0]].copy("F")[:, 2:-1],
        "reversed": X[::-1].copy()[::-1], "columns reversed": X[:, ::-1].copy()[:, ::-1],
        "every other column": np.repeat(X, 2, axis=1)[:, ::2], "swapped": X.astype(">f8"),
        "unaligned": unaligned, "read-only": read_only, "list": X.tolist(),
    }  # fmt: skip


@pytest.mark.parametrize(("n", "p"), [(5, 3), (1000, 11), (131, 1), (1, 4)])
def test_layouts_give_the_same_bits(rng, n, p):
    X, y, weight, w = problem(rng, n, p)
    wanted = Dense(X, y, weight, 0.4).sums(w)
    for name, other in layouts(X).items():
        if name == "columns apart":
            other[...] = X
        assert np.array_equal(Dense(other, y, weight, 0.4).sums(w), wanted), name


@pytest.mark.parametrize("dtype", ["f4", "f2", ">f4", "i8", "i2", "u1"])
def test_number_types(rng, dtype):
    X, y, weight, w = problem(rng, 300, 5)
    X = (X * 9 + 40).astype(dtype)
    wanted = Dense(X.astype("f8"), y, weight, 20.0).sums(w)
    for other in (X, np.asfortranarray(X), X[::-1].copy()[::-1]):
        assert np.array_equal(Dense(other, y, weight, 20.0).sums(w), wanted)


def test_threads_and_units_do_not_change_bits(rng, monkeypatch):
    X, y, weight, w = problem(rng, 60_000, 7)
    before = sl.get_num_threads()
    found = set()
    for threads in (1, 2, 3, 8):
        for units in (1, 16, 64, 10**6):
            monkeypatch.setattr(designs, "UNITS", units)
            monkeypatch.setattr(designs, "FEWEST", units)
            sl.set_num_threads(threads)
            found.add(Dense(X, y, weight, 0.4).sums(w).tobytes())
    sl.set_num_threads(before)
    assert len(found) == 1


def test_curvature(rng):
    X, y, weight, w = problem(rng, 500, 4)
    ones = np.column_stack([X, np.ones(500)])
    inside = np.abs(ones @ w - y) < 0.8
    wanted = (ones.T * (weight * inside / 0.8)) @ ones
    for array in (X, np.asfortranarray(X), X.astype(">f8")):
        design = Dense(array, y, weight, 0.8)
        np.testing.assert_allclose(design.curvature_matrix(w), wanted, rtol=1e-12)
        for v in rng.normal(size=(3, 5)):
            np.testing.assert_allclose(design.curvature_product(w, v), wanted @ v, rtol=1e-11)


def test_nan_and_infinities_spread_as_in_numpy(rng):
    X, y, _, w = problem(rng, 200, 3)
    for value in (np.nan, np.inf, -np.inf):
        for row in (0, 77, 199):
            bad = X.copy()
            bad[row, 1] = value
            with np.errstate(invalid="ignore"):
                slope = np.clip((bad @ w[:-1] + w[-1] - y) / 0.4, -1, 1)
                wanted = np.append(bad.T @ slope, slope.sum())
            for array in (bad, np.asfortranarray(bad)):
                got = Dense(array, y, None, 0.4).sums(w)
                np.testing.assert_allclose(got[:-1], wanted, rtol=1e-11)
                assert got[-1] == np.inf or np.isnan(got[-1])


def test_coefficients_from_a_message_need_no_kernel_of_their_own(rng):
    """Workers of a cluster get numbers that lie anywhere in a message."""
    X, y, weight, w = problem(rng, 30, 3)
    wanted = Dense(X, y, weight, 0.3).sums(w)
    compiled = list(linear.linear_sums.signatures)
    apart = [np.frombuffer(b"x" + v.tobytes(), v.dtype, offset=1) for v in (y, weight, w)]
    assert not any(v.flags.aligned for v in apart)
    assert np.array_equal(Dense(X, *apart[:2], 0.3).sums(apart[2]), wanted)
    assert list(linear.linear_sums.signatures) == compiled
