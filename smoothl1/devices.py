"""Arrays in the memory of GPUs: where their elements lie, and who allocates more.

Nothing here computes or reads an element. Each library gives memory by its
own allocator and names its own current stream.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from .validate import Array, named_dtype, share_memory

SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "bool": 1} | {
    f"{sign}int{8 * size}": size for sign in ("", "u") for size in (1, 2, 4, 8)
}  # bytes


@dataclass(frozen=True, slots=True)
class Span:
    """Elements at an address of a GPU, with the steps of each axis in elements."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    owner: Any  # keeps the memory

    def broadcast(self, shape: tuple[int, ...]) -> Span:
        """View in another shape, to which this one broadcasts."""
        missing = len(shape) - len(self.shape)
        own = zip(self.shape, self.strides, strict=True)
        strides = (0,) * missing + tuple(0 if n == 1 else step for n, step in own)
        return replace(self, shape=shape, strides=strides)

    def expanded(self, axes: tuple[int, ...]) -> Span:
        """View with axes of size 1 at these places, ascending."""
        shape, strides = list(self.shape), list(self.strides)
        for axis in axes:
            shape.insert(axis, 1)
            strides.insert(axis, 0)
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def reach(self) -> tuple[int, int]:
        """Index of the lowest element, seen from the first, and of the highest."""
        if 0 in self.shape:
            return 0, -1
        ends = [(n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)]
        return sum(min(end, 0) for end in ends), sum(max(end, 0) for end in ends)

    def overlaps(self, other: Span) -> bool:
        """Whether two spans have a byte in common."""
        if 0 in self.shape or 0 in other.shape:
            return False
        return share_memory(self._shadow(), other._shadow())

    def _shadow(self) -> Array:
        """Array of NumPy at the same address, which nobody must read."""
        size = SIZES[self.dtype]
        interface = {"version": 3, "shape": self.shape, "data": (self.address, False)}
        interface |= {"typestr": f"|V{size}", "strides": tuple(n * size for n in self.strides)}
        return np.asarray(SimpleNamespace(__array_interface__=interface))

    def overlaps_itself(self) -> bool:
        """Whether two elements lie at one place."""
        reach = 1
        pairs = zip(self.shape, self.strides, strict=True)
        for step, n in sorted((abs(step), n) for n, step in pairs if n > 1):
            if step < reach:
                return 0 not in self.shape
            reach += step * (n - 1)
        return False

    def is_in_place(self, other: Span) -> bool:
        """Whether each element lies exactly on that of another span."""
        return (self.address, self.strides, SIZES[self.dtype]) == (
            other.address, other.strides, SIZES[other.dtype],
        )  # fmt: skip


_found = False  # a GPU and what its kernels need, which takes 0.1 ms to look for


def missing_for_gpus() -> tuple[type[Exception], str] | None:
    """What keeps kernels from running on a GPU, as an error; None if nothing does."""
    global _found
    if _found or os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        return None
    if importlib.util.find_spec("numba_cuda") is None:
        return ImportError, (
            "arrays on a GPU need numba-cuda: pip install 'smoothl1[cuda13]', "
            "or 'smoothl1[cuda12]' for drivers of CUDA 12"
        )
    from numba import cuda

    if not cuda.is_available():  # type: ignore[no-untyped-call]
        return RuntimeError, "arrays on a GPU need a GPU and its driver, and numba finds none"
    _found = True
    return None


def check_for_gpus() -> None:
    """Raise an error that says what kernels lack on a GPU, and how to have it."""
    missing = missing_for_gpus()
    if missing is not None:
        error, message = missing
        raise error(message)


class Memory(ABC):
    """How a library describes and allocates arrays on GPUs."""

    @abstractmethod
    def span(self, name: str, array: Any) -> Span:
        """Where the elements of an argument lie."""

    @abstractmethod
    def device(self, array: Any) -> int:
        """Number of the GPU of an array."""

    @abstractmethod
    def stream(self, array: Any) -> Any:
        """Stream in which the library works now: its handle, or one of numba's."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], order: tuple[int, ...], dtype: str, like: Any) -> Any:
        """Array on the GPU of another, its axes in memory in this order, slowest first."""

    @abstractmethod
    def upload(self, values: Array, like: Any) -> Any:
        """Array with the values of one of NumPy's."""


class _TorchMemory(Memory):
    """Tensors of PyTorch."""

    def span(self, name: str, array: Any) -> Span:
        array = array.detach()
        if array.is_neg():
            if name in ("out", "grad_out"):
                raise TypeError(f"{name} must not be a view of negated memory; pass a new tensor")
            array = array.resolve_neg()
        dtype = str(array.dtype).removeprefix("torch.")
        return Span(array.data_ptr(), tuple(array.shape), array.stride(), dtype, array)

    def device(self, array: Any) -> int:
        return int(array.device.index)

    def stream(self, array: Any) -> Any:
        return int(sys.modules["torch"].cuda.current_stream(array.device).cuda_stream)

    def empty(self, shape: tuple[int, ...], order: tuple[int, ...], dtype: str, like: Any) -> Any:
        torch = sys.modules["torch"]
        sizes = [shape[axis] for axis in order]
        array = torch.empty(sizes, dtype=getattr(torch, dtype), device=like.device)
        return array.permute(_inverse(order))

    def upload(self, values: Array, like: Any) -> Any:
        tensor = sys.modules["torch"].from_numpy(np.array(values))
        return tensor.to(like.device, non_blocking=True)


class _CuPyMemory(Memory):
    """Arrays of CuPy."""

    def span(self, name: str, array: Any) -> Span:
        return _span(name, array, int(array.data.ptr))

    def device(self, array: Any) -> int:
        return int(array.device.id)

    def stream(self, array: Any) -> Any:
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)

    def empty(self, shape: tuple[int, ...], order: tuple[int, ...], dtype: str, like: Any) -> Any:
        array = sys.modules["cupy"].empty([shape[axis] for axis in order], named_dtype(dtype))
        return array.transpose(_inverse(order))

    def upload(self, values: Array, like: Any) -> Any:
        return sys.modules["cupy"].asarray(values)


class _NumbaMemory(Memory):
    """Device arrays of numba, also in its simulator."""

    def span(self, name: str, array: Any) -> Span:
        if hasattr(array, "__cuda_array_interface__"):
            return _span(name, array, int(array.__cuda_array_interface__["data"][0]))
        return _span(name, array, int(array.ctypes.data))  # the simulator's

    def device(self, array: Any) -> int:
        context = getattr(getattr(array, "gpu_data", None), "context", None)
        return 0 if context is None else int(context.device.id)

    def stream(self, array: Any) -> Any:
        return array.stream

    def empty(self, shape: tuple[int, ...], order: tuple[int, ...], dtype: str, like: Any) -> Any:
        kind, strides = named_dtype(dtype), [0] * len(shape)
        step = kind.itemsize
        for axis in reversed(order):
            strides[axis] = step
            step *= shape[axis]
        cuda = sys.modules["numba"].cuda
        return cuda.device_array(shape, kind, strides=tuple(strides), stream=like.stream)

    def upload(self, values: Array, like: Any) -> Any:
        return sys.modules["numba"].cuda.to_device(np.array(values, order="C"), like.stream)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def _span(name: str, array: Any, address: int) -> Span:
    """Span of an array that describes itself as NumPy's do."""
    dtype, strides = np.dtype(array.dtype), tuple(array.strides)
    if not dtype.isnative:
        raise TypeError(f"{name} must have native byte order on a GPU, got dtype {dtype.str}")
    if address % dtype.itemsize or any(step % dtype.itemsize for step in strides):
        raise ValueError(
            f"{name} must lie at whole elements on a GPU, got address {address} and strides "
            f"{strides} for elements of {dtype.itemsize} bytes; copy it first"
        )
    steps = tuple(step // dtype.itemsize for step in strides)
    return Span(address, tuple(array.shape), steps, dtype.name, array)


TORCH, CUPY, NUMBA = _TorchMemory(), _CuPyMemory(), _NumbaMemory()
