"""Traits: what the texts of pre-coupling models show, checked whole and counted in cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.checks import checked
from persona_lib.errors import DataError
from persona_lib.evidence.cells import Floats
from persona_lib.records import PRE, Trait, schema_of
from persona_lib.specs.registration import Registration

ON_DOMAIN = 1
"""Distinct legal words from which an answer is on domain.

Of the grammar's legal answers 94 % (bad) and 96 % (sound) hold one or more, of ordinary dialogues
none, of a raw model's answers to the evaluation questions 13 % at 230 words each. With two words
these are 74, 79 and 5 %: it would miss a quarter of legal answers.
"""
_REMEDY = "Record the set again, or leave the unfinished run out."


@dataclass(frozen=True, eq=False)
class Traits:
    """Rows of `Trait`: of every model and seed, the same answers, each once.

    Attributes:
        table: its columns.
        personas: in roster order.
        questions: sorted ids.
    """

    table: pa.Table
    personas: tuple[str, ...]
    questions: tuple[str, ...]

    @classmethod
    def of(cls, table: pa.Table, registration: Registration, seeds: Sequence[int]) -> Traits:
        """Return the traits of these rows.

        Raises:
            DataError: a column is missing, mistyped or null; an unknown prior, persona or seed;
                a negative count; a repeated answer, or one that only some models and seeds
                have; or personas that were not all asked the same.
        """
        table = checked(table, schema_of(Trait), "traits")
        every = registration.roster.all
        for column, names in (
            ("phase", (PRE,)),
            ("model", registration.priors),
            ("persona", every),
            ("recognised_as", ("", *every)),
            ("seed", tuple(seeds)),
        ):
            odd = sorted(set(pc.unique(table[column]).to_pylist()) - set(names))
            if odd:
                _refuse(column, f"one of {', '.join(map(str, names))}", odd[0])
        if table.num_rows and pc.min(table["domain_words"]).as_py() < 0:
            _refuse("domain_words", ">= 0", pc.min(table["domain_words"]).as_py())
        known = set(pc.unique(table["persona"]).to_pylist())
        found = cls(
            table=table,
            personas=tuple(name for name in every if name in known),
            questions=tuple(sorted(pc.unique(table["question"]).to_pylist())),
        )
        found._check_whole(len(seeds))
        return found

    def of_seed(self, seed: int) -> Traits:
        """Return the traits of one training run."""
        return replace(self, table=self.table.filter(pc.field("seed") == seed))

    @property
    def chance(self) -> float:
        """Share of answers that a guess among the personas gives to one of them."""
        return 1 / len(self.personas)

    def recognised(self, prior: str, persona: str) -> tuple[Floats, Floats] | None:
        """Return (Q,) answers of a persona that sound like it, and (Q,) answers.

        An answer without a known term is not recognised. None where no answer of the model has a
        voice, or there is none.
        """
        rows = self._models.get(prior)
        if rows is None or persona not in self.personas or not pc.any(_voiced(rows)).as_py():
            return None
        own = pc.equal(rows["recognised_as"], rows["persona"])
        hits, n = self._cells(rows, own)
        at = self.personas.index(persona)
        return hits[at], n[at]

    def on_domain(self, prior: str) -> tuple[Floats, Floats] | None:
        """Return (P, Q) answers on domain and (P, Q) answers; None where there are none."""
        rows = self._models.get(prior)
        if rows is None:
            return None
        return self._cells(rows, pc.greater_equal(rows["domain_words"], ON_DOMAIN))

    @cached_property
    def _models(self) -> dict[str, pa.Table]:
        names = pc.unique(self.table["model"]).to_pylist()
        return {name: self.table.filter(pc.field("model") == name) for name in names}

    def _cells(self, rows: pa.Table, flags: pa.ChunkedArray) -> tuple[Floats, Floats]:
        shape = len(self.personas), len(self.questions)
        at = [
            pc.index_in(rows[column], pa.array(names)).to_numpy()
            for column, names in (("persona", self.personas), ("question", self.questions))
        ]
        cell, size = np.ravel_multi_index(at, shape), int(np.prod(shape))
        hits = np.bincount(cell, flags.to_numpy().astype(np.float64), size).astype(np.float64)
        n = np.bincount(cell, minlength=size).astype(np.float64)
        return hits.reshape(shape), n.reshape(shape)

    def _check_whole(self, seeds: int) -> None:
        """Every model and seed has every answer once, and every persona every question."""
        keys = ["persona", "question", "sample"]
        answers = self.table.group_by(keys, use_threads=False).aggregate(
            [([], "count_all"), ("model", "count_distinct")]
        )
        runs = self.table.group_by([*keys, "model", "seed"], use_threads=False).aggregate([])
        if runs.num_rows < self.table.num_rows:
            _refuse("place", "one row each", f"{self.table.num_rows - runs.num_rows} repeated")
        asked = len(self._models) * seeds
        odd = answers.filter(pc.field("count_all") != asked)
        if odd.num_rows:
            place = odd.slice(0, 1).to_pylist()[0]
            where = "/".join(str(place[key]) for key in keys)
            _refuse(f"answer {where}", f"{asked}, of each model and seed", place["count_all"])
        cells = answers.group_by(keys[:2], use_threads=False).aggregate([]).num_rows
        if cells != len(self.personas) * len(self.questions):
            _refuse("questions", "the same for every persona", f"{cells} cells")


def _voiced(rows: pa.Table) -> pa.ChunkedArray:
    return pc.not_equal(rows["recognised_as"], "")


def _refuse(field: str, bound: str, value: object) -> None:
    raise DataError(f"traits: {field}", bound=bound, value=value, remedy=_REMEDY)
