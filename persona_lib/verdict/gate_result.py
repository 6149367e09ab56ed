"""The result of a gate, and how an interval decides it: holds, fails or cannot tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import singledispatch
from typing import Any

from persona_lib.errors import SpecError
from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.gate_types import Gate
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.thresholds import above, at_least, at_most, below
from persona_lib.verdict.as_json import AsJson
from persona_lib.verdict.conditions import Condition


class GateOutcome(Enum):
    """The outcome of a check of the instrument."""

    HOLDS = "HOLDS"
    FAILS = "FAILS"
    CANNOT_TELL = "CANNOT_TELL"


@dataclass(frozen=True, kw_only=True)
class GateResult(AsJson):
    """One judged gate.

    Attributes:
        figure: the number that was compared, NaN if there is none.
        threshold: the registered bound; of two, the nearer.
        text: figure and bound in one line.
        low, high: ends of the figure's interval, NaN if there is none.
        needed_by: claims that are invalid unless the gate holds.
        kind: the gate's type.
        order: its place among the gates of its registration.
        conditions: the bounds that were compared; empty in older files.
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
    conditions: tuple[Condition, ...] = ()

    def __repr__(self) -> str:
        """Return one short line: pytest prints it beside a traceback."""
        return f"<{type(self).__name__} {self.name} {self.outcome.value}>"

    @property
    def holds(self) -> bool:
        """The outcome is HOLDS."""
        return self.outcome is GateOutcome.HOLDS

    @property
    def line(self) -> str:
        """Name, outcome and figure in one line."""
        return f"gate {self.name}: {self.outcome.value} ({self.text})"


@dataclass(frozen=True)
class Reading:
    """What a gate function returns; attributes as in `GateResult`.

    `parts` are all numbers, if several each have to keep the bound; the figure is the worst.
    """

    outcome: GateOutcome
    figure: float
    threshold: float
    text: str
    low: float = math.nan
    high: float = math.nan
    parts: tuple[Estimate, ...] = ()
    conditions: tuple[Condition, ...] = ()


@singledispatch
def rule(gate: Gate, evidence: Evidence) -> Reading:  # noqa: ARG001
    """Read a gate by the function of its type, which ``@rule.register`` marks.

    Raises:
        SpecError: no function is registered for its type.
        DataError: the evidence contradicts itself.
    """
    raise without_rule(f"gate {gate.name}", gate, "persona_lib.verdict.gate_bounds", rule.registry)


def without_rule(field: str, given: object, module: str, known: Mapping[type, Any]) -> SpecError:
    """Return the error for a type of claim or gate that nothing in `module` judges."""
    types = (kind.__name__ for kind in known if kind is not object)
    return SpecError(
        field,
        bound=f"a type of {', '.join(types)}",
        value=type(given).__name__,
        remedy=f"Write a rule for this type in {module}.",
    )


def bounded(interval: Estimate, *, least: float = -math.inf, most: float = math.inf) -> GateOutcome:
    """Return HOLDS if all of an interval lies within [least, most], FAILS if no part does.

    CANNOT_TELL if it crosses a bound or there is none.
    """
    if not interval.has_interval:
        return GateOutcome.CANNOT_TELL
    if at_least(interval.low, least) and at_most(interval.high, most):
        return GateOutcome.HOLDS
    if below(interval.high, least) or above(interval.low, most):
        return GateOutcome.FAILS
    return GateOutcome.CANNOT_TELL
