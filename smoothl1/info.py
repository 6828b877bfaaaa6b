"""What this installation is made of and how it will run."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__, threads
from .devices import missing_for_gpus
from .jit import cache_folder, cache_root

PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "tbb", "torch", "jax", "dask", "numba-cuda")


def collect() -> dict[str, Any]:
    """All facts, by topic, as JSON can hold them."""
    runner, layer, reason = threads.explain_runner()
    return {
        "versions": {"smoothl1": __version__, "python": platform.python_version()} | _versions(),
        "cpu": {"name": _cpu_name(), "machine": platform.machine(), "available": _available()},
        "threads": {"number": threads.get_num_threads(), "layer": layer} | {
            "runner": runner, "reason": reason,
        },
        "cache": _cache(),
        "cuda": _gpus(),
    }  # fmt: skip


def _gpus() -> dict[str, Any]:
    """GPUs that kernels can run on, or what they need."""
    missing = missing_for_gpus()
    if missing is not None:
        return {"devices": [], "reason": missing[1]}
    from numba import config, cuda

    if config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
        return {"devices": [], "reason": "numba's simulator takes the place of GPUs"}
    return {"devices": [_gpu_name(gpu) for gpu in cuda.gpus], "reason": "numba finds them"}


def _gpu_name(gpu: Any) -> str:
    major, minor = gpu.compute_capability
    name = gpu.name.decode() if isinstance(gpu.name, bytes) else gpu.name
    return f"{name} ({major}.{minor})"


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _available() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _cache() -> dict[str, Any]:
    folder = cache_folder()
    if folder is None:
        return {"on": False, "place": None, "files": 0, "bytes": 0}
    sizes = [path.stat().st_size for path in cache_root().rglob("*") if path.is_file()]
    return {"on": True, "place": str(folder), "files": len(sizes), "bytes": sum(sizes)}
