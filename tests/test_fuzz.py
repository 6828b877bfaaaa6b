"""Calls with everything at once, against the definition; and calls with nonsense."""

import math

import numpy as np
import pytest
from cases import LAYOUTS, dtype_of
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference

import smoothl1 as sl

FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int8", "uint8", "int16", "int32", "uint32", "int64")
EPSILON = {"float64": 1e-13, "float32": 2.5e-7, "float16": 2e-3, "bfloat16": 1.6e-2}
SMALLEST = {"float64": 1e-13, "float32": 1e-13, "float16": 2e-7, "bfloat16": 1e-13}
MOST = 200  # elements


@st.composite
def operands(draw, shape, dtypes, positive=False):
    """Array of a shape that broadcasts to this one, of any type and layout."""
    shape = shape[draw(st.integers(0, len(shape))) :]
    shape = tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in shape)
    kind = draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = np.array(rng.normal(0, 2, shape).round(2))
    if positive or kind.startswith("uint"):
        values = np.array(np.abs(values))
    if not positive and kind in FLOATS and values.size and draw(st.integers(0, 9)) == 0:
        values[(0,) * values.ndim] = draw(st.sampled_from([np.nan, np.inf, -np.inf, -0.0, 1e4]))
    array = np.asarray(values).astype(dtype_of(kind))
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](array)


@st.composite
def shapes(draw):
    shape, left = [], MOST
    for _ in range(draw(st.integers(0, 5))):
        shape.append(draw(st.sampled_from([n for n in (0, 1, 2, 3, 5, 7) if n <= left])))
        left //= max(1, shape[-1])
    return tuple(shape)


@st.composite
def calls(draw):
    """Function and arguments that are allowed."""
    shape = draw(shapes())
    arguments = {
        "x": draw(operands(shape, FLOATS + INTEGERS)),
        "target": draw(operands(shape, FLOATS + INTEGERS)),
    }
    if draw(st.booleans()):
        arguments["weight"] = draw(operands(shape, FLOATS + INTEGERS, positive=True))
    if draw(st.booleans()):
        arguments["where"] = draw(operands(shape, ("float64",))) < 1
    beta = st.sampled_from([0.0, 1e-3, 0.3, 1.0, 2.5, 1e4])
    arguments["beta"] = draw(beta | operands(shape, FLOATS, positive=True))
    ndim = len(np.broadcast_shapes(*(np.shape(value) for value in arguments.values())))
    reduction = draw(st.sampled_from(["mean", "sum", "none", "auto"]))
    arguments["reduction"] = reduction
    if reduction != "none":
        axes = draw(st.none() | st.sets(st.integers(0, ndim - 1)) if ndim else st.none())
        arguments["axis"] = None if axes is None else tuple(sorted(axes))
        arguments["keepdims"] = draw(st.booleans())
        if reduction != "sum" and draw(st.integers(0, 4)) == 0:
            arguments["normalizer"] = 2.5
    function = draw(st.sampled_from(["loss", "grad", "hess", "value_and_grad", "huber"]))
    wrt = draw(st.sampled_from(["x", "target"]))
    return function, arguments, wrt, draw(st.integers(0, 3)), draw(st.integers(0, 2**16))


def floating(arguments):
    """Name of the floating type of the result, from the table of the contract."""
    arrays = [arguments[name] for name in ("x", "target", "weight") if name in arguments]
    names = {array.dtype.name for array in arrays} & set(FLOATS)
    if not names or "float64" in names:
        return "float64"
    return names.pop() if len(names) == 1 else "float32"


def exact(arguments, kind):
    """Operands in float64, integers rounded to the type of the others before."""
    taken = dict(arguments)
    for name in ("x", "target", "weight", "beta"):
        if isinstance(taken.get(name), np.ndarray):
            values = taken[name]
            if values.dtype.kind in "iu":
                values = values.astype(dtype_of(kind))
            taken[name] = values.astype(np.float64)
    return taken


def compare(got, wanted, kind):
    assert np.shape(got) == np.shape(wanted)
    assert got.dtype == dtype_of(kind)
    with np.errstate(all="ignore"):
        rounded = np.asarray(wanted).astype(dtype_of(kind)).astype(np.float64)
    np.testing.assert_allclose(
        np.asarray(got).astype(np.float64), rounded, rtol=EPSILON[kind], atol=SMALLEST[kind]
    )


def run(call):
    function, arguments, wrt, use, seed = call
    kind = floating(arguments)
    reference = Reference(**exact(arguments, kind))
    before = {n: v.copy() for n, v in arguments.items() if isinstance(v, np.ndarray)}
    rng = np.random.default_rng(seed)
    if function == "loss":
        out = np.full(reference.loss().shape, np.nan, dtype_of(kind)) if use == 0 else None
        compare(sl.smooth_l1_loss(**arguments, out=out), reference.loss(), kind)
    elif function == "huber":
        beta = arguments["beta"]
        if isinstance(beta, float):
            rest = {n: v for n, v in arguments.items() if n != "beta"}
            compare(sl.huber_loss(**rest, delta=beta), beta * reference.loss(), kind)
    elif function == "grad":
        upstream = rng.normal(size=reference.loss().shape).round(1) if use < 2 else None
        got = sl.smooth_l1_grad(**arguments, wrt=wrt, grad_output=upstream)
        compare(got, reference.grad(wrt, upstream), kind)
    elif function == "hess":
        compare(sl.smooth_l1_hess(**arguments), reference.hess(), kind)
    else:
        loss, grad = sl.smooth_l1_value_and_grad(**arguments, wrt=wrt)
        compare(loss, reference.loss(), kind)
        compare(grad, reference.grad(wrt), kind)
        alone = np.asarray(sl.smooth_l1_loss(**arguments))
        np.testing.assert_array_equal(np.asarray(loss), alone)
    for name, values in before.items():
        assert arguments[name].tobytes() == values.tobytes(), name


@settings(max_examples=500)
@given(calls())
def test_calls(call):
    run(call)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(calls())
def test_many_calls(call):
    run(call)


ARRAYS = [
    np.zeros(3), np.zeros((2, 3)), np.zeros((3, 1), np.float32), np.zeros(0), np.arange(3),
    np.zeros(4), np.zeros(3, complex), np.zeros(3, bool), np.zeros(3, "M8[s]"),
    np.zeros(3, "U3"), np.zeros(3, object), np.ma.zeros(3), np.zeros((1, 3)).view(np.matrix),
    np.zeros(3, np.longdouble), np.full(3, np.nan), np.full(3, -1.0),
]  # fmt: skip
JUNK = [
    None, True, False, 0, 1, -1, 7, 10**400, 0.5, -0.5, math.nan, math.inf, 1j, "mean", "x", "",
    b"", [], [1.0, 2.0, 3.0], [[1.0], [2.0, 3.0]], ["a"], (), (0,), (0, 0), (0, "a"), {},
    {"a": 1}, {1, 2}, object(), lambda: 0, np.float64, np.float32(0.5), np.True_,
    np.datetime64("now", "s"), "float16", range(3), iter([1.0]), slice(None), Ellipsis,
    np.random.default_rng(0),
]  # fmt: skip
NAMES = ("x", "target", "beta", "delta", "reduction", "axis", "keepdims", "weight", "where",
         "normalizer", "dtype", "out", "grad_out", "wrt", "grad_output")  # fmt: skip
FUNCTIONS = {
    sl.smooth_l1_loss: NAMES[:3] + NAMES[4:12], sl.smooth_l1_hess: NAMES[:3] + NAMES[4:12],
    sl.huber_loss: NAMES[:2] + NAMES[3:12],
    sl.smooth_l1_grad: NAMES[:3] + NAMES[4:12] + NAMES[13:],
    sl.smooth_l1_value_and_grad: NAMES[:3] + NAMES[4:14],
}  # fmt: skip


@st.composite
def nonsense(draw):
    function = draw(st.sampled_from(list(FUNCTIONS)))
    anything = st.sampled_from(range(len(ARRAYS) + len(JUNK)))
    chosen = draw(st.sets(st.sampled_from(FUNCTIONS[function]), max_size=4))
    arguments = {name: (ARRAYS + JUNK)[draw(anything)] for name in sorted(chosen)}
    for name in ("x", "target"):
        arguments.setdefault(name, ARRAYS[draw(st.integers(0, 3))])
    return function, arguments


def survive(call):
    function, arguments = call
    message = None
    try:
        function(**arguments)
    except (TypeError, ValueError) as error:
        message = str(error)
    if message is not None:
        words = set(message.replace(",", " ").replace(":", " ").split())
        assert words & set(FUNCTIONS[function]), message


@settings(max_examples=1000)
@given(nonsense())
def test_nonsense_is_refused_by_name(call):
    survive(call)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(nonsense())
def test_much_nonsense_is_refused_by_name(call):
    survive(call)
