"""Runners: same bits, and no way to end or hang a process."""

import pytest

import smoothl1 as sl

SETUP = """
import os, signal, sys, threading, warnings
import numpy as np
import smoothl1 as sl
from smoothl1 import threads

# From 3.12 on Python warns of every fork of a process with threads.
warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
sl.set_num_threads(2)
x = np.random.default_rng(0).normal(size=2_000_000)

def loss():
    return sl.smooth_l1_loss(x, 0.25, beta=0.3)

def serial():
    sl.set_num_threads(1)
    value = loss()
    sl.set_num_threads(2)
    return value
"""


def test_set_num_threads():
    before = sl.get_num_threads()
    sl.set_num_threads(3)
    assert sl.get_num_threads() == 3
    sl.set_num_threads(before)
    for bad, error in ((0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="n must be"):
            sl.set_num_threads(bad)
    assert sl.get_num_threads() == before


@pytest.mark.parametrize(
    ("layer", "runner"),
    [("default", None), ("omp", "prange"), ("workqueue", "pool"), ("nonsense", "pool")],
)
def test_runner_of_each_layer(run_python, layer, runner):
    code = """
    print(threads.choose_runner(10), threads.choose_runner(x.size), loss() == serial())
    """
    out = run_python(SETUP + "\n" + _flush_left(code), NUMBA_THREADING_LAYER=layer)
    small, large, same = out.split()
    assert (small, same) == ("serial", "True")
    assert large == runner or runner is None


@pytest.mark.parametrize("layer", ["default", "omp", "workqueue"])
def test_many_threads_call_at_once(run_python, layer):
    code = """
    wanted, wrong = serial(), []
    def work():
        for _ in range(20):
            if loss() != wanted:
                wrong.append(1)
    team = [threading.Thread(target=work) for _ in range(8)]
    for t in team: t.start()
    for _ in range(10): assert loss() == wanted
    for t in team: t.join()
    print(wrong)
    """
    assert _run(run_python, code, NUMBA_THREADING_LAYER=layer) == "[]"


@pytest.mark.parametrize("layer", ["default", "omp", "workqueue"])
@pytest.mark.parametrize("used", [True, False])
def test_fork(run_python, layer, used):
    code = f"""
    wanted = loss() if {used} else None
    pid = os.fork()
    if pid == 0:
        value = loss()
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if loss() == value == serial() else 1)
        status = os.waitpid(grandchild, 0)[1]
        fresh = not {used} and threads._layer_name() == "tbb"
        safe = fresh or threads.choose_runner(x.size) == "pool"
        os._exit(0 if status == 0 and safe else 1)
    status = os.waitpid(pid, 0)[1]
    print(os.waitstatus_to_exitcode(status), wanted in (None, loss()))
    """
    assert _run(run_python, code, NUMBA_THREADING_LAYER=layer) == "0 True"


def test_fork_while_threads_compute_and_compile(run_python):
    code = """
    wanted = serial()
    stop = False
    def work():
        while not stop: loss()
    def compile_more():
        for k in range(3):
            sl.smooth_l1_grad(x[:10], x[:10], weight=x[:10], axis=0, reduction="mean", beta=x[:10])
            sl.smooth_l1_hess(x[:9].reshape(3, 3), x[:9:].reshape(3, 3), axis=k % 2)
    team = [threading.Thread(target=f) for f in (work, work, compile_more)]
    for t in team: t.start()
    codes = []
    for _ in range(5):
        pid = os.fork()
        if pid == 0: os._exit(0 if loss() == wanted else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    stop = True
    for t in team: t.join()
    print(codes)
    """
    assert _run(run_python, code) == "[0, 0, 0, 0, 0]"


def test_multiprocessing_by_fork_after_use(run_python):
    code = """
    import multiprocessing
    wanted = loss()
    def work(_): return loss()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(set(pool.map(work, range(6))) == {wanted})
    """
    assert _run(run_python, code) == "True"


def test_calls_from_a_signal_handler(run_python):
    code = """
    wanted, seen = serial(), []
    threads.choose_runner = lambda elements: "pool" if elements > 10 else "serial"
    signal.signal(signal.SIGALRM, lambda *_: seen.append(loss()))
    for _ in range(100):
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        assert loss() == wanted
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(len(seen) > 0, set(seen) == {wanted})
    """
    assert _run(run_python, code) == "True True"


def test_undone_work_of_a_parallel_loop_is_noticed_and_done(run_python):
    code = """
    from smoothl1 import parallel
    from smoothl1.jit import native
    @native("void(int64, int64, int64)")
    def idle(kernel, arguments, job): pass
    wanted = serial()
    threads.choose_runner = lambda elements: "prange"
    parallel.parallel_loop = idle
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = loss()
    print(value == wanted, [w.category.__name__ for w in caught])
    """
    assert _run(run_python, code) == "True ['RuntimeWarning']"


def test_errors_in_a_parallel_loop_reach_the_caller(run_python):
    code = """
    from smoothl1.jit import kernel
    from smoothl1.parallel import runs_in_parallel
    @kernel
    def fail(seen, at, first, last, job):
        if runs_in_parallel(job): return
        for task in range(first, last):
            seen[task] += 1
            if task == at: raise MemoryError("no room")
    seen = np.zeros(8)
    chunks = (0, 2), (2, 4), (4, 8)
    threads._run_prange(fail, (seen, -1), chunks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try: threads._run_prange(fail, (seen, 3), chunks)
        except MemoryError as error: print(error, len(caught), seen)
    """
    assert _run(run_python, code) == "no room 1 [2. 2. 3. 3. 2. 2. 2. 2.]"


def test_errors_in_the_pool_reach_the_caller():
    from smoothl1 import threads

    def fail(first, last, job):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        threads._run_pool(fail, (), ((0, 2), (2, 4)))


def test_daemon_threads_at_exit(run_python):
    code = """
    def work():
        while True: loss()
    for _ in range(2): threading.Thread(target=work, daemon=True).start()
    loss()
    print("end")
    """
    assert _run(run_python, code) == "end"


def test_no_setting_of_numba_or_the_process_changes(run_python):
    code = """
    import numba, locale, scipy.sparse  # which adds a filter of warnings in SciPy 1.14
    def state():
        config = {k: v for k, v in vars(numba.config).items() if k.isupper()}
        handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
        return (
            repr(config), handlers, list(warnings.filters), np.geterr(), locale.getlocale(),
            numba.get_num_threads(), np.array([5e-324]) * 1.0 != 0.0,  # subnormal numbers are kept
            np.array([1.0]) + np.array([2.0**-53]), sys.getswitchinterval(), os.environ.copy(),
        )
    before = state()
    loss()
    sl.smooth_l1_value_and_grad(x, 0.25, beta=0.3)
    print(state() == before)
    """
    assert _run(run_python, code) == "True"


def _flush_left(code):
    import textwrap

    return textwrap.dedent(code)


def _run(run_python, code, **environment):
    return run_python(SETUP + _flush_left(code), **environment).strip()


def test_a_late_import_in_a_fork_of_a_process_that_runs_openmp(run_python):
    code = """
    import os
    import numba, numpy as np
    @numba.njit(parallel=True)
    def foreign(x):
        s = 0.0
        for i in numba.prange(x.size): s += x[i]
        return s
    foreign(np.ones(10))
    pid = os.fork()
    if pid == 0:
        import smoothl1 as sl
        sl.set_num_threads(2)
        x = np.ones(10**6)
        os._exit(0 if sl.smooth_l1_loss(x, 0.5, beta=0.5) == 0.25 else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    out = run_python(_flush_left(code), NUMBA_THREADING_LAYER="omp", timeout=60)
    assert out.strip() == "0"


def test_fork_while_another_thread_compiles(run_python):
    code = """
    import time
    y = np.ones(10, np.float32)
    sl.smooth_l1_loss(x[:10], x[:10])
    t = threading.Thread(target=lambda: sl.smooth_l1_hess(y, y))
    t.start()
    time.sleep(0.3)
    assert t.is_alive()
    pid = os.fork()
    if pid == 0:
        signal.alarm(50)
        os._exit(0 if sl.smooth_l1_loss(y, y) == 0 else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    t.join()
    """
    assert _run(run_python, code, SMOOTHL1_CACHE="0") == "0"


def test_an_interrupted_caller_waits_for_its_helpers(monkeypatch):
    import threading
    import time

    from smoothl1 import threads

    inside, started = [], threading.Event()

    def slow(first, last, job):
        if threading.current_thread() is threading.main_thread():
            assert started.wait(10)
            raise KeyboardInterrupt
        inside.append(first)
        started.set()
        time.sleep(0.3)
        inside.remove(first)

    monkeypatch.setattr(threads, "_threads", 3)
    with pytest.raises(KeyboardInterrupt):
        threads._run_pool(slow, (), threads._cut(threads.all_tasks(100), 12))
    assert not inside


def test_jobs_are_not_kept_when_no_thread_can_be_started(monkeypatch):
    import threading

    from smoothl1 import threads

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool = threads._Pool()
    pool.help_with(threads._Job(print, 1), 3)
    assert pool._jobs.empty()
