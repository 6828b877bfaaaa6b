"""Smooth L1 (Huber) loss, gradient and Hessian: fast, exact and safe.

`smooth_l1_loss`, `smooth_l1_grad`, `smooth_l1_value_and_grad` and
`smooth_l1_hess` work on arrays of any shape, layout and floating type;
`SmoothL1Loss` is the same as a module, and `optimize` has objectives for
SciPy. Importing the package loads NumPy and nothing else; the compiler is
loaded by the first call.
"""

from . import optimize
from .functional import (
    huber_loss,
    smooth_l1_grad,
    smooth_l1_hess,
    smooth_l1_loss,
    smooth_l1_value_and_grad,
)
from .module import SmoothL1Loss, SmoothL1LossConfig
from .threads import get_num_threads, set_num_threads
from .validate import Reduction

__version__ = "0.1.0"

__all__ = [
    "Reduction",
    "SmoothL1Loss",
    "SmoothL1LossConfig",
    "get_num_threads",
    "huber_loss",
    "optimize",
    "set_num_threads",
    "smooth_l1_grad",
    "smooth_l1_hess",
    "smooth_l1_loss",
    "smooth_l1_value_and_grad",
]
