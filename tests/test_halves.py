"""float16 and bfloat16 by their bits: every value read, and rounded to from between any two."""

import ml_dtypes
import numpy as np
import pytest

HALF = (np.float16, 0x7C00)
BRAIN = (ml_dtypes.bfloat16, 0x7F80)
INFINITY = {HALF: 2.0**16, BRAIN: 2.0**128}  # as if exponents went on
OLD = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}


def grid(kind):
    """All values from 0 up, by their bits."""
    dtype, infinity = kind
    return np.arange(infinity, dtype=np.uint16).view(dtype).astype(float)


def nearest(values, kind):
    """Bits of the nearest number, ties to even: looked for among all of them."""
    numbers = np.append(grid(kind), INFINITY[kind])
    size = np.minimum(np.abs(values), INFINITY[kind])
    below = np.minimum(np.searchsorted(numbers, size, side="right") - 1, numbers.size - 2)
    middle = (numbers[below] + numbers[below + 1]) / 2
    up = (size > middle) | (size == middle) & (below % 2 == 1)
    return (below + up | np.where(np.signbit(values), 0x8000, 0)).astype(np.uint16)


def hard(kind):
    """Numbers, the middles between them, what is next to those, tiny, huge and random ones."""
    rng, numbers = np.random.default_rng(5), np.append(grid(kind), INFINITY[kind])
    middles = (numbers[1:] + numbers[:-1]) / 2
    sizes = np.ldexp(rng.random(20000), rng.integers(-1074, 1024, 20000))
    near = np.ldexp(rng.random(20000), rng.integers(-150, 130, 20000))
    around = [np.nextafter(middles, way) for way in (0, np.inf)]
    positive = [numbers, middles, *around, sizes, near, [5e-324, 1.7e308, np.inf]]
    return np.concatenate([*positive, *(-np.asarray(part) for part in positive)])


def compiled():
    """Loops over what converts one number."""
    import numba

    from smoothl1 import halves

    def loop(convert):
        @numba.njit(error_model="numpy")
        def run(values, out):
            for i in range(values.size):
                out[i] = convert(values[i])

        return run

    return [
        (HALF, loop(halves.from_half), loop(halves.half_bits)),
        (BRAIN, loop(halves.from_brain), loop(halves.brain_bits)),
    ]


def check():
    for kind, read, write in compiled():
        every, values = np.arange(1 << 16, dtype=np.uint16), np.empty(1 << 16)
        read(every, values)
        sizes = np.concatenate([grid(kind), [np.inf], np.full(0x7FFF - kind[1], np.nan)])
        np.testing.assert_array_equal(values, np.concatenate([sizes, -sizes]))
        number = ~np.isnan(values)
        assert (np.signbit(values) == (every >= 0x8000))[number].all()

        numbers = hard(kind)
        bits = np.empty(numbers.size, np.uint16)
        write(numbers, bits)
        np.testing.assert_array_equal(bits, nearest(numbers, kind))
        write(np.array([np.nan, -np.nan]), bits)
        assert bits[0] == bits[1] == kind[1] + (kind[1] & -kind[1]) // 2  # one NaN for all
    print("same")


def test_reference():
    """What is looked for is what NumPy rounds to."""
    numbers = hard(HALF)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(nearest(numbers, HALF), numbers.astype(np.float16).view("u2"))


@pytest.mark.parametrize("processor", [{}, OLD], ids=["this", "one without conversions"])
def test_every_value(run_python, processor):
    out = run_python("import test_halves; test_halves.check()", timeout=300, **processor)
    assert out.split() == ["same"]


def test_this_processor_converts_by_itself():
    from llvmlite.binding import get_host_cpu_features

    if not get_host_cpu_features().get("f16c"):
        pytest.skip("this processor has no F16C")
    _, read, write = compiled()[0]
    read(np.zeros(9, np.uint16), np.zeros(9))
    write(np.zeros(9), np.zeros(9, np.uint16))
    for loop, instruction in ((read, "vcvtph2p"), (write, "vcvtps2ph")):
        (code,) = loop.inspect_asm().values()
        assert instruction in code
