"""Dose curves: gains of source and bystanders while an arm trains, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persona_lib.report.figures.style import (
    INK,
    LINES,
    SMALL,
    SOFT,
    Drawing,
    distinct,
    sheet,
)
from persona_lib.report.pieces import Node, Run, listed, plain

NOTHING = "No gains were read while an arm trained, so no dose curve is drawn."
MANY = "There are too many cells for a figure of dose curves: the tables hold their numbers."
MOST_CELLS, MOST = 24, 1e6
"""Cells that are drawn, and the largest gain in nats or optimizer step that is a number of one."""
SOURCE, BYSTANDERS = "#D55E00", "#0072B2"
_GAINS = (("of_source", SOURCE), ("of_bystanders", BYSTANDERS))


def doses(root: Node) -> Drawing | str:
    """Return one small axes for each cell, with a thin line for each training run."""
    data = root["panels"]["gains"]["data"]
    curves = [curve for curve in data["curves"] if _is_whole(curve)]
    cells = distinct(curve["cell"] for curve in curves)
    if not curves:
        return NOTHING
    if len(cells) > MOST_CELLS:
        return MANY
    sources = distinct(curve["source"] for curve in curves)
    styles = {name.value: LINES[i % len(LINES)] for i, name in enumerate(sources)}
    columns = min(2, len(cells))
    rows = -(-len(cells) // columns)
    drawing, axes = sheet(1.0 + 1.15 * rows, rows, columns, squeeze=False, sharex=True, sharey=True)
    at_gain = {one["cell"].value: one for one in data["cells"]}
    for i, ax in enumerate(axes.flat):
        if i >= len(cells):
            ax.axis("off")
            continue
        own = [curve for curve in curves if curve["cell"].value == cells[i].value]
        for curve in own:
            _draw(drawing, ax, curve, styles[curve["source"].value])
        _name(drawing, ax, cells[i], at_gain.get(cells[i].value, Node(None)))
        _registered(drawing, ax, data["registered_gain"], named=i == 0)
        ax.ticklabel_format(style="plain", useOffset=False)
        ax.tick_params(axis="x", labelbottom=i + columns >= len(cells))
        if i + columns >= len(cells):
            ax.set_xlabel("optimizer step")
        if i % columns == 0:
            ax.set_ylabel("gain, nats")
    _legend(drawing, sources, styles)
    drawing.caption = (
        "Gain on a part of the pool while an arm trains, by the system message: the logit of the "
        "marker's first token minus that of the end of turn, after minus before. One thin line "
        "for each training run. ",
        *_dashed(data["registered_gain"]),
        "Transfer is the bystanders' mean gain over the source's.",
    )
    drawing.alt = (
        "Small multiples of gains by optimizer step, one for each cell: ",
        *listed([_describe(cell, at_gain.get(cell.value, Node(None))) for cell in cells], "; "),
        ". The tables below hold every point.",
    )
    return drawing


def _is_whole(curve: Node) -> bool:
    """Whether a curve has a step and two gains, perhaps unknown ones, at every point."""
    steps = list(curve["steps"])
    gains = [one for name, _ in _GAINS for one in curve[name]]
    sized = all(len(list(curve[name])) == len(steps) for name, _ in _GAINS)
    numbers = [*steps, *(one for one in gains if one.value is not None)]
    return (
        bool(steps)
        and sized
        and all(one.known and abs(one.float) <= MOST for one in numbers)
        and all(isinstance(curve[name].value, str) for name in ("arm", "cell", "source"))
    )


def _draw(drawing: Drawing, ax: Any, curve: Node, line: Any) -> None:
    steps = list(curve["steps"])
    for name, colour in _GAINS:
        gains = [one.float for one in curve[name]]
        ax.plot([step.float for step in steps], gains, color=colour, ls=line, lw=0.6)
    for at, step in enumerate(steps):
        values = {name: curve[name][at] for name, _ in _GAINS}
        drawing.plot(f"{curve['arm'].value} {curve['seed'].value}", step=step, **values)


def _name(drawing: Drawing, ax: Any, cell: Node, at: Node) -> None:
    """Write a cell's name above its axes, and its transfer at the registered gain."""
    runs: list[tuple[str, Run, str]] = [("left", (cell.words(),), "bold")]
    if at:
        runs.append(("right", _transfer(at), "normal"))
    for place, run, weight in runs:
        drawing.texts.append(run)
        ax.set_title(plain(run), loc=place, fontsize=SMALL, fontweight=weight)
    if at["transfer"].known:
        drawing.plot(f"{cell.value} transfer", value=at["transfer"])


def _transfer(at: Node) -> Run:
    if not at["transfer"].known:
        return ("never there",)
    few = at["seeds"].value != at["of"].value
    seeds = (" (", at["seeds"].num("n"), " of ", at["of"].num("n"), " seeds)") if few else ()
    return ("transfer ", at["transfer"].num("f2"), *seeds)


def _describe(cell: Node, at: Node) -> Run:
    return (cell.words(), " ", *(_transfer(at) if at else ("without a registered gain",)))


def _registered(drawing: Drawing, ax: Any, gain: Node, *, named: bool) -> None:
    if not gain.known or abs(gain.float) > MOST:
        return
    ax.axhline(gain.float, color=SOFT, lw=0.8, ls=(0, (3, 2)), zorder=0)
    drawing.plot("registered gain", value=gain)
    if named:
        run = ("g* ", gain.num("bound"))
        drawing.write(ax, 0.03, gain.float, run, va="bottom", color=SOFT,
                      transform=ax.get_yaxis_transform())  # fmt: skip


def _dashed(gain: Node) -> Run:
    if not gain.known:
        return ()
    return (
        "Dashed: the registered gain g* of ",
        gain.num("bound"),
        " nats; the transfer above each cell is that there, mean over sources and seeds. ",
    )


def _legend(drawing: Drawing, sources: Sequence[Node], styles: dict[Any, Any]) -> None:
    from matplotlib.lines import Line2D

    names: list[Run] = [("source",), ("bystanders, mean",)]
    handles = [Line2D([], [], color=colour, lw=1.0) for _, colour in _GAINS]
    if len(sources) > 1:
        names += [(source.words(),) for source in sources]
        handles += [Line2D([], [], color=INK, lw=1.0, ls=styles[s.value]) for s in sources]
    drawing.texts += names
    drawing.figure.legend(
        handles, [plain(run) for run in names], loc="outside lower center", ncols=2,
        fontsize=SMALL, frameon=False, handlelength=2.2, columnspacing=1.2,
    )  # fmt: skip
