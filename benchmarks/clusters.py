"""`LinearObjective` on Dask arrays against the same objective in Dask operations.

    python -m benchmarks.clusters [--rows 1000000 10000000] [--columns 20] [--repeats 7]

X is generated chunk by chunk and y with it, so that it may be larger than the
memory. Competitors run round after round: ours, plain Dask operations, the
floor (X and y are generated and added up, nothing else), under Dask's threads,
and on local clusters of one and of two workers with one thread each. The
values are compared before anything is timed. With --persist the data lie in
the memory of the workers, and an evaluation only reads them.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time

import dask
import dask.array as da
import numpy as np

from smoothl1.optimize import LinearObjective

from .targets import duration

BETA = 1.3


def make_block(block, columns):
    """Rows whose first columns are the features, and whose last one is y."""
    first, size = int(block[0, 0]), len(block)
    rng = np.random.default_rng(first)
    data = rng.random((size, columns + 1)) - 0.5
    data[:, -1] += data[:, :-1].sum(axis=1)
    return data


def generate(rows, columns, chunk):
    starts = da.arange(rows, chunks=chunk)[:, None]
    return starts.map_blocks(
        make_block, columns, chunks=(starts.chunks[0], (columns + 1,)), dtype="f8",
        meta=np.empty((0, 0)),
    )  # fmt: skip


def plain(X, y):
    """The objective in Dask operations, value and gradient in one computation."""

    def objective(w):
        r = X @ w[:-1] + w[-1] - y
        slope = da.clip(r, -BETA, BETA)
        loss = ((r - 0.5 * slope) * slope).sum() / (BETA * len(y))
        gradient = X.T @ slope / (BETA * len(y))
        total = slope.sum() / (BETA * len(y))
        loss, gradient, total = dask.compute(loss, gradient, total)
        return loss, np.append(gradient, total)

    return objective


def rounds(work, repeats):
    """Median seconds of each, round by round."""
    times = {name: [] for name in work}
    for _ in range(repeats):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(spent) for name, spent in times.items()}


def measure(label, rows, options):
    data = generate(rows, options.columns, options.chunk)
    if options.persist:
        data = data.persist()
    X, y = data[:, :-1], data[:, -1]
    ours, theirs = LinearObjective(X, y, beta=BETA), plain(X, y)
    w = np.linspace(-1, 1, options.columns + 1)

    def fresh():
        ours._last = None  # an evaluation that cannot be answered from memory
        return ours(w)

    value, gradient = fresh()
    expected, expected_gradient = theirs(w)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-7, atol=1e-9)
    work = {
        "smoothl1": fresh,
        "dask": lambda: theirs(w),
        "floor": lambda: (X.sum() + y.sum()).compute(),
    }
    repeats = options.repeats if rows <= 10**7 else min(options.repeats, 2)
    times = rounds(work, repeats)
    listed = (f"{name} {duration(t)} ({t / times['smoothl1']:.2f}x)" for name, t in times.items())
    print(f"{rows:.0e} rows, {label}: {', '.join(listed)}", flush=True)


@contextlib.contextmanager
def local_cluster(workers):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, memory_limit="8GiB"
        ) as cluster,
        Client(cluster),
    ):
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7])
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--chunk", type=int, default=250_000, help="rows of a chunk")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--persist", action="store_true")
    options = parser.parse_args()
    for rows in options.rows:
        with dask.config.set(scheduler="threads"):
            measure("threads", rows, options)
    for workers in options.workers:
        with local_cluster(workers):
            for rows in options.rows:
                measure(f"{workers} worker(s)", rows, options)


if __name__ == "__main__":
    main()
