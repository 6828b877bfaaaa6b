"""Non-linear models: derivatives, all kinds of Jacobian, SciPy's own answers, errors."""

import numpy as np
import pytest
from scipy import optimize, sparse

from smoothl1.optimize import LinearObjective, ResidualObjective

T = np.linspace(0.0, 3.0, 60)


@pytest.fixture
def observed(rng):
    y = 3.0 * np.exp(-1.3 * T) + 0.5 + 0.02 * rng.normal(size=60)
    y[::7] += 4.0
    return y


def residual(y):
    return lambda p: p[0] * np.exp(-p[1] * T) + p[2] - y


def jacobian(p):
    decay = np.exp(-p[1] * T)
    return np.column_stack([decay, -p[0] * T * decay, np.ones(60)])


JACOBIANS = {
    "dense": jacobian, "F": lambda p: np.asfortranarray(jacobian(p)),
    "csr": lambda p: sparse.csr_array(jacobian(p)), "coo": lambda p: sparse.coo_matrix(jacobian(p)),
    "2-point": "2-point", "3-point": "3-point", "cs": "cs",
}  # fmt: skip


@pytest.mark.parametrize("kind", JACOBIANS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_value_gradient_and_hessian(observed, rng, kind, reduction):
    weight = rng.random(60)
    objective = ResidualObjective(
        residual(observed), JACOBIANS[kind], beta=0.3, weight=weight, reduction=reduction
    )
    share = weight / (weight.sum() if reduction == "mean" else 1.0)
    for p in ([2.0, 1.0, 0.2], [3.0, 1.5, 0.6]):
        p = np.array(p)
        r, J = residual(observed)(p), jacobian(p)
        losses = np.where(np.abs(r) < 0.3, r * r / 0.6, np.abs(r) - 0.15)
        value, gradient = objective(p)
        assert type(value) is float
        assert value == objective.fun(p) == pytest.approx(share @ losses, rel=1e-13)
        np.testing.assert_allclose(gradient, J.T @ (share * np.clip(r / 0.3, -1, 1)), rtol=1e-5)
        hessian = (J.T * (share * (np.abs(r) < 0.3) / 0.3)) @ J
        np.testing.assert_allclose(objective.hess(p), hessian, rtol=1e-5)
        np.testing.assert_allclose(objective.hessp(p, p), hessian @ p, rtol=1e-5)
        assert isinstance(objective.hess(p), np.ndarray)


def test_check_grad(observed):
    objective = ResidualObjective(residual(observed), jacobian, beta=0.3)
    assert optimize.check_grad(objective.fun, objective.jac, [2.0, 1.0, 0.2]) < 1e-6


@pytest.mark.parametrize(
    "method", ["BFGS", "L-BFGS-B", "TNC", "SLSQP", "Newton-CG", "trust-ncg", "trust-exact"]
)
def test_same_minimum_as_least_squares(observed, method):
    reference = optimize.least_squares(
        residual(observed), [2.0, 1.0, 0.2], jac=jacobian, loss="huber", f_scale=0.1,
        xtol=1e-14, ftol=1e-14, gtol=1e-14,
    )  # fmt: skip
    objective = ResidualObjective(residual(observed), jacobian, beta=0.1)
    result = objective.minimize([2.0, 1.0, 0.2], method=method, tol=1e-10)
    np.testing.assert_allclose(result.x, reference.x, atol=1e-4)
    # SciPy's cost is beta times the sum of the losses.
    assert result.fun * 60 * 0.1 == pytest.approx(reference.cost, rel=1e-7)
    assert result.n_outliers == (np.abs(residual(observed)(result.x)) >= 0.1).sum()


def test_linear_residuals_agree_with_the_linear_objective(rng):
    X, y, w = rng.normal(size=(50, 3)), rng.normal(size=50), rng.normal(size=3)
    linear = LinearObjective(X, y, beta=0.4, fit_intercept=False)
    general = ResidualObjective(lambda w: X @ w - y, lambda w: X, beta=0.4)
    assert general.fun(w) == pytest.approx(linear.fun(w), rel=1e-14)
    np.testing.assert_allclose(general.jac(w), linear.jac(w), rtol=1e-12)
    np.testing.assert_allclose(general.hess(w), linear.hess(w), rtol=1e-12)


def test_calls_are_few(observed):
    calls = []

    def counted(p):
        calls.append("r")
        return residual(observed)(p)

    def counted_jacobian(p):
        calls.append("J")
        return jacobian(p)

    objective = ResidualObjective(counted, counted_jacobian, beta=0.3)
    p = np.array([2.0, 1.0, 0.2])
    objective.fun(p)
    assert calls == ["r"]
    objective.jac(p)
    objective(p)
    for v in np.eye(3):
        objective.hessp(p, v)
    objective.hess(p)
    assert calls == ["r", "J"]
    objective.hess(p + 1.0)
    assert calls == ["r", "J"] * 2


@pytest.mark.parametrize("kind", ["2-point", "3-point"])
def test_functions_that_reuse_their_buffer_or_return_float32(observed, kind):
    buffer, p = np.empty(60), np.array([2.0, 1.0, 0.2])

    def reuse(p):
        buffer[:] = residual(observed)(p)
        return buffer

    def narrow(p):
        return residual(observed)(p).astype(np.float32)

    wanted = ResidualObjective(residual(observed), jacobian, beta=0.3).jac(p)
    for function, close in ((reuse, 1e-5), (narrow, 1e-2)):
        got = ResidualObjective(function, kind, beta=0.3)
        np.testing.assert_allclose(got.jac(p), wanted, rtol=close)


def test_a_jacobian_may_reuse_its_buffer(observed):
    buffer = np.empty((60, 3))

    def reuse(p):
        buffer[:] = jacobian(p)
        return buffer

    p, q = np.array([2.0, 1.0, 0.2]), np.array([3.0, 0.5, 0.1])
    objective = ResidualObjective(residual(observed), reuse, beta=0.3)
    wanted = objective.hess(p)
    reuse(q)
    assert np.array_equal(objective.hess(p), wanted)


def test_differential_evolution_does_not_need_derivatives(observed):
    objective = ResidualObjective(residual(observed), "cs", beta=0.3)
    found = optimize.differential_evolution(
        objective.fun, [(0, 5), (0, 4), (-1, 2)], maxiter=60, seed=1
    )
    best = objective.minimize([2.0, 1.0, 0.2], tol=1e-10)
    assert found.fun == pytest.approx(best.fun, rel=1e-5)


def test_errors(observed):
    good = residual(observed)
    with pytest.raises(TypeError, match="residual must be callable, got 3"):
        ResidualObjective(3, "cs")
    with pytest.raises(TypeError, match="jac must be callable or one of 2-point, 3-point, cs"):
        ResidualObjective(good, "4-point")
    with pytest.raises(ValueError, match="beta must be finite and at least 0"):
        ResidualObjective(good, "cs", beta=-1)
    with pytest.raises(ValueError, match="weight must have a finite sum above 0"):
        ResidualObjective(good, "cs", weight=np.zeros(60))
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum'"):
        ResidualObjective(good, "cs", reduction="none")
    with pytest.raises(ValueError, match="weight must have one value per residual, got 5 for 60"):
        ResidualObjective(good, "cs", weight=np.ones(5)).fun([1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"jac\(w\) must have shape \(60, 3\) .* got \(3, 60\)"):
        ResidualObjective(good, lambda p: jacobian(p).T).jac([1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"residual\(w\) must have one dimension"):
        ResidualObjective(lambda p: np.zeros((3, 3)), "cs").fun([1.0])
    with pytest.raises(ValueError, match="must return at least one residual"):
        ResidualObjective(lambda p: np.zeros(0), "cs").fun([1.0])
    with pytest.raises(TypeError, match=r"residual\(w\) must hold real numbers, got None"):
        ResidualObjective(lambda p: None, "cs").fun([1.0])
    with pytest.raises(ValueError, match="w must have one dimension"):
        ResidualObjective(good, "cs").fun(1.0)
    with pytest.raises(ValueError, match="nan at w0"):
        ResidualObjective(good, jacobian).minimize([np.nan, 1.0, 1.0])
    with pytest.raises(ValueError, match="second derivatives, which are 0 for beta=0"):
        ResidualObjective(good, jacobian, beta=0).minimize([1.0, 1.0, 1.0], method="trust-exact")
