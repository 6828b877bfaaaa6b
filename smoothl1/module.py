"""The loss as a value object with the interface of a module without state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from . import functional
from .validate import Reduction, check_beta, check_reduction

if TYPE_CHECKING:
    from .signatures import Floats, NumPyArray

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, repr=False)
class SmoothL1Loss:
    """Smooth L1 loss with its threshold and reduction, as in PyTorch.

    An immutable, hashable, picklable value, checked when built.

    Parameters
    ----------
    reduction : {"mean", "sum", "none", "auto"}, default "mean"
        How element losses are combined; "auto" is "mean".
    beta : float, default 1.0
        Threshold between the quadratic and the linear part, at least 0, in
        the unit of the operands.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not one of these.

    See Also
    --------
    smooth_l1_loss : The function that it calls, with the formula and all options.
    smoothl1.torch.SmoothL1Loss : The same as a `torch.nn.Module`.

    Notes
    -----
    Modules with equal parameters are equal. It has the methods of a module
    without parameters, devices and modes (`state_dict`, `to_device`, `train` and
    so on), so that code written against such an interface runs.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.SmoothL1Loss.html

    Examples
    --------
    >>> from smoothl1 import SmoothL1Loss
    >>> loss = SmoothL1Loss(beta=0.5)
    >>> loss
    SmoothL1Loss(beta=0.5, reduction='mean')
    >>> float(loss([0.0, 1.0, 3.0], [0.5, 1.0, 1.0]))
    0.6666666666666666

    """

    reduction: str = "mean"
    beta: float = 1.0

    def __post_init__(self) -> None:
        _check_parameters(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Return the parameters as ``repr`` shows them.

        Returns
        -------
        str

        """
        return f"beta={self.beta!r}, reduction={self.reduction!r}"

    def forward(self, x: Any, target: Any, **options: Any) -> Any:
        """Return the loss of ``x - target``; calling the module does the same.

        Parameters
        ----------
        x, target : array_like
            As for `smooth_l1_loss`, of shapes that broadcast.
        **options
            Further arguments of `smooth_l1_loss`, such as `axis` or `weight`.

        Returns
        -------
        scalar or ndarray
            As `smooth_l1_loss`.

        Examples
        --------
        >>> from smoothl1 import SmoothL1Loss
        >>> SmoothL1Loss(beta=2.0).forward([[0.0, 1.0], [2.0, 5.0]], 1.0, axis=1)
        array([0.125, 1.625])

        """
        return self.forward_with_reduction(x, target, self.reduction, **options)

    def __call__(self, x: Any, target: Any, **options: Any) -> Any:
        """Return `forward` of the arguments."""
        return self.forward(x, target, **options)

    def forward_with_reduction(self, x: Any, target: Any, reduction: str, **options: Any) -> Any:
        """Return the loss with another reduction than this module's.

        Parameters
        ----------
        x, target : array_like
            As for `smooth_l1_loss`, of shapes that broadcast.
        reduction : {"mean", "sum", "none", "auto"}
            How element losses are combined.
        **options
            Further arguments of `smooth_l1_loss`, such as `axis` or `weight`.

        Returns
        -------
        scalar or ndarray
            As `smooth_l1_loss`.

        Examples
        --------
        >>> from smoothl1 import SmoothL1Loss
        >>> SmoothL1Loss(beta=0.5).forward_with_reduction([0.0, 3.0], 1.0, "none")
        array([0.75, 1.75])

        """
        return functional.smooth_l1_loss(x, target, beta=self.beta, reduction=reduction, **options)

    def forward_reduce_dims(self, x: Any, target: Any, dims: Iterable[int]) -> Any:
        """Return the mean over some axes, kept with size 1, whatever the reduction.

        Parameters
        ----------
        x, target : array_like
            As for `smooth_l1_loss`, of shapes that broadcast.
        dims : iterable of int
            Axes to average over, in any order; negative ones count from the end.
            An empty one reduces nothing.

        Returns
        -------
        ndarray
            With the number of axes of the broadcast operands.

        Raises
        ------
        TypeError, ValueError
            If `dims` does not hold integers, or one twice or out of bounds.

        Examples
        --------
        >>> from smoothl1 import SmoothL1Loss
        >>> SmoothL1Loss(beta=2.0).forward_reduce_dims([[0.0, 1.0], [2.0, 5.0]], 1.0, [-1])
        array([[0.125],
               [1.625]])

        """
        if not isinstance(dims, Iterable) or isinstance(dims, (str, bytes)):
            raise TypeError(f"dims must be a sequence of integers, got {dims!r}")
        return self.forward_with_reduction(x, target, "mean", axis=tuple(dims), keepdims=True)

    @overload
    def grad(self, x: NumPyArray, target: Any, **options: Any) -> Floats: ...
    @overload
    def grad(self, x: Any, target: Any, **options: Any) -> Any: ...
    def grad(self, x: Any, target: Any, **options: Any) -> Any:
        """Return the gradient of the loss.

        Parameters
        ----------
        x, target : array_like
            As for `smooth_l1_loss`, of shapes that broadcast.
        **options
            Further arguments of `smooth_l1_grad`, such as `wrt` or `grad_output`.

        Returns
        -------
        ndarray
            Of the shape of `x`, or of `target` with ``wrt="target"``.

        Examples
        --------
        >>> from smoothl1 import SmoothL1Loss
        >>> SmoothL1Loss("sum", beta=2.0).grad([0.0, 1.0, 3.0], 1.5)
        array([-0.75, -0.25,  0.75])

        """
        return functional.smooth_l1_grad(
            x, target, beta=self.beta, reduction=self.reduction, **options
        )

    @overload
    def value_and_grad(
        self, x: NumPyArray, target: Any, **options: Any
    ) -> tuple[Any, Floats]: ...  # fmt: skip
    @overload
    def value_and_grad(self, x: Any, target: Any, **options: Any) -> tuple[Any, Any]: ...
    def value_and_grad(self, x: Any, target: Any, **options: Any) -> tuple[Any, Any]:
        """Return the loss and its gradient from one pass over the data.

        Parameters
        ----------
        x, target : array_like
            As for `smooth_l1_loss`, of shapes that broadcast.
        **options
            Further arguments of `smooth_l1_value_and_grad`, such as `wrt`.

        Returns
        -------
        loss : scalar or ndarray
            As `forward`, bit for bit.
        grad : ndarray
            As `grad`.

        Examples
        --------
        >>> from smoothl1 import SmoothL1Loss
        >>> loss, grad = SmoothL1Loss("sum").value_and_grad([0.0, 3.0], [0.5, 1.0])
        >>> float(loss), grad
        (1.625, array([-0.5,  1. ]))

        """
        return functional.smooth_l1_value_and_grad(
            x, target, beta=self.beta, reduction=self.reduction, **options
        )

    @overload
    def hess(self, x: NumPyArray, target: Any, **options: Any) -> Floats: ...
    @overload
    def hess(self, x: Any, target: Any, **options: Any) -> Any: ...
    def hess(self, x: Any, target: Any, **options: Any) -> Any:
        """Return the diagonal of the Hessian of the loss in ``x``.

        Parameters
        ----------
        x, target : array_like
            As for `smooth_l1_loss`, of shapes that broadcast.
        **options
            Further arguments of `smooth_l1_hess`, such as `weight`.

        Returns
        -------
        ndarray
            Of the shape of `x`.

        Examples
        --------
        >>> from smoothl1 import SmoothL1Loss
        >>> SmoothL1Loss("sum", beta=2.0).hess([0.0, 1.0, 3.0], 1.0)
        array([0.5, 0.5, 0. ])

        """
        return functional.smooth_l1_hess(
            x, target, beta=self.beta, reduction=self.reduction, **options
        )

    # What code written against a module asks for: there is no parameter, no
    # device and no mode, so each answers with nothing or with the module.

    def state_dict(self) -> dict[str, Any]:
        """Return no entries: the module learns nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept an empty state and refuse any other."""
        if state:
            raise ValueError(
                "state must be empty, since the loss learns nothing, got the keys "
                f"{sorted(map(str, state))}"
            )

    def num_params(self) -> int:
        """Return 0."""
        return 0

    def devices(self) -> list[Any]:
        """Return no devices: the loss is computed where the arrays are."""
        return []

    def to_device(self, device: Any) -> Self:
        """Return the module."""
        return self

    def fork(self, device: Any) -> Self:
        """Return the module."""
        return self

    def train(self) -> Self:
        """Return the module."""
        return self

    def eval(self) -> Self:
        """Return the module."""
        return self

    def valid(self) -> Self:
        """Return the module."""
        return self

    def no_grad(self) -> Self:
        """Return the module."""
        return self

    def clone(self) -> Self:
        """Return an equal module."""
        return replace(self)

    def visit(self, visitor: Callable[[Any], Any]) -> None:
        """Call the visitor on each parameter: never."""

    def map(self, mapper: Callable[[Any], Any]) -> Self:
        """Map each parameter, of which there are none."""
        return self

    def save_file(self, path: PathLike) -> None:
        """Write the module to a JSON file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            File to write; one that exists is replaced.

        Raises
        ------
        OSError
            If it cannot be written.

        """
        _save(path, type(self).__name__, asdict(self))

    @classmethod
    def load_file(cls, path: PathLike) -> Self:
        """Read a module that `save_file` wrote.

        Parameters
        ----------
        path : str or path-like
            File to read.

        Returns
        -------
        SmoothL1Loss

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If it holds something else.

        Examples
        --------
        >>> import tempfile
        >>> from smoothl1 import SmoothL1Loss
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     SmoothL1Loss(beta=0.5).save_file(f"{folder}/loss.json")
        ...     SmoothL1Loss.load_file(f"{folder}/loss.json")
        SmoothL1Loss(beta=0.5, reduction='mean')

        """
        return _load(path, cls)


@dataclass(frozen=True, slots=True)
class SmoothL1LossConfig:
    """Parameters of a `SmoothL1Loss` to be built.

    Parameters
    ----------
    beta : float, default 1.0
        Threshold of at least 0, in the unit of the operands.
    reduction : {"mean", "sum", "none", "auto"}, default "mean"
        How element losses are combined; "auto" is "mean".

    Raises
    ------
    TypeError, ValueError
        If a parameter is not one of these.

    Examples
    --------
    >>> from smoothl1 import SmoothL1LossConfig
    >>> SmoothL1LossConfig().with_beta(0.5).init()
    SmoothL1Loss(beta=0.5, reduction='mean')

    """

    beta: float = 1.0
    reduction: str = "mean"

    def __post_init__(self) -> None:
        _check_parameters(self)

    def with_beta(self, beta: float) -> Self:
        """Return a configuration with another threshold.

        Parameters
        ----------
        beta : float
            Threshold of at least 0, in the unit of the operands.

        Returns
        -------
        SmoothL1LossConfig

        """
        return replace(self, beta=beta)

    def with_reduction(self, reduction: str) -> Self:
        """Return a configuration with another reduction.

        Parameters
        ----------
        reduction : {"mean", "sum", "none", "auto"}
            How element losses are combined.

        Returns
        -------
        SmoothL1LossConfig

        """
        return replace(self, reduction=reduction)

    def init(self) -> SmoothL1Loss:
        """Build the module.

        Returns
        -------
        SmoothL1Loss

        """
        return SmoothL1Loss(reduction=self.reduction, beta=self.beta)

    def save(self, path: PathLike) -> None:
        """Write the configuration to a JSON file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            File to write; one that exists is replaced.

        Raises
        ------
        OSError
            If it cannot be written.

        """
        _save(path, type(self).__name__, asdict(self))

    @classmethod
    def load(cls, path: PathLike) -> Self:
        """Read a configuration that `save` wrote.

        Parameters
        ----------
        path : str or path-like
            File to read.

        Returns
        -------
        SmoothL1LossConfig

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If it holds something else.

        """
        return _load(path, cls)


def _check_parameters(record: SmoothL1Loss | SmoothL1LossConfig) -> None:
    beta = check_beta(record.beta)
    if not isinstance(beta, float):
        raise TypeError(f"beta of a module must be a number, got an array of shape {beta.shape}")
    check_reduction(record.reduction)
    object.__setattr__(record, "beta", beta)
    object.__setattr__(record, "reduction", str(Reduction(record.reduction)))


def _save(path: PathLike, kind: str, parameters: dict[str, Any]) -> None:
    target = Path(path).resolve()  # a link stays one
    text = json.dumps({"type": kind, **parameters}, indent=2) + "\n"
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:  # names the file that the caller knows
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _load(path: PathLike, kind: type[Any]) -> Any:
    name = os.fspath(path)
    content = Path(path).read_bytes()
    try:
        record = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{name} is not a JSON file: {error}") from None
    if not isinstance(record, dict) or "type" not in record:
        raise ValueError(f"{name} does not hold a {kind.__name__}: it has no entry 'type'")
    found = record.pop("type")
    if found != kind.__name__:
        raise ValueError(f"{name} does not hold a {kind.__name__}: its type is {found!r}")
    if set(record) != {"beta", "reduction"}:
        raise ValueError(
            f"{name} does not hold a {kind.__name__}: its entries must be type, beta and "
            f"reduction, got {', '.join(['type', *record])}"
        )
    try:
        return kind(**record)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not hold a valid {kind.__name__}: {error}") from None
