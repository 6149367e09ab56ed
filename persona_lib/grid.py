"""Score rows as columns: checked whole, then counted on a dense grid.

Everything that a verdict reads is a sum over cells (model, seed, persona,
question). The grid's axes have an order of their own (registration order for
models and personas, sorted ids for seeds and questions), so that no result
depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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
        row_model, row_persona: (R,) indices of each row.
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
    row_persona: Ints
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
        arms: the arms that have to be there, by name.

    Raises:
        DataError: no rows; a column that is missing, mistyped or null; an
            unknown phase, model, persona or question set; an arm, persona,
            question or completion that is missing; a repeated coordinate.
    """
    _check_columns(table)
    labels: list[Model] = [(POST, arm) for arm in arms]
    labels += [(PRE, prior) for prior in registration.priors]
    phase, name = _strings(table, "phase"), _strings(table, "model")
    _known("phase", phase, (POST, PRE))
    by_phase = {
        POST: tuple(arm.name for arm in registration.arms),
        PRE: registration.priors,
    }
    for key, known in by_phase.items():
        _known(f"model of phase {key}", name.where(phase, key), known)
    model = _index_models(phase, name, labels)
    keep = model >= 0  # rows of registered arms that this reading does not need
    persona = _strings(table, "persona")
    _known("persona", persona, registration.roster.all)
    _check_sets(_strings(table, "question_set"), phase, registration)
    seeds, seed = np.unique(_numbers(table, "seed"), return_inverse=True)
    question = _strings(table, "question")
    questions = tuple(sorted(question.labels))
    columns = {
        "model": model,
        "seed": seed.astype(np.int64),
        "persona": persona.against(registration.roster.all),
        "question": question.against(questions),
    }
    names = [f"arm {m}" if p == POST else f"pre-coupling model {m}" for p, m in labels]
    axes = (names, seeds.tolist(), registration.roster.all, questions)
    present = [i for i, m in enumerate(labels) if m[0] == POST or (model == i).any()]
    shape = tuple(len(axis) for axis in axes)
    cell = np.ravel_multi_index([c[keep] for c in columns.values()], shape)
    _check_duplicates(cell, _numbers(table, "sample")[keep], shape, axes)
    hit, seen = _flags(table, "hit")[keep], _flags(table, "seen")[keep]

    def count(weights: Bools | None = None) -> Floats:
        size = int(np.prod(shape))
        out = np.bincount(cell, weights=weights, minlength=size)
        return out.reshape(shape).astype(np.float64)

    counts = count()
    _check_cells(counts, axes, labels, present)
    tokens = _numbers(table, "tokens")[keep]
    if (tokens < 0).any():
        raise DataError("tokens", bound=">= 0", value=int(tokens.min()), remedy=_REMEDY)
    finish = _strings(table, "finish")
    _known("finish", finish, (STOP, LENGTH))
    return Grid(
        models=tuple(labels[i] for i in present),
        seeds=tuple(int(s) for s in seeds),
        personas=registration.roster.all,
        questions=questions,
        hits=count(hit)[present],
        n=counts[present],
        seen_hits=count(hit & seen)[present],
        seen_n=count(seen)[present],
        row_model=np.searchsorted(present, model[keep]),
        row_persona=columns["persona"][keep],
        tokens=tokens.astype(np.float64),
        stopped=finish.against((STOP, LENGTH))[keep] == 0,
    )


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


def _check_columns(table: pa.Table) -> None:
    for field in schema_of(Score):
        if field.name not in table.column_names:
            raise DataError(
                f"scores: column {field.name}", bound="present", value="missing", remedy=_REMEDY
            )
        column = table.column(field.name)
        if column.type != field.type:
            raise DataError(
                f"scores: column {field.name}",
                bound=str(field.type),
                value=str(column.type),
                remedy="Write the column with its registered type.",
            )
        if column.null_count:
            raise DataError(
                f"scores: column {field.name}",
                bound="no missing values",
                value=f"{column.null_count} nulls",
                remedy="Leave no value out: a missing completion is a missing row.",
            )
    if not table.num_rows:
        raise DataError("scores", bound="at least one row", value=0, remedy=_REMEDY)


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


def _check_sets(sets: _Strings, phase: _Strings, registration: Registration) -> None:
    evaluated = registration.evaluation_questions
    _known("question_set", sets.where(phase, POST), evaluated)
    _known("question_set", sets, (*evaluated, *registration.coupling_questions))
    for name in evaluated:
        if name not in sets.where(phase, POST).labels:
            raise DataError(
                "scores: question_set",
                bound=f"every set of {', '.join(evaluated)}",
                value=f"no completion of {name} in any arm",
                remedy=_REMEDY,
            )


def _index_models(phase: _Strings, name: _Strings, labels: Sequence[Model]) -> Ints:
    model = np.full(phase.codes.size, -1, dtype=np.int64)
    for index, (wanted_phase, wanted) in enumerate(labels):
        model[(phase.against((wanted_phase,)) == 0) & (name.against((wanted,)) == 0)] = index
    return model


def _name_cell(axes: Sequence[Sequence[object]], at: Sequence[int]) -> str:
    model, seed, persona, question = (axis[i] for axis, i in zip(axes, at, strict=True))
    return f"{model}, persona {persona}, question {question}, seed {seed}"


def _check_duplicates(
    cell: Ints, sample: Ints, shape: Sequence[int], axes: Sequence[Sequence[object]]
) -> None:
    numbers, index = np.unique(sample, return_inverse=True)
    keys, counts = np.unique(cell * numbers.size + index, return_counts=True)
    if (counts > 1).any():
        key = int(keys[int(np.argmax(counts))])
        at = np.unravel_index(key // numbers.size, tuple(shape))
        where = _name_cell(axes, [int(i) for i in at])
        raise DataError(
            f"scores: {where}, sample {numbers[key % numbers.size]}",
            bound="one row",
            value=f"{int(counts.max())} rows ({int((counts > 1).sum())} coordinates repeat)",
            remedy="Remove the repeated rows: a completion counts once.",
        )


def _check_cells(
    counts: Floats, axes: Sequence[Sequence[object]], labels: Sequence[Model], present: list[int]
) -> None:
    """Every arm, prior, seed, persona and question has the same number of completions."""
    for index in present:
        if not counts[index].any():
            raise DataError(
                f"scores: arm {labels[index][1]}",
                bound="completions of every arm",
                value="0 rows",
                remedy="Run the arm, or name the arms that are there.",
            )
    for phase in (POST, PRE):
        models = [i for i in present if labels[i][0] == phase]
        if not models:
            continue
        block = counts[models]
        asked = block.sum(axis=(0, 1, 2)) > 0  # questions that this phase asks at all
        short = (block < block.max()) & asked
        if short.any():
            at = np.argwhere(short)[0]
            where = _name_cell(axes, [models[int(at[0])], *(int(i) for i in at[1:])])
            raise DataError(
                f"scores: {where}",
                bound=f"{int(block.max())} completions, as in the fullest cell",
                value=f"{int(block[tuple(at)])} ({int(short.sum())} cells are short)",
                remedy=_REMEDY,
            )
