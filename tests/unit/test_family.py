"""Holm and Bonferroni over all claims, against statsmodels."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from persona_lib.stats.bootstrap import CLUSTER_METHOD
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.targets import QUESTION_METHOD
from persona_lib.verdict.verdict import Family, Verdict, families
from tests import synthetic
from tests.healthy import GATED

NAMES = ("H1", "H2", "H3")


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """`multipletests` collects garbage on every call, which takes most of the time."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def estimate(p: float | None, method: str = CLUSTER_METHOD) -> Estimate:
    return Estimate(
        value=0.2, low=0.1, high=0.3, confidence=0.95, p=p, n=100, clusters=10, method=method
    )


@cache
def judged() -> Verdict:
    return synthetic.verdict("H1")


def verdict(name: str, p: float | None, *looks: Estimate) -> Verdict:
    return replace(judged(), name=name, effect=estimate(p), estimates=looks)


def family(*ps: float | None) -> Family:
    found = families(GATED, [verdict(name, p) for name, p in zip(NAMES, ps, strict=True)])
    assert [f.method for f in found] == [CLUSTER_METHOD]
    return found[0]


@pytest.mark.parametrize(
    "ps",
    [
        (0.01, 0.02, 0.03),
        (0.03, 0.02, 0.01),
        (0.0006664, 0.0167, 0.9),
        (0.02, 0.021, 0.022),  # Holm's adjusted p may not fall along the ranks
        (0.4, 0.5, 0.6),
        (1.0, 1.0, 1.0),
        (0.05, 0.05, 0.001),
        (1e-300, 0.2, 0.1),
    ],
)
def test_agrees_with_statsmodels(ps: tuple[float, ...]) -> None:
    found = family(*ps)
    assert found.claims == NAMES
    assert found.p == ps
    for name, adjusted in (("holm", found.holm), ("bonferroni", found.bonferroni)):
        assert adjusted == pytest.approx(multipletests(ps, method=name)[1], rel=1e-12)


def test_agrees_with_statsmodels_on_many_triples() -> None:
    rng = np.random.default_rng(3)
    for ps in rng.uniform(0, 1, (30, 3)).round(2).clip(1e-6, 1).tolist():
        found = family(*ps)
        assert found.holm == pytest.approx(multipletests(ps, method="holm")[1], rel=1e-12)
        assert all(h <= b + 1e-12 for h, b in zip(found.holm, found.bonferroni, strict=True))


def test_order_does_not_matter_and_the_kill_criterion_is_no_member() -> None:
    ordered = [verdict(name, p) for name, p in zip(NAMES, (0.03, 0.01, 0.02), strict=True)]
    kill = verdict("kill", 0.5)
    assert families(GATED, [kill, *reversed(ordered)]) == families(GATED, ordered)
    assert families(GATED, ordered)[0].p == (0.03, 0.01, 0.02)


@pytest.mark.parametrize("gone", NAMES)
def test_a_claim_that_was_not_judged_leaves_no_family(gone: str) -> None:
    some = [verdict(name, 0.01) for name in NAMES if name != gone]
    assert families(GATED, some) == ()
    assert families(GATED, []) == ()


def test_a_claim_without_a_p_counts_as_one_whose_p_is_1() -> None:
    found = family(0.01, None, 0.04)
    assert found.p == (0.01, None, 0.04)
    assert found.bonferroni == (pytest.approx(0.03), None, pytest.approx(0.12))
    expected = multipletests((0.01, 1.0, 0.04), method="holm")[1]
    assert found.holm == (pytest.approx(expected[0]), None, pytest.approx(expected[2]))
    assert family(None, None, None).holm == (None, None, None)


def test_these_personas_p_are_a_family_of_their_own() -> None:
    looks = {"H1": 0.02, "H2": None, "H3": 0.30}
    made = []
    for name, p in looks.items():
        more = (estimate(0.7, "mixed model"), estimate(p, QUESTION_METHOD))
        made.append(verdict(name, 0.01, *(more if name != "H2" else more[:1])))
    registered, question = families(GATED, made)
    assert (registered.method, question.method) == (CLUSTER_METHOD, QUESTION_METHOD)
    assert question.p == (0.02, None, 0.30)
    assert question.bonferroni == (pytest.approx(0.06), None, pytest.approx(0.90))
    none = [replace(v, estimates=(estimate(None, QUESTION_METHOD),)) for v in made]
    assert [f.method for f in families(GATED, none)] == [CLUSTER_METHOD]
