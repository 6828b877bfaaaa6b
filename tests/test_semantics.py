"""The whole table of semantics, for every kind of array that is installed."""

import contextlib
import os
from enum import Enum

import numpy as np
import pytest
from cases import dtype_of, specials
from reference import Reference

import smoothl1 as sl


def simulator():
    """Module of numba's GPU kernels, in its simulator."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
        pytest.skip("runs in numba's simulator of GPUs: see test_simulator.py")
    from numba import cuda

    return cuda


class Kind(Enum):
    """A way in which arrays come."""

    NUMPY = "numpy"
    READ_ONLY = "numpy, read-only"
    STRICT = "array_api_strict"
    STRICT_DEVICE = "array_api_strict, another device"
    TORCH = "torch"
    TORCH_TRACKED = "torch, with gradients"
    JAX = "jax"
    JAX_JIT = "jax, traced"
    JAX_GPU = "jax, on a GPU"
    DASK = "dask.array"
    NUMBA = "numba.cuda"

    @property
    def library(self):
        if self in (Kind.NUMBA, Kind.JAX_GPU):
            cuda = simulator()
            if self is Kind.NUMBA:
                return cuda
        return pytest.importorskip(self.value.partition(",")[0], reason=f"{self.value} is optional")

    def array(self, values):
        """Array of this kind."""
        library, values = self.library, np.array(values)
        if self is Kind.NUMPY:
            return values
        if self is Kind.READ_ONLY:
            values.flags.writeable = False
            return values
        if self in (Kind.TORCH, Kind.TORCH_TRACKED):
            if values.dtype.name == "bfloat16":
                return library.from_numpy(values.view(np.int16)).view(library.bfloat16)
            return library.from_numpy(values)
        if self in JAX_KINDS:
            return library.numpy.asarray(values)
        if self is Kind.DASK:
            return library.from_array(values, chunks=2)
        if self is Kind.NUMBA:
            return library.to_device(values)
        device = library.Device("device1") if self is Kind.STRICT_DEVICE else None
        return library.asarray(values, device=device)

    def run(self, function, arrays, options):
        """Result of a function with arrays of this kind."""
        given = {name: self.array(values) for name, values in arrays.items()}
        if self is Kind.TORCH_TRACKED and given["x"].is_floating_point():
            given["x"].requires_grad_()
        if self is Kind.JAX_JIT:
            return self.library.jit(lambda given: function(**given, **options))(given)
        if self is Kind.JAX_GPU:
            from pretended import gpu_of_jax

            with gpu_of_jax() as gpu:
                result = self.library.block_until_ready(function(**given, **options))
            assert gpu.launched or given["x"].size == 0  # XLA does not call for no elements
            return result
        return function(**given, **options)

    def values(self, result):
        """Values of a result, after a look at its kind and device."""
        library = self.library
        if self in (Kind.NUMPY, Kind.READ_ONLY):
            assert isinstance(result, np.ndarray if np.ndim(result) else (np.generic, np.ndarray))
            return np.asarray(result)
        if self in (Kind.TORCH, Kind.TORCH_TRACKED):
            assert type(result) is library.Tensor
            assert result.device == library.device("cpu")
            assert self is not Kind.TORCH or not result.requires_grad
            result = result.detach()
            if result.dtype is library.bfloat16:
                return result.view(library.int16).numpy().view(dtype_of("bfloat16"))
            return result.numpy()
        if self in JAX_KINDS:
            assert isinstance(result, library.Array)
            assert result.devices() == set(library.devices("cpu"))
            return np.asarray(result)
        if self is Kind.DASK:
            assert isinstance(result, library.Array)
            computed = np.asarray(result.compute(scheduler="synchronous"))
            assert (result.shape, result.dtype) == (computed.shape, computed.dtype)
            return computed
        if self is Kind.NUMBA:
            assert result.__cuda_ndarray__
            return result.copy_to_host()
        assert isinstance(result, type(library.asarray(0)))
        device = library.Device("device1" if self is Kind.STRICT_DEVICE else "CPU_DEVICE")
        assert result.device == device
        return np.from_dlpack(result.to_device(library.Device("CPU_DEVICE")))


JAX_KINDS = Kind.JAX, Kind.JAX_JIT, Kind.JAX_GPU
EPSILON = {"float64": 1e-14, "float32": 1e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
FUNCTIONS = {
    "loss": (sl.smooth_l1_loss, lambda reference, wrt: [reference.loss()]),
    "grad": (sl.smooth_l1_grad, lambda reference, wrt: [reference.grad(wrt)]),
    "value_and_grad": (
        sl.smooth_l1_value_and_grad,
        lambda reference, wrt: [reference.loss(), reference.grad(wrt)],
    ),
    "hess": (sl.smooth_l1_hess, lambda reference, wrt: [reference.hess()]),
}
OPTIONS = [
    {}, {"reduction": "sum"}, {"reduction": "none"}, {"reduction": "auto"}, {"axis": 0},
    {"axis": -1, "keepdims": True}, {"axis": (2, 0)}, {"axis": (), "reduction": "sum"},
    {"keepdims": True}, {"normalizer": 2.5}, {"reduction": "sum", "axis": (0, 1), "keepdims": True},
]  # fmt: skip
ALL = ("weight", "where", "beta")
CALLS = [
    *((options, names) for options in OPTIONS for names in ((), ALL)),
    *(
        (options, names)
        for options in ({}, {"axis": 0}, {"reduction": "none"})
        for names in (("weight",), ("where",), ("beta",), ("weight", "where"))
    ),
]


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.name)
def kind(request):
    request.param.library  # noqa: B018 (skips)
    return request.param


@pytest.fixture
def operands(rng):
    """Arrays of different shapes that broadcast to (3, 4, 5)."""
    return {
        "x": rng.normal(0, 2, (3, 4, 5)).round(1), "target": rng.normal(0, 2, (4, 1)).round(1),
        "weight": rng.integers(0, 3, (3, 1, 5)) / 2, "where": rng.random((4, 5)) < 0.7,
        "beta": np.array([0.0, 0.3, 1.0, 2.5, 1e4]),
    }  # fmt: skip


def all_dtypes(kind, dtype):
    """Context in which a kind has a dtype."""
    if kind in JAX_KINDS and dtype == "float64":
        return kind.library.enable_x64(True)
    return contextlib.nullcontext()


def check(kind, arrays, options, dtype="float64"):
    """Compare every function with the definition."""
    if kind in (Kind.STRICT, Kind.STRICT_DEVICE) and dtype not in ("float64", "float32"):
        pytest.skip("array_api_strict has no half precision")
    cast = {
        name: values if name in ("where", "beta") else values.astype(dtype_of(dtype))
        for name, values in arrays.items()
    }
    exact = {n: v if n == "where" else v.astype(np.float64) for n, v in cast.items()}
    options = dict(options)
    if "beta" not in arrays:
        options["beta"] = 0.3
    reference = Reference(**exact, **options)
    with all_dtypes(kind, dtype):
        for name, (function, wanted) in FUNCTIONS.items():
            for wrt in ("x", "target") if name in ("grad", "value_and_grad") else ("x",):
                extra = options if name in ("loss", "hess") else options | {"wrt": wrt}
                compare(kind, kind.run(function, cast, extra), wanted(reference, wrt), dtype)


def compare(kind, results, wanted, dtype):
    results = results if isinstance(results, tuple) else (results,)
    for result, values in zip(results, wanted, strict=True):
        got = kind.values(result)
        assert got.shape == np.shape(values)
        assert got.dtype == dtype_of(dtype)
        with np.errstate(all="ignore"):
            rounded = np.asarray(values).astype(got.dtype).astype(np.float64)
        tolerance = EPSILON[dtype]
        np.testing.assert_allclose(got.astype(np.float64), rounded, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("options", "names"), CALLS, ids=str)
def test_every_option(kind, operands, names, options):
    check(kind, {name: operands[name] for name in ("x", "target", *names)}, options)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"reduction": "none"}], ids=str)
def test_every_dtype(kind, operands, dtype, options):
    check(kind, operands, options, dtype)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"reduction": "none"}], ids=str)
def test_every_shape(kind, shape, options):
    check(kind, {"x": np.full(shape, 1.5), "target": np.full(shape, 0.25)}, options)


@pytest.mark.parametrize("beta", [0.0, 1e-3, 0.3, 1.0, 2.5, 1e4])
def test_every_edge(kind, beta):
    """Zeros, NaN, infinities, subnormal and huge residuals, and those around the threshold."""
    up, down = np.nextafter(beta, np.inf), np.nextafter(beta, 0.0)
    x = np.concatenate([specials(), [beta, -beta, up, -up, down, -down]])
    if kind in (Kind.JAX, Kind.JAX_JIT):
        x = np.where(np.abs(x) < 1e-300, 0.0, x)  # XLA takes subnormal numbers for 0
    arrays = {"x": x, "target": np.zeros(x.shape)}
    options = {"reduction": "none", "beta": beta}
    reference = Reference(**arrays, **options)
    with all_dtypes(kind, "float64"):
        for name, (function, wanted) in FUNCTIONS.items():
            results = kind.run(function, arrays, options)
            for result, values in zip(
                results if isinstance(results, tuple) else (results,),
                wanted(reference, "x"),
                strict=True,
            ):
                np.testing.assert_allclose(kind.values(result), values, rtol=3e-16, err_msg=name)


@pytest.mark.parametrize("wrt", ["x", "target"])
@pytest.mark.parametrize("axis", [None, 0, (0, 2)])
def test_vector_products(kind, operands, wrt, axis, rng):
    arrays = {name: operands[name] for name in ("x", "target", "weight")}
    reference = Reference(**arrays, beta=0.3, axis=axis)
    upstream = rng.normal(size=reference.loss().shape)
    with all_dtypes(kind, "float64"):
        given = arrays | {"grad_output": upstream}
        result = kind.run(sl.smooth_l1_grad, given, {"beta": 0.3, "axis": axis, "wrt": wrt})
        compare(kind, result, [reference.grad(wrt, upstream)], "float64")


@pytest.mark.parametrize("axis", [None, 1])
def test_huber_loss(kind, operands, axis):
    x, target = operands["x"], operands["target"]
    wanted = 0.3 * Reference(x, target, beta=0.3, axis=axis).loss()
    options = {"axis": axis}
    with all_dtypes(kind, "float64"):
        given = {"x": x, "target": target}
        compare(kind, kind.run(sl.huber_loss, given, options | {"delta": 0.3}), [wanted], "float64")
        given["delta"] = np.full(5, 0.3)
        compare(kind, kind.run(sl.huber_loss, given, options), [wanted], "float64")


def test_integers_numbers_and_result_dtypes(kind):
    small = np.array([0, 3], np.uint8)
    with all_dtypes(kind, "float64"):
        result = kind.run(sl.smooth_l1_grad, {"x": small}, {"target": 1, "reduction": "sum"})
        compare(kind, result, [[-1.0, 1.0]], "float64")
        single = {"x": np.array([0.5, 4.0], np.float32)}
        result = kind.run(sl.smooth_l1_loss, single, {"target": 1.0, "reduction": "none"})
        compare(kind, result, [[0.125, 2.5]], "float32")
        result = kind.run(sl.smooth_l1_loss, single, {"target": [0.5, 3.0], "dtype": "float64"})
        compare(kind, result, [0.25], "float64")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduction": "median"}, ValueError, "reduction must be one of"),
        ({"axis": 3}, np.exceptions.AxisError, "axis 3 is out of bounds"),
        ({"beta": -1.0}, ValueError, "beta must be finite and at least 0"),
        ({"normalizer": 0.0}, ValueError, "normalizer must be finite and above 0"),
        ({"weight": [1.0, 2.0]}, ValueError, r"do not broadcast to one shape: x \(3, 4, 5\)"),
        ({"where": [1, 0, 1, 0, 1]}, TypeError, "where must be boolean"),
        ({"keepdims": 1}, TypeError, "keepdims must be True or False"),
        ({"dtype": "int32"}, TypeError, "dtype must be one of"),
    ],
    ids=str,
)
def test_errors(kind, operands, options, error, message):
    with all_dtypes(kind, "float64"), pytest.raises(error, match=message):
        kind.run(sl.smooth_l1_loss, {"x": operands["x"], "target": operands["target"]}, options)
