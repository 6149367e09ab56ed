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

    Fields from `arms` on have their defaults in older files.

    Attributes:
        label: the row of the decision table (docs/statistics.md), or the registered label
            of a triage.
        contrast: what the effect is, in words ("C2 - C1, mean bystander rate").
        effect: the effect that the rule read.
        rule: the registered rule with its thresholds.
        reason: why this outcome, in one sentence.
        gates: gates consulted.
        estimates: other looks at the contrast; they decide nothing.
        registration, digest: name and SHA-256 of the registration.
        seeds: run seeds; empty if not published.
        warnings: gates that only the stricter registration has, that the claim needs
            there, and that do not hold.
        sealed: date of the newest seal, "" if the seal was not checked.
        amendments: changes since the first seal, None if it was not checked.
        seen: what the seals say of data that had been seen before.
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

    def __repr__(self) -> str:
        """Return one short line: pytest prints it beside a traceback."""
        return f"<{type(self).__name__} {self.name} {self.outcome.value}>"

    @property
    def holds(self) -> bool:
        """The outcome is SUPPORTED."""
        return self.outcome is Outcome.SUPPORTED

    @property
    def text(self) -> str:
        """The whole verdict in several lines."""
        effect = self.effect
        seeds = ", ".join(map(str, self.seeds)) or "not published"
        lines = [
            f"{self.name}: {self.outcome.value} ({self.label})",
            f"  {self.statement}",
            f"  why: {self.reason}",
            f"  rule: {self.rule}",
            f"  {self.contrast}: {effect.text}",
            *(f"  {gate.line}" for gate in self.gates),
            *(f"  warning, not registered: {gate.line}" for gate in self.warnings),
            *(f"  {line}" for line in (*(e.text for e in self.estimates), *self.notes)),
            f"  registration {self.registration} {self.digest[:12]}"
            f"{seal_text(self.sealed, self.amendments)}, seeds {seeds}",
            *(f"  {line}" for line in self.seal_lines),
        ]
        if self.over_runs is not None and not self.over_runs.shown:
            lines[0] += f"; {self.over_runs.text}"
        return "\n".join(lines)

    @property
    def seal_lines(self) -> tuple[str, ...]:
        """Data that had been seen before sealing, and the newest amendment, one line each."""
        return seal_lines(self.sealed, self.amendments, self.seal_reason, self.seen)


def require_valid(verdict: Verdict) -> None:
    """Raise InvalidClaimError, with the whole verdict, if a needed gate does not hold."""
    if verdict.outcome is Outcome.INVALID:
        raise InvalidClaimError(verdict.text)


def require_holds(found: Verdict | GateResult) -> None:
    """Raise DoesNotHoldError, with its whole text, unless a claim is supported or a gate holds.

    Unlike ``assert`` it does so under -O as well.
    """
    __tracebackhide__ = True  # pytest shows the line of the test instead
    if not found.holds:
        raise DoesNotHoldError(found.text)


@dataclass(frozen=True, kw_only=True)
class Family(AsJson):
    """The p of every claim by one method, and what correction makes of them.

    The three p of a claim are None if it has none; claims are in registered order.
    """

    method: str
    claims: tuple[str, ...]
    p: tuple[float | None, ...]
    bonferroni: tuple[float | None, ...]
    holm: tuple[float | None, ...]


def families(registration: Registration, verdicts: Sequence[Verdict]) -> tuple[Family, ...]:
    """Return the registered p and those of these personas, adjusted over all claims.

    Claims over training runs are a family of their own.

    A claim without a p counts as one whose p is 1; unless all claims were judged there is no
    family.
    """
    judged = {verdict.name: verdict for verdict in verdicts}
    if not {claim.name for claim in registration.claims} <= set(judged):
        return ()
    found, over_runs = [], [claim.name for claim in registration.run_claims]
    names = tuple(claim.name for claim in registration.claims if claim.name not in over_runs)
    for some in filter(None, (names, tuple(over_runs))):
        effects = [judged[name].effect for name in some]
        found.append(_family(effects[0].method, some, effects))
    looks = [
        next((e for e in judged[name].estimates if e.method == QUESTION_METHOD), None)
        for name in names
    ]
    if any(look is not None and look.p is not None for look in looks):
        found.append(_family(QUESTION_METHOD, names, looks))
    return tuple(found)


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
