"""The definition in float64, to check competitors before they are timed."""

from __future__ import annotations

import numpy as np

# Of the largest number. Sums of float32 in float32 lose digits; ours must not.
TOLERANCE = {"float64": 1e-9, "float32": 2e-3, "float16": 2e-2}
OURS = {"float64": 1e-12, "float32": 1e-6, "float16": 1e-3}
TINY = {"float64": 0.0, "float32": 0.0, "float16": 6e-8}  # the step between subnormal numbers


def elements(call):
    """Loss, slope and curvature of each element, with weights; excluded ones are 0."""
    residual = call.x.astype(np.float64) - call.target
    size, beta = np.abs(residual), np.asarray(call.beta, np.float64)
    inside = size < beta
    loss = np.where(inside, 0.5 * residual * residual / beta, size - 0.5 * beta)
    slope = np.clip(residual / beta, -1, 1)
    curvature = np.where(inside, 1 / beta, 0)
    factor = 1.0 if call.weight is None else np.asarray(call.weight, np.float64)
    if call.where is not None:
        factor = np.where(call.where, factor, 0.0)
    return loss * factor, slope * factor, curvature * factor


def divisor(call):
    """What the mean divides by."""
    if call.reduction != "mean":
        return 1.0
    factor = 1.0 if call.weight is None else call.weight
    if call.where is not None:
        factor = np.where(call.where, factor, 0.0)
    return np.broadcast_to(factor, call.shape).sum(axis=call.axis, keepdims=True, dtype=np.float64)


def expected(call):
    """Results that a competitor must come to: one array each."""
    loss, slope, curvature = elements(call)
    by = divisor(call)
    if call.reduction != "none":
        loss = loss.sum(axis=call.axis, keepdims=True) / by
        loss = loss.squeeze(call.axis)
    found = {"loss": loss, "grad": slope / by, "hess": curvature / by}
    return [found[name] for name in call.results]


def verify(call, got, wanted, tolerance=TOLERANCE):
    """Raise unless results are the expected ones."""
    got = got if isinstance(got, tuple) else (got,)
    for have, want in zip(got, wanted, strict=True):
        have = np.asarray(have, np.float64)
        if have.shape != np.shape(want):
            raise AssertionError(f"shape {have.shape}, expected {np.shape(want)}")
        error = np.max(np.abs(have - want), initial=0.0)
        dtype = call.x.dtype.name
        limit = tolerance[dtype] * np.max(np.abs(want), initial=0.0) + TINY[dtype]
        if not error <= limit:
            raise AssertionError(f"{error:.1e} off, {limit:.1e} allowed")
