"""A report as one HTML file: no network, no script, everything escaped by jinja2."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from persona_lib.report.blocks import Section
from persona_lib.report.pieces import Number, Piece, Quote, Run, plain

TEMPLATE = "report.html.j2"


def page(title: Piece, lead: Run, sections: Sequence[Section], svg: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        title: the question.
        lead: the report in a paragraph.
        sections: what is shown, in order.
        svg: figures by name; they go into the page as data.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("persona_lib.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "pieces": pieces, "kind_of": _kind_of}
    sources = {name: base64.b64encode(data).decode() for name, data in svg.items()}
    return environment.get_template(TEMPLATE).render(
        title=title, lead=lead, sections=sections, svg=sources
    )


def pieces(run: Run) -> str:
    """Return a run as JSON: own words as strings, the rest with their pointers."""
    return json.dumps([_describe(piece) for piece in run], ensure_ascii=False)


def _describe(piece: Piece) -> Any:
    if isinstance(piece, str):
        return piece
    return [piece.text, piece.at, _kind_of(piece)]


def _kind_of(piece: Piece) -> str:
    """Return how a piece is to be checked: ``words``, ``key``, ``own``, or a number's form."""
    if isinstance(piece, Number):
        return piece.form
    if isinstance(piece, Quote):
        return "key" if piece.key else "words"
    return "own"
