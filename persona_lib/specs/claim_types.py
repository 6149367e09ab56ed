"""The types of claims and the kill criterion, as data.

The types of gates are in `persona_lib.specs.gate_types`. Each rule names in `arms` the arms
it reads. Thresholds are checked when a rule is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from persona_lib.checks import LEVEL, SHARE
from persona_lib.errors import SpecError
from persona_lib.specs.gate_types import Gate, check


@dataclass(frozen=True, kw_only=True)
class _Claim:
    name: str
    statement: str
    treated: str
    control: str
    needs: tuple[str, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that the claim reads."""
        return (self.treated, self.control)

    @property
    def consults(self) -> tuple[str, ...]:
        """The gates that are judged with the claim."""
        return self.needs


@dataclass(frozen=True, kw_only=True)
class DifferenceClaim(_Claim):
    """Claim: mean bystander rate of `treated` minus that of `control` is large.

    Holds when the difference is >= `min_effect` and p < `max_p`. Where
    `ratio_gate` names a source ratio gate that does not hold, the same rule
    must also hold for bystander rate / source rate.
    """

    min_effect: float
    max_p: float
    ratio_gate: str | None = None

    def __post_init__(self) -> None:
        check(self, {"min_effect": SHARE, "max_p": LEVEL})

    @property
    def consults(self) -> tuple[str, ...]:
        """The gates that are judged with the claim: those it needs, and its ratio gate."""
        return (*self.needs, self.ratio_gate) if self.ratio_gate else self.needs


@dataclass(frozen=True, kw_only=True)
class TriageClaim(_Claim):
    """Claim: the difference `treated` - `control` is an artefact of coupling text or not.

    `null_label` if |d| <= `null_effect`, p > `null_min_p` and the interval's
    lower end > -`null_effect`; `artefact_label` if d >= `artefact_effect`;
    otherwise ``ambiguous``. The claim passes on `null_label`.
    """

    null_effect: float
    null_min_p: float
    artefact_effect: float
    null_label: str
    artefact_label: str

    def __post_init__(self) -> None:
        check(self, {"null_effect": SHARE, "artefact_effect": SHARE, "null_min_p": LEVEL})
        if not self.null_effect < self.artefact_effect:
            raise SpecError(
                f"{self.name}.artefact_effect",
                bound=f"above null_effect = {self.null_effect}",
                value=self.artefact_effect,
                remedy="Leave room between the two labels: one effect cannot have both.",
            )


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
        check(self, {"max_rate": SHARE})

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
