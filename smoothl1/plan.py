"""How a call walks through memory, in integers only.

A plan fixes the order of the elements and the shape of every sum from the
shape, the axes and the memory order of ``x`` alone. Threads, strides of the
other operands and backends never enter, which is why they cannot change bits.

Each reduction is brought to one form, (outer, rows, columns): the outputs are
outer x columns, each sums ``rows`` elements, and ``columns`` is what lies
innermost in memory and is kept (1 when the innermost axis is reduced).

The sum of one output: its rows are cut into blocks of 16 * lanes; in a block,
row ``r`` is added to lane ``r % lanes``; the lanes are folded by halving; the
block sums are folded by a tree of neighbouring pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

DEPTH = 16  # additions in one lane of a block: 64 of them can be 31 ulps off
LANES = 64  # float64 lanes: eight AVX-512 registers
SPAN = 2048
TILE = 1024  # columns of one tile
FEW_ROWS = 4  # read side by side where columns are many: processors foresee few streams
GROUP = 8  # rows of a linear model that kernels work on side by side


@dataclass(frozen=True, slots=True)
class Plan:
    """Order of the axes and geometry of the sums of one call."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    result_shape: tuple[int, ...]
    order: tuple[int, ...]
    kept: tuple[int, ...]
    back: tuple[int, ...]  # brings the kept axes into ascending order
    outer: int
    rows: int
    columns: int
    tile: int
    lanes: int
    short: bool

    @property
    def size(self) -> int:
        """Number of elements of the broadcast shape."""
        return math.prod(self.shape)

    @property
    def outputs(self) -> int:
        """Number of sums."""
        return self.outer * self.columns

    @property
    def few(self) -> bool:
        """Whether few rows of several tiles are summed, each column in one lane."""
        return self.tiles > 1 and 1 < self.rows <= FEW_ROWS

    @property
    def tiles(self) -> int:
        """Number of column tiles."""
        return -(-self.columns // self.tile)

    @property
    def blocks(self) -> int:
        """Number of blocks that the rows of one output are cut into."""
        return -(-self.rows // (DEPTH * self.lanes))


@dataclass(frozen=True, slots=True)
class Division:
    """How the work of a plan is cut into tasks that do not depend on each other.

    Each sum is made in ``count`` units of ``each`` blocks, and a task is one
    unit of one tile; or, if the plan is short, one run that holds some outputs.
    """

    plan: Plan
    count: int
    each: int

    @property
    def groups(self) -> int:
        """Outer outputs in the run of a short plan."""
        return SPAN // (self.plan.rows * self.plan.columns)

    @property
    def unit_rows(self) -> int:
        """Rows of a unit."""
        return self.each * DEPTH * self.plan.lanes

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        if self.plan.short:
            return -(-self.plan.outer // self.groups)
        return self.count * self.plan.outer * self.plan.tiles


def memory_order(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Axes from the slowest to the fastest in memory; C order when in doubt."""
    axes = tuple(range(len(shape)))
    live = [axis for axis in axes if shape[axis] != 1]
    steps = {abs(strides[axis]) for axis in live}
    if 0 in steps or len(steps) < len(live):
        return axes
    fixed = [axis for axis in axes if shape[axis] == 1]
    return (*fixed, *sorted(live, key=lambda axis: -abs(strides[axis])))


def c_steps(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Steps in elements of axes of these sizes that lie in the order of C."""
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def ascending(axes: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of axes from the lowest to the highest."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """Shape after reducing ``axes``, with size 1 in their place or without."""
    if keepdims:
        return tuple(1 if a in axes else n for a, n in enumerate(shape))
    return tuple(n for a, n in enumerate(shape) if a not in axes)


@lru_cache(maxsize=512)
def make_plan(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    keepdims: bool,
    memory: tuple[int, ...],
) -> Plan:
    """Plan the reduction of ``shape`` over ``axes``, elements in ``memory`` order."""
    live = [a for a in memory if shape[a] != 1]
    inner: list[int] = []
    while live and live[-1] not in axes:
        inner.insert(0, live.pop())
    reduced = [a for a in live if a in axes]
    outer = [a for a in live if a not in axes]
    if not reduced:  # nothing to sum: every element is an output
        outer, inner = inner, []
    rows, columns = (math.prod(shape[a] for a in part) for part in (reduced, inner))
    outer_size = math.prod(shape[a] for a in outer)
    kept = (*outer, *inner)
    tile, lanes = _tile(rows, columns)
    several = rows * columns <= SPAN // 2 and (rows < LANES or columns == 1)  # outputs in a run
    return Plan(
        shape=shape,
        axes=axes,
        result_shape=reduced_shape(shape, axes, keepdims),
        order=(*outer, *reduced, *inner),
        kept=kept,
        back=ascending(kept),
        outer=outer_size,
        rows=rows,
        columns=columns,
        tile=tile,
        lanes=lanes,
        short=several and rows > 0 and columns > 0 and outer_size > 1,
    )


def _tile(rows: int, columns: int) -> tuple[int, int]:
    """Columns of a tile, all about equally wide, and its number of lanes."""
    tiles = max(1, -(-columns // TILE))
    tile = max(1, -(-columns // tiles))
    if tiles > 1:
        tile = -(-tile // LANES) * LANES
        if rows <= FEW_ROWS:
            return tile, 1
    lanes = 1 << max(0, (SPAN // tile).bit_length() - 1)
    useful = 1 << max(0, (rows - 1).bit_length())
    return tile, min(LANES, lanes, useful)


def coalesce(
    sizes: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Merge neighbouring axes that one stride walks through."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    if not merged:
        return (1,), (0,)
    return tuple(n for n, _ in merged), tuple(s for _, s in merged)


@lru_cache(maxsize=512)
def divide(plan: Plan, wanted: int) -> Division:
    """Split each sum into units of 2**k blocks so that about ``wanted`` tasks exist.

    Any power of two gives the same tree, so the choice cannot change bits.
    """
    tasks = max(1, plan.outer * plan.tiles)
    blocks = max(1, plan.blocks)
    each = 1
    while not plan.short and -(-blocks // each) * tasks > max(wanted, tasks):
        each *= 2
    return Division(plan, 1 if plan.short else -(-blocks // each), each)
