"""The short way gives JAX the bits of NumPy, in arrays as JAX makes them."""

import numpy as np
import pytest

import smoothl1 as sl

jax = pytest.importorskip("jax", reason="JAX is optional")
short_jax = pytest.importorskip("smoothl1.short_jax")

SIZES = ((64,), (32, 33), (300_001,), (600, 1000))


def pair(rng, shape, dtype="float32"):
    values = rng.normal(size=(2, *shape)).astype(dtype)
    return values, [jax.numpy.asarray(value) for value in values]


@pytest.mark.parametrize("put", [short_jax._put, short_jax._put_slowly])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_numpy(monkeypatch, rng, put, shape, dtype):
    monkeypatch.setattr(short_jax, "_put", put)
    with jax.enable_x64(True):
        (x, target), given = pair(rng, shape, dtype)
        for beta, reduction in ((0.0, "sum"), (0.3, "mean"), (2.5, "auto")):
            options = {"beta": beta, "reduction": reduction}
            wanted = sl.smooth_l1_value_and_grad(x, target, **options)
            loss = sl.smooth_l1_loss(*given, **options)
            assert np.array_equal(loss, wanted[0])
            for got, numbers in zip(
                sl.smooth_l1_value_and_grad(*given, **options), wanted, strict=True
            ):
                assert isinstance(got, jax.Array)
                assert np.array_equal(got, numbers)
                assert got.dtype == dtype
                assert not got.weak_type
                assert not got.committed
                assert (got + 1).shape == np.shape(numbers)


def test_the_function_of_pjrt_is_known():
    assert short_jax._find_put() is not short_jax._put_slowly


def test_without_that_function(monkeypatch):
    import jaxlib.xla_client

    for other in (None, lambda *arguments: jax.numpy.zeros(2)):
        monkeypatch.setattr(jaxlib.xla_client, "batched_device_put", other)
        assert short_jax._find_put() is short_jax._put_slowly


def test_committed_as_operands_are(rng):
    _, (x, target) = pair(rng, (64,))
    put = jax.device_put(target, jax.devices()[0])
    assert put.committed
    for arrays in ((x, put), (put, x)):
        loss, grad = sl.smooth_l1_value_and_grad(*arrays)
        assert sl.smooth_l1_loss(*arrays).committed
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
