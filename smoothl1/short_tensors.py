"""The shortest way from two small tensors of PyTorch to their total loss.

As `short` for NumPy, and for PyTorch's engine: a node of its graph that costs
little more than PyTorch's own.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch

from . import functional
from .autograd import PLAIN, are_transformed, is_wrapped, keeps_graph, pulled
from .calls import Call, Wanted
from .kernels import total_loss_and_grad_at, total_loss_at
from .short import is_small, total_on_threads

FLOATS = (torch.float32, torch.float64)

_is_compiling = torch.compiler.is_compiling
_tracing = torch._C._get_tracing_state
_modes = torch._C._len_torch_dispatch_stack  # type: ignore[attr-defined]


def fits(x: Any, target: Any) -> bool:
    """Whether tensors are plain memory of one float type and shape, contiguous, not empty."""
    if _is_compiling() or _tracing() is not None or type(target) not in PLAIN:
        return False
    try:
        if x.shape != target.shape:
            return False
    except RuntimeError:  # a nested tensor
        return False
    dtype = x.dtype
    return (
        dtype is target.dtype
        and dtype in FLOATS
        and x.numel() > 0
        and x.is_cpu
        and target.is_cpu
        and x.layout is target.layout is torch.strided
        and x.is_contiguous()
        and target.is_contiguous()
        and not x.is_neg()
        and not target.is_neg()
        and not x._is_zerotensor()
        and not target._is_zerotensor()
        and _modes() == 0
        and not are_transformed()
    )


def loss(x: Any, target: Any, beta: float, divides: bool) -> Any:
    """Mean or sum of the losses, with its place in the graph if gradients are tracked."""
    if (x.requires_grad or target.requires_grad) and torch.is_grad_enabled():
        return _apply(x, target, beta, divides)
    n = x.numel()
    narrow = None if x.dtype is torch.float64 else True
    divisor = float(n) if divides else 1.0
    if not is_small(n):
        total = total_on_threads(_memory(x), _memory(target), beta, None, narrow, None)
        return _rounded(total / divisor, x.dtype)
    out = x.new_empty(())
    total_loss_at(x.data_ptr(), target.data_ptr(), n, beta, divisor, narrow, out.data_ptr())
    return out


def _memory(tensor: Any) -> Any:
    """Flat view of a tensor's memory; `Tensor.numpy` would forbid to resize it ever after."""
    itemsize = tensor.element_size()
    memory = (ctypes.c_char * (tensor.numel() * itemsize)).from_address(tensor.data_ptr())
    return np.frombuffer(memory, np.float64 if itemsize == 8 else np.float32)


def _rounded(value: float, dtype: Any) -> Any:
    """Tensor of a number, infinite if it is too large for the type."""
    return torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype)


def takes(grad_out: Any, x: Any, target: Any) -> bool:
    """No: outputs of PyTorch go the long way, where they are checked."""
    return False


def value_and_grad(x: Any, target: Any, beta: float, divides: bool, grad_out: None = None) -> Any:
    """Mean or sum of the losses, and its gradient in x; None if that is tracked itself."""
    if (x.requires_grad or target.requires_grad) and torch.is_grad_enabled():
        return None
    return _value_and_grad(x, target, beta, divides)


def _value_and_grad(x: Any, target: Any, beta: float, divides: bool) -> Any:
    grad = torch.empty_like(x)
    n = x.numel()
    narrow = None if x.dtype is torch.float64 else True
    divisor = float(n) if divides else 1.0
    if not is_small(n):
        flat = _memory(x), _memory(target), beta, divisor, narrow, _memory(grad)
        return _rounded(total_on_threads(*flat) / divisor, x.dtype), grad
    out = x.new_empty(())
    places = out.data_ptr(), grad.data_ptr()
    total_loss_and_grad_at(x.data_ptr(), target.data_ptr(), n, beta, divisor, narrow, *places)
    return out, grad


class SmallLoss(torch.autograd.Function):
    """As `autograd.Loss`, without options."""

    @staticmethod
    def forward(ctx: Any, x: Any, target: Any, beta: float, divides: bool) -> Any:
        """Compute loss and slope."""
        ctx.save_for_backward(x, target)
        ctx.options = beta, divides
        out, ctx.slope = _value_and_grad(x, target, beta, divides)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        """Scale the slope; hand it out, not copied, when nobody will ask for it again."""
        slope = ctx.slope
        if slope is None or torch.is_grad_enabled():
            return *_derived(ctx, upstream), None, None
        if keeps_graph() or is_wrapped(upstream):
            slope = slope * upstream
        else:
            ctx.slope = None
            if upstream.item() != 1.0:
                slope = slope.mul_(upstream)
        by_x, by_target = ctx.needs_input_grad[:2]
        return slope if by_x else None, -slope if by_target else None, None, None


def _derived(ctx: Any, upstream: Any) -> tuple[Any, Any]:
    """Gradients that can be differentiated again; an error if the graph has been freed."""
    x, target = ctx.saved_tensors
    beta, divides = ctx.options
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
