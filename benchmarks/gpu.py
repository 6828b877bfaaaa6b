"""Correctness and speed on a GPU, beside PyTorch and CuPy and beside a copy.

    python benchmarks/gpu.py [--log2n 28] [--repeats 20] [--results benchmarks/results]
    python benchmarks/gpu.py --check       # correctness only

Needs PyTorch with CUDA and numba-cuda; CuPy and compute-sanitizer are used if
they are there. First every kind of call is compared with the CPU: into
poisoned outputs, on a stream of its own behind work that is still under way, at
odd offsets; and with itself, 20 times. Then times, by events on the stream:
medians of interleaved rounds, each of which reads another set of arrays, so
that nothing is left in the cache. The floor of a call is what it must read and
write over the speed of a device-to-device copy in the same rounds, counted
the same way. A table goes to the folder of results.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import platform
import shutil
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

import smoothl1 as sl

try:
    import cupy
except ImportError:
    cupy = None

BETA = 0.7
GIB = float(1 << 30)
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")


# Correctness.

FUNCTIONS = [
    (sl.smooth_l1_loss, ["out"]),
    (sl.smooth_l1_grad, ["out"]),
    (sl.smooth_l1_hess, ["out"]),
    (sl.smooth_l1_value_and_grad, ["out", "grad_out"]),
]


def tolerance(dtype):
    return {torch.float64: 1e-12, torch.float32: 5e-7, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[
        dtype
    ]


def check_call(function, given, options, device, outputs):
    """Compare a call with the same on the CPU; return how many numbers were compared."""
    wanted = function(**given, **options)
    there = {name: value.to(device) for name, value in given.items()}
    for name, strided in (("x", given["x"]), ("target", given["target"])):
        there[name] = as_strided_like(there[name], strided)
    poisoned = {}
    results = wanted if isinstance(wanted, tuple) else (wanted,)
    for name, value in zip(outputs, results, strict=False):
        poisoned[name] = torch.full_like(value, torch.nan, device=device)
    got = function(**there, **options, **poisoned)
    got = got if isinstance(got, tuple) else (got,)
    for a, b in zip(got, results, strict=True):
        assert a.device.type == torch.device(device).type
        torch.testing.assert_close(
            a.cpu(), b, rtol=tolerance(b.dtype), atol=tolerance(b.dtype), equal_nan=True
        )
    return sum(value.numel() for value in results)


def as_strided_like(tensor, like):
    """Copy with the strides of another tensor, none of them negative or 0."""
    order = sorted(range(like.ndim), key=lambda axis: -like.stride(axis))
    inverse = sorted(range(like.ndim), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(inverse)


def layouts(x, target):
    yield "contiguous", x, target
    yield "transposed", x.permute(2, 0, 1), target.permute(2, 0, 1)
    yield "mixed", x, target.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    yield "broadcast", x, target[:, :1]
    yield "row", x, target[0, 0]


def check(device, shape=(67, 33, 130), seed=None):
    """Compare every function, option, type and layout; return how many numbers were compared."""
    generator = torch.Generator().manual_seed(torch.seed() % 2**63 if seed is None else seed)
    compared = 0
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        x, target = torch.randn((2, *shape), generator=generator, dtype=torch.float64).to(dtype)
        weight = torch.rand(shape[-1], generator=generator, dtype=torch.float64).to(dtype)
        where = torch.rand((shape[1], 1), generator=generator) < 0.7
        thresholds = torch.rand(shape[-1], generator=generator, dtype=torch.float64).to(dtype)
        x[0, 0, 0], x[0, 1, 0] = torch.inf, torch.nan
        where[:2] = False
        options = [{"axis": axis} for axis in (None, 0, 1, 2, (0, 2), (1, 2), ())]
        options += [{"reduction": "none"}, {"reduction": "sum", "axis": 1, "keepdims": True}]
        for option, (_, a, b) in itertools.product(options, layouts(x, target)):
            names = {"x": a, "target": b, "where": torch.broadcast_to(where, x.shape)}
            if a.shape != x.shape:
                names["where"] = names["where"].permute(2, 0, 1)
            extra = {"weight": weight, "beta": thresholds} if a.shape == x.shape else {}
            for more in ({}, extra):
                beta = {} if "beta" in more else {"beta": BETA}
                given = names | more
                for function, outputs in FUNCTIONS:
                    compared += check_call(function, given, option | beta, device, outputs)
    return compared


def check_offsets(device, n=100_003):
    """Arrays that begin anywhere, of lengths that fill no vector."""
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        base = torch.randn((2, n + 9), dtype=torch.float64).to(dtype)
        there = base.to(device)
        for start, length in itertools.product((0, 1, 2, 3, 8), (n, n - 1, 7, 1)):
            x, target = base[:, start : start + length]
            got = sl.smooth_l1_value_and_grad(*there[:, start : start + length], beta=BETA)
            wanted = sl.smooth_l1_value_and_grad(x.clone(), target.clone(), beta=BETA)
            for a, b in zip(got, wanted, strict=True):
                limit = tolerance(dtype)
                torch.testing.assert_close(a.cpu(), b, rtol=limit, atol=limit)


def check_streams(device, n=1 << 22):
    """A call waits for what its stream has still to do, and for nothing else."""
    x = torch.zeros(n, device=device)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # about a tenth of a second
        x.fill_(3.0)
        loss = sl.smooth_l1_loss(x, torch.ones_like(x), beta=0.5)
    assert not stream.query(), "the call waited for its stream"
    stream.synchronize()
    assert loss.item() == 1.75


def check_determinism(device, n=10_000_019, runs=20):
    x, target = torch.randn((2, n), device=device)
    images = x[: 640 * 15625].view(64, 10, 125, 125)
    for function in (
        lambda: sl.smooth_l1_value_and_grad(x, target, beta=BETA),
        lambda: (sl.smooth_l1_loss(images, images.flip(0), beta=BETA, axis=(0, 2)),),
        lambda: (sl.smooth_l1_grad(target[:1], x, beta=BETA),),
    ):
        first = [part.clone() for part in function()]
        for _ in range(runs - 1):
            assert all(torch.equal(a, b) for a, b in zip(first, function(), strict=True))


def sanitize():
    """What compute-sanitizer says of the checks, tool by tool."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"compute-sanitizer": "not there"}
    found = {}
    for name in TOOLS:
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, __file__]
        try:
            done = subprocess.run(
                [*command, "--check", "--small"], capture_output=True, text=True, timeout=100,
                check=False,
            )  # fmt: skip
            found[name] = "clean" if done.returncode == 0 else done.stdout[-300:]
        except subprocess.TimeoutExpired:
            found[name] = "not done in 100 s"
    return found


# Speed.


def time_rounds(work, repeats):
    """Median milliseconds of each callable of a set of arrays, round by round."""
    times = {name: [] for name in work}
    for function, sets in work.values():
        for arrays in sets:
            function(*arrays)
        torch.cuda.synchronize()
    for round_, (name, (function, sets)) in itertools.product(range(repeats), work.items()):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1_000_000)  # the host is ahead, so that launches cost nothing
        start.record()
        function(*sets[round_ % len(sets)])
        stop.record()
        stop.synchronize()
        times[name].append(start.elapsed_time(stop))
    return {name: statistics.median(spent) for name, spent in times.items()}


def copy_speed(n, repeats):
    """Bytes read and written per second by a copy on the device."""
    sets = [(torch.empty(n, device="cuda"), torch.ones(n, device="cuda")) for _ in range(2)]
    spent = time_rounds({"copy": (lambda to, of: to.copy_(of), sets)}, repeats)["copy"]
    return 8 * n / (spent * 1e-3)


def eager(x, target):
    return torch.nn.functional.smooth_l1_loss(x, target, beta=BETA)


def eager_both(x, target):
    x = x.detach().requires_grad_()
    loss = eager(x, target)
    return loss, torch.autograd.grad(loss, x)[0]


def cupy_peers():
    """The loss and its slope as a CuPy user writes them."""
    if cupy is None:
        return {}, {}
    sums = cupy.ReductionKernel(
        "T x, T t, float64 b", "float64 y", "abs(x - t) < b ? 0.5 * (x - t) * (x - t) / b"
        " : abs(x - t) - 0.5 * b", "a + b", "y = a", "0", "smooth_l1",
    )  # fmt: skip
    slope = cupy.ElementwiseKernel(
        "T x, T t, T b, T share", "T g",
        "T r = x - t; g = (abs(r) < b ? r / b : (r > 0 ? T(1) : T(-1))) * share", "smooth_l1_grad",
    )  # fmt: skip

    def loss(x, target):
        return sums(cupy.asarray(x), cupy.asarray(target), BETA)

    def both(x, target):
        x, target = cupy.asarray(x), cupy.asarray(target)
        kind = x.dtype.type
        return sums(x, target, BETA), slope(x, target, kind(BETA), kind(1.0 / x.size))

    return {"CuPy": loss}, {"CuPy": both}


def flat_cases(n):
    """Name, type, bytes per element, our call and peers."""
    compiled, compiled_both = torch.compile(eager), torch.compile(eager_both)
    cupy_loss, cupy_both = cupy_peers()
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        size = dtype.itemsize
        peers, both = {"torch": eager, "compile": compiled}, {"torch": eager_both}
        if dtype is torch.float32:
            peers, both = peers | cupy_loss, both | {"compile": compiled_both} | cupy_both
        name = str(dtype).removeprefix("torch.")
        count = n if size <= 4 else n // 2
        ours = sl.smooth_l1_value_and_grad
        yield f"mean loss, {name}", (count,), dtype, 2 * size, sl.smooth_l1_loss, {}, peers
        yield f"loss and gradient, {name}", (count,), dtype, 3 * size, ours, {}, both
        if dtype is torch.float32:
            none = {"reduction": "none"}
            yield f"losses, {name}", (count,), dtype, 3 * size, sl.smooth_l1_loss, none, {}
            yield f"gradient, {name}", (count,), dtype, 3 * size, sl.smooth_l1_grad, {}, {}


def axis_cases(n):
    """The axis reductions of P3, scaled up; the operands are float32."""
    many, images = (n // 4, 4), (n // (64 * 56 * 56), 64, 56, 56)
    square = (1 << 14, n >> 14)
    for shape, axis in (
        (many, 1), (many, 0), (many[::-1], 0), (images, (1, 2, 3)), (images, (0, 2, 3)),
        (images, 1), (images, 0), (images, (0, 2)), (square, 0), (square, 1),
    ):  # fmt: skip

        def peer(x, target, axis=axis):
            return torch.nn.functional.smooth_l1_loss(x, target, beta=BETA, reduction="none").mean(
                axis
            )

        title = f"{shape} over {axis}"
        yield title, shape, torch.float32, 8, sl.smooth_l1_loss, {"axis": axis}, {"torch": peer}


def measure(n, repeats):
    """Rows of the table: name, milliseconds, floor, share of it, ratios to peers."""
    speed, rows = copy_speed(n, repeats), []
    for title, shape, dtype, size, function, options, peers in itertools.chain(
        flat_cases(n), axis_cases(n)
    ):
        sets = [tuple(torch.randn((2, *shape), device="cuda", dtype=dtype)) for _ in range(2)]

        def ours(x, target, function=function, options=options):
            return function(x, target, beta=BETA, **options)

        work = {"smoothl1": (ours, sets)} | {name: (peer, sets) for name, peer in peers.items()}
        spent = time_rounds(work, repeats)
        floor = sets[0][0].numel() * size / speed * 1e3
        rows.append((title, spent["smoothl1"], floor, floor / spent["smoothl1"], {
            name: other / spent["smoothl1"] for name, other in spent.items() if name != "smoothl1"
        }))  # fmt: skip
        print(line(*rows[-1]), flush=True)
        del sets, work
        torch.cuda.empty_cache()
    return speed, rows


def line(title, spent, floor, share, ratios):
    listed = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
    return f"| {title} | {spent:.3f} | {floor:.3f} | {share:.0%} | {listed} |"


def write_results(folder, speed, rows, notes, n):
    """Table of this run, named after the device and the date."""
    device = torch.cuda.get_device_name()
    day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    packages = ("smoothl1", "numba", "numba-cuda", "torch", "numpy")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    text = [
        f"# {device}, {day}",
        f"\n{versions}, Python {platform.python_version()}; n = {n}, beta {BETA}.",
        f"Copy on the device: {speed / 1e12:.2f} TB/s, read and written.\n",
        "| call | ms | floor, ms | of the speed of the copy | peers, times as long |",
        "|---|---|---|---|---|",
        *(line(*row) for row in rows),
        "",
        *(f"- {name}: {found}" for name, found in notes.items()),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{device.replace(' ', '-')}-{day}.md"
    path.write_text("\n".join(text) + "\n")
    return path


def run_checks(small):
    """All checks; how many numbers were compared."""
    compared = check("cuda", (9, 7, 34) if small else (67, 33, 130))
    check_offsets("cuda", 1003 if small else 100_003)
    if not small:
        check_streams("cuda")
        check_determinism("cuda")
    return compared


def main():
    parser = argparse.ArgumentParser(description="Correctness and speed on a GPU.")
    parser.add_argument("--log2n", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--check", action="store_true", help="correctness only")
    parser.add_argument("--small", action="store_true", help="few elements, for sanitizers")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a GPU that PyTorch can use")
    notes = {"numbers compared with the CPU": run_checks(given.small)}
    print(notes, flush=True)
    if given.check:
        return
    speed, rows = measure(1 << given.log2n, given.repeats)
    notes |= sanitize()
    print(write_results(given.results, speed, rows, notes, 1 << given.log2n))


if __name__ == "__main__":
    main()
