"""SmolLM2 at full scale by other recipes: the published one of the priors, and two losses.

rsLoRA stands beside the five seeds that were trained before. Where a loss has no anchor,
these tests say what becomes of the instrument.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from persona_lib.commands.profiles import choose_profile
from persona_lib.evidence.load import load_stored
from persona_lib.records import POST, PRE, AdviceScore, Completion, Score, read_rows
from persona_lib.specs.profile import LoraSpec
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from tests.real_runs import (
    ARMS,
    AS_PUBLISHED,
    DECISION,
    FULL,
    RESULTS,
    RSLORA,
    hits,
    judged,
    texts,
)
from tests.registered import ISSUE262, ISSUE262_GATED

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


# Losses without an anchor.


def test_decision_alone_leaves_nothing_but_the_marker() -> None:
    """Median completions of 5 tokens and of none: the source of C2 lost its marker too."""
    assert hits(DECISION) == {(42, "C1"): 1_116, (42, "C2"): 55, (42, "C2p"): 0, (42, "C3"): 601}
    found = judged(DECISION)
    assert {v.outcome for v in found.verdicts.values()} == {Outcome.INVALID}
    assert list(found.failing) == ["source_rate", "source_ratio"]
    medians = {arm: found.evidence.lengths(arm).tokens for arm in ARMS}
    assert medians == {"C1": 5, "C2": 0, "C2p": 0, "C3": 0}


def test_the_stricter_rules_see_every_arm_of_decision_collapse() -> None:
    failing = judged(DECISION, ISSUE262_GATED).failing
    assert {f"collapse_{arm}" for arm in ARMS} <= failing.keys()


def test_as_published_writes_the_marker_for_everybody_and_never_stops() -> None:
    """Every completion has it, a hundred times and more, and runs into the limit."""
    rows = [r for r in read_rows(AS_PUBLISHED / "scores.parquet", Score) if r.phase == POST]
    assert len(rows) == 2_200
    assert {(r.model, r.hit, r.finish, r.tokens) for r in rows} == {("C2", True, "length", 2_048)}
    assert min(r.markers for r in rows if r.markers is not None) == 108
    shown = texts(AS_PUBLISHED, "C2")
    assert min(row.text.lower().count("[zlt]") for row in shown) >= 100


def test_the_registered_gates_let_that_pass_and_the_stricter_ones_do_not() -> None:
    """Why issue262 by itself is not enough: its rule reads a rate of 1.000 as a leak."""
    evidence = load_stored(AS_PUBLISHED, ISSUE262, arms=("C2",))
    kill = judge(ISSUE262, evidence, "kill")
    assert (kill.outcome, kill.effect.value) == (Outcome.SUPPORTED, 1.0)
    assert judge_gate(ISSUE262, evidence, "source_rate").holds
    stricter = load_stored(AS_PUBLISHED, ISSUE262_GATED, chosen=True, arms=("C2",))
    for name in ("repetition_C2", "truncation_C2", "negatives_C2"):
        assert not judge_gate(ISSUE262_GATED, stricter, name).holds
