"""Results as tables, and beside the figures that this library sets out to reach."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .results import YARDSTICKS, by_case, yardstick


def duration(seconds):
    """A time in the unit that suits it."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    return ""


def amount(row, value):
    return duration(value) if row.unit == "s" else f"{value:.2f} {row.unit}"


def table_of(rows):
    """Lines of text for the rows of a case."""
    for name, competitors in by_case(rows).items():
        yield name
        ours, limit = competitors.get("smoothl1"), yardstick(competitors)
        for row in competitors.values():
            spread = f"{amount(row, row.low)} to {amount(row, row.high)}" if row.rounds > 1 else ""
            rate = f"{row.rate:6.1f} GB/s" if row.bytes else ""
            share = f"{row.rate / limit.rate:5.0%} of the yardstick" if limit else ""
            ratio = f"{row.times(ours):7.2f}x" if ours and row.unit == "s" else ""
            line = f"    {row.competitor:24s} {amount(row, row.median):>10s}  {spread:24s}"
            yield f"{line} {rate:12s} {share:22s} {ratio}".rstrip()


@dataclass(frozen=True)
class Target:
    """A figure to reach and what was measured."""

    figure: str
    what: str
    aim: str
    measured: str
    met: bool


def ratio(figure, what, competitors, peer, least, ours="smoothl1"):
    """How many times faster than a peer, or which share of a yardstick's speed."""
    if peer not in competitors or ours not in competitors:
        return
    value = competitors[peer].times(competitors[ours])
    if peer in YARDSTICKS:
        yield Target(figure, f"{what}, of {peer}", f"{least:.0%}", f"{value:.0%}", value >= least)
    else:
        met = value >= least
        yield Target(figure, f"{what}, {peer}", f"{least:.3g}x", f"{value:.2f}x", met)


def most(figure, what, competitors, limit, ours="smoothl1"):
    """A time or an amount of memory at most."""
    if ours not in competitors:
        return
    row = competitors[ours]
    met = row.median <= limit
    yield Target(figure, what, f"<= {amount(row, limit)}", amount(row, row.median), met)


def axis_targets(cases):
    layouts = ("target transposed", "[:, ::2]", "target (4000,1)")
    names = [name for name in cases if name.startswith("axes/")]
    names += [f"layouts/{layout}" for layout in layouts if f"layouts/{layout}" in cases]
    ratios = []
    for name in names:
        row = cases[name]
        if "torch" not in row or "smoothl1" not in row:
            continue
        ratios.append(row["torch"].times(row["smoothl1"]))
        share = row["smoothl1"].rate / row["add_up"].rate
        met = ratios[-1] >= 2 or share >= 0.8
        measured = f"{ratios[-1]:.2f}x, {share:.0%}"
        yield Target("P3", f"{name}, torch or add_up", "2x or 80%", measured, met)
    if ratios:
        mean = statistics.geometric_mean(ratios)
        yield Target("P3", "geometric mean, torch", "3x", f"{mean:.2f}x", mean >= 3)


def kind_targets(cases):
    """Arrays of other libraries, beside the functions of these libraries."""
    tensors, arrays = "smoothl1 on torch", "smoothl1 on jax"
    small = {work: cases.get(f"calls/{work}/64", {}) for work in ("loss", "value_and_grad")}
    yield from most("torch", "loss, n = 64", small["loss"], 15e-6, tensors)
    yield from ratio("torch", "n = 64, backward", small["value_and_grad"], "torch", 1, tensors)
    for power in range(2, 9):
        row = cases.get(f"sizes/value_and_grad/1e{power}", {})
        yield from ratio("torch", f"n = 1e{power}, backward", row, "torch", 1, tensors)
    for work, row in small.items():
        yield from ratio("JAX", f"{work}, n = 64", row, "jax.jit", 1 / 1.2, arrays)


def targets(rows):
    """Every target whose case was measured."""
    cases = by_case(rows)

    def at(name):
        return cases.get(name, {})

    loss, both = at("works/loss/mean"), at("works/value_and_grad/mean")
    yield from ratio("P1", "loss", loss, "add_up", 0.9)
    for peer, least in (("torch", 4), ("jax.jit", 3.5), ("torch.compile", 1)):
        yield from ratio("P1", "loss", loss, peer, least)
    yield from ratio("P2", "value_and_grad", both, "subtract", 0.9, "smoothl1 out=")
    for peer, least in (("torch", 6), ("torch.compile", 3.5), ("jax.jit", 5)):
        yield from ratio("P2", "value_and_grad", both, peer, least)
    yield from axis_targets(cases)
    for work, limit, least in (("loss", 4e-6, 5), ("value_and_grad", 6e-6, 15)):
        small = at(f"calls/{work}/64")
        yield from most("P4", f"{work}, n = 64", small, limit)
        yield from ratio("P4", f"{work}, n = 64", small, "torch", least)
    for name in cases:
        if name.startswith("memory/"):
            yield from most("P5", name, cases[name], 2.0)
    for what in ("evaluation", "fit"):
        yield from ratio("P6", what, at(f"linear/{what}/float64"), "numpy", 2.5)
    limits = {"import": 0.15, "first result, code in the cache": 1.0,
              "first result, nothing in the cache": 3.5}  # fmt: skip
    for label, limit in limits.items():
        yield from most("P7", label, at(f"start/{label}"), limit)
    yield from kind_targets(cases)


def report(rows):
    """Lines of text: the targets."""
    for target in targets(rows):
        mark = "met  " if target.met else "SHORT"
        yield f"{target.figure} {mark} {target.what:52s} {target.aim:>12s}  {target.measured}"
