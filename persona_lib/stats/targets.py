"""Whose leakage a difference speaks of: three targets, each with a spread of its own.

* these personas, this run: other questions could have been asked. Paired t over
  question-level differences.
* personas at large: other personas too. t over persona-level differences with a
  two-way standard error, and the exact sign-flip test.
* training runs: another seed would have given another model. Welch's t over
  seed-level rates.

The arithmetic stands in `persona_lib.stats.moments`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

import numpy as np

from persona_lib.errors import DataError
from persona_lib.inputs import LEVEL, POSITIVE, number, whole
from persona_lib.stats.bootstrap import nothing
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import (
    MIN_SEEDS,
    Floats,
    Moments,
    bad_rates,
    finite,
    interval,
    level,
    p_value,
    persona_moments,
    question_moments,
    seed_moments,
)
from persona_lib.stats.proportions import normal_quantile
from persona_lib.stats.thresholds import shown

THESE_PERSONAS = "these personas, this run"
PERSONAS_AT_LARGE = "personas at large"
TRAINING_RUNS = "training runs"

QUESTION_METHOD = "question-level paired t"
PERSONA_METHOD = "persona-level t, two-way SE"
TOTALS_METHOD = "persona-level t, questions pooled"
FLIP_METHOD = "exact sign-flip over personas"
SEED_METHOD = "Welch t over seeds"

MOST_FLIPPED = 20
"""Most personas whose sign vectors are enumerated: 2^20 of them."""
REFUSED = "no claim on personas at large"
NOT_ESTIMABLE = "run-to-run variance not estimable"

_TIE = 1e-12


def question_t(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the difference for these personas in this run: `question_moments`.

    Args:
        treated: (G, Q) rates of the treated arm, personas by questions.
        control: (G, Q) rates of the other arm, for the same personas and questions.
        n: completions behind both.
        confidence: level of the interval.

    Raises:
        DataError: unlike shapes, missing cells, or an impossible confidence.
    """
    d = _paired(treated, control)
    what = "one question" if d.shape[1] == 1 else "no variation over questions"
    target = (THESE_PERSONAS, QUESTION_METHOD, d.shape[1])
    return _estimate(question_moments(d), target, f"{what}: no interval, no p", n, confidence)


def persona_t(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the difference for personas at large: `persona_moments`; see `question_t`."""
    d = _paired(treated, control)
    few = [what for what, k in zip(("persona", "question"), d.shape, strict=True) if k == 1]
    what = f"one {few[0]}" if few else "no variation over personas"
    target = (PERSONAS_AT_LARGE, PERSONA_METHOD, d.shape[0])
    return _estimate(persona_moments(d), target, f"{what}: no interval, no p", n, confidence)


def persona_totals_t(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the difference for personas at large from (G,) rates, questions pooled.

    Paired t over persona differences (Student 1908, Biometrika 6:1), df = G - 1. It
    leaves out what `persona_t` adds for questions: other ones could have been asked too.

    Args:
        treated: (G,) rates of the treated arm.
        control: (G,) rates of the other arm, for the same personas.
        n: completions behind both.
        confidence: level of the interval.

    Raises:
        DataError: unlike shapes, missing rates, or an impossible confidence.
    """
    d = _paired(np.atleast_2d(treated), np.atleast_2d(control))
    what = "one persona" if d.shape[1] == 1 else "no variation over personas"
    target = (PERSONAS_AT_LARGE, TOTALS_METHOD, d.shape[1])
    return _estimate(question_moments(d), target, f"{what}: no interval, no p", n, confidence)


def sign_flip(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the exact sign-flip test over personas at large; it has no interval.

    If the arms do not differ, each persona's mean difference could as well have had
    the other sign (Fisher 1935, The Design of Experiments, chapter 3). p is the share
    of all 2^G sign vectors whose mean is as far from 0 as the observed one.

    `p_floor` is None, because `Estimate` prints a floor as a bound from resamples,
    "p <= 1.6e-2 (0 of 127)": this p is exact. The note has the count and the floor.
    Arguments and errors are those of `question_t`; more than 20 personas are refused too.
    """
    means = _paired(treated, control).mean(axis=1)
    personas = int(means.size)
    remedy = "Use the persona-level t."
    whole("personas", personas, 1, MOST_FLIPPED, remedy=remedy, error=DataError)
    sums = np.zeros(1)
    for mean in means:  # the first sum keeps the signs as they were observed
        sums = np.concatenate([sums + mean, sums - mean])
    extreme = int((np.abs(sums / personas) >= abs(sums[0] / personas) - _TIE).sum())
    counted = f"exact: {extreme:,} of {sums.size:,} sign vectors are as far from 0"
    bound = f"the smallest possible p is {_floor_text(personas)}"
    if np.abs(means).max() <= _TIE:
        bound = "no persona differs, so that p is 1 whatever the signs"
    note = f"{counted}; {bound}"
    bare = nothing(n, personas, level(confidence), FLIP_METHOD, note, value=float(means.mean()))
    return replace(bare, p=extreme / sums.size, target=PERSONAS_AT_LARGE)


def flip_floor(personas: int) -> float:
    """Return the least p of a sign-flip test, 2 / 2^G: all signs alike, and its mirror."""
    return 2.0 ** (1 - personas)


def population_refusal(personas: int, max_p: float) -> str:
    """Return why no claim on personas at large can be made at p < `max_p`, "" if it can.

    The exact test's floor bounds the claim: a t below it rests on the shape of a
    distribution that nobody has seen.

    Raises:
        DataError: less than one persona, or `max_p` not between 0 and 1.
    """
    whole("personas", personas, 1, remedy="Count the bystanders.", error=DataError)
    number("max_p", max_p, LEVEL, remedy="Give the p of the claim.", error=DataError)
    if flip_floor(personas) < max_p:
        return ""
    needed = next(k for k in count(personas) if flip_floor(k) < max_p)
    return (
        f"{REFUSED}: p < {shown(max_p)} cannot be reached below {needed} "
        f"personas; with {personas} the smallest possible p is {_floor_text(personas)}"
    )


def seeds_welch(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the difference over training runs: `seed_moments`.

    Args:
        treated: (S,) rates of the treated arm, one a seed; 3 seeds or value only.
        control: (S',) rates of the other arm.
        n: completions behind both.
        confidence: level of the interval.

    Raises:
        DataError: not two lists of numbers, or an impossible confidence.
    """
    if np.ndim(treated) != 1 or np.ndim(control) != 1:
        raise bad_rates("two lists, one rate a seed", (np.shape(treated), np.shape(control)))
    seeds = (len(treated), len(control))
    blocked = "no variation over seeds: no interval, no p"
    if min(seeds) < MIN_SEEDS:
        blocked = f"{NOT_ESTIMABLE}: {seeds[0]} and {seeds[1]} seeds, {MIN_SEEDS} each are needed"
    target = (TRAINING_RUNS, SEED_METHOD, sum(seeds))
    return _estimate(seed_moments(treated, control), target, blocked, n, confidence)


def one_seed_risk(
    sds: tuple[float, ...] = (0.05, 0.10, 0.15), alpha: float = 0.05
) -> tuple[tuple[float, ...], str]:
    """Return the sizes of difference that one seed an arm could mistake for a real one.

    Two independent normal runs differ with SD sqrt(2) * SD: run-to-run noise alone
    exceeds z times that with probability `alpha`, z the two-sided normal quantile.

    Args:
        sds: supposed standard deviations of an arm's rate over seeds.
        alpha: probability of such a mistake.

    Returns:
        One size for each SD, as a rate, and all of them in one sentence, in points.

    Raises:
        DataError: an SD that is not > 0, or `alpha` not between 0 and 1.
    """
    number("alpha", alpha, LEVEL, remedy="Give a probability.", error=DataError)
    for sd in sds:
        number("SD over seeds", sd, POSITIVE, remedy="Give it as a rate.", error=DataError)
    sizes = tuple(normal_quantile(1 - alpha) * math.sqrt(2) * sd for sd in sds)
    words = (
        f"with one seed in each arm, noise alone gives a difference of more than "
        f"{', '.join(f'{100 * size:.1f}' for size in sizes)} points, up or down, with "
        f"probability {alpha:g} where the rates of seeds have an SD of "
        f"{', '.join(f'{100 * sd:g}' for sd in sds)} points"
    )
    return sizes, words


def _estimate(
    m: Moments, target: tuple[str, str, int], blocked: str, n: int, confidence: float
) -> Estimate:
    """Return an estimate of (target, method, clusters), bare and `blocked` without SE."""
    speaks_of, method, clusters = target
    bare = nothing(n, clusters, level(confidence), method, blocked, value=float(m.value))
    bare = replace(bare, target=speaks_of)
    if not np.isfinite(m.se):
        return bare
    note = f"SE = {float(m.se):.4f}, df = {float(m.df):.3g}"
    low, high = (float(end) for end in interval(m, confidence))
    return replace(bare, low=low, high=high, p=float(p_value(m)), note=note)


def _paired(treated: Floats, control: Floats) -> Floats:
    """Return the (G, Q) differences of two tables of rates of the same cells."""
    shapes = (np.shape(treated), np.shape(control))
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:  # noqa: PLR2004
        raise bad_rates("two tables (personas, questions) of the same cells", shapes)
    return finite(np.subtract(treated, control, dtype=np.float64), 2)


def _floor_text(personas: int) -> str:
    return f"2/{2**personas:,} = {flip_floor(personas):.3g}"
