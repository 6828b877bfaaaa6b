"""What arrays of other libraries have in common, and how a call with them runs.

Arrays whose memory the CPU can read become NumPy views, on which the call runs
once more. Those that cannot be read are checked by others of their shapes and
dtypes, and computed in the operations of their library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import generic
from .calls import Call
from .devices import Memory, check_for_gpus
from .problem import Problem
from .validate import Array, named_dtype


class Kind(ABC):
    """The arrays of a library."""

    name: str

    @abstractmethod
    def run(self, call: Call) -> Any:
        """Run a call whose arrays are of this kind."""

    @abstractmethod
    def holds(self, value: Any) -> bool:
        """Whether a value is one of its arrays."""

    def stand_in(self, array: Any) -> Any:
        """NumPy array of the shape and dtype of one that cannot be read."""
        dtype = self.dtype(array.dtype)
        known = named_dtype("bfloat16") if dtype == "bfloat16" else np.dtype(dtype)
        return np.broadcast_to(np.zeros((), known), array.shape)

    def dtype(self, dtype: Any) -> Any:
        """Dtype, or name of one, that NumPy understands."""
        return dtype

    def written(self, out: Any) -> None:  # noqa: B027 (few have to know)
        """Let the library know that an array has new values."""


class ReadableKind(Kind):
    """The arrays of a library that may lie in memory which the CPU can read."""

    @abstractmethod
    def view(self, name: str, array: Any) -> Array:
        """NumPy view of an argument, or a TypeError that names the remedy."""

    @abstractmethod
    def wrap(self, result: Array, like: Any) -> Any:
        """Array of this kind with a result, on the device of another."""

    def leading(self, arrays: dict[str, Any]) -> Any:
        """Array that results are to be like."""
        return next(iter(arrays.values()))

    def outputs(self, call: Call, views: dict[str, Array]) -> dict[str, Array]:
        """Memory for results that the library can adopt, where it cannot adopt any."""
        return {}


def run_on_views(kind: ReadableKind, call: Call, arrays: dict[str, Any]) -> Any:
    """Run a call on views of its arrays, and wrap what it returns."""
    given = call.arguments
    views: dict[str, Any] = {name: kind.view(name, array) for name, array in arrays.items()}
    views |= kind.outputs(call, views)
    if given["dtype"] is not None:
        views["dtype"] = kind.dtype(given["dtype"])
    result = call.having(**views).run()
    like = kind.leading(arrays)
    if not isinstance(result, tuple):
        return _wrap(kind, result, given["out"], like)
    loss, grad = result
    return _wrap(kind, loss, given["out"], like), _wrap(kind, grad, given["grad_out"], like)


def own_arrays(kind: Kind, call: Call) -> dict[str, Any]:
    """Arrays of a kind among the arguments; a TypeError if there are others."""
    given = call.arrays()
    own = {name: value for name, value in given.items() if kind.holds(value)}
    for name, value in given.items():
        if name in own or isinstance(value, (int, float, np.generic)):
            continue
        if hasattr(value, "shape"):
            got = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(
                f"all arrays must be of one kind, got {kind.name} for {next(iter(own))} and {got} "
                f"for {name}; convert one of them"
            )
    return own


def one_place(places: Iterable[Any], remedy: str) -> Any:
    """The device of all arrays; a TypeError if they are on several."""
    devices = set(places)
    if len(devices) > 1:
        listed = ", ".join(sorted(map(str, devices)))
        raise TypeError(f"arrays must be on one device, got {listed}; use {remedy}")
    return devices.pop()


def run_generic(
    kind: Kind, call: Call, xp: Any, dtype: Callable[[Any], Any], **options: Any
) -> Any:
    """Run a call in the operations of its library."""
    problem = check_unread(kind, call)
    return generic.run(xp, call, problem, dtype(problem.dtype), **options)


def run_on_gpu(kind: Kind, memory: Memory, call: Call, arrays: dict[str, Any]) -> Any:
    """Run a call with arrays on one GPU by its kernels."""
    check_for_gpus()
    problem = check_unread(kind, call, writes=True)
    from . import cuda

    cuda.check_outputs(memory, call, problem)
    result = cuda.run(memory, call, arrays, problem)
    for name in ("out", "grad_out"):
        if call.arguments.get(name) is not None:
            kind.written(call.arguments[name])
    return result


def check_unread(kind: Kind, call: Call, writes: bool = False) -> Problem:
    """Check a call whose arrays cannot be read: on others of their shapes and dtypes."""
    for name in ("out", "grad_out"):
        if call.arguments.get(name) is not None and not writes:
            raise TypeError(f"{name} must be None for a {kind.name} without memory to write to")
    stand_ins: dict[str, Any] = {
        name: kind.stand_in(array) for name, array in own_arrays(kind, call).items()
    }
    if call.arguments["dtype"] is not None:
        stand_ins["dtype"] = kind.dtype(call.arguments["dtype"])
    return call.having(**stand_ins).check()


def _wrap(kind: ReadableKind, part: Any, out: Any, like: Any) -> Any:
    if out is None:
        return kind.wrap(np.asarray(part), like)
    kind.written(out)
    return out
