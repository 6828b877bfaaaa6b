"""Pictures and tables of a run, for the documentation.

Each picture is saved as PNG and SVG, legible on white and on dark pages; the
tables go between the marks ``<!-- figures: begin -->`` and ``<!-- figures: end -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

from .results import YARDSTICKS, by_case, yardstick
from .targets import duration, targets

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "pictures"
STYLE = FOLDER / "smoothl1.mplstyle"
COLOURS = {
    "smoothl1": "#d55e00",
    "smoothl1 out=": "#d55e00",
    "smoothl1 on torch": "#e69f00",
    "smoothl1 on jax": "#b08a00",
    "numpy": "#0090d0",
    "numpy, few temporaries": "#56b4e9",
    "numexpr": "#56b4e9",
    "scipy.special.huber": "#7a68d8",
    "sklearn._loss": "#009e73",
    "sklearn HuberRegressor": "#009e73",
    "statsmodels RLM": "#7a68d8",
    "torch": "#cc79a7",
    "torch.compile": "#a0457a",
    "jax.jit": "#5a9e20",
    "dask": "#8c6d5a",
    "add_up": "#808080",
    "subtract": "#808080",
    "subtract, new memory": "#b0b0b0",
}
LABELS = {
    "add_up": "yardstick: sum",
    "subtract": "yardstick: difference",
    "subtract, new memory": "yardstick: difference, in new memory",
}
TITLES = {"loss": "mean loss", "value_and_grad": "mean loss and gradient"}


def style_of(competitor):
    """Ours stand out, yardsticks stay in the background."""
    ours = competitor.startswith("smoothl1")
    dashed = competitor in (*YARDSTICKS, "smoothl1 out=")
    return {
        "color": COLOURS[competitor],
        "linestyle": "--" if dashed else "-",
        "linewidth": 3 if ours else 1.5,
        "zorder": 3 if ours else 2,
    }


def save(figure, name):
    for kind in ("png", "svg"):
        about = {"Date": None} if kind == "svg" else None
        figure.savefig(FOLDER / f"{name}.{kind}", bbox_inches="tight", metadata=about)


def panels(plt):
    return plt.subplots(1, 2, figsize=(10.0, 4.4), sharey=True)


def legend_below(figure):
    handles = {}
    for each in figure.axes:
        handles |= dict(zip(*reversed(each.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=5,
                  bbox_to_anchor=(0.5, 0.02), fontsize=9)  # fmt: skip


def curves(cases, group, work):
    """Points of each competitor over what the last part of the names counts."""
    found = {}
    for name, competitors in cases.items():
        if name.startswith(f"{group}/{work}/"):
            place = float(name.rpartition("/")[2])
            for row in competitors.values():
                found.setdefault(row.competitor, []).append((place, row))
    return found


def speed(plt, cases):
    """Elements per second against size, for every competitor."""
    figure, axes = panels(plt)
    for axis, work in zip(axes, TITLES, strict=True):
        for competitor, points in curves(cases, "sizes", work).items():
            sizes, rates = zip(*[(n, n / row.median / 1e9) for n, row in points], strict=True)
            axis.loglog(
                sizes, rates, label=LABELS.get(competitor, competitor), **style_of(competitor)
            )
        axis.set(title=TITLES[work], xlabel="elements, float32")
    axes[0].set_ylabel("10⁹ elements per second")
    legend_below(figure)
    return figure


def roofline(plt, cases):
    """Bandwidth achieved for the large cases, with that of the yardstick beside it."""
    chosen = [
        (name, competitors)
        for name, competitors in cases.items()
        if name.split("/")[0] in ("works", "dtypes", "options") and yardstick(competitors)
    ]
    figure, axis = plt.subplots(figsize=(10, 0.36 * len(chosen) + 1))
    places = range(len(chosen))
    limit = [yardstick(c).rate for _, c in chosen]
    axis.barh(places, limit, color="#80808060", label="yardstick: a bare kernel")
    for peer, mark in (("smoothl1", "D"), ("torch", "o"), ("jax.jit", "s"), ("numpy", "^")):
        found = [(i, c[peer].rate) for i, (_, c) in enumerate(chosen) if peer in c]
        axis.plot([rate for _, rate in found], [i for i, _ in found], mark, color=COLOURS[peer],
                  label=peer, markersize=7)  # fmt: skip
    axis.set_yticks(places, [name.partition("/")[2] for name, _ in chosen])
    tidy(axis)
    axis.set_xlabel("GB/s of the bytes that must be moved")
    legend_below(figure)
    return figure


def threads(plt, cases):
    """Speed with each number of threads."""
    figure, axes = panels(plt)
    for axis, work in zip(axes, TITLES, strict=True):
        for competitor, points in curves(cases, "threads", work).items():
            counts, rates = zip(*[(k, row.n / row.median / 1e9) for k, row in points], strict=True)
            label = LABELS.get(competitor, competitor)
            axis.plot(counts, rates, marker="o", label=label, **style_of(competitor))
        axis.set(title=TITLES[work], xlabel="threads", ylim=(0, None))
        axis.set_xticks(counts, [f"{count:.0f}" for count in counts])
    axes[0].set_ylabel("10⁹ elements per second")
    legend_below(figure)
    return figure


def tidy(axis):
    """Rows from the top, without lines between them."""
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)


def bars(plt, cases, names, peers, label):
    """Grouped bars: how long each competitor takes, in times of ours."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axis = plt.subplots(figsize=(10, 0.17 * len(peers) * len(names) + 0.6))
    thick = 0.84 / len(peers)
    for k, peer in enumerate(peers):
        rows = [cases[name].get(peer) for name in names]
        heights = [row.times(cases[name]["smoothl1"]) if row else 0
                   for row, name in zip(rows, names, strict=True)]  # fmt: skip
        places = [i + (k - (len(peers) - 1) / 2) * thick for i in range(len(names))]
        drawn = axis.barh(places, heights, thick * 0.9, color=COLOURS[peer], label=peer)
        texts = [duration(row.median) if row else "" for row in rows]
        axis.bar_label(drawn, texts, padding=3, fontsize=8, color="#808080")
    axis.set_yticks(range(len(names)), [label(name) for name in names])
    tidy(axis)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("time, in times of smoothl1")
    legend_below(figure)
    return figure


def axes_picture(plt, cases):
    names = [name for name in cases if name.startswith(("axes/", "layouts/"))]
    peers = ("smoothl1", "torch", "jax.jit", "numpy")
    return bars(plt, cases, names, peers, lambda name: name.partition("/")[2])


def fits(plt, cases):
    names = [name for name in cases if name.startswith("linear/")]
    peers = ("smoothl1", "numpy, few temporaries", "numpy", "sklearn HuberRegressor",
             "statsmodels RLM")  # fmt: skip
    return bars(plt, cases, names, peers, lambda name: ", ".join(name.split("/")[1:]))


PICTURES = {
    "speed": speed, "roofline": roofline, "threads": threads, "axes": axes_picture, "fits": fits,
}  # fmt: skip


def about(run):
    """One sentence on where and how a run was measured."""
    libraries = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        f"Commit {run['commit']}, {run['run'][:10]}, {run['processor']}, "
        f"{run['threads']} threads, Python {run['python']}, {libraries}; medians of interleaved "
        f"rounds, of times and of ratios, n = {run['settings']['n']:.0e} elements unless said."
    ).replace("e+0", "e")


def full_table(run, rows):
    """Every target, as Markdown."""
    yield from ("| | work, beside | target | measured | |", "|---|---|---|---|---|")
    for t in targets(rows):
        mark = "met" if t.met else "short"
        yield f"| {t.figure} | {t.what.replace('|', ' ')} | {t.aim} | {t.measured} | {mark} |"
    yield ""
    yield about(run)


SHORT = {
    "mean loss": "works/loss/mean",
    "mean loss and gradient": "works/value_and_grad/mean",
    "mean over axes (0, 2, 3) of (64, 64, 56, 56)": "axes/(64,64,56,56)/(0,2,3)",
    "mean loss, 64 elements of float64": "calls/loss/64",
    "linear model, one evaluation": "linear/evaluation/float64",
    "linear model, whole fit": "linear/fit/float64",
    "linear model in Fortran order, whole fit": "linear/fit/F order",
}
PEERS = ("numpy", "torch", "torch.compile", "jax.jit", "sklearn._loss")


def is_other(competitor):
    return not competitor.startswith("smoothl1") and competitor not in YARDSTICKS


def short_table(run, rows):
    """The README's table: times, and those of others as multiples."""
    cases = by_case(rows)
    yield "| | smoothl1 | " + " | ".join(PEERS) + " | fastest of all others |"
    yield "|---" * (len(PEERS) + 3) + "|"
    for label, name in SHORT.items():
        ours = cases[name]["smoothl1"]
        others = (cases[name].get(peer) for peer in PEERS)
        cells = [f"{row.times(ours):.1f}x" if row else "" for row in others]
        best = min(
            (row for row in cases[name].values() if is_other(row.competitor)),
            key=lambda row: row.times(ours),
        )
        cells.append(f"{best.competitor} {best.times(ours):.1f}x")
        yield f"| {label} | {duration(ours.median)} | " + " | ".join(cells) + " |"
    yield ""
    yield about(run)


def replace_figures(path, lines):
    """Put lines between the marks of a page."""
    text = path.read_text()
    marks = r"(<!-- figures: begin -->\n).*?(<!-- figures: end -->)"
    body = "\n".join(lines)
    new, count = re.subn(marks, lambda m: f"{m[1]}{body}\n{m[2]}", text, flags=re.DOTALL)
    if not count:
        raise ValueError(f"{path} has no marks for figures")
    path.write_text(new)


def draw(run, rows):
    """Draw the pictures of a full run, and write its tables."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cases = by_case(rows)
    if missing := set(SHORT.values()) - cases.keys():
        raise SystemExit(f"run {run['run']} is not a full one: it lacks {', '.join(missing)}")
    with plt.style.context(STYLE):
        for name, picture in PICTURES.items():
            figure = picture(plt, cases)
            save(figure, name)
            plt.close(figure)
    replace_figures(DOCS.parent / "README.md", short_table(run, rows))
    replace_figures(DOCS / "performance.md", full_table(run, rows))
