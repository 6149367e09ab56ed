"""Evidence of scored completions: everything is computed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from persona_lib.evidence_base import ALL, Count, Evidence, Lengths
from persona_lib.grid import Floats, Grid, build, table_of
from persona_lib.records import POST, PRE, Score
from persona_lib.registration import Registration
from persona_lib.spec import derive_seed
from persona_lib.stats.bootstrap import (
    MIN_CLUSTERS,
    TOO_FEW,
    Clusters,
    difference,
    from_draws,
    nothing,
    ratio_difference,
    resample_rates,
    single_rate,
)
from persona_lib.stats.estimate import Estimate


class RecordEvidence(Evidence):
    """Evidence of scored completions, one row each.

    Args:
        registration: the registration to judge under.
        table: columns of `Score`; checked whole before anything is computed.
        arms: arms that have to be there; all of the registration's by default.
        origin: where the rows come from, in words.

    Runs with several seeds are pooled: a cluster (persona, question) then holds
    the completions of all seeds.

    Raises:
        DataError: see `persona_lib.grid.build`.
    """

    kind = "records"

    def __init__(
        self,
        registration: Registration,
        table: pa.Table,
        *,
        arms: Sequence[str] | None = None,
        origin: str = "scored completions",
    ) -> None:
        self.registration = registration
        self.arms = self.named(arms)
        self._grid = build(table, registration, self.arms)
        self.seeds = self._grid.seeds
        self.runs = len(self.seeds)
        self.origin = origin
        needed = {registration.arm(arm).prior for arm in self.arms}
        self.unavailable = tuple(
            f"False positives of prior {prior}: its pre-coupling model was not evaluated."
            for prior in registration.priors
            if prior in needed and (PRE, prior) not in self._grid.models
        )

    @classmethod
    def from_rows(
        cls, registration: Registration, rows: Iterable[Score], *, arms: Sequence[str] | None = None
    ) -> RecordEvidence:
        """Return the evidence of score rows that are in memory."""
        return cls(registration, table_of(rows), arms=arms)

    def grid(self) -> Grid:
        """Return the cells behind the counts."""
        return self._grid

    def count(self, arm: str, who: str) -> Count:
        """Return the hits of an arm on a role or a persona."""
        self.check_arm(arm)
        hits, n = self._cells(POST, arm, who)
        return Count.of(hits.sum(), n.sum())

    def baseline(self, prior: str, who: str = ALL) -> Count | None:
        """Return the hits of a pre-coupling model, None where they are not known."""
        if (PRE, prior) not in self._grid.models:
            return None
        hits, n = self._cells(PRE, prior, who)
        return Count.of(hits.sum(), n.sum())

    def lengths(self, arm: str) -> Lengths:
        """Return the lengths of an arm's completions."""
        self.check_arm(arm)
        return self._lengths(POST, arm)

    def baseline_lengths(self, prior: str) -> Lengths:
        """Return the lengths of a pre-coupling model's completions."""
        return self._lengths(PRE, prior)

    def contrast(self, claim: str, treated: str, control: str) -> Estimate:
        """Return the registered cluster bootstrap of the difference of rates."""
        statistics = self.registration.statistics
        return difference(
            self.clusters(treated),
            self.clusters(control),
            resamples=statistics.resamples,
            seeds=(self._seed(claim, treated), self._seed(claim, control)),
            level=statistics.confidence,
        )

    def ratio_contrast(self, claim: str, treated: str, control: str) -> Estimate:
        """Return the bootstrap of source-normalised rates, source drawn as well."""
        statistics = self.registration.statistics
        return ratio_difference(
            (self.clusters(treated), self.clusters(treated, "source")),
            (self.clusters(control), self.clusters(control, "source")),
            resamples=statistics.resamples,
            seeds=[
                self._seed(claim, *names)
                for names in ((treated,), (treated, "source"), (control,), (control, "source"))
            ],
            level=statistics.confidence,
        )

    def corrected_contrast(self, claim: str, treated: str, control: str) -> Estimate:
        """Return the bootstrap of rates minus those of the models before coupling."""
        statistics = self.registration.statistics
        level, resamples = statistics.confidence, statistics.resamples
        method = "minus false positives, cluster bootstrap"
        priors = [self.registration.arm(arm).prior for arm in (treated, control)]
        missing = sorted({p for p in priors if (PRE, p) not in self._grid.models})
        if missing:
            note = f"prior {missing[0]} was not evaluated before coupling"
            return nothing(0, None, level, method, note)
        pools = [
            (self.clusters(treated), self._seed(claim, treated), 1),
            (self.clusters(control), self._seed(claim, control), -1),
        ]
        # Two arms on one prior lose the same false positives: nothing is left of them.
        if priors[0] != priors[1]:
            pools += [
                (self._pool(PRE, prior, "bystander"), self._seed(claim, prior, PRE), sign)
                for prior, sign in zip(priors, (-1, 1), strict=True)
            ]
        value = sum(sign * pool.rate for pool, _, sign in pools)
        n, k = sum(pool.n for pool, _, _ in pools), sum(len(pool) for pool, _, _ in pools)
        if min(len(pool) for pool, _, _ in pools) < MIN_CLUSTERS:
            return nothing(n, k, level, method, TOO_FEW, value=value)
        draws = np.zeros(resamples)
        for pool, seed, sign in pools:
            draws += sign * resample_rates(pool, resamples, seed)
        return from_draws(value, draws, n=n, clusters=k, level=level, method=method)

    def bystander_rate(self, claim: str, arm: str) -> Estimate:
        """Return the rate of one arm with its cluster bootstrap interval."""
        statistics = self.registration.statistics
        return single_rate(
            self.clusters(arm),
            resamples=statistics.resamples,
            seed=self._seed(claim, arm),
            level=statistics.confidence,
        )

    def person_tokens(self, arm: str, persona: str) -> tuple[float, float]:
        """Return median tokens of a persona: (arm, its pre-coupling model)."""
        prior = self.registration.arm(arm).prior
        return self._median(POST, arm, persona), self._median(PRE, prior, persona)

    def split(self, arm: str) -> dict[str, Count]:
        """Return bystander counts on seen and unseen questions, if both exist."""
        self.check_arm(arm)
        grid, at = self._grid, self._grid.models.index((POST, arm))
        who = [grid.personas.index(p) for p in self.members("bystander")]
        hits, n = grid.hits[at][:, who].sum(), grid.n[at][:, who].sum()
        seen_hits, seen_n = grid.seen_hits[at][:, who].sum(), grid.seen_n[at][:, who].sum()
        if not 0 < seen_n < n:
            return {}
        return {
            "seen": Count.of(seen_hits, seen_n),
            "unseen": Count.of(hits - seen_hits, n - seen_n),
        }

    def per_seed(self, treated: str, control: str) -> dict[int, tuple[Count, Count]]:
        """Return bystander counts of both arms for each seed; empty with one run."""
        if len(self.seeds) == 1:
            return {}
        cells = [self._cells(POST, arm, "bystander") for arm in (treated, control)]
        return {
            seed: (
                Count.of(cells[0][0][i].sum(), cells[0][1][i].sum()),
                Count.of(cells[1][0][i].sum(), cells[1][1][i].sum()),
            )
            for i, seed in enumerate(self.seeds)
        }

    def clusters(self, arm: str, who: str = "bystander") -> Clusters:
        """Return an arm's (persona, question) clusters, completions of all seeds pooled."""
        self.check_arm(arm)
        return self._pool(POST, arm, who)

    def _pool(self, phase: str, model: str, who: str) -> Clusters:
        hits, n = self._cells(phase, model, who)
        pooled, sizes = hits.sum(axis=0).ravel(), n.sum(axis=0).ravel()
        asked = sizes > 0
        return Clusters(pooled[asked], sizes[asked])

    def _cells(self, phase: str, model: str, who: str) -> tuple[Floats, Floats]:
        """Return (S, P, Q) hits and completions of the personas that `who` names."""
        grid = self._grid
        at = grid.models.index((phase, model))
        members = [grid.personas.index(persona) for persona in self.members(who)]
        return grid.hits[at][:, members], grid.n[at][:, members]

    def _lengths(self, phase: str, model: str) -> Lengths:
        grid = self._grid
        if (phase, model) not in grid.models:
            return Lengths(statistic="median", tokens=math.nan, finished=math.nan)
        rows = grid.row_model == grid.models.index((phase, model))
        return Lengths(
            statistic="median",
            tokens=float(np.median(grid.tokens[rows])),
            finished=float(grid.stopped[rows].mean()),
        )

    def _median(self, phase: str, model: str, persona: str) -> float:
        grid = self._grid
        if (phase, model) not in grid.models:
            return math.nan
        rows = grid.row_model == grid.models.index((phase, model))
        rows &= grid.row_persona == grid.personas.index(persona)
        return float(np.median(grid.tokens[rows]))

    def _seed(self, *names: str) -> int:
        return derive_seed(self.registration.statistics.seed, "bootstrap", *names)
