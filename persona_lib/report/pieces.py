"""What a report is made of: own words, numbers and quotations that know where they stand.

A number or a string of verdict.json enters a document only through `Node`, which keeps
its JSON pointer (RFC 6901). The checker (`persona_lib.report.numbers`) follows the
pointers back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from persona_lib.report.formats import written

NONE = "–"
"""Stands where nothing is known."""

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if code != ord("\n")} | {0x7F: "␡"}
_UNSEEN = re.compile(
    "[\x80-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Number:
    """A number as printed.

    Attributes:
        text: what is printed.
        at: JSON pointer of the number.
        form: one of `formats.FORMS`.
    """

    text: str
    at: str
    form: str


@dataclass(frozen=True)
class Quote:
    """A string of verdict.json, or the name of one of its members.

    Attributes:
        text: the string with everything visible (`visible`).
        at: JSON pointer.
        key: whether it is the last member name of the pointer, not a value.
    """

    text: str
    at: str
    key: bool = False


Piece = str | Number | Quote
Run = tuple[Piece, ...]
"""Own words are bare strings; they hold no digit that `numbers.ALLOWED` does not name."""


def visible(text: str) -> str:
    """Return text without anything that acts: it is read, never obeyed.

    C0 controls and DEL become their Unicode pictures (``␛`` for escape), other
    controls, bidirectional marks, zero-width characters and tags ``⟨U+202E⟩``, lone
    surrogates U+FFFD. Line feeds stay.
    """
    text = text.replace("\r\n", "\n").translate(_PICTURES)
    text = _UNSEEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)
    return _SURROGATES.sub("\ufffd", text)


def kind_of(piece: Piece) -> str:
    """Return how a piece is checked: ``own``, ``words``, ``key``, or a number's form."""
    if isinstance(piece, str):
        return "own"
    if isinstance(piece, Number):
        return piece.form
    return "key" if piece.key else "words"


def as_data(run: Run) -> list[Any]:
    """Return a run as JSON data: own words as strings, the rest with place and kind."""
    return [p if isinstance(p, str) else [p.text, p.at, kind_of(p)] for p in run]


def plain(run: Run) -> str:
    """Return the text of a run."""
    return "".join(piece if isinstance(piece, str) else piece.text for piece in run)


@dataclass(frozen=True)
class Node:
    """A value of verdict.json and where it stands.

    Members that are not there read as None, so that older files can be shown.
    """

    value: Any
    at: str = ""

    def __getitem__(self, key: str | int) -> Node:
        """Return a member."""
        inside = None
        if isinstance(key, int):
            if isinstance(self.value, list) and 0 <= key < len(self.value):
                inside = self.value[key]
        elif isinstance(self.value, dict):
            inside = self.value.get(key)
        return Node(inside, f"{self.at}/{escaped(str(key))}")

    def __iter__(self) -> Iterator[Node]:
        """Iterate over the elements of a list, or the members of an object."""
        if isinstance(self.value, list):
            return iter([self[i] for i in range(len(self.value))])
        return iter([self[key] for key in self.value] if isinstance(self.value, dict) else [])

    def __bool__(self) -> bool:
        """Whether there is anything: not null, false, zero or empty."""
        return bool(self.value)

    @property
    def known(self) -> bool:
        """Whether it is a number."""
        return (
            isinstance(self.value, (int, float))
            and not isinstance(self.value, bool)
            and math.isfinite(self.value)
        )

    @property
    def float(self) -> float:
        """The number, NaN where there is none."""
        return float(self.value) if self.known else math.nan

    def num(self, form: str) -> Piece:
        """Return the number as printed, `NONE` where there is none."""
        if not self.known:
            return NONE
        return Number(written(self.value, form), self.at, form)

    def words(self) -> Piece:
        """Return the string, `NONE` where there is none."""
        if not isinstance(self.value, str):
            return NONE
        return Quote(visible(self.value), self.at) if self.value else ""

    def key(self) -> Quote:
        """Return the name of this member."""
        name = self.at.rsplit("/", 1)[1].replace("~1", "/").replace("~0", "~")
        return Quote(visible(name), self.at, key=True)


def escaped(key: str) -> str:
    """Return a member name as JSON pointers write it."""
    return key.replace("~", "~0").replace("/", "~1")


def span(node: Node, form: str, *, value: str = "value") -> Run:
    """Return ``value [low, high]`` of a node with an interval, `NONE` without a value."""
    if not node[value].known:
        return (NONE,)
    if not (node["low"].known and node["high"].known):
        return (node[value].num(form), " [no interval]")
    ends = (node["low"].num(form), ", ", node["high"].num(form), "]")
    return (node[value].num(form), " [", *ends)


def listed(runs: Sequence[Run], mark: str = ", ") -> Run:
    """Return runs with a mark between them, `NONE` where there are none."""
    joined: list[Piece] = []
    for run in runs:
        joined += [mark, *run] if joined else [*run]
    return tuple(joined) or (NONE,)
