"""A call after validation: operands of one shape, and how to reduce them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .plan import Plan, make_plan, memory_order
from .validate import (
    FLOATS,
    Array,
    Reduction,
    booleans,
    broadcast,
    broadcast_shape,
    check_axis,
    check_beta,
    check_dtype,
    check_flag,
    check_normalizer,
    check_reduction,
    dtype_name,
    numbers,
    settle,
)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Checked arguments; arrays are views of one broadcast shape."""

    x: Array
    target: Array
    beta: float | Array
    weight: Array | None
    where: Array | None
    reduction: Reduction
    axes: tuple[int, ...]
    keepdims: bool
    normalizer: float | None
    dtype: np.dtype[Any]
    rounding: str
    x_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    memory: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Broadcast shape of all operands."""
        return self.x.shape

    def plan(self, axes: tuple[int, ...] | None = None, keepdims: bool | None = None) -> Plan:
        """Plan of the reduction, or of one over other axes."""
        return make_plan(
            self.shape,
            self.axes if axes is None else axes,
            self.keepdims if keepdims is None else keepdims,
            self.memory,
        )

    def result_shape(self) -> tuple[int, ...]:
        """Shape of the loss."""
        return self.plan().result_shape

    def is_weighted(self) -> bool:
        """Whether a mean divides by a sum over the data."""
        if self.reduction is not Reduction.MEAN or self.normalizer is not None:
            return False
        return self.weight is not None or self.where is not None

    def count(self) -> float | None:
        """Number that a reduction without weights divides by; None for no division."""
        if self.reduction is not Reduction.MEAN:
            return None
        return float(self.plan().rows) if self.normalizer is None else self.normalizer

    def broadcast_axes(self) -> tuple[int, ...]:
        """Axes along which x is broadcast."""
        sizes = (1,) * (len(self.shape) - len(self.x_shape)) + self.x_shape
        return tuple(a for a, n in enumerate(self.shape) if n != sizes[a])

    def live_axes(self) -> tuple[int, ...]:
        """Reduced axes longer or shorter than 1."""
        return tuple(a for a in self.axes if self.shape[a] != 1)

    def cut(self, axis: int, part: slice) -> Problem:
        """Take a part of an axis that x has and the reduction keeps."""
        full = (slice(None),) * axis + (part,)

        def taken(operand: Any) -> Any:
            return operand[full] if isinstance(operand, np.ndarray) else operand

        x = self.x[full]
        return replace(
            self,
            x=x,
            target=self.target[full],
            beta=taken(self.beta),
            weight=taken(self.weight),
            where=taken(self.where),
            x_shape=tuple(
                n if n == 1 else x.shape[a]
                for a, n in enumerate(self.x_shape, len(self.shape) - len(self.x_shape))
            ),
        )

    def swapped(self) -> Problem:
        """Exchange x and target, which turns the sign of the gradient."""
        return replace(
            self,
            x=self.target,
            target=self.x,
            x_shape=self.target_shape,
            target_shape=self.x_shape,
        )


def check(
    x: Any,
    target: Any,
    *,
    beta: Any = 1.0,
    reduction: Any = "mean",
    axis: Any = None,
    keepdims: Any = False,
    weight: Any = None,
    where: Any = None,
    normalizer: Any = None,
    dtype: Any = None,
    beta_name: str = "beta",
) -> Problem:
    """Check the arguments that all functions share."""
    kind = check_reduction(reduction)
    given = {"x": numbers("x", x), "target": numbers("target", target)}
    if weight is not None:
        given["weight"] = numbers("weight", weight)
    rounding = _promote(given)
    arrays = {name: settle(value, rounding) for name, value in given.items()}
    threshold = check_beta(beta, beta_name)
    if not isinstance(threshold, float):
        arrays[beta_name] = threshold
    if where is not None:
        arrays["where"] = booleans(where)
    shape = broadcast_shape({name: array.shape for name, array in arrays.items()})
    views = {name: broadcast(array, shape) for name, array in arrays.items()}
    return Problem(
        x=views["x"],
        target=views["target"],
        beta=views.get(beta_name, threshold),
        weight=views.get("weight"),
        where=views.get("where"),
        reduction=kind,
        axes=check_axis(axis, len(shape), kind),
        keepdims=check_flag("keepdims", keepdims),
        normalizer=check_normalizer(normalizer, kind),
        dtype=check_dtype(dtype, rounding),
        rounding=rounding,
        x_shape=arrays["x"].shape,
        target_shape=arrays["target"].shape,
        memory=memory_order(shape, views["x"].strides),
    )


def _promote(given: dict[str, Array | float]) -> str:
    """Name of the floating type of the result; Python numbers have no say."""
    dtypes = (dtype_name(value.dtype) for value in given.values() if not isinstance(value, float))
    names = {name for name in dtypes if name in FLOATS}
    if not names or "float64" in names:
        return "float64"
    return names.pop() if len(names) == 1 else "float32"
