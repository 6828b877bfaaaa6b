"""What mypy infers for the results of the public functions."""

import inspect
import re
from pathlib import Path

import pytest

import smoothl1

CODE = """
from typing import Any
import numpy as np
import numpy.typing as npt
import smoothl1 as sl

class Tensor: ...  # stands for an array of another library

x: npt.NDArray[np.float64] = np.zeros(3)
out: npt.NDArray[np.float32] = np.zeros(3, np.float32)
perhaps: npt.NDArray[np.float32] | None = None
t, unknown, word = Tensor(), sl.Reduction.__dict__["x"], str()
module, config = sl.SmoothL1Loss(beta=0.5), sl.SmoothL1LossConfig()

reveal_type(sl.smooth_l1_loss(x, x))  #> scalar
reveal_type(sl.smooth_l1_loss([1.0], (2, 3), reduction="sum"))  #> scalar
reveal_type(sl.smooth_l1_loss(x, 1.0, beta=x, weight=x, where=x > 0, dtype="f4"))  #> scalar
reveal_type(sl.smooth_l1_loss(x, x, reduction=sl.Reduction.SUM))  #> scalar
reveal_type(sl.smooth_l1_loss(x, x, reduction="none"))  #> array
reveal_type(sl.smooth_l1_loss(x, x, reduction=sl.Reduction.NONE))  #> array
reveal_type(sl.smooth_l1_loss(x, x, axis=0))  #> Any
reveal_type(sl.smooth_l1_loss(x, x, keepdims=True))  #> Any
reveal_type(sl.smooth_l1_loss(x, x, reduction=word))  #> Any
reveal_type(sl.smooth_l1_loss(x, x, axis=0, out=out))  #> float32
reveal_type(sl.smooth_l1_loss(x, x, out=perhaps))  #> float32 | scalar
reveal_type(sl.smooth_l1_loss(t, t))  #> Any
reveal_type(sl.smooth_l1_loss(x, t))  #> Any
reveal_type(sl.smooth_l1_loss(1.0, 2.0, beta=t))  #> Any
reveal_type(sl.smooth_l1_loss(t, t, out=None))  #> Any
reveal_type(sl.smooth_l1_loss(unknown, x))  #> Any
reveal_type(sl.huber_loss(x, x, delta=2))  #> scalar
reveal_type(sl.huber_loss(x, x, delta=2, reduction="none"))  #> array
reveal_type(sl.huber_loss(t, t, delta=2))  #> Any
reveal_type(sl.smooth_l1_grad(x, x, axis=0, wrt="target", grad_output=2))  #> array
reveal_type(sl.smooth_l1_grad(x, x, out=out))  #> float32
reveal_type(sl.smooth_l1_grad(t, t))  #> Any
reveal_type(sl.smooth_l1_hess(x, x, axis=0))  #> array
reveal_type(sl.smooth_l1_hess(t, t))  #> Any
reveal_type(sl.smooth_l1_value_and_grad(x, x))  #> tuple[scalar, array]
reveal_type(sl.smooth_l1_value_and_grad(x, x, reduction="none"))  #> tuple[array, array]
reveal_type(sl.smooth_l1_value_and_grad(x, x, axis=0, wrt="target"))  #> tuple[Any, array]
reveal_type(sl.smooth_l1_value_and_grad(x, x, axis=0, out=x, grad_out=out))  #> tuple[x, float32]
reveal_type(sl.smooth_l1_value_and_grad(t, t))  #> tuple[Any, Any]
reveal_type(module(x, x))  #> Any
reveal_type(module.grad(x, x))  #> array
reveal_type(module.grad(t, t))  #> Any
reveal_type(module.value_and_grad(x, x))  #> tuple[Any, array]
reveal_type(module.hess(x, x))  #> array
reveal_type(config.with_beta(0.5).init())  #> smoothl1.module.SmoothL1Loss
reveal_type(sl.optimize.LinearObjective(x, x)(x)[0])  #> float
sl.smooth_l1_loss(x, x, betta=1.0)  #> error
sl.smooth_l1_loss(x, x, 1.0)  #> error
sl.smooth_l1_loss(x, x, normalizer="2")  #> error
sl.huber_loss(x, x, beta=1.0)  #> error
sl.smooth_l1_hess(x, x, wrt="x")  #> error
module.beta = 1.0  #> error
"""

SHAPED = "numpy.ndarray[tuple[Any, ...], numpy.dtype["
SHORT = {
    SHAPED + "numpy.floating[numpy._typing._nbit_base._32Bit]]]": "float32",
    SHAPED + "numpy.floating[Any]]]": "array",
    SHAPED + "numpy.float64]]": "x",
    "numpy.floating[Any]": "scalar",
}


@pytest.fixture(scope="module")
def inferred(tmp_path_factory):
    """What mypy says about each line of the code that it says anything about."""
    api = pytest.importorskip("mypy.api", reason="mypy comes with the extra lint")
    folder = tmp_path_factory.mktemp("types")
    (folder / "code.py").write_text(CODE)
    (folder / "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nfollow_imports = silent\nmypy_path = "
        f"{Path(smoothl1.__file__).parent.parent}\n"
    )
    report, problem, _ = api.run(
        ["--config-file", str(folder / "mypy.ini"), "--cache-dir", str(folder / "cache"),
         str(folder / "code.py")]
    )  # fmt: skip
    assert not problem
    found = {}
    for number, kind, text in re.findall(r"code\.py:(\d+): (error|note): (.*)", report):
        revealed = re.match(r'Revealed type is "(.*)"', text)
        if kind == "error" or revealed:
            found[int(number)] = revealed[1] if revealed else "error"
    return found


@pytest.mark.parametrize(
    ("number", "line"),
    [(n, line) for n, line in enumerate(CODE.splitlines(), 1) if "#>" in line],
)
def test_inferred(inferred, number, line):
    got = inferred.pop(number)
    for long, short in SHORT.items():
        got = got.replace(long, short)
    assert got == line.partition("#> ")[2]


def test_nothing_else_is_said(inferred):
    wanted = {n for n, line in enumerate(CODE.splitlines(), 1) if "#>" in line}
    assert inferred.keys() <= wanted


def test_the_signature_is_that_of_the_function():
    for name in smoothl1.__all__:
        thing = getattr(smoothl1, name)
        if inspect.isfunction(thing):
            assert "options" not in inspect.signature(thing).parameters


def test_types_cost_no_import(run_python):
    out = run_python("import sys, smoothl1; print(*sys.modules)").split()
    assert "smoothl1.signatures" not in out
    assert "numpy.typing" not in out
