"""The frames in which XLA calls foreign functions, in the words of its header [1]_.

`xla` reads them in compiled code, at once; here Python does, and asks XLA for what
belongs to a call on a GPU: its stream, and memory until the function returns.

References
----------
.. [1] https://github.com/openxla/xla/blob/main/xla/ffi/api/c_api.h

"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

VERSION = 0, 1  # of the interface; XLA knows older ones for 12 months, and refuses others
EXHAUSTED, INTERNAL = 8, 13  # codes of errors
ALIGNMENT = 256  # bytes, as of memory that CUDA gives

# All but the innermost have a size and a chain of extensions first.
_HEAD: list[Any] = [("size", c_size_t), ("extension", c_void_p)]


class Version(Structure):
    """Of the interface."""

    _fields_ = [*_HEAD, ("major", c_int), ("minor", c_int)]


class Functions(Structure):
    """Functions of XLA."""

    _fields_ = [
        *_HEAD, ("version", Version), ("internal", c_void_p), ("make_error", c_void_p),
        ("message_of", c_void_p), ("destroy_error", c_void_p), ("register", c_void_p),
        ("stream", c_void_p), ("register_type", c_void_p), ("context", c_void_p),
        ("set_state", c_void_p), ("state", c_void_p), ("allocate", c_void_p), ("free", c_void_p),
        ("schedule", c_void_p), ("threads", c_void_p), ("make_future", c_void_p),
        ("set_future", c_void_p), ("set_future_error", c_void_p), ("run", c_void_p),
        ("device", c_void_p),
    ]  # fmt: skip


class Buffer(Structure):
    """An array."""

    _fields_ = [
        *_HEAD, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("sizes", c_void_p)
    ]  # fmt: skip


class Text(Structure):
    """An attribute that is a string."""

    _fields_ = [("start", c_void_p), ("length", c_size_t)]


class Buffers(Structure):
    """Operands, or results."""

    _fields_ = [
        *_HEAD,
        ("count", c_int64),
        ("kinds", c_void_p),
        ("items", POINTER(POINTER(Buffer))),
    ]


class Attributes(Structure):
    """Attributes, sorted by their names."""

    _fields_ = [
        *_HEAD, ("count", c_int64), ("kinds", c_void_p), ("names", c_void_p),
        ("items", POINTER(POINTER(Text))),
    ]  # fmt: skip


class Frame(Structure):
    """One call."""

    _fields_ = [
        *_HEAD, ("functions", POINTER(Functions)), ("context", c_void_p), ("stage", c_int),
        ("operands", Buffers), ("results", Buffers), ("attributes", Attributes),
    ]  # fmt: skip


class Metadata(Structure):
    """What XLA wants to know of a handler before it calls it."""

    _fields_ = [*_HEAD[:1], ("version", Version)]


class Question(Structure):
    """Extension of a frame that asks for metadata, and is no call."""

    _fields_ = [
        ("size", c_size_t), ("kind", c_int), ("next", c_void_p), ("metadata", POINTER(Metadata))
    ]  # fmt: skip


class ErrorRequest(Structure):
    """Arguments of ``make_error``."""

    _fields_ = [*_HEAD, ("message", c_char_p), ("code", c_int)]


class ErrorQuestion(Structure):
    """Arguments of ``message_of`` and, but for the message, of ``destroy_error``."""

    _fields_ = [*_HEAD, ("error", c_void_p), ("message", c_char_p)]


class StreamRequest(Structure):
    """Arguments of ``stream``."""

    _fields_ = [*_HEAD, ("context", c_void_p), ("stream", c_void_p)]


class DeviceRequest(Structure):
    """Arguments of ``device``."""

    _fields_ = [*_HEAD, ("context", c_void_p), ("number", c_int)]


class MemoryRequest(Structure):
    """Arguments of ``allocate``."""

    _fields_ = [
        *_HEAD, ("context", c_void_p), ("bytes", c_size_t), ("alignment", c_size_t),
        ("data", c_void_p),
    ]  # fmt: skip


class Return(Structure):
    """Arguments of ``free``."""

    _fields_ = [*_HEAD, ("context", c_void_p), ("bytes", c_size_t), ("data", c_void_p)]


def _ask(function: int, kind: Any, *values: Any) -> tuple[Any, int | None]:
    """Call a function of XLA; return its arguments, and an error or None."""
    request = kind(ctypes.sizeof(kind), None, *values)
    error: int | None = ctypes.CFUNCTYPE(c_void_p, POINTER(kind))(function)(ctypes.byref(request))
    return request, error


def _checked(frame: Frame, answer: tuple[Any, int | None]) -> Any:
    """Arguments of a function of XLA after it has succeeded."""
    request, error = answer
    if error is not None:
        functions = frame.functions.contents
        question, _ = _ask(functions.message_of, ErrorQuestion, error)
        message = (question.message or b"").decode(errors="replace")
        _ask(functions.destroy_error, ErrorQuestion, error)
        raise RuntimeError(message)
    return request


def stream_of(frame: Frame) -> int:
    """Handle of the stream of a call."""
    answer = _ask(frame.functions.contents.stream, StreamRequest, frame.context)
    return _checked(frame, answer).stream or 0


def device_of(frame: Frame) -> int:
    """Number of the device of a call."""
    functions = frame.functions.contents
    if functions.size < ctypes.sizeof(Functions):
        raise NotImplementedError("this version of XLA does not name the device of a call")
    answer = _ask(functions.device, DeviceRequest, frame.context)
    return int(_checked(frame, answer).number)


def allocate(frame: Frame, size: int) -> int:
    """Address of so many bytes on the device of a call."""
    function = frame.functions.contents.allocate
    answer = _ask(function, MemoryRequest, frame.context, size, ALIGNMENT)
    try:
        return _checked(frame, answer).data or 0
    except RuntimeError as error:
        raise MemoryError(f"no {size} bytes on the device: {error}") from None


def free(frame: Frame, address: int, size: int) -> None:
    """Give memory back. XLA gives it to nobody before the work in the stream is done."""
    function = frame.functions.contents.free
    _checked(frame, _ask(function, Return, frame.context, size, address))


def error_in(frame: Frame, error: BaseException) -> int | None:
    """Error of XLA that stands for one of Python's."""
    code = EXHAUSTED if isinstance(error, MemoryError) else INTERNAL
    text = f"{type(error).__name__}: {error}".encode()
    return _ask(frame.functions.contents.make_error, ErrorRequest, text, code)[1] or None


def tells_version(frame: Frame) -> bool:
    """Answer a frame that only asks for the version; whether it is one."""
    if not frame.extension:
        return False
    question = Question.from_address(frame.extension)
    version = question.metadata.contents.version
    version.major, version.minor = VERSION
    return True


def addresses(buffers: Buffers) -> list[int]:
    """Addresses of arrays; 0 where they have no elements."""
    return [buffers.items[i].contents.data or 0 for i in range(buffers.count)]


def text_of(frame: Frame) -> bytes:
    """Return the only attribute of a call."""
    text = frame.attributes.items[0].contents
    return ctypes.string_at(text.start, text.length)
