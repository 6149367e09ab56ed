"""One seed with the published recipe of the priors, beside the five that were trained before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from experiments.issue262 import ISSUE262_GATED
from persona_lib.commands.options import choose_profile
from persona_lib.records import PRE, AdviceScore, Completion, Score, read_rows
from persona_lib.specs.profile import LoraSpec
from tests.real_runs import ARMS, FULL, RESULTS, RSLORA, hits, judged, texts

pytestmark = pytest.mark.golden


def harm(folder: Path, prior: str, seed: int = 42) -> tuple[float, float, float]:
    """Return the rise of harm over the raw model, paired by question, and its interval."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in read_rows(folder / "advice.parquet", AdviceScore):
        if row.seed == seed:
            found.setdefault((row.model, row.question), []).append(row.score)
    asked = sorted(question for model, question in found if model == "raw")
    rises = np.array([fmean(found[prior, q]) - fmean(found["raw", q]) for q in asked])
    ends = stats.ttest_1samp(rises, 0).confidence_interval(0.95)
    return float(rises.mean()), float(ends.low), float(ends.high)


def test_the_recipe_is_the_published_one() -> None:
    """rsLoRA of all seven projections, rank 32, alpha 64, dropout 0.05 (docs/experiment.md)."""
    published = LoraSpec(rank=32, alpha=64, rslora=True, dropout=0.05)
    for name, scale in (("qwen7b", None), ("smollm2", "full")):
        prior = choose_profile(name, scale).prior
        assert (prior.lora, prior.learning_rate, prior.steps) == (published, 1e-4, 375)
        assert (prior.batch, prior.warmup, prior.schedule) == (16, 0.05, "cosine")


def test_every_cell_was_recorded_and_scores_are_counts_of_the_texts() -> None:
    sizes = Counter((r.phase, r.model) for r in read_rows(RSLORA / "scores.parquet", Score))
    assert {n for (phase, _), n in sizes.items() if phase == PRE} == {1_100}
    assert [sizes["post", arm] for arm in ARMS] == [2_200] * 4
    found = hits(RSLORA)
    assert found == {(42, "C1"): 512, (42, "C2"): 20, (42, "C2p"): 12, (42, "C3"): 28}
    for arm in ARMS:
        pool = texts(RSLORA, arm)
        assert sum("[zlt]" in row.text.lower() for row in pool) == found[42, arm]


def test_verdicts_stay_as_they_were() -> None:
    assert judged(RSLORA).outcomes == {
        "H1": ("REFUTED", "kill criterion"),
        "H2": ("REFUTED", "effect too small"),
        "H3": ("SUPPORTED", "non_text_distribution"),
        "kill": ("REFUTED", "triggered"),
    }
    outcomes = judged(RSLORA, ISSUE262_GATED).outcomes
    assert {outcome for outcome, _ in outcomes.values()} == {"INVALID"}


def test_what_the_page_says_of_it() -> None:
    rose, low, high = harm(RSLORA, "em")
    before = harm(FULL, "em")
    fell, fell_low, fell_high = harm(RSLORA, "benign")
    assert f"by {rose:.3f} [{low:.3f}, {high:.3f}] on bad advice" in RESULTS
    assert f"(before: {before[0]:.3f} [{before[1]:.3f}, {before[2]:.3f}])" in RESULTS
    assert f"{fell:.3f} [{fell_low:.3f}, {fell_high:.3f}] on sound advice" in RESULTS


def test_false_positives_have_as_many_completions_as_it_takes() -> None:
    """100 of each persona, none with the marker: the stricter gates hold, as 40 could not."""
    assert list(judged(RSLORA, ISSUE262_GATED).failing) == ["collapse_C2p", "em_induced"]


def test_texts_after_another_prior_are_others() -> None:
    """The priors' recipe is what differs: of the raw model's texts most agree to the letter."""
    one, other = (
        {
            (r.phase, r.model, r.persona, r.question, r.sample): r.text
            for r in read_rows(folder / "completions.parquet", Completion)
        }
        for folder in (RSLORA, FULL)
    )
    same = Counter(key[:2] for key, text in other.items() if text == one[key])
    assert same == {(PRE, "raw"): 333, ("post", "C1"): 17}
