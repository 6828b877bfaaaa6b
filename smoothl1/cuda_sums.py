"""Choose the kernels of sums on a GPU, and launch them.

How threads are laid over rows follows from the plan, and so do the bits of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from . import cuda_folds as folds
from . import cuda_kernels as kernels
from . import cuda_rows
from .cuda_arguments import (
    SMALL,
    arrange,
    arrange_rows,
    device_array,
    divider,
    integers,
    result_arguments,
)
from .cuda_flat import VECTORS
from .cuda_forms import Flags, Form, Sums
from .cuda_launch import constants_of, flat_type, form_of, launch, launch_flat, sums_of
from .cuda_work import Work
from .devices import Span
from .plan import Plan

WARP = 32  # threads that read side by side
ROWS_PER_THREAD = 64  # before a sum is cut into chunks
FEW_ROWS = 8  # that one thread adds up alone
ENOUGH_BLOCKS = 1024  # to keep a GPU busy without chunks
FLAT_CHUNK = 1 << 14  # elements that a block sums
MOST_PARTS = 64  # that a thread of the last kernel adds up
FEW_PARTS = 8  # that a thread adds up before, if there are more


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
    by_weight = loss is not None and work.problem.is_weighted()
    form, sums = form_of(work, outputs), sums_of(results, by_weight)
    count = None if loss is None or by_weight else work.problem.count()
    finish = *result_arguments(plan, results), 1.0 if count is None else count
    if plan.outputs == 1 and plan.size > 0:
        _run_total(work, plan, form, sums, outputs, finish)
        return
    shape = block_shape(plan)
    direct = shape.chunks == 1
    parts = 0 if direct else parts_for(work, sums.flags(), shape.chunks * plan.outputs)
    arranged, constants = arrange_rows(work, plan, outputs, form.large), constants_of(work, form)
    launch(
        work, cuda_rows.sums_kernel(form, sums.kept(direct), direct), shape.blocks,
        arranged.operands, arranged.outputs, arranged.walks, constants, shape.geometry,
        shape.layout, parts, *finish,
    )  # fmt: skip
    if not direct:
        launch_fold(work, sums, parts, shape.chunks, plan.outputs, finish)


def run_mixed(
    work: Work, plan: Plan, loss: Span, slope: Span | None, slope_out: Span | None = None
) -> None:
    """Sum of all losses by the rows of a plan, and sums of slopes over them or each slope."""
    by_weight, total = work.problem.is_weighted(), work.problem.plan()
    form, sums = form_of(work, (None, slope_out)), sums_of((loss, None, slope), by_weight)
    shape = block_shape(plan)
    repeat = max(1, FLAT_CHUNK // shape.elements)
    blocks = -(-shape.blocks // repeat)
    of_total, of_slopes, direct = sums.of_total(), sums.of_slopes(), shape.chunks == 1
    totals = parts_for(work, of_total.flags(), blocks)
    with_parts = slope is not None and not direct
    parts = parts_for(work, of_slopes.flags(), shape.chunks * plan.outputs) if with_parts else 0
    arranged = arrange_rows(work, plan, (None, slope_out), form.large)
    slopes = result_arguments(plan, (None, None, slope))
    launch(
        work, cuda_rows.mixed_kernel(form, sums.kept(direct), direct), blocks,
        arranged.operands, arranged.outputs, arranged.walks, constants_of(work, form),
        shape.geometry, shape.layout, repeat, totals, parts, *slopes,
    )  # fmt: skip
    count = None if by_weight else work.problem.count()
    finish = *result_arguments(total, (loss, None, None)), 1.0 if count is None else count
    launch_fold(work, of_total, totals, blocks, 1, finish)
    if with_parts:
        launch_fold(work, of_slopes, parts, shape.chunks, plan.outputs, (*slopes, 1.0))


def _run_total(
    work: Work, plan: Plan, form: Form, sums: Sums, outputs: Sequence[Span | None],
    finish: tuple[Any, ...],
) -> None:  # fmt: skip
    """Sums over all elements."""
    blocks, flags = -(-plan.size // FLAT_CHUNK), sums.flags()
    parts = parts_for(work, flags, blocks)
    dtype = flat_type(work, plan, outputs) if flags == (True, False, False) else None
    if dtype is not None:
        launch_flat(work, form, dtype, plan, outputs, FLAT_CHUNK, parts)
    else:
        arranged = arrange(work, plan, outputs, form.large)
        first = work.operands.get("x")
        count = VECTORS[first.dtype][0] if first is not None and first.dtype in VECTORS else 4
        launch(
            work, kernels.total_kernel(form, flags, count), blocks,
            arranged.operands, arranged.outputs, arranged.sizes, plan.size, FLAT_CHUNK // count,
            constants_of(work, form), parts,
        )  # fmt: skip
    launch_fold(work, sums, parts, blocks, 1, finish)


def block_shape(plan: Plan) -> SimpleNamespace:
    """How the threads of a block are laid over the columns and rows of a plan.

    It follows from the plan and from constants, and so do the bits of the sums.
    """
    threads = folds.THREADS
    wide = min(power(plan.columns), WARP if plan.rows > FEW_ROWS else threads)
    lanes = min(threads // wide, power(-(-plan.rows // FEW_ROWS)))
    wide = min(power(plan.columns), threads // lanes)
    deep = threads // (wide * lanes)
    blocks = -(-plan.columns // wide) * -(-plan.outer // deep)
    chunk_rows = max(1, plan.rows)
    if blocks < ENOUGH_BLOCKS:
        chunk_rows = min(chunk_rows, ROWS_PER_THREAD * lanes)
    chunks = max(1, -(-plan.rows // chunk_rows))
    if blocks * chunks >= SMALL:
        raise ValueError(
            f"a GPU sums fewer than 2**31 blocks in a call, got {blocks * chunks} for "
            f"{plan.size} elements and {plan.outputs} sums; split it"
        )
    return SimpleNamespace(
        chunks=chunks,
        blocks=blocks * chunks,
        elements=wide * deep * chunk_rows,  # of a block
        geometry=(plan.outer, plan.rows, plan.columns, chunk_rows, lanes),
        layout=(
            *integers((wide.bit_length() - 1, lanes.bit_length() - 1)),
            divider(-(-plan.columns // wide), False),
            divider(-(-plan.outer // deep), False),
        ),
    )


def power(n: int) -> int:
    """Smallest power of two that is not below a number."""
    return 1 << max(0, n - 1).bit_length()


def parts_for(work: Work, flags: Flags, places: int) -> Any:
    """Float64 memory for partial sums, in the rows of `rows_of`."""
    shape = sum(flags), places
    span = work.room(shape, "float64")
    return device_array(span.address, shape, "<f8", span.owner)


def launch_fold(
    work: Work, sums: Sums, parts: Any, chunks: int, outputs: int, finish: tuple[Any, ...]
) -> None:
    """Add up the parts of each output, its threads side by side if it has many.

    A single output is one launch, whatever its size: its block has threads enough.
    """
    while True:
        wide = min(power(outputs), max(folds.THREADS // power(chunks), WARP))
        tiles, lanes = -(-outputs // wide), folds.THREADS // wide
        if outputs == 1 or chunks <= MOST_PARTS * lanes:
            break
        each = FEW_PARTS * lanes
        groups = -(-chunks // each)
        fewer = parts_for(work, sums.flags(), groups * outputs)
        squeeze = folds.squeeze_kernel(sums.flags())
        launch(work, squeeze, tiles * groups, parts, chunks, outputs, wide, each, fewer)
        parts, chunks = fewer, groups
    launch(work, folds.fold_kernel(sums), tiles, parts, chunks, outputs, wide, *finish)
