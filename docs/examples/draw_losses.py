"""Draw the smooth L1 loss and its gradient for three thresholds, beside L1 and L2.

Writes losses.svg and losses.png to docs/pictures, or to the folder that is given. Needs
matplotlib.
"""

import sys
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

import smoothl1 as sl

PICTURES = Path(__file__).parent.parent / "pictures"
BETAS = 0.5, 1.0, 2.0
COLOURS = "C0", "C1", "C2"
FAR = 10.0  # beyond all residuals shown, so that Huber's loss is half the square
TALL, STEEP = 2.75, 1.6  # tops of the panels


def draw():
    """Return the figure."""
    r = np.linspace(-3.0, 3.0, 601)
    curves = [
        (f"smooth L1, β = {b:g}", c, "-", b, 1.0) for b, c in zip(BETAS, COLOURS, strict=True)
    ]
    curves += [("L1: |r|", "C5", "--", 0.0, 1.0), ("L2: r²/2", "C5", ":", FAR, FAR)]

    figure = Figure(figsize=(9.0, 3.9), layout="constrained")
    loss, slope = figure.subplots(1, 2)
    for label, colour, line, beta, times in curves:
        value, grad = sl.smooth_l1_value_and_grad(r, 0.0, beta=beta, reduction="none")
        front = line == "-"
        look = {"color": colour, "lw": 2.0 if front else 1.6, "zorder": 2.5 if front else 2.0}
        loss.plot(r, times * value, line, label=label, **look)
        slope.plot(r, times * grad, line, **look)
    loss.set(title="loss", xlabel="residual r", ylim=(-0.08, TALL))
    slope.set(title="gradient", xlabel="residual r", ylim=(-STEEP, STEEP))
    figure.legend(loc="outside lower center", ncols=5, handlelength=1.6, columnspacing=1.4)
    return figure


def main(folder=PICTURES):
    """Write both files."""
    with matplotlib.style.context(PICTURES / "smoothl1.mplstyle"):
        figure = draw()
        figure.savefig(Path(folder) / "losses.svg", metadata={"Date": None})
        figure.savefig(Path(folder) / "losses.png", metadata={"Software": None})


if __name__ == "__main__":
    main(*sys.argv[1:2])
