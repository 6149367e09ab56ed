"""Record sets that other software wrote: Parquet, CSV or JSON lines, read strictly.

docs/usage.md has the format. A cell that cannot be read is an error that names
column, row and value; what the set does not have is left out and never guessed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json
import pyarrow.parquet as arrow_parquet

from persona_lib.errors import DataError, clean
from persona_lib.evidence.score_table import OPTIONAL, REQUIRED
from persona_lib.evidence.user_cells import FINISHED_READER, READERS, check_markers, read_cells
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

_NEEDED = ("seed", "persona", "question", "sample", "hit")
"""Columns that have no default; arm, or model, is the sixth."""
_TEXTS = {ARM, *(name for name, kind in (REQUIRED | OPTIONAL).items() if kind == pa.string())}
_MOST_NAMED = 8
_BROKEN = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)


@dataclass(frozen=True, eq=False)
class ForeignSet:
    """A record set of other software.

    Attributes:
        table: one row a completion, with the columns of `persona_lib.evidence.score_table.REQUIRED`
            and those of its `OPTIONAL` that the file has; only the latter hold nulls.
        origin: where the rows come from, in words.
    """

    table: pa.Table
    origin: str


def is_foreign(path: Path) -> bool:
    """Return whether a path names a file of records, and not a folder of stored evidence."""
    return path.is_file() or (_format(path) is not None and not path.is_dir())


def check_file(path: Path) -> str:
    """Return what a file of records is in, before it is read: one of the values of `SUFFIXES`.

    Raises:
        DataError: there is no such file, or its suffix is not a known one.
    """
    if not path.is_file():
        raise DataError(
            str(path), bound="a file", value="nothing of that name", remedy="Check the path."
        )
    kind = _format(path)
    if kind is None:
        raise DataError(
            f"{path.name}: suffix",
            bound=f"one of {', '.join(SUFFIXES)}",
            value=path.suffix,
            remedy="Name the file by what is in it, or point --stored at a folder of evidence.",
        )
    return kind


def read_foreign(path: Path, registration: Registration) -> pa.Table:
    """Return the rows of `load_foreign`."""
    return load_foreign(path, registration).table


def load_foreign(path: Path, registration: Registration) -> ForeignSet:
    """Read a record set that other software wrote.

    Names are not compared with the registration here: `persona_lib.evidence.cells.build` does
    that, for every kind of record set.

    Args:
        path: its suffix says what it is: see `SUFFIXES`.
        registration: gives ``question_set`` where the file has no such column.

    Raises:
        DataError: an unknown suffix; a file that cannot be read as what its suffix
            says; no rows; a column that is missing or named twice; a cell that is
            empty where it must not be, or that cannot be what its column holds.
    """
    kind = check_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            str(path), bound="a readable file", value=str(error), remedy="Restore the file."
        ) from error
    raw, ignored = _raw(data, kind, path)
    if not raw.num_rows:
        raise DataError(path.name, bound="at least one row", value=0, remedy="Record the set.")
    table = _normalised(raw, registration, path.name)
    check_markers(table, path.name)
    return ForeignSet(table, _origin(path.name, data, ignored))


def _format(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _origin(name: str, data: bytes, ignored: Sequence[str]) -> str:
    """Return where the rows come from: the file's name and content, and what was not read."""
    digest = hashlib.sha256(data).hexdigest()[:12]
    unread = ""
    if ignored:
        more = f" and {len(ignored) - _MOST_NAMED} more" if len(ignored) > _MOST_NAMED else ""
        unread = f"; columns not read: {', '.join(ignored[:_MOST_NAMED])}{more}"
    return clean(
        f"{name} (SHA-256 {digest}{unread}); nothing says under which rules these data were "
        "recorded"
    )


def _raw(data: bytes, kind: str, path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the columns that are read, as the file has them, and the names of the others."""
    try:
        if not data:
            raise pa.ArrowInvalid("the file is empty")
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        read = {PARQUET: _from_parquet, CSV: _from_csv, JSONL: _from_jsonl}[kind]
        return read(data, path.name)
    except _BROKEN as error:
        what = {
            PARQUET: "Parquet",
            CSV: "CSV with a header, in UTF-8",
            JSONL: "JSON lines, in UTF-8",
        }
        hints = {
            PARQUET: "Write the file again",
            CSV: "Give every row as many cells as the header has, with commas between them",
            JSONL: "Give one object a row and every column values of one kind (in that message "
            "rows count from 0)",
        }
        raise DataError(
            path.name,
            bound=f"a file of {what[kind]}, as its suffix says",
            value=str(error),
            remedy=f"{hints[kind]}, or give the file the suffix of what it is.",
        ) from error


def _from_parquet(data: bytes, where: str) -> tuple[pa.Table, tuple[str, ...]]:
    file = arrow_parquet.ParquetFile(pa.BufferReader(data))
    wanted, ignored = _choose(file.schema_arrow.names, where)
    return file.read(columns=list(wanted)), ignored


def _from_csv(data: bytes, where: str) -> tuple[pa.Table, tuple[str, ...]]:
    """Cells are kept as text: what they may hold is decided by the column, not by its look."""
    text = data.decode("utf-8-sig")
    names: list[str] = next(filter(None, csv.reader(io.StringIO(text, newline=""))), [])
    wanted, ignored = _choose(names, where)
    table = arrow_csv.read_csv(
        pa.BufferReader(data),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=list(wanted),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return table, ignored


def _from_jsonl(data: bytes, where: str) -> tuple[pa.Table, tuple[str, ...]]:
    data.decode("utf-8")
    # One block: a column that changes its kind late would otherwise be found, or not,
    # by where a block happens to end.
    options = arrow_json.ReadOptions(block_size=min(len(data) + 1, 2**31 - 1))
    table = arrow_json.read_json(pa.BufferReader(data), read_options=options)
    dates = [f.name for f in table.schema if f.name in _TEXTS and pa.types.is_temporal(f.type)]
    if dates:  # Arrow takes a question called 2024-01-01 for a day
        texts = pa.schema([(name, pa.string()) for name in dates])
        table = arrow_json.read_json(
            pa.BufferReader(data),
            read_options=options,
            parse_options=arrow_json.ParseOptions(explicit_schema=texts),
        )
    wanted, ignored = _choose(table.column_names, where)
    return table.select(list(wanted)), ignored


def _choose(names: Sequence[str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that are read, and those that are not, in the file's order."""
    twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if twice:
        raise DataError(
            f"{where}: columns", bound="distinct names", value=twice[0],
            remedy="Name each column once.",
        )  # fmt: skip
    known = {*READERS, ARM, FINISHED}
    if ARM in names:
        known.discard("model")  # beside an arm it names something else, the base model perhaps
    missing = [name for name in _NEEDED if name not in names]
    if ARM not in names and "model" not in names:
        missing.insert(0, ARM)
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
    for name, kind in (REQUIRED | OPTIONAL).items():
        reader, given = READERS[name], name
        if name == "model" and ARM in raw.column_names:
            given = ARM
        elif name == "finish" and FINISHED in raw.column_names:
            given, reader = FINISHED, FINISHED_READER
        if given in raw.column_names:
            columns[name] = read_cells(
                f"{where}: column {given}",
                raw.column(given).combine_chunks(),
                reader,
                kind,
                needed=name in REQUIRED,
            )
        elif name in REQUIRED:
            default = POST if name == "phase" else _only_set(registration, where)
            columns[name] = pa.repeat(pa.scalar(default, kind), raw.num_rows)
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
