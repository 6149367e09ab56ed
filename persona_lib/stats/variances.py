"""Variances of rates before any data, from standard deviations in logits.

The planning model: the logit of a cell's rate is intercept[arm] + persona + persona x
arm + question + persona x question + question x arm + persona x question x arm, every
term normal and independent. What two rates share is a normal part z of their logits::

    E[rate rate'] = E_z[m(x + s z) m(x' + s z)],   m(y) = E expit(y + r Z)

s is the SD of what is shared and r that of the rest. Both expectations are sums over
Gauss-Hermite nodes. Axis 0 of two arms is the control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from persona_lib.checks import NOT_NEGATIVE, number
from persona_lib.stats.moments import Floats

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_GRID = np.linspace(-40.0, 40.0, 8_001)
"""Linear interpolation of a mean rate between these is off by less than 2e-6."""
_WIDEST = 30.0
_HALVINGS = 45


@dataclass(frozen=True, kw_only=True)
class LogitSDs:
    """Standard deviations of the parts of a cell's logit.

    Attributes:
        persona: of personas, the same in both arms.
        persona_arm: persona x arm.
        question: of questions.
        persona_question: persona x question.
        question_arm: question x arm.
        cell_arm: persona x question x arm.
    """

    persona: float
    persona_arm: float
    question: float
    persona_question: float
    question_arm: float
    cell_arm: float

    def __post_init__(self) -> None:
        for field in fields(self):
            name = f"SD in logits: {field.name}"
            number(name, getattr(self, field.name), NOT_NEGATIVE, remedy="Give 0 for no spread.")

    @property
    def of_questions(self) -> float:
        """SD of all that new questions bring to one persona in one arm."""
        return _joined(self.question, self.persona_question, self.question_arm, self.cell_arm)

    @property
    def of_personas(self) -> float:
        """SD of a persona's logit in one arm."""
        return _joined(self.persona, self.persona_arm)


@dataclass(frozen=True, eq=False)
class Held:
    """Spread over questions of B sets of G personas that are drawn once and then held.

    Attributes:
        difference: (B,) variance over questions of the expected difference of the arms.
        arms: (B, 2) variance over questions of the expected rate of each arm.
        cells: (B, 2) variance of expected rates over all cells of an arm: over the
            personas held and over questions.
        binomial: (B, 2) mean of rate (1 - rate): variance of one completion in its cell.
        personas: G.
    """

    difference: Floats
    arms: Floats
    cells: Floats
    binomial: Floats
    personas: int

    def of_difference(self, questions: int, samples: int) -> Floats:
        """(B,) variance of the mean difference; `samples` completions are in each cell."""
        noise = self.binomial.sum(axis=1) / (self.personas * samples)
        return np.asarray((self.difference + noise) / questions)

    def of_rates(self, questions: int, samples: int) -> Floats:
        """(B, 2) variance of each arm's mean rate."""
        noise = self.binomial / (self.personas * samples)
        return np.asarray((self.arms + noise) / questions)

    def by_bootstrap(self, questions: int, samples: int) -> Floats:
        """(B,) mean of the variance that the published bootstrap gives the difference.

        It draws all GQ cells of an arm as if they were independent and each arm by
        itself: the variance over cells, the personas' own spread included, over GQ.
        """
        within = self.cells + self.binomial / samples - self.of_rates(questions, samples)
        return np.asarray(within.sum(axis=1) / (self.personas * questions))


@dataclass(frozen=True)
class Population:
    """Components of variance of a cell's difference of rates, personas drawn as well.

    The components are those of two crossed random factors: the covariance of two cells
    that share a persona alone, a question alone, and what is left of the variance of a
    cell. A mean over G personas and Q questions has the variance
    persona / G + question / Q + (residual + binomial / samples) / (G Q).

    Attributes:
        persona, question, residual: components of the expected difference.
        binomial: of each arm, the mean of rate (1 - rate).
    """

    persona: float
    question: float
    residual: float
    binomial: tuple[float, float]

    def of_cell(self, samples: int) -> float:
        """Variance of what neither the persona nor the question brings to a cell."""
        return self.residual + sum(self.binomial) / samples


def held_personas(
    sds: LogitSDs, rates: tuple[float, float], personas: int, sets: int, seed: int
) -> Held:
    """Draw sets of personas and return the spread over questions that each leaves.

    The intercepts of each set are those for which its expected mean rates over
    questions are exactly `rates`, so that the difference is true of these personas.

    Args:
        sds: standard deviations in logits.
        rates: mean rate of the control and of the treated arm, between 0 and 1.
        personas: G of each set.
        sets: B, sets to be drawn.
        seed: of the draws.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    common, *own = rng.standard_normal((3, sets, personas))
    effects = sds.persona * common[:, None] + sds.persona_arm * np.stack(own, axis=1)
    total = sds.of_questions
    table = _smooth(total)

    def mean(x: Floats) -> Floats:
        return np.asarray(table(x[..., None] + effects).mean(axis=-1))

    wanted = np.broadcast_to(np.array(rates), (sets, 2))
    x = _solve(wanted, mean)[..., None] + effects
    means = table(x)
    every = _shared(x, total, total) ** 2 @ _WEIGHTS
    in_arm = _shared(x, _joined(sds.question, sds.question_arm), total)
    variance = every - means**2
    arms = _over_pairs(in_arm, in_arm, means, means) + variance.sum(axis=-1)
    of_question = _shared(x, sds.question, total)
    of_both = _shared(x, _joined(sds.question, sds.persona_question), total)
    across = _over_pairs(of_question[:, 1], of_question[:, 0], means[:, 1], means[:, 0])
    product = (of_both[:, 1] * of_both[:, 0]) @ _WEIGHTS - means[:, 1] * means[:, 0]
    across = across + product.sum(axis=-1)
    return Held(
        difference=(arms.sum(axis=1) - 2 * across) / personas**2,
        arms=arms / personas**2,
        cells=every.mean(axis=-1) - means.mean(axis=-1) ** 2,
        binomial=(means - every).mean(axis=-1),
        personas=personas,
    )


def population(sds: LogitSDs, rates: tuple[float, float]) -> Population:
    """Return the components of variance where personas are drawn like everything else.

    `rates` are the mean rates of the control and of the treated population.
    """
    x = _population_intercepts(sds, rates)
    total = _joined(sds.of_personas, sds.of_questions)
    means = _smooth(total)(x)

    def covariance(in_arm: float, across: float) -> float:
        """Variance of the difference that comes from what two cells share."""
        one = _shared(x, in_arm, total) ** 2 @ _WEIGHTS - means**2
        both = _shared(x, across, total)
        return float(one.sum() - 2 * ((both[0] * both[1]) @ _WEIGHTS - means.prod()))

    persona = covariance(sds.of_personas, sds.persona)
    question = covariance(_joined(sds.question, sds.question_arm), sds.question)
    shared = _joined(sds.persona, sds.question, sds.persona_question)
    cell = covariance(total, shared)
    first, second = means - _shared(x, total, total) ** 2 @ _WEIGHTS
    return Population(persona, question, cell - persona - question, (float(first), float(second)))


def persona_differences(sds: LogitSDs, rates: tuple[float, float], normals: Floats) -> Floats:
    """Return each persona's own expected difference over all questions, treated - control.

    `rates` are those of `population`; `normals` is (3, ...), standard normal numbers: persona,
    persona x arm of the control and of the treated arm.
    """
    x = _population_intercepts(sds, rates)
    smooth = _smooth(sds.of_questions)
    control, treated = (
        smooth(x[arm] + sds.persona * normals[0] + sds.persona_arm * normals[1 + arm])
        for arm in (0, 1)
    )
    return treated - control


def _population_intercepts(sds: LogitSDs, rates: tuple[float, float]) -> Floats:
    smooth = _smooth(_joined(sds.of_personas, sds.of_questions))
    return _solve(np.array(rates), smooth)


def _over_pairs(one: Floats, other: Floats, mean: Floats, mean_other: Floats) -> Floats:
    """Return the sum over pairs of two unlike personas of their covariance.

    `one` and `other` are (..., G, K) rates at the nodes of what is shared, and the last
    two are their (..., G) means.
    """
    everyone = (one.sum(axis=-2) * other.sum(axis=-2)) @ _WEIGHTS
    alone = ((one * other) @ _WEIGHTS).sum(axis=-1)
    means = mean.sum(axis=-1) * mean_other.sum(axis=-1) - (mean * mean_other).sum(axis=-1)
    return np.asarray(everyone - alone - means)


def _shared(x: Floats, shared: float, total: float) -> Floats:
    """Return (..., K) mean rates at the nodes of a shared normal part, SDs in logits."""
    rest = float(np.sqrt(max(total**2 - shared**2, 0.0)))
    return _smooth(rest)(x[..., None] + shared * _NODES)


@lru_cache(maxsize=64)
def _smooth(sd: float) -> Callable[[Floats], Floats]:
    """Return the function y -> E expit(y + sd Z), Z standard normal."""
    from scipy.special import expit

    table = expit(_GRID[:, None] + sd * _NODES) @ _WEIGHTS

    def mean_rate(y: Floats) -> Floats:
        return np.asarray(np.interp(y, _GRID, table))

    return mean_rate


def _solve(wanted: Floats, rising: Callable[[Floats], Floats]) -> Floats:
    """Return x with rising(x) = wanted, elementwise, by bisection."""
    low, high = np.full(wanted.shape, -_WIDEST), np.full(wanted.shape, _WIDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = rising(middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)


def _joined(*sds: float) -> float:
    """Return the SD of a sum of independent parts."""
    return float(np.sqrt(np.square(sds).sum()))
