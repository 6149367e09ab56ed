"""What holds of the three targets, TOST and Holm whatever the rates."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_lib.stats.equivalence import equivalence, holm, tost
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import (
    Floats,
    Moments,
    interval,
    p_value,
    persona_moments,
    question_moments,
    seed_moments,
)
from persona_lib.stats.targets import persona_t, question_t, seeds_welch, sign_flip

FAST = settings(max_examples=40, deadline=None)
"""Deadlines would measure how busy the machine is."""
NEAR = {"rel": 1e-9, "abs": 1e-12}
Test = Callable[[Floats, Floats], Estimate]
Tables = tuple[Floats, Floats]

RATE = st.integers(0, 10).map(lambda hits: hits / 10)
P = st.floats(0, 1, exclude_min=True)


def _tables(shape: tuple[int, ...]) -> st.SearchStrategy[Tables]:
    cells = int(np.prod(shape))
    arm = st.lists(RATE, min_size=cells, max_size=cells).map(lambda x: np.reshape(x, shape))
    return st.tuples(arm, arm)


TABLES = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(_tables)
"""Two arms of 1 to 8 personas by 1 to 8 questions, 10 completions a cell."""
BATCHES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)).flatmap(_tables)
SEEDS = st.tuples(*[st.lists(RATE, min_size=1, max_size=6).map(np.array)] * 2)


def _of(test: Callable[..., Estimate]) -> Test:
    return lambda a, b: test(a, b, n=10 * (a.size + b.size), confidence=0.95)


FLIP, WELCH = _of(sign_flip), _of(seeds_welch)
TESTS = pytest.mark.parametrize(
    "test", [_of(question_t), _of(persona_t), FLIP], ids=["question", "persona", "flip"]
)
MOMENTS = pytest.mark.parametrize("moments", [question_moments, persona_moments])


def same(one: Estimate, two: Estimate) -> None:
    """The same estimate but for what the order of a sum leaves."""
    assert (one.value, one.low, one.high) == pytest.approx(
        (two.value, two.low, two.high), nan_ok=True, **NEAR
    )
    assert (one.p is None) == (two.p is None)
    if one.p is not None:
        assert one.p == pytest.approx(two.p, **NEAR)
    # 0.00625 is printed as 0.0062 or 0.0063: a printed SE is left out.
    notes = [re.sub(r"SE = \d\.\d+", "SE", x.note) for x in (one, two)]
    assert (notes[0], one.clusters) == (notes[1], two.clusters)


def flipped(there: Estimate, back: Estimate) -> None:
    assert back.value == -there.value
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), nan_ok=True, **NEAR)
    assert back.p == there.p


def in_bounds(found: Estimate) -> None:
    assert -1 <= found.value <= 1
    assert found.p is None or 0 < found.p <= 1
    assert not found.has_interval or found.low < found.value < found.high
    assert not found.has_interval or found.p is not None
    assert "0.0000" not in found.note


@TESTS
@FAST
@given(tables=TABLES, seed=st.integers(0, 2**32 - 1))
def test_order_of_personas_and_questions_changes_nothing(
    test: Test, tables: Tables, seed: int
) -> None:
    a, b = tables
    rng = np.random.default_rng(seed)
    cells = np.ix_(rng.permutation(a.shape[0]), rng.permutation(a.shape[1]))
    same(test(a, b), test(a[cells], b[cells]))


@TESTS
@FAST
@given(tables=TABLES)
def test_numbers_keep_their_bounds_and_flip_with_the_arms(test: Test, tables: Tables) -> None:
    a, b = tables
    there, back = test(a, b), test(b, a)
    in_bounds(there)
    flipped(there, back)
    assert back.note == there.note


@TESTS
@FAST
@given(tables=TABLES, seed=st.integers(0, 2**32 - 1))
def test_pairing_counts(test: Test, tables: Tables, seed: int) -> None:
    """What both arms have in common on a cell is no part of a difference."""
    a, b = tables
    common = np.random.default_rng(seed).integers(0, 5, a.shape) / 10
    same(test(a / 2, b / 2), test(a / 2 + common, b / 2 + common))


@FAST
@given(tables=TABLES)
def test_sign_flip_is_a_count_at_or_above_its_floor(tables: Tables) -> None:
    found = FLIP(*tables)
    vectors = 2 ** tables[0].shape[0]
    assert found.p is not None
    count = found.p * vectors
    assert count == round(count)
    assert count >= 2
    assert count % 2 == 0  # each vector has its mirror


@MOMENTS
@FAST
@given(tables=BATCHES)
def test_a_batch_is_what_its_members_are_one_by_one(
    moments: Callable[[Floats], Moments], tables: Tables
) -> None:
    d = tables[0] - tables[1]
    batch = moments(d)
    ends, p, equal = interval(batch, 0.9), p_value(batch), tost(batch, 0.1)
    assert batch.value.shape == batch.se.shape == p.shape == equal.shape == d.shape[:1]
    for i, member in enumerate(d):
        m = moments(member)
        alone = [m.value, m.se, *interval(m, 0.9), p_value(m), tost(m, 0.1)]
        together = [x[i] for x in (batch.value, batch.se, *ends, p, equal)]
        assert together == pytest.approx([float(x) for x in alone], nan_ok=True, **NEAR)
        assert batch.df == m.df
    deep = moments(d[None, :, None])  # batch axes of any number
    assert deep.se.shape == (1, d.shape[0], 1)
    assert deep.se.ravel() == pytest.approx(batch.se, nan_ok=True, **NEAR)


@FAST
@given(tables=BATCHES)
def test_a_batch_of_seeds_is_what_its_members_are(tables: Tables) -> None:
    a, b = tables[0][:, :, 0], tables[1][:, 0, :]

    def figures(m: Moments) -> list[Floats]:
        return [np.asarray(x) for x in (m.value, m.se, m.df, p_value(m), *interval(m, 0.9))]

    for i, together in enumerate(zip(*figures(seed_moments(a, b)), strict=True)):
        alone = figures(seed_moments(a[i], b[i]))
        assert list(together) == pytest.approx([float(x) for x in alone], nan_ok=True, **NEAR)


@FAST
@given(seeds=SEEDS, order=st.integers(0, 2**32 - 1))
def test_seeds_have_no_order_and_arms_have_a_sign(seeds: Tables, order: int) -> None:
    a, b = seeds
    rng = np.random.default_rng(order)
    there = WELCH(a, b)
    in_bounds(there)
    same(there, WELCH(rng.permutation(a), rng.permutation(b)))
    flipped(there, WELCH(b, a))
    assert (there.p is None) == (min(a.size, b.size) < 3 or not (np.ptp(a) or np.ptp(b)))


@FAST
@given(tables=TABLES, band=st.floats(0.01, 2), alpha=st.floats(0.001, 0.49))
def test_equivalence_is_an_interval_within_the_band(
    tables: Tables, band: float, alpha: float
) -> None:
    a, b = tables
    for m in (question_moments(a - b), persona_moments(a - b)):
        found = equivalence(m, band, over="", n=a.size, clusters=1, alpha=alpha)
        in_bounds(found)
        back = equivalence(
            Moments(-m.value, m.se, m.df), band, over="", n=a.size, clusters=1, alpha=alpha
        )
        flipped(found, back)
        assert back.note == found.note
        if found.p is not None and abs(found.p - alpha) > 1e-9:
            assert (found.p < alpha) == (-band < found.low and found.high < band)


@FAST
@given(ps=st.lists(P | st.none(), max_size=12), seed=st.integers(0, 2**32 - 1))
def test_holm_keeps_the_order_and_never_helps(ps: list[float | None], seed: int) -> None:
    found = holm(ps)
    given_ps = [p for p in ps if p is not None]
    adjusted = [p for p in found if p is not None]
    assert [p is None for p in found] == [p is None for p in ps]
    assert all(old <= new <= 1 for old, new in zip(given_ps, adjusted, strict=True))
    for i, j in np.ndindex(len(adjusted), len(adjusted)):
        assert given_ps[i] > given_ps[j] or adjusted[i] <= adjusted[j]
    order = np.random.default_rng(seed).permutation(len(ps))
    assert holm([ps[i] for i in order]) == tuple(found[i] for i in order)
