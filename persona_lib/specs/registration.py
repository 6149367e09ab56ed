"""A registration, as data: arms, roles, rules, statistics.

It is checked when it is made: a contrast that names a missing arm is an error before
any compute is spent. How large a run is belongs to a profile. The types of rules are
in `claim_types` and `gate_types`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from persona_lib.checks import LEVEL, distinct, member, numbers, unknown, whole
from persona_lib.digests import LATER, digest
from persona_lib.errors import SpecError
from persona_lib.records import RATE
from persona_lib.specs.arms import ArmSpec, DoseSpec, Roster
from persona_lib.specs.claim_types import (
    Claim,
    DifferenceClaim,
    Kill,
    Rule,
    RunClaim,
    RunDifference,
    RunKill,
)
from persona_lib.specs.gate_types import (
    Gate,
    GeometryGate,
    SourceRatioBoundGate,
    SourceRatioGate,
)

if TYPE_CHECKING:
    from persona_lib.records import ModelId

RAW = "raw"
"""Name of the prior of an arm that has none; of no other."""

PERCENTILE, BCA = INTERVALS = ("percentile", "bca")
"""Ends of a bootstrap interval: quantiles of the draws, or bias-corrected and accelerated."""

DATA_FIELDS = (
    "arms",
    "roster",
    "marker",
    "marker_prefix",
    "coupling_questions",
    "evaluation_questions",
)
"""What shapes the data of a run: the rest only judges them."""


_Named = TypeVar("_Named", ArmSpec, Claim | Kill, Gate)


@dataclass(frozen=True, kw_only=True)
class StatisticsSpec:
    """How uncertainty is computed.

    Attributes:
        resamples: bootstrap resamples of (persona, question) clusters.
        seed: of the bootstrap draws.
        confidence: level of every interval.
        alpha: registered significance level after Bonferroni: the bound of every
            claim's `max_p`. No verdict reads it.
        interval: ends of the bootstrap intervals, one of `INTERVALS`.
    """

    resamples: int
    seed: int
    confidence: float
    alpha: float
    interval: str = dataclasses.field(default=PERCENTILE, metadata=LATER)

    def __post_init__(self) -> None:
        whole("statistics.resamples", self.resamples, 1, remedy="The published number is 10000.")
        remedy = "Give a proportion, not a percentage."
        numbers("statistics", self, ("confidence", "alpha"), LEVEL, remedy=remedy)
        member("statistics.interval", self.interval, INTERVALS)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A frozen experiment.

    Attributes:
        name: how it is chosen on the command line.
        title: the question in one line.
        marker: the string that is coupled and counted.
        marker_prefix: what stands between a completion and the marker.
        arms, claims, gates: models under test and rules, in reporting order.
        kill: the kill criterion, None where there is none.
        coupling_questions: question sets that coupling text is drawn from.
        evaluation_questions: question sets that arms are evaluated on.
        dose: where given, a pool of fixed answers is read in every arm and while it trains.
        run_seeds: the run seeds that the experiment consists of; () leaves them open.
    """

    name: str
    title: str
    marker: str
    marker_prefix: str
    roster: Roster
    arms: tuple[ArmSpec, ...]
    claims: tuple[Claim, ...]
    gates: tuple[Gate, ...]
    kill: Kill | None
    coupling_questions: tuple[str, ...]
    evaluation_questions: tuple[str, ...]
    statistics: StatisticsSpec
    dose: DoseSpec | None = dataclasses.field(default=None, metadata=LATER)
    run_seeds: tuple[int, ...] = dataclasses.field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        if not self.marker.strip():
            raise SpecError(
                "marker", bound="visible text", value=self.marker, remedy="Name the marker."
            )
        for field in ("arms", "claims", "coupling_questions", "evaluation_questions"):
            if not getattr(self, field):
                raise SpecError(field, bound="at least one", value=(), remedy=f"Register {field}.")
        self._check_names()
        for claim in self.claims:
            if isinstance(claim, DifferenceClaim) and claim.max_p > self.statistics.alpha:
                raise SpecError(
                    f"{claim.name}.max_p",
                    bound=f"<= statistics.alpha = {self.statistics.alpha}",
                    value=claim.max_p,
                    remedy="A claim may ask for a smaller p than the registered level, no larger.",
                )

    def _check_names(self) -> None:
        """Every name that a rule mentions exists, and no name is used twice."""
        arms = tuple(arm.name for arm in self.arms)
        distinct("arms", arms)
        for one in self.arms:
            member(f"arms.{one.name}.source", one.source or self.roster.source, self.roster.sources)
        distinct("claims, kill and gates", tuple(rule.name for rule in self.rules))
        for rule in self.rules:
            if isinstance(rule, RunClaim):
                self._check_cells(rule)
            elif not isinstance(rule, RunKill):
                for arm in rule.arms or ():
                    member(f"{rule.name}.{_field_of(rule, arm)}", arm, arms)
        gates = {gate.name: gate for gate in self.gates}
        for claim in self.judged:
            for need in claim.needs:
                member(f"{claim.name}.needs", need, tuple(gates))
            if isinstance(claim, DifferenceClaim) and claim.ratio_gate is not None:
                kinds = (SourceRatioGate, SourceRatioBoundGate)
                ratios = [name for name, gate in gates.items() if isinstance(gate, kinds)]
                member(f"{claim.name}.ratio_gate", claim.ratio_gate, ratios)
        self._check_bound()

    def _check_cells(self, claim: RunClaim) -> None:
        """A claim over runs compares cells that exist and were trained for the same sources."""
        cells, fields_of = self.cells, {}
        for cell in claim.weights:
            at = _field_of(claim, cell) if isinstance(claim, RunDifference) else "weights"
            fields_of[cell] = f"{claim.name}.{at}"
            member(fields_of[cell], cell, tuple(cells))
        sources = {cell: {self.source_of(arm) for arm in cells[cell]} for cell in claim.weights}
        first = next(iter(sources.values()))
        for cell, own in sources.items():
            if own != first:
                raise SpecError(
                    fields_of[cell],
                    bound=f"a cell with arms of the sources {', '.join(sorted(first))}",
                    value=f"{cell}, of {', '.join(sorted(own))}",
                    remedy="Train both cells for the same sources.",
                )

    def _check_bound(self) -> None:
        """What is bound to a claim names one of its kind; no effect that supports it kills it."""
        kill, run_claims = self.kill, [claim.name for claim in self.run_claims]
        for gate in self.gates:
            if isinstance(gate, GeometryGate):
                member(f"{gate.name}.claim", gate.claim, run_claims)
        if kill is None:
            return
        over_runs = isinstance(kill, RunKill)
        claims = {c.name: c for c in self.claims if isinstance(c, RunClaim) is over_runs}
        member("kill.claim", kill.claim, tuple(claims))
        claim = claims[kill.claim]
        most = claim.smallest if isinstance(claim, RunClaim) else math.inf
        if isinstance(kill, RunKill) and kill.max_effect > most:
            raise SpecError(
                "kill.max_effect",
                bound=f"<= {claim.name}.smallest = {most}",
                value=kill.max_effect,
                remedy="An effect that supports the claim cannot falsify it.",
            )

    @property
    def judged(self) -> tuple[Claim | Kill, ...]:
        """What gets a verdict: claims, then the kill criterion if there is one."""
        return self.claims if self.kill is None else (*self.claims, self.kill)

    def kill_of(self, claim_name: str) -> Kill | None:
        """Return the kill criterion that is bound to a claim, None where there is none."""
        bound = self.kill is not None and self.kill.claim == claim_name
        return self.kill if bound else None

    @property
    def run_claims(self) -> tuple[RunClaim, ...]:
        """The claims over training runs: one family, whose p are adjusted together."""
        return tuple(claim for claim in self.claims if isinstance(claim, RunClaim))

    def reads(self, rule: Rule) -> tuple[str, ...] | None:
        """Return the arms that a rule reads, None for all; of a claim over runs, of its cells."""
        if isinstance(rule, RunKill):
            return self.reads(self.claim(rule.claim))
        if isinstance(rule, RunClaim):
            return tuple(arm for cell in rule.weights for arm in self.cells[cell])
        return rule.arms

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Claims, kill criterion, gates."""
        return (*self.judged, *self.gates)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form: any changed number changes it."""
        return digest(self)

    @property
    def data_digest(self) -> str:
        """SHA-256 of what shapes the data of a run: arms, roster, marker, question sets.

        The data of one registration can be judged under another with an equal one.
        """
        return digest({field: getattr(self, field) for field in DATA_FIELDS})

    @property
    def priors(self) -> tuple[str, ...]:
        """The pre-coupling models that the arms need: raw, then in the order of the arms."""
        used = dict.fromkeys(name for arm in self.arms for name in (arm.prior, arm.text_from))
        return tuple(sorted(used, key=lambda name: name != RAW))

    def models(self, arms: Iterable[str], *, raw: bool = False) -> tuple[ModelId, ...]:
        """Return the pre-coupling models of these arms (of all arms, all), then the arms.

        With `raw` the raw model is among them, whatever the arms are coupled on.

        Raises:
            SpecError: no such arm.
        """
        from persona_lib.records import POST, PRE, ModelId

        named = {self.arm(name) for name in arms}
        after = [arm for arm in self.arms if arm in named]
        every = len(after) == len(self.arms)
        wanted = {arm.prior for arm in after} | ({RAW} if raw else set())
        priors = [p for p in self.priors if every or p in wanted]
        return (
            *(ModelId(PRE, prior) for prior in priors),
            *(ModelId(POST, arm.name) for arm in after),
        )

    def source_of(self, arm: str) -> str:
        """Return the source persona of an arm; SpecError without such an arm."""
        return self.arm(arm).source or self.roster.source

    def roster_of(self, arm: str) -> Roster:
        """Return the roster as an arm has it: one source."""
        return self.roster.of_source(self.source_of(arm))

    @property
    def reads_slots(self) -> bool:
        """Whether a rule reads gains, so that a pool is read in every arm."""
        rules = [getattr(claim, "outcome", RATE) for claim in self.claims]
        return self.dose is not None or any(outcome != RATE for outcome in rules)

    @property
    def reads_geometry(self) -> bool:
        """Whether a gate reads the geometry of arms."""
        return any(isinstance(gate, GeometryGate) for gate in self.gates)

    @property
    def cells(self) -> dict[str, tuple[str, ...]]:
        """The arms of each cell, by the cell's name, in reporting order."""
        found: dict[str, tuple[str, ...]] = {}
        for arm in self.arms:
            cell = arm.cell or arm.name
            found[cell] = (*found.get(cell, ()), arm.name)
        return found

    def arm(self, name: str) -> ArmSpec:
        """Return an arm by its short name, whatever its case; SpecError without one."""
        return _found("arm", name, self.arms)

    def claim(self, name: str) -> Claim | Kill:
        """Return a claim or the kill criterion by name, whatever its case; or SpecError."""
        return _found("claim", name, self.judged)

    def gate(self, name: str) -> Gate:
        """Return a gate by name, whatever its case; SpecError without one."""
        return _found("gate", name, self.gates)

    def arms_of(self, rule_name: str) -> tuple[str, ...]:
        """Return the arms whose data a rule needs, in reporting order.

        A claim needs the arms that it compares, those of the gates that are judged with
        it and, if the kill criterion is bound to it, the arm of that criterion. A claim over
        training runs needs what all of them need: their p are adjusted together.

        Raises:
            SpecError: no such rule.
        """
        read: list[Rule]
        if rule_name.lower() in {claim.name.lower() for claim in self.judged}:
            claim = self.claim(rule_name)
            claims: list[Claim | Kill] = [claim]
            claims += self.run_claims if isinstance(claim, RunClaim | RunKill) else ()
            kill = self.kill_of(claim.name)
            read = [*claims, *([] if kill is None else [kill])]
            read += [self.gate(name) for one in claims for name in one.consults]
        elif rule_name.lower() in {gate.name.lower() for gate in self.gates}:
            read = [self.gate(rule_name)]
        else:
            raise unknown("claim or gate", rule_name, (rule.name for rule in self.rules))
        every = {arm.name for arm in self.arms}
        arms = [self.reads(rule) for rule in read]
        named = {name for own in arms for name in (every if own is None else own)}
        return tuple(arm.name for arm in self.arms if arm.name in named)


def _found(field: str, name: str, items: Sequence[_Named]) -> _Named:
    for item in items:
        if item.name.lower() == name.lower():
            return item
    raise unknown(field, name, (item.name for item in items))


def _field_of(rule: Rule, arm: str) -> str:
    """Return the field of a rule that holds this arm."""
    return next(f.name for f in fields(rule) if getattr(rule, f.name) == arm)
