"""Linear models on Dask arrays, here and on a cluster of two processes."""

import pickle

import numpy as np
import pytest

from smoothl1 import threads
from smoothl1.optimize import LinearObjective

dask = pytest.importorskip("dask", reason="Dask is optional")
da = pytest.importorskip("dask.array", reason="Dask is optional")


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def data(rng):
    X = rng.normal(size=(211, 4))
    y = X @ [1.0, 2.0, -1.0, 0.5] + 3 + rng.standard_t(2, size=211)
    return X, y, rng.random(211)


def definition(X, y, weight, w, beta, l2):
    """Value, gradient and Hessian of the mean, in NumPy."""
    A = np.column_stack([X, np.ones(len(y))])
    r = A @ w - y
    share = weight / weight.sum()
    loss = np.where(np.abs(r) < beta, r * r / (2 * beta), np.abs(r) - beta / 2) @ share
    penalty = np.append(np.full(X.shape[1], l2), 0.0)
    gradient = A.T @ (np.clip(r / beta, -1, 1) * share) + penalty * w
    hess = A.T @ (A * (share * (np.abs(r) < beta) / beta)[:, None]) + np.diag(penalty)
    return loss + 0.5 * penalty @ (w * w), gradient, hess


CHUNKS = [(50, 4), (211, 2), ((0, 100, 1, 0, 110), (1, 3)), (1, 4)]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("beta", [0.3, 2.5])
def test_same_as_the_definition(data, chunks, weighted, beta):
    X, y, weight = data
    lazy = da.from_array(X, chunks=chunks), da.from_array(y, chunks=60)
    given = da.from_array(weight, chunks=77) if weighted else None
    objective = LinearObjective(*lazy, beta=beta, sample_weight=given, l2=0.1)
    w, v = np.linspace(-1, 2, 5), np.array([0.3, -1, 2, 0.5, 1])
    weight = weight if weighted else np.ones_like(y)
    value, gradient, hess = definition(X, y, weight, w, beta, 0.1)
    assert type(objective(w)[0]) is float
    np.testing.assert_allclose(objective(w)[0], value, rtol=1e-12)
    np.testing.assert_allclose(objective(w)[1], gradient, rtol=1e-10)
    np.testing.assert_allclose(objective.hess(w), hess, rtol=1e-10)
    np.testing.assert_allclose(objective.hessp(w, v), hess @ v, rtol=1e-10)
    predicted = objective.predict(w)
    assert isinstance(predicted, da.Array)
    assert predicted.chunks == lazy[0].chunks[:1]
    np.testing.assert_allclose(predicted.compute(), X @ w[:-1] + w[-1], rtol=1e-12)


@pytest.mark.parametrize("method", ["L-BFGS-B", "Newton-CG", "trust-exact", "BFGS"])
def test_fits_as_numpy_does(data, method):
    X, y, weight = data
    options = {"beta": 0.7, "l2": 1e-3}
    ours = LinearObjective(
        da.from_array(X, chunks=40), da.from_array(y, chunks=33), sample_weight=weight, **options
    ).minimize(method=method)
    theirs = LinearObjective(X, y, sample_weight=weight, **options).minimize(method=method)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-6, atol=1e-8)
    assert ours.n_outliers == theirs.n_outliers
    assert ours.coef.shape == (4,)


@pytest.mark.parametrize("kind", ["f4", "i2", ">f8", "f2"])
def test_number_types(rng, kind):
    X = rng.integers(-9, 9, size=(40, 3)).astype(kind)
    y = rng.integers(-9, 9, size=40).astype(kind)
    ours = LinearObjective(da.from_array(X, chunks=7), da.from_array(y, chunks=9), beta=0.3)
    theirs = LinearObjective(X, y, beta=0.3)
    np.testing.assert_allclose(ours([1.0, 2, 3, 4])[1], theirs([1.0, 2, 3, 4])[1], rtol=1e-12)


def test_numpy_values_lists_and_no_intercept(data):
    X, y, weight = data
    lazy = da.from_array(X, chunks=50)
    options = {"beta": 0.3, "fit_intercept": False, "reduction": "sum"}
    ours = LinearObjective(lazy, y.tolist(), sample_weight=weight.tolist(), **options)
    theirs = LinearObjective(X, y, sample_weight=weight, **options)
    w = [1.0, -2.0, 0.5, 3.0]
    for result, expected in zip(ours(w), theirs(w), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    assert isinstance(theirs.predict(w, lazy), da.Array)
    assert np.array_equal(theirs.predict(w, lazy).compute(), theirs.predict(w))
    assert np.array_equal(ours.predict(w, X), theirs.predict(w))


def test_an_evaluation_reads_each_block_of_rows_once(data):
    X, y, _ = data
    reads = []

    def read(block, block_info=None):
        reads.append(block_info[0]["chunk-location"][0])
        return block

    lazy = da.from_array(X, chunks=(50, 4)).map_blocks(read, dtype="f8", meta=np.empty((0, 0)))
    objective = LinearObjective(lazy, y, beta=0.3)
    assert reads == []
    for step in range(3):
        objective(np.full(5, float(step)))
        assert sorted(reads) == [0, 1, 2, 3, 4]
        reads.clear()


def test_y_is_computed_once_for_the_checks(data):
    X, y, _ = data
    reads = []

    def read(block):
        reads.append(1)
        return block

    lazy = da.from_array(y, chunks=50).map_blocks(read, dtype="f8", meta=np.empty(0))
    LinearObjective(da.from_array(X, chunks=50), lazy, sample_weight=abs(y))
    assert len(reads) == 5


def test_blocks_use_one_thread(data, monkeypatch):
    X, y, _ = data
    seen = []

    def run(kernel, arguments, ranges, elements):
        seen.append(threads.choose_runner(10**9))
        kernel(*arguments, 0, int(ranges[-1, 1]), threads.NO_JOB)

    monkeypatch.setattr(threads, "run", run)
    objective = LinearObjective(da.from_array(X, chunks=50), y, beta=0.3)
    w = np.ones(5)
    objective(w), objective.hess(w), objective.hessp(w, w), objective.predict(w).compute()
    assert set(seen) == {threads.SERIAL}


def test_same_bits_for_any_scheduler_and_again_from_a_pickle(data):
    X, y, weight = data
    lazy = da.from_array(X, chunks=20), da.from_array(y, chunks=20)
    objective = LinearObjective(*lazy, beta=0.3, sample_weight=da.from_array(weight, chunks=20))
    w = np.linspace(-1, 1, 5)
    bits = set()
    for scheduler, workers in (("sync", 1), ("threads", 2), ("threads", 6)):
        with dask.config.set(scheduler=scheduler, num_workers=workers):
            bits.add(pickle.loads(pickle.dumps(objective))(w)[1].tobytes())
    assert bits == {objective(w)[1].tobytes()}


def test_clear_errors(data):
    X, y, weight = data
    lazy, bad = da.from_array(X, chunks=50), y.copy()
    bad[[3, 170]] = np.nan, np.inf
    with pytest.raises(ValueError, match="y must be finite, got 2 values that are not"):
        LinearObjective(lazy, da.from_array(bad, chunks=50))
    with pytest.raises(ValueError, match="sample_weight must be at least 0, got 1 values below"):
        LinearObjective(lazy, y, sample_weight=da.from_array(np.append(weight[1:], -1), chunks=9))
    with pytest.raises(ValueError, match="sample_weight must have a finite sum above 0"):
        LinearObjective(lazy, y, sample_weight=da.zeros(211))
    with pytest.raises(ValueError, match="y must have one value per row of X, got shape"):
        LinearObjective(lazy, y[1:])
    with pytest.raises(ValueError, match="X must have known chunk sizes"):
        LinearObjective(lazy[lazy[:, 0] > 0], y)
    with pytest.raises(ValueError, match="X must have two dimensions"):
        LinearObjective(lazy[:, 0], y)
    with pytest.raises(ValueError, match="X must have at least one row"):
        LinearObjective(lazy[:0], y[:0])
    with pytest.raises(TypeError, match="X has dtype complex128"):
        LinearObjective(lazy.astype(complex), y)
    with pytest.raises(TypeError, match=r"y must be .* got dask.*pass y\.compute"):
        LinearObjective(X, da.from_array(y, chunks=50))
    with pytest.raises(ValueError, match="X must have 4 columns"):
        LinearObjective(lazy, y).predict(np.zeros(5), lazy[:, 1:])


CLUSTER = """
import os, signal, tempfile, warnings
import numpy as np, dask, dask.array as da
from distributed import Client, LocalCluster
from smoothl1.optimize import LinearObjective

warnings.simplefilter("default")  # of the cluster's own libraries

def make(starts, columns):
    rng = np.random.default_rng(int(starts[0, 0]))
    data = rng.normal(size=(len(starts), columns + 1))
    data[:, -1] += data[:, :-1].sum(axis=1) + 2
    return data

def generate(rows, columns, chunk):
    starts = da.arange(rows, chunks=chunk)[:, None]
    data = starts.map_blocks(
        make, columns, chunks=(starts.chunks[0], (columns + 1,)), dtype="f8",
        meta=np.empty((0, 0)))
    return data[:, :-1], data[:, -1]

def cluster(memory):
    return LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, memory_limit=memory,
        dashboard_address=None, local_directory=tempfile.mkdtemp())
"""


@pytest.fixture
def on_cluster(run_python, tmp_path):
    pytest.importorskip("distributed", reason="clusters are optional")

    def run(code):
        script = tmp_path / "script.py"
        indented = "\n".join("    " + line for line in code.strip().splitlines())
        script.write_text(f"{CLUSTER}\nif __name__ == '__main__':\n{indented}\n")
        launch = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
        return run_python(launch, timeout=170).split()

    return run


def test_a_killed_worker_does_not_change_a_fit(on_cluster):
    """The second iteration kills a worker, with the data it holds; bits stay."""
    out = on_cluster(
        """
with cluster("1GiB") as workers, Client(workers) as client:
    X, y = dask.persist(*generate(20_000, 3, 1_000))
    objective = LinearObjective(X, y, beta=0.4)
    before = objective.minimize()
    killed = []
    def kill(iteration, value):
        if iteration == 2:
            address, pid = sorted(client.run(os.getpid).items())[0]
            os.kill(pid, signal.SIGKILL)
            killed.append(address)
    after = LinearObjective(X, y, beta=0.4).minimize(progress=kill)
    with dask.config.set(scheduler="synchronous"):
        X, y = generate(20_000, 3, 1_000)
        here = LinearObjective(X, y, beta=0.4).minimize()
        numpy = LinearObjective(X.compute(), y.compute(), beta=0.4).minimize()
    alive = client.scheduler_info()["workers"]
    print(len(killed), np.array_equal(before.x, after.x), np.array_equal(before.x, here.x))
    print(np.abs(before.x - numpy.x).max() < 1e-7, before.n_outliers == numpy.n_outliers)
        """
    )
    assert out == ["1", "True", "True", "True", "True"]


def test_data_larger_than_the_memory_of_the_workers(on_cluster):
    """1 GB in blocks of 4 MB passes through two workers of 400 MB."""
    out = on_cluster(
        """
with cluster("400MB") as workers, Client(workers) as client:
    X, y = generate(12_500_000, 9, 50_000)
    objective = LinearObjective(X, y, beta=0.4)
    w = np.append(np.ones(9), 2.0)
    value, gradient = objective(w)
    steps = client.run(os.getpid)
    print(value, np.abs(gradient).max() < 1e-2, len(steps))
        """
    )
    rng = np.random.default_rng(5)
    r = np.abs(rng.normal(size=10**6))
    expected = np.where(r < 0.4, r * r / 0.8, r - 0.2).mean()
    assert abs(float(out[0]) / expected - 1) < 1e-2
    assert out[1:] == ["True", "2"]
