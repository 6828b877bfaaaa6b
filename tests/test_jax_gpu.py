"""Arrays of JAX on a GPU, in numba's simulator; test_simulator.py runs this file there."""

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from threading import current_thread, main_thread

import numpy as np
import pytest
from reference import Reference

import smoothl1 as sl

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    pytest.skip("runs in numba's simulator of GPUs: see test_simulator.py", allow_module_level=True)
if importlib.util.find_spec("jax") is None:
    pytest.skip("JAX is optional", allow_module_level=True)

import jax
from numba import cuda as numba_cuda
from pretended import gpu_of_jax

from smoothl1 import cuda_sums, devices, frames, jax_gpu

jnp = jax.numpy
FUNCTIONS = (
    sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_hess, sl.smooth_l1_value_and_grad,
)  # fmt: skip


@pytest.fixture
def gpu():
    with gpu_of_jax() as gpu:
        assert jax_gpu.is_working(jax.devices("cpu")[0])
        gpu.launched = 0
        yield gpu


@pytest.fixture
def operands(rng):
    return rng.normal(size=(2, 6, 11)).astype(np.float32)


def arrays_of(result):
    return [np.asarray(part) for part in jax.tree.leaves(result)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("axis", [None, 0, 1, ()])
def test_bits_are_those_of_other_arrays_on_a_gpu(gpu, operands, axis, dtype):
    with jax.enable_x64(dtype == "float64"):
        x, target = (jnp.asarray(values).astype(dtype) for values in operands)
        there = [numba_cuda.to_device(np.asarray(array)) for array in (x, target)]
        for function in FUNCTIONS:
            got = function(x, target, beta=0.7, axis=axis)
            wanted = function(*there, beta=0.7, axis=axis)
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            for ours, theirs in zip(arrays_of(got), wanted, strict=True):
                theirs = theirs.copy_to_host()
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                assert ours.tobytes() == theirs.tobytes()
    assert gpu.launched == len(FUNCTIONS)


def test_numbers_lists_and_weak_arrays(gpu, operands):
    """What is no array on the device goes there with the program, rounded as elsewhere."""
    x = jnp.asarray(operands[0])
    exact = operands[0].astype(np.float64)
    for target in (0.1, jnp.asarray(0.1), np.float32(0.1)):
        got = sl.smooth_l1_loss(x, target, beta=0.3)
        wanted = Reference(exact, np.full(x.shape, np.float64(np.float32(0.1))), beta=0.3).loss()
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(float(got), wanted, rtol=1e-7)
    row = operands[1, 0].astype(np.float64)
    options = {
        "beta": np.linspace(0.0, 2.0, 11).tolist(), "weight": np.arange(11.0).tolist(),
        "where": [i % 3 > 0 for i in range(11)], "axis": 1,
    }  # fmt: skip
    got = sl.smooth_l1_value_and_grad(x, row.tolist(), **options)
    given = {name: np.array(options[name]) for name in ("beta", "weight", "where")}
    reference = Reference(exact, np.broadcast_to(row, x.shape), **given, axis=1)
    np.testing.assert_allclose(got[0], reference.loss(), rtol=1e-6)
    np.testing.assert_allclose(got[1], reference.grad("x"), rtol=1e-5, atol=1e-9)
    upstream = [0.5, -2.0, 1.0, 0.0, 3.0, 7.25]
    got = sl.smooth_l1_grad(x, 0.5, beta=0.7, axis=1, grad_output=upstream)
    wanted = Reference(exact, np.full(x.shape, 0.5), beta=0.7, axis=1).grad("x", np.array(upstream))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)
    assert gpu.launched == 5


def test_integers_without_64_bits(gpu):
    """Two integers give float64 elsewhere; JAX has none, so they are rounded once, at the end."""
    x, target = jnp.asarray([0, 3, 2**24 + 1]), jnp.asarray([1, 1, 0])
    got = sl.smooth_l1_loss(x, target, beta=0.5, reduction="none")
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.float32([0.75, 1.75, 2**24 + 0.75]))
    assert gpu.launched == 1


def test_a_call_compiles_once_and_thresholds_are_part_of_it(gpu, operands):
    x, target = map(jnp.asarray, operands)
    before = jax_gpu._program.cache_info().misses
    for beta in (0.31, 0.31, 0.32):
        got = sl.smooth_l1_loss(x, target, beta=beta)
        wanted = sl.smooth_l1_loss(operands[0], operands[1], beta=beta)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert jax_gpu._program.cache_info().misses == before + 2
    for beta in (0.31, 0.32):  # as an operand it belongs to no program
        got = sl.smooth_l1_loss(x, target, beta=jnp.float32(beta))
        wanted = sl.smooth_l1_loss(operands[0], operands[1], beta=beta)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert jax_gpu._program.cache_info().misses == before + 3


def test_memory_for_sums_goes_back(gpu, operands, monkeypatch):
    """`gpu_of_jax` sees at its end that nothing is kept, also of a call that fails half-way."""
    x, target = map(jnp.asarray, operands)
    asked = []
    allocate = frames.allocate
    frames.allocate = lambda frame, size: asked.append(size) or allocate(frame, size)
    try:
        sl.smooth_l1_loss(x, target, beta=0.7, weight=jnp.ones(11)).block_until_ready()
    finally:
        frames.allocate = allocate
    assert asked
    assert not gpu.rooms

    def fail(*arguments):
        assert gpu.rooms
        raise RuntimeError("no launch")

    with monkeypatch.context() as patch:
        patch.setattr(cuda_sums, "launch_fold", fail)
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="no launch"):
            sl.smooth_l1_loss(x, target, beta=0.7).block_until_ready()
    assert not gpu.rooms


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("no 24 bytes"), "RESOURCE_EXHAUSTED: MemoryError: no 24 bytes"),
        (RuntimeError("context lost"), "INTERNAL: RuntimeError: context lost"),
    ],
)
def test_errors_of_kernels_come_through_xla(gpu, operands, error, message, monkeypatch):
    x, target = map(jnp.asarray, operands)

    def fail(frame, size):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(frames, "allocate", fail)
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=message):
            sl.smooth_l1_loss(x, target, beta=0.7).block_until_ready()
    wanted = sl.smooth_l1_loss(operands[0], operands[1], beta=0.7)
    np.testing.assert_allclose(sl.smooth_l1_loss(x, target, beta=0.7), wanted, rtol=1e-6)


def test_errors_of_calls_come_before_any_program(gpu, operands):
    x, target = map(jnp.asarray, operands)
    before = jax_gpu._program.cache_info().misses
    with pytest.raises(ValueError, match="beta must be finite"):
        sl.smooth_l1_loss(x, target, beta=-1.0)
    with pytest.raises(TypeError, match="out must be None"):
        sl.smooth_l1_loss(x, target, out=x)
    assert (jax_gpu._program.cache_info().misses, gpu.launched) == (before, 0)


def test_traced_arrays_go_by_operations(gpu, operands):
    x, target = map(jnp.asarray, operands)
    got = jax.jit(jax.grad(lambda x: sl.smooth_l1_loss(x, target, beta=0.7)))(x)
    wanted = sl.smooth_l1_grad(operands[0], operands[1], beta=0.7)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)
    assert gpu.launched == 0


def test_what_kernels_do_not_take_goes_by_a_program_of_xla(gpu, operands, monkeypatch):
    x, target = map(jnp.asarray, operands)
    wanted = sl.smooth_l1_loss(operands[0], operands[1], beta=0.7)
    place = {"x": x, "target": target}
    assert jax_gpu.takes(place)
    for owner, name, value in (
        (jax_gpu, "is_cuda", lambda device: False),
        (jax_gpu, "is_working", lambda device: False),
        (jax_gpu, "_default_device", lambda: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert not jax_gpu.takes(place)
            np.testing.assert_allclose(sl.smooth_l1_loss(x, target, beta=0.7), wanted, rtol=1e-6)
    assert gpu.launched == 0
    put = jax.device_put(x, jax.devices("cpu")[0])
    monkeypatch.setattr(jax_gpu, "_default_device", lambda: "another")
    assert jax_gpu.takes({"x": put, "target": target})


def test_without_numba_cuda(gpu, operands, monkeypatch):
    """The same error as for other arrays on a GPU; under transforms XLA needs no numba."""
    x, target = map(jnp.asarray, operands)
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM")
    monkeypatch.setattr(devices, "_found", False)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    for function in FUNCTIONS:
        with pytest.raises(ImportError, match=r"pip install 'smoothl1\[cuda13\]'"):
            function(x, target, beta=0.7)
    wanted = sl.smooth_l1_loss(operands[0], operands[1], beta=0.7)
    got = jax.jit(lambda x: sl.smooth_l1_loss(x, target, beta=0.7))(x)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert gpu.launched == 0


def test_an_xla_without_streams_is_not_used():
    """As this one on the CPU, whose refusal the trial finds."""
    with gpu_of_jax() as gpu:
        jax_gpu.is_working.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frames, "stream_of", STREAM_OF)
            assert not jax_gpu.is_working(jax.devices("cpu")[0])
        assert gpu.launched == 0
    jax_gpu.is_working.cache_clear()


STREAM_OF, ALLOCATE, FREE = frames.stream_of, frames.allocate, frames.free


def test_the_trial_is_made_while_jax_traces_too(gpu, operands):
    jax_gpu.is_working.cache_clear()
    x, target = map(jnp.asarray, operands)
    got = jax.jit(lambda scale: scale * sl.smooth_l1_loss(x, target, beta=0.7))(2.0)
    wanted = 2.0 * sl.smooth_l1_loss(operands[0], operands[1], beta=0.7)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert jax_gpu.is_working(jax.devices("cpu")[0])
    assert gpu.launched == 2  # the trial and the call, neither of them part of the program
    program = str(jax.make_jaxpr(lambda scale: scale * sl.smooth_l1_loss(x, target))(2.0))
    assert "ffi_call" not in program


@pytest.fixture
def interrupts():
    """Interrupts raise KeyboardInterrupt, also where the tests run in the background (ignored)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_xla(gpu, operands, monkeypatch, interrupts):
    x, target = map(jnp.asarray, operands)
    stream_of = frames.stream_of

    def interrupted(frame):
        if current_thread() is main_thread():  # XLA may call from a thread of its own
            signal.raise_signal(signal.SIGINT)
        return stream_of(frame)

    def call_often():
        for _ in range(100):
            sl.smooth_l1_loss(x, target, beta=0.7).block_until_ready()

    with monkeypatch.context() as patch:
        patch.setattr(frames, "stream_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call_often()
    assert 1 <= gpu.launched < 100  # the interrupted one too, and none after it


def test_slopes_in_numbers_and_lists(gpu, operands):
    x, target = jnp.asarray(operands[0]), operands[1]
    for other, own in ((0.5, ()), (target[0].tolist(), (11,)), (target.tolist(), (6, 11))):
        for options in ({"axis": 1}, {}, {"reduction": "none"}):
            got = sl.smooth_l1_grad(x, other, beta=0.7, wrt="target", **options)
            there = np.asarray(other, np.float32)
            wanted = sl.smooth_l1_grad(operands[0], there, beta=0.7, wrt="target", **options)
            assert got.shape == own
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)
            got = sl.smooth_l1_value_and_grad(other, x, beta=0.7, **options)
            wanted = sl.smooth_l1_value_and_grad(there, operands[0], beta=0.7, **options)
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_devices_are_those_of_cuda():
    def device(platform, version):
        client = type("Client", (), {"platform_version": version})
        return type("Device", (), {"platform": platform, "client": client})

    assert jax_gpu.is_cuda(device("gpu", "PJRT C API\ncuda 13000"))
    assert not jax_gpu.is_cuda(device("gpu", "PJRT C API\nrocm 60000"))
    assert not jax_gpu.is_cuda(device("cpu", "cpu"))
    assert not jax_gpu.is_cuda(jax.devices("cpu")[0])


# The layout of frames.


def fake_frame(**functions):
    """Frame with functions of Python's; keep what comes with it."""
    table = frames.Functions(size=ctypes.sizeof(frames.Functions))
    kept = [table]
    for name, function in functions.items():
        pointer = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(function)
        setattr(table, name, ctypes.cast(pointer, ctypes.c_void_p))
        kept.append(pointer)
    return frames.Frame(functions=ctypes.pointer(table), context=77), kept


def test_streams_and_memory_are_asked_for():
    seen = []

    def stream(address):
        request = frames.StreamRequest.from_address(address)
        seen.append((request.size, request.context))
        request.stream = 0x1234

    def allocate(address):
        request = frames.MemoryRequest.from_address(address)
        seen.append((request.size, request.context, request.bytes, request.alignment))
        request.data = 0x5678

    def free(address):
        request = frames.Return.from_address(address)
        seen.append((request.size, request.context, request.bytes, request.data))

    frame, kept = fake_frame(stream=stream, allocate=allocate, free=free)
    assert STREAM_OF(frame) == 0x1234
    assert ALLOCATE(frame, 24) == 0x5678
    FREE(frame, 0x5678, 24)
    assert seen == [(32, 77), (48, 77, 24, 256), (40, 77, 24, 0x5678)]
    assert len(kept) == 4


def test_refusals_of_xla_are_errors():
    text, destroyed = ctypes.create_string_buffer(b"all taken"), []

    def message_of(address):
        question = frames.ErrorQuestion.from_address(address)
        assert question.error == 99
        question.message = ctypes.cast(text, ctypes.c_char_p)

    def destroy(address):
        destroyed.append(frames.ErrorQuestion.from_address(address).error)

    frame, _kept = fake_frame(
        stream=lambda _: 99, allocate=lambda _: 99, message_of=message_of, destroy_error=destroy
    )
    with pytest.raises(RuntimeError, match="all taken"):
        STREAM_OF(frame)
    with pytest.raises(MemoryError, match="no 24 bytes on the device: all taken"):
        ALLOCATE(frame, 24)
    assert destroyed == [99, 99]
    frame.functions.contents.size -= 8
    with pytest.raises(NotImplementedError, match="does not name the device"):
        frames.device_of(frame)


LAYOUT = {
    frames.Frame: ("XLA_FFI_CallFrame", "api ctx stage args rets attrs"),
    frames.Functions: (
        "XLA_FFI_Api",
        "api_version . XLA_FFI_Error_Create XLA_FFI_Error_GetMessage XLA_FFI_Error_Destroy . "
        "XLA_FFI_Stream_Get . . . . XLA_FFI_DeviceMemory_Allocate XLA_FFI_DeviceMemory_Free "
        ". . . . . . XLA_FFI_DeviceOrdinal_Get",
    ),
    frames.Buffer: ("XLA_FFI_Buffer", "dtype data rank dims"),
    frames.Buffers: ("XLA_FFI_Args", "size types args"),
    frames.Attributes: ("XLA_FFI_Attrs", "size types names attrs"),
    frames.Text: ("XLA_FFI_ByteSpan", "ptr len"),
    frames.Version: ("XLA_FFI_Api_Version", "major_version minor_version"),
    frames.Metadata: ("XLA_FFI_Metadata", "api_version"),
    frames.Question: ("XLA_FFI_Metadata_Extension", ". . . metadata"),
    frames.ErrorRequest: ("XLA_FFI_Error_Create_Args", "message errc"),
    frames.ErrorQuestion: ("XLA_FFI_Error_GetMessage_Args", "error message"),
    frames.StreamRequest: ("XLA_FFI_Stream_Get_Args", "ctx stream"),
    frames.DeviceRequest: ("XLA_FFI_DeviceOrdinal_Get_Args", "ctx device_ordinal"),
    frames.MemoryRequest: ("XLA_FFI_DeviceMemory_Allocate_Args", "ctx size alignment data"),
    frames.Return: ("XLA_FFI_DeviceMemory_Free_Args", "ctx size data"),
}


def test_the_layout_is_that_of_the_header(tmp_path):
    """A C++ compiler prints where the fields of XLA's own header are."""
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    compiler = next((c for c in ("g++", "clang++") if shutil.which(c)), None)
    if compiler is None or not header.exists():
        pytest.skip("needs a C++ compiler and the header that comes with jaxlib")
    wanted, lines = [], []
    for structure, (name, fields) in LAYOUT.items():
        own = [n for n, _ in structure._fields_ if n not in ("size", "extension")]
        own = [n for n, _ in structure._fields_] if structure is frames.Question else own
        for field, theirs in zip(own, fields.split(), strict=False):
            if theirs != ".":
                wanted.append(getattr(structure, field).offset)
                lines.append(f"offsetof({name}, {theirs})")
    source = tmp_path / "layout.cpp"
    source.write_text(
        f'#include <cstddef>\n#include <cstdio>\n#include "{header}"\nint main() {{\n'
        + "".join(f'std::printf("%zu ", {line});\n' for line in lines)
        + 'std::printf("%d %d %d\\n", XLA_FFI_API_MAJOR, XLA_FFI_Error_Code_INTERNAL, '
        "XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);\n}\n"
    )
    program = tmp_path / "layout"
    subprocess.run([compiler, "-w", "-o", program, source], check=True, timeout=120)
    printed = subprocess.run([program], check=True, capture_output=True, timeout=60).stdout
    *offsets, major, internal, exhausted = map(int, printed.split())
    assert offsets == wanted
    assert (major, internal, exhausted) == (
        frames.VERSION[0], frames.INTERNAL, frames.EXHAUSTED,
    )  # fmt: skip


def test_arrays_on_the_cpu_never_come_here(operands):
    before = jax_gpu._program.cache_info()
    x, target = map(jnp.asarray, operands)
    assert not jax_gpu.takes({"x": x, "target": target})
    sl.smooth_l1_loss(x, target, weight=2.0)
    assert jax_gpu._program.cache_info() == before
