"""The module of PyTorch, beside PyTorch's own."""

import copy
import itertools
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is optional")
SmoothL1Loss = pytest.importorskip("smoothl1.torch").SmoothL1Loss


def both(x, target, **options):
    """Loss and gradients of both modules."""
    found = []
    for kind in (SmoothL1Loss, torch.nn.SmoothL1Loss):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, target)]
        loss = kind(**options)(*inputs)
        loss.sum().backward()
        found.append((loss.detach(), *(tensor.grad for tensor in inputs)))
    return zip(*found, strict=True)


@pytest.mark.parametrize("shape", [(), (5,), (5, 5), (5, 5, 5)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("beta", [1.0, 5.0, 0.5, 0.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_sample_inputs_of_pytorch(shape, reduction, beta, dtype):
    """The shapes, reductions and thresholds of PyTorch's own `sample_inputs_smooth_l1_loss`."""
    generator = torch.Generator().manual_seed(len(shape))
    x, target = (18 * torch.rand(2, *shape, generator=generator) - 9).to(dtype)
    rtol = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 3e-3, torch.bfloat16: 3e-2}
    for ours, theirs in both(x, target, beta=beta, reduction=reduction):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=rtol[dtype], atol=rtol[dtype] * 1e-2)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("beta", [1.0, 0.3, 2.5, 0.0])
def test_edges_beside_pytorch(reduction, beta):
    up, down = np.nextafter(beta, np.inf), np.nextafter(beta, -np.inf)
    edges = [0.0, -0.0, beta, -beta, up, -up, down, -down, 1e300, -1e300, 5e-324, np.inf, -np.inf]
    for size in (slice(None), slice(0, 11)):  # with infinities, and without
        x = torch.tensor(edges[size], dtype=torch.float64)
        for ours, theirs in both(x, torch.zeros_like(x), beta=beta, reduction=reduction):
            if reduction != "none" and ours.ndim == 1:  # PyTorch's gradient of the target is -0
                ours, theirs = ours + 0.0, theirs + 0.0
            torch.testing.assert_close(ours, theirs, rtol=1e-15, atol=0)
    nan = torch.tensor([1.0, torch.nan], dtype=torch.float64, requires_grad=True)
    loss = SmoothL1Loss(reduction=reduction, beta=beta)(nan, 0.0)
    assert loss.sum().isnan()
    loss.sum().backward()
    assert nan.grad[1].isnan()  # PyTorch gives 0 or 1 here


def train(loss):
    """Loss of a small network at each step of its training."""
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = torch.randn(200, 3)
    y = x.prod(1, keepdim=True) + 5.0 * (torch.rand(200, 1) < 0.05)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    curve = []
    for _ in range(120):
        optimizer.zero_grad()
        value = loss(network(x), y)
        value.backward()
        optimizer.step()
        curve.append(value.item())
    return np.array(curve)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_a_network_learns_the_same(beta):
    ours, theirs = train(SmoothL1Loss(beta=beta)), train(torch.nn.SmoothL1Loss(beta=beta))
    assert theirs[-1] < 0.7 * theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    np.testing.assert_allclose(ours[:10], theirs[:10], rtol=1e-6)


def test_a_threshold_is_learnt():
    beta = torch.nn.Parameter(torch.tensor([0.5, 2.0]))
    loss = SmoothL1Loss(beta=beta, reduction="sum")
    assert list(loss.parameters()) == [beta]
    loss(torch.tensor([[0.25, 1.0], [3.0, -1.0]]), torch.zeros(2)).backward()
    # d/dbeta is -(r / beta)^2 / 2 inside and -1/2 outside
    torch.testing.assert_close(beta.grad, torch.tensor([-0.125 - 0.5, -0.125 - 0.125]))


def test_a_tensor_of_thresholds_moves_with_the_module():
    loss = SmoothL1Loss(beta=torch.tensor([0.5, 2.0]))
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert loss.to(torch.float64).beta.dtype == torch.float64
    assert loss(torch.tensor([1.0, 1.0]), 0.0) == (0.75 + 0.25) / 2


def test_axes_weights_and_masks():
    x = torch.tensor([[0.0, 4.0], [2.0, 6.0]], requires_grad=True)
    loss = SmoothL1Loss(beta=2.0, axis=1, keepdims=True)
    assert loss(x, 0.0).tolist() == [[1.5], [3.0]]
    weight, where = torch.tensor([1.0, 3.0]), torch.tensor([[True, True], [False, True]])
    assert loss(x, 0.0, weight=weight, where=where).tolist() == [[2.25], [5.0]]
    assert loss(x, 0.0, weight=weight, normalizer=4).tolist() == [[2.25], [4.0]]
    assert loss(x, 0.0, weight=weight).requires_grad


def test_parameters_and_copies():
    loss = SmoothL1Loss(beta=0.5)
    assert repr(loss) == "SmoothL1Loss(beta=0.5, reduction='mean')"
    shown = repr(SmoothL1Loss(reduction="sum", beta=2, axis=(0, 1), keepdims=True))
    assert shown == "SmoothL1Loss(beta=2.0, reduction='sum', axis=(0, 1), keepdims=True)"
    for made in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loss.train().to("cpu")):
        assert repr(made) == repr(loss)
    assert isinstance(loss, torch.nn.SmoothL1Loss)
    assert not loss.state_dict()
    assert SmoothL1Loss(reduction="auto").reduction == "mean"
    positional = SmoothL1Loss(None, None, "sum", 0.5)
    assert (positional.reduction, positional.beta) == ("sum", 0.5)
    loss.beta = -1.0
    with pytest.raises(ValueError, match="beta must be finite and at least 0"):
        loss(torch.ones(3), torch.ones(3))


@pytest.mark.parametrize(
    ("options", "error"),
    [({"beta": -1.0}, ValueError), ({"beta": "1"}, TypeError), ({"reduction": "max"}, ValueError),
     ({"reduction": "none", "axis": 0}, ValueError), ({"beta": torch.tensor(-1.0)}, ValueError),
     ({"beta": torch.tensor([True])}, TypeError)],
)  # fmt: skip
def test_wrong_parameters(options, error):
    with pytest.raises(error, match=r"beta|reduction"):
        SmoothL1Loss(**options)


def test_autocast_and_checkpoints():
    x = torch.linspace(-2, 2, 50)
    half = x.to(torch.bfloat16)
    for kind in (SmoothL1Loss, torch.nn.SmoothL1Loss):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert kind(beta=0.5)(half, half * 2).dtype == torch.float32
            assert kind(beta=0.5)(x.double(), x.double()).dtype == torch.float64
        assert kind(beta=0.5)(half, half * 2).dtype == torch.bfloat16
    leaf = x.clone().requires_grad_()
    loss = torch.utils.checkpoint.checkpoint(
        lambda x: SmoothL1Loss(beta=0.5)(x * 2, 0.25), leaf, use_reentrant=False
    )
    (grad,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(grad, ((2 * x - 0.25) / 0.5).clamp(-1, 1) * 2 / 50)


def test_compiled():
    loss = SmoothL1Loss(beta=0.3)
    x, target = torch.linspace(-1, 1, 12), torch.zeros(12)
    fast = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for scale, tracked in itertools.product((1.0, 2.0), (False, True)):
        inputs = [(scale * x).requires_grad_(tracked) for _ in range(2)]
        results = [
            function(leaf, target) for function, leaf in zip((fast, loss), inputs, strict=True)
        ]
        assert results[0] == results[1]
        if tracked:
            grads = [torch.autograd.grad(r, i)[0] for r, i in zip(results, inputs, strict=True)]
            assert torch.equal(*grads)
