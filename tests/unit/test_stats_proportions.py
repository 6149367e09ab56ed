"""Wilson's interval and the naive z, against independent calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint, proportions_ztest

from persona_lib.errors import DataError
from persona_lib.stats.proportions import naive_z, two_sided_p, wilson, z_score
from tests.printed import printed, reads


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 50), (50, 50), (1, 7), (383, 1400), (1343, 1400), (100, 200)]
)
@pytest.mark.parametrize("confidence", [0.90, 0.95, 0.9833])
def test_wilson_agrees_with_statsmodels(hits: int, n: int, confidence: float) -> None:
    expected = proportion_confint(hits, n, alpha=1 - confidence, method="wilson")
    assert wilson(hits, n, confidence) == pytest.approx(expected, abs=1e-12)
    assert hits or wilson(hits, n, confidence)[0] == 0


def test_wilson_of_nothing_is_not_a_number() -> None:
    assert all(math.isnan(end) for end in wilson(0, 0))


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(DataError, match="hits"):
        wilson(hits, n)
    with pytest.raises(DataError, match="hits"):
        z_score(hits, n, 1, 2)


def test_naive_z_agrees_with_statsmodels() -> None:
    z, p = proportions_ztest(np.array([806, 383]), np.array([1400, 1400]))
    found = naive_z(806, 1400, 383, 1400)
    assert z_score(806, 1400, 383, 1400) == pytest.approx(z)
    assert found.p == pytest.approx(p, rel=1e-6)
    assert found.value == pytest.approx(423 / 1400)
    (shown,) = printed("z = #; do not interpret", found.note)
    assert shown[0] == "+"
    assert reads(shown, z, 2)


def test_p_does_not_underflow_to_zero() -> None:
    assert 0 < two_sided_p(60.0) < 1e-300
    assert two_sided_p(0.0) == 1.0


@pytest.mark.parametrize("counts", [(0, 10, 0, 10), (10, 10, 10, 10), (0, 0, 1, 2)])
def test_naive_z_where_nothing_varies(counts: tuple[int, int, int, int]) -> None:
    found = naive_z(*counts)
    assert found.p is None
    assert "not computable" in found.note
