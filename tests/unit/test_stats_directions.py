"""Directions: against scipy, loops and jackknives written out in the test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg, stats
from scipy.spatial import distance

from persona_lib.errors import DataError
from persona_lib.stats.directions import (
    centred,
    centroid_ranks,
    cosines,
    effective_rank,
    jackknifed,
    over_questions,
)

RNG = np.random.default_rng(20)


def entropy_rank(rows: np.ndarray) -> float:
    values = linalg.svdvals(rows)
    return float(np.exp(stats.entropy(values[values > 1e-12 * values.max()])))


def test_cosines_are_scipys() -> None:
    states = RNG.normal(size=(3, 4, 5))
    found = cosines(states, 2)
    assert found.shape == (3, 4)
    for i in range(3):
        for p in range(4):
            expected = 1 - distance.cosine(states[i, p], states[i, 2])
            assert found[i, p] == pytest.approx(expected, abs=1e-12)
    assert found[:, 2] == pytest.approx(1.0)


def test_a_missing_or_empty_state_has_no_cosine_and_takes_no_other_with_it() -> None:
    states = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [-4.0, 3.0], [-3.0, -4.0]])
    found = cosines(states, 0)
    assert np.isnan(found).tolist() == [False, True, True, False, False]
    assert found[[0, 3, 4]].tolist() == [1.0, 0.0, -1.0]
    assert np.isnan(cosines(states, 2)).all()


def test_a_cosine_is_never_above_one_by_rounding() -> None:
    state = RNG.normal(size=257)
    found = cosines(np.stack([state * scale for scale in np.geomspace(1e-3, 1e3, 40)]), 0)
    assert found.max() <= 1.0
    assert found == pytest.approx(1.0, abs=1e-12)


def test_centring_takes_the_mean_of_the_personas_that_are_there() -> None:
    states = np.array(
        [[[1.0, 2.0], [3.0, 6.0], [np.nan, 0.0]], [[1.0, 1.0], [4.0, 1.0], [1.0, 4.0]]]
    )
    found = centred(states)
    assert found[0, :2].tolist() == [[-1.0, -2.0], [1.0, 2.0]]
    assert np.isnan(found[0, 2]).all()
    assert found[1].tolist() == [[-1.0, -1.0], [2.0, -1.0], [-1.0, 2.0]]
    assert np.isnan(centred(np.full((2, 3), np.nan))).all()


def test_what_rounding_leaves_of_like_states_has_no_direction() -> None:
    same = np.tile(RNG.normal(size=16), (5, 1))
    wobble = (same * (1 + 1e-7 * RNG.normal(size=same.shape))).astype(np.float32).astype(np.float64)
    assert (centred(wobble) == 0).all()
    assert np.isnan(cosines(centred(wobble), 0)).all()
    assert np.isnan(effective_rank(centred(wobble)))
    assert effective_rank(wobble) == pytest.approx(1.0, abs=1e-4)
    assert not (centred(same + 1e-3 * RNG.normal(size=same.shape)) == 0).any()


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(np.eye(4, 7)) == pytest.approx(4.0)
    assert effective_rank(np.outer([1.0, -2.0, 3.0], [1.0, 1.0])) == pytest.approx(1.0)
    # Singular values 3 and 1: shares 3/4 and 1/4.
    by_hand = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(np.diag([1.0, 3.0])) == pytest.approx(by_hand)
    assert np.isnan(effective_rank(np.zeros((2, 3))))
    assert np.isnan(effective_rank(np.array([[1.0, np.nan], [0.0, 1.0]])))


def test_effective_rank_of_a_batch_is_scipys_one_by_one() -> None:
    rows = RNG.normal(size=(2, 3, 5, 9)) * np.geomspace(1, 50, 9)
    found = effective_rank(rows)
    expected = [[entropy_rank(rows[i, j]) for j in range(3)] for i in range(2)]
    assert found == pytest.approx(np.array(expected), abs=1e-10)


@pytest.mark.parametrize("centre", [False, True])
def test_centroid_ranks_leave_one_question_out_each(centre: bool) -> None:
    states = RNG.normal(size=(4, 6, 8)) + RNG.normal(size=(4, 1, 8)) + 3.0
    full, without = centroid_ranks(states, centre=centre)

    def expected(kept: np.ndarray) -> float:
        middles = kept.mean(axis=1)
        return entropy_rank(middles - middles.mean(axis=0) if centre else middles)

    assert full == pytest.approx(expected(states))
    assert without.shape == (6,)
    for q in range(6):
        assert without[q] == pytest.approx(expected(np.delete(states, q, axis=1)))


def test_a_centroid_is_the_mean_of_the_questions_that_a_persona_has() -> None:
    states = RNG.normal(size=(3, 4, 5))
    states[1, 2] = np.nan
    full, without = centroid_ranks(states, centre=False)
    middles = states.mean(axis=1)
    middles[1] = states[1, [0, 1, 3]].mean(axis=0)
    assert full == pytest.approx(entropy_rank(middles))
    middles = states[:, [0, 1, 3]].mean(axis=1)
    assert without[2] == pytest.approx(entropy_rank(middles))
    states[1, 1:] = np.nan
    full, without = centroid_ranks(states, centre=False)
    assert np.isfinite(full)
    assert np.isnan(without).tolist() == [True, False, False, False]


def test_means_over_questions_are_a_t_test_of_one_sample() -> None:
    values = RNG.normal(0.3, 0.5, size=12)
    found = over_questions(np.append(values, np.nan), 0.9)
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.9)
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([low, high])
    assert found.p == pytest.approx(test.pvalue)
    assert (found.n, found.clusters, found.confidence) == (12, 12, 0.9)


def test_what_cannot_be_known_is_nan() -> None:
    one = over_questions(np.array([0.4]), 0.95)
    assert (one.value, one.n, one.p) == (0.4, 1, None)
    assert not one.has_interval
    none = over_questions(np.array([np.nan, np.nan]), 0.95)
    assert none.n == 0
    assert math.isnan(none.value)
    still = over_questions(np.full(5, 0.25), 0.95)
    assert (still.value, still.n, still.p) == (0.25, 5, None)
    assert not still.has_interval


def test_the_jackknife_of_a_curved_statistic_stays_around_the_statistic() -> None:
    values = RNG.normal(1.0, 1.0, size=8)
    without = np.array([np.delete(values, i).mean() ** 2 for i in range(8)])
    full = float(values.mean() ** 2)
    se = math.sqrt(7 / 8 * ((without - without.mean()) ** 2).sum())
    t = float(stats.t.ppf(0.975, 7))
    found = jackknifed(full, without, 0.95)
    assert found.value == full
    assert [found.low, found.high] == pytest.approx([full - t * se, full + t * se])
    assert found.p == pytest.approx(2 * stats.t.sf(abs(full) / se, 7))


def test_a_jackknife_with_a_hole_knows_its_value_alone() -> None:
    found = jackknifed(2.0, np.array([1.9, np.nan, 2.1]), 0.95)
    assert (found.value, found.n) == (2.0, 3)
    assert math.isnan(found.low)
    assert math.isnan(jackknifed(math.nan, np.array([1.9, 2.1]), 0.95).low)


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(DataError, match="states of personas: expected finite numbers"):
        cosines(np.array([1.0, 2.0]), 0)
    with pytest.raises(DataError, match="states of personas"):
        effective_rank(np.array([[np.inf, 1.0]]))
    with pytest.raises(DataError, match="source: expected from 0 to 1 and whole, got 2"):
        cosines(np.eye(2), 2)
    with pytest.raises(DataError, match=r"an array \(personas, questions, width\)"):
        centroid_ranks(np.eye(2), centre=True)
    with pytest.raises(DataError, match="one finite number, or NaN, a question"):
        over_questions(np.eye(2), 0.95)
    with pytest.raises(DataError, match="questions of the jackknife"):
        jackknifed(1.0, np.array([]), 0.95)
    with pytest.raises(DataError, match="confidence"):
        over_questions(np.ones(3), 1.0)
    with pytest.raises(DataError, match="confidence"):
        jackknifed(1.0, np.ones(3), 0.0)
