"""Forest: the rate of every persona in every arm, with Wilson's interval."""

from __future__ import annotations

from collections.abc import Sequence

from persona_lib.report.figures.style import (
    FAINT,
    SMALL,
    SOFT,
    Drawing,
    arm_style,
    key,
    percent_axis,
    sheet,
    spread,
)
from persona_lib.report.pieces import Node

NOTHING = "No rates of single personas are known, so no forest is drawn."
ROLES = ("source", "negative", "bystander", "reported")
_WORDS = {"negative": "trained negatives", "bystander": "bystanders"}


def forest(root: Node) -> Drawing | str:
    """Return one row for each persona, one mark for each arm in it."""
    arms = [arm for arm in root["summary"]["arms"] if arm["personas"]]
    if not arms:
        return NOTHING
    order = _rows(arms)
    places: dict[str, float] = {}
    heads: dict[str, float] = {}
    y = 0.0
    for row in order:
        if (role := str(row["role"].value)) not in heads:
            heads[role] = y - 0.02
            y -= 0.72
        places[str(row["persona"].value)] = y
        y -= 1.0
    drawing, ax = sheet(0.8 + 0.31 * -y)
    step = 0.74 / len(arms)
    for i, arm in enumerate(arms):
        colour, mark = arm_style(i)
        for row in arm["personas"]:
            if not row["rate"].known:
                continue
            at = places[str(row["persona"].value)] + 0.37 - step * (i + 0.5)
            spread(ax, at, row, colour, 0.9)
            ax.plot([row["rate"].float], [at], mark, color=colour, ms=3, mew=0)
            drawing.plot(
                f"{arm['name'].value} {row['persona'].value}",
                value=row["rate"],
                low=row["low"],
                high=row["high"],
            )
    for place in places.values():
        ax.plot([0, 1], [place - 0.5, place - 0.5], color=FAINT, lw=0.4, zorder=0)
    for role, place in heads.items():
        ax.text(0.0, place, _WORDS.get(role, role), fontsize=SMALL, color=SOFT, va="center",
                style="italic")  # fmt: skip
    drawing.label(
        ax,
        [places[str(r["persona"].value)] for r in order],
        [(r["persona"].words(),) for r in order],
    )
    key(drawing, ax, arms, 1.02)
    ax.set(xlim=(-0.02, 1.02), ylim=(y + 0.4, 0.5))
    percent_axis(ax, "completions with the marker, %")
    drawing.caption = (
        "Every persona in every arm, with Wilson's ",
        root["summary"]["confidence"].num("pct0"),
        " % interval, clusters ignored: completions to one question are not independent, so that "
        "these are, if anything, too narrow.",
    )
    drawing.alt = (
        "Forest plot of the marker rate of each persona in each arm, grouped into source, trained "
        "negatives, bystanders and reported. The tables below hold the same numbers.",
    )
    return drawing


def _rows(arms: Sequence[Node]) -> list[Node]:
    """Return one entry for each persona of any arm, by role."""
    seen: dict[str, Node] = {}
    for row in (row for arm in arms for row in arm["personas"]):
        seen.setdefault(str(row["persona"].value), row)
    known = {role: i for i, role in enumerate(ROLES)}
    return sorted(seen.values(), key=lambda row: known.get(str(row["role"].value), len(ROLES)))
