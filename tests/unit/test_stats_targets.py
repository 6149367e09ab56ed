"""Inference for three targets, TOST and Holm, against independent calculations."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from persona_lib.errors import DataError
from persona_lib.stats.equivalence import equivalence, holm, tost
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.exact import flip_floor
from persona_lib.stats.moments import (
    Floats,
    Moments,
    interval,
    p_value,
    persona_moments,
    probability,
    question_moments,
    seed_moments,
)
from persona_lib.stats.targets import (
    PERSONA_METHOD,
    QUESTION_METHOD,
    one_seed_risk,
    persona_t,
    population_refusal,
    question_t,
    seeds_welch,
    sign_flip,
)
from tests.pace import allowed
from tests.uneven import clustered_variance

CLOSE = 1e-12
CASES = [(7, 20, 0), (7, 20, 1), (2, 3, 2), (11, 40, 3), (3, 2, 4), (1, 20, 5)]


def arms(personas: int, questions: int, seed: int) -> tuple[Floats, Floats]:
    """Rates of two arms, 10 completions a cell, with persona and question effects."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (personas, 1)) + rng.normal(0, 1, (1, questions))
    chance = 1 / (1 + np.exp(-np.stack([logits + 1, logits - rng.normal(0, 1, (personas, 1))])))
    treated, control = rng.binomial(10, chance) / 10
    return treated, control


def question(a: Floats, b: Floats, confidence: float = 0.95) -> Estimate:
    return question_t(a, b, n=20 * a.size, confidence=confidence)


def persona(a: Floats, b: Floats, confidence: float = 0.95) -> Estimate:
    return persona_t(a, b, n=20 * a.size, confidence=confidence)


def flip(a: Floats, b: Floats) -> Estimate:
    return sign_flip(a, b, n=20 * a.size, confidence=0.95)


def welch(a: list[float], b: list[float], confidence: float = 0.95) -> Estimate:
    return seeds_welch(np.array(a), np.array(b), n=2800, confidence=confidence)


# These personas, this run


@pytest.mark.parametrize(("personas", "questions", "seed"), CASES)
@pytest.mark.parametrize("confidence", [0.90, 0.95, 0.9833])
def test_question_t_agrees_with_scipy(
    personas: int, questions: int, seed: int, confidence: float
) -> None:
    a, b = arms(personas, questions, seed)
    expected = stats.ttest_rel(a.mean(axis=0), b.mean(axis=0))
    low, high = expected.confidence_interval(confidence)
    found = question(a, b, confidence)
    assert found.value == pytest.approx(float(np.sum(a - b)) / a.size, abs=CLOSE)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-10)
    assert (found.n, found.clusters, found.p_floor) == (20 * a.size, questions, None)
    assert found.method == QUESTION_METHOD == "question-level paired t"
    assert found.note.startswith("SE = ")
    assert f"df = {questions - 1}" in found.note


# Personas at large


@pytest.mark.parametrize(("personas", "questions", "seed"), [*CASES[:-1], (20, 2, 4)])
def test_persona_se_is_the_larger_of_two_clustered_ones(
    personas: int, questions: int, seed: int
) -> None:
    """The factors of statsmodels' small samples are ours: K / (K - 1) of each term."""
    a, b = arms(personas, questions, seed)
    d = a - b
    g, q = (index.ravel() for index in np.indices(d.shape))
    variances = clustered_variance(d.ravel(), g, q), clustered_variance(d.ravel(), g)
    assert (variances[0] > 1.02 * variances[1]) is ((personas, questions) == (20, 2))
    expected = math.sqrt(max(variances))
    m = persona_moments(d)
    assert float(m.se) == pytest.approx(expected, rel=1e-9)
    reference = stats.t(personas - 1)
    found = persona(a, b)
    t = float(d.mean()) / expected
    assert found.p == pytest.approx(2 * reference.sf(abs(t)), rel=1e-9)
    half = reference.ppf(0.975) * expected
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=1e-9)
    assert found.clusters == personas
    assert found.method == PERSONA_METHOD == "persona-level t, two-way SE"
    assert found.note.startswith("SE = ")
    assert found.target == "personas at large"


# Sign flips


@pytest.mark.parametrize(("personas", "questions", "seed"), CASES)
def test_sign_flip_agrees_with_every_vector_by_itself(
    personas: int, questions: int, seed: int
) -> None:
    a, b = arms(personas, questions, seed)
    means = (a - b).mean(axis=1)
    sizes = [
        abs(math.fsum(s * m for s, m in zip(signs, means, strict=True))) / personas
        for signs in itertools.product((1, -1), repeat=personas)
    ]
    extreme = sum(size >= abs(math.fsum(means)) / personas - 1e-12 for size in sizes)
    found = flip(a, b)
    assert found.p == extreme / 2**personas
    assert found.value == pytest.approx(math.fsum(means) / personas, abs=CLOSE)
    assert not found.has_interval
    assert found.clusters == personas
    assert f"{extreme:,} of {2**personas:,} sign vectors" in found.note


def test_sign_flip_of_seven_personas_at_its_floor_is_printed_as_exact() -> None:
    """2 of 128: as observed, and the mirror image. "p <= ... (0 of 127)" would be untrue."""
    a, b = np.full((7, 20), 0.9), np.full((7, 20), 0.1)
    found = flip(a, b)
    assert found.p == 2 / 128
    assert found.p_text == "p = 0.0156"
    assert "exact: 2 of 128 sign vectors are as far from 0" in found.note
    assert "smallest possible p is 2/128 = 0.0156" in found.note
    assert flip(b, a).p == 2 / 128


def test_sign_flip_counts_ties_that_rounding_would_tear_apart() -> None:
    """0.1 + 0.2 - 0.3 is 5.6e-17, and every order of signs leaves another remainder.

    Personas 0.1, 0.2, 0.3: |sums| are 0.6, 0, 0.2, 0.4, each twice. Observed are the
    signs (+, +, -), whose sum is 0: all 8 are as far from 0.
    """
    d = np.array([[0.1], [0.2], [-0.3]])
    assert d.sum() != 0
    assert flip(d, np.zeros((3, 1))).p == 1.0


def test_sign_flip_where_no_persona_differs() -> None:
    a, _ = arms(7, 20, 1)
    found = flip(a, a)
    assert (found.value, found.p) == (0.0, 1.0)
    assert "no persona differs" in found.note
    assert "smallest possible" not in found.note


@pytest.mark.parametrize("personas", [17, 21, 24])
def test_sign_flip_of_many_personas_counts_every_sign_vector(personas: int) -> None:
    """Whole hits of 40, with ties: how many sign vectors give each sum is a convolution."""
    rng = np.random.default_rng(personas)
    one, two = (rng.binomial(40, rate, personas) for rate in (0.35, 0.25))
    ways = {0: 1}
    for step in (int(d) for d in one - two):
        grown: dict[int, int] = {}
        for total, count in ways.items():
            for signed in (total + step, total - step):
                grown[signed] = grown.get(signed, 0) + count
        ways = grown
    observed = int((one - two).sum())
    above = sum(count for total, count in ways.items() if total >= observed)
    below = sum(count for total, count in ways.items() if total <= observed)
    found = flip((one / 40)[:, None], (two / 40)[:, None])
    assert found.p == min(1.0, 2 * min(above, below) / 2**personas)
    assert f"of {2**personas:,} sign vectors" in found.note


def test_sign_flip_takes_forty_personas_in_a_moment_and_says_that_more_have_no_p() -> None:
    a, b = arms(40, 5, 2)
    start = time.process_time()
    assert 0 < (flip(a, b).p or 0) <= 1
    assert time.process_time() - start < allowed(2)
    more, fewer = arms(41, 5, 2)
    found = flip(more, fewer)
    assert (found.p, found.p_floor) == (None, None)
    assert found.value == pytest.approx((more - fewer).mean(), abs=CLOSE)
    assert found.note == "no exact p: 41 personas, 40 at most are enumerated"


@pytest.mark.parametrize(
    ("personas", "max_p", "needed"),
    [
        (7, 0.05, None),  # 2/128 = 0.0156
        (7, 0.0167, None),
        (7, 2 / 128, 8),  # the rule is p < max_p
        (6, 0.0167, 7),  # 2/64 = 0.031
        (7, 0.001, 11),
        (10, 0.001, 11),  # 2/1024 = 0.00195
        (11, 0.001, None),  # 2/2048 = 0.00098
        (1, 0.05, 6),
    ],
)
def test_population_claims_that_no_data_could_carry_are_refused(
    personas: int, max_p: float, needed: int | None
) -> None:
    refusal = population_refusal(personas, max_p)
    floor = 2 / 2**personas
    assert flip_floor(personas) == floor
    if needed is None:
        assert refusal == ""
        assert floor < max_p
    else:
        assert f"cannot be reached below {needed} personas" in refusal
        assert 2 / 2**needed < max_p <= 2 / 2 ** (needed - 1)
        assert floor >= max_p


def test_population_refusal_in_words() -> None:
    assert population_refusal(7, 0.001) == (
        "no claim on personas at large: p < 0.001 cannot be reached below 11 personas; "
        "with 7 the smallest possible p is 2/128 = 0.0156"
    )
    for personas, max_p in ((0, 0.05), (7, 0.0), (7, 1.0), (7, math.nan)):
        with pytest.raises(DataError):
            population_refusal(personas, max_p)


# Training runs


@pytest.mark.parametrize("sizes", [(3, 3), (3, 7), (5, 4), (10, 3)])
@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_seeds_agree_with_scipys_unequal_variances(
    sizes: tuple[int, int], confidence: float
) -> None:
    rng = np.random.default_rng(sum(sizes))
    a, b = rng.normal(0.6, 0.15, sizes[0]), rng.normal(0.3, 0.03, sizes[1])
    expected = stats.ttest_ind(a, b, equal_var=False)
    found = welch(a.tolist(), b.tolist(), confidence)
    m = seed_moments(a, b)
    assert float(m.df) == pytest.approx(expected.df, rel=1e-10)
    assert found.value == pytest.approx(a.mean() - b.mean(), abs=CLOSE)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.clusters == sum(sizes)
    assert found.method == "Welch t over seeds"
    assert found.note.startswith("SE = ")
    assert found.target == "training runs"


@pytest.mark.parametrize(("a", "b"), [([0.5], [0.2]), ([0.5, 0.6], [0.2] * 5), ([0.5] * 3, [0.2])])
def test_too_few_seeds_give_the_value_and_say_so(a: list[float], b: list[float]) -> None:
    found = welch(a, b)
    assert found.value == pytest.approx(np.mean(a) - np.mean(b))
    assert bare(found)
    assert "run-to-run variance not estimable" in found.note
    assert f"{len(a)} and {len(b)} seeds, 3 each are needed" in found.note


def test_one_arm_without_variation_over_seeds_is_still_compared() -> None:
    """Welch with v' = 0 is the one-sample t of the other arm, df = S - 1."""
    a = [0.5, 0.7, 0.65, 0.4]
    expected = stats.ttest_1samp(a, 0.25)
    assert welch(a, [0.25, 0.25, 0.25]).p == pytest.approx(expected.pvalue, rel=1e-10)


def test_one_seed_risk_is_the_noise_of_two_runs() -> None:
    """1.959964 * 1.414214 * 0.05 = 0.138590; twice and three times that."""
    sizes, words = one_seed_risk()
    assert sizes == pytest.approx((0.1385904, 0.2771808, 0.4157711), abs=1e-7)
    assert words == (
        "with one seed in each arm, noise alone gives a difference of more than 13.9, 27.7, 41.6 "
        "points, up or down, with probability 0.05 where the rates of seeds have an SD of "
        "5, 10, 15 points"
    )
    for sd, size in zip((0.02, 0.3), one_seed_risk((0.02, 0.3), 0.0167)[0], strict=True):
        assert 2 * stats.norm(0, math.sqrt(2) * sd).sf(size) == pytest.approx(0.0167, rel=1e-9)
    with pytest.raises(DataError, match="SD over seeds"):
        one_seed_risk((0.0,))
    with pytest.raises(DataError, match="alpha"):
        one_seed_risk(alpha=0.0)


# Equivalence


@pytest.mark.parametrize(("personas", "questions", "seed"), CASES)
@pytest.mark.parametrize("band", [0.05, 0.30, 0.60])
def test_tost_agrees_with_statsmodels(
    personas: int, questions: int, seed: int, band: float
) -> None:
    a, b = arms(personas, questions, seed)
    for one, two in ((a, b), (b, a)):
        expected, *_ = ttost_paired(one.mean(axis=0), two.mean(axis=0), -band, band)
        assert float(tost(question_moments(one - two), band)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.0167])
def test_equivalence_holds_where_the_interval_lies_inside(alpha: float) -> None:
    a, b = arms(7, 20, 0)
    m = question_moments(a - b)
    reference = stats.t.interval(1 - 2 * alpha, 19, loc=float(m.value), scale=float(m.se))
    furthest = float(np.abs(reference).max())
    for band, finding in ((furthest + 1e-6, "equivalent at"), (furthest - 1e-6, "not shown")):
        found = equivalence(m, band, over=QUESTION_METHOD, n=2800, clusters=20, alpha=alpha)
        assert (found.low, found.high) == pytest.approx(reference, abs=1e-9)
        assert found.confidence == 1 - 2 * alpha
        assert finding in found.note
        assert found.p == float(tost(m, band))
        assert (found.p < alpha) == (finding == "equivalent at")
    assert found.value == float(m.value)
    assert (found.n, found.clusters, found.p_floor) == (2800, 20, None)
    assert found.method == f"TOST within +-{band!r}, question-level paired t"


def test_equivalence_without_a_standard_error_cannot_tell() -> None:
    m = question_moments(np.zeros((7, 20)))
    found = equivalence(m, 0.05, over=QUESTION_METHOD, n=2800, clusters=20)
    assert found.value == 0.0
    assert bare(found)
    assert "cannot be told" in found.note
    assert found.method == "TOST within +-0.05, question-level paired t"


def test_impossible_bands_levels_and_batches_are_refused() -> None:
    m = question_moments(np.subtract(*arms(7, 20, 0)))
    for band in (0.0, -0.05, math.nan, math.inf):
        with pytest.raises(DataError, match="band"):
            tost(m, band)
    for alpha in (0.0, 0.5, math.nan):
        with pytest.raises(DataError, match="alpha"):
            equivalence(m, 0.05, over="", n=1, clusters=1, alpha=alpha)
    batch = Moments(np.zeros(3), np.ones(3), 2.0)
    with pytest.raises(DataError, match="one difference"):
        equivalence(batch, 0.05, over="", n=1, clusters=1)


@pytest.mark.parametrize(
    "ps",
    [
        [0.01, 0.04, 0.03], [0.04, 0.04, 0.01], [0.5, 0.6, 0.7, 0.9], [0.02],
        [0.001, 0.0167, 0.0167, 0.3, 1e-300],
        [0.012, 0.011, 0.010, 0.9],  # 4 * 0.010 = 0.04 is above 3 * 0.011 and 2 * 0.012
    ],
)  # fmt: skip
def test_holm_agrees_with_statsmodels(ps: list[float]) -> None:
    assert holm(ps) == pytest.approx(tuple(multipletests(ps, method="holm")[1]), rel=1e-12)


def test_holm_leaves_out_what_has_no_p() -> None:
    """Three p count: 3 * 0.01, 2 * 0.02, 1 * 0.04, worked by hand."""
    found = holm([0.04, None, 0.01, math.nan, 0.02])
    assert found[1] is None
    assert found[3] is not None
    assert math.isnan(found[3])
    assert (found[2], found[4], found[0]) == pytest.approx((0.03, 0.04, 0.04))
    assert holm([]) == ()
    assert holm([None]) == (None,)
    for bad in (0.0, -0.1, 1.1):
        with pytest.raises(DataError):
            holm([0.5, bad])


# Whatever the target


def bare(found: Estimate) -> bool:
    """A value without interval and p, whose table row shows no spread of 0 either."""
    text = json.dumps(found.to_json(), allow_nan=False)
    return not found.has_interval and found.p is None and "SE = " not in text


def test_one_question_or_one_persona_gives_no_interval() -> None:
    a, b = arms(7, 1, 3)
    for found in (question(a, b), persona(a, b)):
        assert found.value == pytest.approx(float((a - b).mean()))
        assert bare(found)
        assert "one question: no interval, no p" in found.note
    a, b = arms(1, 20, 3)
    assert bare(persona(a, b))
    assert "one persona: no interval, no p" in persona(a, b).note
    assert question(a, b).p is not None  # this one persona, other questions


@pytest.mark.parametrize("rates", [(0.3, 0.1), (1.0, 0.0), (0.0, 0.0), (0.7, 0.6)])
@pytest.mark.parametrize("shape", [(7, 20), (3, 7), (2, 2), (11, 40)])
def test_no_variation_is_never_a_standard_error_of_zero(
    rates: tuple[float, float], shape: tuple[int, int]
) -> None:
    """Equal cells leave a variance of 1e-33 behind, not of 0."""
    a, b = np.full(shape, rates[0]), np.full(shape, rates[1])
    for found, over in ((question(a, b), "questions"), (persona(a, b), "personas")):
        assert found.value == pytest.approx(rates[0] - rates[1])
        assert bare(found)
        assert f"no variation over {over}: no interval, no p" in found.note
    runs = welch([rates[0]] * 3, [rates[1]] * 5)
    assert bare(runs)
    assert "no variation over seeds: no interval, no p" in runs.note


def test_least_variation_that_counts_can_show_is_not_taken_for_rounding() -> None:
    """One hit more in one of 1,000 questions, 10,000 completions each: SE 1e-7."""
    d = np.zeros((1, 1000))
    d[0, 0] = 1e-4
    assert float(question_moments(d).se) == pytest.approx(1e-7, rel=1e-3)


@pytest.mark.parametrize("gap", [math.nan, math.inf])
def test_a_missing_cell_is_an_error_and_never_left_out(gap: float) -> None:
    a, b = arms(7, 20, 1)
    a[2, 3] = gap
    for test, arms_of in itertools.product((question, persona, flip), ((a, b), (b, a))):
        with pytest.raises(DataError, match="1 missing of 140"):
            test(*arms_of)
    for moments in (question_moments, persona_moments):
        with pytest.raises(DataError, match="1 missing of 280"):
            moments(np.stack([b, a]))
    with pytest.raises(DataError, match="1 missing of 3"):
        welch([0.1, gap, 0.2], [0.1, 0.2, 0.3])


def test_other_shapes_are_refused() -> None:
    a, b = arms(7, 20, 1)
    for one, two in ((a, b[:, 1:]), (a[0], b[0]), (a[None], b[None]), (a, b[:1])):
        for test in (question, persona, flip):
            with pytest.raises(DataError, match="same cells"):
                test(one, two)
    for moments in (question_moments, persona_moments):
        for d in (np.zeros(3), np.zeros((0, 3)), np.zeros((5, 3, 0))):
            with pytest.raises(DataError, match="one unit or more"):
                moments(d)
    with pytest.raises(DataError, match="one rate a seed"):
        seeds_welch(a, b, n=1, confidence=0.95)
    with pytest.raises(DataError, match="one unit or more"):
        welch([], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_impossible_confidence_is_refused(confidence: float) -> None:
    a, b = arms(7, 20, 1)
    runs = np.array([0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="confidence"):
        interval(question_moments(a - b), confidence)
    for test, one, two in (
        (question_t, a, b),
        (persona_t, a, b),
        (sign_flip, a, b),
        (question_t, a, a),
        (seeds_welch, runs, runs),
    ):
        with pytest.raises(DataError, match="confidence"):
            test(one, two, n=1, confidence=confidence)


def test_p_keeps_within_bounds() -> None:
    """t = 1e60 with 400 df underflows; t = 0 is exactly 1."""
    p = p_value(Moments(np.array([1e60, 0.0, math.nan]), np.ones(3), 400.0))
    assert 0 < p[0] < 1e-300
    assert p[1] == 1.0
    assert math.isnan(p[2])
    far = tost(Moments(np.array([0.0, 1e60]), np.ones(2), 400.0), 1e59)
    assert 0 < far[0] < 1e-300
    assert far[1] == 1.0
    assert probability(np.array([0.0, 0.3, 1 + 1e-15])).tolist() == [sys.float_info.min, 0.3, 1.0]


def test_a_simulation_of_ten_thousand_takes_a_moment() -> None:
    d = np.random.default_rng(0).normal(0, 0.1, (10_000, 7, 20))
    start = time.process_time()
    for m in (question_moments(d), persona_moments(d)):
        p = p_value(m)
        assert p.shape == (10_000,)
        assert bool(((p > 0) & (p <= 1)).all())
    assert time.process_time() - start < allowed(1)
