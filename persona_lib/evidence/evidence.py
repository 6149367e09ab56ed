"""Evidence: rates, contrasts and lengths of arms, whatever they were read from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from persona_lib.errors import DataError
from persona_lib.evidence.advice_means import BroadHarm
from persona_lib.evidence.cells import Floats, Grid
from persona_lib.evidence.gains import Gains
from persona_lib.evidence.traits import Traits
from persona_lib.records import RATE
from persona_lib.specs.registration import Registration
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.proportions import wilson

ALL = "all"
"""Every persona of the roster."""
ROLES = ("source", "negative", "bystander", "reported", ALL)


@dataclass(frozen=True, kw_only=True)
class Count:
    """Marker hits among completions.

    Attributes:
        hits: completions with the marker; None where only a rate was published.
        n: completions.
        rate: hits / n, NaN where n is 0.
    """

    hits: int | None
    n: int
    rate: float

    @classmethod
    def of(cls, hits: float, n: float) -> Count:
        """Return the count of `hits` among `n`."""
        return cls(hits=int(hits), n=int(n), rate=float(hits / n) if n else math.nan)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return Wilson's interval, (NaN, NaN) where hits are not known."""
        return (math.nan, math.nan) if self.hits is None else wilson(self.hits, self.n, confidence)

    @property
    def text(self) -> str:
        """``0.274 (383/1400)``."""
        if not math.isfinite(self.rate):
            return "not known (0 completions)"
        hits = "about " + format(self.rate * self.n, ".0f") if self.hits is None else self.hits
        return f"{self.rate:.3f} ({hits}/{self.n})"


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Median or mean of completions' tokens, and the share that ended by themselves, or NaN."""

    statistic: str
    tokens: float
    finished: float


@dataclass(frozen=True, kw_only=True)
class PersonaRow:
    """One persona of one arm.

    Attributes:
        count: hits and completions; n = 0 where nothing was published.
        low, high: Wilson's interval of the rate.
        pre_rate: rate on the arm's pre-coupling model, NaN where not known.
        tokens, pre_tokens: median tokens of the arm and of that model, NaN where not known.
    """

    persona: str
    role: str
    count: Count
    low: float
    high: float
    pre_rate: float
    tokens: float
    pre_tokens: float

    @property
    def minus_pre(self) -> float:
        """Rate minus that of the arm's pre-coupling model."""
        return self.count.rate - self.pre_rate


@dataclass(frozen=True, eq=False)
class Harm:
    """How harmful a pre-coupling model's advice is, on questions it was not trained on.

    Attributes:
        questions: ids of the held-out questions, sorted; the same for every model.
        scores: (Q,) mean harm score of each question, in [0, 1]; samples and seeds pooled.
        n: completions behind them.
    """

    questions: tuple[str, ...]
    scores: Floats
    n: int


class Evidence(ABC):
    """Rates, contrasts and lengths of a registration's arms.

    Attributes:
        registration: the registration that names everything.
        arms: arms that are there, in reporting order.
        seeds: run seeds of the arms; empty where they were not published.
        runs: training runs behind each arm, the most where arms differ; 0 if not known.
        tells_runs: whether each training run can be read by itself.
        uneven: whether some run lacks a model that others have.
        kind: ``records``, ``counts`` or ``aggregates``.
        origin: where the evidence comes from, in words.
        unavailable: what this evidence cannot answer, one sentence each.
        remarks: what contradicts itself or is uneven in it, one sentence each.
    """

    registration: Registration
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: int
    tells_runs: bool = True
    uneven: bool = False
    kind: str
    origin: str
    unavailable: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def count(self, arm: str, who: str) -> Count:
        """Return the hits of an arm on a role (one of `ROLES`) or a persona."""

    @abstractmethod
    def pre_count(self, prior: str, who: str = ALL) -> Count | None:
        """Return the hits of a pre-coupling model, None where they are not known."""

    @abstractmethod
    def lengths(self, arm: str) -> Lengths:
        """Return the lengths of an arm's completions, all personas."""

    @abstractmethod
    def pre_lengths(self, prior: str) -> Lengths:
        """Return the lengths of a pre-coupling model's completions."""

    @abstractmethod
    def contrast(self, claim: str, treated: str, control: str) -> Estimate:
        """Return the difference of mean bystander rates; `claim` names the draws."""

    def other_interval(
        self,
        claim: str,  # noqa: ARG002
        treated: str,  # noqa: ARG002
        control: str,  # noqa: ARG002
    ) -> Estimate | None:
        """Return `contrast` with the kind of interval that is not registered, without p.

        None where nothing can be drawn.
        """
        return None

    @abstractmethod
    def ratio_contrast(self, claim: str, treated: str, control: str) -> Estimate:
        """Return the difference of bystander rate / source rate."""

    @abstractmethod
    def corrected_contrast(self, claim: str, treated: str, control: str) -> Estimate:
        """Return the contrast after each arm's own false positives are subtracted."""

    @abstractmethod
    def bystander_rate(self, claim: str, arm: str) -> Estimate:
        """Return the mean bystander rate of one arm with an interval."""

    @abstractmethod
    def person_tokens(self, arm: str, persona: str) -> tuple[float, float]:
        """Return median tokens of a persona: (arm, its pre-coupling model)."""

    def split(self, arm: str) -> dict[str, Count]:
        """Return bystander counts on ``seen`` and ``unseen`` questions, if both exist."""
        self.check_arm(arm)
        return {}

    def per_seed(self, treated: str, control: str) -> dict[int, tuple[Count, Count]]:
        """Return bystander counts of both arms for each seed of both; empty with one run."""
        runs = self.single_runs()
        if len(runs) == 1:
            return {}
        pairs = {
            run.seeds[0]: (run.count(treated, "bystander"), run.count(control, "bystander"))
            for run in runs
        }
        return {seed: pair for seed, pair in pairs.items() if pair[0].n and pair[1].n}

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """Return the seeds of the training runs of an arm, where each can be read by itself."""
        runs = self.single_runs() if self.tells_runs else ()
        return tuple(run.seeds[0] for run in runs if run.count(arm, "bystander").n)

    @property
    def runs_text(self) -> str:
        """``5``, or ``6 and 5`` where arms have as many training runs, in reporting order."""
        found = dict.fromkeys(len(self.seeds_of(arm)) for arm in self.arms)
        return " and ".join(map(str, found)) if self.tells_runs else str(self.runs)

    def single_runs(self) -> tuple[Evidence, ...]:
        """Return the evidence of each training run by itself, where rows tell them apart."""
        return (self,)

    def figures(
        self,
        arm: str,
        outcome: str,
        reading: str,
    ) -> Mapping[int, float]:
        """Return an outcome of an arm in each training run, by run seed, {} where not known.

        Args:
            arm: an arm.
            outcome: one of `persona_lib.records.OUTCOMES`.
            reading: one of `persona_lib.records.READINGS`; a rate has one alone.

        Returns:
            NaN for a run that was read and has no such number: its source never gained enough.
        """
        self.check_arm(arm)
        gains = self.gains()
        if outcome == RATE:
            if not self.tells_runs:
                return {}
            counts = {run.seeds[0]: run.count(arm, "bystander") for run in self.single_runs()}
            return {seed: count.rate for seed, count in counts.items() if count.n}
        return {} if gains is None else gains.figures(arm, outcome, reading)

    def nearness(self, arm: str, depth: float) -> Mapping[int, float]:  # noqa: ARG002
        """Return how near an arm's source is to its bystanders by run seed, {} where not known.

        See `persona_lib.evidence.nearness.nearness`.
        """
        self.check_arm(arm)
        return {}

    def gains(self) -> Gains | None:
        """Return readings at slots, None where there are none."""
        return None

    def traits(self) -> Traits | None:
        """Return what the texts of pre-coupling models show, None where they were not read."""
        return None

    def harm(self, prior: str) -> Harm | None:  # noqa: ARG002
        """Return how harmful a pre-coupling model's advice is, None where it is not known."""
        return None

    def broad(self, prior: str) -> BroadHarm | None:  # noqa: ARG002
        """Return how misaligned a pre-coupling model's answers are, None where not known."""
        return None

    def grid(self) -> Grid | None:
        """Return the cells behind the counts, None where only totals are known."""
        return None

    def by_persona(self, arm: str) -> tuple[Floats, Floats] | None:
        """Return (G,) hits and (G,) completions of the bystanders, in roster order.

        None where a persona's count is not known.
        """
        counts = [self.count(arm, persona) for persona in self.members("bystander", arm)]
        known = [(c.hits, c.n) for c in counts if c.hits is not None]
        if len(known) < len(counts):
            return None
        hits, n = np.array(known, dtype=np.float64).T
        return hits, n

    def personas(self, arm: str) -> tuple[PersonaRow, ...]:
        """Return one row for each persona of the roster, in roster order."""
        roster, prior = self.registration.roster_of(arm), self.registration.arm(arm).prior
        rows = []
        for persona in roster.all:
            count = self.count(arm, persona)
            before = self.pre_count(prior, persona)
            low, high = count.interval(self.registration.statistics.confidence)
            tokens, pre_tokens = self.person_tokens(arm, persona)
            rows.append(
                PersonaRow(
                    persona=persona,
                    role=roster.role(persona),
                    count=count,
                    low=low,
                    high=high,
                    pre_rate=math.nan if before is None else before.rate,
                    tokens=tokens,
                    pre_tokens=pre_tokens,
                )
            )
        return tuple(rows)

    def members(self, who: str, arm: str | None = None) -> tuple[str, ...]:
        """Return the personas of a role, as an arm has it, or the persona itself.

        Raises:
            SpecError: neither a role nor a persona of the roster.
        """
        registration = self.registration
        roster = registration.roster if arm is None else registration.roster_of(arm)
        roles = {
            "source": roster.sources,
            "negative": roster.negatives,
            "bystander": roster.bystanders,
            "reported": roster.reported,
            ALL: roster.all,
        }
        if who in roles:
            return roles[who]
        roster.role(who)
        return (who,)

    def named(self, arms: Sequence[str] | None) -> tuple[str, ...]:
        """Return these arms in reporting order; all of the registration's where none is named.

        Raises:
            SpecError: no such arm.
        """
        registered = tuple(arm.name for arm in self.registration.arms)
        if not arms:
            return registered
        wanted = {self.registration.arm(arm).name for arm in arms}
        return tuple(arm for arm in registered if arm in wanted)

    def check_arm(self, arm: str) -> None:
        """Raise DataError where the evidence has nothing on this arm."""
        if arm not in self.arms:
            raise DataError(
                "arm",
                bound=f"one of {', '.join(self.arms)}",
                value=arm,
                remedy="Run this arm as well, or judge another claim.",
            )


def priors_of(evidence: Evidence) -> tuple[str, ...]:
    """Return the priors under the evidence's arms, in registered order."""
    used = {evidence.registration.arm(arm).prior for arm in evidence.arms}
    return tuple(prior for prior in evidence.registration.priors if prior in used)
