"""PyTorch's tensors where their gradients are tracked or they are transformed.

    eager           Loss          value and slope from the kernels, in one pass
    torch.func      Transformed   the same under vmap, grad, jvp and their nestings
    torch.compile   operators     the same, as operators that the compiler does not open
    derivatives of gradients, and other devices than the CPU: `generic`

Backward passes use the kernels for x and target, and PyTorch's operations for
weights and thresholds, whose gradients are asked for less often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from . import functional, generic
from .calls import Call, Wanted
from .kinds import TORCH
from .validate import Reduction, check_axis, check_reduction
from .views import check_unread, one_place, own_arrays, run_on_views

Tensors = dict[str, torch.Tensor]
PLAIN = (torch.Tensor, torch.nn.Parameter)


def _sign(values: torch.Tensor) -> torch.Tensor:
    """Sign of each value; PyTorch's is 0 for NaN."""
    return torch.where(values.isnan(), values, torch.sign(values))


LIBRARY = SimpleNamespace(
    abs=torch.abs,
    sign=_sign,
    where=torch.where,
    isnan=torch.isnan,
    broadcast_to=torch.Tensor.expand,  # batches of backward passes have no broadcast_to
    reshape=torch.reshape,
    zeros_like=torch.zeros_like,
    ones_like=torch.ones_like,
    asarray=torch.as_tensor,
    astype=torch.Tensor.to,
    sum=lambda values, axis, keepdims: torch.sum(values, dim=axis, keepdim=keepdims),
    float64=torch.float64,
    float32=torch.float32,
    float16=torch.float16,
    bfloat16=torch.bfloat16,
)


_vjp: Any = torch.func.vjp
_slope: Any = functional.smooth_l1_grad  # its result is a tensor here
in_transform = torch._C._functorch.is_functorch_wrapped_tensor
in_batch = torch._C._functorch.is_legacy_batchedtensor
_tracing = torch._C._get_tracing_state
_transforms = torch._C._are_functorch_transforms_active  # type: ignore[attr-defined]
_modes = torch._C._len_torch_dispatch_stack  # type: ignore[attr-defined]


def are_transformed() -> bool:
    """Whether a transform of `torch.func` or forward differentiation is under way."""
    return _transforms() or forward_ad._current_level >= 0


def is_wrapped(tensor: Any) -> bool:
    """Whether a tensor stands for a batch, or for one that a transform differentiates by."""
    return in_transform(tensor) or in_batch(tensor)


def is_compiled(call: Call, tensors: Tensors) -> bool:
    """Whether a compiler traces a call that the operators serve.

    They have no derivative but the first of the loss; all else is traced as
    PyTorch's operations.
    """
    if not torch.compiler.is_compiling() or are_transformed():
        return False
    if not all(tensor.is_cpu for tensor in tensors.values()):
        return False
    return call.wanted in (Wanted.LOSS, Wanted.HUBER) or not tracked(tensors)


def tracked(tensors: Tensors) -> set[str]:
    """Names of the tensors whose gradients are wanted."""
    if not torch.is_grad_enabled():
        return set()
    return {name for name, tensor in tensors.items() if tensor.requires_grad}


def _is_recorded(tensors: Iterable[Any]) -> bool:
    """Whether operations on the tensors are traced, or those of another class."""
    if torch.compiler.is_compiling() or _tracing() is not None or _modes() > 0:
        return True
    return any(type(tensor) not in PLAIN for tensor in tensors)


def is_readable(tensors: Tensors) -> bool:
    """Whether tensors are just memory for kernels: no gradient, transform or tracer is involved."""
    if are_transformed() or _is_recorded(tensors.values()) or tracked(tensors):
        return False
    if any(is_wrapped(tensor) for tensor in tensors.values()):
        return False
    return _device(tensors).type in ("cpu", "cuda")


def refuse_outputs(call: Call) -> None:
    """Refuse memory for results that are not written there."""
    for name in ("out", "grad_out"):
        if call.arguments.get(name) is not None:
            raise TypeError(
                f"{name} must be None where gradients flow, operations are traced or "
                "transformed, or a device has no kernels"
            )


def run(call: Call, tensors: Tensors) -> Any:
    """Run a call with tensors that kernels cannot simply read."""
    refuse_outputs(call)
    if _tracing() is not None:
        raise TypeError("torch.jit.trace cannot record the loss; use torch.export or torch.compile")
    is_plain = not _is_recorded(tensors.values()) and _has_kernels(tensors)
    if is_plain and not are_transformed() and any(map(is_wrapped, tensors.values())):
        is_plain = False  # a batch of backward passes, whose transform is not ours to see
    if not is_plain or call.wanted not in (Wanted.LOSS, Wanted.HUBER):
        return in_operations(call)
    function: Any = Transformed if are_transformed() else Loss
    return function.apply(call, tuple(tensors), *tensors.values())


def in_operations(call: Call) -> Any:
    """Run a call in PyTorch's own operations."""
    problem = check_unread(TORCH, call)
    dtype = getattr(torch, problem.dtype.name)
    device = _device(own_arrays(TORCH, call))
    return generic.run(LIBRARY, call, problem, dtype, device=device)


def _has_kernels(tensors: Tensors) -> bool:
    return _device(tensors).type == "cpu" or (is_on_gpu(tensors) and not are_transformed())


def is_on_gpu(tensors: Tensors) -> bool:
    """Whether tensors lie on a GPU that kernels are for."""
    return _device(tensors).type == "cuda"


def _device(tensors: Tensors) -> torch.device:
    return one_place((tensor.device for tensor in tensors.values()), ".to")


class Loss(torch.autograd.Function):
    """The loss of tensors as they are."""

    @staticmethod
    def forward(ctx: Any, call: Call, names: tuple[str, ...], *tensors: Any) -> Any:
        """Compute the loss, and if it can serve the backward pass, the slope."""
        ctx.save_for_backward(*tensors)
        ctx.names = names
        ctx.call = call.having(**dict.fromkeys(names))  # the context keeps the tensors
        ctx.slope = None
        ctx.slope_of = slope_of(call, dict(zip(names, tensors, strict=True)), _needed(ctx))
        if ctx.slope_of is None:
            return call.run()
        loss, ctx.slope = functional.smooth_l1_value_and_grad(**call.shared(), wrt=ctx.slope_of)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        """Gradients of the arguments that require one."""
        needed = _needed(ctx)
        if torch.is_grad_enabled():
            grads = pulled(_whole(ctx), upstream, needed)
        elif ctx.slope is None:
            grads = gradients(_whole(ctx), upstream, needed)
        else:
            grads = _scaled(ctx, upstream, needed & {"x", "target"})
            if rest := needed - grads.keys():
                grads |= gradients(_whole(ctx), upstream, rest)
        return None, None, *(grads.get(name) for name in ctx.names)


def _needed(ctx: Any) -> set[str]:
    """Names of the arguments that require a gradient."""
    return {name for name, need in zip(ctx.names, ctx.needs_input_grad[2:], strict=True) if need}


def _whole(ctx: Any) -> Call:
    """The call with the tensors that were saved; an error if these have been freed."""
    return ctx.call.having(**dict(zip(ctx.names, ctx.saved_tensors, strict=True)))


def slope_of(call: Call, tensors: Tensors, needed: set[str]) -> str | None:
    """Argument whose slope, made along with the loss, gives the gradients by a product.

    None if there is none. Those of half precision are left to the backward
    pass: the slopes of a mean could be too small for it until the loss scale
    multiplies them. So are those with a mask: an infinite factor must not
    reach the elements left out. And so are those on a GPU, where nobody may
    wait for the value of the factor, and a product takes as long as the slope.
    """
    wanted, given = sorted(needed & {"x", "target"}), call.arguments
    if not wanted or call.wanted is Wanted.HUBER:
        return None
    if given["dtype"] is not None or given["where"] is not None:
        return None
    if any(tensors[name].dtype not in (torch.float32, torch.float64) for name in wanted):
        return None
    if is_on_gpu(tensors):
        return None
    shape = tensors[wanted[0]].shape
    if shape != tensors[wanted[-1]].shape:
        return None
    if given["axis"] is None and given["reduction"] != "none":
        return wanted[0]
    shapes = (_shape(array) for array in call.arrays().values())
    return wanted[0] if torch.broadcast_shapes(*shapes) == shape else None


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(array.shape) if isinstance(array, torch.Tensor) else np.shape(array)


def _scaled(ctx: Any, upstream: Any, needed: set[str]) -> Tensors:
    """Gradients from the slope that the forward pass has made.

    The slope is handed out, not copied, when nobody will ask for it again.
    """
    slope = ctx.slope
    factor = expanded(upstream, slope, ctx.call.arguments)
    if keeps_graph() or is_wrapped(upstream):
        slope = slope * factor
    else:
        ctx.slope = None
        if upstream.numel() != 1 or upstream.item() != 1.0:
            slope = slope.mul_(factor)
    return {name: slope if name == ctx.slope_of else -slope for name in needed}


def _always() -> bool:
    return True


# Whether there may be another backward pass through the same graph.
keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", _always)


def expanded(upstream: Any, slope: Any, options: dict[str, Any]) -> Any:
    """Factor of the result in a shape that broadcasts to the elements."""
    if upstream.numel() == 1:
        return upstream.reshape(())
    if not options["keepdims"]:
        reduction = check_reduction(options["reduction"])
        for axis in check_axis(options["axis"], slope.ndim, reduction):
            upstream = upstream.unsqueeze(axis)
    return upstream


def gradients(call: Call, upstream: Any, needed: set[str], dtype: Any = None) -> Tensors:
    """Gradients of a loss, those of x and target from the kernels.

    The type of the loss is not that of the gradients: slopes of a mean may be
    too small for half precision.
    """
    options = call.shared() | {"dtype": dtype}
    delta = options.pop("delta", None)
    if delta is not None:
        options["beta"] = delta
    found: Tensors = {}
    if delta is None or isinstance(delta, (int, float)):
        factor = upstream if delta is None else upstream.double() * delta
        for name in needed & {"x", "target"}:
            found[name] = _slope(**options, wrt=name, grad_output=factor)
    if rest := needed - found.keys():
        found |= pulled(call, upstream, rest)
    return found


def pulled(call: Call, upstream: Any, needed: set[str]) -> Tensors:
    """Gradients by PyTorch's own differentiation of its own operations."""
    names = sorted(needed)
    function, values = _function(call, names), _values(call, names)
    if are_transformed() or is_wrapped(upstream):
        return _by_transform(names, function, values, upstream)
    again = torch.is_grad_enabled()  # whether the gradients will be differentiated
    with torch.enable_grad():
        if again:
            own = [value.view_as(value) for value in values]
        else:
            own = [value.detach().requires_grad_() for value in values]
        result = function(*own)
        if not result.requires_grad:  # inside of an operator, where only transforms differentiate
            return _by_transform(names, function, values, upstream)
        grads = torch.autograd.grad(result, own, upstream, create_graph=again)
    return dict(zip(names, grads, strict=True))


def _by_transform(names: list[str], function: Any, values: list[Any], upstream: Any) -> Tensors:
    _, pull = _vjp(function, *values)
    return dict(zip(names, pull(upstream), strict=True))


def _function(call: Call, names: Sequence[str]) -> Callable[..., Any]:
    """The call in operations, as a function of some of its arguments."""

    def value(*chosen: Any) -> Any:
        return in_operations(call.having(**dict(zip(names, chosen, strict=True))))

    return value


def _values(call: Call, names: Sequence[str]) -> list[Any]:
    return [call.arguments[name] for name in names]


class Transformed(torch.autograd.Function):
    """The loss, or its gradient in x or target, under transforms of `torch.func`."""

    @staticmethod
    def forward(call: Call, names: tuple[str, ...], *tensors: Any) -> Any:
        """Run the kernels on tensors that are not transformed any more."""
        given = dict(zip(names, tensors, strict=True))
        return run_on_views(TORCH, call.having(**given), given)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the arguments."""
        call, ctx.names, *tensors = inputs
        ctx.call = call.having(**dict.fromkeys(ctx.names))
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        """Gradients of the arguments that require one."""
        call, needed, grads = _whole(ctx), _needed(ctx), {}
        if call.wanted is Wanted.LOSS:
            for name in needed & {"x", "target"}:
                options = call.shared() | {"dtype": None, "out": None}
                options |= {"wrt": name, "grad_output": upstream}
                slope = Call(functional.smooth_l1_grad, Wanted.GRAD, options)
                names = (*ctx.names, "grad_output")
                grads[name] = Transformed.apply(slope, names, *_values(slope, names))
        if rest := needed - grads.keys():
            grads |= pulled(call, upstream, rest)
        return None, None, *(grads.get(name) for name in ctx.names)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Directional derivative: the transposed of the transposed Jacobian.

        `torch.func.jvp` itself cannot be nested here once tensors are expanded.
        """
        given = zip(ctx.names, tangents[2:], strict=True)
        moved = {name: tangent for name, tangent in given if tangent is not None}
        call, names = _whole(ctx), list(moved)
        result, pull = _vjp(_function(call, names), *_values(call, names))
        _, push = _vjp(pull, torch.zeros_like(result))
        return push(tuple(moved.values()))[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, call: Call, names: Any, *tensors: Any) -> Any:
        """Run once with the batch as the first axis of all arrays."""
        dims = dict(zip(names, in_dims[2:], strict=True))
        given = dict(zip(names, tensors, strict=True))
        one = {name: _without(tensor, dims[name]) for name, tensor in given.items()}
        problem = check_unread(TORCH, call.having(**one))
        own = call.wrt if call.wanted is Wanted.GRAD else None
        ranks = dict.fromkeys(names, len(problem.shape))
        ranks["grad_output"] = len(problem.plan().result_shape)
        batched = {
            name: _with_batch(tensor, dims[name], ranks[name], info.batch_size, name == own)
            for name, tensor in given.items()
        }
        if problem.reduction is not Reduction.NONE:
            call = call.having(axis=tuple(axis + 1 for axis in problem.axes))
        result = Transformed.apply(call.having(**batched), names, *batched.values())
        if own is not None:
            result = result.reshape(info.batch_size, *one[own].shape)
        return result, 0


def _without(tensor: Any, dim: int | None) -> Any:
    """Tensor of the shape of one element of a batch; its values are of no matter."""
    if dim is None:
        return tensor
    shape = list(tensor.shape)
    del shape[dim]
    return tensor.new_empty(()).expand(shape)


def _with_batch(tensor: Any, dim: int | None, rank: int, size: int, own: bool) -> Any:
    """Put the batch first, then as many axes as the problem has."""
    if dim is None and not own:
        return tensor
    shape = tensor.shape if dim is None else tensor.movedim(dim, 0).shape[1:]
    padded = (1,) * (rank - len(shape)) + tuple(shape)
    if dim is None:
        return tensor.expand(size, *padded)
    return tensor.movedim(dim, 0).reshape(size, *padded)
