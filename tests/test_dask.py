"""Dask arrays: lazy results with NumPy's values, and what is computed to get them."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reference import Reference

import smoothl1 as sl
from smoothl1 import threads

dask = pytest.importorskip("dask", reason="Dask is optional")
da = pytest.importorskip("dask.array", reason="Dask is optional")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="the type is optional")

FUNCTIONS = [sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_value_and_grad, sl.smooth_l1_hess]
CALLS = [
    {}, {"reduction": "sum"}, {"reduction": "none"}, {"axis": 0}, {"axis": -1, "keepdims": True},
    {"axis": (2, 0)}, {"axis": ()}, {"axis": 1, "normalizer": 3.0}, {"reduction": "sum", "axis": 1},
    {"dtype": "float32"},
]  # fmt: skip
CHUNKINGS = [
    {"x": (2, 3, 2), "target": (3, 2), "weight": (3, 1, 2), "where": (1, 5, 4), "beta": (4,)},
    {"x": (5, 5, 4), "target": (5, 4), "weight": (5, 1, 4), "where": (5, 5, 4), "beta": (4,)},
    {"x": ((0, 5, 0), (1, 4), (1, 1, 2)), "target": ((2, 0, 3), 3), "weight": (1, 1, 1),
     "where": (2, 2, 2), "beta": (1,)},
]  # fmt: skip
EXTRAS = [(), ("weight",), ("where",), ("beta",), ("weight", "where", "beta")]


@pytest.fixture(autouse=True)
def one_thread():
    """Blocks one after another, unless a test says more."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def arrays(rng):
    x, target = rng.normal(size=(5, 5, 4)), rng.normal(size=(5, 4))
    weight, where = rng.random((5, 1, 4)), rng.random((5, 5, 4)) < 0.7
    x[~where] = np.nan
    weight[0], where[:, 2, 1] = 0, False
    beta = np.array([0.0, 1e-3, 0.3, 2.5])
    return {"x": x, "target": target, "weight": weight, "where": where, "beta": beta}


def lazy(arrays, chunks, names):
    return {name: da.from_array(arrays[name], chunks=chunks[name]) for name in names}


def refuse(block):
    raise AssertionError("a block was computed")


class Counted:
    """A source of blocks that counts how often each is made."""

    def __init__(self, shape, chunks, seed=0):
        self.values = np.random.default_rng(seed).normal(size=shape)
        self.reads = {}
        self.array = da.from_array(self.values, chunks=chunks).map_blocks(
            self.read, dtype="f8", meta=np.empty((0,) * len(shape))
        )

    def read(self, block, block_info=None):
        place = tuple(block_info[0]["chunk-location"])
        self.reads[place] = self.reads.get(place, 0) + 1
        return block

    def once(self):
        return len(self.reads) == self.array.npartitions and set(self.reads.values()) == {1}


def pairs(ours, theirs):
    if isinstance(ours, tuple):
        return list(zip(ours, theirs, strict=True))
    return [(ours, theirs)]


def matches(array, expected):
    """Compare a lazy array with values, and what it says of itself with what it is."""
    computed = array.compute()
    assert isinstance(array, da.Array)
    assert array.shape == np.shape(computed) == np.shape(expected)
    assert array.dtype == computed.dtype == array._meta.dtype
    assert array._meta.ndim == array.ndim
    assert type(array._meta) is np.ndarray
    blocks = dask.compute(*array.to_delayed().ravel())
    sizes = [tuple(c) for c in np.ndindex(*array.numblocks)]
    for place, block in zip(sizes, blocks, strict=True):
        assert np.shape(block) == tuple(c[i] for c, i in zip(array.chunks, place, strict=True))
    rtol = 1e-12 if array.dtype == np.float64 else 2 * float(ml_dtypes.finfo(array.dtype).eps)
    np.testing.assert_allclose(
        np.asarray(computed, "f8"), np.asarray(expected, "f8"), rtol=rtol, atol=1e-300
    )


@pytest.mark.parametrize(
    ("call", "extras", "chunks"),
    [
        *((call, extras, CHUNKINGS[0]) for call in CALLS for extras in EXTRAS),
        *((call, EXTRAS[-1], CHUNKINGS[1]) for call in CALLS),
        *((call, EXTRAS[-1], CHUNKINGS[2]) for call in CALLS[2:6]),
    ],
)
def test_same_as_the_definition(arrays, chunks, extras, call):
    arrays["x"] = np.nan_to_num(arrays["x"], nan=0.7) if "where" not in extras else arrays["x"]
    names = ("x", "target", *extras)
    given = {name: arrays[name] for name in names}
    options = {"beta": 0.4} | call
    ours = options | lazy(arrays, chunks, names)
    definition = {name: value for name, value in options.items() if name != "dtype"} | given
    wanted = Reference(**definition)
    for wrt in ("x", "target"):
        loss, grad = sl.smooth_l1_value_and_grad(**ours, wrt=wrt)
        matches(loss, wanted.loss())
        matches(grad, wanted.grad(wrt))
        assert grad.chunks == ours[wrt].chunks
        alone = sl.smooth_l1_grad(**ours, wrt=wrt)
        assert np.array_equal(alone.compute(), grad.compute(), equal_nan=True)
    matches(sl.smooth_l1_hess(**ours), wanted.hess())
    alone = sl.smooth_l1_loss(**ours)
    assert np.array_equal(alone.compute(), loss.compute(), equal_nan=True)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dask_factor", [True, False])
def test_vector_products(arrays, rng, call, dask_factor):
    arrays["x"] = np.nan_to_num(arrays["x"])
    given = {name: arrays[name] for name in ("x", "target", "weight")}
    call = {name: value for name, value in call.items() if name != "dtype"}
    wanted = Reference(**given, beta=0.3, **call)
    factor = rng.normal(size=wanted.loss().shape[1:])
    ours = lazy(arrays, CHUNKINGS[0], given) | {"beta": 0.3} | call
    upstream = da.from_array(factor, chunks=2) if dask_factor else factor.tolist()
    for wrt in ("x", "target"):
        grad = sl.smooth_l1_grad(**ours, wrt=wrt, grad_output=upstream)
        matches(grad, wanted.grad(wrt, factor))


@pytest.mark.parametrize("extras", [(), ("weight", "where", "beta")])
def test_huber_modules_and_no_axes(arrays, extras):
    arrays["x"] = np.nan_to_num(arrays["x"])
    ours = lazy(arrays, CHUNKINGS[0], ("x", "target", *extras))
    given = {name: arrays[name] for name in ours}
    options = {"delta": ours.pop("beta", 0.3)} | ours
    expected = {"delta": given.pop("beta", 0.3)} | given
    for call in ({}, {"axis": (0, 1)}, {"reduction": "none"}):
        matches(sl.huber_loss(**options, **call), sl.huber_loss(**expected, **call))
    module = sl.SmoothL1Loss(beta=0.3)
    matches(
        module.forward_reduce_dims(ours["x"], ours["target"], [2]),
        module.forward_reduce_dims(given["x"], given["target"], [2]),
    )


@pytest.mark.parametrize("kinds", [
    ("f4", "f4", "f4"), ("f2", "f4", "f2"), ("f4", "i4", "u1"), ("u1", "i8", "i2"),
    ("bfloat16", "bfloat16", "bfloat16"), ("bfloat16", "f2", "f2"), (">f8", "f4", "f8"),
])  # fmt: skip
def test_types_are_those_of_numpy(rng, kinds):
    values = [rng.integers(0, 5, size=shape).astype(kind) for shape, kind in
              zip(((7, 5), (7, 1), (5,)), kinds, strict=True)]  # fmt: skip
    x, target, weight = (da.from_array(value, chunks=3) for value in values)
    for call in ({"axis": 0}, {"reduction": "none"}, {}):
        for function in FUNCTIONS:
            ours = function(x, target, weight=weight, beta=1.3, **call)
            theirs = function(values[0], values[1], weight=values[2], beta=1.3, **call)
            for lazy_result, expected in pairs(ours, theirs):
                assert lazy_result.dtype == expected.dtype
                matches(lazy_result, expected)


def test_sums_are_rounded_once():
    x = da.full((4096,), 1.0, dtype="f4", chunks=1)
    x = da.concatenate([da.full((1,), 2.0**25, dtype="f4"), x])
    assert sl.smooth_l1_loss(x, 0.0, beta=0.0, reduction="sum").compute() == 2.0**25 + 4096
    half = sl.smooth_l1_loss(da.full((70_000,), 2.0, dtype="f2", chunks=999), 0.0, beta=0.0)
    assert half.compute() == np.float16(2)
    grad = sl.smooth_l1_grad(x, da.zeros((1,), dtype="f4"), wrt="target", reduction="sum")
    assert grad.compute() == -4097


def test_a_mean_is_not_a_mean_of_means():
    x = da.from_array(np.array([0.0, 0.0, 0.0, 0.0, 10.0]), chunks=4)
    assert sl.smooth_l1_loss(x, 0.0, beta=0.0).compute() == 2.0
    where = da.from_array(np.array([True, False, False, False, True]), chunks=4)
    assert sl.smooth_l1_loss(x, 0.0, beta=0.0, where=where).compute() == 5.0


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (1, 0, 2), ()])
def test_empty_and_zero_dimensional(shape):
    values = np.full(shape, 2.0)
    x = da.from_array(values, chunks=shape or ())
    for axis in (None, (), *range(len(shape))):
        for reduction in ("mean", "sum"):
            call = {"axis": axis, "reduction": reduction, "beta": 0.5}
            for extra in ({}, {"weight": 2.0}, {"where": True}, {"weight": x}):
                theirs = {name: values if value is x else value for name, value in extra.items()}
                for function in FUNCTIONS:
                    ours = function(x, 0.5, **call, **extra)
                    expected = function(values, 0.5, **call, **theirs)
                    for result, known in pairs(ours, expected):
                        matches(result, known)
    matches(sl.smooth_l1_grad(x, 0.5, wrt="target"), sl.smooth_l1_grad(values, 0.5, wrt="target"))


def test_numbers_and_lists_go_with_dask(arrays):
    x, values = da.from_array(arrays["weight"], chunks=2), arrays["weight"]
    extras = {"beta": [0.1, 0.0, 2.0, 1e-3], "weight": [[[1, 2, 0, 4]]]}
    extras["where"] = [True, False, True, True]
    for target in (0.5, 1, np.float32(0.25), [0.1, 0.2, 0.3, 0.4]):
        for function in FUNCTIONS:
            ours, theirs = function(x, target, **extras), function(values, target, **extras)
            for result, expected in pairs(ours, theirs):
                matches(result, expected)
    matches(sl.smooth_l1_grad([0.0, 1.0], x[:, :, :2]), np.asarray(
        sl.smooth_l1_grad([0.0, 1.0], values[:, :, :2])))  # fmt: skip
    matches(sl.smooth_l1_loss(0.5, 1.0, weight=x), sl.smooth_l1_loss(0.5, 1.0, weight=values))


def test_nothing_is_computed_early():
    x = da.zeros((6, 5), chunks=(2, 3)).map_blocks(refuse, dtype="f8", meta=np.empty((0, 0)))
    where = x > 0
    for call in CALLS[:5]:
        for function in FUNCTIONS:
            function(x, x, beta=x * x, weight=x, where=where, **call)
        sl.smooth_l1_grad(x, x, grad_output=x[0, 0], **call)
    with pytest.raises(AssertionError, match="a block was computed"):
        sl.smooth_l1_loss(x, 0.0).compute()


def test_elementwise_results_keep_the_chunks(arrays):
    ours = lazy(arrays, CHUNKINGS[0], ("x", "target", "weight"))
    loss = sl.smooth_l1_loss(**ours, reduction="none")
    assert loss.chunks == (ours["x"] + ours["target"] + ours["weight"]).chunks
    rows = sl.smooth_l1_loss(da.zeros((9, 4), chunks=(2, 2)), 1.0, axis=1)
    assert rows.chunks == ((2, 2, 2, 2, 1),)
    kept = sl.smooth_l1_loss(da.zeros((9, 4), chunks=(2, 2)), 1.0, axis=0, keepdims=True)
    assert kept.chunks == ((1,), (2, 2))


@pytest.mark.parametrize("fuse", [True, False, None])
@pytest.mark.parametrize("extras", EXTRAS[:3])
def test_every_source_block_is_made_once(extras, fuse):
    sources = {name: Counted((7, 6), (3, 2), seed) for seed, name in enumerate(("x", "target"))}
    given = {name: source.array for name, source in sources.items()}
    if "weight" in extras:
        sources["weight"] = Counted((7, 1), (3, 1), 5)
        given["weight"] = abs(sources["weight"].array)
    if "where" in extras:
        given["where"] = given["x"] > 0.1
    for axis in (None, 0):
        for wrt in ("x", "target"):
            both = sl.smooth_l1_value_and_grad(**given, beta=0.3, axis=axis, wrt=wrt)
            for source in sources.values():
                source.reads.clear()
            with dask.config.set({"optimization.fuse.active": fuse}):
                dask.compute(*both)
            assert all(source.once() for source in sources.values())


def test_one_task_makes_loss_and_gradient_of_a_block(monkeypatch):
    from smoothl1 import dask_blocks

    calls = []
    run = dask_blocks.both_block

    def counted(*blocks, job):
        calls.append(job)
        return run(*blocks, job=job)

    monkeypatch.setattr("smoothl1.dask.both_block", counted)
    x = da.from_array(np.arange(24.0).reshape(6, 4), chunks=(2, 2))
    dask.compute(*sl.smooth_l1_value_and_grad(x, 3.0, beta=2.0))
    assert len(calls) == 6


def test_kernels_use_one_thread_in_blocks(monkeypatch):
    from smoothl1 import dask_blocks

    seen = []

    def look(*given, **how):
        seen.append(threads.choose_runner(10**9))
        return check(*given, **how)

    check = dask_blocks.check
    monkeypatch.setattr(dask_blocks, "check", look)
    x = da.zeros((8, 4), chunks=4)
    dask.compute(sl.smooth_l1_value_and_grad(x, 1.0, weight=x + 1), sl.smooth_l1_hess(x, 1.0))
    assert seen
    assert set(seen) == {threads.SERIAL}


def test_serially_is_for_one_thread_and_ends(monkeypatch):
    monkeypatch.setattr(threads, "_threads", 4)
    with threads.serially():
        with threads.serially():
            assert threads.choose_runner(10**9) == threads.SERIAL
        assert threads.choose_runner(10**9) == threads.SERIAL
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(threads.choose_runner, 10**9).result() != threads.SERIAL
    assert threads.choose_runner(10**9) != threads.SERIAL


def test_same_bits_for_any_scheduler(rng):
    x = da.from_array(rng.normal(size=(300, 50)) * 1e3, chunks=(7, 11))
    weight = da.from_array(rng.random((300, 1)), chunks=(9, 1))
    results = []
    for scheduler, workers in (("sync", 1), ("threads", 2), ("threads", 7)):
        both = sl.smooth_l1_value_and_grad(x, 0.5, beta=300.0, weight=weight)
        loss, grad = dask.compute(*both, scheduler=scheduler, num_workers=workers)
        results.append((loss.tobytes(), grad.tobytes()))
    assert len(set(results)) == 1


def test_trees_have_many_levels_and_small_tasks(rng):
    values = rng.normal(size=(131, 23))
    x = da.from_array(values, chunks=(2, 3))
    for axis in (None, 0, 1):
        loss = sl.smooth_l1_loss(x, 0.1, beta=0.3, axis=axis)
        np.testing.assert_allclose(
            loss.compute(), Reference(values, 0.1, beta=0.3, axis=axis).loss(), rtol=1e-13
        )
        tasks = dict(loss.__dask_graph__())
        sums = [task for key, task in tasks.items() if key[0].startswith("add-")]
        assert max(len(blocks) for _, blocks in sums) <= 8


def test_results_travel(rng):
    x = da.from_array(rng.normal(size=(9, 5)), chunks=4)
    loss, grad = sl.smooth_l1_value_and_grad(x, 0.0, beta=0.3, weight=abs(x))
    again = pickle.loads(pickle.dumps((loss, grad)))
    for result, expected in zip(again, (loss, grad), strict=True):
        assert np.array_equal(result.compute(), expected.compute())
    assert loss.name == sl.smooth_l1_value_and_grad(x, 0.0, beta=0.3, weight=abs(x))[0].name
    assert loss.name != sl.smooth_l1_value_and_grad(x, 0.0, beta=0.4, weight=abs(x))[0].name


def test_other_processes_can_compute_it(run_python):
    out = run_python(
        """
        import dask.array as da, smoothl1 as sl
        if __name__ == "__main__":
            x = da.arange(10.0, chunks=3)
            both = sl.smooth_l1_value_and_grad(x, 0.5, beta=2.0, reduction="sum")
            import dask
            loss, grad = dask.compute(*both, scheduler="processes", num_workers=2)
            print(float(loss), float(grad.sum()))
        """
    )
    loss, slopes = map(float, out.split())
    r = np.arange(10.0) - 0.5
    assert loss == np.where(np.abs(r) < 2, r * r / 4, np.abs(r) - 1).sum()
    assert slopes == np.clip(r / 2, -1, 1).sum()


def test_thresholds_are_checked_in_the_blocks():
    x = da.zeros((6,), chunks=2)
    loss = sl.smooth_l1_loss(x, 1.0, beta=da.from_array(np.r_[np.ones(5), -1.0], chunks=3))
    with pytest.raises(ValueError, match="every beta must be finite"):
        loss.compute()
    with pytest.raises(ValueError, match="delta must be finite"):
        sl.huber_loss(x, 1.0, delta=da.from_array(np.array(-1.0))).compute()


def test_clear_errors():
    x = da.zeros((6, 4), chunks=2)
    with pytest.raises(ValueError, match=r"target must have known chunk sizes.*compute_chunk_siz"):
        sl.smooth_l1_loss(x[:, 0], x[:, 0][x[:, 0] > 0])
    with pytest.raises(
        TypeError, match=r"got dask\.array\.Array for x and numpy\.ndarray for target"
    ):
        sl.smooth_l1_loss(x, np.zeros((6, 4)))
    with pytest.raises(
        TypeError, match=r"got dask\.array\.Array for weight and numpy\.ndarray for x"
    ):
        sl.smooth_l1_loss(np.zeros((6, 4)), 0.0, weight=x)
    with pytest.raises(TypeError, match=r"x must be a Dask array of numpy\.ndarray.*MaskedArray"):
        sl.smooth_l1_loss(da.ma.masked_greater(x, 1), 0.0)
    with pytest.raises(TypeError, match="out must be None"):
        sl.smooth_l1_loss(x, 0.0, out=da.zeros(()))
    with pytest.raises(ValueError, match=r"x \(6, 4\), target \(3,\)"):
        sl.smooth_l1_loss(x, da.zeros(3))
    with pytest.raises(TypeError, match="x has dtype complex128"):
        sl.smooth_l1_loss(x.astype(complex), 0.0)
    with pytest.raises(TypeError, match="x has dtype bool"):
        sl.smooth_l1_loss(x > 0, 0.0)
    with pytest.raises(TypeError, match="where must be boolean"):
        sl.smooth_l1_loss(x, 0.0, where=x)
    with pytest.raises(np.exceptions.AxisError, match="axis 2 is out of bounds"):
        sl.smooth_l1_loss(x, 0.0, axis=2)
    with pytest.raises(ValueError, match="beta must be finite"):
        sl.smooth_l1_loss(x, 0.0, beta=-1)
    with pytest.raises(ValueError, match=r"grad_output must broadcast to the shape of the resu"):
        sl.smooth_l1_grad(x, 0.0, axis=0, grad_output=x[:, 0])


def test_huge_arrays_cost_nothing_to_describe():
    x = da.zeros((10**9, 10**5), chunks=(10**8, 10**5))
    loss, grad = sl.smooth_l1_value_and_grad(x, 0.0, beta=x + 1.0, weight=x)
    assert loss.shape == ()
    assert grad.chunks == x.chunks


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        ((1, 0), (4,)), ((0, 1), (1,)), ((0, 0, 1), (1, 0)), ((0, 0), (1,)), ((0, 0), (0,)),
        ((2, 0, 2), (1,)),
    ],
)  # fmt: skip
def test_empty_chunks_beside_one_element(rows, others, rng):
    x, target = (rng.normal(size=(sum(sizes), 3)) for sizes in (rows, others))
    pairs = ((x, rows), (target, others))
    lazy = [da.from_array(array, chunks=(sizes, 3)) for array, sizes in pairs]
    for function in (sl.smooth_l1_loss, sl.smooth_l1_grad):
        for options in ({}, {"axis": 0}, {"axis": 1}, {"reduction": "none"}):
            got = function(*lazy, beta=0.3, **options)
            wanted = function(x, target, beta=0.3, **options)
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got.compute(), wanted, rtol=1e-14, equal_nan=True)


@pytest.mark.parametrize("sizes", [(0, 0), (0, 0, 0), (0,)])
def test_empty_chunks_alone(sizes):
    x, target = da.from_array(np.zeros(0), chunks=(sizes,)), da.ones(1, chunks=1)
    for other in (target, x, 1.0):
        assert np.isnan(sl.smooth_l1_loss(x, other).compute())
        assert sl.smooth_l1_loss(x, other, reduction="sum").compute() == 0
        for function in (sl.smooth_l1_grad, sl.smooth_l1_hess):
            got = function(x, other, reduction="sum")
            assert got.shape == got.compute().shape == (0,)
