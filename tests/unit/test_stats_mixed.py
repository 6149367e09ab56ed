"""The mixed model solved by hand, against statsmodels."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.regression.mixed_linear_model import MixedLM

from persona_lib.errors import DataError
from persona_lib.stats.mixed import random_intercept
from tests.printed import printed, reads

Counts = NDArray[np.int64]


def _rows(
    hits_t: Counts, n_t: Counts, hits_c: Counts, n_c: Counts
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return outcome, design and persona of every completion."""
    cells = [*zip(hits_t, n_t, strict=True), *zip(hits_c, n_c, strict=True)]
    y = np.concatenate([np.r_[np.ones(h), np.zeros(n - h)] for h, n in cells])
    treated = np.r_[np.ones(n_t.sum()), np.zeros(n_c.sum())]
    personas = np.arange(n_t.size)
    groups = np.concatenate([np.repeat(personas, n_t), np.repeat(personas, n_c)])
    return y, np.column_stack([np.ones_like(treated), treated]), groups


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_statsmodels(balanced: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [np.full(7, 60) if balanced else rng.integers(20, 120, 7) for _ in range(2)]
    rates = rng.uniform(0.1, 0.9, 7)
    shifted = np.clip(rates - 0.25, 0.02, 0.98)
    hits = [rng.binomial(n, p) for n, p in zip(sizes, (rates, shifted), strict=True)]
    y, design, groups = _rows(hits[0], sizes[0], hits[1], sizes[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of boundaries that are none
        expected = MixedLM(y, design, groups).fit(gtol=1e-10)
    found = random_intercept(
        *(column.astype(float) for column in (hits[0], sizes[0], hits[1], sizes[1]))
    )
    assert found.value == pytest.approx(expected.fe_params[1], abs=1e-6)
    se = (found.high - found.low) / 2 / 1.959963984540054
    assert se == pytest.approx(expected.bse_fe[1], abs=1e-4)
    (shown,) = printed("SE = #;", found.note)
    assert reads(shown, se, 4)


def test_no_variance_between_personas_is_ordinary_least_squares() -> None:
    hits_t, hits_c, n = np.full(6, 30.0), np.full(6, 20.0), np.full(6, 50.0)
    found = random_intercept(hits_t, n, hits_c, n)
    rss = 300 * 0.6 * 0.4 + 300 * 0.4 * 0.6
    assert found.value == pytest.approx(0.2)
    se = math.sqrt(rss / (600 - 2) * (1 / 300 + 1 / 300))
    assert (found.high - found.low) / 2 == pytest.approx(1.959963985 * se)
    assert "boundary" in found.note


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (([3.0], [5.0], [2.0], [5.0]), "two personas"),
        (([5.0, 5.0], [5.0, 5.0], [0.0, 0.0], [5.0, 5.0]), "no variation"),
        (([0.0, 0.0], [5.0, 5.0], [0.0, 0.0], [5.0, 5.0]), "no variation"),
        (([0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [5.0, 5.0]), "no completions"),
    ],
)
def test_what_cannot_be_fitted_says_why(columns: tuple[list[float], ...], why: str) -> None:
    found = random_intercept(*(np.array(column) for column in columns))
    assert math.isnan(found.value)
    assert found.p is None
    assert found.note.startswith("not fitted")
    assert why in found.note


def test_columns_of_different_length_are_refused() -> None:
    one, two = np.ones(1), np.ones(2)
    with pytest.raises(DataError, match="mixed model"):
        random_intercept(one, one, two, two)
