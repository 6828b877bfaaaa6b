"""Launch sums over two sets of axes that share one pass over memory.

                         ┌─ parts ─ fold ─ losses
    operands ─ box_kernel┤
                         └─ parts ─ fold ─ gradient

Parts and folds are left out where one box holds all that is summed. Where parts would be
large, or operands are so small that they stay in the cache, two passes are better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from . import cuda_boxes, cuda_folds
from .boxes import Boxes, cut
from .cuda_arguments import (
    SMALL,
    arrange_boxes,
    divider,
    far_steps,
    integers,
    merge,
    near_steps,
    result_arguments,
)
from .cuda_forms import Sums
from .cuda_launch import constants_of, form_of, is_wide, launch, sums_of
from .cuda_sums import launch_fold, parts_for, power
from .cuda_work import Work
from .devices import SIZES, Span

SHARE = 0.5  # of the bytes that are read once less, which parts may take


def boxes_of(work: Work) -> Boxes:
    """Boxes of the elements of a call."""
    problem = work.problem
    sums = frozenset([problem.live_axes(), problem.broadcast_axes()])
    elements = cuda_boxes.elements_of(is_wide(work), problem.is_weighted())
    return cut(problem.shape, problem.memory, sums - {()}, elements)


def pays(work: Work) -> bool:
    """Whether what boxes leave to be added up is little beside what they spare to read.

    It follows from the shapes and types of x and target, and so do the bits of the sums.
    """
    problem = work.problem
    if not 0 < problem.plan().size <= SMALL:
        return False
    boxes, parts = boxes_of(work), 0
    for axes in (problem.axes, problem.broadcast_axes()):
        chunks = boxes.chunks(axes)
        parts += chunks * problem.plan(axes, keepdims=True).outputs if chunks > 1 else 0
    shapes = {"x": problem.x_shape, "target": problem.target_shape}
    read = sum(
        math.prod(shape) * SIZES[work.operands[name].dtype] for name, shape in shapes.items()
    )
    return 2 * 8 * parts < SHARE * read


def run_boxes(work: Work, loss: Span, slope: Span) -> None:
    """Sums of losses over the axes of the problem and of slopes along which x is broadcast.

    They share a pass over the elements.
    """
    problem, by_weight = work.problem, work.problem.is_weighted()
    form, sums = form_of(work, (None, None)), sums_of((loss, None, slope), by_weight)
    boxes, count = boxes_of(work), None if by_weight else problem.count()
    halves = [
        _BoxSums.of(work, boxes, sums.of_total(), problem.axes, (loss, None, None), count),
        _BoxSums.of(work, boxes, sums.of_slopes(), problem.broadcast_axes(), (None, None, slope)),
    ]
    losses, slopes = (half.parts is None for half in halves)
    kept = replace(sums.of_total().kept(losses), slope=sums.of_slopes().kept(slopes).slope)
    elements = cuda_boxes.elements_of(form.wide, by_weight)
    gap = cuda_boxes.gap_of(boxes.line())
    arranged = arrange_boxes(work, boxes, form.large)
    size, number, gap = integers((arranged.size, arranged.number, gap))
    launch(
        work, cuda_boxes.box_kernel(form, kept, elements, (losses, slopes)), arranged.number,
        arranged.operands, arranged.outputs, arranged.walks, size, number, arranged.cut, gap,
        constants_of(work, form),
        *(half.arguments for half in halves),
    )  # fmt: skip
    for half in halves:
        half.fold(work)


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
        """Describe how they are made."""
        plan, chunks = work.problem.plan(axes, keepdims=True), boxes.chunks(axes)
        finish = *result_arguments(plan, results), 1.0 if divisor is None else divisor
        parts = parts_for(work, sums.flags(), chunks * plan.outputs) if chunks > 1 else None
        steps = boxes.output_steps(plan)
        arguments = (
            _walks(boxes, axes),
            (near_steps(boxes, steps), integers(far_steps(boxes, steps)),
             integers(boxes.far(boxes.chunk_steps(axes)) or (0,)), plan.outputs),
            (0 if parts is None else parts, *finish),
        )  # fmt: skip
        return cls(sums, arguments, parts, chunks, plan.outputs, finish)

    def fold(self, work: Work) -> None:
        """Add up the parts."""
        if self.parts is not None:
            launch_fold(work, self.sums, self.parts, self.chunks, self.outputs, self.finish)


def _walks(boxes: Boxes, axes: tuple[int, ...]) -> tuple[Any, ...]:
    """Numbers, steps and sizes of the outputs and rows of a box, and how threads share them."""
    described = []
    for kept in (True, False):
        own = [i for i, axis in enumerate(boxes.axes) if (axis in axes) is not kept]
        places = [[boxes.places()[i] for i in own]]
        sizes, (steps,) = merge([boxes.sides[i] for i in own], places)
        described.append((math.prod(sizes), steps, sizes))
    (outputs, *_), (length, *_) = described
    lanes = max(1, min(cuda_folds.THREADS // power(outputs), power(length)))
    wide = cuda_folds.THREADS // lanes
    walks = tuple(
        (*integers((number,)), integers(steps), tuple(divider(n, False) for n in sizes))
        for number, steps, sizes in described
    )
    return *walks, integers((lanes, wide, wide.bit_length() - 1))
