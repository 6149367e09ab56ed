"""Power before data, against independent calculations; docs/statistics.md holds its table."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit
from statsmodels.stats.power import TTestPower

from persona_lib.commands.plan import gates_of, plan_text, power_of
from persona_lib.errors import DataError, SpecError
from persona_lib.report.power import gates_text, power_text
from persona_lib.specs.claim_types import DifferenceClaim
from persona_lib.specs.registration import Registration
from persona_lib.stats.moments import p_value, persona_moments, seed_moments
from persona_lib.stats.power import (
    AtMost,
    Equivalent,
    Exceeds,
    Null,
    PersonaDraws,
    Region,
    normal_power,
    persona_power,
    persona_power_of_many,
    smallest,
    t_power,
    welch_power,
)
from persona_lib.stats.variances import (
    LogitSDs,
    Population,
    held_personas,
    persona_differences,
    population,
)
from persona_lib.verdict import planning
from persona_lib.verdict.planning import Assumptions, Contrast, Size, gate_sizes
from persona_lib.verdict.power import power_plan
from tests.house import COMMAND, held, power_table
from tests.pace import allowed
from tests.registered import (
    ISSUE262,
    ISSUE262_GATED,
    PLANNING,
    PROFILES,
    REGISTRATIONS,
    session_under,
)
from tests.uneven import hits_of_one

FULL = Size(personas=7, questions=20, samples=10, seeds=1)
FEWER = replace(PLANNING, held=350, draws=500)
"""The same assumptions, with fewer draws where a test plans many sizes."""
UNSOUGHT = replace(FEWER, levels=())
"""No size is sought: the power of the planned one alone."""
BRIEF = replace(FEWER, levels=(0.80,), seed_sds=(0.05,))
"""One size is sought, over one spread of seeds."""
REGISTERED = Exceeds(min_effect=0.20, max_p=0.001)
NO_SDS = LogitSDs(
    persona=0, persona_arm=0, question=0, persona_question=0, question_arm=0, cell_arm=0
)
TINY_SDS = LogitSDs(
    persona=0.03,
    persona_arm=0.02,
    question=0.04,
    persona_question=0.05,
    question_arm=0.025,
    cell_arm=0.035,
)


@cache
def rows(
    size: Size = FULL, assumptions: Assumptions = FEWER, registration: Registration = ISSUE262
) -> dict[Any, Any]:
    """Rows of a registration by claim and method."""
    plan = power_plan(registration, size, assumptions)
    return {(row["claim"], row["method"]): row for row in plan["rows"]}


# Variances on the scale of rates


def test_small_spreads_have_the_variances_of_a_tangent() -> None:
    """Near a rate p a logit moves the rate by p (1 - p), in each arm by its own."""
    control, treated = slopes = (0.3 * 0.7, 0.6 * 0.4)
    both, apart = control**2 + treated**2, (treated - control) ** 2
    parts = population(TINY_SDS, (0.3, 0.6))
    assert parts.persona == pytest.approx(0.03**2 * apart + 0.02**2 * both, rel=0.01)
    assert parts.question == pytest.approx(0.04**2 * apart + 0.025**2 * both, rel=0.01)
    assert parts.residual == pytest.approx(0.05**2 * apart + 0.035**2 * both, rel=0.01)
    assert parts.binomial == pytest.approx(slopes, rel=0.01)
    held = held_personas(TINY_SDS, (0.3, 0.6), 5, 4_000, 1)
    shared, alone = 0.04**2 + 0.025**2, 0.05**2 + 0.035**2
    difference = parts.question + parts.residual / 5
    assert held.difference == pytest.approx(np.full(4_000, difference), rel=0.05)
    persona = (0.03**2 + 0.02**2) * 4 / 5  # the variance over five personas, not of all
    for arm, slope in enumerate(slopes):
        arms = np.full(4_000, slope**2 * (shared + alone / 5))
        assert held.arms[:, arm] == pytest.approx(arms, rel=0.05)
        cells = slope**2 * (persona + shared + alone)
        assert held.cells[:, arm].mean() == pytest.approx(cells, rel=0.02)
        assert held.binomial[:, arm] == pytest.approx(np.full(4_000, slope), rel=0.01)


def test_large_spreads_have_the_variances_of_drawn_rates() -> None:
    """Products of drawn rates: two cells of one persona, two of one question, one cell."""
    sds = PLANNING.sds
    parts = population(sds, (0.274, 0.574))
    rng = np.random.default_rng(7)
    n = 400_000
    z = rng.standard_normal
    # The intercepts, from the rates alone: by interpolation of a drawn mean rate.
    total = math.sqrt(sum(sd**2 for sd in vars(sds).values()))
    at, draws = np.linspace(-4, 4, 81), total * stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    curve = [expit(x + draws).mean() for x in at]
    x = [float(np.interp(rate, curve, at)) for rate in (0.274, 0.574)]
    persona, question = (sds.persona * z((2, n)), sds.question * z((2, n)))
    of_arm = sds.persona_arm * z((2, 2, n)), sds.question_arm * z((2, 2, n))
    pq, cell = sds.persona_question * z((2, 2, n)), sds.cell_arm * z((2, 2, 2, n))

    def difference(g: int, q: int) -> Any:
        treated, control = (
            expit(
                x[arm] + persona[g] + question[q] + of_arm[0][arm, g] + of_arm[1][arm, q]
                + pq[g, q] + cell[arm, g, q]
            )
            for arm in (1, 0)
        )  # fmt: skip
        return treated - control - 0.3

    same, persona_only, question_only = (difference(*at) for at in ((0, 0), (0, 1), (1, 0)))
    assert same.mean() == pytest.approx(0, abs=0.001)
    assert parts.persona == pytest.approx((same * persona_only).mean(), abs=4e-4)
    assert parts.question == pytest.approx((same * question_only).mean(), abs=4e-4)
    whole = parts.persona + parts.question + parts.residual
    assert whole == pytest.approx((same**2).mean(), abs=5e-4)


def test_held_personas_add_up_to_their_parts() -> None:
    noisy = held_personas(NO_SDS, (0.3, 0.6), 7, 2, 1)
    assert noisy.difference == pytest.approx(np.zeros(2), abs=1e-12)
    # Binomial noise alone: 7 x 20 x 10 completions of each arm.
    assert noisy.of_difference(20, 10) == pytest.approx(np.full(2, 0.45 / 1_400))
    assert noisy.of_rates(20, 10)[0] == pytest.approx([0.21 / 1_400, 0.24 / 1_400])
    # The bootstrap divides by the cells that it drew from and not by one fewer.
    assert noisy.by_bootstrap(20, 10) == pytest.approx(np.full(2, 0.45 / 10 * 139 / 140 / 140))


def test_differences_of_personas_are_those_of_their_mean_rates() -> None:
    normals = np.zeros((3, 4))
    normals[0, 1], normals[1, 2], normals[2, 3] = 1.0, 1.0, 1.0
    sds = replace(NO_SDS, persona=2.0, persona_arm=1.0)
    found = persona_differences(sds, (0.3, 0.6), normals)
    spread = math.hypot(2.0, 1.0)

    def centre(rate: float) -> float:
        grid = np.linspace(-6, 6, 1_201)
        means = [
            quad(lambda z, x=x: expit(x + spread * z) * stats.norm.pdf(z), -9, 9)[0]
            for x in grid[::20]
        ]
        return float(np.interp(rate, means, grid[::20]))

    low, high = centre(0.3), centre(0.6)
    expected = [
        expit(high + b) - expit(low + a)
        for a, b in ((0.0, 0.0), (2.0, 2.0), (1.0, 0.0), (0.0, 1.0))
    ]
    assert found == pytest.approx(expected, abs=2e-3)


# Power of one rule


@pytest.mark.parametrize("df", [1, 2, 6, 19, 200])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.5, 5.0])
@pytest.mark.parametrize("max_p", [0.05, 0.001])
def test_pure_t_power_is_that_of_the_noncentral_t(df: int, ratio: float, max_p: float) -> None:
    truth, sd = 0.02 * ratio, 0.02
    found = float(t_power(Exceeds(min_effect=0.0, max_p=max_p), truth, np.array(sd), df))
    expected = stats.nct.sf(stats.t.ppf(1 - max_p / 2, df), df, ratio)
    assert found == pytest.approx(expected, abs=1e-3)
    size = ratio / math.sqrt(df + 1)
    peer = TTestPower().power(size, df + 1, max_p / 2, alternative="larger")
    assert found == pytest.approx(float(peer), abs=1e-3)


def by_quadrature(df: int, sd: float, inside: Callable[[float], float]) -> float:
    """Integral over SE of P(rule | SE), adaptive; SE = sd sqrt(chi-square / df)."""
    chi = stats.chi(df)
    ends = [float(chi.ppf(p)) for p in (1e-9, 0.25, 0.5, 0.75, 1 - 1e-9)]
    pieces = itertools.pairwise(ends)
    return float(
        sum(quad(lambda c: chi.pdf(c) * inside(sd * c / math.sqrt(df)), *p)[0] for p in pieces)
    )


@pytest.mark.parametrize(("df", "sd"), [(6, 0.08), (19, 0.02), (2, 0.03), (19, 0.1)])
@pytest.mark.parametrize("truth", [0.30, 0.20, 0.0])
def test_power_of_a_registered_rule(df: int, sd: float, truth: float) -> None:
    def holds(se: float) -> float:
        least = max(0.20, stats.t.ppf(1 - 0.001 / 2, df) * se)
        return float(stats.norm.sf((least - truth) / sd))

    found = float(t_power(REGISTERED, truth, np.array(sd), df))
    assert found == pytest.approx(by_quadrature(df, sd, holds), abs=1e-3)


@pytest.mark.parametrize(("df", "sd"), [(6, 0.02), (19, 0.0187), (2, 0.01), (19, 0.1)])
@pytest.mark.parametrize("truth", [0.0, 0.03, -0.03])
def test_power_of_two_one_sided_tests(df: int, sd: float, truth: float) -> None:
    def holds(se: float) -> float:
        high = 0.05 - stats.t.ppf(0.95, df) * se
        both = stats.norm.cdf((high - truth) / sd) - stats.norm.cdf((-high - truth) / sd)
        return max(0.0, float(both))

    found = float(t_power(Equivalent(band=0.05, alpha=0.05), truth, np.array(sd), df))
    assert found == pytest.approx(by_quadrature(df, sd, holds), abs=1e-3)


def test_power_of_rules_with_a_known_standard_error() -> None:
    sd, se = np.array(0.02), np.array(0.04)
    null = Null(band=0.05, min_p=0.10, confidence=0.95)
    # low > -0.05 needs d > 1.96 x 0.04 - 0.05; |d| <= 0.05; p > 0.10 asks |d| < 1.645 x 0.04.
    expected = stats.norm.cdf(0.05 / 0.02) - stats.norm.cdf((1.959964 * 0.04 - 0.05) / 0.02)
    assert normal_power(null, 0.0, sd, se) == pytest.approx(expected, abs=1e-6)
    small = np.array(0.01)  # now p > 0.10 binds at either end
    ends = [(end * 1.644854 * 0.01 - 0.005) / 0.02 for end in (-1, 1)]
    expected = stats.norm.cdf(ends[1]) - stats.norm.cdf(ends[0])
    assert normal_power(null, 0.005, sd, small) == pytest.approx(expected, abs=1e-6)
    expected = stats.norm.sf((3.290527 * 0.07 - 0.30) / 0.02)
    assert normal_power(REGISTERED, 0.30, sd, np.array(0.07)) == pytest.approx(expected, abs=1e-6)
    assert normal_power(AtMost(most=0.05), 0.08, sd, se) == pytest.approx(stats.norm.cdf(-1.5))
    certain = [normal_power(REGISTERED, d, np.array(0.0), np.array(0.0)) for d in (0.19, 0.21)]
    assert certain == [0.0, 1.0]


@pytest.mark.parametrize(("seeds", "sds"), [(3, (0.05, 0.05)), (5, (0.05, 0.10)), (12, (0.2, 0.2))])
def test_welch_power_is_the_share_of_drawn_seeds(seeds: int, sds: tuple[float, float]) -> None:
    rng = np.random.default_rng(seeds)
    control, treated = (sd * rng.standard_normal((40_000, seeds)) for sd in sds)
    drawn = seed_moments(treated + 0.30, control)
    for rule in (REGISTERED, Exceeds(min_effect=0.15, max_p=0.0167)):
        share = ((drawn.value >= rule.min_effect) & (p_value(drawn) < rule.max_p)).mean()
        assert welch_power(rule, 0.30, sds, seeds) == pytest.approx(share, abs=0.01)
    by_band = (seed_moments(treated, control).se * stats.t.ppf(0.95, drawn.df)) < 0.1
    inside = np.abs(drawn.value - 0.30) < 0.1 - drawn.se * stats.t.ppf(0.95, drawn.df)
    found = welch_power(Equivalent(band=0.1, alpha=0.05), 0.0, sds, seeds)
    assert found == pytest.approx((inside & by_band).mean(), abs=0.01)


def test_persona_power_of_normal_personas_is_that_of_a_t_test() -> None:
    rng = np.random.default_rng(5)
    own, noise = 0.225 + 0.1 * rng.standard_normal((20_000, 9)), rng.standard_normal((20_000, 9))
    draws = PersonaDraws(own, noise, rng.random(20_000))
    plain = Population(0.01, 0.0, 0.0, (0.0, 0.0))
    rule = Exceeds(min_effect=0.0, max_p=0.0167)
    found = persona_power(rule, draws, parts=plain, questions=20, samples=10)
    for personas in (2, 3, 7, 9):
        critical = stats.t.ppf(1 - 0.0167 / 2, personas - 1)
        expected = stats.nct.sf(critical, personas - 1, 2.25 * math.sqrt(personas))
        assert found[personas - 2] == pytest.approx(expected, abs=0.01)
        many = persona_power_of_many(rule, 0.225, personas, parts=plain, questions=20, samples=10)
        assert many == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("persona", "question", "residual"), [(0.010, 0.0, 0.04), (0.0004, 0.03, 0.01)]
)
def test_persona_power_is_the_share_of_drawn_tables(
    persona: float, question: float, residual: float
) -> None:
    """Personas, questions and cells drawn as normal numbers, judged by `persona_moments`."""
    rng = np.random.default_rng(11)
    n, g, q = 8_000, 7, 5
    own = 0.12 + math.sqrt(persona) * rng.standard_normal((n, g))
    table = own[..., None] + math.sqrt(question) * rng.standard_normal((n, 1, q))
    table = table + math.sqrt(residual + 0.02) * rng.standard_normal((n, g, q))
    drawn = persona_moments(table)
    parts = Population(persona, question, residual, (0.12, 0.08))
    rule = Exceeds(min_effect=0.05, max_p=0.05)
    share = ((drawn.value >= 0.05) & (p_value(drawn) < 0.05)).mean()
    draws = PersonaDraws(own, rng.standard_normal((n, g)), rng.random(n))
    found = persona_power(rule, draws, parts=parts, questions=q, samples=10)[g - 2]
    many = persona_power_of_many(rule, 0.12, g, parts=parts, questions=q, samples=10)
    assert 0.2 < share < 0.8
    assert found == pytest.approx(share, abs=0.03)
    assert many == pytest.approx(share, abs=0.03)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 0.99), st.integers(1, 5))
def test_smallest_is_what_a_scan_finds(powers: list[float], level: float, least: int) -> None:
    rising, most = sorted(powers), least + len(powers) - 1
    scan = [k for k, power in enumerate(rising, start=least) if power >= level]
    found = smallest(lambda units: rising[units - least], level, least, most)
    assert found == (scan[0] if scan else None)


# What holds whatever the numbers

SD, EFFECT = st.floats(0.001, 0.5), st.floats(0.0, 0.9)
P = st.floats(1e-4, 0.2)


@settings(max_examples=40, deadline=None)
@given(SD, st.tuples(EFFECT, st.floats(0.0, 0.1)), P, st.integers(2, 200), st.integers(1, 100))
def test_power_grows_with_units_effect_and_level(
    sd: float, effects: tuple[float, float], max_p: float, units: int, extra: int
) -> None:
    threshold, more = effects
    rule, truth = Exceeds(min_effect=threshold, max_p=max_p), threshold + more

    def power(rule: Region, truth: float, units: int) -> float:
        return float(t_power(rule, truth, np.array(sd / math.sqrt(units)), units - 1))

    base = power(rule, truth, units)
    assert 0 <= base <= 1
    assert power(rule, truth, units + extra) >= base - 1e-3
    assert power(rule, min(1.0, truth + more), units) >= base - 1e-12
    assert power(replace(rule, max_p=max_p / 2), truth, units) <= base + 1e-12
    assert power(replace(rule, min_effect=threshold / 2), truth, units) >= base - 1e-12
    if more == 0:
        assert base <= 0.5 + 1e-9


@settings(max_examples=40, deadline=None)
@given(SD, st.floats(0.01, 0.5), st.floats(0, 1), st.integers(2, 200), st.integers(1, 100))
def test_power_of_equivalence_grows_with_units_and_band(
    sd: float, band: float, share: float, units: int, extra: int
) -> None:
    def power(band: float, truth: float, units: int) -> float:
        rule = Equivalent(band=band, alpha=0.05)
        return float(t_power(rule, truth, np.array(sd / math.sqrt(units)), units - 1))

    base = power(band, 0.0, units)
    assert 0 <= base <= 1
    if base > 0.1:  # below, one degree of freedom and its small SEs do better than two
        assert power(band, 0.0, units + extra) >= base - 1e-3
    assert power(1.5 * band, 0.0, units) >= base - 1e-12
    assert power(band, share * band, units) <= base + 1e-12


def test_power_grows_with_seeds_and_falls_with_their_spread() -> None:
    by_seeds = [welch_power(REGISTERED, 0.30, (0.1, 0.1), seeds) for seeds in range(3, 40)]
    assert (np.diff(by_seeds) > 0).all()
    by_sd = [welch_power(REGISTERED, 0.30, (sd, sd), 8) for sd in np.linspace(0.02, 0.3, 30)]
    assert (np.diff(by_sd) <= 0).all()


@pytest.mark.parametrize("effect", [0.225, 0.30])
def test_power_at_large_grows_with_personas_and_meets_its_normal_limit(effect: float) -> None:
    contrast = Contrast(effect=effect, size=FULL, assumptions=PLANNING)
    power_at = contrast.over_personas(Exceeds(min_effect=0.15, max_p=0.0167))
    curve = [power_at(personas) for personas in range(2, 90)]
    # Drawn up to 60: a step down is no more than the chance error of the draws.
    assert np.diff(curve).min() > -0.003
    seam = planning.DRAWN - 2
    assert abs(curve[seam + 1] - curve[seam]) < 0.005


# A registration


def test_planned_power_of_issue_262() -> None:
    found = rows(assumptions=PLANNING)
    h1 = found["H1", "persona t"]
    assert h1["effect"] == pytest.approx(0.30)
    assert h1["power"] < 0.15
    assert "p < 0.001 cannot be reached below 11 personas" in h1["notes"][0]
    assert min(h1["needed"]) >= 11
    assert not found["H2", "persona t"]["notes"]
    assert found["H2", "persona t"]["effect"] == pytest.approx(0.225)
    for claim in ("H1", "H2"):
        for method in ("published bootstrap", "question t"):
            assert found[claim, method]["power"] > 0.99
    h3 = found["H3", "published rule"]
    assert h3["effect"] == 0
    assert h3["power"] < 0.2 < found["H3", "TOST, question t"]["power"]
    for sd in ("5", "10", "15", "20"):
        row = found["H1", f"Welch t, SD {sd}"]
        assert row["power"] is None
        assert row["notes"] == ["run-to-run variance not estimable: at least 3 seeds"]
        assert row["now"] == 1
    assert "probability below 0.001" in found["kill", "point rule"]["notes"][0]
    targets = [row["target"] for (claim, _), row in found.items() if claim == "H1"]
    assert (
        targets == ["these personas, this run"] * 2 + ["personas at large"] + ["training runs"] * 4
    )


@pytest.mark.parametrize(
    ("claim", "method", "units"),
    [
        ("H1", "published bootstrap", "questions"),
        ("H1", "question t", "questions"),
        ("H1", "persona t", "personas"),
        ("H1", "Welch t, SD 10", "seeds"),
        ("H2", "persona t", "personas"),
        ("H3", "published rule", "questions"),
        ("H3", "TOST, question t", "questions"),
        ("H3", "TOST, persona t", "personas"),
        ("H3", "TOST, Welch t, SD 5", "seeds"),
    ],
)
def test_needed_units_are_the_least_that_give_the_power(
    claim: str, method: str, units: str
) -> None:
    """Planning so many gives the power, planning one fewer does not."""
    for level, needed in zip((0.80, 0.90), rows()[claim, method]["needed"], strict=True):
        enough, fewer = (
            rows(replace(FULL, **{units: k}), UNSOUGHT)[claim, method]["power"]
            for k in (needed, needed - 1)
        )
        assert fewer < level <= enough


def test_more_runs_take_off_completion_noise_alone() -> None:
    one, three = rows(), rows(replace(FULL, seeds=3))
    more = rows(replace(FULL, samples=30), UNSOUGHT)
    for method in ("published rule", "TOST, question t", "TOST, persona t"):
        assert three["H3", method]["power"] == more["H3", method]["power"]
        assert three["H3", method]["power"] > one["H3", method]["power"]
    assert three["H1", "Welch t, SD 5"]["power"] > 0
    assert three["H1", "Welch t, SD 5"]["needed"] == one["H1", "Welch t, SD 5"]["needed"]


def test_rates_of_seeds_hold_the_noise_of_the_completions_of_one_run() -> None:
    """Pooling runs takes nothing off the noise of each of them."""
    small = replace(FULL, questions=4, samples=1, seeds=3)
    quiet = replace(FEWER, sds=TINY_SDS, seed_sds=(0.03,))
    found = rows(small, replace(quiet, levels=()))["H1", "Welch t, SD 3"]["power"]
    sds = tuple(math.sqrt(0.03**2 + p * (1 - p) / 28) for p in (0.274, 0.574))
    assert found == pytest.approx(welch_power(REGISTERED, 0.30, (sds[0], sds[1]), 3), rel=0.01)


def test_sizes_at_large_begin_where_the_verdict_no_longer_refuses() -> None:
    """Where personas hardly differ a t over few would do; the exact test's floor would not."""
    found = rows(assumptions=replace(FEWER, sds=TINY_SDS, seed_sds=(0.05,)))
    assert found["H1", "persona t"]["needed"] == [11, 11]  # 2 / 2^11 < 0.001
    assert found["H2", "persona t"]["needed"] == [7, 7]  # 2 / 2^7 < 0.0167


def test_refusals_say_why() -> None:
    at_threshold = replace(BRIEF, effect_factor=1.0)
    found = rows(assumptions=at_threshold)
    for method in ("published bootstrap", "question t", "persona t"):
        assert found["H1", method]["power"] <= 0.5
        assert found["H1", method]["needed"] == [None]
        assert "not above the threshold of 0.20" in found["H1", method]["notes"][-1]
    two = rows(replace(FULL, questions=2), BRIEF)["H3", "TOST, persona t"]
    assert two["needed"] == [None]
    assert "80 % is not reached by more personas alone: 2 questions leave" in two["notes"][0]
    (cannot,) = rows(assumptions=replace(BRIEF, most=5))["H3", "TOST, question t"]["notes"]
    assert cannot == "80 % is not reached with 5 questions"
    one = rows(replace(FULL, questions=1), BRIEF)
    assert one["H1", "question t"]["notes"] == ["one question: no standard error, no p"]
    assert one["H1", "persona t"]["notes"] == ["one question: no standard error, no p"]
    assert one["H1", "question t"]["power"] is one["H1", "persona t"]["power"] is None
    cell = rows(replace(FULL, personas=1, questions=1), BRIEF)["H1", "published bootstrap"]
    assert cell["power"] is None
    assert cell["notes"] == ["one cluster: no interval, no p"]
    alone = rows(replace(FULL, personas=1), BRIEF)["H2", "persona t"]
    assert alone["power"] is None
    assert "one persona: no standard error, no p" in alone["notes"]
    large = rows(assumptions=replace(BRIEF, effect_factor=4.0))["H1", ""]
    assert "0.274 and a difference of +0.8 are no rate together" in large["notes"][0]
    statistics = replace(ISSUE262.statistics, resamples=1_000)
    few = rows(assumptions=BRIEF, registration=replace(ISSUE262, statistics=statistics))
    assert few["H1", "published bootstrap"]["notes"] == ["1,000 resamples cannot give p < 0.001"]
    outside = rows(assumptions=replace(BRIEF, triage_effect=0.05))["H3", "TOST, question t"]
    assert outside["notes"] == ["a true effect of +0.05 does not lie inside +-0.05"]


def test_claims_of_other_types_are_named() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OtherClaim(DifferenceClaim):
        pass

    other = OtherClaim(
        name="H9", statement="-", treated="C2", control="C1", min_effect=0.1, max_p=0.01
    )
    plan = power_plan(replace(ISSUE262, claims=(*ISSUE262.claims, other)), FULL, BRIEF)
    (row,) = (row for row in plan["rows"] if row["claim"] == "H9")
    assert row["notes"] == ["no power calculation for this type (OtherClaim)"]
    assert "H9    no power calculation for this type (OtherClaim)" in power_text(plan)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: replace(PLANNING, control_rate=27.4), SpecError, "control_rate: expected between"),
        (lambda: replace(PLANNING, seed_sds=(0.0,)), SpecError, "seed_sds: expected finite and >"),
        (lambda: replace(PLANNING, levels=(80,)), SpecError, "levels: expected between 0 and 1"),
        (lambda: replace(PLANNING, effect_factor=0), SpecError, "effect_factor: expected finite"),
        (lambda: replace(PLANNING, most=2), SpecError, "most: expected >= 3"),
        (lambda: replace(PLANNING, held=0), SpecError, "held: expected >= 1"),
        (lambda: replace(PLANNING.sds, persona=-1), SpecError, "SD in logits: persona: expected"),
        (lambda: replace(FULL, seeds=0), SpecError, r"size\.seeds: expected >= 1"),
        (lambda: t_power(REGISTERED, 30.0, np.ones(1), 5), DataError, "truth: expected between"),
        (lambda: t_power(REGISTERED, 0.3, np.ones(1), 0), DataError, "df: expected >= 1"),
        (lambda: welch_power(REGISTERED, 0.3, (0.1, 0.1), 2), DataError, "seeds: expected >= 3"),
    ],
)
def test_impossible_numbers_are_refused(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


# The plan that is printed


@pytest.mark.parametrize(
    ("registration", "profile"),
    [*((name, "tiny") for name in REGISTRATIONS), *(("issue262", name) for name in PROFILES)],
)
def test_plan_prints_power_for_every_registration_and_profile(
    registration: str, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = REGISTRATIONS[registration]
    chosen = session_under(rules, profile=PROFILES[profile], seeds=(1, 2, 3))
    monkeypatch.setattr("persona_lib.commands.plan.planning", lambda *_: FEWER)
    plan = power_of(chosen)
    block = power_text(plan).removeprefix("power before data: ")
    scale = PROFILES[profile].scale
    questions = scale.questions * len(REGISTRATIONS[registration].evaluation_questions)
    personas = len(rules.roster.bystanders)
    size = f"{personas} personas x {questions} questions x {scale.samples} completions"
    assert block.startswith(f"{registration}, {size}, 3 seeds")
    words = ["control rate 0.274", "persona 2.2", "as published for C1", "training runs"]
    words += [f"{rule.name} " for rule in rules.judged]
    if not rules.run_claims:
        words += ["these personas, these runs", "personas at large", "point rule"]
    for word in words:
        assert word in block
    assert max(len(line) for line in block.splitlines()) <= 100
    assert "nan" not in block
    assert json.loads(json.dumps(plan, allow_nan=False)) == plan


@pytest.mark.parametrize(
    ("profile", "samples"), [("qwen7b", (5, 10)), ("smollm2", (1, 3)), ("tiny", (2, 5))]
)
def test_plan_says_from_how_many_completions_on_gates_can_hold(
    profile: str, samples: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least completions of a cell, by quadrature and Wilson's upper end of no hit."""
    chosen = session_under(ISSUE262, profile=PROFILES[profile], store_root=tmp_path / "s")
    questions = PROFILES[profile].scale.questions

    def enough(n: int, bound: float) -> bool:
        few = min(11, questions)
        t2 = float(stats.t.ppf(0.975, few - 1)) ** 2
        return (
            t2 / (11 * questions * n + t2) <= bound
            and hits_of_one(questions * n, bound)[0] ** 11 <= 0.025
            and hits_of_one(11 * n, bound)[0] ** questions <= 0.025
        )

    parts = []
    for gate, bound, planned in (
        ("repetition", "0.05", samples[1]),
        ("truncation", "0.10", samples[1]),
        ("false_positive", "0.01", samples[0]),
    ):
        least = next(n for n in itertools.count(1) if enough(n, float(bound)))
        cannot = ": cannot hold" if planned < least else ""
        parts.append(
            f"{gate} (<= {bound}) {least * questions}, planned {planned * questions}{cannot}"
        )
    text = " ".join(gates_of(chosen).split())
    assert text.endswith(f"without a hit: {'; '.join(parts)}")
    monkeypatch.setattr("persona_lib.commands.plan.planning", lambda *_: BRIEF)
    planned = plan_text(chosen)
    # What decides stands first: the list of stages is long.
    assert f"\n\n{gates_of(chosen)}\n\n{power_text(power_of(chosen))}\n\nstage " in planned
    assert max(len(line) for line in gates_of(chosen).splitlines()) <= 100


def test_gates_that_no_size_helps_are_said_to_be_so() -> None:
    gates = [gate for gate in ISSUE262_GATED.gates if gate.name in ("repetition_C1", "source_C1")]
    sizes = gate_sizes(gates, personas=11, questions=1, before=2, after=10, confidence=0.95)
    assert [(size.gates, size.planned, size.needed) for size in sizes] == [
        (("repetition_C1",), 10, None)
    ]
    assert " ".join(gates_text(sizes).split()).endswith(
        "repetition_C1 (<= 0.05) no number is enough"
    )
    assert gates_text(()) == ""


def test_power_is_quick() -> None:
    planning._held.cache_clear()
    planning._drawn.cache_clear()
    start = time.process_time()
    power_plan(ISSUE262, FULL, PLANNING)
    # The promise is 1 s on a quiet core; it takes less than half of that.
    assert time.process_time() - start < allowed(1)


def test_docs_hold_the_table_of_the_published_size() -> None:
    """`pytest --plan --profile qwen7b` prints what has to stand in docs/statistics.md."""
    assert held("power") == power_table(), f"run {COMMAND}"
