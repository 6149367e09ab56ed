"""Hero: rates of every arm with intervals, and the registered differences with their rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persona_lib.report.figures.style import (
    FAINT,
    INK,
    SMALL,
    SOFT,
    Drawing,
    arm_style,
    percent_axis,
    sheet,
    spread,
)
from persona_lib.report.pieces import Node, Number, Run, listed, span

_FIRST, _SECOND = 0.43, 1.0
"""Right ends of the two columns of numbers, in parts of the axes at the right."""
_RULE = "#A34800"
NOTHING = "No arm was judged, so there are no rates to draw."
_AT_LEAST = r"\bd >= (\d+(?:\.\d+)?)"
_WITHIN = r"\|d\| <= (\d+(?:\.\d+)?)"
_KILL = r"rate <= (\d+(?:\.\d+)?)"


def hero(root: Node) -> Drawing | str:
    """Return rates above and differences below, thresholds drawn in both."""
    arms = list(root["summary"]["arms"])
    if not arms:
        return NOTHING
    claims = [
        v for v in root["verdicts"] if v["effect"]["signed"].value and v["effect"]["value"].known
    ]
    ratios = [len(arms) + 0.6, max(len(claims), 1) + 0.4]
    drawing, axes = sheet(
        1.0 + 0.25 * (len(arms) + len(claims)) + (0.6 if claims else 0.2),
        2 if claims else 1,
        2,
        squeeze=False,
        width_ratios=[2.1, 1],
        **({"height_ratios": ratios} if claims else {}),
    )
    kill = kill_rate(root)
    _rates(drawing, axes[0], arms, kill, source_gate(root))
    if claims:
        _differences(drawing, axes[1], claims)
    drawing.caption = _caption(root, claims, kill, source_gate(root))
    drawing.alt = _alt(arms, claims)
    return drawing


def _rates(
    drawing: Drawing, axes: Any, arms: Sequence[Node], kill: Number | None, gate: Node | None
) -> None:
    (ax, side), top = axes, len(arms) - 1
    _lines(drawing, ax, kill, gate)
    for i, arm in enumerate(arms):
        y, (colour, mark) = top - i, arm_style(i)
        for pool, filled in (("source", False), ("bystanders", True)):
            count = arm[pool]
            if not count["rate"].known:
                continue
            spread(ax, y, count, colour)
            face = colour if filled else "white"
            ax.plot(
                [count["rate"].float], [y], mark, color=colour, mfc=face, ms=4.5, mew=1, zorder=3
            )
            drawing.plot(
                f"{arm['name'].value} {pool}",
                value=count["rate"],
                low=count["low"],
                high=count["high"],
            )
            place = _FIRST if filled else _SECOND
            _beside(drawing, side, place, y, (count["rate"].num("pct1"),), color=INK)
    drawing.label(ax, [float(top - i) for i in range(len(arms))], [_named(arm) for arm in arms])
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.6, top + 0.6))
    percent_axis(ax, "completions with the marker, %")
    _aside(side, top)
    _beside(drawing, side, _FIRST, top + 1, ("●",))
    _beside(drawing, side, _SECOND, top + 1, ("○",))
    ax.text(0.0, top + 1, "● bystanders  ○ source", fontsize=SMALL, ha="left", va="center")


def _lines(drawing: Drawing, ax: Any, kill: Number | None, gate: Node | None) -> None:
    if kill is not None:
        at = float(kill.text)
        ax.axvline(at, color=INK, lw=0.8, ls=(0, (3, 2)), zorder=0)
        drawing.plot("kill criterion", value=kill)
        drawing.write(ax, at + 0.02, -0.42, ("kill criterion",), color=INK)
    if gate is not None:
        at = gate.float
        ax.axvline(at, color=SOFT, lw=0.8, ls=(0, (1, 1.5)), zorder=0)
        drawing.plot("source gate", value=gate)
        drawing.write(ax, at + 0.02, -0.42, ("source gate",), color=SOFT)


def _differences(drawing: Drawing, axes: Any, claims: Sequence[Node]) -> None:
    (ax, side), top = axes, len(claims) - 1
    ax.axvline(0, color=FAINT, lw=0.8, zorder=0)
    ends = [0.0]
    for i, claim in enumerate(claims):
        y, effect = top - i, claim["effect"]
        drawing.plot(str(claim["name"].value), **{k: effect[k] for k in ("value", "low", "high")})
        spread(ax, y, effect, INK, 1.2)
        ax.plot([effect["value"].float], [y], "o", color=INK, ms=4, zorder=3)
        _beside(drawing, side, _FIRST, y, (effect["value"].num("s3"),))
        ends += [
            node.float for node in (effect["value"], effect["low"], effect["high"]) if node.known
        ]
        if (band := claim["rule"].within(_WITHIN)) is not None:
            wide = float(band.text)
            ax.fill_betweenx([y - 0.32, y + 0.32], -wide, wide, color=FAINT, lw=0, zorder=0)
            drawing.plot(f"{claim['name'].value} band", value=band)
        if (least := claim["rule"].within(_AT_LEAST)) is not None:
            at = float(least.text)
            ends.append(at)
            ax.plot([at, at], [y - 0.32, y + 0.32], color=_RULE, lw=1.6, zorder=2)
            drawing.plot(f"{claim['name'].value} rule", value=least)
            _beside(drawing, side, _SECOND, y, (">= ", least), color=_RULE)
    room = 0.06 * (max(ends) - min(ends) + 0.1)
    ax.set(xlim=(min(ends) - room, max(ends) + room), ylim=(-0.6, top + 0.6))
    _aside(side, top)
    _beside(drawing, side, _FIRST, top + 0.95, ("d",), style="italic")
    _beside(drawing, side, _SECOND, top + 0.95, ("rule",), color=_RULE)
    drawing.label(ax, [float(top - i) for i in range(len(claims))], [_contrast(c) for c in claims])
    ax.set_xlabel("difference d of bystander rates")


def _aside(side: Any, top: int) -> None:
    """Give the columns of numbers the rows of the axes at their left."""
    side.set(xlim=(0, 1), ylim=(-0.6, top + 0.6))
    side.axis("off")


def _beside(drawing: Drawing, ax: Any, place: float, y: float, run: Run, **how: Any) -> None:
    """Write into one of the two columns of numbers."""
    drawing.write(ax, place, y, run, **{"ha": "right", **how})


def _contrast(claim: Node) -> Run:
    """Name a claim with what it compares: the contrast up to its comma."""
    found = claim["contrast"].within(r"^([^,]+),")
    return (claim["name"].words(),) if found is None else (claim["name"].words(), ": ", found)


def _named(arm: Node) -> Run:
    return (arm["name"].words(), " (", arm["prior"].words(), ")")


def kill_rate(root: Node) -> Number | None:
    """Return the bystander rate at which the kill criterion fires, read out of its rule."""
    rules = (verdict["rule"] for verdict in root["verdicts"])
    return next((found for rule in rules if (found := rule.within(_KILL)) is not None), None)


def source_gate(root: Node) -> Node | None:
    """Return the bound of the first gate of one arm's source rate."""
    kinds = ("SourceRateGate", "SourceBoundGate")
    found = (gate["threshold"] for gate in root["gates"] if gate["kind"].value in kinds)
    return next((bound for bound in found if bound.known), None)


def _caption(root: Node, claims: Sequence[Node], kill: Number | None, gate: Node | None) -> Run:
    level = (root["summary"]["confidence"].num("pct0"), " %")
    description: Run = (
        "Rates of the marker per arm, with the model it was coupled on in brackets; Wilson's ",
        *level,
        " interval, clusters ignored. ",
    )
    if kill is not None:
        description += ("Dashed: the kill criterion, a bystander rate <= ", kill, ". ")
    if gate is not None:
        description += ("Dotted: the gate on the source rate, >= ", gate.num("bound"), ". ")
    if claims:
        description += (
            "Below, the registered differences with the interval of the registered method: ",
            claims[0]["effect"]["method"].words(),
            ". The bar marks the least difference that the rule names, the grey band the "
            "differences that the rule counts as none.",
        )
    return description


def _alt(arms: Sequence[Node], claims: Sequence[Node]) -> Run:
    rates = [
        (
            arm["name"].words(),
            " source ",
            arm["source"]["rate"].num("pct1"),
            ", bystanders ",
            arm["bystanders"]["rate"].num("pct1"),
        )
        for arm in arms
    ]
    description: Run = ("Dot plot of marker rates in percent: ", *listed(rates, "; "), ".")
    if claims:
        effects = [(c["name"].words(), " ", *span(c["effect"], "s3")) for c in claims]
        description += (" Differences of bystander rates: ", *listed(effects, "; "), ".")
    return description
