"""Choose the kernels of a call on a GPU, and launch those of elementwise outputs.

Operands that lie side by side go to kernels that move 16 bytes at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import cuda_flat, cuda_folds
from . import cuda_kernels as kernels
from .cuda_arguments import (
    arrange,
    device_array,
    divider,
    is_large,
    item_type,
    merge,
    merged_axes,
    operand,
)
from .cuda_flat import VECTORS
from .cuda_forms import OPERANDS, Form, Sums
from .cuda_work import PAIRED, Work
from .devices import SIZES, Span
from .plan import Plan
from .validate import FLOATS

NARROW = ("float32", "float16", "bfloat16")
LEAST_BLOCKS = 128  # of a launch
WORD_TYPES = {"float64": "<f8", "float32": "<f4", "float16": "<u4", "bfloat16": "<u4"}


def is_wide(work: Work) -> bool:
    """Whether elements are computed in float64."""
    problem = work.problem
    if "float64" in (problem.rounding, problem.dtype.name):
        return True
    factors = work.operands.get("betas"), work.factor
    if any(span is not None and span.dtype not in NARROW for span in factors):
        return True
    beta = problem.beta if isinstance(problem.beta, float) and problem.beta else 1.0
    divisor = 1.0 if problem.is_weighted() else problem.count() or 1.0
    scalars = beta, divisor, beta * divisor  # the divisor also where no slope is asked
    return not all(1 / PAIRED <= abs(scalar) <= PAIRED for scalar in scalars)


def constants_of(work: Work, form: Form) -> tuple[Any, ...]:
    """Scalars of the formula, for float32 as pairs."""
    beta = work.problem.beta if isinstance(work.problem.beta, float) else 1.0
    divisor = work.divisor or 1.0  # it is 0 where there are no elements
    share = 1.0 / divisor
    inverse = 1.0 / beta if beta else 0.0
    if form.wide:
        return beta, divisor
    if form.is_plain():
        pairs = _pair(0.5 * beta), _pair(0.5 * inverse), _pair(inverse * share)
        return (np.float32(beta), *(part for pair in pairs for part in pair), np.float32(share))
    high, low = _pair(beta)
    return high, low, *_pair(inverse), *_pair(share), np.float32(beta - float(high) - float(low))


def _pair(value: float) -> tuple[Any, Any]:
    high = np.float32(value)
    return high, np.float32(value - float(high))


def _read_by(name: str, span: Span, work: Work, wide: bool) -> str:
    """Function that converts the elements of an operand."""
    if span.dtype == "bool":
        return "flag"
    plain = "wide" if wide else "single"
    if span.dtype == "bfloat16":
        return "wide_brain" if wide else "brain"
    if span.dtype in FLOATS or name in ("betas", "factor", "divisors"):
        return plain
    rounded = {"float64": plain, "float32": "wide_single" if wide else "single"}
    rounded |= {"float16": "wide_half" if wide else "half"}
    rounded |= {"bfloat16": "wide_single_brain" if wide else "single_brain"}
    return rounded[work.problem.rounding]


def kept_by(span: Span | None, wide: bool) -> str:
    """Function that rounds what is stored."""
    if span is None:
        return ""
    narrow = {"float16": "keep_half", "bfloat16": "brain_bits"}
    broad = {"float16": "keep_wide_half", "bfloat16": "keep_wide_brain"}
    plain = {"float64": "wide", "float32": "single"}
    return (plain | (broad if wide else narrow))[span.dtype]


def form_of(work: Work, outputs: Sequence[Span | None]) -> Form:
    """Form of a kernel that reads the operands and writes these elementwise outputs."""
    wide = is_wide(work)
    reads = tuple(
        _read_by(name, work.operands[name], work, wide) if name in work.operands else ""
        for name in OPERANDS
    )
    writes = (kept_by(outputs[0], wide), kept_by(outputs[1], wide))
    large = is_large(work.problem.plan().size, [*work.operands.values(), *outputs])
    return Form(
        reads, writes, wide=wide, large=large, huber=work.huber, curvature=work.curvature,
        coarse="x" in work.operands and SIZES[work.problem.dtype.name] == 2,
    )  # fmt: skip


def sums_of(results: Sequence[Span | None], by_weight: bool = False) -> Sums:
    """Sums of losses, weights and slopes that are stored in these places."""
    loss, weight, slope = (kept_by(span, True) for span in results)
    return Sums(loss, weight, slope, by_weight)


# Launches.


def run_map(work: Work, loss: Span | None, slope: Span | None) -> None:
    """Write elementwise outputs."""
    plan = work.problem.plan((), keepdims=False)
    if plan.size == 0:
        return
    form = form_of(work, (loss, slope))
    dtype = flat_type(work, plan, (loss, slope))
    if dtype is not None:
        chunk = 2 * cuda_folds.THREADS * VECTORS[dtype][0]
        launch_flat(work, form, dtype, plan, (loss, slope), chunk, None)
        return
    arranged = arrange(work, plan, (loss, slope), form.large)
    blocks = -(-plan.size // (kernels.SIDE_BY_SIDE * cuda_folds.THREADS))
    launch(
        work, kernels.spread_kernel(form), blocks,
        arranged.operands, arranged.outputs, arranged.sizes, plan.size, constants_of(work, form),
    )  # fmt: skip


def run_copy(work: Work, source: Span, target: Span) -> None:
    """Copy elements of one shape and type."""
    size = math.prod(source.shape)
    merged, strides = merge(source.shape, [source.strides, target.strides])
    wide, large = source.dtype == "float64", is_large(size, [source, target])
    read = "wide" if wide else "brain" if source.dtype == "bfloat16" else "single"
    kernel = kernels.copy_kernel(read, kept_by(target, wide), large)
    if size > 0:
        launch(
            work, kernel, -(-size // cuda_folds.THREADS),
            operand(source, strides[0], large), operand(target, strides[1], large),
            tuple(divider(n, large) for n in merged), size,
        )  # fmt: skip


def launch(work: Work, kernel: Any, blocks: int, *arguments: Any) -> None:
    """Launch a kernel; blocks too many find nothing to do, and spare numba a warning."""
    kernel[max(blocks, LEAST_BLOCKS), cuda_folds.THREADS, work.stream](*arguments)


def flat_type(work: Work, plan: Plan, outputs: Sequence[Span | None]) -> str | None:
    """Type of operands that lie side by side, aligned to 16 bytes; None if they do not."""
    if work.operands.keys() != {"x", "target"} or plan.size == 0:
        return None
    spans = [*work.operands.values(), *(span for span in outputs if span is not None)]
    dtype = spans[0].dtype
    if dtype not in VECTORS or any(span.dtype != dtype or span.address % 16 for span in spans):
        return None
    sizes, strides = merged_axes(plan, spans)
    if len(sizes) > 1 or (any(step != (1,) for step in strides) and plan.size > 1):
        return None
    return dtype


def launch_flat(
    work: Work, form: Form, dtype: str, plan: Plan, outputs: Sequence[Span | None], chunk: int,
    parts: Any,
) -> None:  # fmt: skip
    """Launch the kernel of operands that lie side by side."""
    count, slots = VECTORS[dtype][:2]
    x, target = work.operands["x"], work.operands["target"]
    spans, length = (x, target, *outputs), (plan.size // count * slots,)
    words = [
        0 if s is None else device_array(s.address, length, WORD_TYPES[dtype], s.owner)
        for s in spans
    ]
    items = tuple(
        0 if s is None else device_array(s.address, (plan.size,), item_type(s), s.owner)
        for s in spans
    )
    launch(
        work, cuda_flat.flat_kernel(form, parts is not None, dtype), -(-plan.size // chunk),
        words[0], words[1], tuple(words[2:]), items, plan.size, chunk // count,
        constants_of(work, form), 0 if parts is None else parts,
    )  # fmt: skip
