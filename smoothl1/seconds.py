"""Every second float32 or float64: ``x[::2]``, or the real parts of complex numbers.

They are converted from where they lie, while those of a short while later are asked for:
three quarters of the time that copying them first takes.
"""

from __future__ import annotations

import numpy as np

from .jit import helper
from .memory import DISTANCE, prefetch_lines, read, view

PART = 64  # elements between two requests


@helper
def take_seconds(address, itemsize, values, n):
    """Fill n float64 at ``values`` with every second float of ``itemsize`` bytes."""
    whole = (n - 1) // PART * PART
    for first in range(0, whole, PART):
        here = address + 2 * itemsize * first
        for lines in range(0, itemsize, 4):
            prefetch_lines(here + DISTANCE + 128 * lines, 8)
        _take(here, itemsize, values + 8 * first, PART)
    rest = n - 1 - whole
    _take(address + 2 * itemsize * whole, itemsize, values + 8 * whole, rest)
    # What follows the last element may be beyond the end of the memory.
    out, last = view(values, n, np.float64), address + 2 * itemsize * (n - 1)
    out[n - 1] = read(last, np.float32(0)) if itemsize == 4 else read(last, np.float64(0))


@helper
def _take(address, itemsize, values, n):
    out = view(values, n, np.float64)
    if itemsize == 4:
        pairs = view(address, n, np.uint64)
        for i in range(np.uintp(n)):  # lower halves of 8 bytes: only that becomes vector code
            out[i] = np.uint32(pairs[i]).view(np.float32)
    else:
        doubles = view(address, 2 * n, np.float64)
        for i in range(np.uintp(n)):
            out[i] = doubles[np.uintp(2) * i]
