"""Compile and cache what is common, so that later processes start at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from . import functional
from .linear_objective import LinearObjective

LARGE = (500, 1000)  # elements enough for two threads


def calls() -> list[tuple[str, Callable[[], Any]]]:
    """Names of common calls, and the calls."""
    listed: list[tuple[str, Callable[[], Any]]] = []
    for dtype in ("float64", "float32"):
        for name, call in _of_arrays(np.zeros(LARGE, dtype)):
            listed.append((f"{name}, {dtype}", call))
        listed += list(_of_objectives(dtype))
        with suppress(ImportError):
            listed += list(_of_tensors(dtype))
    return listed


def _of_arrays(x: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    loss, both = functional.smooth_l1_loss, functional.smooth_l1_value_and_grad
    grad, hess = functional.smooth_l1_grad, functional.smooth_l1_hess
    kept = x == 0
    yield "loss, small", lambda: loss(x[0], x[1])
    yield "loss and gradient, small", lambda: both(x[0], x[1])
    yield "loss, a few thousand", lambda: loss(x[:5], x[5:10])
    yield "loss and gradient, a few thousand", lambda: both(x[:5], x[5:10])
    yield "loss", lambda: loss(x, x)
    yield "loss of each element", lambda: loss(x, x, reduction="none")
    yield "loss of rows", lambda: loss(x, x, axis=1)
    yield "loss of columns", lambda: loss(x, x, axis=0)
    yield "loss with weights", lambda: loss(x, x, weight=x + 1)
    yield "loss with a mask", lambda: loss(x, x, where=kept)
    yield "loss of strided arrays", lambda: loss(x[:, ::2], x[:, 1::2])
    yield "loss and gradient", lambda: both(x, x)
    yield "gradient", lambda: grad(x, x)
    yield "gradient with weights", lambda: grad(x, x, weight=x + 1)
    yield "Hessian diagonal", lambda: hess(x, x)


def _of_tensors(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    import torch

    x = torch.zeros(5000, dtype=getattr(torch, dtype), device="cpu")
    loss, both = functional.smooth_l1_loss, functional.smooth_l1_value_and_grad
    for size, some in (("small", x[:1000]), ("a few thousand", x)):
        yield f"loss of tensors, {size}, {dtype}", partial(loss, some, some)
        yield f"loss and gradient of tensors, {size}, {dtype}", partial(both, some, some)


def _of_objectives(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    rows = np.zeros((60_000, 4), dtype)
    for order, X in (("rows", rows), ("columns", np.asfortranarray(rows))):
        objective = LinearObjective(X, np.zeros(len(X)))
        yield f"linear objective, {order} together, {dtype}", partial(objective, objective.w0())
    objective = LinearObjective(rows, np.zeros(len(rows)))
    yield f"Hessian of it, {dtype}", lambda: objective.hessp(objective.w0(), objective.w0())
