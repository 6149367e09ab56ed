"""What all figures share: colours, sizes, the record of what is plotted, and files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from persona_lib.report.pieces import Node, Run, as_data, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.5
"""Inches: 89 mm, one column of a journal. Fonts below are points at this width."""
DPI = 250
SMALL, NORMAL = 7.0, 7.5
INK, SOFT, FAINT = "#1b1b1b", "#5a5a5a", "#d0d0d0"
# Okabe and Ito: told apart with any colour vision. Yellow is left out: too pale for a line.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
ARM_MARKS = ("o", "s", "D", "^", "v", "P")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1.5, 1, 1.5)))
"""Lines that tell sources apart."""
FILLS: tuple[Any, ...] = ("full", "none", "left", "top")
"""Fills of marks that tell sources apart."""
_ABOVE = 5
"""Arms whose names have room above the axes."""
PRIOR_COLOURS = ("#000000", "#E69F00", "#56B4E9")
PRIOR_MARKS = ("o", "s", "D")

_RC: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,  # as in the tables
    "text.parse_math": False,  # what others wrote is never read as a formula
    "lines.linewidth": 1.0,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and checked
    "svg.hashsalt": "flatland",
    "savefig.facecolor": "white",
}
_FALLBACK = "'DejaVu Sans', Verdana, Arial, sans-serif"


@dataclass
class Drawing:
    """A figure and the record of what it shows.

    Attributes:
        figure: matplotlib's.
        alt: what a reader who cannot see it has to know.
        caption: what is drawn, and what its intervals are.
        plotted: every number that has a place in it, with its pointer.
        texts: every text that holds quotations or numbers.
        read: axes whose tick labels are among these texts, because they are no scale.
    """

    figure: Figure
    alt: Run = ()
    caption: Run = ()
    plotted: list[dict[str, Any]] = field(default_factory=list)
    texts: list[Run] = field(default_factory=list)
    read: list[Any] = field(default_factory=list)

    def write(self, ax: Axes, x: float, y: float, run: Run, **how: Any) -> None:
        """Write a run at a place in data coordinates, or those of `transform`."""
        self.texts.append(run)
        ax.text(x, y, plain(run), **{"fontsize": SMALL, "va": "center", **how})

    def label(self, ax: Axes, places: Sequence[float], runs: Sequence[Run]) -> None:
        """Label the y axis with names."""
        self.texts += runs
        ax.set_yticks([*places], [plain(run) for run in runs])
        ax.tick_params(axis="y", length=0)

    def mark(self, ax: Axes, numbers: Sequence[Node], *, shown: bool) -> None:
        """Mark whole numbers of verdict.json on the x axis, with labels where `shown`."""
        runs: list[Run] = [(one.num("n"),) for one in numbers]
        ax.set_xticks([one.float for one in numbers], [plain(run) for run in runs])
        ax.tick_params(axis="x", labelbottom=shown)
        self.texts += runs if shown else []
        self.read.append(ax.xaxis)

    def plot(self, series: str, **numbers: Node) -> None:
        """Note numbers that are drawn, as ``value``, ``low``, ``high`` or an axis."""
        noted = {
            name: {"at": one.at, "value": one.value} if one.known else None
            for name, one in numbers.items()
        }
        self.plotted.append({"series": series, **noted})


def styled() -> AbstractContextManager[None]:
    """Return the context in which figures are made: matplotlib reads some settings only then."""
    import matplotlib

    return matplotlib.rc_context(_RC)


def sheet(height: float, rows: int = 1, columns: int = 1, **how: Any) -> tuple[Drawing, Any]:
    """Return an empty drawing of one column's width, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return Drawing(figure), figure.subplots(rows, columns, **how)


def files_of(name: str, drawing: Drawing) -> dict[str, bytes]:
    """Return the files of a figure by name: no dates, no random ids, equal for equal bodies."""
    png, svg = io.BytesIO(), io.BytesIO()
    with styled():
        drawing.figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
        drawing.figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        ticks = _ticks(drawing.figure, drawing.read)
    text = svg.getvalue().decode().replace("'DejaVu Sans'", _FALLBACK)
    record = {
        "figure": name,
        "plotted": drawing.plotted,
        "texts": [as_data(run) for run in drawing.texts],
        "ticks": ticks,
    }
    body = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    return {
        f"{name}.png": png.getvalue(),
        f"{name}.svg": text.encode(),
        f"{name}.json": body.encode(),
    }


def _ticks(figure: Figure, read: Sequence[Any]) -> list[list[str]]:
    """Return the labels of numeric axes that are a scale and not data."""
    found = []
    for ax in (ax for ax in figure.axes if ax.axison):
        for axis in (one for one in (ax.xaxis, ax.yaxis) if one not in read):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * (high - low)
            texts = [
                tick.label1.get_text()
                for tick in axis.get_major_ticks()
                if tick.label1.get_visible() and low - slack <= tick.get_loc() <= high + slack
            ]
            if texts and not any(c.isalpha() for text in texts for c in text):
                found.append(texts)
    return found


PERCENT_TICKS = [i / 5 for i in range(6)]
PERCENT_NAMES = [f"{100 * tick:.0f}" for tick in PERCENT_TICKS]


def percent_axis(ax: Axes, label: str) -> None:
    """Label the x axis, which holds proportions, in percent."""
    ax.set_xticks(PERCENT_TICKS, PERCENT_NAMES)
    ax.set_xlabel(label)


def key(drawing: Drawing, ax: Axes, arms: Sequence[Node], y: float) -> None:
    """Name the arms, each with its mark in its colour: above the axes, or below if they are many.

    Args:
        drawing: notes the names.
        ax: the axes.
        arms: arms of verdict.json, of which cells and sources are named if there are several
            sources.
        y: height in parts of the axes.
    """
    several = len(distinct(arm["persona"] for arm in arms)) > 1
    if len(arms) > _ABOVE or several:
        key_below(drawing, arms, sources=several)
        return
    for i, (arm, style) in enumerate(zip(arms, arm_styles(arms), strict=True)):
        ax.plot([0.17 * i + 0.02], [y], ms=4, clip_on=False, transform=ax.transAxes, **style)
        drawing.write(ax, 0.17 * i + 0.05, y, (arm["name"].words(),), color=INK,
                      fontweight="bold", transform=ax.transAxes)  # fmt: skip


def key_below(drawing: Drawing, arms: Sequence[Node], *, sources: bool) -> None:
    """Name the cells of arms, and their sources if asked to, below a figure."""
    from matplotlib.lines import Line2D

    cells = distinct(arm["cell" if arm["cell"] else "name"] for arm in arms)
    personas = distinct(arm["persona"] for arm in arms) if sources else []
    names: list[Run] = [(cell.words(),) for cell in cells]
    styles = [arm_style(i) for i in range(len(cells))]
    handles = [Line2D([], [], color=c, marker=m, ms=4, mew=0, ls="") for c, m in styles]
    names += [(persona.words(),) for persona in personas]
    grey: dict[str, Any] = {"color": SOFT, "marker": "o", "ms": 4, "mew": 0.8, "ls": ""}
    handles += [
        Line2D([], [], fillstyle=FILLS[i % len(FILLS)], **grey) for i in range(len(personas))
    ]
    drawing.texts += names
    widest = max(len(plain(run)) for run in names)
    drawing.figure.legend(
        handles, [plain(run) for run in names], loc="outside lower center", fontsize=SMALL,
        ncols=max(1, min(6, 52 // (widest + 4))), frameon=False, handlelength=1.0,
        columnspacing=1.2,
    )  # fmt: skip


def distinct(nodes: Iterable[Node]) -> list[Node]:
    """Return the first node of every value, in order."""
    found: dict[Any, Node] = {}
    for node in nodes:
        found.setdefault(node.value, node)
    return list(found.values())


def spread(ax: Axes, y: float, about: Node, colour: str, width: float = 1.0) -> None:
    """Draw the horizontal interval of a node, nothing where one end is not known."""
    low, high = about["low"], about["high"]
    if low.known and high.known:
        ax.plot([low.float, high.float], [y, y], color=colour, lw=width, solid_capstyle="butt")


def arm_style(index: int) -> tuple[str, str]:
    """Return colour and mark of an arm, or of a cell of arms, by its place among those shown."""
    return (
        ARM_COLOURS[index % len(ARM_COLOURS)],
        ARM_MARKS[(index + index // len(ARM_MARKS)) % len(ARM_MARKS)],
    )


def arm_styles(arms: Sequence[Node]) -> list[dict[str, Any]]:
    """Return how the mark of each arm is drawn: cells by colour and mark, sources by fill."""
    names = [arm["cell" if arm["cell"] else "name"] for arm in arms]
    cells = [node.value for node in distinct(names)]
    sources = [node.value for node in distinct(arm["persona"] for arm in arms)]
    found = []
    for arm, name in zip(arms, names, strict=True):
        colour, mark = arm_style(cells.index(name.value))
        at = sources.index(arm["persona"].value)
        style = {"color": colour, "marker": mark, "ls": "", "mew": 0.8 if at else 0}
        found.append({**style, "fillstyle": FILLS[at % len(FILLS)]})
    return found
