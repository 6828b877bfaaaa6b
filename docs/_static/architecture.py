"""Draw the picture of the design page, which lies beside this file."""

from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
GREY, BLUE, GREEN, ORANGE = "#808080", "#0090d0", "#009e73", "#d55e00"
LINE = 2.6  # height of a line of text


def box(axes, x, y, width, height, lines, colour=GREY):
    """A box with centred lines; names of files are in a fixed width."""
    patch = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.8",
                           facecolor=colour + "18", edgecolor=colour)  # fmt: skip
    axes.add_patch(patch)
    top = y + height / 2 + (len(lines) - 1) * LINE / 2
    for row, line in enumerate(lines):
        family = "monospace" if ".py" in line else "sans-serif"
        axes.text(x + width / 2, top - row * LINE, line, ha="center", va="center",
                  family=family, size=9.5)  # fmt: skip


def arrow(axes, *points):
    """A line through points that ends in an arrow."""
    for start, end in pairwise(points):
        last = end is points[-1]
        style = {"arrowstyle": "-|>" if last else "-", "color": GREY, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=style)


def draw(axes):
    """Boxes from the user's call at the top to the formula at the bottom."""
    box(axes, 0, 60, 30, 7, ["module.py   torch.py", "the loss as an object"])
    box(axes, 35, 60, 20, 7, ["cli.py   fit.py", "the command line"])
    box(axes, 60, 60, 40, 7, ["optimize.py", "LinearObjective, ResidualObjective, ..."])
    arrow(axes, (15, 60), (15, 56))
    arrow(axes, (80, 60), (80, 56))
    arrow(axes, (55, 63.5), (60, 63.5))
    box(axes, 0, 49, 100, 7, ["functional.py", "loss, grad, value_and_grad, hess"], BLUE)

    arrow(axes, (9, 49), (9, 45))
    steps = [
        ["1  validate", "validate.py", "problem.py"],
        ["2  plan", "plan.py"],
        ["3  choose", "kinds.py", "backend.py"],
        ["4  run"],
        ["5  wrap", "kind of the caller"],
    ]
    for number, lines in enumerate(steps):
        x = 20.5 * number
        box(axes, x, 35, 18, 10, lines, BLUE if number == 3 else GREY)
        if number:
            arrow(axes, (x - 2.5, 40), (x, 40))

    arrow(axes, (70.5, 35), (70.5, 31))
    axes.add_patch(FancyBboxPatch((0, 0.5), 100, 30.5, boxstyle="round,pad=0,rounding_size=0.8",
                                  facecolor="none", edgecolor=BLUE, linestyle="--"))  # fmt: skip
    box(axes, 1.5, 21, 23, 9, ["views.py   cpu.py", "NumPy; other libraries", "on the CPU"])
    box(axes, 26, 21, 23, 9, ["cuda.py", "PyTorch, CuPy, numba", "on a GPU"], GREEN)
    box(axes, 50.5, 21, 23, 9, ["generic.py", "traced arrays,", "other devices"])
    box(axes, 75, 21, 23.5, 9, ["dask.py", "a task for each chunk,", "a tree of sums"], ORANGE)
    box(axes, 1.5, 10.5, 23, 8, ["launch.py", "kernels.py", "blocks.py  sums.py"])
    box(axes, 26, 10.5, 23, 8, ["cuda_launch.py", "cuda_kernels.py", "cuda_elements.py"], GREEN)
    box(axes, 1.5, 1.8, 47.5, 6.4, ["formula.py", "loss, grad and hess of one residual"], BLUE)
    for x in (13, 37.5):
        arrow(axes, (x, 21), (x, 18.5))
        arrow(axes, (x, 10.5), (x, 8.2))
    axes.text(62, 16, "the formula once more,", ha="center", size=9)
    axes.text(62, 13.4, "in array operations", ha="center", size=9)
    axes.text(86.75, 16, "in each task:", ha="center", size=9)
    axes.text(86.75, 13.4, "cpu.py, one thread", ha="center", size=9)


def main():
    """Write the picture beside this file."""
    plt.style.use(HERE.parent / "pictures" / "smoothl1.mplstyle")
    figure, axes = plt.subplots(figsize=(9, 6.2))
    axes.set(xlim=(-0.5, 100.5), ylim=(0, 68))
    axes.axis("off")
    draw(axes)
    figure.savefig(HERE / "architecture.svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
