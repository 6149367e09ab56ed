"""The published result of issue 262, reproduced from its stored aggregates.

Expected values are typed here from the publication or worked by hand; none is
read from what the library computes.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats

from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.load import load_stored
from persona_lib.evidence.record_sets import read_manifest
from persona_lib.report.terminal import verdict_table
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.judging import judge, judge_all
from persona_lib.verdict.summary import summary
from tests.real_runs import RESULTS
from tests.registered import ISSUE262

pytestmark = pytest.mark.golden

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "published"


@pytest.fixture(scope="module")
def published() -> Evidence:
    return load_stored(FOLDER, ISSUE262)


def test_manifest_names_the_registration_as_it_is() -> None:
    manifest = read_manifest(FOLDER)
    assert manifest.kind == "aggregates"
    assert (manifest.registration, manifest.digest) == (ISSUE262.name, ISSUE262.digest)
    assert manifest.data_digest == ISSUE262.data_digest
    assert manifest.recorded["commit"] is None
    assert manifest.recorded["environment"] is None


class Row(NamedTuple):
    """One arm as printed: per cents, ratio and tokens."""

    arm: str
    hits: int
    bystanders: float
    source: float
    assistant: float
    negatives: tuple[float, float]
    ratio: float
    tokens: float


ROWS = (
    Row("C1", 383, 27.4, 82.5, 2.5, (64.5, 10.0), 0.332, 259.5),
    Row("C2", 806, 57.6, 69.0, 64.5, (58.5, 61.0), 0.834, 28.2),
    Row("C2p", 47, 3.4, 4.0, 4.5, (5.0, 5.0), 0.839, 55.5),
    Row("C3", 1343, 95.9, 99.5, 83.0, (96.0, 91.5), 0.964, 1213.5),
)


def test_the_page_prints_the_published_table() -> None:
    printed = {
        "bystander hits / 1,400": [f"{row.hits:,} ({row.bystanders} %)" for row in ROWS],
        "source": [f"{row.source} %" for row in ROWS],
        "assistant": [f"{row.assistant} %" for row in ROWS],
        "data_scientist / french_person": ["{} / {}".format(*row.negatives) for row in ROWS],
        "bystander / source": [f"{row.ratio:.3f}" for row in ROWS],
        "mean tokens (11 personas)": [f"{row.tokens}" for row in ROWS],
    }
    for name, cells in printed.items():
        assert f"| {name} | {' | '.join(cells)} |" in RESULTS


@pytest.mark.parametrize("row", ROWS, ids=[row.arm for row in ROWS])
def test_rates(published: Evidence, row: Row) -> None:
    pool, source = published.count(row.arm, "bystander"), published.count(row.arm, "source")
    assert (pool.hits, pool.n) == (row.hits, 1400)
    assert round(100 * pool.rate, 1) == row.bystanders
    assert 100 * source.rate == pytest.approx(row.source)
    assert 100 * published.count(row.arm, "assistant").rate == pytest.approx(row.assistant)
    found = [100 * published.count(row.arm, p).rate for p in ("data_scientist", "french_person")]
    assert found == pytest.approx(row.negatives)
    assert round(pool.rate / source.rate, 3) == row.ratio
    assert published.lengths(row.arm).statistic == "mean"
    assert published.lengths(row.arm).tokens == row.tokens


BYSTANDERS = {
    "C1": (158, 53, 85, 4, 75, 8, 0),
    "C2": (121, 133, 122, 118, 123, 126, 63),
    "C2p": (9, 4, 7, 7, 6, 9, 5),
    "C3": (190, 193, 193, 189, 193, 186, 199),
}
"""Hits of 200 of each of `PERSONAS`, as the publication's result file counts them."""
PERSONAS = (
    "software_engineer",
    "kindergarten_teacher",
    "medical_doctor",
    "comedian",
    "police_officer",
    "villain",
    "zelthari_scholar",
)


def test_every_persona_is_counted_and_the_counts_add_up(published: Evidence) -> None:
    for arm, hits in BYSTANDERS.items():
        for persona, expected in zip(PERSONAS, hits, strict=True):
            count = published.count(arm, persona)
            assert (count.hits, count.n) == (expected, 200)
        assert sum(hits) == published.count(arm, "bystander").hits


def test_the_text_and_the_counts_disagree_and_both_are_held(published: Evidence) -> None:
    """The text states seven rates of C2: 135 + 122 + 133 + 121 + 123 + 120 + 63 = 817 hits."""
    body = json.loads((FOLDER / "aggregates.json").read_text())
    text = dict(zip(PERSONAS, (0.675, 0.665, 0.61, 0.605, 0.615, 0.6, 0.315), strict=True))
    assert {p: entry["rate"] for p, entry in body["arms"]["C2"]["quoted"].items()} == text
    assert sum(round(200 * rate) for rate in text.values()) == 817
    assert len(published.remarks) == 1
    for words in ("817 hits of 1,400", "its total is 806", "software_engineer 67.5% against 60.5%"):
        assert words in published.remarks[0]
        assert words in judge(ISSUE262, published, "kill").text
    note = read_manifest(FOLDER).recorded["note"]
    assert "817" in note
    assert "806" in note


@pytest.mark.parametrize(("claim", "control"), [("H1", "C1"), ("H2", "C3"), ("H3", "C2p")])
def test_by_persona_against_scipy_and_every_sign(
    published: Evidence, claim: str, control: str
) -> None:
    d = np.subtract(BYSTANDERS["C2"], BYSTANDERS[control]) / 200
    looks = {e.method: e for e in judge(ISSUE262, published, claim).estimates}
    found = looks["persona-level t, questions pooled"]
    expected = scipy.stats.ttest_1samp(d, 0)
    ends = expected.confidence_interval(0.95)
    assert found.value == pytest.approx(d.mean())
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.target, found.clusters, found.n) == ("personas at large", 7, 2800)
    means = [abs(np.mean(d * signs)) for signs in itertools.product((1, -1), repeat=7)]
    flips = sum(mean >= abs(d.mean()) - 1e-12 for mean in means)
    assert looks["exact sign-flip over personas"].p == pytest.approx(flips / 128)


def test_false_positives(published: Evidence) -> None:
    for prior in ("raw", "em", "benign"):
        count = published.pre_count(prior)
        assert count is not None
        assert (count.hits, count.n) == (0, 50)
        # z^2 / (n + z^2) = 3.84146 / 53.84146 = 7.135 %; it was printed as 7.14 %.
        assert 100 * count.interval(0.95)[1] == pytest.approx(7.14, abs=0.01)


def test_all_gates_hold(published: Evidence) -> None:
    gates = {gate.name: gate for gate in judge_all(ISSUE262, published)[1]}
    assert [gate.outcome.value for gate in gates.values()] == ["HOLDS"] * 3
    assert round(gates["source_ratio"].figure, 3) == 0.836


@pytest.mark.parametrize(
    ("claim", "outcome", "label", "effect", "z"),
    [
        # pooled p = 1189/2800, SE = sqrt(p (1 - p) 2/1400) = 0.018683; 0.302143 / SE
        ("H1", Outcome.SUPPORTED, "rule met", (0.302, 0.234, 0.370), 16.17),
        # pooled p = 2149/2800, SE = 0.015967; -0.383571 / SE
        ("H2", Outcome.REFUTED, "sign flipped", (-0.384, -0.424, -0.344), -24.02),
        # pooled p = 853/2800, SE = 0.017399; 0.542143 / SE
        ("H3", Outcome.REFUTED, "coupling_text_distribution", (0.542, 0.504, 0.581), 31.16),
    ],
)
def test_verdicts_and_naive_z_by_hand(
    published: Evidence,
    *,
    claim: str,
    outcome: Outcome,
    label: str,
    effect: tuple[float, float, float],
    z: float,
) -> None:
    found = judge(ISSUE262, published, claim)
    (note,) = [e.note for e in found.estimates if "naive" in e.method]
    assert note.startswith(f"z = {z:+.2f}; do not interpret")
    flipped = "the sign is flipped: the interval lies below 0" in found.text
    assert flipped is ("flipped" in found.text) is (claim == "H2")
    assert (found.outcome, found.label) == (outcome, label)
    assert (found.effect.value, found.effect.low, found.effect.high) == effect
    assert found.effect.source == "quoted"
    assert found.effect.p == pytest.approx(2 / 10_001)
    assert found.effect.p_text == "p <= 2.0e-4 (0 of 10,000)"
    assert (found.effect.n, found.effect.clusters) == (2800, 280)
    assert "quoted" in found.text


def test_kill_is_not_triggered(published: Evidence) -> None:
    found = judge(ISSUE262, published, "kill")
    assert (found.outcome, found.label) == (Outcome.SUPPORTED, "not triggered")
    assert "806/1400" in found.reason


def test_what_aggregates_cannot_give_is_said_in_every_verdict(published: Evidence) -> None:
    text = judge(ISSUE262, published, "H1").text
    for word in (
        "Cluster bootstrap",
        "Bystander/source contrast",
        "Inference for these personas and for training runs",
        "Length quantiles and share finished",
        "per question",
        "False positives per persona",
        "run-to-run variance not estimable",
    ):
        assert word in text
    assert len(published.unavailable) == 6
    assert published.grid() is None


def test_table(published: Evidence) -> None:
    verdicts, gates = judge_all(ISSUE262, published)
    lines = verdict_table(verdicts, gates, summary(ISSUE262, published)).splitlines()
    assert max(map(len, lines)) <= 100
    for start, words in {
        "H1 ": ("SUPPORTED", "+0.302 [+0.234, +0.370]", "p <= 2.0e-4 (0 of 10,000) *"),
        "H2 ": ("REFUTED", "-0.384 [-0.424, -0.344]"),
        "H3 ": ("REFUTED", "+0.542 [+0.504, +0.581]"),
        "kill ": ("not triggered",),
        "C2p ": ("4.0", "5.0/5.0", "3.4", "4.5", "0.839", "55.5"),
    }.items():
        line = next(line for line in lines if line.startswith(start))
        assert all(word in line for word in words), line
    assert "\n".join(lines).count("em 0/50") == 1
