"""Gradients of PyTorch's tensors through the loss, in every way PyTorch has to ask for them."""

import functools

import numpy as np
import pytest

import smoothl1 as sl

torch = pytest.importorskip("torch", reason="PyTorch is optional")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

REDUCTIONS = [
    {}, {"reduction": "sum"}, {"reduction": "none"}, {"axis": 0}, {"axis": 1, "keepdims": True},
    {"axis": ()}, {"normalizer": 3.0},
]  # fmt: skip

gradcheck = functools.partial(torch.autograd.gradcheck, fast_mode=True)
gradgradcheck = functools.partial(torch.autograd.gradgradcheck, fast_mode=True)


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(3)

    def make(*shape, low=-2.0, high=2.0, **options):
        values = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (
            (low + (high - low) * values).to(**options) if options else low + (high - low) * values
        )

    return make


@pytest.mark.parametrize("options", REDUCTIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("target_shape", [(4, 3), (3,)])
def test_first_and_second_derivatives(random, options, masked, target_shape):
    options = dict(options, where=random(4, 3) < 1.2) if masked else options
    x, target = random(4, 3).requires_grad_(), random(*target_shape).requires_grad_()
    weight, beta = random(4, 1, low=0.1), random(3, low=0.2)
    weight, beta = weight.requires_grad_(), beta.requires_grad_()

    def one(x, target):
        return sl.smooth_l1_loss(x, target, beta=0.7, **options)

    def all_of_them(x, target, weight, beta):
        return sl.smooth_l1_loss(x, target, weight=weight, beta=beta, **options)

    for function, inputs in ((one, (x, target)), (all_of_them, (x, target, weight, beta))):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("options", REDUCTIONS)
def test_derivatives_of_huber_loss(random, options):
    x, target, delta = random(4, 3), random(3), random(3, low=0.2)
    inputs = tuple(tensor.requires_grad_() for tensor in (x, target, delta))
    check = functools.partial(sl.huber_loss, **options)
    assert gradcheck(lambda x, t: check(x, t, delta=0.7), inputs[:2])
    assert gradcheck(lambda x, t, d: check(x, t, delta=d), inputs)
    assert gradgradcheck(lambda x, t, d: check(x, t, delta=d), inputs)


def test_gradients_flow_through_the_other_functions(random):
    inputs = [t.requires_grad_() for t in (random(4, 3), random(3), random(4, 1, low=0.1))]

    def call(function, wrt, x, target, weight):
        return function(x, target, weight=weight, beta=0.7, axis=0, wrt=wrt)

    for function in (sl.smooth_l1_grad, sl.smooth_l1_value_and_grad):
        for wrt in ("x", "target"):
            assert gradcheck(functools.partial(call, function, wrt), inputs)
    hess = sl.smooth_l1_hess(*inputs[:2], weight=inputs[2], beta=0.7)
    assert hess.requires_grad
    (grad,) = torch.autograd.grad(hess.sum(), inputs[2])
    assert grad.shape == (4, 1)


@pytest.mark.parametrize("beta", [0.0, 1e-3, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("size", [1, 64, 300_000])
def test_backward_is_pytorchs(random, beta, reduction, size):
    x, target = (random(size, dtype=torch.float32) for _ in range(2))
    x[0] = target[0]
    found = []
    for function in (sl.smooth_l1_loss, torch.nn.functional.smooth_l1_loss):
        inputs = [t.clone().requires_grad_() for t in (x, target)]
        loss = function(*inputs, beta=beta, reduction=reduction)
        (loss.mean() * 3).backward()
        found.append((loss.detach(), *(t.grad for t in inputs)))
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=2e-5, atol=1e-7)


def test_edges_have_the_documented_derivatives():
    edges = torch.tensor(
        [0.0, 0.4, -0.4, 0.3, torch.inf, -torch.inf, torch.nan], dtype=torch.float64
    )
    for beta, slopes, curvatures in (
        (0.4, [0, 1, -1, 0.75, 1, -1, np.nan], [2.5, 0, 0, 2.5, 0, 0, 0]),
        (0.0, [0, 1, -1, 1, 1, -1, np.nan], [0] * 7),
    ):
        x = edges.clone().requires_grad_()
        loss = sl.smooth_l1_loss(x, 0.0, beta=beta, reduction="sum")
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        np.testing.assert_allclose(first.detach().numpy(), slopes)
        (second,) = torch.autograd.grad(first.sum(), x)
        np.testing.assert_array_equal(second[:-1].numpy(), curvatures[:-1])
        plain = x.clone()
        (again,) = torch.autograd.grad(sl.smooth_l1_loss(plain, 0.0, beta=beta, reduction="sum"), x)
        np.testing.assert_allclose(again.numpy(), slopes)


@pytest.mark.parametrize("size", [50, 300_000])
def test_graphs_are_kept_freed_and_checked_as_pytorchs(random, size):
    x, target = random(size).requires_grad_(), random(size)
    wanted = sl.smooth_l1_grad(x.detach(), target, beta=0.3, reduction="sum")
    loss = sl.smooth_l1_loss(x, target, beta=0.3, reduction="sum")
    (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
    grad.mul_(7)  # the caller's own
    (grad,) = torch.autograd.grad(loss, x)
    assert torch.equal(grad, wanted)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x)
    loss = sl.smooth_l1_loss(x, target, beta=0.3, reduction="sum")
    loss.backward()
    (sl.smooth_l1_loss(x, target, beta=0.3, reduction="sum") * 2).backward()
    assert torch.allclose(x.grad, 3 * wanted)
    inner = x * 1.0
    loss = sl.smooth_l1_loss(inner, target, beta=0.3)
    with torch.no_grad():
        inner.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_survives_a_loss_scale(dtype):
    """The slope of a mean over so many is 0 in float16, times the scale it is not."""
    x = torch.full((1 << 17,), 2.0, dtype=dtype, requires_grad=True)
    (sl.smooth_l1_loss(x, torch.zeros_like(x), beta=0.5) * 8192).backward()
    assert x.grad.dtype == dtype
    assert torch.all(x.grad == 8192 / (1 << 17))


def test_nothing_is_detached_silently(random):
    x, target = random(5).requires_grad_(), random(5)
    assert sl.smooth_l1_loss(x, target).requires_grad
    assert sl.smooth_l1_loss(target, x).requires_grad
    assert sl.smooth_l1_loss(target, 0.0, weight=x.abs()).requires_grad
    with torch.no_grad():
        assert not sl.smooth_l1_loss(x, target).requires_grad
    with torch.inference_mode():
        assert not sl.smooth_l1_loss(x, target).requires_grad
    with pytest.raises(TypeError, match="out must be None where gradients flow"):
        sl.smooth_l1_loss(x, target, out=torch.empty((), dtype=torch.float64))
    with torch.no_grad():
        sl.smooth_l1_loss(x, target, out=torch.empty((), dtype=torch.float64))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(target, torch.ones_like(target))
        for function in (sl.smooth_l1_loss, sl.smooth_l1_grad):
            tangent = torch.autograd.forward_ad.unpack_dual(function(dual, 0.5, beta=0.3)).tangent
            assert tangent is not None
    assert torch.allclose(tangent, sl.smooth_l1_hess(target, 0.5, beta=0.3))


@pytest.mark.parametrize("options", REDUCTIONS)
def test_functional_transforms(random, options):
    x, target = random(4, 3), random(3)
    batch = random(5, 4, 3)

    def total(x, target):
        return sl.smooth_l1_loss(x, target, beta=0.7, **options).sum()

    def definition(x, target):
        r = x - target
        losses = torch.where(r.abs() < 0.7, r**2 / 1.4, r.abs() - 0.35)
        over = options.get("axis", (0, 1))
        if options.get("reduction") in ("sum", "none") or over == ():
            return losses.sum()
        if "normalizer" in options:
            return losses.sum() / options["normalizer"]
        return losses.mean(over).sum()

    grad = functools.partial(torch.func.grad, argnums=(0, 1))
    vmap = functools.partial(torch.func.vmap, in_dims=(0, None))
    for transform, inputs in (
        (grad, (x, target)),
        (torch.func.vmap, (batch, random(5, 3))),
        (vmap, (batch, target)),
        (lambda f: vmap(grad(f)), (batch, target)),
        (lambda f: vmap(vmap(f)), (random(2, 5, 4, 3), target)),
        (torch.func.hessian, (x, target)),
        (lambda f: torch.func.jacrev(torch.func.jacrev(f, argnums=1)), (x, target)),
        (lambda f: lambda x, t: torch.func.jvp(f, (x, t), (t - x, t)), (x, target)),
    ):
        torch.testing.assert_close(transform(total)(*inputs), transform(definition)(*inputs))


def test_graph_around_a_transform(random):
    x, target = random(4, 3).requires_grad_(), random(3)
    losses = torch.func.vmap(lambda row: sl.smooth_l1_loss(row, target, beta=0.7))(x * 1.0)
    losses.sum().backward()
    assert torch.allclose(x.grad, sl.smooth_l1_grad(x.detach(), target, beta=0.7, axis=1))


def test_vmap_over_every_argument(random):
    x, weight, beta = random(2, 4, 3), random(3, 2, low=0.1), random(4, 1, 2, low=0.2)
    where = random(2, 3) < 1.0

    def one(x, weight, where, beta):
        options = {"weight": weight, "where": where, "beta": beta, "axis": 0}
        return sl.smooth_l1_loss(x, [0.5, 0.0, -0.5], **options)

    dims = (0, 1, 0, 2)
    got = torch.func.vmap(one, in_dims=dims)(x, weight, where, beta)
    for i in range(2):
        wanted = one(x[i], weight[:, i], where[i], beta[..., i])
        torch.testing.assert_close(got[i], wanted, equal_nan=True)


def test_batches_of_backward_passes(random):
    x, target = random(4).requires_grad_(), random(4)
    for options in ({}, {"where": target < 1}, {"weight": target.abs()}, {"axis": 0}):
        loss = sl.smooth_l1_loss(x, target, beta=0.5, **options)
        wanted = sl.smooth_l1_grad(x.detach(), target, beta=0.5, **options)
        (grads,) = torch.autograd.grad(loss, x, torch.tensor([1.0, 2.0]), is_grads_batched=True)
        torch.testing.assert_close(grads, torch.stack([wanted, 2 * wanted]))
        fast, slow = (
            torch.autograd.functional.jacobian(
                lambda x, o=options: sl.smooth_l1_loss(x, target, beta=0.5, **o), x, vectorize=v
            )
            for v in (True, False)
        )
        torch.testing.assert_close(fast, slow)


def test_hooks_on_saved_tensors(random):
    x, target, beta = random(4).requires_grad_(), random(4), torch.tensor(0.5, requires_grad=True)
    with torch.autograd.graph.save_on_cpu():
        loss = sl.smooth_l1_loss(x, target, beta=beta)
        first, by_beta = torch.autograd.grad(loss, (x, beta), create_graph=True)
    torch.testing.assert_close(first, sl.smooth_l1_grad(x.detach(), target, beta=0.5))
    assert by_beta < 0
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, sl.smooth_l1_hess(x.detach(), target, beta=0.5))


def test_one_tensor_as_several_arguments(random):
    x = random(4, 3).requires_grad_()
    check = functools.partial(sl.smooth_l1_loss, beta=0.5)
    assert gradcheck(lambda x: check(x, x**2, weight=x**2 + 1), (x,))
    assert gradgradcheck(lambda x: check(x, x**2, weight=x**2 + 1), (x,))
    (grad,) = torch.autograd.grad(check(x, x), x)
    assert not grad.any()


def test_gradients_of_types_that_are_not_the_result_s():
    x = torch.full((1 << 20,), 0.1, requires_grad=True)
    loss = sl.smooth_l1_loss(x, torch.zeros(1), beta=0.5, dtype=torch.float16)
    (loss * 64).backward()  # a slope of 0.2 / 2**20 is 0 in float16
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.2 * 64 / (1 << 20)))
    x = torch.tensor([100.0, 2.0], dtype=torch.float16, requires_grad=True)
    sl.huber_loss(x, torch.zeros_like(x), delta=1e5).backward()
    assert x.grad.tolist() == [50.0, 1.0]


def test_an_infinite_factor_does_not_reach_elements_left_out():
    x, where = torch.ones(3, requires_grad=True), torch.tensor([True, False, True])
    (sl.smooth_l1_loss(x, 0.0, where=where, beta=0.5, reduction="sum") * torch.inf).backward()
    assert x.grad.tolist() == [torch.inf, 0.0, torch.inf]


def test_classes_modes_and_devices_of_others(random):
    from torch.utils.flop_counter import FlopCounterMode

    class Own(torch.Tensor):
        pass

    x, target = random(4).requires_grad_(), random(4)
    wanted = sl.smooth_l1_loss(x.detach(), target, beta=0.5)
    ours = sl.smooth_l1_loss(x.detach().as_subclass(Own), target, beta=0.5)
    assert type(ours) is Own
    torch.testing.assert_close(ours.as_subclass(torch.Tensor), wanted)
    with FlopCounterMode(display=False):
        loss = sl.smooth_l1_loss(x, target, beta=0.5)
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        with pytest.raises(TypeError, match="out must be None where"):
            sl.smooth_l1_loss(target, 0.0, out=torch.empty((), dtype=torch.float64))
    torch.testing.assert_close(second, sl.smooth_l1_hess(x.detach(), target, beta=0.5))
    with torch.device("meta"):  # for new tensors, which the loss must not make there
        weight = torch.ones(4, device="cpu", requires_grad=True)
        sl.smooth_l1_loss(x, 0.25, beta=0.5, weight=weight, reduction="sum").backward()
    torch.testing.assert_close(
        weight.grad.double(), sl.smooth_l1_loss(x.detach(), 0.25, beta=0.5, reduction="none"),
        rtol=1e-6, atol=1e-7,
    )  # fmt: skip
