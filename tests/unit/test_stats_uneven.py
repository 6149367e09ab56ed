"""Few hits in uneven worlds: against enumeration, quadrature and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import expit

from persona_lib.stats.uneven import WORST_SD, chance_of, most_hits, samples_needed
from tests.uneven import SD, chances, hits_of_one, location


def test_the_worst_case_is_the_one_that_tests_calculate_with() -> None:
    assert WORST_SD == SD


@pytest.mark.parametrize("bound", [0.01, 0.10, 0.60])
@pytest.mark.parametrize("seen", [(0, 0, 0), (1, 0, 2), (0, 3, 0), (2, 1, 4)])
def test_chances_are_sums_over_every_outcome(bound: float, seen: tuple[int, int, int]) -> None:
    """Three clusters of 2, 3 and 4 completions: all 60 outcomes, one by one."""
    sizes = (2, 3, 4)
    share = max(h / n for h, n in zip(seen, sizes, strict=True))
    in_all = worst = 0.0
    for outcome in itertools.product(*(range(n + 1) for n in sizes)):
        p = math.prod(hits_of_one(n, bound)[k] for k, n in zip(outcome, sizes, strict=True))
        in_all += p * (sum(outcome) <= sum(seen))
        worst += p * all(k / n <= share + 1e-12 for k, n in zip(outcome, sizes, strict=True))
    found = chance_of(np.array(seen, dtype=float), np.array(sizes, dtype=float), bound)
    assert (found.all_hits, found.worst) == pytest.approx((in_all, worst), abs=1e-8)
    assert found.rules_out(min(in_all, worst) + 1e-7)
    assert not found.rules_out(min(in_all, worst) - 1e-7)


@pytest.mark.parametrize(
    ("hits", "n", "bound"), [(0, 40, 0.01), (4, 40, 0.01), (30, 200, 0.05), (60, 200, 0.10)]
)
def test_chances_agree_with_a_simulation(hits: int, n: int, bound: float) -> None:
    """200,000 sets of eleven personas; within four standard errors."""
    rng = np.random.default_rng([262, hits, n])
    logits = location(bound) + SD * rng.standard_normal((200_000, 11))
    drawn = rng.binomial(n, expit(logits))
    seen = np.zeros(11)
    seen[:3] = np.floor(np.array([0.5, 0.3, 0.2]) * hits)
    found = chance_of(seen, np.full(11, float(n)), bound)
    for p, event in (
        (found.all_hits, drawn.sum(axis=1) <= seen.sum()),
        (found.worst, drawn.max(axis=1) <= seen.max()),
    ):
        assert abs(event.mean() - p) <= 4 * math.sqrt(p * (1 - p) / event.size)


@pytest.mark.parametrize("size", [40, 1_000, 5_000])
def test_large_clusters_are_summed_as_exactly_as_small_ones(size: int) -> None:
    """The likelihood of 5,000 completions is narrow: P(one cluster has <= k hits)."""
    k = size // 50
    middle = location(0.05)

    def at(x: float) -> float:
        return float(stats.binom.cdf(k, size, expit(middle + SD * x)) * stats.norm.pdf(x))

    expected, _ = integrate.quad(at, -9, 9, epsabs=1e-11, limit=500)
    found = chance_of(np.array([float(k)]), np.array([float(size)]), 0.05)
    assert found.all_hits == pytest.approx(expected, abs=1e-7)
    assert found.worst == pytest.approx(expected, abs=1e-7)


def test_clusters_that_are_alike_are_binomial() -> None:
    found = chance_of(np.array([2.0, 5.0]), np.array([40.0, 60.0]), 0.1, sd=0.0)
    assert found.all_hits == pytest.approx(stats.binom.cdf(7, 100, 0.1), abs=1e-9)
    largest = stats.binom.cdf(3, 40, 0.1) * stats.binom.cdf(5, 60, 0.1)  # 5 of 60 is 3.3 of 40
    assert found.worst == pytest.approx(largest, abs=1e-9)


@pytest.mark.parametrize("hits", [0, 1, 5, 20])
def test_few_hits_are_likelier_the_more_uneven(hits: int) -> None:
    """So that the worst case covers every smaller SD."""
    seen, n = np.array([float(hits), *([0.0] * 10)]), np.full(11, 200.0)
    found = [chance_of(seen, n, 0.05, sd).all_hits for sd in (0.0, 0.5, 1.0, 1.5, 2.0)]
    assert np.diff(found).min() > -1e-12  # rounding of the convolution
    even = np.full(11, float(hits // 4))
    found = [chance_of(even, n, 0.05, sd).worst for sd in (0.0, 0.5, 1.0, 1.5, 2.0)]
    assert np.diff(found).min() > -1e-12  # rounding of the convolution


@pytest.mark.parametrize(("bound", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_bounds_at_the_ends(bound: float, expected: float) -> None:
    found = chance_of(np.zeros(3), np.full(3, 10.0), bound)
    assert (found.all_hits, found.worst) == (expected, expected)


@pytest.mark.parametrize(
    ("sizes", "bound"), [((200,) * 11, 0.05), ((110,) * 20, 0.10), ((40,) * 11, 0.01)]
)
def test_most_hits_are_the_last_that_are_improbable(sizes: tuple[int, ...], bound: float) -> None:
    in_all, of_each = most_hits(sizes, bound, 0.025)
    for most, which in ((in_all, 0), (of_each, 1)):
        for hits, improbable in ((most, True), (most + 1, False)):
            if hits < 0:
                continue
            # All in one cluster for the sum; the same in each for the worst cluster.
            seen = [hits] * len(sizes) if which else [*divmod(hits, 2), *([0] * (len(sizes) - 2))]
            if not which:
                seen[0] = hits - seen[1]
            assert (chances(seen, sizes, bound)[which] <= 0.025) is improbable


@pytest.mark.parametrize(
    ("personas", "questions", "bound"),
    [(11, 20, 0.01), (11, 5, 0.01), (11, 2, 0.05), (3, 20, 0.10), (1, 20, 0.01)],
)
def test_samples_needed_is_the_least_number(personas: int, questions: int, bound: float) -> None:
    """Few questions bind as few personas do; one persona is no cluster."""
    found = samples_needed(personas, questions, bound, 0.95)
    assert found is not None

    def enough(samples: int) -> bool:
        fewer = min(k for k in (personas, questions) if k > 1)
        t2 = stats.t.ppf(0.975, fewer - 1) ** 2
        n = personas * questions * samples
        none = [
            hits_of_one(samples * others, bound)[0] ** units <= 0.025
            for units, others in ((personas, questions), (questions, personas))
            if units > 1
        ]
        return bool(t2 / (n + t2) <= bound and all(none))

    assert enough(found)
    assert not enough(found - 1)


def test_one_question_has_no_interval_at_any_size() -> None:
    assert samples_needed(11, 1, 0.01, 0.95) is None
    assert samples_needed(11, 20, 0.0, 0.95) is None
