"""Which kind of interval a verdict reads, and the other kind beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from persona_lib.digests import derive_seed
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.evidence.load import load_stored
from persona_lib.records import ModelId
from persona_lib.stats.bootstrap import resample_rates
from persona_lib.verdict.judging import judge
from persona_lib.verdict.verdict import Verdict
from tests.registered import ISSUE262, ISSUE262_BCA
from tests.synthetic import FEW, evidence

FEW_BCA = replace(ISSUE262_BCA, statistics=replace(FEW.statistics, interval="bca"))
PLAIN, BCA = "cluster bootstrap (as published)", "cluster bootstrap, BCa"
WITH_FALSE: dict[str, Any] = {"false": {"raw": 0.02, "em": 0.06, "benign": 0.01}}
"""False positives, so that what subtracts them draws from four pools."""


@pytest.fixture(scope="module")
def both() -> tuple[RecordEvidence, RecordEvidence]:
    """The same rows under the percentile and under the BCa registration."""
    return tuple(evidence(registration=r, **WITH_FALSE) for r in (FEW, FEW_BCA))  # type: ignore[return-value]


def judged(both: tuple[RecordEvidence, RecordEvidence], claim: str) -> tuple[Verdict, Verdict]:
    plain, bca = (judge(e.registration, e, claim) for e in both)
    return plain, bca


def by_scipy(
    found: RecordEvidence, statistic: Any, pools: list[tuple[Any, tuple[str, ...]]]
) -> tuple[float, float]:
    """BCa ends by scipy, of the draws that the named seeds give; cells are of equal size."""
    root = found.registration.statistics.seed
    draws = [resample_rates(p, 3_000, derive_seed(root, "bootstrap", *n)) for p, n in pools]
    ends = scipy.stats.bootstrap(
        [pool.hits / pool.sizes for pool, _ in pools],
        lambda *x, axis=-1: np.round(statistic(*(part.mean(axis=axis) for part in x)), 12),
        method="BCa",
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=np.round(statistic(*draws), 12)),
    ).confidence_interval
    return float(ends.low), float(ends.high)


@pytest.mark.parametrize(("claim", "control"), [("H1", "C1"), ("H2", "C3"), ("H3", "C2p")])
def test_the_rule_reads_the_registered_interval_and_shows_the_other(
    both: tuple[RecordEvidence, RecordEvidence], claim: str, control: str
) -> None:
    plain, bca = judged(both, claim)
    pools = [(both[0].clusters(arm), (claim, arm)) for arm in ("C2", control)]
    expected = by_scipy(both[0], lambda a, b: a - b, pools)
    assert (plain.effect.method, bca.effect.method) == (PLAIN, BCA)
    assert (bca.effect.low, bca.effect.high) == pytest.approx(expected, abs=1e-9)
    assert (plain.effect.value, plain.effect.p) == (bca.effect.value, bca.effect.p)
    for verdict, other in ((plain, bca), (bca, plain)):
        (look,) = (e for e in verdict.estimates if e.method == other.effect.method)
        assert (look.low, look.high) == (other.effect.low, other.effect.high)
        assert (look.p, look.p_floor, look.target) == (None, None, "")
        assert look.text in verdict.text


def test_the_kill_criterion_and_every_bootstrap_look_have_the_registered_interval(
    both: tuple[RecordEvidence, RecordEvidence],
) -> None:
    plain, bca = judged(both, "kill")
    expected = by_scipy(both[0], lambda a: a, [(both[0].clusters("C2"), ("kill", "C2"))])
    assert (bca.effect.low, bca.effect.high) == pytest.approx(expected, abs=1e-9)
    assert (plain.effect.method, bca.effect.method) == (PLAIN, BCA)
    plain, bca = judged(both, "H2")
    names = {e.method for e in plain.estimates if "cluster bootstrap" in e.method} - {BCA}
    assert len(names) == 4
    assert {f"{name}, BCa" for name in names} <= {e.method for e in bca.estimates}


def test_what_is_minus_false_positives_draws_from_four_pools(
    both: tuple[RecordEvidence, RecordEvidence],
) -> None:
    found = both[1]
    pools = [
        (found.clusters("C2"), ("H2", "C2")),
        (found.clusters("C3"), ("H2", "C3")),
        (found._pool(ModelId("pre", "em"), "bystander"), ("H2", "em", "pre")),
        (found._pool(ModelId("pre", "benign"), "bystander"), ("H2", "benign", "pre")),
    ]
    expected = by_scipy(found, lambda a, b, e, s: a - b - e + s, pools)
    look = found.corrected_contrast("H2", "C2", "C3")
    assert (look.low, look.high) == pytest.approx(expected, abs=1e-9)


def test_bystanders_over_source_draws_from_four_pools(
    both: tuple[RecordEvidence, RecordEvidence],
) -> None:
    found = both[1]
    pools = [
        (found.clusters(arm, who), ("H1", arm, *(() if who == "bystander" else (who,))))
        for arm in ("C2", "C1")
        for who in ("bystander", "source")
    ]
    expected = by_scipy(found, lambda a, s, b, t: a / s - b / t, pools)
    look = found.ratio_contrast("H1", "C2", "C1")
    assert (look.low, look.high) == pytest.approx(expected, abs=1e-9)


def test_published_totals_have_no_other_interval() -> None:
    folder = Path(__file__).resolve().parents[2] / "golden" / "published"
    found = load_stored(folder, ISSUE262)
    assert found.other_interval("H1", "C2", "C1") is None
    assert not [e for e in judge(ISSUE262, found, "H1").estimates if "BCa" in e.method]
