"""Arrays on a GPU: from a checked call to kernels and back, without waiting for them.

    Call ── Work (checked, operands as spans) ─┬─ run_map    elementwise outputs
                                               ├─ run_sums   sums over axes, and such outputs
                                               ├─ run_mixed  a loss of all elements whose
                                               │             gradient sums over fewer axes
                                               └─ run_boxes  a loss and a gradient that sum
                                                             over other axes

As in `cpu`, which this mirrors; but memory comes from the library of the
arrays, everything is launched on its current stream, and no value ever comes
back to the host. Operands are read once; only what a mean divides by, a sum of
weights, is there before its gradient.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

from .calls import Call, Wanted
from .cuda_crossing import pays, run_boxes
from .cuda_launch import is_wide, run_copy, run_map
from .cuda_sums import run_mixed, run_sums
from .cuda_work import Work
from .devices import Memory, Span
from .problem import Problem
from .validate import Reduction, check_fit


def run(memory: Memory, call: Call, arrays: dict[str, Any], problem: Problem) -> Any:
    """Run a checked call with arrays on one GPU."""
    like = next(iter(arrays.values()))
    with cuda.gpus[memory.device(like)]:
        work = Work.of(memory, call, arrays, problem)
        if call.wanted in (Wanted.LOSS, Wanted.HUBER):
            return _loss(work, call)
        if call.wanted is Wanted.VALUE_AND_GRAD:
            return _value_and_grad(work, call)
        return _slope(work, call)


def _loss(work: Work, call: Call) -> Any:
    problem = work.problem
    if problem.reduction is Reduction.NONE:
        target = _Target(work, call, "out", problem.shape, elementwise=True)
        run_map(work, target.span, None)
        return target.finish()
    target = _Target(work, call, "out", problem.plan().result_shape)
    _run_loss(work, target.span)
    return target.finish()


def _run_loss(
    work: Work, loss: Span, slope: Span | None = None, slope_out: Span | None = None
) -> None:
    """Sums of losses, and sums of slopes over the axes of `_summed_first` or each slope."""
    problem, loss = work.problem, work.result_axes(loss)
    first = _summed_first(problem)
    if first:
        run_mixed(work, problem.plan(first, keepdims=True), loss, slope, slope_out)
    else:
        run_sums(work, problem.plan(), loss=loss, slope=slope, slope_out=slope_out)


def _summed_first(problem: Problem) -> tuple[int, ...]:
    """Axes that a sum of all elements takes first: those that one operand is broadcast along.

    It takes them also where no gradient is wanted, so that the loss has the same bits.
    """
    live = problem.live_axes()
    if problem.plan().outputs != 1 or problem.plan().size == 0:
        return ()
    own, other = problem.broadcast_axes(), problem.swapped().broadcast_axes()
    axes = own or other
    return () if axes == live or (own and other and own != other) else axes


def _slope(work: Work, call: Call) -> Any:
    summed = work.problem.broadcast_axes()
    target = _Target(work, call, "out", work.problem.x_shape, elementwise=not summed)
    _divide(work)
    if work.factor is not None:
        work.operands["factor"] = work.result_axes(work.factor).broadcast(work.problem.shape)
    _run_slope(work, target.span, summed)
    return target.finish()


def _run_slope(work: Work, grad: Span, summed: tuple[int, ...]) -> None:
    if summed:
        run_sums(work, work.problem.plan(summed, keepdims=True), slope=_padded(work, grad))
    else:
        run_map(work, None, _padded(work, grad))


def _value_and_grad(work: Work, call: Call) -> tuple[Any, Any]:
    problem, summed = work.problem, work.problem.broadcast_axes()
    is_map = problem.reduction is Reduction.NONE
    shape = problem.shape if is_map else problem.plan().result_shape
    values = _Target(work, call, "out", shape, elementwise=is_map and not summed)
    grads = _Target(work, call, "grad_out", problem.x_shape, elementwise=not summed)
    grad = _padded(work, grads.span)
    if is_map and not summed:
        run_map(work, values.span, grad)
    elif is_map:
        plan = problem.plan(summed, keepdims=True)
        run_sums(work, plan, slope=grad, loss_out=values.span)
    else:
        _divide(work)
        if not summed:
            _run_loss(work, values.span, slope_out=grad)
        elif summed in (problem.live_axes(), _summed_first(problem)):
            _run_loss(work, values.span, slope=grad)
        elif pays(work):
            run_boxes(work, work.result_axes(values.span), grad)
        else:
            _run_loss(work, values.span)
            _run_slope(work, grads.span, summed)
    return values.finish(), grads.finish()


def _padded(work: Work, span: Span) -> Span:
    """View with as many axes as the problem has, those that are missing of size 1."""
    missing = tuple(range(len(work.problem.shape) - len(span.shape)))
    return span.expanded(missing)


def _divide(work: Work) -> None:
    """Let the slope of each element carry the denominator of its mean."""
    problem = work.problem
    if not problem.is_weighted():
        work.divisor = problem.count()
        return
    plan = problem.plan(keepdims=True)
    dtype = "float64" if is_wide(work) else "float32"
    span = work.room(plan.result_shape, dtype)
    run_sums(work, plan, weight=span)
    work.operands["divisors"] = span.broadcast(problem.shape)


class _Target:
    """Where a result goes: ``out``, or new memory if ``out`` overlaps an operand."""

    def __init__(
        self, work: Work, call: Call, name: str, shape: tuple[int, ...], elementwise: bool = False
    ) -> None:
        self._work = work
        self._out = call.arguments.get(name)
        if self._out is not None:
            span = work.memory.span(name, self._out)
            if not any(_is_in_the_way(span, operand, elementwise) for operand in _read(work)):
                self.array, self.span = self._out, span
                return
        order = tuple(range(len(shape)))
        if elementwise:
            missing = len(work.problem.shape) - len(shape)
            order = tuple(a - missing for a in work.problem.memory if a >= missing)
        self.array = work.memory.empty(shape, order, work.problem.dtype.name, work.like)
        self.span = work.memory.span(name, self.array)

    def finish(self) -> Any:
        """Return the result, in ``out`` if one was given."""
        if self._out is None or self._out is self.array:
            return self.array
        memory = self._work.memory
        run_copy(self._work, self.span, memory.span("out", self._out))
        return self._out


def _read(work: Work) -> list[Span]:
    return [*work.operands.values(), *([] if work.factor is None else [work.factor])]


def _is_in_the_way(out: Span, operand: Span, elementwise: bool) -> bool:
    """Whether writing to ``out`` could change an element that is still to be read."""
    if not out.overlaps(operand):
        return False
    missing = len(operand.shape) - len(out.shape)
    return not (elementwise and out.expanded(tuple(range(missing))).is_in_place(operand))


def check_outputs(memory: Memory, call: Call, problem: Problem) -> None:
    """Refuse outputs that the results do not fit, or that share memory."""
    own = problem.x_shape if call.wrt == "x" else problem.target_shape
    is_loss = call.wanted in (Wanted.LOSS, Wanted.HUBER, Wanted.VALUE_AND_GRAD)
    shapes = {"out": problem.plan().result_shape if is_loss else own, "grad_out": own}
    spans = {}
    for name, shape in shapes.items():
        out = call.arguments.get(name)
        if out is not None:
            spans[name] = span = memory.span(name, out)
            check_fit(name, span, shape, problem.dtype.name)
            if span.overlaps_itself():
                raise ValueError(
                    f"{name} must not overlap itself, got strides {span.strides} for shape {shape}"
                )
    if len(spans) == 2 and spans["out"].overlaps(spans["grad_out"]):
        raise ValueError("out and grad_out must not share memory")
