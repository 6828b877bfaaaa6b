"""Small plain arrays of NumPy in one compiled call that looks at the arrays itself.

To call a kernel with two arrays takes 0.5 us: numba finds out their types and keeps
references to them. To ask arrays for types, flags and shapes beforehand takes as long.
These kernels get the addresses of the objects and read what they need where NumPy's
C interface says that it lies [1]_. They keep the GIL, so that nobody changes an array
meanwhile. `is_known` first compares all that they read with what NumPy says.

References
----------
.. [1] PyArrayObject and PyArray_Descr,
   https://numpy.org/doc/stable/reference/c-api/types-and-structures.html

"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from .blocks import accumulate
from .jit import Entries, brief_kernel, helper, inlined
from .memory import floats, room, view
from .plan import DEPTH, LANES
from .sums import add_elements, fold_lanes

HEAD = object.__basicsize__ // 8  # words that every object of Python begins with
DATA, NDIM, SIZES, STRIDES, DESCRIPTION, FLAGS = (HEAD + i for i in (0, 1, 2, 3, 5, 6))
TYPE = HEAD + 1  # in a description: a letter for the type, one for the byte order, a number
INT = 0xFFFFFFFF
PLAIN = 0x101  # flags of an array that is C-contiguous and aligned
DOUBLE, SINGLE = (
    np.dtype(kind).num << 24 | ord("=") << 8 | ord(np.dtype(kind).char)
    for kind in (np.float64, np.float32)
)
MOST = DEPTH * LANES  # elements of one block, which take as long as to give back the GIL
ROOM = LANES + MOST
UNFIT = -1.0  # returned for arrays that are not for these kernels: no loss is negative


@inlined
def _words(address, n):
    return view(address, n, np.int64)


@inlined
def _size(x, target, kind):
    """Number of elements of two plain arrays of one type and shape; 0 if they are not that."""
    ndim, flags = x[NDIM] & INT, x[FLAGS] & target[FLAGS] & PLAIN
    if flags != PLAIN or target[NDIM] & INT != ndim:
        return 0
    for array in (x, target):
        if _words(array[DESCRIPTION], TYPE + 1)[TYPE] >> 8 & ~0xFF0000 != kind:
            return 0
    sizes, others = _words(x[SIZES], ndim), _words(target[SIZES], ndim)
    size = 1
    for axis in range(ndim):
        if sizes[axis] != others[axis]:
            return 0
        size *= sizes[axis]
    return size if size <= MOST else 0


@helper
def total_of_block(x, target, beta, divisor, narrow, grad):
    """Sum of the losses of one block, as `kernels` make it, and the gradients."""
    lanes = view(room(ROOM), ROOM, np.float64)
    for lane in range(LANES):
        lanes[lane] = 0.0
    accumulate(
        x, target, beta, None, None, None, None, None, divisor, None, None, narrow, None, grad,
        lanes, None, None, 0, x.size, None, None, None, None,
    )  # fmt: skip
    add_elements(lanes, x.size)
    fold_lanes(lanes)
    return lanes[0]


@inlined
def _loss(x, target, beta, divides, narrow):
    xs, targets = _words(x, FLAGS + 1), _words(target, FLAGS + 1)
    size = _size(xs, targets, DOUBLE if narrow is None else SINGLE)
    if size == 0:
        return UNFIT
    total = total_of_block(
        floats(xs[DATA], size, narrow), floats(targets[DATA], size, narrow), beta, None, narrow,
        None,
    )  # fmt: skip
    return total / size if divides else total


@inlined
def _loss_and_grad(x, target, beta, divides, narrow, grad):
    xs, targets, grads = _words(x, FLAGS + 1), _words(target, FLAGS + 1), _words(grad, FLAGS + 1)
    kind = DOUBLE if narrow is None else SINGLE
    size = _size(xs, targets, kind)
    if size == 0 or _size(xs, grads, kind) == 0:
        return UNFIT
    divisor = np.float64(size) if divides else 1.0
    total = total_of_block(
        floats(xs[DATA], size, narrow), floats(targets[DATA], size, narrow), beta, divisor, narrow,
        floats(grads[DATA], size, narrow),
    )  # fmt: skip
    return total / divisor


@brief_kernel
def _loss_of_doubles(x, target, beta, divides):
    return _loss(x, target, beta, divides, None)


@brief_kernel
def _loss_of_singles(x, target, beta, divides):
    return np.float64(np.float32(_loss(x, target, beta, divides, True)))


@brief_kernel
def _loss_and_grad_of_doubles(x, target, beta, divides, grad):
    return _loss_and_grad(x, target, beta, divides, None, grad)


@brief_kernel
def _loss_and_grad_of_singles(x, target, beta, divides, grad):
    return np.float64(np.float32(_loss_and_grad(x, target, beta, divides, True, grad)))


class _Known(Entries):
    """Kernels by dtype; a function that takes no array for types without one."""

    def __missing__(self, dtype: np.dtype[Any]) -> Callable[..., float]:
        return super().__missing__(dtype) if dtype in TYPES and is_known() else _refuse


def _refuse(*arguments: Any) -> float:
    return UNFIT


TYPES = DOUBLES, SINGLES = np.dtype(np.float64), np.dtype(np.float32)
LOSS = _Known({
    DOUBLES: (_loss_of_doubles, "(int64, int64, float64, boolean)"),
    SINGLES: (_loss_of_singles, "(int64, int64, float64, boolean)"),
})  # fmt: skip
LOSS_AND_GRAD = _Known({
    DOUBLES: (_loss_and_grad_of_doubles, "(int64, int64, float64, boolean, int64)"),
    SINGLES: (_loss_and_grad_of_singles, "(int64, int64, float64, boolean, int64)"),
})  # fmt: skip


@lru_cache(maxsize=1)
def is_known() -> bool:
    """Whether the GIL is there, and NumPy's objects are laid out as the kernels expect."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    arrays = np.zeros((2, 3)), np.zeros(5, ">f4")[::2], np.zeros((), np.float32)
    return np.ndarray.__basicsize__ >= 8 * FLAGS + 8 and all(map(_is_laid_out, arrays))


def _is_laid_out(array: np.ndarray[Any, Any]) -> bool:
    def word(offset: int) -> int:
        return ctypes.c_int64.from_address(id(array) + 8 * offset).value

    if word(DATA) != array.ctypes.data or word(DESCRIPTION) != id(array.dtype):
        return False
    if word(NDIM) & INT != array.ndim or word(FLAGS) & INT != array.flags.num:
        return False
    if word(STRIDES) != word(SIZES) + 8 * array.ndim:
        return False
    sizes = (ctypes.c_int64 * array.ndim).from_address(word(SIZES)) if array.ndim else ()
    order = ord("=" if array.dtype.isnative else array.dtype.byteorder)
    kind = ctypes.c_int64.from_address(id(array.dtype) + 8 * TYPE).value >> 8 & ~0xFF0000
    known = array.dtype.num << 24 | order << 8 | ord(array.dtype.char)
    return tuple(sizes) == array.shape and kind == known
