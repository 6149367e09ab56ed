"""Verdicts name their targets, and each figure is what scipy makes of the raw rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.records import POST
from persona_lib.report.terminal import verdict_table
from persona_lib.specs.claim_types import TriageClaim
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.judging import judge
from tests.calibration.table import quoted
from tests.registered import ISSUE262
from tests.synthetic import BYSTANDERS, FEW, scores

POOL = ISSUE262.roster.bystanders


def rates(table: pa.Table, arm: str, axis: str) -> np.ndarray:
    """Mean hit of an arm's bystanders for each question, persona or seed, in sorted order."""
    rows = [
        row for row in table.to_pylist()
        if (row["phase"], row["model"]) == (POST, arm) and row["persona"] in POOL
    ]  # fmt: skip
    return np.array(
        [
            np.mean([row["hit"] for row in rows if row[axis] == unit])
            for unit in sorted({row[axis] for row in rows})
        ]
    )


def looks(table: pa.Table, claim: str) -> Mapping[str, Estimate]:
    evidence = RecordEvidence(FEW, table)
    return {e.method: e for e in judge(FEW, evidence, claim).estimates}


@pytest.fixture(scope="module")
def one_seed() -> pa.Table:
    rows = {("C2", persona): 0.3 + 0.1 * i for i, persona in enumerate(POOL)}
    return scores(personas=rows, questions=8, samples=10)


def test_one_seed_says_what_it_could_mistake(one_seed: pa.Table) -> None:
    verdict = judge(FEW, RecordEvidence(FEW, one_seed), "H1")
    found = {e.method: e for e in verdict.estimates}["Welch t over seeds"]
    assert found.p is None
    assert "run-to-run variance not estimable" in found.note
    # 1.959964 * sqrt(2) * (5, 10, 15) points
    assert "more than 13.9, 27.7, 41.6 points" in verdict.text


def test_seven_personas_carry_no_claim_at_one_in_a_thousand(one_seed: pa.Table) -> None:
    evidence = RecordEvidence(FEW, one_seed)
    refusal = "no claim on personas at large: p < 0.001 cannot be reached below 11 personas"
    assert refusal in judge(FEW, evidence, "H1").text
    assert "no claim on personas at large" not in judge(FEW, evidence, "H2").text


def test_equality_is_tested_beside_the_triage_and_a_disagreement_is_said() -> None:
    """One noisy question leaves the published rule content and TOST unconvinced."""
    same = scores({**BYSTANDERS, "C2": 0.4, "C2p": 0.4}, questions=10, samples=10)
    verdict = judge(FEW, RecordEvidence(FEW, same), "H3")
    (test,) = (e for e in verdict.estimates if e.method.startswith("TOST within +-0.05"))
    a, b = (rates(same, arm, "question") for arm in ("C2", "C2p"))
    sides = [
        stats.ttest_1samp(a - b, -0.05, alternative="greater").pvalue,
        stats.ttest_1samp(a - b, 0.05, alternative="less").pvalue,
    ]
    assert test.p == pytest.approx(max(sides), rel=1e-9)
    assert test.confidence == pytest.approx(0.90)
    disagree = (verdict.label == "non_text_distribution") is not (max(sides) < 0.05)
    assert ("they disagree" in verdict.text) is disagree
    assert not [e for e in looks(same, "H1").values() if e.method.startswith("TOST")]


@pytest.mark.parametrize(("samples", "disagrees"), [(2, True), (100, False)])
def test_few_completions_show_no_equality(samples: int, disagrees: bool) -> None:
    """No difference at all in the pool: seen alike, shown equal only with enough rows."""
    table = scores({**BYSTANDERS, "C2": 0.5, "C2p": 0.5}, questions=4, samples=samples)
    verdict = judge(FEW, RecordEvidence(FEW, table), "H3")
    tests = [e for e in verdict.estimates if e.method.startswith("TOST")]
    assert len(tests) == 1
    assert tests[0].p is not None
    assert ("TOST does not show equivalence: they disagree" in verdict.text) is (
        disagrees and verdict.holds
    )
    assert (tests[0].p >= 0.05) is disagrees


def test_what_answers_to_equality_are_worth_is_printed_and_is_what_was_simulated() -> None:
    """The shares in the note are those of docs/statistics.md, in whole per cent."""
    written = quoted()
    heavy = "published bootstrap, these personas, Heavy, {}7 x 20, d = 0: H3 passes"
    tost = "question-level TOST, these personas, Heavy, 3 %, 7 x 20, d = +0.05: p < 0.05"
    at_27, at_2, size = (
        f"{100 * written[name][1].rate:.0f} %"
        for name in (heavy.format(""), heavy.format("2 %, "), tost)
    )
    note = (
        f"simulated without a difference, this null rule passes in {at_27} of data sets at a rate "
        f"of 27 % and in {at_2} at 2 %; TOST errs in {size} at 3 %, not in 5"
    )
    evidence = RecordEvidence(FEW, scores(questions=4, samples=5))
    found = [judge(FEW, evidence, claim) for claim in ("H1", "H3")]
    assert [note in verdict.notes for verdict in found] == [False, True]
    table = " ".join(verdict_table(found, [], None).split())
    assert table.count(note) == 1


def test_nothing_is_said_of_a_triage_that_was_not_simulated() -> None:
    claims = tuple(
        replace(c, null_effect=0.04) if isinstance(c, TriageClaim) else c for c in FEW.claims
    )
    other = replace(FEW, claims=claims)
    evidence = RecordEvidence(other, scores(questions=4, samples=5, registration=other))
    assert not [n for n in judge(other, evidence, "H3").notes if n.startswith("simulated")]
