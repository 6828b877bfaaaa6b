"""Accuracy of sums, and the promise that nothing but the values sets their bits."""

import math
from pathlib import Path

import numpy as np
import pytest
from reference import elements, ulps_apart

import smoothl1 as sl

N = 50_000


def bad_data():
    rng = np.random.default_rng(0)
    yield "offset", 1e4 + rng.random(N)
    yield "large then ones", np.concatenate([[1e8], np.ones(N)])
    yield "log-uniform", 10 ** rng.uniform(-20, 8, N)
    yield "equal", np.full(N, 0.1)


@pytest.mark.parametrize(("name", "x"), [*bad_data()])
@pytest.mark.parametrize("beta", [0.0, 0.3, 2.5])
def test_sums_are_within_eight_ulps(name, x, beta):
    wanted = math.fsum(elements(x, np.zeros_like(x), beta)[0])
    assert ulps_apart(sl.smooth_l1_loss(x, 0.0, beta=beta, reduction="sum"), wanted, float) <= 8
    pair = np.stack([x, x], axis=1)
    for value in sl.smooth_l1_loss(pair, 0.0, beta=beta, reduction="sum", axis=0):
        assert ulps_apart(value, wanted, float) <= 8


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (200, 63), (200, 62), (2, 20_000)])
@pytest.mark.parametrize("beta", [0.37, 0.71, 1.3, 1.9])
def test_ones_after_a_large_number_are_not_lost(shape, beta):
    # Each addition to 1e8 rounds the same way: a long lane would drift.
    x = np.ones(shape)
    x[:, 0] = 1e8
    got = sl.smooth_l1_loss(x, 0.0, beta=beta, reduction="sum", axis=1)
    for row in (0, -1):
        wanted = math.fsum(elements(x[row], np.zeros(shape[1]), beta)[0])
        assert ulps_apart(got[row], wanted, float) <= 8


def test_large_float32_do_not_overflow():
    x = np.full(1000, 3e37, np.float32)
    assert sl.smooth_l1_loss(x, np.float32(0), beta=1.0) == np.float32(3e37)
    assert sl.smooth_l1_loss(x, -x, beta=1.0, dtype=np.float64) == 2 * float(x[0]) - 0.5


@pytest.mark.parametrize("columns", [1, 2, 4, 7])
def test_means_over_a_million_rows(columns):
    rng = np.random.default_rng(1)
    x = (1e4 + rng.random((10**6, columns))).astype(np.float32)
    got = sl.smooth_l1_loss(x, 0.0, beta=0.3, axis=0)
    for column in range(columns):
        wanted = math.fsum(x[:, column].astype(np.float64) - 0.15) / 10**6
        assert ulps_apart(got[column], np.float32(wanted), np.float32) <= 1
    sums = sl.smooth_l1_loss(x, 0.0, beta=0.3, axis=0, dtype=np.float64)
    for column in range(columns):
        wanted = math.fsum(x[:, column].astype(np.float64) - 0.15) / 10**6
        assert ulps_apart(sums[column], wanted, float) <= 8


@pytest.mark.parametrize(
    "rows", [2, 3, 8, 12, 63, 64, 65, 100, 127, 128, 129, 500, 1023, 1024, 1025]
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sums_that_share_a_run(rows, dtype):
    # Up to 1024 rows of several sums are computed side by side.
    rng = np.random.default_rng(rows)
    x = rng.normal(0, 2, (37, rows)).astype(dtype)
    weight = rng.random((37, rows)).astype(dtype)
    got = sl.smooth_l1_loss(x, 0.0, beta=0.3, reduction="sum", axis=1, dtype="float64")
    loss, grad = sl.smooth_l1_value_and_grad(x, 0.0, beta=0.3, axis=1, weight=weight)
    for i in range(37):
        terms, slopes = elements(x[i].astype(float), np.zeros(rows), 0.3)[:2]
        assert ulps_apart(got[i], math.fsum(terms), float) <= 8
        total = math.fsum(weight[i].astype(float))
        kind = np.dtype(dtype).type
        assert ulps_apart(loss[i], kind(math.fsum(terms * weight[i]) / total), kind) <= 8
        np.testing.assert_allclose(grad[i], slopes * weight[i] / total, rtol=1e-6, atol=1e-12)


FEW = [((2, 16_401), 0), ((3, 16_448), 0), ((4, 20_000), 0), ((5, 17_000), 0), ((3, 4, 6_000), 1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), FEW)
def test_few_rows_of_many_columns(shape, axis, dtype):
    """Sums that go from registers to the results, with all that a call can have."""
    rng = np.random.default_rng(5)
    x, target, weight = rng.normal(size=(3, *shape)).astype(dtype)
    weight, where = abs(weight), rng.random(shape) < 0.7
    terms, slopes = (
        np.reshape(part, shape)
        for part in elements(x.ravel().astype(float), target.ravel().astype(float), 0.3)[:2]
    )
    count, close = shape[axis], {"rtol": 3 * np.finfo(dtype).eps, "atol": 0}

    loss, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3, axis=axis)
    np.testing.assert_allclose(loss, terms.sum(axis) / count, **close)
    np.testing.assert_allclose(grad, slopes / count, **close)
    assert np.array_equal(sl.smooth_l1_loss(x, target, beta=0.3, axis=axis), loss)
    place = np.full((2, *loss.shape), np.nan, dtype).swapaxes(0, -1)[..., 0].T
    sl.smooth_l1_loss(x, target, beta=0.3, axis=axis, out=place)
    assert np.array_equal(place, loss)
    wide = sl.smooth_l1_loss(x, target, beta=0.3, axis=axis, dtype=np.float64)
    assert np.array_equal(wide.astype(dtype), loss)
    there = x.copy()
    got = sl.smooth_l1_value_and_grad(there, target, beta=0.3, axis=axis, grad_out=there)
    assert np.array_equal(got[0], loss)
    assert np.array_equal(there, grad)

    share = weight.astype(float) * where
    options = {"weight": weight, "where": where, "axis": axis}
    weighted, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.3, **options)
    total = share.sum(axis)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(weighted, (terms * share).sum(axis) / total, **close)
        wanted = slopes * share / np.expand_dims(total, axis)
    np.testing.assert_allclose(grad, np.where(where, wanted, 0.0), **close)
    assert np.array_equal(
        sl.smooth_l1_loss(x, target, beta=0.3, **options), weighted, equal_nan=True
    )

    own = np.take(x, 0, axis)
    one = np.expand_dims(own, axis)
    grad = sl.smooth_l1_grad(one, target, beta=0.3, reduction="sum")
    residual = (np.broadcast_to(one, shape) - target.astype(float)).ravel()
    slopes = np.reshape(elements(residual, np.zeros_like(residual), 0.3)[1], shape)
    np.testing.assert_allclose(
        grad, slopes.sum(axis, keepdims=True), rtol=close["rtol"], atol=4 * np.finfo(dtype).eps
    )


# One line per case: what was summed, and the exact bits of the sum or sums.
GOLDEN = """
import hashlib, sys
import numpy as np
import smoothl1 as sl
from smoothl1 import threads

def values(n, dtype, seed):
    # Integers turned to floats: the same on every CPU and in every version of NumPy.
    state = (np.arange(n, dtype=np.uint64) * 2654435761 + seed * 40503) % 1048573
    return (state.astype(np.float64) / 65536 - 8).astype(dtype)

def spread(a):
    room = np.zeros(2 * a.size, a.dtype)
    room[::2] = a
    return room[::2]

def flat_cases(dtype, sizes):
    for n in sizes:
        x, t = values(n, dtype, 1), values(n, dtype, 2)
        loss, grad = sl.smooth_l1_value_and_grad(x, t, beta=0.3, reduction="sum")
        assert sl.smooth_l1_loss(x, t, beta=0.3, reduction="sum") == loss
        assert sl.smooth_l1_loss(spread(x), spread(t), beta=0.3, reduction="sum") == loss
        assert sl.smooth_l1_loss(x, spread(t), beta=0.3, reduction="sum") == loss
        print(dtype, n, float(loss).hex(), hashlib.sha256(grad.tobytes()).hexdigest()[:16])

def axis_cases(dtype):
    for shape, axis in SHAPES:
        x, t = (values(int(np.prod(shape)), dtype, seed).reshape(shape) for seed in (3, 4))
        loss = sl.smooth_l1_loss(x, t, beta=2.5, axis=axis)
        copy = np.zeros((*shape, 2), dtype)
        copy[..., 0] = x
        assert np.array_equal(sl.smooth_l1_loss(copy[..., 0], t, beta=2.5, axis=axis), loss)
        digest = hashlib.sha256(np.ascontiguousarray(loss)).hexdigest()[:16]
        print(dtype, str(shape).replace(" ", ""), str(axis).replace(" ", ""), digest)

SHAPES = [
    ((1200, 1300), 0), ((1200, 1300), 1), ((400000, 3), 1), ((40, 30, 50, 9), (0, 2)),
    ((3, 40001), 0), ((5, 4, 4100), 1),
]
SIZES = [*range(301), 1023, 1024, 1025, 4095, 4096, 4097, 10**6 + 7]

def show(sizes=SIZES, dtypes=("float64", "float32")):
    for dtype in dtypes:
        flat_cases(dtype, sizes)
        axis_cases(dtype)

def force(runner, n):
    sl.set_num_threads(n)
    threads.choose_runner = lambda elements: runner if elements > 1000 else "serial"
"""
BITS = (Path(__file__).parent / "golden_bits.txt").read_text()
LARGE = [line for line in BITS.splitlines() if line.split()[1] not in map(str, range(301))]


def test_golden_bits(run_python):
    assert run_python(GOLDEN + "show()", timeout=300) == BITS


def test_bits_do_not_depend_on_threads_or_runner(run_python):
    code = """
for runner in ("serial", "prange", "pool"):
    for n in (1, 2, 3, 8):
        force(runner, n)
        show(SIZES[301:])
"""
    out = run_python(GOLDEN + code, timeout=300)
    assert out.splitlines() == LARGE * 12


OTHER = [("generic", "float32"), ("haswell", "float64")]  # a minute each; this one is another


@pytest.mark.parametrize(("cpu", "dtype"), OTHER)
def test_bits_do_not_depend_on_the_processor(run_python, cpu, dtype):
    from llvmlite.binding import get_host_cpu_features

    needed = {"generic": "sse2", "haswell": "avx2"}[cpu]
    if not get_host_cpu_features().get(needed):
        pytest.skip(f"this processor cannot run code for {cpu}")
    code = GOLDEN + f"show(dtypes=['{dtype}'])"
    out = run_python(code, timeout=300, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="")
    assert out.splitlines() == [line for line in BITS.splitlines() if line.startswith(dtype)]


def test_fortran_order_is_summed_in_its_own_order_by_every_function():
    rng = np.random.default_rng(2)
    x, target = (np.asfortranarray(rng.normal(size=(300, 400))) for _ in range(2))
    loss = sl.smooth_l1_loss(x, target, beta=0.3)
    assert loss == sl.smooth_l1_loss(x.T, target.T, beta=0.3)
    assert loss == sl.smooth_l1_value_and_grad(x, target, beta=0.3)[0]
    assert loss == sl.smooth_l1_loss(x, np.ascontiguousarray(target), beta=0.3)


def test_broadcast_and_materialised_operands_give_the_same_bits():
    rng = np.random.default_rng(3)
    x, target = rng.normal(size=(300, 70)), rng.normal(size=(300, 1))
    weight, beta = rng.random((1, 70)), rng.random(70)
    full = [np.array(np.broadcast_to(a, x.shape)) for a in (target, weight, beta)]
    for axis in (None, 0, 1):
        thin = sl.smooth_l1_loss(x, target, weight=weight, beta=beta, axis=axis)
        thick = sl.smooth_l1_loss(x, full[0], weight=full[1], beta=full[2], axis=axis)
        assert np.array_equal(thin, thick)
