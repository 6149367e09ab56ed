"""The simulated worlds are what they are said to be, by sums that do not use their code."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy.integrate import quad

from persona_lib.digests import derive_seed
from tests.calibration.worlds import (
    CHUNK,
    ISSUE_WORLDS,
    LARGE,
    PERSONAS,
    QUESTIONS,
    RATE,
    SAMPLES,
    THESE,
    WORLDS,
    Floats,
    intercepts,
    mean_rate,
    of_questions,
    personas_of,
    sets,
    training_runs,
)

DIFFERENCES = (0.0, 0.30, 0.05, -0.05)
AS_ASKED = {
    # persona in either arm, correlation, persona x arm, question, p x q, q x arm, p x q x arm
    "S": ((2.2, 2.2), 1.0, 0.3, 0.5, 0.6, 0.3, 0.4),
    "M": ((2.2, 2.2), 1.0, 1.0, 0.5, 0.6, 0.3, 0.4),
    "L": ((2.2, 2.2), 1.0, 2.0, 0.5, 0.6, 0.3, 0.4),
    "PUB": ((2.2, 0.5), 0.5, 0.0, 0.5, 0.6, 0.3, 0.4),
    "Qhi": ((2.2, 2.2), 1.0, 1.0, 0.5, 0.6, 0.8, 0.4),
}
"""Issue 3, acceptance 1."""


def generator(*names: str | float) -> np.random.Generator:
    return np.random.default_rng(derive_seed(262, "test of worlds", *map(str, names)))


def test_worlds_are_those_of_the_issue() -> None:
    assert {name: astuple(WORLDS[name]) for name in ISSUE_WORLDS} == {
        name: (*sds, RATE) for name, sds in AS_ASKED.items()
    }
    assert (RATE, PERSONAS, QUESTIONS, SAMPLES) == (0.274, 7, 20, 10)


def by_quadrature(location: float, sd: float) -> float:
    """Return E expit(location + sd Z) by adaptive quadrature."""

    def integrand(z: float) -> float:
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return density / (1 + math.exp(-(location + sd * z)))

    return float(quad(integrand, -9, 9, epsabs=1e-11)[0])


@pytest.mark.parametrize("sd", [0.9, 2.5, 3.2])
def test_mean_rate_agrees_with_quadrature(sd: float) -> None:
    locations = np.array([-6.0, -1.5, 0.0, 3.0])
    expected = [by_quadrature(location, sd) for location in locations]
    np.testing.assert_allclose(mean_rate(locations, sd), expected, atol=1e-6)


@pytest.mark.parametrize("name", ISSUE_WORLDS)
@pytest.mark.parametrize("truth", DIFFERENCES)
def test_intercepts_make_the_difference_true(name: str, truth: float) -> None:
    """Of these personas one by one; of personas at large over all that is drawn."""
    world = WORLDS[name]
    personas = personas_of(generator("intercepts", name), world, 4, 7)
    within = math.sqrt(
        world.question**2 + world.persona_question**2 + world.question_arm**2 + world.cell_arm**2
    )
    these = intercepts(world, personas, THESE, truth)
    large = intercepts(world, personas, LARGE, truth)
    for arm, wanted in enumerate((RATE, RATE + truth)):
        for location, row in zip(these[:, arm], personas[:, arm], strict=True):
            rates = [by_quadrature(location + effect, within) for effect in row]
            assert np.mean(rates) == pytest.approx(wanted, abs=2e-6)
        overall = math.hypot(within, world.persona[arm], world.persona_arm)
        assert by_quadrature(large[0, arm], overall) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", ISSUE_WORLDS)
def test_personas_have_the_spread_and_correlation_of_the_world(name: str) -> None:
    world = WORLDS[name]
    drawn = personas_of(generator("personas", name), world, 30_000, 7)
    control, treated = drawn[:, 0].ravel(), drawn[:, 1].ravel()
    product = world.persona[0] * world.persona[1] * world.correlation
    for arm, effects in enumerate((control, treated)):
        sd = math.hypot(world.persona[arm], world.persona_arm)
        assert effects.std() == pytest.approx(sd, rel=0.01)
    assert np.mean(control * treated) == pytest.approx(product, rel=0.03)
    assert abs(control.mean()) < 0.03
    # Personas are drawn one by one: none shares anything with its neighbour.
    assert abs(np.mean(drawn[:, 0, 0] * drawn[:, 0, 1])) < 0.12


@pytest.mark.parametrize("name", ["S", "Qhi"])
def test_questions_bring_the_four_parts_of_the_world(name: str) -> None:
    """Products of logits that share a question, a persona, an arm, or all of them."""
    world = WORLDS[name]
    x = of_questions(generator("questions", name), world, (3_000, 3, 20))
    shared = world.question**2
    with_arm, with_persona = world.question_arm**2, world.persona_question**2
    expected = {
        "question": shared,
        "question and arm": shared + with_arm,
        "question and persona": shared + with_persona,
        "all": shared + with_arm + with_persona + world.cell_arm**2,
        "nothing": 0.0,
    }
    found = {
        "question": np.mean(x[:, 0, 0] * x[:, 1, 1]),
        "question and arm": np.mean(x[:, 1, 0] * x[:, 1, 1]),
        "question and persona": np.mean(x[:, 0, 2] * x[:, 1, 2]),
        "all": np.mean(x**2),
        "nothing": np.mean(x[:, 0, 0, 0] * x[:, 0, 0, 1]),
    }
    assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("target", [THESE, LARGE])
def test_data_sets_have_the_rates_that_are_true(target: str) -> None:
    (batch,) = sets("PUB", target, 0.30, 1_000, purpose="test")
    assert batch.hits.shape == (1_000, 2, 7, 20)
    assert batch.hits.max() == SAMPLES
    rates: Floats = batch.hits.mean(axis=(2, 3)) / SAMPLES
    for arm, wanted in enumerate((RATE, RATE + 0.30)):
        error = rates[:, arm].std() / math.sqrt(1_000)
        assert abs(rates[:, arm].mean() - wanted) < 4 * error
    truth = batch.differences.mean(axis=(1, 2))
    assert abs(truth.mean() - 0.30) < 4 * truth.std() / math.sqrt(1_000)


def test_personas_are_held_where_these_are_meant() -> None:
    """Many questions leave no spread around the truth, while personas at large still vary."""
    spread = {}
    for target in (THESE, LARGE):
        (batch,) = sets("M", target, 0.0, 50, shape=(7, 2_000), purpose="test")
        spread[target] = batch.differences.mean(axis=(1, 2)).std()
    assert spread[THESE] < 0.006
    assert spread[LARGE] > 0.04


def test_training_runs_have_the_spread_that_is_said() -> None:
    rates = np.array(list(training_runs(5, 4_000, "test")))
    assert rates.mean() == pytest.approx(0.274, abs=0.003)
    assert rates.std() == pytest.approx(math.hypot(0.10, 0.01), rel=0.02)


def test_seeds_are_named() -> None:
    """The same names draw the same data, and any other name draws others."""
    first, again, other = (
        next(sets("S", THESE, 0.0, 5, purpose=purpose)).hits for purpose in ("a", "a", "b")
    )
    assert (first == again).all()
    assert (first != other).any()
    chunks = [batch.hits for batch in sets("S", THESE, 0.0, 2 * CHUNK)]
    assert len(chunks) == 2
    assert (chunks[0] != chunks[1]).any()
