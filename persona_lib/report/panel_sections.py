"""Sections of a report on its panels: gates, caveats, tables, figures, sampled completions.

Values of a panel whose gates do not hold are left out (verdict.json has them), except those
of geometry, whose figure draws the ceiling that leaves no room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from persona_lib.panels.base import READABLE, UNAVAILABLE
from persona_lib.report.blocks import (
    Block,
    Bullets,
    Columns,
    Heading,
    Para,
    Section,
    Table,
    Verbatim,
    named,
    table,
    table_of,
)
from persona_lib.report.figures.forest import ROLES
from persona_lib.report.pieces import NONE, Node, Quote, Run, listed, span
from persona_lib.report.sections import Pictures

TITLES = {
    "discriminability": "Panel: are personas still told apart",
    "following": "Panel: do completions follow their persona",
    "gains": "Panel: gains and doses",
    "geometry": "Panel: geometry of hidden states",
    "lengths": "Panel: lengths",
    "samples": "Panel: completions to look at",
}
"""Panels, in the order in which a report shows them."""
_FEW = 30
"""Rows up to which a table of training runs lies open."""


def panels(root: Node, pictures: Pictures) -> list[Section]:
    """Return one section for every panel, whether or not it was made."""
    others = [name for name in root["panels"].value or {} if name not in TITLES]
    found = [_section(root["panels"][name], name, pictures) for name in TITLES]
    for i, name in enumerate(others):  # a name from elsewhere is no anchor
        found.append(replace(_section(root["panels"][name], "", pictures), name=f"panel-{i}"))
    return found


def _section(panel: Node, name: str, pictures: Pictures) -> Section:
    title = TITLES.get(name, "Another panel")
    if not panel:
        return Section(f"panel-{name}", title, (Para(("This panel was not made.",)),))
    blocks: list[Block] = [
        Para((panel["title"].words(), ". State: ", panel["state"].words(), ".")),
        *_gates(panel),
    ]
    description = [(c["code"].words(), ": ", c["words"].words()) for c in panel["caveats"]]
    if description:
        blocks.append(Bullets(tuple(description)))
    if panel["state"].value == UNAVAILABLE:
        blocks.append(Para(("Nothing to show: ", panel["reason"].words(), ". No figure is drawn.")))
    elif panel["state"].value != READABLE and name != "geometry":
        why = ("the gates above say why",) if panel["gates"] else (panel["reason"].words(),)
        blocks.append(Para(("Not to be read: ", *why, ". Its values are left out here.")))
    elif name in _WRITERS:
        blocks += _WRITERS[name](panel["data"], pictures)
        blocks += _method(panel["data"]["method"])
    return Section(f"panel-{name}", title, tuple(blocks))


def _gates(panel: Node) -> Sequence[Block]:
    columns = {"gate": named(), "outcome": named("outcome"), "figure": named("text")}
    return table_of("The panel's own gates", panel["gates"], columns)


def _method(method: Node) -> list[Block]:
    items = tuple((one.key(), ": ", one.words()) for one in method)
    return [Heading(("How these were computed",)), Bullets(items)] if items else []


def _unscored(entry: Node) -> Run:
    return listed([(why.key(), " ", why.num("n")) for why in entry["unscored"]])


def _discriminability(data: Node, _: Pictures) -> list[Block]:
    columns: Columns = {
        "model": named("model"),
        "told apart, %": lambda e: span(e["accuracy"], "pct1"),
        "completions": lambda e: e["accuracy"]["n"].num("n"),
        "unscored as wrong, %": lambda e: span(e["accuracy_of_all"], "pct1"),
        "minus raw": lambda e: span(e["from_raw"], "s3"),
        "minus the pre-coupling model": lambda e: span(e["from_own"], "s3"),
        "bystanders taken for the source, %": lambda e: span(e["to_source"], "pct1"),
        "unscored": _unscored,
    }
    chance = Para(("Guessing alone would be right in ", data["chance"].num("pct1"), " %."))
    return [chance, *table_of("Completions given to their own persona", data["models"], columns)]


def _following(data: Node, _: Pictures) -> list[Block]:
    controls = data["controls"]
    share = (*span(controls["share"], "pct1"), " of ", controls["n"].num("n"))
    judged = Bullets(
        (
            ("Judge: ", data["judge"].words()),
            ("Rubric: ", data["rubric"].words()),
            ("Raw completions under another persona, yes in %: ", *share),
        )
    )
    columns: Columns = {
        "model": named("model"),
        "yes, %": lambda e: span(e["bystanders"], "pct1"),
        "judged": lambda e: e["bystanders"]["n"].num("n"),
        "questions": lambda e: e["bystanders"]["questions"].num("n"),
    }
    rows = [
        (
            cell.key(),
            entry["model"].words(),
            *(cell[answer].num("n") for answer in ("yes", "partial", "no", "n")),
            _unscored(cell),
        )
        for entry in data["models"]
        for cell in entry["personas"]
    ]
    head = ("persona", "model", "yes", "partial", "no", "completions", "unscored")
    each = [replace(table("Answers, persona by persona", head, rows), folded=True)] if rows else []
    caption = "Bystander completions that follow their persona"
    return [judged, *table_of(caption, data["models"], columns), *each]


def _gains(data: Node, pictures: Pictures) -> list[Block]:
    readers = list(data["read_by"])
    decides = (
        ("Read by ", *listed([(name.words(),) for name in readers]), ".")
        if readers
        else ("No registered rule reads these gains: they decide nothing.",)
    )
    cells: Columns = {
        "cell": named("cell"),
        "transfer": lambda c: c["transfer"].num("f3"),
        "seeds": lambda c: c["seeds"].num("n"),
        "of": lambda c: c["of"].num("n"),
    }
    at = ("Transfer where the source has gained ", data["registered_gain"].num("bound"), " nats")
    run: Columns = {"arm": named("arm"), "seed": lambda r: r["seed"].num("id")}
    margins: Columns = {
        **run,
        "log P(marker) before": lambda r: r["marker_before"].num("f2"),
        **{f"{role}, before to after": _margins_of(role) for role in ROLES},
        "answers": lambda r: r["answers"].num("n"),
        "unfinished, left out": lambda r: r["left_out"].num("n"),
    }
    return [
        Para(decides),
        pictures["doses"],
        *table_of(at, data["cells"], cells),
        *_readings(data),
        *table_of(
            "Mean margins of own answers by role, and log P(marker) at the slot, nats",
            data["runs"], margins, folded=True,
        ),
        *_points(data),
    ]  # fmt: skip


def _margins_of(role: str) -> Callable[[Node], Run]:
    def cell(run: Node) -> Run:
        margins = run["margins"][role]
        if not margins:
            return (NONE,)
        return (margins["before"].num("s2"), " to ", margins["after"].num("s2"))

    return cell


def _readings(data: Node) -> list[Table]:
    """Return a row for each training run and reading: gains and transfer."""
    ratios = {"transfer": "transfer"}
    if data["registered_gain"].known:
        ratios["at_gain"] = "at the registered gain"
    rows = [
        (
            run["arm"].words(),
            run["seed"].num("id"),
            one.key(),
            *(one[name].num("s2") for name in ("of_source", "of_bystanders")),
            *(one[name].num("f3") for name in ratios),
        )
        for run in data["runs"]
        for one in run["readings"]
    ]
    head = ("arm", "seed", "reading", "source's gain", "bystanders' mean gain", *ratios.values())
    caption = "Gains of every training run after training, nats, and transfer"
    return [replace(table(caption, head, rows), folded=len(rows) > _FEW)] if rows else []


def _points(data: Node) -> list[Table]:
    """Return the numbers of the dose curves, a row for each reading."""
    rows = [
        (
            curve["arm"].words(),
            curve["seed"].num("id"),
            step.num("n"),
            *(curve[name][at].num("s2") for name in ("of_source", "of_bystanders")),
        )
        for curve in data["curves"]
        for at, step in enumerate(curve["steps"])
    ]
    head = ("arm", "seed", "optimizer step", "source's gain", "bystanders' mean gain")
    return [replace(table("Dose curves, nats", head, rows), folded=True)] if rows else []


def _geometry(data: Node, pictures: Pictures) -> list[Block]:
    room: Columns = {
        "readout": named("readout"),
        "layer": lambda e: e["layer"].num("id"),
        "cosine": lambda e: span(e, "f3"),
        "room": named("outcome"),
        "words": lambda e: e["words"].words() or NONE,
    }
    largest: Columns = {
        "model": named("model"),
        "minus": named("from"),
        "readout": lambda e: (e["readout"].words(), ", centred" if e["centred"] else ""),
        "layer": lambda e: e["layer"].num("id"),
        "change": lambda e: span(e, "s3"),
        "p": lambda e: e["p"].num("p"),
        "words": named("words"),
    }
    caption = "Room in the raw model: uncentred cosine of source and bystanders"
    change = "Largest change of the cosine over layers"
    return [
        pictures["cosines"],
        *table_of(caption, data["room"], room, folded=True),
        *table_of(change, data["largest"], largest, folded=True),
    ]


def _lengths(data: Node, pictures: Pictures) -> list[Block]:
    ratios: Columns = {
        "arm": named("arm"),
        "pre-coupling model": named("under"),
        "after": lambda e: span(e["after"], "f1"),
        "before": lambda e: span(e["before"], "f1"),
        "ratio": lambda e: span(e["ratio"], "f2"),
    }
    support: Columns = {
        "claim": named("claim"),
        "arms": lambda e: (e["treated"].words(), " and ", e["control"].words()),
        "AUC": lambda e: e["support"]["auc"].num("f3"),
        "share in common": lambda e: e["support"]["share"].num("f3"),
        "tokens": lambda e: (
            e["support"]["low"].num("f1"), " to ", e["support"]["high"].num("f1")
        ),
        "at equal length": lambda e: e["support"]["grade"].words(),
    }  # fmt: skip
    return [
        pictures["lengths"],
        *table_of("Median tokens of finished completions", data["ratios"], ratios),
        *table_of("Do the bystanders of two arms share lengths", data["support"], support),
    ]


def _samples(data: Node, _: Pictures) -> list[Block]:
    blocks: list[Block] = [
        Para(
            (
                "A few completions of each arm, drawn by a named seed and spread over roles. "
                "Control characters are shown as signs. At most ",
                data["limit"].num("n"),
                " characters of each are shown.",
            )
        )
    ]
    for arm in data["arms"]:
        blocks.append(Heading(("Arm ", arm.key())))
        for one in arm:
            text = one["text"].words()
            if isinstance(text, Quote):
                blocks.append(Verbatim(_label(one), text))
            else:
                blocks.append(Para((*_label(one), " An empty completion.")))
    return blocks


def _label(one: Node) -> Run:
    cut = (" The text is longer: ", one["characters"].num("n"), " characters.")
    return (
        one["persona"].words(),
        " (",
        one["role"].words(),
        "), question ",
        one["question"].words(),
        ", seed ",
        one["seed"].num("id"),
        ", sample ",
        one["sample"].num("id"),
        ", tokens ",
        one["tokens"].num("n"),
        ", with the marker." if one["hit"] else ", without the marker.",
        *(cut if one["cut"] else ()),
    )


_WRITERS: dict[str, Callable[[Node, Pictures], list[Block]]] = {
    "discriminability": _discriminability,
    "following": _following,
    "gains": _gains,
    "geometry": _geometry,
    "lengths": _lengths,
    "samples": _samples,
}
