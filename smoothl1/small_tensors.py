"""Small plain tensors of PyTorch in one compiled call that has PyTorch describe them.

As `small` for NumPy. To ask a tensor for its type, place, shape, strides and address from
Python takes a dozen calls; kernels that get the addresses of the objects need one, of the
function by which PyTorch fills DLPack's description of a tensor [1]_. They keep the GIL.
`find_describer` first compares descriptions with what PyTorch says.

References
----------
.. [1] ``DLTensor`` and ``DLPackExchangeAPI``,
   https://dmlc.github.io/dlpack/latest/c_api.html

"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache, partial

import llvmlite.ir as ir
import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import Entries, brief_kernel, inlined
from .memory import floats, room, view
from .small import INT, MOST, total_of_block

# Words of a description, and of PyTorch's table of functions.
DATA, DEVICE, TYPE, SIZES, STRIDES, OFFSET, WORDS = range(7)
VERSION, DESCRIBE = 0, 5
MAJOR = 1
CPU = 1  # kind of device in the lower half, its number in the upper
DOUBLE, SINGLE = (2 | bits << 8 | 1 << 16 for bits in (64, 32))  # floating, bits, one lane


@intrinsic
def _describe(typing_context, describer, tensor, description):
    """Have PyTorch fill a description of a tensor; False, without its error, if it cannot."""

    def codegen(context, builder, signature, args):
        place = cgutils.voidptr_t
        kind = ir.FunctionType(ir.IntType(32), [place, place]).as_pointer()
        given = [builder.inttoptr(address, place) for address in args[1:]]
        state = builder.call(builder.inttoptr(args[0], kind), given)
        is_known = builder.icmp_signed("==", state, state.type(0))
        with builder.if_then(builder.not_(is_known), likely=False):
            context.get_python_api(builder).err_clear()
        return is_known

    return types.boolean(types.int64, types.int64, types.int64), codegen


@inlined
def _words(describer, tensor):
    """Description of a tensor, on the stack; one without elements if there is none."""
    words = view(room(WORDS), WORDS, np.int64)
    if not _describe(describer, tensor, words.ctypes.data):
        words[DATA] = 0
    return words


@inlined
def _size(x, target, kind):
    """Number of elements of two contiguous tensors of one type and shape; 0 if they are not."""
    if x[DATA] == 0 or target[DATA] == 0 or x[TYPE] != target[TYPE] or x[TYPE] >> 32 != kind:
        return 0
    if x[DEVICE] != CPU or target[DEVICE] != CPU:
        return 0
    ndim = x[TYPE] & INT
    sizes, others = view(x[SIZES], ndim, np.int64), view(target[SIZES], ndim, np.int64)
    steps, other_steps = view(x[STRIDES], ndim, np.int64), view(target[STRIDES], ndim, np.int64)
    size = 1
    for axis in range(ndim - 1, -1, -1):
        n = sizes[axis]
        if n != others[axis] or (n != 1 and (steps[axis] != size or other_steps[axis] != size)):
            return 0
        size *= n
    return size if size <= MOST else 0


@inlined
def _numbers(words, size, narrow):
    return floats(words[DATA] + words[OFFSET], size, narrow)


@inlined
def _loss(describer, x, target, beta, divides, narrow, out):
    """Store the loss; False if the tensors are not for this way."""
    xs, targets, outs = _words(describer, x), _words(describer, target), _words(describer, out)
    size = _size(xs, targets, DOUBLE if narrow is None else SINGLE)
    if size == 0 or outs[DATA] == 0:
        return False
    total = total_of_block(
        _numbers(xs, size, narrow), _numbers(targets, size, narrow), beta, None, narrow, None
    )
    _numbers(outs, 1, narrow)[0] = total / size if divides else total
    return True


@inlined
def _loss_and_grad(describer, x, target, beta, divides, narrow, out, grad):
    """As `_loss`, and store the gradient in a tensor like x."""
    xs, targets, outs = _words(describer, x), _words(describer, target), _words(describer, out)
    grads = _words(describer, grad)
    size = _size(xs, targets, DOUBLE if narrow is None else SINGLE)
    if size == 0 or outs[DATA] == 0 or grads[DATA] == 0:
        return False
    divisor = np.float64(size) if divides else 1.0
    total = total_of_block(
        _numbers(xs, size, narrow), _numbers(targets, size, narrow), beta, divisor, narrow,
        _numbers(grads, size, narrow),
    )  # fmt: skip
    _numbers(outs, 1, narrow)[0] = total / divisor
    return True


@brief_kernel
def _loss_of_doubles(describer, x, target, beta, divides, out):
    return _loss(describer, x, target, beta, divides, None, out)


@brief_kernel
def _loss_of_singles(describer, x, target, beta, divides, out):
    return _loss(describer, x, target, beta, divides, True, out)


@brief_kernel
def _loss_and_grad_of_doubles(describer, x, target, beta, divides, out, grad):
    return _loss_and_grad(describer, x, target, beta, divides, None, out, grad)


@brief_kernel
def _loss_and_grad_of_singles(describer, x, target, beta, divides, out, grad):
    return _loss_and_grad(describer, x, target, beta, divides, True, out, grad)


class _Known(Entries):
    """Kernels by dtype, which know PyTorch's function; None if it cannot be used."""

    def make(self, dtype: torch.dtype) -> Callable[..., bool] | None:
        """Compile a kernel and tell it where the function is."""
        address = find_describer()
        return partial(super().make(dtype), address) if address else None


LOSS = _Known({
    torch.float64: (_loss_of_doubles, "(int64, int64, int64, float64, boolean, int64)"),
    torch.float32: (_loss_of_singles, "(int64, int64, int64, float64, boolean, int64)"),
})  # fmt: skip
LOSS_AND_GRAD = _Known({
    torch.float64: (
        _loss_and_grad_of_doubles, "(int64, int64, int64, float64, boolean, int64, int64)"
    ),
    torch.float32: (
        _loss_and_grad_of_singles, "(int64, int64, int64, float64, boolean, int64, int64)"
    ),
})  # fmt: skip


@lru_cache(maxsize=1)
def find_describer() -> int:
    """Address of PyTorch's function; 0 if it is not there or does other than it should."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return 0
    kind = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    look = kind(("PyCapsule_GetPointer", ctypes.pythonapi))
    tensors = (
        torch.zeros(2, 3, 4, dtype=torch.float32, device="cpu")[:, 1:, ::2],
        torch.zeros((), dtype=torch.float64, device="cpu"),
    )
    try:
        capsule = torch.Tensor.__dlpack_c_exchange_api__
        table = look(capsule, b"dlpack_exchange_api")
        words = (ctypes.c_int64 * (DESCRIBE + 1)).from_address(table)
        is_right = words[VERSION] & INT == MAJOR and words[DESCRIBE] != 0
        is_right = is_right and all(_is_right(words[DESCRIBE], tensor) for tensor in tensors)
    except Exception:  # no such attribute, another kind of object, an error of the function
        return 0
    return words[DESCRIBE] if is_right else 0


def _is_right(address: int, tensor: torch.Tensor) -> bool:
    """Whether the function at an address describes a tensor as expected."""
    kind = ctypes.PYFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
    words = (ctypes.c_int64 * WORDS)()
    if kind(address)(id(tensor), ctypes.addressof(words)) != 0:
        return False
    dtype = DOUBLE if tensor.dtype is torch.float64 else SINGLE
    if (words[DEVICE], words[TYPE]) != (CPU, dtype << 32 | tensor.ndim):
        return False
    numbers = ctypes.c_int64 * tensor.ndim
    sizes, steps = (
        tuple(numbers.from_address(words[i])) if tensor.ndim else () for i in (SIZES, STRIDES)
    )
    is_there = words[DATA] + words[OFFSET] == tensor.data_ptr()
    return is_there and (sizes, steps) == (tensor.shape, tensor.stride())
