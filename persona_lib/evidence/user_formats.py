"""Formats of a user's files: Parquet, CSV and JSON lines, as one table of bounded size.

Columns that are not read are not converted. Cells are as the file has them: what they may
hold is decided by the column (`persona_lib.evidence.user_cells`), not by their look.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from persona_lib.checks import parse_json
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
from persona_lib.evidence.score_table import COLUMNS

ARM, FINISHED = "arm", "finished"
"""Columns by other names: ``arm`` for ``model``, a truth value for ``finish``."""
MOST_NAME = 1_000
"""Bytes of a name."""
MOST_DEPTH = 32
"""Depth of objects and lists within a row of JSON, in columns that are not read."""

_DEFAULTS = ("phase", "question_set")
"""Columns that every row needs and that a file may lack."""
_BATCH_ROWS = 65_536
_KNOWN = (*COLUMNS.names, ARM, FINISHED)
_FEWER = "Leave out columns that are not read."
Raw = tuple[pa.Table, tuple[str, ...]]
"""The columns that are read, and the names of the others."""


def from_parquet(path: Path) -> Raw:
    """Read a Parquet file; text as labels and codes."""
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
        return _collected(map(_table_of, batches), path.name), unread


def from_jsonl(path: Path) -> Raw:
    """Read JSON lines; a column has values of one kind."""
    check_unpacked(path, lines=MOST_ROWS)  # counting is quick, and parsing is not
    names: dict[str, None] = {}

    def tables() -> Iterator[pa.Table]:
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
                yield _arrays(rows, read, path.name)
                rows = []
        yield _arrays(rows, read, path.name)

    table = _collected(tables(), path.name)
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
            if {bool, float} <= set(map(type, cells)):
                raise pa.ArrowTypeError("a truth value among numbers")  # Arrow makes it 1.0
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
        at_most(f"{where}: rows", rows, MOST_ROWS, "rows")
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


def _choose(names: Sequence[str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that are read, and those that are not, in the file's order."""
    at_most(f"{where}: columns", len(names), MOST_COLUMNS, "columns", _FEWER)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{where}: columns", bound="distinct names", value=twice[0],
            remedy="Name each column once.",
        )  # fmt: skip
    # Beside an arm, a model is something else: the base model perhaps.
    known = {*_KNOWN} - ({"model"} if ARM in names else set())
    model = "model" if "model" in names else ARM
    needed = [column.name for column in COLUMNS if not column.nullable]
    needed = [{"model": model}.get(name, name) for name in needed if name not in _DEFAULTS]
    missing = [name for name in needed if name not in names]
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
