"""Lengths: where bystanders' completions lie, arm by arm, and what arms share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persona_lib.report.figures.style import FAINT, INK, SMALL, SOFT, Drawing, arm_style, sheet
from persona_lib.report.pieces import NONE, Node, Run, listed

NOTHING = "Lengths of single completions are not known, so no length figure is drawn."
_SUPPORT = "#B8D8EA"


def lengths(root: Node) -> Drawing | str:
    """Return quantiles of every arm and its pre-coupling model, and the common support below."""
    panel = root["panels"]["lengths"]
    models = list(panel["data"]["models"])
    if not models or panel["state"].value == "INVALID":
        return NOTHING
    arms = [m for m in models if m["phase"].value == "post"]
    priors = {m["model"].value: m for m in models if m["phase"].value == "pre"}
    support = [one for one in panel["data"]["support"] if one["support"]["low"].known]
    rows = len(arms) + len(support)
    drawing, ax = sheet(0.9 + 0.34 * rows)
    y, places, names = 0.0, list[float](), list[Run]()
    for i, arm in enumerate(arms):
        under = priors.get(arm["under"].value)
        _strip(drawing, ax, y, arm, arm_style(i)[0])
        if under is not None:
            _strip(drawing, ax, y - 0.27, under, "#8a8a8a", thin=True)
        places.append(y - 0.1)
        names.append((arm["model"].words(), " / ", arm["under"].words() if under else NONE))
        y -= 1.0
    y -= 0.45
    for one in support:
        _common(drawing, ax, y, one)
        places.append(y)
        names.append(
            (one["claim"].words(), " (", one["treated"].words(), ", ", one["control"].words(), ")")
        )
        y -= 0.85
    drawing.label(ax, places, names)
    _frame(ax, [*arms, *priors.values()], -len(arms) + 0.25, y, support)
    drawing.caption = (
        "Tokens of bystanders' completions: dot and bar are median and middle half, the thin line "
        "runs from the lower to the upper twentieth; coloured after coupling, grey the model "
        "under it, before. Below, the lengths that both arms of a claim have (common support), "
        "with the share of completions inside it.",
    )
    medians = [(m["model"].words(), " ", _half(m)["quantiles"]["50"].num("f1")) for m in arms]
    drawing.alt = (
        "Strip plot of completion lengths; medians in tokens: ",
        *listed(medians, "; "),
        ".",
    )
    return drawing


def _half(model: Node) -> Node:
    """Return what is known of bystanders."""
    return model["roles"]["bystander"]


def _strip(
    drawing: Drawing, ax: Any, y: float, model: Node, colour: str, *, thin: bool = False
) -> None:
    q = _half(model)["quantiles"]
    if not q["50"].known:
        return
    scale = 0.6 if thin else 1.0
    ax.plot([q["5"].float, q["95"].float], [y, y], color=colour, lw=0.9 * scale)
    ax.plot(
        [q["25"].float, q["75"].float], [y, y], color=colour, lw=4.5 * scale, solid_capstyle="butt"
    )
    ax.plot([q["50"].float], [y], "o", color="white", mec=colour, ms=4.5 * scale, mew=1.0, zorder=3)
    drawing.plot(
        f"{model['model'].value} {model['phase'].value}",
        **{f"q{level}": q[level] for level in ("5", "25", "50", "75", "95")},
    )
    if not thin:
        run = (q["50"].num("f1"),)
        drawing.write(ax, 1.12 * q["95"].float + 0.2, y, run, color=INK)


def _common(drawing: Drawing, ax: Any, y: float, one: Node) -> None:
    low, high = one["support"]["low"], one["support"]["high"]
    inside = low.float <= high.float
    if inside:
        ax.fill_betweenx([y - 0.26, y + 0.26], low.float, high.float, color=_SUPPORT, lw=0)
    drawing.plot(f"{one['claim'].value} support", low=low, high=high)
    run: Run = (one["support"]["share"].num("pct0"), " % of completions")
    words = run if inside else ("no common range",)
    drawing.write(ax, 0.99, y, words, color=INK, ha="right", transform=ax.get_yaxis_transform())


def _frame(ax: Any, models: Sequence[Node], gap: float, y: float, support: Sequence[Node]) -> None:
    ends = [_half(m)["quantiles"]["95"].float for m in models]
    ends += [one["support"]["high"].float for one in support]
    most = max([e for e in ends if e == e], default=1.0)  # noqa: PLR0124  (NaN)
    # Logarithmic, because a few completions that never end would push all others together;
    # linear below one token, because empty completions have none.
    ax.set_xscale("symlog", linthresh=1, linscale=0.3)
    ticks = [0, *(10**k for k in range(6) if 10**k <= 2.2 * most)]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(0, 2.2 * most)
    ax.set_ylim(y + 0.4, 0.55)
    ax.set_xlabel("tokens, on a logarithmic scale")
    if support:
        ax.axhline(gap, color=FAINT, lw=0.6)
        ax.text(
            0.01, gap - 0.05, "common support of two arms", fontsize=SMALL, color=SOFT, va="top",
            style="italic", transform=ax.get_yaxis_transform(),
        )  # fmt: skip
