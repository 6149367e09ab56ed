"""Common support and counts at like length, against rank tests and counting by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from persona_lib.digests import derive_seed
from persona_lib.errors import DataError
from persona_lib.stats.lengths import (
    REFUSE,
    REPORT,
    WARN,
    Support,
    common_support,
    completed_only,
    shorter_median,
    within,
)

Floats = NDArray[np.float64]


def _arms(seed: int) -> tuple[Floats, Floats]:
    """Whole tokens with many ties, arms of unlike size and shift; either may be the longer."""
    rng = np.random.default_rng(derive_seed(0, "lengths", seed))
    shift = rng.uniform(-1.5, 1.5)
    one, two = (rng.normal(mean, 0.8, rng.integers(3, 400)) for mean in (2 + shift, 2.0))
    return np.round(np.exp(one)), np.round(np.exp(two))


def _range(tokens: Floats) -> tuple[float, float]:
    """1st and 99th percentile by counting: the first length that 1 % reach, from either end."""
    low = min(v for v in tokens if 100 * (tokens <= v).sum() >= tokens.size)
    high = max(v for v in tokens if 100 * (tokens >= v).sum() >= tokens.size)
    return float(low), float(high)


@pytest.mark.parametrize("seed", range(12))
def test_auc_is_the_mann_whitney_probability_and_the_share_is_counted(seed: int) -> None:
    one, two = _arms(seed)
    u = mannwhitneyu(one, two, alternative="two-sided").statistic / (one.size * two.size)
    (low_one, high_one), (low_two, high_two) = _range(one), _range(two)
    low, high = max(low_one, low_two), min(high_one, high_two)
    inside = [sum(low <= v <= high for v in arm) / arm.size for arm in (one, two)]
    found = common_support(one, two)
    assert (found.low, found.high) == (low, high)
    assert found.share == pytest.approx(min(inside), abs=1e-15)
    assert found.auc == pytest.approx(max(u, 1 - u), abs=1e-12)


@pytest.mark.parametrize(("n", "cut"), [(1, 0), (100, 0), (101, 1), (200, 1), (201, 2)])
def test_one_completion_in_a_hundred_is_cut_at_each_end(n: int, cut: int) -> None:
    tokens = np.arange(1.0, n + 1)
    found = common_support(tokens, tokens)
    assert (found.low, found.high) == (1 + cut, n - cut)
    assert found.share == pytest.approx((n - 2 * cut) / n)
    assert found.auc == 0.5


@pytest.mark.parametrize(
    ("one", "two", "auc", "text"),
    [
        ([3, 4], [900, 800], 1.0, "common support 0.000 (no common range): refuse"),
        ([7] * 4, [7] * 9, 0.5, "common support 1.000 (7 to 7 tokens): report"),
        ([1, 9] * 50, [5] * 100, 0.5, "common support 0.000 (5 to 5 tokens): refuse"),
        ([1] + [100] * 199, [1] * 100 + [100] * 100, 0.7475,
         "common support 0.500 (100 to 100 tokens): warn"),
        ([20] * 300 + [2048] * 700, [20] * 700 + [2048] * 300, 0.7,
         "common support 1.000 (20 to 2048 tokens): report"),
    ],
    ids=["arms apart", "one length for all", "one arm on both sides of the other",
         "an outlier does not stretch the range", "what ties with an end is inside together"],
)  # fmt: skip
def test_common_support_of_small_arms(
    one: list[int], two: list[int], auc: float, text: str
) -> None:
    found = common_support(np.array(one), np.array(two))
    assert found.auc == pytest.approx(auc)
    assert found.text == f"lengths: AUC {auc:.3f}, {text}"


@pytest.mark.parametrize(
    ("auc", "share", "grade"),
    [
        (0.5, 1.0, REPORT),
        (0.80, 0.75, REPORT),
        (0.80 + 1e-12, 0.75 - 1e-12, REPORT),
        (0.801, 0.75, WARN),
        (0.80, 0.749, WARN),
        (0.90, 0.50, WARN),
        (0.90 + 1e-12, 0.50 - 1e-12, WARN),
        (0.901, 0.50, REFUSE),
        (0.90, 0.499, REFUSE),
        (0.5, 0.499, REFUSE),
        (0.901, 1.0, REFUSE),
        (math.nan, 1.0, REFUSE),
        (0.5, math.nan, REFUSE),
    ],
)
def test_both_figures_have_to_keep_their_bounds(auc: float, share: float, grade: str) -> None:
    assert Support(auc=auc, share=share, low=1, high=2).grade == grade


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        ([], "one completion or more"),
        ([[1.0, 2.0]], "one completion or more"),
        ([1.0, math.nan], "1 others of 2, the first nan"),
        ([1.0, math.inf], "the first inf"),
        ([-1.0, -2.0], "2 others of 2, the first -1.0"),
    ],
)
def test_lengths_that_are_none_are_refused(tokens: list[float], shown: str, position: int) -> None:
    arms = [np.ones(3), np.ones(3)]
    arms[position] = np.array(tokens)
    with pytest.raises(DataError, match=re.escape(shown)) as caught:
        common_support(*arms)
    assert caught.value.field.startswith(("treated", "control")[position])
    with pytest.raises(DataError, match=re.escape(shown)):
        shorter_median(*arms)


def test_only_completions_that_finished_count() -> None:
    hit = np.array([True, True, False, False, True])
    finished = np.array([True, False, True, False, True])
    assert completed_only(hit, finished).tolist() == [True, False, True]
    assert completed_only(hit, np.zeros(5, bool)).size == 0


def test_a_marker_counts_if_it_began_before_k_tokens_were_written() -> None:
    first, hit = np.array([0, 4, 5, 6, -1]), np.array([True, True, True, True, False])
    assert within(first, hit, 5).tolist() == [True, True, False, False, False]
    assert within(first, hit, 1).tolist() == [True, False, False, False, False]
    assert within(first, hit, 7).tolist() == hit.tolist()


@pytest.mark.parametrize(
    ("one", "two", "k"),
    [
        ([10, 20, 30], [5, 6, 7, 8], 6),  # 6.5 rounded down
        ([5, 6, 7, 8], [10, 20, 30], 6),
        ([0, 0, 9], [50], 1),
        ([3], [3], 3),
    ],
)
def test_k_is_the_smaller_median(one: list[int], two: list[int], k: int) -> None:
    found = shorter_median(np.array(one), np.array(two))
    assert found == k
    assert isinstance(found, int)


FIRST, HIT = np.array([3, -1]), np.array([True, False])


@pytest.mark.parametrize(
    ("first", "hit", "k", "shown"),
    [
        (FIRST, HIT, 0, ">= 1 and whole"),
        (FIRST, HIT, 2.5, ">= 1 and whole"),
        (FIRST, np.array([True, True]), 5, "1 others of 2, the first at 1"),
        (FIRST, np.array([False, False]), 5, "1 others of 2, the first at 0"),
        (np.array([3, -2]), HIT, 5, "1 others of 2, the first at 1"),
        (np.array([3]), HIT, 5, "one entry a completion"),
        (FIRST.astype(float), HIT, 5, "places as integers"),
        (FIRST, HIT.astype(float), 5, "flags as booleans"),
    ],
)
def test_places_that_do_not_fit_are_refused(
    first: NDArray[np.int64], hit: NDArray[np.bool_], k: int, shown: str
) -> None:
    with pytest.raises(DataError, match=re.escape(shown)):
        within(first, hit, k)


@pytest.mark.parametrize("finished", [[True], [[True, False]], [1, 0]])
def test_flags_that_do_not_fit_are_refused(finished: list[Any]) -> None:
    with pytest.raises(DataError, match="hit and finished"):
        completed_only(HIT, np.array(finished))
