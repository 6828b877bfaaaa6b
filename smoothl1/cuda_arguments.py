"""Spans of GPU memory as kernels take them: arrays, places and steps."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import config, cuda

from .boxes import Boxes
from .cuda_forms import OPERANDS
from .cuda_work import Work
from .devices import SIZES, Span
from .plan import Plan

SMALL = 1 << 31  # positions below which 32 bits do
ITEM_TYPES = {"bfloat16": "<u2", "bool": "|u1"}  # how kernels see what numba does not know


def arrange(work: Work, plan: Plan, outputs: Sequence[Span | None], large: bool) -> SimpleNamespace:
    """Operands and outputs with common axes, as few as describe them all."""
    spans = _all_spans(work, plan, outputs)
    present = [span for span in spans if span is not None]
    sizes, strides = merged_axes(plan, present)
    steps = iter(strides)
    arguments = [0 if span is None else operand(span, next(steps), large) for span in spans]
    return SimpleNamespace(
        operands=tuple(arguments[: len(OPERANDS)]),
        outputs=tuple(arguments[len(OPERANDS) :]),
        sizes=tuple(divider(n, large) for n in sizes),
    )


def _all_spans(work: Work, plan: Plan, outputs: Sequence[Span | None]) -> list[Span | None]:
    """Operands and outputs, all as views of one shape; None for those that are absent."""
    spans = [work.operands.get(name) for name in OPERANDS]
    return [*spans, *(None if span is None else span.broadcast(plan.shape) for span in outputs)]


def merged_axes(plan: Plan, spans: Sequence[Span]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Sizes of the axes of a plan in its order, and the steps of each span along them."""
    return merge(
        [plan.shape[a] for a in plan.order],
        [[span.strides[a] for a in plan.order] for span in spans],
    )


def merge(
    sizes: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Merge neighbouring axes that one step per span walks through."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for axis, n in enumerate(sizes):
        if n == 1:
            continue
        steps = tuple(own[axis] for own in strides)
        if merged and merged[-1][1] == tuple(n * step for step in steps):
            merged[-1] = (merged[-1][0] * n, steps)
        else:
            merged.append((n, steps))
    if not merged:
        merged = [(1, (1,) * len(strides))]
    return [n for n, _ in merged], [tuple(s[i] for _, s in merged) for i in range(len(strides))]


def arrange_rows(
    work: Work, plan: Plan, outputs: Sequence[Span | None], large: bool
) -> SimpleNamespace:
    """Operands and outputs with steps along the axes that are kept, and along those summed over."""
    spans = _all_spans(work, plan, outputs)
    present = [span for span in spans if span is not None]
    described = []
    for axes in (plan.kept, [a for a in plan.order if a not in plan.kept]):
        strides = [[span.strides[a] for a in axes] for span in present]
        sizes, merged = merge([plan.shape[a] for a in axes], strides)
        described.append((tuple(divider(n, large) for n in sizes), iter(merged)))
    (kept, kept_steps), (rows, row_steps) = described
    arguments = [0 if span is None else operand(span, next(kept_steps), large) for span in spans]
    steps: list[Any] = [0 if s is None else integers(next(row_steps), large) for s in spans]
    return SimpleNamespace(
        operands=tuple(arguments[: len(OPERANDS)]),
        outputs=tuple(arguments[len(OPERANDS) :]),
        walks=(tuple(steps), kept, rows),
    )


def arrange_boxes(work: Work, boxes: Boxes, large: bool) -> SimpleNamespace:
    """Operands with steps from box to box, and steps inside of a box; there are no outputs."""
    arguments: list[Any] = []
    steps: list[Any] = []
    for name in OPERANDS:
        span = work.operands.get(name)
        own = () if span is None else tuple(span.strides[a] for a in boxes.axes)
        arguments.append(0 if span is None else operand(span, far_steps(boxes, own), large))
        steps.append(0 if span is None else near_steps(boxes, own, large))
    return SimpleNamespace(
        operands=tuple(arguments),
        outputs=(0, 0),
        walks=(
            (*steps, 0, 0),
            tuple(divider(n, large) for n in boxes.far(boxes.counts) or (1,)),
            tuple(divider(n, large) for n in boxes.near(boxes.sides) or (1,)),
        ),
        size=math.prod(boxes.sides),
        number=math.prod(boxes.counts),
        cut=tuple(
            tuple(divider(n, False) for n in numbers or (1,))
            for numbers in (
                boxes.sides,
                boxes.counts,
                boxes.sizes,
                boxes.near(boxes.sides),
                boxes.far(boxes.counts),
            )
        ),
    )


def far_steps(boxes: Boxes, steps: Sequence[int]) -> tuple[int, ...]:
    """Steps from box to box of what has these steps from element to element."""
    return boxes.far([side * step for side, step in zip(boxes.sides, steps, strict=True)]) or (0,)


def near_steps(boxes: Boxes, steps: Sequence[int], large: bool = False) -> tuple[Any, ...]:
    """Steps inside of a box of what has these steps from element to element."""
    return integers(boxes.near(steps) or (0,), large)


def result_arguments(plan: Plan, results: Sequence[Span | None]) -> tuple[Any, Any]:
    """Arrays that take one value per output, and the sizes of their common axes."""
    present = [span for span in results if span is not None]
    sizes = [plan.shape[a] for a in plan.kept]
    merged, strides = merge(sizes, [[span.strides[a] for a in plan.kept] for span in present])
    steps = iter(strides)
    arguments = tuple(0 if span is None else operand(span, next(steps), True) for span in results)
    return arguments, tuple(divider(n, True) for n in merged)


@lru_cache(maxsize=4096)
def divider(n: int, large: bool) -> tuple[Any, Any, Any]:
    """A size, and the factor and shift by which `cuda_numbers.split` divides positions.

    Those that are large are divided by the size itself.
    """
    if large or n == 0:
        return integers((n, 0, 0), large)
    shift = (n - 1).bit_length()
    return integers((n, -(-(1 << (31 + shift)) // n), shift), large)


def is_large(size: int, spans: Iterable[Span | None]) -> bool:
    """Whether positions, or places in memory, need more than 31 bits."""
    reaches = (span.reach() for span in spans if span is not None)
    return size > SMALL or any(high - low >= SMALL for low, high in reaches)


def operand(span: Span, strides: tuple[int, ...], large: bool) -> tuple[Any, Any, tuple[Any, ...]]:
    """Memory of a span from its lowest element on, the place of its first one, and its steps."""
    low, high = span.reach()
    address = span.address + low * SIZES[span.dtype]
    array = device_array(address, (high - low + 1,), item_type(span), span.owner)
    first, *steps = integers((-low, *strides), large)
    return array, first, tuple(steps)


def integers(numbers: tuple[int, ...], large: bool = False) -> tuple[Any, ...]:
    """Numbers of 32 bits, unless they are large: of others, compilers compute all 64."""
    return numbers if large else tuple(np.uint32(n & 0xFFFFFFFF) for n in numbers)


def item_type(span: Span) -> str:
    """Type of the elements as numba knows it."""
    return ITEM_TYPES.get(span.dtype) or np.dtype(span.dtype).str


def device_array(address: int, shape: tuple[int, ...], typestr: str, owner: Any) -> Any:
    """Array of numba over memory of a GPU."""
    if config.ENABLE_CUDASIM:  # whose GPU is the memory of the process
        size = math.prod(shape) * np.dtype(typestr).itemsize
        raw: Any = (ctypes.c_uint8 * size).from_address(address) if size else b""
        values = np.frombuffer(raw, typestr).reshape(shape)
        array = cuda.simulator.cudadrv.devicearray.FakeCUDAArray(values)
        array.owner = owner
        return array
    interface = {"shape": shape, "strides": None, "typestr": typestr, "version": 3}
    interface |= {"data": (address, False), "stream": None}
    return cuda.as_cuda_array(
        SimpleNamespace(__cuda_array_interface__=interface, owner=owner), sync=False
    )
