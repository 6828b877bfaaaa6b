"""Operands and outputs that lie in memory in any way reach kernels element by element."""

import numpy as np
import pytest
from reference import elements

import smoothl1 as sl

SIZES = (1, 2, 3, 2047, 2048, 2049, 5000)  # runs are 2048 elements


def spaced(values, step, dtype):
    """Equal values that lie ``step`` items apart, and other numbers between."""
    room = np.full(abs(step) * values.size + 1, 77.0).astype(dtype)
    view = room[::step][: values.size]
    view[...] = values
    return view


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "uint8"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, -1, -2, -3])
def test_any_step_between_elements(dtype, step):
    for n in SIZES:
        values = np.random.default_rng(n).integers(0, 9, n)
        x = spaced(values, step, dtype)
        wanted = elements(values.astype(float), np.full(n, 2.5), 1.5)[0]
        got = sl.smooth_l1_loss(x, 2.5, beta=1.5, reduction="none", dtype="float64")
        np.testing.assert_allclose(got, wanted, rtol=1e-15)


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">f2", ">i8", ">i4", ">i2", ">u2"])
def test_swapped_bytes(dtype):
    values = np.random.default_rng(0).integers(0, 300, 5000)
    wanted = elements(values.astype(float), np.full(5000, 2.5), 1.5)[0]
    for x in (values.astype(dtype), spaced(values, 3, dtype)):
        got = sl.smooth_l1_loss(x, 2.5, beta=1.5, reduction="none", dtype="float64")
        np.testing.assert_allclose(got, wanted, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 5), (5, 1), (3, 700), (700, 3), (41, 53), (2, 2500)]
)
def test_rows_that_lie_apart(dtype, rows, columns):
    rng = np.random.default_rng(1)
    room = rng.integers(-9, 9, (rows + 1, columns + 2)).astype(dtype)
    x = room[1:, 1:-1]
    for target in (room[:1, 2:], room[1:, :1], room[:rows, :columns], room[:rows, :columns][::-1]):
        for factor in (room[:1, 2:], room[1:, :1]):
            wide = np.broadcast_to(target, x.shape).astype(float)
            loss, slope = elements(x.astype(float), wide, 2.5)[:2]
            weight = np.abs(factor) + 1
            options = {"beta": 2.5, "weight": weight, "reduction": "none"}
            got = sl.smooth_l1_value_and_grad(x, target, **options)
            np.testing.assert_allclose(got[0], loss * weight, rtol=1e-6)
            np.testing.assert_allclose(got[1], slope * weight, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("step", [2, 3, -1, -2])
def test_outputs_with_steps_keep_what_lies_between(step):
    x = np.random.default_rng(2).normal(0, 2, (60, 90))
    room = np.full((60, 90 * abs(step) + 1), 77.0, np.float32)
    out = room[:, ::step][:, :90]
    wanted = elements(x, np.full(x.shape, 0.5), 0.3)[0]
    sl.smooth_l1_loss(x, 0.5, beta=0.3, reduction="none", dtype="float32", out=out)
    np.testing.assert_array_equal(out, wanted.astype(np.float32))
    assert (room == 77).sum() == room.size - out.size


def test_nothing_is_read_beyond_the_end(run_python):
    """The last of every second element is the last before a page that nobody may read."""
    run_python(
        """
        import ctypes, mmap
        import numpy as np
        import smoothl1 as sl

        pages = mmap.mmap(-1, 5 * mmap.PAGESIZE)
        last = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + 4 * mmap.PAGESIZE
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(last), mmap.PAGESIZE, 0) == 0
        for dtype in ("float32", "float64"):
            readable = np.frombuffer(pages, dtype, 4 * mmap.PAGESIZE // np.dtype(dtype).itemsize)
            for n in (1, 2, 63, 64, 65, 130, 1000):
                x = readable[1 - 2 * n :: 2] if n > 1 else readable[-1::2]
                assert x.size == n and sl.smooth_l1_loss(x, x + 2, beta=1.5) == 1.25
                assert sl.smooth_l1_grad(x, np.full((n, 1), 2.0, dtype)[:, 0], beta=1.5).size == n
        """,
        timeout=300,
    )


@pytest.mark.parametrize("function", [sl.smooth_l1_loss, sl.huber_loss, sl.smooth_l1_grad])
@pytest.mark.parametrize("options", ["weight", "where", "beta", "weight beta", "weight where"])
@pytest.mark.parametrize(("shape", "axis"), [((300, 7), None), ((3, 5000), 0), ((300, 7), ())])
def test_operands_where_they_lie_and_gathered_ones_give_the_same_bits(
    function, options, shape, axis
):
    """Beside options per column, which are always gathered."""
    rng = np.random.default_rng(3)
    x, target = rng.normal(size=(2, *shape)).astype(np.float32)
    made = {
        "weight": rng.random(shape[1]) + 0.1,
        "where": rng.random(shape[1]) < 0.8,
        "beta": rng.random(shape[1]),
    }
    threshold = "delta" if function is sl.huber_loss else "beta"
    given = {threshold if name == "beta" else name: made[name] for name in options.split()}
    given = {threshold: 0.3, "axis": axis} | given
    apart = [spaced(array.ravel(), 2, np.float32).reshape(shape) for array in (x, target)]
    assert not apart[0].flags.c_contiguous
    np.testing.assert_array_equal(function(x, target, **given), function(*apart, **given))
