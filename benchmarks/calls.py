"""One call that every competitor is asked to make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

BETA = 0.7


@dataclass(frozen=True, eq=False)
class Call:
    """Arrays and options, in the terms of this library."""

    x: np.ndarray
    target: np.ndarray
    work: str = "loss"  # or "grad", "value_and_grad", "hess"
    reduction: str = "mean"
    axis: Any = None
    beta: Any = BETA
    weight: np.ndarray | None = None
    where: np.ndarray | None = None

    @property
    def shape(self):
        return np.broadcast_shapes(self.x.shape, self.target.shape)

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def results(self):
        """What the call returns, in order."""
        return ("loss", "grad") if self.work == "value_and_grad" else (self.work,)

    @property
    def has_slope(self):
        return self.work in ("grad", "value_and_grad")

    @property
    def is_plain(self):
        """Whether there is nothing but x, target and a number beta."""
        return self.weight is None and self.where is None and np.ndim(self.beta) == 0

    @property
    def writes_elements(self):
        return self.reduction == "none" or self.work != "loss"

    @property
    def bytes_moved(self):
        """Bytes that must be read and written at least."""
        operands = [self.x, self.target, self.weight, self.where]
        read = sum(base_bytes(operand) for operand in operands if operand is not None)
        written = ("grad" in self.results) + ("hess" in self.results)
        written += "loss" in self.results and self.reduction == "none"
        return read + written * self.size * self.x.itemsize


def base_bytes(array):
    """Bytes of the elements of an array, each counted once however often it is repeated."""
    counts = (n for n, step in zip(array.shape, array.strides, strict=True) if step)
    return math.prod(counts) * array.itemsize


def operands(shape, dtype="float32", seed=0):
    """Two arrays of standard normal numbers, rounded so that their differences are exact.

    Else the Hessian next to the threshold would depend on how a competitor rounds.
    """
    rng = np.random.default_rng(seed)
    step = np.float32(2**-6 if dtype == "float16" else 2**-12)

    def draw():
        numbers = rng.standard_normal(shape, dtype=np.float32)
        numbers /= step
        return (np.rint(numbers, out=numbers) * step).astype(dtype)

    return draw(), draw()
