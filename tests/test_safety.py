"""No call ends, hangs or corrupts a process, whatever the process does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scenarios import END, LAYERS, PRELUDE, SCENARIOS

import smoothl1 as sl
from smoothl1 import threads

ROOT = Path(__file__).parent.parent
USUAL = [(layer, scenario) for layer in ("default", "workqueue") for scenario in SCENARIOS]
ALL = [(layer, scenario) for layer in LAYERS for scenario in SCENARIOS]
NEEDS = {"dask threads": "dask", "joblib threads": "joblib", "joblib processes": "joblib",
         "workers of a torch DataLoader": "torch"}  # fmt: skip


@pytest.fixture(scope="module")
def wanted():
    """The loss of the scenarios, computed on one thread."""
    x = np.random.default_rng(0).normal(size=250_000)
    with threads.serially():
        return float(sl.smooth_l1_loss(x, 0.25, beta=0.3)).hex()


def run(layer, scenario, wanted, folder, calls):
    """Run a scenario under a threading layer; it must end well, and in time."""
    if scenario in NEEDS:
        pytest.importorskip(NEEDS[scenario], reason=f"{NEEDS[scenario]} is optional")
    program = folder / "program.py"
    program.write_text(f"{PRELUDE}CALLS = {calls}\n{SCENARIOS[scenario]}{END}")
    environment = {"NUMBA_NUM_THREADS": "2", "WANTED": wanted, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        env={**os.environ, **environment, **LAYERS[layer]},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("ok\n")  # numba's TBB layer prints of forks that it cannot join


@pytest.mark.parametrize(("layer", "scenario"), USUAL)
def test_scenario(layer, scenario, wanted, tmp_path):
    run(layer, scenario, wanted, tmp_path, calls=100)


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "scenario"), ALL)
def test_every_scenario(layer, scenario, wanted, tmp_path):
    run(layer, scenario, wanted, tmp_path, calls=1000)


MIXED = """
import threading
import numpy as np
import smoothl1 as sl

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

rng = np.random.default_rng(0)
x, target, weight = rng.normal(size=(3, 60, 5000)) ** 2
half = x.astype(np.float16)

def mixed():
    sl.smooth_l1_loss(x, target, beta=0.3)
    sl.smooth_l1_loss(x[:, ::2], target[:, ::2], beta=0.3, axis=0)
    sl.smooth_l1_value_and_grad(x, target, beta=0.3, weight=weight, axis=1)
    sl.smooth_l1_value_and_grad(half, target, beta=x, where=x > 1)
    sl.smooth_l1_grad(x[:1], target, beta=0.3)
    sl.smooth_l1_hess(x.T, target.T, beta=0.3)
    sl.smooth_l1_loss(x[0], target[0], beta=0.3)
"""


def test_memory_stays_flat(run_python):
    """A thousand calls of seven kinds, and a hundred threads that come and go."""
    code = (
        MIXED
        + """
def in_a_thread():
    thread = threading.Thread(target=lambda: sl.smooth_l1_loss(x, target, beta=0.3))
    thread.start()
    thread.join()
for _ in range(20): mixed()
in_a_thread()  # the pool of the library starts its own
before = resident()
for _ in range(143): mixed()
grown, running = resident() - before, threading.active_count()
for _ in range(100): in_a_thread()
print(grown < 5, resident() - before < 5, threading.active_count() == running)
"""
    )
    assert run_python(code).split() == ["True"] * 3
