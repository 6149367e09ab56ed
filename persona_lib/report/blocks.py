"""Blocks of a report: headings, tables, figures; Markdown and HTML are written from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from persona_lib.report.pieces import Node, Number, Piece, Quote, Run


@dataclass(frozen=True)
class Heading:
    """A heading inside a section, one level below the section's own."""

    text: Run


@dataclass(frozen=True)
class Para:
    """A paragraph."""

    text: Run


@dataclass(frozen=True)
class Bullets:
    """A list; `names` are what each item is about, printed before it."""

    items: tuple[Run, ...]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its header.

    Attributes:
        caption: what it shows.
        head: column headers.
        rows: cells, as many as headers.
        folded: whether the page shows it only when asked to: there is much of it.
    """

    caption: Run
    head: tuple[Run, ...]
    rows: tuple[tuple[Run, ...], ...]
    folded: bool = False

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers and nothing else that is quoted."""
        cells = [row[column] for row in self.rows]
        held = [piece for cell in cells for piece in cell]
        return any(isinstance(piece, Number) for piece in held) and not any(
            isinstance(piece, Quote) for piece in held
        )


Cell = Piece | Run
"""What a cell is written as: one piece, or several."""
Columns = Mapping[str, Callable[[Node], Cell]]
"""By header, what makes a cell of an entry."""


def table(caption: Cell, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Return a table of rows."""
    written = tuple(tuple(_run(cell) for cell in row) for row in rows)
    return Table(_run(caption), tuple((name,) for name in head), written)


def table_of(
    caption: Cell, entries: Iterable[Node], columns: Columns, *, folded: bool = False
) -> list[Table]:
    """Return a table with a row for each entry, none without entries."""
    rows = [[cell(entry) for cell in columns.values()] for entry in entries]
    return [replace(table(caption, list(columns), rows), folded=folded)] if rows else []


def named(field: str = "name") -> Callable[[Node], Cell]:
    """Return what quotes a string of an entry."""
    return lambda entry: entry[field].words()


def _run(cell: Cell) -> Run:
    return cell if isinstance(cell, tuple) else (cell,)


@dataclass(frozen=True)
class Picture:
    """A figure: its files lie beside the report.

    Attributes:
        name: stem of the files.
        alt: what a reader who cannot see it has to know.
        caption: what is drawn, and what intervals are.
    """

    name: str
    alt: Run
    caption: Run


@dataclass(frozen=True)
class Verbatim:
    """Text of others, shown as it is under a label."""

    label: Run
    text: Quote


Block = Heading | Para | Bullets | Table | Picture | Verbatim


@dataclass(frozen=True)
class Section:
    """A section with its heading; `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]
