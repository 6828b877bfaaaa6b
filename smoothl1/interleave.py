"""Two reductions of the same operands over different axes, in one pass over memory.

Their sums take the elements in different orders, so one loop cannot make
both. But the tasks of either can run at any time: here they are sorted into
slabs of elements that stay in the cache between the two kernels. In memory
that is hardly faster, as the formula runs twice; operands on disk are read once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .plan import Division
from .sums_run import SumsRun
from .threads import Ranges, all_tasks

SLAB = 1 << 20  # elements: 8 MiB of a float64 operand, in the last cache level
GROUPS = 1 << 14  # tasks are sorted in at most so many groups

Positions = np.ndarray[tuple[int], np.dtype[np.int64]]


def run_both(one: SumsRun, other: SumsRun) -> None:
    """Run all tasks of both, which should be small, slab by slab."""
    for first, second in schedule(one.division, other.division):
        one.run(first)
        other.run(second)


def schedule(one: Division, other: Division) -> Iterator[tuple[Ranges, Ranges]]:
    """Ranges of tasks of both for each slab, which is some tasks of ``other``."""
    slabs = min(-(-one.plan.size // SLAB), other.tasks)
    if slabs < 2:
        yield all_tasks(one.tasks), all_tasks(other.tasks)
        return
    bounds = np.arange(slabs + 1) * other.tasks // slabs
    group = -(-one.tasks // GROUPS)
    groups = np.arange(0, one.tasks, group)
    places = _translate(_first_elements(one, groups), one, other)
    owners = np.searchsorted(bounds, _holders(other, places), "right") - 1
    order = np.argsort(owners, kind="stable")
    cuts = np.searchsorted(owners[order], np.arange(slabs + 1))
    for k in range(slabs):
        starts = groups[order[cuts[k] : cuts[k + 1]]]
        ranges = _merged(starts, group, one.tasks)
        yield ranges, np.array([[bounds[k], bounds[k + 1]]])


def _first_elements(division: Division, tasks: Positions) -> Positions:
    """Places of the first elements of tasks, in the order of the plan."""
    plan = division.plan
    if plan.short:
        return tasks * division.groups * plan.rows * plan.columns
    unit, place = np.divmod(tasks, plan.outer * plan.tiles)
    outer, tile = np.divmod(place, plan.tiles)
    row = outer * plan.rows + unit * division.unit_rows
    return row * plan.columns + tile * plan.tile


def _holders(division: Division, places: Positions) -> Positions:
    """Numbers of the tasks that hold the elements at these places of the plan."""
    plan = division.plan
    row, column = np.divmod(places, plan.columns)
    outer, row = np.divmod(row, plan.rows)
    if plan.short:
        return outer // division.groups
    unit, tile = row // division.unit_rows, column // plan.tile
    return (unit * plan.outer + outer) * plan.tiles + tile


def _translate(places: Positions, one: Division, other: Division) -> Positions:
    """Places of the same elements in the order of another plan."""
    shape, order, wanted = one.plan.shape, one.plan.order, other.plan.order
    indices = dict(zip(order, np.unravel_index(places, [shape[a] for a in order]), strict=True))
    return np.ravel_multi_index([indices[a] for a in wanted], [shape[a] for a in wanted])


def _merged(starts: Positions, group: int, tasks: int) -> Ranges:
    """Ranges of groups that begin at these tasks, neighbours in one range."""
    breaks = np.flatnonzero(np.diff(starts) != group) + 1
    first = starts[np.concatenate([[0], breaks])] if starts.size else starts
    last = starts[np.concatenate([breaks - 1, [-1]])] + group if starts.size else starts
    return np.stack([first, np.minimum(last, tasks)], axis=1)
