"""Arrays of other libraries: NumPy views of them, and results of their kind.

A call with such arrays runs once more on views of the same memory, and the
library makes its own arrays of what that returns, without a copy where it can.
Libraries are looked up among the modules already imported, never imported.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from .validate import Array, named_dtype

NEUTRAL = (np.ndarray, np.generic, int, float, list, tuple, type(None))


class Kind(ABC):
    """The arrays of a library, on the CPU."""

    name: str

    @abstractmethod
    def holds(self, value: Any) -> bool:
        """Whether a value is one of its arrays."""

    @abstractmethod
    def view(self, name: str, array: Any) -> Array:
        """NumPy view of an argument, or a TypeError that names the remedy."""

    @abstractmethod
    def wrap(self, result: Array, like: Any) -> Any:
        """Array of this kind with a result, on the device of another."""

    def dtype(self, dtype: Any) -> Any:
        """Dtype, or name of one, that NumPy understands."""
        return dtype

    def written(self, out: Any) -> None:  # noqa: B027 (most libraries need not know)
        """Let the library know that an array has new values."""


class _Torch(Kind):
    name = "torch.Tensor"

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["torch"].Tensor)

    def view(self, name: str, array: Any) -> Array:
        torch = sys.modules["torch"]
        if not array.is_cpu:
            raise TypeError(f"{name} must be on the CPU, got {array.device}; pass {name}.cpu()")
        if array.layout is not torch.strided:
            raise TypeError(f"{name} must be dense, got {array.layout}; pass {name}.to_dense()")
        if array.requires_grad:
            if torch.is_grad_enabled():
                raise TypeError(
                    f"{name} requires a gradient, which does not flow through smoothl1; pass "
                    f"{name}.detach(), or call under torch.no_grad()"
                )
            array = array.detach()
        try:
            if array.dtype is torch.bfloat16:
                return np.asarray(array.view(torch.int16).numpy().view(named_dtype("bfloat16")))
            return np.asarray((array.resolve_neg() if array.is_neg() else array).numpy())
        except RuntimeError as error:
            raise TypeError(f"{name} has no memory that NumPy can read: {error}") from None

    def wrap(self, result: Array, like: Any) -> Any:
        torch = sys.modules["torch"]
        if result.dtype.name == "bfloat16":
            return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(result)

    def dtype(self, dtype: Any) -> Any:
        return str(dtype).removeprefix("torch.") if _is_own(dtype) else dtype

    def written(self, out: Any) -> None:
        sys.modules["torch"].autograd.graph.increment_version(out)


class _Jax(Kind):
    name = "jax.Array"

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["jax"].Array)

    def view(self, name: str, array: Any) -> Array:
        if isinstance(array, sys.modules["jax"].core.Tracer):
            raise TypeError(f"{name} is traced by JAX; call outside of jit, grad and vmap")
        places = {device.platform for device in array.devices()}
        if places != {"cpu"}:
            remedy = f"pass jax.device_put({name}, jax.devices('cpu')[0])"
            raise TypeError(f"{name} must be on the CPU, got {', '.join(sorted(places))}; {remedy}")
        return np.asarray(array)

    def wrap(self, result: Array, like: Any) -> Any:
        return sys.modules["jax"].numpy.asarray(result)


class _Strict(Kind):
    name = "array_api_strict.Array"

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["array_api_strict"]._array_object.Array)

    def view(self, name: str, array: Any) -> Array:
        if "cpu" not in str(array.device).lower():
            remedy = f"pass {name}.to_device(array_api_strict.Device('CPU_DEVICE'))"
            raise TypeError(f"{name} must be on the CPU, got {array.device}; {remedy}")
        return np.from_dlpack(array)

    def wrap(self, result: Array, like: Any) -> Any:
        return sys.modules["array_api_strict"].asarray(result, device=like.device)

    def dtype(self, dtype: Any) -> Any:
        return str(dtype).rpartition(".")[2] if _is_own(dtype) else dtype


def _is_own(dtype: Any) -> bool:
    return not isinstance(dtype, (str, type, np.dtype))


KINDS = {"torch": _Torch(), "jax": _Jax(), "array_api_strict": _Strict()}


def foreign(*values: Any) -> Kind | None:
    """Kind of the first array that is not NumPy's; None if there is none."""
    for value in values:
        if not isinstance(value, NEUTRAL):
            for library, kind in KINDS.items():
                if library in sys.modules and kind.holds(value):
                    return kind
    return None


def run_on_views(kind: Kind, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Run a public function on views of its arguments, and wrap what it returns."""
    taken = dict(arguments)
    like = None
    for name, value in arguments.items():
        if kind.holds(value):
            taken[name] = kind.view(name, value)
            like = value if like is None else like
        elif isinstance(value, np.ndarray) or foreign(value) is not None:
            got = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"arrays must be of one kind, got {kind.name} and, for {name}, {got}")
    if taken["dtype"] is not None:
        taken["dtype"] = kind.dtype(taken["dtype"])
    result = function(**taken)
    if not isinstance(result, tuple):
        return _wrap(kind, result, arguments["out"], like)
    loss, grad = result
    return (
        _wrap(kind, loss, arguments["out"], like),
        _wrap(kind, grad, arguments["grad_out"], like),
    )


def _wrap(kind: Kind, part: Any, out: Any, like: Any) -> Any:
    if out is None:
        return kind.wrap(np.asarray(part), like)
    kind.written(out)
    return out
