"""Elements against exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from cases import BETAS, FLOATS, dtype_of, specials
from hypothesis import example, given
from hypothesis import strategies as st
from numba import njit
from reference import elements, exact_grad, exact_hess, exact_loss, rounded, ulps_apart

import smoothl1 as sl
from smoothl1 import formula

finite = st.floats(allow_nan=False, allow_infinity=False)
thresholds = st.floats(min_value=0, allow_nan=False, allow_infinity=False)


def three(x, target, beta):
    """Loss, gradient and Hessian of one element."""
    options = {"beta": beta, "reduction": "none"}
    functions = (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_hess)
    return [float(f(x, target, **options)[0]) for f in functions]


def expected(residual, beta, dtype):
    exact = [f(Fraction(residual), Fraction(beta)) for f in (exact_loss, exact_grad, exact_hess)]
    return [rounded(value, dtype) for value in exact]


@given(residual=finite, beta=thresholds)
@example(residual=1e160, beta=6e160)
@example(residual=5e-324, beta=1e-323)
@example(residual=1.7e308, beta=1.7976931348623157e308)
@example(residual=-2.5, beta=2.5)
@example(residual=1e-310, beta=0.0)
def test_float64_elements_are_within_one_ulp(residual, beta):
    got = three(np.array([residual]), np.zeros(1), beta)
    for value, wanted in zip(got, expected(residual, beta, "float64"), strict=True):
        assert ulps_apart(value, wanted, "float64") <= 1


@given(x=finite, target=finite, beta=thresholds)
def test_float64_residuals_are_rounded_once(x, target, beta):
    residual = x - target
    if math.isinf(residual):
        return
    got = three(np.array([x]), np.array([target]), beta)
    for value, wanted in zip(got, expected(residual, beta, "float64"), strict=True):
        assert ulps_apart(value, wanted, "float64") <= 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@given(data=st.data())
def test_narrow_elements_are_the_exact_value_rounded(dtype, data):
    kind = dtype_of(dtype)
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    x, target = (np.array([data.draw(number)]) for _ in range(2))
    with np.errstate(over="ignore"):
        x, target = x.astype(kind), target.astype(kind)
    if not (np.isfinite(x.astype(float)) & np.isfinite(target.astype(float))).all():
        return
    beta = data.draw(st.sampled_from([*BETAS, 1e-40, 1e30, 7e-3]))
    residual = Fraction(float(x[0])) - Fraction(float(target[0]))
    got = three(x, target, beta)
    for value, wanted in zip(got, expected(residual, beta, kind), strict=True):
        assert ulps_apart(value, wanted, kind) <= 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("beta", BETAS)
def test_special_residuals(dtype, beta):
    x = specials(dtype)
    zero = np.zeros(x.shape, x.dtype)
    options = {"beta": beta, "reduction": "none"}
    functions = (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_hess)
    for f, wanted in zip(functions, elements(x, zero, beta), strict=True):
        got = f(x, zero, **options)
        with np.errstate(over="ignore"):
            wanted = wanted.astype(x.dtype)
        for a, b in zip(got, wanted, strict=True):
            assert ulps_apart(float(a), float(b), dtype) <= 1


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.5, 1e4])
def test_at_beta_the_linear_branch_holds(beta):
    r = np.array([beta, np.nextafter(beta, 0), -beta])
    assert sl.smooth_l1_hess(r, np.zeros(3), beta=beta, reduction="sum").tolist() == [
        0.0,
        1 / beta,
        0.0,
    ]
    assert sl.smooth_l1_grad(r, np.zeros(3), beta=beta, reduction="sum")[::2].tolist() == [1, -1]


@pytest.mark.parametrize("per_element", [False, True])
def test_beta_zero_is_the_absolute_error(per_element):
    r = np.array([-2.0, -5e-324, 0.0, 1e-310, np.inf, np.nan])
    beta = np.zeros(6) if per_element else 0.0
    options = {"beta": beta, "reduction": "none"}
    np.testing.assert_array_equal(sl.smooth_l1_loss(r, 0.0, **options), np.abs(r))
    np.testing.assert_array_equal(sl.smooth_l1_grad(r, 0.0, **options), np.sign(r))
    np.testing.assert_array_equal(sl.smooth_l1_hess(r, 0.0, **options), [0, 0, 0, 0, 0, np.nan])


@pytest.mark.parametrize("position", [*range(65), 127, 128, 2047, 2048, 4095, 4096, 4159, 4163])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_at_every_lane_and_in_the_tail(position, value):
    x = np.full(4164, 0.25)
    x[position] = value
    target = np.zeros(4164)
    loss, grad = sl.smooth_l1_value_and_grad(x, target, beta=2.0, reduction="sum")
    assert math.isnan(loss) if math.isnan(value) else loss == math.inf
    hess = sl.smooth_l1_hess(x, target, beta=2.0, reduction="sum")
    slope = value if math.isnan(value) else math.copysign(1, value)
    np.testing.assert_array_equal(grad, np.where(np.arange(4164) == position, slope, 0.125))
    curvature = value if math.isnan(value) else 0.0
    np.testing.assert_array_equal(hess, np.where(np.arange(4164) == position, curvature, 0.5))


@pytest.mark.parametrize("position", [0, 1, 31, 63, 64, 2047, 4096, 4163])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_masked_elements_count_nothing_whatever_they_are(position, value):
    x = np.full(4164, 0.25)
    x[position] = value
    keep = np.arange(4164) != position
    target = np.zeros(4164)
    loss, grad = sl.smooth_l1_value_and_grad(x, target, beta=2.0, where=keep)
    assert loss == 0.25**2 / 4
    np.testing.assert_array_equal(grad, np.where(keep, 0.125 / 4163, 0.0))
    hess = sl.smooth_l1_hess(x, target, beta=2.0, where=keep)
    np.testing.assert_array_equal(hess, np.where(keep, 0.5 / 4163, 0.0))


@njit
def _both_losses(residuals, beta):
    out = np.empty((2, residuals.size))
    for i in range(residuals.size):
        clipped = formula.clip(residuals[i], max(beta, 1e-300))
        slope = formula.narrow_grad(clipped, 1.0 / max(beta, 1e-300))
        out[0, i] = formula.loss(residuals[i], clipped, slope)
        out[1, i] = formula.narrow_loss(residuals[i], clipped, slope)
    return out


@pytest.mark.parametrize("beta", [0.0, 5e-324, 1e-45, 1e-3, 0.7, 1.0, 2.5, 1e30])
def test_fused_losses_of_narrow_residuals_have_the_same_bits(beta, rng):
    """Differences of float32, also of the smallest, halve exactly."""
    scale = 10.0 ** rng.uniform(-44, 38, 20_000)
    with np.errstate(under="ignore", over="ignore"):
        x = (rng.normal(size=20_000) * scale).astype(np.float32)
    residuals = x.astype(np.float64) - np.roll(x, 1) * (rng.random(20_000) < 0.5)
    plain, fused = _both_losses(residuals, beta)
    np.testing.assert_array_equal(plain.view(np.int64), fused.view(np.int64))
