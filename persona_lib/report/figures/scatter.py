"""Scatter: source rate against bystander rate, one mark for each arm and training run."""

from __future__ import annotations

from typing import Any

from persona_lib.report.figures.hero import kill_condition, source_gate
from persona_lib.report.figures.style import (
    FAINT,
    INK,
    PERCENT_NAMES,
    PERCENT_TICKS,
    SMALL,
    SOFT,
    Drawing,
    arm_styles,
    key,
    percent_axis,
    sheet,
)
from persona_lib.report.pieces import Node, listed

NOTHING = "No arm has both a source rate and a bystander rate, so no scatter is drawn."


def scatter(root: Node) -> Drawing | str:
    """Return the two rates of every run with Wilson's intervals, pooled where runs are unknown."""
    arms = list(root["summary"]["arms"])
    runs = [(i, arm, run) for i, arm in enumerate(arms) for run in (list(arm["by_seed"]) or [arm])]
    known = [
        (i, arm, run)
        for i, arm, run in runs
        if run["source"]["rate"].known and run["bystanders"]["rate"].known
    ]
    if not known:
        return NOTHING
    drawing, ax = sheet(3.3)
    ax.plot([0, 1], [0, 1], color=FAINT, lw=0.8, zorder=0)
    ax.text(0.6, 0.625, "as often as the source", color=SOFT, fontsize=SMALL, rotation=45,
            rotation_mode="anchor", ha="left", va="bottom")  # fmt: skip
    _rules(drawing, ax, root)
    styles = arm_styles(arms)
    for i, arm, run in known:
        _cross(drawing, ax, styles[i], arm, run)
    # Above the words of the gate, where there is one.
    key(drawing, ax, arms, 1.05 if source_gate(root) is None else 1.13)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    percent_axis(ax, "source with the marker, %")
    ax.set_yticks(PERCENT_TICKS, PERCENT_NAMES)
    ax.set_ylabel("bystanders with the marker, %")
    pooled = not any(arm["by_seed"] for arm in arms)
    drawing.caption = (
        "Source rate and bystander rate, ",
        "all training runs together" if pooled else "one mark for each arm and training run",
        "; crosses are Wilson's ",
        root["summary"]["confidence"].num("pct0"),
        " % intervals, clusters ignored. An arm left of the source gate compares nothing, "
        "wherever its bystanders lie.",
    )
    drawing.alt = (
        "Scatter plot, in percent: ",
        *listed([_describe(a, r) for _, a, r in known], "; "),
        ".",
    )
    return drawing


def _describe(arm: Node, run: Node) -> tuple[Any, ...]:
    seed = (" seed ", run["seed"].num("id")) if run["seed"].known else ()
    rates = (
        run["source"]["rate"].num("pct1"),
        ", bystanders ",
        run["bystanders"]["rate"].num("pct1"),
    )
    return (arm["name"].words(), *seed, " source ", *rates)


def _rules(drawing: Drawing, ax: Any, root: Node) -> None:
    kill, gate = kill_condition(root), source_gate(root)
    if kill is not None:
        arm, bound = kill[0], kill[1]["bound"]
        ax.axhline(bound.float, color=INK, lw=0.8, ls=(0, (3, 2)), zorder=0)
        drawing.plot("kill criterion", value=bound)
        drawing.write(ax, 1.02, bound.float, ("kill ", arm.words()),
                      transform=ax.get_yaxis_transform())  # fmt: skip
    if gate is not None:
        ax.axvline(gate.float, color=SOFT, lw=0.8, ls=(0, (1, 1.5)), zorder=0)
        drawing.plot("source gate", value=gate)
        ax.text(gate.float, 1.02, "source gate", fontsize=SMALL, color=SOFT, ha="center",
                va="bottom", transform=ax.get_xaxis_transform())  # fmt: skip


def _cross(drawing: Drawing, ax: Any, style: dict[str, Any], arm: Node, run: Node) -> None:
    colour = style["color"]
    source, pool = run["source"], run["bystanders"]
    x, y = source["rate"].float, pool["rate"].float
    if source["low"].known:
        ax.plot([source["low"].float, source["high"].float], [y, y], color=colour, lw=0.9)
    if pool["low"].known:
        ax.plot([x, x], [pool["low"].float, pool["high"].float], color=colour, lw=0.9)
    ax.plot([x], [y], ms=4, zorder=3, **style)
    drawing.plot(
        str(arm["name"].value),
        x=source["rate"], x_low=source["low"], x_high=source["high"],
        y=pool["rate"], y_low=pool["low"], y_high=pool["high"],
    )  # fmt: skip
