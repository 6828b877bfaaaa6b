"""The shortest way from two plain arrays of JAX to their losses and gradients, and new arrays.

As `short` for NumPy. Most of the time goes into handing memory to JAX: `jax.device_put`
takes 13 to 20 us to get to what PJRT does in 3, so PJRT is asked itself where its
function does what it did [1]_.

References
----------
.. [1] ``batched_device_put`` in https://github.com/jax-ml/jax/blob/main/jaxlib/xla_client.py

"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from . import short
from .new_arrays import WORTH_ALIGNING, aligned_array
from .small import LOSS, LOSS_AND_GRAD, MOST
from .validate import Array

MOST_TYPES = 1024

_config = jax.config


class _Maker(NamedTuple):
    """Functions that make arrays on one CPU, of memory that nobody else has."""

    put: Callable[[Array, bool], Any]  # array, whether committed to the device
    number: Callable[[float, Any, bool], Any]  # value, dtype that holds it, whether committed


_makers: dict[Any, _Maker] = {}  # by device


class _Places(dict[Any, Any]):
    """By the sharding of arrays: what makes arrays of a CPU; None for any other place."""

    def __missing__(self, sharding: Any) -> Any:
        if type(sharding) is not jax.sharding.SingleDeviceSharding:
            return None
        (device,) = sharding.device_set
        if device.platform != "cpu" or sharding.memory_kind != device.default_memory().kind:
            return None
        self[sharding] = _maker(device)
        return self[sharding]


class _Types(dict[Any, Any]):
    """What JAX calls the type of an array, by shape and dtype."""

    def __missing__(self, key: tuple[tuple[int, ...], np.dtype[Any]]) -> Any:
        if len(self) >= MOST_TYPES:
            self.clear()
        self[key] = jax.core.ShapedArray(*key)
        return self[key]


class _Numbers(dict[Any, Any]):
    """What JAX calls the type of a number, by dtype."""

    def __missing__(self, dtype: np.dtype[Any]) -> Any:
        self[dtype] = jax.core.ShapedArray((), dtype)
        return self[dtype]


def _maker(device: Any) -> _Maker:
    if device not in _makers:
        fast = _fast_maker(device)
        try:
            with jax.transfer_guard("allow"):
                is_known = _is_working(fast)
        except Exception:
            is_known = False
        _makers[device] = fast if is_known else _slow_maker(device)
    return _makers[device]


def _is_working(maker: _Maker) -> bool:
    """Whether arrays and numbers come out as they went in, with and without 64 bits."""
    for wide, dtype in ((False, np.dtype(np.float32)), (True, np.dtype(np.float64))):
        with jax.enable_x64(wide):
            made = maker.put(np.array([1.5, 2.5], dtype), False), maker.number(1.5, dtype, False)
            if not all(isinstance(array, jax.Array) for array in made):
                return False
            arrays = [np.asarray(array) for array in made]
            if [array.tolist() for array in arrays] != [[1.5, 2.5], 1.5]:
                return False
            if any(array.dtype != dtype for array in arrays):
                return False
    return True


def _fast_maker(device: Any) -> _Maker:
    sharding, devices = jax.sharding.SingleDeviceSharding(device), [device]
    types, numbers = _Types(), _Numbers()

    def put(array: Array, committed: bool) -> Any:
        return batched(types[array.shape, array.dtype], sharding, [array], devices, committed)

    def number(value: float, dtype: Any, committed: bool) -> Any:
        # A float is taken for the larger type that JAX has; making an array first costs 0.4 us.
        is_float = (dtype.itemsize == 8) is _config.jax_enable_x64
        given = value if is_float else np.array(value, dtype)
        return batched(numbers[dtype], sharding, [given], devices, committed)

    try:
        batched = importlib.import_module("jaxlib.xla_client").batched_device_put
    except (ImportError, AttributeError):
        return _slow_maker(device)
    return _Maker(put, number)


def _slow_maker(device: Any) -> _Maker:
    def put(array: Array, committed: bool) -> Any:
        with jax.default_device(device):
            made = jax.numpy.asarray(array)
        return jax.device_put(made, device) if committed else made

    return _Maker(put, lambda value, dtype, committed: put(np.array(value, dtype), committed))


_PLACES = _Places()


def loss(x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any) -> Any:
    """Loss, elementwise if ``divides`` is None; None if the arrays are not for this way."""
    views = _views(x, target)
    if views is None:
        return None
    maker, xs, targets = views
    dtype, committed = xs.dtype, x.committed or target.committed
    if axis is None and keepdims is False and divides is not None and xs.size <= MOST:
        value = LOSS[dtype](id(xs), id(targets), beta, divides)
        if 0.0 <= value < math.inf:
            return maker.number(value, dtype, committed)
    result = short.loss(xs, targets, beta, divides, axis, keepdims)
    return None if result is None else _checked(maker, np.asarray(result), x, committed)


def slope(
    x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any,
    curvature: bool,
) -> Any:  # fmt: skip
    """Gradient in x, or the second derivatives; None if the arrays are not for this way."""
    views = _views(x, target)
    if views is None:
        return None
    maker, xs, targets = views
    result = short.slope(xs, targets, beta, divides, axis, keepdims, curvature)
    if result is None:
        return None
    return _checked(maker, result, x, x.committed or target.committed)


def value_and_grad(
    x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any, grad_out: Any
) -> Any:
    """Loss, and its gradient in x; None as in `loss`, and for elementwise losses."""
    if divides is None or grad_out is not None:
        return None
    views = _views(x, target)
    if views is None:
        return None
    maker, xs, targets = views
    dtype, committed = xs.dtype, x.committed or target.committed
    grad = np.empty_like(xs) if xs.nbytes < WORTH_ALIGNING else aligned_array(xs.shape, dtype)
    if axis is None and keepdims is False and xs.size <= MOST:
        value = LOSS_AND_GRAD[dtype](id(xs), id(targets), beta, divides, id(grad))
        if 0.0 <= value < math.inf:
            return maker.number(value, dtype, committed), maker.put(grad, committed)
    pair = short.value_and_grad(xs, targets, beta, divides, axis, keepdims, grad)
    if pair is None:
        return None
    losses = np.asarray(pair[0])
    return _checked(maker, losses, x, committed), _checked(maker, grad, x, committed)


def _views(x: Any, target: Any) -> tuple[_Maker, Array, Array] | None:
    """Maker of results, and memory of two arrays on one CPU; None for numbers and other places."""
    maker = _PLACES[x.sharding]
    if maker is None or type(target) is not type(x) or _PLACES[target.sharding] is not maker:
        return None
    xs = np.asarray(x)
    if xs.ndim == 0 or (xs.itemsize == 8 and not _config.jax_enable_x64):
        return None
    return maker, xs, np.asarray(target)


def adopt(array: Array, like: Any) -> Any:
    """Array of JAX on the CPU of another, of memory that nobody else has."""
    (device,) = like.devices()
    if array.dtype == np.float64 and not _config.jax_enable_x64:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return _checked(_maker(device), array, like, like.committed)


def _checked(maker: _Maker, array: Array, like: Any, committed: bool) -> Any:
    """Make an array, by the function that looks for NaN if JAX has been asked to."""
    if _config.jax_debug_nans or _config.jax_debug_infs:
        (device,) = like.devices()
        maker = _slow_maker(device)
    return maker.put(array, committed)
