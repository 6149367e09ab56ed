"""The checker: reads report.md, report.html and figures again, and follows every number back.

It shares no code with what writes them. In the page every number stands in an element that
names its place in verdict.json and its form; the printed text is parsed as a number and has
to lie within half a unit of its last digit. A quoted string has to be the string at its
place, character by character. Any other digit has to belong to a phrase of `ALLOWED`. The
Markdown has to hold the same numbers in the same order as the page.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import Any

from persona_lib.report.document import FORMATS
from persona_lib.report.pieces import visible
from persona_lib.report.reading import Found, Read, found_of, markdown_tokens, read_page, tokens

ALLOWED: dict[str, str] = {
    "Wilson 1927": "reference",
    "Student 1908": "reference",
    "Fisher 1935": "reference",
    "Woodruff 1952": "reference",
    "Schuirmann 1987": "reference",
    "Holm 1979": "reference",
    "Newcombe 1998": "reference",
    "Donner and Zou 2012": "reference",
    "Korn and Graubard 1998": "reference",
    "Dean and Pagano 2015": "reference",
    "Efron and Tibshirani 1993": "reference",
    "Efron 1987": "reference",
    "Cameron, Gelbach and Miller 2011": "reference",
    "Mann and Whitney 1947": "reference",
    "2 (k + 1) / (B + 1)": "formula of p",
}
"""Phrases with digits that no run decides, with the reason for each."""

_SCALE = {"pct0": 100, "pct1": 100, "pct2": 100}
_WHOLE = ("n", "id")
_TINY_P, _LEAST_P = "< 1e-15", Decimal("1e-15")
"""How a p is written that is smaller than this, and no other p."""
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
_SLACK = 1e-6
_DIGIT = re.compile(r"\d")
MARKDOWN, HTML, BODY = "report.md", "report.html", "verdict.json"


def check_report(folder: Path) -> list[str]:
    """Return what is wrong with the report in a folder, nothing where all is well.

    Args:
        folder: holds verdict.json, report.md, report.html and ``figures``.
    """
    lacking = [name for name in (BODY, MARKDOWN, HTML) if not (folder / name).is_file()]
    if lacking:
        return [f"{name} is not there: judge again with --report={folder}" for name in lacking]
    body = json.loads((folder / BODY).read_text(encoding="utf-8"))
    if (version := body.get("format")) not in FORMATS:
        known = " or ".join(map(str, FORMATS))
        return [f"{BODY}: format: expected {known}, got {version!r}: judge again with --report"]
    found = read_page((folder / HTML).read_text(encoding="utf-8"))
    problems = list(_page(found, body))
    problems += _order(tokens(found), markdown_tokens((folder / MARKDOWN).read_text("utf-8")))
    return problems + list(_figures(folder, found, body))


def _page(found: Read, body: Any) -> Iterator[str]:
    if not any(piece.at for piece in found.pieces):
        yield f"{HTML}: no number names its place in {BODY}"
    problems = [*filter(None, (wrong(piece, body) for piece in found.pieces))]
    problems += [problem for row in found.rows for problem in _row(row)]
    yield from (f"{HTML}: {problem}" for problem in (*problems, *found.problems))


def wrong(piece: Found, body: Any) -> str:
    """Return what is wrong with one piece, "" where nothing is."""
    if not piece.at:
        rest = piece.text
        for phrase in ALLOWED:
            rest = rest.replace(phrase, "")  # what is left of a longer number is still a digit
        left = _DIGIT.search(rest)
        return f"digits from nowhere in {_short(piece.text)}" if left else ""
    try:
        value = resolve(body, piece.at)
    except (KeyError, IndexError, ValueError, TypeError):
        return f"{_short(piece.text)} names {piece.at}, which is not there"
    if piece.form == "key":
        name = _name(piece.at.rsplit("/", 1)[1])
        return "" if visible(name) == piece.text else _differs(piece, name)
    if piece.form == "words":
        same = isinstance(value, str) and visible(value) == piece.text
        return "" if same else _differs(piece, value)
    return "" if _renders(piece.text, value, piece.form) else _differs(piece, value)


def _renders(text: str, value: Any, form: str) -> bool:
    """Whether a text is a number rounded as printed: half a unit of its last digit at most."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if form == "p" and (text == _TINY_P or 0 <= value < _LEAST_P):
        return text == _TINY_P and 0 < value < _LEAST_P
    if not _NUMBER.fullmatch(text) or not _well_grouped(text):
        return False
    try:
        printed = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return False
    exact = Decimal(repr(value)) * _SCALE.get(form, 1)
    if form in (*_WHOLE, "bound"):
        return printed == exact
    unit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    # Binary halves fall on either side: a little more than half a unit is still a rounding.
    return abs(printed - exact) <= unit / 2 * (1 + Decimal("1e-9"))


def _well_grouped(text: str) -> bool:
    whole = text.lstrip("+-").split(".")[0]
    return "," not in whole or re.fullmatch(r"\d{1,3}(,\d{3})+", whole) is not None


def resolve(body: Any, pointer: str) -> Any:
    """Return what a JSON pointer (RFC 6901) names.

    Raises:
        KeyError, IndexError, ValueError, TypeError: nothing is there.
    """
    for part in pointer.split("/")[1:]:
        body = body[int(part)] if isinstance(body, list) else body[_name(part)]
    return body


def _name(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _row(row: list[list[Found]]) -> Iterator[str]:
    """Every cell of a row speaks of what its header names."""
    head = next((piece for piece in row[0] if piece.at), None)
    if head is None:
        return
    for piece in (piece for cell in row[1:] for piece in cell if piece.at):
        if not _belongs(piece.at, head):
            yield f"{_short(piece.text)} of {piece.at} stands in the row of {head.at}"


def _belongs(at: str, head: Found) -> bool:
    """Whether a place is inside what the header names, or in something that holds it."""
    parent, _, last = head.at.rpartition("/")
    above, _, tail = at.rpartition("/")
    if last.isdigit() and head.form != "key" and _above(above) == _above(parent):
        return tail == last  # names and figures are arrays side by side
    scope = head.at if head.form == "key" else parent
    return at == head.at or at.startswith(f"{scope}/") or head.at.startswith(f"{above}/")


def _above(pointer: str) -> str:
    return pointer.rpartition("/")[0]


def _order(page: list[str], markdown: list[str]) -> list[str]:
    """The first place where the two documents differ."""
    for i, (one, other) in enumerate(zip(page, markdown, strict=False)):
        if one != other:
            before = " ".join(page[max(0, i - 4) : i])
            return [f"{MARKDOWN}: {other} where {HTML} has {one}, after: {before}"]
    if len(page) != len(markdown):
        return [f"{MARKDOWN} holds {len(markdown)} numbers and names, {HTML} {len(page)}"]
    return []


def _figures(folder: Path, found: Read, body: Any) -> Iterator[str]:
    inside = folder / "figures"
    names = sorted(path.stem for path in inside.glob("*.json")) if inside.is_dir() else []
    shown = {base64.b64decode(source.partition("base64,")[2]) for source in found.images}
    for name in names:
        paths = [inside / f"{name}{suffix}" for suffix in (".svg", ".png", ".json")]
        if not all(path.is_file() for path in paths):
            yield f"figures/{name}: not all of SVG, PNG and JSON are there"
            continue
        svg = paths[0].read_bytes()
        if svg not in shown:
            yield f"figures/{name}.svg is not the figure of {HTML}"
        record = json.loads(paths[2].read_text(encoding="utf-8"))
        where = f"figures/{name}"
        yield from (f"{where}.json: {p}" for p in _plotted(record["plotted"], body))
        yield from (f"{where}.svg: {p}" for p in _svg(svg.decode(), record, body))
    if len(shown) != len(names):
        yield f"{HTML} holds {len(shown)} figures, the folder {len(names)}"


def _plotted(node: Any, body: Any) -> Iterator[str]:
    """Every number is the one at its place, to the last digit."""
    if isinstance(node, dict) and "at" in node:
        try:
            value = resolve(body, node["at"])
        except (KeyError, IndexError, ValueError, TypeError):
            yield f"{node['at']} is not there"
            return
        if value != node["value"]:
            yield f"{node['value']} is not what stands at {node['at']}: {_short(value)}"
    elif isinstance(node, dict):
        for one in node.values():
            yield from _plotted(one, body)
    elif isinstance(node, list):
        for one in node:
            yield from _plotted(one, body)
    elif isinstance(node, (int, float)):
        yield f"{node} names no place"


def _svg(svg: str, record: Any, body: Any) -> Iterator[str]:
    """The texts with a digit are the ticks of scales and runs of checked pieces, no others."""
    noted: Counter[str] = Counter()
    for run in record["texts"]:
        pieces = found_of(run)
        yield from filter(None, (wrong(piece, body) for piece in pieces))
        noted["".join(piece.text for piece in pieces)] += 1
    for scale in record["ticks"]:
        marks = [float(text) for text in scale]
        if not (_even(marks) or marks == _decades(len(marks))):
            yield f"the ticks {', '.join(scale)} are not evenly spaced"
        noted.update(scale)
    drawn = Counter(svg_texts(svg))
    for text in sorted(set(drawn) | set(noted)):
        if _DIGIT.search(text) and drawn[text] != noted[text]:
            yield f"{_short(text)} stands there {drawn[text]} times, noted are {noted[text]}"


def _even(ticks: list[float]) -> bool:
    steps = [b - a for a, b in pairwise(ticks)]
    return not steps or (min(steps) > 0 and max(steps) - min(steps) <= _SLACK)


def _decades(count: int) -> list[float]:
    """Return the marks of a logarithmic scale that begins with nothing."""
    return [0.0, *(10.0**k for k in range(count - 1))]


def svg_texts(svg: str) -> list[str]:
    """Return the texts of an SVG that this project has drawn."""
    from html import unescape

    return [unescape(text).strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def _differs(piece: Found, value: Any) -> str:
    return f"{_short(piece.text)} is not what stands at {piece.at}: {_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 90 else f"{text[:87]}..."  # noqa: PLR2004  (one line)
