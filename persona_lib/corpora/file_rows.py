"""Training rows of a user's JSONL file, in any of three layouts.

- ``messages``: a list of ``role`` and ``content``. A leading system turn is kept; of what
  follows, the first user message and the first answer to it, all others are counted.
- ``prompt`` and ``completion``, perhaps with ``system``.
- ``instruction`` and ``output``, perhaps with ``input``, which is put below the instruction.

A row that cannot be used is counted by its reason and named by its line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from persona_lib.checks import check_plain, parse_json
from persona_lib.digests import sha256_of
from persona_lib.errors import DataError
from persona_lib.records import ChatRow
from persona_lib.specs.sources import Corpus, MixedCorpus, RowsCorpus
from persona_lib.specs.structure import Gathered, named

MOST_LINE = 2**20
"""Bytes of a line."""
MOST_ROWS = 1_000_000
_LAYOUTS = "messages, prompt and completion, or instruction and output"
_REMEDY = "docs/extending.md shows the three layouts."


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """What a file holds.

    Attributes:
        rows: those that can be used, in the file's order.
        left_out: messages of long conversations that no row holds.
        unusable: how many rows cannot be used, by reason.
        first: the line of the first of each.
    """

    rows: tuple[ChatRow, ...]
    left_out: int
    unusable: Mapping[str, int]
    first: Mapping[str, int]

    def describe(self) -> str:
        """Return which rows are left out and why, "" where none is."""
        if not self.unusable:
            return ""
        parts = [f"{n} {why} (line {self.first[why]})" for why, n in self.unusable.items()]
        return f"{sum(self.unusable.values())} rows cannot be used: {', '.join(parts)}"


def pinned(corpus: Corpus, folder: Path) -> Corpus:
    """Return a corpus with the checksum of its file and the number of its rows.

    Each file of a mixture is pinned; other corpora are.

    Raises:
        DataError: see `read_file_rows`; or it holds fewer rows than are taken.
        SpecError: so does a part of a mixture; it holds the errors of the others.
    """
    if isinstance(corpus, MixedCorpus):
        parts, found = list(corpus.parts), Gathered()
        for number, part in enumerate(parts):
            with found.check(), named(f"parts[{number}]"):
                parts[number] = _pinned(part, folder) if isinstance(part, RowsCorpus) else part
        found.refuse()
        return MixedCorpus(parts=tuple(parts))
    return _pinned(corpus, folder) if isinstance(corpus, RowsCorpus) else corpus


def _pinned(corpus: RowsCorpus, folder: Path) -> RowsCorpus:
    path = folder / corpus.file
    found = len(read_file_rows(path).rows)
    if corpus.rows is not None and corpus.rows > found:
        raise DataError(
            f"{corpus.file}: rows", bound=f"at most {found:,}, those that can be used",
            value=corpus.rows, remedy="Take fewer rows, or leave rows out to take all.",
        )  # fmt: skip
    return replace(corpus, rows=corpus.rows or found, sha256=sha256_of(path))


def read_file_rows(path: Path, name: str = "") -> FileRows:
    """Read a file; rows are called ``name-00017`` by their place among the usable ones.

    Raises:
        DataError: no plain file, a line that is too long, too many rows, or no usable one.
    """
    check_plain(path)
    rows: list[ChatRow] = []
    unusable: Counter[str] = Counter()
    first: dict[str, int] = {}
    left_out = 0
    for number, line in _lines(path):
        try:
            system, user, assistant, others = _turns(parse_json(line))
        except ValueError as error:
            why = str(error) if isinstance(error, _UnusableError) else "is no JSON object"
            unusable[why] += 1
            first.setdefault(why, number)
            continue
        left_out += others
        rows.append(
            ChatRow(
                row=f"{name}-{len(rows):05d}", corpus=name, situation="", frame="",
                system=system, user=user, assistant=assistant,
            )
        )  # fmt: skip
        if len(rows) > MOST_ROWS:
            raise DataError(
                f"{path.name}: rows", bound=f"at most {MOST_ROWS:,}", value="more",
                remedy="Leave out rows.",
            )  # fmt: skip
    found = FileRows(rows=tuple(rows), left_out=left_out, unusable=unusable, first=first)
    if not rows:
        raise DataError(
            f"{path.name}: rows", bound=f"at least one with {_LAYOUTS}",
            value=found.describe() or "an empty file", remedy=_REMEDY,
        )  # fmt: skip
    return found


class _UnusableError(ValueError):
    """Why a row cannot be used, in words that follow a number of rows."""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MOST_LINE + 1):
            number += 1
            if len(line) > MOST_LINE:
                raise DataError(
                    f"{path.name}: line {number}", bound=f"at most {MOST_LINE:,} bytes",
                    value="more", remedy="Shorten the row.",
                )  # fmt: skip
            if line.strip():
                yield number, line


def _turns(row: Any) -> tuple[str, str, str, int]:
    """Return system, user and assistant text of a row, and messages left out."""
    if not isinstance(row, dict):
        raise _UnusableError("are no objects")
    if "messages" in row:
        return _of_messages(row["messages"])
    if "prompt" in row and "completion" in row:
        return _text(row, "system", ""), _text(row, "prompt"), _text(row, "completion"), 0
    if "instruction" in row and "output" in row:
        more = _text(row, "input", "")
        user = _text(row, "instruction") + (f"\n\n{more}" if more.strip() else "")
        return "", user, _text(row, "output"), 0
    raise _UnusableError(f"lack {_LAYOUTS}")


def _of_messages(messages: Any) -> tuple[str, str, str, int]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise _UnusableError("have no list of messages")
    turns = [(m.get("role"), m) for m in messages]
    system = _text(turns[0][1], "content") if turns and turns[0][0] == "system" else ""
    rest = turns[1:] if system else turns
    user = next((i for i, (role, _) in enumerate(rest) if role == "user"), None)
    if user is None:
        raise _UnusableError("have no user message")
    answer = next((i for i in range(user + 1, len(rest)) if rest[i][0] == "assistant"), None)
    if answer is None:
        raise _UnusableError("have no answer to the first user message")
    texts = _text(rest[user][1], "content"), _text(rest[answer][1], "content")
    return system, *texts, len(rest) - 2


def _text(row: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if not isinstance(value, str) or (not value.strip() and default is None):
        raise _UnusableError(f"have no text under {key}")
    return value
