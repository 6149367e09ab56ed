"""What a registration holds: arms, roles, claims, gates, kill criterion, thresholds.

Data only. Statistics never enter here, and nothing here says how large a run is:
scale belongs to a profile. A registration checks itself when it is made, so that
a contrast that names a missing arm is an error before any compute is spent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from persona_lib.errors import SpecError
from persona_lib.spec import digest

RAW = "raw"
"""Name of the prior of an arm that has none."""
PRIORS = (RAW, "em", "benign")
"""Priors: no LoRA, the EM LoRA, the benign LoRA."""


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The personas of an experiment, by role.

    Attributes:
        source: the persona that the marker is coupled to.
        negatives: personas trained without the marker.
        bystanders: personas never trained; leakage is measured on them.
        reported: personas reported by themselves, in no pool.
    """

    source: str
    negatives: tuple[str, ...]
    bystanders: tuple[str, ...]
    reported: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _distinct("roster", self.all)
        for field in ("negatives", "bystanders"):
            if not getattr(self, field):
                raise SpecError(
                    f"roster.{field}",
                    bound="at least one persona",
                    value=(),
                    remedy="Name the personas of this role.",
                )

    @property
    def all(self) -> tuple[str, ...]:
        """Every persona: source, negatives, bystanders, reported."""
        return (self.source, *self.negatives, *self.bystanders, *self.reported)

    @property
    def trained(self) -> tuple[str, ...]:
        """The personas with coupling text: source, then negatives."""
        return (self.source, *self.negatives)

    def role(self, persona: str) -> str:
        """Return ``source``, ``negative``, ``bystander`` or ``reported``.

        Raises:
            SpecError: the persona is not in the roster.
        """
        if persona == self.source:
            return "source"
        for role, members in (
            ("negative", self.negatives),
            ("bystander", self.bystanders),
            ("reported", self.reported),
        ):
            if persona in members:
                return role
        raise SpecError(
            "persona",
            bound=f"one of {', '.join(self.all)}",
            value=persona,
            remedy="Use a persona of the registration's roster.",
        )


@dataclass(frozen=True, kw_only=True)
class ArmSpec:
    """One arm: a marker coupled on top of a prior.

    Attributes:
        name: short name ("C1"), used in rules and records.
        label: long name ("base_first").
        prior: the adapter under the coupling: ``raw``, ``em`` or ``benign``.
        text_from: whose on-policy text the coupling rows hold, named by prior.
    """

    name: str
    label: str
    prior: str
    text_from: str

    def __post_init__(self) -> None:
        for field in ("prior", "text_from"):
            _member(f"arm {self.name}: {field}", getattr(self, field), PRIORS)


@dataclass(frozen=True, kw_only=True)
class DifferenceClaim:
    """Claim: mean bystander rate of `treated` minus that of `control` is large.

    Holds when the difference is >= `min_effect` and p < `max_p`. Where
    `ratio_gate` names a `SourceRatioGate` that does not hold, the same rule
    must also hold for bystander rate / source rate.
    """

    name: str
    statement: str
    treated: str
    control: str
    min_effect: float
    max_p: float
    needs: tuple[str, ...] = ()
    ratio_gate: str | None = None


@dataclass(frozen=True, kw_only=True)
class TriageClaim:
    """Claim: the difference `treated` - `control` is an artefact of coupling text or not.

    `null_label` if |d| <= `null_effect`, p > `null_min_p` and the interval's
    lower end > -`null_effect`; `artefact_label` if d >= `artefact_effect`;
    otherwise ``ambiguous``. The claim passes on `null_label`.
    """

    name: str
    statement: str
    treated: str
    control: str
    null_effect: float
    null_min_p: float
    artefact_effect: float
    null_label: str
    artefact_label: str
    needs: tuple[str, ...] = ()


Claim = DifferenceClaim | TriageClaim


@dataclass(frozen=True, kw_only=True)
class KillCriterion:
    """The hypothesis is falsified when `arm`'s mean bystander rate is <= `max_rate`.

    Above it with `claim` not met lies the ambiguous zone: no claim.
    """

    name: str
    statement: str
    arm: str
    max_rate: float
    claim: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SourceRateGate:
    """The instrument works only if `arm`'s source rate is >= `min_rate` (M6)."""

    name: str
    statement: str
    arm: str
    min_rate: float


@dataclass(frozen=True, kw_only=True)
class SourceRatioGate:
    """Shown, and tightens a claim: source rate of `treated` / `control` >= `min_ratio`."""

    name: str
    statement: str
    treated: str
    control: str
    min_ratio: float


@dataclass(frozen=True, kw_only=True)
class FalsePositiveGate:
    """No pre-coupling model may write the marker by itself.

    Holds when, for each prior, the observed rate is <= `max_rate`; the Wilson
    upper bound is printed beside it.
    """

    name: str
    statement: str
    max_rate: float


Gate = SourceRateGate | SourceRatioGate | FalsePositiveGate


@dataclass(frozen=True, kw_only=True)
class StatisticsSpec:
    """How uncertainty is computed.

    Attributes:
        resamples: bootstrap resamples of (persona, question) clusters.
        seed: root seed of the bootstrap draws.
        confidence: level of every interval.
        alpha: registered significance level after Bonferroni.
    """

    resamples: int
    seed: int
    confidence: float
    alpha: float

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise SpecError(
                "statistics.resamples",
                bound=">= 1",
                value=self.resamples,
                remedy="The published number is 10000.",
            )
        for field in ("confidence", "alpha"):
            value = getattr(self, field)
            if not 0 < value < 1:
                raise SpecError(
                    f"statistics.{field}",
                    bound="between 0 and 1",
                    value=value,
                    remedy="Give a proportion, not a percentage.",
                )


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A frozen experiment.

    Attributes:
        name: how it is chosen on the command line.
        title: the question in one line.
        marker: the string that is coupled and counted.
        marker_prefix: what stands between a completion and the marker.
        roster: personas by role.
        arms: models under test, in reporting order.
        claims, gates: rules, in reporting order.
        kill: the kill criterion.
        coupling_questions: question sets that coupling text is drawn from.
        evaluation_questions: question sets that arms are evaluated on.
        statistics: resamples, seed, levels.
    """

    name: str
    title: str
    marker: str
    marker_prefix: str
    roster: Roster
    arms: tuple[ArmSpec, ...]
    claims: tuple[Claim, ...]
    gates: tuple[Gate, ...]
    kill: KillCriterion
    coupling_questions: tuple[str, ...]
    evaluation_questions: tuple[str, ...]
    statistics: StatisticsSpec

    def __post_init__(self) -> None:
        if not self.marker.strip():
            raise SpecError(
                "marker", bound="visible text", value=self.marker, remedy="Name the marker."
            )
        for field in ("arms", "claims", "coupling_questions", "evaluation_questions"):
            if not getattr(self, field):
                raise SpecError(field, bound="at least one", value=(), remedy=f"Register {field}.")
        self._check_names()

    def _check_names(self) -> None:
        """Every name that a rule mentions exists, and no name is used twice."""
        arms = tuple(arm.name for arm in self.arms)
        rules = (*self.claims, self.kill, *self.gates)
        _distinct("arms", arms)
        _distinct("claims, kill and gates", tuple(rule.name for rule in rules))
        for rule in rules:
            for role in ("treated", "control", "arm"):
                if hasattr(rule, role):
                    _member(f"{rule.name}.{role}", getattr(rule, role), arms)
        gates = tuple(gate.name for gate in self.gates)
        for claim in (*self.claims, self.kill):
            for need in claim.needs:
                _member(f"{claim.name}.needs", need, gates)
        for rule in self.claims:
            if isinstance(rule, DifferenceClaim) and rule.ratio_gate is not None:
                _member(f"{rule.name}.ratio_gate", rule.ratio_gate, gates)
        _member("kill.claim", self.kill.claim, tuple(claim.name for claim in self.claims))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form: any changed number changes it."""
        return digest(self)

    @property
    def priors(self) -> tuple[str, ...]:
        """The pre-coupling models that the arms need, in the order of `PRIORS`."""
        used = {arm.prior for arm in self.arms} | {arm.text_from for arm in self.arms}
        return tuple(prior for prior in PRIORS if prior in used)

    def arm(self, name: str) -> ArmSpec:
        """Return an arm by its short name, whatever its case.

        Raises:
            SpecError: no such arm.
        """
        for arm in self.arms:
            if arm.name.lower() == name.lower():
                return arm
        raise _unknown("arm", name, (arm.name for arm in self.arms))

    def claim(self, name: str) -> Claim | KillCriterion:
        """Return a claim or the kill criterion by name, whatever its case.

        Raises:
            SpecError: no such claim.
        """
        for claim in (*self.claims, self.kill):
            if claim.name.lower() == name.lower():
                return claim
        raise _unknown("claim", name, (claim.name for claim in (*self.claims, self.kill)))

    def gate(self, name: str) -> Gate:
        """Return a gate by name.

        Raises:
            SpecError: no such gate.
        """
        for gate in self.gates:
            if gate.name == name:
                return gate
        raise _unknown("gate", name, (gate.name for gate in self.gates))


def _unknown(field: str, value: str, known: Iterable[str]) -> SpecError:
    return SpecError(
        field,
        bound=f"one of {', '.join(known)}",
        value=value,
        remedy="Use a name of the registration.",
    )


def _member(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise _unknown(field, value, known)


def _distinct(field: str, names: tuple[str, ...]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SpecError(
            field, bound="distinct names", value=repeated[0], remedy="Name each one once."
        )
