"""What a judged gate is, and how a number and its interval decide one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.claim_types import Judges
from persona_lib.stats.estimate import Estimate, nan_if_none, none_if_nan
from persona_lib.stats.thresholds import above, at_least, at_most, below


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
        low, high: ends of the figure's interval, NaN where there is none.
        needed_by: claims that are invalid unless the gate holds.
        kind: the gate's type.
        order: its place among the gates of its registration.
    """

    name: str
    statement: str
    outcome: GateOutcome
    figure: float
    threshold: float
    text: str
    low: float = math.nan
    high: float = math.nan
    needed_by: tuple[str, ...] = ()
    kind: str = ""
    order: int = 0

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
            "threshold": none_if_nan(self.threshold),
            "text": self.text,
            "low": none_if_nan(self.low),
            "high": none_if_nan(self.high),
            "needed_by": list(self.needed_by),
            "kind": self.kind,
            "order": self.order,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GateResult:
        """Return what `to_json` wrote."""
        fields = dict(data)
        fields["outcome"] = GateOutcome(fields["outcome"])
        for name in ("figure", "threshold", "low", "high"):
            fields[name] = nan_if_none(fields[name])
        fields["needed_by"] = tuple(fields["needed_by"])
        return cls(**fields)


@dataclass(frozen=True)
class Reading:
    """What a gate function returns: outcome, figure, bound, one line, and an interval.

    Attributes:
        parts: where several numbers each have to keep the bound, all of them; the figure
            is then the worst. Empty where the figure is the only one.
    """

    outcome: GateOutcome
    figure: float
    threshold: float
    text: str
    low: float = math.nan
    high: float = math.nan
    parts: tuple[Estimate, ...] = ()


_Rule = Callable[[Any, Evidence], Reading]
rule: Judges[_Rule] = Judges("gate", "persona_lib.verdict.gate_bounds")
"""Marks the function that judges a type of gate: ``@rule(TheType)``."""


def point(figure: float, holds: bool) -> GateOutcome:
    """Return the outcome of a point rule: it cannot tell where there is no figure."""
    if not math.isfinite(figure):
        return GateOutcome.CANNOT_TELL
    return GateOutcome.HOLDS if holds else GateOutcome.FAILS


def bounded(interval: Estimate, *, least: float = -math.inf, most: float = math.inf) -> GateOutcome:
    """Return the outcome of a three-way rule: does the number lie within [least, most]?

    It holds where the whole interval does, fails where no part of the interval does, and
    cannot tell where the interval crosses a bound or there is none.
    """
    if math.isnan(interval.low) or math.isnan(interval.high):
        return GateOutcome.CANNOT_TELL
    if at_least(interval.low, least) and at_most(interval.high, most):
        return GateOutcome.HOLDS
    if below(interval.high, least) or above(interval.low, most):
        return GateOutcome.FAILS
    return GateOutcome.CANNOT_TELL
