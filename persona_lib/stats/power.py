"""Power: how often a rule would hold, given the truth and the spread of its estimate.

A rule holds where the estimate lies in its *region*, which depends on standard error and
degrees of freedom. The estimate is normal around the truth, the squared standard error a
multiple of chi-square, and the two independent; quadrature sums replace the integral. Powers
of two tails count the tail of the rule alone. The numbers of a rule are those of a claim, which
has checked them; `truth` is the true difference, and DataError is raised where it cannot be one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from persona_lib.checks import DIFFERENCE, POSITIVE, number, whole
from persona_lib.errors import DataError
from persona_lib.stats.moments import MIN_SEEDS, Floats
from persona_lib.stats.variances import Population

_ONE_DIMENSION, _TWO_DIMENSIONS = 96, 32
"""Nodes on the scale of probability: against adaptive quadrature within 1e-3."""
_CERTAIN = 1e-12
"""A spread of an estimate below this is none: the estimate is the truth."""


class Region(Protocol):
    """A rule as the region of estimates that meet it."""

    def region(self, se: Floats, df: float | Floats) -> tuple[Floats, Floats]:
        """Return the ends of the region; it is empty where low >= high."""


@dataclass(frozen=True, kw_only=True)
class Exceeds:
    """d >= `min_effect` and two-sided p < `max_p`: the rule of a difference claim."""

    min_effect: float
    max_p: float

    def region(self, se: Floats, df: float | Floats) -> tuple[Floats, Floats]:
        """Return [max(min_effect, t SE), inf)."""
        low = np.maximum(self.min_effect, _quantile(df, 1 - self.max_p / 2) * se)
        return low, np.full_like(low, np.inf)


@dataclass(frozen=True, kw_only=True)
class Equivalent:
    """Two one-sided t tests at `alpha` against -`band` and +`band` (Schuirmann 1987)."""

    band: float
    alpha: float

    def region(self, se: Floats, df: float | Floats) -> tuple[Floats, Floats]:
        """Return the band without t SE at either end."""
        high = np.asarray(self.band - _quantile(df, 1 - self.alpha) * se)
        return -high, high


@dataclass(frozen=True, kw_only=True)
class Null:
    """|d| <= `band`, two-sided p > `min_p` and low > -`band`: the rule of a triage.

    low is the lower end of the interval at `confidence`.
    """

    band: float
    min_p: float
    confidence: float

    def region(self, se: Floats, df: float | Floats) -> tuple[Floats, Floats]:
        """Return the ends that the three conditions leave together."""
        insignificant = _quantile(df, 1 - self.min_p / 2) * se
        below = _quantile(df, 0.5 + self.confidence / 2) * se
        high = np.minimum(self.band, insignificant)
        return np.maximum(-high, below - self.band), high


@dataclass(frozen=True, kw_only=True)
class AtMost:
    """The estimate is <= `most`, whatever its standard error: a point rule."""

    most: float

    def region(self, se: Floats, df: float | Floats) -> tuple[Floats, Floats]:  # noqa: ARG002
        """Return (-inf, most]."""
        high = np.full_like(se, self.most)
        return np.full_like(high, -np.inf), high


def chance(
    rule: Region, truth: float | Floats, sd: float | Floats, se: Floats, df: float | Floats
) -> Floats:
    """Return P(the rule holds), the standard error known.

    Args:
        rule: the rule.
        truth: mean of the estimate.
        sd: its standard deviation; 0 for an estimate that is the truth.
        se: the standard error that the rule will see.
        df: degrees of freedom of its t; inf for the normal distribution.
    """
    from scipy.special import ndtr

    low, high = rule.region(np.asarray(se, dtype=np.float64), df)
    spread = np.maximum(sd, _CERTAIN)
    inside = ndtr((high - truth) / spread) - ndtr((low - truth) / spread)
    return np.asarray(np.maximum(inside, 0.0))


def t_power(rule: Region, truth: float, sd: Floats, df: int) -> Floats:
    """Return (...) powers of a rule on a t test: SE^2 / SD^2 is chi-square of df over df.

    `sd` holds (...) standard deviations of the estimate, which the SE estimates; df is >= 1.
    """
    _check(truth)
    whole("df", df, 1, remedy="Plan two units or more.", error=DataError)
    spread = np.asarray(sd, dtype=np.float64)[..., None]
    ratios, weights = _ratios(df, _ONE_DIMENSION)
    return np.asarray(chance(rule, truth, spread, spread * ratios, df) @ weights)


def normal_power(rule: Region, truth: float, sd: Floats, se: Floats) -> Floats:
    """Return the power of a rule whose standard error is known and whose test is normal.

    So the published bootstrap is read: `se` is the spread of its draws, `sd` that of the
    estimate around the truth; its p and its ends are taken as normal.
    """
    _check(truth)
    return chance(rule, truth, sd, se, np.inf)


def welch_power(rule: Region, truth: float, sds: tuple[float, float], seeds: int) -> float:
    """Return the power of a rule on Welch's t over seeds.

    Both arms' variances are estimated, each by chi-square of S - 1, and with them the
    degrees of freedom of Welch and Satterthwaite: see `moments.seed_moments`.

    Args:
        rule: the rule.
        truth: the true difference.
        sds: standard deviation of a seed's rate in either arm, > 0.
        seeds: S of each arm, >= 3.
    """
    _check(truth)
    whole("seeds", seeds, MIN_SEEDS, remedy="Plan 3 seeds an arm.", error=DataError)
    ratios, weights = _ratios(seeds - 1, _TWO_DIMENSIONS)
    one, two = (sd**2 * ratios**2 / seeds for sd in sds)
    total = one[:, None] + two
    df = total**2 / ((one[:, None] ** 2 + two**2) / (seeds - 1))
    sd = float(np.hypot(*sds) / np.sqrt(seeds))
    return float(weights @ chance(rule, truth, sd, np.sqrt(total), df) @ weights)


def paired_power(excess: float, sd: float, seeds: int, level: float) -> float:
    """Return how often a t over seeds is beyond a bound on the side of the truth (exact).

    P(T > t) of the noncentral t with S - 1 degrees of freedom and noncentrality
    excess sqrt(S) / sd (Johnson and Welch 1940, Biometrika 31:362).

    Args:
        excess: how far the true effect is beyond the bound, in units of the outcome.
        sd: standard deviation over seeds of the contrast, > 0.
        seeds: S, >= 3.
        level: two-sided p that has to be reached.
    """
    from scipy.special import nctdtr

    number("sd", sd, POSITIVE, remedy="Give the spread over seeds.", error=DataError)
    whole("seeds", seeds, MIN_SEEDS, remedy="Plan 3 seeds.", error=DataError)
    t = float(_quantile(seeds - 1, 1 - level / 2))
    return float(np.clip(1 - nctdtr(seeds - 1, excess * np.sqrt(seeds) / sd, t), 0, 1))


@dataclass(frozen=True, eq=False)
class PersonaDraws:
    """N groups of G personas, drawn before any data.

    Attributes:
        own: (N, G) expected differences of rates, treated - control.
        noise: (N, G) standard normal numbers: what is left of each persona's mean.
        uniform: (N,) numbers between 0 and 1: where the mean square of questions lies.
    """

    own: Floats
    noise: Floats
    uniform: Floats


def persona_power(
    rule: Region, draws: PersonaDraws, *, parts: Population, questions: int, samples: int
) -> Floats:
    """Return the power of a rule on the persona-level t, by the number of personas.

    Differences of few personas are far from normal, and their mean and its standard error
    are correlated: they are drawn, while the part that questions bring to all personas alike
    is integrated. The standard error is that of `moments.persona_moments`, with the mean
    square of what neither persona nor question brings at its expectation.

    Args:
        rule: the rule.
        draws: personas of the population.
        parts: its components of variance.
        questions: Q, >= 2.
        samples: completions of each cell.

    Returns:
        (G - 1,) powers with 2, 3, ..., G personas: the first so many of each draw.
    """
    cell = parts.of_cell(samples)
    observed = draws.own + np.sqrt(cell / questions) * draws.noise
    count = np.arange(1, observed.shape[1] + 1)
    centre = observed.mean()
    sums = np.cumsum(observed - centre, axis=1)
    squares = np.cumsum((observed - centre) ** 2, axis=1)
    k = count[1:]
    between = np.maximum(squares - sums**2 / count, 0.0)[:, 1:] / (k - 1)
    ratio = _chi_square(questions - 1, draws.uniform)[:, None]
    se = np.sqrt(_two_way(between, ratio, k, parts, (questions, cell)))
    shared = np.sqrt(parts.question / questions)
    means = centre + sums[:, 1:] / k
    return np.asarray(chance(rule, means, shared, se, (k - 1).astype(float)).mean(axis=0))


def persona_power_of_many(
    rule: Region, truth: float, personas: int, *, parts: Population, questions: int, samples: int
) -> float:
    """Return the power of a rule on the persona-level t where personas are many.

    The mean of many differences is as good as normal: no draw is needed. Arguments are
    those of `persona_power`, with the true difference and the number of personas.
    """
    cell = parts.of_cell(samples)
    expected = parts.persona + cell / questions
    sd = np.sqrt(expected / personas + parts.question / questions)
    ratios, weights = _ratios(personas - 1, _TWO_DIMENSIONS)
    others, more_weights = _ratios(questions - 1, _TWO_DIMENSIONS)
    between = expected * ratios[:, None] ** 2
    se = np.sqrt(_two_way(between, others**2, personas, parts, (questions, cell)))
    return float(weights @ chance(rule, truth, sd, se, personas - 1) @ more_weights)


def smallest(power_at: Callable[[int], float], level: float, least: int, most: int) -> int | None:
    """Return the least number of units from `least` to `most` whose power is >= `level`.

    None where `most` units do not give it. Power is taken to grow with the units.
    """
    if least > most or power_at(most) < level:
        return None
    step, low, high = 1, least - 1, least
    while high < most and power_at(high) < level:
        low, high, step = high, min(most, high + step), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= level else (middle, high)
    return high


def _two_way(
    between: Floats,
    ratio: Floats,
    personas: int | Floats,
    parts: Population,
    size: tuple[int, float],
) -> Floats:
    """Return the two-way variance of the mean, for a size of questions and variance of a cell.

    `between` is the variance of persona means; `ratio` is that of question means over
    its expectation.
    """
    questions, cell = size
    over_questions = ratio * (parts.question + cell / personas)
    cells = personas * questions
    squares = (
        questions * (personas - 1) * between
        + personas * (questions - 1) * over_questions
        + (personas - 1) * (questions - 1) * cell
    )
    more = over_questions / questions - squares / (cells * (cells - 1))
    return np.asarray(between / personas + np.maximum(more, 0.0))


def _ratios(df: int, nodes: int) -> tuple[Floats, Floats]:
    """Return nodes of sqrt(chi-square / df), and their weights, which sum to 1."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    return np.sqrt(_chi_square(df, (at + 1) / 2)), weights / 2


def _chi_square(df: int, probability: Floats) -> Floats:
    """Return quantiles of chi-square / df."""
    from scipy.special import gammaincinv

    return np.asarray(2 * gammaincinv(df / 2, probability) / df)


def _quantile(df: float | Floats, probability: float) -> Floats:
    """Return the quantile of Student's t; of the normal distribution where df is inf."""
    from scipy.special import ndtri, stdtrit

    if np.isinf(df).all():
        return np.asarray(ndtri(probability))
    return np.asarray(stdtrit(df, probability))


def _check(truth: float) -> None:
    number("truth", truth, DIFFERENCE, remedy="Give a proportion.", error=DataError)
