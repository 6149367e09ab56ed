"""The columns of a score table: which are needed, and how each is read.

Text is read as labels and codes: names are checked once each, not once a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from persona_lib.checks import checked, did_you_mean, near
from persona_lib.errors import DataError
from persona_lib.records import LENGTH, PLACE, STOP, Score, schema_of

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

OPTIONAL = ("seen", "tokens", "finish", "markers", "first_token")
"""Columns that only some statistics need."""
COLUMNS = pa.schema(
    [
        schema_of(Score).field(name).with_nullable(name in OPTIONAL)
        for name in (*PLACE, "hit", *OPTIONAL)
    ]
)
"""Columns of a score table, as `persona_lib.records.Score` describes them."""

COUNTS = pa.schema(
    [
        *(COLUMNS.field(name) for name in ("phase", "model", "seed", "persona")),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("hits", "n")),
    ]
)
"""Columns of a table of counts, one row for each model, seed and persona."""

REMEDY = "Record the set again, or leave the unfinished run out."
"""What to do about a set that is not whole."""
_OTHER_RULES = "Judge these records under the registration that they were made for."
_MOST_NAMED = 8


def incomplete(table: pa.Table) -> dict[str, int]:
    """Return the empty cells of each optional column that has some."""
    counts = {
        name: table.column(name).null_count for name in OPTIONAL if name in table.column_names
    }
    return {name: count for name, count in counts.items() if count}


def columns_of(table: pa.Table) -> pa.Table:
    """Return the columns that are read: all that are required, and the optional ones there are."""
    read = [c for c in COLUMNS if not c.nullable or c.name in table.column_names]
    return checked(table, pa.schema(read), "scores")


@dataclass(frozen=True)
class Strings:
    """A dictionary-encoded column: labels that occur, and a code for each row."""

    labels: tuple[str, ...]
    codes: Ints

    def against(self, known: Sequence[str]) -> Ints:
        """Return (R,) positions in `known`; -1 for a label that is not in it."""
        position = {label: i for i, label in enumerate(known)}
        lookup = np.array([position.get(label, -1) for label in self.labels], dtype=np.int64)
        return lookup[self.codes]

    def where(self, other: Strings, label: str) -> Strings:
        """Return the rows in which `other` has this label."""
        codes = self.codes[other.against((label,)) == 0]
        used, renumbered = np.unique(codes, return_inverse=True)
        return Strings(tuple(self.labels[i] for i in used), renumbered.astype(np.int64))


def strings(table: pa.Table, name: str) -> Strings:
    """Return a text column without nulls as labels and codes."""
    encoded = pc.dictionary_encode(table.column(name).combine_chunks())
    labels = tuple(encoded.dictionary.to_pylist())
    return Strings(labels, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64))


def numbers(table: pa.Table, name: str) -> Ints:
    """Return a column of whole numbers."""
    values: Ints = table.column(name).to_numpy().astype(np.int64)
    return values


def flags(table: pa.Table, name: str) -> Bools:
    """Return a column of truth values."""
    values: Bools = table.column(name).to_numpy().astype(np.bool_)
    return values


def strangers(column: Strings, known: Collection[str]) -> dict[str, int]:
    """Return each label that is not a known one, with its number of rows."""
    counts = np.bincount(column.codes, minlength=len(column.labels))
    rows = zip(column.labels, counts, strict=True)
    return {label: int(count) for label, count in rows if label not in known}


def in_rows(counts: Mapping[str, int]) -> str:
    """Return names with their rows in words: ``confab in 400 rows, pirate in 20 rows``."""
    named = [f"{name} in {count:,} rows" for name, count in [*counts.items()][:_MOST_NAMED]]
    more = len(counts) - len(named)
    return ", ".join([*named, *([f"{more:,} more"] if more > 0 else [])])


def known_only(
    field: str, column: Strings, known: Sequence[str], remedy: str = _OTHER_RULES
) -> None:
    """Raise DataError where labels are not known ones; it names them and offers near ones."""
    if odd := strangers(column, known):
        offered = "".join(did_you_mean(label, known) for label in [*odd][:_MOST_NAMED])
        raise DataError(
            f"scores: {field}",
            bound=f"one of {', '.join(known)}",
            value=in_rows(odd),
            remedy=offered + remedy,
        )


def misspelt(name: str, left_out: Sequence[str]) -> str:
    """Return a sentence, and a space, where a name that was left out may be meant."""
    found = near(name, left_out, 1)
    return f"The rows of {found[0]} were left out: did they mean it? " if found else ""


def bounded(table: pa.Table, name: str, least: int) -> Ints | None:
    """Return (R,) whole numbers, None without such a column.

    Raises:
        DataError: a number below `least`.
    """
    if name not in table.column_names:
        return None
    values = numbers(table, name)
    if (values < least).any():
        raise DataError(name, bound=f">= {least}", value=int(values.min()), remedy=REMEDY)
    return values


def finish(table: pa.Table) -> Bools | None:
    """Return (R,) whether each row finished by itself, None without a column ``finish``.

    Raises:
        DataError: a finish reason that is neither of the two.
    """
    if "finish" not in table.column_names:
        return None
    finish = strings(table, "finish")
    known_only("finish", finish, (STOP, LENGTH))
    by_itself: Bools = finish.against((STOP, LENGTH)) == 0
    return by_itself


def check_markers(table: pa.Table, where: str) -> None:
    """A row is a hit exactly where it has a marker, and then the marker is somewhere."""
    for name, least in (("markers", 1), ("first_token", 0)):
        if name not in table.column_names:
            continue
        column = table.column(name).combine_chunks()
        marked = pc.greater_equal(column, least)
        wrong = pc.fill_null(pc.xor(marked, table.column("hit").combine_chunks()), False)
        if wrong.true_count:
            at = pc.index(wrong, True).as_py()
            hit = "true" if table.column("hit")[at].as_py() else "false"
            raise DataError(
                f"{where}: column {name}, row {at + 1}",
                bound=f"{'>=' if hit == 'true' else '<'} {least}, since hit is {hit}",
                value=column[at].as_py(),
                remedy="Count markers whatever their case: a completion with one is a hit.",
            )
