"""The loss as a value object with the interface of a module without state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from . import functional
from .validate import Array, Reduction, check_beta, check_reduction

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
        """Return the parameters as ``repr`` shows them."""
        return f"beta={self.beta!r}, reduction={self.reduction!r}"

    def forward(self, x: Any, target: Any, **options: Any) -> Any:
        """Loss of ``x - target``; options are those of `smooth_l1_loss`."""
        return self.forward_with_reduction(x, target, self.reduction, **options)

    def __call__(self, x: Any, target: Any, **options: Any) -> Any:
        """Return `forward` of the arguments."""
        return self.forward(x, target, **options)

    def forward_with_reduction(self, x: Any, target: Any, reduction: str, **options: Any) -> Any:
        """Loss with another reduction than this module's."""
        return functional.smooth_l1_loss(x, target, beta=self.beta, reduction=reduction, **options)

    def forward_reduce_dims(self, x: Any, target: Any, dims: Iterable[int]) -> Any:
        """Mean over ``dims``, in any order, kept with size 1; [] reduces nothing."""
        if not isinstance(dims, Iterable):
            raise TypeError(f"dims must be a sequence of integers, got {dims!r}")
        return self.forward_with_reduction(x, target, "mean", axis=tuple(dims), keepdims=True)

    def grad(self, x: Any, target: Any, **options: Any) -> Array:
        """Gradient; options are those of `smooth_l1_grad`."""
        return functional.smooth_l1_grad(
            x, target, beta=self.beta, reduction=self.reduction, **options
        )

    def value_and_grad(self, x: Any, target: Any, **options: Any) -> tuple[Any, Array]:
        """Loss and gradient; options are those of `smooth_l1_value_and_grad`."""
        return functional.smooth_l1_value_and_grad(
            x, target, beta=self.beta, reduction=self.reduction, **options
        )

    def hess(self, x: Any, target: Any, **options: Any) -> Array:
        """Diagonal of the Hessian; options are those of `smooth_l1_hess`."""
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
            raise ValueError(f"state must be empty, got the keys {sorted(map(str, state))}")

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
        """Write the module to a JSON file, whole or not at all."""
        _save(path, type(self).__name__, asdict(self))

    @classmethod
    def load_file(cls, path: PathLike) -> Self:
        """Read a module that `save_file` wrote."""
        return _load(path, cls)


@dataclass(frozen=True, slots=True)
class SmoothL1LossConfig:
    """Parameters of a `SmoothL1Loss` to be built.

    Parameters
    ----------
    beta : float, default 1.0
        Threshold, at least 0.
    reduction : {"mean", "sum", "none", "auto"}, default "mean"
        How element losses are combined.

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
        """Return a configuration with another threshold."""
        return replace(self, beta=beta)

    def with_reduction(self, reduction: str) -> Self:
        """Return a configuration with another reduction."""
        return replace(self, reduction=reduction)

    def init(self) -> SmoothL1Loss:
        """Build the module."""
        return SmoothL1Loss(reduction=self.reduction, beta=self.beta)

    def save(self, path: PathLike) -> None:
        """Write the configuration to a JSON file, whole or not at all."""
        _save(path, type(self).__name__, asdict(self))

    @classmethod
    def load(cls, path: PathLike) -> Self:
        """Read a configuration that `save` wrote."""
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
    finally:
        partial.unlink(missing_ok=True)


def _load(path: PathLike, kind: type[Any]) -> Any:
    name = os.fspath(path)
    content = Path(path).read_bytes()
    try:
        record = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{name} is not a JSON file: {error}") from None
    found = record.pop("type", None) if isinstance(record, dict) else None
    if found != kind.__name__ or set(record) != {"beta", "reduction"}:
        raise ValueError(f"{name} does not hold a {kind.__name__}")
    try:
        return kind(**record)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not hold a valid {kind.__name__}: {error}") from None
