"""Registered claims, each type judged by one registered function.

A new claim type needs a dataclass in `persona_lib.specs.claim_types` and one function here,
marked with `rule`. The decision table is in `persona_lib.verdict.verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from persona_lib.errors import SpecError
from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.claim_types import DifferenceClaim, Judges, KillCriterion, TriageClaim
from persona_lib.specs.registration import Registration
from persona_lib.stats.bootstrap import p_floor
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.targets import one_seed_risk, population_refusal
from persona_lib.stats.thresholds import above, at_least, at_most, below, shown
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.other_looks import EQUIVALENCE_ALPHA, equality, other_looks
from persona_lib.verdict.training_runs import (
    OverRuns,
    Rates,
    compare,
    difference_over_runs,
    of_both,
    rate_over_runs,
    rates_of_runs,
    ratios_of_runs,
)

AMBIGUOUS_ZONE = "ambiguous zone"
SIGN_FLIPPED = "sign flipped"
SIMULATED_NULL = (0.05, 0.10)
"""Null band and least p of the triage that tests/calibration simulates."""
SIMULATED_EQUALITY = (
    "simulated without a difference, this null rule passes in 10 % of data sets at a rate of 27 % "
    "and in 97 % at 2 %; TOST errs in 10 % at 3 %, not in 5"
)
"""Worlds "Heavy" of docs/statistics.md: 7 personas, 20 questions that differ much, 10 samples."""
TRIGGERED, NOT_TRIGGERED = "triggered", "not triggered"


class Outcome(Enum):
    """What the registered rule says of a claim on this evidence."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a claim function returns; `judge` adds gates and where it comes from."""

    outcome: Outcome
    label: str
    contrast: str
    effect: Estimate
    rule: str
    reason: str
    over_runs: OverRuns
    extra_gates: tuple[str, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    notes: tuple[str, ...] = ()


_Named = tuple[str, Estimate]
"""A condition of a rule: what is compared, and its estimate."""
_Decision = tuple[Outcome, str, str]
"""Outcome, label and reason."""
_Rule = Callable[[Any, Registration, Evidence], Finding]
rule: Judges[_Rule] = Judges("claim", "persona_lib.verdict.claims")
"""Marks the function that judges a type of claim: ``@rule(TheType)``."""


def find(registration: Registration, evidence: Evidence, claim_name: str) -> Finding:
    """Apply the registered rule of one claim; needed gates are not looked at.

    Raises:
        SpecError: no such claim, no rule for its type, or a p threshold below
            the least p that the registered number of resamples can give.
        DataError: the evidence lacks an arm that the claim names.
    """
    claim = registration.claim(claim_name)
    return rule.of(claim)(claim, registration, evidence)


@rule(DifferenceClaim)
def _difference(claim: DifferenceClaim, registration: Registration, evidence: Evidence) -> Finding:
    _check_resolution(claim, registration)
    effect = evidence.contrast(claim.name, claim.treated, claim.control)
    conditions = [("bystander rates", effect)]
    tightened = claim.ratio_gate is not None and not (
        judge_gate(registration, evidence, claim.ratio_gate).holds
    )
    if tightened:
        ratio = evidence.ratio_contrast(claim.name, claim.treated, claim.control)
        conditions.append(("bystander/source", ratio))
    kill = registration.kill if registration.kill.claim == claim.name else None
    outcome, label, reason = _decide_difference(claim, kill, evidence, conditions)
    text = f"d >= {shown(claim.min_effect)} and p < {shown(claim.max_p)}"
    if claim.ratio_gate is not None:
        state = "does not hold" if tightened else "holds"
        asks = "asks the same of" if tightened else "asks nothing of"
        text += f" (gate {claim.ratio_gate} {state}: {asks} bystander/source)"
    return Finding(
        outcome=outcome,
        label=label,
        contrast=_contrast(claim.treated, claim.control),
        effect=effect,
        rule=text,
        reason=reason,
        over_runs=_difference_over_runs(claim, kill, evidence, outcome, conditions),
        extra_gates=(claim.ratio_gate,) if claim.ratio_gate else (),
        estimates=other_looks(evidence, claim.name, claim.treated, claim.control),
        notes=(*_notes(effect, evidence), *_population_note(claim, registration)),
    )


def _decide_difference(
    claim: DifferenceClaim,
    kill: KillCriterion | None,
    evidence: Evidence,
    conditions: Sequence[_Named],
) -> _Decision:
    """Return outcome, label and reason: the first fitting row of the module's table."""
    if kill is not None:
        count = evidence.count(kill.arm, "bystander")
        if at_most(count.rate, kill.max_rate):
            limit = f"{shown(kill.max_rate)} ({kill.name})"
            reason = f"{kill.arm} bystander rate {count.text} <= {limit}"
            return Outcome.REFUTED, "kill criterion", reason
    return _decide_conditions(claim, kill, conditions)


def _decide_conditions(
    claim: DifferenceClaim, kill: KillCriterion | None, conditions: Sequence[_Named]
) -> _Decision:
    """Return the first fitting row of those below the kill criterion's."""
    unmet = [
        (name, e)
        for name, e in conditions
        if not (at_least(e.value, claim.min_effect) and e.p is not None and e.p < claim.max_p)
    ]
    if not unmet:
        return Outcome.SUPPORTED, "rule met", "the rule holds on every condition"
    failed = ", ".join(f"{name} {e.interval_text}, {e.p_text}" for name, e in unmet)
    if kill is not None:
        reason = f"above the kill rate with the rule not met: no claim ({failed})"
        return Outcome.INCONCLUSIVE, AMBIGUOUS_ZONE, reason
    small = [(name, e) for name, e in unmet if e.has_interval and below(e.high, claim.min_effect)]
    if small:
        flipped = any(below(e.high, 0) for _, e in small)
        label = SIGN_FLIPPED if flipped else "effect too small"
        reason = f"the interval ends below {shown(claim.min_effect)} ({failed})"
        return Outcome.REFUTED, label, reason
    return Outcome.INCONCLUSIVE, "cannot tell", f"the rule is not met, nor ruled out ({failed})"


def _difference_over_runs(
    claim: DifferenceClaim,
    kill: KillCriterion | None,
    evidence: Evidence,
    outcome: Outcome,
    conditions: Sequence[_Named],
) -> OverRuns:
    """Apply the same rows to estimates over training runs; the kill rate to its interval."""
    read = (rates_of_runs, ratios_of_runs)[: len(conditions)]
    over = [_over(evidence, claim, figures) for figures in read]
    rate = None if kill is None else rate_over_runs(evidence, kill.arm)
    known = [e for e in (*over, rate) if e is not None and e.has_interval]
    complete = len(known) == len(over) + (kill is not None)

    def rule() -> str:
        names = (name for name, _ in conditions)
        found = [(name, e) for name, e in zip(names, over, strict=True) if e is not None]
        decided = _decide_conditions(claim, kill, found)[0]
        if kill is None or rate is None:
            return decided.value
        if at_most(rate.high, kill.max_rate):
            return Outcome.REFUTED.value
        if decided is Outcome.SUPPORTED and not above(rate.low, kill.max_rate):
            return Outcome.INCONCLUSIVE.value
        return decided.value

    # Where one part has no interval over runs, the rule as a whole has no answer there.
    shown_by = over[0] if complete else next((e for e in (*over, rate) if e not in known), None)
    return compare(outcome.value, conditions[0][1], shown_by, rule, evidence)


def _over(
    evidence: Evidence,
    claim: DifferenceClaim | TriageClaim,
    figures: Callable[[Evidence, str], Rates | None] = rates_of_runs,
) -> Estimate | None:
    """Return the t over training runs of a claim's two arms, None where there is none."""
    one, two = (figures(evidence, arm) for arm in claim.arms)
    if not one or not two:
        return None
    arms = (claim.treated, claim.control)
    found = difference_over_runs(evidence, arms, (one, two), of_both(evidence, arms))
    return found[0] if found else None


@rule(TriageClaim)
def _triage(claim: TriageClaim, registration: Registration, evidence: Evidence) -> Finding:  # noqa: ARG001
    effect = evidence.contrast(claim.name, claim.treated, claim.control)
    outcome, label, reason = _decide_triage(claim, effect)
    over = _over(evidence, claim)
    return Finding(
        outcome=outcome,
        label=label,
        contrast=_contrast(claim.treated, claim.control),
        effect=effect,
        rule=(
            f"{claim.null_label}: |d| <= {shown(claim.null_effect)}, "
            f"p > {shown(claim.null_min_p)}, low > {shown(-claim.null_effect)}; "
            f"{claim.artefact_label}: d >= {shown(claim.artefact_effect)}"
        ),
        reason=reason,
        over_runs=compare(
            outcome.value,
            effect,
            over,
            lambda: _decide_triage(claim, effect if over is None else over)[0].value,
            evidence,
        ),
        estimates=other_looks(evidence, claim.name, claim.treated, claim.control),
        notes=(
            *_simulated_note(claim),
            *_notes(effect, evidence),
            *_equality_note(
                label == claim.null_label,
                equality(evidence, claim.name, claim.treated, claim.control),
            ),
        ),
    )


def _decide_triage(claim: TriageClaim, effect: Estimate) -> _Decision:
    """Return outcome, label and reason of the registered three-way rule."""
    sentence = f"{effect.interval_text}, {effect.p_text}"
    if (
        at_most(abs(effect.value), claim.null_effect)
        and effect.p is not None
        and effect.p > claim.null_min_p
        and above(effect.low, -claim.null_effect)
    ):
        return (
            Outcome.SUPPORTED,
            claim.null_label,
            f"the effect is within the null band ({sentence})",
        )
    if at_least(effect.value, claim.artefact_effect):
        reason = f"the effect is as large as an artefact's ({sentence})"
        if effect.has_interval:
            return Outcome.REFUTED, claim.artefact_label, reason
        reason += "; there is no interval, so that the data cannot tell"
        return Outcome.INCONCLUSIVE, claim.artefact_label, reason
    return Outcome.INCONCLUSIVE, "ambiguous", f"neither rule fits ({sentence})"


@rule(KillCriterion)
def _kill(kill: KillCriterion, registration: Registration, evidence: Evidence) -> Finding:  # noqa: ARG001
    effect = evidence.bystander_rate(kill.name, kill.arm)
    triggered = at_most(effect.value, kill.max_rate)
    sentence = f"{kill.arm} bystander rate {evidence.count(kill.arm, 'bystander').text}"
    if not math.isfinite(effect.value):
        outcome, label, reason = Outcome.INCONCLUSIVE, "cannot tell", f"{sentence}: no completions"
    elif triggered:
        outcome, label = Outcome.REFUTED, TRIGGERED
        reason = f"{sentence} <= {shown(kill.max_rate)}: {kill.claim} is falsified"
    else:
        outcome, label = Outcome.SUPPORTED, NOT_TRIGGERED
        reason = f"{sentence} > {shown(kill.max_rate)}"
    over = rate_over_runs(evidence, kill.arm)
    return Finding(
        outcome=outcome,
        label=label,
        contrast=f"{kill.arm}, mean bystander rate",
        effect=effect,
        rule=f"triggered by a rate <= {shown(kill.max_rate)}",
        reason=reason,
        over_runs=compare(
            outcome.value,
            effect,
            over,
            lambda: _kill_over_runs(kill, effect if over is None else over).value,
            evidence,
        ),
    )


def _kill_over_runs(kill: KillCriterion, rate: Estimate) -> Outcome:
    """Return what the whole interval over training runs says of the kill rate."""
    if at_most(rate.high, kill.max_rate):
        return Outcome.REFUTED
    return Outcome.SUPPORTED if above(rate.low, kill.max_rate) else Outcome.INCONCLUSIVE


def _check_resolution(claim: DifferenceClaim, registration: Registration) -> None:
    resamples = registration.statistics.resamples
    if p_floor(resamples) >= claim.max_p:
        least, asked = math.ceil(2 / claim.max_p), shown(claim.max_p)
        raise SpecError(
            "statistics.resamples",
            bound=f">= {least}, since {claim.name} asks p < {asked}",
            value=resamples,
            remedy="With fewer resamples no effect could ever support the claim.",
        )


def _notes(effect: Estimate, evidence: Evidence) -> tuple[str, ...]:
    """What a reader of any contrast has to know."""
    notes = []
    if effect.has_interval and below(effect.high, 0):
        notes.append("the sign is flipped: the interval lies below 0")
    if evidence.runs == 1:
        notes.append(one_seed_risk()[1])
    return tuple(notes)


def _population_note(claim: DifferenceClaim, registration: Registration) -> tuple[str, ...]:
    refusal = population_refusal(len(registration.roster.bystanders), claim.max_p)
    return (refusal,) if refusal else ()


def _simulated_note(claim: TriageClaim) -> tuple[str, ...]:
    """Say what the published null rule and TOST are worth, where they were simulated."""
    simulated = (claim.null_effect, claim.null_min_p) == SIMULATED_NULL
    return (SIMULATED_EQUALITY,) if simulated else ()


def _equality_note(null: bool, tests: tuple[Estimate, ...]) -> tuple[str, ...]:
    """Say so where TOST and the published rule disagree on equality."""
    notes = []
    for test in tests:
        if test.p is not None and (test.p < EQUIVALENCE_ALPHA) is not null:
            rule = "finds no effect" if null else "does not find the effect null"
            shows = "does not show equivalence" if null else "shows equivalence"
            notes.append(f"the published rule {rule}, but TOST {shows}: they disagree")
    return tuple(notes)


def _contrast(treated: str, control: str) -> str:
    return f"{treated} - {control}, mean bystander rate"
