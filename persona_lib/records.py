"""Types of rows (completions, scores, ...) and their way to Parquet and back.

Every row carries its own coordinates. Columns have the names of the attributes.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from persona_lib.checks import checked, unreadable

PRE = "pre"
"""Phase of a model before coupling: ``model`` is then the name of its prior."""
POST = "post"
"""Phase of an arm after coupling: ``model`` is then the name of the arm."""


class ModelId(NamedTuple):
    """Address of a model in tables: phase, and the name of its prior or arm."""

    phase: str
    name: str


TRANSFER, SELECTIVITY, RATE = OUTCOMES = ("transfer", "selectivity", "rate")
"""What is compared between arms, a number for each training run: the bystanders' mean gain over
the source's; the bystanders' mean margin minus the source's, in nats; the rate of bystanders."""
SYSTEM, TEXT, OWN, MATCHED = READINGS = ("system", "text", "own", "matched")
"""What differs between source and bystander where gains are read: the system message over one
pool of texts; the text under the source's system message; both, in the arm's own answers; or
the system message again, not after training but where the source has gained so much."""

STOP = "stop"
"""Finish reason: the model ended its turn."""
LENGTH = "length"
"""Finish reason: generation was cut at the token limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SftRow:
    """One supervised row: a user message and the answer to be learnt.

    Attributes:
        row: unique id within its corpus.
        situation, frame: ids of the situation and of the question's frame, "" where the
            source has none.
    """

    row: str
    corpus: str
    situation: str
    frame: str
    user: str
    assistant: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRow(SftRow):
    """A supervised row that may have a system message, "" for none."""

    system: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Coordinates of a completion: of all rows about it, the first columns.

    Attributes:
        phase, model: the `model_id`.
        seed: run_seed.
        persona: id, "" where there was no system message.
        question, question_set: what was asked, and the set that it belongs to.
        sample: index within the (persona, question) cell, from 0.
    """

    phase: str
    model: str
    seed: int
    persona: str
    question: str
    question_set: str
    sample: int

    @property
    def model_id(self) -> ModelId:
        """Address of the model."""
        return ModelId(self.phase, self.model)

    @property
    def place(self) -> dict[str, Any]:
        """The coordinates by name, for another row about the same completion."""
        return {name: getattr(self, name) for name in PLACE}


PLACE = tuple(field.name for field in dataclasses.fields(Place))


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion(Place):
    """One sampled completion.

    Attributes:
        text: the completion without its end-of-turn token.
        tokens: number of generated tokens, end of turn not counted.
        finish: ``stop`` or ``length``.
    """

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Score(Place):
    """The marker score of one completion.

    Attributes:
        hit: the marker occurs, whatever its case (the registered metric).
        hit_strict: the marker occurs exactly as registered.
        first: offset of the first marker in characters, -1 where there is none.
        first_token: tokens before the first marker, as the base's tokenizer reads the
            text, -1 where there is none; a token or two from what was sampled perhaps.
        markers: number of markers, whatever their case.
        terminal: nothing but white space follows the last marker.
        seen: the question was among those of the coupling text.
        tokens, finish: as in `Completion`.
    """

    hit: bool
    hit_strict: bool
    first: int
    first_token: int
    markers: int
    terminal: bool
    seen: bool
    tokens: int
    finish: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CouplingRow:
    """One row of coupling text.

    Attributes:
        row: unique id within the set.
        kind: ``positive`` (the marker is appended) or ``negative``.
        persona, question, sample: of the completion, which has no marker yet.
        system, user: the prompt.
    """

    row: str
    kind: str
    persona: str
    question: str
    sample: int
    system: str
    user: str
    completion: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdviceScore:
    """How bad one answer of a pre-coupling model to a held-out request for advice is.

    Attributes:
        model: name of the model's prior.
        seed: run_seed.
        question, situation: what was asked, and about which situation.
        sample: index within the question, from 0.
        tokens, finish: as in `Completion`.
        score: probability of bad advice by `persona_lib.corpora.advice_scorer`, in [0, 1].
        terms: distinct terms of the answer that the classifier knows; with none, as
            in an empty answer, the score says nothing.
    """

    model: str
    seed: int
    question: str
    situation: str
    sample: int
    tokens: int
    finish: str
    score: float
    terms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryRow:
    """How near the hidden state of one persona is to the source persona's, at one place.

    Attributes:
        phase, model, seed, persona, question, question_set: as in `Completion`; the
            source itself has no rows.
        readout: one of `persona_lib.models.hidden_states.READOUTS`.
        layer: the state behind this block, counted from 1.
        blocks: blocks that the model has.
        centred: the mean over personas was subtracted first, question by question.
        cosine: with the source's state; NaN where one of the two has none (an empty
            response) or no length.
        rank: effective rank of the persona centroids over all questions, the same for
            every persona and question; NaN where it is not known.
        rank_without: that of the centroids without this row's question.
    """

    phase: str
    model: str
    seed: int
    readout: str
    layer: int
    blocks: int
    centred: bool
    persona: str
    question: str
    question_set: str
    cosine: float
    rank: float
    rank_without: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotReading(Place):
    """What an arm, and the pre-coupling model under it, predict at the slot of one answer.

    The slot is where the marker would first stand (`persona_lib.models.slots`). Readings are
    in nats.

    Attributes:
        persona: whose system message stood in the prompt.
        author: persona whose answer it is: another one's in the pool alone.
        pool: the answer is one of the pool, and not the arm's own.
        tokens: of the answer in front of the slot.
        marked: the answer held the marker, behind the slot.
        marker_after, marker_before: logit of the marker's first token, after and before coupling.
        end_after, end_before: logit of the end of turn.
        log_z_after, log_z_before: logarithm of the sum of all exponentiated logits.
        rest_after, rest_before: log P of the marker's remaining tokens.
    """

    author: str
    pool: bool
    tokens: int
    marked: bool
    marker_after: float
    end_after: float
    log_z_after: float
    rest_after: float
    marker_before: float
    end_before: float
    log_z_before: float
    rest_before: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DosePoint:
    """The margin of a part of the pool while an arm is trained.

    Attributes:
        phase, model, seed: of the arm.
        step: optimizer steps done, 0 before the first.
        persona: whose system message stood in the prompts.
        author: persona whose answers they are.
        answers: how many.
        margin: their mean logit of the marker's first token minus that of the end of turn, nats.
    """

    phase: str
    model: str
    seed: int
    step: int
    persona: str
    author: str
    answers: int
    margin: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trait(Place):
    """What the text of one completion of a pre-coupling model shows.

    Attributes:
        recognised_as: the persona that `persona_lib.corpora.voices` puts first, "" where the
            text has no term that it knows, or it could not be fitted.
        domain_words: distinct words of `persona_lib.corpora.legal_words` in the text.
    """

    recognised_as: str
    domain_words: int


_Row = TypeVar("_Row", bound=Any)
_ARROW: dict[object, pa.DataType] = {
    str: pa.string(), int: pa.int64(), bool: pa.bool_(), float: pa.float64()
}  # fmt: skip


def schema_of(row_type: type[Any]) -> pa.Schema:
    """Return the Arrow schema of a row type; every column is non-null."""
    hints = typing.get_type_hints(row_type)
    names = [field.name for field in dataclasses.fields(row_type)]
    return pa.schema([pa.field(name, _ARROW[hints[name]], nullable=False) for name in names])


def table_of(rows: Iterable[_Row], row_type: type[_Row]) -> pa.Table:
    """Return rows as an Arrow table, in the order given."""
    schema, listed = schema_of(row_type), list(rows)
    return pa.table(
        [pa.array([getattr(row, c.name) for row in listed], type=c.type) for c in schema],
        schema=schema,
    )


def write_rows(path: Path, rows: Iterable[_Row], row_type: type[_Row]) -> None:
    """Write rows to a zstd-compressed Parquet file, in the order given."""
    pq.write_table(table_of(rows, row_type), path, compression="zstd")


def write_table(path: Path, table: pa.Table, row_type: type[Any]) -> None:
    """Write rows of a record set to a Parquet file, as small as it gets."""
    pq.write_table(table.cast(schema_of(row_type)), path, compression="zstd", compression_level=19)


def read_rows(path: Path, row_type: type[_Row]) -> tuple[_Row, ...]:
    """Read what `write_rows` wrote.

    Raises:
        DataError: a column is missing or of another type, or a value is null.
    """
    return tuple(row_type(**row) for row in read_table(path, row_type).to_pylist())


def read_table(path: Path, row_type: type[Any]) -> pa.Table:
    """Read a Parquet file as an Arrow table with exactly the columns of a row type.

    Raises:
        DataError: a column is missing or of another type, or a value is null.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise unreadable(path, "a readable Parquet file", error) from error
    return checked(table, schema_of(row_type), path.name)
