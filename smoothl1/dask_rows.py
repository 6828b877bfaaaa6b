"""The matrix X of a linear model as a Dask array in blocks of rows.

Each sum over the rows is one map over the blocks, which runs the kernels of
`designs.Dense` on one thread, and one tree. Tasks get the coefficients from a
task of their own, so that a worker receives them once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np

from . import threads
from .arguments import Vector, vector
from .chunks import add_up, check_chunks, empty
from .designs import Dense
from .validate import Array, numbers

ROWS, COLUMNS = 0, 1  # indices of the axes, as blockwise names them


class DaskRows:
    """Rows in blocks, with the methods of `designs.Dense`."""

    def __init__(self, X: Any, y: Any, weight: Any, beta: float) -> None:
        _check_matrix(X)
        self.shape: tuple[int, int] = X.shape
        self.array = X if X.numblocks[COLUMNS] == 1 else X.rechunk({COLUMNS: -1})
        self._data = [array for array in (y, weight) if array is not None]
        self._weighted, self._beta = weight is not None, beta
        self._total: float | None = None

    def check(self) -> None:
        """Check the values of y and the weights, in one computation."""
        arrays = [part for array in self._data for part in (array, (ROWS,))]
        parts = da.blockwise(
            _check_block, (ROWS, COLUMNS), *arrays, new_axes={COLUMNS: 4},
            adjust_chunks={ROWS: 1}, dtype=np.float64, meta=empty(2, np.float64),
        )  # fmt: skip
        bad, bad_weights, negative, total = add_up(parts, (ROWS,)).compute()[0].tolist()
        for name, count in (("y", bad), ("sample_weight", bad_weights)):
            if count:
                raise ValueError(f"{name} must be finite, got {count:.0f} values that are not")
        if negative:
            raise ValueError(f"sample_weight must be at least 0, got {negative:.0f} values below")
        if self._weighted and not 0 < total < np.inf:
            raise ValueError(f"sample_weight must have a finite sum above 0, got {total}")
        self._total = total

    def total_weight(self) -> float:
        """Sum of the weights, or number of rows."""
        if self._total is None:
            self.check()
        return self._total if self._weighted else float(self.shape[0])  # type: ignore[return-value]

    def sums(self, w: Vector) -> Vector:
        """Gradient and loss."""
        return self._sum(_sums_block, w, w.size + 1)

    def curvature_product(self, w: Vector, direction: Vector) -> Vector:
        """Product of the Hessian with a vector."""
        return self._sum(_curvature_block, np.append(w, direction), w.size)

    def bound_product(self, w: Vector, direction: Vector) -> Vector:
        """Product of the Hessian of `designs._bound` with a vector."""
        return self._sum(_bound_block, np.append(w, direction), w.size)

    def curvature_matrix(self, w: Vector) -> Array:
        """Hessian, of shape (p + 1, p + 1)."""
        return self._sum(_matrix_block, w, w.size**2).reshape(w.size, w.size)

    def outliers(self, w: Vector) -> int:
        """Number of residuals of at least beta."""
        return int(self._sum(_outliers_block, w, 1)[0])

    def predict(self, w: Vector) -> Any:
        """Values of the linear model for all rows, lazy."""
        return da.blockwise(
            _predict_block, (ROWS,), self.array, (ROWS, COLUMNS), _whole(w), (COLUMNS,),
            align_arrays=False, dtype=np.float64, meta=empty(1, np.float64), token="predict",
        )  # fmt: skip

    def _sum(self, function: Callable[..., Array], coefficients: Vector, size: int) -> Vector:
        """Sum over the blocks of rows of what a function makes of each, computed."""
        data = [part for array in self._data for part in (array, (ROWS,))]
        parts = da.blockwise(
            function, (ROWS, COLUMNS), self.array, (ROWS, COLUMNS), *data,
            _whole(coefficients), (COLUMNS,), beta=self._beta, align_arrays=False,
            adjust_chunks={ROWS: 1, COLUMNS: size}, dtype=np.float64, meta=empty(2, np.float64),
        )  # fmt: skip
        return add_up(parts, (ROWS,)).compute()[0]


def observed(X: Any, y: Any, weight: Any) -> tuple[Any, Any]:
    """Vectors with a value for each row of X, in blocks like those of X.

    Values in the memory of this process go to the workers once.
    """
    _check_matrix(X)
    return _rows_of("y", y, X), None if weight is None else _rows_of("sample_weight", weight, X)


def _check_matrix(X: Any) -> None:
    check_chunks("X", X)
    if X.ndim != 2:
        raise ValueError(f"X must have two dimensions (rows, columns), got shape {X.shape}")
    numbers("X", np.empty(0, X.dtype))


def _rows_of(name: str, values: Any, X: Any) -> Any:
    lazy = isinstance(values, da.Array)
    if lazy:
        check_chunks(name, values)
        numbers(name, np.empty(0, values.dtype))
    else:
        values = vector(name, values, None).copy()
    if values.shape != X.shape[:1]:
        raise ValueError(
            f"{name} must have one value per row of X, got shape {values.shape} for "
            f"{X.shape[0]} rows"
        )
    if lazy:
        return values.rechunk(X.chunks[:1])
    return da.from_array(values, chunks=X.chunks[:1]).persist()


def _whole(coefficients: Vector) -> Any:
    return da.from_array(coefficients, chunks=-1)


def _check_block(y: Array, weight: Array | None = None) -> Array:
    """Count what is not finite or below 0, and add up the weights."""
    counts = np.zeros(4)
    counts[0] = np.count_nonzero(~np.isfinite(vector("y", y, None)))
    if weight is not None:
        weight = vector("sample_weight", weight, None)
        counts[1] = np.count_nonzero(~np.isfinite(weight))
        counts[2] = np.count_nonzero(weight < 0)
        with np.errstate(all="ignore"):
            counts[3] = weight.sum()
    return counts[None]


def _rows(X: Array, data: tuple[Array, ...], beta: float) -> tuple[Dense, Vector]:
    """Rows of a block, and the coefficients."""
    *given, coefficients = data
    y, *weight = (vector("y", values, None) for values in given)
    return Dense(X, y, weight[0] if weight else None, beta), coefficients


def _sums_block(X: Array, *data: Array, beta: float) -> Array:
    rows, w = _rows(X, data, beta)
    with threads.serially():
        return rows.sums(w)[None]


def _curvature_block(X: Array, *data: Array, beta: float) -> Array:
    rows, both = _rows(X, data, beta)
    with threads.serially():
        return rows.curvature_product(*np.split(both, 2))[None]


def _bound_block(X: Array, *data: Array, beta: float) -> Array:
    rows, both = _rows(X, data, beta)
    with threads.serially():
        return rows.bound_product(*np.split(both, 2))[None]


def _matrix_block(X: Array, *data: Array, beta: float) -> Array:
    rows, w = _rows(X, data, beta)
    with threads.serially():
        return rows.curvature_matrix(w).reshape(1, -1)


def _outliers_block(X: Array, *data: Array, beta: float) -> Array:
    rows, w = _rows(X, data, beta)
    with threads.serially():
        return np.array([[float(rows.outliers(w))]])


def _predict_block(blocks: list[Array], coefficients: list[Array]) -> Array:
    (X,), (w,) = blocks, coefficients
    with threads.serially():
        return Dense(X, np.empty(0), None, 0.0).predict(w)
