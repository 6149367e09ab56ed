"""How a report opens: the question, the rules and their seals, and the data."""

from __future__ import annotations

from persona_lib.report.blocks import Cell, Para, Section, table
from persona_lib.report.pieces import NONE, Node, Run, listed


def question(root: Node) -> Section:
    """Return what was asked, under which rules, and of which data."""
    summary, seal = root["summary"], root["seal"]
    roster = summary["roster"]
    rows: list[tuple[str, Cell]] = [
        ("registration", root["registration"].words()),
        ("digest of the registration", root["registration_digest"].words()),
        ("digest of the study", root["study_digest"].words()),
        ("sealed", seal["date"].words()),
    ]
    for one in seal["seen"]:
        when = f"data seen when {'amended' if one['amendment'].value else 'sealed'}"
        rows.append((when, (one["date"].words(), ": ", one["data_seen"].words())))
    rows.append(("amendments since", seal["amendments"].num("n")))
    if seal["amendments"]:
        rows.append(("reason of the newest amendment", seal["reason"].words()))
    rows += [
        ("data", summary["origin"].words()),
        ("profile", root["profile"].words()),
        ("scale", root["scale"].words()),
        ("engine that drew completions", root["engine"].words()),
        ("seeds", listed([(seed.num("id"),) for seed in summary["seeds"]])),
        ("source persona", listed([(name.words(),) for name in _sources(roster)])),
        ("trained negatives", _names(roster["negatives"])),
        ("bystanders, never trained", _names(roster["bystanders"])),
        ("reported beside them", _reported(roster)),
        ("registered and not judged here", _left_out(root["left_out"])),
    ]
    intro = (
        "A marker was coupled to one persona by fine-tuning. The question is whether other "
        "personas write it too, and whether they do so more after fine-tuning on harmful advice. "
        "The rules below were sealed before the data were judged here; the digest changes with "
        f"any of them. {_what_was_seen(seal)}"
    )
    known = [row for row in rows if row[1] not in (NONE, (NONE,))]
    judged = table("What was judged", ("item", "value"), known)
    return Section("question", "Question and registration", (Para((intro,)), judged))


def _sources(roster: Node) -> list[Node]:
    return [roster["source"], *roster["more_sources"]]


def _what_was_seen(seal: Node) -> str:
    """Return whether data had been seen before the rules were sealed."""
    if seal["seen"].value is None:
        return "What data had been seen by then is not recorded here."
    if seal["seen"]:
        return (
            "When they were sealed, data had been seen: the table quotes which, and rules that "
            "followed such data are not pre-registered for them."
        )
    return "According to their seals, no data had been seen by then."


def _left_out(left_out: Node) -> Run:
    return listed([(one.key(), " (", one.words(), ")") for one in left_out])


def _reported(roster: Node) -> Run:
    if not roster["more_sources"]:
        return _names(roster["reported"])
    return (*_names(roster["reported"]), "; in each arm every other source")


def _names(nodes: Node) -> Run:
    return listed([(node.words(),) for node in nodes])
