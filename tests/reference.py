"""The definition of everything, slow and obvious; shares no code with the library."""

import math
from fractions import Fraction

import numpy as np


def exact_loss(residual: Fraction, beta: Fraction) -> Fraction:
    size = abs(residual)
    return residual * residual / (2 * beta) if size < beta else size - beta / 2


def exact_grad(residual: Fraction, beta: Fraction) -> Fraction:
    if abs(residual) < beta:
        return residual / beta
    return Fraction((residual > 0) - (residual < 0))


def exact_hess(residual: Fraction, beta: Fraction) -> Fraction:
    return 1 / beta if abs(residual) < beta else Fraction(0)


def rounded(value: Fraction, dtype) -> float:
    """The nearest number of a floating dtype, ties to even, as a float."""
    bits, smallest, largest = {
        "float64": (53, -1022, 1023),
        "float32": (24, -126, 127),
        "float16": (11, -14, 15),
        "bfloat16": (8, -126, 127),
    }[np.dtype(dtype).name]
    if value == 0:
        return 0.0
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    while Fraction(2) ** exponent > abs(value):
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= abs(value):
        exponent += 1
    step = Fraction(2) ** (max(exponent, smallest) - bits + 1)
    number = round(value / step) * step
    if abs(number) >= Fraction(2) ** (largest + 1):
        return math.inf if value > 0 else -math.inf
    return float(number)


def ulps_apart(a: float, b: float, dtype) -> int:
    """How many numbers of the dtype lie between two of its numbers."""
    if math.isnan(a) or math.isnan(b):
        return 0 if math.isnan(a) and math.isnan(b) else 10**9
    kind = np.dtype(dtype)
    integer = {8: np.int64, 4: np.int32, 2: np.int16}[kind.itemsize]

    def place(value):
        bits = int(np.array(value).astype(kind).view(integer))
        return bits if bits >= 0 else -(bits & (2 ** (8 * kind.itemsize - 1) - 1))

    return abs(place(a) - place(b))


def elements(x, target, beta):
    """Loss, gradient and Hessian of each element, in float64."""
    with np.errstate(invalid="ignore"):  # infinite minus infinite
        residual = np.asarray(x, np.float64) - np.asarray(target, np.float64)
    residual, beta = np.broadcast_arrays(residual, np.asarray(beta, np.float64))
    loss, grad, hess = (np.empty(residual.shape) for _ in range(3))
    for index in np.ndindex(residual.shape):
        r, b = float(residual[index]), float(beta[index])
        if math.isnan(r):
            row = (r, r, r)
        elif math.isinf(r):
            row = (math.inf, math.copysign(1, r), 0)
        elif abs(r) < b:
            row = (r / b * r / 2, r / b, 1 / b if b > 1e-308 else math.inf)
        else:
            row = (abs(r) - b / 2, (r > 0) - (r < 0), 0)
        loss[index], grad[index], hess[index] = row
    return loss, grad, hess


def sum_over(values, axes, keepdims):
    """Sum with one rounding (`math.fsum`) over axes."""
    values = np.asarray(values, np.float64)
    shape = [1 if a in axes else n for a, n in enumerate(values.shape)]
    result = np.zeros(shape)
    for index in np.ndindex(*shape):
        select = tuple(slice(None) if a in axes else i for a, i in enumerate(index))
        part = values[select].ravel()
        finite = np.isfinite(part).all()
        result[index] = math.fsum(part) if finite else sum(part.tolist())
    if keepdims:
        return result
    return result.reshape([n for a, n in enumerate(values.shape) if a not in axes])


class Reference:
    """All results of one call, in float64."""

    def __init__(
        self,
        x,
        target,
        *,
        beta=1.0,
        reduction="mean",
        axis=None,
        keepdims=False,
        weight=None,
        where=None,
        normalizer=None,
    ):
        self.x_shape, self.target_shape = np.shape(x), np.shape(target)
        weight = 1.0 if weight is None else np.asarray(weight, np.float64)
        where = True if where is None else where
        shape = np.broadcast_shapes(
            self.x_shape, self.target_shape, np.shape(beta), np.shape(weight), np.shape(where)
        )
        self.shape, self.reduction, self.keepdims = shape, reduction, keepdims
        self.weight, self.where = np.broadcast_to(weight, shape), np.broadcast_to(where, shape)
        x, target = np.broadcast_to(x, shape), np.broadcast_to(target, shape)
        self.element = elements(x, target, np.broadcast_to(beta, shape))
        if reduction == "none":
            self.axes = ()
        elif axis is None:
            self.axes = tuple(range(len(shape)))
        else:
            listed = axis if isinstance(axis, tuple) else (axis,)
            self.axes = tuple(a % len(shape) for a in listed)
        self.divisor = self._divisor(normalizer)

    def _divisor(self, normalizer):
        shape = [1 if a in self.axes else n for a, n in enumerate(self.shape)]
        if self.reduction not in ("mean", "auto"):
            return np.ones(shape)
        if normalizer is not None:
            return np.full(shape, normalizer)
        return sum_over(np.where(self.where, self.weight, 0.0), self.axes, True)

    def _kept(self, values):
        with np.errstate(invalid="ignore"):
            return np.where(self.where, values * self.weight, 0.0)

    def loss(self):
        total = sum_over(self._kept(self.element[0]), self.axes, True)
        with np.errstate(all="ignore"):
            total = total / self.divisor
        if self.keepdims or self.reduction == "none":
            return total
        return total.reshape([n for a, n in enumerate(self.shape) if a not in self.axes])

    def _slope(self, values, shape, grad_output):
        upstream = 1.0
        if grad_output is not None:
            result = np.broadcast_to(np.asarray(grad_output, np.float64), self.loss().shape)
            upstream = result.reshape(self.divisor.shape)
        with np.errstate(all="ignore"):
            scaled = np.where(self.where, values * self.weight * upstream / self.divisor, 0.0)
        missing = len(self.shape) - len(shape)
        padded = (1,) * missing + tuple(shape)
        axes = tuple(a for a, n in enumerate(self.shape) if n != padded[a])
        return sum_over(scaled, axes, True).reshape(shape)

    def grad(self, wrt="x", grad_output=None):
        if wrt == "x":
            return self._slope(self.element[1], self.x_shape, grad_output)
        return self._slope(-self.element[1], self.target_shape, grad_output)

    def hess(self):
        return self._slope(self.element[2], self.x_shape, None)
