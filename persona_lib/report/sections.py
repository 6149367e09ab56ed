"""The first half of a report: verdicts, gates, arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from persona_lib.report.blocks import (
    Block,
    Bullets,
    Columns,
    Heading,
    Para,
    Picture,
    Section,
    Table,
    named,
    table,
    table_of,
)
from persona_lib.report.caveats import Raised
from persona_lib.report.pieces import NONE, Node, Run, listed, span
from persona_lib.stats.estimate import EXACT, LEAST_P
from persona_lib.stats.run_contrasts import RUN_METHOD
from persona_lib.verdict.gate_result import GateOutcome

Pictures = Mapping[str, Picture | Para]
"""Figures by name, or the sentence that stands in the place of one."""


def verdicts(root: Node, pictures: Pictures) -> Section:
    """Return the verdict table, the hero figure, and each claim with its looks."""
    found = list(root["verdicts"])
    blocks: list[Block] = [*_verdict_table(found)]
    if any(verdict["effect"]["source"].value == "quoted" for verdict in found):
        blocks.append(
            Para(("An asterisk: effect, interval and p are quoted from the publication.",))
        )
    blocks += [pictures["hero"], *_families(root)]
    for verdict in found:
        blocks += _claim(verdict)
    return Section("verdicts", "Verdicts", tuple(blocks))


_OF_RATES = (
    "The effect is a difference of mean bystander rates (of the kill criterion: one rate), in "
    "proportions"
)
_OF_RUNS = (
    "; of a claim over training runs, a contrast of what it names, its p against the smallest rise "
    "worth publishing, its training runs in place of completions, its seeds as clusters"
)
_ALL_OF_RUNS = (
    "The p is against d, the smallest rise worth publishing; the effect is a contrast over "
    "training runs of what the claim names"
)


def _verdict_table(found: Sequence[Node]) -> list[Table]:
    of_runs = [verdict["effect"]["method"].value == RUN_METHOD for verdict in found]
    alone = all(of_runs)
    caption = (
        "Registered claims. ",
        _ALL_OF_RUNS if alone else _OF_RATES,
        ", with its ",
        (found[0]["effect"]["confidence"] if found else Node(None)).num("pct0"),
        " % interval",
        *((_OF_RUNS,) if any(of_runs) and not alone else ()),
    )
    columns: Columns = {
        "claim": named(),
        "outcome": outcome,
        "over training runs": over_runs,
        "why": named("label"),
        "effect [interval]": lambda v: _effect(v["effect"]),
        "p": lambda v: p_of(v["effect"]),
        "training runs" if alone else "completions": lambda v: v["effect"]["n"].num("n"),
        "seeds" if alone else "clusters": lambda v: v["effect"]["clusters"].num("n"),
    }
    return table_of(caption, found, columns)


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
    against = " against d" if str(effect["method"].value).endswith("against d") else ""
    return ("<= " if at_floor else "", effect["p"].num("p"), against)


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
    columns: Columns = {
        "look": named("method"),
        "whose difference": lambda e: e["target"].words() or NONE,
        "effect [interval]": _effect,
        "level": lambda e: (e["confidence"].num("pct0"), " %"),
        "p": p_of,
        "units": lambda e: e["clusters"].num("n"),
        "note": lambda e: e["note"].words() or NONE,
    }
    caption = (verdict["name"].words(), ": other looks at the difference; none decides")
    return [*blocks, *table_of(caption, verdict["estimates"], columns)]


def _conditions(verdict: Node) -> list[Table]:
    """Return the comparisons of the rule, nothing in older files."""
    columns: Columns = {
        "condition": lambda c: (
            c["measure"].words(), " ", c["operator"].words(), " ", c["bound"].num("bound")
        ),
        "here": lambda c: c["value"].num("p" if str(c["measure"].value).startswith("p") else "f3"),
        "met": lambda c: "yes" if c["met"] else "no",
        "together they give": lambda c: (c["gives"].words(), " (", c["label"].words(), ")"),
    }  # fmt: skip
    caption = (verdict["name"].words(), ": conditions of the rule")
    return table_of(caption, verdict["conditions"], columns)


def _warning(gate: Node) -> Run:
    named = ("Warning, not registered: ", gate["name"].words(), " ", gate["outcome"].words())
    return (*named, " (", gate["text"].words(), ")")


def gates(root: Node) -> Section:
    """Return the gates of the registration and the checks that decide nothing."""
    intro = (
        "A gate is a check of the instrument. A claim that needs a gate is INVALID unless "
        "the gate holds; a gate that cannot tell does not hold."
    )
    columns: Columns = {
        "gate": named(),
        "outcome": named("outcome"),
        "figure": named("text"),
        "needed by": lambda g: listed([(name.words(),) for name in g["needed_by"]]),
    }
    checks = list(root["summary"]["checks"])
    held = [gate for gate in checks if gate["outcome"].value == GateOutcome.HOLDS.value]
    not_held = [gate for gate in checks if gate not in held]
    tables = (
        *table_of("Gates of the registration", root["gates"], columns),
        *table_of("Unregistered checks that do not hold", not_held, columns),
        *table_of("Unregistered checks that hold", held, columns, folded=True),
    )
    return Section("gates", "Gates", (Para((intro,)), *tables))


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
    before: Columns = {
        "model": named(),
        "marker, %": lambda p: _rate(p["false_positives"]),
        "hits": lambda p: p["false_positives"]["hits"].num("n"),
        "completions": lambda p: p["false_positives"]["n"].num("n"),
    }
    known = [prior for prior in summary["priors"] if prior["false_positives"]]
    blocks: list[Block] = [
        *_arm_table(summary),
        *table_of("The marker before coupling, with Wilson's interval", known, before),
        pictures["forest"],
        *_persona_tables(summary),
        pictures["scatter"],
        _seed_table(summary),
    ]
    return Section("arms", "Rates of the marker", tuple(blocks))


def _rate(count: Node) -> Run:
    return span(count, "pct1", value="rate")


def _arm_table(summary: Node) -> list[Table]:
    kinds = {arm["length_statistic"].value for arm in summary["arms"]}
    caption = (
        "Arms: rates with Wilson's ",
        summary["confidence"].num("pct0"),
        " % interval, clusters ignored; lengths are ",
        "medians" if kinds == {"median"} else "means",
    )
    several = bool(summary["roster"]["more_sources"])
    columns: Columns = {
        "arm": named(),
        **({"source persona": named("persona")} if several else {}),
        "coupled on": named("prior"),
        "source, %": lambda a: _rate(a["source"]),
        "bystanders, %": lambda a: _rate(a["bystanders"]),
        "bystander/source": lambda a: a["bystander_source"].num("f3"),
        "tokens after": lambda a: a["tokens"].num("f1"),
        "before": lambda a: a["baseline_tokens"].num("f1"),
        "ratio": lambda a: a["length_ratio"].num("f2"),
        "finished, %": lambda a: a["finished"].num("pct1"),
    }
    return table_of(caption, summary["arms"], columns)


def _persona_tables(summary: Node) -> list[Table]:
    columns: Columns = {
        "persona": named("persona"),
        "role": named("role"),
        "marker, %": _rate,
        "hits": lambda p: p["hits"].num("n"),
        "completions": lambda p: p["n"].num("n"),
        "before, %": lambda p: p["baseline"].num("pct1"),
        "tokens": lambda p: p["tokens"].num("f1"),
    }
    found = []
    for arm in summary["arms"]:
        caption = ("Arm ", arm["name"].words(), " by persona, with Wilson's interval")
        found += table_of(caption, arm["personas"], columns, folded=True)
    return found


def _seed_table(summary: Node) -> Block:
    rows = [
        (arm["name"].words(), run["seed"].num("id"), _rate(run["source"]), _rate(run["bystanders"]))
        for arm in summary["arms"]
        for run in arm["by_seed"]
    ]
    if not rows:
        return Para(("Rates of single training runs are not known here.",))
    head = ("arm", "seed", "source, %", "bystanders, %")
    return table("Training runs one by one, with Wilson's interval", head, rows)
