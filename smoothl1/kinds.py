"""Arrays of other libraries: who computes a call with them, and results of their kind.

    eager, on the CPU    views   the call runs once more on NumPy views of the same
                                 memory; the library makes its arrays of what it returns
    eager, on a GPU      cuda    kernels on the same memory, in the library's stream;
                                 JAX has XLA call them (`jax_gpu`)
    traced, or on a      generic the formula in the library's own operations
    device of its own
    lazy                 dask    one task for each block, and trees of sums

Libraries are looked up among the modules already imported, never imported.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from . import devices
from .calls import Call, Wanted
from .new_arrays import WORTH_ALIGNING, aligned_array
from .validate import Array, named_dtype
from .views import (
    Kind,
    ReadableKind,
    check_unread,
    one_place,
    own_arrays,
    run_generic,
    run_on_gpu,
    run_on_views,
)

NEUTRAL = (np.ndarray, np.generic, int, float, list, tuple, type(None))


class _Torch(ReadableKind):
    name = "torch.Tensor"

    def run(self, call: Call) -> Any:
        torch = sys.modules["torch"]
        tensors = own_arrays(self, call)
        for name, tensor in tensors.items():
            if tensor.is_nested:
                raise TypeError(f"{name} must not be a nested tensor; pad it and pass where=")
            if tensor.layout is not torch.strided:
                raise TypeError(
                    f"{name} must be dense, got {tensor.layout}; pass {name}.to_dense()"
                )
        from . import autograd

        if autograd.is_compiled(call, tensors):
            from . import operators

            return operators.run(call, tensors)
        if autograd.is_readable(tensors):
            if autograd.is_on_gpu(tensors):
                return run_on_gpu(self, devices.TORCH, call, tensors)
            return run_on_views(self, call, tensors)
        return autograd.run(call, tensors)

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["torch"].Tensor)

    def view(self, name: str, array: Any) -> Array:
        torch = sys.modules["torch"]
        if array.is_neg() or array._is_zerotensor():
            if name in ("out", "grad_out"):
                raise TypeError(f"{name} must be memory, not a view of negated memory or zeros "
                                "that are not there; pass a new tensor")  # fmt: skip
            array = array.resolve_neg().clone()
        array = array.detach()
        try:
            if array.numel() and not array.data_ptr():
                raise RuntimeError("it has no memory")
            if array.dtype is torch.bfloat16:
                return np.asarray(array.view(torch.int16).numpy().view(named_dtype("bfloat16")))
            return np.asarray(array.numpy())
        except (RuntimeError, TypeError) as error:
            raise TypeError(
                f"{name} must be a tensor that NumPy can read, got dtype {array.dtype} on "
                f"{array.device}: {error}"
            ) from None

    def wrap(self, result: Array, like: Any) -> Any:
        torch = sys.modules["torch"]
        if result.dtype.name == "bfloat16":
            return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(result)

    def dtype(self, dtype: Any) -> Any:
        return str(dtype).removeprefix("torch.") if _is_own(dtype) else dtype

    def written(self, out: Any) -> None:
        sys.modules["torch"].autograd.graph.increment_version(out)


class _Jax(ReadableKind):
    name = "jax.Array"

    def run(self, call: Call) -> Any:
        jax = sys.modules["jax"]
        wide = jax.config.jax_enable_x64
        if not wide and _is_float64(call.arguments["dtype"]):
            raise TypeError(
                "dtype float64 needs jax.config.update('jax_enable_x64', True), got it disabled"
            )
        arrays = own_arrays(self, call)
        _check_devices(arrays.values())
        if _are_readable(arrays.values()):
            return run_on_views(self, call, arrays)
        with contextlib.nullcontext() if wide else _enable_x64(jax):
            if any(isinstance(array, jax.core.Tracer) for array in arrays.values()):
                return self.in_operations(call, wide)
            from . import jax_gpu

            if jax_gpu.takes(arrays):
                return jax_gpu.run(self, call, arrays, narrow=not wide)
            return self.as_one_program(call, arrays, wide)

    def in_operations(self, call: Call, wide: bool) -> Any:
        return run_generic(
            self, call, sys.modules["jax"].numpy, lambda dtype: dtype if wide else _narrow(dtype)
        )

    def as_one_program(self, call: Call, arrays: dict[str, Any], wide: bool) -> Any:
        """Let XLA make one pass of the operations, the same for any scalar threshold."""
        check_unread(self, call)
        given, beta = call.arguments, call.arguments[call.beta_name]
        if isinstance(beta, (int, float)):
            arrays = arrays | {call.beta_name: np.float64(beta)}
        static = tuple((name, value) for name, value in given.items() if name not in arrays)
        try:
            program = _program(call.function, call.wanted, tuple(arrays), static, wide)
        except TypeError:  # a list, which cannot be looked up
            return self.in_operations(call, wide)
        return program(*arrays.values())

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["jax"].Array)

    def view(self, name: str, array: Any) -> Any:
        return array.item() if _is_weak(array) else np.asarray(array)

    def stand_in(self, array: Any) -> Any:
        return 0.0 if _is_weak(array) else super().stand_in(array)

    def wrap(self, result: Array, like: Any) -> Any:
        from .short_jax import adopt

        return adopt(result, like)

    def leading(self, arrays: dict[str, Any]) -> Any:
        """Prefer an array that was put on its device, as JAX does."""
        given = arrays.values()
        return next((array for array in given if array.committed), next(iter(given)))

    def outputs(self, call: Call, views: dict[str, Array]) -> dict[str, Array]:
        """Aligned memory for slopes of the size and type of all operands; others are copied."""
        name = "grad_out" if call.wanted is Wanted.VALUE_AND_GRAD else "out"
        own, given = views.get(call.wrt), call.arguments
        is_slope = call.wanted in (Wanted.GRAD, Wanted.VALUE_AND_GRAD, Wanted.HESS)
        if not is_slope or name in views or given["dtype"] is not None:
            return {}
        operands = [views.get(key) for key in ("x", "target", "weight") if given[key] is not None]
        arrays = [a for a in operands if isinstance(a, np.ndarray)]
        if not isinstance(own, np.ndarray) or own.nbytes < WORTH_ALIGNING:
            return {}
        if len(arrays) == len(operands) and len({a.dtype for a in arrays}) == 1:
            return {name: aligned_array(own.shape, own.dtype)}
        return {}


@lru_cache(maxsize=256)
def _program(
    function: Callable[..., Any],
    wanted: Wanted,
    names: tuple[str, ...],
    static: tuple[tuple[str, Any], ...],
    wide: bool,
) -> Callable[..., Any]:
    """A call with JAX arrays of these names, compiled by XLA."""

    def run(*arrays: Any) -> Any:
        arguments = dict(static) | dict(zip(names, arrays, strict=True))
        return JAX.in_operations(Call(function, wanted, arguments), wide)

    return sys.modules["jax"].jit(run)


def _enable_x64(jax: Any) -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return importlib.import_module("jax.experimental").enable_x64()  # its place in old JAX


def _narrow(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of a result without 64 bits, as JAX makes of all its arrays then."""
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def _check_devices(arrays: Iterable[Any]) -> None:
    """Refuse arrays that were put on different devices."""
    tracer = sys.modules["jax"].core.Tracer
    put = [a for a in arrays if not isinstance(a, tracer) and a.committed]
    if len(put) > 1:
        places = ("+".join(sorted(map(str, array.devices()))) for array in put)
        one_place(places, "jax.device_put")


def _are_readable(arrays: Iterable[Any]) -> bool:
    """Whether arrays have their values, all on one device that is the CPU."""
    tracer, devices = sys.modules["jax"].core.Tracer, set()
    for array in arrays:
        if isinstance(array, tracer):
            return False
        devices |= array.devices()
    return len(devices) == 1 and devices.pop().platform == "cpu"


def _is_weak(array: Any) -> bool:
    """Whether an array is a number without a say in the type of results."""
    return bool(array.weak_type) and array.ndim == 0 and array.dtype != bool


def _is_float64(dtype: Any) -> bool:
    try:
        return dtype is not None and np.dtype(dtype) == np.float64
    except TypeError:
        return False  # refused later


class _Strict(ReadableKind):
    name = "array_api_strict.Array"

    def run(self, call: Call) -> Any:
        strict = sys.modules["array_api_strict"]
        arrays = own_arrays(self, call)
        device = one_place((array.device for array in arrays.values()), ".to_device")
        if "cpu" in str(device).lower():
            return run_on_views(self, call, arrays)
        with np.errstate(all="ignore"):  # it computes with NumPy
            return run_generic(
                self, call, strict, lambda dtype: getattr(strict, dtype.name), device=device
            )

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["array_api_strict"]._array_object.Array)

    def view(self, name: str, array: Any) -> Array:
        return np.from_dlpack(array)

    def wrap(self, result: Array, like: Any) -> Any:
        return sys.modules["array_api_strict"].asarray(result, device=like.device)

    def dtype(self, dtype: Any) -> Any:
        return str(dtype).rpartition(".")[2] if _is_own(dtype) else dtype


class _CuPy(Kind):
    name = "cupy.ndarray"

    def run(self, call: Call) -> Any:
        arrays = own_arrays(self, call)
        one_place((array.device.id for array in arrays.values()), "cupy.asarray on that device")
        return run_on_gpu(self, devices.CUPY, call, arrays)

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["cupy"].ndarray)


class _Numba(Kind):
    name = "numba device array"

    def run(self, call: Call) -> Any:
        memory, arrays = devices.NUMBA, own_arrays(self, call)
        one_place(map(memory.device, arrays.values()), "numba.cuda.to_device on that device")
        return run_on_gpu(self, memory, call, arrays)

    def holds(self, value: Any) -> bool:
        return getattr(value, "__cuda_ndarray__", False) is True


class _Dask(Kind):
    name = "dask.array.Array"

    def run(self, call: Call) -> Any:
        from . import chunks, dask

        for name, array in own_arrays(self, call).items():
            chunks.check_chunks(name, array)
        return dask.run(call, check_unread(self, call))

    def holds(self, value: Any) -> bool:
        return isinstance(value, sys.modules["dask.array"].Array)


def _is_own(dtype: Any) -> bool:
    return not isinstance(dtype, (str, type, np.dtype))


TORCH, JAX = _Torch(), _Jax()
KINDS: dict[str, Kind] = {
    "torch": TORCH,
    "jax": JAX,
    "cupy": _CuPy(),
    "numba.cuda": _Numba(),
    "dask.array": _Dask(),
    "array_api_strict": _Strict(),
}


def foreign(*values: Any) -> Kind | None:
    """Kind of the first array that is not NumPy's; None if there is none."""
    for value in values:
        if not isinstance(value, NEUTRAL):
            for library, kind in KINDS.items():
                if sys.modules.get(library) is not None and kind.holds(value):
                    return kind
    return None


def is_dask(value: Any) -> bool:
    """Whether a value is a Dask array."""
    return sys.modules.get("dask.array") is not None and KINDS["dask.array"].holds(value)
