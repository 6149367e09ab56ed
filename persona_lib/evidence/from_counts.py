"""Evidence of counts by persona."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa

from persona_lib.errors import DataError
from persona_lib.evidence.evidence import ALL, Count, Evidence, Lengths, priors_of
from persona_lib.evidence.from_totals import AggregateEvidence
from persona_lib.evidence.score_table import misspelt
from persona_lib.evidence.unevenness import unevenness
from persona_lib.records import POST, PRE, ModelId
from persona_lib.specs.registration import Registration

_REMEDY = "Give one row for all completions of a model, a seed and a persona."
_UNAVAILABLE = (
    "Cluster bootstrap, the interval and p of the registered rules: it needs (persona, question) "
    "cells, and the file counts personas.",
    "Inference for these personas, TOST, and anything per question: questions were pooled.",
    "Intervals of bystander/source and of the effect minus false positives: they need cells; the "
    "values alone are computed.",
    "Lengths, finished completions, repeated markers, first-k-tokens rates and gates on them: the "
    "file has counts alone.",
)
_NO_SEEDS = "Statistics over runs: the file has no column seed, which tells them apart."
_UNKNOWN = Count(hits=None, n=0, rate=math.nan)
_Run = dict[str, tuple[int, int]]
"""Hits and completions by persona."""


class CountEvidence(AggregateEvidence):
    """Evidence of counts by persona.

    Args:
        registration: the registration to judge under.
        table: columns of `score_table.COUNTS`; without ``seed``, a row holds every run.
        arms: arms that have to be there; all of the registration's by default.
        origin: where the counts come from, in words.
        left_out: names in the file that were left out.

    Raises:
        DataError: an arm has no row, or a run of one lacks a bystander or a persona that its
            other runs have; a row is repeated; or hits and completions are impossible.
    """

    kind = "counts"
    no_clusters = "counts hold no cells to draw from"
    known_as = "counted"

    def __init__(
        self,
        registration: Registration,
        table: pa.Table,
        *,
        arms: Sequence[str] | None = None,
        origin: str = "counts",
        left_out: Sequence[str] = (),
    ) -> None:
        self.registration, self.origin = registration, origin
        self.arms, self._quoted = self.named(arms), {}
        self._runs = _read(table)
        self.tells_runs = "seed" in table.column_names
        for arm in self.arms:
            self._check(arm, left_out)
        each = [set(self._runs[ModelId(POST, arm)]) for arm in self.arms]
        self.seeds = tuple(sorted(set[int]().union(*each))) if self.tells_runs else ()
        self.runs = max(map(len, each)) if self.tells_runs else 0
        self.uneven = len({frozenset(runs) for runs in self._runs.values()}) > 1
        self.unavailable = (*_UNAVAILABLE, *self._lacking())
        self.remarks = unevenness(self)

    def _check(self, arm: str, left_out: Sequence[str]) -> None:
        """Raise DataError where a run of an arm does not count whom it has to."""
        runs = self._runs.get(ModelId(POST, arm), {})
        if not runs:
            remedy = f"{misspelt(arm, left_out)}Count the arm, or judge another claim."
            raise DataError(f"counts: arm {arm}", bound="a row or more", value=0, remedy=remedy)
        wanted = {*self.members("bystander")}.union(*runs.values())
        for seed, run in runs.items():
            for persona in self.members(ALL):
                if persona in wanted and persona not in run:
                    raise DataError(
                        f"counts: arm {arm}{f', seed {seed}' if self.tells_runs else ''}",
                        bound="a row of every bystander, and of who is counted in another seed",
                        value=f"none of {persona}",
                        remedy=misspelt(persona, left_out) + _REMEDY,
                    )

    def _lacking(self) -> list[str]:
        """Return a sentence for each persona, prior or seed that is not counted."""
        found = [] if self.tells_runs else [_NO_SEEDS]
        for who in self.members(ALL):
            without = [arm for arm in self.arms if self.count(arm, who).hits is None]
            if without:
                found.append(f"Rate of {who}: the file does not count it in {', '.join(without)}.")
        for prior in priors_of(self):
            if self.pre_count(prior) is None:
                why = "its pre-coupling model was not counted."
                found.append(f"False positives of prior {prior}: {why}")
        return found

    def single_runs(self) -> tuple[Evidence, ...]:
        """Return the evidence of each training run by itself, in the order of seeds."""
        return self._singles if self.tells_runs and len(self._singles) > 1 else (self,)

    @cached_property
    def _singles(self) -> tuple[Evidence, ...]:
        found = []
        for seed in sorted({seed for runs in self._runs.values() for seed in runs}):
            one = copy.copy(self)
            one._runs = {of: {seed: runs[seed]} for of, runs in self._runs.items() if seed in runs}
            one.seeds, one.runs = (seed,), 1
            found.append(one)
        return tuple(found)

    def count(self, arm: str, who: str) -> Count:
        """Return the hits of an arm on a role or a persona."""
        self.check_arm(arm)
        return self._sum(ModelId(POST, arm), self.members(who, arm))

    def pre_count(self, prior: str, who: str = ALL) -> Count | None:
        """Return the hits of a pre-coupling model on those whom the file counts."""
        model = ModelId(PRE, prior)
        counted = {persona for run in self._runs.get(model, {}).values() for persona in run}
        known = [persona for persona in self.members(who) if persona in counted]
        return self._sum(model, known) if known else None

    def lengths(self, arm: str) -> Lengths:
        """Return NaN: counts tell of no lengths."""
        self.check_arm(arm)
        return Lengths(statistic="mean", tokens=math.nan, finished=math.nan)

    def _sum(self, model: ModelId, personas: Sequence[str]) -> Count:
        """Return the count over runs and personas, not known where a run lacks one of these."""
        runs = self._runs.get(model, {}).values()
        if any(persona not in run for run in runs for persona in personas):
            return _UNKNOWN
        pairs = [run[persona] for run in runs for persona in personas]
        return Count.of(sum(hits for hits, _ in pairs), sum(n for _, n in pairs))


def _read(table: pa.Table) -> dict[ModelId, dict[int, _Run]]:
    """Return the counts by model and seed; without seeds, the seed is 0."""
    found: dict[ModelId, dict[int, _Run]] = {}
    for at, row in enumerate(table.to_pylist(), start=1):
        hits, n, persona = row["hits"], row["n"], row["persona"]
        where = f"counts: row {at}, {row['phase']} {row['model']} {persona}"
        if not 0 <= hits <= n or not n:
            raise DataError(
                where, bound="0 <= hits <= n, and n >= 1", value=f"{hits} of {n}", remedy=_REMEDY
            )
        run = found.setdefault(ModelId(row["phase"], row["model"]), {}).setdefault(
            row.get("seed", 0), {}
        )
        if persona in run:
            value = "a second one" + (f" of seed {row['seed']}" if "seed" in row else "")
            raise DataError(where, bound="one row", value=value, remedy=_REMEDY)
        run[persona] = (hits, n)
    return found
