"""The loss for `scipy.optimize.least_squares`, beside SciPy's own Huber loss."""

import numpy as np
import pytest
from scipy import optimize

from smoothl1.optimize import least_squares_loss

Z = np.array([0.0, 5e-324, 1e-300, 0.25, 0.999, 1.001, 4.0, 1e10, 1e300, np.inf])


def test_rows_from_the_definition():
    rows = least_squares_loss(0.7)(Z)
    inside = Z < 1
    with np.errstate(divide="ignore", over="ignore"):
        np.testing.assert_allclose(rows[0], np.where(inside, Z, 2 * np.sqrt(Z) - 1), rtol=1e-15)
        np.testing.assert_allclose(rows[1], np.where(inside, 1, Z**-0.5), rtol=1e-15)
        np.testing.assert_allclose(rows[2], np.where(inside, 0, -0.5 * Z**-1.5), rtol=1e-15)
    assert np.isnan(least_squares_loss(1)(np.array([np.nan]))).all()


def test_rows_are_fresh_and_writable():
    rho = least_squares_loss(2)
    z = np.array([0.5, 2.0])
    first = rho(z)
    first *= 7.0  # as SciPy does
    assert rho(z)[0, 0] == 0.5
    assert z[0] == 0.5
    assert repr(rho) == "least_squares_loss(2.0)"


@pytest.mark.parametrize("beta", [1e-3, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("method", ["trf", "dogbox"])
def test_same_fit_as_huber(rng, beta, method):
    t = np.linspace(0, 2, 40)
    y = 2.0 * np.exp(-t) + 0.1 * rng.standard_t(2, size=40)

    def residual(p):
        return p[0] * np.exp(-p[1] * t) - y

    rho = least_squares_loss(beta)
    options = {"method": method, "f_scale": rho.f_scale, "xtol": 1e-12, "ftol": 1e-12}
    ours = optimize.least_squares(residual, [1.0, 0.5], loss=rho, **options)
    theirs = optimize.least_squares(residual, [1.0, 0.5], loss="huber", **options)
    assert ours.cost == pytest.approx(theirs.cost, rel=1e-9)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-5)


@pytest.mark.parametrize("beta", [0, -1.0, np.nan, np.inf])
def test_beta_is_checked(beta):
    with pytest.raises(ValueError, match="beta must be"):
        least_squares_loss(beta)
