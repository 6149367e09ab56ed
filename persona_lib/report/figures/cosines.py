"""Cosines: hidden states of bystanders against the source's, layer by layer."""

from __future__ import annotations

from typing import Any

from persona_lib.report.figures.style import (
    PRIOR_COLOURS,
    PRIOR_MARKS,
    SMALL,
    SOFT,
    Drawing,
    arm_style,
    sheet,
)
from persona_lib.report.pieces import Node, listed, plain

NOTHING = "No hidden states were recorded, so no figure of cosines is drawn."
FEW = 8
"""Layers up to which every one has a mark: more of them would hide the line."""
Model = tuple[str, str]
Style = dict[str, Any]
"""How a model's line is drawn."""


def cosines(root: Node) -> Drawing | str:
    """Return one column for each readout; uncentred above, centred below."""
    data = root["panels"]["geometry"]["data"]
    looks = [look for look in data["looks"] if look["cosine"]["value"].known]
    if not looks:
        return NOTHING
    readouts = [one.key() for one in data["readouts"]]
    models = list(dict.fromkeys((str(k["phase"].value), str(k["model"].value)) for k in looks))
    style = _styles(models)
    drawing, axes = sheet(3.6, 2, len(readouts), squeeze=False, sharex=True, sharey="row")
    for row, centred in enumerate((False, True)):
        for column, readout in enumerate(readouts):
            ax = axes[row][column]
            for place, model in enumerate(models):
                line = [
                    look
                    for look in looks
                    if (str(look["phase"].value), str(look["model"].value)) == model
                    and look["readout"].value == readout.text
                    and bool(look["centred"].value) is centred
                ]
                _line(drawing, ax, line, style[model], place - (len(models) - 1) / 2)
            if row == 0:
                ax.set_title(readout.text.replace("_", " "))
            else:
                ax.axhline(0, color=SOFT, lw=0.5, ls=(0, (1, 1.5)), zorder=0)
                ax.set_xlabel("layer")
            drawing.mark(ax, _ticks(data["layers"]), shown=row == 1)
        axes[row][0].set_ylabel("centred cosine" if centred else "cosine")
    _ceiling(drawing, axes[0], data["ceiling"])
    _legend(drawing, models, style, looks)
    drawing.caption = (
        "Cosine of bystanders with the source, mean over bystanders and then over ",
        data["questions"].num("n"),
        " questions, with a t interval over questions (",
        data["confidence"].num("pct0"),
        " %, each look by itself). Hollow marks: before coupling. Above the dashed ceiling of ",
        data["ceiling"].num("bound"),
        " in the raw model a change has no room to show. Below, the mean over personas is "
        "subtracted first.",
    )
    drawing.alt = (
        "Small multiples of the cosine between bystanders' and the source's hidden states by "
        "layer, for readouts ",
        *listed([(one,) for one in readouts]),
        ", uncentred and centred. The largest changes stand in the table below.",
    )
    return drawing


def _styles(models: list[Model]) -> dict[Model, Style]:
    pre = [model for model in models if model[0] == "pre"]
    post = [model for model in models if model[0] != "pre"]
    common = {"lw": 1.0, "mew": 0.8}
    found: dict[Model, Style] = {}
    for i, model in enumerate(pre):
        dashed = {"ls": (0, (4, 1.5)), "mfc": "white", **common}
        found[model] = {"color": PRIOR_COLOURS[i % 3], "marker": PRIOR_MARKS[i % 3], **dashed}
    for i, model in enumerate(post):
        colour, mark = arm_style(i)
        found[model] = {"color": colour, "marker": mark, "ls": "-", "mfc": colour, **common}
    return found


def _line(drawing: Drawing, ax: Any, looks: list[Node], style: Style, place: float) -> None:
    """Draw a model layer by layer, moved aside a little so that intervals do not hide others."""
    looks = sorted(looks, key=lambda look: look["layer"].float)
    few = len(looks) <= FEW
    aside = 0.03 * place if few else 0.0
    x = [look["layer"].float + aside for look in looks]
    y = [look["cosine"]["value"].float for look in looks]
    ax.plot(x, y, zorder=2, ms=3, **{**style, **({} if few else {"marker": None})})
    for look in looks:
        cosine = look["cosine"]
        if cosine["low"].known:
            at = look["layer"].float + aside
            ax.plot(
                [at, at], [cosine["low"].float, cosine["high"].float], color=style["color"], lw=0.8
            )
        drawing.plot(
            f"{look['model'].value} {look['readout'].value}{' centred' if look['centred'] else ''}",
            layer=look["layer"],
            value=cosine["value"],
            low=cosine["low"],
            high=cosine["high"],
        )


def _ceiling(drawing: Drawing, axes: Any, ceiling: Node) -> None:
    """Draw the ceiling into the upper row, once everything else has set its scale."""
    if not ceiling.known:
        return
    for ax in axes:
        ax.axhline(ceiling.float, color=SOFT, lw=0.8, ls=(0, (3, 2)), zorder=0)
    axes[0].set_ylim(top=max(axes[0].get_ylim()[1], ceiling.float + 0.05))
    drawing.plot("ceiling", value=ceiling)
    run = ("ceiling ", ceiling.num("bound"))
    how = {"va": "bottom", "color": SOFT, "transform": axes[0].get_yaxis_transform()}
    drawing.write(axes[0], 0.03, ceiling.float, run, **how)


def _ticks(layers: Node) -> list[Node]:
    """Return at most four layers, the first and the last among them."""
    every = list(layers)
    if len(every) <= 4:  # noqa: PLR2004
        return every
    return [every[round(i * (len(every) - 1) / 3)] for i in range(4)]


def _legend(
    drawing: Drawing, models: list[Model], style: dict[Model, Style], looks: list[Node]
) -> None:
    from matplotlib.lines import Line2D

    held = {(str(k["phase"].value), str(k["model"].value)): k["model"] for k in looks}
    names = [(held[model].words(),) for model in models]
    drawing.texts += names
    handles = [Line2D([], [], ms=3.5, **style[model]) for model in models]
    drawing.figure.legend(
        handles, [plain(run) for run in names], loc="outside lower center",
        ncols=min(len(models), 4), fontsize=SMALL, frameon=False, handlelength=2.2,
        columnspacing=1.2,
    )  # fmt: skip
