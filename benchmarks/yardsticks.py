"""Two bare numba kernels, written with nothing in mind but speed: the limit of the machine.

`add_up` reads two arrays, `subtract` reads two and writes one, also into memory that it asks
the system for at each call. What reads or writes as much can hardly take less time.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(parallel=True, fastmath=True)
def add_up(x, target):
    total = x.dtype.type(0)
    for i in prange(x.size):
        total += x[i] + target[i]
    return total


@njit(parallel=True)
def subtract(x, target, grad):
    for i in prange(x.size):
        grad[i] = x[i] - target[i]


def bytes_of(name, call):
    """Bytes that a yardstick moves for a call."""
    return (2 if name == "add_up" else 3) * call.size * call.x.itemsize


def yardsticks(call):
    """Yardsticks for a call, by name: by what it writes, on as many elements.

    float16, which numba does not compute with, is moved as the integers of its size.
    """
    dtype = np.int16 if call.x.dtype == np.float16 else call.x.dtype.newbyteorder("=")
    n = call.size
    rng = np.random.default_rng(1)
    x, target = (rng.integers(-99, 99, n, dtype=np.int8).astype(dtype) for _ in range(2))
    if call.writes_elements:
        grad = np.empty_like(x)
        return {
            "subtract": lambda: subtract(x, target, grad),
            "subtract, new memory": lambda: subtract(x, target, np.empty_like(x)),
        }
    return {"add_up": lambda: add_up(x, target)}
