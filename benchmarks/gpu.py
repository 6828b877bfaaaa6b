"""Correctness and speed on a GPU, beside PyTorch and CuPy and beside a copy.

    python benchmarks/gpu.py [--log2n 28] [--repeats 20] [--results benchmarks/results]
    python benchmarks/gpu.py --check       # correctness only

Needs PyTorch with CUDA and numba-cuda; CuPy, JAX with CUDA and compute-sanitizer are
used if they are there. First every kind of call is compared with the CPU: into
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
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import torch

import smoothl1 as sl

try:
    import cupy
except ImportError:
    cupy = None

BETA = 0.7
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")


# Correctness.

BOTH = sl.smooth_l1_value_and_grad, ["out", "grad_out"]
FUNCTIONS = [
    (sl.smooth_l1_loss, ["out"]),
    (sl.smooth_l1_grad, ["out"]),
    (sl.smooth_l1_hess, ["out"]),
    BOTH,
]


def ulps(got, wanted):
    """Largest error in units of the last place of the largest number, NaN and inf alike."""
    got, wanted = got.double().cpu(), wanted.double()
    odd = ~torch.isfinite(wanted)
    assert torch.equal(got[odd].nan_to_num(nan=7.0), wanted[odd].nan_to_num(nan=7.0))
    if odd.all():
        return 0.0
    return float((got - wanted)[~odd].abs().max() / wanted[~odd].abs().max().clamp_min(1e-300))


LIMITS = {torch.float64: 1e-12, torch.float32: 3e-7, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def compare(got, wanted):
    """Compare results of a GPU with those of the CPU; return how many numbers."""
    got, wanted = (r if isinstance(r, tuple) else (r,) for r in (got, wanted))
    for a, b in zip(got, wanted, strict=True):
        assert a.is_cuda
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        error = ulps(a, b)
        assert error <= LIMITS[b.dtype], (error, b.dtype, b.shape)
    return sum(b.numel() for b in wanted)


def check_call(function, given, options, device, outputs):
    """Compare a call into poisoned outputs with the same on the CPU."""
    wanted = function(**given, **options)
    there = {name: value.to(device) for name, value in given.items()}
    for name in ("x", "target"):
        there[name] = as_strided_like(there[name], given[name])
    results = wanted if isinstance(wanted, tuple) else (wanted,)
    poisoned = {
        name: torch.full_like(value, torch.nan, device=device)
        for name, value in zip(outputs, results, strict=False)
    }
    return compare(function(**there, **options, **poisoned), wanted)


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
    yield "other axes each", x[:, :1], target[:1]


def check(device, shape=(67, 33, 130)):
    """Compare functions, options, types and layouts; return how many numbers were compared.

    Every pair of options meets, not every combination: each is one more kernel to compile.
    """
    compared = 0
    for dtype in LIMITS:
        x, target = torch.randn((2, *shape), dtype=torch.float64).to(dtype)
        weight = torch.rand(shape[-1], dtype=torch.float64).to(dtype)
        where = (torch.rand(shape) < 0.7) & x.isfinite()
        x[0, 0, 0], x[0, 1, 0], where[0, :2, 0] = torch.inf, torch.nan, False
        plain, masked = {}, {"where": where}
        everything = {"where": where, "weight": weight, "beta": weight + 0.1}
        axes = [{"axis": axis} for axis in (None, 0, 1, 2, (0, 2), ())]
        for extra, options in itertools.product(
            (plain, masked, everything), [*axes, {"reduction": "none"}]
        ):
            for function, outputs in FUNCTIONS:
                options_ = options | ({} if "beta" in extra else {"beta": BETA})
                given = {"x": x.nan_to_num(posinf=2.0), "target": target} | extra
                compared += check_call(function, given, options_, device, outputs)
        more = {"x": x, "target": target, "where": where}
        for _, a, b in layouts(x, target):
            given = {"x": a, "target": b}
            is_permuted = a.shape == where.permute(2, 0, 1).shape
            given |= {"where": where.permute(2, 0, 1) if is_permuted else where}
            pairs = [(None, "target"), (0, "target")]
            pairs += [(0, "x"), ((1, 2), "x"), ((1, 2), "target")] if dtype is torch.float32 else []
            for axis, wrt in pairs:
                options = {"axis": axis, "beta": BETA, "wrt": wrt}
                compared += check_call(BOTH[0], given, options, device, BOTH[1])
        compared += check_call(sl.huber_loss, more, {"delta": 0.3}, device, ["out"])
        compared += check_call(sl.smooth_l1_grad, more, {"normalizer": 7.5}, device, ["out"])
        wide = {"dtype": torch.float64, "axis": 1}
        compared += check_call(sl.smooth_l1_loss, more, wide, device, ["out"])
        whole = {"x": x.nan_to_num(posinf=2.0), "target": (target * 9).to(torch.int16)}
        compared += check_call(sl.smooth_l1_loss, whole, {"beta": BETA}, device, ["out"])
        upstream = {"grad_output": torch.randn(shape[1:], dtype=torch.float64).to(dtype)}
        compared += check_call(sl.smooth_l1_grad, more | upstream, {"axis": 0}, device, ["out"])
    return compared


def check_offsets(device, n=100_003):
    """Arrays that begin anywhere, of lengths that fill no vector, in place and not."""
    compared = 0
    for dtype in LIMITS:
        x, target = (torch.randn(n + 9, dtype=torch.float64).to(dtype) for _ in range(2))
        for start, length in itertools.product((0, 1, 2, 3, 8), (n, n - 1, 7, 1)):
            mine = [v[start : start + length].clone() for v in (x, target)]
            there = [v.to(device)[start : start + length] for v in (x, target)]
            for function, _ in FUNCTIONS:
                compared += compare(function(*there, beta=BETA), function(*mine, beta=BETA))
            none = {"beta": BETA, "reduction": "none"}
            compared += compare(sl.smooth_l1_loss(*there, **none), sl.smooth_l1_loss(*mine, **none))
            wanted = sl.smooth_l1_grad(*mine, beta=BETA)
            compared += compare(sl.smooth_l1_grad(*there, beta=BETA, out=there[0]), wanted)
    return compared


def check_overlaps(device, n=100_003):
    """Outputs that lie over operands, but not element on element."""
    room = torch.randn(n + 1, dtype=torch.float64)
    there = room.to(device)
    wanted = sl.smooth_l1_grad(room[:-1].clone(), 0.5, beta=BETA)
    compare(sl.smooth_l1_grad(there[:-1], 0.5, beta=BETA, out=there[1:]), wanted)


def check_gradients(device):
    """PyTorch's gradients, through the kernels, beside its own loss."""
    for dtype in LIMITS:
        x, target = torch.randn((2, 300, 70), device=device, dtype=torch.float64).to(dtype)
        pairs = []
        for function in (sl.smooth_l1_loss, torch.nn.functional.smooth_l1_loss):
            a, b = x.clone().requires_grad_(), target.clone().requires_grad_()
            (function(a, b, beta=BETA) * 3).backward()
            pairs.append((a.grad, b.grad))
        for a, b in zip(*pairs, strict=True):
            assert ulps(a, b.cpu()) <= 4 * LIMITS[dtype]


def check_streams(device, n=1 << 22):
    """A call waits for what its stream has still to do, and for nothing else."""
    x = torch.zeros(n, device=device)
    sl.smooth_l1_loss(x, torch.ones_like(x), beta=0.5)  # compiles
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(1_000_000_000)  # about half a second
        x.fill_(3.0)
        loss = sl.smooth_l1_loss(x, torch.ones_like(x), beta=0.5)
    assert not stream.query(), "the call waited for its stream"
    stream.synchronize()
    assert loss.item() == 1.75


def check_determinism(device, n=10_000_019, runs=20):
    x, target = (torch.randn(n, device=device) for _ in range(2))
    images = x[: 640 * 15625].view(64, 10, 125, 125)
    for function in (
        lambda: sl.smooth_l1_value_and_grad(x, target, beta=BETA),
        lambda: (sl.smooth_l1_loss(images, images.flip(0), beta=BETA, axis=(0, 2)),),
        lambda: (sl.smooth_l1_grad(target[:1], x, beta=BETA),),
        lambda: sl.smooth_l1_value_and_grad(target[:125], images, beta=BETA, axis=(1, 2)),
    ):
        first = [part.clone() for part in function()]
        for _ in range(runs - 1):
            assert all(torch.equal(a, b) for a, b in zip(first, function(), strict=True))


def check_jax(shape=(67, 33, 130)):
    """Arrays of JAX, where it has a GPU; return how many numbers were compared."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # not most of the GPU
    try:
        import jax

        device = jax.devices("cuda")[0]
    except (ImportError, RuntimeError) as error:
        print(f"no arrays of JAX on a GPU: {error}", file=sys.stderr)
        return 0
    from smoothl1 import jax_gpu

    assert jax_gpu.is_working(device), "XLA does not call the kernels"
    compared = 0
    values = torch.randn((2, *shape)).numpy()
    weight = torch.rand(shape[-1]).numpy()
    there = dict(zip(("x", "target", "weight"), (*values, weight), strict=True))
    for axis, names in itertools.product((None, 0, (0, 2)), (("x", "target"), tuple(there))):
        here = {name: there[name] for name in names}
        arrays = {name: jax.device_put(array, device) for name, array in here.items()}
        for function, _ in FUNCTIONS:
            got = [function(**arrays, beta=BETA, axis=axis) for _ in range(2)]
            assert all(part.devices() == {device} for part in jax.tree.leaves(got))
            first, second = ([torch.tensor(p.tolist()) for p in jax.tree.leaves(r)] for r in got)
            wanted = jax.tree.leaves(function(**here, beta=BETA, axis=axis))
            for a, b, c in zip(first, second, wanted, strict=True):
                assert torch.equal(a, b), "bits differ from run to run"
                assert ulps(a, torch.as_tensor(c)) <= LIMITS[torch.float32]
                compared += a.numel()
    return compared


def sanitize():
    """What compute-sanitizer says of a handful of calls, tool by tool."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"compute-sanitizer": "not there"}
    found, environment = {}, {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for name in TOOLS:
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, __file__]
        process = subprocess.Popen(
            [*command, "--handful"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=60)
            found[name] = "clean" if process.returncode == 0 else out[-300:]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            found[name] = "not done in 60 s"
    return found


def handful():
    """One call of each kernel, with ragged sizes."""
    x, target = (torch.randn(1003, device="cuda") for _ in range(2))
    sl.smooth_l1_value_and_grad(x, target, beta=BETA)
    sl.smooth_l1_value_and_grad(x[1:], target[1:], beta=BETA)
    rows, where = x[:1000].view(10, 100), x[:1000].view(10, 100) > 0
    sl.smooth_l1_value_and_grad(rows, rows.flip(0), beta=BETA, axis=0, where=where)
    sl.smooth_l1_loss(rows.T, rows.flip(0).T, beta=BETA, axis=0)
    sl.smooth_l1_value_and_grad(rows[0], rows.flip(0), beta=BETA, axis=1)
    sl.smooth_l1_value_and_grad(rows[:, :1], rows.flip(0), beta=BETA)
    sl.smooth_l1_grad(x[:-1], target[:-1], beta=BETA, out=x[1:])
    torch.cuda.synchronize()


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
        torch.cuda._sleep(10_000_000)  # the host is ahead, so that launches cost nothing
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


def with_gradient(loss):
    """Loss and gradient of a function, forward and backward."""

    def both(x, target):
        x = x.detach().requires_grad_()
        value = loss(x, target)
        return value, torch.autograd.grad(value, x)[0]

    return both


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
    """Name, shape or those of x and target, type, bytes per element, our call and peers."""
    cupy_loss, cupy_both = cupy_peers()
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        size = dtype.itemsize
        compiled = torch.compile(eager, dynamic=False)
        peers = {"torch": eager, "compile": compiled}
        both = {"torch": with_gradient(eager), "compile": with_gradient(compiled)}
        if dtype is torch.float32:
            peers, both = peers | cupy_loss, both | cupy_both
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


def broadcast_cases(n):
    """Gradients of x summed over the axes that it is broadcast along; float32."""
    shape, ours = (1 << 14, n >> 14), sl.smooth_l1_value_and_grad
    for own, axis in (((n >> 14,), None), ((n >> 14,), 1), ((1 << 14, 1), 0)):

        def peer(x, target, axis=axis):
            x = x.detach().requires_grad_()
            losses = torch.nn.functional.smooth_l1_loss(
                x.expand(target.shape), target, beta=BETA, reduction="none"
            )
            value = losses.mean(axis)
            return value, torch.autograd.grad(value.sum(), x)[0]

        title = f"x of {own} to {shape} over {axis}, loss and gradient"
        yield title, (own, shape), torch.float32, 4, ours, {"axis": axis}, {"torch": peer}


def measure(n, repeats, write):
    """Write rows of the table: name, milliseconds, floor, share of it, ratios to peers."""
    speed = copy_speed(n, repeats)
    write(f"Copy on the device: {speed / 1e12:.2f} TB/s, read and written.\n")
    write("| call | ms | floor, ms | of the speed of the copy | peers, times as long |")
    write("|---|---|---|---|---|")
    for title, shape, dtype, size, function, options, peers in itertools.chain(
        flat_cases(n), axis_cases(n), broadcast_cases(n)
    ):
        shapes = shape if isinstance(shape[0], tuple) else (shape, shape)
        sets = [
            tuple(torch.randn(own, device="cuda", dtype=dtype) for own in shapes) for _ in range(2)
        ]

        def ours(x, target, function=function, options=options):
            return function(x, target, beta=BETA, **options)

        work = {"smoothl1": (ours, sets)}
        for name, peer in peers.items():
            try:
                peer(*sets[0])
                work[name] = peer, sets
            except Exception as error:  # a peer that cannot run is no reason to lose the rest
                print(f"{title}, {name}: {error}", file=sys.stderr)
        spent = time_rounds(work, repeats)
        floor = sets[0][1].numel() * size / speed * 1e3
        ratios = {k: v / spent["smoothl1"] for k, v in spent.items() if k != "smoothl1"}
        write(line(title, spent["smoothl1"], floor, floor / spent["smoothl1"], ratios))
        del sets, work
        torch.cuda.empty_cache()


def line(title, spent, floor, share, ratios):
    listed = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
    return f"| {title} | {spent:.3f} | {floor:.3f} | {share:.0%} | {listed} |"


def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def start_results(folder, n):
    """Function that adds a line to the table of this run, named after device and date."""
    device = torch.cuda.get_device_name()
    day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{device.replace(' ', '-')}-{day}.md"
    path.write_text("")

    def write(text):
        print(text, flush=True)
        with path.open("a") as file:
            file.write(text + "\n")

    packages = ("numba", "numba-cuda", "torch", "cupy-cuda13x", "jax", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    write(f"# {device}, {day}\n")
    write(f"smoothl1 {sl.__version__}, {versions}, Python {platform.python_version()}.")
    write(f"n = {n}, beta {BETA}; medians of interleaved rounds.")
    return write


def run_checks():
    """All checks; how many numbers were compared."""
    seed = torch.seed() % 2**32
    torch.manual_seed(seed)
    compared = check("cuda") + check_offsets("cuda") + check_jax()
    check_overlaps("cuda")
    check_gradients("cuda")
    check_streams("cuda")
    check_determinism("cuda")
    return f"{compared} numbers compared with the CPU; seed {seed}; same bits in 20 runs"


def main():
    parser = argparse.ArgumentParser(description="Correctness and speed on a GPU.")
    parser.add_argument("--log2n", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--check", action="store_true", help="correctness only")
    parser.add_argument("--handful", action="store_true", help="a few calls, for sanitizers")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a GPU that PyTorch can use")
    if given.handful:
        handful()
        return
    started = time.perf_counter()
    found = run_checks()
    print(f"{found}; {time.perf_counter() - started:.0f} s", flush=True)
    if given.check:
        return
    write = start_results(given.results, 1 << given.log2n)
    write(f"{found}.")
    measure(1 << given.log2n, given.repeats, write)
    for name, said in sanitize().items():
        write(f"\ncompute-sanitizer {name}: {said}")


if __name__ == "__main__":
    main()
