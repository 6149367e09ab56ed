"""Score rows, checked whole and counted in cells (model, seed, persona, question).

Axes have an order of their own (of the registration for models and personas, sorted for
seeds and questions), so that no result depends on the order of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from persona_lib.errors import DataError
from persona_lib.evidence.score_table import (
    REMEDY,
    Bools,
    Ints,
    bounded,
    check_markers,
    columns_of,
    finish,
    flags,
    known_only,
    misspelt,
    numbers,
    strings,
)
from persona_lib.records import POST, PRE, ModelId
from persona_lib.specs.registration import Registration
from persona_lib.stats.clustered import Crossed

__all__ = ["Bools", "Floats", "Grid", "Ints", "build"]

Floats = NDArray[np.float64]


_CELLS = 1_000_000
_CELLS_A_ROW = 16
"""Most cells of a grid: so many in any case, or so many a row. A whole set has a row in each
cell, but models before coupling may be asked fewer questions."""


@dataclass(frozen=True)
class Grid:
    """Checked rows, counted.

    Attributes:
        models, seeds, personas, questions: labels of axes 0 to 3; arms are the first models.
        hits, n: (M, S, P, Q) hits and completions.
        seen_hits, seen_n: the same for questions of the coupling text.
        row_model, row_seed, row_persona, row_question: (R,) indices of each row
            on the four axes.
        row_hit: (R,) the row is a hit.
        finish: (R,) whether the row's finish is `stop`.
        tokens, markers, first_token: (R,) as in `persona_lib.records.Score`.

    What the table has no column for is None.
    """

    models: tuple[ModelId, ...]
    seeds: tuple[int, ...]
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    hits: Floats
    n: Floats
    seen_hits: Floats | None
    seen_n: Floats | None
    row_model: Ints
    row_seed: Ints
    row_persona: Ints
    row_question: Ints
    row_hit: Bools
    tokens: Floats | None
    finish: Bools | None
    markers: Ints | None
    first_token: Ints | None

    def rows(self, model: ModelId, personas: Sequence[str] | None = None) -> Bools:
        """Return (R,) whether a row is of a model, and of one of these personas."""
        found: Bools = self.row_model == self.models.index(model)
        return found if personas is None else found & np.isin(self.row_persona, self._at(personas))

    def cells(self, model: ModelId, personas: Sequence[str]) -> tuple[Floats, Floats]:
        """Return (S, P, Q) hits and completions of a model as these personas."""
        at, who = self.models.index(model), self._at(personas)
        return self.hits[at][:, who], self.n[at][:, who]

    def _at(self, personas: Sequence[str]) -> list[int]:
        return [self.personas.index(persona) for persona in personas]

    def has(self, model: ModelId, seed: int) -> bool:
        """Return whether a model has completions of the seed at a place."""
        return model in self.models and bool(self.n[self.models.index(model), seed].any())

    def asked(self, phase: str, personas: Sequence[str]) -> Bools:
        """Return (P, Q) which questions these personas were asked by the models of a phase."""
        of = [i for i, model in enumerate(self.models) if model.phase == phase]
        found: Bools = self.n[of].sum(axis=(0, 1))[self._at(personas)] > 0
        return found[:, found.any(axis=0)]

    def by_question(self, values: Bools | Floats, rows: Bools) -> tuple[Floats, Floats]:
        """Return (Q,) sums of a number over some rows, and (Q,) how many rows those are."""
        question, size = self.row_question[rows], len(self.questions)
        sums = np.bincount(question, values[rows].astype(np.float64), minlength=size)
        counts = np.bincount(question, minlength=size)
        return sums.astype(np.float64), counts.astype(np.float64)

    def finished_lengths(self, rows: Bools) -> Crossed | None:
        """Return the tokens of those of some rows that finished, None if not known."""
        if self.tokens is None or self.finish is None:
            return None
        of = rows & self.finish
        return Crossed(self.tokens[of], self.row_question[of], self.row_persona[of])

    def of_seed(self, at: int) -> Grid:
        """Return the cells and rows of one training run, the seed at this place."""
        rows = self.row_seed == at
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                found[field.name] = value[rows] if value.ndim == 1 else value[:, at : at + 1]
        found["row_seed"] = np.zeros_like(found["row_seed"])
        return replace(self, seeds=self.seeds[at : at + 1], **found)


def build(
    table: pa.Table,
    registration: Registration,
    arms: Sequence[str],
    *,
    uneven: bool = False,
    left_out: Sequence[str] = (),
) -> Grid:
    """Check a table of scores against a registration and count it.

    Args:
        table: columns of `score_table.COLUMNS`, one row a completion.
        registration: names of arms, priors, personas and question sets.
        arms: the arms that have to be there. Rows of the registration's other arms are
            checked for their names and then left out.
        uneven: what `_check_cells` then allows; otherwise all cells are alike.
        left_out: names in the file that were left out: offered for one that has no rows.

    Raises:
        DataError: no rows; a column that is missing, mistyped or null; an unknown name; an
            arm, cell or completion that is missing; a repeated coordinate; a number or
            finish reason that cannot be.
    """
    table = columns_of(table)
    if not table.num_rows:
        raise DataError("scores", bound="at least one row", value=0, remedy=REMEDY)
    check_markers(table, "scores")
    labels = [ModelId(POST, arm) for arm in arms]
    labels += [ModelId(PRE, prior) for prior in registration.priors]
    model = _model_of_rows(table, registration, labels)
    table, model = table.filter(pa.array(model >= 0)), model[model >= 0]
    axes, rows = _places(table, registration, labels, model, left_out)
    _check_size(axes, table.num_rows)
    _check_every_set(table, registration)
    cell = np.ravel_multi_index(rows, axes.shape)
    _check_duplicates(cell, numbers(table, "sample"), axes)
    counts = _sums(cell, axes)
    _check_cells(counts, axes, uneven, left_out)
    hit = flags(table, "hit")
    seen = flags(table, "seen") if "seen" in table.column_names else None
    tokens = bounded(table, "tokens", 0)
    markers, first = bounded(table, "markers", 0), bounded(table, "first_token", -1)
    return Grid(
        **axes._asdict(),
        hits=_sums(cell, axes, hit),
        n=counts,
        seen_hits=None if seen is None else _sums(cell, axes, hit & seen),
        seen_n=None if seen is None else _sums(cell, axes, seen),
        row_model=rows[0],
        row_seed=rows[1],
        row_persona=rows[2],
        row_question=rows[3],
        row_hit=hit,
        tokens=None if tokens is None else tokens.astype(np.float64),
        finish=finish(table),
        markers=markers,
        first_token=first,
    )


class _Axes(NamedTuple):
    models: tuple[ModelId, ...]
    seeds: tuple[int, ...]
    personas: tuple[str, ...]
    questions: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self)

    def name(self, at: Sequence[int]) -> str:
        model, seed, persona, question = at
        phase, name = self.models[model]
        return (
            f"{'arm' if phase == POST else 'pre-coupling model'} {name}, "
            f"persona {self.personas[persona]}, question {self.questions[question]}, "
            f"seed {self.seeds[seed]}"
        )


def _places(
    table: pa.Table,
    registration: Registration,
    labels: Sequence[ModelId],
    model: Ints,
    left_out: Sequence[str],
) -> tuple[_Axes, tuple[Ints, Ints, Ints, Ints]]:
    """Return the axes that these rows span, and (R,) indices of each row on them."""
    present = _present(model, labels, left_out)
    persona, question = strings(table, "persona"), strings(table, "question")
    seeds, seed = np.unique(numbers(table, "seed"), return_inverse=True)
    axes = _Axes(
        models=tuple(labels[i] for i in present),
        seeds=tuple(int(s) for s in seeds),
        personas=registration.roster.all,
        questions=tuple(sorted(question.labels)),
    )
    rows = (
        np.searchsorted(present, model),
        seed.astype(np.int64),
        persona.against(axes.personas),
        question.against(axes.questions),
    )
    return axes, rows


def _sums(cell: Ints, axes: _Axes, weights: Bools | None = None) -> Floats:
    """Return (M, S, P, Q) rows of each cell, or the sums of their weights."""
    size = int(np.prod(axes.shape))
    out = np.bincount(cell, weights=weights, minlength=size)
    return out.reshape(axes.shape).astype(np.float64)


def _model_of_rows(table: pa.Table, registration: Registration, labels: Sequence[ModelId]) -> Ints:
    """Return (R,) positions in `labels`, -1 for an arm that is not wanted; names are checked."""
    phase, name = strings(table, "phase"), strings(table, "model")
    known_only("phase", phase, (POST, PRE))
    arms = tuple(arm.name for arm in registration.arms)
    for key, known in ((POST, arms), (PRE, registration.priors)):
        known_only(f"model of phase {key}", name.where(phase, key), known)
    known_only("persona", strings(table, "persona"), registration.roster.all)
    sets, evaluated = strings(table, "question_set"), registration.evaluation_questions
    known_only("question_set", sets.where(phase, POST), evaluated)
    known_only("question_set", sets, (*evaluated, *registration.coupling_questions))
    model = np.full(phase.codes.size, -1, dtype=np.int64)
    for index, (wanted_phase, wanted) in enumerate(labels):
        model[(phase.against((wanted_phase,)) == 0) & (name.against((wanted,)) == 0)] = index
    return model


def _present(model: Ints, labels: Sequence[ModelId], left_out: Sequence[str]) -> Ints:
    """Return the positions of models that have rows: every arm, and some of the priors."""
    found = np.unique(model)
    for index, (phase, name) in enumerate(labels):
        if phase == POST and index not in found:
            raise DataError(
                f"scores: arm {name}",
                bound="completions of every arm",
                value="0 rows",
                remedy=misspelt(name, left_out) + "Run the arm, or name the arms that are there.",
            )
    return found


def _check_every_set(table: pa.Table, registration: Registration) -> None:
    """Arms answer questions of every evaluated set."""
    asked = strings(table, "question_set").where(strings(table, "phase"), POST).labels
    for name in registration.evaluation_questions:
        if name not in asked:
            raise DataError(
                "scores: question_set",
                bound=f"every set of {', '.join(registration.evaluation_questions)}",
                value=f"no completion of {name} in any arm",
                remedy=REMEDY,
            )


def _check_size(axes: _Axes, rows: int) -> None:
    """Refuse axes whose cells could not all have a row, before the cells are made."""
    cells = math.prod(axes.shape)
    if cells > max(_CELLS, _CELLS_A_ROW * rows):
        models, seeds, personas, questions = (f"{size:,}" for size in axes.shape)
        raise DataError(
            "scores: cells",
            bound=f"at most {_CELLS_A_ROW} for each of {rows:,} rows",
            value=f"{models} models x {seeds} seeds x {personas} personas x {questions} questions",
            remedy="The seed is that of the run, and a question's id is the same in every run: "
            "neither numbers the rows.",
        )


def _check_duplicates(cell: Ints, sample: Ints, axes: _Axes) -> None:
    numbers, index = np.unique(sample, return_inverse=True)
    keys, counts = np.unique(cell * numbers.size + index, return_counts=True)
    if (counts > 1).any():
        key = int(keys[int(np.argmax(counts))])
        where = axes.name([int(i) for i in np.unravel_index(key // numbers.size, axes.shape)])
        raise DataError(
            f"scores: {where}, sample {numbers[key % numbers.size]}",
            bound="one row",
            value=f"{int(counts.max())} rows ({int((counts > 1).sum())} coordinates repeat)",
            remedy="Remove the repeated rows: a completion counts once.",
        )


def _check_cells(counts: Floats, axes: _Axes, uneven: bool, left_out: Sequence[str]) -> None:
    """Every cell that a phase asks is as full as its fullest one.

    In `uneven` sets personas have questions of their own, and runs (a model with a seed) may be
    missing, or have more completions a cell than others; within a run, cells are alike.
    """
    for phase in (POST, PRE):
        models = [i for i, model in enumerate(axes.models) if model[0] == phase]
        if not models:
            continue
        block = counts[models]
        asked = block.sum(axis=(0, 1) if uneven else (0, 1, 2)) > 0
        full = block.max(axis=(2, 3) if uneven else None, keepdims=True)
        for persona in np.flatnonzero(~asked.any(axis=-1)) if uneven else ():
            name = axes.personas[persona]
            raise DataError(
                f"scores: persona {name}",
                bound=f"completions of every persona in phase {phase}",
                value="0 rows",
                remedy=f"{misspelt(name, left_out)}Correct the name, or the roster.",
            )
        short = (block < full) & asked
        if short.any():
            at = np.argwhere(short)[0].tolist()
            where = axes.name([models[at[0]], *at[1:]])
            raise DataError(
                f"scores: {where}",
                bound=f"{int(np.broadcast_to(full, block.shape)[tuple(at)])} completions, as in "
                "the fullest cell",
                value=f"{int(block[tuple(at)])} ({int(short.sum())} cells are short)",
                remedy=REMEDY,
            )
