"""Every figure that a verdict or a summary prints, once more from the rows.

The data are uneven everywhere: arms, seeds, personas and questions have rates of their own,
so that arms exchanged, a seed left out or the worst seed taken for all change each figure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.proportion import proportion_confint, proportions_ztest

from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.records import POST, PRE
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.targets import PERSONAS_AT_LARGE, TRAINING_RUNS
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.judging import judge
from persona_lib.verdict.summary import summary
from persona_lib.verdict.verdict import Family, Verdict, families
from tests.registered import ISSUE262
from tests.synthetic import FEW, scores
from tests.uneven_rows import QUESTIONS, ROSTER, SAMPLES, SEEDS, uneven

PRIOR = {arm.name: arm.prior for arm in ISSUE262.arms}
CLAIMS = {"H1": "C1", "H2": "C3", "H3": "C2p"}
Columns = Mapping[str, np.ndarray]
Verdicts = Mapping[str, Verdict]


@pytest.fixture(scope="module")
def columns() -> Columns:
    table = uneven()
    return {name: np.array(table.column(name).to_pylist()) for name in table.column_names}


@pytest.fixture(scope="module")
def evidence() -> RecordEvidence:
    return RecordEvidence(FEW, uneven())


@pytest.fixture(scope="module")
def verdicts(evidence: RecordEvidence) -> Verdicts:
    return {name: judge(FEW, evidence, name) for name in (*CLAIMS, "kill")}


def of(columns: Columns, model: str, who: tuple[str, ...], phase: str = POST) -> np.ndarray:
    """Which rows are of a model and of these personas."""
    return (
        (columns["phase"] == phase)
        & (columns["model"] == model)
        & np.isin(columns["persona"], who)
    )  # fmt: skip


def pool(columns: Columns, arm: str) -> np.ndarray:
    return of(columns, arm, ROSTER.bystanders)


def rate(columns: Columns, rows: np.ndarray) -> float:
    return float(columns["hit"][rows].mean())


def by(columns: Columns, arm: str, *axes: str) -> np.ndarray:
    """An arm's bystander rates by unit of one or two axes, in sorted order."""
    rows = pool(columns, arm)
    keys = [np.unique(columns[axis][rows], return_inverse=True)[1] for axis in axes]
    shape = tuple(int(key.max()) + 1 for key in keys)
    flat = np.ravel_multi_index(keys, shape)
    sums = np.bincount(flat, columns["hit"][rows].astype(float))
    found: np.ndarray = sums / np.bincount(flat)
    return found.reshape(shape)


def difference(columns: Columns, claim: str) -> float:
    return rate(columns, pool(columns, "C2")) - rate(columns, pool(columns, CLAIMS[claim]))


def look(verdict: Verdict, start: str) -> Estimate:
    (found,) = (e for e in verdict.estimates if e.method.startswith(start))
    return found


def near(found: Estimate, value: float, low: float, high: float) -> None:
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=1e-9)


def cells(columns: Columns, arm: str, rows: np.ndarray, hits: np.ndarray) -> list[np.ndarray]:
    """Hits and completions of each (persona, question) cell of an arm, among these rows."""
    keep = pool(columns, arm) & rows
    names = [f"{p}/{q}" for p, q in zip(columns["persona"], columns["question"], strict=True)]
    _, index = np.unique(np.array(names)[keep], return_inverse=True)
    return [np.bincount(index, hits[keep].astype(float)), np.bincount(index).astype(float)]


def drawn(columns: Columns, claim: str, rows: np.ndarray, hits: np.ndarray) -> tuple[float, ...]:
    """Difference and percentile ends, whole cells drawn again with a generator of our own."""
    rng = np.random.default_rng(99)
    ends, value = [], []
    for arm in ("C2", CLAIMS[claim]):
        h, n = cells(columns, arm, rows, hits)
        at = rng.integers(0, h.size, (20_000, h.size))
        ends.append(h[at].sum(axis=1) / n[at].sum(axis=1))
        value.append(h.sum() / n.sum())
    low, high = np.quantile(ends[0] - ends[1], [0.025, 0.975])
    return value[0] - value[1], float(low), float(high)


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_registered_bootstrap_and_that_of_finished_completions_and_first_tokens(
    claim: str, columns: Columns, verdicts: Verdicts
) -> None:
    every, hit = np.ones(columns["hit"].size, dtype=bool), columns["hit"]
    k = min(np.median(columns["tokens"][pool(columns, arm)]) for arm in ("C2", CLAIMS[claim]))
    verdict = verdicts[claim]
    for found, rows, hits in (
        (verdict.effect, every, hit),
        (look(verdict, "finished completions only"), columns["finish"] == "stop", hit),
        (look(verdict, f"marker within the first {k:g} tokens"), every,
         hit & (columns["first_token"] < k)),
    ):  # fmt: skip
        value, low, high = drawn(columns, claim, rows, hits)
        assert found.value == pytest.approx(value, abs=1e-12)
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.008)
    cells = 2 * 7 * QUESTIONS  # in which seeds are pooled
    assert (verdict.effect.n, verdict.effect.clusters) == (cells * SAMPLES * len(SEEDS), cells)


@pytest.mark.parametrize("claim", CLAIMS)
def test_these_personas(claim: str, columns: Columns, verdicts: Verdicts) -> None:
    a, b = (by(columns, arm, "question") for arm in ("C2", CLAIMS[claim]))
    exact = stats.ttest_rel(a, b)
    found = look(verdicts[claim], "question-level paired t")
    near(found, difference(columns, claim), *exact.confidence_interval(0.95))
    assert found.p == pytest.approx(exact.pvalue)
    units = (
        np.unique(columns["question"]).size,
        (pool(columns, "C2") | pool(columns, CLAIMS[claim])).sum(),
    )
    assert (found.clusters, found.n) == units
    assert found.target == "these personas, these runs"


def test_equality_is_of_the_treated_arm_minus_the_control(
    columns: Columns, verdicts: Verdicts
) -> None:
    """The difference is not 0, so that arms exchanged turn its sign and its interval."""
    d = by(columns, "C2", "question") - by(columns, "C2p", "question")
    one = stats.ttest_1samp(d, -0.05, alternative="greater").pvalue
    two = stats.ttest_1samp(d, 0.05, alternative="less").pvalue
    found = look(verdicts["H3"], "TOST")
    near(found, float(d.mean()), *stats.ttest_1samp(d, 0.0).confidence_interval(0.90))
    assert abs(found.value) > 0.01
    assert found.p == pytest.approx(max(one, two))


@pytest.mark.parametrize("claim", CLAIMS)
def test_personas_at_large(claim: str, columns: Columns, verdicts: Verdicts) -> None:
    """Persona and question effects by one-way sums, cells taken off once."""
    d = by(columns, "C2", "persona", "question") - by(columns, CLAIMS[claim], "persona", "question")
    over = [np.var(x, ddof=1) / x.size for x in (d.mean(axis=1), d.mean(axis=0), d.ravel())]
    se = math.sqrt(max(over[0] + over[1] - over[2], over[0]))
    half = float(stats.t.ppf(0.975, 6)) * se
    found = look(verdicts[claim], "persona-level t")
    near(found, float(d.mean()), d.mean() - half, d.mean() + half)
    assert (found.target, found.clusters) == (PERSONAS_AT_LARGE, 7)
    flips = look(verdicts[claim], "exact sign-flip over personas")
    exact = stats.permutation_test(
        (d.mean(axis=1),), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert (flips.value, flips.p) == pytest.approx((d.mean(), exact.pvalue))
    assert flips.target == PERSONAS_AT_LARGE


@pytest.mark.parametrize("claim", CLAIMS)
def test_training_runs_and_each_seed(claim: str, columns: Columns, verdicts: Verdicts) -> None:
    d = by(columns, "C2", "seed") - by(columns, CLAIMS[claim], "seed")
    alone = [e.value for e in verdicts[claim].estimates if e.method.endswith("alone")]
    assert alone == pytest.approx(d)
    names = [e.method for e in verdicts[claim].estimates if e.method.endswith("alone")]
    assert names == [f"seed {seed} alone" for seed in SEEDS]
    over = [e for e in verdicts[claim].estimates if e.target == TRAINING_RUNS]
    assert over
    for found in over:
        assert found.value == pytest.approx(d.mean())


@pytest.mark.parametrize("claim", CLAIMS)
def test_minus_false_positives_and_source_normalised(
    claim: str, columns: Columns, verdicts: Verdicts
) -> None:
    arms = ("C2", CLAIMS[claim])
    raised = [rate(columns, of(columns, PRIOR[arm], ROSTER.bystanders, PRE)) for arm in arms]
    assert (raised[0] != raised[1]) is (claim != "H3")
    found = look(verdicts[claim], "minus false positives")
    assert found.value == pytest.approx(difference(columns, claim) - raised[0] + raised[1])
    cells = (2 if claim == "H3" else 4) * 7 * QUESTIONS
    assert (found.n, found.clusters) == (cells * SAMPLES * len(SEEDS), cells)
    ratios = [
        rate(columns, pool(columns, arm)) / rate(columns, of(columns, arm, (ROSTER.source,)))
        for arm in arms
    ]
    (found,) = (e for e in verdicts[claim].estimates if "source" in e.method)
    assert found.value == pytest.approx(ratios[0] - ratios[1])
    assert found.low < found.value < found.high


@pytest.mark.parametrize("claim", CLAIMS)
def test_models_and_the_naive_z(claim: str, columns: Columns, verdicts: Verdicts) -> None:
    """Balanced arms: the mixed model's effect is the difference. The logit is statsmodels'."""
    rows = [pool(columns, arm) for arm in ("C2", CLAIMS[claim])]
    d = difference(columns, claim)
    mixed = look(verdicts[claim], "mixed model")
    assert (mixed.value, mixed.n) == (pytest.approx(d, abs=1e-6), verdicts[claim].effect.n)
    naive = look(verdicts[claim], "naive")
    hits, n = [columns["hit"][of].sum() for of in rows], [of.sum() for of in rows]
    z, p = proportions_ztest(hits, n)
    assert naive.value == pytest.approx(d)
    assert naive.p == pytest.approx(p)
    assert f"z = {z:+.2f}" in naive.note
    both = rows[0] | rows[1]
    x = np.column_stack(
        [np.ones(both.sum()), rows[0][both], np.log(columns["tokens"][both].astype(float))]
    )
    fit = sm.Logit(columns["hit"][both].astype(float), x).fit(disp=False)
    on, off = x.copy(), x.copy()
    on[:, 1], off[:, 1] = 1.0, 0.0
    marginal = float((fit.predict(on) - fit.predict(off)).mean())
    (adjusted,) = (e for e in verdicts[claim].estimates if "logit" in e.method)
    assert adjusted.value == pytest.approx(marginal, abs=1e-5)


def test_holm_is_over_the_printed_p_in_the_order_of_claims(verdicts: Verdicts) -> None:
    from statsmodels.stats.multitest import multipletests

    found = families(FEW, list(verdicts.values()))
    assert [family.claims for family in found] == [tuple(CLAIMS)] * 2
    printed = [
        [verdicts[claim].effect.p for claim in CLAIMS],
        [look(verdicts[claim], "question-level paired t").p for claim in CLAIMS],
    ]
    for family, p in zip(found, printed, strict=True):
        assert family.p == tuple(p)
        assert family.holm == pytest.approx(multipletests(p, method="holm")[1])
        assert family.bonferroni == pytest.approx(multipletests(p, method="bonferroni")[1])
        assert Family.from_json(json.loads(json.dumps(family.to_json(), allow_nan=False))) == family


def seeds_of_c2(*rates: float) -> RecordEvidence:
    """Three runs in which C2's bystanders have these rates, the rest as it is."""
    tables = [
        scores({"C1": 0.25, "C2p": 0.6, "C3": 0.2, "C2": value}, seeds=(seed,), questions=5)
        for seed, value in enumerate(rates)
    ]
    return RecordEvidence(FEW, pa.concat_tables(tables))


@pytest.mark.parametrize(
    ("rates", "triggered"),
    [
        ((0.02, 0.02, 0.10), True),  # the worst seed alone would not
        ((0.10, 0.02, 0.02), True),
        ((0.12, 0.02, 0.04), False),  # two of three seeds would
        ((0.02, 0.04, 0.12), False),
    ],
)
def test_the_kill_criterion_reads_all_seeds_together(
    rates: tuple[float, ...], triggered: bool
) -> None:
    evidence = seeds_of_c2(*rates)
    kill, h1 = (judge(FEW, evidence, name) for name in ("kill", "H1"))
    hits, n = sum(round(value * 50) * 7 for value in rates), 3 * 50 * 7
    assert kill.effect.value == pytest.approx(hits / n)
    assert f"C2 bystander rate {hits / n:.3f} ({hits}/{n})" in kill.reason
    assert kill.outcome is (Outcome.REFUTED if triggered else Outcome.SUPPORTED)
    assert (h1.label == "kill criterion") is triggered
    assert kill.effect.low < hits / n < kill.effect.high


def counted(columns: Columns, rows: np.ndarray, hits: np.ndarray | None = None) -> dict[str, Any]:
    hit = int((columns["hit"] if hits is None else hits)[rows].sum())
    low, high = proportion_confint(hit, rows.sum(), method="wilson")
    return {"hits": hit, "n": int(rows.sum()), "rate": hit / rows.sum(), "low": low, "high": high}


def same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert {key: found[key] for key in expected} == pytest.approx(dict(expected), abs=1e-9)


@pytest.mark.parametrize("arm", PRIOR)
def test_the_summary_of_an_arm(arm: str, columns: Columns, evidence: RecordEvidence) -> None:
    (found,) = (a for a in summary(FEW, evidence)["arms"] if a["name"] == arm)
    bystanders, source = pool(columns, arm), of(columns, arm, (ROSTER.source,))
    same(found["bystanders"], counted(columns, bystanders))
    same(found["source"], counted(columns, source))
    for role in ("negatives", "reported"):
        for who, count in found[role].items():
            same(count, counted(columns, of(columns, arm, (who,))))
        assert tuple(found[role]) == getattr(ROSTER, role)
    shares = rate(columns, bystanders) / rate(columns, source)
    assert found["bystander_source"] == pytest.approx(shares)
    assert [one["seed"] for one in found["by_seed"]] == list(SEEDS)
    for one in found["by_seed"]:
        run = columns["seed"] == one["seed"]
        same(one["bystanders"], counted(columns, bystanders & run))
        same(one["source"], counted(columns, source & run))
    same(found["split"]["seen"], counted(columns, bystanders & columns["seen"]))
    same(found["split"]["unseen"], counted(columns, bystanders & ~columns["seen"]))
    after, before = of(columns, arm, ROSTER.all), of(columns, PRIOR[arm], ROSTER.all, PRE)
    tokens, finish = columns["tokens"], columns["finish"] == "stop"
    medians = [float(np.median(tokens[rows])) for rows in (after, before)]
    assert [found["tokens"], found["baseline_tokens"]] == medians
    assert found["length_ratio"] == pytest.approx(medians[0] / medians[1])
    finished = [finish[rows].mean() for rows in (after, before)]
    assert [found["finished"], found["baseline_finished"]] == pytest.approx(finished)
    same(found["by_length"]["finished"]["bystander"], counted(columns, bystanders & finish))
    early = columns["hit"] & (columns["first_token"] < 32)
    same(found["by_length"]["first_32"]["bystander"], counted(columns, bystanders, early))


@pytest.mark.parametrize("arm", PRIOR)
def test_the_summary_of_personas_and_priors(
    arm: str, columns: Columns, evidence: RecordEvidence
) -> None:
    body = summary(FEW, evidence)
    (found,) = (a for a in body["arms"] if a["name"] == arm)
    assert [row["persona"] for row in found["personas"]] == list(ROSTER.all)
    for row in found["personas"]:
        mine = of(columns, arm, (row["persona"],))
        under = of(columns, PRIOR[arm], (row["persona"],), PRE)
        same(row, counted(columns, mine))
        assert row["baseline"] == pytest.approx(rate(columns, under))
        assert row["minus_baseline"] == pytest.approx(rate(columns, mine) - rate(columns, under))
        medians = [np.median(columns["tokens"][rows]) for rows in (mine, under)]
        assert [row["tokens"], row["baseline_tokens"]] == medians
    for prior in body["priors"]:
        every = of(columns, prior["name"], ROSTER.all, PRE)
        same(prior["false_positives"], counted(columns, every))
