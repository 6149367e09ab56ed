"""Forest: the rate of every persona in every arm, with Wilson's interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from persona_lib.report.figures.style import (
    FAINT,
    SMALL,
    SOFT,
    Drawing,
    arm_styles,
    distinct,
    key,
    key_below,
    percent_axis,
    sheet,
    spread,
)
from persona_lib.report.pieces import Node, plain

NOTHING = "No rates of single personas are known, so no forest is drawn."
ROLES = ("source", "negative", "bystander", "reported")
_OF_SOURCES = (
    " A column for each source persona; in it the other sources are reported beside the bystanders."
)
_WORDS = {"negative": "trained negatives", "bystander": "bystanders"}


def forest(root: Node) -> Drawing | str:
    """Return one row for each persona, one mark for each arm in it; a column for each source."""
    arms = [arm for arm in root["summary"]["arms"] if arm["personas"]]
    if not arms:
        return NOTHING
    order = _rows(arms)
    places, heads, y = _places(order)
    sources = distinct(arm["persona"] for arm in arms)
    several = len(sources) > 1
    drawing, axes = sheet(
        (1.15 if several else 0.8) + 0.31 * -y, 1, len(sources), squeeze=False, sharey=True
    )
    solid = {"fillstyle": "full", "mew": 0} if several else {}  # columns tell sources apart
    styled = [(arm, style | solid) for arm, style in zip(arms, arm_styles(arms), strict=True)]
    for ax, source in zip(axes[0], sources, strict=True):
        own = [pair for pair in styled if pair[0]["persona"].value == source.value]
        _marks(drawing, ax, own, places)
        for place in places.values():
            ax.plot([0, 1], [place - 0.5, place - 0.5], color=FAINT, lw=0.4, zorder=0)
        ax.set(xlim=(-0.02, 1.02), ylim=(y + 0.4, 0.5))
        ax.tick_params(axis="y", length=0)
        percent_axis(ax, "with the marker, %" if several else "completions with the marker, %")
        if several:
            drawing.texts.append((source.words(),))
            ax.set_title(plain((source.words(),)), fontsize=SMALL)
    for role, place in heads.items():
        axes[0][0].text(0.0, place, _WORDS.get(role, role), fontsize=SMALL, color=SOFT,
                        va="center", style="italic")  # fmt: skip
    drawing.label(
        axes[0][0],
        [places[str(r["persona"].value)] for r in order],
        [(r["persona"].words(),) for r in order],
    )
    if several:
        key_below(drawing, arms, sources=False)
    else:
        key(drawing, axes[0][0], arms, 1.02)
    drawing.caption = (
        "Every persona in every arm, with Wilson's ",
        root["summary"]["confidence"].num("pct0"),
        " % interval, clusters ignored: completions to one question are not independent, so that "
        "these are, if anything, too narrow.",
        *((_OF_SOURCES,) if several else ()),
    )
    drawing.alt = (
        "Forest plot of the marker rate of each persona in each arm, grouped into source, trained "
        "negatives, bystanders and reported. The tables below hold the same numbers.",
    )
    return drawing


def _places(order: Sequence[Node]) -> tuple[dict[str, float], dict[str, float], float]:
    """Return the heights of personas and of the heads of roles, and where both end."""
    places: dict[str, float] = {}
    heads: dict[str, float] = {}
    y = 0.0
    for row in order:
        if (role := str(row["role"].value)) not in heads:
            heads[role] = y - 0.02
            y -= 0.72
        places[str(row["persona"].value)] = y
        y -= 1.0
    return places, heads, y


def _marks(
    drawing: Drawing,
    ax: Any,
    arms: Sequence[tuple[Node, dict[str, Any]]],
    places: Mapping[str, float],
) -> None:
    step = 0.74 / len(arms)
    for i, (arm, style) in enumerate(arms):
        for row in arm["personas"]:
            if not row["rate"].known:
                continue
            persona = str(row["persona"].value)
            at = places[persona] + 0.37 - step * (i + 0.5)
            spread(ax, at, row, style["color"], 0.9)
            ax.plot([row["rate"].float], [at], ms=3, **style)
            drawing.plot(
                f"{arm['name'].value} {persona}",
                value=row["rate"],
                low=row["low"],
                high=row["high"],
            )


def _rows(arms: Sequence[Node]) -> list[Node]:
    """Return one entry for each persona of any arm, by the first of its roles."""
    known = {role: i for i, role in enumerate(ROLES)}

    def rank(row: Node) -> int:
        return known.get(str(row["role"].value), len(ROLES))

    seen: dict[str, Node] = {}
    for row in (row for arm in arms for row in arm["personas"]):
        name = str(row["persona"].value)
        if name not in seen or rank(row) < rank(seen[name]):
            seen[name] = row
    return sorted(seen.values(), key=rank)
