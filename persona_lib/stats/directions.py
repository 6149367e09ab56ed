"""Directions of personas: cosines, centring, effective rank; means and jackknives over questions.

States are arrays (..., personas, width); a missing state holds NaN. A result is NaN only
for a missing state, a vector without length, or too few questions. DataError: arguments that
are no such arrays, or an impossible confidence.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from persona_lib.checks import whole
from persona_lib.errors import DataError
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import Floats, estimated, finite, level, question_moments

ROUNDING = 1e-5
"""A centred state shorter than this, relative to what it was before, is rounding: float32
states of one prompt agree to about that much whatever shares their batch."""

MEAN_METHOD = "t over questions"
JACKKNIFE_METHOD = "jackknife over questions"

_MATRIX = 2


def cosines(states: Floats, source: int) -> Floats:
    """Return the cosine of every persona's state with that of one of them.

    Args:
        states: (..., P, D).
        source: index of that persona, from 0.

    Returns:
        (..., P) cosines in [-1, 1], NaN where a state is missing or has no length.

    Raises:
        DataError: no such persona.
    """
    states = _states(states)
    most = states.shape[-2] - 1
    whole("source", source, 0, most, remedy="Give its place in the roster.", error=DataError)
    lengths = np.sqrt(np.square(states).sum(axis=-1))
    anchor = states[..., source : source + 1, :]
    products = (states * anchor).sum(axis=-1)
    sizes = lengths * lengths[..., source : source + 1]
    found = np.full(products.shape, np.nan)
    np.divide(products, sizes, out=found, where=sizes > 0)
    return np.asarray(np.clip(found, -1.0, 1.0))


def centred(states: Floats) -> Floats:
    """Return states minus their mean over the personas that are there.

    A difference of no more than rounding becomes a vector of zeros, which has no
    direction: see `ROUNDING`.

    Args:
        states: (..., P, D).
    """
    states = _states(states)
    there = np.isfinite(states)
    count = there.sum(axis=-2, keepdims=True)
    total = np.where(there, states, 0.0).sum(axis=-2, keepdims=True)
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    moved = states - mean
    before = np.sqrt(np.square(states).sum(axis=-1, keepdims=True))
    after = np.sqrt(np.square(moved).sum(axis=-1, keepdims=True))
    return np.asarray(np.where(after <= ROUNDING * before, 0.0, moved))


def effective_rank(rows: Floats) -> Floats:
    """Return the effective rank of matrices: how many directions their rows take up.

    exp(-sum p_i log p_i) with p_i = s_i / sum s_j, s the singular values (Roy and
    Vetterli 2007, EUSIPCO, 606): 1 where all rows are parallel, N for N orthogonal
    rows of one length.

    Args:
        rows: (..., N, D).

    Returns:
        (...) ranks from 1 to min(N, D); NaN where a row is missing or all are zero.
    """
    rows = _states(rows)
    there = np.asarray(np.isfinite(rows).all(axis=(-2, -1)))
    held = np.asarray(np.where(there[..., None, None], rows, 0.0), dtype=np.float64)
    found = np.linalg.svd(held, full_matrices=False, compute_uv=False)
    values = np.asarray(found, dtype=np.float64)
    total = values.sum(axis=-1, keepdims=True)
    shares = np.zeros(values.shape)
    np.divide(values, total, out=shares, where=total > 0)
    logs = np.zeros(values.shape)
    np.log(shares, out=logs, where=shares > 0)
    known = there & (total[..., 0] > 0)
    return np.asarray(np.where(known, np.exp(-(shares * logs).sum(axis=-1)), np.nan))


def centroid_ranks(states: Floats, *, centre: bool) -> tuple[float, Floats]:
    """Return the effective rank of persona centroids, and that without each question.

    A centroid is a persona's mean state over the questions where it has one.

    Args:
        states: (P, Q, D).
        centre: subtract the centroids' mean over personas first.

    Returns:
        The rank, and (Q,) ranks that leave one question out each; NaN where a
        persona has no state left.
    """
    states = _states(states)
    if states.ndim != _MATRIX + 1:
        raise _bad("an array (personas, questions, width)", states.shape)
    there = np.isfinite(states).all(axis=-1, keepdims=True)
    held = np.where(there, states, 0.0)
    total, count = held.sum(axis=1, keepdims=True), there.sum(axis=1, keepdims=True)
    sums = np.concatenate([total, total - held], axis=1)
    counts = np.concatenate([count, count - there], axis=1)
    centroids = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=centroids, where=counts > 0)
    groups = np.moveaxis(centroids, 1, 0)
    ranks = effective_rank(centred(groups) if centre else groups)
    return float(ranks[0]), ranks[1:]


def over_questions(values: Floats, confidence: float) -> Estimate:
    """Return the mean of one number a question, with the t interval over questions.

    Changes are paired: give after - before of each question.

    Args:
        values: (Q,) numbers; questions that hold NaN are left out, and n says so.
        confidence: level of the interval.
    """
    values = np.asarray(values, dtype=np.float64)
    level(confidence)
    if values.ndim != 1 or np.isinf(values).any():
        raise _bad("one finite number, or NaN, a question", values.shape)
    values = values[~np.isnan(values)]
    bare = Estimate.bare(values.size, values.size, confidence, MEAN_METHOD)
    return estimated(bare, question_moments(values[None, :])) if values.size else bare


def jackknifed(full: float, without: Floats, confidence: float) -> Estimate:
    """Return a statistic of all questions with the jackknife's interval over questions.

    Pseudo-values Q full - (Q - 1) without_q are treated as one number a question
    (Tukey 1958, Annals of Mathematical Statistics 29:614): their standard error and
    Q - 1 degrees of freedom make a t interval around `full` itself. For a change give
    differences of both arguments, question by question.

    Args:
        full: the statistic.
        without: (Q,) the statistic without each question.
        confidence: level of the interval.

    Returns:
        The estimate; only its value is known where a question's `without` is NaN.
    """
    without = np.asarray(without, dtype=np.float64)
    level(confidence)
    if without.ndim != 1 or not without.size:
        raise DataError(
            "questions of the jackknife", bound="one number a question", value=without.shape,
            remedy="Leave each question out once.",
        )  # fmt: skip
    n = without.size
    bare = Estimate.bare(n, n, confidence, JACKKNIFE_METHOD, value=full)
    if math.isnan(full) or np.isnan(without).any():
        return bare
    pseudo = question_moments(finite(n * full - (n - 1) * without, 1)[None, :])
    return estimated(bare, replace(pseudo, value=np.asarray(full)))


def _states(states: Floats) -> Floats:
    """Return states in double precision, checked; where one number is missing, all are."""
    array = np.asarray(states, dtype=np.float64)
    if array.ndim < _MATRIX or 0 in array.shape or np.isinf(array).any():
        raise _bad("finite numbers (..., personas, width), NaN where missing", array.shape)
    lost = np.isnan(array).any(axis=-1, keepdims=True)
    return np.asarray(np.where(lost, np.nan, array))


def _bad(bound: str, value: object) -> DataError:
    return DataError(
        "states of personas", bound=bound, value=value, remedy="Give one state a persona."
    )
