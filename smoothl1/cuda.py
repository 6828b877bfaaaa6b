"""Arrays on a GPU: from a checked call to kernels and back, without waiting for them.

    Call ── _Work (checked, operands as spans) ─┬─ _run_map   elementwise outputs
                                                └─ _run_sums  sums over axes, and such outputs

As in `cpu`, which this mirrors; but memory comes from the library of the
arrays, everything is launched on its current stream, and no value ever comes
back to the host. Where a gradient sums over other axes than the loss, the
operands are read twice.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import config, cuda

from . import cuda_kernels as kernels
from .calls import Call, Wanted
from .cuda_kernels import OPERANDS, VECTORS, Form
from .devices import SIZES, Memory, Span
from .plan import Plan, memory_order
from .problem import Problem
from .validate import FLOATS, Reduction, check_fit

SMALL = 1 << 31  # positions below which multiplication divides
LEAST_BLOCKS = 128  # of a launch
WARP = 32  # threads that read side by side
ROWS_PER_THREAD = 64  # before a sum is cut into chunks
FEW_ROWS = 8  # that one thread adds up alone
ENOUGH_BLOCKS = 1024  # to keep a GPU busy without chunks
FLAT_CHUNK = 1 << 14  # elements that a block sums
PAIRED = 2.0**60  # scalars whose reciprocals and remainders float32 holds
WORD_TYPES = {"float64": "<f8", "float32": "<f4", "float16": "<u4", "bfloat16": "<u4"}
ITEM_TYPES = {"bfloat16": "<u2", "bool": "|u1"}  # how kernels see what numba does not know


def run(memory: Memory, call: Call, arrays: dict[str, Any], problem: Problem) -> Any:
    """Run a checked call with arrays on one GPU."""
    like = next(iter(arrays.values()))
    with cuda.gpus[memory.device(like)]:
        work = _Work.of(memory, call, arrays, problem)
        if call.wanted in (Wanted.LOSS, Wanted.HUBER):
            return _loss(work, call)
        if call.wanted is Wanted.VALUE_AND_GRAD:
            return _value_and_grad(work, call)
        return _slope(work, call)


@dataclass(slots=True)
class _Work:
    """A problem whose operands lie on a GPU, all as views of its shape."""

    memory: Memory
    problem: Problem
    operands: dict[str, Span]
    like: Any
    stream: Any
    factor: Span | None = None
    divisor: float | None = None  # number that divides the slope
    huber: bool = False
    curvature: bool = False

    @classmethod
    def of(cls, memory: Memory, call: Call, arrays: dict[str, Any], problem: Problem) -> _Work:
        """Describe operands, and upload those that are lists or numbers."""
        like = next(iter(arrays.values()))
        given = {"x": problem.x, "target": problem.target, "weight": problem.weight}
        given |= {"where": problem.where}
        names = dict.fromkeys(given) | {"beta": None}
        operands = {}
        for name in names:
            key = call.beta_name if name == "beta" else name
            if key in arrays:
                span = memory.span(key, arrays[key])
            elif name == "beta" and not isinstance(problem.beta, float):
                span = _uploaded(memory, key, problem.beta, like)
            elif given.get(name) is not None:
                span = _uploaded(memory, key, given[name], like)
            else:
                continue
            operands["betas" if name == "beta" else name] = span.broadcast(problem.shape)
        order = memory_order(problem.shape, operands["x"].strides)
        work = cls(memory, replace(problem, memory=order), operands, like, _stream(memory, like))
        work.huber = call.wanted is Wanted.HUBER
        work.curvature = call.wanted is Wanted.HESS
        grad_output = call.arguments.get("grad_output")
        if grad_output is not None:
            if "grad_output" in arrays:
                span = memory.span("grad_output", arrays["grad_output"])
            else:
                span = _uploaded(memory, "grad_output", _factor(grad_output, problem), like)
            work.factor = span.broadcast(problem.plan().result_shape)
        return work.swapped() if call.wrt == "target" else work

    def swapped(self) -> _Work:
        """Exchange x and target, which turns the sign of the gradient."""
        operands = self.operands | {"x": self.operands["target"], "target": self.operands["x"]}
        return replace(self, problem=self.problem.swapped(), operands=operands)

    def of_weights(self) -> _Work:
        """Only what weights are summed of."""
        kept = {n: span for n, span in self.operands.items() if n in {"weight", "where"}}
        return replace(self, operands=kept)

    def is_weighted(self) -> bool:
        """Whether a mean divides by a sum over the data."""
        problem = self.problem
        if problem.reduction is not Reduction.MEAN or problem.normalizer is not None:
            return False
        return problem.weight is not None or problem.where is not None

    def count(self) -> float:
        """Number that a reduction without weights divides by."""
        if self.problem.reduction is not Reduction.MEAN:
            return 1.0
        normalizer = self.problem.normalizer
        return float(self.problem.plan().rows) if normalizer is None else normalizer

    def broadcast_axes(self) -> tuple[int, ...]:
        """Axes along which x is broadcast."""
        shape, own = self.problem.shape, self.problem.x_shape
        sizes = (1,) * (len(shape) - len(own)) + own
        return tuple(a for a, n in enumerate(shape) if n != sizes[a])

    def result_axes(self, span: Span) -> Span:
        """View of an array of one value per output with size 1 for the reduced axes."""
        return span if self.problem.keepdims else span.expanded(self.problem.axes)


def _uploaded(memory: Memory, name: str, values: Any, like: Any) -> Span:
    """Span of a number or a list; each value once."""
    values = values[tuple(slice(None if step else 1) for step in values.strides)]
    if values.dtype.name == "bfloat16":
        values = values.astype(np.float32)
    return memory.span(name, memory.upload(values, like))


def _factor(grad_output: Any, problem: Problem) -> Any:
    """Numbers of the host that multiply slopes, in float32 if that is how these are computed."""
    values = np.asarray(grad_output, np.float64)
    sizes = np.abs(values)
    fits = ((sizes == 0) | ((sizes >= 1 / PAIRED) & (sizes <= PAIRED))).all()
    return values if problem.rounding == "float64" or not fits else values.astype(np.float32)


def _stream(memory: Memory, like: Any) -> Any:
    stream = memory.stream(like)
    return cuda.external_stream(stream) if isinstance(stream, int) and stream else stream


def _loss(work: _Work, call: Call) -> Any:
    problem = work.problem
    if problem.reduction is Reduction.NONE:
        target = _Target(work, call, "out", problem.shape, elementwise=True)
        _run_map(work, target.span, None)
        return target.finish()
    target = _Target(work, call, "out", problem.plan().result_shape)
    _run_sums(work, problem.plan(), loss=work.result_axes(target.span))
    return target.finish()


def _slope(work: _Work, call: Call) -> Any:
    summed = work.broadcast_axes()
    target = _Target(work, call, "out", work.problem.x_shape, elementwise=not summed)
    _divide(work)
    if work.factor is not None:
        work.operands["factor"] = work.result_axes(work.factor).broadcast(work.problem.shape)
    _run_slope(work, target.span, summed)
    return target.finish()


def _run_slope(work: _Work, grad: Span, summed: tuple[int, ...]) -> None:
    if summed:
        _run_sums(work, work.problem.plan(summed, keepdims=True), slope=_padded(work, grad))
    else:
        _run_map(work, None, _padded(work, grad))


def _value_and_grad(work: _Work, call: Call) -> tuple[Any, Any]:
    problem, summed = work.problem, work.broadcast_axes()
    is_map = problem.reduction is Reduction.NONE
    shape = problem.shape if is_map else problem.plan().result_shape
    values = _Target(work, call, "out", shape, elementwise=is_map and not summed)
    grads = _Target(work, call, "grad_out", problem.x_shape, elementwise=not summed)
    grad = _padded(work, grads.span)
    if is_map and not summed:
        _run_map(work, values.span, grad)
    elif is_map:
        plan = problem.plan(summed, keepdims=True)
        _run_sums(work, plan, slope=grad, loss_out=values.span)
    else:
        _divide(work)
        loss = work.result_axes(values.span)
        if not summed:
            _run_sums(work, problem.plan(), loss=loss, slope_out=grad)
        elif summed == tuple(a for a in problem.axes if problem.shape[a] != 1):
            _run_sums(work, problem.plan(), loss=loss, slope=grad)
        else:
            _run_sums(work, problem.plan(), loss=loss)
            _run_slope(work, grads.span, summed)
    return values.finish(), grads.finish()


def _padded(work: _Work, span: Span) -> Span:
    """View with as many axes as the problem has, those that are missing of size 1."""
    missing = tuple(range(len(work.problem.shape) - len(span.shape)))
    return span.expanded(missing)


def _divide(work: _Work) -> None:
    """Let the slope of each element carry the denominator of its mean."""
    if not work.is_weighted():
        work.divisor = work.count()
        return
    problem = work.problem
    plan = problem.plan(keepdims=True)
    dtype = "float64" if _is_wide(work, ()) else "float32"
    array = _empty(work, plan.result_shape, dtype)
    span = work.memory.span("divisors", array)
    _run_sums(work, plan, weight=span)
    work.operands["divisors"] = span.broadcast(problem.shape)


def _empty(work: _Work, shape: tuple[int, ...], dtype: str) -> Any:
    return work.memory.empty(shape, tuple(range(len(shape))), dtype, work.like)


class _Target:
    """Where a result goes: ``out``, or new memory if ``out`` overlaps an operand."""

    def __init__(
        self, work: _Work, call: Call, name: str, shape: tuple[int, ...], elementwise: bool = False
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
        _run_copy(self._work, self.span, memory.span("out", self._out))
        return self._out


def _read(work: _Work) -> list[Span]:
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


# How arithmetic is done, and what of the formula it needs.


def _is_wide(work: _Work, outputs: Sequence[Span]) -> bool:
    """Whether elements are computed in float64."""
    problem = work.problem
    if "float64" in (problem.rounding, problem.dtype.name):
        return True
    exact = ("float32", "float16", "bfloat16")
    for name in ("betas", "factor", "divisors"):
        if name in work.operands and work.operands[name].dtype not in exact:
            return True
    if work.factor is not None and work.factor.dtype not in exact:
        return True
    if any(span.dtype == "float64" for span in (*work.operands.values(), *outputs)):
        return True
    beta = problem.beta if isinstance(problem.beta, float) and problem.beta else 1.0
    divisor = 1.0 if work.is_weighted() else work.count() or 1.0  # also where no slope is asked
    scalars = beta, divisor, beta * divisor
    return not all(1 / PAIRED <= abs(scalar) <= PAIRED for scalar in scalars)


def _constants(work: _Work, form: Form) -> tuple[Any, ...]:
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


def _read_by(name: str, span: Span, work: _Work, wide: bool) -> str:
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


def _form(work: _Work, outputs: Sequence[Span | None], **options: Any) -> Form:
    given = [span for span in outputs if span is not None]
    wide = _is_wide(work, given)
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


def _run_map(work: _Work, loss: Span | None, slope: Span | None) -> None:
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
    arranged = _arrange(work, plan, (loss, slope))
    blocks = -(-plan.size // (kernels.SIDE_BY_SIDE * kernels.THREADS))
    _launch(
        work, kernels.spread_kernel(form), blocks,
        arranged.operands, arranged.outputs, arranged.sizes, plan.size, _constants(work, form),
    )  # fmt: skip


def _run_copy(work: _Work, source: Span, target: Span) -> None:
    """Copy elements of one shape and type."""
    size = math.prod(source.shape)
    merged, strides = _merge(source.shape, [source.strides, target.strides])
    wide = source.dtype == "float64"
    read = "wide" if wide else "brain" if source.dtype == "bfloat16" else "single"
    kernel = kernels.copy_kernel(read, _kept_by(target, wide), size >= SMALL)
    if size > 0:
        _launch(
            work, kernel, -(-size // kernels.THREADS),
            _operand(source, strides[0]), _operand(target, strides[1]),
            tuple(_divider(n, size) for n in merged), size,
        )  # fmt: skip


def _launch(work: _Work, kernel: Any, blocks: int, *arguments: Any) -> None:
    """Launch a kernel; blocks too many find nothing to do, and spare numba a warning."""
    kernel[max(blocks, LEAST_BLOCKS), kernels.THREADS, work.stream](*arguments)


def _run_sums(
    work: _Work,
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
    by_weight = loss is not None and work.is_weighted()
    form = _form(work, outputs, results=stores, by_weight=by_weight)
    finish = *_results(plan, results), 1.0 if loss is None or by_weight else work.count()
    if plan.outputs == 1 and plan.size > 0:
        _run_total(work, plan, form, outputs, finish)
        return
    shape = _block_shape(plan)
    parts = _parts(work, shape.chunks * plan.outputs) if shape.chunks > 1 else None
    arranged, constants = _arrange(work, plan, outputs), _constants(work, form)
    geometry = (plan.outer, plan.rows, plan.columns, shape.chunk_rows, shape.wide, shape.lanes)
    _launch(
        work, kernels.sums_kernel(form, parts is None), shape.blocks,
        arranged.operands, arranged.outputs, arranged.sizes, constants, geometry,
        0 if parts is None else parts, *finish,
    )  # fmt: skip
    if parts is not None:
        _launch_fold(work, form, parts, shape.chunks, plan.outputs, finish)


def _run_total(
    work: _Work, plan: Plan, form: Form, outputs: Sequence[Span | None], finish: tuple[Any, ...]
) -> None:
    """Sums over all elements."""
    blocks = -(-plan.size // FLAT_CHUNK)
    parts = _parts(work, blocks)
    dtype = _flat_type(work, plan, outputs) if form.sums() == (True, False, False) else None
    if dtype is not None:
        _launch_flat(work, form, dtype, plan, outputs, FLAT_CHUNK, parts)
    else:
        arranged = _arrange(work, plan, outputs)
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


def _parts(work: _Work, places: int) -> Any:
    """Float64 memory for partial sums of losses, weights and slopes."""
    span = work.memory.span("parts", _empty(work, (3, places), "float64"))
    return _array(span.address, (3, places), "<f8", span.owner)


def _launch_fold(
    work: _Work, form: Form, parts: Any, chunks: int, outputs: int, finish: tuple[Any, ...]
) -> None:
    """Add up the parts of each output, its threads side by side if it has many."""
    wide = min(_power(outputs), max(kernels.THREADS // _power(chunks), WARP))
    kernel, blocks = kernels.fold_kernel(form), -(-outputs // wide)
    _launch(work, kernel, blocks, parts, chunks, outputs, wide, *finish)


def _flat_type(work: _Work, plan: Plan, outputs: Sequence[Span | None]) -> str | None:
    """Type of operands that lie side by side, aligned to 16 bytes; None if they do not."""
    if work.operands.keys() != {"x", "target"} or plan.size == 0:
        return None
    spans = [*work.operands.values(), *(span for span in outputs if span is not None)]
    dtype = spans[0].dtype
    if dtype not in VECTORS or any(span.dtype != dtype or span.address % 16 for span in spans):
        return None
    sizes, strides = _merged(plan, spans)
    if len(sizes) > 1 or (any(step != (1,) for step in strides) and plan.size > 1):
        return None
    return dtype


def _launch_flat(
    work: _Work, form: Form, dtype: str, plan: Plan, outputs: Sequence[Span | None], chunk: int,
    parts: Any,
) -> None:  # fmt: skip
    count, slots = VECTORS[dtype][:2]
    x, target = work.operands["x"], work.operands["target"]
    words = [
        0 if span is None
        else _array(span.address, (plan.size // count * slots,), WORD_TYPES[dtype], span.owner)
        for span in (x, target, *outputs)
    ]  # fmt: skip
    items = tuple(
        0 if span is None else _array(span.address, (plan.size,), _item_type(span), span.owner)
        for span in (x, target, *outputs)
    )
    _launch(
        work, kernels.flat_kernel(form, dtype), -(-plan.size // chunk),
        words[0], words[1], tuple(words[2:]), items, plan.size, chunk // count,
        _constants(work, form), 0 if parts is None else parts,
    )  # fmt: skip


# Arguments of kernels.


def _arrange(work: _Work, plan: Plan, outputs: Sequence[Span | None]) -> SimpleNamespace:
    """Operands and outputs with common axes, as few as describe them all."""
    spans = [work.operands.get(name) for name in OPERANDS]
    spans += [None if span is None else span.broadcast(plan.shape) for span in outputs]
    present = [span for span in spans if span is not None]
    sizes, strides = _merged(plan, present)
    steps = iter(strides)
    arguments = [0 if span is None else _operand(span, next(steps)) for span in spans]
    return SimpleNamespace(
        operands=tuple(arguments[: len(OPERANDS)]),
        outputs=tuple(arguments[len(OPERANDS) :]),
        sizes=tuple(_divider(n, plan.size) for n in sizes),
    )


def _merged(plan: Plan, spans: Sequence[Span]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Sizes of the axes of a plan in its order, and the steps of each span along them."""
    return _merge(
        [plan.shape[a] for a in plan.order],
        [[span.strides[a] for a in plan.order] for span in spans],
    )


def _merge(
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


def _results(plan: Plan, results: Sequence[Span | None]) -> tuple[Any, Any]:
    """Arrays that take one value per output, and the sizes of their common axes."""
    present = [span for span in results if span is not None]
    sizes = [plan.shape[a] for a in plan.kept]
    merged, strides = _merge(sizes, [[span.strides[a] for a in plan.kept] for span in present])
    steps = iter(strides)
    arguments = tuple(0 if span is None else _operand(span, next(steps)) for span in results)
    return arguments, tuple(_divider(n, SMALL) for n in merged)


@lru_cache(maxsize=4096)
def _divider(n: int, size: int) -> tuple[int, int, int]:
    """A size, and the factor and shift that divide any position below 2**31 by it."""
    if size >= SMALL or n == 0:
        return n, 0, 0
    shift = (n - 1).bit_length()
    return n, (1 << (31 + shift)) // n + 1, 31 + shift


def _operand(span: Span, strides: tuple[int, ...]) -> tuple[Any, int, tuple[int, ...]]:
    """Memory of a span from its lowest element on, the place of its first one, and its steps."""
    low, high = span.reach()
    address = span.address + low * SIZES[span.dtype]
    return _array(address, (high - low + 1,), _item_type(span), span.owner), -low, strides


def _item_type(span: Span) -> str:
    return ITEM_TYPES.get(span.dtype) or np.dtype(span.dtype).str


def _array(address: int, shape: tuple[int, ...], typestr: str, owner: Any) -> Any:
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
