"""Each type of claim: its rule as conditions, and the outcome that they give on evidence.

A new type needs a dataclass in `persona_lib.specs.claim_types` and one function here,
marked with ``@rule.register``. The decision table is in docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import singledispatch

from persona_lib.errors import SpecError
from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.claim_types import Claim, DifferenceClaim, Kill, KillCriterion, TriageClaim
from persona_lib.specs.registration import Registration
from persona_lib.stats.bootstrap import p_floor
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.targets import one_seed_risk, population_refusal
from persona_lib.stats.thresholds import above, at_most, below, shown
from persona_lib.verdict.conditions import (
    RULE_MET,
    Condition,
    all_met,
    condition,
    rule_text,
    unmet_text,
)
from persona_lib.verdict.gate_result import without_rule
from persona_lib.verdict.gates import GateBook
from persona_lib.verdict.other_looks import EQUIVALENCE_ALPHA, other_looks
from persona_lib.verdict.training_runs import (
    OverRuns,
    Rates,
    compare,
    difference_over_runs,
    rate_over_runs,
    rates_of_runs,
    ratios_of_runs,
)

AMBIGUOUS_ZONE = "ambiguous zone"
SIGN_FLIPPED = "sign flipped"
KILLED = "kill criterion"
TRIGGERED, NOT_TRIGGERED = "triggered", "not triggered"
SIMULATED_NULL = (0.05, 0.10)
"""Null band and least p of the triage that tests/calibration simulates."""
SIMULATED_EQUALITY = (
    "simulated without a difference, this null rule passes in 10 % of data sets at a rate of 27 % "
    "and in 97 % at 2 %; TOST errs in 10 % at 3 %, not in 5"
)
"""Worlds "Heavy" of docs/statistics.md: 7 personas, 20 questions that differ much, 10 samples."""


class Outcome(Enum):
    """The outcome of a claim on this evidence."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


SUPPORTED, REFUTED, INCONCLUSIVE, _ = Outcome


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a claim function returns; attributes as in `Verdict`."""

    outcome: Outcome
    label: str
    contrast: str
    effect: Estimate
    conditions: tuple[Condition, ...]
    rule: str
    reason: str
    over_runs: OverRuns | None
    estimates: tuple[Estimate, ...] = ()
    notes: tuple[str, ...] = ()


_Named = tuple[str, Estimate]
"""What is compared, and its estimate."""
_RATES, _RATIO = "bystander rates", "bystander/source"
_Decision = tuple[Outcome, str, str]
"""Outcome, label and reason."""


@singledispatch
def rule(claim: Claim | Kill, book: GateBook) -> Finding:  # noqa: ARG001
    """Judge a claim by the function of its type, which ``@rule.register`` marks.

    Raises:
        SpecError: no function is registered for its type, or see `_check_resolution`.
        DataError: the evidence lacks an arm.
    """
    raise without_rule(f"claim {claim.name}", claim, __name__, rule.registry)


def _conditions(claim: DifferenceClaim, compared: Sequence[_Named]) -> tuple[Condition, ...]:
    """Return what a difference claim asks of each estimate."""
    row, found = (SUPPORTED.value, RULE_MET), []
    for name, e in compared:
        of = "" if name == _RATES else f" of {name}"
        found.append(condition(f"d{of}", ">=", claim.min_effect, e.value, row))
        found.append(condition(f"p{of}", "<", claim.max_p, e.p, row, exact=True))
    return tuple(found)


@rule.register
def _difference(claim: DifferenceClaim, book: GateBook) -> Finding:
    registration, evidence = book.registration, book.evidence
    _check_resolution(claim, registration)
    arms = (claim.name, claim.treated, claim.control)
    gate = None if claim.ratio_gate is None else book.gate(claim.ratio_gate)
    effect = evidence.contrast(*arms)
    compared = [(_RATES, effect)]
    state = "holds; no condition on bystander/source"
    if gate is not None and not gate.holds:
        state = "does not hold"
        compared.append((_RATIO, evidence.ratio_contrast(*arms)))
    conditions = _conditions(claim, compared)
    text = rule_text(conditions) + (f" (gate {gate.name} {state})" if gate is not None else "")
    bound = registration.kill_of(claim.name)
    kill = bound if isinstance(bound, KillCriterion) else None
    outcome, label, reason = _decide_difference(claim, kill is not None, compared)
    if kill is not None:
        rate = evidence.count(kill.arm, "bystander")
        fires = _kill_condition(kill, rate.rate, KILLED)
        conditions, text = (*conditions, fires), f"{text}; {rule_text((fires,))}"
        if fires.met:
            reason = f"{fires.measure} {rate.text} <= {shown(kill.max_rate)} ({kill.name})"
            outcome, label = REFUTED, KILLED
    refusal = population_refusal(len(registration.roster.bystanders), claim.max_p)
    return Finding(
        outcome=outcome,
        label=label,
        contrast=_contrast(claim),
        effect=effect,
        conditions=conditions,
        rule=text,
        reason=reason,
        over_runs=_difference_over_runs(claim, kill, evidence, outcome, compared),
        estimates=other_looks(evidence, *arms),
        notes=(*_notes(effect, evidence), *([refusal] if refusal else [])),
    )


def _decide_difference(
    claim: DifferenceClaim, killable: bool, compared: Sequence[_Named]
) -> _Decision:
    """Return the first row that fits, the kill criterion's left out."""
    unmet = [(name, e) for name, e in compared if not all_met(_conditions(claim, [(name, e)]))]
    if not unmet:
        return SUPPORTED, RULE_MET, "the rule holds on every condition"
    figures = (f"{name} {e.interval_text}, {e.p_text}" for name, e in unmet)
    failed = f"{', '.join(figures)}; {unmet_text(_conditions(claim, compared))}"
    if killable:
        reason = f"above the kill rate with the rule not met: no claim ({failed})"
        return INCONCLUSIVE, AMBIGUOUS_ZONE, reason
    small = [e for _, e in unmet if e.has_interval and below(e.high, claim.min_effect)]
    if small:
        label = SIGN_FLIPPED if any(below(e.high, 0) for e in small) else "effect too small"
        return REFUTED, label, f"the interval ends below {shown(claim.min_effect)} ({failed})"
    return INCONCLUSIVE, "cannot tell", f"the rule is not met, nor ruled out ({failed})"


def _difference_over_runs(
    claim: DifferenceClaim,
    kill: KillCriterion | None,
    evidence: Evidence,
    outcome: Outcome,
    compared: Sequence[_Named],
) -> OverRuns:
    """Apply the same rows to estimates over training runs; the kill rate to its interval."""
    figures = {_RATES: rates_of_runs, _RATIO: ratios_of_runs}
    over = [_over(evidence, claim, figures[name]) for name, _ in compared]
    rate = None if kill is None else rate_over_runs(evidence, kill.arm)
    parts = [*over, *([] if kill is None else [rate])]
    lacking = [part for part in parts if part is None or not part.has_interval]

    def rule(_: Estimate) -> str:
        found = [(name, e) for (name, _), e in zip(compared, over, strict=True) if e is not None]
        decided = _decide_difference(claim, kill is not None, found)[0]
        if kill is not None and rate is not None:
            if at_most(rate.high, kill.max_rate):
                return REFUTED.value
            if decided is SUPPORTED and not above(rate.low, kill.max_rate):
                return INCONCLUSIVE.value
        return decided.value

    # If one part has no interval over runs, the rule as a whole has no answer there.
    shown_by = lacking[0] if lacking else over[0]
    return compare(outcome.value, compared[0][1], shown_by, rule, evidence)


def _over(
    evidence: Evidence,
    claim: DifferenceClaim | TriageClaim,
    figures: Callable[[Evidence, str], Rates],
) -> Estimate | None:
    """Return the t over training runs of a claim's two arms, None if there is none."""
    one, two = figures(evidence, claim.treated), figures(evidence, claim.control)
    found = difference_over_runs(evidence, (claim.treated, claim.control), (one, two))
    return found[0] if found else None


@rule.register
def _triage(claim: TriageClaim, book: GateBook) -> Finding:
    evidence, arms = book.evidence, (claim.name, claim.treated, claim.control)
    effect = evidence.contrast(*arms)
    conditions = _triage_conditions(claim, effect)
    outcome, label, reason = _decide_triage(claim, effect)
    looks = other_looks(evidence, *arms)
    simulated = (claim.null_effect, claim.null_min_p) == SIMULATED_NULL
    return Finding(
        outcome=outcome,
        label=label,
        contrast=_contrast(claim),
        effect=effect,
        conditions=conditions,
        rule=rule_text(conditions),
        reason=reason,
        over_runs=compare(
            outcome.value,
            effect,
            _over(evidence, claim, rates_of_runs),
            lambda over: _decide_triage(claim, over)[0].value,
            evidence,
        ),
        estimates=looks,
        notes=(
            *((SIMULATED_EQUALITY,) if simulated else ()),
            *_notes(effect, evidence),
            *_equality_note(label == claim.null_label, looks),
        ),
    )


def _triage_conditions(claim: TriageClaim, effect: Estimate) -> tuple[Condition, ...]:
    null = (SUPPORTED.value, claim.null_label)
    artefact = (REFUTED.value, claim.artefact_label)
    return (
        condition("|d|", "<=", claim.null_effect, abs(effect.value), null),
        condition("p", ">", claim.null_min_p, effect.p, null, exact=True),
        condition("lower end", ">", -claim.null_effect, effect.low, null),
        condition("d", ">=", claim.artefact_effect, effect.value, artefact),
    )


def _decide_triage(claim: TriageClaim, effect: Estimate) -> _Decision:
    conditions = _triage_conditions(claim, effect)
    sentence = f"{effect.interval_text}, {effect.p_text}"
    if all_met(conditions, claim.null_label):
        return SUPPORTED, claim.null_label, f"the effect is within the null band ({sentence})"
    if all_met(conditions, claim.artefact_label):
        reason = f"the effect is as large as an artefact's ({sentence})"
        if effect.has_interval:
            return REFUTED, claim.artefact_label, reason
        reason += "; there is no interval, so that the data cannot tell"
        return INCONCLUSIVE, claim.artefact_label, reason
    return INCONCLUSIVE, "ambiguous", f"neither rule fits ({sentence}; {unmet_text(conditions)})"


@rule.register
def _kill(kill: KillCriterion, book: GateBook) -> Finding:
    evidence = book.evidence
    effect = evidence.bystander_rate(kill.name, kill.arm)
    fires = _kill_condition(kill, effect.value, TRIGGERED)
    sentence = f"{kill.arm} bystander rate {evidence.count(kill.arm, 'bystander').text}"
    if not math.isfinite(effect.value):
        outcome, label, reason = INCONCLUSIVE, "cannot tell", f"{sentence}: no completions"
    elif fires.met:
        outcome, label = REFUTED, TRIGGERED
        reason = f"{sentence} <= {shown(kill.max_rate)}: {kill.claim} is falsified"
    else:
        outcome, label, reason = SUPPORTED, NOT_TRIGGERED, f"{sentence} > {shown(kill.max_rate)}"

    def rule(rate: Estimate) -> str:
        if at_most(rate.high, kill.max_rate):
            return REFUTED.value
        return (SUPPORTED if above(rate.low, kill.max_rate) else INCONCLUSIVE).value

    return Finding(
        outcome=outcome,
        label=label,
        contrast=f"{kill.arm}, mean bystander rate",
        effect=effect,
        conditions=(fires,),
        rule=rule_text((fires,)),
        reason=reason,
        over_runs=compare(
            outcome.value, effect, rate_over_runs(evidence, kill.arm), rule, evidence
        ),
    )


def _kill_condition(kill: KillCriterion, rate: float, label: str) -> Condition:
    name = f"{kill.arm} bystander rate"
    return condition(name, "<=", kill.max_rate, rate, (REFUTED.value, label))


def _check_resolution(claim: DifferenceClaim, registration: Registration) -> None:
    if p_floor(registration.statistics.resamples) >= claim.max_p:
        least, asked = math.ceil(2 / claim.max_p), shown(claim.max_p)
        raise SpecError(
            "statistics.resamples",
            bound=f">= {least}, since {claim.name} asks p < {asked}",
            value=registration.statistics.resamples,
            remedy="With fewer resamples no effect could ever support the claim.",
        )


def _notes(effect: Estimate, evidence: Evidence) -> tuple[str, ...]:
    notes = []
    if effect.has_interval and below(effect.high, 0):
        notes.append("the sign is flipped: the interval lies below 0")
    if evidence.runs == 1:
        notes.append(one_seed_risk()[1])
    return tuple(notes)


def _equality_note(null: bool, looks: Sequence[Estimate]) -> tuple[str, ...]:
    rule = "finds no effect" if null else "does not find the effect null"
    shows = "does not show equivalence" if null else "shows equivalence"
    return tuple(
        f"the published rule {rule}, but TOST {shows}: they disagree"
        for look in looks
        if look.method.startswith("TOST")
        and look.p is not None
        and (look.p < EQUIVALENCE_ALPHA) is not null
    )


def _contrast(claim: DifferenceClaim | TriageClaim) -> str:
    return f"{claim.treated} - {claim.control}, mean bystander rate"
