"""What is measured: every case has a name, ``group/what``, and returns rows of results."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numba
import numpy as np

import smoothl1 as sl

from . import fits, processes
from .calls import Call, operands
from .measure import interleave
from .peers import EXPENSIVE, PEERS, competitors
from .reference import OURS, TOLERANCE, expected, verify
from .results import Row
from .yardsticks import bytes_of, yardsticks


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    n: int = 20_000_000  # elements of the large cases
    seconds: float = 2.4  # for all rounds of a case
    largest: int = 100_000_000  # of the sizes
    rows: int = 1_000_000  # of the linear models
    rounds: int = 5  # at least
    expensive: bool = True  # with competitors that compile or fit for long


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[[Settings], list[Row]]


USUAL = ("smoothl1", "smoothl1 out=", "numpy", "numexpr", "scipy.special.huber", "sklearn._loss",
         "torch", "torch.compile", "jax.jit", "dask")  # fmt: skip
FEW = ("smoothl1", "numpy", "torch", "jax.jit")


def verified(name, call, work):
    """Competitors whose results are right; of this library all must be."""
    wanted, right = expected(call), {}
    for peer, function in work.items():
        ours = peer.startswith("smoothl1")
        try:
            verify(call, function(), wanted, OURS if ours else TOLERANCE)
        except Exception as error:
            if ours:
                raise AssertionError(f"{name}, {peer}: {error}") from error
            print(f"{name}: {peer} is left out: {error}", file=sys.stderr)
        else:
            right[peer] = function
    return right


def measure_call(name, call, settings, peers=USUAL):
    """Verify the competitors, then time them and the yardsticks."""
    peers = [peer for peer in peers if settings.expensive or peer not in EXPENSIVE]
    work = verified(name, call, competitors(call, peers))
    bare = yardsticks(call)
    times = interleave(work | bare, settings.seconds, settings.rounds)
    moved = dict.fromkeys(work, call.bytes_moved) | {name: bytes_of(name, call) for name in bare}
    return [
        Row(name, peer, "s", timing.median, timing.low, timing.high, timing.rounds, call.size,
            call.x.dtype.name, moved[peer], timing.ratios)
        for peer, timing in times.items()
    ]  # fmt: skip


def case(name, make, peers=USUAL):
    """A case of the call that `make` returns for the settings."""
    return Case(name, lambda settings: measure_call(name, make(settings), settings, peers))


def sizes(settings):
    peers = tuple(PEERS)
    for power, work in itertools.product(range(1, 9), ("loss", "value_and_grad")):
        if 10**power <= settings.largest:
            yield case(
                f"sizes/{work}/1e{power}",
                lambda _, n=10**power, work=work: Call(*operands(n), work),
                peers,
            )


def works(settings):
    chosen = [("loss", "mean"), ("loss", "sum"), ("loss", "none"), ("grad", "mean"),
              ("value_and_grad", "mean"), ("value_and_grad", "none"), ("hess", "none")]  # fmt: skip
    for work, reduction in chosen:
        yield case(
            f"works/{work}/{reduction}",
            lambda s, w=work, r=reduction: Call(*operands(s.n), w, r),
        )


def dtypes(settings):
    for dtype, work in itertools.product(("float64", "float16"), ("loss", "value_and_grad")):
        peers = USUAL if dtype == "float64" else FEW
        yield case(
            f"dtypes/{work}/{dtype}", lambda s, d=dtype, w=work: Call(*operands(s.n, d), w), peers
        )


def scaled(shape, settings):
    """The shape for the default size, its longest axis cut for a smaller one."""
    longest = max(range(len(shape)), key=shape.__getitem__)
    cut = max(1, round(shape[longest] * min(1, settings.n / Settings.n)))
    return (*shape[:longest], cut, *shape[longest + 1 :])


IMAGES = (64, 64, 56, 56)
AXES = [((10**6, 4), 1), ((10**6, 4), 0), ((4, 10**6), 0)]
AXES += [(IMAGES, axis) for axis in ((1, 2, 3), (0, 2, 3), 1, 0, (0, 2))]


def axes(settings):
    for shape, axis in AXES:
        label = f"{shape}/{axis}".replace(" ", "")
        yield case(
            f"axes/{label}",
            lambda s, shape=shape, axis=axis: Call(*operands(scaled(shape, s)), axis=axis),
            FEW,
        )


def layouts(settings):
    def transposed(x, target):
        return x, np.ascontiguousarray(target.T).T

    def strided(x, target):
        return (np.repeat(v, 2, axis=1)[:, ::2] for v in (x, target))

    def column(x, target):
        return x, target[:, :1].copy()

    def fortran(x, target):
        return np.asfortranarray(x), np.asfortranarray(target)

    def backwards(x, target):
        return x[::-1, ::-1], target[::-1, ::-1]

    def swapped(x, target):
        return x.astype(">f4"), target.astype(">f4")

    views = {"target transposed": transposed, "[:, ::2]": strided, "target (4000,1)": column,
             "F order": fortran, "[::-1, ::-1]": backwards, "big-endian": swapped}  # fmt: skip
    for label, view in views.items():
        yield case(
            f"layouts/{label}",
            lambda s, view=view: Call(*view(*operands(scaled((4000, 5000), s)))),
            FEW,
        )


def options(settings):
    def with_options(settings, work, **given):
        x, target = operands(scaled((20_000, 1000), settings))
        rng = np.random.default_rng(2)
        made = {
            "weight": lambda: rng.random(x.shape, np.float32),
            "weight per column": lambda: rng.random(x.shape[1], np.float32),
            "where": lambda: rng.random(x.shape, np.float32) < 0.8,
            "beta per column": lambda: rng.random(x.shape[1], np.float32) + np.float32(0.1),
        }
        return Call(x, target, work, **{name: made[kind]() for name, kind in given.items()})

    chosen = {"weight": "weight", "weight per column": "weight", "where": "where",
              "beta per column": "beta"}  # fmt: skip
    for (label, name), work in itertools.product(chosen.items(), ("loss", "value_and_grad")):
        yield case(
            f"options/{work}/{label}",
            lambda s, w=work, n=name, label=label: with_options(s, w, **{n: label}),
            FEW,
        )


def small(settings):
    for work in ("loss", "value_and_grad"):
        yield case(
            f"calls/{work}/64", lambda _, w=work: Call(*operands(64, "float64"), w), tuple(PEERS)
        )


def set_threads(count):
    """Give every library that can be told so many threads."""
    sl.set_num_threads(count)
    if find_spec("threadpoolctl") is not None:  # for BLAS; XLA cannot be told
        importlib.import_module("threadpoolctl").threadpool_limits(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    for name in ("torch", "numexpr"):
        if find_spec(name) is not None:
            importlib.import_module(name).set_num_threads(count)


def threads(settings):
    peers = ("smoothl1", "numexpr", "sklearn._loss", "torch")
    available = sl.get_num_threads()

    def run(name, work, count, settings):
        call = Call(*operands(settings.n), work)
        set_threads(count)
        try:
            return measure_call(name, call, settings, peers)
        finally:
            set_threads(available)

    counts = sorted({1 << k for k in range(available.bit_length())} | {available})
    for work, count in itertools.product(("loss", "value_and_grad"), counts):
        name = f"threads/{work}/{count}"
        yield Case(name, lambda s, name=name, w=work, count=count: run(name, w, count, s))


def linear(settings):
    for label in fits.DESIGNS:
        for what in ("evaluation", "fit"):
            name = f"linear/{what}/{label}"
            yield Case(
                name,
                lambda s, name=name, what=what, label=label: fits.measure(name, what, label, s),
            )


def starts(settings):
    for label in processes.STARTS:
        name = f"start/{label}"
        yield Case(name, lambda s, name=name, label=label: processes.start(name, label, s))


def memories(settings):
    for label in processes.MEMORY:
        name = f"memory/{label}"
        yield Case(name, lambda s, name=name, label=label: processes.memory(name, label, s))


GROUPS = {
    "works": works,
    "dtypes": dtypes,
    "axes": axes,
    "layouts": layouts,
    "options": options,
    "calls": small,
    "sizes": sizes,
    "threads": threads,
    "linear": linear,
    "start": starts,
    "memory": memories,
}


def all_cases(settings):
    return [case for group in GROUPS.values() for case in group(settings)]
