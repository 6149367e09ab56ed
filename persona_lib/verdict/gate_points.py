"""The gates of issue 262: an observed number against a bound, as registered."""

from __future__ import annotations

import math

from persona_lib.evidence.evidence import Evidence, priors_of
from persona_lib.specs.gate_types import FalsePositiveGate, SourceRateGate, SourceRatioGate
from persona_lib.stats.thresholds import above, at_least, shown
from persona_lib.verdict.gate_result import GateOutcome, Reading, point, rule

POINT_GATES = (SourceRateGate, SourceRatioGate, FalsePositiveGate)
"""Types of gates that are read on all training runs together, as registered."""


@rule(SourceRateGate)
def _source_rate(gate: SourceRateGate, evidence: Evidence) -> Reading:
    """As registered (M6): the point rate against the bound."""
    count = evidence.count(gate.arm, "source")
    outcome = point(count.rate, at_least(count.rate, gate.min_rate))
    text = f"{gate.arm} source rate {count.text}, needs >= {shown(gate.min_rate)}"
    return Reading(outcome, count.rate, gate.min_rate, text)


@rule(SourceRatioGate)
def _source_ratio(gate: SourceRatioGate, evidence: Evidence) -> Reading:
    treated = evidence.count(gate.treated, "source").rate
    control = evidence.count(gate.control, "source").rate
    ratio = treated / control if control > 0 else math.nan
    outcome = point(ratio, at_least(ratio, gate.min_ratio))
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
