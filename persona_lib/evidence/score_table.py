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
from persona_lib.records import LENGTH, PLACE, POST, PRE, STOP, Score, schema_of

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

LOGITS = ("marker_after", "end_after", "marker_before", "end_before")
"""Readings of a slot that gains need."""
PROBABILITIES = ("log_z_after", "rest_after", "log_z_before", "rest_before")
"""Readings that turn a logit of the marker into its probability."""
ROWS = pa.schema([*COLUMNS, *(pa.field(name, pa.float64()) for name in (*LOGITS, *PROBABILITIES))])
"""Columns of a file of other software: those of a score table, and perhaps readings of the slot
of each completion, as `persona_lib.records.SlotReading` describes them; null without a slot."""

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


_MOST_LOG_P = 0.1
"""Nats by which log P of a marker may lie above 0: logits of 8 bits are rounded by as much."""


def check_slots(table: pa.Table, where: str) -> None:
    """Check the readings of slots in `ROWS`, of which each row has all or none.

    Raises:
        DataError: a column without the others of its group; a row with some readings of a
            group, or with one where there can be no slot; or P(marker) above 1.
    """
    names = [name for name in (*LOGITS, *PROBABILITIES) if name in table.column_names]
    for group in (LOGITS, PROBABILITIES):
        lacking = [name for name in group if name not in names]
        if lacking and (group is LOGITS or len(lacking) < len(group)) and names:
            beside = next((name for name in group if name in names), names[0])
            raise DataError(
                f"{where}: columns",
                bound=f"{', '.join(group)}, all of them or none",
                value=f"no {', '.join(lacking)} beside {beside}",
                remedy="Give every reading of the slot, or leave these columns out.",
            )
    if not names:
        return
    filled = {name: np.asarray(table.column(name).is_valid()) for name in names}

    def refuse(name: str, wrong: Bools, bound: str, remedy: str) -> None:
        if wrong.any():
            at = int(np.argmax(wrong))
            cell = table.column(name)[at].as_py()
            value = "an empty cell" if cell is None else cell
            raise DataError(
                f"{where}: column {name}, row {at + 1}", bound=bound, value=value, remedy=remedy
            )

    slot = np.any([filled[name] for name in names], axis=0)
    for name in LOGITS:
        bound = "a number, as the row has other readings of its slot"
        refuse(name, slot & ~filled[name], bound, "Fill them all, or none of them.")
    for name in names[len(LOGITS) :]:
        others = np.any([filled[other] for other in PROBABILITIES], axis=0)
        bound = f"a number, as the row has some of {', '.join(PROBABILITIES)}"
        refuse(name, others & ~filled[name], bound, "Fill all four, or none of them.")
    before = strings(table, "phase").against((PRE,)) == 0
    remedy = "Give readings before coupling beside those after it, in the rows of the arm."
    refuse(LOGITS[0], slot & before, "an empty cell, since phase is pre", remedy)
    if "finish" in table.column_names:
        cut = np.asarray(pc.fill_null(pc.equal(table.column("finish"), LENGTH), False))
        remedy = "Leave it empty: an unfinished completion has no end to read at."
        refuse(LOGITS[0], slot & cut, "an empty cell, since finish is length", remedy)
    for when in ("after", "before") if PROBABILITIES[0] in names else ():
        marker, log_z, rest = (table.column(f"{x}_{when}") for x in ("marker", "log_z", "rest"))
        log_p = pc.fill_null(pc.add(pc.subtract(marker, log_z), rest), -np.inf)
        bound = f"such that marker_{when} - log_z_{when} + rest_{when}, a log P, is at most 0"
        remedy = "Give log Z over all tokens, and the log P of the marker's other tokens."
        refuse(f"log_z_{when}", np.asarray(log_p) > _MOST_LOG_P, bound, remedy)


def slots_of(table: pa.Table) -> pa.Table | None:
    """Return the slots of a table of `ROWS`, one row each; None without such columns.

    Returns:
        the columns of `persona_lib.records.SlotReading` besides ``tokens`` and ``marked``;
        `PROBABILITIES` are NaN where they were not given.
    """
    if LOGITS[0] not in table.column_names:
        return None
    rows = table.filter(pc.is_valid(table.column(LOGITS[0])))
    columns = {name: rows.column(name) for name in (*PLACE, *LOGITS)}
    columns |= {"author": rows.column("persona"), "pool": pa.repeat(False, rows.num_rows)}
    nothing = pa.repeat(pa.scalar(np.nan, pa.float64()), rows.num_rows)
    for name in PROBABILITIES:
        given = name in rows.column_names
        columns[name] = pc.fill_null(rows.column(name), np.nan) if given else nothing
    return pa.table(columns)


def without_slot(table: pa.Table) -> dict[str, tuple[int, int]]:
    """Return, by arm of a table of `ROWS`, how many completions have no slot, and of how many."""
    of = table.filter(pc.field("phase") == POST)
    counts = of.group_by("model", use_threads=False).aggregate(
        [(LOGITS[0], "count", pc.CountOptions(mode="only_null")), ([], "count_all")]
    )
    return {
        row["model"]: (row[f"{LOGITS[0]}_count"], row["count_all"]) for row in counts.to_pylist()
    }
