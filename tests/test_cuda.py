"""Kernels of GPUs in numba's simulator; test_simulator.py runs this file there."""

import functools
import os
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from cases import dtype_of, specials
from reference import Reference, exact_loss, ulps_apart

import smoothl1 as sl

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    pytest.skip("runs in numba's simulator of GPUs: see test_simulator.py", allow_module_level=True)

from numba import cuda as numba_cuda

from smoothl1 import (
    boxes,
    calls,
    cuda,
    cuda_arguments,
    cuda_boxes,
    cuda_crossing,
    cuda_launch,
    cuda_sums,
    devices,
    views,
)

to_device = numba_cuda.to_device
FUNCTIONS = (sl.smooth_l1_grad, sl.smooth_l1_hess, sl.smooth_l1_loss)
BETAS = [0.0, 1e-3, 0.3, 0.7, 1.0, 2.5, 1e4]


def on_device(arguments):
    return {n: to_device(v) if isinstance(v, np.ndarray) else v for n, v in arguments.items()}


def worst(got, wanted):
    """Largest distance of two arrays of floats in units of the last place."""
    got, wanted = got.copy_to_host(), np.asarray(wanted)
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    pairs = zip(got.ravel().tolist(), wanted.ravel().tolist(), strict=True)
    return max(ulps_apart(a, b, got.dtype) for a, b in pairs)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_elements_are_within_2_ulp_of_the_cpu(dtype, beta, rng):
    scale = 10.0 ** rng.uniform(-4, 4, 300)
    x = (rng.normal(size=300) * scale).astype(dtype_of(dtype))
    target = (rng.normal(size=300) * scale[::-1]).astype(dtype_of(dtype))
    target[::7] = x[::7]
    for function in FUNCTIONS:
        got = function(to_device(x), to_device(target), beta=beta, reduction="none")
        assert worst(got, function(x, target, beta=beta, reduction="none")) <= 2, function


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_products_are_within_2_ulp_of_the_cpu(dtype, rng):
    x, target = rng.normal(size=(2, 100)).astype(dtype)
    arrays = {"x": x, "target": target, "weight": rng.random(100).astype(dtype),
              "beta": rng.random(100).astype(dtype)}  # fmt: skip
    options = {"reduction": "none"}
    for function in FUNCTIONS:
        got = function(**on_device(arrays), **options)
        assert worst(got, function(**arrays, **options)) <= 2, function
    grad_output = rng.normal(size=100).astype(dtype)
    options |= {"grad_output": grad_output}
    got = sl.smooth_l1_grad(**on_device(arrays | options))
    assert worst(got, sl.smooth_l1_grad(**arrays, **options)) <= 2
    options = {"axis": 0, "normalizer": 7.3}
    got = sl.smooth_l1_grad(**on_device(arrays), **options)
    assert worst(got, sl.smooth_l1_grad(**arrays, **options)) <= 2


@pytest.mark.parametrize("beta", [0.3, 1e-30, 1e-42, 1e30])
def test_float32_elements_around_the_threshold(beta):
    """Exactly at beta the second derivative is 0, also where float32 cannot tell."""
    near = np.float32(beta)
    x = np.array([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(0))])
    x = np.concatenate([x, -x]).astype(np.float32)
    for target in (np.float32(0.0), np.float32(beta * 1e-9)):
        for function in FUNCTIONS:
            got = function(to_device(x), target, beta=beta, reduction="none")
            assert worst(got, function(x, target, beta=beta, reduction="none")) <= 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_special_values(dtype):
    with np.errstate(all="ignore"):
        x = specials().astype(dtype_of(dtype))
    for function in FUNCTIONS:
        got = function(to_device(x), 0.0, beta=0.3, reduction="none").copy_to_host()
        wanted = function(x, 0.0, beta=0.3, reduction="none")
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(wanted))
    got = sl.smooth_l1_loss(to_device(x[:0]), to_device(x[:0]), dtype="float64").copy_to_host()
    assert got.dtype == np.float64
    assert np.isnan(got)


def test_the_loss_itself_is_that_of_the_definition(rng):
    from fractions import Fraction

    x, target = rng.normal(size=(2, 50)).astype(np.float32)
    got = sl.smooth_l1_loss(to_device(x), to_device(target), beta=0.7, reduction="none")
    for a, b, loss in zip(x.tolist(), target.tolist(), got.copy_to_host().tolist(), strict=True):
        exact = float(exact_loss(Fraction(a) - Fraction(b), Fraction(0.7)))
        assert ulps_apart(loss, np.float32(exact), np.float32) <= 2


LAYOUTS = {
    "C": lambda a: a, "transposed": lambda a: a.transpose((2, 0, 1)), "reversed": lambda a: a[::-1],
    "strided": lambda a: a[:, ::2, ::3], "odd offset": lambda a: a[1:, 1:, 1:],
    "backwards": lambda a: a[::-1, ::-2, ::-1],
}  # fmt: skip
LAYOUTS["F"] = lambda a: a.transpose((2, 1, 0))


@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 2), (1, 2), ()])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, axis, rng):
    """Any strides give what the CPU gives; sums to 1e-12."""
    x, target = rng.normal(size=(2, 5, 7, 6))
    there = LAYOUTS[layout](to_device(x)), LAYOUTS[layout](to_device(target))
    here = LAYOUTS[layout](x), LAYOUTS[layout](target)
    loss, grad = sl.smooth_l1_value_and_grad(*there, beta=0.7, axis=axis)
    wanted = sl.smooth_l1_value_and_grad(*here, beta=0.7, axis=axis)
    np.testing.assert_allclose(loss.copy_to_host(), wanted[0], rtol=1e-12)
    np.testing.assert_array_equal(grad.copy_to_host(), wanted[1])
    alone = sl.smooth_l1_loss(*there, beta=0.7, axis=axis)
    np.testing.assert_array_equal(alone.copy_to_host(), loss.copy_to_host())
    again = sl.smooth_l1_loss(*there, beta=0.7, axis=axis)
    np.testing.assert_array_equal(alone.copy_to_host(), again.copy_to_host())


@pytest.mark.parametrize("n", [1, 2, 3, 7, 31, 32, 33, 127, 300])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_ragged_lengths(dtype, n, rng):
    """Vectors of 16 bytes, what fills none, and what does not begin at 16 bytes."""
    values = rng.normal(size=(2, n + 1)).astype(dtype_of(dtype))
    for start in (0, 1):
        x, target = values[:, start : start + n]
        there = (to_device(values[i])[start : start + n] for i in range(2))
        loss, grad = sl.smooth_l1_value_and_grad(*there, beta=0.7, dtype=dtype)
        wanted = sl.smooth_l1_value_and_grad(x, target, beta=0.7)
        assert worst(loss, wanted[0]) <= 2
        assert worst(grad, wanted[1]) <= 2


def test_f_order_keeps_its_order(rng):
    x = to_device(rng.normal(size=(3, 4, 5))).transpose((2, 1, 0))
    grad = sl.smooth_l1_grad(x, 0.0, beta=0.3)
    assert grad.strides == x.strides


@pytest.mark.parametrize("own", [(5, 4), (4,), (1, 4), (5, 1), (1, 1), ()])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_broadcast_arguments(own, axis, weighted, rng):
    x, target = rng.normal(size=own), rng.normal(size=(5, 4))
    options = {"weight": rng.random((5, 1))} if weighted else {}
    for wrt, pair in (("x", (x, target)), ("target", (target, x))):
        arrays = dict(zip(("x", "target"), map(np.asarray, pair), strict=True)) | options
        there = {name: to_device(values) for name, values in arrays.items()}
        got = sl.smooth_l1_value_and_grad(**there, beta=0.3, axis=axis, wrt=wrt)
        reference = Reference(**arrays, beta=0.3, axis=axis)
        for a, b in zip(got, (reference.loss(), reference.grad(wrt)), strict=True):
            np.testing.assert_allclose(a.copy_to_host(), b, rtol=1e-13, atol=1e-15)
        got = sl.smooth_l1_value_and_grad(**there, beta=0.3, reduction="none", wrt=wrt)
        reference = Reference(**arrays, beta=0.3, reduction="none")
        for a, b in zip(got, (reference.loss(), reference.grad(wrt)), strict=True):
            np.testing.assert_allclose(a.copy_to_host(), b, rtol=1e-13, atol=1e-15)


READ_ONCE = {
    "rows": ((15, 1), (15, 7), None),
    "columns": ((7,), (15, 7), None),
    "channels": ((5, 1), (4, 5, 6), None),
    "all but channels": ((4, 1, 6), (4, 5, 6), None),
    "long rows": ((3, 1), (3, 80), None),
    "a number": ((), (15, 7), None),
    "rows and columns, each": ((15, 1), (7,), None),
    "a number and rows": ((), (15, 1), None),
    "other parts of three, each": ((1, 5, 1), (4, 1, 6), None),
    "columns, a loss for each row": ((7,), (15, 7), 1),
    "rows, a loss for each column": ((15, 1), (15, 7), 0),
    "few rows, a loss for each column": ((2, 1), (2, 60), 0),
    "many rows, a loss for each column": ((60, 1), (60, 2), 0),
    "channels, a loss for each": ((5, 1, 1), (3, 5, 2, 4), (0, 2, 3)),
    "channels, a loss for each place": ((5, 1, 1), (3, 5, 2, 4), 1),
    "rows and columns, a loss for each row": ((15, 1), (7,), 1),
    "some of the axes of the loss": ((1, 5, 6), (4, 5, 6), (0, 2)),
    "more than the axes of the loss": ((6,), (4, 5, 6), 0),
    "a loss for each element": ((7,), (15, 7), ()),
}


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        *(("float32", name) for name in READ_ONCE),
        *(("float64", name) for name in ("channels", "channels, a loss for each place")),
        *(("float16", name) for name in ("channels", "channels, a loss for each place")),
    ],
)
def test_sums_over_other_axes_read_elements_once(name, dtype, rng, monkeypatch):
    """Losses and gradients come from one pass; but in boxes, losses alone have the same bits."""
    own, shape, axis = READ_ONCE[name]
    x, target = rng.normal(size=own).astype(dtype), rng.normal(size=shape).astype(dtype)
    readers = []
    for module in (cuda_launch, cuda_sums, cuda_crossing):

        def launch(work, kernel, blocks, first, *rest, module=module, launch=module.launch):
            if isinstance(first, tuple) or first.ndim == 1:
                readers.append(module)
            launch(work, kernel, blocks, first, *rest)

        monkeypatch.setattr(module, "launch", launch)
    for pair, wrt in (((x, target), "x"), ((x, target), "target"), ((target, x), "target")):
        there = tuple(map(to_device, pair))
        for reduction in ("mean", "sum") if wrt == "x" else ("mean",):
            options = {"beta": 0.3, "reduction": reduction, "axis": axis}
            readers.clear()
            got = sl.smooth_l1_value_and_grad(*there, wrt=wrt, **options)
            (reader,) = readers
            wanted = sl.smooth_l1_value_and_grad(*pair, wrt=wrt, **options)
            for a, b in zip(got, wanted, strict=True):  # sums of both signs: absolute too
                a = a.copy_to_host()
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                error = 4 * np.finfo(dtype).eps
                np.testing.assert_allclose(a, b, rtol=error, atol=error * np.abs(b).max())
            if reader is not cuda_crossing:
                loss = sl.smooth_l1_loss(*there, **options)
                np.testing.assert_array_equal(loss.copy_to_host(), got[0].copy_to_host())


@pytest.mark.parametrize(
    ("own", "shape"), [((1, 3), (0, 3)), ((2, 1, 3), (2, 0, 3)), ((0, 1), (2,))]
)
@pytest.mark.parametrize("axis", [None, (), 0, 1])
def test_no_elements_that_are_broadcast(own, shape, axis):
    x, target = np.ones(own, np.float32), np.zeros(shape, np.float32)
    for pair, wrt in (((x, target), "x"), ((x, target), "target"), ((target, x), "x")):
        options = {"beta": 0.3, "axis": axis, "wrt": wrt}
        got = sl.smooth_l1_value_and_grad(*map(to_device, pair), **options)
        wanted = sl.smooth_l1_value_and_grad(*pair, **options)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a.copy_to_host(), b)


def test_more_blocks_than_a_launch_has(monkeypatch):
    monkeypatch.setattr(cuda_sums, "SMALL", 10)
    x = to_device(np.zeros((100, 3)))
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 blocks in a call, got \d+ for 300"):
        sl.smooth_l1_loss(x, x, axis=1)


ONE_PASS = {  # whether that is better than two, with the sizes of real blocks
    (((8192,), (8192, 8192)), "float32", 1): True,
    (((8192, 1), (8192, 8192)), "float32", 0): True,
    (((64, 1, 1), (64, 64, 56, 56)), "float32", 1): True,
    (((8192, 1), (8192,)), "float32", None): False,
    (((8192, 1), (8192,)), "float32", 1): False,
    (((64, 8192), (64, 64, 8192)), "float16", 1): False,
}


@pytest.mark.parametrize(("shapes", "dtype", "axis"), ONE_PASS)
def test_two_passes_where_parts_would_be_large(shapes, dtype, axis, monkeypatch):
    for module, name, size in ((cuda_crossing, "SHARE", 0.5), (boxes, "SIDE_BY_SIDE", 32),
                               (cuda_boxes, "ROOM", 1 << 15)):  # fmt: skip
        monkeypatch.setattr(module, name, size)
    boxes.cut.cache_clear()
    launched = []
    for module in (cuda_launch, cuda_sums, cuda_crossing):
        launch = functools.partial(lambda name, *_: launched.append(name), module.__name__)
        monkeypatch.setattr(module, "launch", launch)
    kind = type(to_device(np.zeros(1)))
    x, target = (kind(np.zeros(shape, dtype)) for shape in shapes)  # nobody touches their memory
    sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=axis)
    boxes.cut.cache_clear()
    assert (cuda_crossing.__name__ in launched) == ONE_PASS[shapes, dtype, axis]


@pytest.mark.parametrize("seed", range(24))
def test_sums_over_any_axes(seed, monkeypatch):
    """Operands that lack any axes, losses summed over any, in any memory order."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        monkeypatch.setattr(cuda_crossing, "SHARE", 0)  # two passes
    if seed % 3 == 1:
        monkeypatch.setattr(cuda_arguments, "SMALL", 1)  # places of 64 bits
    n = rng.integers(2, 5)
    shape = rng.integers(1, 7, n)
    arrays = {
        name: rng.normal(size=np.where(rng.random(n) < share, 1, shape))
        for name, share in (("x", 0.5), ("target", 0.3), ("weight", 0.5))
    }
    if rng.random() < 0.5:
        del arrays["weight"]
    else:
        arrays["weight"] **= 2
    arrays["where"] = rng.random(shape) < 0.8
    arrays["where"].flat[0] = True
    axis = tuple(a for a in range(n) if rng.random() < 0.5)
    options = {"beta": 0.7, "axis": axis, "reduction": rng.choice(["mean", "sum"])}
    reference = Reference(**arrays, **options)
    order = rng.permutation(n)
    there = {
        name: to_device(np.ascontiguousarray(values.transpose(order))).transpose(np.argsort(order))
        for name, values in arrays.items()
    }
    for wrt in ("x", "target"):
        got = sl.smooth_l1_value_and_grad(**there, **options, wrt=wrt)
        for a, b in zip(got, (reference.loss(), reference.grad(wrt)), strict=True):
            np.testing.assert_allclose(a.copy_to_host(), b, rtol=1e-12, atol=1e-13)
        loss = sl.smooth_l1_loss(**there, **options)
        np.testing.assert_allclose(loss.copy_to_host(), reference.loss(), rtol=1e-12, atol=1e-13)


def test_integers_are_rounded_to_the_type_of_the_floats(rng):
    integers = rng.integers(-(2**31), 2**31, 40)
    for kind in ("int64", "int32", "uint16", "uint8", "int8"):
        for dtype in ("float64", "float32", "float16", "bfloat16"):
            x = integers.astype(kind) if kind != "int64" else integers * 2**20 + 1
            target = rng.normal(size=40).astype(dtype_of(dtype))
            got = sl.smooth_l1_grad(to_device(target), to_device(x), beta=0.3, reduction="none")
            with np.errstate(over="ignore"):
                wanted = sl.smooth_l1_grad(target, x, beta=0.3, reduction="none")
            np.testing.assert_array_equal(got.copy_to_host(), wanted)


def test_results_are_rounded_once(rng):
    """Through float32, one in 2**13 sums would be rounded to the other side."""
    x = (1 + 2.0**-8 + np.array([0.0, 1e-12, -1e-12])).reshape(3, 1)
    for dtype in ("bfloat16", "float16"):
        got = sl.smooth_l1_loss(to_device(x), 0.0, beta=0.0, axis=1, dtype=dtype_of(dtype))
        wanted = sl.smooth_l1_loss(x, 0.0, beta=0.0, axis=1, dtype=dtype_of(dtype))
        np.testing.assert_array_equal(got.copy_to_host(), wanted)


def test_positions_beyond_2_31(monkeypatch, rng):
    """What divides such positions, on small arrays."""
    x, target = rng.normal(size=(3, 4, 5)), rng.normal(size=(4, 1))
    monkeypatch.setattr(cuda_arguments, "SMALL", 1)
    got = sl.smooth_l1_value_and_grad(to_device(x), to_device(target), beta=0.3, axis=(0, 2))
    for a, b in zip(
        got, sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=(0, 2)), strict=True
    ):
        np.testing.assert_allclose(a.copy_to_host(), b, rtol=1e-13)


def test_places_in_memory_beyond_2_31():
    """A few elements that lie far apart need 64 bits too."""
    far = devices.Span(0, (2, 3), (2**31 - 2, 1), "float32", None)
    assert cuda_arguments.is_large(6, [None, far])
    assert not cuda_arguments.is_large(6, [None, replace(far, shape=(1, 3))])
    assert cuda_arguments.is_large(2**31 + 1, [])


def test_multiplication_divides(rng):
    positions = [0, 1, 2**31 - 1, 2**31 - 2, *rng.integers(0, 2**31, 200).tolist()]
    for n in [1, 2, 3, 5, 7, 2**30, 2**31 - 1, *rng.integers(1, 2**31, 200).tolist()]:
        size, factor, shift = map(int, cuda_arguments.divider(n, large=False))
        for position in (*positions, n, n - 1, 2 * n - 1):
            if position < 2**31:
                assert factor < 2**32
                assert (2 * position * factor >> 32) >> shift == position // size


def test_outputs(rng):
    x, target = rng.normal(size=(2, 6, 5)).astype(np.float32)
    there = on_device({"x": x, "target": target})
    wanted = sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=0)
    out = to_device(np.full(10, np.nan, np.float32))[::2]
    grad_out = to_device(np.full((5, 6), np.nan, np.float32)).transpose((1, 0))
    loss, grad = sl.smooth_l1_value_and_grad(**there, beta=0.3, axis=0, out=out, grad_out=grad_out)
    assert loss is out
    assert grad is grad_out
    assert worst(loss, wanted[0]) <= 1
    assert worst(grad, wanted[1]) <= 2
    for name in there:  # in place, and in a place that is read later
        mine = on_device({"x": x, "target": target})
        sl.smooth_l1_value_and_grad(**mine, beta=0.3, axis=0, grad_out=mine[name])
        assert worst(mine[name], wanted[1]) <= 2
    both = to_device(np.concatenate([x.ravel(), np.zeros(1, np.float32)]))
    shifted = both[1:].reshape(6, 5)
    sl.smooth_l1_grad(both[:-1].reshape(6, 5), there["target"], beta=0.3, axis=0, out=shifted)
    assert worst(shifted, wanted[1]) <= 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": np.zeros(3)}, ValueError, r"out must have the shape of the result \(\), got \(3,"),
        ({"out": np.zeros((), np.float32)}, TypeError, "out must have the dtype of the result"),
        ({"grad_out": np.zeros(3)}, ValueError, r"grad_out must have the shape of the result \(4,"),
    ],
)
def test_outputs_that_do_not_fit(options, error, message):
    x = to_device(np.arange(4.0))
    with pytest.raises(error, match=message):
        sl.smooth_l1_value_and_grad(x, x, **on_device(options))


ROOMY = {
    "sums": (sl.smooth_l1_loss, {}),
    "sums of columns": (sl.smooth_l1_loss, {"axis": 0}),
    "elements": (sl.smooth_l1_loss, {"reduction": "none"}),
    "gradient": (sl.smooth_l1_value_and_grad, {"axis": 0}),
    "weights": (sl.smooth_l1_value_and_grad, {"axis": 0, "weight": True}),
    "x that broadcasts": (sl.smooth_l1_value_and_grad, {"broadcast": True}),
    "x that broadcasts, rows": (sl.smooth_l1_value_and_grad, {"axis": 1, "broadcast": True}),
}


@pytest.mark.parametrize(("function", "options"), ROOMY.values(), ids=ROOMY)
def test_memory_that_runs_out(function, options, monkeypatch, rng):
    """The error of the library's allocator comes through, and the next call is right."""
    x, target, weight = rng.normal(size=(3, 20, 3)).astype(np.float32)
    options = {"beta": 0.3} | options
    if options.pop("broadcast", False):
        x = x[:, :1].copy()
    if "weight" in options:
        options["weight"] = weight**2
    arrays = {"x": x, "target": target} | options
    there = on_device(arrays)
    allocate, left = devices._NumbaMemory.empty, 0

    def empty(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError("CUDA_ERROR_OUT_OF_MEMORY")
        return allocate(*arguments)

    monkeypatch.setattr(devices._NumbaMemory, "empty", empty)
    for failures in range(100):  # the first, the second, ... allocation fails
        left = failures
        try:
            got = function(**there)
        except MemoryError as error:
            assert "CUDA_ERROR_OUT_OF_MEMORY" in str(error)  # noqa: PT017
        else:
            break
    assert failures > 0
    wanted = function(**arrays)
    pairs = zip(got, wanted, strict=True) if isinstance(wanted, tuple) else [(got, wanted)]
    assert all(worst(a, b) <= 2 for a, b in pairs)


def test_a_launch_that_fails(monkeypatch, rng):
    """As on a GPU whose context is lost: the driver's error comes through, `out` is left alone."""
    x, target = (to_device(array) for array in rng.normal(size=(2, 40)))
    out = to_device(np.full((), 7.0))

    def launch(*arguments):
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    with monkeypatch.context() as patch:
        patch.setattr(cuda_launch, "launch", launch)
        with pytest.raises(RuntimeError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            sl.smooth_l1_loss(x, target, beta=0.3, out=out)
    assert out.copy_to_host() == 7.0
    assert sl.smooth_l1_loss(x, target, beta=0.3, out=out).copy_to_host() < 7.0


def test_outputs_that_overlap():
    room = np.zeros(9)
    x = to_device(np.arange(4.0))
    steps = np.lib.stride_tricks.as_strided(room, (4,), (0,))
    with pytest.raises(ValueError, match="grad_out must not overlap itself"):
        sl.smooth_l1_value_and_grad(x, x, grad_out=type(x)(steps))
    there = to_device(room)
    with pytest.raises(ValueError, match="out and grad_out must not share memory"):
        sl.smooth_l1_value_and_grad(x, x, reduction="none", out=there[:4], grad_out=there[3:7])


def test_arrays_of_other_kinds():
    x = to_device(np.arange(4.0))
    with pytest.raises(TypeError, match="arrays must be of one kind, got numba device array for"):
        sl.smooth_l1_loss(x, np.arange(4.0))
    records = np.zeros(4, [("a", "i1"), ("b", "f8")])
    with pytest.raises(ValueError, match="x must lie at whole elements on a GPU, got address"):
        sl.smooth_l1_loss(type(x)(records["b"]), x)


def test_byte_order_and_alignment():
    x = to_device(np.arange(4.0))
    swapped = type(x)(np.arange(4.0).astype(">f8"))
    with pytest.raises(TypeError, match="x must have native byte order on a GPU, got dtype >f8"):
        sl.smooth_l1_loss(swapped, x)
    unaligned = type(x)(np.zeros(33, np.uint8)[1:].view(np.float64))
    with pytest.raises(ValueError, match="target must lie at whole elements on a GPU"):
        sl.smooth_l1_loss(x, unaligned)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_bits_do_not_depend_on_where_operands_lie(dtype, rng):
    """Side by side or apart, aligned or not, masked or not, with or without a gradient."""
    n = 300
    x, target = rng.normal(size=(2, n)).astype(dtype)
    room = np.zeros((2, n + 1), dtype)
    seen = set()
    for place in (lambda a: to_device(a), lambda a: shifted(a, room), lambda a: apart(a)):
        a, b = place(x), to_device(target)
        for grad_out in (None, to_device(np.zeros(2 * n, dtype))[::2]):
            loss, _ = sl.smooth_l1_value_and_grad(a, b, beta=0.7, grad_out=grad_out)
            seen.add(loss.copy_to_host().tobytes())
        seen.add(sl.smooth_l1_loss(a, b, beta=0.7).copy_to_host().tobytes())
    assert len(seen) == 1
    where, rows = to_device(np.ones((n, 1), bool)), (to_device(v[:, None]) for v in (x, target))
    x, target = rows
    loss = sl.smooth_l1_loss(x, target, beta=0.7, axis=1, where=where)
    both = sl.smooth_l1_value_and_grad(x, target, beta=0.7, axis=1, where=where)
    np.testing.assert_array_equal(loss.copy_to_host(), both[0].copy_to_host())


def shifted(values, room):
    there = to_device(room[0])[1:]
    there[:] = values
    return there


def apart(values):
    there = to_device(np.zeros(3 * values.size, values.dtype))[::3]
    there[:] = values
    return there


def test_numbers_beside_arrays(rng):
    x, target = rng.normal(size=(2, 6, 5)).astype(np.float32)
    there = to_device(x), to_device(target)
    for options in ({"grad_output": 2.5}, {"axis": 0, "grad_output": [1.0, 2, 3, 4, 5]},
                    {"weight": 2.0, "where": True}, {"weight": [1.0, 2, 3, 4, 5]}):  # fmt: skip
        got = sl.smooth_l1_grad(*there, beta=0.3, **options)
        assert worst(got, sl.smooth_l1_grad(x, target, beta=0.3, **options)) <= 2
    one = to_device(np.array(2.0))
    assert sl.smooth_l1_grad(one, 0.25, weight=2.0, where=True, grad_output=3.0).copy_to_host() == 3


def test_outputs_that_interleave(rng):
    x, target = rng.normal(size=(2, 8))
    room = to_device(np.zeros((8, 2)))
    sl.smooth_l1_value_and_grad(
        to_device(x), to_device(target), reduction="none", out=room[:, 0], grad_out=room[:, 1]
    )
    wanted = sl.smooth_l1_value_and_grad(x, target, reduction="none")
    np.testing.assert_array_equal(room.copy_to_host(), np.stack(wanted, axis=1))


def test_hessian_at_a_beta_of_two_floats():
    """A residual that is beta to 48 bits, but not all of it, lies inside."""
    high = np.float32(0.3)
    low = np.float32(0.3 - float(high))
    x, target = to_device(np.array([high])), to_device(np.array([-low]))
    got = sl.smooth_l1_hess(x, target, beta=0.3)
    assert worst(got, sl.smooth_l1_hess(np.array([high]), np.array([-low]), beta=0.3)) <= 1


class Tensors(type(devices.TORCH)):
    """Tensors of the CPU, which is where the simulator computes."""

    def device(self, array):
        return 0

    def stream(self, array):
        return 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_memory_of_pytorch(dtype, rng):
    """What a call with CUDA tensors does from the check on, with tensors of the CPU."""
    torch = pytest.importorskip("torch", reason="PyTorch is optional")
    from smoothl1.kinds import TORCH

    kind = getattr(torch, dtype)
    x, target = torch.from_numpy(rng.normal(size=(2, 6, 5))).to(kind)
    weight = torch.from_numpy(rng.random((5, 1))).to(kind)
    for given in ({"x": x, "target": target}, {"x": x.T, "target": target.T, "weight": weight}):
        arguments = given | {"beta": 0.3, "axis": 0}
        wanted = sl.smooth_l1_value_and_grad(**arguments)
        arguments = dict.fromkeys(
            ("reduction", "keepdims", "weight", "normalizer", "where", "dtype", "out", "grad_out")
        ) | {"reduction": "mean", "keepdims": False, "wrt": "x"} | arguments  # fmt: skip
        call = calls.Call(sl.smooth_l1_value_and_grad, calls.Wanted.VALUE_AND_GRAD, arguments)
        problem = views.check_unread(TORCH, call, writes=True)
        got = cuda.run(Tensors(), call, given, problem)
        for a, b in zip(got, wanted, strict=True):
            assert a.dtype == b.dtype == kind
            assert a.stride() == b.stride()
            torch.testing.assert_close(a, b)


@pytest.fixture
def torch(monkeypatch):
    """PyTorch, with its tensors of the CPU taken for tensors of a GPU."""
    library = pytest.importorskip("torch", reason="PyTorch is optional")
    from smoothl1 import autograd

    monkeypatch.setattr(autograd, "is_on_gpu", lambda tensors: True)
    monkeypatch.setattr(devices, "TORCH", Tensors())
    return library


def test_gradients_of_pytorch(torch, monkeypatch, rng):
    """Forward and backward passes are kernels of the GPU; nobody reads a value in between."""
    launched, run = [], cuda.run
    monkeypatch.setattr(cuda, "run", lambda *a: (launched.append(a[1].wanted), run(*a))[1])
    monkeypatch.setattr(torch.Tensor, "item", None)
    for options in ({}, {"axis": 0}, {"weight": torch.ones(5), "axis": 1, "keepdims": True}):
        x = torch.from_numpy(rng.normal(size=(6, 5))).requires_grad_()
        target = torch.from_numpy(rng.normal(size=5)).requires_grad_()
        sl.smooth_l1_loss(x, target, beta=0.3, **options).square().sum().backward()
        loss = torch.nn.functional.smooth_l1_loss(x, target.expand(6, 5), beta=0.3,
                                                  reduction="none")  # fmt: skip
        loss = loss.mean(options.get("axis"), keepdim="keepdims" in options).square().sum()
        wanted = torch.autograd.grad(loss, [x, target])
        torch.testing.assert_close([x.grad, target.grad], list(wanted))
    assert launched == [calls.Wanted.LOSS, calls.Wanted.GRAD, calls.Wanted.GRAD] * 3


def test_outputs_of_pytorch(torch, rng):
    x, target = torch.from_numpy(rng.normal(size=(2, 6, 5)))
    out = torch.empty(5, dtype=torch.float64)
    version = out._version
    assert sl.smooth_l1_loss(x, target, beta=0.3, axis=0, out=out) is out
    assert out._version > version
    wanted = sl.smooth_l1_loss(x.numpy(), target.numpy(), beta=0.3, axis=0)
    np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-14)


def test_memory_of_cupy(monkeypatch, rng):
    """What the library asks of CuPy, answered by a class on top of NumPy."""
    cupy = types.ModuleType("cupy")

    class ndarray:
        __hash__ = None

        def __init__(self, values):
            self.values = values
            self.shape, self.strides, self.dtype = values.shape, values.strides, values.dtype
            self.itemsize, self.device = values.itemsize, types.SimpleNamespace(id=0)
            self.data = types.SimpleNamespace(ptr=values.ctypes.data)

        def transpose(self, axes):
            return ndarray(self.values.transpose(axes))

        def __setitem__(self, index, value):
            self.values[index] = getattr(value, "values", value)

    cupy.ndarray = ndarray
    cupy.empty = lambda shape, dtype: ndarray(np.empty(shape, dtype))
    cupy.asarray = lambda values: ndarray(np.array(values))
    stream = types.SimpleNamespace(ptr=0)
    cupy.cuda = types.SimpleNamespace(get_current_stream=lambda: stream)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    x, target = rng.normal(size=(2, 4, 3)).astype(np.float32)
    given = {"x": ndarray(x), "target": ndarray(target), "weight": ndarray(x.T**2)}
    loss, grad = sl.smooth_l1_value_and_grad(
        given["x"], given["target"], weight=[1.0, 2.0, 3.0], beta=0.3, axis=0
    )
    wanted = sl.smooth_l1_value_and_grad(x, target, weight=[1.0, 2.0, 3.0], beta=0.3, axis=0)
    assert type(loss) is type(grad) is ndarray
    np.testing.assert_allclose(loss.values, wanted[0], rtol=1e-6)
    np.testing.assert_allclose(grad.values, wanted[1], rtol=1e-6)
    out = ndarray(np.empty((4, 3), np.float32))
    moved = ndarray(target[::-1])  # read in another order than it is written in
    wanted = sl.smooth_l1_grad(x, target, beta=0.3)
    assert sl.smooth_l1_grad(given["x"], given["target"], beta=0.3, out=moved) is moved
    np.testing.assert_allclose(moved.values, wanted, rtol=1e-6)
    assert sl.smooth_l1_grad(given["x"], 0.5, out=out) is out
    np.testing.assert_allclose(out.values, sl.smooth_l1_grad(x, np.float32(0.5)), rtol=1e-6)
    with pytest.raises(TypeError, match=r"one kind, got cupy\.ndarray for x and numpy"):
        sl.smooth_l1_loss(given["x"], target)


def test_info_names_the_simulator():
    from smoothl1 import info

    assert "simulator" in info.collect()["cuda"]["reason"]
