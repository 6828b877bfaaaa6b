"""Every check of one argument, and every message about it.

All of it happens before any work: a call either raises here, with its outputs
untouched, or runs to its end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NoReturn

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REAL = frozenset(FLOATS + INTEGERS)

REMEDIES = {
    "numpy.ma": "pass {}.filled(0) and where=~np.ma.getmaskarray({})",
    "numpy": "pass np.asarray({})",
    "torch": "pass {}.detach().cpu().numpy()",
    "jax": "pass np.asarray({})",
    "jaxlib": "pass np.asarray({})",
    "cupy": "pass cupy.asnumpy({})",
    "dask.dataframe": "pass {}.to_dask_array(lengths=True)",
    "dask": "pass {}.compute()",
    "pandas": "pass {}.to_numpy()",
    "xarray": "pass {}.to_numpy()",
    "scipy": "pass {}.toarray()",
}  # by the package of the class
DTYPE_REMEDIES = {
    "b": "; select elements with where=, or convert with .astype(float)",
    "f": "; convert with .astype(np.float64) if its precision may be lost",
    "c": "; take the loss of its absolute value, or of its real and imaginary parts",
    "O": "; convert with .astype(float), None to nan first",
    "U": "; convert with .astype(float) if it holds numbers",
    "m": "; divide by a unit, such as np.timedelta64(1, 's')",
    "M": "; subtract a date and divide by a unit, such as np.timedelta64(1, 's')",
}  # by the kind of the dtype


class Reduction(StrEnum):
    """How element losses are combined; plain strings work everywhere too.

    Attributes
    ----------
    NONE
        "none": not at all, one loss for each element.
    MEAN
        "mean": averaged over the reduced axes.
    SUM
        "sum": added over the reduced axes.
    AUTO
        "auto": the same as "mean".

    Examples
    --------
    >>> from smoothl1 import Reduction, smooth_l1_loss
    >>> float(smooth_l1_loss([0.0, 4.0], 1.0, reduction=Reduction.SUM))
    3.0
    >>> Reduction("mean") == "mean"
    True

    """

    NONE = "none"
    MEAN = "mean"
    SUM = "sum"
    AUTO = "auto"


# By the name of a reduction: whether its sums are divided; None if there are no sums.
DIVIDES = {"mean": True, "auto": True, "sum": False, "none": None}


def check_reduction(reduction: Any) -> Reduction:
    """Return the reduction, "auto" resolved to "mean"."""
    try:
        kind = Reduction(reduction)
    except ValueError:
        allowed = ", ".join(repr(str(r)) for r in Reduction)
        raise ValueError(f"reduction must be one of {allowed}, got {reduction!r}") from None
    return Reduction.MEAN if kind is Reduction.AUTO else kind


def check_beta(beta: Any, name: str = "beta") -> float | Array:
    """Return a threshold as a float, or an array of thresholds."""
    if type(beta) is float and 0.0 <= beta < math.inf:
        return beta
    if isinstance(beta, (bool, np.bool_)):
        raise TypeError(f"{name} must be a number or an array of numbers, got a boolean")
    values = numbers(name, beta)
    if isinstance(values, float) or values.ndim == 0:
        value = float(values)
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {beta!r}")
        return value
    seen = values[tuple(slice(None if step else 1) for step in values.strides)]  # each once
    if seen.size and not (seen.min() >= 0 and seen.max() < np.inf):
        place = tuple(np.argwhere(~((seen >= 0) & (seen < np.inf)))[0].tolist())
        raise ValueError(
            f"every {name} must be finite and at least 0, got {seen[place]} at index "
            f"{place[0] if len(place) == 1 else place}"
        )
    return values


def check_normalizer(normalizer: Any, reduction: Reduction) -> float | None:
    """Return what a mean divides by instead of the count, if given."""
    if normalizer is None:
        return None
    if reduction is not Reduction.MEAN:
        raise ValueError(
            f"normalizer goes only with reduction='mean', got reduction={str(reduction)!r}"
        )
    value = check_real("normalizer", normalizer)
    if not 0.0 < value < math.inf:
        raise ValueError(f"normalizer must be finite and above 0, got {normalizer!r}")
    return value


def check_real(name: str, value: Any) -> float:
    """Return a real number as a float."""
    if isinstance(value, str):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    number = numbers(name, value)
    if not isinstance(number, float) and number.ndim > 0:
        raise TypeError(f"{name} must be a real number, got shape {number.shape}")
    return float(number)


def check_axis(axis: Any, ndim: int, reduction: Reduction) -> tuple[int, ...]:
    """Return the reduced axes, ascending and not negative."""
    if reduction is Reduction.NONE:
        if axis is not None:
            raise ValueError(f"axis must be None with reduction='none', got {axis!r}")
        return ()
    if axis is None:
        return tuple(range(ndim))
    listed = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(sorted(_one_axis(a, axis, ndim) for a in listed))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis must not name an axis twice, got {axis!r}")
    return axes


def _one_axis(value: Any, axis: Any, ndim: int) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"axis must be None, an integer or a tuple of integers, got {axis!r}")
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(
            f"axis must be None, an integer or a tuple of integers, got {axis!r}"
        ) from None
    if not -ndim <= index < ndim:
        allowed = f"{-ndim} to {ndim - 1} are allowed" if ndim else "only None and () are allowed"
        raise np.exceptions.AxisError(
            f"axis {index} is out of bounds: the operands have {ndim} dimension(s), {allowed}"
        )
    return index % ndim


def check_wrt(wrt: Any) -> None:
    """Refuse anything but the names of the two arguments."""
    if not isinstance(wrt, str) or wrt not in ("x", "target"):
        raise ValueError(f"wrt must be 'x' or 'target', got {wrt!r}")


def check_dtype(dtype: Any, natural: str) -> np.dtype[Any]:
    """Return the dtype of the result: the one asked for, or the natural one."""
    if dtype is None:
        return named_dtype(natural)
    try:
        chosen = named_dtype("bfloat16") if dtype == "bfloat16" else np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise TypeError(f"dtype must be one of {', '.join(FLOATS)}, got {dtype!r}") from error
    if chosen.name not in FLOATS or not chosen.isnative:
        raise TypeError(f"dtype must be one of {', '.join(FLOATS)}, got {dtype!r}")
    return chosen


@lru_cache(maxsize=8)
def named_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype of a name; bfloat16 needs ml_dtypes."""
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError("bfloat16 needs ml_dtypes: pip install ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def check_grad_output(grad_output: Any, shape: tuple[int, ...]) -> Array | None:
    """Return the factor of the gradient, as a view of the shape of the result."""
    if grad_output is None:
        return None
    array = settle(numbers("grad_output", grad_output), "float64")
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"grad_output must broadcast to the shape of the result {shape}, "
            f"got shape {array.shape}"
        ) from None


def check_out(name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an output that the result does not fit exactly."""
    if out is None:
        return
    if not _is_plain(type(out)):
        raise TypeError(f"{name} must be a numpy.ndarray like the operands, got {_type_name(out)}")
    check_fit(name, out, shape, dtype)
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writable, got a read-only array")
    if _overlaps_itself(out):
        raise ValueError(
            f"{name} must not overlap itself, got strides {out.strides} for shape {shape}"
        )


def check_fit(name: str, out: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Refuse an output of another shape or dtype."""
    if out.shape != shape:
        raise ValueError(f"{name} must have the shape of the result {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(
            f"{name} must have the dtype of the result {dtype}, got {out.dtype}; "
            "dtype= chooses that of the result"
        )


def check_separate(out: Array | None, grad_out: Array | None) -> None:
    """Refuse two outputs that share memory."""
    if out is not None and grad_out is not None and share_memory(out, grad_out):
        raise ValueError("out and grad_out must not share memory; pass two arrays of their own")


def _overlaps_itself(array: Array) -> bool:
    reach = array.itemsize
    axes = [a for a in range(array.ndim) if array.shape[a] > 1]
    for axis in sorted(axes, key=lambda a: abs(array.strides[a])):
        step = abs(array.strides[axis])
        if step < reach:
            return array.size > 0
        reach += step * (array.shape[axis] - 1)
    return False


def broadcast_shape(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Broadcast the shapes of all operands, or name them all in an error."""
    sizes = []
    for axis in zip_longest(*(reversed(shape) for shape in shapes.values()), fillvalue=1):
        wide = {size for size in axis if size != 1}
        if len(wide) > 1:
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(
                f"operands do not broadcast to one shape: {listed}; axes are matched from the "
                "last on, and operand[:, None] adds one there"
            )
        sizes.append(wide.pop() if wide else 1)
    return tuple(reversed(sizes))


def broadcast(array: Array, shape: tuple[int, ...]) -> Array:
    """View of an array in a shape; the array itself if it has it (2 us less)."""
    return array if array.shape == shape else np.broadcast_to(array, shape)


@lru_cache(maxsize=64)
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Name of a dtype without its byte order (NumPy takes 4 us to make it)."""
    return dtype.name


def round_once(values: Array, dtype: np.dtype[Any]) -> Array:
    """Round float64 to the bits of bfloat16, whose casts go by way of float32."""
    if dtype_name(dtype) != "bfloat16":
        return values
    step = np.ldexp(1.0, np.maximum(np.frexp(values)[1] - 8, -133))
    return np.rint(values / step) * step


def share_memory(a: Array, b: Array) -> bool:
    """Whether two arrays have an element in common; True if it is hard to tell."""
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _is_plain(kind: type) -> bool:
    return kind is np.ndarray or kind is np.memmap


def numbers(name: str, value: Any) -> Array | float:
    """Return real numbers as an array; a Python number, which is weak, as a float."""
    if _is_plain(type(value)):
        array = value
    elif isinstance(value, np.generic):
        array = np.asarray(value)
    elif isinstance(value, bool) or value is None:
        raise TypeError(f"{name} must hold real numbers, got {value!r}")
    elif isinstance(value, (int, float)):
        return _as_float(name, value)
    elif isinstance(value, (list, tuple)):
        array = _from_sequence(name, value)
    else:
        _refuse_kind(name, value)
    if dtype_name(array.dtype) not in REAL:
        _refuse_dtype(name, array.dtype)
    return array


def _from_sequence(name: str, value: Sequence[Any]) -> Array:
    for item in value:
        if isinstance(item, (np.ma.MaskedArray, np.matrix)):
            _refuse_kind(name, item)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"{name} is not a rectangular list of numbers: {error}; fill up short rows, and "
            "leave that out with where="
        ) from None
    except (RuntimeError, TypeError) as error:  # of a library whose arrays are in the list
        kinds = ", ".join(sorted({_type_name(item) for item in value}))
        raise TypeError(f"{name} must be a list of numbers, got {kinds} in it: {error}") from None


def _refuse_dtype(name: str, dtype: np.dtype[Any]) -> NoReturn:
    hint = DTYPE_REMEDIES.get(dtype.kind, "")
    raise TypeError(f"{name} has dtype {dtype}, allowed are {', '.join(FLOATS)} and integers{hint}")


def _refuse_kind(name: str, value: Any) -> NoReturn:
    got, hint = _type_name(value), _kind_remedy(value)
    raise TypeError(
        f"{name} must be a numpy.ndarray, a list or a number, got {got}" + hint.replace("{}", name)
    )


def _kind_remedy(value: Any) -> str:
    """What to pass instead of an array of an unknown kind."""
    if isinstance(value, (str, bytes)):
        return ""
    if isinstance(value, complex):
        return DTYPE_REMEDIES["c"]
    for base in type(value).__mro__:
        for prefix, remedy in REMEDIES.items():
            if base.__module__ == prefix or base.__module__.startswith(prefix + "."):
                return "; " + remedy
    if any(hasattr(value, name) for name in ("__array__", "__array_interface__", "__buffer__")):
        return "; pass np.asarray({}) if that loses nothing"
    return "; pass list({}) if its order means something" if isinstance(value, Iterable) else ""


def booleans(where: Any) -> Array:
    """Return a selection as an array of booleans."""
    if isinstance(where, (int, float, complex, str)) and not isinstance(where, (bool, np.generic)):
        raise TypeError(f"where must be True, False or an array of booleans, got {where!r}")
    if not (_is_plain(type(where)) or isinstance(where, (bool, np.generic, list, tuple))):
        _refuse_kind("where", where)
    array = _from_sequence("where", where) if isinstance(where, (list, tuple)) else where
    array = np.asarray(array)
    if array.size == 0 and isinstance(where, (list, tuple)):  # an empty list has no type
        array = array.astype(np.bool_)
    if array.dtype != np.bool_:
        raise TypeError(
            f"where must be boolean, got dtype {array.dtype}; pass where != 0 to select elements, "
            "or weight= for factors"
        )
    return array


def settle(value: Array | float, rounding: str) -> Array:
    """Give a Python number the floating type of the result."""
    if not isinstance(value, float):
        return value
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(named_dtype(rounding))


def _as_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{name} is too large for a float64, got an integer of {value.bit_length()} bits"
        ) from None


def check_flag(name: str, value: Any) -> bool:
    """Return a boolean as Python's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _type_name(value: Any) -> str:
    kind = type(value)
    prefix = "" if kind.__module__ == "builtins" else kind.__module__ + "."
    return prefix + kind.__qualname__
