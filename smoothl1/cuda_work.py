"""A checked problem whose operands lie on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import cuda

from .calls import Call, Wanted
from .devices import Memory, Span
from .plan import memory_order
from .problem import Problem

PAIRED = 2.0**60  # scalars whose reciprocals and remainders float32 holds


@dataclass(slots=True)
class Work:
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
    def of(cls, memory: Memory, call: Call, arrays: dict[str, Any], problem: Problem) -> Work:
        """Describe operands, and upload those that are lists or numbers."""
        like = next(iter(arrays.values()))
        given = {
            name: getattr(problem, name) for name in ("x", "target", "weight", "where", "beta")
        }
        operands = {}
        for name, values in given.items():
            key = call.beta_name if name == "beta" else name
            if key in arrays:
                span = memory.span(key, arrays[key])
            elif isinstance(values, np.ndarray):
                span = _uploaded(memory, key, values, like)
            else:  # absent, or one threshold for all
                continue
            operands["betas" if name == "beta" else name] = span.broadcast(problem.shape)
        order = memory_order(problem.shape, operands["x"].strides)
        work = cls(memory, problem.ordered(order), operands, like, _stream(memory, like))
        work.huber = call.wanted is Wanted.HUBER
        work.curvature = call.wanted is Wanted.HESS
        work.factor = _factor(memory, call, arrays, work)
        return work.swapped() if call.wrt == "target" else work

    def swapped(self) -> Work:
        """Exchange x and target, which turns the sign of the gradient."""
        operands = self.operands | {"x": self.operands["target"], "target": self.operands["x"]}
        return replace(self, problem=self.problem.swapped(), operands=operands)

    def of_weights(self) -> Work:
        """Only what weights are summed of."""
        kept = {n: span for n, span in self.operands.items() if n in {"weight", "where"}}
        return replace(self, operands=kept, huber=False, curvature=False)

    def room(self, shape: tuple[int, ...], dtype: str) -> Span:
        """New memory for results that calls do not return."""
        array = self.memory.empty(shape, tuple(range(len(shape))), dtype, self.like)
        return self.memory.span("room", array)

    def result_axes(self, span: Span) -> Span:
        """View of an array of one value per output with size 1 for the reduced axes."""
        return span if self.problem.keepdims else span.expanded(self.problem.axes)


def _uploaded(memory: Memory, name: str, values: Any, like: Any) -> Span:
    """Span of a number or a list; each value once."""
    values = values[tuple(slice(None if step else 1) for step in values.strides)]
    if values.dtype.name == "bfloat16":
        values = values.astype(np.float32)
    return memory.span(name, memory.upload(values, like))


def _factor(memory: Memory, call: Call, arrays: dict[str, Any], work: Work) -> Span | None:
    """What multiplies slopes, one value per output."""
    values = call.arguments.get("grad_output")
    if values is None:
        return None
    if "grad_output" in arrays:
        span = memory.span("grad_output", arrays["grad_output"])
    else:
        numbers = as_computed(np.asarray(values, np.float64), work.problem)
        span = _uploaded(memory, "grad_output", numbers, work.like)
    return span.broadcast(work.problem.plan().result_shape)


def as_computed(values: Any, problem: Problem) -> Any:
    """Numbers of the host, in float32 if that holds them and elements are computed in it."""
    sizes = np.abs(values)
    fits = ((sizes == 0) | ((sizes >= 1 / PAIRED) & (sizes <= PAIRED))).all()
    return values if problem.rounding == "float64" or not fits else values.astype(np.float32)


def _stream(memory: Memory, like: Any) -> Any:
    stream = memory.stream(like)
    return cuda.external_stream(stream) if isinstance(stream, int) and stream else stream
