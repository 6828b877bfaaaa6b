"""Arrays of other libraries: the kind, dtype, shape and values of NumPy's results."""

import importlib.util
from typing import ClassVar

import numpy as np
import pytest

import smoothl1 as sl


class Library:
    """How a test makes arrays of a kind and looks at them."""

    def __init__(self, name):
        self.module = pytest.importorskip(name, reason=f"{name} is optional")
        self.name = name

    def array(self, values):
        values = np.asarray(values)
        if self.name == "torch":
            return self.module.from_numpy(values.copy())
        return (self.module.numpy if self.name == "jax" else self.module).asarray(values)

    def is_own(self, value):
        kinds = {"torch": "Tensor", "jax": "Array"}
        kind = getattr(self.module, kinds[self.name]) if self.name in kinds else type(self.array(0))
        return isinstance(value, kind)

    def values(self, array):
        return np.from_dlpack(array) if self.name == "array_api_strict" else np.asarray(array)


@pytest.fixture(params=["torch", "jax", "array_api_strict"])
def library(request):
    return Library(request.param)


@pytest.fixture
def arrays(rng):
    x, target = rng.normal(size=(2, 6, 5)).astype("f4")
    return {
        "x": x, "target": target, "weight": rng.random((6, 1)).astype("f4"),
        "where": rng.random((6, 5)) < 0.8, "beta": np.array([0.1, 0.5, 1.0, 2.0, 0.0], "f4"),
    }  # fmt: skip


CALLS = [
    {}, {"reduction": "sum"}, {"reduction": "none"}, {"axis": 0}, {"axis": (1,), "keepdims": True},
    {"axis": ()}, {"normalizer": 3.0}, {"dtype": "float64"}, {"only": ("weight",)},
    {"only": ("where",)}, {"only": ("beta",)}, {"only": ("weight", "where", "beta"), "axis": 1},
]  # fmt: skip
FUNCTIONS = [sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_value_and_grad, sl.smooth_l1_hess]


def both(library, function, arrays, call):
    """Results with arrays of a library, and with NumPy's."""
    call = {"beta": 0.4} | call
    given = {name: arrays[name] for name in ("x", "target", *call.pop("only", ()))}
    wanted = function(**(call | given))
    got = function(**(call | {name: library.array(value) for name, value in given.items()}))
    return got, wanted


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("call", CALLS)
def test_same_as_numpy(library, arrays, function, call):
    if library.name == "jax" and call.get("dtype") == "float64":
        pytest.skip("JAX has no float64 here")
    got, wanted = both(library, function, arrays, call)
    pairs = zip(got, wanted, strict=True) if isinstance(got, tuple) else [(got, wanted)]
    for ours, numpys in pairs:
        assert library.is_own(ours)
        values = library.values(ours)
        assert values.shape == np.shape(numpys)
        assert values.dtype == numpys.dtype
        assert np.array_equal(values, numpys)


def test_huber_vector_products_and_modules(library, arrays):
    x, target = (library.array(arrays[name]) for name in ("x", "target"))
    wanted = sl.huber_loss(arrays["x"], arrays["target"], delta=0.3)
    assert library.values(sl.huber_loss(x, target, delta=0.3)) == wanted
    factor = np.arange(5.0, dtype="f4")
    options = {"axis": 0, "wrt": "target", "beta": 0.3}
    wanted = sl.smooth_l1_grad(arrays["x"], arrays["target"], grad_output=factor, **options)
    got = sl.smooth_l1_grad(x, target, grad_output=library.array(factor), **options)
    assert np.array_equal(library.values(got), wanted)
    module = sl.SmoothL1Loss(beta=0.3)
    got = module.forward_reduce_dims(x, target, [1])
    wanted = module.forward_reduce_dims(arrays["x"], arrays["target"], [1])
    assert np.array_equal(library.values(got), wanted)
    assert library.is_own(module(x, target))


def test_numbers_and_lists_go_with_every_kind(library, arrays):
    x = library.array(arrays["x"])
    got = sl.smooth_l1_loss(x, 0.5, beta=[0.1, 0.5, 1.0, 2.0, 0.0], reduction="none")
    wanted = sl.smooth_l1_loss(arrays["x"], 0.5, beta=arrays["beta"], reduction="none")
    assert np.allclose(library.values(got), wanted, rtol=1e-6)


@pytest.mark.parametrize("size", [3, 300_000])
@pytest.mark.parametrize("wrt", ["x", "target"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_slopes_of_arrays_that_jax_takes_for_numbers(rng, size, wrt, reduction):
    jax = Library("jax")
    number, many = 0.125, rng.normal(size=size).astype("f4")
    weak = jax.module.numpy.asarray(number)
    assert weak.weak_type
    options = {"beta": 0.3, "reduction": reduction, "wrt": wrt}
    for given, plain in (
        ((weak, jax.array(many)), (np.float32(number), many)),
        ((jax.array(many), weak), (many, np.float32(number))),
    ):
        got = sl.smooth_l1_grad(*given, **options)
        assert jax.is_own(got)
        np.testing.assert_array_equal(got, sl.smooth_l1_grad(*plain, **options))


def test_kinds_are_not_mixed(library, arrays):
    x = library.array(arrays["x"])
    with pytest.raises(TypeError, match=r"one kind, got .* for x and numpy\.ndarray for target"):
        sl.smooth_l1_loss(x, arrays["target"])
    with pytest.raises(TypeError, match=r"one kind, got .* for weight and numpy\.ndarray for x"):
        sl.smooth_l1_loss(arrays["x"], 1.0, weight=x)
    with pytest.raises(ValueError, match="beta must be finite"):
        sl.smooth_l1_loss(x, x, beta=-1.0)


def test_two_libraries_are_not_mixed(arrays):
    torch, strict = Library("torch"), Library("array_api_strict")
    with pytest.raises(TypeError, match=r"got torch\.Tensor for x and array_api_strict.* target"):
        sl.smooth_l1_loss(torch.array(arrays["x"]), strict.array(arrays["target"]))


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is optional")


def test_torch_dtypes(torch, rng):
    values = rng.normal(size=(2, 50))
    for name in ("float64", "float32", "float16", "bfloat16"):
        x, target = (torch.tensor(v).to(getattr(torch, name)) for v in values)
        loss = sl.smooth_l1_loss(x, target, beta=0.3, reduction="none")
        assert loss.dtype == x.dtype
        exact = torch.nn.functional.smooth_l1_loss(
            x.double(), target.double(), beta=0.3, reduction="none"
        )
        torch.testing.assert_close(loss, exact.to(x.dtype), rtol=4e-16, atol=0)
        assert sl.smooth_l1_loss(x, target, dtype=torch.float64).dtype == torch.float64
    whole = torch.arange(6)
    assert torch.equal(
        sl.smooth_l1_grad(torch.zeros(6), whole, reduction="sum"), -torch.clamp(whole, 0, 1).float()
    )


def test_torch_layouts(torch):
    base = torch.arange(24.0).reshape(4, 6)
    target = torch.full((1, 1), 7.5).expand(4, 3)
    for x in (base[:, ::2], base[:, 3:], base.T[:3].T, base[:, :3].clone()):
        wanted = torch.nn.functional.smooth_l1_loss(x, target, beta=0.3)
        assert torch.allclose(sl.smooth_l1_loss(x, target, beta=0.3), wanted)
    assert sl.smooth_l1_loss(torch.tensor(2.0), torch.tensor(0.0), beta=0.5) == 1.75
    assert sl.smooth_l1_loss(torch.empty(0), torch.empty(0)).isnan()


def test_torch_results_share_no_input_and_outputs_are_written(torch):
    x, target = torch.tensor([1.0, 4.0]), torch.tensor([0.0, 0.0])
    out, grad = torch.empty(()), torch.empty(2)
    version = grad._version
    got = sl.smooth_l1_value_and_grad(x, target, beta=2.0, out=out, grad_out=grad)
    assert got[0] is out
    assert got[1] is grad
    assert (out, grad.tolist()) == (1.625, [0.25, 0.5])
    assert grad._version > version
    assert x.tolist() == [1.0, 4.0]


def test_torch_that_numpy_cannot_read(torch):
    for x, message in (
        (torch.eye(3).to_sparse(), r"x must be dense, got torch\.sparse_coo; pass x\.to_dense"),
        (torch.ones(3, dtype=torch.complex64), "x has dtype complex64"),
        (torch.ones(3, dtype=torch.bool), "x has dtype bool"),
        (torch.ones(3).to(torch.float8_e4m3fn), r"NumPy can read, got .*float8"),
    ):
        with pytest.raises(TypeError, match=message):
            sl.smooth_l1_loss(x, 0.0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_torch_nested_tensors_are_refused(torch):
    plain = torch.ones(3)
    nested = torch.nested.nested_tensor([plain])
    for x, target in ((nested, nested), (nested, plain), (plain, nested)):
        with pytest.raises(TypeError, match="must not be a nested tensor; pad it"):
            sl.smooth_l1_loss(x, target)


def test_torch_memory_of_negated_numbers(torch):
    negated = torch.tensor([1.0 + 2.0j]).conj().imag
    assert sl.smooth_l1_loss(negated, 0.0) == 1.5
    with pytest.raises(TypeError, match="out must be memory, not a view of negated"):
        sl.smooth_l1_loss(torch.ones(1), 0.0, reduction="none", out=negated)


def test_torch_on_another_device(torch):
    x, target = torch.ones(4, 3, device="meta"), torch.ones(3, device="meta")
    loss, grad = sl.smooth_l1_value_and_grad(x, target, axis=0, wrt="target")
    assert (loss.device.type, loss.shape, grad.shape) == ("meta", (3,), (3,))
    with pytest.raises(TypeError, match="must be on one device, got cpu, meta"):
        sl.smooth_l1_loss(x, torch.ones(3))


def test_strict_devices_and_flags(arrays):
    strict = Library("array_api_strict").module
    x = strict.asarray(arrays["x"], device=strict.Device("device1"))
    with pytest.raises(TypeError, match=r"must be on one device, got .*CPU_DEVICE.*.*device1"):
        sl.smooth_l1_loss(x, strict.asarray(arrays["x"]))
    with strict.ArrayAPIStrictFlags(
        boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
    ):
        y = strict.asarray(arrays["x"])
        assert sl.smooth_l1_loss(y, y) == 0.0
        assert sl.smooth_l1_loss(y, y, dtype=strict.float64).dtype == strict.float64


def test_libraries_that_are_not_loaded_stay_so(run_python):
    code = """
    import sys
    import numpy as np
    import smoothl1 as sl
    class Strange: pass
    try:
        sl.smooth_l1_loss(Strange(), np.ones(3))
    except TypeError as error:
        print(str(error).startswith("x must be a numpy.ndarray"))
    sys.modules["torch"] = None  # as some block an import
    print(sl.smooth_l1_loss(np.ones(3), 0.0))
    del sys.modules["torch"]
    print({"torch", "jax", "array_api_strict"} & set(sys.modules))
    """
    assert run_python(code).split() == ["True", "0.5", "set()"]


def test_cupy(arrays):
    """On a device; test_cuda.py has NumPy in place of CuPy."""
    cupy = pytest.importorskip("cupy", reason="CuPy is optional, and needs a GPU")
    try:
        x, target = cupy.asarray(arrays["x"]), cupy.asarray(arrays["target"])
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy needs a GPU: {error}")
    loss, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=0)
    wanted = sl.smooth_l1_value_and_grad(arrays["x"], arrays["target"], beta=0.3, axis=0)
    assert isinstance(loss, cupy.ndarray)
    assert isinstance(grad, cupy.ndarray)
    np.testing.assert_allclose(cupy.asnumpy(loss), wanted[0], rtol=1e-6)
    np.testing.assert_allclose(cupy.asnumpy(grad), wanted[1], rtol=1e-6)


class NoArray:
    """What numba and this library look at of an array on a GPU."""

    __cuda_ndarray__ = True
    shape, dtype, strides, stream = (3,), np.dtype("f4"), (4,), 0
    __cuda_array_interface__: ClassVar = {"data": (0, False)}


def test_gpu_kernels_need_numba_cuda(monkeypatch):
    importlib.import_module("numba.cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'smoothl1\[cuda13\]'"):
        sl.smooth_l1_loss(NoArray(), NoArray())


def test_gpu_kernels_need_a_gpu():
    pytest.importorskip("numba_cuda", reason="numba-cuda is optional")
    from numba import cuda

    if cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="need a GPU and its driver, and numba finds none"):
        sl.smooth_l1_loss(NoArray(), NoArray())
