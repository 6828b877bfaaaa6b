"""Every way to make a call that a user may pick: one table of functions.

Each entry takes a `Call` and returns a callable without arguments, which
returns the result (or a pair of them) as something that NumPy understands, or
None where the library has no way to do that. An entry is written as a careful
user would write it. Libraries that are not installed are left out.
"""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec

import numpy as np

import smoothl1 as sl

# This library.

FUNCTIONS = {
    "loss": sl.smooth_l1_loss,
    "grad": sl.smooth_l1_grad,
    "value_and_grad": sl.smooth_l1_value_and_grad,
    "hess": sl.smooth_l1_hess,
}


def options(call):
    given = {"axis": call.axis, "weight": call.weight, "where": call.where}
    given = {name: value for name, value in given.items() if value is not None}
    return given | {"beta": call.beta, "reduction": call.reduction}


def smoothl1(call):
    function, given = FUNCTIONS[call.work], options(call)
    return lambda: function(call.x, call.target, **given)


def smoothl1_out(call):
    """Into an array made before, as the yardstick does."""
    if call.work != "value_and_grad" or call.reduction == "none":
        return None
    given, grad = options(call), np.empty_like(call.x)
    return lambda: sl.smooth_l1_value_and_grad(call.x, call.target, grad_out=grad, **given)


def smoothl1_torch(call):
    """The same functions on tensors, with PyTorch's own backward pass."""
    if not call.is_plain or call.work == "hess" or not is_positive(call):
        return None
    given = options(call)
    return with_backward(call, lambda x, target: sl.smooth_l1_loss(x, target, **given))


def smoothl1_jax(call):
    """The same functions on JAX arrays, without `jax.jit`."""
    if not call.is_plain:
        return None
    jax = use_jax()
    x, target = jax.numpy.asarray(call.x), jax.numpy.asarray(call.target)
    function, given = FUNCTIONS[call.work], options(call)
    if x.size < 10**4:
        for _ in range(1100):  # so that XLA calls the kernel, as after compiling for `jax.jit`
            function(x, target, **given)
    return lambda: jax.block_until_ready(function(x, target, **given))


# NumPy, and what speeds up expressions of NumPy.


def divided(call):
    """Number or array by which the slope of each element is divided."""
    if call.reduction != "mean":
        return 1
    # In the type of the operands, as another one would make NumPy convert every element; but
    # counts are too large for float16.
    kind = np.float64 if call.x.dtype == np.float16 else call.x.dtype.newbyteorder("=").type
    if call.where is not None:
        return call.where.sum(axis=call.axis, keepdims=True).astype(kind)
    if call.weight is not None:
        whole = np.broadcast_to(call.weight, call.shape)
        return whole.sum(axis=call.axis, keepdims=True).astype(kind)
    axes = range(len(call.shape)) if call.axis is None else np.atleast_1d(call.axis)
    return kind(math.prod(call.shape[axis] for axis in axes))


def reduced(call, loss):
    """Loss of each element, reduced by NumPy."""
    if call.reduction == "none":
        return loss
    if call.weight is not None:
        weight = np.broadcast_to(call.weight, call.shape)
        return np.average(loss, weights=weight, axis=call.axis)
    kept = {} if call.where is None else {"where": call.where}
    return getattr(loss, call.reduction)(axis=call.axis, **kept)


def numpy(call):
    beta = np.asarray(call.beta, call.x.dtype)
    factor = call.weight if call.where is None else call.where

    def weighted(slope):
        if factor is not None:
            slope = slope * factor
        slope /= divided(call)
        return slope

    def run():
        residual = call.x - call.target
        size = np.abs(residual)
        results = []
        if "loss" in call.results:
            loss = np.where(size < beta, 0.5 * residual * residual / beta, size - 0.5 * beta)
            results.append(reduced(call, loss))
        if call.has_slope:
            results.append(weighted(np.clip(residual / beta, -1, 1)))
        if call.work == "hess":
            results.append(weighted(np.where(size < beta, 1 / beta, call.x.dtype.type(0))))
        return tuple(results)

    return run


def numexpr(call):
    import numexpr as ne

    if not call.is_plain or call.x.dtype == np.float16:
        return None
    kind = call.x.dtype.type
    names = {"x": call.x, "t": call.target, "b": kind(call.beta), "h": kind(0.5), "one": kind(1)}
    names |= {"c": kind(divided(call)), "zero": kind(0)}
    loss = "where(abs(x - t) < b, h * (x - t) * (x - t) / b, abs(x - t) - h * b)"
    slope = "where(abs(x - t) < b, (x - t) / b, where(x < t, -one, one)) / c"
    curvature = "where(abs(x - t) < b, one / b, zero) / c"

    def run():
        results = []
        if "loss" in call.results:
            results.append(reduced(call, ne.evaluate(loss, names)))
        if call.has_slope:
            results.append(ne.evaluate(slope, names))
        if call.work == "hess":
            results.append(ne.evaluate(curvature, names))
        return tuple(results)

    return run


def scipy_huber(call):
    """`scipy.special.huber`, which is beta times the loss."""
    from scipy.special import huber

    if call.work != "loss" or call.x.dtype == np.float16:
        return None
    beta = np.asarray(call.beta, call.x.dtype)

    def run():
        loss = huber(beta, call.x - call.target)
        loss /= beta
        return reduced(call, loss)

    return run


def sklearn_loss(call):
    """`sklearn._loss.HuberLoss`, the loops of its gradient boosting.

    They go through flat arrays element by element, and know no Hessian.
    """
    from sklearn._loss.loss import HuberLoss

    flat = call.x.flags.c_contiguous and call.target.flags.c_contiguous
    if (
        call.work == "hess"
        or call.x.shape != call.target.shape
        or not flat
        or call.axis is not None
        or call.x.dtype not in (np.float32, np.float64)
        or not call.is_plain
    ):
        return None
    loss = HuberLoss(delta=call.beta)
    x, target = call.x.ravel(), call.target.ravel()
    kind = call.x.dtype.type
    by, threads = kind(call.beta), sl.get_num_threads()
    given = {"y_true": target, "raw_prediction": x, "n_threads": threads}

    def values(loss):
        loss /= by
        return reduced(call, loss.reshape(call.shape))

    def slopes(slope):
        slope /= by * kind(divided(call))
        return slope.reshape(call.shape)

    def run():
        if call.work == "loss":
            return values(loss.loss(**given))
        if call.work == "grad":
            return slopes(loss.gradient(**given))
        value, slope = loss.loss_gradient(**given)
        return values(value), slopes(slope)

    return run


# Libraries with derivatives of their own.


def is_positive(call):
    """Whether PyTorch can take the arrays as they are."""
    native = call.x.dtype.isnative and call.target.dtype.isnative
    return native and min((*call.x.strides, *call.target.strides, 0)) >= 0


def with_backward(call, loss):
    """Forward pass alone for the loss, forward and backward else."""
    import torch

    x, target = torch.from_numpy(call.x), torch.from_numpy(call.target)
    if call.work == "loss":
        return lambda: loss(x, target)
    leaf = x.requires_grad_()

    def run():
        leaf.grad = None
        value = loss(leaf, target)
        value.backward() if value.ndim == 0 else value.sum().backward()
        return (value.detach(), leaf.grad) if call.work == "value_and_grad" else leaf.grad

    return run


def torch_loss(call):
    """The loss in PyTorch: its function where that will do."""
    import torch
    from torch.nn.functional import smooth_l1_loss

    weight, where, beta = (
        torch.from_numpy(np.asarray(v)) if isinstance(v, np.ndarray) else v
        for v in (call.weight, call.where, call.beta)
    )

    def elements(x, target):
        if not isinstance(beta, torch.Tensor):
            return smooth_l1_loss(x, target, beta=beta, reduction="none")
        size = (x - target).abs()
        return torch.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)

    def direct(x, target):
        return smooth_l1_loss(x, target, beta=call.beta, reduction=call.reduction)

    def long(x, target):
        loss = elements(x, target.broadcast_to(call.shape))
        if where is not None:
            loss = torch.where(where, loss, 0)
        if weight is not None:
            loss = loss * weight
        if call.reduction == "none":
            return loss
        dim = tuple(range(loss.ndim)) if call.axis is None else call.axis
        total = loss.sum(dim)
        if call.reduction == "sum":
            return total
        if where is not None:
            return total / where.sum(dim)
        if weight is not None:
            return total / weight.broadcast_to(call.shape).sum(dim)
        return loss.mean(dim)

    same = call.x.shape == call.target.shape
    return direct if call.is_plain and call.axis is None and same else long


def torch_eager(call):
    if call.work == "hess" or not is_positive(call):
        return None
    return with_backward(call, torch_loss(call))


def torch_compile(call):
    import torch

    if call.work == "hess" or not is_positive(call):
        return None
    torch.compiler.reset()
    return with_backward(call, torch.compile(torch_loss(call), fullgraph=True, dynamic=False))


def use_jax():
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def jax_jit(call):
    jax = use_jax()
    jnp = jax.numpy
    if not call.x.dtype.isnative or not call.target.dtype.isnative:
        return None
    weight, where = call.weight, call.where
    beta = jnp.asarray(call.beta, call.x.dtype)

    def loss(x, target):
        size = jnp.abs(x - target)
        value = jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)
        if call.reduction == "none":
            return value
        if weight is not None:
            return jnp.average(value, weights=jnp.broadcast_to(weight, call.shape), axis=call.axis)
        return getattr(value, call.reduction)(axis=call.axis, where=where)

    def total(x, target):
        value = loss(x, target)
        return value.sum(), value

    def both(x, target):
        (_, value), slope = jax.value_and_grad(total, has_aux=True)(x, target)
        return (value, slope) if call.work == "value_and_grad" else slope

    def curvature(x, target):
        inside = jnp.where(jnp.abs(x - target) < beta, 1 / beta, 0)
        return (inside / divided(call)).astype(x.dtype)

    if call.work == "hess" and not call.is_plain:
        return None
    function = {"loss": loss, "hess": curvature}.get(call.work, both)
    compiled = jax.jit(function)
    x, target = jnp.asarray(call.x), jnp.asarray(call.target)
    return lambda: jax.block_until_ready(compiled(x, target))


def dask_array(call):
    """Chunks of about a million elements, on as many threads."""
    import dask
    import dask.array as da

    if not call.is_plain or call.axis is not None or call.x.shape != call.target.shape:
        return None
    if call.work == "hess" or call.x.ndim != 1:
        return None
    kind = call.x.dtype.type
    beta, half = kind(call.beta), kind(0.5)
    x, target = (da.from_array(v, chunks=1 << 20, name=False) for v in (call.x, call.target))
    residual = x - target
    size = abs(residual)
    loss = da.where(size < beta, half * residual * residual / beta, size - half * beta)
    results = []
    if "loss" in call.results:
        results.append(loss if call.reduction == "none" else getattr(loss, call.reduction)())
    if call.has_slope:
        results.append(da.clip(residual / beta, -1, 1) / kind(divided(call)))
    threads = sl.get_num_threads()
    return lambda: dask.compute(*results, scheduler="threads", num_workers=threads)


PEERS = {
    "smoothl1": (smoothl1, None),
    "smoothl1 out=": (smoothl1_out, None),
    "smoothl1 on torch": (smoothl1_torch, "torch"),
    "smoothl1 on jax": (smoothl1_jax, "jax"),
    "numpy": (numpy, None),
    "numexpr": (numexpr, "numexpr"),
    "scipy.special.huber": (scipy_huber, None),
    "sklearn._loss": (sklearn_loss, "sklearn"),
    "torch": (torch_eager, "torch"),
    "torch.compile": (torch_compile, "torch"),
    "jax.jit": (jax_jit, "jax"),
    "dask": (dask_array, "dask"),
}
EXPENSIVE = ("torch.compile", "jax.jit", "smoothl1 on jax", "dask")  # to set up, for each call


def competitors(call, names):
    """Callables of those named that are installed and can make the call."""
    work = {}
    for name in names:
        prepare, library = PEERS[name]
        if library is not None and find_spec(library) is None:
            continue
        try:
            function = prepare(call)
        except (ImportError, OSError, RuntimeError) as error:  # installed, but broken
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        if function is not None:
            work[name] = function
    return work
