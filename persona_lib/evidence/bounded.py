"""Files of unknown origin: type and size are bounded before a parser sees them."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from persona_lib.checks import check_plain
from persona_lib.errors import DataError

MIB = 2**20
MOST_BYTES = 2048 * MIB
"""Size of a file, packed and unpacked."""
MOST_PACKED = 200
"""Bytes that one byte of a packed file may unpack to, beyond the first 16 MiB."""
_FREE = 16 * MIB
MOST_ROWS = 2_000_000
"""Rows of a score table: 130 run seeds of the registered size."""
MOST_ROW_BYTES = 4 * MIB
"""Length of one row of CSV or JSON lines, a completion's text included."""
MOST_COLUMNS = 1_000
MOST_COLUMN_BYTES = 256 * MIB
"""Size of the columns of a Parquet file that are read, unpacked."""
_FEWER = "Judge fewer seeds or arms at once."
_FOOTER = {"thrift_string_size_limit": 16 * MIB, "thrift_container_size_limit": 100_000}


def check_size(path: Path) -> None:
    """Raise DataError where a path leads to no plain file, or to one above `MOST_BYTES`."""
    check_plain(path)
    at_most(f"{path.name}: size", path.stat().st_size, MOST_BYTES, "bytes")


def at_most(field: str, value: int, most: int, unit: str, remedy: str = _FEWER) -> None:
    """Raise DataError where there is more than `most` of something."""
    if value > most:
        raise DataError(field, bound=f"at most {most:,} {unit}", value=f"{value:,}", remedy=remedy)


def is_packed(path: Path) -> bool:
    """Return whether a file's name says that it is packed by gzip."""
    return path.suffix.lower() == ".gz"


class Unpacked(io.RawIOBase):
    """The bytes of a file, unpacked where its name ends in ``.gz``.

    Reading raises DataError past `MOST_BYTES`, or where a packed file unpacks to more than
    `MOST_PACKED` times its size.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._most = MOST_BYTES
        if is_packed(path):
            self._most = min(MOST_BYTES, max(_FREE, MOST_PACKED * path.stat().st_size))
        self._file = gzip.open(path) if is_packed(path) else path.open("rb")  # noqa: SIM115
        self._read = 0

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer; return how many."""
        n = self._file.readinto(buffer)
        self._read += n
        if self._read > self._most:
            why = f", {MOST_PACKED} for each packed one" if self._most < MOST_BYTES else ""
            raise DataError(
                f"{self._name}: size",
                bound=f"at most {self._most:,} bytes unpacked{why}",
                value="more",
                remedy=_FEWER,
            )
        return n


def check_unpacked(path: Path, *, lines: int | None = None) -> None:
    """Raise DataError where a file exceeds the bounds of `Unpacked`, or has more lines.

    Parsers with threads of their own read a file only afterwards, by themselves: they may
    still call a Python object when the program ends.
    """
    if lines is None and not is_packed(path):
        return
    found = 0
    with Unpacked(path) as file:
        while block := file.read(MIB):
            found += block.count(b"\n")
            if lines is not None:
                at_most(f"{path.name}: rows", found, lines, "rows")


def open_parquet(
    path: Path, *, rows: int = MOST_ROWS, texts: tuple[str, ...] = ()
) -> pq.ParquetFile:
    """Open a Parquet file of at most so many rows, its `texts` as labels and codes.

    Raises:
        DataError: it is no plain file, or has too many rows or columns.
        pyarrow.ArrowException: it is no Parquet file.
    """
    check_size(path)
    file = pq.ParquetFile(path, read_dictionary=list(texts), **_FOOTER)
    at_most(f"{path.name}: rows", file.metadata.num_rows, rows, "rows")
    remedy = "Leave out columns that are not read."
    at_most(f"{path.name}: columns", file.metadata.num_columns, MOST_COLUMNS, "columns", remedy)
    return file


def check_columns(file: pq.ParquetFile, names: tuple[str, ...], where: str) -> None:
    """Raise DataError where columns unpack to more than `MOST_COLUMN_BYTES`."""
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    columns = (group.column(at) for group in groups for at in range(group.num_columns))
    size = sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.split(".")[0] in names
    )
    remedy = "Name personas and questions by short ids, or split the file."
    at_most(f"{where}: size of the columns", size, MOST_COLUMN_BYTES, "bytes", remedy)
