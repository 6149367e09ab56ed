"""Worlds of claims over training runs: their spreads, and that verdicts decide as they do there."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest

from persona_lib.evidence.evidence import Evidence
from persona_lib.verdict.judging import judge_all
from tests.calibration.repeats import HEAVY, NORMAL
from tests.calibration.run_claims import (
    CELLS,
    CLAIMS,
    RUN_SD,
    SD,
    SEEDED,
    SMALLEST,
    Seeded,
    _pooled,
    expit,
    figures,
    labels,
    pooled_hits,
    rule_means,
)
from tests.calibration.worlds import RATE
from tests.unit.test_run_claims import FACTORIAL, SOURCES, D, Fake

WORLD = Seeded(seeds=10, r=0.0, icc=0.5, tails=NORMAL)


@pytest.mark.parametrize("r", [-0.8, 0.0, 0.8])
@pytest.mark.parametrize("icc", [0.0, 0.5])
def test_figures_have_the_spread_and_correlations_of_the_world(r: float, icc: float) -> None:
    world = Seeded(seeds=20, r=r, icc=icc, tails=NORMAL)
    (drawn,) = figures(world, {"E1": 1.0}, 2_000, "test")
    e1, b1, e0, b0 = (drawn[:, CELLS.index(cell)] for cell in ("E1", "B1", "E0", "B0"))
    assert drawn.shape == (2_000, 6, 2, 20)
    assert e1.mean() == pytest.approx(1.0, abs=0.001)
    assert drawn.std(axis=(0, 2, 3)) == pytest.approx(SD, rel=0.02)
    for one, two in ((e1, b1), (e0, b0)):
        same = np.corrcoef(one[:, 0].ravel(), two[:, 0].ravel())[0, 1]
        other = np.corrcoef(one[:, 0].ravel(), two[:, 1].ravel())[0, 1]
        assert (same, other) == pytest.approx((r, r * icc), abs=0.02)
    d = e1 - b1
    assert np.corrcoef(d[:, 0].ravel(), d[:, 1].ravel())[0, 1] == pytest.approx(icc, abs=0.02)
    # Seeds share nothing.
    assert np.corrcoef(d[:, 0, 0], d[:, 0, 1])[0, 1] == pytest.approx(0, abs=0.08)


def test_heavy_tails_are_those_of_a_t_that_a_seed_s_arms_share() -> None:
    world = Seeded(seeds=20, r=0.0, icc=0.0, tails=HEAVY)
    (drawn,) = figures(world, {}, 5_000, "test")
    scaled = np.sort(np.abs(drawn[:, 0, 0].ravel() / SD))
    # Quantiles of |t| with 3 df, from a table: 0.50, 0.95, 0.99.
    for share, at in ((0.50, 0.7649), (0.95, 3.182), (0.99, 5.841)):
        assert scaled[int(share * scaled.size)] == pytest.approx(at, rel=0.04)
    # log |z| has variance pi^2 / 8, half the log of chi-square of 3 that of (pi^2 / 2 - 4) / 4.
    shared, own = (math.pi**2 / 2 - 4) / 4, math.pi**2 / 8
    one, other = (np.log(np.abs(drawn[:, c, k].ravel())) for c, k in ((0, 0), (5, 1)))
    expected = shared / (shared + own)
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("world", [w for w in SEEDED.values() if w.seeds == 10][1::6])
def test_verdicts_decide_as_the_simulation_does(world: Seeded) -> None:
    assert SMALLEST == D
    assert [claim.name for claim in FACTORIAL.claims] == list(CLAIMS)
    outcomes = set()
    for truth in (D, 0.13, 0.0):
        (drawn,) = figures(world, rule_means(truth), 8, "as verdicts")
        simulated = labels(drawn)
        for i, one in enumerate(drawn):
            given = {
                (f"{cell}@{source}", "transfer", "system"): dict(enumerate(one[c, k].tolist()))
                for c, cell in enumerate(CELLS)
                for k, source in enumerate(SOURCES)
            }
            verdicts, _ = judge_all(FACTORIAL, cast("Evidence", Fake(FACTORIAL, given)))
            for verdict in verdicts[:4]:
                assert verdict.label == simulated[verdict.name][i]
                outcomes.add(verdict.outcome)
    assert len(outcomes) == 3


def test_pooled_runs_have_the_spread_that_is_said() -> None:
    cells, location, scale = _pooled()
    z = np.random.default_rng(1).standard_normal(20_000)
    rates = expit(location + scale * z[:, None] + cells.ravel()).mean(axis=1)
    assert (rates.mean(), rates.std()) == pytest.approx((RATE, RUN_SD), abs=0.005)
    world = Seeded(seeds=10, r=0.0, icc=0.0, tails=NORMAL)
    hits = np.array([h for h, _ in pooled_hits(world, 300, "test")]) / 100
    assert hits.shape == (300, 2, 7, 20)
    means = hits.mean(axis=(2, 3))
    assert means.std() == pytest.approx(RUN_SD / 10**0.5, rel=0.12)
    assert np.corrcoef(means.T)[0, 1] == pytest.approx(0, abs=0.15)


def test_worlds_have_seeds_of_their_own() -> None:
    first, again, other = (next(figures(WORLD, {}, 5, purpose)) for purpose in ("a", "a", "b"))
    assert (first == again).all()
    assert (first != other).all()
