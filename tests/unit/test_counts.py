"""Counts by persona: what they bear, and the reason for what they cannot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from persona_lib.commands.outcome import merge_summaries
from persona_lib.errors import DataError
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.load import Stored, load_stored
from persona_lib.report.terminal import verdict_table
from persona_lib.verdict.gate_result import GateOutcome
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge, judge_all
from persona_lib.verdict.summary import summary
from tests.registered import ISSUE262, ISSUE262_GATED
from tests.synthetic import FEW

ROSTER = ISSUE262.roster
RATES = {"C1": 0.2, "C2": 0.6, "C2p": 0.5, "C3": 0.15}


def frame(seeds: Sequence[int] = (1, 2, 3, 4, 5), more: Sequence[int] = (6,)) -> pd.DataFrame:
    """Counts of every arm and prior; C2 has more seeds than the others."""
    rng = np.random.default_rng(5)
    made = []
    tilt = {persona: rng.uniform(-0.1, 0.1) for persona in ROSTER.all}
    for phase, names in (("post", list(RATES)), ("pre", ["raw", "em"])):
        for name in names:
            for seed in (*seeds, *(more if name == "C2" else ())):
                for persona in ROSTER.all:
                    rate = 0.9 if persona == ROSTER.source else RATES.get(name, 0) + tilt[persona]
                    hits = rng.binomial(40, rate if phase == "post" else 0.02)
                    made.append((phase, name, seed, persona, hits, 40))
    return pd.DataFrame(made, columns=["phase", "arm", "seed", "persona", "hits", "n"])


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """The same without seeds."""
    return rows.groupby(["phase", "arm", "persona"], as_index=False)[["hits", "n"]].sum()


def stored(folder: Path, rows: pd.DataFrame, *arms: str, kind: str = "csv") -> Evidence:
    path = folder / f"counts.{kind}"
    if kind == "csv":
        rows.to_csv(path, index=False)
    elif kind == "jsonl":
        rows.to_json(path, orient="records", lines=True)
    else:
        rows.to_parquet(path)
    return load_stored(path, FEW, arms=arms or None)


def refused(folder: Path, rows: pd.DataFrame, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        stored(folder, rows)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def bystanders(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    return rows[(rows.arm == arm) & rows.persona.isin(ROSTER.bystanders)]


def rates(rows: pd.DataFrame, arm: str, by: str) -> pd.Series[float]:
    sums = bystanders(rows, arm).groupby(by)[["hits", "n"]].sum()
    return sums.hits / sums.n


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("seeded", [True, False])
def test_counts_give_the_statistics_of_personas(kind: str, seeded: bool, tmp_path: Path) -> None:
    rows = frame() if seeded else pooled(frame())
    found = stored(tmp_path, rows, kind=kind)
    assert found.kind == "counts"
    verdict = judge(FEW, found, "H2")
    looks = {look.method: look for look in verdict.estimates}
    one, two = (rates(rows, arm, "persona") for arm in ("C2", "C3"))
    expected = stats.ttest_rel(one, two)
    low, high = expected.confidence_interval(0.95)
    personas = looks["persona-level t, questions pooled"]
    assert (personas.value, personas.p) == pytest.approx(((one - two).mean(), expected.pvalue))
    assert (personas.low, personas.high) == pytest.approx((low, high), rel=1e-9)
    flips = stats.permutation_test(
        (one - two,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert looks["exact sign-flip over personas"].p == pytest.approx(flips.pvalue)
    sums = {arm: bystanders(rows, arm)[["hits", "n"]].sum() for arm in ("C2", "C3")}
    value = sums["C2"].hits / sums["C2"].n - sums["C3"].hits / sums["C3"].n
    assert verdict.effect.value == pytest.approx(value)
    assert (verdict.effect.p, verdict.effect.has_interval) == (None, False)
    assert verdict.outcome.value == "INCONCLUSIVE"
    z, _ = sm.stats.proportions_ztest([s.hits for s in sums.values()], [s.n for s in sums.values()])
    assert f"z = {z:+.2f}" in looks["naive two-sample z (as published)"].note


def test_seeds_give_the_statistics_of_runs_as_well(tmp_path: Path) -> None:
    rows = frame()
    found = stored(tmp_path, rows)
    assert (found.seeds, found.runs) == ((1, 2, 3, 4, 5, 6), 6)
    looks = {look.method: look for look in judge(FEW, found, "H2").estimates}
    one, two = (rates(rows, arm, "seed") for arm in ("C2", "C3"))
    welch = stats.ttest_ind(one, two, equal_var=False)
    assert looks["Welch t over seeds"].p == pytest.approx(welch.pvalue, rel=1e-9)
    assert (len(one), len(two), looks["Welch t over seeds"].clusters) == (6, 5, 11)
    paired = {look.method: look for look in judge(FEW, found, "H3").estimates}
    expected = stats.ttest_rel(one.loc[1:5], rates(rows, "C2p", "seed"))
    assert paired["paired t over seeds"].p == pytest.approx(expected.pvalue, rel=1e-9)
    kill = judge(FEW, found, "kill")
    assert kill.over_runs is not None
    low, high = stats.ttest_1samp(one, 0.0).confidence_interval(0.95)
    assert f"{one.mean():.3f} [{low:.3f}, {high:.3f}]" in kill.over_runs.text
    assert {
        run["seed"]: run["bystanders"]["rate"]
        for arm in summary(FEW, found)["arms"] if arm["name"] == "C2" for run in arm["by_seed"]
    } == pytest.approx(one.to_dict())  # fmt: skip


def test_what_counts_cannot_give_is_listed(tmp_path: Path) -> None:
    found = stored(tmp_path, pooled(frame()))
    assert [sentence.split(":")[0] for sentence in found.unavailable] == [
        "Cluster bootstrap, the interval and p of the registered rules",
        "Inference for these personas, TOST, and anything per question",
        "Intervals of bystander/source and of the effect minus false positives",
        "Lengths, finished completions, repeated markers, first-k-tokens rates and gates on them",
        "Statistics over runs",
        "False positives of prior benign",
    ]
    verdict = judge(FEW, found, "H2")
    assert verdict.over_runs is not None
    assert verdict.over_runs.text == "over training runs: not known from totals"
    assert (found.seeds, found.runs) == ((), 0)
    assert "how many training runs are pooled is not known" in verdict.notes
    assert not [note for note in verdict.notes if note.startswith("with one seed")]
    methods = {look.method for look in verdict.estimates}
    assert not {m for m in methods if "seeds" in m or "question-level" in m or "TOST" in m}
    seeded = stored(tmp_path, frame())
    assert [s for s in found.unavailable if s not in seeded.unavailable] == [
        "Statistics over runs: the file has no column seed, which tells them apart."
    ]
    verdicts, gates = judge_all(FEW, found)
    body = merge_summaries([summary(FEW, found)])
    json.dumps(body, allow_nan=False)
    table = verdict_table(verdicts, gates, body)
    assert "personas at large, sign-flip" in table
    lines = [line for line in table.splitlines() if "Statistics over runs" in line]
    assert len(lines) == 1


def test_gates_on_counts_can_fail_and_never_hold(tmp_path: Path) -> None:
    rows = frame()
    found = stored(tmp_path, rows)
    gate = judge_gate(ISSUE262_GATED, found, "source_C2")
    source = rows[(rows.arm == "C2") & (rows.persona == ROSTER.source)]
    assert gate.figure == pytest.approx((source.hits / source.n).mean())
    assert gate.outcome is GateOutcome.CANNOT_TELL
    assert "can show failure, never success" in gate.text
    lost = rows.assign(hits=rows.hits.where(rows.persona != ROSTER.source, 0))
    failed = judge_gate(ISSUE262_GATED, stored(tmp_path, lost), "source_C2")
    assert failed.outcome is GateOutcome.FAILS
    assert judge_gate(FEW, found, "source_rate").holds  # a point gate compares the observed rate


def test_false_positives_are_those_of_the_counted(tmp_path: Path) -> None:
    rows = frame()
    found = stored(tmp_path, rows)
    em = rows[rows.arm == "em"]
    count = found.pre_count("em")
    assert count is not None
    assert (count.hits, count.n) == (em.hits.sum(), em.n.sum())
    villain = found.pre_count("em", "villain")
    assert villain is not None
    assert villain.hits == em[em.persona == "villain"].hits.sum()
    assert found.pre_count("benign") is None
    corrected = found.corrected_contrast("H1", "C2", "C1").value
    raw = rows[rows.arm == "raw"]
    one, two = (bystanders(rows, arm)[["hits", "n"]].sum() for arm in ("C2", "C1"))
    value = one.hits / one.n - two.hits / two.n - em.hits.sum() / em.n.sum()
    assert corrected == pytest.approx(value + raw.hits.sum() / raw.n.sum())


def test_personas_that_are_no_bystanders_may_be_missing_and_are_named(tmp_path: Path) -> None:
    rows = frame()
    rows = rows[~rows.persona.isin(("assistant", "data_scientist"))]
    rows = rows[~((rows.arm == "C3") & (rows.persona == ROSTER.source))]
    found = stored(tmp_path, rows, "C2", "C3")
    assert [s for s in found.unavailable if s.startswith("Rate of")] == [
        "Rate of librarian: the file does not count it in C3.",
        "Rate of data_scientist: the file does not count it in C2, C3.",
        "Rate of assistant: the file does not count it in C2, C3.",
    ]
    assert math.isnan(found.ratio_contrast("H2", "C2", "C3").value)
    assert found.count("C3", "source").hits is None
    assert judge(FEW, found, "H2").effect.value > 0
    json.dumps(summary(FEW, found), allow_nan=False)


def test_counts_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    rows = frame()
    one = (rows.arm == "C3") & (rows.seed == 2) & (rows.persona == "villain")
    refused(tmp_path, rows[~one], "counts: arm C3, seed 2", "none of villain")
    source = (rows.arm == "C3") & (rows.seed == 2) & (rows.persona == ROSTER.source)
    refused(tmp_path, rows[~source], "counts: arm C3, seed 2", "none of librarian")
    refused(tmp_path, rows[rows.arm != "C3"], "counts: arm C3: expected a row or more")
    refused(
        tmp_path, pd.concat([rows, rows[one]]), "post C3 villain: expected one row", "of seed 2"
    )
    refused(tmp_path, rows.assign(n=rows.n.where(~one, 0)), "n >= 1", "of 0")
    refused(tmp_path, rows.assign(hits=rows.hits.where(~one, 41)), "hits <= n", "'41 of 40'")
    refused(tmp_path, rows.assign(hits=rows.hits.where(~one, -1)), "column hits, row", "-1")
    refused(tmp_path, rows.drop(columns="n"), "columns: expected n among them")
    refused(tmp_path, rows.replace({"persona": {"villain": "vilain"}}), "Did you mean villain? ")
    empty = rows.assign(seed=rows.seed.astype(object).where(~one, None))
    refused(tmp_path, empty, "column seed, row", "an empty cell")


def test_a_file_with_a_hit_a_row_holds_no_counts(tmp_path: Path) -> None:
    rows = frame().assign(hit=1, question="q", sample=0)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    found = Stored(tmp_path / "rows.csv", FEW)
    assert found.evidence(("C1", "C2")).kind == "records"
    assert "columns not read: hits, n" in found.evidence(("C1",)).origin
    stored(tmp_path, frame())
    assert Stored(tmp_path / "counts.csv", FEW).rows("scores") is None


def test_a_file_of_completions_with_hits_for_hit_is_told_so(tmp_path: Path) -> None:
    rows = frame().assign(question="q", sample=0).drop(columns="n")
    refused(tmp_path, rows, "columns: expected hit among them", "Did you mean hits for hit? ")
    by_question = pd.concat([frame().assign(question=q) for q in ("q0", "q1")])
    refused(
        tmp_path, by_question, "expected one row, got 'a second one of seed 1'", "one row for all"
    )


def test_unlike_numbers_of_completions_are_said(tmp_path: Path) -> None:
    rows = pooled(frame())
    more = (rows.arm == "C3") & (rows.persona == "villain")
    rows.loc[more, "n"] += 100
    found = stored(tmp_path, rows, "C2", "C3")
    (remark,) = found.remarks
    assert remark.startswith(
        "bystanders differ in their completions over all training runs (C3 200"
    )
    personas = {look.method: look for look in judge(FEW, found, "H2").estimates}
    one, two = (rates(rows, arm, "persona") for arm in ("C2", "C3"))
    value = personas["persona-level t, questions pooled"].value
    assert value == pytest.approx((one - two).mean())
    assert value != pytest.approx(judge(FEW, found, "H2").effect.value)
