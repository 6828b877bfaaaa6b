import copy
import json
import pickle

import numpy as np
import pytest
from cases import numbers
from reference import Reference

import smoothl1 as sl

X, T = numbers((4, 5, 6), 1), numbers((4, 5, 6), 2)


def test_defaults_are_those_of_pytorch():
    loss = sl.SmoothL1Loss()
    assert (loss.reduction, loss.beta) == ("mean", 1.0)
    assert sl.SmoothL1Loss("sum", 0.5) == sl.SmoothL1Loss(beta=0.5, reduction="sum")


def test_it_is_a_value():
    loss = sl.SmoothL1Loss(beta=0.5)
    assert repr(loss) == "SmoothL1Loss(beta=0.5, reduction='mean')"
    assert eval(repr(loss), {"SmoothL1Loss": sl.SmoothL1Loss}) == loss
    assert loss.extra_repr() == "beta=0.5, reduction='mean'"
    assert {loss: 1}[sl.SmoothL1Loss(beta=0.5)] == 1
    assert loss != sl.SmoothL1Loss(beta=0.6)
    assert pickle.loads(pickle.dumps(loss)) == copy.deepcopy(loss) == loss
    with pytest.raises(AttributeError):
        loss.beta = 2.0
    assert sl.SmoothL1Loss(reduction=sl.Reduction.SUM).reduction == "sum"
    assert type(sl.SmoothL1Loss(beta=2).beta) is float


@pytest.mark.parametrize("kind", [sl.SmoothL1Loss, sl.SmoothL1LossConfig])
def test_it_is_checked_when_built(kind):
    with pytest.raises(ValueError, match="beta must be finite and at least 0, got -1"):
        kind(beta=-1)
    with pytest.raises(ValueError, match="reduction must be one of"):
        kind(reduction="max")
    with pytest.raises(TypeError, match="beta of a module must be a number, got an array"):
        kind(beta=np.ones(2))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "auto"])
def test_forward_and_its_relatives(reduction):
    loss = sl.SmoothL1Loss(reduction, 0.3)
    reference = Reference(X, T, beta=0.3, reduction=reduction)
    np.testing.assert_allclose(loss(X, T), reference.loss(), rtol=1e-14)
    np.testing.assert_array_equal(loss.forward(X, T), loss(X, T))
    np.testing.assert_allclose(loss.grad(X, T, wrt="target"), reference.grad("target"), atol=1e-14)
    np.testing.assert_allclose(loss.hess(X, T), reference.hess(), rtol=1e-14)
    value, grad = loss.value_and_grad(X, T)
    np.testing.assert_array_equal(value, loss(X, T))
    np.testing.assert_allclose(grad, reference.grad(), atol=1e-14)
    np.testing.assert_array_equal(
        loss.forward_with_reduction(X, T, "sum"), sl.SmoothL1Loss("sum", 0.3)(X, T)
    )


def test_options_reach_the_functions():
    loss = sl.SmoothL1Loss(beta=2.5)
    wanted = Reference(X, T, beta=2.5, axis=1, where=X > 0).loss()
    np.testing.assert_allclose(loss(X, T, axis=1, where=X > 0), wanted, rtol=1e-14)


@pytest.mark.parametrize("dims", [[0], [2, 0], [-1], [0, 1, 2], []])
def test_forward_reduce_dims(dims):
    got = sl.SmoothL1Loss("sum", 0.3).forward_reduce_dims(X, T, dims)
    wanted = Reference(X, T, beta=0.3, axis=tuple(dims), keepdims=True).loss()
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-14)


def test_what_a_stateless_module_has():
    loss = sl.SmoothL1Loss(beta=0.5)
    assert loss.state_dict() == {}
    assert loss.load_state_dict({}) is None
    with pytest.raises(ValueError, match=r"state must be empty, .* got the keys \['w'\]"):
        loss.load_state_dict({"w": 1})
    assert (loss.num_params(), loss.devices()) == (0, [])
    for same in (
        *(loss.to_device("cuda"), loss.fork(None), loss.train(), loss.eval(), loss.valid()),
        *(loss.no_grad(), loss.clone(), loss.map(lambda p: p / 0)),
    ):
        assert same == loss
    assert loss.visit(lambda p: p / 0) is None


def test_files(tmp_path):
    path = tmp_path / "loss.json"
    loss = sl.SmoothL1Loss("sum", 0.1)
    loss.save_file(path)
    assert sl.SmoothL1Loss.load_file(path) == loss
    config = sl.SmoothL1LossConfig(beta=0.1).with_reduction("sum")
    config.save(str(path))
    assert sl.SmoothL1LossConfig.load(path) == config
    assert json.loads(path.read_text())["beta"] == 0.1
    with pytest.raises(ValueError, match="SmoothL1Loss: its type is 'SmoothL1LossConfig'"):
        sl.SmoothL1Loss.load_file(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="not hold a SmoothL1Loss: it has no entry 'type'"):
        sl.SmoothL1Loss.load_file(path)
    path.write_text('{"type": "SmoothL1Loss", "beta": 1.0}')
    with pytest.raises(ValueError, match=r"must be type, beta and reduction, got type, beta$"):
        sl.SmoothL1Loss.load_file(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a JSON file"):
        sl.SmoothL1Loss.load_file(path)
    assert [p.name for p in tmp_path.iterdir()] == ["loss.json"]


def test_a_file_that_cannot_be_written_is_named_as_it_was_given(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        sl.SmoothL1Loss().save_file(tmp_path / "missing" / "loss.json")
    assert caught.value.filename == str(tmp_path / "missing" / "loss.json")


def test_config_builds_a_module():
    loss = sl.SmoothL1LossConfig(beta=1.0, reduction="sum").with_beta(0.5).init()
    assert loss == sl.SmoothL1Loss("sum", 0.5)
    assert repr(sl.SmoothL1LossConfig()) == "SmoothL1LossConfig(beta=1.0, reduction='mean')"


def test_saving_keeps_links_and_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "loss.json")
    sl.SmoothL1Loss(beta=0.1).save_file(link)
    assert link.is_symlink()
    assert sl.SmoothL1Loss.load_file(tmp_path / "loss.json").beta == 0.1
    assert (tmp_path / "loss.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b'{"type": "SmoothL1Loss", "beta": "x", "reduction": "sum"}']
)
def test_a_file_that_holds_something_else_is_named(tmp_path, content):
    path = tmp_path / "loss.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"loss\.json (is not a JSON|does not hold a valid)"):
        sl.SmoothL1Loss.load_file(path)


def test_dims_must_be_a_sequence():
    with pytest.raises(TypeError, match="dims must be a sequence of integers, got 0"):
        sl.SmoothL1Loss().forward_reduce_dims(X, T, 0)
    with pytest.raises(TypeError, match="dims must be a sequence of integers, got '01'"):
        sl.SmoothL1Loss().forward_reduce_dims(X, T, "01")
