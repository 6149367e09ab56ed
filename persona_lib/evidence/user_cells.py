"""Cells of a user's files: what each column may hold, and how it is read.

A reader returns a cell's value, or None where it cannot be one. Nothing is guessed: 0.5 is
no truth value, and " 3" is no number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.errors import DataError
from persona_lib.records import LENGTH, POST, PRE, STOP

_LARGEST = 2**63 - 1
_EXACT = 2**53
"""Up to here a float holds every whole number."""
_WHOLE = re.compile(r"(-?[0-9]{1,19})(?:\.0*)?")
_BIT = re.compile(r"([01])(?:\.0*)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MOST_NATS = 1_000_000
"""Sums and differences of so large logits are still exact to 1e-9."""
_TRUTH = {"0": False, "1": True, "false": False, "true": True}


def _text(cell: object) -> str | None:
    """A name. Whole numbers are names too: a question may be called 7."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    return cell if isinstance(cell, str) else None


def _one_of(*names: str) -> Callable[[object], str | None]:
    return lambda cell: cell if isinstance(cell, str) and cell in names else None


def _flag(cell: object) -> bool | None:
    """A truth value: one itself, 0 or 1, or such a word in any case.

    pandas writes True, and 1.0 beside gaps.
    """
    if isinstance(cell, bool):
        return cell
    if not isinstance(cell, int | float | str):
        return None
    text = str(cell).lower()
    match = _BIT.fullmatch(text)
    return _TRUTH.get(match[1] if match else text)


def _reason(cell: object) -> str | None:
    """The finish reason that a truth value stands for."""
    finished = _flag(cell)
    return None if finished is None else (STOP if finished else LENGTH)


def _number(least: int) -> Callable[[object], int | None]:
    """A whole number; 3.0 is one, because pandas writes whole numbers beside gaps so."""

    def read(cell: object) -> int | None:
        number = None
        if isinstance(cell, int) and not isinstance(cell, bool):
            number = cell
        elif isinstance(cell, float) and cell.is_integer() and abs(cell) <= _EXACT:
            number = int(cell)
        elif isinstance(cell, str) and (match := _WHOLE.fullmatch(cell)):
            number = int(match[1])
        return number if number is not None and least <= number <= _LARGEST else None

    return read


def _nats(cell: object) -> float | None:
    """A logit or a log P, in decimal digits where it is text."""
    if isinstance(cell, str):
        cell = float(cell) if _DECIMAL.fullmatch(cell) else math.nan
    if not isinstance(cell, int | float) or isinstance(cell, bool):
        return None
    return float(cell) if abs(cell) <= _MOST_NATS else None  # NaN is not


class Reader(NamedTuple):
    """How the cells of a column are read: in words, and as a function; None means it cannot."""

    words: str
    of: Callable[[object], object]


FINISHED_READER = Reader("true or false, or 1 or 0", _reason)
"""How a truth value is read that stands for a finish reason."""
_BY_TYPE = {
    pa.string(): Reader("a name", _text),
    pa.int64(): Reader("a whole number from 0 to 2**63 - 1", _number(0)),
    pa.float64(): Reader(f"a number from -{_MOST_NATS:,} to {_MOST_NATS:,}", _nats),
    pa.bool_(): Reader("true or false, or 1 or 0", _flag),
}
_BY_NAME = {
    "phase": Reader(f"{PRE} or {POST}", _one_of(PRE, POST)),
    "finish": Reader(f"{STOP} or {LENGTH}", _one_of(STOP, LENGTH)),
    "first_token": Reader("-1, or a whole number from 0 to 2**63 - 1", _number(-1)),
}


def reader_of(column: pa.Field) -> Reader:
    """Return how the cells of a column of `score_table.ROWS` are read."""
    return _BY_NAME.get(column.name, _BY_TYPE[column.type])


def read_cells(field: str, cells: pa.Array, reader: Reader, column: pa.Field) -> pa.Array:
    """Return the cells of a column as values of its type, null where one is empty.

    A null, a NaN (pandas writes it) and "" are empty. Each distinct value is read once.

    Raises:
        DataError: the first cell that is empty and must not be, or cannot be read; `field`
            names its file and column.
    """

    def first(wrong: pa.Array, value: object, remedy: str) -> DataError:
        row = pc.index(wrong, True).as_py() + 1
        return DataError(f"{field}, row {row}", bound=reader.words, value=value, remedy=remedy)

    if not pa.types.is_dictionary(cells.type):
        cells = pc.dictionary_encode(cells)
    labels, codes = cells.dictionary, cells.indices
    blank = pc.is_null(labels, nan_is_null=True)
    if pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type):
        blank = pc.or_(blank, pc.fill_null(pc.equal(labels, ""), False))
    empty = pc.fill_null(blank.take(codes), True)
    if empty.true_count and not column.nullable:
        found = f"an empty cell ({empty.true_count:,} of {len(cells):,} rows)"
        raise first(empty, found, "Fill the cell: a missing completion is a missing row.")
    values = pa.array([reader.of(label) for label in labels.to_pylist()], column.type)
    read = values.take(codes)
    wrong = pc.and_not(pc.is_null(read), empty)
    if wrong.true_count:
        cell = labels[codes[pc.index(wrong, True).as_py()].as_py()].as_py()
        remedy = f"Correct the cell ({wrong.true_count:,} of {len(cells):,} rows)."
        raise first(wrong, cell, remedy)
    return read
