"""Eight rows out of columns of eight neighbours: squares of items turned in registers."""

from __future__ import annotations

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic

from .jit import helper
from .memory import copy

ROWS = 8


@helper
def turn(source, step, target, pitch, columns, itemsize):
    """Store columns of eight neighbours, ``step`` bytes apart, as rows ``pitch`` bytes apart."""
    whole = columns // ROWS * ROWS
    if itemsize == 8:
        _turn_squares(source, step, target, pitch, whole, 8, np.uint64)
    elif itemsize == 4:
        _turn_squares(source, step, target, pitch, whole, 4, np.uint32)
    elif itemsize == 2:
        _turn_squares(source, step, target, pitch, whole, 2, np.uint16)
    else:
        _turn_squares(source, step, target, pitch, whole, 1, np.uint8)
    for column in range(whole, columns):
        copy(target + column * itemsize, pitch, source + column * step, itemsize, itemsize, ROWS)


@helper
def _turn_squares(source, step, target, pitch, columns, size, dtype):
    for column in range(0, columns, ROWS):
        _turn_square(source + column * step, step, target + column * size, pitch, dtype(0))


@intrinsic
def _turn_square(typing_context, source, step, target, pitch, example):
    """Turn one square of items like ``example``."""

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(ir.IntType(example.bitwidth), ROWS)
        columns = _load_vectors(builder, vector, args[0], args[1])
        distance = ROWS // 2
        while distance:
            columns = _exchange(builder, columns, distance)
            distance //= 2
        _store_vectors(builder, columns, args[2], args[3])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, example), codegen


def _load_vectors(builder, vector, address, step):
    loaded = []
    for _ in range(ROWS):
        load = builder.load(builder.inttoptr(address, vector.as_pointer()))
        load.align = 1
        loaded.append(load)
        address = builder.add(address, step)
    return loaded


def _store_vectors(builder, vectors, address, step):
    for vector in vectors:
        store = builder.store(vector, builder.inttoptr(address, vector.type.as_pointer()))
        store.align = 1
        address = builder.add(address, step)


def _exchange(builder, vectors, distance):
    """Swap the quarters off the diagonal of every square of twice the distance."""
    lanes = range(ROWS)
    low = [lane if not lane & distance else lane - distance + ROWS for lane in lanes]
    high = [lane + distance if not lane & distance else lane + ROWS for lane in lanes]
    kind = ir.VectorType(ir.IntType(32), ROWS)
    swapped = list(vectors)
    for i in lanes:
        if not i & distance:
            pair = vectors[i], vectors[i + distance]
            swapped[i] = builder.shuffle_vector(*pair, ir.Constant(kind, low))
            swapped[i + distance] = builder.shuffle_vector(*pair, ir.Constant(kind, high))
    return swapped
