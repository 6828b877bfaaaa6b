"""What processes do to a library that runs threads, as small programs.

Each program defines ``main``, compares with the bits of the serial call, and
ends by itself. `PRELUDE` comes before it, and the line that calls it after.
"""

PRELUDE = """
import os, signal, sys, threading, time, warnings
if os.environ.get("WITHOUT_GNU_OPENMP"):
    sys.modules["numba.np.ufunc.omppool"] = None
import numpy as np

warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)  # Python 3.12 warns of each
x = np.random.default_rng(0).normal(size=250_000)  # enough for two threads
WANTED = float.fromhex(os.environ["WANTED"])

def loss(_=None):
    import smoothl1 as sl
    return float(sl.smooth_l1_loss(x, 0.25, beta=0.3))

def right(n=1):
    return all(loss() == WANTED for _ in range(n))

def compile_only():
    import smoothl1 as sl
    sl.smooth_l1_loss(x[:10], 0.25, beta=0.3)

def child(function):
    # Run in a fork; its exit status says whether the bits were right.
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os._exit(0 if function() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def team(function, n):
    wrong = []
    def run():
        if not function():
            wrong.append(1)
    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return not wrong

def foreign():
    import numba
    @numba.njit(parallel=True)
    def add(y):
        s = 0.0
        for i in numba.prange(y.size): s += y[i]
        return s
    try:
        add(x)
    except ValueError as error:  # its layer does not load: then it cannot be in our way
        assert "threading layer" in str(error)
        return lambda y: None
    return add
"""

END = """
if __name__ == "__main__":
    assert main(), "wrong bits"
    print("ok")
"""

POOL = """
def main():
    import multiprocessing, smoothl1
    context = multiprocessing.get_context({method!r})
    if {method!r} == "forkserver":
        context.set_forkserver_preload(["smoothl1"])
    {before}
    with context.Pool(2) as pool:
        return set(pool.map(loss, range(8))) == {{WANTED}} and right()
"""
BEFORE = {"used": "right()", "compiled": "compile_only()", "imported": "pass"}

SCENARIOS = {
    f"Pool by {method}, after the parent {verb}": POOL.format(method=method, before=before)
    for method in ("fork", "forkserver", "spawn")
    for verb, before in BEFORE.items()
} | {
    "8 threads, warm": "def main(): return right() and team(lambda: right(CALLS), 8)",
    "8 threads, cold": "def main(): return team(lambda: right(CALLS), 8)",
    "dask threads": """
def main():
    import dask
    jobs = [dask.delayed(loss, pure=False)() for _ in range(40)]
    return set(dask.compute(*jobs, scheduler="threads")) == {WANTED}
""",
    "joblib threads": """
def main():
    from joblib import Parallel, delayed
    return set(Parallel(4, backend="threading")(delayed(loss)() for _ in range(40))) == {WANTED}
""",
    "joblib processes": """
def main():
    from joblib import Parallel, delayed
    right()
    return set(Parallel(2, backend="loky")(delayed(loss)() for _ in range(8))) == {WANTED}
""",
    "fork of a fork": "def main(): return right() and child(lambda: right() and child(right))",
    "fork from a thread": """
def main():
    return right() and team(lambda: child(right), 1) and child(lambda: team(right, 2))
""",
    "fork while threads compute": """
def main():
    right()
    stop, codes = [], []
    workers = [threading.Thread(target=lambda: [loss() for _ in iter(lambda: bool(stop), True)])
               for _ in range(3)]
    for worker in workers: worker.start()
    for _ in range(5): codes.append(child(right))
    stop.append(1)
    for worker in workers: worker.join()
    return all(codes)
""",
    "fork while a thread compiles": """
def main():
    import smoothl1 as sl
    os.environ["SMOOTHL1_CACHE"] = "0"
    right()
    y = np.ones(10, np.float32)
    thread = threading.Thread(target=lambda: sl.smooth_l1_hess(y, y))
    thread.start()
    time.sleep(0.3)
    good = thread.is_alive() and child(right)
    thread.join()
    return good
""",
    "fork with a handler of SIGTERM": """
def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    right()
    return child(right) and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
""",
    "a stranger's parallel loop in another thread": """
def main():
    add, stop, right_ = foreign(), [], right()
    if os.environ.get("NUMBA_THREADING_LAYER") == "workqueue":
        return right(20)  # two loops at once end the process under that layer, whoever runs them
    thread = threading.Thread(target=lambda: [add(x) for _ in iter(lambda: bool(stop), True)])
    thread.start()
    good = right(100)
    stop.append(1)
    thread.join()
    return good and right_
""",
    "a stranger's parallel loop before our import": "def main(): foreign(); return right(5)",
    "a stranger's parallel loop before a fork": """
def main():
    import smoothl1
    foreign()
    return child(right) and right()
""",
    "our import in a fork of a stranger": "def main(): foreign(); return child(right)",
    "calls from a pool of the user": """
def main():
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(4) as outer, ThreadPoolExecutor(2) as inner:
        nested = lambda: inner.submit(loss).result() == WANTED and right()
        return all(job.result() for job in [outer.submit(nested) for _ in range(40)])
""",
    "daemon threads at exit": """
def main():
    for _ in range(3):
        threading.Thread(target=lambda: [loss() for _ in iter(int, 1)], daemon=True).start()
    time.sleep(0.5)
    return True
""",
    "a switch of threads every microsecond": """
def main():
    sys.setswitchinterval(1e-6)
    return team(lambda: right(20), 4)
""",
    "SIGALRM at 1 kHz": """
def main():
    ticks = []
    right()
    signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    good = right(300)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return good and len(ticks) > 10
""",
    "a handler of signals that calls": """
def main():
    seen, good = [], right()
    signal.signal(signal.SIGALRM, lambda *_: seen.append(loss()))
    for _ in range(50):
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        good = good and right(5)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return good and seen and set(seen) == {WANTED}
""",
    "workers of a torch DataLoader": """
def main():
    import torch
    right()
    class Rows(torch.utils.data.Dataset):
        def __len__(self): return 8
        def __getitem__(self, i): return loss()
    loader = torch.utils.data.DataLoader(Rows(), num_workers=2, batch_size=None)
    return {float(value) for value in loader} == {WANTED}
""",
    "workers of differential_evolution": """
def centre(p):
    import smoothl1 as sl
    return float(sl.smooth_l1_loss(x, p[0], beta=0.3))

def main():
    from scipy.optimize import differential_evolution
    right()
    runs = [differential_evolution(centre, [(-1, 1)], workers=n, updating="deferred", maxiter=2,
                                   popsize=4, rng=0, polish=False) for n in (1, 2)]
    return runs[0].fun == runs[1].fun and runs[0].x == runs[1].x
""",
}

LAYERS = {
    "default": {},
    "omp": {"NUMBA_THREADING_LAYER": "omp"},
    "workqueue": {"NUMBA_THREADING_LAYER": "workqueue"},
    "tbb": {"NUMBA_THREADING_LAYER": "tbb"},
    "a name that does not load": {"NUMBA_THREADING_LAYER": "nonsense"},
    "no GNU OpenMP": {"WITHOUT_GNU_OPENMP": "1"},
    "one thread": {"NUMBA_NUM_THREADS": "1"},
}
