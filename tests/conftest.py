import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    import simulated  # makes numba's simulator of GPUs fast and exact enough

    simulated.keep_to_one_core()

gc.set_threshold(200_000, 20, 100)  # compiling makes much; looking for garbage was a seventh of it

settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


def pytest_configure(config):
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":  # its threads compute with NumPy scalars
        config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning")


LONG = ("test_simulator", "test_cuda_code", "test_sums", "test_cli")


def pytest_collection_modifyitems(items):
    """Begin with files of few tests that take minutes, so that no worker ends with one."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture
def rng():
    """Random numbers, the same for every test."""
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def run_python():
    """Run code in a fresh process with a time limit; return what it prints."""

    def run(code, timeout=120, check=True, **environment):
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"exit {done.returncode}\n{done.stderr}"
        return done.stdout if check else done

    return run
