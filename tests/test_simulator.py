"""Run the tests of GPU kernels in numba's simulator, each part in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "part",
    [
        ["test_cuda.py"],
        ["test_semantics.py", "-k", "NUMBA"],
        ["test_jax_gpu.py"],
        ["test_semantics.py", "-k", "JAX_GPU"],
    ],
    ids=" ".join,
)
def test_in_the_simulator(part):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", str(HERE / part[0]), *part[1:]],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=HERE.parent, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert " passed" in done.stdout
