"""Dask arrays: lazy results, with one task for each block and trees of partial sums.

    operands ── blockwise ─┬─ elementwise results, in the chunks of the operands
                           └─ float64 sums of each block ── tree ── divided and rounded once

A mean divides the sum over all blocks by the number of elements, which the
shapes tell, or by the sum of the weights kept, a tree of its own. Slopes of
elements carry that divisor before they are rounded. Nothing is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np

from .calls import Call, Wanted
from .chunks import add_up, empty
from .dask_blocks import Job, both_block, finish, loss_block, pick, slope_block, weight_block
from .problem import Problem
from .validate import Reduction, booleans, numbers, settle

FLOAT64 = np.dtype(np.float64)


def run(call: Call, problem: Problem) -> Any:
    """Lazy results of a call.

    Parameters
    ----------
    call : Call
        With Dask arrays, numbers and lists.
    problem : Problem
        What the checks say of it; only shapes, axes and dtypes are read.

    """
    lazy = _Lazy(call, problem)
    if call.wanted in (Wanted.GRAD, Wanted.HESS):
        return lazy.slope(lazy.map(slope_block, lazy.slope_dtype, lazy.summed))
    if call.wanted is not Wanted.VALUE_AND_GRAD:
        return lazy.loss(lazy.map(loss_block, lazy.loss_dtype, problem.axes))
    both = lazy.map(both_block, lazy.slope_dtype, ())
    loss = lazy.pick(both, 0, lazy.loss_dtype, problem.axes)
    return lazy.loss(loss), lazy.slope(lazy.pick(both, 1, lazy.slope_dtype, lazy.summed))


class _Lazy:
    """Operands of a call, and the steps from them to its results."""

    def __init__(self, call: Call, problem: Problem) -> None:
        self._call, self._problem = call, problem
        self._axes = tuple(range(len(problem.shape)))
        self._numbers, self._arrays = _operands(call, problem)
        own = problem.x_shape if call.wrt == "x" else problem.target_shape
        self._missing = len(problem.shape) - len(own)
        sizes = (1,) * self._missing + own
        self.summed = tuple(a for a in self._axes if problem.shape[a] != sizes[a])
        self.slope_dtype = FLOAT64 if self.summed else problem.dtype
        self._elementwise = problem.reduction is Reduction.NONE
        self.loss_dtype = problem.dtype if self._elementwise else FLOAT64
        self._divisor = self._make_divisor()

    def map(self, function: Callable[..., Any], dtype: Any, reduced: tuple[int, ...]) -> Any:
        """Blocks that a function makes of those of the operands."""
        arrays = dict(self._arrays)
        if function is not loss_block:
            arrays |= self._factors()
        problem, lazy_divisor = self._problem, "divisor" in arrays
        options: dict[str, Any] = {"reduction": "none"}
        if not self._elementwise:
            options = {"reduction": "sum", "axis": problem.axes, "keepdims": True}
        job = Job(
            wanted=self._call.wanted,
            names=tuple(arrays),
            numbers=self._numbers,
            options=options | {"dtype": problem.dtype.name, "beta_name": self._call.beta_name},
            wrt=self._call.wrt,
            summed=bool(self.summed),
            divisor=None if lazy_divisor else self._divisor,
        )
        return self._blockwise(function, arrays, dtype, reduced, job=job)

    def pick(self, both: Any, part: int, dtype: Any, reduced: tuple[int, ...]) -> Any:
        """One of two results whose blocks come together."""
        return self._blockwise(pick, {"both": both}, dtype, reduced, part=part)

    def loss(self, losses: Any) -> Any:
        """Result from the losses, or sums of them, of all blocks."""
        problem = self._problem
        if self._elementwise:
            return losses
        kept = tuple(a for a in self._axes if problem.keepdims or a not in problem.axes)
        return self._finish(add_up(losses, problem.axes), self._divisor, kept)

    def slope(self, slopes: Any) -> Any:
        """Result from the slopes, or sums of them, of all blocks."""
        if self.summed or self._missing:
            kept = self._axes[self._missing :]
            slopes = self._finish(add_up(slopes, self.summed), None, kept)
        own = self._call.arguments[self._call.wrt]
        if isinstance(own, da.Array) and own.chunks != slopes.chunks:
            slopes = slopes.rechunk(own.chunks)  # another operand has finer chunks
        return slopes

    def _finish(self, total: Any, divisor: Any, kept: tuple[int, ...]) -> Any:
        dtype = self._problem.dtype
        arrays = [total, *([divisor] if isinstance(divisor, da.Array) else [])]
        return da.blockwise(
            finish, kept, *(part for array in arrays for part in (array, self._axes)),
            divisor=None if len(arrays) > 1 else divisor, kept=kept, rounding=dtype.name,
            dtype=dtype, meta=empty(len(kept), dtype), token=self._name,
        )  # fmt: skip

    def _blockwise(
        self,
        function: Callable[..., Any],
        arrays: dict[str, Any],
        dtype: Any,
        reduced: tuple[int, ...],
        **how: Any,
    ) -> Any:
        """Map over aligned blocks, with size 1 for each along the reduced axes."""
        axes = self._axes
        pairs = [(array, axes[len(axes) - array.ndim :]) for array in arrays.values()]
        return da.blockwise(
            function, axes, *(part for pair in pairs for part in pair),
            adjust_chunks=dict.fromkeys(reduced, 1), dtype=dtype, meta=empty(len(axes), dtype),
            token=self._name, **how,
        )  # fmt: skip

    @property
    def _name(self) -> str:
        return self._call.function.__name__

    def _factors(self) -> dict[str, Any]:
        """Factor and divisor of the slopes, as arrays with all axes."""
        factors = {}
        given = self._call.arguments.get("grad_output")
        if given is not None:
            factors["grad_output"] = self._spread(_lazy("grad_output", given, "float64"))
        if isinstance(self._divisor, da.Array):
            factors["divisor"] = self._divisor
        return factors

    def _spread(self, factor: Any) -> Any:
        """Factor of the result, with size 1 in place of the reduced axes."""
        problem = self._problem
        shown = [a for a in self._axes if problem.keepdims or a not in problem.axes]
        given = set(shown[len(shown) - factor.ndim :])
        return factor[tuple(slice(None) if a in given else None for a in self._axes)]

    def _make_divisor(self) -> Any:
        """What the reduction divides by: None, a number, or sums with reduced axes of size 1."""
        problem = self._problem
        if problem.reduction is not Reduction.MEAN:
            return None
        if problem.normalizer is not None:
            return problem.normalizer
        arrays = {
            name: array[self._new_axes(array)]
            for name, array in self._arrays.items()
            if name in ("weight", "where")
        }
        if not arrays:
            return float(math.prod(problem.shape[a] for a in problem.axes))
        sizes = np.broadcast_shapes(*(array.shape for array in arrays.values()))
        times = math.prod(problem.shape[a] for a in problem.axes if sizes[a] != problem.shape[a])
        parts = self._blockwise(
            weight_block, arrays, FLOAT64, problem.axes,
            names=tuple(arrays), rounding=problem.rounding, axes=problem.axes, times=times,
        )  # fmt: skip
        return add_up(parts, problem.axes)

    def _new_axes(self, array: Any) -> tuple[Any, ...]:
        """Index that gives an array all axes of the problem."""
        return (None,) * (len(self._axes) - array.ndim) + (Ellipsis,)


def _operands(call: Call, problem: Problem) -> tuple[dict[str, Any], dict[str, Any]]:
    """Operands that are numbers, and all others as Dask arrays."""
    given = call.arguments
    plain, arrays = {}, {}
    for name in ("x", "target", call.beta_name):
        value, key = given[name], "beta" if name == call.beta_name else name
        if isinstance(value, (int, float, np.generic)):
            plain[key] = value
        else:
            arrays[key] = _lazy(name, value, problem.rounding)
    for name in ("weight", "where"):
        if given[name] is not None:
            arrays[name] = _lazy(name, given[name], problem.rounding)
    return plain, arrays


def _lazy(name: str, value: Any, rounding: str) -> Any:
    """Dask array of an operand; Python numbers get a floating type.

    Empty chunks beside a chunk of one element go: Dask would take them for
    blocks that the element broadcasts to.
    """
    if isinstance(value, da.Array):
        if value.size == 0:
            return da.empty(value.shape, dtype=value.dtype, chunks=value.shape)
        return value.rechunk({a: -1 for a, n in enumerate(value.shape) if n == 1})
    array = booleans(value) if name == "where" else settle(numbers(name, value), rounding)
    return da.from_array(array, chunks=array.shape)
