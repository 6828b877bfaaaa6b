"""Which runner is safe now, and how many threads it uses.

Work comes as ``kernel(*arguments, first, last, job)`` over a range of tasks that do
not depend on each other, or over those of a job. Three runners give the same bits:

serial  one call; the rest is not worth a thread switch.
prange  numba's parallel loop, when its layer cannot end or hang the process:
        TBB on any thread, but not in a fork of a process that had started
        it: if other threads were computing then, the child would wait for
        them for ever. GNU OpenMP only on the main thread of a process that
        is no fork of another. The workqueue layer aborts the process on
        concurrent calls and is never used.
pool    threads of our own that run the serial kernel without the GIL. The
        caller works too and waits only for what another thread has started,
        so nested calls, calls from signal handlers and busy workers cannot
        deadlock.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import metadata
from itertools import count
from typing import Any

import numpy as np

SERIAL, PRANGE, POOL = "serial", "prange", "pool"
WORTH_A_THREAD = 100_000  # elements per thread; waking one costs about 10-50 us
CHUNKS_PER_THREAD = 4  # lets the pool even out cores of unequal speed
MOST_THREADS = 1024


class _Here(threading.local):
    """What holds for one thread only."""

    serial = False


_here = _Here()
_forked = False
_inherited = False  # whether a threading layer was started before a fork
_launched_by: int | None = None  # process in which we started numba's layer
_has_tbb = False  # whether TBB has been found to be the layer, and safe
_threads: int | None = None


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use.

    Results do not depend on it. It holds for all threads of this process and
    changes no setting of numba, OpenMP or NumPy.

    Parameters
    ----------
    n : int
        At least 1. More threads than processors are allowed, and of no use.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is below 1 or above 1024.

    See Also
    --------
    get_num_threads : The number, also before it was set.

    Notes
    -----
    Calls use fewer threads than this for small arrays, which are not worth
    waking one, and where threads are not safe. It has no effect on GPUs.

    Examples
    --------
    >>> import smoothl1 as sl
    >>> before = sl.get_num_threads()
    >>> sl.set_num_threads(1)
    >>> sl.get_num_threads()
    1
    >>> sl.set_num_threads(before)

    """
    global _threads
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an integer, got {n!r}")
    if not 1 <= n <= MOST_THREADS:
        raise ValueError(f"n must be between 1 and {MOST_THREADS}, got {n}")
    _threads = int(n)


def get_num_threads() -> int:
    """Return how many threads a call may use.

    Returns
    -------
    int
        What `set_num_threads` set, else ``NUMBA_NUM_THREADS`` from the
        environment, else the number of processors this process may run on.

    Examples
    --------
    >>> import smoothl1 as sl
    >>> sl.get_num_threads() >= 1
    True

    """
    global _threads
    if _threads is None:
        _threads = _default_threads()
    return _threads


def _default_threads() -> int:
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return min(int(wanted), MOST_THREADS)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def serially() -> Iterator[None]:
    """Let calls of this thread use no other, since its caller already uses them all."""
    before, _here.serial = _here.serial, True
    try:
        yield
    finally:
        _here.serial = before


def choose_runner(elements: int) -> str:
    """Name of the runner for a call over so many elements."""
    if _here.serial:
        return SERIAL
    threads = min(get_num_threads(), elements // WORTH_A_THREAD)
    if threads < 2:
        return SERIAL
    return PRANGE if _has_tbb or _prange_is_safe() else POOL


def _prange_is_safe() -> bool:
    global _has_tbb
    if _on_main_thread() and not _is_fork():
        _launch_layer()
    layer = _layer_name()
    if layer == "tbb":
        _has_tbb = not _inherited
        return _has_tbb
    return layer == "omp" and _launched_by == os.getpid() and _on_main_thread()


def explain_runner() -> tuple[str, str, str]:
    """Runner of a large call from here, numba's threading layer, and why."""
    runner = choose_runner(WORTH_A_THREAD * MOST_THREADS)
    layer = _layer_name() or "none"
    if runner == SERIAL:
        return runner, layer, "there is one thread"
    if runner == PRANGE and layer == "tbb":
        return runner, layer, "TBB is safe on every thread"
    if runner == PRANGE:
        return runner, layer, "OpenMP was started by this process and this is its main thread"
    return runner, layer, f"the layer {layer} could end or hang the process"


def _on_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _is_fork() -> bool:
    processes = sys.modules.get("multiprocessing.process")
    return _forked or (processes is not None and processes.parent_process() is not None)


def _layer_name() -> str:
    """Threading layer that numba has already started here; empty for none."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    return (parallel and parallel._threading_layer) or ""


def _launch_layer() -> None:
    """Start numba's threading layer, if nobody has and it is none we would refuse.

    An OpenMP layer that somebody else has started is not trusted later on:
    that may have been in another process, of which this is a fork.
    """
    global _launched_by
    if _layer_name() or _launched_by is not None:
        return
    from numba import config
    from numba.np.ufunc import parallel

    _launched_by = os.getpid()
    if str(config.THREADING_LAYER).lower() == "workqueue":  # type: ignore[attr-defined]
        return
    _load_tbb()
    with contextlib.suppress(ValueError, ImportError, AttributeError, OSError):
        parallel._launch_threads()  # type: ignore[no-untyped-call]


def _load_tbb() -> None:
    """Make the library of an installed ``tbb`` wheel known to the loader."""
    try:
        files = metadata.files("tbb") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == "libtbb.so.12":
            try:
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                return


NO_JOB = 0  # what kernels take instead of a job
_entries: dict[Any, Callable[..., Any]] = {}  # by kernel and kind
Ranges = np.ndarray[Any, np.dtype[np.int64]]  # first and last task of each range
Chunks = tuple[tuple[int, int], ...]  # the same, of ranges that have been cut


def run(
    kernel: Callable[..., Any],
    arguments: tuple[Any, ...],
    ranges: Ranges,
    elements: int,
    kind: Any = None,
) -> None:
    """Run the tasks of some ranges by whatever is safe and fastest now.

    A kind, if given, tells the types of all arguments: numba does not look at them then, which
    takes 40 us where operands have emptied the caches.
    """
    entry = kernel if kind is None else _entries.get((kernel, kind))
    if entry is None:
        from .jit import compiled

        entry = _entries[kernel, kind] = compiled(kernel, (*arguments, 0, 0, NO_JOB))
    runner = choose_runner(elements)
    if runner != SERIAL:
        chunks = get_num_threads() * (1 if runner == PRANGE else CHUNKS_PER_THREAD)
        cut = _cut(ranges, chunks)
        if len(cut) < 2:
            runner = SERIAL
    if runner == SERIAL:
        for first, last in ranges.tolist():
            entry(*arguments, first, last, NO_JOB)
    elif runner == PRANGE:
        _run_prange(entry, arguments, cut)
    else:
        _run_pool(entry, arguments, cut)


@lru_cache(maxsize=256)
def all_tasks(tasks: int) -> Ranges:
    """One range of so many tasks."""
    return np.array([[0, tasks]], np.int64)


def _cut(ranges: Ranges, chunks: int) -> Chunks:
    """Cut ranges so that there are at least so many, if there are so many tasks."""
    if len(ranges) == 1 and ranges[0, 0] == 0:
        return _cut_all(int(ranges[0, 1]), chunks)
    return _cut_each(ranges, chunks)


@lru_cache(maxsize=256)
def _cut_all(tasks: int, chunks: int) -> Chunks:
    return _cut_each(all_tasks(tasks), chunks)


def _cut_each(ranges: Ranges, chunks: int) -> Chunks:
    pieces = -(-chunks // len(ranges))
    first, last = ranges[:, :1], ranges[:, 1:]
    bounds = first + (last - first) * np.arange(pieces + 1) // pieces
    cut = np.stack([bounds[:, :-1].ravel(), bounds[:, 1:].ravel()], axis=1)
    return tuple((low, high) for low, high in cut.tolist() if low < high)


def _run_prange(kernel: Callable[..., Any], arguments: tuple[Any, ...], chunks: Chunks) -> None:
    from . import parallel

    job = parallel.new_job(chunks)
    kernel(*arguments, 0, 0, ctypes.addressof(job))
    undone = parallel.undone(job)
    if undone:
        warnings.warn(
            "numba's parallel loop left work undone; smoothl1 did it again on one thread",
            RuntimeWarning,
            stacklevel=2,
        )
        for chunk in undone:
            kernel(*arguments, *chunks[chunk], NO_JOB)


def _run_pool(kernel: Callable[..., Any], arguments: tuple[Any, ...], chunks: Chunks) -> None:
    job = _Job(lambda chunk: kernel(*arguments, *chunks[chunk], NO_JOB), len(chunks))
    _pool.help_with(job, get_num_threads() - 1)
    try:
        job.work()
    except BaseException:
        job.cancel()
        raise
    finally:
        job.close()


class _Job:
    """Chunks of work that any number of threads take one by one."""

    def __init__(self, task: Callable[[int], Any], chunks: int) -> None:
        self._task = task
        self._chunks = chunks
        self._next = count()
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._helpers = 0
        self._closed = False
        self._cancelled = False
        self._error: BaseException | None = None

    def work(self) -> None:
        """Take chunks until there are none."""
        while not self._cancelled and (chunk := next(self._next)) < self._chunks:
            self._task(chunk)

    def cancel(self) -> None:
        """Start no further chunk."""
        self._cancelled = True

    def help(self) -> None:
        """Work as a helper, unless the caller has left."""
        with self._lock:
            if self._closed:
                return
            self._helpers += 1
        try:
            self.work()
        except BaseException as error:
            self._error = error
            self.cancel()
        with self._lock:
            self._helpers -= 1
            if self._helpers == 0:
                self._idle.set()

    def close(self) -> None:
        """Wait until no helper is inside a chunk, whatever interrupts the wait.

        The arrays belong to the caller: it must not leave before.
        """
        with self._lock:
            self._closed = True
            if self._helpers == 0:
                self._idle.set()
            else:
                self._idle.clear()
        while not self._idle.is_set():
            try:
                self._idle.wait()
            except BaseException as error:
                self._error = error
                self.cancel()
        if self._error is not None:
            raise self._error


class _Pool:
    """Daemon threads, started when first needed and never by an import."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._threads = 0

    def help_with(self, job: _Job, helpers: int) -> None:
        """Offer a job to so many threads, or to as many as can be had."""
        while self._threads < helpers:
            name = f"smoothl1-{self._threads + 1}"
            try:
                threading.Thread(target=self._serve, name=name, daemon=True).start()
            except RuntimeError:  # no more threads to be had: the caller does the work
                break
            self._threads += 1
        for _ in range(min(helpers, self._threads)):
            self._jobs.put(job)

    def _serve(self) -> None:
        while True:
            self._jobs.get().help()


_pool = _Pool()


def _compiler_lock() -> Any:
    """Numba's lock, under which it compiles, if it is loaded."""
    module = sys.modules.get("numba.core.compiler_lock")
    return getattr(module, "global_compiler_lock", None)


_held: list[Any] = []


def _before_fork() -> None:
    """Let nobody compile during a fork: the child would wait for that lock for ever."""
    lock = _compiler_lock()
    if lock is not None:
        lock.acquire()
        _held.append(lock)


def _after_fork_in_parent() -> None:
    if _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    """Threads do not survive a fork: start over, and never trust a layer started before."""
    global _forked, _inherited, _has_tbb, _pool
    _after_fork_in_parent()
    _forked = True
    _inherited = _inherited or bool(_layer_name())
    _has_tbb = False
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
