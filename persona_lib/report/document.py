"""The report: Markdown, one HTML file, and figures, all from a parsed verdict.json.

Nothing else is read. The same body gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from persona_lib.errors import DataError
from persona_lib.report import closing, opening, sections
from persona_lib.report.blocks import Para, Picture, Section
from persona_lib.report.caveats import caveats
from persona_lib.report.figures import FIGURES, Drawing, draw, files_of
from persona_lib.report.markdown import markdown
from persona_lib.report.page import page
from persona_lib.report.panel_sections import panels
from persona_lib.report.pieces import Node, Run
from persona_lib.verdict.training_runs import BORNE_OUT, INVALID

FORMATS = (2,)
"""Versions of verdict.json that can be reported."""
MARKDOWN, HTML, FOLDER = "report.md", "report.html", "figures"


def write_report(folder: Path, body: Mapping[str, Any]) -> list[Path]:
    """Write report.md, report.html and the figures, and return their paths.

    Args:
        folder: made where it does not exist; figures go into ``figures`` inside it.
        body: parsed verdict.json; every number of the report is read from it.

    Raises:
        DataError: the body is not of a known format.
    """
    root = _checked(body)
    drawn = draw(root)
    inside = folder / FOLDER
    inside.mkdir(parents=True, exist_ok=True)
    files: dict[Path, bytes] = {}
    for name, drawing in drawn.items():
        if isinstance(drawing, Drawing):
            files |= {inside / file: data for file, data in files_of(name, drawing).items()}
    pictures = {
        name: Picture(name, drawing.alt, drawing.caption)
        if isinstance(drawing, Drawing)
        else Para((drawing,))
        for name, drawing in drawn.items()
    }
    found = compose(root, body, pictures)
    svg = {path.stem: data for path, data in files.items() if path.suffix == ".svg"}
    title, lead = root["summary"]["title"], lead_of(root)
    files[folder / MARKDOWN] = markdown(title.words(), lead, found).encode()
    files[folder / HTML] = page(title.words(), lead, found, svg).encode()
    _clear(inside, set(files))
    for path, data in files.items():
        _replace(path, data)
    return sorted(files)


def compose(root: Node, body: Mapping[str, Any], pictures: sections.Pictures) -> list[Section]:
    """Return the sections of a report, in the order in which they are read."""
    return [
        opening.question(root),
        sections.verdicts(root, pictures),
        sections.raised(caveats(body)),
        sections.gates(root),
        sections.arms(root, pictures),
        *panels(root, pictures),
        closing.methods(root),
        closing.provenance(root),
        closing.cost(root),
        *closing.judging(root),
    ]


def lead_of(root: Node) -> Run:
    """Return the report in one paragraph: every claim with its outcome."""
    description: list[Any] = ["Flatland, registration ", root["registration"].words(), ". "]
    for verdict in root["verdicts"]:
        description += [verdict["name"].words(), " (", verdict["statement"].words(), "): "]
        description += [*sections.outcome(verdict)]
        over = verdict["over_runs"]
        if over and over["status"].value not in (BORNE_OUT, INVALID):
            description += ["; ", over["text"].words()]
        description.append(". ")
    return (*description, "Read the caveats before the figures.")


def _checked(body: Mapping[str, Any]) -> Node:
    if body.get("format") not in FORMATS or not isinstance(body.get("summary"), dict):
        raise DataError(
            "verdict.json: format",
            bound=f"one of {', '.join(map(str, FORMATS))}, with a summary",
            value=body.get("format"),
            remedy="Judge again with --report=DIR; this code writes the report of such a file.",
        )
    return Node(dict(body))


def _clear(inside: Path, wanted: set[Path]) -> None:
    """Remove figures of an earlier report that this one does not draw."""
    for name in FIGURES:
        for suffix in (".png", ".svg", ".json"):
            old = inside / f"{name}{suffix}"
            if old not in wanted:
                old.unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_bytes(data)
    draft.replace(path)
