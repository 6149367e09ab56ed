"""Judging: registered rules and gates on evidence, in one decision table.

The table is in docs/statistics.md: rows are tried from the top; the first that fits decides.
A claim with a kill criterion is never refuted by its interval: the registration reads
"above the kill rate with H1 not met: no claim".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.claim_types import Claim, Kill
from persona_lib.specs.registration import Registration
from persona_lib.verdict import claims, run_claims
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gate_result import GateOutcome, GateResult
from persona_lib.verdict.gates import GateBook, judge_gate
from persona_lib.verdict.summary import seal_fields, summary
from persona_lib.verdict.training_runs import NOT_READ
from persona_lib.verdict.verdict import Verdict

if TYPE_CHECKING:
    from persona_lib.specs.seal import SealState

_NAMED = 3
"""Gates are named in a label up to this many."""


class Judging(GateBook):
    """A registration and evidence, judged: each gate once, each claim when asked for.

    Args:
        registration: whose rules decide.
        evidence: what is judged.
        stricter: a registration of the same experiment with more gates; those that
            this one does not have become warnings unless they hold.
        seal: the registration's seal, None if it was not checked.
    """

    def __init__(
        self,
        registration: Registration,
        evidence: Evidence,
        *,
        stricter: Registration | None = None,
        seal: SealState | None = None,
    ) -> None:
        super().__init__(registration, evidence)
        self.stricter, self.seal = stricter, seal

    @cached_property
    def checks(self) -> tuple[GateResult, ...]:
        """Gates that only the stricter registration has, in its order.

        Gates of an arm that the evidence does not hold are left out.
        """
        if self.stricter is None:
            return ()
        known, arms = {gate.name for gate in self.registration.gates}, set(self.evidence.arms)
        return tuple(
            judge_gate(self.stricter, self.evidence, gate.name)
            for gate in self.stricter.gates
            if gate.name not in known and set(gate.arms or ()) <= arms
        )

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The evidence on every arm, with the checks and the seal, as JSON data."""
        return summary(self.registration, self.evidence, checks=self.checks, seal=self.seal)

    def claim(self, claim_name: str) -> Verdict:
        """Judge one claim, or the kill criterion.

        Raises:
            SpecError: no such claim, no rule for its type, or a p threshold below
                the least p that the registered number of resamples can give.
            DataError: the evidence lacks an arm that the claim or its gates name.
        """
        claim = self.registration.claim(claim_name)
        finding = claims.rule(claim, self)
        gates = tuple(self.gate(name) for name in dict.fromkeys(claim.consults))
        broken = [gate for gate in gates if gate.name in claim.needs and not gate.holds]
        outcome, label, reason = finding.outcome, finding.label, finding.reason
        if broken:
            outcome, (label, reason) = Outcome.INVALID, _invalid(broken)
        wanted = () if self.stricter is None else self.stricter.claim(claim_name).consults
        judged = {gate.name for gate in (*gates, *self.checks)}
        unread = ", ".join(name for name in wanted if name not in judged)
        unread_note = (f"checks that need other arms were not judged: {unread}",) if unread else ()
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
            notes=(*finding.notes, *unread_note, *_notes(claim, self.evidence)),
            registration=self.registration.name,
            digest=self.registration.digest,
            seeds=self.evidence.seeds,
            arms=self.registration.reads(claim) or (),
            conditions=finding.conditions,
            warnings=tuple(gate for gate in self.checks if gate.name in wanted and not gate.holds),
            **seal_fields(self.seal),
            over_runs=NOT_READ if broken else finding.over_runs,
        )


def judge(
    registration: Registration,
    evidence: Evidence,
    claim_name: str,
    *,
    stricter: Registration | None = None,
) -> Verdict:
    """Judge one claim alone; see `Judging`."""
    return Judging(registration, evidence, stricter=stricter).claim(claim_name)


def judge_all(
    registration: Registration, evidence: Evidence
) -> tuple[tuple[Verdict, ...], tuple[GateResult, ...]]:
    """Judge every claim, the kill criterion and every gate, in registered order."""
    judging = Judging(registration, evidence)
    return (
        tuple(judging.claim(claim.name) for claim in registration.judged),
        tuple(judging.gate(gate.name) for gate in registration.gates),
    )


def _invalid(broken: Sequence[GateResult]) -> tuple[str, str]:
    """Return label and reason; gates that fail come first."""
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


def _notes(claim: Claim | Kill, evidence: Evidence) -> tuple[str, ...]:
    lacking = (f"not available: {sentence}" for sentence in evidence.unavailable)
    if isinstance(claim, run_claims.TYPES):
        return (*evidence.remarks, *lacking)  # its interval is over training runs
    if evidence.runs == 1:
        runs = "one training run: run-to-run variance not estimable"
    elif not evidence.runs:
        runs = "how many training runs are pooled is not known"
    else:
        runs = f"{evidence.runs_text} training runs pooled: the interval holds for these runs"
    return (runs, *evidence.remarks, *lacking)
