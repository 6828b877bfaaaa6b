"""The loss as operators of PyTorch, which `torch.compile` and `torch.export` call as they are.

The implementations run the public functions on plain tensors; fake tensors get
empty results of the same shapes and dtypes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import functional
from .autograd import (
    Tensors,
    expanded,
    gradients,
    pulled,
    refuse_outputs,
    slope_of,
    tracked,
)
from .calls import Call, Wanted
from .validate import check_axis, check_flag, check_reduction, check_wrt

_both: Any = functional.smooth_l1_value_and_grad  # their results are tensors here
_hess_of: Any = functional.smooth_l1_hess

TENSORS = ("x", "target", "weight", "where", "beta")
OPTIONS = ("reduction", "axis", "keepdims", "normalizer", "dtype")
SCHEMA = (
    "Tensor x, Tensor target, Tensor? weight, Tensor? where, Tensor? betas, float beta, "
    "str reduction, int[]? axis, bool keepdims, float? normalizer, ScalarType? dtype, bool huber"
)


def run(call: Call, tensors: Tensors) -> Any:
    """Run a call by the operators."""
    refuse_outputs(call)
    check_wrt(call.wrt)
    check_flag("keepdims", call.arguments["keepdims"])
    arguments = _flat(call)
    if call.wanted is Wanted.HESS:
        return _hess(*arguments)
    if call.wanted is Wanted.GRAD:
        return _gradients(call.arguments["grad_output"], *arguments, call.wrt, True)[0]
    if call.wanted is Wanted.VALUE_AND_GRAD:
        return _loss_and_slope(*arguments, call.wrt)
    return _loss_and_slope(*arguments, slope_of(call, tensors, tracked(tensors)) or "")[0]


def _flat(call: Call) -> tuple[Any, ...]:
    """Arguments of a call in the order of the schema; numbers and lists become tensors."""
    given = call.arguments
    beta, axis, dtype = given[call.beta_name], given["axis"], given["dtype"]
    lists = {name: _from_list(given[name]) for name in ("x", "target", "weight")}
    promoted = _promoted(*lists.values())
    operands = [_from_number(value, promoted) for value in lists.values()]
    is_number = isinstance(beta, (int, float))
    if isinstance(axis, int):
        axis = (axis,)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        dtype = getattr(torch, np.dtype(dtype).name)
    options = (str(given["reduction"]), axis, given["keepdims"], given["normalizer"], dtype)
    betas, number = (None, float(beta)) if is_number else (_from_list(beta), 0.0)
    where = _from_list(given["where"])
    return *operands, where, betas, number, *options, call.wanted is Wanted.HUBER


def _from_list(value: Any) -> Any:
    """Tensor of a list, whose numbers are float64 as those of NumPy."""
    if not isinstance(value, (list, tuple)):
        return value
    tensor = torch.as_tensor(value, device="cpu")
    if not tensor.dtype.is_floating_point:
        return tensor
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")


def _from_number(value: Any, dtype: torch.dtype) -> Any:
    """Tensor of a number, which has no say in the type of the result."""
    if value is None or isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(value, dtype=dtype, device="cpu")


def _promoted(*operands: Any) -> torch.dtype:
    """Floating type of the result of some operands, of which numbers have no say."""
    dtypes = [value.dtype for value in operands if isinstance(value, torch.Tensor)]
    floats = {dtype for dtype in dtypes if dtype.is_floating_point}
    if not floats or torch.float64 in floats:
        return torch.float64
    return floats.pop() if len(floats) == 1 else torch.float32


def _call(arguments: tuple[Any, ...]) -> Call:
    """The call of a loss with the arguments of an operator."""
    *tensors, betas, beta, reduction, axis, keepdims, normalizer, dtype, huber = arguments
    given = dict(zip(TENSORS, tensors, strict=False))
    given |= dict(zip(OPTIONS, (reduction, axis, keepdims, normalizer, dtype), strict=True))
    given["axis"] = None if axis is None else tuple(axis)
    given["delta" if huber else "beta"] = beta if betas is None else betas
    given["out"] = None
    if huber:
        return Call(functional.huber_loss, Wanted.HUBER, given)
    return Call(functional.smooth_l1_loss, Wanted.LOSS, given)


def _result(arguments: tuple[Any, ...]) -> tuple[list[int], torch.dtype]:
    """Shape of the loss and dtype of all results, from what fake tensors tell."""
    given = _call(arguments).arguments
    shape = torch.broadcast_shapes(*(t.shape for t in arguments[:5] if t is not None))
    axes = check_axis(given["axis"], len(shape), check_reduction(given["reduction"]))
    kept = [1 if a in axes else n for a, n in enumerate(shape)]
    if not given["keepdims"]:
        kept = [n for a, n in enumerate(shape) if a not in axes]
    return kept, given["dtype"] or _promoted(*arguments[:3])


def _operator(name: str, first: str, last: str, returns: str) -> Any:
    """Decorator that makes an operator of a function of all arguments."""
    schema = f"({first}{SCHEMA}{last}) -> {returns}"
    return torch.library.custom_op(f"smoothl1::{name}", mutates_args=(), schema=schema)


@_operator("loss_and_slope", "", ", str wrt", "(Tensor, Tensor)")
def _loss_and_slope(*arguments: Any) -> Any:
    *flat, wrt = arguments
    call = _call(tuple(flat))
    if not wrt:
        loss = call.run().contiguous()
        return loss, loss.new_empty(0)
    loss, slope = _both(**call.shared(), wrt=wrt)
    return loss.contiguous(), slope.contiguous()


@_loss_and_slope.register_fake
def _(*arguments: Any) -> Any:
    *flat, wrt = arguments
    shape, dtype = _result(tuple(flat))
    slope = (0,) if not wrt else arguments[TENSORS.index(wrt)].shape
    return arguments[0].new_empty(shape, dtype=dtype), arguments[0].new_empty(slope, dtype=dtype)


@_operator("gradients", "Tensor? upstream, ", ", str names, bool as_result", "Tensor[]")
def _gradients(upstream: Any, *arguments: Any) -> Any:
    *flat, names, as_result = arguments
    call, listed = _call(tuple(flat)), names.split(",")
    if upstream is None:
        upstream = torch.ones((), dtype=torch.float64, device=arguments[0].device)
        upstream = upstream.expand(_result(tuple(flat))[0])
    found = gradients(call, upstream, set(listed), call.arguments["dtype"] if as_result else None)
    return [
        found[name].to(_gradient_dtype(name, tuple(flat), as_result)).contiguous()
        for name in listed
    ]


def _gradient_dtype(name: str, arguments: tuple[Any, ...], as_result: bool) -> torch.dtype:
    """Type of the result, or of the argument that has the gradient."""
    return _result(arguments)[1] if as_result else arguments[_place(name)].dtype


def _place(name: str) -> int:
    return TENSORS.index("beta" if name == "delta" else name)


@_gradients.register_fake
def _(upstream: Any, *arguments: Any) -> Any:
    *flat, names, as_result = arguments
    return [
        arguments[_place(name)].new_empty(
            arguments[_place(name)].shape, dtype=_gradient_dtype(name, tuple(flat), as_result)
        )
        for name in names.split(",")
    ]


@_operator("hess", "", "", "Tensor")
def _hess(*arguments: Any) -> Any:
    return _hess_of(**_call(arguments).shared()).contiguous()


@_hess.register_fake
def _(*arguments: Any) -> Any:
    return arguments[0].new_empty(arguments[0].shape, dtype=_result(arguments)[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *flat, ctx.wrt = inputs
    ctx.rest = flat[5:]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*flat[:5], output[1])


def _backward(ctx: Any, upstream: Any, _: Any) -> Any:
    *tensors, slope = ctx.saved_tensors
    flat = (*tensors, *ctx.rest)
    call = _call(flat)
    names = ("x", "target", "weight", "where", call.beta_name)
    needed = {name for name, need in zip(names, ctx.needs_input_grad, strict=False) if need}
    grads: Tensors = {}
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        grads = pulled(call, upstream, needed)  # they will be differentiated
    elif ctx.wrt:
        scaled = slope * expanded(upstream, slope, call.arguments)
        grads = {n: scaled if n == ctx.wrt else -scaled for n in needed & {"x", "target"}}
    if rest := sorted(needed - grads.keys()):
        found = _gradients(upstream, *flat, ",".join(rest), False)
        grads |= dict(zip(rest, found, strict=True))
    return *(grads.get(name) for name in names), *[None] * 8


_loss_and_slope.register_autograd(_backward, setup_context=_keep)
