"""Kernels that read NumPy's array objects: right for every array, or not used."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import BETAS, LAYOUTS, SHAPES, numbers, specials
from reference import Reference

import smoothl1 as sl
from smoothl1 import short, small


def fits(x, target):
    """Whether the kernel for the type of x takes both arrays."""
    value = small.LOSS[x.dtype](id(x), id(target), 0.3, True)
    return not value < 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [*SHAPES, (1024,), (32, 32), (1025,)])
def test_values(shape, dtype):
    x, target = numbers(shape, 1, dtype), numbers(shape, 2, dtype)
    assert fits(x, target) == (0 < x.size <= small.MOST)
    for beta in BETAS:
        for reduction in ("mean", "sum"):
            wanted = Reference(x, target, beta=beta, reduction=reduction)
            options = {"beta": beta, "reduction": reduction}
            value, grad = sl.smooth_l1_value_and_grad(x, target, **options)
            tolerance = 1e-14 if dtype == "float64" else 1.2e-7
            np.testing.assert_allclose(value, wanted.loss(), rtol=tolerance)
            np.testing.assert_allclose(grad, wanted.grad(), rtol=tolerance)
            assert type(value) is np.dtype(dtype).type
            assert (grad.dtype, grad.shape) == (x.dtype, x.shape)
            loss = sl.smooth_l1_loss(x, target, **options)
            assert np.array_equal(loss, value, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_only_plain_arrays_fit(layout, other):
    x, target = LAYOUTS[layout](numbers((5, 4), 1)), LAYOUTS[other](numbers((5, 4), 2))
    assert fits(x, target) == ({layout, other} <= {"contiguous", "read_only"})
    wanted = Reference(x.astype(float), target.astype(float), beta=0.3)
    value, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3)
    np.testing.assert_allclose(value, wanted.loss(), rtol=1e-15)
    np.testing.assert_allclose(grad, wanted.grad(), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_edges(dtype):
    x = specials(dtype)
    target = np.zeros_like(x)
    for one in range(x.size):
        part = slice(one, one + 1)
        wanted = Reference(x[part], target[part], beta=1.0)
        value, grad = sl.smooth_l1_value_and_grad(x[part], target[part], beta=1.0)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(value, wanted.loss().astype(dtype))
            np.testing.assert_array_equal(grad, wanted.grad().astype(dtype))


def test_sums_beyond_float32_are_infinite_without_a_warning():
    x, target = np.full(100, 3e38, np.float32), np.zeros(100, np.float32)
    for value in (
        sl.smooth_l1_loss(x, target, reduction="sum"),
        sl.smooth_l1_value_and_grad(x, target, reduction="sum")[0],
    ):
        assert value == np.inf
    assert np.isfinite(sl.smooth_l1_loss(x, target))


def test_other_shapes_types_and_kinds_do_not_fit():
    x = np.ones((4, 6))
    for target in (np.ones((6, 4)), np.ones(24), np.ones((4, 6, 1)), np.ones((4, 6), np.float32)):
        assert not fits(x, target)
        assert not fits(target, x)
    huge = np.broadcast_to(1.0, (1 << 20, 1 << 20))
    for kind in (huge, x.astype(int), x.astype(complex), x.astype(object), x.astype(np.float16)):
        assert not fits(kind, kind)
    named = np.zeros(3, [("a", "f8")])
    assert not fits(named, named)


def test_types_that_are_equal_fit():
    x = np.arange(6.0)
    copied = pickle.loads(pickle.dumps(x))
    noted = x.astype(np.dtype(np.float64, metadata={"unit": "m"}))
    for other in (copied, noted):
        assert fits(x, other)
        assert fits(other, x)


def test_a_gradient_that_is_given(rng):
    x, target = rng.normal(size=(2, 8, 5))
    room = np.full((8, 5), np.nan)
    _, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3, grad_out=room)
    assert grad is room
    np.testing.assert_allclose(grad, Reference(x, target, beta=0.3).grad(), rtol=1e-15)
    over = x.copy()
    _, grad = sl.smooth_l1_value_and_grad(over, target, beta=0.3, grad_out=over)
    assert grad is over
    assert np.array_equal(over, room)


def test_many_threads(rng):
    x, target = rng.normal(size=(2, 1000))
    wanted = sl.smooth_l1_loss(x, target, beta=0.3)

    def work(_):
        return {sl.smooth_l1_loss(x.copy(), target.copy(), beta=0.3) for _ in range(500)}

    with ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(work, range(8))) == {wanted}


@pytest.mark.parametrize(
    "word", ["DATA", "NDIM", "SIZES", "STRIDES", "DESCRIPTION", "FLAGS", "TYPE"]
)
def test_another_layout_is_noticed(monkeypatch, word):
    assert small.is_known()
    monkeypatch.setattr(small, word, small.FLAGS if word == "DATA" else small.DATA)
    assert not small.is_known.__wrapped__()


def test_nothing_fits_if_the_layout_is_another(monkeypatch, rng):
    x, target = rng.normal(size=(2, 100))
    wanted = sl.smooth_l1_value_and_grad(x, target, beta=0.3)
    monkeypatch.setattr(small, "is_known", lambda: False)
    for name in ("LOSS", "LOSS_AND_GRAD"):
        entries = type(small.LOSS)(getattr(small, name)._kernels)
        monkeypatch.setattr(short, name, entries)
        assert entries[x.dtype](id(x), id(target), 0.3, True, id(x)) == small.UNFIT
    value, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3)
    assert value == wanted[0] == sl.smooth_l1_loss(x, target, beta=0.3)
    assert np.array_equal(grad, wanted[1])


def test_nothing_fits_without_the_gil(monkeypatch):
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)
    assert not small.is_known.__wrapped__()


def test_a_gradient_of_another_shape_is_not_written(rng):
    x, target = rng.normal(size=(2, 100))
    room = np.zeros(100)
    run = small.LOSS_AND_GRAD[x.dtype]
    for grad in (room[:99], room.reshape(10, 10), room[::2]):
        assert run(id(x), id(target), 0.3, True, id(grad)) < 0
    assert not room.any()
