"""The cache of compiled kernels can only miss."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import smoothl1 as sl
from smoothl1 import jit

CODE = """
import time, sys, warnings
import numpy as np
import smoothl1 as sl
x = np.arange(2000.0)
print(float(sl.smooth_l1_loss(x, x[::-1].copy(), beta=2.5)))
from smoothl1 import kernels
print(sum(kernels.total_loss._cache_hits.values()))
"""
VALUE = "998.75045"


@pytest.fixture(scope="module")
def first(run_python, tmp_path_factory):
    """A folder with one cached kernel."""
    folder = tmp_path_factory.mktemp("first")
    assert run_python(CODE, SMOOTHL1_CACHE_DIR=str(folder)).split() == [VALUE, "0"]
    return folder


@pytest.fixture
def filled(first, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(first, tmp_path / "cache"))


def kernel_files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_second_process_loads_what_the_first_compiled(run_python, filled):
    assert len(kernel_files(filled)) == 1
    assert run_python(CODE, SMOOTHL1_CACHE_DIR=str(filled)).split() == [VALUE, "1"]


def test_it_can_be_turned_off(run_python, tmp_path):
    environment = {"SMOOTHL1_CACHE": "0", "SMOOTHL1_CACHE_DIR": str(tmp_path)}
    assert run_python(CODE, **environment).split() == [VALUE, "0"]
    assert kernel_files(tmp_path) == []


EMPTY = b"\x80\x04N."  # the pickle of None

DAMAGE = {
    "truncated": lambda path, blob: blob[: len(blob) // 2],
    "empty": lambda path, blob: b"",
    "garbage": lambda path, blob: os.urandom(5000),
    "bit flipped": lambda path, blob: blob[:3000] + bytes([blob[3000] ^ 1]) + blob[3001:],
    "another pickle": lambda path, blob: jit._digest(path, EMPTY) + EMPTY,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_a_miss_and_heals(run_python, filled, damage):
    (path,) = kernel_files(filled)
    path.write_bytes(DAMAGE[damage](path, path.read_bytes()))
    assert run_python(CODE, SMOOTHL1_CACHE_DIR=str(filled)).split() == [VALUE, "0"]
    assert run_python(CODE, SMOOTHL1_CACHE_DIR=str(filled)).split() == [VALUE, "1"]


def test_code_of_another_signature_is_a_miss(run_python, filled):
    other = CODE.replace("np.arange(2000.0)", "np.arange(2000.0, dtype=np.float32)")
    (path,) = kernel_files(filled)
    run_python(other, SMOOTHL1_CACHE_DIR=str(filled))
    (second,) = set(kernel_files(filled)) - {path}
    a, b = path.read_bytes(), second.read_bytes()
    path.write_bytes(b)
    second.write_bytes(a)
    assert run_python(CODE, SMOOTHL1_CACHE_DIR=str(filled)).split() == [VALUE, "0"]
    value, hits = run_python(other, SMOOTHL1_CACHE_DIR=str(filled)).split()
    assert float(value) == pytest.approx(float(VALUE), rel=1e-7)
    assert hits == "0"


def test_code_of_another_kernel_is_a_miss(run_python, tmp_path):
    """Kernels for small arrays of two types have one signature, and do not trade places."""
    code = """
    import numpy as np
    import smoothl1 as sl
    from smoothl1 import small
    for dtype in ("float64", "float32"):
        x = np.arange(9, dtype=dtype)
        print(float(sl.smooth_l1_loss(x, x[::-1].copy(), beta=2.5)))
    kernels = small._loss_of_doubles, small._loss_of_singles
    print(sum(sum(kernel._cache_hits.values()) for kernel in kernels))
    """
    wanted = run_python(code, SMOOTHL1_CACHE_DIR=str(tmp_path)).split()
    first, second = kernel_files(tmp_path)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    assert run_python(code, SMOOTHL1_CACHE_DIR=str(tmp_path)).split() == wanted
    assert run_python(code, SMOOTHL1_CACHE_DIR=str(tmp_path)).split() == [*wanted[:2], "2"]


def test_a_folder_that_others_can_write_is_refused_with_a_warning(run_python, filled):
    (path,) = kernel_files(filled)
    path.parent.chmod(0o777)
    done = run_python(
        CODE.replace("import numpy", "warnings.simplefilter('always'); import numpy"),
        check=False, SMOOTHL1_CACHE_DIR=str(filled),
    )  # fmt: skip
    assert done.stdout.split() == [VALUE, "0"]
    assert done.stderr.count("can be written by another user") == 1


@pytest.mark.parametrize("place", ["/proc/nowhere", "file"])
def test_no_place_to_write_is_no_error(run_python, tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    folder = place if place.startswith("/") else str(tmp_path / place)
    assert run_python(CODE, SMOOTHL1_CACHE_DIR=folder).split() == [VALUE, "0"]


def test_a_full_disk_is_no_error(run_python, tmp_path):
    full = """
import errno, os
def refuse(*args):
    raise OSError(errno.ENOSPC, "No space left on device")
os.replace = refuse
"""
    assert run_python(full + CODE, SMOOTHL1_CACHE_DIR=str(tmp_path)).split() == [VALUE, "0"]
    assert kernel_files(tmp_path) == []


def test_no_home_is_no_error(run_python):
    environment = {"HOME": "/nowhere", "XDG_CACHE_HOME": "", "SMOOTHL1_CACHE_DIR": ""}
    assert run_python(CODE, **environment).split()[0] == VALUE


def test_another_processor_has_its_own_files(run_python, filled):
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    out = run_python(CODE, SMOOTHL1_CACHE_DIR=str(filled), **environment)
    assert out.split() == [VALUE, "0"]
    assert len(kernel_files(filled)) == 2


def test_a_folder_of_another_user_is_refused(run_python, filled):
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (path,) = kernel_files(filled)
    os.chown(path.parent, 12345, 12345)
    out = run_python(
        CODE.replace("import numpy", IGNORED + "import numpy"), SMOOTHL1_CACHE_DIR=str(filled)
    )
    assert out.split() == [VALUE, "0"]
    assert kernel_files(filled) == [path]


IGNORED = "warnings.simplefilter('ignore'); "


def test_another_version_of_numba_has_its_own_files(run_python, filled):
    other = CODE.replace("import numpy", "import numba; numba.__version__ += 'x'; import numpy")
    assert run_python(other, SMOOTHL1_CACHE_DIR=str(filled)).split() == [VALUE, "0"]
    assert len(kernel_files(filled)) == 2


def test_a_changed_helper_has_its_own_files(run_python, filled, tmp_path):
    """The kernel itself is the same; the formula that it calls is not."""
    package = tmp_path / "src" / "smoothl1"
    shutil.copytree(Path(sl.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    formula = package / "formula.py"
    formula.write_text(formula.read_text().replace("half = type(residual)(0.5)", "half = 1.0"))
    first = f"import sys; sys.path.insert(0, {str(package.parent)!r})\n"
    value, hits = run_python(first + CODE, SMOOTHL1_CACHE_DIR=str(filled)).split()
    assert (value != VALUE, hits) == (True, "0")
    assert run_python(CODE, SMOOTHL1_CACHE_DIR=str(filled)).split() == [VALUE, "1"]


def test_cold_processes_side_by_side(tmp_path):
    """Six processes of two types fill one folder at once; each gets the right value."""
    codes = [CODE, CODE.replace("np.arange(2000.0)", "np.arange(2000.0, dtype=np.float32)")] * 3
    environment = {**os.environ, "SMOOTHL1_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(Path(sl.__file__).parent.parent)
    command = [sys.executable, "-W", "error", "-c"]
    running = [
        subprocess.Popen([*command, code], env=environment, stdout=subprocess.PIPE, text=True)
        for code in codes
    ]
    for process in running:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert float(out.split()[0]) == pytest.approx(float(VALUE), rel=1e-7)
    assert len(kernel_files(tmp_path)) == 2


def test_what_only_kernels_call_has_no_machine_code(run_python, tmp_path):
    code = """
    import numpy as np
    from numba.core.codegen import JITCodeLibrary
    import smoothl1 as sl
    from smoothl1 import sums
    finish, assembled = JITCodeLibrary._finalize_specific, []
    def record(library):
        assembled.append(library.name)
        finish(library)
    JITCodeLibrary._finalize_specific = record
    sl.smooth_l1_loss(np.zeros(2000), 0.25, beta=0.3)
    called = [name for name, helper in vars(sums).items() if getattr(helper, "overloads", None)]
    print(len(called) > 1, len(assembled) > 0, set(called) & set(assembled))
    """
    out = run_python(code, SMOOTHL1_CACHE_DIR=str(tmp_path))
    assert out.strip() == "True True set()"
