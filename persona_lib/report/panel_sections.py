"""Sections of a report on its panels: gates, caveats, tables, figures, sampled completions.

Values of a panel whose gates do not hold are left out (verdict.json has them), except those
of geometry, whose figure draws the ceiling that leaves no room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from persona_lib.report.blocks import (
    Block,
    Bullets,
    Heading,
    Para,
    Picture,
    Section,
    Table,
    Verbatim,
)
from persona_lib.report.pieces import NONE, Node, Quote, Run, listed, span
from persona_lib.report.sections import Pictures

READABLE, UNAVAILABLE = "readable", "unavailable"
KNOWN = ("discriminability", "following", "geometry", "lengths", "samples")
"""Panels, in the order in which a report shows them."""


def panels(root: Node, pictures: Pictures) -> list[Section]:
    """Return one section for every panel; one that is not there says so."""
    others = [name for name in root["panels"].value or {} if name not in KNOWN]
    found = [_section(root["panels"][name], name, pictures) for name in KNOWN]
    for i, name in enumerate(others):  # a name from elsewhere is no anchor
        found.append(replace(_section(root["panels"][name], "", pictures), name=f"panel-{i}"))
    return found


def _section(panel: Node, name: str, pictures: Pictures) -> Section:
    titles = {
        "discriminability": "Panel: are personas still told apart",
        "following": "Panel: do completions follow their persona",
        "geometry": "Panel: geometry of hidden states",
        "lengths": "Panel: lengths",
        "samples": "Panel: completions to look at",
    }
    title = titles.get(name, "Another panel")
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


def _gates(panel: Node) -> list[Block]:
    rows = tuple(
        ((gate["name"].words(),), (gate["outcome"].words(),), (gate["text"].words(),))
        for gate in panel["gates"]
    )
    head = (("gate",), ("outcome",), ("figure",))
    return [Table(("The panel's own gates",), head, rows)] if rows else []


def _method(method: Node) -> list[Block]:
    items = tuple((one.key(), ": ", one.words()) for one in method)
    return [Heading(("How these were computed",)), Bullets(items)] if items else []


def _model(entry: Node) -> Run:
    return (entry["model"].words(),)


def _table(
    caption: str, head: Sequence[str], rows: Sequence[tuple[Run, ...]], *, fold: bool = False
) -> list[Block]:
    return [Table((caption,), tuple((h,) for h in head), tuple(rows), fold)] if rows else []


def _discriminability(data: Node, _: Pictures) -> list[Block]:
    rows = [
        (
            _model(entry),
            span(entry["accuracy"], "pct1"),
            (entry["accuracy"]["n"].num("n"),),
            span(entry["accuracy_of_all"], "pct1"),
            span(entry["from_raw"], "s3"),
            span(entry["from_own"], "s3"),
            span(entry["to_source"], "pct1"),
            listed([(why.key(), " ", why.num("n")) for why in entry["unscored"]]),
        )
        for entry in data["models"]
    ]
    head = (
        "model", "told apart, %", "completions", "unscored as wrong, %", "minus raw",
        "minus its pre-coupling model", "bystanders taken for the source, %", "unscored",
    )  # fmt: skip
    chance = Para(("Guessing alone would be right in ", data["chance"].num("pct1"), " %."))
    return [chance, *_table("Completions given to their own persona", head, rows)]


def _following(data: Node, _: Pictures) -> list[Block]:
    rows = [
        (
            _model(entry),
            span(entry["bystanders"], "pct1"),
            (entry["bystanders"]["n"].num("n"),),
            (entry["bystanders"]["questions"].num("n"),),
        )
        for entry in data["models"]
    ]
    judged = Bullets(
        (
            ("Judge: ", data["judge"].words()),
            ("Rubric: ", data["rubric"].words()),
            ("Raw completions under another persona, yes in %: ", *_controls(data["controls"])),
        )
    )
    cells = [
        (
            (cell.key(),),
            _model(entry),
            *((cell[answer].num("n"),) for answer in ("yes", "partial", "no", "n")),
            listed([(why.key(), " ", why.num("n")) for why in cell["unscored"]]),
        )
        for entry in data["models"]
        for cell in entry["personas"]
    ]
    return [
        judged,
        *_table(
            "Bystander completions that follow their persona",
            ("model", "yes, %", "judged", "questions"),
            rows,
        ),
        *_table(
            "Answers, persona by persona",
            ("persona", "model", "yes", "partial", "no", "completions", "unscored"),
            cells,
            fold=True,
        ),
    ]


def _controls(cell: Node) -> Run:
    return (*span(cell["share"], "pct1"), " of ", cell["n"].num("n"))


def _geometry(data: Node, pictures: Pictures) -> list[Block]:
    picture = pictures["cosines"]
    rows = [
        (
            _model(entry),
            (entry["from"].words(),),
            (entry["readout"].words(), ", centred" if entry["centred"] else ""),
            (entry["layer"].num("id"),),
            span(entry, "s3"),
            (entry["p"].num("p"),),
            (entry["words"].words(),),
        )
        for entry in data["largest"]
    ]
    rooms = [
        (
            (room["readout"].words(),),
            (room["layer"].num("id"),),
            span(room, "f3"),
            (room["outcome"].words(),),
            (room["words"].words() or NONE,),
        )
        for room in data["room"]
    ]
    return [
        picture if isinstance(picture, Picture) else Para((picture,)),
        *_table(
            "Room in the raw model: uncentred cosine of source and bystanders",
            ("readout", "layer", "cosine", "room", "words"),
            rooms,
            fold=True,
        ),
        *_table(
            "Largest change of the cosine over layers",
            ("model", "minus", "readout", "layer", "change", "p", "words"),
            rows,
            fold=True,
        ),
    ]


def _lengths(data: Node, pictures: Pictures) -> list[Block]:
    picture = pictures["lengths"]
    after = [
        (
            (entry["arm"].words(),),
            (entry["under"].words(),),
            span(entry["after"], "f1"),
            span(entry["before"], "f1"),
            span(entry["ratio"], "f2"),
        )
        for entry in data["ratios"]
    ]
    support = [
        (
            (entry["claim"].words(),),
            (entry["treated"].words(), " and ", entry["control"].words()),
            (entry["support"]["auc"].num("f3"),),
            (entry["support"]["share"].num("f3"),),
            (entry["support"]["low"].num("f1"), " to ", entry["support"]["high"].num("f1")),
            (entry["support"]["grade"].words(),),
        )
        for entry in data["support"]
    ]
    return [
        picture if isinstance(picture, Picture) else Para((picture,)),
        *_table(
            "Median tokens of finished completions",
            ("arm", "pre-coupling model", "after", "before", "ratio"),
            after,
        ),
        *_table(
            "Do the bystanders of two arms share lengths",
            ("claim", "arms", "AUC", "share in common", "tokens", "at equal length"),
            support,
        ),
    ]


def _samples(data: Node, _: Pictures) -> list[Block]:
    blocks: list[Block] = [
        Para(
            (
                "A few completions of each arm, drawn by a named seed and spread over roles; "
                "nobody chose them. Control characters are shown as signs. At most ",
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
    "geometry": _geometry,
    "lengths": _lengths,
    "samples": _samples,
}
