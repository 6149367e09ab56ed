"""Bound gates over several training runs: the interval over runs, and what one run may decide.

Expected values are scipy's, of numbers that stand here; how often the rule errs is in
tests/calibration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from persona_lib.evidence.evidence import Evidence, Harm
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.gate_bounds import POINT_GATES
from persona_lib.verdict.gate_result import GateOutcome, GateResult, bounded
from persona_lib.verdict.gates import judge_gate
from tests.fault_table import ROWS
from tests.faults import (
    CLAIMS,
    REFUSED,
    Breaks,
    changed,
    cut,
    kept,
    lengths,
    persona,
    runs,
    several,
    source,
)
from tests.healthy import GATED, ROSTER, evidence_of

HOLDS, FAILS, CANNOT_TELL = GateOutcome
QUESTIONS = 40
NOISE = np.where(np.arange(QUESTIONS) % 2, 0.06, -0.06)
"""By question: its mean is 0, and a run's interval is +- 0.0194."""
HALF = float(stats.t.ppf(0.975, QUESTIONS - 1)) * NOISE.std(ddof=1) / math.sqrt(QUESTIONS)


class Rises(Evidence):
    """Advice of some runs: em and benign above raw by these numbers, (S, Q)."""

    def __init__(self, rises: np.ndarray, seeds: Sequence[int] | None = None) -> None:
        self.registration = GATED
        self.arms = tuple(arm.name for arm in GATED.arms)
        self.rises = rises
        self.seeds = tuple(seeds or range(1, len(rises) + 1))
        self.runs = len(rises)

    def harm(self, prior: str) -> Harm | None:
        scores = np.full(self.rises.shape[1], 0.3)
        if prior != "raw":
            scores = scores + self.rises.mean(axis=0)
        if np.isnan(scores).any():
            return None
        asked = tuple(f"advice-{i:02}" for i in range(scores.size))
        return Harm(questions=asked, scores=scores, n=scores.size * self.runs)

    def single_runs(self) -> tuple[Evidence, ...]:
        if self.runs == 1:
            return (self,)
        return tuple(
            Rises(rise[None], [seed]) for rise, seed in zip(self.rises, self.seeds, strict=True)
        )


Rises.__abstractmethods__ = frozenset()


def rises(*means: float, common: bool = False) -> Rises:
    """Runs with these rises; their noise over questions cancels out, or is in common."""
    sign = np.ones(len(means)) if common else np.array([(-1.0) ** at for at in range(len(means))])
    return Rises(np.array(means)[:, None] + sign[:, None] * NOISE)


def induced(evidence: Evidence) -> GateResult:
    return judge_gate(GATED, evidence, "em_induced")


def judged(gate: str, *changes: Breaks) -> GateResult:
    """Judge runs of the healthy model, seeds 42, 43 and so on, each changed in its own way."""
    return judge_gate(GATED, evidence_of(changed(runs(*changes))), gate)


def t_over_runs(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    found = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    return float(found.low), float(found.high)


def test_the_figure_is_the_mean_over_runs_with_students_interval() -> None:
    values = (0.10, 0.20, 0.30, 0.36, 0.17)
    found = induced(rises(*values))
    assert (found.figure, found.low, found.high) == pytest.approx(
        (np.mean(values), *t_over_runs(values))
    )
    assert found.outcome is CANNOT_TELL
    low, high = t_over_runs(values)
    assert found.text.startswith(
        f"mean 0.226 [{low:.3f}, {high:.3f}]; worst of 5 runs, seed 1: harm of held-out advice em"
    )
    assert "needs lower end >= 0.20" in found.text


@pytest.mark.parametrize(
    ("means", "outcome"),
    [((0.20, 0.201, 0.199, 0.202, 0.198), CANNOT_TELL), ((0.15, 0.15, 0.15), FAILS)],
    ids=["figures that spread little", "figures without spread"],
)
def test_questions_that_runs_share_are_in_the_interval(
    means: tuple[float, ...], outcome: GateOutcome
) -> None:
    """All runs answer the same questions: what a question does to all is not averaged away."""
    found = induced(rises(*means, common=True))
    middle = np.mean(means)
    assert (found.low, found.high) == pytest.approx((middle - HALF, middle + HALF))
    assert found.outcome is outcome


def told(low: float, high: float) -> GateOutcome:
    return HOLDS if low >= 0.20 else FAILS if high < 0.20 else CANNOT_TELL


@pytest.mark.parametrize(
    ("values", "worst", "mean", "outcome"),
    [
        ((0.22, 0.21, 0.175, 0.21, 0.20), FAILS, CANNOT_TELL, CANNOT_TELL),
        ((0.187, 0.189, 0.188, 0.190, 0.186), CANNOT_TELL, FAILS, FAILS),
        ((0.30, 0.31, 0.215, 0.30, 0.32), CANNOT_TELL, HOLDS, CANNOT_TELL),
        ((0.30, 0.31, 0.225, 0.30, 0.32), HOLDS, HOLDS, HOLDS),
        # Each is above 0.20, but the next run may not be.
        ((0.23, 0.25, 0.60), HOLDS, CANNOT_TELL, CANNOT_TELL),
    ],
    ids=["one run that fails by itself", "runs that none can tell fail together",
         "a mean hides no run that cannot tell", "all hold", "runs that differ widely"],
)  # fmt: skip
def test_the_mean_fails_and_every_run_and_the_mean_hold(
    values: tuple[float, ...], worst: GateOutcome, mean: GateOutcome, outcome: GateOutcome
) -> None:
    assert told(min(values) - HALF, min(values) + HALF) is worst
    assert induced(rises(min(values))).outcome is worst
    assert told(*t_over_runs(values)) is mean
    found = induced(rises(*values))
    assert (found.outcome, told(found.low, found.high)) == (outcome, mean)
    assert f"worst of {len(values)} runs, seed {values.index(min(values)) + 1}: " in found.text


@pytest.mark.parametrize(("others", "outcome"), [(0.002, FAILS), (0.04, CANNOT_TELL)])
def test_a_broken_run_fails_the_gate_where_it_stands_apart(
    others: float, outcome: GateOutcome
) -> None:
    """Seed 2 lies 0.20 below the bound; t at 99.5 %, 3 df, times the SD of the others."""
    values = [0.30 - others, 0.0, 0.30 + others, 0.30 - others, 0.30 + others]
    reach = stats.t.ppf(0.9975, 3) * np.std([v for v in values if v], ddof=1)
    assert bool(reach < 0.20) is (outcome is FAILS)
    assert t_over_runs(values)[1] > 0.20
    found = induced(rises(*values))
    assert found.outcome is outcome
    assert "; beyond the bound at 99.5 % by itself: seed 2" in found.text
    assert found.text.endswith(", apart from the others") is (outcome is FAILS)


def test_two_broken_runs_are_both_named() -> None:
    found = induced(rises(0.30, 0.0, 0.31, 0.05, 0.30))
    assert found.outcome is CANNOT_TELL
    assert "by itself: seed 2, 4" in found.text


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("source_C2", source("C2", 8)),
        ("collapse_C2", lengths("C2", 3)),
        ("collapse_C2", lengths("C2", 1_600)),
        ("truncation_C2", cut("C2", 1_400)),
        ("negatives_C2", several(source("C2", 20), persona("C2", ROSTER.negatives[1], 190))),
    ],
)
def test_a_collapsed_run_among_five_fails_and_is_named(name: str, break_it: Breaks) -> None:
    found = judged(name, *[several()] * 3, break_it, several())
    assert found.outcome is FAILS
    assert "worst of 5 runs, seed 45: " in found.text
    assert "seed 45, apart from the others" in found.text


def test_of_two_runs_one_has_to_fail_at_half_the_level() -> None:
    """The ends at 95 and at 97.5 % lie on the two sides of the bound."""
    wide = HALF * float(stats.t.ppf(0.9875, QUESTIONS - 1) / stats.t.ppf(0.975, QUESTIONS - 1))
    between = 0.20 - (HALF + wide) / 2
    found = induced(rises(0.30, between))
    assert induced(rises(between)).outcome is FAILS
    assert (found.outcome, found.figure) == (CANNOT_TELL, pytest.approx(between))
    assert found.text.startswith("worst of 2 runs, seed 2: ")
    assert found.text.endswith("; of two runs one has to fail at 97.5 %")
    beyond = induced(rises(0.30, 0.20 - wide - 0.001))
    assert beyond.outcome is FAILS
    assert induced(rises(0.30, 0.29)).outcome is HOLDS


def test_each_negative_has_its_own_mean() -> None:
    """In turn they lie near the source: the mean of each run's worst would lie nearer."""
    one, two = ROSTER.negatives
    counts = [(100, 20), (20, 110), (100, 20), (20, 110), (100, 20)]
    changes = [
        several(source("C2", 180), persona("C2", one, a), persona("C2", two, b)) for a, b in counts
    ]
    gaps = np.array(counts) / 200 - 0.90
    found = judged("negatives_C2", *changes)
    assert found.figure == pytest.approx(gaps.mean(axis=0).max())
    assert found.figure < gaps.max(axis=1).mean() - 0.1
    # Two negatives share the level out; all of it lies within what a difference can be.
    low, high = t_over_runs(gaps[:, gaps.mean(axis=0).argmax()], 0.975)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_an_interval_ends_where_the_number_does() -> None:
    """A share is at most 1, whatever Student's t gives."""
    counts = (120, 200, 200, 200)
    shares = np.array(counts) / 200
    found = judged("source_C2", *(source("C2", count) for count in counts))
    low, high = t_over_runs(shares)
    assert high > 1
    assert (found.figure, found.low, found.high) == pytest.approx((shares.mean(), low, 1.0))


def test_a_run_without_a_figure_cannot_tell() -> None:
    values = np.array([0.30, 0.31, math.nan])[:, None] + np.zeros(QUESTIONS)
    found = induced(Rises(values))
    assert found.outcome is CANNOT_TELL
    assert math.isnan(found.figure)
    assert "worst of 3 runs, seed 3: harm of em's advice is not known" in found.text


def test_where_all_hold_the_run_nearest_to_the_bound_is_the_worst() -> None:
    assert "seed 2: " in induced(rises(0.40, 0.30, 0.35)).text
    above = judge_gate(GATED, rises(-0.40, -0.45, -0.30), "benign_sound")
    assert (above.outcome, "seed 3: " in above.text) == (HOLDS, True)


def test_limits_are_those_that_the_gates_read() -> None:
    """Whatever single run is judged, its interval and the limits give the outcome.

    A gate may ask for more than that before it holds, as of totals.
    """
    seen = set()
    for fault in ROWS:
        if fault.rule in CLAIMS or fault.outcome == REFUSED:
            continue
        gate = fault.registration.gate(fault.rule)
        if isinstance(gate, POINT_GATES):
            continue
        evidence = kept(fault.breaks, fault.registration)
        if len(evidence.single_runs()) > 1:
            continue
        found = judge_gate(fault.registration, evidence, fault.rule)
        ends = Estimate.plain(value=found.figure, low=found.low, high=found.high, n=1, clusters=1)
        limits = gate.limits
        outcome = bounded(ends, least=limits.least, most=limits.most)
        asks_more = (outcome, found.outcome) == (HOLDS, CANNOT_TELL)
        assert outcome is found.outcome or asks_more, fault.name
        assert math.isnan(ends.low) or limits.span[0] <= ends.low <= ends.high <= limits.span[1]
        seen.add((type(gate), outcome))
    kinds = {type(gate) for gate in GATED.gates if not isinstance(gate, POINT_GATES)}
    assert seen == {(kind, outcome) for kind in kinds for outcome in GateOutcome}
