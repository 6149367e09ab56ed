"""A report as Markdown (CommonMark with GitHub's tables), for reading and for diffs.

What others wrote is escaped where it stands in a line, and fenced where it stands alone
with a fence longer than any run of backticks inside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from persona_lib.report.blocks import (
    Block,
    Bullets,
    Heading,
    Para,
    Picture,
    Section,
    Table,
    Verbatim,
)
from persona_lib.report.pieces import Piece, Quote, Run

_SPECIAL = re.compile(r"([\\`*\[\]<>|~&!#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_LINE_START = re.compile(r"^(\s*)([-+=>#]|\d+[.)])")


def markdown(title: Piece, lead: Run, sections: Sequence[Section]) -> str:
    """Return the document."""
    parts = [f"# {line((title,))}", paragraph(lead)]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def line(run: Run) -> str:
    """Return a run as one line; quotations are escaped, own words are not."""
    return "".join(_piece(piece) for piece in run)


def paragraph(run: Run) -> str:
    """Return a run as a paragraph that is nothing else, whatever it begins with."""
    return _LINE_START.sub(r"\1\\\2", line(run).strip())


def _piece(piece: Piece) -> str:
    if isinstance(piece, str):
        return piece.replace("<", "\\<").replace("|", "\\|")
    if isinstance(piece, Quote):
        return _SPECIAL.sub(r"\\\1", re.sub(r"\s+", " ", piece.text))
    return piece.text.replace("<", "\\<")  # a p may be a bound


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"### {line(block.text)}"
    if isinstance(block, Para):
        return paragraph(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {paragraph(item)}" for item in block.items)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        alt = line(block.alt)
        return f"![{alt}](figures/{block.name}.png)\n\n{paragraph(block.caption)}"
    return _verbatim(block)


def _table(table: Table) -> str:
    columns = range(len(table.head))
    rule = " | ".join("---:" if table.numeric(i) else "---" for i in columns)
    rows = [table.head, *table.rows]
    lines = [f"| {' | '.join(line(cell) for cell in row)} |" for row in rows]
    return "\n".join([f"*{line(table.caption)}*", "", lines[0], f"| {rule} |", *lines[1:]])


def _verbatim(block: Verbatim) -> str:
    runs = re.findall(r"`+", block.text.text)
    fence = "`" * max(3, *(len(run) + 1 for run in runs), 3)
    return f"{paragraph(block.label)}\n\n{fence}text\n{block.text.text}\n{fence}"
