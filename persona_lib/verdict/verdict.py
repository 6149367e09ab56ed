"""Registered rule + evidence -> verdict. docs/verdicts.md tells it at length.

Rows are tried from the top; the first that fits decides. d is the effect,
[low, high] its interval.

Difference claims (H1, H2):

==========================================================  ============  =================
when                                                        outcome       label
==========================================================  ============  =================
a needed gate fails or cannot tell                          INVALID       gate's name
the kill criterion is bound to the claim and triggered      REFUTED       kill criterion
d >= min_effect and p < max_p (where the ratio gate does    SUPPORTED     rule met
not hold: on bystander/source as well)
the kill criterion is bound to the claim, not triggered     INCONCLUSIVE  ambiguous zone
a condition's interval ends below min_effect                REFUTED       effect too small,
                                                                          or sign flipped
otherwise                                                   INCONCLUSIVE  cannot tell
==========================================================  ============  =================

The registration reads "above the kill rate with H1 not met: no claim", so that a
claim with a kill criterion is never refuted by its interval: the verdict says
where the interval lies, and claims nothing.

Triage claims (H3) take their label from the registered three-way rule: the null
label is SUPPORTED, the artefact label REFUTED, ``ambiguous`` INCONCLUSIVE. The
artefact rule needs no interval; without one the outcome is INCONCLUSIVE all the
same, since the data cannot tell.

The kill criterion is SUPPORTED ("not triggered") above its rate and REFUTED
("triggered") at or below it. Both are point rules, as registered.

Effects, rates and ratios are compared with a tolerance (`persona_lib.stats.thresholds`),
so that 0.60 - 0.40 is at least 0.20.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from persona_lib.errors import DoesNotHoldError, InvalidClaimError
from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.registration import Registration
from persona_lib.specs.seal import Seen, seal_lines, seal_text, seen_of
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.claims import Outcome, find
from persona_lib.verdict.gates import GateOutcome, GateResult, judge_gate
from persona_lib.verdict.summary import summary
from persona_lib.verdict.training_runs import NOT_READ, OverRuns

if TYPE_CHECKING:
    from persona_lib.specs.seal import SealState

__all__ = [
    "GateOutcome",
    "GateResult",
    "Outcome",
    "Verdict",
    "judge",
    "judge_all",
    "judge_checks",
    "judge_gate",
    "require_holds",
    "require_valid",
    "seal_text",
    "summary",
]

_NAMED = 3
"""Gates are named in a label up to this many."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One judged claim.

    Attributes:
        name, statement: of the registration.
        outcome: see the module's table.
        label: the row of the table, or the registered label of a triage.
        contrast: what the effect is, in words ("C2 - C1, mean bystander rate").
        effect: the effect that the rule read.
        rule: the registered rule with its thresholds.
        reason: why this outcome, in one sentence.
        gates: gates consulted.
        estimates: other looks at the contrast; they decide nothing.
        notes: what a reader has to know.
        registration, digest: name and SHA-256 of the registration.
        seeds: root seeds of the runs; empty where not published.
        warnings: gates of the stricter registration that the claim would need there,
            and that do not hold. They decide nothing.
        sealed: date of the registration's newest seal, "" if the seal was not checked.
        amendments: changes since its first seal, None if it was not checked.
        seal_reason: why the newest seal was made.
        seen: what the seals say of data that had been seen before.
        over_runs: whether training runs bear the outcome out; None in older files.
    """

    name: str
    statement: str
    outcome: Outcome
    label: str
    contrast: str
    effect: Estimate
    rule: str
    reason: str
    gates: tuple[GateResult, ...]
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]
    registration: str
    digest: str
    seeds: tuple[int, ...]
    warnings: tuple[GateResult, ...] = ()
    sealed: str = ""
    amendments: int | None = None
    seal_reason: str = ""
    seen: tuple[Seen, ...] = ()
    over_runs: OverRuns | None = None

    @property
    def holds(self) -> bool:
        """The outcome is SUPPORTED."""
        return self.outcome is Outcome.SUPPORTED

    @property
    def details(self) -> tuple[str, ...]:
        """Other looks and notes, one line each."""
        return (*(e.text for e in self.estimates), *self.notes)

    @property
    def text(self) -> str:
        """The whole verdict in several lines."""
        effect = self.effect
        seeds = ", ".join(map(str, self.seeds)) or "not published"
        lines = [
            f"{self.name}: {self.outcome.value} ({self.label}){self._over_runs}",
            f"  {self.statement}",
            f"  why: {self.reason}",
            f"  rule: {self.rule}",
            f"  {self.contrast}: {effect.text}",
            *(f"  {gate.line}" for gate in self.gates),
            *(f"  warning, not registered: {gate.line}" for gate in self.warnings),
            *(f"  {line}" for line in self.details),
            f"  registration {self.registration} {self.digest[:12]}"
            f"{seal_text(self.sealed, self.amendments)}, seeds {seeds}",
            *(f"  {line}" for line in self.seal_lines),
        ]
        return "\n".join(lines)

    @property
    def seal_lines(self) -> tuple[str, ...]:
        """Data that had been seen before sealing, and the newest amendment, one line each."""
        return seal_lines(self.sealed, self.amendments, self.seal_reason, self.seen)

    @property
    def _over_runs(self) -> str:
        over = self.over_runs
        return "" if over is None or over.shown else f"; {over.text}"

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON data: NaN becomes null."""
        return {
            "name": self.name,
            "statement": self.statement,
            "outcome": self.outcome.value,
            "label": self.label,
            "contrast": self.contrast,
            "effect": self.effect.to_json(),
            "rule": self.rule,
            "reason": self.reason,
            "gates": [gate.to_json() for gate in self.gates],
            "estimates": [estimate.to_json() for estimate in self.estimates],
            "notes": list(self.notes),
            "registration": self.registration,
            "digest": self.digest,
            "seeds": list(self.seeds),
            "warnings": [gate.to_json() for gate in self.warnings],
            "sealed": self.sealed,
            "amendments": self.amendments,
            "seal_reason": self.seal_reason,
            "seen": [asdict(one) for one in self.seen],
            "over_runs": None if self.over_runs is None else self.over_runs.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """Return what `to_json` wrote."""
        fields = dict(data)
        fields["outcome"] = Outcome(fields["outcome"])
        fields["effect"] = Estimate.from_json(fields["effect"])
        for name in ("gates", "warnings"):
            fields[name] = tuple(GateResult.from_json(gate) for gate in fields[name])
        fields["estimates"] = tuple(Estimate.from_json(e) for e in fields["estimates"])
        fields["notes"], fields["seeds"] = tuple(fields["notes"]), tuple(fields["seeds"])
        fields["seen"] = seen_of(fields.get("seen", ()))
        if fields.get("over_runs") is not None:
            fields["over_runs"] = OverRuns.from_json(fields["over_runs"])
        return cls(**fields)


def judge(
    registration: Registration,
    evidence: Evidence,
    claim_name: str,
    *,
    stricter: Registration | None = None,
    seal: SealState | None = None,
) -> Verdict:
    """Judge one claim, or the kill criterion.

    Args:
        registration: whose rule decides.
        evidence: what is judged.
        claim_name: name of the claim.
        stricter: a registration of the same experiment with more gates; those that
            it needs and this one does not have become warnings unless they hold.
        seal: the registration's seal, as `persona_lib.specs.seal.check_sealed` found it.

    Raises:
        SpecError: no such claim, no rule for its type, or a p threshold below
            the least p that the registered number of resamples can give.
        DataError: the evidence lacks an arm that the claim or its gates name.
    """
    claim = registration.claim(claim_name)
    finding = find(registration, evidence, claim_name)
    consulted = dict.fromkeys((*claim.needs, *finding.extra_gates))
    gates = tuple(judge_gate(registration, evidence, name) for name in consulted)
    broken = [gate for gate in gates if gate.name in claim.needs and not gate.holds]
    outcome, label, reason = finding.outcome, finding.label, finding.reason
    if broken:
        outcome, (label, reason) = Outcome.INVALID, _invalid(broken)
    checks = [] if stricter is None else judge_checks(registration, stricter, evidence)
    wanted = () if stricter is None else stricter.claim(claim_name).consults
    judged = {gate.name for gate in (*gates, *checks)}
    unread = [name for name in wanted if name not in judged]
    unread_note = (f"checks that need other arms were not judged: {', '.join(unread)}",)
    return Verdict(
        name=claim.name,
        statement=claim.statement,
        outcome=outcome,
        label=label,
        contrast=finding.contrast,
        effect=finding.effect,
        rule=finding.rule,
        reason=reason,
        gates=gates,
        estimates=finding.estimates,
        notes=(*finding.notes, *(unread_note if unread else ()), *_notes(evidence)),
        registration=registration.name,
        digest=registration.digest,
        seeds=evidence.seeds,
        warnings=tuple(gate for gate in checks if gate.name in wanted and not gate.holds),
        sealed="" if seal is None else seal.date,
        amendments=None if seal is None else seal.amendments,
        seal_reason="" if seal is None else seal.reason,
        seen=() if seal is None else seal.seen,
        over_runs=NOT_READ if broken else finding.over_runs,
    )


def judge_checks(
    registration: Registration, stricter: Registration, evidence: Evidence
) -> list[GateResult]:
    """Judge the gates that only a stricter registration has, in its order.

    Gates that read an arm which the evidence does not hold are left out.
    """
    known = {gate.name for gate in registration.gates}
    return [
        judge_gate(stricter, evidence, gate.name)
        for gate in stricter.gates
        if gate.name not in known and set(gate.arms or ()) <= set(evidence.arms)
    ]


def require_valid(verdict: Verdict) -> None:
    """Refuse a verdict that cannot be read.

    Raises:
        InvalidClaimError: a gate that the claim needs did not hold; the message
            is the whole verdict.
    """
    if verdict.outcome is Outcome.INVALID:
        raise InvalidClaimError(verdict.text)


def require_holds(found: Verdict | GateResult) -> None:
    """Fail unless a claim is supported, or a gate holds; unlike ``assert``, also under -O.

    Raises:
        DoesNotHoldError: it does not; the message is the whole verdict, or the gate's text.
    """
    __tracebackhide__ = True  # pytest shows the line of the test instead
    if not found.holds:
        raise DoesNotHoldError(found.text)


def judge_all(
    registration: Registration, evidence: Evidence
) -> tuple[tuple[Verdict, ...], tuple[GateResult, ...]]:
    """Judge every claim, the kill criterion and every gate, in registered order."""
    claims = (*registration.claims, registration.kill)
    return (
        tuple(judge(registration, evidence, claim.name) for claim in claims),
        tuple(judge_gate(registration, evidence, gate.name) for gate in registration.gates),
    )


def _invalid(broken: Sequence[GateResult]) -> tuple[str, str]:
    """Return label and reason: gates that fail come first, each with its figure."""
    failing = [gate for gate in broken if gate.outcome is GateOutcome.FAILS]
    unsure = [gate for gate in broken if gate.outcome is not GateOutcome.FAILS]
    rest = f"{len(unsure)} more cannot tell"
    if failing:
        label = ", ".join(gate.name for gate in failing[:_NAMED])
        if len(failing) > _NAMED:
            label += f" and {len(failing) - _NAMED} others"
        label += f"; {rest}" if unsure else ""
    elif len(unsure) > _NAMED:
        label = f"{len(unsure)} gates cannot tell"
    else:
        label = ", ".join(gate.name for gate in unsure)
    why = [gate.line for gate in failing or broken]
    if failing and unsure:
        why.append(f"{rest}: {', '.join(gate.name for gate in unsure)}")
    return label, f"the claim cannot be read: {'; '.join(why)}"


def _notes(evidence: Evidence) -> tuple[str, ...]:
    if evidence.runs == 1:
        runs = "one training run: run-to-run variance not estimable"
    else:
        runs = f"{evidence.runs} training runs pooled: the interval holds for these runs"
    lacking = (f"not available: {sentence}" for sentence in evidence.unavailable)
    return (runs, *evidence.remarks, *lacking)
