"""The short way gives JAX the bits of NumPy, in arrays as JAX makes them."""

from types import SimpleNamespace

import numpy as np
import pytest

import smoothl1 as sl

jax = pytest.importorskip("jax", reason="JAX is optional")
short_jax = pytest.importorskip("smoothl1.short_jax")

SIZES = ((64,), (32, 33), (300_001,), (600, 1000))


def pair(rng, shape, dtype="float32"):
    values = rng.normal(size=(2, *shape)).astype(dtype)
    return values, [jax.numpy.asarray(value) for value in values]


@pytest.fixture
def without_pjrt(monkeypatch):
    """As if PJRT's function had gone, or did something else."""
    for kept in ("_makers", "_PLACES"):
        monkeypatch.setattr(short_jax, kept, type(getattr(short_jax, kept))())

    def use(**found):
        module = SimpleNamespace(**found)
        others = SimpleNamespace(import_module=lambda name: module)
        monkeypatch.setattr(short_jax, "importlib", others)

    return use


def is_fast():
    (device,) = jax.numpy.ones(1).devices()
    return "_fast_maker" in short_jax._maker(device).put.__qualname__


def check_bits(rng, shape, dtype):
    (x, target), given = pair(rng, shape, dtype)
    for beta, reduction in ((0.0, "sum"), (0.3, "mean"), (2.5, "auto")):
        options = {"beta": beta, "reduction": reduction}
        wanted = sl.smooth_l1_value_and_grad(x, target, **options)
        loss = sl.smooth_l1_loss(*given, **options)
        results = sl.smooth_l1_value_and_grad(*given, **options)
        for got, numbers in ((loss, wanted[0]), *zip(results, wanted, strict=True)):
            assert isinstance(got, jax.Array)
            assert np.array_equal(got, numbers)
            assert got.dtype == dtype
            assert not got.weak_type
            assert not got.committed
            assert (got + 1).shape == np.shape(numbers)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_numpy(rng, shape, dtype):
    with jax.enable_x64(True):
        check_bits(rng, shape, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(64,), (4, 5, 6), (600, 400)])
def test_bits_of_numpy_along_axes_and_elementwise(rng, shape, dtype):
    functions = (
        sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_hess, sl.smooth_l1_value_and_grad
    )  # fmt: skip
    with jax.enable_x64(True):
        (x, target), given = pair(rng, shape, dtype)
        for axis, keepdims in (
            (0, False),
            (-1, True),
            ((*{0, len(shape) - 1},), False),
            (None, True),
        ):
            for function in functions:
                options = {"axis": axis, "keepdims": keepdims, "beta": 0.3}
                check_tree(function(*given, **options), function(x, target, **options))
        for function in functions[:3]:
            options = {"reduction": "none", "beta": 2.5}
            check_tree(function(*given, **options), function(x, target, **options))


def check_tree(got, wanted):
    for array, numbers in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert isinstance(array, jax.Array)
        assert array.dtype == numbers.dtype
        assert np.array_equal(array, numbers)


def test_overflow_and_nan_are_found_if_jax_is_asked(rng):
    x = jax.numpy.asarray([[1.0, np.inf], [0.5, 2.0]])
    for axis in (None, 1):
        assert np.isinf(sl.smooth_l1_loss(x, x.T + 1, axis=axis)).any()
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        sl.smooth_l1_loss(x, x, axis=1)


def test_the_function_of_pjrt_is_known(without_pjrt):
    assert is_fast()


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"batched_device_put": lambda *given: jax.numpy.zeros(2)},
        {"batched_device_put": lambda: 0},
        {"batched_device_put": lambda kind, where, given, *rest: jax.numpy.asarray(
            np.asarray(given[0], np.float16)
        )},
        {"batched_device_put": lambda kind, where, given, *rest: jax.numpy.zeros(
            kind.shape, kind.dtype
        ) if isinstance(given[0], float) else jax.numpy.asarray(given[0])},
    ],
)  # fmt: skip
def test_without_that_function(rng, without_pjrt, found):
    without_pjrt(**found)
    assert not is_fast()
    for shape in SIZES:
        check_bits(rng, shape, "float32")
    _, (x, target) = pair(rng, (64,))
    assert sl.smooth_l1_loss(jax.device_put(x, jax.devices()[0]), target).committed


def test_a_guard_does_not_choose_for_ever(without_pjrt):
    (device,) = jax.numpy.ones(1).devices()
    with jax.transfer_guard("disallow"):
        short_jax._maker(device)
    assert is_fast()


def test_committed_as_operands_are(rng):
    _, (x, target) = pair(rng, (64,))
    put = jax.device_put(target, jax.devices()[0])
    assert put.committed
    for arrays in ((x, put), (put, x)):
        loss, grad = sl.smooth_l1_value_and_grad(*arrays)
        assert sl.smooth_l1_loss(*arrays).committed
        assert sl.smooth_l1_loss(*arrays, axis=0).committed
        assert sl.smooth_l1_grad(*arrays).committed
        assert loss.committed
        assert grad.committed


def test_what_is_not_for_the_short_way(rng):
    _, (x, target) = pair(rng, (64,))
    with jax.enable_x64(True):
        wide = x.astype("float64"), target.astype("float64")
    assert sl.smooth_l1_loss(*wide).dtype == np.float32  # JAX without 64 bits makes no others
    number = jax.numpy.asarray(2.0)
    for left, right in (
        (x, target[:1]), (x, np.float32(2)), (number, number), (x.astype("bfloat16"),) * 2,
        (x.astype("int32"), target.astype("int32")), (x[:0], target[:0]),
    ):  # fmt: skip
        assert short_jax.loss(left, right, 0.3, True, None, False) is None
        assert short_jax.value_and_grad(left, right, 0.3, True, None, False, None) is None
        wanted = sl.smooth_l1_loss(np.asarray(left), np.asarray(right), beta=0.3)
        assert np.allclose(sl.smooth_l1_loss(left, right, beta=0.3), wanted, 1e-2, equal_nan=True)
    assert short_jax.value_and_grad(x, target, 0.3, True, None, False, x) is None


def test_gradients_are_memory_of_their_own(rng):
    for shape in SIZES:
        _, (x, target) = pair(rng, shape)
        grads = [sl.smooth_l1_value_and_grad(x, target, beta=beta)[1] for beta in (0.3, 2.5)]
        places = {array.unsafe_buffer_pointer() for array in (x, target, *grads)}
        assert len(places) == 4


def test_deleted_arrays(rng):
    _, (x, target) = pair(rng, (64,))
    target.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        sl.smooth_l1_loss(x, target)


def test_inside_of_a_trace(rng):
    (x, target), given = pair(rng, (64,))
    wanted = sl.smooth_l1_loss(x, target, beta=0.3)
    traced = jax.jit(lambda y: y + sl.smooth_l1_loss(*given, beta=0.3))
    np.testing.assert_allclose(traced(1.0), 1 + wanted, rtol=1e-6)
    grad = jax.grad(lambda y: sl.smooth_l1_loss(y, given[1], beta=0.3))(given[0])
    np.testing.assert_allclose(grad, sl.smooth_l1_grad(x, target, beta=0.3), rtol=1e-6)


def test_shardings_over_one_cpu(rng):
    (x, target), given = pair(rng, (8, 6))
    mesh = jax.make_mesh((1,), ("rows",))
    for spec in (("rows",), (None, "rows"), ()):
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        left, right = (jax.device_put(array, sharding) for array in given)
        for axis in (None, 0, 1):
            got = sl.smooth_l1_value_and_grad(left, right, beta=0.3, axis=axis)
            wanted = sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=axis)
            for result, numbers in zip(got, wanted, strict=True):
                assert np.array_equal(jax.jit(lambda y: y + 0)(result), numbers)
                assert result.committed
    assert all(type(key) is jax.sharding.SingleDeviceSharding for key in short_jax._PLACES)


def test_other_memory_of_a_cpu(rng):
    (x, target), given = pair(rng, (8, 6))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    left, right = (jax.device_put(array, place) for array in given)
    for got, numbers in zip(
        sl.smooth_l1_value_and_grad(left, right), sl.smooth_l1_value_and_grad(x, target),
        strict=True,
    ):  # fmt: skip
        assert np.array_equal(got + 0, numbers)


def test_nans_are_looked_for_if_jax_is_asked_to():
    x = jax.numpy.asarray([1.0, np.nan])
    for function in (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_value_and_grad):
        for axis in (None, 0):
            assert np.isnan(jax.tree.leaves(function(x, x, axis=axis))[-1]).any()
            with jax.debug_nans(True), pytest.raises(FloatingPointError):
                function(x, x, axis=axis)


def test_the_second_cpu(run_python):
    run_python(
        """
        import jax, numpy as np, smoothl1 as sl
        first, second = jax.devices()
        for x in (jax.numpy.arange(6), jax.numpy.arange(6.0)):
            x = jax.device_put(x, second)
            for function in (sl.smooth_l1_loss, sl.smooth_l1_grad):
                for options in ({}, {"axis": 0}):
                    got = function(x, x + 1, **options)
                    assert got.devices() == {second}, (x.dtype, function, options)
                    assert got.committed and got.dtype == np.float32
        with jax.default_device(second):
            x = jax.numpy.arange(6.0)
        got = sl.smooth_l1_loss(x, x)
        assert got.devices() == {second} and not got.committed
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )


def test_classes_of_that_name_by_others():
    class ArrayImpl:
        pass

    with pytest.raises(TypeError, match=r"x must be a numpy\.ndarray, a list or a number"):
        sl.smooth_l1_loss(ArrayImpl(), [1.0])
