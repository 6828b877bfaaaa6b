"""Operands whose neighbours in memory belong to neighbouring rows, and very short rows."""

import numpy as np
import pytest
from reference import elements

import smoothl1 as sl

BETA = 2.0
ROWS = (7, 8, 9, 15, 40)
COLUMNS = (1, 2, 3, 7, 8, 9, 31, 100, 255, 256, 257, 263, 264, 513, 2049)
TYPES = ("float64", "float32", "int8", ">i2")


def numbers(shape, seed=0):
    """Small integers as floats: all types hold them, and sums of their losses are exact."""
    return np.random.default_rng(seed).integers(0, 9, shape).astype(float)


def turned(values, dtype="float64"):
    """Equal values, the next row beside each element in memory, at an odd address."""
    room = np.empty(values.size * np.dtype(dtype).itemsize + 1, np.uint8)
    view = room[1:].view(dtype).reshape(*values.shape[:-2], *values.shape[:-3:-1])
    view = np.swapaxes(view, -1, -2)
    view[...] = values
    return view


def check(x, target, got, loss_of=lambda loss: loss):
    wanted = loss_of(elements(x, np.broadcast_to(target, x.shape).astype(float), BETA)[0])
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_every_shape_of_a_turned_operand(dtype, rows):
    for columns in COLUMNS:
        x, values = numbers((rows, columns)), numbers((rows, columns), seed=1)
        target = turned(values, dtype)
        check(x, values, sl.smooth_l1_loss(x, target, beta=BETA, reduction="none"))
        for axis in (0, 1, None):
            got = sl.smooth_l1_loss(x, target, beta=BETA, axis=axis, reduction="sum")
            check(x, values, got, lambda loss, axis=axis: loss.sum(axis))


@pytest.mark.parametrize(
    ("dtype", "columns"),
    [
        ("float64", 6144), ("float64", 6145), ("float32", 12288), ("float32", 12289),
        ("int8", 49152), ("int8", 49153),
    ],
)  # fmt: skip
def test_rows_about_as_wide_as_a_panel(dtype, columns):
    x, values = numbers((19, columns)), numbers((19, columns), seed=1)
    target = turned(values, dtype)
    check(x, values, sl.smooth_l1_loss(x, target, beta=BETA, reduction="none"))
    for axis in (0, 1):
        got = sl.smooth_l1_loss(x, target, beta=BETA, axis=axis, reduction="sum")
        check(x, values, got, lambda loss, axis=axis: loss.sum(axis))


@pytest.mark.parametrize(
    "shape", [(3, 11, 300), (5, 8, 256), (2, 3, 9, 400), (70, 9, 5), (6, 20, 40)]
)
def test_planes_of_turned_rows(shape):
    x, values = numbers(shape), numbers(shape, seed=1)
    target = turned(values)
    for axis in ((), 0, 1, (0, 2), (1, 2), None):
        got = sl.smooth_l1_loss(x, target, beta=BETA, axis=axis, reduction="sum")
        sums = tuple(range(len(shape))) if axis is None else axis
        check(x, values, got, lambda loss, sums=sums: loss.sum(sums))


def test_several_turned_operands():
    shape = (50, 700)
    x, values, weight = numbers(shape), numbers(shape, seed=1), numbers(shape, seed=2)
    where = numbers(shape, seed=3) > 2
    got = sl.smooth_l1_loss(
        x, turned(values), beta=BETA, weight=turned(weight), where=turned(where, "bool"),
        reduction="none",
    )  # fmt: skip
    check(x, values, got, lambda loss: np.where(where, loss * weight, 0))


@pytest.mark.parametrize("columns", [2, 5, 30, 300, 700])
def test_a_turned_operand_that_is_overwritten(columns):
    x, values = numbers((9000, columns)), numbers((9000, columns), seed=1)
    target = turned(values)
    slope = elements(x, values, BETA)[1]
    sl.smooth_l1_grad(x, target, beta=BETA, reduction="sum", out=target)
    np.testing.assert_array_equal(target, slope)


@pytest.mark.parametrize("columns", [1, 2, 5, 7, 8, 31, 32, 300])
def test_short_rows_with_gaps_and_columns_repeated(columns):
    x, room = numbers((3000, columns)), numbers((3001, 3 * columns), seed=1)
    for target in (
        room[1:, :columns],
        room[1:, ::3],
        room[1:, columns - 1 :: -1] if columns > 1 else room[1:, :1],
        room[:-1, :columns][::-1],
        room[1:, :1],
        np.asfortranarray(room)[1:, :columns],
        np.asfortranarray(room)[1:, :1],
        np.asfortranarray(room)[:-1, :columns][::-1],
    ):
        check(x, target, sl.smooth_l1_loss(x, target, beta=BETA, reduction="none"))


@pytest.mark.parametrize("threads", [1, 2])
def test_large_arrays_on_any_number_of_threads(threads):
    x, values = numbers((1013, 777)), numbers((1013, 777), seed=1)
    before = sl.get_num_threads()
    sl.set_num_threads(threads)
    try:
        for target in (turned(values, "float32"), turned(values.T.copy().T)):
            got = sl.smooth_l1_value_and_grad(x, target, beta=BETA, reduction="sum")
            loss, slope = elements(x, values, BETA)[:2]
            assert got[0] == loss.sum()
            np.testing.assert_array_equal(got[1], slope)
    finally:
        sl.set_num_threads(before)


def test_short_rows_a_page_apart():
    x, room = numbers((300, 5)), numbers((300, 512), seed=1)
    for target in (room[:, :5], room[:, ::100][:, :5], room[:, ::-100][:, :5]):
        check(x, target, sl.smooth_l1_loss(x, target, beta=BETA, reduction="none"))
