"""What the code of kernels depends on: forms of elements and of their sums."""

from __future__ import annotations

from dataclasses import dataclass, replace

OPERANDS = ("x", "target", "betas", "weight", "where", "factor", "divisors")
Flags = tuple[bool, bool, bool]  # whether there are sums of losses, of weights and of slopes


@dataclass(frozen=True, slots=True)
class Form:
    """How elements are read, computed and written.

    ``reads`` and ``writes`` name functions of `cuda_numbers`; "" is absent.
    """

    reads: tuple[str, ...]  # in the order of OPERANDS
    writes: tuple[str, str] = ("", "")  # elementwise losses and slopes
    wide: bool = False
    large: bool = False  # positions, or places in memory, need more than 31 bits
    huber: bool = False
    curvature: bool = False
    coarse: bool = False  # all results have 16 bits

    def is_plain(self) -> bool:
        """Whether all but x and target are scalars, and nothing but slopes is asked.

        A loss and its gradient agree in this, so that their losses have the same bits.
        """
        scalar = not any(self.reads[2:])
        return scalar and not (self.wide or self.huber or self.curvature)


@dataclass(frozen=True, slots=True)
class Sums:
    """How sums of losses, of weights and of slopes are stored; "" is absent."""

    loss: str = ""
    weight: str = ""
    slope: str = ""
    by_weight: bool = False  # the sum of losses is divided by that of weights

    def flags(self) -> Flags:
        """Which sums are made."""
        return bool(self.loss), bool(self.weight) or self.by_weight, bool(self.slope)

    def kept(self, direct: bool) -> Sums:
        """What kernels depend on that finish sums, or put them into parts whatever they are."""
        if direct:
            return self
        loss, weight, slope = ("wide" if flag else "" for flag in self.flags())
        return Sums(loss, weight, slope)

    def of_total(self) -> Sums:
        """Those of losses and weights."""
        return replace(self, slope="")

    def of_slopes(self) -> Sums:
        """Those of slopes."""
        return Sums(slope=self.slope)


def rows_of(flags: Flags) -> tuple[int, int, int]:
    """Rows that sums of losses, of weights and of slopes have in parts."""
    loss, weight, _ = flags
    return 0, int(loss), int(loss) + int(weight)
