"""The short way gives the bits of the long one, and leaves alone what is not for it."""

import numpy as np
import pytest
from reference import elements

import smoothl1 as sl
from smoothl1 import short, threads

SIZES = (1, 63, 1024, 1025, 199_999, 200_000, 300_001, 2_000_003)


@pytest.fixture(autouse=True)
def _two_threads():
    before = sl.get_num_threads()
    sl.set_num_threads(2)
    yield
    sl.set_num_threads(before)


def long_way(x, target, beta, reduction):
    """Loss and gradient with `out`, which the short way does not take."""
    out = np.empty((), x.dtype)
    value, grad = sl.smooth_l1_value_and_grad(x, target, beta=beta, reduction=reduction, out=out)
    return value[()], grad


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bits_of_the_long_way(rng, n, dtype):
    x, target = rng.normal(size=(2, n)).astype(dtype)
    assert short.fits(x, target)
    for beta, reduction in ((0.0, "sum"), (0.3, "mean"), (2.5, "sum")):
        value, grad = long_way(x, target, beta, reduction)
        options = {"beta": beta, "reduction": reduction}
        assert sl.smooth_l1_loss(x, target, **options) == value
        room = np.full_like(x, np.nan)
        for given in (None, room):
            got, slopes = sl.smooth_l1_value_and_grad(x, target, grad_out=given, **options)
            assert got == value
            assert np.array_equal(slopes, grad)
        assert slopes is room
        with threads.serially():
            assert sl.smooth_l1_loss(x, target, **options) == value


@pytest.mark.parametrize("beta", [0, 1, 3, 2**53, 2**60])
def test_thresholds_that_are_integers(rng, beta):
    x, target = rng.normal(size=(2, 8, 8))
    for function in (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_hess):
        for axis in (None, 1):
            got = function(x, target, beta=beta, axis=axis)
            np.testing.assert_array_equal(got, function(x, target, beta=float(beta), axis=axis))
    got = sl.smooth_l1_value_and_grad(x, target, beta=beta)
    assert np.array_equal(got[1], sl.smooth_l1_grad(x, target, beta=float(beta)))
    assert got[0] == pytest.approx(elements(x, target, float(beta))[0].mean(), rel=1e-14)


def test_operands_stay_writable(rng):
    x, target = rng.normal(size=(2, 300_000))
    sl.smooth_l1_loss(x, target)
    sl.smooth_l1_value_and_grad(x, target, grad_out=np.empty_like(x))
    assert x.flags.writeable
    assert target.flags.writeable


@pytest.mark.parametrize("n", [1000, 300_000])
def test_gradients_over_operands(rng, n):
    x, target = rng.normal(size=(2, n))
    _, wanted = sl.smooth_l1_value_and_grad(x, target, beta=0.3)
    own, room = x.copy(), np.concatenate([x, [0.0]])
    for operand, out in ((own, own), (room[:-1], room[1:])):
        assert not short.takes(out, operand, target)
        _, grad = sl.smooth_l1_value_and_grad(operand, target, beta=0.3, grad_out=out)
        assert np.array_equal(grad, wanted)


def test_outputs_that_do_not_fit_are_refused_as_ever(rng):
    x, target = rng.normal(size=(2, 300_000))
    fixed = np.empty_like(x)
    fixed.flags.writeable = False
    for out, error in (
        (fixed, ValueError),
        (np.empty(3), ValueError),
        ([0.0], TypeError),
        (np.empty(300_000, np.float32), TypeError),
    ):
        with pytest.raises(error, match="grad_out"):
            sl.smooth_l1_value_and_grad(x, target, grad_out=out)


def test_sums_beyond_float32_are_infinite():
    x, target = np.full(300_000, 3e38, np.float32), np.zeros(300_000, np.float32)
    assert sl.smooth_l1_loss(x, target, reduction="sum") == np.inf
    assert np.isfinite(sl.smooth_l1_loss(x, target))


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is optional")


@pytest.mark.parametrize("n", [1000, 300_001])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_tensors_have_the_bits_of_arrays(torch, rng, n, dtype):
    x, target = rng.normal(size=(2, n)).astype(dtype)
    value, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3)
    leaf, other = torch.tensor(x, requires_grad=True), torch.tensor(target)
    loss = sl.smooth_l1_loss(leaf, other, beta=0.3)
    loss.backward()
    both = sl.smooth_l1_value_and_grad(leaf.detach(), other, beta=0.3)
    for got, slopes in ((loss, leaf.grad), both):
        assert got.item() == value
        assert np.array_equal(slopes.numpy(), grad)


@pytest.mark.parametrize("n", [1000, 300_000])
def test_tensors_stay_on_their_device(torch, n):
    x, target = torch.ones(n, requires_grad=True), torch.zeros(n)
    with torch.device("meta"):
        loss = sl.smooth_l1_loss(x, target, beta=0.5)
        loss.backward()
    assert loss.device.type == x.grad.device.type == "cpu"
    assert loss.item() == 0.75


@pytest.mark.parametrize("n", [1000, 300_000])
def test_memory_of_tensors_can_still_be_resized(torch, n):
    x, target = torch.ones(n), torch.zeros(n)
    _, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.5)
    assert all(tensor.untyped_storage().resizable() for tensor in (x, target, grad))


@pytest.mark.parametrize("n", [1000, 300_000])
def test_tensors_without_memory_do_not_end_the_process(torch, n):
    x = torch.ones(n)
    x.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match=r"x must be .* it has no memory"):
        sl.smooth_l1_loss(x, torch.ones(n))
    assert sl.smooth_l1_loss(torch._efficientzerotensor(n), torch.ones(n)) == 0.5


def test_sums_of_tensors_beyond_float32_are_infinite(torch):
    x = torch.full((300_000,), 3e38)
    assert sl.smooth_l1_loss(x, torch.zeros(300_000), reduction="sum").item() == np.inf
