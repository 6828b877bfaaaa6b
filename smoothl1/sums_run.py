"""Sums over axes: which kernel makes them, where they go, and what is left to do after it.

Few sums come back from the kernels in float64, in parts that are added up, divided and
rounded here. Many sums are finished and stored by the kernels, so that no second array of
their size exists.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import kernels, threads
from .gather import describe_output
from .launch import NATIVE, flat_view
from .plan import Division, Plan, ascending, divide
from .records import LOSS, WEIGHT, Geometry, Operands, Outputs, Sums
from .validate import Array, round_once

FEW = 1 << 14  # sums: their partial sums take at most 1 MiB
FINE = 1 << 12  # elements of a small task
UNITS_PER_THREAD = 32  # so that the last ones to finish wait for little


class SumsRun:
    """A kernel that makes the wanted sums, divides losses and stores all in ``results``.

    Arrays that kernels know by addresses only are ``kept``.
    """

    def __init__(
        self,
        plan: Plan,
        operands: Operands,
        outputs: Outputs,
        wanted: Sums,
        denominator: float | bool | None,
        results: dict[int, Array],
        kept: Any,
        fine: bool = False,
    ) -> None:
        self.plan = plan
        self._kept, self._results, self._denominator = kept, results, denominator
        rows = self._rows = [row for row, flag in enumerate(wanted) if flag]
        if plan.outputs > FEW:
            self._parts = None
            self.division = Division(plan, 1, max(1, plan.blocks))
            flat = _flat_results(results, plan) if _is_few(plan, operands) else None
            table = describe_results(results, rows, plan) if flat is None else flat
        else:
            self.division = divide_work(plan, fine)
            table = self._parts = np.empty((3, self.division.count * plan.outputs))
        by = 1.0 if denominator is None or self._parts is not None else denominator
        self._kernel, rest = kernel_for(self.division, by)
        if isinstance(table, Sums):
            self._kernel = kernels.reduce_few
        self._arguments = (operands, outputs, wanted, table, *rest)

    def run(self, ranges: threads.Ranges) -> None:
        """Run the tasks of some ranges."""
        elements = self.plan.size * int((ranges[:, 1] - ranges[:, 0]).sum())
        elements //= max(1, self.division.tasks)
        threads.run(self._kernel, self._arguments, ranges, elements)

    def run_all(self) -> None:
        """Run all tasks."""
        tasks = threads.all_tasks(self.division.tasks)
        threads.run(self._kernel, self._arguments, tasks, self.plan.size)

    def finish(self) -> None:
        """When all tasks have run: add up the parts of few sums, and store them."""
        if self._parts is None:
            return
        sums = {row: add_up(self._parts[row], self.division.count) for row in self._rows}
        by = sums[WEIGHT] if self._denominator is True else self._denominator
        for row, array in self._results.items():
            assign(array, sums[row], self.plan, by if row == LOSS else None)


def divide_work(plan: Plan, fine: bool) -> Division:
    """Division into as many tasks as the threads like, or into small ones."""
    if fine:
        return _divide(plan, plan.size // FINE, 2 * FEW)
    alone = threads.choose_runner(plan.size) == threads.SERIAL
    return divide_for(plan, 1 if alone else threads.get_num_threads())


def divide_for(plan: Plan, number: int) -> Division:
    """Division for so many threads."""
    return _divide(plan, 1 if number == 1 else UNITS_PER_THREAD * number, FEW)


def _divide(plan: Plan, wanted: int, parts: int) -> Division:
    most = max(1, parts // max(1, plan.outputs)) * plan.outer * plan.tiles
    return divide(plan, min(most, wanted))


def kernel_for(division: Division, denominator: float | bool) -> tuple[Any, tuple[Any, ...]]:
    """Kernel for a plan, and its arguments after the table, but for the tasks."""
    plan = division.plan
    if plan.outputs == 1 and not plan.short:
        return kernels.reduce_flat, (division.each, plan.size)
    geometry = Geometry(
        plan.outer, plan.rows, plan.columns, plan.tile, plan.lanes,
        division.each, division.each.bit_length(),
    )  # fmt: skip
    if plan.short:
        return kernels.reduce_short, (denominator, geometry)
    return kernels.reduce_long, (denominator, geometry)


def add_up(parts: Array, count: int) -> Array:
    """Add up so many parts of each of some sums, which lie one behind the other."""
    if count == 1:
        return parts
    if count == parts.size:
        return np.array([kernels.add_numbers(parts)])
    return add_pairs(parts.reshape(count, -1))


def add_pairs(parts: Array) -> Array:
    """Add up rows of partial sums in neighbouring pairs."""
    with np.errstate(all="ignore"):
        while len(parts) > 1:
            pairs = len(parts) // 2 * 2
            parts = np.concatenate([parts[0:pairs:2] + parts[1:pairs:2], parts[pairs:]])
    return parts[0]


def assign(array: Array, sums: Array, plan: Plan, denominator: Array | float | None) -> None:
    """Divide sums, which come in the order of the plan, and store them, each rounded once."""
    with np.errstate(all="ignore"):
        if denominator is not None:
            sums = np.divide(sums, denominator)
        if len(plan.kept) > 1:
            sums = sums.reshape([plan.shape[a] for a in plan.kept]).transpose(plan.back)
        array[...] = round_once(sums, array.dtype).reshape(array.shape)


def _is_few(plan: Plan, operands: Operands) -> bool:
    """Whether sums of few rows can be made in registers: operands lie flat in memory."""
    arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
    return plan.few and all(array.dtype != np.int64 for array in arrays)


def _flat_results(results: dict[int, Array], plan: Plan) -> Sums | None:
    """Flat views of the arrays that take the sums; None if one is not contiguous."""
    views: list[Array | None] = [None] * 3
    for row, array in results.items():
        live = array.reshape([n for n in array.shape if n != 1])
        views[row] = flat_view(live, ascending(plan.back), NATIVE)
        if views[row] is None:
            return None
    return Sums(*views)


def describe_results(results: dict[int, Array], rows: list[int], plan: Plan) -> Array:
    """Descriptions of the arrays that take the sums; a zero row takes none."""
    order = ascending(plan.back)  # ranks of the kept axes
    table = np.zeros((3, 64 + 2 * len(plan.shape)), np.int64)
    for row in rows:
        if row in results:
            array = results[row]
            live = array.reshape([n for n in array.shape if n != 1])
            description = describe_output(live, order)
            table[row, : description.size] = description
    return table
