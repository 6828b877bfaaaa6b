"""A call after validation: operands of one shape, and how to reduce them.

What follows from shapes, dtypes, strides and options alone is a `Form`. Forms are kept:
a call like one before it finds there what takes longer to derive than 10 000 elements
take to compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
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


@dataclass(frozen=True, slots=True)
class Form:
    """What holds for every call with operands of the same shapes, dtypes and strides."""

    shape: tuple[int, ...]
    reduction: Reduction
    axes: tuple[int, ...]
    keepdims: bool
    normalizer: float | None
    dtype: np.dtype[Any]
    rounding: str
    x_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    memory: tuple[int, ...]
    has_weights: bool
    plan: Plan = field(init=False)
    is_narrow: bool = field(init=False)
    broadcast_axes: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Derive what every call asks for."""
        sizes = (1,) * (len(self.shape) - len(self.x_shape)) + self.x_shape
        summed = tuple(a for a, n in enumerate(self.shape) if n != sizes[a])
        plan = make_plan(self.shape, self.axes, self.keepdims, self.memory)
        narrow = "float64" not in (self.rounding, self.dtype.name)
        for name, value in (("plan", plan), ("is_narrow", narrow), ("broadcast_axes", summed)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Checked arguments; arrays are views of one broadcast shape."""

    form: Form
    x: Array
    target: Array
    beta: float | Array
    weight: Array | None
    where: Array | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Broadcast shape of all operands."""
        return self.form.shape

    @property
    def reduction(self) -> Reduction:
        """How element losses are combined."""
        return self.form.reduction

    @property
    def axes(self) -> tuple[int, ...]:
        """Reduced axes, ascending."""
        return self.form.axes

    @property
    def keepdims(self) -> bool:
        """Whether reduced axes are kept with size 1."""
        return self.form.keepdims

    @property
    def normalizer(self) -> float | None:
        """What a mean divides by instead of the count."""
        return self.form.normalizer

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the result."""
        return self.form.dtype

    @property
    def rounding(self) -> str:
        """Name of the floating type that integers are rounded to."""
        return self.form.rounding

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of x before broadcasting."""
        return self.form.x_shape

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of the target before broadcasting."""
        return self.form.target_shape

    @property
    def memory(self) -> tuple[int, ...]:
        """Axes from the slowest to the fastest in the memory of x."""
        return self.form.memory

    def plan(self, axes: tuple[int, ...] | None = None, keepdims: bool | None = None) -> Plan:
        """Plan of the reduction, or of one over other axes."""
        form = self.form
        if axes is None and (keepdims is None or keepdims is form.keepdims):
            return form.plan
        return make_plan(
            form.shape,
            form.axes if axes is None else axes,
            form.keepdims if keepdims is None else keepdims,
            form.memory,
        )

    def result_shape(self) -> tuple[int, ...]:
        """Shape of the loss."""
        return self.form.plan.result_shape

    def is_weighted(self) -> bool:
        """Whether a mean divides by a sum over the data."""
        form = self.form
        return form.has_weights and form.reduction is Reduction.MEAN and form.normalizer is None

    def count(self) -> float | None:
        """Number that a reduction without weights divides by; None for no division."""
        form = self.form
        if form.reduction is not Reduction.MEAN:
            return None
        return float(form.plan.rows) if form.normalizer is None else form.normalizer

    def broadcast_axes(self) -> tuple[int, ...]:
        """Axes along which x is broadcast."""
        return self.form.broadcast_axes

    def live_axes(self) -> tuple[int, ...]:
        """Reduced axes longer or shorter than 1."""
        return tuple(a for a in self.axes if self.shape[a] != 1)

    def ordered(self, memory: tuple[int, ...]) -> Problem:
        """Take the axes for those of memory in another order."""
        return replace(self, form=replace(self.form, memory=memory))

    def cut(self, axis: int, part: slice) -> Problem:
        """Take a part of an axis that x has and the reduction keeps."""
        full = (slice(None),) * axis + (part,)

        def taken(operand: Any) -> Any:
            return operand[full] if isinstance(operand, np.ndarray) else operand

        x = self.x[full]
        own = tuple(
            n if n == 1 else x.shape[a]
            for a, n in enumerate(self.x_shape, len(self.shape) - len(self.x_shape))
        )
        return Problem(
            form=replace(self.form, shape=x.shape, x_shape=own),
            x=x,
            target=self.target[full],
            beta=taken(self.beta),
            weight=taken(self.weight),
            where=taken(self.where),
        )

    def swapped(self) -> Problem:
        """Exchange x and target, which turns the sign of the gradient."""
        return Problem(_swapped(self.form), self.target, self.x, self.beta, self.weight, self.where)


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
    given = {"x": numbers("x", x), "target": numbers("target", target)}
    if weight is not None:
        given["weight"] = numbers("weight", weight)
    threshold = check_beta(beta, beta_name)
    others: dict[str, Array] = {}
    if not isinstance(threshold, float):
        others[beta_name] = threshold
    if where is not None:
        others["where"] = booleans(where)
    operands = given | others
    options = (reduction, axis, keepdims, normalizer, dtype)
    form = (_kept_form if _can_be_key(*options) else _make_form)(
        tuple(operands), tuple(map(_layout, operands.values())), len(given), *options
    )
    shape = form.shape
    views = {n: broadcast(settle(array, form.rounding), shape) for n, array in operands.items()}
    return Problem(
        form=form,
        x=views["x"],
        target=views["target"],
        beta=views.get(beta_name, threshold),
        weight=views.get("weight"),
        where=views.get("where"),
    )


Layout = tuple[tuple[int, ...], tuple[int, ...], Any]  # shape, strides, dtype; none of a number


def _layout(value: Array | float) -> Layout:
    return ((), (), None) if isinstance(value, float) else (value.shape, value.strides, value.dtype)


def _can_be_key(reduction: Any, axis: Any, keepdims: Any, normalizer: Any, dtype: Any) -> bool:
    """Whether options equal to these mean the same: True is equal to 1 and does not."""
    listed = axis if type(axis) is tuple else (axis,)
    return (
        isinstance(reduction, str)
        and (axis is None or all(type(a) is int for a in listed))
        and type(keepdims) is bool
        and (normalizer is None or type(normalizer) in (int, float))
        and (dtype is None or isinstance(dtype, (str, type, np.dtype)))
    )


def _make_form(
    names: tuple[str, ...],
    layouts: tuple[Layout, ...],
    floating: int,
    reduction: Any,
    axis: Any,
    keepdims: Any,
    normalizer: Any,
    dtype: Any,
) -> Form:
    """Check options against operands, of which the first ``floating`` are promoted."""
    kind = check_reduction(reduction)
    rounding = _promote([own for _, _, own in layouts[:floating]])
    shape = broadcast_shape({name: own for name, (own, _, _) in zip(names, layouts, strict=True)})
    (x_shape, x_strides, _), (target_shape, _, _) = layouts[:2]
    new = len(shape) - len(x_shape)
    steps = [0 if x_shape[a] != shape[new + a] else step for a, step in enumerate(x_strides)]
    return Form(
        shape=shape,
        reduction=kind,
        axes=check_axis(axis, len(shape), kind),
        keepdims=check_flag("keepdims", keepdims),
        normalizer=check_normalizer(normalizer, kind),
        dtype=check_dtype(dtype, rounding),
        rounding=rounding,
        x_shape=x_shape,
        target_shape=target_shape,
        memory=memory_order(shape, (0,) * new + tuple(steps)),
        has_weights="weight" in names or "where" in names,
    )


_kept_form = lru_cache(maxsize=1024)(_make_form)


@lru_cache(maxsize=1024)
def _swapped(form: Form) -> Form:
    return replace(form, x_shape=form.target_shape, target_shape=form.x_shape)


def _promote(dtypes: Iterable[Any]) -> str:
    """Name of the floating type of the result; Python numbers have no say."""
    names = {name for own in dtypes if own is not None and (name := dtype_name(own)) in FLOATS}
    if not names or "float64" in names:
        return "float64"
    return names.pop() if len(names) == 1 else "float32"
