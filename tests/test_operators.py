"""The loss under `torch.compile` and other tracers, and as operators."""

import pytest

import smoothl1 as sl

torch = pytest.importorskip("torch", reason="PyTorch is optional")
operators = pytest.importorskip("smoothl1.operators")

CALLS = [
    {}, {"reduction": "none"}, {"axis": 0}, {"axis": (-1,), "keepdims": True}, {"normalizer": 3.0},
    {"dtype": torch.float64}, {"only": ("weight",)}, {"only": ("where", "beta"), "axis": 1},
]  # fmt: skip


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(5)
    x, target = torch.randn(2, 4, 3, generator=generator)
    weight, beta = torch.rand(4, 1, generator=generator), torch.rand(3, generator=generator)
    return {"x": x, "target": target, "weight": weight, "beta": beta, "where": target < 1.0}


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def options_of(call, tensors):
    call = {"beta": 0.7} | call
    return call | {name: tensors[name] for name in call.pop("only", ())}


@pytest.mark.parametrize("call", CALLS)
def test_compiled_functions_are_the_eager_ones(tensors, call):
    options = options_of(call, tensors)
    x, target = tensors["x"], tensors["target"]
    for function in (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_value_and_grad):
        got = compiled(lambda x, t, f=function: f(x, t, **options))(x, target)
        torch.testing.assert_close(got, function(x, target, **options), rtol=0, atol=0)
    got = compiled(lambda x, t: sl.smooth_l1_hess(x, t, **options))(x, target)
    assert torch.equal(got, sl.smooth_l1_hess(x, target, **options))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("names", [("x",), ("x", "target"), ("x", "weight", "beta")])
def test_compiled_gradients_are_the_eager_ones(tensors, call, names):
    options = options_of(call, tensors)
    leaves = {name: tensors[name].clone().requires_grad_() for name in names}

    def total(leaves):
        given = {"x": tensors["x"], "target": tensors["target"]} | options | leaves
        return (sl.smooth_l1_loss(**given) * 3).sum()

    got = torch.autograd.grad(compiled(total)(leaves), list(leaves.values()))
    wanted = torch.autograd.grad(total(leaves), list(leaves.values()))
    torch.testing.assert_close(got, wanted)


def test_sizes_that_change_huber_and_numbers(tensors):
    x, target = tensors["x"], tensors["target"]
    huber = torch.compile(
        lambda x, t: sl.huber_loss(x, t, delta=0.3),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for n in (4, 3, 2):
        assert huber(x[:n], target[:n]) == sl.huber_loss(x[:n], target[:n], delta=0.3)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(compiled(lambda x: sl.huber_loss(x, 0.25, delta=0.3))(leaf), leaf)
    torch.testing.assert_close(grad, 0.3 * sl.smooth_l1_grad(x, 0.25, beta=0.3))
    function = lambda x: sl.smooth_l1_loss(x, [0.0, 1.0, 2.0])  # noqa: E731
    assert compiled(function)(x) == function(x)  # float64, as of lists for NumPy
    listed = compiled(lambda x: sl.smooth_l1_loss(x, [0.0, 1.0, 2.0], beta=[0.1, 0.2, 0.3]))(
        x.double()
    )
    assert listed == sl.smooth_l1_loss(x.double(), [0.0, 1.0, 2.0], beta=[0.1, 0.2, 0.3])


def test_wrong_arguments_are_refused_while_tracing(tensors):
    x = tensors["x"]
    for options, message in (
        ({"axis": 7}, "axis 7 is out of bounds"),
        ({"reduction": "median"}, "reduction must be one of"),
        ({"keepdims": 1}, "keepdims must be True or False"),
        ({"out": torch.empty(())}, "out must be None where"),
    ):
        with pytest.raises(Exception, match=message):
            compiled(lambda x, o=options: sl.smooth_l1_loss(x, 0.0, **o))(x)


@pytest.mark.parametrize("call", CALLS)
def test_opcheck(tensors, call):
    options = {"normalizer": None, "axis": None, "keepdims": False} | options_of(call, tensors)
    options = {"reduction": "mean", "dtype": None, "weight": None, "where": None} | options
    is_number = isinstance(options["beta"], float)
    axis = (options["axis"],) if isinstance(options["axis"], int) else options["axis"]
    rest = (
        *(options["weight"], options["where"], None if is_number else options["beta"]),
        *(options["beta"] if is_number else 0.0, options["reduction"], axis),
        *(options["keepdims"], options["normalizer"], options["dtype"], False),
    )
    x, target = tensors["x"], tensors["target"]
    ops = torch.ops.smoothl1
    for wrt in ("", "x"):
        if wrt and ("axis" in call or "reduction" in call or "only" in call):
            continue  # the operator is asked for slopes only where they give the gradient
        leaf = x.clone().requires_grad_()
        torch.library.opcheck(ops.loss_and_slope.default, (leaf, target, *rest, wrt))
    torch.library.opcheck(ops.gradients.default, (None, x, target, *rest, "x,target", True))
    torch.library.opcheck(ops.hess.default, (x, target, *rest))


def test_what_the_operators_cannot_do_is_not_done_wrong(tensors):
    """It is refused where the graph must be whole."""
    leaf = tensors["x"].clone().requires_grad_()

    def twice(x):
        return torch.func.grad(lambda y: sl.smooth_l1_loss(y, 0.25, beta=0.3, reduction="sum"))(x)

    def tracked(x):
        return sl.smooth_l1_grad(x, 0.25, beta=0.3, reduction="sum")

    for function in (twice, tracked):
        with pytest.raises(torch._dynamo.exc.TorchDynamoException):
            compiled(function)(leaf)
    x, target = leaf, tensors["target"]
    arguments = (None, None, None, 2.0, "sum", None, False, None, None, False, "x")
    loss, slope = torch.ops.smoothl1.loss_and_slope(x, target, *arguments)
    assert not slope.requires_grad
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    wanted = sl.smooth_l1_hess(x.detach(), target, beta=2.0, reduction="sum")
    torch.testing.assert_close(second, wanted)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_old_tracers_are_refused(tensors):
    for reduction in ("mean", "none"):
        with pytest.raises(TypeError, match=r"torch\.jit\.trace cannot record the loss"):
            torch.jit.trace(
                lambda x, t, r=reduction: sl.smooth_l1_loss(x, t, reduction=r),
                (tensors["x"], tensors["target"]),
            )


def test_other_tracers(tensors):
    from torch.fx.experimental.proxy_tensor import make_fx

    x, target = tensors["x"], tensors["target"]
    graph = make_fx(lambda x, t: sl.smooth_l1_loss(x, t, beta=0.3))(x, target)
    assert torch.equal(graph(2 * x, target), sl.smooth_l1_loss(2 * x, target, beta=0.3))

    class Model(torch.nn.Module):
        def forward(self, x, target):
            return sl.smooth_l1_loss(x, target, beta=0.3, axis=0)

    program = torch.export.export(Model(), (x, target)).module()
    assert torch.equal(program(2 * x, target), sl.smooth_l1_loss(2 * x, target, beta=0.3, axis=0))


@pytest.mark.parametrize(
    ("betas", "options"),
    [
        ((1, 2, 3, 0), {}), ((0.5, 1.5, 2.5, 0.0), {"axis": 1}),
        ((1, 2, 1.5, 2.5), {"reduction": "none"}),
    ],
)  # fmt: skip
def test_thresholds_that_change_between_calls(betas, options, rng):
    """From the second on they are symbols for the compiler."""
    x, target = torch.as_tensor(rng.normal(size=(2, 6, 5)))
    x.requires_grad_()

    def loss(beta):
        return sl.smooth_l1_loss(x, target, beta=beta, **options)

    again = compiled(loss)
    for beta in betas:
        got, wanted = again(beta), loss(float(beta))
        torch.testing.assert_close(got, wanted)
        slopes = [torch.autograd.grad(result.sum(), x)[0] for result in (got, wanted)]
        torch.testing.assert_close(*slopes)
