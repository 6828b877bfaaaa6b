"""Products of GROUP rows with a vector, and of GROUP numbers with rows, in registers.

Rows times a vector lie side by side in lanes, and each adds one column after the other, as
a plain loop would: same bits in half of the time, as that loads, and for float32 converts,
number by number.
"""

from __future__ import annotations

from contextlib import contextmanager

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .plan import GROUP

QUAD = 4  # rows, and columns, of a square
DOUBLE, WORD = ir.DoubleType(), ir.IntType(64)
VECTOR = ir.VectorType(DOUBLE, QUAD)


@intrinsic
def multiply_group(typing_context, corner, step, factors, columns, sums, example):
    """Put the products of GROUP rows with so many factors into sums, all given by address.

    Rows are of items like ``example`` and lie ``step`` bytes apart.
    """

    def codegen(context, builder, signature, args):
        corner, step, factors, columns, sums, _ = args
        rows, item = _rows(builder, corner, step), context.get_value_type(example)
        squares = [rows[first : first + QUAD] for first in range(0, GROUP, QUAD)]
        totals = [cgutils.alloca_once_value(builder, VECTOR(None)) for _ in squares]
        for count, take in ((QUAD, _square), (1, _column)):
            with _by(builder, columns, count) as column:
                weights = [
                    _splat(builder, _load(builder, factors, column, k, DOUBLE))
                    for k in range(count)
                ]
                for square, total in zip(squares, totals, strict=True):
                    value = builder.load(total)
                    found = take(builder, square, column, item)
                    for values, weight in zip(found, weights, strict=True):
                        value = builder.fadd(value, builder.fmul(values, weight))
                    builder.store(value, total)
        for i, total in enumerate(totals):
            _store(builder, builder.load(total), sums, WORD(QUAD * i))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, example), codegen


@intrinsic
def add_group(typing_context, corner, step, factors, columns, sums, example):
    """Add GROUP rows, each times its factor, to sums; products of one column add up in pairs.

    Arguments are as those of `multiply_group`.
    """

    def codegen(context, builder, signature, args):
        corner, step, factors, columns, sums, _ = args
        rows, item = _rows(builder, corner, step), context.get_value_type(example)
        alone = [_load(builder, factors, WORD(row), 0, DOUBLE) for row in range(GROUP)]
        spread = [_splat(builder, weight) for weight in alone]
        for count, weights in ((QUAD, spread), (1, alone)):
            with _by(builder, columns, count) as column:
                values = [_doubles(builder, row, column, 0, item, count) for row in rows]
                terms = list(map(builder.fmul, values, weights))
                while len(terms) > 1:
                    terms = [builder.fadd(*terms[i : i + 2]) for i in range(0, len(terms), 2)]
                total = _load(builder, sums, column, 0, terms[0].type)
                _store(builder, builder.fadd(total, terms[0]), sums, column)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, example), codegen


@contextmanager
def _by(builder, columns, count):
    """Loop over squares of columns, or over the columns that are left."""
    whole = builder.and_(columns, WORD(-QUAD))
    low, high = (WORD(0), whole) if count == QUAD else (whole, columns)
    with cgutils.for_range_slice(builder, low, high, WORD(count), WORD) as (column, _):
        yield column


def _rows(builder, corner, step):
    return [builder.add(corner, builder.mul(step, WORD(row))) for row in range(GROUP)]


def _square(builder, rows, column, item):
    """Columns of a square."""
    columns = []
    for first in range(0, QUAD, 2):
        pairs = [_doubles(builder, row, column, first, item, 2) for row in rows]
        even, odd = (_shuffled(builder, pairs[i], pairs[i + 2], range(4)) for i in range(2))
        columns.append(_shuffled(builder, even, odd, (0, 4, 2, 6)))
        columns.append(_shuffled(builder, even, odd, (1, 5, 3, 7)))
    return columns


def _column(builder, rows, column, item):
    """One column."""
    values = ir.Constant(VECTOR, ir.Undefined)
    for lane, row in enumerate(rows):
        value = _doubles(builder, row, column, 0, item, 1)
        values = builder.insert_element(values, value, ir.IntType(32)(lane))
    return [values]


def _doubles(builder, address, index, more, item, count):
    """Neighbours, from ``index + more`` on, as float64."""
    kind, wide = item, DOUBLE
    if count > 1:
        kind, wide = ir.VectorType(item, count), ir.VectorType(DOUBLE, count)
    found = _load(builder, address, index, more, kind)
    return found if kind == wide else builder.fpext(found, wide)


def _load(builder, address, index, more, kind):
    size = 8 if getattr(kind, "element", kind) == DOUBLE else 4
    place = builder.add(address, builder.mul(builder.add(index, WORD(more)), WORD(size)))
    load = builder.load(builder.inttoptr(place, kind.as_pointer()))
    load.align = size
    return load


def _store(builder, value, address, index):
    place = builder.add(address, builder.mul(index, WORD(8)))
    builder.store(value, builder.inttoptr(place, value.type.as_pointer())).align = 8


def _splat(builder, value):
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    return _shuffled(builder, one, one, [0] * QUAD)


def _shuffled(builder, one, other, lanes):
    kind = ir.VectorType(ir.IntType(32), len(lanes))
    return builder.shuffle_vector(one, other, ir.Constant(kind, list(lanes)))
