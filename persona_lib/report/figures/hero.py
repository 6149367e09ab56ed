"""Hero: rates of every arm with intervals, and the registered differences with their rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from persona_lib.report.figures.style import (
    FAINT,
    INK,
    SMALL,
    SOFT,
    Drawing,
    arm_styles,
    distinct,
    percent_axis,
    sheet,
    spread,
)
from persona_lib.report.pieces import Node, Run, listed, span
from persona_lib.stats.run_contrasts import RUN_METHOD

_FIRST, _SECOND = 0.38, 1.0
"""Right ends of the two columns of numbers, in parts of the axes at the right."""
_RULE, _REACH = "#A34800", 0.32
"""Colour of a rule, and how far it reaches above and below its row."""
_ENDS = ("lower end", "upper end")
"""What the rule of a claim over training runs compares with its bound."""
_BARS = "Bars are the bounds on d that support a claim, with the band between two of them in grey"
_BARS_OF_RUNS = (
    "A bar is the smallest rise worth publishing, beyond which the whole interval has to lie to "
    "support a claim"
)
NOTHING = "No arm was judged, so there are no rates to draw."


def hero(root: Node) -> Drawing | str:
    """Return rates above and differences below, each with the conditions of its own rule."""
    arms = list(root["summary"]["arms"])
    if not arms:
        return NOTHING
    claims = [
        v for v in root["verdicts"] if v["effect"]["signed"].value and v["effect"]["value"].known
    ]
    rows = _rows(arms)
    ratios = [len(rows) + 0.6, max(len(claims), 1) + 0.4]
    drawing, axes = sheet(
        1.0 + 0.25 * (len(rows) + len(claims)) + (0.6 if claims else 0.2),
        2 if claims else 1,
        2,
        squeeze=False,
        width_ratios=[1.55, 1],
        **({"height_ratios": ratios} if claims else {}),
    )
    _rates(drawing, axes[0], rows, root)
    if claims:
        _differences(drawing, axes[1], claims)
    drawing.caption = _caption(root, claims)
    drawing.alt = _alt(arms, claims)
    return drawing


def _rows(arms: Sequence[Node]) -> list[tuple[Node | None, Run]]:
    """Return arms with their names; of several sources, each source before its arms' cells."""
    sources = distinct(arm["persona"] for arm in arms)
    rows: list[tuple[Node | None, Run]] = []
    for source in sources:
        several = len(sources) > 1
        rows += [(None, (source.words(),))] if several else []
        for arm in arms:
            if arm["persona"].value == source.value:
                name = arm["cell"] if several else arm["name"]
                rows.append((arm, (name.words(), " (", arm["prior"].words(), ")")))
    return rows


def _rates(
    drawing: Drawing, axes: Any, rows: Sequence[tuple[Node | None, Run]], root: Node
) -> None:
    (ax, side), top = axes, len(rows) - 1
    arms = [arm for arm, _ in rows if arm is not None]
    styles = {arm.at: style for arm, style in zip(arms, arm_styles(arms), strict=True)}
    gate, kill = source_gate(root), kill_condition(root)
    if gate is not None:
        ax.axvline(gate.float, color=SOFT, lw=0.8, ls=(0, (1, 1.5)), zorder=0)
        drawing.plot("source gate", value=gate)
        drawing.write(ax, gate.float + 0.02, -0.42, ("source gate",), color=SOFT)
    for i, (arm, _) in enumerate(rows):
        if arm is None:
            continue
        y, colour, mark = top - i, styles[arm.at]["color"], styles[arm.at]["marker"]
        if kill is not None and arm["name"].value == kill[0].value:
            at = kill[1]["bound"].float
            ax.plot([at, at], [y - 0.48, y + 0.48], color=INK, lw=1.0, ls=(0, (3, 2)), zorder=0)
            drawing.plot("kill criterion", value=kill[1]["bound"])
            drawing.write(ax, at + 0.02, y - 0.4, ("kill criterion",), color=INK)
        for pool, filled in (("source", False), ("bystanders", True)):
            count = arm[pool]
            if not count["rate"].known:
                continue
            spread(ax, y, count, colour)
            face = colour if filled else "white"
            ax.plot(
                [count["rate"].float], [y], mark, color=colour, mfc=face, ms=4.5, mew=1, zorder=3
            )
            ends = {"value": count["rate"], "low": count["low"], "high": count["high"]}
            drawing.plot(f"{arm['name'].value} {pool}", **ends)
            place = _FIRST if filled else _SECOND
            _beside(drawing, side, place, y, (count["rate"].num("pct1"),), color=INK)
    drawing.label(ax, [float(top - i) for i in range(len(rows))], [name for _, name in rows])
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.6, top + 0.6))
    percent_axis(ax, "completions with the marker, %")
    _aside(side, top)
    _beside(drawing, side, _FIRST, top + 1, ("●",))
    _beside(drawing, side, _SECOND, top + 1, ("○",))
    ax.text(0.0, top + 1, "● bystanders  ○ source", fontsize=SMALL, ha="left", va="center")


def _differences(drawing: Drawing, axes: Any, claims: Sequence[Node]) -> None:
    (ax, side), top = axes, len(claims) - 1
    ax.axvline(0, color=FAINT, lw=0.8, zorder=0)
    ends = [0.0]
    for i, claim in enumerate(claims):
        y, effect = top - i, claim["effect"]
        ends += _rule(drawing, ax, side, claim, y)
        known = {k: effect[k] for k in ("value", "low", "high")}
        drawing.plot(str(claim["name"].value), **known)
        spread(ax, y, effect, INK, 1.2)
        ax.plot([effect["value"].float], [y], "o", color=INK, ms=4, zorder=3)
        _beside(drawing, side, _FIRST, y, (effect["value"].num("s3"),))
        ends += [node.float for node in known.values() if node.known]
    room = 0.06 * (max(ends) - min(ends) + 0.1)
    ax.set(xlim=(min(ends) - room, max(ends) + room), ylim=(-0.6, top + 0.6))
    _aside(side, top)
    over_runs = all(of_runs(claim) for claim in claims)
    head, style = ("effect", "normal") if over_runs else ("d", "italic")
    _beside(drawing, side, _FIRST, top + 0.95, (head,), style=style)
    _beside(drawing, side, _SECOND, top + 0.95, ("rule",), color=_RULE)
    drawing.label(ax, [float(top - i) for i in range(len(claims))], [_contrast(c) for c in claims])
    ax.set_xlabel("contrast over training runs" if over_runs else "difference d of bystander rates")


def _rule(drawing: Drawing, ax: Any, side: Any, claim: Node, y: float) -> Iterator[float]:
    """Draw a claim's conditions on d: what supports it, and dotted what refutes it.

    Yields:
        the bounds, which the axis has to hold.
    """
    rows = [y - _REACH, y + _REACH]
    for one in claim["conditions"]:
        measure, bound = str(one["measure"].value), one["bound"]
        of_interval = of_runs(claim) and measure.endswith(_ENDS)
        if not (measure in ("d", "|d|") or of_interval) or not bound.known:
            continue
        supports, at = one["gives"].value == "SUPPORTED", bound.float
        places = (-at, at) if measure == "|d|" else (at,)
        if measure == "|d|":
            ax.fill_betweenx(rows, -at, at, color=FAINT, lw=0, zorder=0)
        for place in places:
            how = {"lw": 1.6} if supports else {"lw": 1.0, "ls": (0, (1, 1.5))}
            ax.plot(
                [place, place], rows, color=_RULE if supports else SOFT, zorder=1 + supports, **how
            )
        drawing.plot(f"{claim['name'].value} {one['gives'].value}", value=bound)
        if supports:
            name: Run = (one["measure"].words(), " ") if measure == "|d|" else ()
            name = ("all ",) if of_interval else name
            words = (*name, one["operator"].words(), " ", bound.num("bound"))
            _beside(drawing, side, _SECOND, y, words, color=_RULE)
        yield from places


def _aside(side: Any, top: int) -> None:
    """Give the columns of numbers the rows of the axes at their left."""
    side.set(xlim=(0, 1), ylim=(-0.6, top + 0.6))
    side.axis("off")


def _beside(drawing: Drawing, ax: Any, place: float, y: float, run: Run, **how: Any) -> None:
    """Write into one of the two columns of numbers."""
    drawing.write(ax, place, y, run, **{"ha": "right", **how})


def _contrast(claim: Node) -> Run:
    """Name a claim with the arms that it compares."""
    arms = [(arm.words(),) for arm in claim["arms"]]
    if len(arms) != 2 or of_runs(claim):  # noqa: PLR2004  (cells are weighed: the table says how)
        return (claim["name"].words(),)
    return (claim["name"].words(), ": ", *listed(arms, " - "))


def of_runs(claim: Node) -> bool:
    """Whether a verdict is that of a rule over training runs."""
    return bool(claim["effect"]["method"].value == RUN_METHOD)


def kill_condition(root: Node) -> tuple[Node, Node] | None:
    """Return the arm of the kill criterion and its condition on that arm's rate."""
    for verdict in root["verdicts"]:
        if verdict["effect"]["signed"].value is False and verdict["arms"]:
            for one in verdict["conditions"]:
                return verdict["arms"][0], one
    return None


def source_gate(root: Node) -> Node | None:
    """Return the bound of the first gate of one arm's source rate."""
    kinds = ("SourceRateGate", "SourceBoundGate")
    found = (gate["threshold"] for gate in root["gates"] if gate["kind"].value in kinds)
    return next((bound for bound in found if bound.known), None)


def _caption(root: Node, claims: Sequence[Node]) -> Run:
    gate, kill = source_gate(root), kill_condition(root)
    words: Run = (
        "Rates of the marker per arm, with the model it was coupled on in brackets; Wilson's ",
        root["summary"]["confidence"].num("pct0"),
        " % interval, clusters ignored. ",
    )
    if kill is not None:
        measure, operator = kill[1]["measure"].words(), kill[1]["operator"].words()
        bound = kill[1]["bound"].num("bound")
        words += ("Dashed: the kill criterion, ", measure, " ", operator, " ", bound, ". ")
    if gate is not None:
        words += ("Dotted: the gate on the source rate, >= ", gate.num("bound"), ". ")
    if claims:
        over_runs = all(of_runs(claim) for claim in claims)
        words += (
            f"Below, the registered {'contrasts' if over_runs else 'differences'} with the "
            "interval of the registered method: ",
            claims[0]["effect"]["method"].words(),
            ". ",
            _BARS_OF_RUNS if over_runs else _BARS,
            "; a dotted bar is a bound that refutes it. What a rule asks of p is in the table.",
        )
    return words


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
        over_runs = all(of_runs(claim) for claim in claims)
        what = "Contrasts over training runs" if over_runs else "Differences of bystander rates"
        description += (f" {what}: ", *listed(effects, "; "), ".")
    return description
