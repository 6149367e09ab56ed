"""The published counts cell by cell: what was published follows from them, to the last digit.

Facts of the publication's script: its interval holds the 2.5 % and 97.5 % quantiles of 10,000
draws of one generator with seed 42, which draws the clusters of the treated arm and then those
of the other, again and again; clusters are sorted by persona and by the text of the question.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
from numpy.typing import NDArray

from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.load import load_stored
from persona_lib.evidence.record_sets import read_manifest
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from tests.registered import ISSUE262, ISSUE262_BCA

pytestmark = pytest.mark.golden

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "published_cells"
BY_TEXT = (1, 7, 5, 8, 18, 14, 3, 12, 2, 6, 15, 0, 19, 10, 13, 11, 17, 9, 4, 16)
"""Numbers of the questions in the order of their texts."""
ENDS = {
    "C1": (0.23428571428571432, 0.37),
    "C3": (-0.42428571428571427, -0.3435714285714285),
    "C2p": (0.5035714285714286, 0.5807142857142857),
}
"""Estimate of C2 minus each arm, with every digit of the publication's result file."""
CLAIMS = {"H1": "C1", "H2": "C3", "H3": "C2p"}
TRAINED = {
    "C1": (165, 129, 20, 5),
    "C2": (138, 117, 122, 129),
    "C2p": (8, 10, 10, 9),
    "C3": (199, 192, 183, 166),
}
"""Hits of 200 of the source, the two negatives and the assistant."""
TOTALS = {"C1": 383, "C2": 806, "C2p": 47, "C3": 1343}


@pytest.fixture(scope="module")
def cells() -> Evidence:
    return load_stored(FOLDER, ISSUE262)


@pytest.fixture(scope="module")
def by_bca() -> Evidence:
    return load_stored(FOLDER, ISSUE262_BCA, chosen=True)


@pytest.fixture(scope="module")
def hits() -> dict[tuple[str, str], NDArray[np.int64]]:
    """(arm, persona) -> (20,) hits of each question, read past the library."""
    found: dict[tuple[str, str], NDArray[np.int64]] = {}
    for row in pq.read_table(FOLDER / "scores.parquet").to_pylist():
        counts = found.setdefault((row["model"], row["persona"]), np.zeros(20, dtype=np.int64))
        counts[int(row["question"][1:])] += row["hit"]
    return found


def table(hits: dict[tuple[str, str], NDArray[np.int64]], arm: str) -> NDArray[np.int64]:
    """(7, 20) hits of ten, bystanders by questions."""
    return np.array([hits[arm, persona] for persona in ISSUE262.roster.bystanders])


def test_manifest_says_what_the_rows_are() -> None:
    manifest = read_manifest(FOLDER)
    assert (manifest.kind, manifest.registration) == ("records", "issue262")
    assert manifest.digest == ISSUE262.digest
    assert manifest.recorded["commit"] is None
    assert "Which of the ten completions hit was not published" in manifest.recorded["note"]


def test_counts_are_those_of_golden_published(cells: Evidence) -> None:
    totals = load_stored(FOLDER.parent / "published", ISSUE262)
    for arm, pool in TOTALS.items():
        assert cells.count(arm, "bystander").text.endswith(f"({pool}/1400)")
        for persona in ISSUE262.roster.all:
            assert cells.count(arm, persona) == totals.count(arm, persona)
        found = [
            cells.count(arm, p).hits
            for p in ("librarian", "data_scientist", "french_person", "assistant")
        ]
        assert tuple(found) == TRAINED[arm]


@pytest.mark.parametrize("control", list(ENDS))
def test_published_intervals_are_percentile_intervals(
    hits: dict[tuple[str, str], NDArray[np.int64]], control: str
) -> None:
    """And no others: the BCa ends of the same draws differ for two of the three."""
    by_name = np.argsort(ISSUE262.roster.bystanders)
    one, two = (table(hits, arm)[by_name][:, BY_TEXT].ravel() for arm in ("C2", control))
    rng = np.random.default_rng(42)
    draws = np.empty(10_000)
    for i in range(draws.size):
        a = one[rng.integers(0, one.size, size=one.size)].sum()
        b = two[rng.integers(0, two.size, size=two.size)].sum()
        draws[i] = (a - b) / 1400
    assert np.quantile(draws, (0.025, 0.975)) == pytest.approx(ENDS[control], abs=1e-12)
    bca = scipy.stats.bootstrap(
        (one / 10, two / 10),
        lambda x, y, axis=-1: np.round(x.mean(axis=axis) - y.mean(axis=axis), 12),
        method="BCa",
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=np.round(draws, 12)),
    ).confidence_interval
    same = (bca.low, bca.high) == pytest.approx(ENDS[control], abs=1e-9)
    assert same is (control == "C2p")


@pytest.mark.parametrize(("claim", "control"), list(CLAIMS.items()))
def test_our_draws_give_the_published_interval_within_their_error(
    cells: Evidence, by_bca: Evidence, claim: str, control: str
) -> None:
    """A 2.5 % quantile of 10,000 draws has an SE of about 0.027 SD of the draws: 0.001."""
    found = judge(ISSUE262, cells, claim).effect
    assert (found.low, found.high) == pytest.approx(ENDS[control], abs=0.003)
    assert found.source == "computed"
    assert found.p == pytest.approx(2 / 10_001)
    other = judge(ISSUE262_BCA, by_bca, claim).effect
    assert other.method == "cluster bootstrap, BCa"
    assert (other.low, other.high) == pytest.approx(ENDS[control], abs=0.005)


@pytest.mark.parametrize(("claim", "control"), list(CLAIMS.items()))
def test_by_persona_and_by_question(
    cells: Evidence,
    hits: dict[tuple[str, str], NDArray[np.int64]],
    claim: str,
    control: str,
) -> None:
    """Question-level t, two-way persona-level t and every sign, from the counts."""
    d = (table(hits, "C2") - table(hits, control)) / 10
    looks = {e.method: e for e in judge(ISSUE262, cells, claim).estimates}
    question = scipy.stats.ttest_1samp(d.mean(axis=0), 0)
    assert looks["question-level paired t"].p == pytest.approx(question.pvalue)
    personas, questions = d.mean(axis=1), d.mean(axis=0)
    alone = personas.var(ddof=1) / 7
    both = alone + questions.var(ddof=1) / 20 - d.var(ddof=1) / 140
    t = d.mean() / np.sqrt(max(alone, both))
    assert looks["persona-level t, two-way SE"].p == pytest.approx(2 * scipy.stats.t.sf(abs(t), 6))
    means = [abs(np.mean(personas * s)) for s in itertools.product((1, -1), repeat=7)]
    flips = sum(mean >= abs(personas.mean()) - 1e-12 for mean in means)
    assert looks["exact sign-flip over personas"].p == pytest.approx(flips / 128)


def test_outcomes_are_the_published_ones(cells: Evidence, by_bca: Evidence) -> None:
    for evidence in (cells, by_bca):
        rules = evidence.registration
        found = {name: judge(rules, evidence, name) for name in (*CLAIMS, "kill")}
        assert {name: (v.outcome.value, v.label) for name, v in found.items()} == {
            "H1": ("SUPPORTED", "rule met"),
            "H2": ("REFUTED", "sign flipped"),
            "H3": ("REFUTED", "coupling_text_distribution"),
            "kill": ("SUPPORTED", "not triggered"),
        }
    # False positives are not among the rows.
    assert judge_gate(ISSUE262, cells, "false_positive").outcome.value == "CANNOT_TELL"
