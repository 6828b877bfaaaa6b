"""The command line: fit a CSV file, tell about the installation, compile ahead."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from . import __version__
from .arguments import Vector, at_least_0
from .fit import Fit, fit
from .objective import BY_GRADIENT
from .table import InputError, Table
from .validate import Array

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
METHODS = ("CG", "BFGS", "L-BFGS-B", "TNC", "SLSQP", "Newton-CG", "trust-ncg", "trust-krylov",
           "trust-exact", "trust-constr")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except InputError as error:
        print(f"smoothl1: {error}", file=sys.stderr)
        status = BAD_INPUT
    except KeyboardInterrupt:
        print("smoothl1: interrupted", file=sys.stderr)
        status = INTERRUPTED
    except OSError as error:  # of standard output: files are dealt with where they are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has left
            return 0
        print(f"smoothl1: cannot print: {error.strerror or error}", file=sys.stderr)
        status = FAILED
    return status


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit."""
        self.exit(BAD_INPUT, f"smoothl1: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="smoothl1", description="Smooth L1 (Huber) loss.")
    parser.add_argument("--version", action="version", version=f"smoothl1 {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_fit(commands)
    info = commands.add_parser("info", help="versions, processor, threads, cache, devices")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)
    warmup = commands.add_parser("warmup", help="compile and cache common kernels")
    warmup.set_defaults(run=run_warmup)
    return parser


def _add_fit(commands: Any) -> None:
    parser = commands.add_parser(
        "fit", help="fit a robust linear model to a CSV file",
        description="Fit target = intercept + sum of coefficient * feature to the rows of a CSV "
        "file whose first line names the columns, beside least squares.",
    )  # fmt: skip
    add = parser.add_argument
    add("data", metavar="DATA.csv", type=Path)
    add("--target", metavar="COLUMN", required=True, help="what to explain")
    add("--features", metavar="A,B,...", help="columns to explain it by; default: all others")
    add("--weight", metavar="COLUMN", help="weights of the rows")
    add("--beta", type=_beta, default=1.0, metavar="NUMBER|mad",
        help="threshold in the unit of the target (default 1.0), or mad: 1.345 times the robust "
        "standard deviation of the residuals")  # fmt: skip
    add("--l2", type=_number, default=0.0, metavar="NUMBER", help="quadratic penalty (default 0)")
    add("--method", choices=METHODS, default="L-BFGS-B", metavar="METHOD",
        help=f"of scipy.optimize.minimize: {', '.join(METHODS)} (default L-BFGS-B)")  # fmt: skip
    add("--delimiter", default=",", help="between fields (default: a comma)")
    add("--drop-missing", action="store_true", help="leave out rows with missing values")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--output", type=Path, metavar="FILE.csv", help="write the coefficients")
    add("--plot", type=Path, metavar="FILE.png", help="draw the fit (needs matplotlib)")
    parser.set_defaults(run=run_fit)


def _number(text: str, others: str = "") -> float:
    try:
        return at_least_0("it", float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a finite number of at least 0{others}, got {text!r}"
        ) from None


def _beta(text: str) -> float | None:
    return None if text == "mad" else _number(text, " or mad")


def run_fit(options: argparse.Namespace) -> int:
    """Fit a CSV file and print or write what came out."""
    _check_options(options)
    names, X, y, weight, dropped = _read(options)
    result = fit(X, y, weight, options.beta, options.l2, options.method, _Progress())
    outputs = {}
    if options.output is not None:
        outputs[options.output] = _coefficients_csv(names, result).encode()
    if options.plot is not None:
        from .plot import draw

        outputs[options.plot] = draw(names, X, y, result, options.target)
    _write(outputs)
    if options.json:
        print(json.dumps(_as_json(names, result, options, dropped), indent=2))
    else:
        print(_as_table(names, result, options, dropped))
    for remark in _remarks(result, len(names)):
        print(f"smoothl1: {remark}", file=sys.stderr)
    return FAILED if result.problem else 0


def _check_options(options: argparse.Namespace) -> None:
    options.delimiter = {"\\t": "\t", "tab": "\t"}.get(options.delimiter, options.delimiter)
    if len(options.delimiter) != 1 or options.delimiter in "\"'\r\n ":
        raise InputError(
            f"--delimiter must be one character or tab, no quote, got {options.delimiter!r}"
        )
    outputs = [path for path in (options.output, options.plot) if path is not None]
    for path in outputs:
        if not path.parent.is_dir():
            raise InputError(f"{path}: no such folder as {str(path.parent)!r}")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a file that can be replaced")
    places = [path.resolve() for path in (options.data, *outputs)]
    if len(set(places)) < len(places):
        raise InputError("DATA.csv, --output and --plot must be different files")
    if options.beta == 0 and options.method.lower() not in BY_GRADIENT:
        allowed = ", ".join(method for method in METHODS if method.lower() in BY_GRADIENT)
        raise InputError(f"--method {options.method} does not work with --beta 0; use {allowed}")
    if options.plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise InputError('--plot needs matplotlib: pip install "smoothl1[plot]"') from None


def _read(
    options: argparse.Namespace,
) -> tuple[list[str], Array, Vector, Vector | None, dict[str, int]]:
    """Names of the features, their columns, the target, the weights, rows left out."""
    with Table(options.data, options.delimiter) as table:
        if options.features is None:
            names = table.features(options.target, options.weight)
        else:
            names = [name.strip() for name in next(csv.reader([options.features]), [])]
        wanted = [options.target, *names, *filter(None, [options.weight])]
        double = [name for name, times in Counter(wanted).items() if times > 1]
        if double:
            raise InputError(f"column {', '.join(double)} is asked for twice")
        columns, missing = table.columns(wanted, options.drop_missing)
    X = np.column_stack([columns[name] for name in names]) if names else np.empty((0, 0))
    y, weight, weightless = columns[options.target], None, 0
    if options.weight:
        weight = columns[options.weight]
        if weight.size and weight.min() < 0:
            raise InputError(f"{options.data}: weights must be at least 0, got {weight.min()}")
        kept = weight > 0
        X, y, weight, weightless = X[kept], y[kept], weight[kept], int((~kept).sum())
    _check_columns(options.data, names, X)
    return names, X, y, weight, {"missing values": missing, "weight 0": weightless}


def _check_columns(path: Path, names: list[str], X: Array) -> None:
    if not names:
        raise InputError(f"{path}: there must be at least one feature beside the target")
    if len(X) <= len(names):
        raise InputError(
            f"{path}: {len(names) + 1} coefficients need at least as many rows, got {len(X)}"
        )
    constant = [
        name for name, low, high in zip(names, X.min(0), X.max(0), strict=True) if low == high
    ]
    if constant:
        raise InputError(
            f"{path}: column {', '.join(constant)} is constant and cannot be told "
            "from the intercept; leave it out with --features"
        )


class _Progress:
    """Lines about a long fit."""

    AFTER, EVERY = 2.0, 1.0  # seconds

    def __init__(self) -> None:
        self._began = 0.0  # when compiled: the first iteration tells
        self._next = 0.0

    def __call__(self, iteration: int, loss: float) -> None:
        now = time.monotonic()
        if not self._began:
            self._began, self._next = now, now + self.AFTER
        if now >= self._next:
            self._next = now + self.EVERY
            seconds = now - self._began
            print(f"iteration {iteration}, loss {loss:.9g}, {seconds:.0f} s", file=sys.stderr)


def _as_table(
    names: list[str], result: Fit, options: argparse.Namespace, dropped: dict[str, int]
) -> str:
    chosen = (
        "" if result.scale is None else f" (1.345 robust standard deviations of {result.scale:.6g})"
    )
    rows = f"{result.rows} rows" + "".join(
        f", {count} with {reason} left out" for reason, count in dropped.items() if count
    )
    labels = ["intercept", *names]
    width = max(map(len, labels))
    lines = [
        f"{options.target}: {rows}, beta = {result.beta:.6g}{chosen}", "",
        f"{'':{width}s}  {'least squares':>14s}  {'smooth L1':>14s}",
    ]  # fmt: skip
    for label, plain, robust in zip(labels, *_columns(result), strict=True):
        lines.append(f"{label:{width}s}  {plain:14.7g}  {robust:14.7g}")
    lines += [
        "",
        f"{result.linear} of {result.rows} rows in the linear region, loss {result.loss:.6g}",
        f"{result.method}: {result.iterations} iterations, {result.seconds:.2f} s",
    ]
    return "\n".join(lines)


def _columns(result: Fit) -> tuple[list[float], list[float]]:
    """Coefficients by least squares and by us, the intercept first."""
    return (
        np.roll(result.least_squares, 1).tolist(),
        np.roll(result.coefficients, 1).tolist(),
    )


def _as_json(
    names: list[str], result: Fit, options: argparse.Namespace, dropped: dict[str, int]
) -> dict[str, Any]:
    labels = ["intercept", *names]
    plain, robust = (dict(zip(labels, column, strict=True)) for column in _columns(result))
    return {
        "target": options.target, "coefficients": robust, "least_squares": plain,
        "beta": result.beta, "scale": result.scale, "l2": options.l2, "loss": result.loss,
        "rows": result.rows, "rows_left_out": sum(dropped.values()),
        "rows_in_linear_region": result.linear,
        "method": result.method, "iterations": result.iterations, "seconds": result.seconds,
        "converged": result.problem is None,
    }  # fmt: skip


def _remarks(result: Fit, features: int) -> list[str]:
    remarks = []
    if result.problem:
        remarks.append(f"{result.method} did not converge: {result.problem}")
    if result.rank <= features:
        remarks.append(
            "some features are linear combinations of others: coefficients are not unique"
        )
    return remarks


def _coefficients_csv(names: list[str], result: Fit) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["coefficient", "least_squares", "smooth_l1"])
    writer.writerows(zip(["intercept", *names], *_columns(result), strict=True))
    return text.getvalue()


def _write(outputs: dict[Path, bytes]) -> None:
    """Write files, all of them or none."""
    ready: list[tuple[str, Path]] = []
    with contextlib.ExitStack() as stack:
        for path, content in outputs.items():
            place = path.resolve()  # a link stays one
            try:
                handle, name = tempfile.mkstemp(dir=place.parent)
                stack.callback(_remove, name)
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                os.chmod(name, 0o666 & ~_umask())
                ready.append((name, place))
            except OSError as error:
                raise InputError(f"{path}: {error.strerror or error}") from None
        for name, place in ready:
            try:
                os.replace(name, place)
            except OSError as error:
                raise InputError(f"{place}: {error.strerror or error}") from None


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def run_info(options: argparse.Namespace) -> int:
    """Print facts about the installation."""
    from .info import collect

    facts = collect()
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    for topic, entries in facts.items():
        print(topic)
        for name, value in entries.items():
            shown = "not installed" if value is None and topic == "versions" else value
            print(f"  {name:12s}{shown}")
    return 0


def run_warmup(options: argparse.Namespace) -> int:
    """Compile common kernels."""
    from .jit import cache_folder
    from .warmup import calls

    began = time.monotonic()
    listed = calls()
    for k, (name, call) in enumerate(listed, 1):
        start = time.monotonic()
        call()
        seconds = time.monotonic() - start
        print(f"{k:2d}/{len(listed)}  {name:44s}{seconds:6.2f} s", flush=True)
    place = cache_folder()
    kept = f"kept in {place}" if place else "not kept: SMOOTHL1_CACHE=0"
    print(f"{time.monotonic() - began:.0f} s, {kept}")
    return 0
