"""What holds of whole verdicts, whatever the records: order, signs, doubles, bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_lib.errors import DataError
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.stats.clustered import difference, median, ratio, share
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.judging import judge_all
from persona_lib.verdict.summary import summary
from tests.registered import ISSUE262_GATED
from tests.synthetic import FEW, scores, with_column

GATED = replace(ISSUE262_GATED, statistics=FEW.statistics)
DRAWN = ("cluster bootstrap", "minus false positives", "finished", "marker within")
"""Methods that draw: arms have seeds of their own, so that a swap draws others."""


def table(seed: int, seeds: tuple[int, ...] = (1,), *, extreme: bool = False) -> pa.Table:
    """Random rates, lengths, repeats and finish reasons of every arm.

    Where it is extreme, rates are 0, 1/2 or 1, and there may be one question, or one sample.
    """
    rng = np.random.default_rng(seed)
    *rates, source = (rng.choice([0.0, 0.5, 1.0], 5) if extreme else rng.uniform(0, 1, 5)).tolist()
    made = scores(
        dict(zip(("C1", "C2", "C2p", "C3"), rates, strict=True)),
        source=source,
        personas={("C2", "villain"): float(rng.uniform(0, 1))},
        false={"em": float(rng.uniform(0, 0.1))},
        questions=int(rng.integers(1, 3) if extreme else rng.integers(2, 5)),
        samples=int(rng.integers(1, 3)) if extreme else 3,
        seeds=seeds,
    )
    columns = made.to_pydict()
    n = made.num_rows
    columns["tokens"] = rng.integers(0, 90, n).tolist()
    columns["finish"] = rng.choice(["stop", "length"], n).tolist()
    columns["markers"] = [int(h * rng.integers(1, 3)) for h in columns["hit"]]
    return pa.table(columns, schema=made.schema)


def judged(registration: Any, found: pa.Table) -> tuple[Any, Any, Any]:
    evidence = RecordEvidence(registration, found)
    verdicts, gates = judge_all(registration, evidence)
    return verdicts, gates, summary(registration, evidence, checks=gates)


def as_json(registration: Any, found: pa.Table) -> list[Any]:
    verdicts, gates, body = judged(registration, found)
    return [[v.to_json() for v in verdicts], [g.to_json() for g in gates], body]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_order_of_rows_changes_nothing_at_all(seed: int) -> None:
    made = table(seed, seeds=(1, 2))
    order = np.random.default_rng(seed + 1).permutation(made.num_rows)
    assert as_json(GATED, made) == as_json(GATED, made.take(order))


def swapped(made: pa.Table) -> pa.Table:
    """The same records with the names of C1 and C2 exchanged."""
    other = {"C1": "C2", "C2": "C1"}
    names = [other.get(name, name) for name in made.column("model").to_pylist()]
    return with_column(made, "model", pa.array(names))


def close(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_swapping_arms_flips_every_sign(seed: int) -> None:
    """Not `minus false positives`: the models under the arms are not exchanged."""
    made = table(seed)
    one, two = (judged(FEW, t)[0][0] for t in (made, swapped(made)))
    assert len(one.estimates) == len(two.estimates) > 8
    for a, b in zip((one.effect, *one.estimates), (two.effect, *two.estimates), strict=True):
        if a.method.startswith("minus false positives"):
            continue
        assert close(a.value, -b.value), (a, b)
        if not a.method.startswith(DRAWN):
            assert close(a.low, -b.high), (a, b)
            assert close(a.high, -b.low), (a, b)
            assert (a.p is None) is (b.p is None)
            # Far in a tail a rounding of the statistic is many times larger in p.
            logs = [math.log(e.p) for e in (a, b) if e.p is not None]
            assert not logs or math.isclose(*logs, rel_tol=1e-7, abs_tol=1e-6), (a, b)


@settings(max_examples=24, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_every_outcome_is_named_and_every_number_keeps_its_bounds(seed: int, extreme: bool) -> None:
    verdicts, gates, body = judged(GATED, table(seed, extreme=extreme))
    assert [verdict.name for verdict in verdicts] == ["H1", "H2", "H3", "kill"]
    assert all(one.text for one in (*verdicts, *gates))
    for verdict in verdicts:
        for estimate in (verdict.effect, *verdict.estimates):
            _bounded(estimate)
    for gate in gates:
        if math.isfinite(gate.low) and math.isfinite(gate.high):
            assert gate.low <= gate.figure <= gate.high, gate.text
    for arm in body["arms"]:
        for count in (arm["source"], arm["bystanders"], *arm["by_length"]["finished"].values()):
            assert count["rate"] is None or count["low"] <= count["rate"] <= count["high"]


def _bounded(e: Estimate) -> None:
    assert e.p is None or 0 < e.p <= 1
    assert e.p_floor is None or e.p is None or e.p >= e.p_floor
    assert math.isfinite(e.low) == math.isfinite(e.high)
    if e.has_interval:
        assert e.low - 1e-9 <= e.value <= e.high + 1e-9, e.text
    assert "SE = 0.0000" not in e.note


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_seed_that_is_there_twice_is_refused(seed: int) -> None:
    """Two record sets of one seed are one run counted twice, whatever their rows' order."""
    made = table(seed, seeds=(7,))
    with pytest.raises(DataError, match="one row"):
        RecordEvidence(GATED, pa.concat_tables([made, made]))
    other = with_column(made, "seed", pa.array([8] * made.num_rows, pa.int64()))
    assert RecordEvidence(GATED, pa.concat_tables([made, other.cast(made.schema)])).seeds == (7, 8)


counts = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=8)


def interval_of(pairs: list[tuple[int, int]]) -> Estimate:
    hits = np.array([min(pair) for pair in pairs], dtype=float)
    return share(hits, np.array([max(pair) for pair in pairs], dtype=float), 0.95)


@settings(deadline=None)
@given(counts, counts)
def test_clustered_intervals_hold_their_numbers(
    one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    a, b = interval_of(one), interval_of(two)
    for found in (a, b, difference(a, b), ratio(a, b)):
        if not math.isnan(found.low):
            assert found.low - 1e-12 <= found.value <= found.high + 1e-12
    d, back = difference(a, b), difference(b, a)
    assert close(d.low, -back.high)
    if min(a.low, b.low) > 0:
        r, inverse = ratio(a, b), ratio(b, a)
        assert close(r.low, 1 / inverse.high)
        assert close(r.high, 1 / inverse.low)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4)), min_size=1, max_size=40),
    st.integers(0, 10**6),
)
def test_median_does_not_ask_for_order(rows: list[tuple[int, int]], seed: int) -> None:
    values, questions = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = median(values, questions, 0.95)
    order = np.random.default_rng(seed).permutation(values.size)
    assert str(found) == str(median(values[order], questions[order], 0.95))
    if not math.isnan(found.low):
        assert found.low <= found.value <= found.high
        assert found.low in values
        assert found.high in values
