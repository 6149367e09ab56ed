"""Panel of lengths: counted once more row by row, judged as the gates judge it."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from persona_lib.errors import DataError
from persona_lib.panels.base import Panel
from persona_lib.panels.lengths import bin_edges, lengths_panel
from persona_lib.verdict.gate_result import GateOutcome
from persona_lib.verdict.gates import judge_gate
from tests.faults import cut, drop, lengths, missing, shorter
from tests.healthy import GATED, ROSTER, Bench, evidence_of, healthy, table
from tests.registered import ISSUE262

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("C1", "C2", "C2p", "C3")
PRE_MODELS = ("raw", "em", "benign")


def panel_of(bench: Any) -> Panel:
    assert isinstance(bench, Bench)
    panel = lengths_panel(table(bench), GATED)
    json.dumps(panel.to_json(), allow_nan=False)
    return panel


def codes(panel: Panel, about: str = "") -> list[str]:
    return [caveat.code for caveat in panel.caveats if about in caveat.words]


@pytest.mark.parametrize(("phase", "model"), [("post", "C2"), ("pre", "benign")])
@pytest.mark.parametrize("role", ["all", "source", "negative", "bystander", "reported"])
def test_every_summary_is_that_of_its_rows(phase: str, model: str, role: str) -> None:
    bench = healthy()
    panel = panel_of(bench)
    who = tuple(p for p in ROSTER.all if role in ("all", ROSTER.role(p)))
    rows = bench.rows(phase=phase, model=model, persona=who)
    tokens, questions = bench.scores["tokens"][rows], bench.scores["question"][rows]
    entry = next(m for m in panel.data["models"] if m["model"] == model)
    found = entry["all"] if role == "all" else entry["roles"][role]

    assert found["n"] == rows.sum()
    for level in (5, 25, 50, 75, 95):
        assert found["quantiles"][str(level)] == pytest.approx(np.percentile(tokens, level))
    means = [tokens[questions == q].mean() for q in sorted(set(questions))]
    ends = stats.t.interval(0.95, 19, loc=np.mean(means), scale=stats.sem(means))
    assert found["mean"]["value"] == pytest.approx(tokens.mean())
    assert (found["mean"]["low"], found["mean"]["high"]) == pytest.approx(ends)
    assert found["finished"]["value"] == pytest.approx(bench.scores["ended"][rows].mean())
    assert found["median"]["low"] <= found["quantiles"]["50"] <= found["median"]["high"]
    edges = panel.data["edges"]
    binned = [((tokens >= a) & (tokens < b)).sum() for a, b in itertools.pairwise(edges)]
    assert found["histogram"] == binned
    assert sum(found["histogram"]) == found["n"]


@pytest.mark.parametrize("most", [0, 1, 2, 7, 512, 2_048])
def test_edges_take_in_every_length(most: int) -> None:
    edges = bin_edges(np.array([0.0, most]))
    assert edges[:2] == [0, 1]
    assert edges == sorted(set(edges))
    assert edges[-1] > most
    assert len(edges) <= 26


@pytest.mark.parametrize("arm", ARMS)
def test_the_ratio_is_that_of_the_gate(arm: str) -> None:
    panel = panel_of(healthy())
    gate = judge_gate(GATED, evidence_of(healthy()), f"collapse_{arm}")
    found = next(r for r in panel.data["ratios"] if r["arm"] == arm)
    ends = [found["ratio"][end] for end in ("value", "low", "high")]
    assert ends == pytest.approx([gate.figure, gate.low, gate.high], abs=1e-12)
    assert found["seeds"]["42"] == found["ratio"]
    assert found["under"] == GATED.arm(arm).prior


@pytest.mark.parametrize("tokens", [120, 130, 250, 480, 505, 511])
def test_collapsed_where_the_gate_does_not_hold(tokens: int) -> None:
    broken = lengths("C3", tokens)(healthy())
    gate = judge_gate(GATED, evidence_of(broken), "collapse_C3")
    expected = ["collapsed"] if gate.outcome is not GateOutcome.HOLDS else []
    assert codes(panel_of(broken), "C3: median length") == expected


def test_collapsed_on_both_sides_and_where_it_cannot_be_told() -> None:
    for tokens in (10, 500):
        caveats = panel_of(lengths("C2", tokens)(healthy())).caveats
        words = next(c.words for c in caveats if c.code == "collapsed")
        assert words.startswith("C2: median length of finished completions over that of em")
    half = panel_of(shorter("C2", 10)(healthy()))  # its median may be either
    assert "collapsed" in codes(half, "C2:")
    nothing = panel_of(cut("C2", 2_200)(healthy()))
    assert "no finished completions" in next(
        c.words for c in nothing.caveats if c.code == "collapsed"
    )
    assert "collapsed" not in codes(panel_of(healthy()))


def test_a_run_that_collapsed_is_named_whatever_the_other_does() -> None:
    one = healthy()  # and a second run of its records, of another order, in which C1 collapsed
    names = {name: np.concatenate([of, of[::-1]]) for name, of in one.scores.items()}
    names["seed"] = np.repeat([42, 137], one.scores["seed"].size)
    bench = replace(one, scores=names)
    fallen = bench.rows(phase="post", model="C1", seed=137) & names["ended"]
    panel = panel_of(bench.edit(fallen, tokens=5))
    (words,) = [c.words for c in panel.caveats if c.code == "collapsed"]
    assert words.startswith("C1 (seed 137): ")
    ratios = next(r for r in panel.data["ratios"] if r["arm"] == "C1")["seeds"]
    rows = one.rows(phase="pre", model="raw") & one.scores["ended"]
    before = np.median(one.scores["tokens"][rows])
    alone = next(r for r in panel_of(one).data["ratios"] if r["arm"] == "C1")["ratio"]
    assert ratios["42"] == alone
    assert ratios["137"]["value"] == pytest.approx(5 / before)


def test_truncated_above_a_tenth() -> None:
    assert "truncated" not in codes(panel_of(cut("C1", 220)(healthy())), "C1:")
    assert "truncated" in codes(panel_of(cut("C1", 221)(healthy())), "C1:")
    # healthy models ramble before coupling: each of them is named
    for model in PRE_MODELS:
        assert codes(panel_of(healthy()), f"{model}: ") == ["truncated"]


def test_common_support_is_counted_on_bystanders_of_every_contrast() -> None:
    bench = healthy()
    panel = panel_of(bench)
    assert [entry["claim"] for entry in panel.data["support"]] == ["H1", "H2", "H3"]
    for entry in panel.data["support"]:
        one, two = (
            bench.scores["tokens"][bench.rows(phase="post", model=m, persona=ROSTER.bystanders)]
            for m in (entry["treated"], entry["control"])
        )
        auc = stats.mannwhitneyu(one, two).statistic / one.size / two.size
        assert entry["support"]["auc"] == pytest.approx(max(auc, 1 - auc))
        assert entry["n"] == {"treated": one.size, "control": two.size}
        ordered = [np.sort(arm) for arm in (one, two)]
        trim = [(arm.size - 1) // 100 for arm in ordered]
        low = max(arm[k] for arm, k in zip(ordered, trim, strict=True))
        high = min(arm[-1 - k] for arm, k in zip(ordered, trim, strict=True))
        inside = min(((arm >= low) & (arm <= high)).mean() for arm in (one, two))
        assert entry["support"]["share"] == pytest.approx(inside)


@pytest.mark.parametrize(
    ("control", "code"),
    [(110, []), (85, ["little_common_support"]), (38, ["no_common_support"])],
)
def test_support_is_graded(control: int, code: list[str]) -> None:
    rng = np.random.default_rng(1)
    bench = healthy()
    for arm, middle in (("C2", 110), ("C1", control)):
        rows = bench.rows(phase="post", model=arm)
        tokens = np.rint(middle + 20 * rng.normal(size=rows.sum())).astype(np.int64)
        bench = bench.edit(rows, tokens=np.maximum(tokens, 1))
    assert codes(panel_of(bench), "H1: bystanders of C2 and C1") == code


def test_an_arm_or_a_model_that_was_not_recorded_is_said() -> None:
    panel = panel_of(drop(model="C3")(healthy()))
    entry = next(e for e in panel.data["support"] if e["claim"] == "H2")
    assert (entry["support"], entry["words"]) == (None, "C3 was not recorded")
    panel = panel_of(drop(model="em")(healthy()))
    found = next(r for r in panel.data["ratios"] if r["arm"] == "C2")
    assert found["ratio"] is None
    assert found["before"] is None
    assert found["after"]["value"] > 0
    assert "collapsed" not in codes(panel)


def test_missing_columns_are_said() -> None:
    panel = panel_of(missing("finish")(healthy()))
    assert panel.data["missing"] == {
        "finished": "no finish reasons recorded: finished completions are not known"
    }
    assert panel.data["models"][0]["all"]["finished"] is None
    assert panel.data["ratios"][0]["ratio"] is None
    assert {"collapsed", "truncated"}.isdisjoint(codes(panel))
    nothing = panel_of(missing("tokens")(healthy()))
    assert (nothing.state, nothing.reason) == ("unavailable", "no numbers of tokens recorded")
    for none in (None, table(healthy()).slice(0, 0)):
        assert lengths_panel(none, GATED).reason == "no completions recorded"


def test_what_is_not_whole_is_refused() -> None:
    with pytest.raises(DataError, match="cells are short"):
        lengths_panel(table(healthy()).slice(1), GATED)
    with pytest.raises(DataError, match="column model"):
        lengths_panel(table(healthy()).drop_columns(["model"]), GATED)


def test_one_question_gives_no_interval() -> None:
    bench = healthy()
    panel = panel_of(bench.keep(bench.rows(question="q03")))
    found = panel.data["models"][0]["all"]
    assert found["mean"]["low"] is None
    assert found["median"]["low"] is None
    assert not math.isnan(found["mean"]["value"])
    assert "collapsed" in codes(panel, "C1:")


def test_the_order_of_rows_does_not_matter() -> None:
    scores = table(healthy())
    turned = scores.take(np.random.default_rng(3).permutation(len(scores)))
    one, two = (lengths_panel(rows, GATED).to_json() for rows in (scores, turned))
    assert json.dumps(one) == json.dumps(two)


def test_the_recorded_run_is_readable_and_unremarkable() -> None:
    panel = lengths_panel(pq.read_table(ROOT / "golden/tiny/scores.parquet"), ISSUE262)
    assert panel.state == "readable"
    assert panel.caveats == ()
    medians = {m["model"]: m["all"]["quantiles"]["50"] for m in panel.data["models"]}
    assert medians == {  # the table of README.md
        "C1": 35.5, "C2": 39.0, "C2p": 37.0, "C3": 38.0, "raw": 39.0, "em": 49.0, "benign": 48.0
    }  # fmt: skip
