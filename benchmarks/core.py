"""Figures of the core against PyTorch and against the limit of the machine.

    python benchmarks/core.py [--n 20000000] [--repeats 15] [--only P1,P3]

Every value is checked before it is timed. Competitors run round after round,
each twice in a row, and the second run counts: for some milliseconds the
threads of the one before still spin. A ratio is one of medians. The limit is what two bare numba
kernels reach in the same rounds: the sum of two arrays, and g = x - target.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numba
import numpy as np
from numba import njit, prange

import smoothl1 as sl

try:
    import torch
    import torch.nn.functional as torch_functional
except ImportError:
    torch = None

BETA = 0.7


@njit(parallel=True, fastmath=True)
def add_up(x, target):
    total = x.dtype.type(0)
    for i in prange(x.size):
        total += x[i] + target[i]
    return total


@njit(parallel=True)
def subtract(x, target, grad):
    for i in prange(x.size):
        grad[i] = x[i] - target[i]


def interleave(work, repeats):
    """Median seconds of each callable, run round by round."""
    times = {name: [] for name in work}
    for function in work.values():
        function()
    for _ in range(repeats):
        for name, function in work.items():
            function()
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(spent) for name, spent in times.items()}


def numpy_loss(x, target, axis=None):
    """Mean loss from the definition, in float64."""
    size = np.abs(x.astype(np.float64) - target)
    return np.where(size < BETA, size * size / (2 * BETA), size - BETA / 2).mean(axis)


def show(label, times, ours="smoothl1"):
    parts = [f"{name} {spent * 1e3:.2f} ms" for name, spent in times.items()]
    ratios = [
        f"{name} / {ours} = {spent / times[ours]:.2f}"
        for name, spent in times.items()
        if name != ours
    ]
    print(f"{label:34s} {', '.join(parts)}\n{'':34s} {', '.join(ratios)}", flush=True)


def operands(n, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(n, dtype=np.float32).astype(dtype) for _ in range(2))


def mean_loss(n, repeats):
    """P1."""
    for dtype in ("float32", "float64"):
        x, target = operands(n, dtype)
        assert abs(sl.smooth_l1_loss(x, target, beta=BETA) / numpy_loss(x, target) - 1) < 1e-6
        work = {
            "smoothl1": lambda x=x, t=target: sl.smooth_l1_loss(x, t, beta=BETA),
            "limit": lambda x=x, t=target: add_up(x, t),
        }
        if torch:
            a, b = torch.from_numpy(x), torch.from_numpy(target)
            work["torch"] = lambda a=a, b=b: torch_functional.smooth_l1_loss(a, b, beta=BETA)
        show(f"P1 mean loss, {dtype}", interleave(work, repeats))


def loss_and_grad(n, repeats):
    """P2."""
    for dtype in ("float32", "float64"):
        x, target = operands(n, dtype)
        grad = np.empty_like(x)
        sl.smooth_l1_value_and_grad(x, target, beta=BETA, grad_out=grad)
        expected = np.clip((x.astype(np.float64) - target) / BETA, -1, 1) / n
        assert np.allclose(grad, expected, rtol=1e-6, atol=0)

        def ours(x=x, target=target, grad=grad):
            sl.smooth_l1_value_and_grad(x, target, beta=BETA, grad_out=grad)

        def limit(x=x, target=target, grad=grad):
            subtract(x, target, grad)

        work = {"smoothl1": ours, "limit": limit}
        if torch:
            a, b = torch.from_numpy(x).requires_grad_(), torch.from_numpy(target)

            def eager(a=a, b=b):
                a.grad = None
                torch_functional.smooth_l1_loss(a, b, beta=BETA).backward()

            work["torch"] = eager
        show(f"P2 mean loss and gradient, {dtype}", interleave(work, repeats))


def axis_cases(repeats):
    """P3: (label, x, target, axis)."""
    images = (64, 64, 56, 56)
    cases = [((10**6, 4), 1), ((10**6, 4), 0), ((4, 10**6), 0)]
    cases += [(images, axis) for axis in ((1, 2, 3), (0, 2, 3), 1, 0, (0, 2))]
    for shape, axis in cases:
        x, target = operands(shape)
        yield f"{shape} / {axis}", x, target, axis
    x, target = operands((4000, 5000))
    yield "target transposed", x, np.ascontiguousarray(target.T).T, None
    x, target = operands((4000, 10000))
    yield "[:, ::2]", x[:, ::2], target[:, ::2], None
    x, target = operands((4000, 5000))
    yield "target (4000, 1)", x, target[:, :1].copy(), None


def axes(n, repeats):
    """P3."""
    ratios, floors = [], []
    for label, x, target, axis in axis_cases(repeats):
        ours = sl.smooth_l1_loss(x, target, beta=BETA, axis=axis)
        assert np.allclose(ours, numpy_loss(x, target, axis), rtol=1e-5), label
        flat = x.ravel(), np.broadcast_to(target, x.shape).ravel()
        work = {
            "smoothl1": lambda x=x, t=target, a=axis: sl.smooth_l1_loss(x, t, beta=BETA, axis=a),
            "limit": lambda flat=flat: add_up(*flat),
        }
        if torch:
            a, b = torch.from_numpy(x), torch.from_numpy(target)
            dim = tuple(range(x.ndim)) if axis is None else axis

            b = b.broadcast_to(a.shape)

            def eager(a=a, b=b, dim=dim):
                torch_functional.smooth_l1_loss(a, b, beta=BETA, reduction="none").mean(dim)

            work["torch"] = eager
        times = interleave(work, repeats)
        show(f"P3 {label}", times)
        floors.append(times["limit"] / times["smoothl1"])
        if torch:
            ratios.append(times["torch"] / times["smoothl1"])
    print(f"P3 geometric mean: limit {statistics.geometric_mean(floors):.2f}", end="")
    print(f", torch {statistics.geometric_mean(ratios):.2f}" if ratios else "")


def small_calls(n, repeats):
    """P4: per call at 64 float64."""
    x, target = operands(64, "float64")
    work = {
        "smoothl1 loss": lambda: sl.smooth_l1_loss(x, target),
        "smoothl1 value_and_grad": lambda: sl.smooth_l1_value_and_grad(x, target),
    }
    if torch:
        a, b = torch.from_numpy(x).requires_grad_(), torch.from_numpy(target)
        work["torch loss"] = lambda: torch_functional.smooth_l1_loss(a.detach(), b)

        def eager():
            a.grad = None
            torch_functional.smooth_l1_loss(a, b).backward()

        work["torch forward and backward"] = eager
    many = {name: lambda f=f: [f() for _ in range(1000)] for name, f in work.items()}
    for name, spent in interleave(many, repeats).items():
        print(f"P4 n = 64: {name} {spent * 1e3:.2f} us")


MEMORY = """
import sys, numpy as np, smoothl1 as sl

def megabytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024

n = int(sys.argv[2])
x = np.random.default_rng(0).random(n, dtype=np.float32)
t, w = x[::-1].copy(), x > 0.25
call = {
    "contiguous": lambda x, t, w: sl.smooth_l1_loss(x, t, beta=0.7),
    "strided": lambda x, t, w: sl.smooth_l1_loss(x[::2], t[::-2], beta=0.7),
    "float16": lambda x, t, w: sl.smooth_l1_loss(x.view("f2"), t.view("f2"), beta=0.7),
    "broadcast": lambda x, t, w: sl.smooth_l1_loss(x.reshape(-1, 64), t[:64], beta=0.7),
    "columns": lambda x, t, w: sl.smooth_l1_loss(
        x.reshape(-1, 64), t.reshape(-1, 64), beta=0.7, axis=0
    ),
    "weight and mask": lambda x, t, w: sl.smooth_l1_loss(x, t, beta=0.7, weight=x, where=w),
    "gradient in place": lambda x, t, w: sl.smooth_l1_value_and_grad(x, t, beta=0.7, grad_out=t),
}[sys.argv[1]]
for m in (64 * 8, n, n):  # compile, start threads
    call(x[:m], t[:m], w[:m])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
before = megabytes("VmRSS")
call(x, t, w)
print(megabytes("VmHWM") - before)
"""
MEMORY_CASES = (
    "contiguous", "strided", "float16", "broadcast", "columns", "weight and mask",
    "gradient in place",
)  # fmt: skip


def memory(n, repeats):
    """P5: growth of the peak resident memory by one call (Linux)."""
    for case in MEMORY_CASES:
        command = [sys.executable, "-c", MEMORY, case, str(n // 64 * 64)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"P5 {case}: {float(out):.2f} MiB beyond the operands")


START = """
import time; start = time.perf_counter()
import smoothl1 as sl
imported = time.perf_counter() - start
import numpy as np
x = np.ones(10); start = time.perf_counter()
sl.smooth_l1_loss(x, x)
print(imported, imported + time.perf_counter() - start)
"""


def start_up(n, repeats):
    """P7: import and first result, in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "SMOOTHL1_CACHE_DIR": folder}
        rows = []
        for _ in range(6):
            out = subprocess.run(
                [sys.executable, "-c", START],
                check=True, capture_output=True, text=True, env=environment,
            ).stdout  # fmt: skip
            rows.append([float(v) for v in out.split()])
    warm = rows[1:]
    print(f"P7 import {statistics.median(r[0] for r in warm):.3f} s")
    print(f"P7 first result: cold {rows[0][1]:.2f} s, ", end="")
    print(f"warm {statistics.median(r[1] for r in warm):.2f} s")


FIGURES = {
    "P1": mean_loss,
    "P2": loss_and_grad,
    "P3": axes,
    "P4": small_calls,
    "P5": memory,
    "P7": start_up,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default=",".join(FIGURES))
    options = parser.parse_args()
    peer = f"torch {torch.__version__}" if torch else "no torch"
    print(
        f"{sl.get_num_threads()} threads, numpy {np.__version__}, numba {numba.__version__}, {peer}"
    )
    for name in options.only.split(","):
        FIGURES[name](options.n, options.repeats)


if __name__ == "__main__":
    main()
