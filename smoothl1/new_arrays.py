"""New arrays for large results, in memory of results that nobody has any longer.

The system fills new memory with zeros when it is first written to: for a gradient of 1e7
numbers that takes almost as long as to compute it. Malloc of glibc keeps what was freed of
arrays up to 32 MiB [1]_. Memory of larger ones is kept here, when the last array in it is
gone, for the next result of its size: 128 MiB at most, which the system may have back
whenever it is short of memory (``MADV_FREE`` [2]_).

References
----------
.. [1] M_MMAP_THRESHOLD in https://man7.org/linux/man-pages/man3/mallopt.3.html
.. [2] https://man7.org/linux/man-pages/man2/madvise.2.html

"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from typing import Any

import numpy as np

from .validate import Array

LINE = 64  # bytes; JAX adopts memory that begins with a line
WORTH_ALIGNING = 1 << 20  # bytes that take longer to copy than to align
LEAST = 32 << 20  # bytes of an array whose memory malloc would give back
MOST = 128 << 20  # bytes to be kept
_IS_POSSIBLE = sys.platform == "linux" and hasattr(mmap, "MADV_FREE")

_kept: list[mmap.mmap] = []  # changed by single calls only, as arrays may go at any time


class _Lent(np.ndarray[Any, np.dtype[Any]]):
    """First array in memory that is kept when the last one is gone."""

    memory: mmap.mmap | None = None

    def __del__(self) -> None:
        if self.memory is not None:
            _keep(self.memory)


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """As `numpy.empty`, but that large ones may not be resized in place."""
    array = _lent_array(shape, dtype)
    return np.empty(shape, dtype) if array is None else array


def aligned_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """New array that begins with a line of the cache."""
    array = _lent_array(shape, dtype)
    if array is not None:
        return array
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + LINE, np.uint8)
    skipped = -raw.ctypes.data % LINE
    return raw[skipped : skipped + size].view(dtype).reshape(shape)


def _lent_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """Array that begins with a page of memory to be kept; None if it is not worth that."""
    size = math.prod(shape) * dtype.itemsize
    memory = _memory(size) if _IS_POSSIBLE and LEAST <= size <= MOST else None
    if memory is None:
        return None
    lent = _Lent(shape, dtype, memory)
    lent.memory = memory
    return lent.view(np.ndarray)


def _memory(size: int) -> mmap.mmap | None:
    """Memory of that size, kept if there is some; None if the system has none."""
    try:
        memory = _kept.pop()
    except IndexError:
        return _new_memory(size)
    if len(memory) == size:
        return memory
    del memory
    _kept.clear()  # so that no call takes more than without any kept
    return _new_memory(size)


def _new_memory(size: int) -> mmap.mmap | None:
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a system without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _keep(memory: mmap.mmap) -> None:
    if sum(map(len, _kept)) + len(memory) > MOST:
        return
    try:
        memory.madvise(mmap.MADV_FREE)
    except OSError:
        return
    _kept.append(memory)
