"""Gates on texts: voices and domain of pre-coupling models, lengths of two arms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from persona_lib.evidence.cells import Floats
from persona_lib.evidence.evidence import Evidence
from persona_lib.records import POST, ModelId
from persona_lib.specs.gate_types import DomainGate, LengthGate, RecognisedGate
from persona_lib.specs.registration import RAW
from persona_lib.stats.clustered import difference, median_ratio, share
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import interval as t_interval
from persona_lib.stats.moments import persona_moments
from persona_lib.verdict.gate_bounds import UNKNOWN, bound_reading, finished_lengths
from persona_lib.verdict.gate_result import Reading, rule


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
    found = rise(one, two, _confidence(evidence))
    shares = [float(hits.sum() / n.sum()) for hits, n in (one, two)]
    words = (
        f"answers on domain {priors[0]} {shares[0]:.3f} - {priors[1]} {shares[1]:.3f} = "
        f"{found.interval_text}"
    )
    return bound_reading(gate, found, words)


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


def rise(one: tuple[Floats, Floats], two: tuple[Floats, Floats], confidence: float) -> Estimate:
    """Return the difference of two models' shares of answers, paired by persona and question.

    Student's t over personas and questions, crossed (`persona_moments`): personas could have been
    others. Where no cell differs from another there is no spread to measure: the interval is
    then Newcombe's of the two clustered shares, as if they were independent.

    Args:
        one: (P, Q) hits and (P, Q) answers of a model, none of these 0.
        two: the same of the other model.
        confidence: level of the interval.
    """
    (hits, n), (others, m) = one, two
    moments = persona_moments(hits / n - others / m)
    low, high = (float(end) for end in t_interval(moments, confidence))
    if math.isnan(low):
        return difference(share(hits, n, confidence), share(others, m, confidence))
    size = {"n": int(n.sum() + m.sum()), "clusters": min(x for x in np.shape(n))}
    return Estimate.plain(value=float(moments.value), low=low, high=high, **size)


def _confidence(evidence: Evidence) -> float:
    return evidence.registration.statistics.confidence
