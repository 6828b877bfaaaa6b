"""Rows of results, the one table that they are appended to, and what changed since."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import smoothl1 as sl

TABLE = Path(__file__).parent / "results" / "cpu.jsonl"
LIBRARIES = ("numba", "numpy", "scipy", "numexpr", "scikit-learn", "statsmodels", "torch", "jax",
             "dask", "tbb")  # fmt: skip
YARDSTICKS = ("add_up", "subtract", "subtract, new memory")


@dataclass(frozen=True)
class Row:
    """One competitor in one case: per call, the median and the quintiles around it."""

    case: str
    competitor: str
    unit: str  # "s" or "MiB"
    median: float
    low: float
    high: float
    rounds: int
    n: int = 0
    dtype: str = ""
    bytes: int = 0  # that must be moved at least
    ratios: dict[str, float] = field(default_factory=dict)  # see `times`

    @property
    def rate(self):
        """GB/s achieved, of the bytes that must be moved."""
        return self.bytes / self.median / 1e9

    def times(self, ours):
        """How many times as long as a row of this library: a median over rounds, if kept."""
        return self.ratios.get(ours.competitor, self.median / ours.median)


def processor():
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit():
    """The commit that is measured, marked if the package has been changed since."""
    here = Path(__file__).parent

    def git(*words):
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        except OSError:  # no git
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--", "../smoothl1")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def versions():
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe(settings):
    """What a run is: the first line of its results."""
    return {
        "run": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": sl.get_num_threads(),
        "versions": versions(),
        "settings": asdict(settings),
    }


def lines(run, rows):
    """A run as lines of JSON: what it is, then its rows."""
    yield json.dumps(run)
    for row in rows:
        yield json.dumps({"of": run["run"], **asdict(row)})


def append(path, run, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(line + "\n" for line in lines(run, rows)))


def load(path):
    """Runs of a table, oldest first: pairs of what it is and its rows."""
    runs = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if "of" in entry:
            runs[entry.pop("of")][1].append(Row(**entry))
        else:
            runs[entry["run"]] = (entry, [])
    return list(runs.values())


def find(base, table=TABLE):
    """The latest run that a word names: "latest", a file, a commit or the time of a run."""
    path = Path(base)
    runs = load(path if path.is_file() else table)
    if path.is_file() or base == "latest":
        return runs[-1]
    named = [run for run in runs if base and run[0]["commit"].startswith(base)]
    fitting = [run for run in runs if run[0]["run"] == base] or named
    if not fitting:
        known = ", ".join(f"{run['commit']} ({run['run']})" for run, _ in runs)
        raise ValueError(f"no file, commit or run {base!r}; the table holds {known}")
    return fitting[-1]


def by_case(rows):
    """Rows by case and competitor."""
    cases = {}
    for row in rows:
        cases.setdefault(row.case, {})[row.competitor] = row
    return cases


def yardstick(competitors):
    """The row of the yardstick of a case, or None."""
    return next((competitors[name] for name in YARDSTICKS if name in competitors), None)


def compare(base, rows):
    """Lines that say how the times of this library changed, each beside its yardstick."""
    before, other = by_case(base), 0
    for name, now in by_case(rows).items():
        for ours in ("smoothl1", "smoothl1 out="):
            then = before.get(name, {}).get(ours)
            if ours not in now or now[ours].unit != "s":
                continue
            if then is None or then.n != now[ours].n:
                other += 1
                continue
            old, new = yardstick(before[name]), yardstick(now)
            machine = f", yardstick {new.median / old.median:.2f}" if old and new else ""
            change = now[ours].median / then.median
            yield f"{name:42s} {ours:14s} {change:5.2f} of the time{machine}"
    if other:
        yield f"{other} cases were not measured then, or with another number of elements"
