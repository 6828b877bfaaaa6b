"""Compile every kernel that calls with arrays on a GPU would launch, without a GPU.

The library runs as it would: it describes arrays, chooses kernels and builds
their arguments. What has no driver here is replaced: arrays are addresses of
nothing, and a launch compiles the kernel for the types of its arguments.

    python driverless.py 7.5 9.0

prints a JSON line for each kernel and compute capability: its name, its PTX
and what the assembler says of the machine code. What numba does before it
hands the code to NVVM is the same for all, and done once.
"""

import contextlib
import itertools
import json
import re
import sys
from types import SimpleNamespace

import numba.cuda.compiler
import numba.cuda.dispatcher
import numpy as np
from cuda.bindings import nvjitlink
from numba import cuda as numba_cuda
from numba import types
from numba.cuda.cudadrv import devices as numba_devices
from numba.cuda.np import numpy_support
from numba.cuda.typing.typeof import typeof

import smoothl1 as sl
from smoothl1 import (
    cuda_arguments,
    cuda_boxes,
    cuda_flat,
    cuda_folds,
    cuda_forms,
    cuda_kernels,
    cuda_launch,
    cuda_rows,
    cuda_sums,
    devices,
    views,
)
from smoothl1.validate import named_dtype

CAPABILITIES = [tuple(map(int, name.split("."))) for name in sys.argv[1:]]
STREAM = 77
KERNELS = {
    "flat": cuda_flat,
    "sums": cuda_rows,
    "mixed": cuda_rows,
    "box": cuda_boxes,
    **dict.fromkeys(("fold", "squeeze"), cuda_folds),
    **dict.fromkeys(("total", "spread", "copy"), cuda_kernels),
}


class Nowhere:
    """Array of a GPU that is not there, 16 bytes off any other."""

    __cuda_ndarray__ = True
    places = itertools.count(1 << 40, 1 << 33)
    stream = STREAM

    def __init__(self, shape, dtype, strides=None):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.strides = strides or tuple(
            self.dtype.itemsize * int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))
        )
        place = next(self.places)
        self.__cuda_array_interface__ = {"data": (place, False)}


def argument(address, shape, typestr, owner):
    """Array as kernels take it: only its type matters."""
    kind = types.Array(numpy_support.from_dtype(np.dtype(typestr)), len(shape), "C")
    assert numba_array(address, shape, typestr, owner)._numba_type_ == kind
    return SimpleNamespace(_numba_type_=kind, address=address, shape=shape)


def assemble(ptx, capability):
    """Machine code of some PTX, and what the assembler says of it."""
    handle = nvjitlink.create(2, [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose"])
    data = ptx.encode()
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "kernel")
    nvjitlink.complete(handle)
    code = bytearray(nvjitlink.get_linked_cubin_size(handle))
    nvjitlink.get_linked_cubin(handle, code)
    log = bytearray(nvjitlink.get_info_log_size(handle))
    nvjitlink.get_info_log(handle, log)
    return bytes(code), log.decode(errors="replace")


numba_array = cuda_arguments.device_array
compiled = {}


class Launcher:
    """Stands for a kernel: a launch compiles it."""

    def __init__(self, name, kernel, form):
        self.name, self.kernel, self.form = name, kernel, form

    def __getitem__(self, configuration):
        blocks, threads, stream = configuration
        assert 128 <= blocks < 2**31  # fewer, and numba warns
        assert 0 < threads <= 1024
        assert getattr(stream, "handle", stream) == STREAM
        return self.compile

    def compile(self, *arguments):
        signature = tuple(typeof(argument) for argument in arguments)
        key = self.name, self.form, signature
        if key not in compiled:
            compiled[key], _ = numba.cuda.compiler._compile_pyfunc_with_fixup(
                self.kernel.py_func, types.void(*signature), device=False, abi="numba",
                cc=CAPABILITIES[0],
            )  # fmt: skip


def record():
    """Put stand-ins in the places of what needs a driver."""
    device = SimpleNamespace(compute_capability=CAPABILITIES[0])
    numba.cuda.dispatcher.get_current_device = lambda: device
    numba_cuda.gpus = [contextlib.nullcontext()]
    numba_cuda.device_array = lambda shape, dtype, strides=None, stream=0: Nowhere(
        shape, dtype, strides
    )
    numba_cuda.external_stream = lambda handle: SimpleNamespace(handle=handle)
    views.check_for_gpus = lambda: None
    numba_devices._runtime.ensure_context = contextlib.nullcontext
    numba_devices._runtime.get_or_create_context = lambda number: SimpleNamespace()
    for module in (cuda_arguments, cuda_launch, cuda_sums):
        module.device_array = argument
    type(devices.NUMBA).device = lambda self, array: 0
    for name, home in KERNELS.items():
        make = getattr(home, f"{name}_kernel")

        def launcher(form, *rest, make=make, name=name):
            return Launcher(f"{name}{rest}", make(form, *rest), form)

        setattr(home, f"{name}_kernel", launcher)


def calls(dtype):
    """Every kind of call with arrays of a dtype."""
    n = 1 << 20
    x, target = Nowhere((n,), dtype), Nowhere((n,), dtype)
    for options in ({}, {"reduction": "none"}):
        sl.smooth_l1_loss(x, target, beta=0.3, **options)
        sl.smooth_l1_value_and_grad(x, target, beta=0.3, **options)
    sl.smooth_l1_grad(x, target, beta=0.3)
    sl.smooth_l1_hess(x, target, beta=0.3)
    sl.huber_loss(x, target, delta=0.3)
    images, row = Nowhere((64, 64, 56, 56), dtype), Nowhere((64, 1, 1), dtype)
    many = Nowhere((10**6, 4), dtype)
    for axis in (1, 0):
        sl.smooth_l1_loss(many, many, beta=0.3, axis=axis)
    sl.smooth_l1_value_and_grad(images, images, beta=0.3, axis=(0, 2))
    sl.smooth_l1_grad(row, images, beta=0.3)
    sl.smooth_l1_value_and_grad(row, images, beta=0.3)
    sl.smooth_l1_value_and_grad(images, row, beta=0.3)
    column = Nowhere((10**6, 1), dtype)
    sl.smooth_l1_value_and_grad(column, many, beta=0.3)
    sl.smooth_l1_value_and_grad(column, many, beta=0.3, axis=0)
    sl.smooth_l1_value_and_grad(images, row, beta=0.3, axis=(0, 2), wrt="target")
    kept = Nowhere((64, 1, 56, 56), bool)
    everything = {"weight": row, "where": kept, "beta": Nowhere((56,), dtype)}
    sl.smooth_l1_value_and_grad(images, row, **everything)
    sl.smooth_l1_value_and_grad(images, row, axis=1, **everything)
    sl.smooth_l1_grad(images, row, grad_output=Nowhere((), dtype), **everything)
    sl.smooth_l1_hess(images, row, **everything)
    apart = Nowhere((n,), dtype, (2 * np.dtype(dtype).itemsize,))
    sl.smooth_l1_value_and_grad(apart, target, beta=0.3)
    sl.smooth_l1_loss(apart, target, beta=0.3, weight=target)
    here, size = Nowhere((n + 1,), dtype), np.dtype(dtype).itemsize
    there = Nowhere((n,), dtype)
    there.__cuda_array_interface__["data"] = (
        here.__cuda_array_interface__["data"][0] + size,
        False,
    )
    sl.smooth_l1_grad(here_but_last(here), target, beta=0.3, out=there)


def here_but_last(array):
    part = Nowhere((array.shape[0] - 1,), array.dtype)
    part.__cuda_array_interface__ = array.__cuda_array_interface__
    return part


def main():
    record()
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        calls(named_dtype(dtype))
    large = Nowhere((2**32, 3), "float32")
    sl.smooth_l1_loss(large, Nowhere((3,), "int8"), beta=0.3, axis=0)
    for capability, (key, library) in itertools.product(CAPABILITIES, compiled.items()):
        name, form, _ = key
        ptx = library.get_asm_str(cc=capability)
        if not isinstance(form, cuda_forms.Form):
            form = cuda_forms.Form(("",) * len(cuda_forms.OPERANDS))
        code, log = assemble(ptx, capability)
        found = re.findall(r"(\d+) registers|(\d+) bytes stack|(\d+) bytes spill", log)
        line = {"capability": capability, "name": name, "reads": form.reads,
                "writes": form.writes, "wide": form.wide, "ptx": ptx, "bytes": len(code),
                "log": log, "found": found}  # fmt: skip
        print(json.dumps(line))


if __name__ == "__main__":
    main()
