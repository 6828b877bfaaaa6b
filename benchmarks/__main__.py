"""Command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import itertools
import math
import os
import sys
import time
from pathlib import Path

from . import pictures, results, targets
from .cases import Settings, all_cases, set_threads
from .progress import progress_for

MINUTE = 50.0  # seconds after which a quick run begins no other case
QUICK = Settings(n=300_000, seconds=0.08, largest=100_000, rows=10_000, rounds=2, expensive=False)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure smoothl1 beside NumPy, numexpr, SciPy, scikit-learn, statsmodels, "
        "PyTorch, JAX and Dask (those that are installed), and beside two bare kernels that "
        "show the limit of the machine. Results are checked before anything is timed. A full "
        "run takes about 20 minutes and up to 12 GB of memory.",
    )
    parser.add_argument("--quick", action="store_true", help="small arrays; a minute at most")
    parser.add_argument("--only", metavar="GLOB", action="append",
                        help="cases by name or group, as in --list; again for more")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="names of the cases, and stop")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of the libraries")
    parser.add_argument("--n", type=positive, help="elements of the largest arrays")
    parser.add_argument("--seconds", type=float, help="time for all rounds of a case")
    parser.add_argument("--json", action="store_true", help="print lines of JSON, not tables")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help=f"append results to this file (default: {results.TABLE.name} among "
                        "the results for a full run, nowhere for others)")  # fmt: skip
    parser.add_argument("--compare", metavar="BASE",
                        help="what changed since a commit, a run, a file or 'latest'")  # fmt: skip
    parser.add_argument("--pictures", metavar="RUN", nargs="?", const="latest",
                        help="draw the pictures and tables of the documentation from "
                        "the last run, or the one named, and stop")  # fmt: skip
    return parser.parse_args(arguments)


def positive(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def chosen(cases, patterns):
    """Cases whose name, or the beginning of it up to a slash, fits a pattern."""
    if not patterns:
        return cases
    found = [
        case for case in cases
        if any(fnmatch.fnmatchcase(case.name, end) for p in patterns for end in (p, f"{p}/*"))
    ]  # fmt: skip
    if not found:
        raise SystemExit(f"no case fits {', '.join(patterns)}; --list names them")
    return found


def named_run(base):
    """The run that a word names."""
    try:
        return results.find(base)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None


def settings_of(options):
    given = {"n": options.n, "seconds": options.seconds, "largest": options.n}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(QUICK if options.quick else Settings(), **given)


def warn_if_busy():
    """A thread that waits for a processor spoils the times of all who wait for that thread."""
    try:
        busy = os.getloadavg()[0]
    except (OSError, AttributeError):  # not on every system
        return
    if busy > 0.5:
        print(f"This machine is busy: {busy:.1f} processes ran in the last minute. Threads will "
              "wait for each other, and times mean little.", file=sys.stderr)  # fmt: skip


def in_turns(cases):
    """The first case of each group, the second of each, and so on."""
    groups = itertools.groupby(cases, lambda case: case.name.partition("/")[0])
    turns = itertools.zip_longest(*(list(group) for _, group in groups))
    return [case for turn in turns for case in turn if case]


def measure(cases, settings, quiet, seconds=math.inf):
    """Rows of all cases, or of those before Ctrl-C or a time; and the exit status."""
    rows, status, end = [], 0, time.perf_counter() + seconds
    with progress_for(len(cases), quiet) as progress:
        for place, case in enumerate(cases):
            if time.perf_counter() > end:
                print(f"{len(cases) - place} of {len(cases)} cases are left out, as the minute is "
                      "over. A first run spends much of it compiling, and the next one does not; "
                      "cases named with --only are all measured.", file=sys.stderr)  # fmt: skip
                break
            progress.begin(case.name)
            try:
                found = case.run(settings)
            except KeyboardInterrupt:
                return rows, 130
            except Exception as error:  # one case must not cost the others
                print(f"{case.name} failed: {error!r}", file=sys.stderr)
                status, found = 1, []
            rows += found
            progress.end(targets.table_of(found))
    return rows, status


def main(arguments=None):
    options = parse(arguments)
    if options.pictures is not None:
        pictures.draw(*named_run(options.pictures))
        return 0
    settings = settings_of(options)
    if options.threads:
        set_threads(options.threads)
    cases = chosen(all_cases(settings), options.only)
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    base = None if options.compare is None else named_run(options.compare)[1]
    warn_if_busy()
    run, start = results.describe(settings), time.perf_counter()
    if options.quick and not options.only:
        rows, status = measure(in_turns(cases), settings, options.json, MINUTE)
    else:
        rows, status = measure(cases, settings, options.json)
    full = status == 0 and not (options.quick or options.only)
    output = options.output or (results.TABLE if full else None)
    if output:
        results.append(output, run, rows)
    if options.json:
        print("\n".join(results.lines(run, rows)))
    else:
        print("\n".join(targets.report(rows)))
        print(f"{len(rows)} results in {time.perf_counter() - start:.0f} s", end="")
        print(f", appended to {output}" if output else "")
    if base is not None:
        print("\n".join(results.compare(base, rows)), file=sys.stderr if options.json else None)
    return status


if __name__ == "__main__":
    sys.exit(main())
