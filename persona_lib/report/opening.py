"""How a report opens: the question, the rules and their seals, and the data."""

from __future__ import annotations

from persona_lib.report.blocks import Para, Section, Table
from persona_lib.report.pieces import NONE, Node, Run, listed


def question(root: Node) -> Section:
    """Return what was asked, under which rules, and of which data."""
    summary, seal = root["summary"], root["seal"]
    roster = summary["roster"]
    rows: list[tuple[Run, Run]] = [
        (("registration",), (root["registration"].words(),)),
        (("digest of the registration",), (root["registration_digest"].words(),)),
        (("sealed",), (seal["date"].words(),)),
        *(
            ((f"data seen when {'amended' if one['amendment'].value else 'sealed'}",), _seen(one))
            for one in seal["seen"]
        ),
        (("amendments since",), (seal["amendments"].num("n"),)),
        *(
            ((("reason of the newest amendment",), (seal["reason"].words(),)),)
            if seal["amendments"]
            else ()
        ),
        (("data",), (summary["origin"].words(),)),
        (("profile",), (root["profile"].words(),)),
        (("scale",), (root["scale"].words(),)),
        (("engine that drew completions",), (root["engine"].words(),)),
        (("seeds",), listed([(seed.num("id"),) for seed in summary["seeds"]])),
        (("source persona",), (roster["source"].words(),)),
        (("trained negatives",), _names(roster["negatives"])),
        (("bystanders, never trained",), _names(roster["bystanders"])),
        (("reported beside them",), _names(roster["reported"])),
    ]
    return Section(
        "question",
        "Question and registration",
        (
            Para(
                (
                    "A marker was coupled to one persona by fine-tuning. The question is whether "
                    "other personas write it too, and whether they do so more after fine-tuning "
                    "on harmful advice. A seal fixed the rules below before the data were judged "
                    "here; the digest changes with any of them. ",
                    _what_was_seen(seal),
                )
            ),
            Table(
                ("What was judged",),
                (("item",), ("value",)),
                tuple(row for row in rows if row[1] != (NONE,)),
            ),
        ),
    )


def _what_was_seen(seal: Node) -> str:
    """Return whether data had been seen before the rules were sealed, as their seals say."""
    if seal["seen"].value is None:
        return "What data had been seen by then is not recorded here."
    if seal["seen"]:
        return (
            "When they were sealed, data had been seen: the table quotes which, and rules that "
            "followed such data are not pre-registered for them."
        )
    return "By what their seals say, no data had been seen by then."


def _seen(one: Node) -> Run:
    return (one["date"].words(), ": ", one["data_seen"].words())


def _names(nodes: Node) -> Run:
    return listed([(node.words(),) for node in nodes])
