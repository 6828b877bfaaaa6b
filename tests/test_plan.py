import math

import pytest

from smoothl1.plan import (
    LANES,
    SPAN,
    TILE,
    coalesce,
    divide,
    make_plan,
    memory_order,
    reduced_shape,
)


@pytest.mark.parametrize(
    ("shape", "strides", "order"),
    [
        ((3, 4), (32, 8), (0, 1)),
        ((3, 4), (8, 24), (1, 0)),
        ((3, 4), (-8, 24), (1, 0)),
        ((3, 4), (0, 8), (0, 1)),
        ((4, 3), (8, 0), (0, 1)),
        ((3, 1, 4), (8, 999, 24), (1, 2, 0)),
        ((2, 2), (8, 8), (0, 1)),
        ((), (), ()),
    ],
)
def test_memory_order(shape, strides, order):
    assert memory_order(shape, strides) == order


@pytest.mark.parametrize(
    ("axes", "outer", "rows", "columns"),
    [
        ((0, 1, 2, 3), 1, 2 * 3 * 5 * 7, 1),
        ((3,), 30, 7, 1),
        ((0,), 1, 2, 105),
        ((1,), 2, 3, 35),
        ((0, 2), 3, 10, 7),
        ((1, 3), 10, 21, 1),
        ((), 210, 1, 1),
    ],
)
def test_every_pattern_becomes_outer_rows_columns(axes, outer, rows, columns):
    plan = make_plan((2, 3, 5, 7), axes, False, (0, 1, 2, 3))
    assert (plan.outer, plan.rows, plan.columns) == (outer, rows, columns)
    assert sorted(plan.order) == [0, 1, 2, 3]
    assert plan.outputs == math.prod(plan.result_shape)


def test_axes_of_size_one_leave_no_trace():
    plain = make_plan((6, 4), (1,), False, (0, 1))
    padded = make_plan((1, 6, 1, 4), (0, 3), False, (0, 2, 1, 3))
    for field in ("outer", "rows", "columns", "tile", "lanes", "short"):
        assert getattr(plain, field) == getattr(padded, field)
    assert padded.result_shape == (6, 1)


@pytest.mark.parametrize("columns", [1, 2, 3, 63, 64, 100, 1023, 1024, 1025, 5000, 200704])
@pytest.mark.parametrize("rows", [2, 3, 64, 5000])
def test_a_row_of_lanes_fits_a_run(rows, columns):
    plan = make_plan((rows, columns, 1), (0,), False, (2, 0, 1))
    assert plan.tile <= TILE
    assert plan.lanes * plan.tile <= SPAN
    assert plan.lanes <= LANES
    assert plan.lanes & (plan.lanes - 1) == 0
    assert plan.tiles * plan.tile >= columns


def test_units_are_powers_of_two_that_cover_all_blocks():
    plan = make_plan((10**7,), (0,), False, (0,))
    for wanted in (1, 2, 3, 8, 64, 10**6):
        division = divide(plan, wanted)
        count, each = division.count, division.each
        assert each & (each - 1) == 0
        assert (count - 1) * each < plan.blocks <= count * each
        assert division.tasks == count <= max(wanted, 1)


@pytest.mark.parametrize(
    ("sizes", "strides", "merged"),
    [
        ([2, 3, 4], [96, 32, 8], ((24,), (8,))),
        ([2, 3, 4], [96, 32, 16], ((6, 4), (32, 16))),
        ([2, 3, 4], [200, 32, 8], ((2, 12), (200, 8))),
        ([2, 3], [0, 0], ((6,), (0,))),
        ([], [], ((1,), (0,))),
    ],
)
def test_coalesce(sizes, strides, merged):
    assert coalesce(sizes, strides) == merged


def test_reduced_shape():
    assert reduced_shape((2, 3, 4), (0, 2), True) == (1, 3, 1)
    assert reduced_shape((2, 3, 4), (0, 2), False) == (3,)
