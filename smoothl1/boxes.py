"""Boxes of elements that are summed along several sets of axes at once.

Sums over different axes of the same elements want different walks through memory. Where
they are to come from one pass, the elements are cut into boxes that are small enough for
the memory of one block of threads, and long enough along the axes of every sum.

All follows from shapes, axes and the order of memory, and so do the bits of the sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .plan import Plan, c_steps

SIDE_BY_SIDE = 32  # elements in memory that a box holds at least: 64 bytes of 16 bits each


@dataclass(frozen=True, slots=True)
class Boxes:
    """Cut of the axes of a shape, all axes from the slowest to the fastest in memory."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    sides: tuple[int, ...]  # of a box

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(self.shape[a] for a in self.axes)

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of boxes along the axes."""
        return tuple(_ceil(n, side) for n, side in zip(self.sizes, self.sides, strict=True))

    def places(self) -> tuple[int, ...]:
        """Steps of the axes from one element of a box to the next, in the order of memory."""
        return c_steps(self.sides)

    def near(self, values: Sequence[int]) -> tuple[int, ...]:
        """Of one value for each axis, those of axes along which a box is longer than 1."""
        return tuple(v for v, side in zip(values, self.sides, strict=True) if side > 1)

    def far(self, values: Sequence[int]) -> tuple[int, ...]:
        """Of one value for each axis, those of axes along which there are several boxes."""
        return tuple(v for v, count in zip(values, self.counts, strict=True) if count > 1)

    def line(self) -> int:
        """Elements of a box that follow each other in the memory of x."""
        length = 1
        for side, n in zip(reversed(self.sides), reversed(self.sizes), strict=True):
            length *= side
            if side < n:
                break
        return length

    def chunks(self, axes: tuple[int, ...]) -> int:
        """Number of boxes that a sum over these axes passes through."""
        pairs = zip(self.axes, self.counts, strict=True)
        return math.prod(count for axis, count in pairs if axis in axes)

    def chunk_steps(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Steps from box to box of the number of a chunk of sums over these axes."""
        pairs = zip(self.axes, self.counts, strict=True)
        counts = {axis: count for axis, count in pairs if axis in axes}
        steps = dict(zip(counts, c_steps(tuple(counts.values())), strict=True))
        return tuple(steps.get(axis, 0) for axis in self.axes)

    def output_steps(self, plan: Plan) -> tuple[int, ...]:
        """Steps from element to element of the number of an output of a plan."""
        sizes = tuple(self.shape[a] for a in plan.kept)
        steps = dict(zip(plan.kept, c_steps(sizes), strict=True))
        return tuple(steps.get(axis, 0) for axis in self.axes)


@lru_cache(maxsize=512)
def cut(
    shape: tuple[int, ...],
    memory: tuple[int, ...],
    sums: frozenset[tuple[int, ...]],
    most: int,
) -> Boxes:
    """Cut a shape into boxes of at most so many elements for sums over several sets of axes.

    A box begins with neighbours in memory. Then the sum that has the fewest elements in it
    has one of its axes doubled, that of most sums, and in doubt the fastest.
    """
    axes = [a for a in memory if shape[a] != 1]
    sides = dict.fromkeys(axes, 1)
    for axis in reversed(axes):
        sides[axis] = min(shape[axis], max(1, min(SIDE_BY_SIDE, most) // _volume(sides, axes)))
        if sides[axis] < shape[axis]:
            break
    while grown := _grown(shape, axes, sides, sums, most):
        sides |= grown
    return Boxes(shape, tuple(axes), tuple(_even(shape[a], sides[a]) for a in axes))


def _grown(
    shape: tuple[int, ...],
    axes: Sequence[int],
    sides: dict[int, int],
    sums: frozenset[tuple[int, ...]],
    most: int,
) -> dict[int, int]:
    """Longer side of an axis; none if there is no room for one."""
    room = most // _volume(sides, axes)
    free = [
        a for a in axes if sides[a] < shape[a] and min(2 * sides[a], shape[a]) <= room * sides[a]
    ]
    if not free:
        return {}

    def use(axis: int) -> tuple[bool, int, int]:
        own = [_volume(sides, some) for some in sums if axis in some]
        return bool(own), -min(own, default=0), len(own)

    best = max(reversed(free), key=use)
    return {best: min(2 * sides[best], shape[best])}


def _volume(sides: dict[int, int], axes: Iterable[int]) -> int:
    return math.prod(sides.get(axis, 1) for axis in axes)


def _even(n: int, side: int) -> int:
    """Side of about equally long boxes, a multiple of 8 unless it is all."""
    count = _ceil(n, side)
    return n if count <= 1 else min(side, 8 * _ceil(_ceil(n, count), 8))


def _ceil(number: int, divisor: int) -> int:
    """Quotient, rounded up."""
    return -(-number // divisor)
