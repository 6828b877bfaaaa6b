"""The semantics of every argument, against the definition."""

import math

import numpy as np
import pytest
from cases import BETAS, FLOATS, LAYOUTS, SHAPES, dtype_of, numbers
from reference import Reference

import smoothl1 as sl

EPSILON = {"float64": 2e-14, "float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}


def close(got, wanted, dtype="float64"):
    """Assert shape, dtype and values; relative to 1, as sums of signed terms cancel."""
    got = np.asarray(got)
    assert got.shape == np.shape(wanted)
    assert got.dtype.name == dtype
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(
            got.astype(np.float64), wanted, rtol=EPSILON[dtype], atol=EPSILON[dtype]
        )


def check_all(x, target, dtype="float64", **options):
    """Compare every function with the definition, and with each other where bits are promised."""
    plain = (np.asarray(x, np.float64), np.asarray(target, np.float64))
    reference = Reference(*plain, **options)
    loss = sl.smooth_l1_loss(x, target, **options)
    close(loss, reference.loss(), dtype)
    for wrt in ("x", "target"):
        close(sl.smooth_l1_grad(x, target, wrt=wrt, **options), reference.grad(wrt), dtype)
        value, grad = sl.smooth_l1_value_and_grad(x, target, wrt=wrt, **options)
        assert same_bits(value, loss)
        close(grad, reference.grad(wrt), dtype)
    close(sl.smooth_l1_hess(x, target, **options), reference.hess(), dtype)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and np.array_equal(
        a.astype(np.float64), b.astype(np.float64), equal_nan=True
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_zero_weights_leave_no_gradient(dtype):
    """0 / 0, in every function that has a gradient."""
    x, weight = np.full(3, 0.25, dtype), np.zeros(3, dtype)
    options = {"weight": weight, "beta": 0.3}
    assert np.isnan(sl.smooth_l1_grad(x, 0, **options)).all()
    assert np.isnan(sl.smooth_l1_value_and_grad(x, 0, **options)[1]).all()
    assert np.isnan(sl.smooth_l1_value_and_grad(x[:1], x, **options)[1]).all()


def test_gradient_of_nothing_that_is_broadcast():
    x, target = np.zeros((2, 1, 0, 1)), np.zeros((1, 2, 0, 1))
    for reduction in ("none", "sum", "mean"):
        assert sl.smooth_l1_grad(x, target, reduction=reduction).shape == x.shape
        assert sl.smooth_l1_value_and_grad(x, target, reduction=reduction)[1].shape == x.shape


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "auto"])
def test_shapes(shape, reduction):
    for beta in BETAS:
        check_all(numbers(shape, 1), numbers(shape, 2), beta=beta, reduction=reduction)


@pytest.mark.parametrize(
    "axis", [0, 1, 3, -1, (0,), (3,), (1, 2), (0, 2), (1, 3), (0, 1, 3), (3, -4), (2, 0, 1, 3), ()]
)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_axes(axis, keepdims, reduction):
    x, target = numbers((3, 4, 5, 6), 3), numbers((3, 4, 5, 6), 4)
    check_all(x, target, beta=0.3, reduction=reduction, axis=axis, keepdims=keepdims)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((70, 3), 0), ((70, 3), 1), ((3, 70), 0), ((3, 70), 1), ((5000,), 0), ((2, 4097), 1),
        ((4097, 2), 0), ((130, 1500), 0), ((3, 2500), 0), ((2, 70, 2, 70), (0, 2)),
        ((70, 2, 70, 2), (0, 2)), ((9, 4, 8), 1), ((9, 6, 2), 1), ((40, 2, 700), 1),
        ((20000, 2), 1), ((3, 20000), 0), ((2, 9, 2000), 1),
    ],
)  # fmt: skip
def test_every_kind_of_sum(shape, axis):
    x, target = numbers(shape, 5), numbers(shape, 6)
    weight, where = np.abs(numbers(shape, 7)), numbers(shape, 8) > -2
    check_all(x, target, beta=2.5, axis=axis)
    check_all(x, target, beta=2.5, axis=axis, weight=weight, where=where)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_layouts_and_float_types(layout, dtype):
    x, target = (LAYOUTS[layout](numbers((5, 4, 6), seed, dtype)) for seed in (9, 10))
    check_all(x, target, dtype, beta=0.3)
    check_all(x, target, dtype, beta=2.5, reduction="none")
    check_all(x, LAYOUTS["contiguous"](target), dtype, beta=2.5, axis=1)


@pytest.mark.parametrize(
    ("x_shape", "target_shape"),
    [
        ((), (4, 3)), ((3,), (4, 3)), ((4, 1), (4, 3)), ((4, 1), (1, 3)), ((1,), ()),
        ((2, 1, 3), (4, 1)), ((0, 3), (1, 3)), ((1, 3), (0, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_broadcasting(x_shape, target_shape, axis):
    x, target = numbers(x_shape, 11), numbers(target_shape, 12)
    if axis is not None and not np.broadcast_shapes(x_shape, target_shape):
        return
    check_all(x, target, beta=0.3, axis=axis)
    check_all(x, target, beta=0.3, axis=axis, weight=np.abs(numbers(target_shape, 13)))
    check_all(x, target, beta=2.5, reduction="none")


def test_all_operands_broadcast_together():
    x, target = numbers((4, 1, 1), 14), numbers((3, 1), 15)
    beta, weight = np.abs(numbers((5,), 16)), np.abs(numbers((4, 1, 5), 17))
    where = numbers((3, 5), 18) > -1
    for axis in (None, 0, (0, 2)):
        check_all(x, target, beta=beta, weight=weight, where=where, axis=axis)


@pytest.mark.parametrize("seed", range(12))
def test_random_calls(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 5, 8], rng.integers(1, 5)))

    def part():
        return tuple(n if rng.random() < 0.7 else 1 for n in shape)

    dtype = str(rng.choice(FLOATS))
    layout = list(LAYOUTS.values())
    x = layout[rng.integers(len(layout))](numbers(shape, seed, dtype))
    target = layout[rng.integers(len(layout))](numbers(part(), seed + 100, dtype))
    options = {"beta": float(rng.choice(BETAS)), "reduction": str(rng.choice(["mean", "sum"]))}
    if rng.random() < 0.5:
        options["beta"] = np.abs(numbers(part(), seed + 200))
    if rng.random() < 0.5:
        options["weight"] = np.abs(numbers(part(), seed + 300, dtype))
    if rng.random() < 0.5:
        options["where"] = rng.random(part()) < 0.8
    options["axis"] = tuple(a for a in range(len(shape)) if rng.random() < 0.6)
    check_all(x, target, dtype, **options)


@pytest.mark.parametrize(
    ("dtypes", "result"),
    [
        (("float32", "float64"), "float64"), (("float16", "float32"), "float32"),
        (("bfloat16", "float16"), "float32"), (("bfloat16", "float64"), "float64"),
        (("uint8", "uint8"), "float64"), (("int64", "float32"), "float32"),
        (("float16", "int8"), "float16"), (("uint16", "bfloat16"), "bfloat16"),
    ],
)  # fmt: skip
def test_promotion(dtypes, result):
    x = np.array([0, 1, 2, 100]).astype(dtype_of(dtypes[0]))
    target = np.array([1, 1, 0, 0]).astype(dtype_of(dtypes[1]))
    check_all(x, target, result, beta=0.3)
    check_all(x, target, result, beta=2.5, reduction="none")


@pytest.mark.parametrize("dtype", [f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)])
def test_integers_are_converted_before_they_are_subtracted(dtype):
    info = np.iinfo(dtype)
    x, target = np.array([0, info.min, 5], dtype), np.array([1, info.max, 3], dtype)
    grad = sl.smooth_l1_grad(x, target, beta=0.3, reduction="sum")
    assert grad.tolist() == [-1.0, -1.0, 1.0]
    loss = sl.smooth_l1_loss(x, target, beta=0.3, reduction="none")
    np.testing.assert_array_equal(loss, np.abs(x.astype(float) - target.astype(float)) - 0.15)


def test_integers_take_the_type_of_the_floating_operand():
    x, target = np.zeros(1, np.float32), np.array([2**24 + 1])
    assert sl.smooth_l1_loss(x, target, beta=0.0, dtype="float64") == 2**24
    assert sl.smooth_l1_loss(np.zeros(1, np.float16), np.array([70000]), beta=1.0) == np.inf


def test_python_numbers_are_weak():
    x = np.ones(3, np.float16)
    assert sl.smooth_l1_loss(x, 0.1, beta=0.3).dtype == np.float16
    assert sl.smooth_l1_loss(2, np.ones(3, np.float32), beta=0.3).dtype == np.float32
    assert sl.smooth_l1_loss(x, np.float64(0.1), beta=0.3).dtype == np.float64
    assert sl.smooth_l1_loss(1.5, np.arange(3), beta=0.3).dtype == np.float64
    exact = abs(float(np.float32(0.1)) - 1)
    assert sl.smooth_l1_loss(np.ones(1, np.float32), 0.1, beta=0.0, dtype="float64") == exact


def test_lists_and_scalars_are_numpy():
    loss = sl.smooth_l1_loss([[0.0, 1.0], [2.0, 3.0]], [1.0, 1.0], beta=0.5, reduction="none")
    np.testing.assert_array_equal(loss, [[0.75, 0.0], [0.75, 1.75]])
    assert type(sl.smooth_l1_loss(3.0, 1, beta=2.5)) is np.float64


@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_widens_and_narrows(dtype):
    x, target = numbers((6, 5), 19, "float32"), numbers((6, 5), 20, "float32")
    kind = dtype_of(dtype)
    for axis in (None, 0, 1):
        wanted = Reference(x, target, beta=0.3, axis=axis)
        close(sl.smooth_l1_loss(x, target, beta=0.3, axis=axis, dtype=kind), wanted.loss(), dtype)
        value, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=axis, dtype=kind)
        close(value, wanted.loss(), dtype)
        close(grad, wanted.grad(), dtype)


def test_a_widened_result_is_not_rounded_on_the_way():
    x, target = np.array([0.1, 0.7], np.float32), np.array([0.2, 0.1], np.float32)
    wanted = Reference(x, target, beta=0.3, reduction="none").loss()
    got = sl.smooth_l1_loss(x, target, beta=0.3, reduction="none", dtype=np.float64)
    np.testing.assert_array_max_ulp(got, wanted, 1)


@pytest.mark.parametrize("axis", [None, 0, (0, 2), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_grad_output_is_the_vector_of_the_product(axis, keepdims):
    x, target = numbers((3, 4, 5), 21), numbers((4, 5), 22)
    options = {"beta": 0.3, "axis": axis, "keepdims": keepdims}
    reference = Reference(x, target, **options)
    shape = reference.loss().shape
    vectors = [2.5, np.float32(0.5), numbers(shape, 23), numbers(shape, 24, "float32")]
    if shape:
        vectors.append(numbers(shape[-1:], 25))
    for vector in vectors:
        for wrt in ("x", "target"):
            got = sl.smooth_l1_grad(x, target, wrt=wrt, grad_output=vector, **options)
            close(got, reference.grad(wrt, vector))


@pytest.mark.parametrize("axis", [None, 1])
def test_grad_output_with_weights(axis):
    x, target = numbers((6, 4), 26), numbers((6, 4), 27)
    weight, where = np.abs(numbers((6, 4), 28)), numbers((6, 1), 29) > -2
    options = {"beta": 0.3, "axis": axis, "weight": weight, "where": where}
    reference = Reference(x, target, **options)
    vector = numbers(reference.loss().shape, 30)
    close(sl.smooth_l1_grad(x, target, grad_output=vector, **options), reference.grad("x", vector))


@pytest.mark.parametrize("axis", [None, 0])
def test_normalizer_replaces_the_count(axis):
    x, target = numbers((6, 4), 31), numbers((6, 4), 32)
    weight = np.abs(numbers((6, 4), 33))
    for options in ({}, {"weight": weight}, {"where": weight > 1}):
        check_all(x, target, beta=2.5, axis=axis, normalizer=7.5, **options)


def test_nothing_kept():
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    where = np.array([[False, False], [True, True]])
    loss, grad = sl.smooth_l1_value_and_grad(x, 0.5, beta=0.3, where=where, axis=1)
    assert math.isnan(loss[0])
    assert loss[1] == 1.85
    np.testing.assert_array_equal(grad, [[0, 0], [0.5, 0.5]])
    assert math.isnan(sl.smooth_l1_loss(x, 0.5, where=False))
    assert sl.smooth_l1_loss(x, 0.5, where=False, reduction="sum") == 0
    np.testing.assert_array_equal(sl.smooth_l1_grad(x, 0.5, where=False), np.zeros((2, 2)))


def test_zero_weights_divide_zero_by_zero():
    assert math.isnan(sl.smooth_l1_loss([1.0, 2.0], 0.0, weight=[0.0, 0.0]))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)])
def test_empty(shape):
    x = np.empty(shape)
    assert math.isnan(sl.smooth_l1_loss(x, x, beta=0.3))
    assert sl.smooth_l1_loss(x, x, beta=0.3, reduction="sum") == 0
    assert sl.smooth_l1_loss(x, x, beta=0.3, reduction="none").shape == shape
    for axis in range(len(shape)):
        check_all(x, x, beta=0.3, axis=axis)
        check_all(x, x, beta=0.3, axis=axis, reduction="sum")


def test_returned_kinds():
    x = np.ones((2, 3), np.float32)
    assert type(sl.smooth_l1_loss(x, 0.0)) is np.float32
    assert type(sl.smooth_l1_loss(x, 0.0, keepdims=True)) is np.ndarray
    assert type(sl.smooth_l1_loss(x, 0.0, axis=(0, 1))) is np.float32
    zero_d = sl.smooth_l1_loss(np.array(1.0), 0.0, reduction="none")
    assert type(zero_d) is np.ndarray
    assert zero_d.shape == ()
    assert type(sl.smooth_l1_grad(np.array(1.0), 0.0)) is np.ndarray


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_out_takes_the_result(dtype, axis):
    x, target = numbers((5, 6), 34, dtype), numbers((5, 6), 35, dtype)
    loss = sl.smooth_l1_loss(x, target, beta=0.3, axis=axis)
    grad = sl.smooth_l1_grad(x, target, beta=0.3, axis=axis)
    out = np.empty(np.shape(loss), x.dtype)
    room = np.empty((10, 12), x.dtype)[::2, ::-2]
    assert sl.smooth_l1_loss(x, target, beta=0.3, axis=axis, out=out) is out
    assert same_bits(out, loss)
    pair = sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=axis, out=out, grad_out=room)
    assert pair[0] is out
    assert pair[1] is room
    assert same_bits(room, grad)
    assert same_bits(sl.smooth_l1_grad(x, target, beta=0.3, axis=axis, out=room), grad)


@pytest.mark.parametrize("shape", [(20000, 3), (3, 20000)])
def test_out_of_many_sums(shape):
    x, target = numbers(shape, 36, "float32"), numbers(shape, 37, "float32")
    axis = shape.index(3)
    wanted = sl.smooth_l1_loss(x, target, beta=0.3, axis=axis)
    room = np.empty((2, 20000), np.float32)[1, ::-1]
    sl.smooth_l1_loss(x, target, beta=0.3, axis=axis, out=room)
    assert same_bits(room, wanted)
    with_weight = sl.smooth_l1_loss(x, target, beta=0.3, axis=axis, weight=np.ones(shape, "f"))
    np.testing.assert_allclose(with_weight, wanted, rtol=1e-6)


@pytest.mark.parametrize("function", [sl.smooth_l1_grad, sl.smooth_l1_hess])
def test_out_may_overlap_operands(function):
    base = numbers((9000,), 38)
    options = {"beta": 0.3, "reduction": "sum"}
    for take, put in [
        (slice(0, 8000), slice(0, 8000)),
        (slice(0, 8000), slice(1, 8001)),
        (slice(1, 8001), slice(0, 8000)),
        (slice(0, 8000), slice(7999, None, -1)),
    ]:
        memory = base.copy()
        wanted = function(memory[take].copy(), 0.5, **options)
        got = function(memory[take], 0.5, out=memory[put], **options)
        assert same_bits(got, wanted)
        memory = base.copy()
        target = memory[take]
        function(0.5, target, out=None, **options)
        wanted = function(base[:8000], target.copy(), **options)
        assert same_bits(function(base[:8000], target, out=memory[put], **options), wanted)


def test_out_of_a_reduction_may_overlap_operands():
    x = numbers((4, 30000), 39)
    wanted = sl.smooth_l1_loss(x, 0.5, beta=0.3, axis=0)
    memory = x.copy()
    assert same_bits(sl.smooth_l1_loss(memory, 0.5, beta=0.3, axis=0, out=memory[1]), wanted)


def test_huber_is_delta_times_the_loss():
    x, target = numbers((50, 7), 40), numbers((50, 7), 41)
    for delta in BETAS:
        for axis in (None, 0, 1):
            wanted = delta * Reference(x, target, beta=delta, axis=axis).loss()
            close(sl.huber_loss(x, target, delta=delta, axis=axis), wanted)
    deltas = np.abs(numbers((7,), 42))
    wanted = deltas * Reference(x, target, beta=deltas, reduction="none").loss()
    close(sl.huber_loss(x, target, delta=deltas, reduction="none"), wanted)
    close(sl.huber_loss(x, target, delta=deltas), wanted.mean())
    out = np.empty(7)
    assert sl.huber_loss(x, target, delta=2.5, axis=0, out=out) is out


def test_memmap(tmp_path):
    x = numbers((300, 70), 43, "float32")
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=(300, 70))
    loss = sl.smooth_l1_loss(mapped, 0.5, beta=0.3)
    assert same_bits(loss, sl.smooth_l1_loss(x, 0.5, beta=0.3))
    assert type(sl.smooth_l1_grad(mapped, 0.5, beta=0.3)) is np.ndarray


def test_more_elements_than_32_bits_can_count():
    x = np.broadcast_to(np.float32(3.0), (2**16, 2**15 + 1))
    assert sl.smooth_l1_loss(x, 1.0, beta=0.5) == np.float32(1.75)
    assert sl.smooth_l1_loss(x, 1.0, beta=0.5, reduction="sum", dtype="float64") == 1.75 * x.size


def test_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, target = numbers((40, 30), 44, "float32"), numbers((40, 30), 45, "float32")
    for beta in BETAS:
        a = torch.tensor(x, requires_grad=True)
        loss = torch.nn.functional.smooth_l1_loss(a, torch.tensor(target), beta=beta)
        loss.backward()
        value, grad = sl.smooth_l1_value_and_grad(x, target, beta=beta)
        np.testing.assert_allclose(value, loss.item(), rtol=1e-6)
        np.testing.assert_allclose(grad, a.grad.numpy(), rtol=1e-6)


def test_out_may_overlap_operands_of_two_passes():
    x, target = np.array([5.0, 0.0, 0.0]), np.zeros((2, 3))
    grad = sl.smooth_l1_value_and_grad(x, target, reduction="none", out=target)[1]
    assert grad.tolist() == [2.0, 0.0, 0.0]
    x, target = numbers((3,), 46), numbers((4, 3), 47)
    wanted = sl.smooth_l1_grad(x, target, beta=0.3)
    got = sl.smooth_l1_value_and_grad(x, target, beta=0.3, out=x[:1].reshape(()))[1]
    assert same_bits(got, wanted)


@pytest.mark.parametrize("shift", [0, 1])
def test_out_may_overlap_grad_output(shift):
    x, memory = np.full(5000, 0.25), np.full(5001, 2.0)
    for vector in (memory[:1].reshape(()), memory[:5000]):
        reduction = "none" if vector.ndim else "sum"
        memory[:] = 2.0
        out = memory[shift : 5000 + shift]
        sl.smooth_l1_grad(x, 0.0, reduction=reduction, grad_output=vector, out=out)
        assert (out == 0.5).all()


def test_disjoint_views_of_one_buffer_are_written_in_place():
    memory = numbers((20,), 48)
    out = memory[1::2]
    assert sl.smooth_l1_grad(memory[::2], 0.0, beta=0.3, reduction="sum", out=out) is out
    assert same_bits(out, sl.smooth_l1_grad(memory[::2], 0.0, beta=0.3, reduction="sum"))


@pytest.mark.parametrize("axis", [None, 1])
def test_tiny_sums_of_weights_do_not_overflow(axis):
    x = np.array([[0.0, 0.5], [3.0, -3.0]])
    grad = sl.smooth_l1_grad(x, 0.0, weight=np.full((2, 2), 1e-310), axis=axis)
    wanted = Reference(x, 0.0, weight=np.full((2, 2), 1e-310), axis=axis).grad()
    np.testing.assert_allclose(grad, wanted, rtol=1e-10)


def test_a_tiny_normalizer_of_narrow_types():
    x = np.array([0.0, 1e-3], np.float32)
    assert sl.smooth_l1_grad(x, np.float32(0), normalizer=1e-310).tolist() == [0.0, np.inf]


def test_the_weighted_gradient_over_an_axis_is_divided_not_multiplied():
    x, weight = numbers((50, 49), 49), np.ones((50, 49))
    for row, grad in zip(x, sl.smooth_l1_grad(x, 0.0, weight=weight, axis=1), strict=True):
        assert same_bits(grad, sl.smooth_l1_grad(row, 0.0))


@pytest.mark.parametrize(("x", "delta"), [(1e-150, 1e200), (1e-20, 1e300), (1e-8, 1.7e308)])
def test_huber_with_a_huge_delta_is_half_the_square(x, delta):
    got = sl.huber_loss(np.array(x), 0.0, delta=delta, reduction="none")
    np.testing.assert_array_max_ulp(got, x * x / 2, 1)


def test_large_integers_are_rounded_once():
    value = np.array([2**60 + 2**36 + 1])
    target = np.array([2**60], np.float32)
    got = sl.smooth_l1_loss(value, target, reduction="none")
    assert got == sl.smooth_l1_loss(value.astype(np.float32), target, reduction="none") > 0


def test_sums_that_float32_cannot_hold_are_infinite_without_a_warning():
    x, zero = np.full(9, 3e38, np.float32), np.zeros(9, np.float32)
    with np.errstate(all="raise"):
        assert sl.smooth_l1_loss(x, zero, reduction="sum") == np.inf
        assert sl.smooth_l1_value_and_grad(x, zero, reduction="sum")[0] == np.inf


def test_bfloat16_parameters_and_results():
    kind = dtype_of("bfloat16")
    x = np.array([0.0, 3.0])
    for beta in (kind.type(0.5), np.array(0.5, kind)):
        assert sl.smooth_l1_loss(x, 0.0, beta=beta) == sl.smooth_l1_loss(x, 0.0, beta=0.5)
    assert sl.smooth_l1_loss(x, 0.0, normalizer=kind.type(0.5)) == 5.0
    value = np.array([1 + 2**-8 + 2**-40])  # its nearest float32 is a tie
    for reduction in ("sum", "none"):
        got = sl.smooth_l1_loss(value, 0.0, beta=0.0, reduction=reduction, dtype=kind)
        assert float(np.ravel(got)[0]) == 1.0078125


def test_as_many_dimensions_as_numpy_has():
    x = np.ones((1,) * 40 + (2,))
    assert sl.smooth_l1_loss(x, 0.0, beta=0.3, axis=-1).shape == (1,) * 40


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((300_000, 2), 1), ((2, 300_000), 0), ((3, 2, 150_000), 1), ((150_000, 3, 2), (1,)),
        ((300_000,), ()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("keepdims", [False, True])
def test_many_weighted_means(shape, axis, keepdims):
    """Their denominators are made piece by piece, which must not show."""
    rng = np.random.default_rng(50)
    x, target, weight = rng.normal(size=(3, *shape))
    weight = np.abs(weight)
    where = rng.random(shape) < 0.9
    options = {"beta": 0.3, "axis": axis, "keepdims": keepdims, "where": where}
    loss = sl.smooth_l1_loss(x, target, weight=weight, **options)
    value, grad = sl.smooth_l1_value_and_grad(x, target, weight=weight, **options)
    assert same_bits(value, loss)
    axes = axis if isinstance(axis, tuple) else (axis,)
    kept = np.where(where, weight, 0.0)
    slopes = kept * np.clip((x - target) / 0.3, -1, 1)
    with np.errstate(invalid="ignore"):
        wanted = np.where(where, slopes / kept.sum(axis=axes, keepdims=True), 0.0)
    np.testing.assert_allclose(grad, wanted, rtol=1e-12)
    assert same_bits(sl.smooth_l1_grad(x, target, weight=weight, **options), grad)
    vector = rng.normal(size=np.shape(loss))
    spread = vector if keepdims else np.expand_dims(vector, axes)
    got = sl.smooth_l1_grad(x, target, weight=weight, grad_output=vector, **options)
    np.testing.assert_allclose(got, wanted * spread, rtol=1e-12)


@pytest.mark.parametrize("own", [(2, 1), (1, 1), ()])
def test_many_weighted_means_under_one_gradient(own):
    """The parts that each piece adds to the gradient are put together."""
    rng = np.random.default_rng(51)
    x, target, weight = rng.normal(size=own), *rng.normal(size=(2, 2, 300_000))
    options = {"beta": 0.3, "axis": 0, "weight": np.abs(weight)}
    vector = rng.normal(size=300_000)
    slopes = np.abs(weight) * np.clip((x - target) / 0.3, -1, 1) / np.abs(weight).sum(axis=0)
    summed = tuple(a for a in range(2) if np.broadcast_shapes(own, (1, 1))[a] == 1)
    value, grad = sl.smooth_l1_value_and_grad(x, target, **options)
    assert same_bits(value, sl.smooth_l1_loss(x, target, **options))
    np.testing.assert_allclose(grad, slopes.sum(axis=summed).reshape(own), rtol=1e-11)
    got = sl.smooth_l1_grad(x, target, grad_output=vector, **options)
    np.testing.assert_allclose(got, (vector * slopes).sum(axis=summed).reshape(own), rtol=1e-11)


@pytest.mark.parametrize("order", ["ij", "ji"])
def test_results_lie_in_memory_as_x_does(order):
    x = np.einsum(f"{order}->ij", np.random.default_rng(0).normal(size=(5, 7)))
    for result in (
        sl.smooth_l1_loss(x, 0.5, beta=0.3, reduction="none"),
        sl.smooth_l1_grad(x, 0.5, beta=0.3),
        sl.smooth_l1_value_and_grad(x, 0.5, beta=0.3, axis=0)[1],
        sl.smooth_l1_hess(x, 0.5, beta=0.3),
    ):
        assert result.strides == x.strides
