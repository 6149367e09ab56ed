"""A report as one HTML file: no network, no script, everything escaped by jinja2."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

from persona_lib.report.blocks import Block, Section
from persona_lib.report.pieces import Piece, Run, as_data, kind_of, plain

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
    environment.filters |= {"plain": plain, "pieces": _as_json, "kind_of": kind_of, "type": _type}
    sources = {name: base64.b64encode(data).decode() for name, data in svg.items()}
    return environment.get_template(TEMPLATE).render(
        title=title, lead=lead, sections=sections, svg=sources
    )


def _type(block: Block) -> str:
    return type(block).__name__


def _as_json(run: Run) -> str:
    return json.dumps(as_data(run), ensure_ascii=False)
