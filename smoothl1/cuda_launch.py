"""Choose the kernels of a call on a GPU, and launch them.

Operands that lie side by side go to kernels that move 16 bytes at a time. How
threads are laid over rows follows from the plan, and so do the bits of sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import cuda_flat
from . import cuda_kernels as kernels
from .cuda_arguments import (
    SMALL,
    arrange,
    device_array,
    divider,
    item_type,
    merge,
    merged_axes,
    operand,
    result_arguments,
)
from .cuda_flat import VECTORS
from .cuda_kernels import OPERANDS, Form
from .cuda_work import PAIRED, Work
from .devices import SIZES, Span
from .plan import Plan
from .validate import FLOATS

NARROW = ("float32", "float16", "bfloat16")
LEAST_BLOCKS = 128  # of a launch
WARP = 32  # threads that read side by side
ROWS_PER_THREAD = 64  # before a sum is cut into chunks
FEW_ROWS = 8  # that one thread adds up alone
ENOUGH_BLOCKS = 1024  # to keep a GPU busy without chunks
FLAT_CHUNK = 1 << 14  # elements that a block sums
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


def _constants(work: Work, form: Form) -> tuple[Any, ...]:
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


def _kept_by(span: Span | None, wide: bool) -> str:
    """Function that rounds what is stored."""
    if span is None:
        return ""
    narrow = {"float16": "keep_half", "bfloat16": "brain_bits"}
    broad = {"float16": "keep_wide_half", "bfloat16": "keep_wide_brain"}
    plain = {"float64": "wide", "float32": "single"}
    return (plain | (broad if wide else narrow))[span.dtype]


def _form(work: Work, outputs: Sequence[Span | None], **options: Any) -> Form:
    wide = is_wide(work)
    reads = tuple(
        _read_by(name, work.operands[name], work, wide) if name in work.operands else ""
        for name in OPERANDS
    )
    writes = (_kept_by(outputs[0], wide), _kept_by(outputs[1], wide))
    large = work.problem.plan().size >= SMALL
    return Form(
        reads, writes, wide=wide, large=large, huber=work.huber, curvature=work.curvature,
        coarse=SIZES[work.problem.dtype.name] == 2, **options,
    )  # fmt: skip


# Launches.


def run_map(work: Work, loss: Span | None, slope: Span | None) -> None:
    """Write elementwise outputs."""
    plan = work.problem.plan((), keepdims=False)
    if plan.size == 0:
        return
    form = _form(work, (loss, slope))
    dtype = _flat_type(work, plan, (loss, slope))
    if dtype is not None:
        chunk = 2 * kernels.THREADS * VECTORS[dtype][0]
        _launch_flat(work, form, dtype, plan, (loss, slope), chunk, None)
        return
    arranged = arrange(work, plan, (loss, slope))
    blocks = -(-plan.size // (kernels.SIDE_BY_SIDE * kernels.THREADS))
    _launch(
        work, kernels.spread_kernel(form), blocks,
        arranged.operands, arranged.outputs, arranged.sizes, plan.size, _constants(work, form),
    )  # fmt: skip


def run_copy(work: Work, source: Span, target: Span) -> None:
    """Copy elements of one shape and type."""
    size = math.prod(source.shape)
    merged, strides = merge(source.shape, [source.strides, target.strides])
    wide = source.dtype == "float64"
    read = "wide" if wide else "brain" if source.dtype == "bfloat16" else "single"
    kernel = kernels.copy_kernel(read, _kept_by(target, wide), size >= SMALL)
    if size > 0:
        _launch(
            work, kernel, -(-size // kernels.THREADS),
            operand(source, strides[0]), operand(target, strides[1]),
            tuple(divider(n, size) for n in merged), size,
        )  # fmt: skip


def _launch(work: Work, kernel: Any, blocks: int, *arguments: Any) -> None:
    """Launch a kernel; blocks too many find nothing to do, and spare numba a warning."""
    kernel[max(blocks, LEAST_BLOCKS), kernels.THREADS, work.stream](*arguments)


def run_sums(
    work: Work,
    plan: Plan,
    loss: Span | None = None,
    weight: Span | None = None,
    slope: Span | None = None,
    loss_out: Span | None = None,
    slope_out: Span | None = None,
) -> None:
    """Sums over the rows of a plan, and elementwise outputs; results have all axes of the plan."""
    if plan.outputs == 0:
        return
    if loss is None and slope is None:
        work = work.of_weights()
    results, outputs = (loss, weight, slope), (loss_out, slope_out)
    stores = tuple(_kept_by(span, True) for span in results)
    by_weight = loss is not None and work.problem.is_weighted()
    form = _form(work, outputs, results=stores, by_weight=by_weight)
    count = None if loss is None or by_weight else work.problem.count()
    finish = *result_arguments(plan, results), 1.0 if count is None else count
    if plan.outputs == 1 and plan.size > 0:
        _run_total(work, plan, form, outputs, finish)
        return
    shape = _block_shape(plan)
    parts = _parts(work, shape.chunks * plan.outputs) if shape.chunks > 1 else None
    arranged, constants = arrange(work, plan, outputs), _constants(work, form)
    geometry = (plan.outer, plan.rows, plan.columns, shape.chunk_rows, shape.wide, shape.lanes)
    _launch(
        work, kernels.sums_kernel(form, parts is None), shape.blocks,
        arranged.operands, arranged.outputs, arranged.sizes, constants, geometry,
        0 if parts is None else parts, *finish,
    )  # fmt: skip
    if parts is not None:
        _launch_fold(work, form, parts, shape.chunks, plan.outputs, finish)


def _run_total(
    work: Work, plan: Plan, form: Form, outputs: Sequence[Span | None], finish: tuple[Any, ...]
) -> None:
    """Sums over all elements."""
    blocks = -(-plan.size // FLAT_CHUNK)
    parts = _parts(work, blocks)
    dtype = _flat_type(work, plan, outputs) if form.sums() == (True, False, False) else None
    if dtype is not None:
        _launch_flat(work, form, dtype, plan, outputs, FLAT_CHUNK, parts)
    else:
        arranged = arrange(work, plan, outputs)
        first = work.operands.get("x")
        count = VECTORS[first.dtype][0] if first is not None and first.dtype in VECTORS else 4
        _launch(
            work, kernels.total_kernel(form, count), blocks,
            arranged.operands, arranged.outputs, arranged.sizes, plan.size, FLAT_CHUNK // count,
            _constants(work, form), parts,
        )  # fmt: skip
    _launch_fold(work, form, parts, blocks, 1, finish)


def _block_shape(plan: Plan) -> SimpleNamespace:
    """How the threads of a block are laid over the columns and rows of a plan.

    It follows from the plan and from constants, and so do the bits of the sums.
    """
    threads = kernels.THREADS
    wide = min(_power(plan.columns), WARP if plan.rows > FEW_ROWS else threads)
    lanes = min(threads // wide, _power(-(-plan.rows // FEW_ROWS)))
    wide = min(_power(plan.columns), threads // lanes)
    deep = threads // (wide * lanes)
    blocks = -(-plan.columns // wide) * -(-plan.outer // deep)
    chunk_rows = max(1, plan.rows)
    if blocks < ENOUGH_BLOCKS:
        chunk_rows = min(chunk_rows, ROWS_PER_THREAD * lanes)
    chunks = max(1, -(-plan.rows // chunk_rows))
    return SimpleNamespace(
        wide=wide, lanes=lanes, chunk_rows=chunk_rows, chunks=chunks, blocks=blocks * chunks
    )


def _power(n: int) -> int:
    """Smallest power of two that is not below a number."""
    return 1 << max(0, n - 1).bit_length()


def _parts(work: Work, places: int) -> Any:
    """Float64 memory for partial sums of losses, weights and slopes."""
    span = work.room((3, places), "float64")
    return device_array(span.address, (3, places), "<f8", span.owner)


def _launch_fold(
    work: Work, form: Form, parts: Any, chunks: int, outputs: int, finish: tuple[Any, ...]
) -> None:
    """Add up the parts of each output, its threads side by side if it has many."""
    wide = min(_power(outputs), max(kernels.THREADS // _power(chunks), WARP))
    kernel, blocks = kernels.fold_kernel(form), -(-outputs // wide)
    _launch(work, kernel, blocks, parts, chunks, outputs, wide, *finish)


def _flat_type(work: Work, plan: Plan, outputs: Sequence[Span | None]) -> str | None:
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


def _launch_flat(
    work: Work, form: Form, dtype: str, plan: Plan, outputs: Sequence[Span | None], chunk: int,
    parts: Any,
) -> None:  # fmt: skip
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
    _launch(
        work, cuda_flat.flat_kernel(form, dtype), -(-plan.size // chunk),
        words[0], words[1], tuple(words[2:]), items, plan.size, chunk // count,
        _constants(work, form), 0 if parts is None else parts,
    )  # fmt: skip
