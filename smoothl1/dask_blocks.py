"""What the task of one block of a Dask array does: kernels on one thread.

These are functions of the top level and plain records, so that they travel to
other processes as names and a few numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import backend, threads
from .calls import Wanted
from .problem import Problem, check
from .validate import Array, Reduction, named_dtype, round_once


@dataclass(frozen=True)
class Job:
    """What a task needs to know beside its blocks."""

    wanted: Wanted
    names: tuple[str, ...]  # of the operands that come as blocks
    numbers: dict[str, Any]  # those that do not
    options: dict[str, Any]  # of `problem.check`
    wrt: str
    summed: bool  # whether slopes will be summed over blocks, and so are float64
    divisor: float | None

    def problem(self, blocks: tuple[Any, ...]) -> tuple[Problem, dict[str, Any]]:
        """Problem of a block, and what its slopes are multiplied and divided by."""
        given = dict(zip(self.names, blocks, strict=True))
        divisor = given.pop("divisor", self.divisor)
        if isinstance(divisor, np.ndarray) and divisor.size == 1:
            divisor = float(divisor.reshape(())[()])
        factor = given.pop("grad_output", None)
        return check(**given, **self.numbers, **self.options), {
            "grad_output": factor,
            "divisor": divisor,
        }

    def sums(self, problem: Problem) -> Array | None:
        """Room for the sums of the losses; None for elementwise losses."""
        elementwise = problem.reduction is Reduction.NONE
        return None if elementwise else np.empty(problem.result_shape())

    def slopes(self, problem: Problem) -> Array | None:
        """Room for the sums of the slopes; None for slopes of elements."""
        shape = problem.x_shape if self.wrt == "x" else problem.target_shape
        return np.empty(shape) if self.summed else None


def loss_block(*blocks: Any, job: Job) -> Array:
    """Losses, or float64 sums of them with reduced axes of size 1."""
    with threads.serially():
        problem, _ = job.problem(blocks)
        huber = job.wanted is Wanted.HUBER
        return backend.choose(problem).loss(problem, job.sums(problem), huber=huber)


def slope_block(*blocks: Any, job: Job) -> Array:
    """Slopes or curvatures, or float64 sums of them with summed axes of size 1."""
    with threads.serially():
        problem, by = job.problem(blocks)
        curvature = job.wanted is Wanted.HESS
        run = backend.choose(problem).slope
        slopes = run(problem, job.wrt, out=job.slopes(problem), curvature=curvature, **by)
        return _expanded(slopes, problem)


def both_block(*blocks: Any, job: Job) -> tuple[Array, Array]:
    """Both from one pass over the block."""
    with threads.serially():
        problem, by = job.problem(blocks)
        run = backend.choose(problem).value_and_grad
        outputs = job.sums(problem), job.slopes(problem)
        loss, slopes = run(problem, job.wrt, *outputs, divisor=by["divisor"])
        return loss, _expanded(slopes, problem)


def pick(both: tuple[Array, Array], part: int) -> Array:
    """One of the two."""
    return both[part]


def weight_block(
    *blocks: Any, names: tuple[str, ...], rounding: str, axes: tuple[int, ...], times: int
) -> Array:
    """Sums of the weights kept, or of ones, each of which counts some times."""
    shape = np.broadcast_shapes(*(np.shape(block) for block in blocks))
    x = np.broadcast_to(np.zeros((), named_dtype(rounding)), shape)
    given = dict(zip(names, blocks, strict=True))
    with threads.serially(), np.errstate(all="ignore"):
        problem = check(x, 0.0, **given, axis=axes, keepdims=True)
        sums = backend.choose(problem).denominator(problem)
        return np.reshape(sums, problem.result_shape()) * float(times)


def finish(
    total: Any, *divisors: Any, divisor: float | None, rounding: str, kept: tuple[int, ...]
) -> Any:
    """Divide sums, round them once, and drop all axes but those kept."""
    with np.errstate(all="ignore"):
        values, by = _block(total), _block(divisors[0]) if divisors else divisor
        if by is not None:
            values = np.asarray(values / by)
        kind = named_dtype(rounding)
        values = round_once(values, kind).astype(kind, copy=False)
    return values.reshape([values.shape[axis] for axis in kept])[()]


def _expanded(slopes: Array, problem: Problem) -> Array:
    """Slopes with all axes of the problem."""
    return slopes.reshape((1,) * (len(problem.shape) - slopes.ndim) + slopes.shape)


def _block(block: Any) -> Array:
    """Block in nested lists, which stand for axes of one block that are dropped."""
    while isinstance(block, list):
        (block,) = block
    return np.asarray(block)
