"""Evidence of scored completions: rates, contrasts and lengths, computed from cells."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.digests import derive_seed
from persona_lib.evidence.advice_means import BroadHarm, broad_harm, question_means
from persona_lib.evidence.cells import Grid, build
from persona_lib.evidence.evidence import ALL, Count, Evidence, Harm, Lengths, priors_of
from persona_lib.evidence.gains import Gains, unread
from persona_lib.evidence.nearness import nearness
from persona_lib.evidence.score_table import OPTIONAL, Bools, incomplete
from persona_lib.evidence.traits import Traits
from persona_lib.evidence.unevenness import own_questions, unevenness
from persona_lib.records import POST, PRE, ModelId
from persona_lib.specs.registration import INTERVALS, Registration
from persona_lib.stats.bootstrap import (
    Clusters,
    difference,
    named,
    ratio_difference,
    signed_sum,
    single_rate,
)
from persona_lib.stats.estimate import Estimate

_DISABLES = {
    "seen": "Seen against unseen questions",
    "tokens": "Lengths, gates on lengths and the length-adjusted effect",
    "finish": "Share finished, rates of finished completions, the median of their tokens and "
    "gates on truncation",
    "markers": "Repeated markers",
    "first_token": "First-k-tokens rates",
}
"""The statistics that need each optional column."""


class RecordEvidence(Evidence):
    """Evidence of scored completions, one row each.

    Args:
        registration: the registration to judge under.
        table: columns of `score_table.COLUMNS`; `unavailable` says what a missing optional
            one disables.
        arms: arms that have to be there; all of the registration's by default.
        origin: where the rows come from, in words.
        advice: columns of `AdviceScore`; None where no advice was sampled.
        broad: columns of `BroadScore`; None where no broad questions were asked.
        slots: columns of `SlotReading`; None where no slots were read.
        dose: columns of `DosePoint`; None where couplings read none.
        traits: columns of `Trait`; None where texts were not read.
        geometry: columns of `GeometryRow`; None where a gate reads none.
        partial: an optional column with empty cells counts as missing, models may lack seeds
            and personas have questions of their own (`evidence.cells.build`); otherwise these
            are errors.
        left_out: names in the file that were left out.

    Seeds are pooled: a cluster (persona, question) holds the completions of all.

    Raises:
        DataError: as `evidence.cells.build` and `question_means` raise it.
    """

    kind = "records"

    def __init__(
        self,
        registration: Registration,
        table: pa.Table,
        *,
        arms: Sequence[str] | None = None,
        origin: str = "scored completions",
        advice: pa.Table | None = None,
        broad: pa.Table | None = None,
        slots: pa.Table | None = None,
        dose: pa.Table | None = None,
        traits: pa.Table | None = None,
        geometry: pa.Table | None = None,
        partial: bool = False,
        left_out: Sequence[str] = (),
    ) -> None:
        self.registration = registration
        self.arms = self.named(arms)
        gaps = incomplete(table) if partial else {}
        table = table.drop_columns(list(gaps))
        grid = build(table, registration, self.arms, uneven=partial, left_out=left_out)
        self._grid = grid
        trained = [ModelId(POST, arm) for arm in self.arms]
        self.seeds = tuple(
            seed for at, seed in enumerate(grid.seeds) if any(grid.has(of, at) for of in trained)
        )
        self.runs = max(sum(grid.has(of, at) for at in range(len(grid.seeds))) for of in trained)
        self.uneven = not all(
            grid.has(of, at) for of in grid.models for at in range(len(grid.seeds))
        )
        self.origin = origin
        self._harm = question_means(advice, registration.priors, self.seeds)
        self._answers = advice, broad
        self._broad = broad_harm(broad, registration.priors, self.seeds)
        self._geometry = geometry
        self._gains = None if slots is None else Gains.of(slots, dose, registration, gaps=partial)
        self._traits = None if traits is None else Traits.of(traits, registration, self.seeds)
        needed = priors_of(self)
        self.unavailable = (
            *(
                f"False positives of prior {prior}: its pre-coupling model was not evaluated."
                for prior in needed
                if (PRE, prior) not in self._grid.models
            ),
            *_unadvised(needed, self._harm),
            *_disabled(table, gaps, registration),
            *(unread(table, self._gains, registration) if partial else ()),
            *own_questions(grid.asked(POST, self.members("bystander"))),
        )
        self.remarks = unevenness(self) if partial else ()

    def grid(self) -> Grid:
        """Return the cells behind the counts."""
        return self._grid

    def single_runs(self) -> tuple[Evidence, ...]:
        """Return the evidence of each training run by itself, in the order of seeds."""
        return (self,) if len(self._grid.seeds) == 1 else self._singles

    @cached_property
    def _singles(self) -> tuple[Evidence, ...]:
        # Kept: every bound gate reads run by run, and there are dozens of them.
        found = []
        for at, seed in enumerate(self._grid.seeds):
            one = copy.copy(self)
            one._grid, one.seeds, one.runs = self._grid.of_seed(at), (seed,), 1
            advice, broad = (_of_seed(rows, seed) for rows in self._answers)
            one._harm = question_means(advice, self.registration.priors, (seed,))
            one._broad = broad_harm(broad, self.registration.priors, (seed,))
            one._gains = self._gains and self._gains.of_seed(seed)
            one._traits = self._traits and self._traits.of_seed(seed)
            found.append(one)
        return tuple(found)

    def nearness(self, arm: str, depth: float) -> Mapping[int, float]:
        """Return how near an arm's source is to its bystanders by run seed."""
        self.check_arm(arm)
        table = self._geometry
        return {} if table is None else nearness(table, self.registration, arm, depth)

    def gains(self) -> Gains | None:
        """Return readings at slots, None where there are none."""
        return self._gains

    def traits(self) -> Traits | None:
        """Return what the texts of pre-coupling models show, None where they were not read."""
        return self._traits

    def count(self, arm: str, who: str) -> Count:
        """Return the hits of an arm on a role or a persona."""
        self.check_arm(arm)
        return self._count(ModelId(POST, arm), who)

    def pre_count(self, prior: str, who: str = ALL) -> Count | None:
        """Return the hits of a pre-coupling model, None where they are not known."""
        model = ModelId(PRE, prior)
        return self._count(model, who) if model in self._grid.models else None

    def harm(self, prior: str) -> Harm | None:
        """Return how harmful a pre-coupling model's advice is, None where it is not known."""
        found = self._harm.get(prior)
        if found is None:
            return None
        return Harm(
            questions=tuple(found),
            scores=np.array([mean for mean, _ in found.values()]),
            n=sum(count for _, count in found.values()),
        )

    def broad(self, prior: str) -> BroadHarm | None:
        """Return how misaligned a pre-coupling model's answers are, None where not known."""
        return self._broad.get(prior)

    def lengths(self, arm: str) -> Lengths:
        """Return the lengths of an arm's completions."""
        self.check_arm(arm)
        return self._lengths(ModelId(POST, arm))

    def pre_lengths(self, prior: str) -> Lengths:
        """Return the lengths of a pre-coupling model's completions."""
        return self._lengths(ModelId(PRE, prior))

    def contrast(self, claim: str, treated: str, control: str) -> Estimate:
        """Return the registered cluster bootstrap of the difference of rates."""
        return self._difference(claim, treated, control, self._drawing)

    def other_interval(self, claim: str, treated: str, control: str) -> Estimate | None:
        """Return the registered contrast with the kind of interval that is not registered."""
        (other,) = {*INTERVALS} - {self.registration.statistics.interval}
        found = self._difference(claim, treated, control, self._drawing | {"interval": other})
        # Without p: it is that of the registered estimate, read off the same draws.
        return replace(found, p=None, p_floor=None)

    def _difference(
        self, claim: str, treated: str, control: str, drawing: dict[str, Any]
    ) -> Estimate:
        pools = self.clusters(treated), self.clusters(control)
        seeds = self._seed(claim, treated), self._seed(claim, control)
        return difference(*pools, seeds=seeds, **drawing)

    def ratio_contrast(self, claim: str, treated: str, control: str) -> Estimate:
        """Return the bootstrap of source-normalised rates, source drawn as well."""
        names = ((treated,), (treated, "source"), (control,), (control, "source"))
        one, one_source, other, other_source = (self.clusters(*name) for name in names)
        seeds = [self._seed(claim, *name) for name in names]
        return ratio_difference(
            (one, one_source), (other, other_source), seeds=seeds, **self._drawing
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
            return Estimate.bare(0, None, level, named(method, statistics.interval), note)
        pools = [
            (self.clusters(treated), self._seed(claim, treated), 1),
            (self.clusters(control), self._seed(claim, control), -1),
        ]
        # Two arms on one prior lose the same false positives: nothing is left of them.
        if priors[0] != priors[1]:
            pools += [
                (self._pool(ModelId(PRE, prior), "bystander"), self._seed(claim, prior, PRE), sign)
                for prior, sign in zip(priors, (-1, 1), strict=True)
            ]
        return signed_sum(
            pools, resamples=resamples, level=level, method=method, interval=statistics.interval
        )

    def bystander_rate(self, claim: str, arm: str) -> Estimate:
        """Return the rate of one arm with its cluster bootstrap interval."""
        return single_rate(self.clusters(arm), seed=self._seed(claim, arm), **self._drawing)

    def person_tokens(self, arm: str, persona: str) -> tuple[float, float]:
        """Return median tokens of a persona: (arm, its pre-coupling model)."""
        prior = self.registration.arm(arm).prior
        models = ModelId(POST, arm), ModelId(PRE, prior)
        after, before = (self._median(self._rows(model, persona)) for model in models)
        return after, before

    def split(self, arm: str) -> dict[str, Count]:
        """Return bystander counts on seen and unseen questions, if both exist."""
        self.check_arm(arm)
        grid = self._grid
        if grid.seen_hits is None or grid.seen_n is None:
            return {}
        all_asked = self._count(ModelId(POST, arm), "bystander")
        seen = replace(grid, hits=grid.seen_hits, n=grid.seen_n)
        cells = seen.cells(ModelId(POST, arm), self.members("bystander"))
        hits, n = (counts.sum() for counts in cells)
        if not 0 < n < all_asked.n:
            return {}
        unseen = Count.of((all_asked.hits or 0) - hits, all_asked.n - n)
        return {"seen": Count.of(hits, n), "unseen": unseen}

    def clusters(self, arm: str, who: str = "bystander") -> Clusters:
        """Return an arm's (persona, question) clusters, completions of all seeds pooled."""
        self.check_arm(arm)
        return self._pool(ModelId(POST, arm), who)

    def _pool(self, model: ModelId, who: str) -> Clusters:
        cells = self._grid.cells(model, self._of(model, who))
        pooled, sizes = (counts.sum(axis=0).ravel() for counts in cells)
        asked = sizes > 0
        return Clusters(pooled[asked], sizes[asked])

    def _count(self, model: ModelId, who: str) -> Count:
        hits, n = self._grid.cells(model, self._of(model, who))
        return Count.of(hits.sum(), n.sum())

    def _of(self, model: ModelId, who: str) -> tuple[str, ...]:
        """Return the personas of a role, as an arm has it."""
        return self.members(who, model.name if model.phase == POST else None)

    def _lengths(self, model: ModelId) -> Lengths:
        rows, finish = self._rows(model), self._grid.finish
        finished = math.nan if finish is None or not rows.any() else float(finish[rows].mean())
        return Lengths(statistic="median", tokens=self._median(rows), finished=finished)

    def _rows(self, model: ModelId, *personas: str) -> Bools:
        """Return (R,) whether a row is of this model, and of these personas if any is named."""
        if model not in self._grid.models:
            return np.zeros(self._grid.row_model.shape, dtype=np.bool_)
        return self._grid.rows(model, personas or None)

    def _median(self, rows: Bools) -> float:
        """Return the median tokens of some rows, NaN where there are none or no lengths."""
        tokens = self._grid.tokens
        return math.nan if tokens is None or not rows.any() else float(np.median(tokens[rows]))

    @property
    def _drawing(self) -> dict[str, Any]:
        """How the registration draws, for a bootstrap."""
        rules = self.registration.statistics
        return {
            "resamples": rules.resamples,
            "level": rules.confidence,
            "interval": rules.interval,
        }

    def _seed(self, *names: str) -> int:
        return derive_seed(self.registration.statistics.seed, "bootstrap", *names)


def _of_seed(table: pa.Table | None, seed: int) -> pa.Table | None:
    return None if table is None else table.filter(pc.field("seed") == seed)


def _unadvised(needed: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Return a sentence for each prior whose model was asked for no advice; one if none was."""
    why = "no advice was sampled."
    if not known:
        return (f"Harm of the pre-coupling models' advice: {why}",)
    return tuple(f"Harm of prior {p}'s advice: {why}" for p in needed if p not in known)


def _disabled(
    table: pa.Table, gaps: Mapping[str, int], registration: Registration
) -> tuple[str, ...]:
    """Return a sentence for each optional column that cannot be used: what it disables."""
    sets = registration.coupling_questions, registration.evaluation_questions
    sentences = []
    for name in OPTIONAL:
        if name in table.column_names or (name == "seen" and set(sets[0]) == set(sets[1])):
            continue
        why = f"the set has no column {name}"
        if name in gaps:
            why = f"column {name} is empty in {gaps[name]:,} of {table.num_rows:,} rows"
        sentences.append(f"{_DISABLES[name]}: {why}.")
    return tuple(sentences)
