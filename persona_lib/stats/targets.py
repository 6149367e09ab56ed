"""Differences for three targets of inference: these personas, personas at large, training runs.

* these personas, this run: other questions could have been asked; paired t over questions.
* personas at large: other personas too; t with a two-way standard error, exact sign flips.
* training runs: another seed gives another model; paired t over seeds where the arms of a
  seed share a trained prior or a text, Welch's t where they share nothing, and the exact p.

`persona_lib.stats.moments` and `persona_lib.stats.exact` hold the arithmetic. Everywhere
`treated` and `control` are rates of two arms, n is the completions behind them, and DataError
is raised for unlike shapes, a missing rate or an impossible confidence.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

import numpy as np

from persona_lib.checks import LEVEL, POSITIVE, number, whole
from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.exact import (
    MOST_FLIPPED,
    MOST_SPLITS,
    flip_floor,
    sign_flips,
    splits,
    two_samples,
)
from persona_lib.stats.moments import (
    MIN_SEEDS,
    Floats,
    Moments,
    bad_rates,
    estimated,
    finite,
    level,
    persona_moments,
    question_moments,
    run_moments,
    seed_moments,
)
from persona_lib.stats.proportions import normal_quantile
from persona_lib.stats.thresholds import shown

THESE_PERSONAS = "these personas, this run"
THESE_RUNS = "these personas, these runs"
"""The same target where several runs are pooled."""
PERSONAS_AT_LARGE = "personas at large"
TRAINING_RUNS = "training runs"

QUESTION_METHOD = "question-level paired t"
PERSONA_METHOD = "persona-level t, two-way SE"
TOTALS_METHOD = "persona-level t, questions pooled"
FLIP_METHOD = "exact sign-flip over personas"
SEED_METHOD = "Welch t over seeds"
PAIR_METHOD = "paired t over seeds"
RATE_METHOD = "one-sample t over seeds"
SPLIT_METHOD = "exact permutation over seeds"
SEED_FLIP_METHOD = "exact sign-flip over seeds"

REFUSED = "no claim on personas at large"
NOT_ESTIMABLE = "run-to-run variance not estimable"

_TIE = 1e-12


def these_personas(runs: int) -> str:
    """Return the name of the target of these personas: one run, or several pooled."""
    return THESE_PERSONAS if runs == 1 else THESE_RUNS


def question_t(
    treated: Floats, control: Floats, *, n: int, confidence: float, runs: int = 1
) -> Estimate:
    """Return the difference for these personas in so many pooled runs: `question_moments`.

    Both arms are (G, Q) rates, of the same personas and questions.
    """
    d = _paired(treated, control)
    what = "one question" if d.shape[1] == 1 else "no variation over questions"
    bare = _bare(these_personas(runs), QUESTION_METHOD, d.shape[1], n, confidence)
    return _estimate(bare, question_moments(d), f"{what}: no interval, no p")


def persona_t(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the difference of (G, Q) rates for personas at large: `persona_moments`."""
    d = _paired(treated, control)
    few = [what for what, k in zip(("persona", "question"), d.shape, strict=True) if k == 1]
    what = f"one {few[0]}" if few else "no variation over personas"
    bare = _bare(PERSONAS_AT_LARGE, PERSONA_METHOD, d.shape[0], n, confidence)
    return _estimate(bare, persona_moments(d), f"{what}: no interval, no p")


def persona_totals_t(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the difference for personas at large from (G,) rates, questions pooled.

    Paired t over persona differences (Student 1908, Biometrika 6:1), df = G - 1, without
    what `persona_t` adds for questions.
    """
    d = _paired(np.atleast_2d(treated), np.atleast_2d(control))
    what = "one persona" if d.shape[1] == 1 else "no variation over personas"
    bare = _bare(PERSONAS_AT_LARGE, TOTALS_METHOD, d.shape[1], n, confidence)
    return _estimate(bare, question_moments(d), f"{what}: no interval, no p")


def sign_flip(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the exact sign-flip test of (G, Q) rates over personas at large, no interval.

    More than `MOST_FLIPPED` personas have no p, and the note says so.
    """
    means = _paired(treated, control).mean(axis=1)
    bare = _bare(PERSONAS_AT_LARGE, FLIP_METHOD, int(means.size), n, confidence)
    return _flipped(bare, means, "persona")


def population_refusal(personas: int, max_p: float) -> str:
    """Return why no claim on personas at large can be made at p < `max_p`, "" if it can.

    The exact test's floor bounds the claim: a t below it rests on the shape of a distribution.

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

    Arms are (S,) and (S',) rates, one a seed; with fewer than `MIN_SEEDS` there is a value only.
    """
    arms = _lists(treated, control)
    one, two = (arm.size for arm in arms)
    blocked = "no variation over seeds: no interval, no p"
    if min(one, two) < MIN_SEEDS:
        blocked = f"{NOT_ESTIMABLE}: {one} and {two} seeds, {MIN_SEEDS} each are needed"
    bare = _bare(TRAINING_RUNS, SEED_METHOD, one + two, n, confidence)
    return _estimate(bare, seed_moments(*arms), blocked)


def seeds_paired(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the difference over training runs, seeds as pairs: `run_moments`.

    Both arms are (S,) rates of the same seeds in one order; as in `seeds_welch`, 3 or value only.
    """
    d = _pairs(treated, control)
    blocked = "no variation over seeds: no interval, no p"
    if d.size < MIN_SEEDS:
        pairs = "1 pair" if d.size == 1 else f"{d.size} pairs"
        blocked = f"{NOT_ESTIMABLE}: {pairs} of runs, {MIN_SEEDS} are needed"
    return _estimate(
        _bare(TRAINING_RUNS, PAIR_METHOD, d.size, n, confidence), run_moments(d), blocked
    )


def seeds_flipped(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the exact sign-flip test over the seeds of `seeds_paired`.

    More than `MOST_FLIPPED` seeds have no p, and the note says so.
    """
    d = _pairs(treated, control)
    bare = _bare(TRAINING_RUNS, SEED_FLIP_METHOD, d.size, n, confidence)
    return _flipped(bare, d, "seed")


def seeds_permuted(treated: Floats, control: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the exact two-sample permutation test over the seeds of `seeds_welch`.

    Each arm has one seed or more. More than `MOST_SPLITS` splits have no p, and the note says so.
    """
    a, b = _lists(treated, control)
    bare = _bare(TRAINING_RUNS, SPLIT_METHOD, a.size + b.size, n, confidence)
    bare = replace(bare, value=float(a.mean() - b.mean()))
    ways = splits((a.size, b.size))
    if ways > MOST_SPLITS:
        note = f"no exact p: {ways:,} splits, {MOST_SPLITS:,} at most are enumerated"
        return replace(bare, note=note)
    found = two_samples(a, b)
    counted = f"exact: {found.extreme:,} of {ways:,} splits are as far out"
    note = f"{counted}; the smallest possible p is 2/{ways:,} = {found.floor:.3g}"
    return replace(bare, p=found.p, p_floor=found.floor, note=note)


def seeds_rate(rates: Floats, *, n: int, confidence: float) -> Estimate:
    """Return the mean of (S,) rates over training runs, with Student's t interval, no p."""
    m = run_moments(rates)
    seeds = len(rates)
    blocked = "no variation over seeds: no interval"
    if seeds < MIN_SEEDS:
        blocked = f"{NOT_ESTIMABLE}: {seeds} seeds, {MIN_SEEDS} are needed"
    bare = _bare(TRAINING_RUNS, RATE_METHOD, seeds, n, confidence)
    return replace(_estimate(bare, m, blocked), p=None, signed=False)


def one_seed_risk(
    sds: tuple[float, ...] = (0.05, 0.10, 0.15), alpha: float = 0.05
) -> tuple[tuple[float, ...], str]:
    """Return the sizes of difference that one seed an arm could mistake for a real one.

    Two independent normal runs differ with SD sqrt(2) * SD: run-to-run noise alone
    exceeds z times that with probability `alpha`, z the two-sided normal quantile.

    Args:
        sds: supposed standard deviations of an arm's rate over seeds, > 0.
        alpha: probability of such a mistake, between 0 and 1.

    Returns:
        One size for each SD, as a rate, and all of them in one sentence, in points.
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


def _bare(target: str, method: str, clusters: int, n: int, confidence: float) -> Estimate:
    return Estimate.bare(n, clusters, level(confidence), method, target=target)


def _estimate(bare: Estimate, m: Moments, blocked: str) -> Estimate:
    """Return an estimate with what its moments give; without SE its note is `blocked`."""
    note = f"SE = {float(m.se):.4f}, df = {float(m.df):.3g}"
    return estimated(replace(bare, note=blocked), m, note)


def _paired(treated: Floats, control: Floats) -> Floats:
    """Return the (G, Q) differences of two tables of rates of the same cells."""
    shapes = (np.shape(treated), np.shape(control))
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:  # noqa: PLR2004
        raise bad_rates("two tables (personas, questions) of the same cells", shapes)
    return finite(np.subtract(treated, control, dtype=np.float64), 2)


def _lists(treated: Floats, control: Floats) -> tuple[Floats, Floats]:
    """Return two lists of rates, one a seed."""
    if np.ndim(treated) != 1 or np.ndim(control) != 1:
        raise bad_rates("two lists, one rate a seed", (np.shape(treated), np.shape(control)))
    return finite(treated, 1), finite(control, 1)


def _pairs(treated: Floats, control: Floats) -> Floats:
    """Return the (S,) differences of two lists of rates of the same seeds."""
    a, b = _lists(treated, control)
    if a.size != b.size:
        raise bad_rates("two lists of the same seeds", (a.shape, b.shape))
    return np.asarray(a - b)


def _flipped(bare: Estimate, differences: Floats, unit: str) -> Estimate:
    """Return a bare estimate with the p of the sign-flip test, its count and its floor."""
    bare = replace(bare, value=float(differences.mean()))
    if differences.size > MOST_FLIPPED:
        note = f"no exact p: {differences.size} {unit}s, {MOST_FLIPPED} at most are enumerated"
        return replace(bare, note=note)
    found = sign_flips(differences)
    counted = f"exact: {found.extreme:,} of {found.arrangements:,} sign vectors are as far from 0"
    bound = f"the smallest possible p is {_floor_text(differences.size)}"
    if np.abs(differences).max() <= _TIE:
        bound = f"no {unit} differs, so that p is 1 whatever the signs"
    return replace(bare, p=found.p, p_floor=found.floor, note=f"{counted}; {bound}")


def _floor_text(units: int) -> str:
    return f"2/{2**units:,} = {flip_floor(units):.3g}"
