"""A zoo of awkward arrays and values for parametrised tests."""

import numpy as np

BETAS = (0.0, 1e-3, 0.3, 1.0, 2.5, 1e4)
SHAPES = ((), (1,), (7,), (0,), (3, 0, 2), (5, 1), (13, 11), (4, 3, 5), (2, 3, 5, 7))
FLOATS = ("float64", "float32", "float16", "bfloat16")


def dtype_of(name):
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def numbers(shape, seed, dtype="float64"):
    """Reproducible numbers around the usual thresholds, a few of them equal or zero."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0, 2, shape), 2)
    return np.asarray(values).astype(dtype_of(dtype))


def contiguous(a):
    return np.ascontiguousarray(a).reshape(a.shape)


def fortran(a):
    return np.asfortranarray(a).reshape(a.shape, order="A") if a.ndim else a.copy()


def strided(a):
    big = np.zeros(tuple(2 * n + 1 for n in a.shape), a.dtype)
    view = big[(..., *(slice(0, 2 * n, 2) for n in a.shape))]
    view[...] = a
    return view


def backwards(a):
    turned = (..., *(slice(None, None, -1),) * a.ndim)
    return a[turned].copy()[turned]


def read_only(a):
    b = a.copy()
    b.flags.writeable = False
    return b


def byte_swapped(a):
    if a.dtype.name == "bfloat16":
        return a.copy()
    return a.astype(a.dtype.newbyteorder())


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype)[: a.size].reshape(a.shape) if a.size else a.copy()
    view[...] = a
    return view


def one_axis_broadcast(a):
    """Not the same values: the first index of the last axis, repeated."""
    return np.broadcast_to(a[..., :1], a.shape) if a.ndim and a.shape[-1] else a


LAYOUTS = {
    f.__name__: f
    for f in (contiguous, fortran, strided, backwards, read_only, byte_swapped, unaligned)
}


def specials(dtype="float64"):
    """Residuals at every edge: zeros, NaN, infinities, subnormal, huge, one ulp off ±1."""
    kind = dtype_of(dtype)
    one = np.ones((), kind)
    info = np.finfo(kind) if kind.name != "bfloat16" else __import__("ml_dtypes").finfo(kind)
    values = [0.0, -0.0, np.nan, np.inf, -np.inf, float(info.max), float(info.min)]
    values += [float(info.tiny), float(info.smallest_subnormal), -float(info.smallest_subnormal)]
    for x in (one, -one):
        values += [float(x), float(np.nextafter(x, 0 * x)), float(np.nextafter(x, 2 * x))]
    return np.array(values).astype(kind)
