"""The loader of a user's CSV, JSON lines or Parquet: records or counts of other software.

docs/usage.md has the format of records, docs/extending.md that of counts. A cell that cannot
be read is an error that names column, row and value; what a file does not have is left out
and never guessed.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from persona_lib.errors import DataError, clean
from persona_lib.evidence.bounded import MOST_ROW_BYTES, MOST_ROWS, at_most, check_size
from persona_lib.evidence.score_table import (
    COUNTS,
    check_markers,
    check_slots,
    in_rows,
    known_only,
    strangers,
    strings,
)
from persona_lib.evidence.user_cells import FINISHED_READER, read_cells, reader_of
from persona_lib.evidence.user_formats import (
    ARM,
    FINISHED,
    from_csv,
    from_jsonl,
    from_parquet,
    layout_of,
)
from persona_lib.records import POST, PRE
from persona_lib.specs.registration import Registration

PARQUET, CSV, JSONL = "parquet", "csv", "jsonl"
SUFFIXES = {
    ".parquet": PARQUET,
    ".csv": CSV,
    ".csv.gz": CSV,
    ".jsonl": JSONL,
    ".jsonl.gz": JSONL,
    ".ndjson": JSONL,
    ".ndjson.gz": JSONL,
}
"""What a file of records may be called, and what is in it."""
Extra = Literal["refuse", "ignore"]
"""What becomes of rows of arms, priors and personas that the registration does not name."""
_MOST_NAMED = 8
_OFFER = (
    'With extra = "ignore" under [evidence] of an experiment file, rows of others are left out.'
)
_BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, csv.Error, zlib.error)
_WHAT = {
    PARQUET: ("Parquet", "Write the file again"),
    CSV: (
        "CSV with a header, in UTF-8",
        "Give every row as many cells as the header has, with commas between them, and at most "
        f"{MOST_ROW_BYTES:,} bytes",
    ),
    JSONL: ("JSON lines, in UTF-8", "Give one object a row"),
}


@dataclass(frozen=True, eq=False)
class ForeignSet:
    """Records or counts of other software.

    Attributes:
        table: columns of `score_table.ROWS`, of the nullable ones those that the file has; or
            those of `COUNTS`, perhaps without ``seed``.
        origin: where they come from, and what was left out, in words.
        left_out: arms, priors and personas whose rows were left out.
    """

    table: pa.Table
    origin: str
    left_out: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """Whether a row is a count of completions."""
        return layout_of(self.table.column_names) is COUNTS


def is_foreign(path: Path) -> bool:
    """Return whether a path names a file of records, and not a folder of stored evidence."""
    return not path.is_dir() and (path.exists() or _format(path) is not None)


def check_file(path: Path) -> str:
    """Return what a file of records is in: one of the values of `SUFFIXES`.

    Raises:
        DataError: it is no plain file, is too large, or its suffix is not a known one.
    """
    check_size(path)
    kind = _format(path)
    if kind is None:
        raise DataError(
            f"{path.name}: suffix",
            bound=f"one of {', '.join(SUFFIXES)}",
            value=path.suffix,
            remedy="Name the file by what is in it, or point --stored at a folder of evidence.",
        )
    return kind


def load_foreign(
    paths: Sequence[Path], registration: Registration, *, extra: Extra = "refuse"
) -> ForeignSet:
    """Read files of other software, as one record set in any order.

    Args:
        paths: files with the same columns; suffixes say what they are (`SUFFIXES`).
        registration: names arms, priors and personas; gives ``question_set`` where there is
            no such column.
        extra: what becomes of rows of others.

    Raises:
        DataError: a file is none of its kind, or exceeds a bound of
            `persona_lib.evidence.bounded`; no rows; a column is missing, named twice or
            not in every file; a cell cannot be what its column holds; readings of a slot are
            not whole; or an arm, prior or persona is none of the registration's.
    """
    found = sorted((_load(path, registration) for path in paths), key=lambda one: one[0])
    origins, tables = zip(*found, strict=True)
    for origin, table in found:
        differ = sorted({*table.column_names} ^ {*tables[0].column_names})
        if differ:
            raise DataError(
                f"{origin.split(' (SHA')[0]}: columns",
                bound=f"those of {origins[0].split(' (SHA')[0]}",
                value=f"{', '.join(differ)} in one of them alone",
                remedy="Give every file the same columns, or judge them apart.",
            )
    table = pa.concat_tables(tables)
    at_most("--stored: rows", table.num_rows, MOST_ROWS, "rows")
    table, left_out, words = _registered(table, registration, extra)
    nobody = "nothing says under which rules these data were recorded"
    return ForeignSet(table, clean(f"{', '.join(origins)}; {words}{nobody}"), left_out)


def _registered(
    table: pa.Table, registration: Registration, extra: Extra
) -> tuple[pa.Table, tuple[str, ...], str]:
    """Return the rows whose names the registration has; the names of the others; words on these."""
    phase, model, persona = (strings(table, name) for name in ("phase", "model", "persona"))
    arms = tuple(arm.name for arm in registration.arms)
    known, odd = persona.against(registration.roster.all) >= 0, dict[str, dict[str, int]]()
    for kind, column, names in (
        ("arm", model.where(phase, POST), arms),
        ("pre-coupling model", model.where(phase, PRE), registration.priors),
        ("persona", persona, registration.roster.all),
    ):
        odd[kind] = strangers(column, names)
        if extra == "refuse":
            known_only(kind, column, names, _OFFER)
    for key, names in ((POST, arms), (PRE, registration.priors)):
        known &= (phase.against((key,)) < 0) | (model.against(names) >= 0)
    rows = f"{table.num_rows - int(known.sum()):,} of {table.num_rows:,} rows were left out"
    named = "; ".join(f"{kind} {in_rows(counts)}" for kind, counts in odd.items() if counts)
    words = f"{rows}, as the registration does not name them: {named}; " if named else ""
    left_out = tuple(name for counts in odd.values() for name in counts)
    return table.filter(pa.array(known)), left_out, words


def _load(path: Path, registration: Registration) -> tuple[str, pa.Table]:
    """Return where the rows of a file come from, and the rows by our names and types."""
    kind = check_file(path)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not path.stat().st_size:
            raise pa.ArrowInvalid("the file is empty")
        read = {PARQUET: from_parquet, CSV: from_csv, JSONL: from_jsonl}[kind]
        raw, unread = read(path)
    except DataError:
        raise
    except _BROKEN as error:
        what, hint = _WHAT[kind]
        raise DataError(
            path.name,
            bound=f"a file of {what}, as its suffix says",
            value=str(error),
            remedy=f"{hint}, or give the file the suffix of what it is.",
        ) from error
    if not raw.num_rows:
        raise DataError(path.name, bound="at least one row", value=0, remedy="Record the set.")
    table = _normalised(raw, registration, path.name)
    if "hit" in table.column_names:
        check_markers(table, path.name)
        check_slots(table, path.name)
    more = f" and {len(unread) - _MOST_NAMED} more" if len(unread) > _MOST_NAMED else ""
    shown = ", ".join(name or "(no name)" for name in unread[:_MOST_NAMED])
    names = f"; columns not read: {shown}{more}" if unread else ""
    return clean(f"{path.name} (SHA-256 {digest[:12]}{names})"), table


def _format(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _normalised(raw: pa.Table, registration: Registration, where: str) -> pa.Table:
    """Return the columns by our names and with our types."""
    columns, layout = {}, layout_of(raw.column_names)
    for column in layout:
        reader, given = reader_of(column), column.name
        if column.name == "model" and ARM in raw.column_names:
            given = ARM
        elif column.name == "finish" and FINISHED in raw.column_names:
            given, reader = FINISHED, FINISHED_READER
        if given in raw.column_names:
            columns[column.name] = read_cells(
                f"{where}: column {given}", raw.column(given).combine_chunks(), reader, column
            )
        elif not column.nullable and column.name != "seed":
            default = POST if column.name == "phase" else _only_set(registration, where)
            columns[column.name] = pa.repeat(pa.scalar(default, column.type), raw.num_rows)
    return pa.table(columns)


def _only_set(registration: Registration, where: str) -> str:
    """Return the question set that rows belong to where they do not say."""
    sets = registration.evaluation_questions
    if len(sets) > 1:
        raise DataError(
            f"{where}: column question_set",
            bound=f"one of {', '.join(sets)} in every row",
            value="no such column",
            remedy=f"{registration.name} evaluates on several sets: say which one each row is of.",
        )
    return sets[0]
