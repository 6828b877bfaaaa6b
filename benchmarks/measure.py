"""Time competitors side by side, and measure work in processes of its own."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

LEAST_SAMPLE = 3e-3  # seconds: shorter calls are repeated within a sample
SETTLE = 0.01  # seconds for which threads of another library may spin after their work
SLOW = 10  # times as long as that: such calls have a wait before them, not one more call


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median, the quintiles around it, and what it is times each of ours."""

    median: float
    low: float
    high: float
    rounds: int
    ratios: dict[str, float] = field(default_factory=dict)


def summarise(spent):
    """Timing of samples in seconds per call."""
    spent = sorted(spent)
    last = len(spent) - 1
    low, high = spent[round(0.2 * last)], spent[round(0.8 * last)]
    return Timing(statistics.median(spent), low, high, len(spent))


def ratio(spent, of):
    """Median of the ratios within the rounds: a machine that slows down slows both."""
    return statistics.median(a / b for a, b in zip(spent, of, strict=True))


def sample(function, calls, settle=0.0, is_slow=False):
    """Seconds per call, of calls right after some that are not timed, or after a wait.

    Both let threads of the previous competitor, which spin for some
    milliseconds, come to rest.
    """
    end = time.perf_counter() + settle
    if is_slow:
        time.sleep(settle)
    else:
        function()
        while time.perf_counter() < end:
            function()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def calls_for(seconds):
    return max(1, round(LEAST_SAMPLE / max(seconds, 1e-9)))


def interleave(work, seconds, least=5, most=41, settle=SETTLE):
    """Time each callable, round after round, for about so many seconds in all.

    Parameters
    ----------
    work : dict of str to callable
    seconds : float
        What all rounds together should take.
    least, most : int
        Bounds of the number of rounds, whatever that takes.
    settle : float
        Seconds of calls that are not timed before each sample, or of nothing if they are slow.

    Returns
    -------
    dict of str to Timing
    """
    first = {name: sample(function, 1) for name, function in work.items()}
    calls = {name: calls_for(spent) for name, spent in first.items()}
    slow = {name for name, spent in first.items() if spent > SLOW * settle}
    one_round = sum(
        calls[name] * spent + (settle if name in slow else max(spent, settle))
        for name, spent in first.items()
    )
    count = int(min(max(seconds / one_round, least), most))
    spent = {name: [] for name in work}
    gc.collect()
    for _ in range(count):
        for name, function in work.items():
            spent[name].append(sample(function, calls[name], settle, name in slow))
    ours = [name for name in spent if name.startswith("smoothl1")]
    return {
        name: replace(summarise(times), ratios={of: ratio(times, spent[of]) for of in ours})
        for name, times in spent.items()
    }


def in_process(program, *arguments, environment=None):
    """What a program, given as text, prints as JSON; run in a fresh interpreter.

    It may keep bytecode, which installed libraries have from the start.
    """
    kept = {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, env={**kept, **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)
