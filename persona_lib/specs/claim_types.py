"""The types of claims and of kill criteria, as data.

The types of gates are in `persona_lib.specs.gate_types`. A rule names in `arms` the arms it
reads; a claim over training runs names cells, and `Registration.reads` knows their arms.
Thresholds are checked when a rule is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from persona_lib.checks import LEVEL, NOT_NEGATIVE, POSITIVE, SHARE, Bound, member, number
from persona_lib.errors import SpecError
from persona_lib.records import OUTCOMES, OWN, RATE, READINGS, SYSTEM, TRANSFER
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


_WEIGHT = Bound("finite and not 0", lambda x: 0 < abs(x) < float("inf"))
_TIE = 1e-9
"""Weights whose sum is nearer to 0 than this cancel: 0.1 + 0.2 - 0.3 is 6e-17."""


@dataclass(frozen=True, kw_only=True)
class _RunClaim:
    """Claim: a contrast of cells over training runs is above `smallest`.

    `persona_lib.verdict.run_claims` has the rule.

    Attributes:
        smallest: d, the smallest rise worth publishing, in units of the outcome.
        outcome: one of `persona_lib.records.OUTCOMES`; the others are sensitivities.
        reading: one of `persona_lib.records.READINGS`; of a rate, ``own``.
    """

    name: str
    statement: str
    smallest: float
    needs: tuple[str, ...] = ()
    outcome: str = TRANSFER
    reading: str = SYSTEM

    def __post_init__(self) -> None:
        number(f"{self.name}.smallest", self.smallest, POSITIVE, remedy="Give a rise to publish.")
        member(f"{self.name}.outcome", self.outcome, OUTCOMES, remedy="Name an outcome.")
        known = (OWN,) if self.outcome == RATE else READINGS
        member(f"{self.name}.reading", self.reading, known, remedy="Name a reading of it.")

    @property
    def consults(self) -> tuple[str, ...]:
        """The gates that are judged with the claim."""
        return self.needs


@dataclass(frozen=True, kw_only=True)
class RunDifference(_RunClaim):
    """Claim over training runs: the cell `treated` minus the cell `control`."""

    treated: str
    control: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, {})

    @property
    def weights(self) -> Mapping[str, float]:
        """Return the weight of each cell."""
        return {self.treated: 1.0, self.control: -1.0}


@dataclass(frozen=True, kw_only=True)
class RunContrast(_RunClaim):
    """Claim over training runs: a weighted sum of cells, whose weights sum to 0.

    An interaction is ``{E1 = 1, E0 = -1, B1 = -1, B0 = 1}``.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        for cell, weight in self.weights.items():
            field = f"{self.name}.weights.{cell}"
            number(field, weight, _WEIGHT, remedy="Leave a cell out that does not count.")
        signs = {weight > 0 for weight in self.weights.values()}
        if len(signs) < 2 or abs(sum(self.weights.values())) > _TIE:  # noqa: PLR2004
            raise SpecError(
                f"{self.name}.weights",
                bound="weights above 0 and below 0 whose sum is 0",
                value=dict(self.weights),
                remedy="Compare cells: what is added on one side is taken off on the other.",
            )


@dataclass(frozen=True, kw_only=True)
class RunKill:
    """The hypothesis is falsified when the interval of a claim over runs ends below `max_effect`.

    It reads what that claim reads, and decides nothing else.
    """

    name: str
    statement: str
    claim: str
    max_effect: float
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        remedy = "Give the effect below which the claim is given up."
        number(f"{self.name}.max_effect", self.max_effect, NOT_NEGATIVE, remedy=remedy)

    @property
    def consults(self) -> tuple[str, ...]:
        """The gates that are judged with the criterion."""
        return self.needs


RunClaim = RunDifference | RunContrast
Claim = DifferenceClaim | TriageClaim | RunDifference | RunContrast
Kill = KillCriterion | RunKill
Rule = Claim | Kill | Gate
