"""Set-up of numba's simulator of GPUs, which runs every thread as one of Python's.

Blocks are tiny, so that small arrays make ragged grids. The simulator's fused
multiplication and addition rounds twice; here it rounds once, as on a GPU. It tells
shared arrays apart by their lines alone, and reads the source for each. Its
threads run all at once while their launcher asks in a loop which of them wait;
here they run in turn, each as far as the next barrier, in every second block the
last one first, so that a barrier that is missing shows in every run: threads then
read what others have not written yet, or have written already.
"""

import os
import sys
from _thread import allocate_lock
from itertools import cycle

import numpy as np
from numba.cuda.simulator import kernel
from numba.cuda.simulator.kernelapi import FakeCUDAModule, FakeCUDAShared
from numba.np.numpy_support import as_dtype

from smoothl1 import boxes, cuda_boxes, cuda_crossing, cuda_folds, cuda_launch, cuda_sums

cuda_folds.THREADS = 4
cuda_launch.LEAST_BLOCKS = 1
cuda_sums.WARP, cuda_sums.FEW_ROWS, cuda_sums.ROWS_PER_THREAD = 2, 2, 4
cuda_sums.FLAT_CHUNK = 32  # elements: several blocks for a hundred elements
cuda_sums.MOST_PARTS, cuda_sums.FEW_PARTS = 2, 1
boxes.SIDE_BY_SIDE, cuda_boxes.ROOM, cuda_boxes.BANKS = 4, 256, 3  # 8 to 32 elements
cuda_crossing.SHARE = 1e9  # boxes wherever there can be some


def keep_to_one_core():
    """Threads that take turns wait for each other less where other processes are busy too."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def fma(module, a, b, c):
    """Rounded once where the sum is exact in float64, as that of a product and its rounding is."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


FakeCUDAModule.fma = fma


def shared_array(shared, shape, dtype):
    """Array that the threads of a block have in common: one for each line of code and shape."""
    frame = sys._getframe(1)
    key = frame.f_code, frame.f_lineno, shape
    if key not in shared._allocations:
        shared._allocations[key] = np.empty(shape, as_dtype(dtype))
    return shared._allocations[key]


FakeCUDAShared.array = shared_array


class Turn(kernel.BlockThread):
    """A thread of a block that runs when told to, up to its next barrier or its end."""

    def __init__(self, *args):
        super().__init__(*args)
        self._go, self._stopped, self.ended = allocate_lock(), allocate_lock(), False
        self._go.acquire()
        self._stopped.acquire()

    def take(self):
        """Run on; return when the thread waits at a barrier or has ended."""
        if self.ident is None:
            self.start()
        else:
            self._go.release()
        self._stopped.acquire()

    def run(self):
        super().run()
        self.ended = True
        self._stopped.release()

    def syncthreads(self):
        self._stopped.release()
        self._go.acquire()
        if self.abort:
            raise RuntimeError("another thread of the block failed")


directions = cycle([1, -1])


def run_block(block, grid_point, *args):
    """Run the threads of a block between barriers one after the other."""
    threads = [
        Turn(lambda: block._f(*args), block, grid_point, point, block._debug)
        for point in np.ndindex(*block._block_dim)
    ]
    threads = threads[:: next(directions)]
    while threads:
        for thread in threads:
            thread.take()
        failed = next((thread for thread in threads if thread.exception), None)
        threads = [thread for thread in threads if not thread.ended]
        if failed:
            for thread in threads:
                thread.abort = True
                thread.take()
            raise failed.exception[0].with_traceback(failed.exception[1])


kernel.BlockManager.run = run_block
