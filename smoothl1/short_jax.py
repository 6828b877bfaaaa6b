"""The shortest way from two plain arrays of JAX to their total loss, and new arrays of JAX.

As `short` for NumPy. Most of the time goes into handing memory to JAX: `jax.device_put`
takes 13 to 20 us to get to what PJRT does in 3, so PJRT is asked itself where it is
found as it was known [1]_.

References
----------
.. [1] ``batched_device_put`` in https://github.com/jax-ml/jax/blob/main/jaxlib/xla_client.py

"""

from __future__ import annotations

import importlib
from typing import Any

import jax
import numpy as np

from . import short, small
from .validate import Array
from .views import WORTH_ALIGNING, aligned

MOST_AVALS = 1024


class _Devices(dict[Any, Any]):
    """By the sharding of arrays: a list of the one device, or None if it is not one CPU."""

    def __missing__(self, sharding: Any) -> Any:
        devices = list(sharding.device_set)
        is_cpu = len(devices) == 1 and devices[0].platform == "cpu"
        self[sharding] = devices if is_cpu else None
        return self[sharding]


class _Avals(dict[Any, Any]):
    """What JAX calls the type of an array, by shape and dtype."""

    def __missing__(self, key: tuple[tuple[int, ...], np.dtype[Any]]) -> Any:
        if len(self) >= MOST_AVALS:
            self.clear()
        self[key] = jax.core.ShapedArray(*key)
        return self[key]


_DEVICES, _AVALS = _Devices(), _Avals()


def _put_slowly(
    aval: Any, sharding: Any, arrays: list[Array], devices: Any, committed: bool
) -> Any:
    return jax.device_put(arrays[0], devices[0] if committed else None, may_alias=True)


def _find_put() -> Any:
    """PJRT's function, if it is there and does what it did."""
    given = np.array([1.5, 2.5], np.float32)
    device = jax.devices("cpu")[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    try:
        put = importlib.import_module("jaxlib.xla_client").batched_device_put
        array = put(_AVALS[given.shape, given.dtype], sharding, [given], [device], False)
        is_known = isinstance(array, jax.Array) and array.tolist() == given.tolist()
    except Exception:
        is_known = False
    return put if is_known else _put_slowly


_put: Any = _find_put()


def loss(x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any) -> Any:
    """Mean or sum of the losses; None if the arrays are not for this way."""
    if axis is not None or keepdims is not False or divides is None:
        return None
    sharding = x.sharding
    devices = _DEVICES[sharding]
    if devices is None or not _is_alike(target, x, devices):
        return None
    xs, targets = np.asarray(x), np.asarray(target)
    dtype = xs.dtype
    value = small.LOSS[dtype](id(xs), id(targets), beta, divides)
    if value < 0.0:
        value = short.loss(xs, targets, beta, divides, None, False)
        if value is None:
            return None
    number, committed = np.array(value, dtype), x.committed or target.committed
    return _put(_AVALS[(), dtype], sharding, [number], devices, committed)


def slope(*arguments: Any) -> None:
    """Nothing: slopes go by NumPy's short way."""


def value_and_grad(
    x: Any, target: Any, beta: float, divides: bool | None, axis: Any, keepdims: Any, grad_out: Any
) -> Any:
    """Mean or sum of the losses, and its gradient in x; None as in `loss`."""
    if axis is not None or keepdims is not False or divides is None or grad_out is not None:
        return None
    sharding = x.sharding
    devices = _DEVICES[sharding]
    if devices is None or not _is_alike(target, x, devices):
        return None
    xs, targets = np.asarray(x), np.asarray(target)
    dtype = xs.dtype
    grad = np.empty_like(xs) if xs.nbytes < WORTH_ALIGNING else aligned(xs.shape, dtype)
    value = small.LOSS_AND_GRAD[dtype](id(xs), id(targets), beta, divides, id(grad))
    if value < 0.0:
        pair = short.value_and_grad(xs, targets, beta, divides, None, False, grad)
        if pair is None:
            return None
        value = pair[0]
    number, committed = np.array(value, dtype), x.committed or target.committed
    scalar = _put(_AVALS[(), dtype], sharding, [number], devices, committed)
    return scalar, _put(_AVALS[xs.shape, dtype], sharding, [grad], devices, committed)


def _is_alike(target: Any, x: Any, devices: Any) -> bool:
    """Whether a target is an array where x is, no number and not of more bits than asked."""
    return (
        type(target) is type(x)
        and _DEVICES[target.sharding] is devices
        and x.ndim > 0
        and (x.itemsize < 8 or jax.config.jax_enable_x64)
    )


def adopt(array: Array, like: Any) -> Any:
    """Array of JAX on the CPU of another, in memory that nobody else has."""
    sharding = like.sharding
    aval = _AVALS[array.shape, array.dtype]
    return _put(aval, sharding, [array], _DEVICES[sharding], like.committed)
