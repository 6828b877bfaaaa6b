"""The loss as a module of PyTorch, in place of `torch.nn.SmoothL1Loss`.

One line of a training script changes::

    from smoothl1.torch import SmoothL1Loss   # instead of: from torch.nn import SmoothL1Loss
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .backend import find_way, short_ways
from .functional import smooth_l1_loss
from .validate import Reduction, check_beta, check_reduction

__all__ = ["SmoothL1Loss"]


class SmoothL1Loss(torch.nn.SmoothL1Loss):
    """Smooth L1 loss that takes the place of `torch.nn.SmoothL1Loss`.

    A training script needs to change its import only: the parameters of
    PyTorch's module come in the same order with the same defaults.

    Parameters
    ----------
    size_average, reduce : bool, optional
        PyTorch's deprecated ways to say `reduction`.
    reduction : {"mean", "sum", "none", "auto"}, default "mean"
        How element losses are combined; "auto" is "mean".
    beta : float or tensor, default 1.0
        Threshold of at least 0, in the unit of the operands. A tensor
        broadcasts with them; a `torch.nn.Parameter` is learnt.
    axis : int, tuple of int or None, default None
        Axes to reduce, None for all.
    keepdims : bool, default False
        Keep reduced axes with size 1.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not one of these, when the module is built.

    See Also
    --------
    smoothl1.smooth_l1_loss : The function that it calls.

    Notes
    -----
    Gradients flow to the input, the target, weights and a tensor of
    thresholds, and so do derivatives of gradients, the transforms of
    `torch.func`, and `torch.compile`. Operands broadcast without a warning.
    Sums run in float64 and do not depend on the number of threads. Under
    `torch.autocast` half precision gives a float32 loss, as in PyTorch.

    A larger threshold always makes the loss smaller: one that is learnt grows
    without end unless a term of its own, such as ``0.2 * beta``, holds it.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.SmoothL1Loss.html

    Examples
    --------
    >>> import torch
    >>> from smoothl1.torch import SmoothL1Loss
    >>> loss = SmoothL1Loss(beta=0.5)
    >>> loss
    SmoothL1Loss(beta=0.5, reduction='mean')
    >>> x = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    >>> loss(x, torch.tensor([0.25, 1.0, 1.0])).backward()
    >>> x.grad
    tensor([-0.1667,  0.0000,  0.3333])

    """

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: Any = 1.0,
        *,
        axis: Any = None,
        keepdims: bool = False,
    ) -> None:
        kind = check_reduction(reduction)
        if axis is not None and kind is Reduction.NONE:
            raise ValueError(f"axis must be None with reduction='none', got {axis!r}")
        super().__init__(size_average, reduce, str(kind))
        self._set_beta(beta)
        self.axis = axis
        self.keepdims = keepdims

    beta: Any

    def _set_beta(self, beta: Any) -> None:
        """Check the threshold; a tensor is moved along with the module, a parameter is learnt."""
        if not isinstance(beta, torch.Tensor):
            self.beta = check_beta(beta)
            return
        if not beta.is_meta:
            values = beta.detach().cpu()
            check_beta((values.double() if values.is_floating_point() else values).numpy())
        del self.beta
        if isinstance(beta, torch.nn.Parameter):
            self.beta = beta
        else:
            self.register_buffer("beta", beta, persistent=False)

    def extra_repr(self) -> str:
        """Return the parameters as ``repr`` shows them; those of axes only if given.

        Returns
        -------
        str

        """
        shown = f"beta={self.beta!r}, reduction={self.reduction!r}"
        if self.axis is not None:
            shown += f", axis={self.axis!r}"
        return shown + (", keepdims=True" if self.keepdims else "")

    def forward(
        self,
        input: Any,
        target: Any,
        *,
        weight: Any = None,
        where: Any = None,
        normalizer: float | None = None,
    ) -> Any:
        """Return the loss of ``input - target``.

        Parameters
        ----------
        input, target : tensor
            Of shapes that broadcast, on one device, as for `smooth_l1_loss`.
        weight : tensor, optional
            Factors of the element losses; "mean" divides by their sum.
        where : tensor of bool, optional
            Elements to include. The others count nothing, even if they are NaN.
        normalizer : float, optional
            Positive number that "mean" divides by instead, such as a count of boxes.

        Returns
        -------
        tensor
            The loss, in the unit of `input`; 0-d if all axes are reduced.

        Raises
        ------
        TypeError, ValueError
            As `smooth_l1_loss`.

        Examples
        --------
        >>> import torch
        >>> from smoothl1.torch import SmoothL1Loss
        >>> x = torch.tensor([[0.0, float("nan")], [2.0, 4.0]])
        >>> SmoothL1Loss(axis=1)(x, torch.tensor(1.0), where=~x.isnan())
        tensor([0.5000, 1.5000])

        """
        if (
            weight is where is normalizer is None
            and type(self.beta) is float
            and 0.0 <= self.beta < math.inf
            and self.reduction != "none"
            and (way := short_ways.get(type(input)) or find_way(type(input))) is not None
        ):
            divides = self.reduction == "mean"
            loss = way.loss(input, target, self.beta, divides, self.axis, self.keepdims)
            if loss is not None:
                return loss
        return smooth_l1_loss(
            input, target, beta=self.beta, reduction=self.reduction, axis=self.axis,
            keepdims=self.keepdims, weight=weight, where=where, normalizer=normalizer,
            dtype=torch.float32 if _is_autocast(input, target) else None,
        )  # fmt: skip


def _is_autocast(*operands: Any) -> bool:
    """Whether PyTorch would widen operands of half precision to float32."""
    tensors = [value for value in operands if isinstance(value, torch.Tensor)]
    return bool(tensors) and all(
        tensor.dtype in (torch.float16, torch.bfloat16)
        and torch.is_autocast_enabled(tensor.device.type)
        for tensor in tensors
    )
