"""The shortest way from two plain arrays of JAX to their total loss, and new arrays of JAX.

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
from typing import Any

import jax
import numpy as np

from . import short
from .small import LOSS, LOSS_AND_GRAD, MOST, UNFIT
from .validate import Array
from .views import WORTH_ALIGNING, aligned

MOST_TYPES = 1024

_config = jax.config
_puts: dict[Any, Callable[[Array, bool], Any]] = {}  # by device


class _Places(dict[Any, Any]):
    """By the sharding of arrays: what makes arrays of a CPU; None for any other place."""

    def __missing__(self, sharding: Any) -> Any:
        if type(sharding) is not jax.sharding.SingleDeviceSharding:
            return None
        (device,) = sharding.device_set
        if device.platform != "cpu" or sharding.memory_kind != device.default_memory().kind:
            return None
        self[sharding] = _put_for(device)
        return self[sharding]


class _Types(dict[Any, Any]):
    """What JAX calls the type of an array, by shape and dtype."""

    def __missing__(self, key: tuple[tuple[int, ...], np.dtype[Any]]) -> Any:
        if len(self) >= MOST_TYPES:
            self.clear()
        self[key] = jax.core.ShapedArray(*key)
        return self[key]


def _put_for(device: Any) -> Callable[[Array, bool], Any]:
    """Function that makes arrays on a CPU, committed to it or not, of memory nobody else has."""
    if device not in _puts:
        fast, given = _fast_put(device), np.array([1.5, 2.5], np.float32)
        try:
            with jax.transfer_guard("allow"):
                array = fast(given, False)
                is_known = isinstance(array, jax.Array) and array.tolist() == given.tolist()
        except Exception:
            is_known = False
        _puts[device] = fast if is_known else _slow_put(device)
    return _puts[device]


def _fast_put(device: Any) -> Callable[[Array, bool], Any]:
    sharding, devices, types = jax.sharding.SingleDeviceSharding(device), [device], _Types()

    def put(array: Array, committed: bool) -> Any:
        return batched(types[array.shape, array.dtype], sharding, [array], devices, committed)

    try:
        batched = importlib.import_module("jaxlib.xla_client").batched_device_put
    except (ImportError, AttributeError):
        return _slow_put(device)
    return put


def _slow_put(device: Any) -> Callable[[Array, bool], Any]:
    def put(array: Array, committed: bool) -> Any:
        with jax.default_device(device):
            made = jax.numpy.asarray(array)
        return jax.device_put(made, device) if committed else made

    return put


_PLACES = _Places()


def loss(x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any) -> Any:
    """Mean or sum of the losses; None if the arrays are not for this way."""
    if axis is not None or keepdims is not False or divides is None:
        return None
    views = _views(x, target)
    if views is None:
        return None
    put, xs, targets = views
    dtype, value = xs.dtype, UNFIT
    if xs.size <= MOST:
        value = LOSS[dtype](id(xs), id(targets), beta, divides)
    if value < 0.0:
        value = short.loss(xs, targets, beta, divides, None, False)
        if value is None:
            return None
    number, committed = np.array(value, dtype), x.committed or target.committed
    return put(number, committed) if value < math.inf else _checked(put, number, x, committed)


def slope(*arguments: Any) -> None:
    """Nothing: slopes go by NumPy's short way."""


def value_and_grad(
    x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any, grad_out: Any
) -> Any:
    """Mean or sum of the losses, and its gradient in x; None as in `loss`."""
    if axis is not None or keepdims is not False or divides is None or grad_out is not None:
        return None
    views = _views(x, target)
    if views is None:
        return None
    put, xs, targets = views
    dtype, value = xs.dtype, UNFIT
    grad = np.empty_like(xs) if xs.nbytes < WORTH_ALIGNING else aligned(xs.shape, dtype)
    if xs.size <= MOST:
        value = LOSS_AND_GRAD[dtype](id(xs), id(targets), beta, divides, id(grad))
    if value < 0.0:
        pair = short.value_and_grad(xs, targets, beta, divides, None, False, grad)
        if pair is None:
            return None
        value = pair[0]
    number, committed = np.array(value, dtype), x.committed or target.committed
    return _checked(put, number, x, committed), _checked(put, grad, x, committed)


def _views(x: Any, target: Any) -> tuple[Callable[[Array, bool], Any], Array, Array] | None:
    """Maker of results, and memory of two arrays on one CPU; None for numbers and other places."""
    put = _PLACES[x.sharding]
    if put is None or type(target) is not type(x) or _PLACES[target.sharding] is not put:
        return None
    if x.ndim == 0 or (x.itemsize == 8 and not _config.jax_enable_x64):
        return None
    return put, np.asarray(x), np.asarray(target)


def adopt(array: Array, like: Any) -> Any:
    """Array of JAX on the CPU of another, of memory that nobody else has."""
    (device,) = like.devices()
    if array.dtype == np.float64 and not _config.jax_enable_x64:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return _checked(_put_for(device), array, like, like.committed)


def _checked(put: Callable[[Array, bool], Any], array: Array, like: Any, committed: bool) -> Any:
    """Make an array, by the function that looks for NaN if JAX has been asked to."""
    if _config.jax_debug_nans or _config.jax_debug_infs:
        (device,) = like.devices()
        put = _slow_put(device)
    return put(array, committed)
