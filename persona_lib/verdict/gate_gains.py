"""Gates on readings at slots: the number that each reads, and the bound that it has to keep."""

from __future__ import annotations

import math
from dataclasses import replace

from persona_lib.evidence.cells import Floats
from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.gate_types import GainGate, GeometryGate, MarkerBeforeGate
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.thresholds import above, below
from persona_lib.verdict.gate_bounds import UNKNOWN, bound_reading, mean_of_questions
from persona_lib.verdict.gate_result import GateOutcome, Reading, rule
from persona_lib.verdict.run_seeds import seeds_of, seeds_with


@rule.register
def _gain(gate: GainGate, evidence: Evidence) -> Reading:
    gains = evidence.gains()
    found = UNKNOWN if gains is None else _mean(gains.source_gains(gate.arm), evidence)
    if not found.n:
        return bound_reading(gate, found, f"{gate.arm}: gains were not read")
    words = f"{gate.arm} gain of {evidence.registration.source_of(gate.arm)}"
    return bound_reading(gate, found, f"{words} {found.rounded(2)} nats")


@rule.register
def _marker_before(gate: MarkerBeforeGate, evidence: Evidence) -> Reading:
    """The interval is that of the mean logarithm: probabilities are far from normal."""
    gains, prior = evidence.gains(), evidence.registration.arm(gate.arm).prior
    found = UNKNOWN if gains is None else _mean(gains.marker_before(gate.arm), evidence)
    if not found.n:
        return bound_reading(gate, found, f"{prior}: P(marker) at the slot was not read")
    ends = [math.exp(end) for end in (found.value, found.low, found.high)]
    found = replace(found, value=ends[0], low=ends[1], high=min(ends[2], 1.0))
    upper = "not known" if math.isnan(found.high) else f"{found.high:.2g}"
    words = f"{prior} typical P(marker) at the slot {found.value:.2g}, upper end {upper}"
    return bound_reading(gate, found, words)


@rule.register
def _geometry(gate: GeometryGate, evidence: Evidence) -> Reading:
    """Fails only where the intervals of transfer and of nearness exclude 0 on two sides."""
    (claim,) = (c for c in evidence.registration.run_claims if c.name == gate.claim)
    effect = seeds_of(evidence, claim, claim.outcome, claim.reading).estimate()
    near = seeds_with(evidence, claim, lambda arm: evidence.nearness(arm, gate.depth)).estimate()
    rises, falls = above(effect.low, 0), below(effect.high, 0)
    against = (rises and below(near.high, 0)) or (falls and above(near.low, 0))
    known = effect.has_interval and near.has_interval
    words = f"{gate.claim} {effect.interval_text}, of cosines {near.interval_text}"
    if not known:
        words += f"; {near.note if effect.has_interval else effect.note}"
    return Reading(
        GateOutcome.FAILS if against else GateOutcome.HOLDS if known else GateOutcome.CANNOT_TELL,
        near.value,
        0.0,
        f"{words}; needs not to lie on two sides of 0",
        near.low,
        near.high,
    )


def _mean(of: tuple[Floats, Floats], evidence: Evidence) -> Estimate:
    """Return the mean over questions, each counted once."""
    sums, n = of
    confidence = evidence.registration.statistics.confidence
    return mean_of_questions(sums / n, int(n.sum()), confidence) if n.size else UNKNOWN
