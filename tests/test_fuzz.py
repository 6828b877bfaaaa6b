"""Calls with everything at once, against the definition; and calls with nonsense."""

import importlib.util
import math

import numpy as np
import pytest
from cases import LAYOUTS, dtype_of
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference
from test_semantics import Kind, all_dtypes

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
    kind = draw(st.sampled_from(["NUMPY", "NUMPY", "TORCH", "STRICT", "JAX"]))
    return kind, function, arguments, wrt, draw(st.integers(0, 3)), draw(st.integers(0, 2**16))


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


def compare(got, wanted, dtype):
    assert np.shape(got) == np.shape(wanted)
    assert got.dtype == dtype_of(dtype)
    with np.errstate(all="ignore"):
        rounded = np.asarray(wanted).astype(dtype_of(dtype)).astype(np.float64)
    np.testing.assert_allclose(
        np.asarray(got).astype(np.float64), rounded, rtol=EPSILON[dtype], atol=SMALLEST[dtype]
    )


def installed(name, arguments):
    """Kind of array of this name, or NumPy's if it is not there or has not all the types."""
    kind = Kind[name]
    dtypes = {value.dtype.name for value in arguments.values() if isinstance(value, np.ndarray)}
    if kind is Kind.STRICT and dtypes & {"float16", "bfloat16"}:
        return Kind.NUMPY
    return kind if importlib.util.find_spec(kind.value) else Kind.NUMPY


def on(kind, function, arguments, **more):
    """Results of a function with arrays of a kind, as arrays of NumPy."""
    if kind is Kind.NUMPY:
        return function(**arguments, **more)
    arrays = {
        n: v.astype(v.dtype.newbyteorder("="))
        for n, v in (arguments | more).items()
        if isinstance(v, np.ndarray)
    }
    options = {n: v for n, v in (arguments | more).items() if n not in arrays and v is not None}
    with all_dtypes(kind, "float64"):
        result = kind.run(function, arrays, options)
        if isinstance(result, tuple):
            return tuple(kind.values(part) for part in result)
        return kind.values(result)


def run(call):
    name, function, arguments, wrt, use, seed = call
    kind, dtype = installed(name, arguments), floating(arguments)
    reference = Reference(**exact(arguments, dtype))
    before = {n: v.copy() for n, v in arguments.items() if isinstance(v, np.ndarray)}
    rng, own = np.random.default_rng(seed), arguments[wrt].shape
    room = {}
    if use == 0 and kind is Kind.NUMPY:
        room = {"out": np.full(reference.loss().shape, np.nan, dtype_of(dtype))}
    if function == "loss":
        compare(on(kind, sl.smooth_l1_loss, arguments, **room), reference.loss(), dtype)
    elif function == "huber":
        rest = {n: v for n, v in arguments.items() if n != "beta"} | {"delta": arguments["beta"]}
        if isinstance(rest["delta"], float):
            with np.errstate(invalid="ignore"):  # 0 times infinite
                wanted = rest["delta"] * reference.loss()
            compare(on(kind, sl.huber_loss, rest, **room), wanted, dtype)
    elif function == "grad":
        upstream = rng.normal(size=reference.loss().shape).round(1) if use < 2 else None
        got = on(kind, sl.smooth_l1_grad, arguments, wrt=wrt, grad_output=upstream)
        compare(got, reference.grad(wrt, upstream), dtype)
    elif function == "hess":
        compare(on(kind, sl.smooth_l1_hess, arguments), reference.hess(), dtype)
    else:
        if room:
            room["grad_out"] = np.full(own, np.nan, dtype_of(dtype))
        loss, grad = on(kind, sl.smooth_l1_value_and_grad, arguments, wrt=wrt, **room)
        compare(loss, reference.loss(), dtype)
        compare(grad, reference.grad(wrt), dtype)
        alone = np.asarray(on(kind, sl.smooth_l1_loss, arguments))
        same = (loss == alone) | ((loss != loss) & (alone != alone))  # -0 may be 0, by target
        assert np.all(same)
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
