"""The matrix X of a linear model: its sums of losses and slopes at coefficients w.

Both kinds have the same methods. `Dense` makes all sums in one pass over X;
`Products` knows X only by its products with vectors (sparse matrices and
operators), with the loss and its slopes in between.

Coefficients are vectors of p + 1 numbers, the intercept at the end. Sums are
not divided yet: p + 1 entries of the gradient, then the loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .arguments import Vector, refuse_masked
from .functional import smooth_l1_hess, smooth_l1_value_and_grad
from .plan import GROUP
from .validate import Array, dtype_name, numbers

MOST_ROWS = 64 * GROUP  # of a block: each costs about 1 us beside the work
BLOCK = 1 << 16  # elements of a block, half of a mebibyte as float64
UNITS, FEWEST = 64, 16  # tasks: enough for a few dozen threads
PARTS = 1 << 17  # numbers in the partial sums of all tasks
CHUNK = 1 << 17  # elements of the rows that NumPy works on at a time


def make_design(X: Any, y: Vector, weight: Vector | None, beta: float) -> Dense | Products:
    """Bring X of any supported kind into a form with sums."""
    kind = Products if _is_product(X) else Dense
    return kind(X, y, weight, beta)


class Design:
    """What both kinds share."""

    shape: tuple[int, int]
    _y: Vector
    _weight: Vector | None
    _beta: float

    def predict(self, w: Vector) -> Vector:
        """Values of the linear model for all rows."""
        raise NotImplementedError

    def total_weight(self) -> float:
        """Sum of the weights, or number of rows."""
        return float(self.shape[0]) if self._weight is None else float(self._weight.sum())

    def outliers(self, w: Vector) -> int:
        """Number of residuals of at least beta."""
        return int(np.count_nonzero(np.abs(self.predict(w) - self._y) >= self._beta))


class Dense(Design):
    """An array of rows, read block by block in one pass."""

    def __init__(self, X: Any, y: Vector, weight: Vector | None, beta: float) -> None:
        refuse_masked("X", X)
        array = numbers("X", X)
        if isinstance(array, float) or array.ndim != 2:
            hint = "; pass X[:, None] for one column" if np.ndim(array) == 1 else ""
            raise ValueError(
                f"X must have two dimensions (rows, columns), got {_shape(array)}{hint}"
            )
        self.shape = array.shape
        self.array = array
        self._y, self._weight, self._beta = y, weight, beta
        self._prepared: tuple[Any, Any] | None = None

    def sums(self, w: Vector) -> Vector:
        """Gradient and loss."""
        return self._run(w, None)

    def curvature_product(self, w: Vector, direction: Vector) -> Vector:
        """Product of the Hessian with a vector."""
        return self._run(w, direction)[:-1]

    def bound_product(self, w: Vector, direction: Vector) -> Vector:
        """Product of the Hessian of `_bound` with a vector."""
        p = self.shape[1]
        total = np.zeros(p + 1)
        for part, rows in self._chunks():
            weight = None if self._weight is None else self._weight[part]
            share = _bound(_predict(self.array[part], w), self._y[part], weight, self._beta)
            share *= rows @ direction[:-1] + direction[-1]
            total += np.append(rows.T @ share, share.sum())
        return total

    def curvature_matrix(self, w: Vector) -> Array:
        """Hessian, of shape (p + 1, p + 1)."""
        p = self.shape[1]
        total = np.zeros((p + 1, p + 1))
        for part, rows in self._chunks():
            weight = None if self._weight is None else self._weight[part]
            predicted = _predict(self.array[part], w)
            curvature = _curvature(predicted, self._y[part], weight, self._beta)
            weighted = rows * curvature[:, None]
            total[:p, :p] += rows.T @ weighted
            total[:p, p] += weighted.sum(axis=0)
            total[p, p] += curvature.sum()
        total[p, :p] = total[:p, p]
        return total

    def predict(self, w: Vector) -> Vector:
        """Values of the linear model for all rows."""
        return _predict(self.array, w)

    def _chunks(self) -> Iterator[tuple[slice, Array]]:
        """Rows as float64, a few at a time."""
        n, p = self.shape
        step = max(1, CHUNK // max(1, p))
        for low in range(0, n, step):
            part = slice(low, min(low + step, n))
            yield part, np.asarray(self.array[part], np.float64)

    def _run(self, w: Vector, direction: Vector | None) -> Vector:
        from . import linear, threads
        from .sums_run import add_pairs

        n, p = self.shape
        if n == 0:  # an empty block of a larger matrix
            return np.zeros(p + 2)
        if self._prepared is None:
            data = _matrix(self.array), _frozen(self._y), _frozen(self._weight)
            self._prepared = data, _divide(n, p)
        data, (rows, each, units) = self._prepared
        parts = np.empty((units, p + 2))
        vectors = (_frozen(w), _frozen(direction))
        arguments = (*data, *vectors, self._beta, parts, rows, each, each.bit_length())
        threads.run(linear.linear_sums, arguments, threads.all_tasks(units), n * (p + 1))
        return add_pairs(parts)


class Products(Design):
    """A sparse matrix or a linear operator."""

    def __init__(self, X: Any, y: Vector, weight: Vector | None, beta: float) -> None:
        from scipy import sparse

        if sparse.issparse(X):
            if X.ndim != 2:
                raise ValueError(f"X must have two dimensions (rows, columns), got shape {X.shape}")
            if X.dtype.kind not in "fiu" or X.dtype.itemsize > 8:
                raise TypeError(f"X must hold real numbers of at most 64 bits, got {X.dtype}")
            X = X if X.format in ("csr", "csc") else X.tocsr()
        elif np.dtype(X.dtype or float).kind not in "fiu":
            raise TypeError(f"X must be an operator on real numbers, got dtype {X.dtype}")
        self.shape = X.shape
        self.array = X
        self._y, self._weight, self._beta = y, weight, beta

    def sums(self, w: Vector) -> Vector:
        """Gradient and loss."""
        loss, slope = smooth_l1_value_and_grad(
            self.predict(w), self._y, beta=self._beta, weight=self._weight, reduction="sum"
        )
        return np.concatenate([self._project(slope), [loss]])

    def curvature_product(self, w: Vector, direction: Vector) -> Vector:
        """Product of the Hessian with a vector."""
        curvature = _curvature(self.predict(w), self._y, self._weight, self._beta)
        return self._project(curvature * self.predict(direction))

    def bound_product(self, w: Vector, direction: Vector) -> Vector:
        """Product of the Hessian of `_bound` with a vector."""
        share = _bound(self.predict(w), self._y, self._weight, self._beta)
        return self._project(share * self.predict(direction))

    def curvature_matrix(self, w: Vector) -> Array:
        """Hessian, of shape (p + 1, p + 1)."""
        from scipy import sparse

        X, p = self.array, self.shape[1]
        if not sparse.issparse(X):
            matrix = np.empty((p + 1, p + 1))
            for column in range(p + 1):
                matrix[:, column] = self.curvature_product(w, np.eye(1, p + 1, column)[0])
            return matrix
        curvature = _curvature(self.predict(w), self._y, self._weight, self._beta)
        total = np.empty((p + 1, p + 1))
        total[:p, :p] = (X.T @ X.multiply(curvature[:, None]).tocsr()).toarray()
        total[:p, p] = total[p, :p] = X.T @ curvature
        total[p, p] = curvature.sum()
        return total

    def predict(self, w: Vector) -> Vector:
        """Values of the linear model for all rows."""
        product = np.asarray(self.array @ w[:-1], np.float64)
        return np.ravel(product) + w[-1]

    def _project(self, slope: Array) -> Vector:
        try:
            product = self.array.T @ slope
        except NotImplementedError:
            raise TypeError(
                "X must have a product with its transpose, got an operator without rmatvec"
            ) from None
        return np.append(np.ravel(product), slope.sum())


def _divide(n: int, p: int) -> tuple[int, int, int]:
    """Rows of a block, blocks of a unit, and units; 2**k blocks never change bits."""
    rows = min(MOST_ROWS, max(GROUP, 1 << max(0, (BLOCK // max(1, p)).bit_length() - 1)))
    blocks = max(1, -(-n // rows))
    units = max(FEWEST, min(UNITS, PARTS // (p + 2)))
    each = 1
    while -(-blocks // each) > units:
        each *= 2
    return rows, each, -(-blocks // each)


def _predict(array: Array, w: Vector) -> Vector:
    """Predictions with the bits that `Dense.sums` computes with."""
    from . import linear, threads

    n, p = array.shape
    out = np.empty(n)
    rows = _divide(n, p)[0]
    arguments = (_matrix(array), _frozen(w), out, rows)
    threads.run(linear.linear_predictions, arguments, threads.all_tasks(-(-n // rows)), n * (p + 1))
    return out


def _curvature(predicted: Vector, y: Vector, weight: Vector | None, beta: float) -> Array:
    return smooth_l1_hess(predicted, y, beta=beta, weight=weight, reduction="sum")


def _bound(predicted: Vector, y: Vector, weight: Vector | None, beta: float) -> Vector:
    """Curvature of the parabolas that touch the losses from above."""
    curvature = 1.0 / np.maximum(np.abs(predicted - y), beta)
    return curvature if weight is None else curvature * weight


def _is_product(X: Any) -> bool:
    if type(X) is np.ndarray:
        return False
    from scipy import sparse
    from scipy.sparse.linalg import LinearOperator

    return sparse.issparse(X) or isinstance(X, LinearOperator)


def _shape(array: Any) -> str:
    return "a number" if isinstance(array, float) else f"shape {array.shape}"


def _frozen(array: Vector | None) -> Vector | None:
    """Read-only and aligned, so that kernels are compiled once.

    What a worker of a cluster was sent lies anywhere in a message.
    """
    if array is None:
        return None
    view = np.require(array, requirements="A").view()
    view.flags.writeable = False
    return view


def _matrix(array: Array) -> Any:
    """Rows or columns where they lie, or else a description of the array."""
    from .gather import describe_input
    from .linear import Matrix

    item, (n, p) = array.itemsize, array.shape
    native = dtype_name(array.dtype) in ("float64", "float32") and array.dtype.isnative
    if native and array.flags.aligned and array.size:
        row, column = array.strides
        if (column == item or p == 1) and row >= item * p and row % item == 0:
            return Matrix(_span(array, (n - 1) * (row // item) + p), row // item, None)
        if (row == item or n == 1) and column >= item * n and column % item == 0:
            return Matrix(_span(array, (p - 1) * (column // item) + n), column // item, True)
    return Matrix(describe_input(array, (0, 1), "float64"), 0, None)


def _span(array: Array, elements: int) -> Array:
    """Flat view of the memory from the first to the last element."""
    return np.lib.stride_tricks.as_strided(
        array, (elements,), (array.itemsize,), subok=False, writeable=False
    )
