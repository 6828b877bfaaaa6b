"""The named tuples that travel into kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

LOSS, WEIGHT, SLOPE = range(3)  # rows of a matrix of sums


class Operands(NamedTuple):
    """What enters an element; None for what the call does without.

    Arrays are all flat and contiguous in the order of the plan, or all given
    by descriptions (see `gather.describe_input`).
    """

    x: Any = None
    target: Any = None
    beta: float = 1.0
    betas: Any = None  # thresholds per element, instead of beta
    weight: Any = None
    where: Any = None
    factor: Any = None  # multiplies the slope
    divisors: Any = None  # divide the slope
    divisor: Any = None  # number that divides the slope
    huber: Any = None  # True: the loss is beta times as large
    curvature: Any = None  # True: the slope is the second derivative
    narrow: Any = None  # True: multiply by reciprocals, as no result is float64


class Outputs(NamedTuple):
    """Elementwise results, as arrays or descriptions."""

    loss: Any = None
    slope: Any = None


class Sums(NamedTuple):
    """Sums over rows: True where wanted, an array of lanes where being made."""

    loss: Any = None
    weight: Any = None
    slope: Any = None


class Buffers(NamedTuple):
    """Memory of one thread for gathered runs, and for raw bytes."""

    runs: Any
    raw: Any


class Geometry(NamedTuple):
    """Integers of a `plan.Plan` that the loops need, and how tasks divide it."""

    outer: int
    rows: int
    columns: int
    tile: int
    lanes: int
    unit_blocks: int
    levels: int
