"""The language of the grammar's data files: lines, alternatives and slots, parsed and rendered.

A data file is made of lines ``key: text``. Lines that begin with ``#`` are
comments, and a line ``== name`` opens a section. A text holds

* ``[one|another|]``: one of the alternatives, each as likely (one may be empty,
  and they may hold alternatives of their own);
* ``{name}``: a slot, to be filled by whoever renders the text.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from persona_lib.digests import sha256_of
from persona_lib.errors import DataError

Fill = Callable[[str], str]
"""Gives the text of a slot, by its name."""

_TOKEN = re.compile(r"\{[^{}]*\}|[\[\]|]|[^\[\]|{}]+|[{}]")
_SLOT_NAME = re.compile(r"[a-z][a-z_]*")
_ENTRY = re.compile(r"([a-z][a-z0-9_.]*):\s*(.*)")
_SECTION = re.compile(r"==\s*([a-z][a-z0-9_]*)")
_STRAY_SPACE = re.compile(r" ([,.;:?!])")


@dataclass(frozen=True, slots=True)
class _Slot:
    name: str


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple[_Sequence, ...]


_Sequence = tuple["str | _Slot | _Choice", ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A parsed text.

    Attributes:
        source: where it stands, ``file:line``; its identity in counts and in provenance.
        text: as written.
        slots: names of the slots in it.
    """

    source: str
    text: str
    slots: frozenset[str]
    _body: _Sequence

    def render(self, rng: random.Random, fill: Fill) -> str:
        """Return one reading: alternatives drawn with `rng`, slots from `fill`.

        Empty alternatives may leave spaces behind, which `tidy` takes away.
        """
        return _render(self._body, rng, fill)


def tidy(text: str) -> str:
    """Return `text` with single spaces, and none before a punctuation mark."""
    return _STRAY_SPACE.sub(r"\1", " ".join(text.split()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of a data file: its section ("" before the first), key and text."""

    section: str
    key: str
    template: Template


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Read a data file, in its order.

    Raises:
        DataError: the file is missing or empty; a line is neither section, entry nor
            comment; a text is empty, malformed, or twice under one section and key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            str(path), bound="a readable text file", value=str(error), remedy="Restore the file."
        ) from error
    section, entries, seen = "", [], set()
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if opened := _SECTION.fullmatch(line):
            section = opened.group(1)
            continue
        entry = _entry(f"{path.name}:{number}", section, line)
        marker = (section, entry.key, entry.template.text)
        if marker in seen:
            raise DataError(
                f"{entry.template.source} {entry.key}",
                bound="a text that does not stand there already",
                value=entry.template.text,
                remedy="Remove the repetition.",
            )
        seen.add(marker)
        entries.append(entry)
    if not entries:
        raise DataError(str(path), bound="at least one entry", value=0, remedy="Fill the file.")
    return tuple(entries)


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of all data files in `folder`.

    Raises:
        DataError: the folder holds no ``.txt`` file.
    """
    paths = sorted(folder.glob("*.txt"), key=lambda path: path.name)
    if not paths:
        raise DataError(
            str(folder),
            bound="a folder with the grammar's data files",
            value="no .txt file",
            remedy="Restore the folder.",
        )
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name}\n{sha256_of(path)}\n".encode())
    return total.hexdigest()


def _entry(source: str, section: str, line: str) -> Entry:
    matched = _ENTRY.fullmatch(line)
    if not matched or not matched.group(2):
        raise DataError(
            source,
            bound="'key: text', '== section' or '# comment'",
            value=line,
            remedy="Correct the line.",
        )
    key, text = matched.groups()
    return Entry(section=section, key=key, template=parse(text, source=source, field=key))


def parse(text: str, *, source: str, field: str) -> Template:
    """Parse a text.

    Raises:
        DataError: brackets or braces do not match, or a slot has a bad name.
    """
    slots: set[str] = set()
    # Open alternatives, innermost last: the options so far and the one being read.
    stack: list[list[list[str | _Slot | _Choice]]] = [[[]]]
    for piece in _TOKEN.findall(text):
        if piece == "[":
            stack.append([[]])
        elif piece == "]" and len(stack) > 1:
            options = stack.pop()
            stack[-1][-1].append(_Choice(tuple(tuple(option) for option in options)))
        elif piece == "|" and len(stack) > 1:
            stack[-1].append([])
        elif piece in ("]", "|", "{", "}"):
            raise _malformed(source, field, text, f"a stray {piece!r}")
        elif piece.startswith("{"):
            name = piece[1:-1]
            if not _SLOT_NAME.fullmatch(name):
                raise _malformed(source, field, text, f"a slot named {name!r}")
            slots.add(name)
            stack[-1][-1].append(_Slot(name))
        else:
            stack[-1][-1].append(piece)
    if len(stack) > 1:
        raise _malformed(source, field, text, "an open '['")
    return Template(source=source, text=text, slots=frozenset(slots), _body=tuple(stack[0][0]))


def _malformed(source: str, field: str, text: str, fault: str) -> DataError:
    return DataError(
        f"{source} {field}",
        bound="matching brackets and slot names of small letters",
        value=text,
        remedy=f"The text has {fault}: correct it.",
    )


def _render(body: _Sequence, rng: random.Random, fill: Fill) -> str:
    pieces = []
    for node in body:
        if isinstance(node, str):
            pieces.append(node)
        elif isinstance(node, _Slot):
            pieces.append(fill(node.name))
        else:
            option = node.options[int(rng.random() * len(node.options))]
            pieces.append(_render(option, rng, fill))
    return "".join(pieces)
