"""Formats of a user's files: Parquet, CSV and JSON lines, as one table of bounded size.

Columns that are not read are not converted. Cells are as the file has them: what they may
hold is decided by the column (`persona_lib.evidence.user_cells`), not by their look.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from persona_lib.checks import near, parse_json
from persona_lib.errors import DataError
from persona_lib.evidence.bounded import (
    MOST_COLUMNS,
    MOST_ROW_BYTES,
    MOST_ROWS,
    Unpacked,
    at_most,
    check_columns,
    check_unpacked,
    is_packed,
    open_parquet,
)
from persona_lib.evidence.score_table import COUNTS, ROWS

ARM, FINISHED = "arm", "finished"
"""Columns by other names: ``arm`` for ``model``, a truth value for ``finish``."""
MOST_NAME = 1_000
"""Bytes of a name."""
MOST_DEPTH = 32
"""Depth of objects and lists within a row of JSON, in columns that are not read."""

_PAGES = ("docs/usage.md", "docs/extending.md")
"""Where the columns of records and of counts are listed."""
_BATCH_ROWS = 65_536
_KNOWN = tuple(dict.fromkeys((*ROWS.names, *COUNTS.names, ARM, FINISHED)))
_FEWER = "Leave out columns that are not read."
Raw = tuple[pa.Table, tuple[str, ...]]
"""The columns that are read, and the names of the others."""


def layout_of(names: Collection[str]) -> pa.Schema:
    """Return `COUNTS` for a file with ``hits`` where others have ``hit`` of a ``sample``."""
    return COUNTS if "hits" in names and not {"hit", "sample"} & {*names} else ROWS


def from_parquet(path: Path) -> Raw:
    """Read a Parquet file; text as labels and codes."""
    file = open_parquet(path)
    schema = file.schema_arrow
    wanted, unread = _choose(schema.names, path.name)
    for name in wanted:
        kind = schema.field(name).type
        if not _is_cell(kind):
            raise _no_cell(path.name, name, str(kind))
    check_columns(file, wanted, path.name)
    texts = tuple(name for name in wanted if pa.types.is_string(schema.field(name).type))
    file = open_parquet(path, texts=texts)
    batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=list(wanted))
    return _collected(batches, path.name), unread


def _is_cell(kind: pa.DataType) -> bool:
    """Whether a column of this type holds one text, number or truth value a cell."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (_is_text, types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    return any(test(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def from_csv(path: Path) -> Raw:
    """Read CSV with a header; every cell is kept as text."""
    with io.BufferedReader(Unpacked(path)) as start:
        head = start.read(MOST_ROW_BYTES).decode("utf-8-sig", errors="replace")
    names: list[str] = next(filter(None, csv.reader(io.StringIO(head, newline=""))), [])
    wanted, unread = _choose(names, path.name)
    check_unpacked(path)
    with (
        pa.input_stream(path, compression="gzip" if is_packed(path) else None) as file,
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
        return _collected(batches, path.name), unread


def from_jsonl(path: Path) -> Raw:
    """Read JSON lines; every cell becomes text."""
    check_unpacked(path, lines=MOST_ROWS)  # counting is quick, and parsing is not
    names: dict[str, None] = {}

    def batches() -> Iterator[pa.RecordBatch]:
        rows: list[tuple[Any, ...]] = []
        read: tuple[str, ...] = ()
        for found in _objects(path):
            if not found.keys() <= names.keys():
                names.update(dict.fromkeys(found))
                at_most(f"{path.name}: columns", len(names), MOST_COLUMNS, "columns", _FEWER)
            if not read:  # what the first row lacks no later one can give
                _choose(tuple(found), path.name)
                read = tuple(name for name in _KNOWN if name != "model" or ARM not in found)
            rows.append(tuple(map(found.get, read)))
            if len(rows) == _BATCH_ROWS:
                yield _texts(rows, read, path.name)
                rows = []
        if rows:
            yield _texts(rows, read, path.name)

    table = _collected(batches(), path.name)
    wanted, unread = _choose(tuple(names), path.name) if names else ((), ())
    return table.select(list(wanted)), unread


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with io.BufferedReader(Unpacked(path), 2**20) as file:
        row = 0
        while line := file.readline(MOST_ROW_BYTES + 1):
            if not line.isspace():
                row += 1
                yield _object(line, path.name, row)


def _object(line: bytes, where: str, row: int) -> dict[str, Any]:
    """Return the object of a row of JSON lines; a name in it is given once."""
    if len(line) > MOST_ROW_BYTES:
        remedy = "Give one object a row, without what is not a score."
        at_most(f"{where}: size of row {row}", len(line), MOST_ROW_BYTES, "bytes", remedy)
    if line.count(b"[") + line.count(b"{") > MOST_DEPTH:
        parse_json(line, most_depth=MOST_DEPTH)
    try:
        found = _DECODER.decode(line.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"row {row}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"row {row} is no object")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def _texts(rows: Sequence[tuple[Any, ...]], names: Sequence[str], where: str) -> pa.RecordBatch:
    """Return rows of JSON as columns of text, as CSV would hold them."""
    made = {}
    for name, cells in zip(names, zip(*rows, strict=True), strict=True):
        try:
            texts = [cell if type(cell) is str else _as_text(cell) for cell in cells]
        except TypeError as error:  # no hash
            raise _no_cell(where, name, "a list or an object") from error
        made[name] = pa.array(texts, pa.string()).dictionary_encode()
    return pa.record_batch(made)


@lru_cache(maxsize=2**16, typed=True)
def _as_text(cell: object) -> str | None:
    if cell is None or cell != cell:  # noqa: PLR0124  (NaN is an empty cell)
        return None
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _no_cell(where: str, name: str, value: str) -> DataError:
    return DataError(
        f"{where}: column {name}",
        bound="text, numbers or truth values",
        value=value,
        remedy="Give one value a cell, and write it as one of these.",
    )


def _collected(batches: Iterable[pa.RecordBatch], where: str) -> pa.Table:
    """Return the rows of all batches, with names and their number bounded as they come."""
    rows, kept = 0, []
    for batch in batches:
        rows += batch.num_rows
        at_most(f"{where}: rows", rows, MOST_ROWS, "rows")
        for name, cells in zip(batch.schema.names, batch.columns, strict=True):
            _check_names(cells, f"{where}: column {name}")
        kept.append(batch)
    return pa.Table.from_batches(kept).unify_dictionaries() if kept else pa.table({})


def _check_names(cells: pa.Array, field: str) -> None:
    """Raise DataError where a text is longer than `MOST_NAME`."""
    texts = cells.dictionary if pa.types.is_dictionary(cells.type) else cells
    if _is_text(texts.type):
        longest = pc.max(pc.binary_length(texts)).as_py() or 0
        at_most(field, longest, MOST_NAME, "bytes a cell", "Name things by short ids.")


def _choose(names: Sequence[str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that are read, and those that are not, in the file's order."""
    at_most(f"{where}: columns", len(names), MOST_COLUMNS, "columns", _FEWER)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{where}: columns", bound="distinct names", value=twice[0],
            remedy="Name each column once.",
        )  # fmt: skip
    layout = layout_of(names)
    # Beside an arm, a model is something else: the base model perhaps.
    known = {*layout.names, ARM, *([FINISHED] if layout is ROWS else [])}
    known -= {"model"} if ARM in names else set()
    needed = [column.name for column in layout if not column.nullable]
    if "model" not in names:
        needed[needed.index("model")] = ARM
    may_lack = ("phase", "question_set") if layout is ROWS else ("phase", "seed")
    missing = [name for name in needed if name not in (*names, *may_lack)]
    if missing:
        others = [name for name in names if name not in known]
        alike = {name: found for name in missing for found in near(name, others, 1)}
        raise DataError(
            f"{where}: columns",
            bound=f"{', '.join(missing)} among them",
            value=list(names),
            remedy="".join(f"Did you mean {found} for {name}? " for name, found in alike.items())
            + f"{_PAGES[layout is COUNTS]} lists the columns; names match letter by letter.",
        )
    if FINISHED in names and "finish" in names:
        raise DataError(
            f"{where}: columns", bound="finish or finished", value=[FINISHED, "finish"],
            remedy="Leave one of them out.",
        )  # fmt: skip
    wanted = tuple(name for name in names if name in known)
    return wanted, tuple(name for name in names if name not in known)
