"""The first half of a report: verdicts, gates, arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from persona_lib.report.blocks import (
    Block,
    Bullets,
    Cell,
    Heading,
    Para,
    Picture,
    Section,
    Table,
    table,
)
from persona_lib.report.caveats import Raised
from persona_lib.report.pieces import NONE, Node, Run, listed, span
from persona_lib.stats.estimate import EXACT, LEAST_P
from persona_lib.verdict.gate_result import GateOutcome

Pictures = Mapping[str, Picture | str]
"""Figures by name, or the sentence that stands in the place of one."""


def verdicts(root: Node, pictures: Pictures) -> Section:
    """Return the verdict table, the hero figure, and each claim with its looks."""
    found = list(root["verdicts"])
    blocks: list[Block] = [_verdict_table(found)]
    if any(verdict["effect"]["source"].value == "quoted" for verdict in found):
        blocks.append(
            Para(("An asterisk: effect, interval and p are quoted from the publication.",))
        )
    blocks += [_shown(pictures["hero"]), *_families(root)]
    for verdict in found:
        blocks += _claim(verdict)
    return Section("verdicts", "Verdicts", tuple(blocks))


def _verdict_table(found: Sequence[Node]) -> Table:
    head = (
        "claim", "outcome", "over training runs", "why", "effect [interval]", "p", "completions",
        "clusters",
    )  # fmt: skip
    caption = (
        "Registered claims. The effect is a difference of mean bystander rates (of the kill "
        "criterion: one rate), in proportions, with its ",
        *_level(found[0]["effect"] if found else Node(None)),
        " interval",
    )
    rows = (
        (
            verdict["name"].words(),
            outcome(verdict),
            over_runs(verdict),
            verdict["label"].words(),
            _effect(verdict["effect"]),
            p_of(verdict["effect"]),
            verdict["effect"]["n"].num("n"),
            verdict["effect"]["clusters"].num("n"),
        )
        for verdict in found
    )
    return table(caption, head, rows)


def outcome(verdict: Node) -> Run:
    """Return the outcome; a criterion that did not fire is no support for anything."""
    if verdict["outcome"].value == "SUPPORTED" and verdict["label"].value == "not triggered":
        return (verdict["label"].words(),)
    return (verdict["outcome"].words(),)


def over_runs(verdict: Node) -> Run:
    """Return whether training runs bear the outcome out, and what they do not show."""
    over = verdict["over_runs"]
    if not over:
        return (NONE,)
    return (over["status"].words(), "; ", over["text"].words())


def _effect(effect: Node) -> Run:
    run = span(effect, "s3" if effect["signed"].value else "f3")
    return (*run, " *") if effect["source"].value == "quoted" else run


def p_of(effect: Node) -> Run:
    """Return the p as the verdict table writes it, at its floor as a bound."""
    if not effect["p"].known:
        return (NONE,)
    floor = effect["p_floor"]
    exact = str(effect["method"].value).startswith(EXACT)
    at_floor = floor.known and LEAST_P <= effect["p"].float <= floor.float < 1 and not exact
    return ("<= " if at_floor else "", effect["p"].num("p"))


def _level(node: Node) -> Run:
    return (node["confidence"].num("pct0"), " %")


def _families(root: Node) -> list[Block]:
    rows = [
        (claim.words(), family["method"].words(), *(node.num("p") for node in ps))
        for family in root["families"]
        for claim, *ps in zip(
            family["claims"], family["p"], family["holm"], family["bonferroni"], strict=True
        )
    ]
    head = ("claim", "p of", "p", "Holm", "Bonferroni")
    return [table("p adjusted over the claims", head, rows)] if rows else []


def _claim(verdict: Node) -> list[Block]:
    facts: list[Run] = [
        ("Compared: ", verdict["contrast"].words()),
        ("Rule: ", verdict["rule"].words()),
        ("Outcome: ", *outcome(verdict), "; ", verdict["reason"].words()),
        *([("Training runs: ", *over_runs(verdict))] if verdict["over_runs"] else []),
        ("Method of the registered figure: ", verdict["effect"]["method"].words()),
        *((note.words(),) for note in verdict["notes"]),
        *(_warning(one) for one in verdict["warnings"]),
    ]
    blocks: list[Block] = [
        Heading((verdict["name"].words(), ": ", verdict["statement"].words())),
        *_conditions(verdict),
        Bullets(tuple(facts)),
    ]
    if verdict["estimates"]:
        head = ("look", "whose difference", "effect [interval]", "level", "p", "units", "note")
        rows = (
            (
                look["method"].words(),
                look["target"].words() or NONE,
                _effect(look),
                _level(look),
                p_of(look),
                look["clusters"].num("n"),
                look["note"].words() or NONE,
            )
            for look in verdict["estimates"]
        )
        caption = (verdict["name"].words(), ": other looks at the difference; none decides")
        blocks.append(table(caption, head, rows))
    return blocks


def _conditions(verdict: Node) -> list[Block]:
    """Return the comparisons of the rule, nothing in older files."""
    rows = [
        (
            (one["measure"].words(), " ", one["operator"].words(), " ", one["bound"].num("bound")),
            one["value"].num("p" if str(one["measure"].value).startswith("p") else "f3"),
            "yes" if one["met"] else "no",
            (one["gives"].words(), " (", one["label"].words(), ")"),
        )
        for one in verdict["conditions"]
    ]
    caption = (verdict["name"].words(), ": conditions of the rule")
    head = ("condition", "here", "met", "all of a kind give")
    return [table(caption, head, rows)] if rows else []


def _warning(gate: Node) -> Run:
    named = ("Warning, not registered: ", gate["name"].words(), " ", gate["outcome"].words())
    return (*named, " (", gate["text"].words(), ")")


def gates(root: Node) -> Section:
    """Return the gates of the registration and the checks that decide nothing."""
    intro = (
        "A gate is a check of the instrument. A claim that needs a gate is INVALID unless "
        "the gate holds; a gate that cannot tell does not hold."
    )
    checks = list(root["summary"]["checks"])
    held = [gate for gate in checks if gate["outcome"].value == GateOutcome.HOLDS.value]
    tables = [
        _gate_table("Gates of the registration", list(root["gates"])),
        _gate_table("Unregistered checks that do not hold", [g for g in checks if g not in held]),
        _gate_table("Unregistered checks that hold", held, folded=True),
    ]
    return Section("gates", "Gates", (Para((intro,)), *(one for one in tables if one.rows)))


def _gate_table(caption: str, gates: Sequence[Node], *, folded: bool = False) -> Table:
    rows = (
        (
            gate["name"].words(),
            gate["outcome"].words(),
            gate["text"].words(),
            listed([(name.words(),) for name in gate["needed_by"]]),
        )
        for gate in gates
    )
    return table(caption, ("gate", "outcome", "figure", "needed by"), rows, folded=folded)


def raised(found: Sequence[Raised]) -> Section:
    """Return the caveats that rules raised."""
    items = tuple((f"{one.code}: ", *one.words) for one in found)
    words = (
        "Each of these was raised by a rule that reads verdict.json and nothing else."
        if items
        else "No rule raised a caveat. That is a statement about the rules, not about the world."
    )
    blocks: tuple[Block, ...] = (Para((words,)),)
    return Section("caveats", "Caveats", (*blocks, Bullets(items)) if items else blocks)


def arms(root: Node, pictures: Pictures) -> Section:
    """Return rates and lengths of every arm, by persona, and by seed."""
    summary = root["summary"]
    blocks: list[Block] = [_arm_table(summary)]
    before = [
        (prior["name"].words(), *_count(prior["false_positives"]))
        for prior in summary["priors"]
        if prior["false_positives"]
    ]
    if before:
        head = ("model", "marker, %", "hits", "completions")
        blocks.append(table("The marker before coupling, with Wilson's interval", head, before))
    blocks += [_shown(pictures["forest"]), *_persona_tables(summary)]
    blocks += [_shown(pictures["scatter"]), _seed_table(summary)]
    return Section("arms", "Rates of the marker", tuple(blocks))


def _shown(picture: Picture | str) -> Block:
    return picture if isinstance(picture, Picture) else Para((picture,))


def _count(count: Node) -> tuple[Cell, Cell, Cell]:
    return span(count, "pct1", value="rate"), count["hits"].num("n"), count["n"].num("n")


def _arm_table(summary: Node) -> Table:
    head = (
        "arm", "coupled on", "source, %", "bystanders, %", "bystander/source",
        "tokens after", "before", "ratio", "finished, %",
    )  # fmt: skip
    rows = (
        (
            arm["name"].words(),
            arm["prior"].words(),
            span(arm["source"], "pct1", value="rate"),
            span(arm["bystanders"], "pct1", value="rate"),
            arm["bystander_source"].num("f3"),
            arm["tokens"].num("f1"),
            arm["baseline_tokens"].num("f1"),
            arm["length_ratio"].num("f2"),
            arm["finished"].num("pct1"),
        )
        for arm in summary["arms"]
    )
    kinds = {arm["length_statistic"].value for arm in summary["arms"]}
    caption = (
        "Arms: rates with Wilson's ",
        summary["confidence"].num("pct0"),
        " % interval, clusters ignored; lengths are ",
        "medians" if kinds == {"median"} else "means",
    )
    return table(caption, head, rows)


def _persona_tables(summary: Node) -> list[Block]:
    head = ("persona", "role", "marker, %", "hits", "completions", "before, %", "tokens")
    return [
        table(
            ("Arm ", arm["name"].words(), " by persona, with Wilson's interval"),
            head,
            (
                (
                    row["persona"].words(),
                    row["role"].words(),
                    *_count(row),
                    row["baseline"].num("pct1"),
                    row["tokens"].num("f1"),
                )
                for row in arm["personas"]
            ),
            folded=True,
        )
        for arm in summary["arms"]
        if arm["personas"]
    ]


def _seed_table(summary: Node) -> Block:
    rows = [
        (arm["name"].words(), run["seed"].num("id"), *(
            span(run[pool], "pct1", value="rate") for pool in ("source", "bystanders")
        ))
        for arm in summary["arms"]
        for run in arm["by_seed"]
    ]  # fmt: skip
    if not rows:
        return Para(("Rates of single training runs are not known here.",))
    head = ("arm", "seed", "source, %", "bystanders, %")
    return table("Training runs one by one, with Wilson's interval", head, rows)
