"""JAX's traced arrays: the same values as eager ones, and derivatives by every transform."""

import contextlib

import numpy as np
import pytest
from cases import dtype_of
from reference import Reference, ulps_apart

import smoothl1 as sl

jax = pytest.importorskip("jax", reason="JAX is optional")
FUNCTIONS = (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_value_and_grad, sl.smooth_l1_hess)


def x64(enabled):
    return jax.enable_x64(True) if enabled else contextlib.nullcontext()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"axis": 0}, {"masked": True}])
@pytest.mark.parametrize(
    ("wide", "dtype"),
    [(False, "float32"), (False, "float16"), (False, "bfloat16"), (True, "float64"),
     (True, "float32")],
)  # fmt: skip
def test_traced_and_eager_agree_to_one_ulp(rng, function, options, wide, dtype):
    options = {"beta": 0.3} | options
    arrays = {"x": rng.normal(size=(50, 70)), "target": rng.normal(size=70)}
    if options.pop("masked", False):
        arrays["weight"] = rng.random((50, 1))
    arrays = {name: values.astype(dtype_of(dtype)) for name, values in arrays.items()}
    with x64(wide):
        given = {name: jax.numpy.asarray(values) for name, values in arrays.items()}
        if "weight" in given:
            given["where"] = jax.numpy.asarray(arrays["x"] > -1)
        eager = jax.tree.leaves(function(**given, **options))
        traced = jax.tree.leaves(jax.jit(lambda given: function(**given, **options))(given))
    for one, other in zip(eager, traced, strict=True):
        assert one.dtype == other.dtype == dtype_of(dtype)
        if dtype == "float64" and options.get("reduction") != "none":  # sums of their own order
            np.testing.assert_allclose(one, other, rtol=1e-14)
            continue
        pairs = zip(np.ravel(one).tolist(), np.ravel(other).tolist(), strict=True)
        assert max(ulps_apart(a, b, dtype) for a, b in pairs) <= 1


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("axis", [None, 0])
def test_transforms(rng, wide, axis):
    arrays = {"x": rng.normal(size=(4, 3)), "target": rng.normal(size=3)}
    if not wide:
        arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    reference = Reference(**arrays, beta=0.7, axis=axis)
    close = {"rtol": 1e-12 if wide else 2e-6, "atol": 1e-12 if wide else 1e-7}

    def total(x, target):
        return sl.smooth_l1_loss(x, target, beta=0.7, axis=axis).sum()

    with x64(wide):
        x, target = (jax.numpy.asarray(values) for values in arrays.values())
        for by, wrt in enumerate(("x", "target")):
            grad = jax.grad(total, argnums=by)
            for function in (grad, jax.jit(grad)):
                np.testing.assert_allclose(function(x, target), reference.grad(wrt), **close)
        hessian = jax.hessian(total)(x, target).reshape(12, 12)
        np.testing.assert_allclose(np.diag(hessian), reference.hess().ravel(), **close)
        assert not np.any(hessian - np.diag(np.diag(hessian)))
        value, change = jax.jvp(total, (x, target), (x, 0 * target))
        np.testing.assert_allclose(value, reference.loss().sum(), **close)
        np.testing.assert_allclose(change, (reference.grad() * arrays["x"]).sum(), **close)
        rows = jax.vmap(lambda row: sl.smooth_l1_value_and_grad(row, target, beta=0.7))(x)
        by_row = Reference(**arrays, beta=0.7, axis=1)
        np.testing.assert_allclose(rows[0], by_row.loss(), **close)
        np.testing.assert_allclose(rows[1], by_row.grad(), **close)


@pytest.mark.parametrize("wide", [False, True])
def test_derivatives_at_the_edges(wide):
    edges = [0.0, 0.4, -0.4, 0.3, np.inf, -np.inf, np.nan]
    for beta, slopes, curvatures in (
        (0.4, [0, 1, -1, 0.75, 1, -1, np.nan], [2.5, 0, 0, 2.5, 0, 0]),
        (0.0, [0, 1, -1, 1, 1, -1, np.nan], [0] * 6),
    ):

        def total(x, beta=beta):
            return sl.smooth_l1_loss(x, 0.0, beta=beta, reduction="sum")

        with x64(wide):
            beta = beta if wide else float(np.float32(beta))
            x = jax.numpy.asarray(edges)
            np.testing.assert_allclose(jax.grad(total)(x), slopes, rtol=1e-6)
            second = jax.grad(lambda x, f=total: jax.grad(f)(x).sum())(x)
            np.testing.assert_allclose(second[:-1], curvatures, rtol=1e-6)


def test_weights_and_thresholds_have_gradients(rng):
    """By differences of the definition, and none from elements left out."""
    x = rng.normal(size=(4, 3))
    weight, beta = rng.random((4, 1)) + 0.1, rng.random(3) + 0.2
    where = x > -0.5

    def definition(weight, beta):
        return float(Reference(x, 0.25, weight=weight, beta=beta, where=where).loss())

    with jax.enable_x64(True):
        data = jax.numpy.asarray(np.where(where, x, np.nan))

        def total(weight, beta):
            return sl.smooth_l1_loss(data, 0.25, weight=weight, beta=beta, where=where.tolist())

        grads = jax.grad(total, argnums=(0, 1))(jax.numpy.asarray(weight), jax.numpy.asarray(beta))
    for by, values in enumerate((weight, beta)):
        for index in np.ndindex(values.shape):
            step = np.zeros(values.shape)
            step[index] = 1e-6
            moved = [[weight, beta], [weight, beta]]
            moved[0][by], moved[1][by] = values + step, values - step
            slope = (definition(*moved[0]) - definition(*moved[1])) / 2e-6
            assert grads[by][index] == pytest.approx(slope, abs=1e-8)


def test_loops_and_checkpoints(rng):
    x = jax.numpy.asarray(rng.normal(size=(5, 3)), "float32")

    def step(total, row):
        return total + sl.smooth_l1_loss(row, 0.25, beta=0.3), None

    def looped(x):
        return jax.lax.scan(step, jax.numpy.float32(0), x)[0]

    for function in (looped, jax.checkpoint(looped), jax.jit(looped)):
        np.testing.assert_allclose(
            jax.grad(function)(x), 5 * sl.smooth_l1_grad(x, 0.25, beta=0.3), rtol=1e-6
        )


def test_dtypes_and_outputs_that_jax_does_not_have():
    x = jax.numpy.ones(3)
    for function in (
        sl.smooth_l1_loss,
        jax.jit(lambda x, t, **o: sl.smooth_l1_loss(x, t, dtype="float64")),
    ):
        with pytest.raises(TypeError, match=r"dtype float64 needs jax\.config\.update"):
            function(x, x, **({} if function is not sl.smooth_l1_loss else {"dtype": "float64"}))
    assert sl.smooth_l1_loss(jax.numpy.arange(3), 1).dtype == np.float32
    assert jax.jit(lambda x: sl.smooth_l1_loss(x, 1))(jax.numpy.arange(3)).dtype == np.float32
    with pytest.raises(TypeError, match="out must be None for a jax"):
        jax.jit(lambda x: sl.smooth_l1_loss(x, x, out=x))(x)
    with pytest.raises(ValueError, match="out must be writable"):
        sl.smooth_l1_loss(x, x, reduction="none", out=x)
    large = jax.numpy.ones(300_000)
    with pytest.raises(ValueError, match="out must be writable"):
        sl.smooth_l1_grad(large, large, out=large)


def test_mixed_with_numpy_is_refused_while_tracing(rng):
    with pytest.raises(TypeError, match=r"one kind, got jax\.Array for x and numpy"):
        jax.jit(lambda x: sl.smooth_l1_loss(x, rng.normal(size=3)))(jax.numpy.ones(3))


def test_numbers_have_no_say_in_the_type(rng):
    for wide in (False, True):
        with x64(wide):
            for dtype in ("float32", "bfloat16"):
                x = jax.numpy.asarray(rng.normal(size=5), dtype)
                ours = [sl.smooth_l1_loss(x, s, beta=0.3) for s in (2.0, jax.numpy.asarray(2.0))]
                ours += [jax.jit(lambda s, x=x: sl.smooth_l1_loss(x, s, beta=0.3))(2.0)]
                assert {(result.dtype, float(result)) for result in ours} == {
                    (x.dtype, float(ours[0]))
                }


def test_devices(run_python):
    code = """
    import jax, numpy as np, smoothl1 as sl
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    first, second = jax.devices()
    for n in (3, 300_000):
        x = jax.device_put(jax.numpy.ones(n), second)
        loss, grad = sl.smooth_l1_value_and_grad(x, 0.25, beta=0.3)
        assert loss.devices() == grad.devices() == {second}
    sharding = NamedSharding(Mesh(np.array([first, second]), ("rows",)), PartitionSpec("rows"))
    x = jax.device_put(jax.numpy.ones(4), sharding)
    assert sl.smooth_l1_grad(x, 0.25, beta=0.3).sharding == sharding
    values = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)
    x, weight = jax.device_put(values, sharding), [0.5, 1.0, 2.0]
    from smoothl1 import kinds
    for beta in (0.3, 1.1, 0):  # one program for all of them, as for arrays on a GPU
        got = sl.smooth_l1_value_and_grad(x, 0.25, beta=beta, axis=0)
        wanted = sl.smooth_l1_value_and_grad(values, 0.25, beta=beta, axis=0)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-7)
            assert a.dtype == np.float32
    assert kinds._program.cache_info().currsize == 2
    got = sl.huber_loss(x, [0.25, 0.5, 0.75], delta=0.3, weight=weight)
    wanted = sl.huber_loss(values, [0.25, 0.5, 0.75], delta=0.3, weight=weight)
    np.testing.assert_allclose(got, wanted, rtol=3e-7)
    for options, error in (({"beta": -1.0}, "beta must be"), ({"axis": 2}, "axis 2 is out of")):
        try:
            sl.smooth_l1_loss(x, 0.25, **options)
        except ValueError as caught:
            assert str(caught).startswith(error), caught
        else:
            raise AssertionError(options)
    try:
        sl.smooth_l1_loss(jax.device_put(x, first), jax.device_put(x, second))
    except TypeError as error:
        print(error)
    """
    out = run_python(code, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert out.startswith("arrays must be on one device, got")
