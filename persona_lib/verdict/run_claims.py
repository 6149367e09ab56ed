"""Claims over training runs: a contrast of cells against the smallest rise worth publishing.

The rule reads the paired t over seeds, and Holm's p against d over all such claims of the
registration. The decision table is in docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from persona_lib.evidence.cells import Floats
from persona_lib.records import MATCHED, READINGS, SYSTEM
from persona_lib.specs.claim_types import RunClaim, RunContrast, RunDifference, RunKill
from persona_lib.specs.gate_types import BroadHarmGate
from persona_lib.stats.equivalence import holm
from persona_lib.stats.estimate import Estimate, p_is
from persona_lib.stats.thresholds import TOLERANCE, above, below, shown
from persona_lib.verdict.claims import (
    INCONCLUSIVE,
    NOT_TRIGGERED,
    REFUTED,
    SUPPORTED,
    TRIGGERED,
    Finding,
    Outcome,
    rule,
)
from persona_lib.verdict.conditions import RULE_MET, Condition, condition, rule_text
from persona_lib.verdict.gate_broad import harm_note
from persona_lib.verdict.gates import GateBook
from persona_lib.verdict.run_seeds import (
    READ_BY,
    Looks,
    Seeds,
    contrast_words,
    looks_of,
    seeds_of,
    shared_in_seed,
)
from persona_lib.verdict.training_runs import BORNE_OUT, NOT_ESTIMABLE, OverRuns

TYPES = (RunDifference, RunContrast, RunKill)
"""Rules whose interval is over training runs."""
EQUIVALENT, SHARPENED, SMALLER = "equivalent", "sharpened", "smaller"
CANNOT_TELL, ONLY_HOLM, MISSING = "cannot tell", "only Holm forbids it", "seeds missing"
OUTCOME_OF: Mapping[str, Outcome] = {
    RULE_MET: SUPPORTED,
    EQUIVALENT: REFUTED,
    SHARPENED: REFUTED,
    SMALLER: REFUTED,
    ONLY_HOLM: INCONCLUSIVE,
    CANNOT_TELL: INCONCLUSIVE,
    MISSING: INCONCLUSIVE,
}
"""The outcome of every label, before sensitivities are heard."""
_WHY = {
    RULE_MET: "the interval lies above d",
    EQUIVALENT: "the interval lies inside +-d",
    SHARPENED: "the interval lies below 0",
    SMALLER: "the interval ends below d",
    ONLY_HOLM: "the interval excludes d, but not by enough for so many claims",
    CANNOT_TELL: "the interval holds d",
}


def alpha_of(confidence: float) -> float:
    """Return 1 - confidence as it is written: 0.05, not 0.050000000000000044."""
    return round(1 - confidence, 12)


def decided(
    low: Floats | float,
    high: Floats | float,
    adjusted: Floats | float,
    *,
    smallest: float,
    confidence: float,
) -> NDArray[np.str_]:
    """Return the label of each interval, a key of `OUTCOME_OF`: the first row that fits.

    Args:
        low: lower ends, of any shape; NaN where there is no interval.
        high: upper ends, of that shape.
        adjusted: Holm's p against d, of that shape; NaN where there is none.
        smallest: d.
        confidence: level of the intervals; Holm's p has to be below `alpha_of` it.
    """
    low, high, adjusted = (np.asarray(x, dtype=np.float64) for x in (low, high, adjusted))
    over, under = low > smallest + TOLERANCE, high < smallest - TOLERANCE
    rows = {
        ONLY_HOLM: (over | under) & ~(adjusted < alpha_of(confidence)),
        RULE_MET: over,
        EQUIVALENT: under & (low > -smallest + TOLERANCE),
        SHARPENED: high < -TOLERANCE,
        SMALLER: under,
    }
    return np.select(list(rows.values()), list(rows), CANNOT_TELL)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A claim among all claims over runs.

    Attributes:
        seeds, effect: its contrast and that contrast's estimate.
        adjusted: Holm's p against d, NaN without a p.
        absent: registered seeds in which an arm of any of the claims has no run.
        label: by the rule, before sensitivities are heard.
    """

    seeds: Seeds
    effect: Estimate
    adjusted: float
    absent: tuple[int, ...]
    label: str


def _judged(claim: RunClaim, book: GateBook) -> _Judged:
    """Judge a claim; another one without a p, or without its arms, counts as p = 1."""
    registration, known = book.registration, set(book.evidence.arms)
    read = {
        one.name: seeds_of(book.evidence, one, one.outcome, one.reading)
        for one in registration.run_claims
        if one.name == claim.name or known.issuperset(registration.reads(one) or ())
    }
    effects = {name: seeds.estimate() for name, seeds in read.items()}
    p = {one.name: 1.0 for one in registration.run_claims}
    p |= {name: e.p for name, e in effects.items() if e.p is not None}
    adjusted = dict(zip(p, holm([*p.values()]), strict=True))[claim.name]
    effect, absent = effects[claim.name], {s for seeds in read.values() for s in seeds.absent}
    ours = math.nan if effect.p is None or adjusted is None else adjusted
    level = registration.statistics.confidence
    by_rule = decided(effect.low, effect.high, ours, smallest=claim.smallest, confidence=level)
    return _Judged(
        seeds=read[claim.name],
        effect=effect,
        adjusted=ours,
        absent=tuple(sorted(absent)),
        label=MISSING if absent else str(by_rule),
    )


@rule.register(RunDifference)
@rule.register(RunContrast)
def _run_claim(claim: RunClaim, book: GateBook) -> Finding:
    judged, looks = _judged(claim, book), looks_of(book.evidence, claim)
    effect, label = judged.effect, judged.label
    outcome, reason = OUTCOME_OF[label], _reason(judged)
    against = next(_disagreeing(judged, claim, looks), None)
    if against is not None:
        outcome, label = INCONCLUSIVE, f"{against.target} disagrees"
        reason += f"; {against.target} is {against.interval_text}, on the other side of 0"
    conditions = _conditions(claim, judged, alpha_of(effect.confidence))
    shared = " and ".join(shared_in_seed(book.registration, claim)) or "no draw"
    return Finding(
        outcome=outcome,
        label=label,
        contrast=contrast_words(claim),
        effect=effect,
        conditions=conditions,
        rule=rule_text(conditions),
        reason=reason,
        over_runs=_over_runs(outcome, effect),
        estimates=(*((judged.seeds.flips(),) if effect.has_interval else ()), *looks.values()),
        notes=(
            *_counts(judged),
            f"{claim.name}: what the arms of a seed share: {shared}",
            *(harm_note(book.gate(gate.name)) for gate in _of_harm(book, claim)),
            *_of_persona_space(claim, effect, looks),
        ),
    )


@rule.register
def _run_kill(kill: RunKill, book: GateBook) -> Finding:
    claim = next(one for one in book.registration.run_claims if one.name == kill.claim)
    judged = _judged(claim, book)
    effect = replace(judged.effect, p=None)
    end, row = f"{claim.name} upper end", (REFUTED.value, TRIGGERED)
    fires = condition(end, "<", kill.max_effect, effect.high, row)
    if judged.absent or not effect.has_interval:
        outcome, label = INCONCLUSIVE, MISSING if judged.absent else CANNOT_TELL
        reason = _reason(judged)
    elif fires.met:
        outcome, label = REFUTED, TRIGGERED
        reason = f"{effect.interval_text} ends below {shown(kill.max_effect)}: {claim.name} is "
        reason += "falsified"
    else:
        outcome, label = SUPPORTED, NOT_TRIGGERED
        reason = f"{effect.interval_text} does not end below {shown(kill.max_effect)}"
    return Finding(
        outcome=outcome,
        label=label,
        contrast=contrast_words(claim),
        effect=effect,
        conditions=(fires,),
        rule=rule_text((fires,)),
        reason=reason,
        over_runs=_over_runs(outcome, effect),
        notes=tuple(_counts(judged)),
    )


def _of_harm(book: GateBook, claim: RunClaim) -> list[BroadHarmGate]:
    """Return the gates on broad harm of priors that a claim's arms are coupled on."""
    registration = book.registration
    priors = {registration.arm(arm).prior for arm in registration.reads(claim) or ()}
    gates = [gate for gate in registration.gates if isinstance(gate, BroadHarmGate)]
    return [gate for gate in gates if registration.arm(gate.treated).prior in priors]


def _conditions(claim: RunClaim, judged: _Judged, alpha: float) -> tuple[Condition, ...]:
    found, effect = [], judged.effect
    for end, operator, value, row in (
        ("lower end", ">", effect.low, (SUPPORTED.value, RULE_MET)),
        ("upper end", "<", effect.high, (REFUTED.value, SMALLER)),
    ):
        found.append(condition(end, operator, claim.smallest, value, row))
        p = "p against d after Holm"
        found.append(condition(p, "<", alpha, judged.adjusted, row, exact=True))
    return tuple(found)


def _disagreeing(judged: _Judged, claim: RunClaim, looks: Looks) -> Iterator[Estimate]:
    """Yield sensitivities whose interval excludes 0 on the other side than the effect's.

    They are the other outcomes, and the same one at another dose.
    """
    doses = {SYSTEM, MATCHED}
    for (outcome, reading), look in looks.items():
        falls = judged.label == RULE_MET and below(look.high, 0)
        rises = judged.label == SHARPENED and above(look.low, 0)
        other = outcome != claim.outcome or {reading, claim.reading} == doses
        if other and (falls or rises):
            yield look


def _reason(judged: _Judged) -> str:
    if judged.absent:
        return "nothing is judged before the last registered seed"
    if not judged.effect.has_interval:
        return judged.effect.note
    p = f"{p_is(judged.adjusted)} against d after Holm"
    return f"{_WHY[judged.label]} ({judged.effect.interval_text}, {p})"


def _over_runs(outcome: Outcome, effect: Estimate) -> OverRuns:
    """Return that the effect is itself over training runs: there is no other to compare."""
    if effect.has_interval:
        text = "the effect itself is over training runs"
        return OverRuns(status=BORNE_OUT, outcome=outcome.value, estimate=effect, text=text)
    text = f"over training runs: {effect.note}"
    return OverRuns(status=NOT_ESTIMABLE, estimate=effect, text=text)


def _counts(judged: _Judged) -> Iterator[str]:
    """Yield what is missing and what is left out, counted."""
    for found, words in (
        (judged.absent, "registered seeds in which an arm has no run"),
        (judged.seeds.incomplete, "seeds left out in which an arm has no number"),
        (judged.seeds.others, "seeds left out that are not registered"),
    ):
        if found:
            yield f"{words}: {len(found)} ({', '.join(map(str, found))})"


def _of_persona_space(claim: RunClaim, effect: Estimate, looks: Looks) -> Iterator[str]:
    """Yield that persona space is not shown to be flatter, where no system message shows it."""
    every = {(claim.outcome, claim.reading): effect, **looks}
    rises = [
        reading
        for reading in READINGS
        if (found := every.get((claim.outcome, reading))) and above(found.low, claim.smallest)
    ]
    if rises and not {SYSTEM, MATCHED} & {*rises}:
        yield (
            f"{claim.name}: a rise above d is shown by {' and '.join(READ_BY[r] for r in rises)}, "
            f"not by the {READ_BY[SYSTEM]}: nothing is shown of persona space"
        )
