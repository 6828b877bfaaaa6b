"""Bring arrays into the form that kernels take, and launch them.

Arrays that are contiguous in the order of the plan and of a native type go in
as flat views. If one of them is not, all are described and gathered run by
run. Described operands come in two sets only, x and target or all there are,
since every combination of None and array is one more kernel to compile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from . import kernels, threads
from .descriptions import ABSENT
from .gather import describe_input, describe_output
from .plan import SPAN, Division, Plan, ascending, coalesce, divide
from .problem import Problem
from .records import Geometry, Operands, Outputs, Sums
from .validate import Array, broadcast

FEW = 1 << 14  # sums: their partial sums take at most 1 MiB
NATIVE = ("float64", "float32")
FLAT = {"x": NATIVE, "target": NATIVE, "weight": NATIVE, "where": ("bool",)}
TINY = 1e-300  # a divisor without a finite reciprocal, or nearly so
FINE = 1 << 12  # elements of a small task
ALL_ABSENT = dict.fromkeys(("betas", "weight", "where", "factor", "divisors"), ABSENT)
UNITS_PER_THREAD = 32  # so that the last ones to finish wait for little


@dataclass(slots=True)
class Terms:
    """Fields of `Operands`, arrays not yet in the form that kernels take."""

    x: Array | None = None
    target: Array | None = None
    beta: float = 1.0
    betas: Array | None = None
    weight: Array | None = None
    where: Array | None = None
    factor: Array | None = None
    divisors: Array | None = None
    divisor: float | None = None
    huber: bool | None = None
    curvature: bool | None = None
    narrow: bool | None = None

    @classmethod
    def of(
        cls, problem: Problem, huber: bool | None = None, curvature: bool | None = None
    ) -> Terms:
        """Operands of a problem."""
        beta = problem.beta
        return cls(
            x=problem.x,
            target=problem.target,
            beta=beta if isinstance(beta, float) else 1.0,
            betas=None if isinstance(beta, float) else beta,
            weight=problem.weight,
            where=problem.where,
            huber=huber,
            curvature=curvature,
            narrow=True if problem.form.is_narrow else None,
        )


def run_map(problem: Problem, terms: Terms, outputs: Outputs) -> None:
    """Write elementwise outputs."""
    plan = problem.plan((), keepdims=False)
    operands, arranged = _arrange(terms, outputs, plan, problem)
    tasks = threads.all_tasks(-(-plan.size // SPAN))
    arguments = (operands, arranged, plan.size)
    threads.run(kernels.map_runs, kernels.map_runs_parallel, arguments, tasks, plan.size)


class SumsRun:
    """A kernel that makes the wanted sums, and elementwise outputs on the way.

    Few sums come back as float64 under LOSS, WEIGHT and SLOPE, in the order
    of the plan and not yet divided. Many are divided by the kernels and
    stored in ``results``; then there is nothing to come back.
    """

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        terms: Terms,
        wanted: Sums,
        denominator: float | bool | None,
        results: dict[int, Array],
        outputs: Outputs = Outputs(),  # noqa: B008 (immutable)
        fine: bool = False,
    ) -> None:
        operands, arranged = _arrange(terms, outputs, plan, problem)
        self._kept = problem, terms, outputs, results  # kernels know them by addresses
        self._rows = [row for row, flag in enumerate(wanted) if flag]
        self.plan = plan
        if plan.outputs > FEW:
            self._parts = None
            self.division = Division(plan, 1, max(1, plan.blocks))
            flat = _flat_results(results, plan) if _is_few(plan, operands) else None
            table = _describe_results(results, self._rows, plan) if flat is None else flat
        else:
            self.division = _divide_work(plan, fine)
            table = self._parts = np.empty((3, self.division.count * plan.outputs))
        by = 1.0 if denominator is None or self._parts is not None else denominator
        self._serial, self._parallel, rest = kernels_for(self.division, by)
        if isinstance(table, Sums):
            self._serial, self._parallel = kernels.reduce_few, kernels.reduce_few_parallel
        self._arguments = (operands, arranged, wanted, table, *rest)

    def run(self, ranges: threads.Ranges) -> None:
        """Run the tasks of some ranges."""
        elements = self.plan.size * int((ranges[:, 1] - ranges[:, 0]).sum())
        elements //= max(1, self.division.tasks)
        threads.run(self._serial, self._parallel, self._arguments, ranges, elements)

    def run_all(self) -> None:
        """Run all tasks."""
        self.run(threads.all_tasks(self.division.tasks))

    def finish(self) -> dict[int, Array] | None:
        """Add up the parts of each sum, when all tasks have run."""
        if self._parts is None:
            return None
        if self.division.count == 1:
            return {row: self._parts[row] for row in self._rows}
        if self.plan.outputs == 1:
            return {row: np.array([add_numbers(self._parts[row].tolist())]) for row in self._rows}
        shape = self.division.count, self.plan.outputs
        return {row: add_pairs(self._parts[row].reshape(shape)) for row in self._rows}


def _divide_work(plan: Plan, fine: bool) -> Division:
    """Division into as many tasks as the threads like, or into small ones."""
    if fine:
        wanted = plan.size // FINE
    elif threads.choose_runner(plan.size) == threads.SERIAL:
        wanted = 1
    else:
        wanted = UNITS_PER_THREAD * threads.get_num_threads()
    parts = 2 * FEW if fine else FEW
    most = max(1, parts // max(1, plan.outputs)) * plan.outer * plan.tiles
    return divide(plan, min(most, wanted))


def kernels_for(division: Division, denominator: float | bool) -> tuple[Any, Any, tuple[Any, ...]]:
    """Serial and parallel kernel for a plan, and the last of their arguments."""
    plan = division.plan
    if plan.outputs == 1 and not plan.short:
        rest = (division.each, plan.size)
        return kernels.reduce_flat, kernels.reduce_flat_parallel, rest
    geometry = Geometry(
        plan.outer, plan.rows, plan.columns, plan.tile, plan.lanes,
        division.each, division.each.bit_length(),
    )  # fmt: skip
    if plan.short:
        return kernels.reduce_short, kernels.reduce_short_parallel, (denominator, geometry)
    return kernels.reduce_long, kernels.reduce_long_parallel, (denominator, geometry)


def add_pairs(parts: Array) -> Array:
    """Add up rows of partial sums in neighbouring pairs."""
    with np.errstate(all="ignore"):
        while len(parts) > 1:
            pairs = len(parts) // 2 * 2
            parts = np.concatenate([parts[0:pairs:2] + parts[1:pairs:2], parts[pairs:]])
    return parts[0]


def add_numbers(parts: list[float]) -> float:
    """Add up numbers in neighbouring pairs, for few a tenth of the time that NumPy takes."""
    while len(parts) > 1:
        odd = parts[len(parts) // 2 * 2 :]
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
    return parts[0]


def _arrange(
    terms: Terms, outputs: Outputs, plan: Plan, problem: Problem
) -> tuple[Operands, Outputs]:
    """Operands and outputs as kernels take them: all flat or all described."""
    if terms.narrow and terms.divisor is not None and not abs(terms.divisor) > TINY:
        terms.divisors, terms.divisor = np.asarray(terms.divisor), None  # which the caller keeps
    arrays = {
        name: broadcast(value, plan.shape)
        for name in ("x", "target", "betas", "weight", "where", "factor", "divisors")
        if (value := getattr(terms, name)) is not None
    }
    given = {
        name: array
        for name, array in (("loss", outputs.loss), ("slope", outputs.slope))
        if array is not None
    }
    taken = None if terms.huber else _flatten(arrays, given, plan.order)
    if taken is None:
        taken = {
            name: describe_input(array, plan.order, _rounding(name, problem))
            for name, array in arrays.items()
        }
        if terms.huber or not taken.keys() <= {"x", "target"}:
            taken = ALL_ABSENT | taken
        for name, array in given.items():
            taken[name] = describe_output(array, plan.order)
    get = taken.get
    operands = Operands(
        get("x"), get("target"), terms.beta, get("betas"), get("weight"), get("where"),
        get("factor"), get("divisors"), terms.divisor, terms.huber, terms.curvature, terms.narrow,
    )  # fmt: skip
    return operands, Outputs(get("loss"), get("slope"))


def _flatten(
    arrays: dict[str, Array], outputs: dict[str, Array], order: tuple[int, ...]
) -> dict[str, Array] | None:
    """Flat views of all arrays; None if kernels cannot read them where they lie."""
    if not arrays.keys() <= FLAT.keys():
        return None
    if len({array.dtype for name, array in arrays.items() if name != "where"}) > 1:
        return None
    views: dict[str, Array] = {}
    for name, array in (arrays | outputs).items():
        view = _flat(array, order, FLAT.get(name, NATIVE))
        if view is None:
            return None
        view.flags.writeable = name in outputs
        views[name] = view
    return views


def _rounding(name: str, problem: Problem) -> str:
    """Floating type that the integers of an operand are rounded to."""
    return problem.rounding if name in FLAT else "float64"


def _flat(array: Array, order: tuple[int, ...], types: tuple[str, ...]) -> Array | None:
    """One-dimensional view in an order of axes, if the array is contiguous in it."""
    flags = array.flags
    if not flags.aligned:
        return None
    axes = _flat_axes(array.dtype, array.shape, array.strides, order, types)
    if axes is None:
        return None
    return (array if flags.c_contiguous else array.transpose(axes)).reshape(-1)


@lru_cache(maxsize=1024)
def _flat_axes(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    order: tuple[int, ...],
    types: tuple[str, ...],
) -> tuple[int, ...] | None:
    """Order of all axes in which an array is contiguous; None for other types and layouts."""
    if dtype.name not in types or not dtype.isnative:
        return None
    sizes, steps = coalesce([shape[a] for a in order], [strides[a] for a in order])
    if len(sizes) > 1 or (sizes[0] > 1 and steps[0] != dtype.itemsize):
        return None
    return (*(a for a in range(len(shape)) if a not in order), *order)


def _is_few(plan: Plan, operands: Operands) -> bool:
    """Whether sums of few rows can be made in registers: operands lie flat in memory."""
    return plan.few and operands.x is not None and operands.x.dtype != np.int64


def _flat_results(results: dict[int, Array], plan: Plan) -> Sums | None:
    """Flat views of the arrays that take the sums; None if one is not contiguous."""
    views: list[Array | None] = [None] * 3
    for row, array in results.items():
        live = array.reshape([n for n in array.shape if n != 1])
        views[row] = _flat(live, ascending(plan.back), NATIVE)
        if views[row] is None:
            return None
    return Sums(*views)


def _describe_results(results: dict[int, Array], rows: list[int], plan: Plan) -> Array:
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
