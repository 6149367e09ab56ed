"""The loader of a user's CSV, JSON lines or Parquet: record sets that other software wrote.

docs/usage.md has the format. A cell that cannot be read is an error that names
column, row and value; what a file does not have is left out and never guessed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from persona_lib.checks import parse_json
from persona_lib.errors import DataError, clean
from persona_lib.evidence.bounded import (
    MOST_COLUMNS,
    MOST_ROW_BYTES,
    MOST_ROWS,
    Unpacked,
    at_most,
    check_columns,
    check_regular,
    open_parquet,
)
from persona_lib.evidence.score_table import COLUMNS
from persona_lib.evidence.user_cells import (
    FINISHED_READER,
    check_markers,
    read_cells,
    reader_of,
)
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
ARM, FINISHED = "arm", "finished"
"""Columns by other names: ``arm`` for ``model``, a truth value for ``finish``."""
MOST_NAME = 1_000
"""Characters of a name."""
MOST_DEPTH = 32
"""Depth of objects and lists within a row of JSON, in columns that are not read."""

_DEFAULTS = ("phase", "question_set")
"""Columns that every row needs and that a file may lack."""
_SPLIT = "Split the file by seed or arm."
_MOST_NAMED = 8
_BATCH_ROWS = 65_536
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
_Columns = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of the columns that are read, and of the others."""


@dataclass(frozen=True, eq=False)
class ForeignSet:
    """Records of other software.

    Attributes:
        table: one row a completion, with the columns of `score_table.COLUMNS`; of the
            `score_table.OPTIONAL` ones those that the file has, and only they hold nulls.
        origin: where the rows come from, in words.
    """

    table: pa.Table
    origin: str


def is_foreign(path: Path) -> bool:
    """Return whether a path names a file of records, and not a folder of stored evidence."""
    return not path.is_dir() and (path.exists() or _format(path) is not None)


def check_file(path: Path) -> str:
    """Return what a file of records is in: one of the values of `SUFFIXES`.

    Raises:
        DataError: it is no regular file, is too large, or its suffix is not a known one.
    """
    check_regular(path)
    kind = _format(path)
    if kind is None:
        raise DataError(
            f"{path.name}: suffix",
            bound=f"one of {', '.join(SUFFIXES)}",
            value=path.suffix,
            remedy="Name the file by what is in it, or point --stored at a folder of evidence.",
        )
    return kind


def load_foreign(paths: Path | Sequence[Path], registration: Registration) -> ForeignSet:
    """Read files that other software wrote, as one record set.

    Names are compared with the registration by `persona_lib.evidence.cells.build`.

    Args:
        paths: a file, or several with the same columns in any order; suffixes say what
            they are (`SUFFIXES`).
        registration: gives ``question_set`` where there is no such column.

    Raises:
        DataError: a file is none of its kind, or exceeds a bound of
            `persona_lib.evidence.bounded`; no rows; a column is missing or named twice, or
            not in every file; a cell is empty where it must not be, or cannot be what its
            column holds.
    """
    listed = [paths] if isinstance(paths, Path) else paths
    found = sorted((_load(path, registration) for path in listed), key=lambda one: one[0])
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
    at_most("--stored: rows", table.num_rows, MOST_ROWS, "rows", "Judge fewer files at once.")
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
        read = {PARQUET: _from_parquet, CSV: _from_csv, JSONL: _from_jsonl}[kind]
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
    names = f"; columns not read: {', '.join(unread[:_MOST_NAMED])}{more}" if unread else ""
    return clean(f"{path.name} (SHA-256 {digest[:12]}{names})"), table


def _format(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _from_parquet(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    file = open_parquet(path)
    schema = file.schema_arrow
    wanted, unread = _choose(schema.names, path.name)
    for name in wanted:
        kind = schema.field(name).type
        if not _is_cell(kind):
            raise DataError(
                f"{path.name}: column {name}",
                bound="text, numbers or truth values",
                value=str(kind),
                remedy="Give one value a cell, and write it as one of these.",
            )
    check_columns(file, wanted, path.name)
    texts = tuple(name for name in wanted if pa.types.is_string(schema.field(name).type))
    file = open_parquet(path, texts=texts)
    batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=list(wanted))
    return _collected(map(_table_of, batches), path.name), unread


def _is_cell(kind: pa.DataType) -> bool:
    """Whether a column of this type holds one text, number or truth value a cell."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_integer, types.is_floating)
    return any(test(kind) for test in (*tests, types.is_boolean, types.is_null))


def _from_csv(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    """Cells are kept as text: what they may hold is decided by the column, not by its look."""
    with io.BufferedReader(Unpacked(path)) as start:
        head = start.read(MOST_ROW_BYTES).decode("utf-8-sig", errors="replace")
    names: list[str] = next(filter(None, csv.reader(io.StringIO(head, newline=""))), [])
    wanted, unread = _choose(names, path.name)
    with (
        Unpacked(path) as file,
        arrow_csv.open_csv(
            file,
            read_options=arrow_csv.ReadOptions(block_size=MOST_ROW_BYTES),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.dictionary(pa.int32(), pa.string())),
                include_columns=list(wanted),
                null_values=[""],
                strings_can_be_null=True,
            ),
        ) as batches,
    ):
        return _collected(map(_table_of, batches), path.name), unread


def _from_jsonl(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    lines, names = 0, dict[str, None]()
    with Unpacked(path) as file:  # counted first: that is quick, and parsing is not
        while block := file.read(2**20):
            lines += block.count(b"\n")
            at_most(f"{path.name}: rows", lines, MOST_ROWS, "rows", _SPLIT)

    def objects() -> Iterator[dict[str, Any]]:
        with io.BufferedReader(Unpacked(path), 2**20) as file:
            row = 0
            while line := file.readline(MOST_ROW_BYTES + 1):
                if not line.isspace():
                    row += 1
                    found = _object(line, path.name, row)
                    if row == 1:
                        _choose(tuple(found), path.name)  # what it lacks no later row can give
                    if not found.keys() <= names.keys():
                        names.update(dict.fromkeys(found))
                        what = f"{path.name}: columns"
                        at_most(what, len(names), MOST_COLUMNS, "columns", "Leave some out.")
                    yield found

    known = (*COLUMNS.names, ARM, FINISHED)

    def tables() -> Iterator[pa.Table]:
        rows: list[tuple[Any, ...]] = []
        for found in objects():
            rows.append(tuple(map(found.get, known)))
            if len(rows) == _BATCH_ROWS:
                yield _arrays(rows, known, path.name)
                rows = []
        yield _arrays(rows, known, path.name)

    table = _collected(tables(), path.name)
    wanted, unread = _choose(tuple(names), path.name)
    return table.select(list(wanted)), unread


def _object(line: bytes, where: str, row: int) -> dict[str, Any]:
    """Return the object of a row of JSON lines; a name in it is given once."""
    if len(line) > MOST_ROW_BYTES:
        remedy = "Give one object a row, without what is not a score."
        at_most(f"{where}: size of row {row}", len(line), MOST_ROW_BYTES, "bytes", remedy)
    if line.count(b"[") + line.count(b"{") > MOST_DEPTH:
        parse_json(line, most_depth=MOST_DEPTH)
    found = _DECODER.decode(line.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"row {row} is no object")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def _arrays(rows: Sequence[tuple[Any, ...]], names: Sequence[str], where: str) -> pa.Table:
    """Return rows as columns; a column has values of one kind."""
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    made = {}
    for name, cells in zip(names, columns, strict=True):
        try:
            made[name] = pa.array(cells)
        except (pa.ArrowException, OverflowError) as error:
            raise _mixed(where, name, str(error)) from error
    return pa.table(made)


def _mixed(where: str, name: str, value: str) -> DataError:
    return DataError(
        f"{where}: column {name}",
        bound="values of one kind in every row",
        value=value,
        remedy="Write the column as text, as numbers or as truth values, in all rows alike.",
    )


def _table_of(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def _collected(tables: Iterable[pa.Table], where: str) -> pa.Table:
    """Return the rows of all tables, with names and their number bounded as they come."""
    rows, kept = 0, []
    for table in tables:
        rows += table.num_rows
        at_most(f"{where}: rows", rows, MOST_ROWS, "rows", _SPLIT)
        for name in table.column_names:
            _check_names(table.column(name), f"{where}: column {name}")
        kept.append(table)
    if not kept:
        return pa.table({})
    kinds = {name: {t.schema.field(name).type for t in kept} for name in kept[0].column_names}
    for name, found in kinds.items():
        found.discard(pa.null())
        if len(found) > 1 and found != {pa.int64(), pa.float64()}:
            raise _mixed(where, name, " and ".join(sorted(map(str, found))))
    schema = pa.schema(
        [
            (name, pa.float64() if len(found) > 1 else next(iter(found), pa.null()))
            for name, found in kinds.items()
        ]
    )
    return pa.concat_tables([table.cast(schema) for table in kept]).unify_dictionaries()


def _check_names(cells: pa.ChunkedArray, field: str) -> None:
    """Raise DataError where a text is longer than `MOST_NAME`."""
    for chunk in cells.chunks:
        texts = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
            longest = pc.max(pc.binary_length(texts)).as_py() or 0
            at_most(field, longest, MOST_NAME, "bytes a cell", "Name things by short ids.")


def _choose(names: Sequence[str], where: str) -> _Columns:
    """Return the columns that are read, and those that are not, in the file's order."""
    remedy = "Leave out columns that are not read."
    at_most(f"{where}: columns", len(names), MOST_COLUMNS, "columns", remedy)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{where}: columns", bound="distinct names", value=twice[0],
            remedy="Name each column once.",
        )  # fmt: skip
    known = {*COLUMNS.names, ARM, FINISHED}
    if ARM in names:
        known.discard("model")  # beside an arm it names something else, the base model perhaps
    missing = [
        ARM if column.name == "model" else column.name
        for column in COLUMNS
        if not column.nullable and column.name not in (*_DEFAULTS, *names)
    ]
    if ARM in names and ARM in missing:
        missing.remove(ARM)
    if missing:
        raise DataError(
            f"{where}: columns",
            bound=f"{', '.join(missing)} among them",
            value=list(names),
            remedy="docs/usage.md lists the columns; names have to match letter by letter.",
        )
    if FINISHED in names and "finish" in names:
        raise DataError(
            f"{where}: columns", bound="finish or finished", value=[FINISHED, "finish"],
            remedy="Leave one of them out.",
        )  # fmt: skip
    wanted = tuple(name for name in names if name in known)
    return wanted, tuple(name for name in names if name not in known)


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
