"""Calls of JAX that come often become operations of XLA, with the bits and errors of before."""

import itertools
import threading

import numpy as np
import pytest

import smoothl1 as sl
from smoothl1 import jit, operations

jax = pytest.importorskip("jax", reason="JAX is optional")
often_jax = pytest.importorskip("smoothl1.often_jax")
xla = pytest.importorskip("smoothl1.xla")

FUNCTIONS = (
    sl.smooth_l1_loss, sl.smooth_l1_value_and_grad, sl.smooth_l1_grad, sl.smooth_l1_hess
)  # fmt: skip
CALLS = 4  # two by way of NumPy, one that makes the operation, one by it


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Two calls are often."""
    monkeypatch.setattr(often_jax, "_counts", {})
    monkeypatch.setattr(operations, "made", {})
    monkeypatch.setattr(operations, "kind", None)
    monkeypatch.setattr(often_jax, "ENOUGH", 1)


def pair(rng, shape, dtype="float32"):
    values = rng.normal(size=(2, *shape)).astype(dtype)
    return values, [jax.numpy.asarray(value) for value in values]


def found():
    return list(operations.made.values())


def check(got, wanted):
    for array, numbers in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert isinstance(array, jax.Array)
        assert array.dtype == numbers.dtype
        assert array.shape == numbers.shape
        assert not array.weak_type
        assert np.array_equal(array, numbers, equal_nan=True)


WAYS = [
    ({"axis": None}, 0.3), ({"axis": None, "reduction": "sum"}, 0.0),
    ({"axis": None, "keepdims": True, "reduction": "sum"}, 2.5), ({"axis": 0}, 0.0),
    ({"axis": -1, "keepdims": True, "reduction": "sum"}, 0.3), ({"axis": (0, -1)}, 0.7),
    ({"axis": (-1,)}, 1.5), ({"reduction": "none"}, 0.3),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(6, 64), (4, 5, 6), (3, 700), (2, 5000), (1, 1)])
def test_bits_of_numpy(rng, shape, dtype):
    with jax.enable_x64(True):
        for function, (options, beta) in itertools.product(FUNCTIONS, WAYS):
            if function is sl.smooth_l1_value_and_grad and "axis" not in options:
                continue
            for _ in range(CALLS):
                (x, target), given = pair(rng, shape, dtype)
                wanted = function(x, target, beta=beta, **options)
                got = function(*given, beta=beta, **options)
                check(got, wanted)
                assert not any(array.committed for array in jax.tree.leaves(got))
    assert len(found()) >= 9
    for key, count in often_jax._counts.items():  # sums over axes that do not lie side by side
        assert (count == often_jax.NEVER) is (len(shape) == 3 and key[4] == (0, -1))


def test_edge_values():
    """Overflow, NaN, infinities, signed zeros and subnormal numbers, by an operation."""
    big = np.finfo(np.float32).max
    x = np.array([[big, 0.0, np.nan, 1.0], [-big, -0.0, np.inf, 1e-45]], np.float32)
    target = np.array([[-big, -0.0, 1.0, 1.0], [big, 0.0, np.inf, 0.0]], np.float32)
    given = jax.numpy.asarray(x), jax.numpy.asarray(target)
    for function, axis, beta in itertools.product(FUNCTIONS, (None, 0, 1), (0.0, -0.0, 1e-300, 2)):
        for _ in range(CALLS):
            got = function(*given, beta=beta, axis=axis)
            wanted = function(x, target, beta=beta, axis=axis)
            check(got, wanted)
            for array, numbers in zip(
                jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True
            ):  # fmt: skip
                assert np.array_equal(np.signbit(array), np.signbit(numbers))
    assert found()


def test_it_is_the_operation_that_computes(rng, monkeypatch):
    _, given = pair(rng, (64,))
    for _ in range(CALLS):
        wanted = sl.smooth_l1_loss(*given, beta=0.3)
    (operation,) = found()

    def fail(*arguments):
        raise AssertionError

    for name in ("loss", "value_and_grad", "slope"):
        monkeypatch.setattr(often_jax.short_jax, name, fail)
    assert sl.smooth_l1_loss(*given, beta=0.3) == wanted
    assert "smoothl1." in operation.lower(*given).as_text()
    assert operation(*given) == wanted


def test_options_that_only_look_equal(rng):
    (x, target), given = pair(rng, (2, 3))
    for _ in range(CALLS):
        sl.smooth_l1_loss(*given, axis=1, keepdims=True)
        sl.smooth_l1_loss(*given, axis=(1,), keepdims=False)
    for axis in (True, (True,), 1.0):
        with pytest.raises(TypeError, match="axis"):
            sl.smooth_l1_loss(*given, axis=axis)
    with pytest.raises(TypeError, match="keepdims"):
        sl.smooth_l1_loss(*given, axis=1, keepdims=1)
    with pytest.raises(ValueError, match="axis"):
        sl.smooth_l1_loss(*given, axis=2)
    got = sl.smooth_l1_loss(*given, axis=np.int64(1))
    assert np.array_equal(got, sl.smooth_l1_loss(x, target, axis=1))


def test_what_calls_differ_by(rng):
    """Shape, dtype and every option have operations of their own."""
    for shape, dtype, beta, reduction in itertools.product(
        ((64,), (8, 8), (65,)), ("float32", "float16"), (0.3, 0.5), ("mean", "sum")
    ):
        for _ in range(CALLS):
            (x, target), given = pair(rng, shape, dtype)
            got = sl.smooth_l1_loss(*given, beta=beta, reduction=reduction)
            check(got, sl.smooth_l1_loss(x, target, beta=beta, reduction=reduction))
    assert len(found()) == 12  # half precision has none
    (x, target), given = pair(rng, (64,))
    assert sl.smooth_l1_loss(given[0], given[1][:1], beta=0.3) == sl.smooth_l1_loss(
        x, target[:1], beta=0.3
    )


def test_committed_as_operands_are(rng):
    _, (x, target) = pair(rng, (64,))
    put = jax.device_put(target, jax.devices()[0])
    for arrays in ((x, target), (x, put), (put, x)) * CALLS:
        committed = any(array.committed for array in arrays)
        for result in sl.smooth_l1_value_and_grad(*arrays):
            assert result.committed is committed


def test_constants_of_a_trace_are_computed_at_once(rng):
    (x, target), given = pair(rng, (64,))
    for _ in range(CALLS):
        wanted = sl.smooth_l1_loss(*given, beta=0.3)
    assert found()
    graph = jax.make_jaxpr(lambda y: y + sl.smooth_l1_loss(*given, beta=0.3))(1.0)
    assert "ffi" not in str(graph)
    assert jax.jit(lambda y: y * sl.smooth_l1_loss(*given, beta=0.3))(1.0) == wanted
    assert jax.grad(lambda y: y * sl.smooth_l1_loss(*given, beta=0.3))(1.0) == wanted
    many = jax.vmap(lambda y: y * sl.smooth_l1_loss(*given, beta=0.3))(jax.numpy.ones(3))
    assert np.array_equal(many, np.full(3, wanted))
    grad = jax.grad(lambda y: sl.smooth_l1_loss(y, given[1], beta=0.3))(given[0])
    np.testing.assert_allclose(grad, sl.smooth_l1_grad(x, target, beta=0.3), rtol=1e-6)


def test_no_operation_is_made_in_a_trace(rng):
    _, given = pair(rng, (64,))

    @jax.jit
    def traced(y):
        for _ in range(CALLS):
            y = y + sl.smooth_l1_loss(*given, beta=0.3)
        return y

    traced(1.0)
    assert not found()
    sl.smooth_l1_loss(*given, beta=0.3)
    assert found()


def test_settings_of_jax_hold(rng):
    values, given = pair(rng, (64,))
    with jax.enable_x64(True):
        wide = [jax.numpy.asarray(value, "float64") for value in values]
        for _ in range(CALLS):
            assert sl.smooth_l1_loss(*wide, beta=0.3).dtype == np.float64
    assert found()
    assert sl.smooth_l1_loss(*wide, beta=0.3).dtype == np.float32
    nan = given[0].at[3].set(np.nan)
    for _ in range(CALLS):
        assert np.isnan(sl.smooth_l1_loss(nan, given[1], beta=0.7))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        sl.smooth_l1_loss(nan, given[1], beta=0.7)
    wanted = sl.smooth_l1_loss(*given, beta=0.7)
    for setting in (jax.disable_jit(), jax.transfer_guard("disallow"), jax.checking_leaks()):
        with setting:
            assert sl.smooth_l1_loss(*given, beta=0.7) == wanted
    assert np.isnan(sl.smooth_l1_loss(nan, given[1], beta=0.7))


def test_deleted_arrays(rng):
    _, (x, target) = pair(rng, (64,))
    gone = target + 1
    for _ in range(CALLS):
        wanted = sl.smooth_l1_loss(x, target)
    gone.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        sl.smooth_l1_loss(x, gone)
    assert found()
    assert sl.smooth_l1_loss(x, target) == wanted


@pytest.mark.parametrize("broken", ["raises", "other values", "other type", "fails later"])
def test_without_the_interface_of_xla(rng, monkeypatch, broken):
    made = often_jax.operation

    def operation(*arguments):
        if broken == "raises":
            raise RuntimeError
        right, calls = made(*arguments), itertools.count()

        def wrong(x, target):
            if broken == "fails later" and next(calls) > 0:
                raise RuntimeError
            result = right(x, target)
            if broken == "other values":
                result = result + 1
            return result.astype("float16") if broken == "other type" else result

        return wrong

    monkeypatch.setattr(often_jax, "operation", operation)
    (x, target), given = pair(rng, (64,))
    for _ in range(2 * CALLS):
        assert sl.smooth_l1_loss(*given, beta=0.3) == sl.smooth_l1_loss(x, target, beta=0.3)
    assert list(often_jax._counts.values()) == [often_jax.NEVER]
    assert not found()


def test_where_jax_does_not_say_what_it_traces(rng, monkeypatch):
    def import_module(name):
        raise ImportError

    monkeypatch.setattr(often_jax.importlib, "import_module", import_module)
    tracing, nothing = often_jax._find_tracing()
    monkeypatch.setattr(operations, "tracing", tracing)
    monkeypatch.setattr(operations, "nothing", nothing)
    (x, target), given = pair(rng, (64,))
    for _ in range(CALLS):
        assert sl.smooth_l1_loss(*given, beta=0.3) == sl.smooth_l1_loss(x, target, beta=0.3)
    assert not found()


def test_large_arrays_and_many_calls(rng, monkeypatch):
    monkeypatch.setattr(often_jax, "MOST", 16)
    (x, target), given = pair(rng, (200_000,))
    for _ in range(CALLS):
        assert sl.smooth_l1_loss(*given, beta=0.3) == sl.smooth_l1_loss(x, target, beta=0.3)
    assert not found()
    _, given = pair(rng, (64,))
    for _ in range(CALLS):
        sl.smooth_l1_loss(*given, beta=0.3)
    assert found()
    for beta in range(100):
        sl.smooth_l1_loss(*given, beta=0.5 + beta)
        assert len(often_jax._counts) <= 16
    assert len(found()) == 1
    for beta in range(20):
        for _ in range(CALLS):
            sl.smooth_l1_loss(*given, beta=0.5 + beta)
        assert len(found()) <= 16


def test_a_kernel_without_memory(rng, monkeypatch):
    """XLA is told, and the error comes out; by way of NumPy if operands were ready."""

    @jit.kernel
    def without_memory(o, outputs, size, first, last, job):
        if size != 64:
            raise MemoryError("no memory for the kernel")

    monkeypatch.setattr(xla, "map_runs", without_memory)
    values, given = pair(rng, (65,))
    work = xla.Work(without_memory, np.dtype(np.float32))
    call = xla.operation(work, ((65,),), [0.3, 1.0, 65])
    with pytest.raises(jax.errors.JaxRuntimeError, match="no memory"):
        jax.block_until_ready(call(*given))
    monkeypatch.setattr(often_jax, "_operation", lambda *arguments: call)
    for _ in range(2 * CALLS):
        got = sl.smooth_l1_loss(*given, beta=0.3, reduction="none")
        check(got, sl.smooth_l1_loss(*values, beta=0.3, reduction="none"))
    assert list(often_jax._counts.values()) == [often_jax.NEVER]
    assert not found()
    jax.block_until_ready(xla.operation(work, ((64,),), [0.3, 1.0, 64])(*given))


def test_under_a_mesh(rng):
    """Results stay on the device of their operands, not all over a mesh."""
    (x, target), given = pair(rng, (64,))
    wanted = sl.smooth_l1_loss(x, target, beta=0.3)
    put = jax.device_put(given[0], jax.devices()[0])
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh((1,), ("rows",), axis_types=(kind,))
        for left in (given[0], put):
            often_jax._counts.clear()
            operations.made.clear()
            for _ in range(CALLS):
                sl.smooth_l1_loss(left, given[1], beta=0.3)
            assert found()
            with jax.set_mesh(mesh):
                got = sl.smooth_l1_loss(left, given[1], beta=0.3)
            assert got == wanted
            assert got.committed is left.committed
            assert type(got.sharding) is jax.sharding.SingleDeviceSharding


def test_only_the_main_thread_makes_and_uses_operations(rng, monkeypatch):
    (x, target), given = pair(rng, (64,))
    wanted = sl.smooth_l1_loss(x, target, beta=0.3)
    losses = []

    def fail(*arguments):
        raise KeyboardInterrupt  # which is not taken for a reason to go the other way

    def work():
        losses.extend(sl.smooth_l1_loss(*given, beta=0.3) for _ in range(CALLS))

    def in_a_thread():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    in_a_thread()
    assert not often_jax._counts
    assert not found()
    work()
    monkeypatch.setitem(operations.made, *operations.made, fail)
    in_a_thread()
    assert losses == [wanted] * 3 * CALLS


def test_without_a_cache_there_are_none(rng, monkeypatch):
    """Each process would compile for seconds then."""
    monkeypatch.setattr(often_jax, "cache_folder", lambda: None)
    _, given = pair(rng, (64,))
    for _ in range(CALLS):
        sl.smooth_l1_loss(*given, beta=0.3)
    assert not found()


@pytest.mark.parametrize("n", [64, 20_000])
def test_in_functions_that_xla_calls(run_python, n):
    """XLA, full of computations that wait for such a function, computes nothing for it."""
    out = run_python(
        f"""
        import jax, numpy as np, smoothl1 as sl
        from smoothl1 import often_jax, operations
        often_jax.ENOUGH = 2
        values = np.random.default_rng(0).normal(size=(2, {n})).astype("f4")
        x, target = map(jax.numpy.asarray, values)
        for _ in range(6):
            loss, grad = sl.smooth_l1_value_and_grad(x, target)
        assert operations.made

        def host(x, y):
            loss, grad = sl.smooth_l1_value_and_grad(jax.numpy.asarray(x), jax.numpy.asarray(y))
            return np.asarray(loss), np.asarray(grad)

        shapes = jax.ShapeDtypeStruct((), "float32"), jax.ShapeDtypeStruct(({n},), "float32")
        call = lambda x, y: sum(jax.pure_callback(host, shapes, x + 0 * i, y)[0] for i in range(8))
        many = [jax.jit(call)(x + 0 * i, target) for i in range(100)]
        np.testing.assert_allclose(many[-1], 8 * loss, rtol=1e-5)
        print("done")
        """,
        timeout=100,
    )
    assert out.strip() == "done"


def test_two_cpus_and_the_cache_of_jax(run_python, tmp_path):
    """In new processes: results stay where operands are, and operations may come from a disk."""
    code = f"""
    import jax, numpy as np, smoothl1 as sl
    jax.config.update("jax_compilation_cache_dir", {str(tmp_path)!r})
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    from smoothl1 import often_jax, operations
    often_jax.ENOUGH = 2
    values = np.random.default_rng(7).normal(size=(2, 64, 3)).astype("f4")
    wanted = sl.smooth_l1_value_and_grad(*values, beta=0.3, axis=0)
    first, second = jax.devices()
    with jax.default_device(second):
        free = [jax.numpy.asarray(value) for value in values]
    operands = [[jax.device_put(value, device) for value in values] for device in (first, second)]
    for _ in range(6):
        for default in (None, first, second):
            with jax.default_device(default):
                for arrays, device in zip([*operands, free], (first, second, second)):
                    got = sl.smooth_l1_value_and_grad(*arrays, beta=0.3, axis=0)
                    for array, numbers in zip(got, wanted):
                        assert np.array_equal(array, numbers)
                        assert array.devices() == {{device}}
                        assert array.committed is arrays[0].committed
    assert operations.made
    """
    for _ in range(2):
        run_python(code, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert any(tmp_path.iterdir())
