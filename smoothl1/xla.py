"""Kernels as operations of XLA, for calls on small arrays of JAX that come again and again.

To hand arrays to JAX from Python takes 3 us each, to read one 0.8 us. A compiled
computation of JAX does both in C++, and calls the kernel in between by XLA's interface
for foreign functions [1]_: a handler gets the address of a frame with the addresses of
arrays and attributes, laid out as in XLA's header. To compile such a computation takes
20 to 30 ms, so it is for calls that come often. The kernels, and so the bits, are those of NumPy:
XLA has the processor take subnormal numbers for 0, and handlers have it compute as usual.
Handlers call kernels by name, as compiled for `plain` and `short_tensors`: to compile these
again inside handlers would take seconds.

References
----------
.. [1] ``XLA_FFI_CallFrame``, version 0.1,
   https://github.com/openxla/xla/blob/main/xla/ffi/api/c_api.h

"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import llvmlite.binding as llvm
import llvmlite.ir as ir
import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .frames import EXHAUSTED, VERSION
from .jit import helper, native
from .kernels import map_runs, total_loss_and_grad_at, total_loss_at
from .memory import floats, view
from .plan import SPAN
from .records import Geometry, Operands, Outputs, Sums
from .threads import NO_JOB

# Words of the frame and of what it points to.
EXTENSION, FUNCTIONS, INPUTS, RESULTS, ATTRIBUTES, FRAME = 1, 2, 9, 14, 20, 21
DATA, METADATA, API_VERSION, MAKE_ERROR = 3, 3, 3, 6
# Numbers of a call: its only attribute.
BETA, DIVISOR, SIZE, OUTPUTS, TASKS, GEOMETRY = range(6)
NUMBERS = GEOMETRY + len(Geometry._fields)

# How the processor computes: all exceptions masked, to nearest, subnormal numbers kept.
USUAL = {"x86_64": 0x1F80, "amd64": 0x1F80, "aarch64": 0, "arm64": 0}.get(
    platform.machine().lower()
)


@intrinsic
def _set_arithmetic(typing_context, state):
    """Set how the processor computes, and return how it did. Nothing moves past this."""

    def codegen(context, builder, signature, args):
        word = ir.IntType(64)
        if USUAL == 0:
            kept = builder.asm(ir.FunctionType(word, []), "mrs $0, fpcr", "=r,~{memory}", [], True)
            take = ir.FunctionType(ir.VoidType(), [word])
            builder.asm(take, "msr fpcr, $0", "r,~{memory}", args, True)
            return kept
        place = cgutils.alloca_once_value(builder, word(0))
        take = ir.FunctionType(ir.VoidType(), [place.type])
        builder.asm(take, "stmxcsr ($0)", "r,~{memory}", [place], True)
        kept = builder.load(place)
        builder.store(args[0], place)
        builder.asm(take, "ldmxcsr ($0)", "r,~{memory}", [place], True)
        return kept

    return types.int64(types.int64), codegen


@intrinsic
def _no_memory(typing_context, make_error):
    """Address of an error, made by the function at an address."""

    def codegen(context, builder, signature, args):
        word, text = ir.IntType(64), context.insert_const_string(builder.module, "no memory")
        kind = ir.LiteralStructType([word, word, text.type, word])
        request = cgutils.alloca_once(builder, kind)
        for i, value in enumerate((word(32), word(0), text, word(EXHAUSTED))):
            builder.store(value, cgutils.gep_inbounds(builder, request, 0, i))
        function = ir.FunctionType(word, [request.type]).as_pointer()
        return builder.call(builder.inttoptr(args[0], function), [request])

    return types.int64(types.int64), codegen


@helper
def _pointer(address, i):
    """Return the word i of those at an address."""
    return view(address, i + 1, np.int64)[i]


@helper
def _memory(arrays, i):
    """Address of the elements of an array in a list."""
    return _pointer(_pointer(arrays, i), DATA)


class Work(NamedTuple):
    """A kernel with the types of its arguments."""

    kernel: Any
    dtype: np.dtype[Any]
    slopes: bool = False  # instead of losses, or beside sums of them
    curvature: bool | None = None  # second derivatives instead of slopes

    @property
    def name(self) -> str:
        """Name that this differs by from all others."""
        parts = self.kernel.py_func.__name__, self.dtype.name, self.slopes, self.curvature
        return ".".join(map(str, parts))

    @property
    def narrow(self) -> bool | None:
        """Whether no result is float64."""
        return None if self.dtype.itemsize == 8 else True

    @property
    def is_total(self) -> bool:
        """Whether the kernel sums all elements."""
        return self.kernel in (total_loss_at, total_loss_and_grad_at)

    def types(self) -> tuple[Any, ...]:
        """Types of the arguments, as `short_tensors` and `plain` call the kernel."""
        out, given = np.empty((2, 1), self.dtype)
        if self.is_total:
            return _types(1, 1, 1, 1.0, 1.0, self.narrow, *([1, 1] if self.slopes else [1]))
        given.flags.writeable = False
        divisor = 1.0 if self.slopes else None
        o = Operands(given, given, 1.0, divisor=divisor, curvature=self.curvature,
                     narrow=self.narrow)  # fmt: skip
        if self.kernel is map_runs:
            outputs = Outputs(slope=out) if self.slopes else Outputs(loss=out)
            return _types(o, outputs, 1, 0, 1, NO_JOB)
        outputs, geometry = Outputs(slope=out if self.slopes else None), Geometry(*[1] * 7)
        return _types(o, outputs, Sums(loss=True), np.empty((1, 1)), 1.0, geometry, 0, 1, NO_JOB)


def _types(*arguments: Any) -> tuple[Any, ...]:
    return tuple(map(numba.typeof, arguments))


def _linked(work: Work) -> Any:
    """Make a function for handlers that calls a kernel with a tuple of arguments."""
    arguments, name = work.types(), f"smoothl1.{work.name}"
    work.kernel.compile(arguments)
    code = work.kernel.overloads[arguments]
    llvm.add_symbol(name, code.library.get_pointer_to_function(code.fndesc.llvm_func_name))
    result = code.signature.return_type

    @intrinsic
    def call(typing_context, given):
        def codegen(context, builder, signature, args):
            kind = context.call_conv.get_function_type(result, arguments)
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            values = cgutils.unpack_tuple(builder, args[0])
            convention = context.call_conv
            status, value = convention.call_function(builder, function, result, arguments, values)
            with cgutils.if_unlikely(builder, status.is_error):
                convention.return_status_propagate(builder, status)
            return value

        return (result(given), codegen) if tuple(given) == arguments else None

    return call


@intrinsic
def _read_only(typing_context, array):
    """Return an array of the type that `plain` has it of."""
    return array.copy(readonly=True)(array), lambda context, builder, signature, args: args[0]


@helper
def _array(arrays, i, size, narrow):
    return floats(_memory(arrays, i), size, narrow)


@helper
def _operands(inputs, numbers, divisor, curvature, narrow):
    size = int(numbers[SIZE])
    x, target = _array(inputs, 0, size, narrow), _array(inputs, 1, size, narrow)
    return Operands(
        _read_only(x), _read_only(target), numbers[BETA], None, None, None, None, None, divisor,
        None, curvature, narrow,
    )  # fmt: skip


@helper
def _divisor(numbers):
    return numbers[DIVISOR]


@helper
def _no_divisor(numbers):
    return None


@helper
def _losses(results, i, size, narrow):
    return Outputs(_array(results, i, size, narrow), None)


@helper
def _slopes(results, i, size, narrow):
    return Outputs(None, _array(results, i, size, narrow))


@helper
def _nothing(results, i, size, narrow):
    return Outputs(None, None)


def _total(work: Work, call: Any) -> Any:
    narrow = work.narrow

    @helper
    def run(inputs, results, numbers):
        call((_memory(inputs, 0), _memory(inputs, 1), int(numbers[SIZE]), numbers[BETA],
              numbers[DIVISOR], narrow, _memory(results, 0)))  # fmt: skip

    @helper
    def run_both(inputs, results, numbers):
        call((_memory(inputs, 0), _memory(inputs, 1), int(numbers[SIZE]), numbers[BETA],
              numbers[DIVISOR], narrow, _memory(results, 0), _memory(results, 1)))  # fmt: skip

    return run_both if work.slopes else run


def _map(work: Work, call: Any) -> Any:
    narrow, curvature = work.narrow, work.curvature
    divisor, outputs = (_divisor, _slopes) if work.slopes else (_no_divisor, _losses)

    @helper
    def run(inputs, results, numbers):
        size = int(numbers[SIZE])
        o = _operands(inputs, numbers, divisor(numbers), curvature, narrow)
        call((o, outputs(results, 0, size, narrow), size, 0, -(-size // SPAN), NO_JOB))

    return run


@helper
def _geometry(numbers):
    g = GEOMETRY
    return Geometry(
        int(numbers[g]), int(numbers[g + 1]), int(numbers[g + 2]), int(numbers[g + 3]),
        int(numbers[g + 4]), int(numbers[g + 5]), int(numbers[g + 6]),
    )  # fmt: skip


def _sums(work: Work, call: Any) -> Any:
    narrow = work.narrow
    divisor, outputs = (_divisor, _slopes) if work.slopes else (_no_divisor, _nothing)

    @helper
    def run(inputs, results, numbers):
        o = _operands(inputs, numbers, divisor(numbers), None, narrow)
        out = outputs(results, 1, int(numbers[SIZE]), narrow)
        n = int(numbers[OUTPUTS])
        sums = np.empty((1, n))
        call((o, out, Sums(True, None, None), sums, numbers[DIVISOR], _geometry(numbers), 0,
              int(numbers[TASKS]), NO_JOB))  # fmt: skip
        losses = _array(results, 0, n, narrow)
        for i in range(n):
            losses[i] = sums[0, i]

    return run


@helper
def _tell_version(extension):
    version = view(_pointer(extension, METADATA) + 8 * API_VERSION, 2, np.int32)
    version[0], version[1] = VERSION


def _handler(work: Work) -> Callable[[], int]:
    """Make a function that returns the address of a handler, compiled and kept as kernels are."""
    call = _linked(work)
    make = _total if work.is_total else _map if work.kernel is map_runs else _sums
    run = make(work, call)

    def handler(frame):
        words = view(frame, FRAME, np.int64)
        if words[EXTENSION] != 0:
            _tell_version(words[EXTENSION])
        elif words[0] >= 8 * FRAME:
            attribute = _pointer(words[ATTRIBUTES], 0)
            numbers = view(_pointer(attribute, 2), NUMBERS, np.float64)
            before: int = _set_arithmetic(USUAL)
            error = 0
            try:
                run(words[INPUTS], words[RESULTS], numbers)
            except Exception:  # which a kernel raises only where it gets no memory
                error = _no_memory(_pointer(words[FUNCTIONS], MAKE_ERROR))
            _set_arithmetic(before)
            return error
        return 0

    handler.__qualname__ = work.name
    return native("int64(int64)")(handler)


@cache
def _register(work: Work) -> str:
    """Make a handler known to XLA, which has its address for ever; return its name there."""
    from . import __version__

    llvm.initialize_native_asmparser()  # for `_set_arithmetic`
    handler = _handler(work)
    name = f"smoothl1.{__version__}.{work.name}"
    address = ctypes.c_void_p(handler())
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
    _HANDLERS.append(handler)
    return name


_HANDLERS: list[Callable[[], int]] = []


def operation(
    work: Work, shapes: tuple[tuple[int, ...], ...], numbers: list[float]
) -> Callable[[Any, Any], Any]:
    """Make a jitted function of two arrays of one shape that calls a kernel.

    Results have these shapes; ``numbers`` are those of a call. Raises NotImplementedError on
    processors that it does not know.
    """
    if USUAL is None:
        raise NotImplementedError(f"no operations of XLA on {platform.machine()}")
    name = _register(work)
    given = np.zeros(NUMBERS)
    given[: len(numbers)] = numbers
    results = tuple(jax.ShapeDtypeStruct(shape, work.dtype) for shape in shapes)

    def call(x: Any, target: Any) -> Any:
        if work.dtype.itemsize == 8 and not jax.config.jax_enable_x64:  # it is traced anew then
            raise TypeError("JAX makes no array of float64 now")
        if not jax.sharding.get_abstract_mesh().empty:
            raise NotImplementedError("results would lie on a mesh, and not as operands do")
        made = jax.ffi.ffi_call(name, results)(x, target, numbers=given)
        return made[0] if len(results) == 1 else tuple(made)

    return jax.jit(call)
