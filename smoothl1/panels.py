"""Panels: eight rows of a transposed operand gathered at once.

Where neighbours in memory belong to neighbouring rows, every element of a row
lies in a line of memory of its own. The first of eight rows to be asked for
brings the other seven along, block by block of some columns, and they wait in
the cache. It is the raw bytes that wait; which blocks are there, and of which
operand, is written before them: the first operand that comes has the panel to
itself, as two would drive each other out.
"""

from __future__ import annotations

import numpy as np

from .descriptions import ITEMSIZE, NDIM, PANEL, PANEL_BYTES, SIZES, WIDTH, locate
from .jit import helper
from .memory import copy, view
from .plan import SPAN
from .turn import ROWS, turn

RAW = 8 * SPAN  # bytes of a run, before the panel
BLOCKS = PANEL_BYTES // (ROWS * WIDTH)  # at most: those of single bytes
HEADER = 8 * (BLOCKS + 8)  # the owner, and for each block where it is from
OWNER, PLACES = 0, 1
NOBODY, NOWHERE = 0, -1


@helper
def new_raw():
    """Room for the bytes of a run, and for a panel."""
    raw = np.empty(RAW + HEADER + PANEL_BYTES, np.uint8)
    view(raw.ctypes.data + RAW, 1, np.int64)[OWNER] = NOBODY
    return raw


@helper
def owns_panel(operand, raw):
    """Whether the panel serves this operand; it does so from the first call on."""
    if operand[PANEL] == 0:
        return False
    header = view(raw + RAW, PLACES + BLOCKS, np.int64)
    if header[OWNER] == NOBODY:
        header[OWNER] = operand.ctypes.data
        for block in range(operand[PANEL]):
            header[PLACES + block] = NOWHERE
    return header[OWNER] == operand.ctypes.data


@helper
def move_by_panel(operand, start, n, raw):
    """Copy n elements from ``start`` on into the bytes at ``raw``."""
    itemsize, ndim = operand[ITEMSIZE], operand[NDIM]
    columns, rows = operand[SIZES + ndim - 1], operand[SIZES + ndim - 2]
    places = view(raw + RAW, PLACES + BLOCKS, np.int64)
    done = 0
    while done < n:
        row, column = divmod(start + done, columns)
        inside = row % rows
        top = min(inside // ROWS * ROWS, rows - ROWS)  # the last eight may have been here before
        block, offset = divmod(column, WIDTH)
        first = (row - inside + top) * columns + block * WIDTH
        width = min(WIDTH, columns - block * WIDTH)
        address = raw + RAW + HEADER + block * ROWS * WIDTH * itemsize
        if places[PLACES + block] != first:
            places[PLACES + block] = first
            corner, _ = locate(operand, first)
            turn(corner, operand[operand.size - 1], address, WIDTH * itemsize, width, itemsize)
        count = min(width - offset, n - done)
        source = address + ((inside - top) * WIDTH + offset) * itemsize
        copy(raw + done * itemsize, itemsize, source, itemsize, itemsize, count)
        done += count
