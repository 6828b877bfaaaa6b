"""Types for the overloads of the public functions; only type checkers load them.

With NumPy's arrays, numbers and lists the arguments tell the kind of a result:
a scalar, an array, or what was given as ``out``. It is Any where they do not,
with `axis` (the number of axes is not in the type of an array) and with arrays
of other libraries. Results of bfloat16 count as floating here, though
`ml_dtypes` does not derive its scalar from `numpy.floating`.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, Required, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from .validate import Reduction

NumPyArray = npt.NDArray[Any]
Numbers = NumPyArray | np.generic | float | list[Any] | tuple[Any, ...]
Scalar = np.floating[Any]
Floats = npt.NDArray[np.floating[Any]]


class Array(Protocol):
    """An array of any library; None is not one."""

    @property
    def shape(self) -> Any:
        """Sizes of the axes."""


Out = TypeVar("Out", bound=Array)
GradOut = TypeVar("GradOut", bound=Array)


class Operands(TypedDict, total=False):
    """Options of NumPy calls that leave the kind of the result alone."""

    weight: Numbers | None
    where: Numbers | None
    normalizer: float | None
    dtype: Any


class ToScalar(Operands, total=False):
    """Options of NumPy calls that reduce everything."""

    reduction: Literal["mean", "sum", "auto", Reduction.MEAN, Reduction.SUM, Reduction.AUTO]
    axis: None
    keepdims: Literal[False]
    out: None


class ToElements(Operands, total=False):
    """Options of NumPy calls that reduce nothing."""

    reduction: Required[Literal["none", Reduction.NONE]]
    axis: None
    keepdims: bool
    out: None


class ToSlopes(Operands, total=False):
    """Options of NumPy calls whose result has the shape of an operand."""

    reduction: str
    axis: Any
    keepdims: bool
    beta: Numbers


class Options(TypedDict, total=False):
    """Options of calls with arrays of any kind, without the threshold and outputs."""

    reduction: str
    axis: Any
    keepdims: bool
    weight: Any
    where: Any
    normalizer: float | None
    dtype: Any
