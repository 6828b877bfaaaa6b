"""The one place for compiler options, and an on-disk cache that can only miss.

Options: ``error_model="numpy"`` everywhere, since the default raises
ZeroDivisionError in serial kernels but not in parallel ones; never fast-math,
which would make bits depend on the processor and lose NaN. Wrappers for calls
from C and, inside kernels, from Python are left out: nothing calls them, and they
are a fifth of the time of compiling. What kernels call is compiled as parts of them.

Cache: numba's own cache keys a kernel by its bytecode, not by its options or
the helpers it calls, and shares an index between processes. Here every
compiled signature is one file. Its folder is named after a hash of all
sources of the package and all versions, its name after the function, the
signature and the processor, and its content starts with a digest of name and
content. A file that is absent, damaged, renamed or unreadable is a miss.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import config, njit
from numba.core import serialize, sigutils
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.extending import overload

from .parts import PartCompiler
from .types_only import TypesOnly

WITH_GIL: Any = {"error_model": "numpy", "no_cfunc_wrapper": True}
OPTIONS: Any = {**WITH_GIL, "nogil": True}
INNER: Any = {**OPTIONS, "no_cpython_wrapper": True, "pipeline_class": PartCompiler}
INLINED: Any = {**INNER, "pipeline_class": TypesOnly}
DIGEST = hashlib.sha256().digest_size

helper = njit(**INNER)
inlined = njit(inline="always", **INNER)
merged = njit(forceinline=True, **INNER)  # by LLVM, which then knows what arguments point to


def by_type(function: Callable[..., Any]) -> Any:
    """Make a chooser of implementations callable from kernels under its own name."""

    def stub(*args: Any) -> Any:
        raise NotImplementedError

    overload(stub, jit_options=INLINED, inline="always")(function)
    return stub


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function on first use, without the GIL, cached on disk."""
    return _cached(njit(**OPTIONS)(function))


def brief_kernel(function: Callable[..., Any]) -> Any:
    """Like `kernel`, but with the GIL: for what takes less time than giving it back."""
    return _cached(njit(**WITH_GIL)(function))


class Entries(dict[Any, Callable[..., Any]]):
    """Kernels for one signature each, compiled when first asked for.

    What they hold is called without numba's look at the types of the arguments.
    """

    def __init__(self, kernels: dict[Any, tuple[Any, str]]) -> None:
        self._kernels = kernels

    def __missing__(self, key: Any) -> Callable[..., Any]:
        self[key] = self.make(key)
        return self[key]

    def make(self, key: Any) -> Any:
        """Compile a kernel."""
        kernel, signature = self._kernels[key]
        types, _ = sigutils.normalize_signature(signature)  # type: ignore[no-untyped-call]
        return kernel.compile(types)


def compiled(kernel: Any, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """Return what calls a kernel with arguments of these types, without a look at them."""
    return kernel.compile(tuple(map(numba.typeof, arguments)))


def native(
    signature: str, parallel: bool = False
) -> Callable[[Callable[..., Any]], Callable[[], int]]:
    """Make a function that compiles another on first use and returns its address.

    Kernels call it by that address, so it is compiled once and not again
    inside each of them. ``parallel`` lets numba's threads run its ``prange`` loops.
    """
    options = {"error_model": "numpy", "parallel": parallel}

    def decorate(function: Callable[..., Any]) -> Callable[[], int]:
        @lru_cache(maxsize=1)
        def compiled() -> Any:
            types = sigutils.normalize_signature(signature)  # type: ignore[no-untyped-call]
            code: Any = CFunc(function, types, locals={}, options=options)
            folder = cache_folder()
            if folder is not None:
                code._cache = KernelCache(function, folder)
            code.compile()
            return code

        return lambda: int(compiled().address)

    return decorate


def _cached(dispatcher: Any) -> Any:
    folder = cache_folder()
    if folder is not None and hasattr(dispatcher, "_cache"):  # not under NUMBA_DISABLE_JIT
        dispatcher._cache = KernelCache(dispatcher.py_func, folder)
    return dispatcher


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Folder of this version's compiled kernels; None when caching is off."""
    if os.environ.get("SMOOTHL1_CACHE", "1") == "0":
        return None
    try:
        return cache_root() / _fingerprint()
    except (OSError, RuntimeError):  # sources in an archive, or no home directory
        return None


def cache_root() -> Path:
    """Folder that holds the caches of all versions."""
    chosen = os.environ.get("SMOOTHL1_CACHE_DIR")
    if chosen:
        return Path(chosen).absolute()
    local = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(local) if local else Path.home() / ".cache") / "smoothl1"


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    switches = [getattr(config, name) for name in ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")]
    digest.update(repr((versions, switches)).encode())
    return digest.hexdigest()[:24]


class KernelCache(NullCache):
    """The overloads of one kernel, one file each."""

    def __init__(self, function: Callable[..., Any], folder: Path) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._folder = folder

    @property
    def cache_path(self) -> str:
        """Folder that holds the files."""
        return str(self._folder)

    def _path(self, signature: Any, codegen: Any) -> Path:
        key = repr((self._name, str(_arguments(signature)), codegen.magic_tuple()))
        return self._folder / hashlib.sha256(key.encode()).hexdigest()

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Compiled code of a signature, or None whatever goes wrong."""
        try:
            target_context.refresh()
            blob = _read(self._path(signature, target_context.codegen()))
            if blob is None:
                return None
            result = CompileResult._rebuild(target_context, *pickle.loads(blob))  # type: ignore[no-untyped-call]
            return result if result.signature.args == _arguments(signature) else None
        except Exception:
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep compiled code for the next process, or do nothing."""
        if result.library.has_dynamic_globals:
            return
        try:
            blob = serialize.dumps(result._reduce())  # type: ignore[no-untyped-call]
            _write(self._path(signature, result.library.codegen), blob)
        except Exception:
            return


def _arguments(signature: Any) -> tuple[Any, ...]:
    return tuple(getattr(signature, "args", signature))


def _read(path: Path) -> bytes | None:
    with path.open("rb") as file:
        if not (_is_private(path.parent.stat()) and _is_private(os.fstat(file.fileno()))):
            _warn_once(path.parent)
            return None
        blob = file.read()
    body = blob[DIGEST:]
    return body if _digest(path, body) == blob[:DIGEST] else None


def _digest(path: Path, body: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + body).digest()


def _write(path: Path, body: bytes) -> None:
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(path.parent.stat()):
        return _warn_once(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_digest(path, body) + body)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _is_private(status: os.stat_result) -> bool:
    """Whether only this user can have written it: a cache file is code."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


_warned: list[Path] = []


def _warn_once(folder: Path) -> None:
    if not _warned:
        _warned.append(folder)
        warnings.warn(
            f"smoothl1 does not use its kernel cache {str(folder)!r}: the folder belongs to or "
            "can be written by another user; set SMOOTHL1_CACHE_DIR to a private one",
            RuntimeWarning,
            stacklevel=2,
        )
