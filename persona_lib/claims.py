"""Registered claims, each type judged by one registered function.

A new claim type needs a dataclass in `persona_lib.registration` and one function
here, marked with `rule`. The decision table is in `persona_lib.verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from persona_lib.errors import SpecError
from persona_lib.evidence_base import Evidence
from persona_lib.gates import judge_gate
from persona_lib.registration import (
    DifferenceClaim,
    KillCriterion,
    Registration,
    TriageClaim,
)
from persona_lib.sensitivity import other_looks
from persona_lib.stats.bootstrap import p_floor
from persona_lib.stats.estimate import Estimate

AMBIGUOUS_ZONE = "ambiguous zone"
SIGN_FLIPPED = "sign flipped"
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
    extra_gates: tuple[str, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    notes: tuple[str, ...] = ()


_Rule = Callable[[Any, Registration, Evidence], Finding]
_RULES: dict[type[Any], _Rule] = {}
_Function = TypeVar("_Function", bound=_Rule)


def rule(claim_type: type[Any]) -> Callable[[_Function], _Function]:
    """Register the function that judges claims of a type."""

    def register(function: _Function) -> _Function:
        _RULES[claim_type] = function
        return function

    return register


def find(registration: Registration, evidence: Evidence, claim_name: str) -> Finding:
    """Apply the registered rule of one claim; needed gates are not looked at.

    Raises:
        SpecError: no such claim, no rule for its type, or a p threshold below
            the least p that the registered number of resamples can give.
        DataError: the evidence lacks an arm that the claim names.
    """
    claim = registration.claim(claim_name)
    if type(claim) not in _RULES:
        raise SpecError(
            f"claim {claim.name}",
            bound=f"a type of {', '.join(known.__name__ for known in _RULES)}",
            value=type(claim).__name__,
            remedy="Write a rule for this type in persona_lib.claims.",
        )
    return _RULES[type(claim)](claim, registration, evidence)


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
    text = f"d >= {claim.min_effect:.2f} and p < {claim.max_p:g}"
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
        extra_gates=(claim.ratio_gate,) if claim.ratio_gate else (),
        estimates=other_looks(evidence, claim.name, claim.treated, claim.control),
        notes=_sign_note(effect),
    )


def _decide_difference(
    claim: DifferenceClaim,
    kill: KillCriterion | None,
    evidence: Evidence,
    conditions: list[tuple[str, Estimate]],
) -> tuple[Outcome, str, str]:
    """Return outcome, label and reason: the first fitting row of the module's table."""
    if kill is not None:
        count = evidence.count(kill.arm, "bystander")
        if count.rate <= kill.max_rate:
            reason = f"{kill.arm} bystander rate {count.text} <= {kill.max_rate:.2f} ({kill.name})"
            return Outcome.REFUTED, "kill criterion", reason
    unmet = [
        (name, e)
        for name, e in conditions
        if not (e.value >= claim.min_effect and e.p is not None and e.p < claim.max_p)
    ]
    if not unmet:
        return Outcome.SUPPORTED, "rule met", "the rule holds on every condition"
    failed = ", ".join(f"{name} {e.interval_text}, {e.p_text}" for name, e in unmet)
    if kill is not None:
        reason = f"above the kill rate with the rule not met: no claim ({failed})"
        return Outcome.INCONCLUSIVE, AMBIGUOUS_ZONE, reason
    small = [(name, e) for name, e in unmet if e.has_interval and e.high < claim.min_effect]
    if small:
        flipped = any(e.high < 0 for _, e in small)
        label = SIGN_FLIPPED if flipped else "effect too small"
        reason = f"the interval ends below {claim.min_effect:.2f} ({failed})"
        return Outcome.REFUTED, label, reason
    return Outcome.INCONCLUSIVE, "cannot tell", f"the rule is not met, nor ruled out ({failed})"


@rule(TriageClaim)
def _triage(claim: TriageClaim, registration: Registration, evidence: Evidence) -> Finding:  # noqa: ARG001
    effect = evidence.contrast(claim.name, claim.treated, claim.control)
    null = (
        abs(effect.value) <= claim.null_effect
        and effect.p is not None
        and effect.p > claim.null_min_p
        and effect.low > -claim.null_effect
    )
    shown = f"{effect.interval_text}, {effect.p_text}"
    if null:
        outcome, label = Outcome.SUPPORTED, claim.null_label
        reason = f"the effect is within the null band ({shown})"
    elif effect.value >= claim.artefact_effect:
        outcome, label = Outcome.REFUTED, claim.artefact_label
        reason = f"the effect is as large as an artefact's ({shown})"
        if not effect.has_interval:
            outcome = Outcome.INCONCLUSIVE
            reason += "; there is no interval, so that the data cannot tell"
    else:
        outcome, label = Outcome.INCONCLUSIVE, "ambiguous"
        reason = f"neither rule fits ({shown})"
    return Finding(
        outcome=outcome,
        label=label,
        contrast=_contrast(claim.treated, claim.control),
        effect=effect,
        rule=(
            f"{claim.null_label}: |d| <= {claim.null_effect:.2f}, p > {claim.null_min_p:.2f}, "
            f"low > {-claim.null_effect:.2f}; {claim.artefact_label}: "
            f"d >= {claim.artefact_effect:.2f}"
        ),
        reason=reason,
        estimates=other_looks(evidence, claim.name, claim.treated, claim.control),
        notes=_sign_note(effect),
    )


@rule(KillCriterion)
def _kill(kill: KillCriterion, registration: Registration, evidence: Evidence) -> Finding:  # noqa: ARG001
    effect = evidence.bystander_rate(kill.name, kill.arm)
    triggered = effect.value <= kill.max_rate
    shown = f"{kill.arm} bystander rate {evidence.count(kill.arm, 'bystander').text}"
    if not math.isfinite(effect.value):
        outcome, label, reason = Outcome.INCONCLUSIVE, "cannot tell", f"{shown}: no completions"
    elif triggered:
        outcome, label = Outcome.REFUTED, TRIGGERED
        reason = f"{shown} <= {kill.max_rate:.2f}: {kill.claim} is falsified"
    else:
        outcome, label = Outcome.SUPPORTED, NOT_TRIGGERED
        reason = f"{shown} > {kill.max_rate:.2f}"
    return Finding(
        outcome=outcome,
        label=label,
        contrast=f"{kill.arm}, mean bystander rate",
        effect=effect,
        rule=f"triggered by a rate <= {kill.max_rate:.2f}",
        reason=reason,
    )


def _check_resolution(claim: DifferenceClaim, registration: Registration) -> None:
    resamples = registration.statistics.resamples
    if p_floor(resamples) >= claim.max_p:
        raise SpecError(
            "statistics.resamples",
            bound=f">= {math.ceil(2 / claim.max_p)}, since {claim.name} asks p < {claim.max_p:g}",
            value=resamples,
            remedy="With fewer resamples no effect could ever support the claim.",
        )


def _sign_note(effect: Estimate) -> tuple[str, ...]:
    if effect.has_interval and effect.high < 0:
        return ("the sign is flipped: the interval lies below 0",)
    return ()


def _contrast(treated: str, control: str) -> str:
    return f"{treated} - {control}, mean bystander rate"
