"""Smooth L1 (Huber) loss, gradient and Hessian: fast, exact and safe.

With r = x - target and a threshold beta, the loss of an element is
r² / (2 beta) where abs(r) < beta, and abs(r) - beta / 2 elsewhere.

Functions of arrays of any shape, layout and floating type, reduced over any axes::

    smooth_l1_loss            the loss
    smooth_l1_grad            its gradient
    smooth_l1_value_and_grad  both from one pass over the data
    smooth_l1_hess            the diagonal of its Hessian
    huber_loss                delta times the loss with beta = delta

The loss as a value, and robust fits::

    SmoothL1Loss, SmoothL1LossConfig  a module without state, as in PyTorch
    Reduction                         "none", "mean", "sum" or "auto"
    optimize                          objectives for SciPy, of linear and other models
    smoothl1.torch                    a module of PyTorch, to be imported by itself

How calls run::

    set_num_threads, get_num_threads  results do not depend on it
    python -m smoothl1                fits CSV files, tells how calls run, compiles ahead

Importing the package loads NumPy and nothing else. The first call of each kind
compiles for some seconds, and keeps the code for later processes.

>>> import smoothl1 as sl
>>> sl.smooth_l1_loss([0.0, 1.0, 3.0], 1.0, beta=0.5, reduction="none")
array([0.75, 0.  , 1.75])
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
