import math

import numpy as np
import pytest

from smoothl1.boxes import SIDE_BY_SIDE, cut
from smoothl1.plan import make_plan

MOST = 4096
SHAPES = {  # how many elements of a box each sum has, at least
    ((16384, 16384), ((0,), (1,))): 64,
    ((1000, 1000), ((0,), (1,))): 64,
    ((64, 64, 56, 56), ((1,), (0, 2, 3))): 56,
    ((256, 131072, 8), ((0,), (2,))): 8,
    ((10**6, 4), ((0,), (1,))): 4,
    ((4, 10**6), ((0,), (1,))): 4,
    ((65, 65), ((0,), (1,))): 40,
    ((100, 50, 60), ((0, 1, 2), (0,), (2,))): 56,
}


@pytest.mark.parametrize(("shape", "sums"), SHAPES)
def test_sides(shape, sums):
    """Boxes are as large as they may be, along the axes of every sum, and lie in lines."""
    boxes = cut(shape, tuple(range(len(shape))), frozenset(sums), MOST)
    sides = dict(zip(boxes.axes, boxes.sides, strict=True))
    assert MOST // 3 < math.prod(boxes.sides) <= MOST
    assert min(math.prod(sides[a] for a in axes) for axes in sums) >= SHAPES[shape, sums]
    line = 1
    for axis in reversed(boxes.axes):
        line *= sides[axis]
        if sides[axis] < shape[axis]:
            break
    assert line >= SIDE_BY_SIDE


@pytest.mark.parametrize("memory", [(0, 1, 2, 3), (3, 1, 0, 2)])
@pytest.mark.parametrize("most", [10, 100, MOST])
def test_every_element_has_one_place(memory, most):
    """Boxes cover the array; places in them, outputs and chunks are what they say."""
    shape, axes = (5, 1, 19, 33), (0, 3)
    boxes = cut(shape, memory, frozenset([axes, (2,)]), most)
    plan = make_plan(shape, axes, True, memory)
    assert boxes.axes == tuple(a for a in memory if a != 1)
    assert all(
        count * side >= n > (count - 1) * side
        for n, side, count in zip(boxes.sizes, boxes.sides, boxes.counts, strict=True)
    )
    index = np.indices([shape[a] for a in boxes.axes])
    columns = (-1, *[1] * len(boxes.axes))
    numbers = index // np.reshape(boxes.sides, columns)
    inside = index - numbers * np.reshape(boxes.sides, columns)
    number = np.ravel_multi_index(tuple(numbers), boxes.counts)
    place = np.tensordot(boxes.places(), inside, 1)
    assert len(set(zip(number.flat, place.flat, strict=True))) == math.prod(shape)
    assert place.max() < math.prod(boxes.sides) <= most
    output = np.tensordot(boxes.output_steps(plan), index, 1)
    chunk = np.tensordot(boxes.chunk_steps(axes), numbers, 1)
    assert np.unique(output).size == plan.outputs == output.max() + 1
    assert np.unique(chunk).size == boxes.chunks(axes) == chunk.max() + 1
    summed = list(zip(output.flat, chunk.flat, strict=True))
    assert len(set(zip(number.flat, output.flat, strict=True))) == len(set(summed))
