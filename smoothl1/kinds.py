"""Arrays of other libraries: who computes a call with them, and results of their kind.

    eager, on the CPU    views   the call runs once more on NumPy views of the same
                                 memory; the library makes its arrays of what it returns
    traced, or on a      generic the formula in the library's own operations
    device of its own
    lazy                 dask    one task for each block, and trees of sums

Libraries are looked up among the modules already imported, never imported.
"""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from . import generic
from .calls import Call
from .problem import Problem
from .validate import Array, named_dtype

NEUTRAL = (np.ndarray, np.generic, int, float, list, tuple, type(None))


class Kind(ABC):
    """The arrays of a library."""

    name: str

    def run(self, call: Call) -> Any:
        """Run a call whose arrays are of this kind."""
        return run_on_views(self, call)

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

    def run(self, call: Call) -> Any:
        jax = sys.modules["jax"]
        wide = jax.config.jax_enable_x64
        if str(call.arguments["dtype"]).endswith("float64") and not wide:
            raise TypeError(
                "dtype float64 needs jax.config.update('jax_enable_x64', True), got it disabled"
            )
        if all(_is_concrete(array) for array in call.arrays().values() if self.holds(array)):
            return run_on_views(self, call)
        with contextlib.nullcontext() if wide else _enable_x64(jax):
            return run_generic(
                self, call, jax.numpy, lambda dtype: dtype if wide else _narrow(dtype)
            )

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["jax"].Array)

    def view(self, name: str, array: Any) -> Array:
        return np.asarray(array)

    def wrap(self, result: Array, like: Any) -> Any:
        return sys.modules["jax"].numpy.asarray(result)


def _enable_x64(jax: Any) -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]  # old JAX

    return enable_x64()


def _narrow(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of a result without 64 bits, as JAX makes of all its arrays then."""
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def _is_concrete(array: Any) -> bool:
    """Whether an array has its values, and has them where the CPU can read them."""
    if isinstance(array, sys.modules["jax"].core.Tracer):
        return False
    return all(device.platform == "cpu" for device in array.devices())


class _Strict(Kind):
    name = "array_api_strict.Array"

    def run(self, call: Call) -> Any:
        strict = sys.modules["array_api_strict"]
        devices = {array.device for array in call.arrays().values() if self.holds(array)}
        if len(devices) > 1:
            listed = ", ".join(sorted(map(str, devices)))
            raise TypeError(f"arrays must be on one device, got {listed}; use .to_device")
        if "cpu" in str(*devices).lower():
            return run_on_views(self, call)
        return run_generic(
            self, call, strict, lambda dtype: getattr(strict, dtype.name), device=devices.pop()
        )

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["array_api_strict"]._array_object.Array)

    def view(self, name: str, array: Any) -> Array:
        return np.from_dlpack(array)

    def wrap(self, result: Array, like: Any) -> Any:
        return sys.modules["array_api_strict"].asarray(result, device=like.device)

    def dtype(self, dtype: Any) -> Any:
        return str(dtype).rpartition(".")[2] if _is_own(dtype) else dtype


def _is_own(dtype: Any) -> bool:
    return not isinstance(dtype, (str, type, np.dtype))


class _Dask(Kind):
    name = "dask.array.Array"

    def run(self, call: Call) -> Any:
        from . import chunks, dask

        for name, array in own_arrays(self, call).items():
            chunks.check_chunks(name, array)
        return dask.run(call, check_unread(self, call))

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["dask.array"].Array)

    def view(self, name: str, array: Any) -> Array:
        raise TypeError(f"{name} has no values yet; pass {name}.compute()")

    def wrap(self, result: Array, like: Any) -> Any:
        return sys.modules["dask.array"].asarray(result)


KINDS = {
    "torch": _Torch(),
    "jax": _Jax(),
    "array_api_strict": _Strict(),
    "dask.array": _Dask(),
}


def foreign(*values: Any) -> Kind | None:
    """Kind of the first array that is not NumPy's; None if there is none."""
    for value in values:
        if not isinstance(value, NEUTRAL):
            for library, kind in KINDS.items():
                if library in sys.modules and kind.holds(value):
                    return kind
    return None


def is_dask(value: Any) -> bool:
    """Whether a value is a Dask array."""
    return "dask.array" in sys.modules and KINDS["dask.array"].holds(value)


def run_on_views(kind: Kind, call: Call) -> Any:
    """Run a call on views of its arguments, and wrap what it returns."""
    given = call.arguments
    arrays = own_arrays(kind, call)
    views = {name: kind.view(name, array) for name, array in arrays.items()}
    if given["dtype"] is not None:
        views["dtype"] = kind.dtype(given["dtype"])
    result = call.having(**views).run()
    like = next(iter(arrays.values()))
    if not isinstance(result, tuple):
        return _wrap(kind, result, given["out"], like)
    loss, grad = result
    return _wrap(kind, loss, given["out"], like), _wrap(kind, grad, given["grad_out"], like)


def own_arrays(kind: Kind, call: Call) -> dict[str, Any]:
    """Arrays of a kind among the arguments; a TypeError if there are others."""
    own = {}
    for name, value in call.arrays().items():
        if kind.holds(value):
            own[name] = value
        elif isinstance(value, np.ndarray) or foreign(value) is not None:
            got = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"arrays must be of one kind, got {kind.name} and, for {name}, {got}")
    return own


def run_generic(
    kind: Kind, call: Call, xp: Any, dtype: Callable[[Any], Any], **options: Any
) -> Any:
    """Run a call in the operations of its library."""
    problem = check_unread(kind, call)
    return generic.run(xp, call, problem, dtype(problem.dtype), **options)


def check_unread(kind: Kind, call: Call) -> Problem:
    """Check a call whose arrays cannot be read: on others of their shapes and dtypes."""
    for name in ("out", "grad_out"):
        if call.arguments.get(name) is not None:
            raise TypeError(f"{name} must be None for a {kind.name} without memory to write to")
    stand_ins: dict[str, Any] = {
        name: np.broadcast_to(np.zeros((), _numpy_dtype(kind, array)), array.shape)
        for name, array in own_arrays(kind, call).items()
    }
    if call.arguments["dtype"] is not None:
        stand_ins["dtype"] = kind.dtype(call.arguments["dtype"])
    return call.having(**stand_ins).check()[0]


def _numpy_dtype(kind: Kind, array: Any) -> np.dtype[Any]:
    dtype = kind.dtype(array.dtype)
    return named_dtype("bfloat16") if dtype == "bfloat16" else np.dtype(dtype)


def _wrap(kind: Kind, part: Any, out: Any, like: Any) -> Any:
    if out is None:
        return kind.wrap(np.asarray(part), like)
    kind.written(out)
    return out
