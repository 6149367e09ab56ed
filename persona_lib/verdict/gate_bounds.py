"""Gates with a three-way answer: an interval against a bound.

A gate on all personas speaks of personas like these: both personas and questions are its
clusters. A share of theirs keeps an upper bound only where its interval does and, beside
it, few hits would be improbable at the bound were personas or questions as uneven as is
planned for (`persona_lib.stats.uneven`): so few clusters do not show how unlike they are.

Published totals have no questions to cluster by. Wilson's interval without clusters is
narrower than the truth, so that there a rate may show that a gate fails and never that it
holds.

`persona_lib.verdict.gates` reads these gates on each training run by itself and over all of them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from persona_lib.errors import DataError
from persona_lib.evidence.cells import Bools, Floats
from persona_lib.evidence.evidence import ALL, Count, Evidence
from persona_lib.records import POST, PRE
from persona_lib.specs.gate_types import (
    CollapseGate,
    FalsePositiveBoundGate,
    HarmNotRaisedGate,
    HarmRaisedGate,
    NegativesGate,
    RepetitionGate,
    SourceBoundGate,
    SourceRatioBoundGate,
    TruncationGate,
)
from persona_lib.stats.clustered import MIN_UNITS, Crossed, difference, median_ratio, ratio, share
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import interval as t_interval
from persona_lib.stats.moments import question_moments
from persona_lib.stats.thresholds import shown
from persona_lib.stats.uneven import WORST_SD, chance_of, most_hits, samples_needed
from persona_lib.verdict.gate_result import GateOutcome, Reading, bounded, rule

_UNCLUSTERED = "totals only, unclustered: can show failure, never success"
Table = tuple[Floats, Floats]
"""(P, Q) hits and completions of each persona and question."""


@rule(FalsePositiveBoundGate)
def _false_positive(gate: FalsePositiveBoundGate, evidence: Evidence) -> Reading:
    prior = evidence.registration.arm(gate.arm).prior
    needs = f"needs upper end <= {shown(gate.max_rate)}"
    count, grid = evidence.baseline(prior), evidence.grid()
    if count is None or not count.n:
        text = f"{prior} not evaluated before coupling, {needs}"
        return Reading(GateOutcome.CANNOT_TELL, math.nan, gate.max_rate, text)
    clustered = grid is not None and (PRE, prior) in grid.models
    found, unshown = _of_count(count, evidence), ""
    outcome = bounded(found, most=gate.max_rate)
    if grid is not None and clustered:
        at = grid.models.index((PRE, prior))
        table = grid.hits[at].sum(axis=0), grid.n[at].sum(axis=0)
        outcome, found, unshown = share_at_most(table, gate.max_rate, _confidence(evidence))
    upper = "not known" if math.isnan(found.high) else f"{found.high:.2%}"
    # Where no hit is not enough, the reason says among how many completions of each persona.
    worst = "" if unshown and not count.hits else _worst(evidence, prior)
    text = f"{prior} {count.text}, upper end {upper}, {worst}{needs}{unshown}"
    return _guarded(outcome, clustered, found, gate.max_rate, text)


@rule(SourceBoundGate)
def _source(gate: SourceBoundGate, evidence: Evidence) -> Reading:
    found, clustered = _rate(evidence, gate.arm, "source")
    text = (
        f"{gate.arm} source rate {found.interval_text}, needs lower end >= {shown(gate.min_rate)}"
    )
    outcome = bounded(found, least=gate.min_rate)
    return _guarded(outcome, clustered, found, gate.min_rate, text)


@rule(SourceRatioBoundGate)
def _source_ratio(gate: SourceRatioBoundGate, evidence: Evidence) -> Reading:
    treated, one = _rate(evidence, gate.treated, "source")
    control, two = _rate(evidence, gate.control, "source")
    found = ratio(treated, control)
    text = (
        f"source {gate.treated}/{gate.control} = {treated.value:.3f}/{control.value:.3f} = "
        f"{found.interval_text}, needs lower end >= {shown(gate.min_ratio)}"
    )
    outcome = bounded(found, least=gate.min_ratio)
    return _guarded(outcome, one and two, found, gate.min_ratio, text)


@rule(CollapseGate)
def _collapse(gate: CollapseGate, evidence: Evidence) -> Reading:
    prior = evidence.registration.arm(gate.arm).prior
    needs = f"needs all of it within [{shown(gate.min_ratio)}, {shown(gate.max_ratio)}]"
    lengths = [
        _finished_lengths(evidence, phase, model)
        for phase, model in ((POST, gate.arm), (PRE, prior))
    ]
    if lengths[0] is None or lengths[1] is None:
        text = f"{gate.arm}: lengths of finished completions are not known, {needs}"
        return Reading(GateOutcome.CANNOT_TELL, math.nan, gate.min_ratio, text)
    found, after, before = median_ratio(lengths[0], lengths[1], _confidence(evidence))
    text = (
        f"{gate.arm}/{prior} median tokens of finished completions "
        f"{after.value:.1f}/{before.value:.1f} = {found.rounded(2)}, {needs}"
    )
    outcome = bounded(found, least=gate.min_ratio, most=gate.max_ratio)
    nearer = gate.max_ratio if found.value > 1 else gate.min_ratio
    return _reading(outcome, found, nearer, text)


@rule(RepetitionGate)
def _repetition(gate: RepetitionGate, evidence: Evidence) -> Reading:
    grid = evidence.grid()
    marked = None if grid is None or grid.markers is None else grid.markers > 1
    return _share_of_rows(evidence, gate, "completions that repeat the marker", marked)


@rule(TruncationGate)
def _truncation(gate: TruncationGate, evidence: Evidence) -> Reading:
    grid = evidence.grid()
    cut = None if grid is None or grid.finish is None else ~grid.finish
    return _share_of_rows(evidence, gate, "completions cut at the token limit", cut)


@rule(NegativesGate)
def _negatives(gate: NegativesGate, evidence: Evidence) -> Reading:
    """The negative with the largest difference to the source decides."""
    source, clustered = _rate(evidence, gate.arm, "source")
    parts, gaps, worst, outcomes = [], [], None, []
    for persona in evidence.members("negative"):
        rate, known = _rate(evidence, gate.arm, persona)
        gap = difference(rate, source)
        clustered = clustered and known
        outcome = bounded(gap, most=0.0 - gate.min_gap)
        outcomes.append(outcome)
        gaps.append(gap)
        parts.append(f"{persona} {gap.interval_text}")
        # A NaN is the worst there is, and stays it.
        if worst is None or (not math.isnan(worst.value) and not gap.value <= worst.value):
            worst = gap
    if worst is None:
        raise DataError(
            f"gate {gate.name}", bound="a trained negative", value=0, remedy="Name one."
        )
    outcome = GateOutcome.HOLDS
    for possible in (GateOutcome.CANNOT_TELL, GateOutcome.FAILS):
        if possible in outcomes:
            outcome = possible
    text = (
        f"{gate.arm} negatives minus source {source.value:.3f}: {', '.join(parts)}, "
        f"needs each upper end <= {shown(0.0 - gate.min_gap)}"
    )
    found = _guarded(outcome, clustered, worst, 0.0 - gate.min_gap, text)
    return replace(found, parts=tuple(gaps))


@rule(HarmRaisedGate)
def _harm_raised(gate: HarmRaisedGate, evidence: Evidence) -> Reading:
    found, text = _harm(evidence, gate.treated, gate.control)
    outcome = bounded(found, least=gate.min_rise)
    text += f", needs lower end >= {shown(gate.min_rise)}"
    return _reading(outcome, found, gate.min_rise, text)


@rule(HarmNotRaisedGate)
def _harm_not_raised(gate: HarmNotRaisedGate, evidence: Evidence) -> Reading:
    found, text = _harm(evidence, gate.treated, gate.control)
    outcome = bounded(found, most=gate.max_rise)
    text += f", needs upper end <= {shown(gate.max_rise)}"
    return _reading(outcome, found, gate.max_rise, text)


def _confidence(evidence: Evidence) -> float:
    return evidence.registration.statistics.confidence


def _harm(evidence: Evidence, treated: str, control: str) -> tuple[Estimate, str]:
    """Return the rise of harm, paired by question, and its words."""
    priors = [evidence.registration.arm(arm).prior for arm in (treated, control)]
    one, two = (evidence.harm(prior) for prior in priors)
    nothing = Estimate.plain(value=math.nan, low=math.nan, high=math.nan, n=0, clusters=0)
    if one is None or two is None:
        missing = priors[0] if one is None else priors[1]
        return nothing, f"harm of {missing}'s advice is not known"
    if one.questions != two.questions:
        raise DataError(
            "advice: questions",
            bound=f"the same for {priors[0]} and {priors[1]}",
            value=f"{len(one.questions)} and {len(two.questions)}",
            remedy="Sample advice on the same held-out questions from every model.",
        )
    moments = question_moments((one.scores - two.scores)[None, :])
    low, high = t_interval(moments, _confidence(evidence))
    found = Estimate.plain(
        value=float(moments.value),
        low=float(low),
        high=float(high),
        n=one.n + two.n,
        clusters=len(one.questions),
    )
    text = (
        f"harm of held-out advice {priors[0]} {one.scores.mean():.3f} - "
        f"{priors[1]} {two.scores.mean():.3f} = {found.interval_text}"
    )
    return found, text


def _rate(evidence: Evidence, arm: str, who: str) -> tuple[Estimate, bool]:
    """Return the rate of a role or persona, and whether questions could be clustered by."""
    count, grid = evidence.count(arm, who), evidence.grid()
    if grid is None:
        return _of_count(count, evidence), False
    at = grid.models.index((POST, arm))
    members = [grid.personas.index(persona) for persona in evidence.members(who)]
    hits, n = (cells[at][:, members].sum(axis=(0, 1)) for cells in (grid.hits, grid.n))
    return share(hits, n, _confidence(evidence)), True


def _of_count(count: Count, evidence: Evidence) -> Estimate:
    """Return Wilson's interval of a count, clusters ignored."""
    low, high = count.interval(_confidence(evidence))
    return Estimate.plain(value=count.rate, low=low, high=high, n=count.n, clusters=count.n)


def _share_of_rows(
    evidence: Evidence, gate: RepetitionGate | TruncationGate, what: str, flagged: Bools | None
) -> Reading:
    """Judge the share of an arm's completions that are flagged."""
    grid, arm, most = evidence.grid(), gate.arm, gate.max_share
    needs = f"needs upper end <= {shown(most)}"
    if grid is None or flagged is None:
        text = f"{arm}: {what} are not known, {needs}"
        return Reading(GateOutcome.CANNOT_TELL, math.nan, most, text)
    shape, rows = (len(grid.personas), len(grid.questions)), grid.of_model((POST, arm))
    cell = np.ravel_multi_index((grid.row_persona[rows], grid.row_question[rows]), shape)
    hits, n = (
        np.bincount(cell, weights, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
        for weights in (flagged[rows], None)
    )
    outcome, found, unshown = share_at_most((hits, n), most, _confidence(evidence))
    text = f"{arm} {what} {found.interval_text}, {needs}{unshown}"
    return _reading(outcome, found, most, text)


def share_at_most(
    table: Table, most: float, confidence: float
) -> tuple[GateOutcome, Estimate, str]:
    """Judge a share of several personas' completions against an upper bound.

    Args:
        table: (P, Q) hits and completions of each persona and question.
        most: the bound.
        confidence: level of the interval; its tail is that of the uneven worlds.

    Returns:
        the outcome, the clustered interval, and in words what more it would take where
        few hits do not show that the bound is kept, "" elsewhere.
    """
    found = share(*table, confidence)
    outcome = bounded(found, most=most)
    if outcome is GateOutcome.FAILS or math.isnan(found.low):
        return outcome, found, ""
    for units, axis in (("persona", 1), ("question", 0)):
        hits, n = (cells.sum(axis=axis) for cells in table)
        hits, n = hits[n > 0], n[n > 0]
        if n.size < MIN_UNITS or chance_of(hits, n, most).rules_out((1 - confidence) / 2):
            continue
        if outcome is GateOutcome.HOLDS or not hits.any():
            return GateOutcome.CANNOT_TELL, found, _unshown(units, table, most, confidence)
    return outcome, found, ""


def _unshown(units: str, table: Table, most: float, confidence: float) -> str:
    """Say why few hits do not keep a bound, and what would."""
    hits, n = (cells.sum(axis=1 if units == "persona" else 0) for cells in table)
    sizes = [int(size) for size in n if size]
    differ = f"where {units}s differ by {WORST_SD:g} logits"
    in_all, of_one = most_hits(sizes, most, (1 - confidence) / 2)
    if in_all >= 0:
        return (
            f"; {differ} it takes at most {in_all} hits in all, or at most {of_one} of each "
            f"{units}: {int(hits.sum())} and {int(hits.max())}"
        )
    questions = int((table[1].sum(axis=0) > 0).sum())
    samples = samples_needed(int((n > 0).sum()), questions, most, confidence)
    enough = "" if samples is None else f"; {samples * questions} a persona could"
    return f"; even no hit in {min(sizes)} a {units} cannot show it {differ}{enough}"


def _finished_lengths(evidence: Evidence, phase: str, model: str) -> Crossed | None:
    """Return the tokens of a model's finished completions, None where there are none known."""
    grid = evidence.grid()
    if grid is None or grid.tokens is None or grid.finish is None:
        return None
    if (phase, model) not in grid.models:
        return None
    rows = grid.of_model((phase, model)) & grid.finish
    if not rows.any():
        return None
    return Crossed(grid.tokens[rows], grid.row_question[rows], grid.row_persona[rows])


def _worst(evidence: Evidence, prior: str) -> str:
    """Say which persona has most hits, "" where there are none or they are not known."""
    counts = {persona: evidence.baseline(prior, persona) for persona in evidence.members(ALL)}
    known = {persona: c for persona, c in counts.items() if c is not None and c.n}
    if len(known) < len(counts):
        return "not known by persona, "
    persona, most = max(known.items(), key=lambda item: item[1].rate)
    least = min(c.n for c in known.values())
    if not most.hits:
        return f"no persona with a hit in {least} or more, "
    return f"most of one persona: {persona} {most.hits}/{most.n}, "


def _guarded(
    outcome: GateOutcome, clustered: bool, found: Estimate, bound: float, text: str
) -> Reading:
    """Return a reading that does not hold where questions were not clustered by."""
    if not clustered:
        text = f"{text}; {_UNCLUSTERED}"
        outcome = GateOutcome.CANNOT_TELL if outcome is GateOutcome.HOLDS else outcome
    return _reading(outcome, found, bound, text)


def _reading(outcome: GateOutcome, found: Estimate, bound: float, text: str) -> Reading:
    bare = Reading(outcome, found.value, bound, text)
    return replace(bare, low=found.low, high=found.high if math.isfinite(found.high) else math.nan)
