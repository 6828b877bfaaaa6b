"""NumPy arrays: from a checked problem to kernels and back.

    Problem ── Terms (operands by name) ─┬─ run_map  elementwise outputs
                                         └─ SumsRun  sums over axes, and such outputs

Sums and outputs of one call are made in one pass over the operands where that can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .interleave import run_both
from .launch import Terms, arrange, run_map
from .new_arrays import new_array
from .plan import Plan, ascending
from .problem import Problem
from .records import LOSS, SLOPE, WEIGHT, Outputs, Sums
from .sums_run import SumsRun
from .validate import Array, Reduction, broadcast, round_once, share_memory

MANY = 1 << 16  # outputs whose float64 denominators and their reciprocals take 1 MiB


def loss(problem: Problem, out: Array | None = None, huber: bool = False) -> Array:
    """Losses or their reduction, for Huber's loss multiplied by beta."""
    terms = Terms.of(problem, huber=True if huber else None)
    if problem.reduction is Reduction.NONE:
        target = _Target(out, problem.shape, problem, elementwise=True)
        run_map(problem, terms, Outputs(loss=target.array))
        return target.finish()
    target = _Target(out, problem.plan().result_shape, problem, elementwise=False)
    _reduce(problem, terms, target.array)
    return target.finish()


def slope(
    problem: Problem,
    wrt: str,
    grad_output: Array | None,
    out: Array | None,
    curvature: bool,
    divisor: Array | float | None = None,
) -> Array:
    """Gradient with respect to one argument, or the diagonal of the Hessian.

    A divisor, if given, takes the place of that of the reduction.
    """
    if wrt == "target":
        problem = problem.swapped()
    summed = problem.broadcast_axes()
    factor = None
    if grad_output is not None:
        factor = broadcast(_expand(grad_output, problem), problem.shape)
    target = _Target(out, problem.x_shape, problem, elementwise=not summed, also=factor)

    def run(piece: _Piece) -> None:
        terms = Terms.of(piece.problem, curvature=True if curvature else None)
        terms.factor = piece.factor
        _divide(terms, denominator(piece.problem) if divisor is None else divisor)
        if summed:
            _sum_slopes(piece.problem, terms, piece.grad, summed)
        else:
            slopes = piece.grad.reshape(piece.problem.shape)
            run_map(piece.problem, terms, Outputs(slope=slopes))

    _run_pieces(_Piece(problem, None, target.array, factor), summed, run)
    return target.finish()


def value_and_grad(
    problem: Problem,
    wrt: str,
    out: Array | None,
    grad_out: Array | None,
    divisor: Array | float | None = None,
) -> tuple[Array, Array]:
    """Loss and gradient, read from the operands in one pass.

    A divisor, if given, takes the place of that of the reduction in the gradient.
    """
    if wrt == "target":
        problem = problem.swapped()
    summed = problem.broadcast_axes()
    together = summed == problem.live_axes()
    grads = _Target(grad_out, problem.x_shape, problem, elementwise=not summed)
    if problem.reduction is Reduction.NONE:
        values = _Target(out, problem.shape, problem, elementwise=not summed)
        _map_both(problem, values.array, grads.array, summed)
        return values.finish(), grads.finish()
    values = _Target(out, problem.plan().result_shape, problem, elementwise=False)

    def run(piece: _Piece) -> None:
        problem, value, grad = piece.problem, piece.value, piece.grad
        terms = Terms.of(problem)
        _divide(terms, denominator(problem) if divisor is None else divisor)
        if not summed:
            _reduce(problem, terms, value, Outputs(slope=grad.reshape(problem.shape)))
        elif together:
            _reduce(problem, terms, value, slopes=grad)
        else:
            losses = _loss_run(problem, Terms.of(problem), value, fine=True)
            slopes = _slope_run(problem, terms, grad, summed, fine=True)
            run_both(losses, slopes)
            losses.finish()
            slopes.finish()

    _run_pieces(_Piece(problem, values.array, grads.array), summed, run)
    return values.finish(), grads.finish()


def _map_both(problem: Problem, losses: Array, slopes: Array, summed: tuple[int, ...]) -> None:
    """Losses of all elements, and their slopes or sums of these."""
    terms = Terms.of(problem)
    if summed:
        _sum_slopes(problem, terms, slopes, summed, Outputs(loss=losses))
    else:
        run_map(problem, terms, Outputs(losses, slopes.reshape(problem.shape)))


def _reduce(
    problem: Problem,
    terms: Terms,
    out: Array,
    outputs: Outputs = Outputs(),  # noqa: B008 (immutable)
    slopes: Array | None = None,
) -> None:
    """Mean or sum of the losses, and in the same pass outputs or sums of slopes."""
    run = _loss_run(problem, terms, out, outputs, slopes)
    run.run_all()
    run.finish()


def _loss_run(
    problem: Problem,
    terms: Terms,
    out: Array,
    outputs: Outputs = Outputs(),  # noqa: B008 (immutable)
    slopes: Array | None = None,
    fine: bool = False,
) -> SumsRun:
    weighted = problem.is_weighted()
    wanted = Sums(True, True if weighted else None, None if slopes is None else True)
    by = True if weighted else problem.count()
    results = {LOSS: out} if slopes is None else {LOSS: out, SLOPE: slopes}
    return _new_run(problem, problem.plan(), terms, wanted, by, results, outputs, fine)


def _sum_slopes(
    problem: Problem,
    terms: Terms,
    out: Array,
    summed: tuple[int, ...],
    outputs: Outputs = Outputs(),  # noqa: B008 (immutable)
) -> None:
    """Sums of slopes over axes, and in the same pass outputs."""
    run = _slope_run(problem, terms, out, summed, outputs)
    run.run_all()
    run.finish()


def _slope_run(
    problem: Problem,
    terms: Terms,
    out: Array,
    summed: tuple[int, ...],
    outputs: Outputs = Outputs(),  # noqa: B008 (immutable)
    fine: bool = False,
) -> SumsRun:
    plan = problem.plan(summed, keepdims=True)
    return _new_run(problem, plan, terms, Sums(slope=True), None, {SLOPE: out}, outputs, fine)


def _new_run(
    problem: Problem,
    plan: Plan,
    terms: Terms,
    wanted: Sums,
    denominator: float | bool | None,
    results: dict[int, Array],
    outputs: Outputs = Outputs(),  # noqa: B008 (immutable)
    fine: bool = False,
) -> SumsRun:
    operands, arranged = arrange(terms, outputs, plan, problem)
    kept = problem, terms, outputs
    return SumsRun(plan, operands, arranged, wanted, denominator, results, kept, fine)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a problem, and where its results go."""

    problem: Problem
    value: Any  # array of the loss; None if it is not wanted
    grad: Array
    factor: Array | None = None

    def cut(self, axis: int, part: slice) -> _Piece:
        """Take a part of an axis that the reduction keeps."""
        problem = self.problem
        dropped = 0 if problem.keepdims else sum(a < axis for a in problem.axes)
        own = axis - len(problem.shape) + len(problem.x_shape)
        is_own = own >= 0 and problem.x_shape[own] != 1
        return _Piece(
            problem.cut(axis, part),
            _part(self.value, axis - dropped, part),
            _part(self.grad, own, part) if is_own else self.grad,
            _part(self.factor, axis, part),
        )


def _part(array: Any, axis: int, part: slice) -> Any:
    return None if array is None else array[(slice(None),) * axis + (part,)]


def _run_pieces(piece: _Piece, summed: tuple[int, ...], run: Callable[[_Piece], None]) -> None:
    """Run a problem, by halves if the denominators of its gradient take much memory.

    Halves of an axis along which x is broadcast each give a part of the gradient.
    """
    axis = _axis_to_halve(piece.problem, summed)
    if axis is None:
        run(piece)
        return
    size = piece.problem.shape[axis]
    halves = [piece.cut(axis, part) for part in (slice(size // 2), slice(size // 2, size))]
    if axis in summed:
        halves = [replace(half, grad=np.empty(piece.grad.shape)) for half in halves]
    for half in halves:
        _run_pieces(half, summed, run)
    if axis in summed:
        with np.errstate(all="ignore"):
            piece.grad[...] = round_once(halves[0].grad + halves[1].grad, piece.grad.dtype)


def _axis_to_halve(problem: Problem, summed: tuple[int, ...]) -> int | None:
    """Kept axis to cut, if there are many denominators, without changing how losses are summed."""
    plan = problem.plan()
    if plan.outputs <= MANY or not problem.is_weighted():
        return None
    for axis in sorted((a for a in plan.kept if problem.shape[a] > 1), key=lambda a: a in summed):
        size = problem.shape[axis]
        halves = [problem.cut(axis, slice(n)).plan() for n in (size // 2, size - size // 2)]
        if {(h.lanes, h.short) for h in halves} == {(plan.lanes, plan.short)}:
            return axis
    return None


def denominator(problem: Problem) -> Array | float | None:
    """What the reduction divides by, an array of one value per output if weighted."""
    plan = problem.plan(keepdims=True)
    if not problem.is_weighted():
        return problem.count()
    terms = Terms(weight=problem.weight, where=problem.where)
    weights = np.empty(plan.result_shape)
    run = _new_run(problem, plan, terms, Sums(weight=True), None, {WEIGHT: weights})
    run.run_all()
    run.finish()
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
            self.array = new_array(shape, problem.dtype)

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
    if memory == tuple(range(len(memory))):
        return new_array(shape, problem.dtype)
    array = new_array(tuple(problem.shape[a] for a in memory), problem.dtype)
    return array.transpose(ascending(memory)).reshape(shape)


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
