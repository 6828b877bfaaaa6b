"""Linear models: independent minima, every method of SciPy's, every kind of X, every error."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, sparse, special
from scipy.sparse.linalg import aslinearoperator

import smoothl1 as sl
from smoothl1.optimize import LinearObjective

METHODS = [
    "CG", "BFGS", "L-BFGS-B", "TNC", "SLSQP", "Newton-CG", "trust-ncg", "trust-krylov",
    "trust-exact", "trust-constr",
]  # fmt: skip


@pytest.fixture
def data(rng):
    X = rng.normal(size=(400, 3))
    y = X @ [1.0, -2.0, 0.5] + 3.0 + 0.3 * rng.standard_t(2, size=400)
    return X, y, rng.random(400)


def plain(X, y, beta, weight=None, l2=0.0, reduction="mean"):
    """The objective from the definition, in NumPy and `scipy.special.huber`."""

    def value(w):
        losses = special.huber(beta, X @ w[:-1] + w[-1] - y) / beta
        share = np.ones(len(y)) if weight is None else weight
        total = share.sum() if reduction == "mean" else 1.0
        return (share * losses).sum() / total + l2 / 2 * w[:-1] @ w[:-1]

    return value


@pytest.mark.parametrize("beta", [1e-3, 0.3, 2.5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_gradient_and_hessian(data, rng, beta, reduction, weighted):
    X, y, weight = data
    weight = weight if weighted else None
    objective = LinearObjective(
        X, y, beta=beta, sample_weight=weight, l2=0.7, reduction=reduction
    )  # fmt: skip
    reference = plain(X, y, beta, weight, 0.7, reduction)
    for w in rng.normal(size=(3, 4)):
        value, gradient = objective(w)
        assert type(value) is float
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(value, reference(w), rtol=1e-13)
        ones = np.column_stack([X, np.ones(400)])
        residual = ones @ w - y
        share = np.ones(400) if weight is None else weight
        share = share / (share.sum() if reduction == "mean" else 1.0)
        penalty = 0.7 * np.diag([1.0, 1.0, 1.0, 0.0])
        slope = ones.T @ (share * np.clip(residual / beta, -1, 1)) + penalty @ w
        np.testing.assert_allclose(gradient, slope, rtol=1e-11)
        inside = share * (np.abs(residual) < beta) / beta
        hessian = (ones.T * inside) @ ones + penalty
        np.testing.assert_allclose(objective.hess(w), hessian, rtol=1e-11)
        np.testing.assert_allclose(objective.hessp(w, w), hessian @ w, rtol=1e-10)
        assert objective.fun(w) == value
        assert np.array_equal(objective.jac(w), gradient)


def test_check_grad(data, rng):
    X, y, weight = data
    for fit in (True, False):
        objective = LinearObjective(X, y, beta=0.7, sample_weight=weight, l2=0.1, fit_intercept=fit)
        w = rng.normal(size=3 + fit)
        assert optimize.check_grad(objective.fun, objective.jac, w) < 1e-6


def test_results_are_fresh_and_one_pass_serves_both(data, monkeypatch):
    X, y, _ = data
    objective = LinearObjective(X, y, beta=0.7)
    passes = []
    monkeypatch.setattr(objective._design, "sums", lambda w, f=objective._design.sums: (
        passes.append(1), f(w))[1])  # fmt: skip
    w = objective.w0()
    first = objective.jac(w)
    first[:] = np.nan
    assert np.isfinite(objective.jac(w)).all()
    objective.fun(w)
    objective(w)
    assert len(passes) == 1
    w += 1.0  # the caller's own array, changed in place
    assert objective.fun(w) != objective.fun(w - 1.0)
    assert len(passes) == 3


@pytest.mark.parametrize("method", METHODS)
def test_methods_reach_the_same_minimum_from_several_starts(data, rng, method):
    X, y, weight = data
    objective = LinearObjective(X, y, beta=0.5, sample_weight=weight, l2=1e-3)
    reference = optimize.minimize(
        plain(X, y, 0.5, weight, 1e-3), objective.w0(), method="Powell",
        options={"xtol": 1e-12, "ftol": 1e-14, "maxiter": 10_000},
    )  # fmt: skip
    for start in (None, *rng.normal(size=(2, 4))):
        options = {"options": {"maxiter": 3000}} if method in ("CG", "trust-constr") else {}
        result = objective.minimize(start, method=method, tol=1e-9, **options)
        assert abs(result.fun - reference.fun) < 1e-8 * reference.fun
        np.testing.assert_allclose(result.x, reference.x, atol=2e-4)
        assert np.array_equal(result.coef, result.x[:3])
        assert result.intercept == result.x[3]
        residual = X @ result.coef + result.intercept - y
        assert result.n_outliers == (np.abs(residual) >= 0.5).sum()


@pytest.mark.parametrize("method", METHODS)
def test_methods_move_on_where_the_hessian_is_0(rng, method):
    X = rng.normal(size=(100, 2))
    y = X @ [1.0, 2.0] + 100.0
    for matrix in (X, sparse.csr_array(X)):
        objective = LinearObjective(matrix, y, beta=0.5)
        assert not objective.hess(objective.w0()).any()
        result = objective.minimize(method=method, tol=1e-8)
        np.testing.assert_allclose(result.x, [1.0, 2.0, 100.0], atol=1e-3)


def test_dogleg_where_the_hessian_is_definite(rng):
    X = rng.normal(size=(60, 2))
    y = X @ [1.0, 2.0]
    objective = LinearObjective(X, y, beta=50.0, l2=0.1)
    result = objective.minimize(rng.normal(size=3), method="dogleg", tol=1e-10)
    best = objective.minimize(method="trust-exact", tol=1e-10)
    np.testing.assert_allclose(result.x, best.x, atol=1e-8)


@pytest.mark.parametrize("method", ["Nelder-Mead", "Powell", "COBYLA"])
def test_methods_without_gradient(data, method):
    X, y, _ = data
    objective = LinearObjective(X, y, beta=0.5)
    best = objective.minimize(method="BFGS", tol=1e-8).fun
    assert objective.minimize(method=method, tol=1e-8).fun < best + 1e-4


def test_phones():
    """The line of the README: statsmodels and NumPy give the same."""
    data = Path(__file__).parent.parent / "docs" / "data" / "phones.csv"
    year, calls = np.loadtxt(data, delimiter=",", skiprows=1, unpack=True)
    X = ((year - 60.0) / 10.0)[:, None]
    result = LinearObjective(X, calls, beta=1.345 * 9.00903).minimize(method="BFGS", tol=1e-10)
    slope = result.coef[0] / 10.0
    assert slope == pytest.approx(2.03960, abs=1e-5)
    assert result.intercept - 60.0 * slope == pytest.approx(-102.530, abs=1e-3)


def test_progress(data):
    X, y, _ = data
    objective = LinearObjective(X, y, beta=0.5)
    for method in ("L-BFGS-B", "BFGS", "TNC", "SLSQP", "Newton-CG", "trust-constr", "Nelder-Mead"):
        told = []
        result = objective.minimize(method=method, progress=lambda *step: told.append(step))  # noqa: B023
        assert [step for step, _ in told] == list(range(1, len(told) + 1))
        assert told
        assert told[-1][1] == pytest.approx(result.fun, rel=1e-6)
    with pytest.raises(TypeError, match="not both"):
        objective.minimize(progress=print, callback=print)


def kinds(X):
    return {
        "csr": sparse.csr_array(X), "csc": sparse.csc_array(X), "coo": sparse.coo_array(X),
        "csr matrix": sparse.csr_matrix(X), "csc matrix": sparse.csc_matrix(X),
        "coo matrix": sparse.coo_matrix(X), "operator": aslinearoperator(X),
        "sparse float32": sparse.csr_array(X.astype("f4").astype("f8")).astype("f4"),
    }  # fmt: skip


def test_sparse_matrices_and_operators(data, rng):
    X, y, weight = data
    X = np.where(rng.random(X.shape) < 0.5, X, 0.0).astype("f4").astype("f8")
    options = {"beta": 0.5, "sample_weight": weight, "l2": 0.1}
    dense = LinearObjective(X, y, **options)
    w, v = rng.normal(size=(2, 4))
    for name, matrix in kinds(X).items():
        objective = LinearObjective(matrix, y, **options)
        np.testing.assert_allclose(objective.fun(w), dense.fun(w), rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(objective.jac(w), dense.jac(w), rtol=1e-11, err_msg=name)
        np.testing.assert_allclose(objective.hess(w), dense.hess(w), rtol=1e-11, atol=1e-16)
        np.testing.assert_allclose(objective.hessp(w, v), dense.hessp(w, v), rtol=1e-10)
        np.testing.assert_allclose(objective.predict(w), X @ w[:3] + w[3], rtol=1e-12)
        np.testing.assert_allclose(objective.predict(w, X[:5]), X[:5] @ w[:3] + w[3], rtol=1e-12)
        result = objective.minimize()
        np.testing.assert_allclose(result.x, dense.minimize().x, atol=1e-4)


def test_memmap(tmp_path, rng):
    X, y = rng.normal(size=(300, 4)), rng.normal(size=300)
    on_disk = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
    on_disk[:] = X
    w = rng.normal(size=5)
    read_only = np.memmap(tmp_path / "X", X.dtype, "r", shape=X.shape)
    wanted = LinearObjective(X, y, beta=0.5)(w)
    got = LinearObjective(read_only, y, beta=0.5)(w)
    assert got[0] == wanted[0]
    assert np.array_equal(got[1], wanted[1])


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_memmap_takes_constant_memory(run_python, tmp_path):
    code = f"""
    import resource
    import numpy as np
    from smoothl1.optimize import LinearObjective

    rows, columns = 2**19, 64  # 256 MiB, a hole on disk
    with open({str(tmp_path / "X")!r}, "wb") as file:
        file.truncate(8 * rows * columns)
    X = np.memmap({str(tmp_path / "X")!r}, "f8", "r", shape=(rows, columns))
    y, w = np.ones(rows), np.full(columns + 1, 0.5)
    small = LinearObjective(X[:9000], y[:9000])
    small(w), small.hess(w), small.hessp(w, w)
    objective = LinearObjective(X, y)
    with open("/proc/self/status") as status:
        used = next(int(s.split()[1]) for s in status if s.startswith("VmData"))
    limit = used * 1024 + 32 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(objective(w)[0])
    objective.hess(w), objective.hessp(w, w)
    try:
        np.array(X)
    except MemoryError:
        print("the limit works")
    """
    value, told = run_python(code).splitlines()
    assert float(value) == 0.125
    assert told == "the limit works"


def test_scikit_learn_at_its_own_solution(rng):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is optional")
    X = rng.normal(size=(200, 3))
    y = X @ [1.0, -2.0, 0.5] + 3.0 + 0.3 * rng.standard_t(2, size=200)
    model = linear_model.HuberRegressor(epsilon=1.5, alpha=0.01, tol=1e-10, max_iter=10_000)
    model.fit(X, y)
    # At fixed scale s: sum of 2 s huber(r / s; epsilon) / 2 s = ... = our sum with beta = s eps.
    beta = 1.5 * model.scale_
    objective = LinearObjective(X, y, beta=beta, l2=0.01 / 1.5, reduction="sum")
    solution = np.append(model.coef_, model.intercept_)
    assert np.abs(objective.jac(solution)).max() < 1e-3
    best = objective.minimize(method="trust-exact", tol=1e-10)
    np.testing.assert_allclose(best.x, solution, atol=1e-5)


def test_statsmodels_at_fixed_scale(rng):
    api = pytest.importorskip("statsmodels.api", reason="statsmodels is optional")
    X = rng.normal(size=(200, 3))
    y = X @ [1.0, -2.0, 0.5] + 3.0 + 0.3 * rng.standard_t(2, size=200)
    model = api.RLM(y, api.add_constant(X), M=api.robust.norms.HuberT(1.345))
    fitted = model.fit(tol=1e-12, maxiter=1000)
    best = LinearObjective(X, y, beta=1.345 * fitted.scale).minimize(method="BFGS", tol=1e-10)
    np.testing.assert_allclose([best.intercept, *best.coef], fitted.params, atol=1e-6)


def test_degenerate_problems(rng):
    one = LinearObjective([[2.0]], [3.0], beta=0.5)
    assert one.minimize(tol=1e-10).fun < 1e-15
    only_intercept = LinearObjective(np.empty((5, 0)), [1.0, 2.0, 3.0, 4.0, 90.0], beta=1e-3)
    assert only_intercept.minimize(method="BFGS").intercept == pytest.approx(3.0, abs=1e-3)
    X = rng.normal(size=(50, 2))
    double = np.column_stack([X, X])  # rank 2 of 4
    y = X @ [1.0, 2.0] + 0.1 * rng.normal(size=50)
    thin, wide = (LinearObjective(A, y, beta=0.1) for A in (X, double))
    for method in ("L-BFGS-B", "BFGS", "trust-ncg"):
        assert wide.minimize(method=method, tol=1e-9).fun == pytest.approx(
            thin.minimize(method="BFGS", tol=1e-9).fun, rel=1e-7
        )
    exact = LinearObjective(X, X @ [1.0, 2.0], beta=0.5)
    assert exact([1.0, 2.0, 0.0])[0] == pytest.approx(0.0, abs=1e-30)
    zero_weights = np.r_[np.zeros(10), np.ones(40)]
    some = LinearObjective(X, y, beta=0.1, sample_weight=zero_weights)
    rest = LinearObjective(X[10:], y[10:], beta=0.1)
    w = np.array([0.5, 0.2, 0.1])
    assert some.fun(w) == pytest.approx(rest.fun(w), rel=1e-14)


def test_all_residuals_exactly_at_the_threshold():
    X, y = np.ones((4, 1)), np.array([0.5, 0.5, -0.5, -0.5])
    objective = LinearObjective(X, y, beta=0.5, fit_intercept=False)
    value, gradient = objective([0.0])
    assert value == 0.25
    assert gradient == 0.0
    assert objective.hess([0.0]) == 0.0
    assert objective.minimize().n_outliers == 4


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_extreme_scales(rng, scale):
    X, y = rng.normal(size=(80, 2)), rng.normal(size=80)
    w = rng.normal(size=3)
    value, gradient = LinearObjective(X, y, beta=0.5)(w)
    far, far_gradient = LinearObjective(X, y * scale, beta=0.5 * scale)(w * scale)
    assert far == pytest.approx(value * scale, rel=1e-12)
    np.testing.assert_allclose(far_gradient, gradient, rtol=1e-10)
    tall, tall_gradient = LinearObjective(X * scale, y, beta=0.5)([*(w[:2] / scale), w[2]])
    assert tall == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(tall_gradient[:2], gradient[:2] * scale, rtol=1e-10)


def test_beta_0(rng):
    X = rng.normal(size=(101, 2))
    y = X @ [1.0, -1.0] + rng.standard_t(2, size=101)
    objective = LinearObjective(X, y, beta=0.0)
    w = rng.normal(size=3)
    residual = X @ w[:2] + w[2] - y
    value, gradient = objective(w)
    assert value == pytest.approx(np.abs(residual).mean(), rel=1e-14)
    np.testing.assert_allclose(gradient[:2], X.T @ np.sign(residual) / 101, rtol=1e-12)
    assert not objective.hess(w).any()
    best = objective.minimize(method="BFGS").fun
    nearly = LinearObjective(X, y, beta=1e-6).minimize(method="L-BFGS-B", tol=1e-12).x
    assert best < objective.fun(nearly) * 1.01
    for method in ("Newton-CG", "trust-exact", "dogleg", "trust-constr"):
        with pytest.raises(ValueError, match=r"second derivatives, which are 0 for beta=0"):
            objective.minimize(method=method)


def test_pickle(data):
    X, y, weight = data
    objective = LinearObjective(X, y, beta=0.5, sample_weight=weight, l2=0.1, fit_intercept=False)
    w = objective.w0() + 0.3
    value = objective.fun(w)
    other = pickle.loads(pickle.dumps(objective))
    assert other.fun(w) == value
    assert other.w0().shape == (3,)


def test_a_mapped_file_is_pickled_by_its_name(tmp_path, rng):
    on_disk = np.memmap(tmp_path / "X", np.float64, "w+", offset=16, shape=(5000, 4), order="F")
    on_disk[:] = rng.normal(size=(5000, 4))
    y, w = rng.normal(size=5000), rng.normal(size=5)
    for X, small in ((on_disk, True), (on_disk[10:], False)):
        objective = LinearObjective(X, y[: len(X)])
        saved = pickle.dumps(objective)
        assert (len(saved) < 80_000) is small  # y alone takes 40 kB
        assert pickle.loads(saved).fun(w) == objective.fun(w)


def test_settings_and_data_cannot_change_under_way(data, rng):
    X, y, weight = data
    objective = LinearObjective(X, y, sample_weight=weight)
    w = rng.normal(size=4)
    before = objective.fun(w)
    y[:], weight[:] = 0.0, 1.0
    assert objective.fun(w + 0.0) == before
    objective.fun(w + 1.0)
    assert objective.fun(w) == before
    for name in ("beta", "reduction", "fit_intercept"):
        with pytest.raises(AttributeError):
            setattr(objective, name, 1)


def test_a_subclass_stays_one(data):
    assert type(pickle.loads(pickle.dumps(Special(*data[:2])))) is Special


class Special(LinearObjective):
    """A subclass."""


def test_first_evaluation_from_many_threads(rng):
    X, y, w = rng.normal(size=(500, 3)), rng.normal(size=500), rng.normal(size=4)
    wanted, before = LinearObjective(X, y).fun(w), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            objective = LinearObjective(X, y)
            with ThreadPoolExecutor(4) as pool:
                assert set(pool.map(objective.fun, [w] * 8)) == {wanted}
    finally:
        sys.setswitchinterval(before)


def test_hessian_and_product_agree_at_the_threshold():
    X = np.array([[0.6, -0.8, -0.8, 0.3], [-0.3, 0.1, -0.7, 0.6]])
    y, w = np.array([-1.43, -0.57]), np.array([-0.1, 0.7, 0.5, 0.3])
    found = []
    for array in (X, np.asfortranarray(X)):
        objective = LinearObjective(array, y, beta=0.5, fit_intercept=False)
        found.append(objective.hess(w))
        columns = [objective.hessp(w, unit) for unit in np.eye(4)]
        np.testing.assert_allclose(np.array(columns), found[-1], rtol=1e-12, atol=1e-15)
    assert np.array_equal(*found)


def test_newton_moves_on_under_a_tiny_penalty(rng):
    X = rng.normal(size=(200, 3))
    y = X @ [1.0, 2.0, 3.0] + 100.0
    for l2 in (1e-14, 1e-12, 1e-8, 1e-4):
        result = LinearObjective(X, y, beta=0.5, l2=l2).minimize(method="Newton-CG", tol=1e-9)
        np.testing.assert_allclose(result.x, [1.0, 2.0, 3.0, 100.0], atol=0.01)


def test_a_penalty_for_each_coefficient(data, rng):
    X, y, _ = data
    w = rng.normal(size=4)
    l2 = np.array([0.1, 0.0, 2.0])
    one, plain = (LinearObjective(X, y, l2=value) for value in (l2, 0.0))
    assert one.fun(w) == pytest.approx(plain.fun(w) + 0.5 * (l2 * w[:3] ** 2).sum(), rel=1e-14)
    np.testing.assert_allclose(one.jac(w), plain.jac(w) + np.append(l2 * w[:3], 0.0), rtol=1e-13)


def test_worker_processes_finish(run_python):
    code = """
    import multiprocessing, os, warnings
    import numpy as np
    from scipy.optimize import differential_evolution, minimize
    from smoothl1.optimize import LinearObjective

    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    warnings.filterwarnings("ignore", ".*deferred", UserWarning)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120_000, 2))
    y = X @ [1.0, -2.0] + rng.standard_t(2, size=120_000)
    objective = LinearObjective(X, y, beta=0.5)
    best = objective.minimize(method="BFGS")
    bounds = [(-4, 4)] * 3
    context = multiprocessing.get_context("fork")
    multiprocessing.set_start_method("fork", force=True)
    found = differential_evolution(
        objective.fun, bounds, workers=2, updating="deferred", maxiter=3, popsize=4, seed=1
    )
    print(found.fun < best.fun + 1e-3)
    import scipy
    if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 16):
        with context.Pool(2) as pool:
            other = minimize(objective.fun, objective.w0(), method="BFGS",
                             options={"workers": pool.map})
        print(abs(other.fun - best.fun) < 1e-6)
    else:
        print(True)
    """
    assert run_python(code, timeout=110).split() == ["True", "True"]


class Table:
    """A kind of array that nobody knows."""


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.zeros((0, 2)), "y": []}, ValueError, "X must have at least one row, got none"),
        ({"X": np.zeros(3)}, ValueError, r"X must have two .* got shape \(3,\); pass X\[:, None\]"),
        ({"X": 1.0}, ValueError, "X must have two dimensions .* got a number"),
        ({"X": np.zeros((3, 2), complex)}, TypeError, "X has dtype complex128"),
        ({"X": np.zeros((3, 2), bool)}, TypeError, "X has dtype bool"),
        ({"X": sparse.csr_array(np.eye(3, dtype=complex))}, TypeError, "real numbers"),
        ({"X": np.ma.zeros((3, 2))}, TypeError, "X must not be a masked array; .* weights of 0"),
        ({"y": np.ma.zeros(3)}, TypeError, "y must not be a masked array"),
        ({"X": Table()}, TypeError, "X must be a numpy.ndarray"),
        ({"X": np.zeros((4, 2))}, ValueError, "y must have one value per row of X, got 3 for 4"),
        ({"X": np.zeros((3, 0)), "fit_intercept": False}, ValueError, "X must have a column"),
        (
            {"y": [[1.0], [2.0], [3.0]]},
            ValueError,
            r"y must have one dimension, got shape \(3, 1\); pass y.ravel\(\)",
        ),
        ({"y": [1.0, np.nan, 2.0]}, ValueError, "y must be finite, got nan at index 1"),
        ({"y": ["a", "b", "c"]}, TypeError, "y has dtype"),
        ({"beta": -1.0}, ValueError, "beta must be finite and at least 0, got -1.0"),
        ({"beta": np.inf}, ValueError, "beta must be finite"),
        ({"beta": [1.0, 2.0]}, TypeError, "beta must be a real number"),
        ({"l2": [1.0]}, ValueError, r"l2 must be a number or have shape \(2,\), got \(1,\)"),
        ({"sample_weight": np.full(3, 1e308)}, ValueError, "finite sum above 0, got inf"),
        ({"l2": -0.5}, ValueError, "l2 must be finite and at least 0, got -0.5"),
        ({"sample_weight": [1.0, 2.0]}, ValueError, r"sample_weight must have shape \(3,\)"),
        ({"sample_weight": [1.0, -2.0, 1.0]}, ValueError, "sample_weight must be at least 0"),
        (
            {"sample_weight": [0, 0, 0]},
            ValueError,
            "sample_weight must have a finite sum above 0, got 0.0",
        ),
        ({"fit_intercept": 1}, TypeError, "fit_intercept must be True or False"),
        ({"reduction": "none"}, ValueError, "reduction must be 'mean' or 'sum'"),
    ],
)
def test_errors(change, error, message):
    arguments = {"X": np.zeros((3, 2)), "y": np.zeros(3)} | change
    with pytest.raises(error, match=message):
        LinearObjective(arguments.pop("X"), arguments.pop("y"), **arguments)


def test_errors_of_calls(data):
    X, y, _ = data
    objective = LinearObjective(X, y)
    with pytest.raises(ValueError, match=r"w must have shape \(4,\), got shape \(3,\)"):
        objective(np.zeros(3))
    with pytest.raises(ValueError, match=r"v must have shape \(4,\)"):
        objective.hessp(np.zeros(4), np.zeros(5))
    with pytest.raises(TypeError, match="w has dtype complex128"):
        objective.fun(np.zeros(4, complex))
    with pytest.raises(ValueError, match=r"X must have 3 columns .* got shape \(2, 4\)"):
        objective.predict(np.zeros(4), np.zeros((2, 4)))
    with pytest.raises(TypeError, match="jac cannot be given: the objective has its own"):
        objective.minimize(jac="2-point")
    X[7, 1] = np.nan
    with pytest.raises(ValueError, match="nan at w0: the data or w0 hold NaN"):
        objective.minimize()
    assert sl.optimize.LinearObjective is LinearObjective


def test_columns_of_unlike_sizes_are_fitted_to_the_end():
    # SciPy's tolerance takes both for converged, at 1.16 and 2.6 times the least loss.
    rng = np.random.default_rng(0)
    n = 2000
    years = np.arange(1950.0, 1974.0)
    calls = 0.11 * (years - 1950) + rng.normal(0, 0.05, 24)
    calls[14:20] += 12.0
    income = rng.lognormal(10.5, 0.6, n)
    X = np.column_stack([rng.uniform(18, 90, n), income])
    y = 3 + 0.05 * X[:, 0] + 2e-5 * income + rng.standard_t(2, n) * 0.3
    for matrix, target, beta in ((years[:, None], calls, 0.1), (X, y, 0.4)):
        size = matrix.std(axis=0)
        scaled = LinearObjective((matrix - matrix.mean(axis=0)) / size, target, beta=beta)
        best = scaled.minimize(options={"ftol": 0.0, "gtol": 1e-11})
        found = LinearObjective(matrix, target, beta=beta).minimize()
        assert found.success
        assert found.fun <= best.fun * (1 + 1e-9)
        np.testing.assert_allclose(found.coef * size, best.coef, rtol=1e-4)


@pytest.mark.parametrize("given", [{"tol": 1e-2}, {"options": {"ftol": 1e-2}}])
def test_tolerances_that_are_given_are_kept(given):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 5))
    y = X @ np.arange(5.0) + rng.normal(size=500)
    model = LinearObjective(X, y, beta=0.7)
    assert model.minimize(**given).nit < model.minimize().nit
