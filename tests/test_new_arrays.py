"""Memory of large results is used again, but never while an array lies in it."""

import gc
import mmap
import threading

import numpy as np
import pytest

import smoothl1 as sl
from smoothl1 import new_arrays

if not new_arrays._IS_POSSIBLE:
    pytest.skip("memory is kept on Linux only", allow_module_level=True)

F4 = np.dtype(np.float32)
N = 10 << 20  # float32 numbers: 40 MiB


@pytest.fixture(autouse=True)
def nothing_kept():
    new_arrays._kept.clear()
    yield
    new_arrays._kept.clear()


def new(n=N):
    return new_arrays.new_array((n,), F4)


def kept():
    return [len(memory) for memory in new_arrays._kept]


def test_memory_is_used_again_once_nobody_has_it():
    first = new()
    address = first.ctypes.data
    second = new()
    assert not np.shares_memory(first, second)
    assert kept() == []
    del first
    assert kept() == [4 * N]
    third = new()
    assert third.ctypes.data == address
    assert kept() == []
    assert not np.shares_memory(second, third)


def test_gradients_and_elementwise_losses_use_it(rng):
    x, target = rng.normal(size=(2, N)).astype(np.float32)
    for call in (
        lambda t: sl.smooth_l1_value_and_grad(x, t, beta=0.7)[1],
        lambda t: sl.smooth_l1_grad(x, t, beta=0.7, reduction="sum"),
        lambda t: sl.smooth_l1_hess(x, t, beta=0.7, reduction="sum"),
        lambda t: sl.smooth_l1_loss(x, t, beta=0.7, reduction="none"),
        lambda t: sl.smooth_l1_loss(x.reshape(-1, 2).T, t.reshape(-1, 2).T, reduction="none"),
    ):
        wanted = call(target).copy()
        assert kept() == [4 * N]
        other = call(target + 1)  # where the first result was
        again = call(target)
        np.testing.assert_array_equal(again, wanted)
        assert not np.array_equal(other, wanted)
        del other, again
        new_arrays._kept.clear()


@pytest.mark.parametrize(
    "share",
    [
        lambda array: array[5:9],
        lambda array: array.reshape(2, -1).T[3],
        lambda array: array.view(np.int32)[::2].view(np.float32),
        lambda array: memoryview(array)[7:9],
        lambda array: np.from_dlpack(array)[3:4],
        lambda array: np.asarray(array.base)[1:2],
        lambda array: array.base[1:2],
        lambda array: [array],
    ],
)
def test_anything_that_lies_in_it_keeps_it(share):
    array = new()
    array[...] = 7.0
    rest = share(array)
    del array
    gc.collect()
    assert kept() == []
    other = new()
    other[...] = 1.0
    assert np.all(np.asarray(rest) == 7.0)
    del rest, other
    assert kept() == [4 * N, 4 * N]


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_of_other_libraries_keep_it(library):
    pytest.importorskip(library)
    array = new()
    array[...] = 7.0
    if library == "torch":
        import torch

        rest = torch.from_numpy(array)[3:9]
    else:
        import jax

        rest = jax.dlpack.from_dlpack(array)
    del array
    assert kept() == []
    other = new()
    other[...] = 1.0
    assert float(rest.max()) == float(rest.min()) == 7.0


def test_no_more_is_kept_than_promised():
    arrays = [new() for _ in range(8)]
    while arrays:
        arrays.pop()
    assert kept() == [4 * N] * 3
    big = new_arrays.MOST // 4
    assert new(big).nbytes == new_arrays.MOST  # nothing of another size stays
    assert kept() == [new_arrays.MOST]
    for n in (big + 1, new_arrays.LEAST // 4 - 1, 0):
        array = new(n)
        assert array.flags.owndata
        del array
        assert kept() == [new_arrays.MOST]


def test_the_system_may_take_it_meanwhile():
    array = new()
    array[...] = 7.0
    del array
    for memory in new_arrays._kept:  # also of an array of another test, if it went only now
        memory.madvise(mmap.MADV_DONTNEED)
    del memory
    array = new()
    assert not array.any()
    array[...] = 5.0
    assert np.all(array == 5.0)


def test_arrays_are_like_others():
    array = new_arrays.new_array((N // 4, 4), F4)
    assert type(array) is np.ndarray
    assert array.flags.c_contiguous
    assert array.flags.writeable
    array.flags.writeable = False
    array.flags.writeable = True
    assert array.ctypes.data % mmap.PAGESIZE == 0
    for size in (10, 1 << 21, N, 5 << 23):
        assert new_arrays.aligned_array((size,), F4).ctypes.data % new_arrays.LINE == 0


def test_without_such_memory_numpy_gives_some(monkeypatch):
    def none(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(new_arrays.mmap, "mmap", none)
    assert new().flags.owndata
    with pytest.raises(MemoryError):
        new(1 << 60)


def test_threads_never_get_the_same():
    wrong = []

    def work(value):
        for _ in range(20):
            array = new()
            array[::1024] = value
            gc.collect(0)
            if not np.all(array[::1024] == value):
                wrong.append(value)
            del array

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert sum(kept()) <= new_arrays.MOST


FORK = """
import os, sys, warnings
import numpy as np
from smoothl1.new_arrays import new_array

warnings.simplefilter("ignore")  # of forks
F4 = np.dtype(np.float32)
first = new_array((10 << 20,), F4)
first[...] = 7.0
del first  # parent and child have this memory, each a copy
child = os.fork()
own = new_array((10 << 20,), F4)
own[...] = 1.0 if child else 2.0
if child == 0:
    os._exit(int(not np.all(own == 2.0)))
assert os.waitpid(child, 0)[1] == 0
assert np.all(own == 1.0)

class Cycle:
    pass

cycle = Cycle()
cycle.itself, cycle.array = cycle, own  # there when the interpreter ends
sys.to_the_end = own.view()
"""


def test_children_and_the_end_of_a_process(run_python):
    done = run_python(FORK, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
