"""Launch sums over two sets of axes that share one pass over memory.

                         ┌─ parts ─ fold ─ losses
    operands ─ box_kernel┤
                         └─ parts ─ fold ─ gradient

Parts and folds are left out where one box holds all that is summed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from . import cuda_boxes
from .boxes import Boxes, cut
from .cuda_arguments import (
    arrange_boxes,
    box_steps,
    divider,
    local_steps,
    merge,
    result_arguments,
)
from .cuda_forms import Sums
from .cuda_launch import constants_of, form_of, launch, sums_of
from .cuda_sums import block_shape, launch_fold, parts_for, run_sums
from .cuda_work import Work
from .devices import Span


def run_boxes(
    work: Work,
    loss: Span | None = None,
    slope: Span | None = None,
    slope_out: Span | None = None,
) -> None:
    """Sums of losses over the axes of the problem and of slopes along which x is broadcast.

    They share a pass over the elements. Each slope can be had instead of sums.
    """
    problem = work.problem
    if problem.plan().size == 0:
        _run_empty(work, loss, slope)
        return
    summed = {
        problem.live_axes(), problem.broadcast_axes(), problem.swapped().broadcast_axes()
    }  # fmt: skip
    by_weight = loss is not None and problem.is_weighted()
    form = replace(form_of(work, (None, slope_out)), large=False)  # positions in a box are small
    sums = sums_of((loss, None, slope), by_weight)
    elements = cuda_boxes.elements_of(form.wide, problem.is_weighted())
    boxes = cut(problem.shape, problem.memory, frozenset(summed - {()}), elements)
    count = None if by_weight else problem.count()
    halves = [
        _BoxSums.of(work, boxes, sums.of_total(), problem.axes, (loss, None, None), count),
        _BoxSums.of(work, boxes, sums.of_slopes(), problem.broadcast_axes(), (None, None, slope)),
    ]
    arranged = arrange_boxes(work, boxes, (None, slope_out))
    losses, slopes = (half.parts is None for half in halves)
    kept = replace(sums.of_total().kept(losses), slope=sums.of_slopes().kept(slopes).slope)
    launch(
        work, cuda_boxes.box_kernel(form, kept, elements, (losses, slopes)), arranged.number,
        arranged.operands, arranged.outputs, arranged.steps, arranged.sizes, arranged.size,
        arranged.number, arranged.cut, constants_of(work, form),
        *(half.arguments for half in halves),
    )  # fmt: skip
    for half in halves:
        half.fold(work)


def _run_empty(work: Work, loss: Span | None, slope: Span | None) -> None:
    """Sums of no elements."""
    problem = work.problem
    if loss is not None:
        run_sums(work, problem.plan(keepdims=True), loss=loss)
    if slope is not None:
        run_sums(work, problem.plan(problem.broadcast_axes(), keepdims=True), slope=slope)


@dataclass(frozen=True, slots=True)
class _BoxSums:
    """Sums of boxes over some axes: what their kernel takes, and what is left to do after it."""

    sums: Sums
    arguments: Any
    parts: Any  # None if the kernel finishes them
    chunks: int
    outputs: int
    finish: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        work: Work,
        boxes: Boxes,
        sums: Sums,
        axes: tuple[int, ...],
        results: tuple[Span | None, Span | None, Span | None],
        divisor: float | None = None,
    ) -> _BoxSums:
        """Describe how they are made; nothing if there is nowhere to put them."""
        if not any(sums.flags()):
            return cls(sums, 0, None, 1, 0, ())
        plan, box_plan = work.problem.plan(axes, keepdims=True), boxes.box_plan(axes)
        finish = *result_arguments(plan, results), 1.0 if divisor is None else divisor
        chunks = boxes.chunks(axes)
        parts = parts_for(work, sums.flags(), chunks * plan.outputs) if chunks > 1 else None
        places = boxes.places()
        order = [a for a in box_plan.order if a in places]
        sizes, (walk,) = merge([box_plan.shape[a] for a in order], [[places[a] for a in order]])
        steps = boxes.output_steps(plan)
        arguments = (
            (walk, tuple(divider(n, 0) for n in sizes), block_shape(box_plan).geometry),
            (local_steps(boxes, steps), box_steps(boxes, steps), boxes.chunk_steps(axes),
             plan.outputs),
            (0 if parts is None else parts, *finish),
        )  # fmt: skip
        return cls(sums, arguments, parts, chunks, plan.outputs, finish)

    def fold(self, work: Work) -> None:
        """Add up the parts."""
        if self.parts is not None:
            launch_fold(work, self.sums, self.parts, self.chunks, self.outputs, self.finish)
