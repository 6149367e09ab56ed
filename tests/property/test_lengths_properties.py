"""What holds of common support, separation and the adjusted effect whatever the lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from persona_lib.stats.estimate import Estimate
from persona_lib.stats.lengths import common_support, shorter_median, within
from persona_lib.stats.logit import length_adjusted, separation

FAST = settings(max_examples=60, deadline=None)
"""Deadlines would measure how busy the machine is."""
MANY = settings(max_examples=400, deadline=None)
Floats = NDArray[np.float64]
Rows = list[tuple[bool, bool, int, int]]

ARM = st.lists(st.integers(0, 30), min_size=1, max_size=250).map(np.array)
CELL = st.tuples(st.booleans(), st.integers(1, 6), st.integers(0, 3))
"""Hit, tokens and cluster of one completion."""


def _rows(least: int, most: int) -> st.SearchStrategy[Rows]:
    """Two arms of so many completions each, with few lengths and clusters."""
    arm = st.lists(CELL, min_size=least, max_size=most)
    return st.tuples(arm, arm).map(
        lambda arms: [(h, bool(i), x, g) for i, rows in enumerate(arms) for h, x, g in rows]
    )


SMALL = _rows(1, 6)
"""Separated about as often as not."""
LARGER = _rows(6, 30)


def _fit(rows: Rows, *, swap: bool = False, factor: float = 1) -> Estimate:
    hits, treated, tokens, clusters = (np.array(column) for column in zip(*rows, strict=True))
    arm = ~treated if swap else treated
    return length_adjusted(hits, arm, factor * tokens, clusters, confidence=0.95)


@FAST
@given(ARM, ARM)
def test_support_does_not_ask_which_arm_or_which_scale(one: Floats, two: Floats) -> None:
    found, swapped = common_support(one, two), common_support(two, one)
    assert found == swapped
    assert 0.5 <= found.auc <= 1
    assert 0 <= found.share <= 1
    other = common_support(np.log1p(one), np.log1p(two))
    assert (found.auc, found.share) == (other.auc, other.share)
    assert (np.log1p(found.low), np.log1p(found.high)) == (other.low, other.high)


@FAST
@given(ARM)
def test_an_arm_shares_its_lengths_with_itself(arm: Floats) -> None:
    found = common_support(arm, arm)
    assert found.auc == 0.5
    assert found.share >= 1 - 2 / 100
    assert found.grade == "report"


@FAST
@given(ARM, ARM, st.integers(31, 500))
def test_arms_that_do_not_meet_share_nothing(one: Floats, two: Floats, gap: int) -> None:
    found = common_support(one, two + gap)
    assert (found.auc, found.share) == (1.0, 0.0)
    assert found.low > found.high


@FAST
@given(ARM, ARM)
def test_half_of_each_arm_is_as_long_as_what_is_looked_at(one: Floats, two: Floats) -> None:
    k = shorter_median(one, two)
    assert k == 1 or all((arm >= k).mean() >= 0.5 for arm in (one, two))
    assert k + 1 > min(np.median(one), np.median(two))


@FAST
@given(st.lists(st.integers(-1, 20), min_size=1, max_size=50), st.integers(1, 25))
def test_hits_grow_with_k_up_to_all_of_them(first: list[int], k: int) -> None:
    place = np.array(first)
    hit = place >= 0
    few, more = within(place, hit, k), within(place, hit, k + 1)
    assert (few <= more).all()
    assert (more & ~few).sum() == sum(value == k for value in first)
    assert within(place, hit, 21).tolist() == hit.tolist()


def _separable(hits: NDArray[np.bool_], design: Floats) -> bool:
    """Konis (2007): the largest sum of correct signs, none of them wrong, by linear programme."""
    signed = np.where(hits, 1.0, -1.0)[:, None] * design
    bounds = [(-1, 1)] * design.shape[1]
    found = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(hits.size), bounds=bounds)
    assert found.status == 0
    return bool(-found.fun > 1e-7)


def _agrees(hits: NDArray[np.bool_], treated: NDArray[np.bool_], x: Floats) -> None:
    """Separation by an arm and x is what the linear programme finds."""
    expected = _separable(hits, np.column_stack([np.ones(hits.size), treated, x]))
    event(f"separated: {expected}")
    assert bool(separation(hits, treated, x)) == expected


@MANY
@given(SMALL)
def test_separation_is_what_a_linear_programme_finds(rows: Rows) -> None:
    hits, treated, tokens, _ = (np.array(column) for column in zip(*rows, strict=True))
    _agrees(hits, treated, tokens)


@MANY
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 4)), max_size=8))
def test_length_alone_separates_where_the_programme_says_so(
    more: list[tuple[bool, bool, int]],
) -> None:
    """Both arms hold a hit and a miss of neighbouring lengths, and whatever else comes."""
    both = [(hit, arm, 2 + hit) for hit in (True, False) for arm in (True, False)]
    hits, treated, tokens = (np.array(column) for column in zip(*both, *more, strict=True))
    _agrees(hits, treated, np.log(tokens))


NAMED = ("not identified: ", "separated: ", "log-odds", "little common support: ")


@MANY
@given(st.one_of(SMALL, LARGER))
def test_every_outcome_is_named_and_no_error_is_zero(rows: Rows) -> None:
    found = _fit(rows)
    kind = next(name for name in NAMED if found.note.startswith(name))
    event(kind)
    fitted = kind in NAMED[2:]
    assert math.isfinite(found.value) == fitted
    assert found.clusters == len({row[3] for row in rows})
    assert found.has_interval == (found.p is not None)
    assert found.has_interval or not fitted or "no interval, no p" in found.note
    if found.has_interval:
        assert found.low < found.value < found.high
        assert -1 < found.value < 1


def _same(one: Estimate, two: Estimate, sign: int = 1) -> None:
    ends = (one.low, one.high) if sign == 1 else (-one.high, -one.low)
    near = {"rel": 1e-6, "abs": 1e-9, "nan_ok": True}
    assert (sign * one.value, *ends) == pytest.approx((two.value, two.low, two.high), **near)
    assert (one.p is None) == (two.p is None)
    if one.p is not None:
        assert one.p == pytest.approx(two.p, rel=1e-6)


@FAST
@given(LARGER, st.randoms(use_true_random=False), st.integers(1, 50))
def test_order_unit_and_names_of_clusters_change_nothing(
    rows: Rows, random: np.random.Generator, factor: int
) -> None:
    found = _fit(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    _same(found, _fit(shuffled))
    _same(found, _fit(rows, factor=factor))
    _same(found, _fit([(h, t, x, 17 - 5 * g) for h, t, x, g in rows]))
    _same(found, _fit(rows, swap=True), sign=-1)
