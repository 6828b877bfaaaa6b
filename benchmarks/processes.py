"""What a process of its own is needed for: start-up, and memory."""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec

from .measure import in_process, summarise
from .results import Row

# Start-up. Each program prints the seconds from its first line to an import and to a result.

FIRST = """
import json, time
start = time.perf_counter()
{imports}
imported = time.perf_counter() - start
import numpy as np
x, t = np.ones(10), np.zeros(10)
{call}
print(json.dumps([imported, time.perf_counter() - start]))
"""
PROGRAMS = {
    "smoothl1": ("import smoothl1 as sl", "float(sl.smooth_l1_loss(x, t))"),
    "numpy": (
        "import numpy",
        "r = np.abs(x - t); float(np.where(r < 1, r * r / 2, r - 0.5).mean())",
    ),
    "scipy.special.huber": ("from scipy.special import huber", "float(huber(1, x - t).mean())"),
    "torch": (
        "import torch",
        "float(torch.nn.functional.smooth_l1_loss(torch.tensor(x), torch.tensor(t)))",
    ),
    "jax.jit": (
        "import jax, jax.numpy as jnp",
        "f = jax.jit(lambda x, t: jnp.where(abs(x - t) < 1, (x - t) ** 2 / 2, "
        "abs(x - t) - 0.5).mean()); float(f(x, t))",
    ),
}
STARTS = ("import", "first result, code in the cache", "first result, nothing in the cache")


def start(name, label, settings):
    """Seconds in fresh processes, which take turns."""
    cold = label.endswith("nothing in the cache")
    peers = PROGRAMS if settings.expensive and not cold else ("smoothl1",)
    chosen = [peer for peer in peers if find_spec(peer.partition(".")[0]) is not None]
    spent = {peer: [] for peer in chosen}
    rounds = settings.rounds if settings.expensive else 1
    with tempfile.TemporaryDirectory() as kept:
        for turn in range(rounds + (not cold)):
            for peer in chosen:
                imports, call = PROGRAMS[peer]
                with tempfile.TemporaryDirectory() as fresh:
                    folder = {"SMOOTHL1_CACHE_DIR": fresh if cold else kept}
                    program = FIRST.format(imports=imports, call=call)
                    seconds = in_process(program, environment=folder)
                if turn or cold:
                    spent[peer].append(seconds[label != "import"])
    found = {peer: summarise(seconds) for peer, seconds in spent.items()}
    return [
        Row(name, peer, "s", timing.median, timing.low, timing.high, timing.rounds)
        for peer, timing in found.items()
    ]


# Memory (Linux): how far one call raises the peak beyond the operands and the outputs.

# What is freed goes back to the system, so that what is taken anew shows.
NO_HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PEAK = """
import json, sys
import numpy as np

def megabytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024

n = int(sys.argv[1])
x = np.random.default_rng(0).random(n, dtype=np.float32)
t, w = x[::-1].copy(), x > 0.25
{setup}
def call(x, t, w):
    return {call}

for m in (64 * 8, n, n):  # compile, start threads
    call(x[:m], t[:m], w[:m])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
before = megabytes("VmRSS")
call(x, t, w)
print(json.dumps(megabytes("VmHWM") - before))
"""
OURS = "import smoothl1 as sl"
LOSS = "sl.smooth_l1_loss({}, beta=0.7)"
MEMORY = {
    "contiguous": {
        "smoothl1": (OURS, LOSS.format("x, t")),
        "numpy": (
            "",
            "np.where(np.abs(x - t) < 0.7, (x - t) ** 2 / np.float32(1.4), "
            "np.abs(x - t) - np.float32(0.35)).mean()",
        ),
        "torch": (
            "import torch",
            "torch.nn.functional.smooth_l1_loss(torch.from_numpy(x), torch.from_numpy(t), "
            "beta=0.7)",
        ),
    },
    "strided": {"smoothl1": (OURS, LOSS.format("x[::2], t[::-2]"))},
    "float16": {"smoothl1": (OURS, LOSS.format("x.view('f2'), t.view('f2')"))},
    "broadcast": {"smoothl1": (OURS, LOSS.format("x.reshape(-1, 64), t[:64]"))},
    "columns": {
        "smoothl1": (OURS, LOSS.format("x.reshape(-1, 64), t.reshape(-1, 64), axis=0")),
    },
    "weight and where": {"smoothl1": (OURS, LOSS.format("x, t, weight=x, where=w"))},
    "gradient into an operand": {
        "smoothl1": (OURS, "sl.smooth_l1_value_and_grad(x, t, beta=0.7, grad_out=t)[0]"),
    },
}


def memory(name, label, settings):
    """MiB by which the peak grows."""
    if not sys.platform.startswith("linux"):
        return []
    n = settings.n // 64 * 64
    rows = []
    for peer, (setup, call) in MEMORY[label].items():
        if find_spec(peer) is None:
            continue
        grown = in_process(PEAK.format(setup=setup, call=call), n, environment=NO_HEAP)
        rows.append(Row(name, peer, "MiB", grown, grown, grown, 1, n, "float32"))
    return rows
