"""What a verdict is, its text, the test that it holds, and p adjusted over all claims.

`persona_lib.verdict.judging` makes verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from persona_lib.errors import DoesNotHoldError, InvalidClaimError
from persona_lib.specs.registration import Registration
from persona_lib.specs.seal import Seen, seal_lines, seal_text
from persona_lib.stats.equivalence import holm
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.targets import QUESTION_METHOD
from persona_lib.verdict.as_json import AsJson
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.conditions import Condition
from persona_lib.verdict.gate_result import GateResult
from persona_lib.verdict.training_runs import OverRuns


@dataclass(frozen=True, kw_only=True)
class Verdict(AsJson):
    """One judged claim.

    Attributes:
        name, statement: of the registration.
        outcome: see `persona_lib.verdict.judging`.
        label: the row of that table, or the registered label of a triage.
        contrast: what the effect is, in words ("C2 - C1, mean bystander rate").
        effect: the effect that the rule read.
        rule: the registered rule with its thresholds.
        reason: why this outcome, in one sentence.
        gates: gates consulted.
        estimates: other looks at the contrast; they decide nothing.
        notes: what a reader has to know.
        registration, digest: name and SHA-256 of the registration.
        seeds: run seeds; empty if not published.
        arms: the arms that the rule compares; empty in older files.
        conditions: the comparisons of the rule; empty in older files.
        warnings: gates that only the stricter registration has, that the claim needs
            there, and that do not hold.
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
    arms: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
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


@dataclass(frozen=True, kw_only=True)
class Family(AsJson):
    """The p of every claim by one method, and what correction makes of them.

    Attributes:
        method: what gave the p.
        claims: names, in registered order.
        p: as printed for each claim; None if there is none.
        bonferroni: p times the number of claims, at most 1.
        holm: Holm's adjusted p.
    """

    method: str
    claims: tuple[str, ...]
    p: tuple[float | None, ...]
    bonferroni: tuple[float | None, ...]
    holm: tuple[float | None, ...]


def families(registration: Registration, verdicts: Sequence[Verdict]) -> tuple[Family, ...]:
    """Return the registered p and those of these personas, adjusted over all claims.

    A claim without a p counts in both corrections, as one whose p is 1. Where a claim
    was not judged there is no family, and nothing is returned.
    """
    judged = {verdict.name: verdict for verdict in verdicts}
    names = tuple(claim.name for claim in registration.claims)
    if not set(names) <= set(judged):
        return ()
    effects = [judged[name].effect for name in names]
    looks = [_question(judged[name]) for name in names]
    found = [_family(effects[0].method, names, effects)]
    if any(look is not None and look.p is not None for look in looks):
        found.append(_family(QUESTION_METHOD, names, looks))
    return tuple(found)


def _question(verdict: Verdict) -> Estimate | None:
    return next((e for e in verdict.estimates if e.method == QUESTION_METHOD), None)


def _family(method: str, names: tuple[str, ...], estimates: Sequence[Estimate | None]) -> Family:
    p = tuple(None if e is None else e.p for e in estimates)
    ranked = holm([1.0 if x is None else x for x in p])
    return Family(
        method=method,
        claims=names,
        p=p,
        bonferroni=tuple(None if x is None else min(1.0, len(names) * x) for x in p),
        holm=tuple(None if x is None else y for x, y in zip(p, ranked, strict=True)),
    )
