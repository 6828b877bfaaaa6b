"""The shortest way from two small tensors of PyTorch to their total loss.

As `short` for NumPy, and for PyTorch's engine: a node of its graph that costs
little more than PyTorch's own.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from . import functional
from .autograd import PLAIN, in_batch, in_transform, keeps_graph, pulled
from .calls import Call, Wanted
from .jit import Entries
from .kernels import total_loss_and_grad_at, total_loss_at
from .short import SERIAL, is_small, total_on_threads
from .small import MOST
from .small_tensors import LOSS, LOSS_AND_GRAD

STRIDED = torch.strided

_is_compiling = torch.compiler.is_compiling
_tracing = torch._C._get_tracing_state
_modes = torch._C._len_torch_dispatch_stack  # type: ignore[attr-defined]
_transforms = torch._C._are_functorch_transforms_active  # type: ignore[attr-defined]
_empty_like = torch.empty_like
_is_grad_enabled = torch.is_grad_enabled

# By the type of tensors: whether it is narrow, and the kernels.
_NARROW = {torch.float64: None, torch.float32: True}
_LOSS = Entries({
    torch.float64: (total_loss_at, "(int64, int64, int64, float64, float64, none, int64)"),
    torch.float32: (total_loss_at, "(int64, int64, int64, float64, float64, boolean, int64)"),
})  # fmt: skip
_LOSS_AND_GRAD = Entries({
    torch.float64: (
        total_loss_and_grad_at, "(int64, int64, int64, float64, float64, none, int64, int64)"
    ),
    torch.float32: (
        total_loss_and_grad_at, "(int64, int64, int64, float64, float64, boolean, int64, int64)"
    ),
})  # fmt: skip


class _Scalars(dict[Any, Any]):
    """A number of each type: to make one like it takes two thirds of the time of a new one."""

    def __missing__(self, dtype: Any) -> Any:
        self[dtype] = torch.zeros((), dtype=dtype, device="cpu")
        return self[dtype]


_SCALARS = _Scalars()


def are_plain(x: Any, target: Any) -> bool:
    """Whether x is memory of float32 or float64, and nothing stands between either and its numbers.

    Such as a tracer, a transform, a negation or zeros that are still to come.
    """
    return (
        not _is_compiling()
        and type(target) in PLAIN
        and x.dtype in _NARROW
        and x.is_cpu
        and x.layout is STRIDED
        and _tracing() is None
        and _modes() == 0
        and not _transforms()
        and forward_ad._current_level < 0
        and not x.is_neg()
        and not target.is_neg()
        and not x._is_zerotensor()
        and not target._is_zerotensor()
    )


def addresses(x: Any, target: Any) -> tuple[int, int] | None:
    """Where plain tensors lie that are of one type and shape, contiguous and not empty."""
    try:
        if x.shape != target.shape:
            return None
    except RuntimeError:  # a nested tensor
        return None
    if (
        x.dtype is target.dtype
        and target.is_cpu
        and target.layout is STRIDED
        and x.is_contiguous()
        and target.is_contiguous()
        and (here := x.data_ptr())  # tensors without elements have no address
        and (there := target.data_ptr())
    ):
        return here, there
    return None


def loss(x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any) -> Any:
    """Mean or sum of the losses, in the graph if gradients are tracked; None if it does not fit."""
    if axis is not None or keepdims is not False or divides is None:
        return None
    if not are_plain(x, target):
        return None
    by_target = target.requires_grad
    if (by_target or x.requires_grad) and _is_grad_enabled():
        made = _value_and_grad(x, target, beta, divides)
        if made is None:
            return None
        return _apply(x, target if by_target else None, (target, beta, divides, made))
    n, dtype = x.numel(), x.dtype
    out = _empty_like(_SCALARS[dtype])
    if n <= MOST and (kernel := LOSS[dtype]) is not None:
        return out if kernel(id(x), id(target), beta, divides, id(out)) else None
    places = addresses(x, target)
    if places is None:
        return None
    divisor = float(n) if divides else 1.0
    if n >= SERIAL and not is_small(n):
        flat = _memory(x), _memory(target), beta, None, _NARROW[dtype], None
        return _rounded(total_on_threads(*flat) / divisor, dtype)
    _LOSS[dtype](*places, n, beta, divisor, _NARROW[dtype], out.data_ptr())
    return out


def _memory(tensor: Any) -> Any:
    """Flat view of a tensor's memory; `Tensor.numpy` would forbid to resize it ever after."""
    itemsize = tensor.element_size()
    memory = (ctypes.c_char * (tensor.numel() * itemsize)).from_address(tensor.data_ptr())
    return np.frombuffer(memory, np.float64 if itemsize == 8 else np.float32)


def _rounded(value: float, dtype: Any) -> Any:
    """Tensor of a number, infinite if it is too large for the type."""
    return torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype)


def slope(*arguments: Any) -> None:
    """Nothing: slopes go by NumPy's short way."""


def value_and_grad(
    x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any, grad_out: Any
) -> Any:
    """Mean or sum of the losses, and its gradient in x.

    None if the tensors do not fit, if the gradient is tracked itself, and with
    `grad_out`, which is checked the long way.
    """
    if axis is not None or keepdims is not False or divides is None or grad_out is not None:
        return None
    if not are_plain(x, target):
        return None
    if (x.requires_grad or target.requires_grad) and _is_grad_enabled():
        return None
    return _value_and_grad(x, target, beta, divides)


def _value_and_grad(x: Any, target: Any, beta: float, divides: bool) -> Any:
    n, dtype = x.numel(), x.dtype
    out = _empty_like(_SCALARS[dtype])
    if n <= MOST and (kernel := LOSS_AND_GRAD[dtype]) is not None:
        grad = _empty_like(x)
        fits = kernel(id(x), id(target), beta, divides, id(out), id(grad))
        return (out, grad) if fits else None
    places = addresses(x, target)
    if places is None:
        return None
    grad = _empty_like(x)
    divisor = float(n) if divides else 1.0
    if n >= SERIAL and not is_small(n):
        flat = _memory(x), _memory(target), beta, divisor, _NARROW[dtype], _memory(grad)
        return _rounded(total_on_threads(*flat) / divisor, dtype), grad
    rest = n, beta, divisor, _NARROW[dtype], out.data_ptr(), grad.data_ptr()
    _LOSS_AND_GRAD[dtype](*places, *rest)
    return out, grad


class SmallLoss(torch.autograd.Function):
    """As `autograd.Loss`, without options."""

    @staticmethod
    def forward(ctx: Any, x: Any, tracked: Any, options: Any) -> Any:
        """Keep what was made; the target is ``tracked`` if it has a gradient."""
        target, beta, divides, (out, slope) = options
        ctx.to_save = x, target  # what save_for_backward does
        ctx.kept = [slope, beta, divides, tracked is None]
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        """Scale the slope; hand it out, not copied, when nobody will ask for it again."""
        slope, _, _, only_x = ctx.kept
        if slope is None or _is_grad_enabled():
            return *_derived(ctx, upstream), None
        if keeps_graph() or in_transform(upstream) or in_batch(upstream):  # `is_wrapped`, inlined
            slope = slope * upstream
        else:
            ctx.kept[0] = None
            if upstream.item() != 1.0:
                slope = slope.mul_(upstream)
        if only_x:
            return slope, None, None
        by_x, by_target, _ = ctx.needs_input_grad
        return slope if by_x else None, -slope if by_target else None, None


def _derived(ctx: Any, upstream: Any) -> tuple[Any, Any]:
    """Gradients that can be differentiated again; an error if the graph has been freed."""
    x, target = ctx.saved_tensors
    _, beta, divides, _ = ctx.kept
    options = {
        "x": x, "target": target, "beta": beta, "reduction": "mean" if divides else "sum",
        "axis": None, "keepdims": False, "weight": None, "where": None, "normalizer": None,
        "dtype": None, "out": None,
    }  # fmt: skip
    call = Call(functional.smooth_l1_loss, Wanted.LOSS, options)
    needed = {
        name for name, need in zip(("x", "target"), ctx.needs_input_grad, strict=False) if need
    }
    grads = pulled(call, upstream, needed)
    return grads.get("x"), grads.get("target")


# `Function.apply` less what it does for `torch.func`, which does not come here.
_apply: Any = super(torch.autograd.Function, SmallLoss).apply

if hasattr(SmallLoss, "_backward_cls"):  # whose own `apply` looks for `backward` on every call
    SmallLoss._backward_cls.apply = SmallLoss.backward
