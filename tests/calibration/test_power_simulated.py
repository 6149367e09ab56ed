"""Power as it is planned against the share of simulated data sets in which a rule held.

The simulation knows nothing of quadrature, of chi-square or of normal estimates: it draws
hits in world M, and the estimators and rules judge them as they are shipped.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from persona_lib.specs.claim_types import DifferenceClaim
from persona_lib.stats.equivalence import tost
from persona_lib.stats.moments import (
    Moments,
    p_value,
    persona_moments,
    question_moments,
    seed_moments,
)
from persona_lib.stats.power import Equivalent, Exceeds, Null, persona_power_of_many
from persona_lib.stats.thresholds import at_least
from persona_lib.stats.variances import population
from persona_lib.verdict.planning import Contrast, Size
from tests.calibration.procedures import (
    BAND,
    CONFIDENCE,
    TRIAGE,
    _bootstrapped,
    _p,
    passes_h3,
)
from tests.calibration.worlds import LARGE, RATE, SEED_SD, THESE, WORLDS, sets, training_runs
from tests.registered import ISSUE262, PLANNING

COUNT = 2_000
NEAR = 0.035
"""Three Monte Carlo standard errors of a share of 2,000 near one half."""
NULL = Null(band=TRIAGE.null_effect, min_p=TRIAGE.null_min_p, confidence=CONFIDENCE)


def planned(effect: float, *, personas: int = 7, questions: int = 20) -> Contrast:
    size = Size(personas=personas, questions=questions, samples=10, seeds=1)
    return Contrast(effect=effect, size=size, assumptions=PLANNING)


def drawn(
    target: str, effect: float, personas: int = 7, questions: int = 20
) -> NDArray[np.float64]:
    """(2,000, G, Q) differences of rates in world M."""
    shape = (personas, questions)
    batches = sets("M", target, effect, COUNT, shape=shape, purpose="power")
    return np.concatenate([batch.differences for batch in batches])


def rule_of(claim: str) -> Exceeds:
    """The registered rule of a difference claim."""
    found = ISSUE262.claim(claim)
    assert isinstance(found, DifferenceClaim)
    return Exceeds(min_effect=found.min_effect, max_p=found.max_p)


RULES: dict[str, Exceeds | Equivalent] = {
    "H1": rule_of("H1"),
    "H2": rule_of("H2"),
    "TOST": Equivalent(band=BAND, alpha=0.05),
}


def share(rule: Exceeds | Equivalent, m: Moments) -> float:
    """Share of data sets in which the rule holds."""
    if isinstance(rule, Equivalent):
        return float((tost(m, rule.band) < rule.alpha).mean())
    return float(((m.value >= rule.min_effect - 1e-9) & (p_value(m) < rule.max_p)).mean())


def test_assumptions_are_those_of_world_m() -> None:
    world = WORLDS["M"]
    assert world.persona == (PLANNING.sds.persona,) * 2
    assert world.correlation == 1
    for field in ("persona_arm", "question", "persona_question", "question_arm", "cell_arm"):
        assert getattr(world, field) == getattr(PLANNING.sds, field)
    assert PLANNING.control_rate == RATE
    assert PLANNING.seed_sds[1] == SEED_SD


@pytest.mark.parametrize(
    ("claim", "effect", "questions"),
    [
        ("H1", 0.30, 20),
        ("H1", 0.30, 6),  # where power is neither 0 nor 1
        ("H1", 0.225, 20),
        ("H2", 0.225, 5),
        ("H2", 0.30, 4),
        ("TOST", 0.0, 20),
        ("TOST", 0.0, 30),
        ("TOST", 0.02, 20),
    ],
)
def test_over_questions(claim: str, effect: float, questions: int) -> None:
    rule = RULES[claim]
    simulated = share(rule, question_moments(drawn(THESE, effect, questions=questions)))
    found = planned(effect, questions=questions).over_questions(rule)(questions)
    assert found == pytest.approx(simulated, abs=NEAR)


@pytest.mark.parametrize(
    ("claim", "effect", "personas", "questions"),
    [
        ("H1", 0.30, 7, 20),
        ("H1", 0.30, 12, 20),
        ("H2", 0.30, 7, 20),
        ("H2", 0.225, 7, 20),
        ("H2", 0.225, 14, 20),
        ("H2", 0.30, 7, 2),  # the spread over questions counts, and its estimate is a rough one
        ("TOST", 0.0, 7, 20),
        ("TOST", 0.0, 80, 20),
    ],
)
def test_over_personas(claim: str, effect: float, personas: int, questions: int) -> None:
    rule = RULES[claim]
    simulated = share(rule, persona_moments(drawn(LARGE, effect, personas, questions)))
    found = planned(effect, personas=personas, questions=questions).over_personas(rule)(personas)
    assert found == pytest.approx(simulated, abs=NEAR)


@pytest.mark.parametrize(
    ("claim", "effect", "seeds"),
    [("H2", 0.225, 3), ("H2", 0.225, 7), ("H2", 0.225, 12), ("TOST", 0.0, 20), ("TOST", 0.0, 70)],
)
def test_over_seeds(claim: str, effect: float, seeds: int) -> None:
    """Runs without a difference, and one added: the spread of a run stays what it is.

    Rates of runs are logit-normal there and normal here.
    """
    runs = np.array(list(training_runs(seeds, COUNT, "power")))
    rule = RULES[claim]
    simulated = share(rule, seed_moments(runs[:, 0] + effect, runs[:, 1]))
    found = planned(effect).over_seeds(rule, SEED_SD)(seeds)
    assert found == pytest.approx(simulated, abs=NEAR)


def bootstrapped(effect: float, questions: int, count: int, rule: Exceeds | None) -> float:
    """Share of data sets of world M in which a registered rule holds of the bootstrap."""
    held = []
    for batch in sets("M", THESE, effect, count, shape=(7, questions), purpose="power"):
        for estimate in _bootstrapped(batch):
            if rule is None:
                held.append(passes_h3(estimate))
            else:
                far = at_least(estimate.value, rule.min_effect)
                held.append(far and _p(estimate) < rule.max_p)
    return float(np.mean(held))


@pytest.mark.parametrize("count", [300, pytest.param(2_000, marks=pytest.mark.calibration)])
@pytest.mark.parametrize(
    ("claim", "effect", "questions"),
    [("H3", 0.0, 20), ("H3", 0.0, 60), ("H3", 0.02, 20), ("H2", 0.225, 10), ("H2", 0.17, 20)],
)
def test_registered_rule_on_the_published_bootstrap(
    claim: str, effect: float, questions: int, count: int
) -> None:
    rule = None if claim == "H3" else rule_of(claim)
    simulated = bootstrapped(effect, questions, count, rule)
    found = planned(effect, questions=questions).by_bootstrap(NULL if rule is None else rule)(
        questions
    )
    chance = 3 * np.sqrt(found * (1 - found) / count)
    assert found == pytest.approx(simulated, abs=0.03 + chance)


def test_power_at_large_is_not_that_of_normal_personas() -> None:
    """Why personas are drawn: without it the plan would promise far more than there is."""
    rule = rule_of("H1")
    simulated = share(rule, persona_moments(drawn(LARGE, 0.30)))
    parts = population(PLANNING.sds, planned(0.30).rates)
    normal = persona_power_of_many(rule, 0.30, 7, parts=parts, questions=20, samples=10)
    assert normal > 1.5 * simulated
