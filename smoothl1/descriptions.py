"""Descriptions: one vector of integers for an array of any layout and type."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .jit import helper
from .memory import view
from .plan import coalesce
from .turn import ROWS

# Fields of a description; sizes and then byte strides follow, outermost first.
FUNCTION, ADDRESS, CODE, ITEMSIZE, SWAPPED, ROUNDING, PANEL, NDIM, SIZES = range(9)

NAMES = (
    *("float64", "float32", "float16", "bfloat16", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
F64, F32, F16, BF16, BOOL, I8, I16, I32, I64, U8, U16, U32, U64 = range(len(NAMES))

WIDTH = 256  # columns of a block of a panel (see `panels`)
PANEL_BYTES = 3 << 17  # with all else, two threads take less than 2 MiB
BY_COLUMN = -1
PAGE = 4096
FILLED = 32  # elements of a row that are all one: so many are faster filled in than copied

ABSENT = np.zeros(SIZES, np.int64)  # in place of a description: leave the buffer alone

Array = np.ndarray[Any, np.dtype[Any]]


def describe(function: int, array: Array, order: tuple[int, ...], rounding: str) -> Array:
    """Describe an array, its axes taken in ``order``, for a function that moves its elements.

    ``rounding`` names the floating type that integers are rounded to.
    The caller keeps the array alive.
    """
    description = _layout(array.dtype, array.shape, array.strides, order, rounding).copy()
    description[FUNCTION] = function
    description[ADDRESS] = array.ctypes.data
    return description


@lru_cache(maxsize=1024)
def _layout(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    steps: tuple[int, ...],
    order: tuple[int, ...],
    rounding: str,
) -> Array:
    """Description that lacks only the addresses."""
    sizes, strides = coalesce([shape[a] for a in order], [steps[a] for a in order])
    code = NAMES.index(dtype.name)
    rounded = NAMES.index(rounding) if code > BOOL else F64
    panel = _panel(sizes, strides, dtype.itemsize)
    fields = (0, 0, code, dtype.itemsize, not dtype.isnative, rounded, panel, len(sizes))
    return np.array((*fields, *sizes, *strides), dtype=np.int64)


def _panel(sizes: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """Blocks of a row of a panel, BY_COLUMN for short rows, or 0: row by row."""
    columns = sizes[-1]
    if len(sizes) < 2 or sizes[-2] < ROWS:
        return 0
    if columns < ROWS:  # rows a multiple of a page apart all lie in one set of the L1 cache
        return 0 if strides[-2] % PAGE == 0 and strides[-1] == itemsize else BY_COLUMN
    if strides[-2] != itemsize or (strides[-1] == 0 and columns >= FILLED):
        return 0
    if columns < WIDTH:
        return BY_COLUMN
    blocks = -(-columns // WIDTH)
    return blocks if blocks * ROWS * WIDTH * itemsize <= PANEL_BYTES else 0


@helper
def described(address):
    """The description at an address."""
    ndim = view(address, SIZES, np.int64)[NDIM]
    return view(address, SIZES + 2 * ndim, np.int64)


@helper
def locate(operand, position):
    """Address of an element, and how many follow it on the innermost axis."""
    ndim = operand[NDIM]
    address = operand[ADDRESS]
    left = 0
    for axis in range(ndim - 1, -1, -1):
        size = operand[SIZES + axis]
        index = position % size
        position //= size
        address += index * operand[SIZES + ndim + axis]
        if axis == ndim - 1:
            left = size - index
    return address, left
