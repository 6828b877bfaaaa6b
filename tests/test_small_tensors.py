"""Kernels that have PyTorch describe its tensors: right for every tensor, or not used."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import BETAS, SHAPES, numbers
from reference import Reference

import smoothl1 as sl
from smoothl1.small import MOST

torch = pytest.importorskip("torch", reason="PyTorch is optional")
short_tensors = pytest.importorskip("smoothl1.short_tensors")
small_tensors = pytest.importorskip("smoothl1.small_tensors")
find_describer = small_tensors.find_describer.__wrapped__

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def fits(x, target):
    """Whether the kernels for the type of x take both tensors; they leave no error."""
    out = torch.full((), -1.0, dtype=x.dtype)
    given = id(x), id(target), 0.3, True, id(out)
    took = small_tensors.LOSS[x.dtype](*given)
    assert took == (out.item() >= 0.0)
    grad = torch.zeros(x.shape, dtype=x.dtype)
    assert small_tensors.LOSS_AND_GRAD[x.dtype](*given, id(grad)) == took
    return took


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (64,), (1024,), (32, 32), (1025,)])
def test_values(shape, dtype):
    x, target = numbers(shape, 1, dtype), numbers(shape, 2, dtype)
    tensors = torch.tensor(x), torch.tensor(target)
    assert fits(*tensors) == (0 < x.size <= MOST)
    for beta in BETAS:
        for reduction in ("mean", "sum"):
            options = {"beta": beta, "reduction": reduction}
            wanted = Reference(x, target, **options)
            value, grad = sl.smooth_l1_value_and_grad(*tensors, **options)
            tolerance = 1e-14 if dtype == "float64" else 1.2e-7
            np.testing.assert_allclose(value, wanted.loss(), rtol=tolerance)
            np.testing.assert_allclose(grad, wanted.grad(), rtol=tolerance)
            assert (value.dtype, value.shape) == (DTYPES[dtype], ())
            assert (grad.dtype, grad.shape) == (DTYPES[dtype], shape)
            tracked = tensors[0].clone().requires_grad_()
            loss = sl.smooth_l1_loss(tracked, tensors[1], **options)
            loss.backward()
            plain = sl.smooth_l1_loss(*tensors, **options)
            for other in (plain, loss.detach()):
                assert np.array_equal(other, value, equal_nan=True)
            assert np.array_equal(tracked.grad, grad, equal_nan=True)


UNFIT = {
    "transposed": lambda: torch.ones(6, 4).T,
    "strided": lambda: torch.ones(4, 12)[:, ::2],
    "expanded": lambda: torch.ones(6).expand(4, 6),
    "another shape": lambda: torch.ones(6, 4),
    "flat": lambda: torch.ones(24),
    "another axis": lambda: torch.ones(4, 6, 1),
    "another type": lambda: torch.ones(4, 6, dtype=torch.float64),
    "half": lambda: torch.ones(4, 6, dtype=torch.bfloat16),
    "integer": lambda: torch.ones(4, 6, dtype=torch.int32),
    "meta": lambda: torch.ones(4, 6, device="meta"),
    "sparse": lambda: torch.ones(4, 6).to_sparse(),
    "rows": lambda: torch.ones(4, 6).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(4, 6), 0.1, 0, torch.qint8),
    "zero": lambda: torch._efficientzerotensor((4, 6)),
    "not a tensor": lambda: np.ones((4, 6), np.float32),
    "nothing": lambda: None,
}


@pytest.mark.filterwarnings("ignore")  # that PyTorch may change the interface of some
@pytest.mark.parametrize("kind", UNFIT)
def test_others_do_not_fit(kind):
    x, other = torch.zeros(4, 6), UNFIT[kind]()
    assert fits(x, x)
    assert not fits(x, other)
    if getattr(other, "dtype", None) in small_tensors.LOSS:
        assert not small_tensors.LOSS[other.dtype](id(other), id(x), 0.3, True, id(x))
    assert not x.any()


def test_results_need_memory():
    x, room, none = torch.ones(6), torch.ones(6), torch.ones(6, device="meta")
    assert not small_tensors.LOSS[x.dtype](id(x), id(x), 0.3, True, id(none))
    for out, grad in ((room, none), (none, room), (room, None)):
        given = id(x), id(x), 0.3, True, id(out), id(grad)
        assert not small_tensors.LOSS_AND_GRAD[x.dtype](*given)
    assert torch.equal(room, torch.ones(6))


def test_no_elements_and_too_many():
    for shape in ((0,), (3, 0), (MOST + 1,)):
        assert not fits(torch.ones(shape), torch.ones(shape))
    huge = torch.ones(1).expand(1 << 31, 1 << 31)
    assert not fits(huge[:1], huge[:1])


def test_strides_of_axes_of_one_element_do_not_matter():
    x, target = torch.arange(12.0).as_strided((1, 4, 1), (77, 1, 5)), torch.ones(1, 4, 1)
    assert x.is_contiguous()
    assert fits(x, target)
    wanted = Reference(x.numpy(), target.numpy(), beta=0.3)
    value, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3)
    np.testing.assert_allclose(value, wanted.loss(), rtol=1e-7)
    np.testing.assert_allclose(grad, wanted.grad(), rtol=1e-7)


def test_parts_of_a_tensor():
    whole = torch.tensor(numbers((5, 40), 1))
    for start in range(4):
        x, target = whole[start], whole[start + 1]
        assert fits(x, target)
        wanted = Reference(x.numpy(), target.numpy(), beta=0.3).loss()
        np.testing.assert_allclose(sl.smooth_l1_loss(x, target, beta=0.3), wanted, rtol=1e-14)


def test_negated_views_are_computed_as_they_are():
    x = torch._neg_view(torch.tensor([1.0, -2.0]))
    part = torch.complex(torch.ones(1), torch.full((1,), 4.0)).conj().imag
    assert x.is_neg()
    assert part.is_neg()
    for one, wanted, slope in ((x, 1.0, [-0.5, 0.5]), (part, 3.5, [-1.0])):  # of -1 and 2, of -4
        assert one.is_contiguous()
        zeros = torch.zeros(one.shape)
        for first, second in ((one, zeros), (zeros, one)):
            assert sl.smooth_l1_loss(first, second) == wanted
        value, grad = sl.smooth_l1_value_and_grad(one, zeros)
        assert value == wanted
        assert torch.equal(grad, torch.tensor(slope))
        tracked = zeros.clone().requires_grad_()
        sl.smooth_l1_loss(tracked, one).backward()
        assert torch.equal(tracked.grad, -grad)


def test_many_threads():
    x, target = torch.tensor(numbers((1000,), 1)), torch.tensor(numbers((1000,), 2))
    wanted = sl.smooth_l1_loss(x, target, beta=0.3).item()

    def work(_):
        return {sl.smooth_l1_loss(x.clone(), target.clone(), beta=0.3).item() for _ in range(300)}

    with ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(work, range(8))) == {wanted}


@pytest.mark.parametrize(
    "word", ["DATA", "DEVICE", "TYPE", "SIZES", "STRIDES", "OFFSET", "CPU", "SINGLE", "MAJOR"]
)
def test_another_layout_is_noticed(monkeypatch, word):
    assert small_tensors.find_describer() == find_describer() != 0
    another = {"SIZES": "STRIDES", "STRIDES": "SIZES"}.get(word, "TYPE")
    value = 0 if word in ("TYPE", "CPU", "SINGLE", "MAJOR") else getattr(small_tensors, another)
    monkeypatch.setattr(small_tensors, word, value)
    assert find_describer() == 0


def test_nothing_fits_without_descriptions(monkeypatch):
    x, target = torch.tensor(numbers((100,), 1)), torch.tensor(numbers((100,), 2))
    wanted = sl.smooth_l1_value_and_grad(x, target, beta=0.3)
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__")
    monkeypatch.setattr(small_tensors, "find_describer", find_describer)
    for name in ("LOSS", "LOSS_AND_GRAD"):
        entries = type(small_tensors.LOSS)(getattr(small_tensors, name)._kernels)
        monkeypatch.setattr(short_tensors, name, entries)
        assert entries[x.dtype] is None
    value, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3)
    assert value == wanted[0] == sl.smooth_l1_loss(x, target, beta=0.3)
    assert torch.equal(grad, wanted[1])


def test_nothing_fits_without_the_gil(monkeypatch):
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)
    assert find_describer() == 0


@pytest.mark.parametrize("table", [7, None, "another capsule"])
def test_another_interface_is_noticed(monkeypatch, table):
    if table == "another capsule":
        table = torch.utils.dlpack.to_dlpack(torch.ones(3))
    monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", table)
    assert find_describer() == 0


def test_the_first_call_may_be_a_transform(run_python):
    """Which must not be asked for descriptions of its tensors."""
    run_python("""
        import torch
        import smoothl1 as sl

        x, target = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.25, 1.0, 1.0])
        loss = lambda x: sl.smooth_l1_loss(x, target, beta=0.5)
        wanted = torch.tensor([-0.5, 0.0, 1.0]) / 3
        torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
        from smoothl1 import small_tensors
        assert not small_tensors.LOSS
        assert loss(x) == sl.smooth_l1_loss(x.numpy(), target.numpy(), beta=0.5)
        assert small_tensors.LOSS[torch.float32] is not None
    """)


def test_zeros_that_are_still_to_come():
    zeros, ones = torch._efficientzerotensor((24,)), torch.ones(24)
    for x, target in ((zeros, ones), (ones, zeros), (zeros[5:], ones[5:]), (ones[5:], zeros[5:])):
        assert sl.smooth_l1_loss(x, target, beta=0.5) == 0.75
        value, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.5)
        assert value == 0.75
        sign = 1.0 if x[0] else -1.0
        torch.testing.assert_close(grad, torch.full(x.shape, sign / x.numel()))
