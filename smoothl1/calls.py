"""One call of a public function, as arrays of other libraries take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .problem import Problem, check
from .validate import check_grad_output, check_wrt

ARRAYS = ("x", "target", "beta", "delta", "weight", "where", "grad_output", "out", "grad_out")


class Wanted(Enum):
    """What a call computes."""

    LOSS = 1
    HUBER = 2
    GRAD = 3
    VALUE_AND_GRAD = 4
    HESS = 5


@dataclass(frozen=True, slots=True)
class Call:
    """A public function and all of its arguments, by name."""

    function: Callable[..., Any]
    wanted: Wanted
    arguments: dict[str, Any]

    @property
    def beta_name(self) -> str:
        """Name of the threshold."""
        return "delta" if self.wanted is Wanted.HUBER else "beta"

    @property
    def wrt(self) -> str:
        """Argument that the call differentiates by."""
        return self.arguments.get("wrt", "x")

    def arrays(self) -> dict[str, Any]:
        """Arguments that may be arrays, those left out excepted."""
        given = self.arguments
        return {name: given[name] for name in ARRAYS if given.get(name) is not None}

    def having(self, **arguments: Any) -> Call:
        """Return the call with other values of some arguments."""
        return Call(self.function, self.wanted, self.arguments | arguments)

    def shared(self) -> dict[str, Any]:
        """Arguments that all functions have."""
        own = ("out", "grad_out", "wrt", "grad_output")
        return {name: value for name, value in self.arguments.items() if name not in own}

    def run(self) -> Any:
        """Run it."""
        return self.function(**self.arguments)

    def check(self) -> Problem:
        """Check all arguments but outputs."""
        check_wrt(self.wrt)
        shared = self.shared()
        beta = shared.pop(self.beta_name)
        problem = check(**shared, beta=beta, beta_name=self.beta_name)
        check_grad_output(self.arguments.get("grad_output"), problem.plan().result_shape)
        return problem
