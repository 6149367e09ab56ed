"""Figure of cosines: bystanders' hidden states against the source's, layer by layer."""

from __future__ import annotations

from typing import Any

from persona_lib.records import PRE, ModelId
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
Style = dict[str, Any]
"""How a model's line and marks are drawn: solid after coupling, hollow and dashed before."""


def cosines(root: Node) -> Drawing | str:
    """Return one column for each readout; uncentred above, centred below."""
    data = root["panels"]["geometry"]["data"]
    looks = [look for look in data["looks"] if look["cosine"]["value"].known]
    if not looks:
        return NOTHING
    readouts = [one.key() for one in data["readouts"]]
    models = list(dict.fromkeys(_model_of(look) for look in looks))
    style = _styles(models)
    drawing, axes = sheet(3.6, 2, len(readouts), squeeze=False, sharex=True, sharey="row")
    for row, centred in enumerate((False, True)):
        for column, readout in enumerate(readouts):
            ax = axes[row][column]
            for place, model in enumerate(models):
                line = [
                    look
                    for look in looks
                    if _model_of(look) == model
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


def _model_of(look: Node) -> ModelId:
    return ModelId(str(look["phase"].value), str(look["model"].value))


def _styles(models: list[ModelId]) -> dict[ModelId, Style]:
    found: dict[ModelId, Style] = {}
    before = [model for model in models if model.phase == PRE]
    for i, model in enumerate(before):
        marks = {"color": PRIOR_COLOURS[i % 3], "marker": PRIOR_MARKS[i % 3]}
        found[model] = {**marks, "mfc": "white", "ls": (0, (4, 1.5))}
    for i, model in enumerate(model for model in models if model not in before):
        colour, mark = arm_style(i)
        found[model] = {"color": colour, "marker": mark, "mfc": colour, "ls": "-"}
    return found


def _line(drawing: Drawing, ax: Any, looks: list[Node], style: Style, place: float) -> None:
    """Draw a model layer by layer, moved aside a little so that intervals do not hide others."""
    looks = sorted(looks, key=lambda look: look["layer"].float)
    few = len(looks) <= FEW
    aside = 0.03 * place if few else 0.0
    x = [look["layer"].float + aside for look in looks]
    y = [look["cosine"]["value"].float for look in looks]
    marks = {} if few else {"marker": None}
    ax.plot(x, y, lw=1.0, zorder=2, ms=3, mew=0.8, **(style | marks))
    for look in looks:
        cosine = look["cosine"]
        if cosine["low"].known:
            at = look["layer"].float + aside
            ends = [cosine["low"].float, cosine["high"].float]
            ax.plot([at, at], ends, color=style["color"], lw=0.8)
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
    drawing: Drawing, models: list[ModelId], style: dict[ModelId, Style], looks: list[Node]
) -> None:
    from matplotlib.lines import Line2D

    held = {_model_of(look): look["model"] for look in looks}
    names = [(held[model].words(),) for model in models]
    drawing.texts += names
    handles = [Line2D([], [], ms=3.5, mew=0.8, lw=1.0, **style[model]) for model in models]
    drawing.figure.legend(
        handles, [plain(run) for run in names], loc="outside lower center",
        ncols=min(len(models), 4), fontsize=SMALL, frameon=False, handlelength=2.2,
        columnspacing=1.2,
    )  # fmt: skip
