"""Figures of a report as PNG, SVG and a JSON of what is plotted, or a sentence if empty."""

from __future__ import annotations

from collections.abc import Callable

from persona_lib.report.figures.cosines import cosines
from persona_lib.report.figures.doses import doses
from persona_lib.report.figures.forest import forest
from persona_lib.report.figures.hero import hero
from persona_lib.report.figures.lengths import lengths
from persona_lib.report.figures.scatter import scatter
from persona_lib.report.figures.style import Drawing, files_of, styled
from persona_lib.report.pieces import Node

FIGURES: dict[str, Callable[[Node], Drawing | str]] = {
    "hero": hero,
    "forest": forest,
    "scatter": scatter,
    "cosines": cosines,
    "lengths": lengths,
    "doses": doses,
}


def draw(root: Node) -> dict[str, Drawing | str]:
    """Return every figure of a verdict.json by name, or the sentence that stands in its place."""
    with styled():
        return {name: make(root) for name, make in FIGURES.items()}


__all__ = ["FIGURES", "Drawing", "draw", "files_of"]
