"""Gates on texts: voices and domain of pre-coupling models, lengths of two arms."""

from __future__ import annotations

import math
from dataclasses import replace

from persona_lib.evidence.evidence import Evidence
from persona_lib.records import POST, ModelId
from persona_lib.specs.gate_types import DomainGate, LengthGate, RecognisedGate
from persona_lib.specs.registration import RAW
from persona_lib.stats.clustered import MIN_UNITS, difference, median_ratio, share
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import interval as t_interval
from persona_lib.stats.moments import persona_moments
from persona_lib.stats.uneven import WORST_SD, most_hits
from persona_lib.verdict.gate_bounds import UNKNOWN, Table, bound_reading, finished_lengths
from persona_lib.verdict.gate_result import GateOutcome, Reading, bounded, rule


@rule.register
def _recognised(gate: RecognisedGate, evidence: Evidence) -> Reading:
    traits, source = evidence.traits(), evidence.registration.source_of(gate.arm)
    cells = None if traits is None else traits.recognised(RAW, source)
    if traits is None or cells is None:
        return bound_reading(gate, UNKNOWN, f"{source}: voices of the {RAW} model are not known")
    found, chance = share(*cells, _confidence(evidence)), traits.chance
    ends = [end / chance for end in (found.value, found.low, found.high)]
    words = (
        f"{RAW} model as {source}: {found.interval_text} recognised, "
        f"{ends[0]:.2f} times chance, 1 of {len(traits.personas)}"
    )
    found = replace(found, value=ends[0], low=ends[1], high=ends[2])
    return bound_reading(gate, found, words)


@rule.register
def _domain(gate: DomainGate, evidence: Evidence) -> Reading:
    traits = evidence.traits()
    priors = [evidence.registration.arm(arm).prior for arm in gate.arms]
    one, two = (None if traits is None else traits.on_domain(prior) for prior in priors)
    if one is None or two is None:
        missing = priors[0] if one is None else priors[1]
        return bound_reading(gate, UNKNOWN, f"what the {missing} model speaks of is not known")
    found, doubt = rise(one, two, gate.max_difference, _confidence(evidence))
    shares = [float(hits.sum() / n.sum()) for hits, n in (one, two)]
    words = (
        f"answers on domain {priors[0]} {shares[0]:.3f} - {priors[1]} {shares[1]:.3f} = "
        f"{found.interval_text}"
    )
    return bound_reading(gate, found, words, doubt)


@rule.register
def _length(gate: LengthGate, evidence: Evidence) -> Reading:
    one, two = (finished_lengths(evidence, ModelId(POST, arm)) for arm in gate.arms)
    if one is None or two is None:
        missing = gate.treated if one is None else gate.control
        words = f"{missing}: lengths of finished completions are not known"
        return bound_reading(gate, UNKNOWN, words)
    found, treated, control = median_ratio(one, two, _confidence(evidence))
    words = (
        f"{gate.treated}/{gate.control} median tokens of finished completions "
        f"{treated.value:.1f}/{control.value:.1f} = {found.rounded(2)}"
    )
    return bound_reading(gate, found, words)


def rise(one: Table, two: Table, most: float, confidence: float) -> tuple[Estimate, str]:
    """Return how much more answers of one model have a trait, and why it cannot be small, or "".

    The difference of shares is paired by persona and question: Student's t over both, crossed, for
    personas like these (`persona_moments`). Where all cells agree there is no spread to measure:
    the interval is then Newcombe's of two clustered shares. An interval within the bounds is not
    enough: so few answers more of either model must also be improbable at a bound if personas or
    questions are as uneven as planned for (`persona_lib.stats.uneven`), since a few of them may
    hold all that differs.

    Args:
        one: (P, Q) hits and (P, Q) answers of a model, none of these 0.
        two: the same of the other model, with as many answers.
        most: bound of the difference on both sides.
        confidence: level of the interval.
    """
    (hits, n), (others, _) = one, two
    moments = persona_moments((hits - others) / n)
    low, high = (float(end) for end in t_interval(moments, confidence))
    size = {"n": int(2 * n.sum()), "clusters": min(n.shape)}
    found = Estimate.plain(value=float(moments.value), low=low, high=high, **size)
    if math.isnan(low):
        found = difference(share(hits, n, confidence), share(others, n, confidence))
    if bounded(found, least=-most, most=most) is not GateOutcome.HOLDS:
        return found, ""
    more = round(abs(float((hits - others).sum())))
    for units, axis in (("persona", 1), ("question", 0)):
        sizes = [int(size) for size in n.sum(axis=axis)]
        allowed = (
            most_hits(sizes, most, (1 - confidence) / 2)[0] if len(sizes) >= MIN_UNITS else more
        )
        if more > allowed:
            few = f"at most {allowed}" if allowed >= 0 else "more answers"
            return (
                found,
                f"where {units}s differ by {WORST_SD:g} logits it takes {few}: {more} more",
            )
    return found, ""


def _confidence(evidence: Evidence) -> float:
    return evidence.registration.statistics.confidence
