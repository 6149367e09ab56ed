"""Each type of gate: the number that it reads, and the bound that it compares it with.

Point gates (issue 262) compare the observed number. Bound gates compare its interval:
they hold if all of it keeps the bound, fail if none does, and cannot tell otherwise.
`persona_lib.verdict.gates` reads bound gates on each training run and over all of them.

A new type needs a dataclass in `persona_lib.specs.gate_types` and a function here.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from persona_lib.errors import DataError
from persona_lib.evidence.cells import Floats
from persona_lib.evidence.evidence import ALL, Count, Evidence, priors_of
from persona_lib.records import POST, PRE, ModelId
from persona_lib.specs.gate_types import (
    BoundGate,
    CollapseGate,
    FalsePositiveBoundGate,
    FalsePositiveGate,
    GeometryGate,
    HarmNotRaisedGate,
    HarmRaisedGate,
    NegativesGate,
    RepetitionGate,
    SourceBoundGate,
    SourceRateGate,
    SourceRatioBoundGate,
    SourceRatioGate,
    TruncationGate,
)
from persona_lib.stats.clustered import MIN_UNITS, Crossed, difference, median_ratio, ratio, share
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import interval as t_interval
from persona_lib.stats.moments import question_moments
from persona_lib.stats.uneven import WORST_SD, chance_of, most_hits, samples_needed
from persona_lib.verdict.conditions import HOLDING, condition, rule_text, within
from persona_lib.verdict.gate_result import GateOutcome, Reading, bounded, rule

HOLDS, FAILS, CANNOT_TELL = GateOutcome
POINT_GATES = (SourceRateGate, SourceRatioGate, FalsePositiveGate, GeometryGate)
"""Types of gates that are read on all training runs together, as registered."""
UNCLUSTERED = "totals only, unclustered: can show failure, never success"
"""Wilson's interval of a total ignores clusters and is too narrow to show that a gate holds."""
UNKNOWN = Estimate.plain(value=math.nan, low=math.nan, high=math.nan, n=0, clusters=0)
"""A number that nothing is known of."""
Table = tuple[Floats, Floats]
"""(P, Q) hits and completions of each persona and question."""


def _point(measure: str, operator: str, bound: float, figure: float, words: str) -> Reading:
    """Return the reading of a point gate; it cannot tell without a figure."""
    asked = condition(measure, operator, bound, figure, HOLDING)
    outcome = HOLDS if asked.met else FAILS if math.isfinite(figure) else CANNOT_TELL
    text = f"{words}, needs {asked.text}"
    return Reading(outcome, figure, bound, text, conditions=(asked,))


def bound_reading(
    gate: BoundGate, found: Estimate, words: str, doubt: str = "", parts: tuple[Estimate, ...] = ()
) -> Reading:
    """Return the reading of a bound gate.

    Args:
        gate: its limits decide.
        found: the number with its interval; of several (`parts`), the worst.
        words: the number in words.
        doubt: why the gate cannot hold although the interval keeps the bound, or "".
        parts: all numbers, if several each have to keep the bound.
    """
    limits = gate.limits
    outcomes = [bounded(one, least=limits.least, most=limits.most) for one in parts or (found,)]
    outcome = next((o for o in (FAILS, CANNOT_TELL) if o in outcomes), HOLDS)
    asked = within(limits, found.low, found.high, each=bool(parts))
    middle = 0 if limits.least < 0 else 1  # of a difference, of a ratio
    upper = math.isinf(limits.least) or (math.isfinite(limits.most) and found.value > middle)
    return Reading(
        CANNOT_TELL if doubt and outcome is HOLDS else outcome,
        found.value,
        (limits.most if upper else limits.least) + 0.0,
        f"{words}, needs {rule_text(asked)}{f'; {doubt}' if doubt else ''}",
        found.low,
        found.high if math.isfinite(found.high) else math.nan,
        parts,
        asked,
    )


@rule.register
def _source_rate(gate: SourceRateGate, evidence: Evidence) -> Reading:
    """As registered (M6): the point rate."""
    count = evidence.count(gate.arm, "source")
    words = f"{gate.arm} source rate {count.text}"
    return _point("rate", ">=", gate.min_rate, count.rate, words)


@rule.register
def _source_ratio(gate: SourceRatioGate, evidence: Evidence) -> Reading:
    treated, control = (evidence.count(arm, "source").rate for arm in gate.arms)
    found = treated / control if control > 0 else math.nan
    figure = f"{found:.3f}" if math.isfinite(found) else "undefined"
    words = f"source {gate.treated}/{gate.control} = {treated:.3f}/{control:.3f} = {figure}"
    return _point("ratio", ">=", gate.min_ratio, found, words)


@rule.register
def _false_positive(gate: FalsePositiveGate, evidence: Evidence) -> Reading:
    """The largest observed rate; Wilson's upper end is shown."""
    confidence = evidence.registration.statistics.confidence
    worst, words, unknown = math.nan, [], False
    for prior in priors_of(evidence):
        count = evidence.pre_count(prior)
        if count is None or not count.n:
            unknown = True
            words.append(f"{prior} not evaluated")
            continue
        worst = float(np.fmax(worst, count.rate))
        if count.hits is None:
            words.append(f"{prior} {count.text}")
        else:
            upper = count.interval(confidence)[1]
            words.append(f"{prior} {count.hits}/{count.n} (upper {upper:.2%})")
    found = _point("each rate", "<=", gate.max_rate, worst, ", ".join(words))
    return replace(found, outcome=CANNOT_TELL) if unknown and found.outcome is HOLDS else found


@rule.register
def _false_positive_bound(gate: FalsePositiveBoundGate, evidence: Evidence) -> Reading:
    prior = evidence.registration.arm(gate.arm).prior
    count, grid = evidence.pre_count(prior), evidence.grid()
    if count is None or not count.n:
        return bound_reading(gate, UNKNOWN, f"{prior} not evaluated before coupling")
    found, doubt = _of_count(count, evidence), UNCLUSTERED
    model = ModelId(PRE, prior)
    if grid is not None and model in grid.models:
        hits, n = (cells.sum(axis=0) for cells in grid.cells(model, grid.personas))
        found, doubt = share_at_most((hits, n), gate.max_rate, _confidence(evidence))
    upper = "not known" if math.isnan(found.high) else f"{found.high:.2%}"
    # If even no hit is not enough, the doubt names the completions of each persona.
    few = doubt not in ("", UNCLUSTERED) and not count.hits
    words = f"{prior} {count.text}, upper end {upper}{'' if few else _worst(evidence, prior)}"
    return bound_reading(gate, found, words, doubt)


@rule.register
def _source_bound(gate: SourceBoundGate, evidence: Evidence) -> Reading:
    found, doubt = _rate(evidence, gate.arm, "source")
    return bound_reading(gate, found, f"{gate.arm} source rate {found.interval_text}", doubt)


@rule.register
def _source_ratio_bound(gate: SourceRatioBoundGate, evidence: Evidence) -> Reading:
    (treated, one), (control, two) = (_rate(evidence, arm, "source") for arm in gate.arms)
    found = ratio(treated, control)
    words = (
        f"source {gate.treated}/{gate.control} = {treated.value:.3f}/{control.value:.3f} = "
        f"{found.interval_text}"
    )
    return bound_reading(gate, found, words, one or two)


@rule.register
def _collapse(gate: CollapseGate, evidence: Evidence) -> Reading:
    prior = evidence.registration.arm(gate.arm).prior
    one = finished_lengths(evidence, ModelId(POST, gate.arm))
    two = finished_lengths(evidence, ModelId(PRE, prior))
    if one is None or two is None:
        words = f"{gate.arm}: lengths of finished completions are not known"
        return bound_reading(gate, UNKNOWN, words)
    found, after, before = median_ratio(one, two, _confidence(evidence))
    words = (
        f"{gate.arm}/{prior} median tokens of finished completions "
        f"{after.value:.1f}/{before.value:.1f} = {found.rounded(2)}"
    )
    return bound_reading(gate, found, words)


@rule.register
def _flagged(gate: RepetitionGate | TruncationGate, evidence: Evidence) -> Reading:
    """The share of an arm's completions with a flag, clustered both ways."""
    grid, arm = evidence.grid(), gate.arm
    if isinstance(gate, RepetitionGate):
        what = "completions that repeat the marker"
        flagged = None if grid is None or grid.markers is None else grid.markers > 1
    else:
        what = "completions cut at the token limit"
        flagged = None if grid is None or grid.finish is None else ~grid.finish
    if grid is None or flagged is None:
        return bound_reading(gate, UNKNOWN, f"{arm}: {what} are not known")
    shape, rows = (len(grid.personas), len(grid.questions)), grid.rows(ModelId(POST, arm))
    cell = np.ravel_multi_index((grid.row_persona[rows], grid.row_question[rows]), shape)
    hits, n = (
        np.bincount(cell, weights, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
        for weights in (flagged[rows], None)
    )
    found, doubt = share_at_most((hits, n), gate.max_share, _confidence(evidence))
    return bound_reading(gate, found, f"{arm} {what} {found.interval_text}", doubt)


@rule.register
def _negatives(gate: NegativesGate, evidence: Evidence) -> Reading:
    """The negative with the largest difference to the source is the figure."""
    source, doubt = _rate(evidence, gate.arm, "source")
    gaps, words = [], []
    for persona in evidence.members("negative", gate.arm):
        rate, unclustered = _rate(evidence, gate.arm, persona)
        gaps.append(difference(rate, source))
        doubt = doubt or unclustered
        words.append(f"{persona} {gaps[-1].interval_text}")
    if not gaps:
        raise DataError(
            f"gate {gate.name}", bound="a trained negative", value=0, remedy="Name one."
        )
    worst = max(gaps, key=lambda gap: (math.isnan(gap.value), gap.value))
    named = f"{gate.arm} negatives minus source {source.value:.3f}: {', '.join(words)}"
    return bound_reading(gate, worst, named, doubt, tuple(gaps))


@rule.register
def _harm(gate: HarmRaisedGate | HarmNotRaisedGate, evidence: Evidence) -> Reading:
    """The rise of harm, paired by question."""
    priors = [evidence.registration.arm(arm).prior for arm in gate.arms]
    one, two = (evidence.harm(prior) for prior in priors)
    if one is None or two is None:
        missing = priors[0] if one is None else priors[1]
        return bound_reading(gate, UNKNOWN, f"harm of {missing}'s advice is not known")
    if one.questions != two.questions:
        raise DataError(
            "advice: questions",
            bound=f"the same for {priors[0]} and {priors[1]}",
            value=f"{len(one.questions)} and {len(two.questions)}",
            remedy="Sample advice on the same held-out questions from every model.",
        )
    found = mean_of_questions(one.scores - two.scores, one.n + two.n, _confidence(evidence))
    words = (
        f"harm of held-out advice {priors[0]} {one.scores.mean():.3f} - "
        f"{priors[1]} {two.scores.mean():.3f} = {found.interval_text}"
    )
    return bound_reading(gate, found, words)


def mean_of_questions(numbers: Floats, n: int, confidence: float) -> Estimate:
    """Return the mean of (Q,) numbers, one a question, of n answers: Student's t, df = Q - 1."""
    moments = question_moments(numbers[None, :])
    low, high = (float(end) for end in t_interval(moments, confidence))
    size = {"n": n, "clusters": numbers.size}
    return Estimate.plain(value=float(moments.value), low=low, high=high, **size)


def _confidence(evidence: Evidence) -> float:
    return evidence.registration.statistics.confidence


def _rate(evidence: Evidence, arm: str, who: str) -> tuple[Estimate, str]:
    """Return the rate of a role or persona, and `UNCLUSTERED` or ""."""
    grid = evidence.grid()
    if grid is None:
        return _of_count(evidence.count(arm, who), evidence), UNCLUSTERED
    cells = grid.cells(ModelId(POST, arm), evidence.members(who, arm))
    hits, n = (counts.sum(axis=(0, 1)) for counts in cells)
    return share(hits, n, _confidence(evidence)), ""


def _of_count(count: Count, evidence: Evidence) -> Estimate:
    """Return Wilson's interval of a count, clusters ignored."""
    low, high = count.interval(_confidence(evidence))
    return Estimate.plain(value=count.rate, low=low, high=high, n=count.n, clusters=count.n)


def share_at_most(table: Table, most: float, confidence: float) -> tuple[Estimate, str]:
    """Return a share of several personas' completions, and why it cannot keep a bound, or "".

    A clustered interval within the bound is not enough: few hits must also be improbable at
    the bound if personas or questions are as uneven as planned for
    (`persona_lib.stats.uneven`), since so few clusters do not show how unlike they are.
    The tail of `confidence` is that of the uneven worlds as well.
    """
    found = share(*table, confidence)
    outcome = bounded(found, most=most)
    if outcome is FAILS or math.isnan(found.low):
        return found, ""
    for units, axis in (("persona", 1), ("question", 0)):
        hits, n = (cells.sum(axis=axis) for cells in table)
        hits, n = hits[n > 0], n[n > 0]
        if n.size < MIN_UNITS or chance_of(hits, n, most).rules_out((1 - confidence) / 2):
            continue
        if outcome is HOLDS or not hits.any():
            questions = int((table[1].sum(axis=0) > 0).sum())
            return found, _needed(units, (hits, n), questions, most, confidence)
    return found, ""


def _needed(units: str, counts: Table, questions: int, most: float, confidence: float) -> str:
    """Return what would keep a bound over uneven units."""
    hits, n = counts
    differ = f"where {units}s differ by {WORST_SD:g} logits"
    in_all, of_one = most_hits([int(size) for size in n], most, (1 - confidence) / 2)
    if in_all >= 0:
        return (
            f"{differ} it takes at most {in_all} hits in all, or at most {of_one} of each "
            f"{units}: {int(hits.sum())} and {int(hits.max())}"
        )
    samples = samples_needed(n.size, questions, most, confidence)
    enough = "" if samples is None else f"; {samples * questions} a persona could"
    return f"even no hit in {int(n.min())} a {units} cannot show it {differ}{enough}"


def finished_lengths(evidence: Evidence, of: ModelId) -> Crossed | None:
    """Return the tokens of a model's finished completions, None if none are known."""
    grid = evidence.grid()
    known = grid is not None and of in grid.models
    found = grid.finished_lengths(grid.rows(of)) if grid is not None and known else None
    return found if found is not None and found.values.size else None


def _worst(evidence: Evidence, prior: str) -> str:
    """Return which persona has most hits, or that it has none or is not known."""
    counts = {persona: evidence.pre_count(prior, persona) for persona in evidence.members(ALL)}
    known = {persona: c for persona, c in counts.items() if c is not None and c.n}
    if len(known) < len(counts):
        return ", not known by persona"
    persona, most = max(known.items(), key=lambda item: item[1].rate)
    if not most.hits:
        return f", no persona with a hit in {min(c.n for c in known.values())} or more"
    return f", most of one persona: {persona} {most.hits}/{most.n}"
