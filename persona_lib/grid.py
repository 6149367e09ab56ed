"""Score rows as columns: checked whole, then counted on a dense grid.

Everything that a verdict reads is a sum over cells (model, seed, persona,
question). The grid's axes have an order of their own (registration order for
models and personas, sorted ids for seeds and questions), so that no result
depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from persona_lib.columns import checked
from persona_lib.errors import DataError
from persona_lib.records import LENGTH, POST, PRE, STOP, Score, schema_of
from persona_lib.registration import Registration

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Model = tuple[str, str]
"""(phase, name): ``("post", "C2")`` is an arm, ``("pre", "em")`` its model before coupling."""

_REMEDY = "Record the set again, or leave the unfinished run out."


@dataclass(frozen=True)
class Grid:
    """Checked rows, counted.

    Attributes:
        models: (phase, name) of axis 0, arms first.
        seeds, personas, questions: labels of axes 1 to 3.
        hits, n: (M, S, P, Q) hits and completions.
        seen_hits, seen_n: the same for questions of the coupling text.
        row_model, row_seed, row_persona, row_question: (R,) indices of each row
            on the four axes.
        row_hit: (R,) the row is a hit.
        tokens: (R,) tokens of each row.
        stopped: (R,) the row finished by itself.
    """

    models: tuple[Model, ...]
    seeds: tuple[int, ...]
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    hits: Floats
    n: Floats
    seen_hits: Floats
    seen_n: Floats
    row_model: Ints
    row_seed: Ints
    row_persona: Ints
    row_question: Ints
    row_hit: Bools
    tokens: Floats
    stopped: Bools


def table_of(rows: Iterable[Score]) -> pa.Table:
    """Return score rows as an Arrow table, in the order given."""
    schema = schema_of(Score)
    listed = list(rows)
    return pa.table(
        [pa.array([getattr(r, f.name) for r in listed], type=f.type) for f in schema],
        schema=schema,
    )


def build(table: pa.Table, registration: Registration, arms: Sequence[str]) -> Grid:
    """Check a table of scores against a registration and count it.

    Args:
        table: columns of `Score`, one row a completion.
        registration: names of arms, priors, personas and question sets.
        arms: the arms that have to be there, by name. Rows of other arms of the
            registration are checked for their names and then left out.

    Raises:
        DataError: no rows; a column that is missing, mistyped or null; an
            unknown phase, model, persona or question set; an arm, persona,
            question or completion that is missing; a repeated coordinate.
    """
    table = checked(table, schema_of(Score), "scores")
    if not table.num_rows:
        raise DataError("scores", bound="at least one row", value=0, remedy=_REMEDY)
    labels: list[Model] = [(POST, arm) for arm in arms]
    labels += [(PRE, prior) for prior in registration.priors]
    model = _model_of_rows(table, registration, labels)
    table, model = table.filter(pa.array(model >= 0)), model[model >= 0]
    axes, rows = _places(table, registration, labels, model)
    _check_every_set(table, registration)
    cell = np.ravel_multi_index(rows, axes.shape)
    _check_duplicates(cell, _numbers(table, "sample"), axes)
    counts = _sums(cell, axes)
    _check_cells(counts, axes)
    hit, seen = _flags(table, "hit"), _flags(table, "seen")
    tokens, stopped = _lengths(table)
    return Grid(
        models=axes.models,
        seeds=axes.seeds,
        personas=axes.personas,
        questions=axes.questions,
        hits=_sums(cell, axes, hit),
        n=counts,
        seen_hits=_sums(cell, axes, hit & seen),
        seen_n=_sums(cell, axes, seen),
        row_model=rows[0],
        row_seed=rows[1],
        row_persona=rows[2],
        row_question=rows[3],
        row_hit=hit,
        tokens=tokens,
        stopped=stopped,
    )


class _Axes(NamedTuple):
    """Labels of the grid's four axes."""

    models: tuple[Model, ...]
    seeds: tuple[int, ...]
    personas: tuple[str, ...]
    questions: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self)

    def name(self, at: Sequence[int]) -> str:
        """Return a cell in words."""
        model, seed, persona, question = at
        phase, name = self.models[model]
        return (
            f"{'arm' if phase == POST else 'pre-coupling model'} {name}, "
            f"persona {self.personas[persona]}, question {self.questions[question]}, "
            f"seed {self.seeds[seed]}"
        )


def _places(
    table: pa.Table, registration: Registration, labels: Sequence[Model], model: Ints
) -> tuple[_Axes, tuple[Ints, Ints, Ints, Ints]]:
    """Return the axes that these rows span, and (R,) indices of each row on them."""
    present = _present(model, labels)
    persona, question = _strings(table, "persona"), _strings(table, "question")
    seeds, seed = np.unique(_numbers(table, "seed"), return_inverse=True)
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


@dataclass(frozen=True)
class _Strings:
    """A dictionary-encoded column: labels that occur, and a code for each row."""

    labels: tuple[str, ...]
    codes: Ints

    def against(self, known: Sequence[str]) -> Ints:
        """Return (R,) positions in `known`; -1 for a label that is not in it."""
        position = {label: i for i, label in enumerate(known)}
        lookup = np.array([position.get(label, -1) for label in self.labels], dtype=np.int64)
        return lookup[self.codes]

    def where(self, other: _Strings, label: str) -> _Strings:
        """Return the rows in which `other` has this label."""
        codes = self.codes[other.against((label,)) == 0]
        used, renumbered = np.unique(codes, return_inverse=True)
        return _Strings(tuple(self.labels[i] for i in used), renumbered.astype(np.int64))


def _strings(table: pa.Table, name: str) -> _Strings:
    encoded = pc.dictionary_encode(table.column(name).combine_chunks())
    labels = tuple(encoded.dictionary.to_pylist())
    return _Strings(labels, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64))


def _numbers(table: pa.Table, name: str) -> Ints:
    values: Ints = table.column(name).to_numpy().astype(np.int64)
    return values


def _flags(table: pa.Table, name: str) -> Bools:
    values: Bools = table.column(name).to_numpy().astype(np.bool_)
    return values


def _known(field: str, column: _Strings, known: Sequence[str]) -> None:
    for label in column.labels:
        if label not in known:
            count = int((column.against((label,)) == 0).sum())
            raise DataError(
                f"scores: {field}",
                bound=f"one of {', '.join(known)}",
                value=f"{label} in {count} rows",
                remedy="Judge these records under the registration that they were made for.",
            )


def _model_of_rows(table: pa.Table, registration: Registration, labels: Sequence[Model]) -> Ints:
    """Return (R,) positions in `labels`, -1 for an arm that is not among them.

    Every name in the table has to be one of the registration, whether or not
    its row is wanted.
    """
    phase, name = _strings(table, "phase"), _strings(table, "model")
    _known("phase", phase, (POST, PRE))
    arms = tuple(arm.name for arm in registration.arms)
    for key, known in ((POST, arms), (PRE, registration.priors)):
        _known(f"model of phase {key}", name.where(phase, key), known)
    _known("persona", _strings(table, "persona"), registration.roster.all)
    sets, evaluated = _strings(table, "question_set"), registration.evaluation_questions
    _known("question_set", sets.where(phase, POST), evaluated)
    _known("question_set", sets, (*evaluated, *registration.coupling_questions))
    model = np.full(phase.codes.size, -1, dtype=np.int64)
    for index, (wanted_phase, wanted) in enumerate(labels):
        model[(phase.against((wanted_phase,)) == 0) & (name.against((wanted,)) == 0)] = index
    return model


def _present(model: Ints, labels: Sequence[Model]) -> Ints:
    """Return the positions of models that have rows: every arm, and some of the priors."""
    found = np.unique(model)
    for index, (phase, name) in enumerate(labels):
        if phase == POST and index not in found:
            raise DataError(
                f"scores: arm {name}",
                bound="completions of every arm",
                value="0 rows",
                remedy="Run the arm, or name the arms that are there.",
            )
    return found


def _check_every_set(table: pa.Table, registration: Registration) -> None:
    """Arms answer questions of every evaluated set."""
    asked = _strings(table, "question_set").where(_strings(table, "phase"), POST).labels
    for name in registration.evaluation_questions:
        if name not in asked:
            raise DataError(
                "scores: question_set",
                bound=f"every set of {', '.join(registration.evaluation_questions)}",
                value=f"no completion of {name} in any arm",
                remedy=_REMEDY,
            )


def _lengths(table: pa.Table) -> tuple[Floats, Bools]:
    """Return (R,) tokens of each row, and whether it finished by itself."""
    tokens, finish = _numbers(table, "tokens"), _strings(table, "finish")
    if (tokens < 0).any():
        raise DataError("tokens", bound=">= 0", value=int(tokens.min()), remedy=_REMEDY)
    _known("finish", finish, (STOP, LENGTH))
    return tokens.astype(np.float64), finish.against((STOP, LENGTH)) == 0


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


def _check_cells(counts: Floats, axes: _Axes) -> None:
    """Every arm, prior, seed, persona and question has the same number of completions."""
    for phase in (POST, PRE):
        models = [i for i, model in enumerate(axes.models) if model[0] == phase]
        if not models:
            continue
        block = counts[models]
        asked = block.sum(axis=(0, 1, 2)) > 0  # questions that this phase asks at all
        short = (block < block.max()) & asked
        if short.any():
            at = np.argwhere(short)[0].tolist()
            where = axes.name([models[at[0]], *at[1:]])
            raise DataError(
                f"scores: {where}",
                bound=f"{int(block.max())} completions, as in the fullest cell",
                value=f"{int(block[tuple(at)])} ({int(short.sum())} cells are short)",
                remedy=_REMEDY,
            )
