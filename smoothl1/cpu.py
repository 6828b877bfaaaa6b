"""NumPy arrays: from a checked problem to kernels and back.

    Problem ── Terms (operands by name) ─┬─ run_map   elementwise outputs
                                         └─ run_sums  sums over axes, and such outputs

Few sums come back from the kernels in float64, and are divided and rounded
here. Many sums are finished and stored by the kernels, so that no
second array of their size exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from .launch import Terms, run_map, run_sums
from .plan import Plan
from .problem import Problem
from .records import LOSS, SLOPE, WEIGHT, Outputs, Sums
from .validate import Array, Reduction, broadcast, round_once, share_memory

MANY = 1 << 17  # outputs whose float64 denominators take 1 MiB


def loss(problem: Problem, out: Array | None = None, huber: bool = False) -> Array:
    """Losses or their reduction, for Huber's loss multiplied by beta."""
    terms = Terms.of(problem, huber=True if huber else None)
    if problem.reduction is Reduction.NONE:
        target = _Target(out, problem.shape, problem, elementwise=True)
        run_map(problem, terms, Outputs(loss=target.array))
        return target.finish()
    target = _Target(out, problem.plan().result_shape, problem, elementwise=False)
    _reduce(problem, terms, target.array, Outputs())
    return target.finish()


def slope(
    problem: Problem, wrt: str, grad_output: Array | None, out: Array | None, curvature: bool
) -> Array:
    """Gradient with respect to one argument, or the diagonal of the Hessian."""
    if wrt == "target":
        problem = problem.swapped()
    summed = _broadcast_axes(problem)
    factor = None
    if grad_output is not None:
        factor = broadcast(_expand(grad_output, problem), problem.shape)
    target = _Target(out, problem.x_shape, problem, elementwise=not summed, also=factor)
    for piece, _, own, kept in _pieces(problem, summed):
        terms = Terms.of(piece, curvature=True if curvature else None)
        _divide(terms, _denominator(piece))
        if factor is not None:
            terms.factor = factor if kept is None else factor[kept]
        _slope(piece, terms, target.array if own is None else target.array[own], summed)
    return target.finish()


def _slope(problem: Problem, terms: Terms, out: Array, summed: tuple[int, ...]) -> None:
    if not summed:
        run_map(problem, terms, Outputs(slope=out.reshape(problem.shape)))
        return
    plan = problem.plan(summed, keepdims=True)
    sums = run_sums(problem, plan, terms, Sums(slope=True), None, {SLOPE: out})
    if sums is not None:
        _assign(out, sums[SLOPE], plan)


def value_and_grad(
    problem: Problem, wrt: str, out: Array | None, grad_out: Array | None
) -> tuple[Array, Array]:
    """Loss and gradient, read from the operands in one pass.

    Two passes only if x is broadcast along axes other than the reduced ones:
    then the loss and the gradient are sums over different axes.
    """
    if wrt == "target":
        problem = problem.swapped()
    summed = _broadcast_axes(problem)
    if summed and summed != _live_axes(problem):
        value = loss(problem, None if out is not None and _overlaps(out, problem, False) else out)
        grad = slope(problem, "x", None, grad_out, False)
        return _copied(value, out), grad
    grads = _Target(grad_out, problem.x_shape, problem, elementwise=not summed)
    if problem.reduction is Reduction.NONE:
        values = _Target(out, problem.shape, problem, elementwise=True)
        outputs = Outputs(values.array, grads.array.reshape(problem.shape))
        run_map(problem, Terms.of(problem), outputs)
        return values.finish(), grads.finish()
    values = _Target(out, problem.plan().result_shape, problem, elementwise=False)
    for piece, result, own, _ in _pieces(problem, summed):
        value = values.array if result is None else values.array[result]
        grad = grads.array if own is None else grads.array[own]
        terms = Terms.of(piece)
        _divide(terms, _denominator(piece))
        if summed:
            _reduce(piece, terms, value, Outputs(), grad)
        else:
            _reduce(piece, terms, value, Outputs(slope=grad.reshape(piece.shape)))
    return values.finish(), grads.finish()


def _reduce(
    problem: Problem, terms: Terms, out: Array, outputs: Outputs, slopes: Array | None = None
) -> None:
    """Mean or sum of the losses, and in the same pass outputs or sums of slopes."""
    plan = problem.plan()
    weighted = _is_weighted(problem)
    wanted = Sums(True, True if weighted else None, None if slopes is None else True)
    by = True if weighted else _count(problem, plan)
    results = {LOSS: out} if slopes is None else {LOSS: out, SLOPE: slopes}
    sums = run_sums(problem, plan, terms, wanted, by, results, outputs)
    if sums is not None:
        _assign(out, _divided(sums[LOSS], sums[WEIGHT] if weighted else by), plan)
        if slopes is not None:
            _assign(slopes, sums[SLOPE], plan)


Index = tuple[slice, ...] | None


def _pieces(
    problem: Problem, summed: tuple[int, ...]
) -> Iterator[tuple[Problem, Index, Index, Index]]:
    """Cut a problem whose gradient needs a denominator for each of many outputs.

    Yields problems whose denominators take little memory, and where each lies
    in the result, in the array of x, and in an array with all axes kept; None
    for the whole. Cuts that would change the bits of a sum are not made.
    """
    plan = problem.plan()
    axis = max(plan.kept, key=lambda a: problem.shape[a], default=0)
    count = -(-plan.outputs // MANY)
    if count < 2 or not _is_weighted(problem) or axis in summed:
        yield problem, None, None, None
        return
    bounds = [problem.shape[axis] * k // count for k in range(count + 1)]
    parts = [slice(*pair) for pair in pairwise(bounds)]
    cuts = [problem.cut(axis, part) for part in parts]
    same = {(plan.lanes, plan.short)}
    if {(c.plan().lanes, c.plan().short) for c in cuts} != same:
        yield problem, None, None, None
        return
    dropped = 0 if problem.keepdims else sum(a < axis for a in problem.axes)
    missing = len(problem.shape) - len(problem.x_shape)
    for cut, part in zip(cuts, parts, strict=True):
        result, own, kept = (
            (slice(None),) * (axis - less) + (part,) for less in (dropped, missing, 0)
        )
        yield cut, result, own, kept


def _is_weighted(problem: Problem) -> bool:
    """Whether a mean divides by a sum over the data."""
    if problem.reduction is not Reduction.MEAN or problem.normalizer is not None:
        return False
    return problem.weight is not None or problem.where is not None


def _count(problem: Problem, plan: Plan) -> float | None:
    """Number that a reduction without weights divides by; None for no division."""
    if problem.reduction is not Reduction.MEAN:
        return None
    return float(plan.rows) if problem.normalizer is None else problem.normalizer


def _denominator(problem: Problem) -> Array | float | None:
    """What the reduction divides by, an array of one value per output if weighted."""
    plan = problem.plan(keepdims=True)
    if not _is_weighted(problem):
        return _count(problem, plan)
    terms = Terms(weight=problem.weight, where=problem.where)
    weights = np.empty(plan.result_shape)
    sums = run_sums(problem, plan, terms, Sums(weight=True), None, {WEIGHT: weights})
    if sums is not None:
        _assign(weights, sums[WEIGHT], plan)
    return weights if weights.size != 1 else float(weights.reshape(())[()])


def _divide(terms: Terms, denominator: Array | float | None) -> None:
    """Let the slope of each element carry the denominator of its mean."""
    if isinstance(denominator, np.ndarray):
        terms.divisors = denominator
    else:
        terms.divisor = denominator


def _expand(grad_output: Array, problem: Problem) -> Array:
    """View of a factor with size 1 in place of the reduced axes."""
    if problem.keepdims:
        return grad_output
    return np.expand_dims(grad_output, problem.axes)


def _broadcast_axes(problem: Problem) -> tuple[int, ...]:
    """Axes along which x is broadcast."""
    missing = len(problem.shape) - len(problem.x_shape)
    sizes = (1,) * missing + problem.x_shape
    return tuple(a for a, n in enumerate(problem.shape) if n != sizes[a])


def _live_axes(problem: Problem) -> tuple[int, ...]:
    """Reduced axes longer or shorter than 1."""
    return tuple(a for a in problem.axes if problem.shape[a] != 1)


def _divided(sums: Array, denominator: Array | float | None) -> Array:
    if denominator is None:
        return sums
    with np.errstate(all="ignore"):
        return np.asarray(sums / denominator)


def _assign(array: Array, sums: Array, plan: Plan) -> None:
    """Store sums, which come in the order of the plan, each rounded once."""
    shape = [plan.shape[a] for a in plan.kept]
    logical = sums.reshape(shape).transpose(np.argsort(plan.kept, kind="stable"))
    with np.errstate(all="ignore"):
        array[...] = round_once(logical, array.dtype).reshape(array.shape)


class _Target:
    """Where a result goes: ``out``, or new memory if ``out`` overlaps an operand."""

    def __init__(
        self,
        out: Array | None,
        shape: tuple[int, ...],
        problem: Problem,
        elementwise: bool,
        also: Array | None = None,
    ) -> None:
        self._out = out
        if out is not None and not _overlaps(out, problem, elementwise, also):
            self.array = out
        elif elementwise:
            self.array = _new_like_x(shape, problem)
        else:
            self.array = np.empty(shape, problem.dtype)

    def finish(self) -> Array:
        """Return the result, in ``out`` if one was given."""
        return _copied(self.array, self._out)


def _copied(array: Array, out: Array | None) -> Array:
    if out is None or out is array:
        return array
    out[...] = array
    return out


def _new_like_x(shape: tuple[int, ...], problem: Problem) -> Array:
    """New array whose axes lie in memory as those of x do."""
    memory = problem.memory
    array = np.empty([problem.shape[a] for a in memory], problem.dtype)
    return array.transpose(np.argsort(memory, kind="stable")).reshape(shape)


def _overlaps(out: Array, problem: Problem, elementwise: bool, also: Array | None = None) -> bool:
    """Whether writing to ``out`` could change an operand that is still to be read."""
    operands = (problem.x, problem.target, problem.weight, problem.where, problem.beta, also)
    return any(
        isinstance(operand, np.ndarray)
        and share_memory(out, operand)
        and not (elementwise and _is_in_place(out, operand))
        for operand in operands
    )


def _is_in_place(out: Array, operand: Any) -> bool:
    """Whether each element of ``out`` lies exactly on that of the operand."""
    return bool(
        out.ctypes.data == operand.ctypes.data
        and out.reshape(operand.shape).strides == operand.strides
        and out.itemsize == operand.itemsize
    )
