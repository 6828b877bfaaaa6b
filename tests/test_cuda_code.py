"""The code of every GPU kernel, compiled without a GPU for several generations of them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CAPABILITIES = ["7.5", "8.0", "9.0", "10.0"]
REGISTERS = 160  # of 65536 for the 256 threads of a block


@pytest.fixture(scope="module")
def assembled():
    """Kernels for all compute capabilities, as `driverless` prints them."""
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is optional")
    done = subprocess.run(
        [sys.executable, str(HERE / "driverless.py"), *CAPABILITIES],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module", params=CAPABILITIES)
def kernels(request, assembled):
    """Kernels for a compute capability."""
    capability = [int(number) for number in request.param.split(".")]
    chosen = [kernel for kernel in assembled if kernel["capability"] == capability]
    target = f".target sm_{request.param.replace('.', '')}"
    assert all(target in kernel["ptx"] for kernel in chosen)
    return chosen


def test_kernels_of_every_kind_are_there(kernels):
    names = {re.match(r"\w+", kernel["name"]).group() for kernel in kernels}
    assert names == {"flat", "total", "spread", "sums", "mixed", "box", "fold", "squeeze", "copy"}
    assert {kernel["wide"] for kernel in kernels} == {True, False}
    assert len(kernels) > 100


def test_machine_code(kernels):
    """It was assembled, spills nothing, keeps no stack, and leaves room for enough threads."""
    for kernel in kernels:
        assert kernel["bytes"] > 1000
        used = re.search(r"used (\d+) registers.* 0 stack.* 0 bytes lmem", kernel["log"])
        assert used, kernel["log"]
        assert int(used.group(1)) <= REGISTERS
        assert not re.search(r"[1-9]\d* bytes spill", kernel["log"])


def test_exact_arithmetic(kernels):
    for kernel in kernels:
        code = re.sub(r"_Z\w+", "", kernel["ptx"])
        for word in (r"\.ftz", r"\.approx", r"\batom\.", r"\bred\.", r"\.local\b", r"\bcall\b"):
            assert not re.search(word, code), (kernel["name"], word)


def test_float32_elements_need_no_float64(kernels):
    """But for partial sums, and one division and rounding per result."""
    for kernel in kernels:
        if not kernel["wide"]:
            found = re.findall(r"\b(?:mul|div|fma|sub|max|min|rcp)[\w.]*\.f64", kernel["ptx"])
            is_map = not kernel["name"].startswith(("sums", "mixed", "box", "fold", "copy"))
            assert len(found) <= (0 if is_map else 6), (kernel["name"], found)


def test_contiguous_operands_come_16_bytes_at_a_time(kernels):
    for kernel in kernels:
        if kernel["name"].startswith("flat"):
            wide_load = r"ld\.global\.(v4\.[fbu]32|v2\.[fbu]64)"
            assert len(re.findall(wide_load, kernel["ptx"])) >= 4, kernel["name"]
            if any(kernel["writes"]):
                assert re.search(r"st\.global\.(v4\.[fbu]32|v2\.[fbu]64)", kernel["ptx"])


def test_registers_are_reported(kernels, record_property):
    for kernel in kernels:
        used = re.search(r"used (\d+) registers", kernel["log"]).group(1)
        record_property(f"{kernel['name']} {kernel['reads']} {kernel['writes']}", int(used))
