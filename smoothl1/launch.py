"""Bring arrays into the form that kernels take, and launch those of elementwise outputs.

Arrays that are contiguous in the order of the plan and of a native type go in
as flat views. If one of them is not, all are described and gathered run by
run; only x, target and outputs stay flat beside weights, a mask or thresholds.
Described operands come in a few sets, as every combination of None and array is
one more kernel to compile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from . import kernels, threads
from .descriptions import ABSENT
from .gather import describe_input, describe_output
from .plan import SPAN, Plan, coalesce
from .problem import Problem
from .records import Operands, Outputs
from .validate import Array, broadcast

NATIVE = ("float64", "float32")
FLAT = {"x": NATIVE, "target": NATIVE, "weight": NATIVE, "where": ("bool",)}
TINY = 1e-300  # a divisor without a finite reciprocal, or nearly so
# Options that kernels take as descriptions, absent ones among them: the first set that has all.
ALONE = (), ("weight", "where"), ("betas",)
UNDIVIDED = "betas", "weight", "where", "factor"
ALL = *UNDIVIDED, "divisors"


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
    operands, arranged = arrange(terms, outputs, plan, problem)
    tasks = threads.all_tasks(-(-plan.size // SPAN))
    arguments = (operands, arranged, plan.size)
    threads.run(kernels.map_runs, arguments, tasks, plan.size)


def arrange(
    terms: Terms, outputs: Outputs, plan: Plan, problem: Problem
) -> tuple[Operands, Outputs]:
    """Operands and outputs as kernels take them, flat or described."""
    if terms.narrow:
        _choose_division(terms)
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
    taken = _flatten(arrays, given, plan.order) or _describe(arrays, given, terms, plan, problem)
    get = taken.get
    operands = Operands(
        get("x"), get("target"), terms.beta, get("betas"), get("weight"), get("where"),
        get("factor"), get("divisors"), terms.divisor, terms.huber, terms.curvature, terms.narrow,
    )  # fmt: skip
    return operands, Outputs(get("loss"), get("slope"))


def _choose_division(terms: Terms) -> None:
    """Multiply by reciprocals, which is exact enough here, where divisors have finite ones."""
    if terms.divisor is not None and not abs(terms.divisor) > TINY:
        terms.divisors, terms.divisor = np.asarray(terms.divisor), None  # which the caller keeps
    elif terms.divisors is not None and np.min(terms.divisors, initial=np.inf) > TINY:
        with np.errstate(all="ignore"):
            share = np.divide(1.0, terms.divisors)
            terms.factor = share if terms.factor is None else np.multiply(terms.factor, share)
        terms.divisors = None


def _describe(
    arrays: dict[str, Array], outputs: dict[str, Array], terms: Terms, plan: Plan, problem: Problem
) -> dict[str, Array]:
    """Descriptions; beside options that come alone, flat views of x, target and outputs."""
    options = arrays.keys() - {"x", "target"}
    sets = (*ALONE, UNDIVIDED, ALL) if terms.narrow else (*ALONE, ALL)
    known = next(names for names in sets if options <= set(names))
    taken: dict[str, Array] = {}
    if options and known in ALONE:
        operands = {name: arrays[name] for name in arrays.keys() - options}
        taken |= _flatten(operands, outputs, plan.order) or {}
    for name in arrays.keys() - taken.keys():
        taken[name] = describe_input(arrays[name], plan.order, _rounding(name, problem))
    for name in outputs.keys() - taken.keys():
        taken[name] = describe_output(outputs[name], plan.order)
    return dict.fromkeys(known, ABSENT) | taken


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
        view = flat_view(array, order, FLAT.get(name, NATIVE))
        if view is None:
            return None
        view.flags.writeable = name in outputs
        views[name] = view
    return views


def _rounding(name: str, problem: Problem) -> str:
    """Floating type that the integers of an operand are rounded to."""
    return problem.rounding if name in FLAT else "float64"


def flat_view(array: Array, order: tuple[int, ...], types: tuple[str, ...]) -> Array | None:
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
