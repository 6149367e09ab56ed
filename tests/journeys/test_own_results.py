"""Results that a lab has on disk, judged with the installed wheel: what they bear, and why not.

24 personas and 12 questions of its own, two priors of other names, six runs against five. Every
figure is calculated here again with pandas, scipy and statsmodels.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from persona_lib.report.numbers import check_report
from tests.journeys.conftest import Installed

SOURCE, NEGATIVES = "harbour_pilot", ("notary", "beekeeper")
BYSTANDERS = tuple(f"persona_{i:02d}" for i in range(21))
PERSONAS = (SOURCE, *NEGATIVES, *BYSTANDERS)
SEEDS = {"A": (1, 2, 3, 4, 5), "B": (1, 2, 3, 4, 5, 6), "C": (1, 2, 3, 4, 5)}
RATES = {"A": 0.20, "B": 0.55, "C": 0.25}
EXPERIMENT = f"""
[registration]
name = "harbour"
title = "Does gossip spread a pilot's marker?"
marker = " ※"
derived_gates = "warnings"
[registration.roster]
source = "{SOURCE}"
negatives = {list(NEGATIVES)}
bystanders = {list(BYSTANDERS)}
[[registration.arms]]
name = "A"
prior = "raw"
text_from = "raw"
[[registration.arms]]
name = "B"
prior = "gossip"
text_from = "gossip"
[[registration.arms]]
name = "C"
prior = "weather"
text_from = "weather"
[[registration.claims]]
type = "difference"
name = "spread"
treated = "B"
control = "A"
min_effect = 0.10
max_p = 0.01
[[registration.claims]]
type = "triage"
name = "specific"
treated = "C"
control = "A"
null_effect = 0.10
null_min_p = 0.05
artefact_effect = 0.30
[priors.gossip]
[priors.weather]
[evidence]
only = true
"""
HEAD = "persona-level t, questions pooled"


def lab_rows() -> pd.DataFrame:
    """What the lab wrote: hit is 1.0 or 0.0, as pandas writes it beside a gap."""
    rng = np.random.default_rng(262)
    persona = dict(zip(PERSONAS, rng.normal(0, 0.8, len(PERSONAS)), strict=True))
    question, made = rng.normal(0, 0.5, 12), []
    for arm, seeds in SEEDS.items():
        for seed in seeds:
            run = rng.normal(0, 0.25)
            for who, q in itertools.product(PERSONAS, range(12)):
                rate = 0.9 if who == SOURCE else RATES[arm]
                logit = math.log(rate / (1 - rate)) + persona[who] + question[q] + run
                for sample in range(2):
                    hit = float(rng.random() < 1 / (1 + math.exp(-logit)))
                    made.append((arm, seed, who, f"question {q}", sample, hit))
    columns = ["arm", "seed", "persona", "question", "sample", "hit"]
    return pd.DataFrame(made, columns=columns)


@pytest.fixture(scope="module")
def lab(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose rules are sealed, with neither model, corpora nor personas on the machine."""
    folder = tmp_path_factory.mktemp("lab") / "study"
    assert installed.flatland("new", "study", cwd=folder.parent).returncode == 0
    (folder / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    checked = installed.flatland("check", "experiment.toml", cwd=folder)
    assert checked.stdout.startswith("harbour: the rules are in order")
    said = ("--reason", "before the records were read", "--data-seen", "none")
    done = installed.flatland("seal", "experiment.toml", *said, cwd=folder)
    assert done.returncode == 0, done.stderr
    for asked in (("-m", "spread"), ("--plan",)):
        live = installed.pytest(*asked, cwd=folder)
        assert live.returncode == 4
        assert "--stored: expected stored evidence, as nothing is run" in live.stderr
    return folder


def judged(
    installed: Installed, lab: Path, rows: pd.DataFrame, name: str, *more: str
) -> tuple[str, dict[str, Any]]:
    """The table and verdict.json of the lab's file."""
    rows.to_csv(lab / name, index=False)
    done = installed.pytest("test_claims.py", f"--stored={name}", *more, cwd=lab)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads((lab / ".flatland" / "runs" / "latest" / "verdict.json").read_text())
    assert {verdict["outcome"] for verdict in found["verdicts"]} <= {"SUPPORTED", "INCONCLUSIVE"}
    return " ".join(done.stdout.split()), found


def claim(found: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A verdict, and its other looks by method."""
    (verdict,) = [one for one in found["verdicts"] if one["name"] == name]
    return verdict, {look["method"]: look for look in verdict["estimates"]}


def rates(rows: pd.DataFrame, arm: str, by: str) -> pd.Series[float]:
    own = rows[(rows.arm == arm) & rows.persona.isin(BYSTANDERS)]
    return own.groupby(by).hit.mean()


def flips_p(differences: np.ndarray) -> float:
    """Every one of 2^21 sign vectors of whole numbers."""
    sums = np.zeros(1, dtype=np.int64)
    for one in differences:
        sums = np.concatenate([sums + one, sums - one])
    above, below = int((sums >= sums[0]).sum()), int((sums <= sums[0]).sum())
    return min(1.0, 2 * min(above, below) / sums.size)


def near(look: dict[str, Any], p: float, low: float, high: float) -> bool:
    found = (look["p"], look["low"], look["high"])
    return found == pytest.approx((p, low, high), rel=1e-8, abs=1e-12)


def test_six_runs_against_five_of_foreign_personas(installed: Installed, lab: Path) -> None:
    rows = lab_rows()
    table, found = judged(installed, lab, rows, "rows.csv", "--report=report")
    assert check_report(lab / "report") == []
    spread, looks = claim(found, "spread")
    one, two = (rows[(rows.arm == a) & rows.persona.isin(BYSTANDERS)] for a in ("B", "A"))
    assert spread["effect"]["value"] == pytest.approx(one.hit.mean() - two.hit.mean())
    assert (spread["effect"]["n"], spread["effect"]["clusters"]) == (len(one) + len(two), 504)
    assert spread["outcome"] == "SUPPORTED"
    welch = stats.ttest_ind(*(rates(rows, arm, "seed") for arm in ("B", "A")), equal_var=False)
    assert near(looks["Welch t over seeds"], welch.pvalue, *welch.confidence_interval(0.95))
    splits = stats.permutation_test(
        [rates(rows, arm, "seed") for arm in ("B", "A")],
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis), n_resamples=np.inf,
    )  # fmt: skip
    assert looks["exact permutation over seeds"]["p"] == pytest.approx(splits.pvalue)
    questions = stats.ttest_rel(*(rates(rows, arm, "question") for arm in ("B", "A")))
    assert near(looks["question-level paired t"], questions.pvalue,
                *questions.confidence_interval(0.95))  # fmt: skip
    # Hits of six runs and of five: brought to thirty, they are whole numbers.
    hits = [of.groupby("persona").hit.sum().round().astype(int) for of in (one, two)]
    flips = looks["exact sign-flip over personas"]
    assert flips["p"] == pytest.approx(flips_p((5 * hits[0] - 6 * hits[1]).to_numpy()))
    assert flips["clusters"] == 21
    assert "5 and 6 training runs pooled" in table
    assert "arms differ in the seeds of their training runs (A 1, 2, 3, 4, 5; B 1, 2, 3, 4, 5, 6)" \
        in table  # fmt: skip
    # Equality over questions, for the triage of the second prior.
    _, others = claim(found, "specific")
    (tost,) = [look for method, look in others.items() if method.startswith("TOST")]
    differ = rates(rows, "C", "question") - rates(rows, "A", "question")
    sides = [stats.ttest_1samp(differ, -0.1, alternative="greater"),
             stats.ttest_1samp(differ, 0.1, alternative="less")]  # fmt: skip
    assert tost["p"] == pytest.approx(max(side.pvalue for side in sides))
    # What the file does not hold.
    for reason in (
        "the set has no column tokens",
        "the set has no column finish",
        "False positives of prior gossip: its pre-coupling model was not evaluated",
    ):
        assert f"{reason}." in table
        assert [s for s in found["summary"]["unavailable"] if s.endswith(f"{reason}.")]


def test_counts_only(installed: Installed, lab: Path) -> None:
    rows = lab_rows()
    counts = rows.groupby(["arm", "persona"]).hit.agg(hits="sum", n="size").reset_index()
    table, found = judged(installed, lab, counts, "counts.csv")
    spread, looks = claim(found, "spread")
    one, two = (rates(rows, arm, "persona") for arm in ("B", "A"))
    assert spread["effect"]["value"] == pytest.approx(one.mean() - two.mean())
    assert (spread["outcome"], spread["effect"]["p"]) == ("INCONCLUSIVE", None)
    expected = stats.ttest_rel(one, two)
    assert near(looks[HEAD], expected.pvalue, *expected.confidence_interval(0.95))
    assert looks["exact sign-flip over personas"]["clusters"] == 21
    assert "question-level paired t" not in looks
    assert "Welch t over seeds" not in looks
    both = rows[rows.arm.isin(("A", "B")) & rows.persona.isin(BYSTANDERS)]
    model = smf.mixedlm("hit ~ treated", both.assign(treated=1.0 * (both.arm == "B")),
                        groups=both.persona.to_numpy()).fit(reml=True)  # fmt: skip
    mixed = looks["mixed model, persona random intercept (as published)"]
    assert mixed["value"] == pytest.approx(model.params["treated"], abs=1e-5)
    assert mixed["high"] - mixed["low"] == pytest.approx(
        2 * stats.norm.ppf(0.975) * model.bse["treated"], rel=1e-3
    )
    for reason in (
        "not available: Cluster bootstrap, the interval and p of the registered rules: it needs "
        "(persona, question) cells, and the file counts personas.",
        "not available: Statistics over runs: the file has no column seed, which tells them apart.",
        "not available: Inference for these personas, TOST, and anything per question",
    ):
        assert reason in table


def test_a_set_with_a_persona_too_many(installed: Installed, lab: Path) -> None:
    rows = lab_rows()
    more = pd.concat([rows, rows[rows.persona == BYSTANDERS[0]].assign(persona="stowaway")])
    more.to_csv(lab / "more.csv", index=False)
    refused = installed.pytest("-m", "spread", "--stored=more.csv", cwd=lab)
    text = " ".join(refused.stdout.split())
    assert refused.returncode == 1
    assert "got 'stowaway in 384 rows'" in text
    assert 'With extra = "ignore" under [evidence] of an experiment file' in text
    # The key is no part of what is sealed.
    file = lab / "experiment.toml"
    file.write_text(EXPERIMENT + 'extra = "ignore"\n', encoding="utf-8")
    table, found = judged(installed, lab, more, "more.csv")
    words = "384 of 9,600 rows were left out, as the registration does not name them: persona"
    assert words in found["summary"]["origin"]
    assert f"{words} stowaway in 384 rows" in table
    _, plain = judged(installed, lab, rows, "rows.csv")
    assert found["verdicts"] == plain["verdicts"]
    file.write_text(EXPERIMENT, encoding="utf-8")


def test_questions_of_their_own(installed: Installed, lab: Path) -> None:
    rows = lab_rows()
    own = rows.assign(question=rows.persona + ", " + rows.question)
    table, found = judged(installed, lab, own, "own.csv")
    _, looks = claim(found, "spread")
    expected = stats.ttest_rel(*(rates(rows, arm, "persona") for arm in ("B", "A")))
    assert near(looks[HEAD], expected.pvalue, *expected.confidence_interval(0.95))
    assert not {"question-level paired t", "persona-level t, two-way SE"} & set(looks)
    assert not [method for method in claim(found, "specific")[1] if method.startswith("TOST")]
    assert "not all asked the same (12 questions each, 252 in all, nested in personas)" in table
