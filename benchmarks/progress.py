"""A bar with the time left on a terminal that has rich; plain lines elsewhere."""

from __future__ import annotations

import sys
import time


class Plain:
    """One line for each case, with the time left."""

    def __init__(self, total, quiet):
        self.total, self.quiet, self.done = total, quiet, 0
        self.start = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def begin(self, name):
        spent = time.perf_counter() - self.start
        left = spent / self.done * (self.total - self.done) if self.done else 0
        guess = f", about {left:.0f} s left" if self.done else ""
        line = f"[{self.done + 1}/{self.total}{guess}] {name}"
        print(line, file=sys.stderr, flush=True)

    def end(self, lines):
        self.done += 1
        if not self.quiet:
            print("\n".join(lines), flush=True)


class Bar:
    """rich's bar; tables scroll by above it."""

    def __init__(self, total, quiet):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.quiet = quiet
        columns = TextColumn("{task.completed}/{task.total}"), BarColumn(), TimeRemainingColumn()
        self.bar = Progress(
            *columns, TextColumn("{task.description}"), console=Console(stderr=True)
        )
        self.task = self.bar.add_task("", total=total)

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def begin(self, name):
        self.bar.update(self.task, description=name)

    def end(self, lines):
        self.bar.advance(self.task)
        if not self.quiet:
            print("\n".join(lines), flush=True)


def progress_for(total, quiet):
    """The bar for where the run takes place."""
    if sys.stderr.isatty():
        try:
            return Bar(total, quiet)
        except ImportError:
            pass
    return Plain(total, quiet)
