"""JAX's arrays on the CPU, taken for arrays on a GPU that numba's simulator stands for.

XLA calls the handler as it would on a GPU, with frames of the same layout; only a stream
and memory, which it has on GPUs alone, come from here.
"""

import contextlib
import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np

from smoothl1 import backend, frames, jax_gpu, kinds, operations
from smoothl1.devices import SIZES

POISON = 0xFF  # every float is NaN


class Gpu:
    """What was asked of the device."""

    def __init__(self):
        self.launched, self.rooms, self.streams = 0, {}, 0

    def stream_of(self, frame):
        assert frames.device_of(frame) == 0
        self.streams += 1
        return 0

    def allocate(self, frame, size):
        room = np.full(size + 1, POISON, np.uint8)
        self.rooms[room.ctypes.data] = room
        return room.ctypes.data

    def free(self, frame, address, size):
        assert self.rooms.pop(address).size == size + 1


@contextlib.contextmanager
def gpu_of_jax():
    """Context in which the CPU of JAX is taken for a GPU."""
    gpu, run = Gpu(), jax_gpu.BUFFERS.run

    def counted(call):
        for name in {"out", "grad_out"} & call.arguments.keys():
            out = call.arguments[name]
            ctypes.memset(out.address, POISON, math.prod(out.shape) * SIZES[out.dtype])
        gpu.launched += 1
        return pool.submit(run, call).result()

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # begin here: threads of XLA take subnormal numbers for 0
        for owner, name, value in (
            (jax_gpu, "PLATFORM", "cpu"),
            (jax_gpu, "is_cuda", lambda device: True),
            (kinds, "_are_readable", lambda arrays: False),
            (backend, "short_ways", {}),
            (operations, "kind", None),
            (backend, "find_way", lambda kind: None),
            (frames, "stream_of", gpu.stream_of),
            (frames, "allocate", gpu.allocate),
            (frames, "free", gpu.free),
            (jax_gpu.BUFFERS, "run", counted),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield gpu
    assert not gpu.rooms
