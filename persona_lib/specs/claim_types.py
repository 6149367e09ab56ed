"""The rules of a registration: claims and the kill criterion, as data.

The types of gates are in `persona_lib.specs.gate_types`. Each rule says in `arms` which arms
it reads, so that nothing else has to know its type to run what it needs. Thresholds
check themselves when a rule is made. `Judges` keeps, for each type of rule, the one
function that judges it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from persona_lib.checks import LEVEL, SHARE
from persona_lib.errors import SpecError
from persona_lib.specs.gate_types import Gate, check, two_arms


@dataclass(frozen=True, kw_only=True)
class DifferenceClaim:
    """Claim: mean bystander rate of `treated` minus that of `control` is large.

    Holds when the difference is >= `min_effect` and p < `max_p`. Where
    `ratio_gate` names a source ratio gate that does not hold, the same rule
    must also hold for bystander rate / source rate.
    """

    name: str
    statement: str
    treated: str
    control: str
    min_effect: float
    max_p: float
    needs: tuple[str, ...] = ()
    ratio_gate: str | None = None

    def __post_init__(self) -> None:
        two_arms(self)
        check(self, SHARE, "min_effect")
        check(self, LEVEL, "max_p", remedy="Give a significance level.")

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that the claim reads."""
        return (self.treated, self.control)

    @property
    def consults(self) -> tuple[str, ...]:
        """The gates that are judged with the claim: those it needs, and its ratio gate."""
        return (*self.needs, self.ratio_gate) if self.ratio_gate else self.needs


@dataclass(frozen=True, kw_only=True)
class TriageClaim:
    """Claim: the difference `treated` - `control` is an artefact of coupling text or not.

    `null_label` if |d| <= `null_effect`, p > `null_min_p` and the interval's
    lower end > -`null_effect`; `artefact_label` if d >= `artefact_effect`;
    otherwise ``ambiguous``. The claim passes on `null_label`.
    """

    name: str
    statement: str
    treated: str
    control: str
    null_effect: float
    null_min_p: float
    artefact_effect: float
    null_label: str
    artefact_label: str
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        two_arms(self)
        check(self, SHARE, "null_effect", "artefact_effect")
        check(self, LEVEL, "null_min_p", remedy="Give a significance level.")
        if not self.null_effect < self.artefact_effect:
            raise SpecError(
                f"{self.name}.artefact_effect",
                bound=f"above null_effect = {self.null_effect}",
                value=self.artefact_effect,
                remedy="Leave room between the two labels: one effect cannot have both.",
            )

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that the claim reads."""
        return (self.treated, self.control)

    @property
    def consults(self) -> tuple[str, ...]:
        """The gates that are judged with the claim."""
        return self.needs


@dataclass(frozen=True, kw_only=True)
class KillCriterion:
    """The hypothesis is falsified when `arm`'s mean bystander rate is <= `max_rate`.

    Above it with `claim` not met lies the ambiguous zone: no claim.
    """

    name: str
    statement: str
    arm: str
    max_rate: float
    claim: str
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self, SHARE, "max_rate")

    @property
    def arms(self) -> tuple[str, ...]:
        """The arm that the criterion reads."""
        return (self.arm,)

    @property
    def consults(self) -> tuple[str, ...]:
        """The gates that are judged with the criterion."""
        return self.needs


Claim = DifferenceClaim | TriageClaim
Rule = Claim | KillCriterion | Gate

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Judges(Generic[_Function]):
    """One function for each type of rule.

    Used as a decorator, ``@rule(TheType)``, it registers the function that
    judges rules of that type.

    Args:
        kind: ``claim`` or ``gate``, for messages.
        module: where a new function belongs, for messages.
    """

    def __init__(self, kind: str, module: str) -> None:
        self._kind = kind
        self._module = module
        self._functions: dict[type[Any], _Function] = {}

    def __call__(self, rule_type: type[Any]) -> Callable[[_Function], _Function]:
        """Return the decorator that registers a function for a type."""

        def register(function: _Function) -> _Function:
            self._functions[rule_type] = function
            return function

        return register

    def of(self, rule: Any) -> _Function:
        """Return the function that judges this rule.

        Raises:
            SpecError: no function is registered for its type.
        """
        if type(rule) not in self._functions:
            raise SpecError(
                f"{self._kind} {rule.name}",
                bound=f"a type of {', '.join(known.__name__ for known in self._functions)}",
                value=type(rule).__name__,
                remedy=f"Write a rule for this type in {self._module}.",
            )
        return self._functions[type(rule)]
