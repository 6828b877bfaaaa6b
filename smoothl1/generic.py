"""The formula in array operations, for arrays that no kernel can read.

Traced arrays (`jax.jit`, `jax.grad`, ...), arrays on devices without kernels,
and derivatives of derivatives are expressed in a few functions of the array
API standard, so that the library of the arrays transforms them as its own.

Elements and sums are float64, as in the kernels. Each branch sees only
residuals it is right for: a branch that is not taken would else turn the
derivative into 0 * inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .calls import Call, Wanted
from .problem import Problem
from .validate import Reduction, numbers, settle


@dataclass(frozen=True, slots=True)
class Operands:
    """The arrays of a problem in float64, not broadcast; None if absent."""

    x: Any
    target: Any
    beta: Any
    weight: Any
    where: Any
    grad_output: Any


def run(xp: Any, call: Call, problem: Problem, dtype: Any, **options: Any) -> Any:
    """Compute what a call wants with the functions of an array library.

    Parameters
    ----------
    xp : namespace
        ``abs, sign, where, sum, isnan, broadcast_to, reshape, zeros_like,
        ones_like, astype, asarray`` and ``float64`` of the standard.
    call : Call
        With arrays of that library.
    problem : Problem
        What `Call.check` says of the same call; only its shapes, axes and
        dtypes are read.
    dtype : dtype
        Of the results, as the library names it.
    **options
        Of ``xp.asarray``, for numbers and lists.

    """
    given = call.arguments
    names = ("x", "target", call.beta_name, "weight", "where", "grad_output")
    rounding = problem.rounding
    taken = [_wide(xp, name, given.get(name), rounding, options) for name in names]
    sums = Sums(xp, problem, Operands(*taken))
    wanted = call.wanted
    loss = grad = None
    if wanted in (Wanted.LOSS, Wanted.VALUE_AND_GRAD):
        loss = xp.astype(sums.loss(), dtype)
    elif wanted is Wanted.HUBER:
        loss = xp.astype(sums.loss(huber=True), dtype)
    if wanted is Wanted.HESS:
        grad = xp.astype(sums.hess(), dtype)
    elif wanted in (Wanted.GRAD, Wanted.VALUE_AND_GRAD):
        grad = xp.astype(sums.grad(call.wrt), dtype)
    return (loss, grad) if wanted is Wanted.VALUE_AND_GRAD else grad if loss is None else loss


def _wide(xp: Any, name: str, value: Any, rounding: str, options: dict[str, Any]) -> Any:
    """Return an operand in float64, integers rounded to the type of the others before."""
    if value is None:
        return None
    if isinstance(value, (int, float, list, tuple, np.generic)):
        if name == "where":
            return xp.asarray(np.asarray(value).tolist(), **options)
        exact = name in ("beta", "delta", "grad_output")
        number = settle(numbers(name, value), "float64" if exact else rounding)
        value = xp.asarray(np.asarray(number, np.float64).tolist(), dtype=xp.float64, **options)
    if name == "where":
        return value
    is_rounded = "int" in str(value.dtype) or getattr(value, "weak_type", False)
    if name in ("x", "target", "weight") and is_rounded and rounding != "float64":
        value = xp.astype(value, getattr(xp, rounding))
    return xp.astype(value, xp.float64)


class Sums:
    """Loss, gradient and Hessian of a problem."""

    def __init__(self, xp: Any, problem: Problem, operands: Operands) -> None:
        self._xp, self._problem, self._operands = xp, problem, operands
        self._residual = xp.broadcast_to(operands.x - operands.target, problem.shape)
        self._beta = xp.broadcast_to(operands.beta, problem.shape)
        self._weight = operands.weight
        if operands.where is not None:
            where = self._where = xp.broadcast_to(operands.where, problem.shape)
            self._residual = self._selected(self._residual)
            if self._weight is not None:
                self._weight = xp.where(where, *self._pair(self._weight))
        self._inside = xp.abs(self._residual) < self._beta
        zero, one = xp.zeros_like(self._residual), xp.ones_like(self._residual)
        self._near = xp.where(self._inside, self._residual, zero)
        self._near_beta = xp.where(self._inside, self._beta, one)
        self._sign = xp.sign(self._residual)  # of derivative 0, while that of abs is at will in 0

    def loss(self, huber: bool = False) -> Any:
        """Losses or their reduction, for Huber's loss multiplied by beta."""
        xp = self._xp
        near = (0.5 * self._near) * (self._near / self._near_beta)
        losses = xp.where(self._inside, near, self._residual * self._sign - 0.5 * self._beta)
        if huber:
            losses = losses * self._beta
        losses = self._selected(self._weighted(losses))
        axes = self._problem.axes
        total = self._sum(losses, axes, self._problem.keepdims)
        denominator = self._denominator(self._problem.keepdims)
        return total if denominator is None else total / denominator

    def grad(self, wrt: str) -> Any:
        """Gradient with respect to an argument, times the factor of the result."""
        xp = self._xp
        near = self._near / self._near_beta
        slopes = xp.where(self._inside, near, self._sign)
        if wrt == "target":
            return self._summed(-slopes, self._problem.target_shape)
        return self._summed(slopes, self._problem.x_shape)

    def hess(self) -> Any:
        """Diagonal of the Hessian in x."""
        xp, residual = self._xp, self._residual
        flat = xp.where(xp.isnan(residual), residual, xp.zeros_like(residual))
        curvatures = xp.where(self._inside, 1.0 / self._near_beta, flat)
        return self._summed(curvatures, self._problem.x_shape)

    def _summed(self, slopes: Any, shape: tuple[int, ...]) -> Any:
        """Slopes as the result depends on them, summed to the shape of an argument."""
        slopes = self._weighted(slopes)
        denominator = self._denominator(keepdims=True)
        if self._operands.grad_output is not None:
            slopes = slopes * self._upstream()
        if denominator is not None:
            slopes = slopes / denominator
        slopes = self._selected(slopes)
        missing = slopes.ndim - len(shape)
        sizes = (1,) * missing + tuple(shape)
        axes = tuple(a for a, n in enumerate(slopes.shape) if n != sizes[a])
        return self._xp.reshape(self._sum(slopes, axes, True), tuple(shape))

    def _upstream(self) -> Any:
        """Factor of the result, with size 1 in place of the reduced axes."""
        problem = self._problem
        plan = problem.plan()
        factor = self._xp.broadcast_to(self._operands.grad_output, plan.result_shape)
        return self._xp.reshape(factor, problem.plan(keepdims=True).result_shape)

    def _denominator(self, keepdims: bool) -> Any:
        """What the reduction divides by; None for nothing."""
        problem, operands = self._problem, self._operands
        if problem.reduction is not Reduction.MEAN:
            return None
        if problem.normalizer is not None:
            return problem.normalizer
        if operands.weight is None and operands.where is None:
            count = math.prod(problem.shape[a] for a in problem.axes)
            return float(count) if count else math.nan
        kept = self._selected(self._weighted(self._xp.ones_like(self._residual)))
        return self._sum(kept, problem.axes, keepdims)

    def _weighted(self, values: Any) -> Any:
        return values if self._weight is None else values * self._weight

    def _selected(self, values: Any) -> Any:
        if self._operands.where is None:
            return values
        return self._xp.where(self._where, values, self._xp.zeros_like(values))

    def _pair(self, values: Any) -> tuple[Any, Any]:
        values = self._xp.broadcast_to(values, self._problem.shape)
        return values, self._xp.zeros_like(values)

    def _sum(self, values: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
        """Sum over axes; over none of them, which PyTorch takes for all, the values."""
        return self._xp.sum(values, axis=axes, keepdims=keepdims) if axes else values
