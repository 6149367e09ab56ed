"""Contrasts of cells over training runs: one number a seed, its t and its exact sign flips.

A cell is trained once for every source. Sources of one seed share its priors, so that they are
averaged within the seed, and seeds are the units. p is against the smallest effect that
matters, d, and not against 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from persona_lib.checks import POSITIVE, number
from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.exact import MOST_FLIPPED, flip_floor, sign_flips
from persona_lib.stats.moments import (
    MIN_SEEDS,
    Floats,
    Moments,
    bad_rates,
    estimated,
    level,
    p_value,
    run_moments,
)
from persona_lib.stats.targets import NOT_ESTIMABLE, SEED_FLIP_METHOD
from persona_lib.stats.thresholds import shown

RUN_METHOD = "paired t over seeds, p against d"


def contrast_of_seeds(cells: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Return the (S,) weighted sums of cells, NaN for a seed in which any figure is missing.

    Args:
        cells: (K, S) figures of each cell: K sources, S seeds in one order; NaN where missing.
        weights: one of each cell.

    Raises:
        DataError: other seeds or another number of weights.
    """
    shapes = [np.shape(cell) for cell in cells]
    if len({shape[1:] for shape in shapes}) != 1 or len(weights) != len(cells):
        raise bad_rates("cells (sources, seeds) of the same seeds, a weight each", shapes)
    means = np.stack([np.mean(cell, axis=0, dtype=np.float64) for cell in cells])
    return np.asarray(np.asarray(weights, dtype=np.float64) @ means)


def p_against(m: Moments, smallest: float) -> Floats:
    """Return two-sided p against an effect of d: the smaller one-sided p doubled, at most 1.

    (Student 1908, Biometrika 6:1.) NaN where there is no SE.
    """
    return p_value(replace(m, value=m.value - smallest))


def run_estimate(
    d: Floats, *, smallest: float, runs: int, confidence: float, target: str
) -> Estimate:
    """Return the mean contrast over training runs: paired t, its interval, and p against d.

    Args:
        d: (S,) contrasts, one a seed, none missing; with fewer than 3 there is a value only.
        smallest: d, > 0, in units of the outcome.
        runs: training runs behind each seed's number.
        confidence: level of the interval.
        target: what is estimated, in words.

    Raises:
        DataError: a contrast is missing, or a number is out of bounds.
    """
    number("smallest", smallest, POSITIVE, remedy="Give a rise that matters.", error=DataError)
    seeds = int(np.size(d))
    bare = Estimate.bare(runs * seeds, seeds, level(confidence), RUN_METHOD, target=target)
    if not seeds:
        return replace(bare, note="no seed has a number of every arm")
    m = run_moments(d)
    blocked = "no variation over seeds: no interval, no p"
    if seeds < MIN_SEEDS:
        seen = "1 seed" if seeds == 1 else f"{seeds} seeds"
        blocked = f"{NOT_ESTIMABLE}: {seen}, {MIN_SEEDS} are needed"
    note = f"SE = {float(m.se):.4f}, df = {float(m.df):.3g}; d = {shown(smallest)}"
    found = estimated(replace(bare, note=blocked), m, note)
    return found if found.p is None else replace(found, p=float(p_against(m, smallest)))


def run_flips(d: Floats, *, smallest: float, runs: int, confidence: float, target: str) -> Estimate:
    """Return the exact sign-flip test of (S,) contrasts against an effect of d, no interval.

    Arguments as for `run_estimate`, S >= 1. More than `MOST_FLIPPED` seeds have no p, and the
    note says so.
    """
    seeds, value = int(np.size(d)), float(np.mean(d))
    method = f"{SEED_FLIP_METHOD}, p against d"
    bare = Estimate.bare(runs * seeds, seeds, confidence, method, value=value, target=target)
    if seeds > MOST_FLIPPED:
        note = f"no exact p: {seeds} seeds, {MOST_FLIPPED} at most are enumerated"
        return replace(bare, note=note)
    found = sign_flips(np.asarray(d - smallest, dtype=np.float64))
    note = f"the smallest possible p is 2/{2**seeds:,} = {flip_floor(seeds):.3g}"
    return replace(bare, p=found.p, p_floor=found.floor, note=note)
