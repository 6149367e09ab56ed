"""The loader of a user's CSV, JSON lines or Parquet: record sets that other software wrote.

docs/usage.md has the format. A cell that cannot be read is an error that names
column, row and value; what a file does not have is left out and never guessed.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from persona_lib.errors import DataError, clean
from persona_lib.evidence.bounded import MOST_ROW_BYTES, MOST_ROWS, at_most, check_size
from persona_lib.evidence.score_table import COLUMNS, check_markers
from persona_lib.evidence.user_cells import FINISHED_READER, read_cells, reader_of
from persona_lib.evidence.user_formats import ARM, FINISHED, from_csv, from_jsonl, from_parquet
from persona_lib.records import POST
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
_MOST_NAMED = 8
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
    """Records of other software, and where they come from in words.

    The table has the columns of `score_table.COLUMNS`; of the `OPTIONAL` ones those that the
    file has, and only they hold nulls.
    """

    table: pa.Table
    origin: str


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


def load_foreign(paths: Sequence[Path], registration: Registration) -> ForeignSet:
    """Read files of other software, as one record set in any order.

    Args:
        paths: files with the same columns; suffixes say what they are (`SUFFIXES`).
        registration: gives ``question_set`` where there is no such column.

    Raises:
        DataError: a file is none of its kind, or exceeds a bound of
            `persona_lib.evidence.bounded`; no rows; a column is missing, named twice or
            not in every file; a cell cannot be what its column holds.
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
    nobody = "nothing says under which rules these data were recorded"
    return ForeignSet(table, f"{', '.join(origins)}; {nobody}")


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
    check_markers(table, path.name)
    more = f" and {len(unread) - _MOST_NAMED} more" if len(unread) > _MOST_NAMED else ""
    shown = ", ".join(name or "(no name)" for name in unread[:_MOST_NAMED])
    names = f"; columns not read: {shown}{more}" if unread else ""
    return clean(f"{path.name} (SHA-256 {digest[:12]}{names})"), table


def _format(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _normalised(raw: pa.Table, registration: Registration, where: str) -> pa.Table:
    """Return the columns by our names and with our types."""
    columns = {}
    for column in COLUMNS:
        reader, given = reader_of(column), column.name
        if column.name == "model" and ARM in raw.column_names:
            given = ARM
        elif column.name == "finish" and FINISHED in raw.column_names:
            given, reader = FINISHED, FINISHED_READER
        if given in raw.column_names:
            columns[column.name] = read_cells(
                f"{where}: column {given}", raw.column(given).combine_chunks(), reader, column
            )
        elif not column.nullable:
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
