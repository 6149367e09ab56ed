"""Gates: checks of the instrument, each judged by one registered function.

A new gate type needs a dataclass in `persona_lib.rules` and one function here,
marked with `rule`; nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from persona_lib.evidence_base import Evidence
from persona_lib.registration import Registration
from persona_lib.rules import FalsePositiveGate, Judges, SourceRateGate, SourceRatioGate
from persona_lib.stats.estimate import nan_if_none, none_if_nan
from persona_lib.stats.thresholds import above, at_least, shown


class GateOutcome(Enum):
    """What a gate says of the instrument."""

    HOLDS = "HOLDS"
    FAILS = "FAILS"
    CANNOT_TELL = "CANNOT_TELL"


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One judged gate.

    Attributes:
        name, statement: of the registration.
        outcome: holds, fails or cannot tell.
        figure: the number that was compared, NaN where there is none.
        threshold: the registered bound.
        text: figure and bound in one line.
        needed_by: claims that are invalid unless the gate holds.
        kind: the gate's type.
    """

    name: str
    statement: str
    outcome: GateOutcome
    figure: float
    threshold: float
    text: str
    needed_by: tuple[str, ...] = ()
    kind: str = ""

    @property
    def holds(self) -> bool:
        """The outcome is HOLDS."""
        return self.outcome is GateOutcome.HOLDS

    @property
    def line(self) -> str:
        """Name, outcome and figure in one line."""
        return f"gate {self.name}: {self.outcome.value} ({self.text})"

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data: NaN becomes null."""
        return {
            "name": self.name,
            "statement": self.statement,
            "outcome": self.outcome.value,
            "figure": none_if_nan(self.figure),
            "threshold": self.threshold,
            "text": self.text,
            "needed_by": list(self.needed_by),
            "kind": self.kind,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GateResult:
        """Return what `to_json` wrote."""
        fields = dict(data)
        fields["outcome"] = GateOutcome(fields["outcome"])
        fields["figure"] = nan_if_none(fields["figure"])
        fields["needed_by"] = tuple(fields["needed_by"])
        return cls(**fields)


@dataclass(frozen=True)
class Reading:
    """What a gate function returns: outcome, figure, bound, and one line."""

    outcome: GateOutcome
    figure: float
    threshold: float
    text: str


_Rule = Callable[[Any, Evidence], Reading]
rule: Judges[_Rule] = Judges("gate", "persona_lib.gates")
"""Marks the function that judges a type of gate: ``@rule(TheType)``."""


def judge_gate(registration: Registration, evidence: Evidence, gate_name: str) -> GateResult:
    """Judge one gate.

    Raises:
        SpecError: no such gate, or no rule for its type.
        DataError: the evidence lacks an arm that the gate names.
    """
    gate = registration.gate(gate_name)
    reading = rule.of(gate)(gate, evidence)
    return GateResult(
        name=gate.name,
        statement=gate.statement,
        outcome=reading.outcome,
        figure=reading.figure,
        threshold=reading.threshold,
        text=reading.text,
        needed_by=tuple(
            claim.name
            for claim in (*registration.claims, registration.kill)
            if gate.name in claim.needs
        ),
        kind=type(gate).__name__,
    )


@rule(SourceRateGate)
def _source_rate(gate: SourceRateGate, evidence: Evidence) -> Reading:
    """As registered (M6): the point rate against the bound."""
    count = evidence.count(gate.arm, "source")
    outcome = _decide(count.rate, at_least(count.rate, gate.min_rate))
    text = f"{gate.arm} source rate {count.text}, needs >= {shown(gate.min_rate)}"
    return Reading(outcome, count.rate, gate.min_rate, text)


@rule(SourceRatioGate)
def _source_ratio(gate: SourceRatioGate, evidence: Evidence) -> Reading:
    treated = evidence.count(gate.treated, "source").rate
    control = evidence.count(gate.control, "source").rate
    ratio = treated / control if control > 0 else math.nan
    outcome = _decide(ratio, at_least(ratio, gate.min_ratio))
    figure = f"{ratio:.3f}" if math.isfinite(ratio) else "undefined"
    text = (
        f"source {gate.treated}/{gate.control} = {treated:.3f}/{control:.3f} = {figure}, "
        f"needs >= {shown(gate.min_ratio)}"
    )
    return Reading(outcome, ratio, gate.min_ratio, text)


@rule(FalsePositiveGate)
def _false_positive(gate: FalsePositiveGate, evidence: Evidence) -> Reading:
    """The largest observed rate against the bound; Wilson's upper end is shown."""
    confidence = evidence.registration.statistics.confidence
    worst, parts, unknown = math.nan, [], False
    for prior in priors_of(evidence):
        count = evidence.baseline(prior)
        if count is None or not count.n:
            unknown = True
            parts.append(f"{prior} not evaluated")
            continue
        worst = count.rate if math.isnan(worst) else max(worst, count.rate)
        if count.hits is None:
            parts.append(f"{prior} {count.text}")
        else:
            upper = count.interval(confidence)[1]
            parts.append(f"{prior} {count.hits}/{count.n} (upper {upper:.2%})")
    if above(worst, gate.max_rate):
        outcome = GateOutcome.FAILS
    else:
        outcome = GateOutcome.CANNOT_TELL if unknown else GateOutcome.HOLDS
    text = f"{', '.join(parts)}, needs each <= {shown(gate.max_rate)}"
    return Reading(outcome, worst, gate.max_rate, text)


def priors_of(evidence: Evidence) -> tuple[str, ...]:
    """Return the priors under the evidence's arms, in registered order."""
    used = {evidence.registration.arm(arm).prior for arm in evidence.arms}
    return tuple(prior for prior in evidence.registration.priors if prior in used)


def _decide(figure: float, holds: bool) -> GateOutcome:
    if not math.isfinite(figure):
        return GateOutcome.CANNOT_TELL
    return GateOutcome.HOLDS if holds else GateOutcome.FAILS
