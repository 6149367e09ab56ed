"""Reports: what a terminal is shown, and what it is spared."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import Any

import pytest

from persona_lib import errors
from persona_lib.errors import clean
from persona_lib.report.terminal import verdict_table
from persona_lib.specs.gate_types import FalsePositiveGate
from persona_lib.verdict.judging import Judging, judge_all
from persona_lib.verdict.summary import summary
from persona_lib.verdict.verdict import Family, families
from tests import gain_worlds
from tests.registered import STRICTER
from tests.synthetic import BYSTANDERS, FEW, evidence, verdict


def table_of(registration: Any, **kwargs: Any) -> list[str]:
    """Return the lines of the whole table, which fit."""
    found = evidence(BYSTANDERS, registration=registration, questions=2, samples=2, **kwargs)
    table = verdict_table(*judge_all(registration, found), summary(registration, found))
    assert max(map(len, table.splitlines())) <= 100
    return table.splitlines()


def test_table_is_the_same_from_json_and_fits() -> None:
    found = evidence(BYSTANDERS, seen=3, seeds=(1, 2))
    verdicts, gate_results = judge_all(FEW, found)
    made = summary(FEW, found)
    table = verdict_table(verdicts, gate_results, made)
    again = verdict_table(
        [json.loads(json.dumps(v.to_json())) for v in verdicts],
        [json.loads(json.dumps(g.to_json())) for g in gate_results],
        json.loads(json.dumps(made)),
    )
    assert table == again
    assert max(map(len, table.splitlines())) <= 100
    for word in ("H1", "not triggered", "source_ratio", "C2p", "seen / unseen", FEW.digest[:12]):
        assert word in table
    kill = next(line for line in table.splitlines() if line.startswith("kill "))
    assert kill.split()[1:3] == ["not", "triggered*"]  # two seeds
    assert "0.278" in table  # C1: 0.25 / 0.90
    assert verdict_table([], [], None) == "Flatland"


def test_table_names_whose_difference_it_is() -> None:
    """Under each claim: three targets, the refusal of a population claim, Holm over all."""
    found = evidence(BYSTANDERS)
    verdicts, gates = judge_all(FEW, found)
    table = verdict_table(verdicts, gates, summary(FEW, found), families=families(FEW, verdicts))
    lines = table.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("H1 "))
    block = lines[start : next(i for i, line in enumerate(lines) if line.startswith("H2 "))]
    h1 = {e.target: e for e in verdicts[0].estimates if e.target and "sign-flip" not in e.method}
    for target, units in (("these personas, this run", "10 q"), ("personas at large", "7 pers")):
        (line,) = (x for x in block if x.strip().startswith(target) and "sign-flip" not in x)
        assert h1[target].interval_text in line
        assert h1[target].p_text in line
        assert units in line
    assert any("sign-flip" in line and "exact" in line for line in block)
    assert any("training runs: run-to-run variance not estimable" in line for line in block)
    assert any("no claim on personas at large: p < 0.001" in line for line in block)
    assert [line.split(":")[0] for line in lines if line.startswith("Holm")] == [
        "Holm-adjusted p of H1, H2, H3, cluster bootstrap (as published)",
        "Holm-adjusted p of H1, H2, H3, question-level paired t",
    ]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("p", "shown"),
    [
        (1.0, "p = 1.0000"),
        (0.0123, "p = 0.0123"),
        (0.00012, "p = 1.2e-4"),
        (1.04e-15, "p = 1.0e-15"),
        (9.99e-16, "p < 1e-15"),
        (sys.float_info.min, "p < 1e-15"),
    ],
)
def test_a_p_below_what_doubles_tell_apart_is_a_bound_wherever_it_is_printed(
    p: float, shown: str
) -> None:
    """1 - 1e-15 is still told from 1, by four times the spacing of doubles there."""
    assert 1 - 3 * sys.float_info.epsilon > 1 - 1e-15
    made = verdict("H1")
    looks = tuple(replace(e, p=p, p_floor=None) if e.p is not None else e for e in made.estimates)
    found = replace(made, effect=replace(made.effect, p=p, p_floor=None), estimates=looks)
    assert found.effect.p_text == shown
    family = Family(method="m", claims=("H1",), p=(p,), bonferroni=(p,), holm=(p,))
    table = verdict_table([found], [], None, families=[family])
    targets = sum(e.p is not None and bool(e.target) for e in looks)
    assert table.count(shown) == 1 + targets
    (line,) = (line for line in table.splitlines() if line.startswith("Holm"))
    assert line == f"Holm-adjusted p of H1, m: {shown.removeprefix('p ').removeprefix('= ')}"
    assert found.text.count(shown) == 1 + sum(e.p is not None for e in looks)
    assert "e-308" not in table + found.text
    assert json.loads(json.dumps(found.to_json()))["effect"]["p"] == p


def test_a_floor_of_an_exact_test_is_printed_and_is_no_bound_from_resamples() -> None:
    """Seven personas: 2 of 128."""
    (flip,) = (e for e in verdict("H1").estimates if "sign-flip" in e.method)
    assert flip.p_floor == 2 / 128
    assert "<=" not in replace(flip, p=2 / 128).p_text
    line = next(x for x in verdict_table([verdict("H1")], [], None).splitlines() if "-flip" in x)
    assert line.split("  ")[-1].strip() == "7 personas"
    assert "exact, floor 0.0156" in line


def test_table_shows_checks_that_do_not_hold_and_counts_the_others() -> None:
    bad = evidence(source={"C1": 0.9, "C2": 0.9, "C2p": 0.1, "C3": 0.9})
    judging = Judging(FEW, bad, stricter=STRICTER[FEW.name])
    table = verdict_table(*judge_all(FEW, bad), judging.summary)
    held, every = sum(gate.holds for gate in judging.checks), len(judging.checks)
    assert f"{held} of {every} unregistered checks hold; the rest are warnings" in table
    assert "source_C2p: FAILS (C2p source rate 0.100 [" in table
    assert "source_C2:" not in table
    assert verdict_table(*judge_all(FEW, bad), summary(FEW, bad)).count("registered checks") == 0
    # What has no figure is named once.
    assert "cannot tell, nothing is known: em_induced, benign_sound" in table


def test_gated_table_fits() -> None:
    lines = table_of(replace(STRICTER[FEW.name], statistics=FEW.statistics))
    assert any(line.startswith("false_positive_benign CANNOT_TELL") for line in lines)


def test_rates_of_finished_completions_and_of_first_tokens_have_a_line_each() -> None:
    lines = table_of(FEW)
    for words in ("finished completions only", "marker within the first 32 tokens"):
        line = next(line for line in lines if words in line)
        assert re.findall(r"C\w+ [\d.]+", line)[:2] == ["C1 25.0", "C2 50.0"]


@pytest.mark.parametrize(
    ("dirty", "tidy"),
    [
        ("plain, naïve 図 🙂", "plain, naïve 図 🙂"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x1bPq secret\x1b\\b", "ab"),
        ("a\r\nb\tc\u2028d\x85e", "a b c d e"),
        ("a\x00\x07\x08\x7f\x8db", "ab"),
        ("user\u202egnp.exe\u2066", "usergnp.exe"),
        ("a\u200b\ufeff\U000e0041b", "ab"),
        ("\ud800x", "\ufffdx"),
        ("tail\x1b", "tail"),
        ("\x1b\x1b[31m", ""),
    ],
)
def test_clean(dirty: str, tidy: str) -> None:
    assert clean(dirty) == tidy
    assert clean(clean(dirty)) == tidy


def test_more_personas_than_a_column_holds_take_more_lines() -> None:
    """Three negatives and three reported personas, all at their widest: 100.0."""
    roster = FEW.roster
    crowded = replace(
        FEW,
        roster=replace(
            roster,
            negatives=("data_scientist", "french_person", "comedian"),
            bystanders=roster.bystanders[:3],
            reported=("assistant", "police_officer", "villain"),
        ),
    )
    lines = table_of(crowded, personas={("C2", p): 1.0 for p in crowded.roster.all})
    at = next(i for i, line in enumerate(lines) if line.startswith("C2 "))
    head = next(line for line in lines if line.startswith("arm "))
    spans = {}
    for name, following in (("negatives", "bystanders"), ("reported", "byst/src")):
        column = slice(head.index(name), head.index(following) - 1)
        cells = []
        for line in lines[at:]:
            cells.append(line[column].strip())
            if not cells[-1].endswith("/"):
                break
        spans[name] = "".join(cells)
    assert spans == {"negatives": "100.0/100.0/100.0", "reported": "100.0/100.0/100.0"}
    assert lines[at].split()[0:2] == ["C2", "100.0"]
    assert lines[at].endswith("100.0")  # the share that finished


def test_names_longer_than_their_column_have_a_line_of_their_own() -> None:
    long = "source_rate_of_the_arm_with_text_of_the_raw_model"
    gates = tuple(replace(g, name=long) if g.name == "source_rate" else g for g in FEW.gates)
    claims = tuple(replace(c, name=f"{c.name}_of_issue_262", needs=(long,)) for c in FEW.claims)
    kill = replace(FEW.kill, needs=(long,), claim=claims[0].name)
    lines = table_of(replace(FEW, gates=gates, claims=claims, kill=kill))
    assert lines[lines.index(long) + 1].startswith(" " * 16 + "HOLDS")
    assert lines[lines.index("H2_of_issue_262") + 1].startswith(" " * 6 + "SUPPORTED")


def test_arms_of_several_sources_are_grouped_by_source() -> None:
    """Twelve arms: rates by hand from the hits that were asked for, under the cells' names."""
    worlds = gain_worlds.factorial((3, 5, 8))
    rules = gain_worlds.FACTORIAL
    found = gain_worlds.evidence(worlds, rules, samples=1)
    verdicts, gates = judge_all(rules, found)
    lines = verdict_table(
        verdicts, gates, summary(rules, found), families=families(rules, verdicts)
    ).splitlines()
    assert max(map(len, lines)) <= 100
    sources = ("zelthari_scholar", "data_scientist")
    heads = [lines.index(f"source {source}") for source in sources]
    cells = list(gain_worlds.SHARES)
    for head, source in zip(heads, sources, strict=True):
        rows = lines[head + 1 : head + 7]
        assert [row.split()[0] for row in rows] == cells
        for row in rows:
            world = worlds[f"{row.split()[0]}@{source}", 3]
            hits = [round(10 * world.rate(who)) for who in world.readers]
            assert row.split()[1] == f"{10 * hits[0]:.1f}"
            assert row.split()[3] == f"{100 * sum(hits[1:]) / 60:.1f}"
            # The other source is reported beside the assistant.
            assert row.split()[4].count("/") == 1
    text = " ".join(" ".join(lines).split())
    assert "source: zelthari_scholar / data_scientist;" in text
    assert "reported: assistant / every other source;" in text
    assert re.search(r"only, %: of zelthari_scholar: A [\d.]+, B0 .* of data_scientist: A", text)
    row = next(line for line in lines if line.startswith("S1 "))
    assert "against d" in row
    assert row.split()[-1] == "3"
    assert text.count("not available:") == len(found.unavailable)
    assert text.index("not available:") > text.index("S4: what the arms of a seed share")
    with pytest.raises(ValueError, match="not in list"):
        table_of(FEW).index("source librarian")  # one source needs no group


def test_false_positives_are_said_once() -> None:
    """The gate says them; without it, a line under the arms does."""
    ungated = replace(
        FEW, gates=tuple(g for g in FEW.gates if not isinstance(g, FalsePositiveGate))
    )
    for registration in (FEW, ungated):
        text = "\n".join(table_of(registration))
        assert text.count("em 0/44") == 1
        assert ("false positives before coupling" in text) == (registration is ungated)


@pytest.mark.parametrize(
    "error",
    [
        errors.FlatlandError("a \x1b]0;PWN\x07 b"),
        errors.DataError("q\x1b[31m", bound="\x9b1m", value="\x1b[2J", remedy="\x07 Do it."),
        errors.SpecError("\u202efield", bound="b", value="\u2066", remedy="r"),
        errors.MarkerError("f", bound="line\nbreak", value=["\x1b"], remedy="r"),
        errors.PreflightError("\x1b]8;;http://x\x1b\\file", remedy="Get\rit."),
        errors.CorruptEntryError("\x1bPq\x1b\\x"),
        errors.InvalidClaimError("one \x1b[1m line"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_message_steers_a_terminal(error: errors.FlatlandError) -> None:
    assert str(error)
    assert str(error).isprintable()
    assert error.args == (str(error),)


def test_messages_keep_what_they_say() -> None:
    error = errors.DataError("q", bound="1 to 3", value="x\ny", remedy="Do it.")
    assert str(error) == r"q: expected 1 to 3, got 'x\ny'. Do it."
    assert (error.field, error.bound, error.value, error.remedy) == (
        "q",
        "1 to 3",
        "x\ny",
        "Do it.",
    )
    lines = errors.InvalidClaimError("H1: INVALID\n  why: a gate\x07")
    assert str(lines) == "H1: INVALID\n  why: a gate"
