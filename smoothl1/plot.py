"""A picture of a fit, by matplotlib."""

from __future__ import annotations

import io

import numpy as np

from .arguments import Vector
from .fit import Fit
from .validate import Array

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"  # told apart by all eyes


def draw(names: list[str], X: Array, y: Vector, result: Fit, target: str) -> bytes:
    """PNG: both lines for one feature, else observed against fitted values."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    linear = np.abs(result.predicted - y) >= result.beta
    across = X[:, 0] if len(names) == 1 else result.predicted
    axes.scatter(across[~linear], y[~linear], s=18, color=BLUE, label="quadratic region")
    axes.scatter(across[linear], y[linear], s=22, color=ORANGE, marker="x", label="linear region")
    ends = np.array([across.min(), across.max()])
    if len(names) == 1:
        for w, style, color, label in (
            (result.coefficients, "-", "black", "smooth L1"),
            (result.least_squares, "--", GREY, "least squares"),
        ):
            axes.plot(ends, ends * w[0] + w[1], style, color=color, label=label)
        axes.set_xlabel(names[0], parse_math=False)
    else:
        axes.plot(ends, ends, "-", color="black", label="fitted = observed")
        axes.set_xlabel(f"fitted {target}", parse_math=False)
    axes.set_ylabel(target, parse_math=False)
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
