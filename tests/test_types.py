"""What mypy infers for the results of the public functions."""

import inspect
from pathlib import Path

import pytest

import smoothl1

ROOT = Path(__file__).parent.parent
CODE = """
from typing import Any, assert_type
import numpy as np
import numpy.typing as npt
import smoothl1 as sl

class Tensor: ...  # stands for an array of another library

Scalar = np.floating[Any]
Array = npt.NDArray[np.floating[Any]]
Single = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

def numpy(x: Double, out: Single, perhaps: Single | None, word: str) -> None:
    assert_type(sl.smooth_l1_loss(x, x), Scalar)
    assert_type(sl.smooth_l1_loss([1.0], (2, 3), reduction="sum"), Scalar)
    assert_type(sl.smooth_l1_loss(x, 1.0, beta=x, weight=x, where=x > 0, dtype="f4"), Scalar)
    assert_type(sl.smooth_l1_loss(x, x, reduction=sl.Reduction.SUM), Scalar)
    assert_type(sl.smooth_l1_loss(x, x, reduction="none"), Array)
    assert_type(sl.smooth_l1_loss(x, x, reduction=sl.Reduction.NONE), Array)
    assert_type(sl.smooth_l1_loss(x, x, axis=0), Any)
    assert_type(sl.smooth_l1_loss(x, x, keepdims=True), Any)
    assert_type(sl.smooth_l1_loss(x, x, reduction=word), Any)
    assert_type(sl.smooth_l1_loss(x, x, axis=0, out=out), Single)
    assert_type(sl.smooth_l1_loss(x, x, out=perhaps), Single | Scalar)
    assert_type(sl.huber_loss(x, x, delta=2), Scalar)
    assert_type(sl.huber_loss(x, x, delta=2, reduction="none"), Array)
    assert_type(sl.smooth_l1_grad(x, x, axis=0, wrt="target", grad_output=2), Array)
    assert_type(sl.smooth_l1_grad(x, x, out=out), Single)
    assert_type(sl.smooth_l1_hess(x, x, axis=0), Array)
    assert_type(sl.smooth_l1_value_and_grad(x, x), tuple[Scalar, Array])
    assert_type(sl.smooth_l1_value_and_grad(x, x, reduction="none"), tuple[Array, Array])
    assert_type(sl.smooth_l1_value_and_grad(x, x, axis=0, wrt="target"), tuple[Any, Array])
    assert_type(
        sl.smooth_l1_value_and_grad(x, x, axis=0, out=x, grad_out=out), tuple[Double, Single]
    )

def other_libraries(x: Double, t: Tensor, unknown: Any) -> None:
    assert_type(sl.smooth_l1_loss(t, t), Any)
    assert_type(sl.smooth_l1_loss(t, t, out=None), Any)
    assert_type(sl.smooth_l1_loss(1.0, 2.0, beta=t), Any)
    assert_type(sl.smooth_l1_loss(unknown, x), Any)
    assert_type(sl.huber_loss(t, t, delta=2), Any)
    assert_type(sl.smooth_l1_grad(t, t), Any)
    assert_type(sl.smooth_l1_hess(t, t), Any)
    assert_type(sl.smooth_l1_value_and_grad(t, t), tuple[Any, Any])

def modules(x: Double, t: Tensor) -> None:
    module = sl.SmoothL1LossConfig().with_beta(0.5).init()
    assert_type(module, sl.SmoothL1Loss)
    assert_type(module(x, x), Any)
    assert_type(module.grad(x, x), Array)
    assert_type(module.grad(t, t), Any)
    assert_type(module.value_and_grad(x, x), tuple[Any, Array])
    assert_type(module.hess(x, x), Array)
    assert_type(sl.optimize.LinearObjective(x, x).fun(x), float)

def mistakes(x: Double) -> None:
    sl.smooth_l1_loss(x, x, betta=1.0)  # type: ignore[call-overload]
    sl.smooth_l1_loss(x, x, 1.0)  # type: ignore[call-overload]
    sl.smooth_l1_loss(x, x, normalizer="2")  # type: ignore[call-overload]
    sl.huber_loss(x, x, beta=1.0)  # type: ignore[call-overload]
    sl.smooth_l1_hess(x, x, wrt="x")  # type: ignore[call-overload]
    sl.SmoothL1Loss().beta = 1.0  # type: ignore[misc]
"""


def test_inferred(tmp_path):
    api = pytest.importorskip("mypy.api", reason="mypy is optional")
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nfollow_imports = silent\nmypy_path = {ROOT}\n"
    )
    report, problem, _ = api.run(
        ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache"),
         str(tmp_path / "code.py")]
    )  # fmt: skip
    assert not problem
    assert report == "Success: no issues found in 1 source file\n"


def test_the_signature_is_that_of_the_function():
    for name in smoothl1.__all__:
        thing = getattr(smoothl1, name)
        if inspect.isfunction(thing):
            assert "options" not in inspect.signature(thing).parameters


def test_types_cost_no_import(run_python):
    out = run_python("import sys, smoothl1; print(*sys.modules)").split()
    assert "smoothl1.signatures" not in out
    assert "numpy.typing" not in out
