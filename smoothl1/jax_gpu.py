"""Arrays of JAX on one GPU: the kernels of `cuda` as operations of XLA.

    run ── check, Spec ── jitted program ── XLA, on the GPU's stream
                                              └─ _handle ── cuda.run, on the same memory

XLA makes the results, calls `_handle` when it is about to work on them, and says in which
stream. The handler launches kernels there and returns; nobody waits. What it is to launch
stands in an attribute of the operation, so it keeps nothing and programs may outlive
their process in JAX's cache.

Thresholds that are numbers belong to the program, as shapes do: each new one is compiled.
An array as threshold is an operand like others.
"""

from __future__ import annotations

import ast
import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from threading import current_thread, main_thread
from typing import Any, NamedTuple

import jax
import numpy as np

from . import frames
from .calls import Call, Wanted
from .devices import SIZES, Memory, Span, check_for_gpus
from .plan import c_steps
from .problem import Problem
from .validate import Array, Reduction, named_dtype
from .views import Kind, check_unread, own_arrays, run_on_gpu

PLATFORM = "CUDA"  # as XLA names it
MOST_PROGRAMS = 1024

Arrays = tuple[tuple[str, tuple[int, ...], str], ...]  # name, shape and dtype of each


class Spec(NamedTuple):
    """All of a call but the values of its arrays, in plain numbers and strings."""

    wanted: str
    options: tuple[tuple[str, Any], ...]
    operands: Arrays
    results: Arrays


# From a call to XLA.


def run(kind: Kind, call: Call, arrays: dict[str, Any], narrow: bool) -> Any:
    """Run a call with arrays for which `takes` is true.

    64 bits must be enabled meanwhile; ``narrow`` if they are not for the caller, to whom
    no float64 is returned.
    """
    problem = check_unread(kind, call)
    operands = {name: _operand(problem, call, arrays, name) for name in _operand_names(call)}
    dtype = "float32" if narrow and problem.dtype == np.float64 else problem.dtype.name
    spec = Spec(
        call.wanted.name,
        _options(problem, call, dtype),
        tuple((name, a.shape, _dtype(kind, problem, name, a)) for name, a in operands.items()
              if a is not None),
        _results(problem, call, dtype),
    )  # fmt: skip
    program = _program(spec)
    with jax.ensure_compile_time_eval(), _interrupts_later():  # at once, also while JAX traces
        made = program(*(array for array in operands.values() if array is not None))
    return tuple(made) if len(made) > 1 else made[0]


def takes(arrays: dict[str, Any]) -> bool:
    """Whether arrays lie in the memory of one GPU of CUDA, on which JAX would run programs.

    Raises an error if they do and kernels cannot run there.
    """
    places = {device for array in arrays.values() for device in array.devices()}
    if len(places) > 1 or not is_cuda(device := places.pop()):
        return False
    usual = device.default_memory().kind
    if any(array.sharding.memory_kind != usual for array in arrays.values()):
        return False
    is_put = any(array.committed for array in arrays.values())
    if not is_put and device != _default_device():
        return False
    check_for_gpus()
    return is_working(device)


def _default_device() -> Any:
    default = jax.config.jax_default_device
    if default is None or isinstance(default, str):
        return jax.local_devices(backend=default)[0]
    return default


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Context in which Ctrl-C waits: a function that XLA calls would lose it, or end early."""
    before = signal.getsignal(signal.SIGINT)
    if current_thread() is not main_thread() or before is None:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def is_cuda(device: Any) -> bool:
    """Whether a device of JAX is a GPU of CUDA."""
    return device.platform == "gpu" and "cuda" in device.client.platform_version.lower()


@cache
def is_working(device: Any) -> bool:
    """Whether XLA calls kernels as it should: a loss and a gradient come out right."""
    from .functional import smooth_l1_value_and_grad
    from .kinds import JAX

    given = {
        "beta": 0.5, "reduction": "mean", "axis": None, "keepdims": False,
        "weight": None, "where": None, "normalizer": None, "dtype": None,
    }  # fmt: skip
    try:
        with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
            x, target = np.array([[1.25, -2.0], [1.0, 1.0]], np.float32)
            arrays = {"x": jax.device_put(x, device), "target": jax.device_put(target, device)}
            call = Call(smooth_l1_value_and_grad, Wanted.VALUE_AND_GRAD, arrays | given)
            loss, grad = run(JAX, call, arrays, narrow=True)
            return bool(loss == 1.40625 and np.asarray(grad).tolist() == [0.25, -0.5])
    except Exception:  # another XLA, or another numba: the program of XLA's own works
        return False


def _operand_names(call: Call) -> tuple[str, ...]:
    return ("x", "target", "weight", "where", call.beta_name, "grad_output")


def _operand(problem: Problem, call: Call, arrays: dict[str, Any], name: str) -> Any:
    """Array that a program takes; None for what it does without, or has as a number."""
    from .cuda_work import as_computed

    if name in arrays:
        return arrays[name]
    if name == "grad_output":
        given = call.arguments.get(name)
        return None if given is None else as_computed(np.asarray(given, np.float64), problem)
    value = problem.beta if name == call.beta_name else getattr(problem, name)
    if not isinstance(value, np.ndarray):
        return None
    own = np.array(value[tuple(slice(None if step else 1) for step in value.strides)])
    shapes = {"x": problem.x_shape, "target": problem.target_shape}
    return own.reshape(shapes.get(name, own.shape))


def _dtype(kind: Kind, problem: Problem, name: str, array: Any) -> str:
    """Dtype of an operand; an array that is only a number is rounded to that of the others."""
    is_number = not isinstance(array, np.ndarray) and isinstance(kind.stand_in(array), float)
    if name in ("x", "target", "weight") and is_number:
        return problem.rounding
    return np.dtype(array.dtype).name


def _options(problem: Problem, call: Call, dtype: str) -> tuple[tuple[str, Any], ...]:
    is_map = problem.reduction is Reduction.NONE
    options = {
        "reduction": problem.reduction.value,
        "axis": None if is_map else problem.axes,
        "keepdims": problem.keepdims,
        "normalizer": problem.normalizer,
        "dtype": dtype,
    }
    if isinstance(problem.beta, float):
        options[call.beta_name] = problem.beta
    if "wrt" in call.arguments:
        options["wrt"] = call.wrt
    return tuple(options.items())


def _results(problem: Problem, call: Call, dtype: str) -> Arrays:
    own = problem.x_shape if call.wrt == "x" else problem.target_shape
    if call.wanted in (Wanted.GRAD, Wanted.HESS):
        return (("out", own, dtype),)
    loss = ("out", problem.plan().result_shape, dtype)
    is_both = call.wanted is Wanted.VALUE_AND_GRAD
    return (loss, ("grad_out", own, dtype)) if is_both else (loss,)


@lru_cache(maxsize=MOST_PROGRAMS)
def _program(spec: Spec) -> Any:
    """Jitted function of the operands, which returns the results in a list."""
    name = register(PLATFORM)
    results = [jax.ShapeDtypeStruct(shape, named_dtype(dtype)) for _, shape, dtype in spec.results]
    text = repr(tuple(spec))

    def smoothl1(*operands: Any) -> Any:
        pairs = zip(operands, spec.operands, strict=True)
        given = [jax.numpy.asarray(a).astype(named_dtype(dtype)) for a, (_, _, dtype) in pairs]
        if [a.dtype.name for a in given] != [dtype for _, _, dtype in spec.operands]:
            raise TypeError("64 bits must be enabled")
        return jax.ffi.ffi_call(name, results)(*given, call=text)

    return jax.jit(smoothl1)


# From XLA to kernels.


@cache
def register(platform: str) -> str:
    """Make the handler known to XLA; return its name there."""
    from . import __version__

    name = f"smoothl1.{__version__}.{platform}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(_HANDLER), platform=platform)
    return name


def _handle(address: int) -> int | None:
    """Launch the kernels of a call, or say what kept them from it: an error, or 0."""
    frame = frames.Frame.from_address(address)
    if frames.tells_version(frame):
        return None
    try:
        with _Execution(frame, _spec(frames.text_of(frame))) as execution:
            execution.launch()
    except BaseException as error:
        return frames.error_in(frame, error)
    return None


_HANDLER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_handle)  # XLA has it for ever


@lru_cache(maxsize=MOST_PROGRAMS)
def _spec(text: bytes) -> Spec:
    return Spec(*ast.literal_eval(text.decode()))


@dataclass
class _Execution:
    """A call while XLA waits for its kernels to be launched."""

    frame: frames.Frame
    spec: Spec
    device: int = field(init=False)
    stream: int = field(init=False)
    rooms: list[tuple[int, int]] = field(init=False, default_factory=list)

    def __enter__(self) -> _Execution:
        self.device, self.stream = frames.device_of(self.frame), frames.stream_of(self.frame)
        return self

    def __exit__(self, *error: object) -> None:
        for address, size in self.rooms:
            frames.free(self.frame, address, size)

    def launch(self) -> None:
        """Run the call as one with arrays of XLA."""
        spec = self.spec
        given = dict.fromkeys(("weight", "where", "grad_output")) | dict(spec.options)
        given |= self.buffers(spec.operands, self.frame.operands)
        given |= self.buffers(spec.results, self.frame.results)
        BUFFERS.run(Call(_nothing, Wanted[spec.wanted], given))

    def buffers(self, arrays: Arrays, found: frames.Buffers) -> dict[str, _Buffer]:
        """Return arrays at the addresses that XLA has put them at."""
        pairs = zip(arrays, frames.addresses(found), strict=True)
        return {
            name: _Buffer(address, shape, dtype, self) for (name, shape, dtype), address in pairs
        }

    def room(self, size: int) -> int:
        """Address of so many bytes, until the last kernel is done."""
        size = max(size, 1)
        address = frames.allocate(self.frame, size)
        self.rooms.append((address, size))
        return address


def _nothing() -> None:
    """Stand for the public function of a call, which has been checked and is not called."""


@dataclass(frozen=True, eq=False)
class _Buffer:
    """Elements side by side at an address of a GPU."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    execution: _Execution


class _Buffers(Kind):
    name = "jax.Array"

    def run(self, call: Call) -> Any:
        return run_on_gpu(self, _MEMORY, call, own_arrays(self, call))

    def holds(self, value: Any) -> bool:
        return isinstance(value, _Buffer)


class _XlaMemory(Memory):
    """Memory that XLA has given for a call."""

    def span(self, name: str, array: _Buffer) -> Span:
        return Span(array.address, array.shape, c_steps(array.shape), array.dtype, array)

    def device(self, array: _Buffer) -> int:
        return array.execution.device

    def stream(self, array: _Buffer) -> int:
        return array.execution.stream

    def empty(
        self, shape: tuple[int, ...], order: tuple[int, ...], dtype: str, like: _Buffer
    ) -> _Buffer:
        size = SIZES[dtype] * int(np.prod(shape, dtype=np.int64))
        return _Buffer(like.execution.room(size), shape, dtype, like.execution)

    def upload(self, values: Array, like: _Buffer) -> _Buffer:
        raise NotImplementedError("programs have all their operands on the GPU")


BUFFERS, _MEMORY = _Buffers(), _XlaMemory()
