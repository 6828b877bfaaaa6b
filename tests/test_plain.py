"""Plain arrays and options have the bits of the long way, whose errors stay as they are."""

import itertools

import numpy as np
import pytest
from cases import BETAS, LAYOUTS, SHAPES, numbers
from reference import Reference

import smoothl1 as sl
from smoothl1 import short

AXES = (None, 0, -1, (0, 1), (1, 0), (-1, 0), ())


def long_way(function, x, target, **options):
    """The same call with a dtype, which no short way takes."""
    return function(x, target, dtype=x.dtype, **options)


def same(got, wanted):
    return type(got) is type(wanted) and got.dtype == wanted.dtype and same_bits(got, wanted)


def same_bits(got, wanted):
    return got.shape == wanted.shape and got.tobytes() == np.asarray(wanted).tobytes()


def is_allowed(axis, ndim):
    axes = axis if isinstance(axis, tuple) else (axis,)
    return axis is None or all(-ndim <= a < ndim for a in axes)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [*SHAPES, (700, 3), (3, 700), (130, 1, 9)])
def test_bits_of_the_long_way(shape, dtype):
    x, target = numbers(shape, 1, dtype), numbers(shape, 2, dtype)
    axes = [axis for axis in AXES if is_allowed(axis, x.ndim)]
    if axes[-2:] == [(-1, 0), ()] and x.ndim == 1:
        axes.remove((-1, 0))
    for beta, reduction, axis, keepdims in itertools.product(
        BETAS, ("mean", "sum"), axes, (False, True)
    ):
        options = {"beta": beta, "reduction": reduction, "axis": axis, "keepdims": keepdims}
        wanted = long_way(sl.smooth_l1_value_and_grad, x, target, **options)
        value, grad = sl.smooth_l1_value_and_grad(x, target, **options)
        assert same(value, wanted[0])
        assert same(grad, wanted[1])
        assert same(sl.smooth_l1_loss(x, target, **options), wanted[0])
        assert same(sl.smooth_l1_grad(x, target, **options), wanted[1])
        room = np.full_like(x, np.nan)
        value, grad = sl.smooth_l1_value_and_grad(x, target, grad_out=room, **options)
        assert grad is room
        assert same(value, wanted[0])
        assert same(grad, wanted[1])
        hess = long_way(sl.smooth_l1_hess, x, target, **options)
        assert same(sl.smooth_l1_hess(x, target, **options), hess)
    for beta, function in itertools.product(
        BETAS, (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_hess)
    ):
        options = {"beta": beta, "reduction": "none"}
        wanted = long_way(function, x, target, **options)
        assert same(function(x, target, **options), wanted)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((17_000, 13), "float32"), ((3, 70_001), "float64"),
        ((5, 13, 4_000), "float32"), ((20_000, 1, 11), "float64"),
    ],
)  # fmt: skip
def test_large_arrays_have_the_bits_of_the_long_way(shape, dtype, monkeypatch):
    """Few and many sums, few and many rows, axes in the order of memory and not."""
    x, target = numbers(shape, 1, dtype), numbers(shape, 2, dtype)
    asked = []
    loss_along = short.along.loss_along
    monkeypatch.setattr(
        short.along, "loss_along", lambda *given: asked.append(given) or loss_along(*given)
    )
    axes = [0, 1, (0, 1), (), *([(0, 2), (1, 2), 2] if x.ndim == 3 else [])]
    for axis, reduction, keepdims in itertools.product(axes, ("mean", "sum"), (False, True)):
        options = {"beta": 0.3, "reduction": reduction, "axis": axis, "keepdims": keepdims}
        wanted = long_way(sl.smooth_l1_value_and_grad, x, target, **options)
        assert not asked
        got = sl.smooth_l1_value_and_grad(x, target, **options)
        assert all(map(same, got, wanted))
        assert same(sl.smooth_l1_loss(x, target, **options), wanted[0])
        assert len(asked) == 2
        asked.clear()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_large_elementwise_results_have_the_bits_of_the_long_way(dtype, monkeypatch):
    x, target = numbers((1001, 331), 1, dtype), numbers((1001, 331), 2, dtype)
    asked = []
    for name in ("losses", "slopes"):
        whole = getattr(short.plain, name)
        monkeypatch.setattr(
            short.plain, name, lambda *given, whole=whole: asked.append(given) or whole(*given)
        )
    calls = [
        (sl.smooth_l1_loss, {"reduction": "none"}),
        *((sl.smooth_l1_grad, {"reduction": reduction}) for reduction in ("mean", "sum", "none")),
        (sl.smooth_l1_grad, {"axis": 1}),
        (sl.smooth_l1_hess, {"axis": (0,)}),
        (sl.smooth_l1_hess, {"reduction": "none"}),
    ]
    before = sl.get_num_threads()
    try:
        for (function, options), beta, threads in itertools.product(calls, (0.0, 0.3), (1, 2)):
            sl.set_num_threads(threads)
            wanted = long_way(function, x, target, beta=beta, **options)
            assert not asked
            assert same(function(x, target, beta=beta, **options), wanted)
            assert len(asked) == 1
            room = np.full_like(x, np.nan)
            assert function(x, target, beta=beta, out=room, **options) is room
            assert same(room, wanted)
            assert len(asked) == (1 if function is sl.smooth_l1_loss else 2)
            asked.clear()
    finally:
        sl.set_num_threads(before)


@pytest.mark.parametrize("function", [sl.smooth_l1_grad, sl.smooth_l1_hess])
@pytest.mark.parametrize("n", [7, 300_001])
def test_where_a_result_may_not_go(function, n):
    """Into an operand it goes by a detour, and into what cannot hold it not at all."""
    x, target = numbers((n,), 1), numbers((n,), 2)
    wanted = function(x, target, beta=0.3)
    for k in (0, 1):
        operands = [x.copy(), target.copy()]
        assert function(*operands, beta=0.3, out=operands[k]) is operands[k]
        assert same(operands[k], wanted)
    locked = np.zeros_like(x)
    locked.flags.writeable = False
    for out, error in (
        (locked, ValueError), (np.zeros(n, np.float32), TypeError), (np.zeros(n + 1), ValueError),
        ([0.0] * n, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match="out"):
            function(x, target, out=out)
    assert not locked.any()


@pytest.mark.parametrize("rows", [4, 400, 1000])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_results_too_small_or_large_are_no_error(rows, axis):
    for number, result in ((1e-30, 0.0), (3e38, np.inf)):
        x = np.full((rows, 300), number, np.float32)
        with np.errstate(all="raise"):
            loss = sl.smooth_l1_loss(x, -x, axis=axis, beta=0.3, reduction="sum")
            value, _ = sl.smooth_l1_value_and_grad(x, -x, axis=axis, beta=0.3, reduction="sum")
        assert np.all(loss == result)
        assert np.all(value == result)


def test_the_definition(rng):
    x, target = rng.normal(size=(2, 6, 5, 7))
    for axis, beta in itertools.product((0, 1, 2, (0, 1), (1, 2), (0, 2)), (0.0, 0.3, 2.5)):
        wanted = Reference(x, target, beta=beta, axis=axis)
        got = sl.smooth_l1_value_and_grad(x, target, beta=beta, axis=axis)
        np.testing.assert_allclose(got[0], wanted.loss(), rtol=1e-14)
        np.testing.assert_allclose(got[1], wanted.grad(), rtol=1e-15)
        hess = sl.smooth_l1_hess(x, target, beta=beta, axis=axis)
        np.testing.assert_allclose(hess, wanted.hess(), rtol=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x, target = LAYOUTS[layout](numbers((9, 4), 1)), numbers((9, 4), 2)
    for axis in (0, 1):
        wanted = Reference(x.astype(float), target, beta=0.3, axis=axis)
        got = sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=axis)
        np.testing.assert_allclose(got[0], wanted.loss(), rtol=1e-15)
        np.testing.assert_allclose(got[1], wanted.grad(), rtol=1e-15)


@pytest.mark.parametrize("layout", ["contiguous", "read_only"])
def test_plain_arrays_come_this_way(monkeypatch, layout):
    calls = []
    for name in ("losses", "slopes", "loss_along"):
        monkeypatch.setattr(short.plain, name, lambda *given, name=name: calls.append(name))
    x = LAYOUTS[layout](numbers((9, 4), 1))
    sl.smooth_l1_loss(x, x, reduction="none")
    sl.smooth_l1_loss(x, x, axis=0)
    sl.smooth_l1_value_and_grad(x, x, axis=1)
    sl.smooth_l1_grad(x, x)
    sl.smooth_l1_hess(x, x)
    assert calls == ["losses", "loss_along", "loss_along", "slopes", "slopes"]


def test_axes_that_look_alike():
    x, target = numbers((4, 4), 1), numbers((4, 4), 2)
    wanted = sl.smooth_l1_loss(x, target, axis=1)
    for axis in (np.int64(1), [1], (1,), (np.int64(1),)):
        assert np.array_equal(sl.smooth_l1_loss(x, target, axis=axis), wanted)
    for function in (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_value_and_grad):
        for axis in (True, (True,), 1.0, "1"):
            with pytest.raises(TypeError, match="axis must be None, an integer or a tuple"):
                function(x, target, axis=axis)
        for axis in (2, (0, -3)):
            with pytest.raises(np.exceptions.AxisError, match="is out of bounds"):
                function(x, target, axis=axis)
        with pytest.raises(ValueError, match="axis must not name an axis twice"):
            function(x, target, axis=(1, -1))
        with pytest.raises(ValueError, match="axis must be None with reduction='none'"):
            function(x, target, axis=0, reduction="none")
        for keepdims in (None, "yes", 2):
            with pytest.raises(TypeError, match="keepdims"):
                function(x, target, axis=0, keepdims=keepdims)


def test_sums_beyond_float32_are_infinite_without_a_warning():
    x, target = np.full((3, 50), 3e38, np.float32), np.zeros((3, 50), np.float32)
    assert np.array_equal(sl.smooth_l1_loss(x, target, axis=1, reduction="sum"), [np.inf] * 3)
    assert np.isfinite(sl.smooth_l1_loss(x, target, axis=1)).all()
