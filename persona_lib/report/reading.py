"""Reads a report back: the pieces of the page, and the numbers of both documents in order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_SILENT = {"style", "script"}
_VOID = {"meta", "link", "img", "br", "hr", "input"}
_ATTRIBUTES = ("alt", "title", "aria-label", "placeholder", "summary", "content")
_TOKEN = re.compile(r"[\w.,+:-]*\d[\w.,+:-]*")
_FENCE = re.compile(r"^(`{3,})text$")
_IMAGE = re.compile(r"!\[((?:\\.|[^\]\\])*)\]\([^)]*\)")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")


@dataclass(frozen=True)
class Found:
    """A stretch of visible text.

    Attributes:
        text: as a reader sees it.
        at: the JSON pointer that it names, "" where it names none.
        form: how it is to be checked.
    """

    text: str
    at: str = ""
    form: str = ""


def found_of(run: Iterable[Any]) -> list[Found]:
    """Return the pieces of a run that was written as JSON data."""
    return [Found(piece) if isinstance(piece, str) else Found(*piece) for piece in run]


@dataclass
class Read:
    """What a page holds: text in order, table rows, images, and what is wrong with it."""

    pieces: list[Found] = field(default_factory=list)
    rows: list[list[list[Found]]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.read = Read()
        self._open: list[tuple[str, str, str]] = []
        self._row: list[list[Found]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "script" or any(name.startswith("on") for name in given):
            self.read.problems.append(f"<{tag}> could run a script")
        if tag == "img":
            self._image(given)
        else:
            policy = tag == "meta"  # encoding, width, policy: nothing that is read
            for name in _ATTRIBUTES:
                if name in given and not policy:
                    self._add(Found(given[name]))
        if tag == "tr":
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._row.append([])
        self._separate(tag)
        if tag not in _VOID:
            self._open.append((tag, given.get("data-at", ""), given.get("data-as", "")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open[-1][0] != tag:
            self._open.pop()
        if self._open:
            self._open.pop()
        if tag == "tr" and self._row is not None:
            self.read.rows.append(self._row)
            self._row = None
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if any(tag in _SILENT for tag, _, _ in self._open):
            return
        if not any(tag == "body" for tag, _, _ in self._open) and data.strip():
            if self._open and self._open[-1][0] == "title":
                # The title is checked, and is not part of the order: Markdown has none.
                self.read.pieces += [Found(data, *self._open[-1][1:]), Found("\0")]
            return
        at, form = self._open[-1][1:] if self._open else ("", "")
        self._add(Found(data, at, form))

    def _image(self, given: dict[str, str]) -> None:
        self.read.images.append(given.get("src", ""))
        pieces = found_of(json.loads(given.get("data-pieces", "[]")))
        if "".join(piece.text for piece in pieces) != given.get("alt", ""):
            self.read.problems.append("an alt text is not made of its pieces")
        for piece in pieces:
            self._add(piece)

    def _separate(self, tag: str) -> None:
        if tag != "span":
            self.read.pieces.append(Found("\n"))

    def _add(self, piece: Found) -> None:
        self.read.pieces.append(piece)
        if self._row:
            self._row[-1].append(piece)


def read_page(text: str) -> Read:
    """Return what a page holds."""
    page = _Page()
    page.feed(text)
    page.close()
    return page.read


def tokens(read: Read) -> list[str]:
    """Return every number and every name with a digit, in order, without the page's title."""
    text = "".join(piece.text for piece in read.pieces)
    return _tokens(text.rpartition("\0")[2])


def markdown_tokens(text: str) -> list[str]:
    """Return the same of a Markdown report: without addresses and without escapes."""
    return _tokens("\n".join(_lines(text.split("\n"))))


def _lines(lines: Iterable[str]) -> Iterable[str]:
    fence = ""
    for line in lines:
        if fence:
            fence = "" if line == fence else fence
            yield line
        elif found := _FENCE.match(line):
            fence = found.group(1)
        else:
            yield _ESCAPED.sub(r"\1", _IMAGE.sub(r"\1", line))


def _tokens(text: str) -> list[str]:
    found = (token.strip(".,:-+") for token in _TOKEN.findall(text))
    return [token for token in found if token]
