"""Published totals: read within their bounds, quoted as they are, never guessed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from persona_lib.errors import DataError
from persona_lib.evidence.from_totals import AggregateEvidence
from persona_lib.verdict.judging import judge
from tests.registered import ISSUE262, ISSUE262_BCA

PUBLISHED = Path(__file__).resolve().parents[2] / "golden" / "published"


def counted() -> dict[str, Any]:
    """The published aggregates as they are: every persona is counted."""
    data: dict[str, Any] = json.loads((PUBLISHED / "aggregates.json").read_text())
    return data


def body() -> dict[str, Any]:
    """The published aggregates, with a rounded rate in place of one persona's count."""
    data = counted()
    data["arms"]["C1"]["personas"]["villain"] = {"rate": 0.04, "n": 200}
    return data


def test_published_totals_of_some_arms_can_be_judged_on_those() -> None:
    data = body()
    del data["arms"]["C2p"], data["arms"]["C3"]
    data["contrasts"] = data["contrasts"][:1]
    found = AggregateEvidence(ISSUE262, data, arms=("C2", "C1"))
    assert found.arms == ("C1", "C2")
    assert judge(ISSUE262, found, "H1").effect.value == 0.302
    with pytest.raises(DataError, match="aggregates: arms: expected one of C1, C2, got 'C2p'"):
        AggregateEvidence(ISSUE262, data)
    data["contrasts"] = body()["contrasts"]
    with pytest.raises(DataError, match="arm of a contrast: expected one of C1, C2, got 'C3'"):
        AggregateEvidence(ISSUE262, data, arms=("C1", "C2"))


def test_without_the_count_of_one_persona_nothing_is_read_by_persona() -> None:
    found, whole = AggregateEvidence(ISSUE262, body()), AggregateEvidence(ISSUE262, counted())
    assert found.by_persona("C1") is None
    sentence = {e.method for e in judge(ISSUE262, found, "H1").estimates}
    more = {e.method for e in judge(ISSUE262, whole, "H1").estimates} - sentence
    assert more == {
        "persona-level t, questions pooled",
        "exact sign-flip over personas",
        "mixed model, persona random intercept (as published)",
    }
    for words in ("Mixed model: it needs counts", "personas at large"):
        assert words in str(found.unavailable)
        assert words not in str(whole.unavailable)
    # The arms that are asked for decide: H2 reads neither C1 nor its villain.
    assert AggregateEvidence(ISSUE262, body(), arms=("C2", "C3")).unavailable == whole.unavailable


def test_totals_of_every_persona_give_the_statistics_of_personas() -> None:
    """Made up: nothing is quoted, so that no registered interval or p is known."""
    hits = {"C1": (12, 9, 20, 11, 7, 14, 10), "C2": (40, 38, 52, 30, 44, 41, 39)}
    names = ISSUE262.roster.bystanders
    arms = {
        arm: {
            "bystanders": {"hits": sum(own), "n": 700},
            "personas": {p: {"hits": h, "n": 100} for p, h in zip(names, own, strict=True)},
            "mean_tokens": 100.0,
        }
        for arm, own in hits.items()
    }
    body = {"seeds": [1], "runs": 1, "arms": arms, "false_positives": {}, "contrasts": []}
    found = judge(ISSUE262, AggregateEvidence(ISSUE262, body, arms=("C1", "C2")), "H1")
    looks = {look.method: look for look in found.estimates}
    one, two = (np.array(hits[arm]) / 100 for arm in ("C2", "C1"))
    expected = stats.ttest_rel(one, two)
    low, high = expected.confidence_interval(0.95)
    personas = looks["persona-level t, questions pooled"]
    assert (personas.p, personas.low, personas.high) == pytest.approx((expected.pvalue, low, high))
    assert looks["exact sign-flip over personas"].p == 2 / 128  # every difference is above 0
    assert (found.effect.value, found.effect.p) == (pytest.approx((one - two).mean()), None)
    assert found.effect.note == "aggregates hold no cells to draw from"


def test_a_misspelt_name_in_totals_is_answered_with_the_near_one() -> None:
    data = counted()
    data["arms"]["C1"]["personas"]["Villain"] = data["arms"]["C1"]["personas"].pop("villain")
    with pytest.raises(DataError, match=r"got 'Villain'. Did you mean villain\? "):
        AggregateEvidence(ISSUE262, data)


@pytest.mark.parametrize("by", [1, -1])
def test_counts_of_all_bystanders_have_to_add_up_to_their_pool(by: int) -> None:
    data = counted()
    data["arms"]["C2"]["personas"]["villain"]["hits"] += by
    with pytest.raises(DataError, match=rf"C2 personas.* 806/1400, got '{806 + by}/1400"):
        AggregateEvidence(ISSUE262, data)
    data["arms"]["C2"]["personas"]["villain"] = {"hits": 126, "n": 201}
    with pytest.raises(DataError, match="got '806/1401"):
        AggregateEvidence(ISSUE262, data)
    data = body()  # not all are counted: nothing to add up
    data["arms"]["C1"]["personas"]["comedian"]["hits"] += 1
    AggregateEvidence(ISSUE262, data)


def test_quoted_rates_are_compared_with_the_counts_and_used_for_nothing() -> None:
    data = counted()
    quoted = data["arms"]["C2"]["quoted"]
    found = AggregateEvidence(ISSUE262, data)
    assert found.count("C2", "software_engineer").hits == 121
    (sentence,) = found.remarks
    assert sentence == (
        "C2: persona rates that the publication quotes contradict its counts, which are used. They "
        "come to 817 hits of 1,400, its total is 806. Quoted against counted: software_engineer "
        "67.5% against 60.5%, comedian 60.5% against 59.0%, villain 60.0% against 63.0%."
    )
    assert sentence in judge(ISSUE262, found, "H2").notes
    # Rates that agree with the counts are not remarked on, whichever of them are quoted.
    quoted["software_engineer"]["rate"], quoted["comedian"]["rate"] = 0.605, 0.59
    quoted["villain"]["rate"] = 0.63
    assert AggregateEvidence(ISSUE262, data).remarks == ()
    del quoted["villain"]
    quoted["comedian"]["rate"] = 0.6
    assert AggregateEvidence(ISSUE262, data).remarks == (
        "C2: persona rates that the publication quotes contradict its counts, which are used. "
        "Quoted against counted: comedian 60.0% against 59.0%.",
    )
    quoted["pirate"] = {"rate": 0.6, "n": 200}
    with pytest.raises(DataError, match="C2 quoted: expected one of librarian"):
        AggregateEvidence(ISSUE262, data)
    del quoted["pirate"]
    quoted["comedian"]["rate"] = 1.6
    with pytest.raises(DataError, match="C2 quoted comedian rate: expected between 0 and 1"):
        AggregateEvidence(ISSUE262, data)


def test_a_quoted_interval_of_another_kind_is_not_read() -> None:
    """H2 is refuted by its interval alone, H3 needs one; H1 needs none."""
    found = AggregateEvidence(ISSUE262_BCA, counted())
    effect = judge(ISSUE262_BCA, found, "H2").effect
    assert (effect.value, effect.p) == (-0.384, pytest.approx(2 / 10_001))
    assert not effect.has_interval
    assert effect.note == "a percentile interval was published, bca is registered: not read"
    outcomes = [judge(ISSUE262_BCA, found, name).outcome.value for name in ("H1", "H2", "H3")]
    assert outcomes == ["SUPPORTED", "INCONCLUSIVE", "INCONCLUSIVE"]
    data = counted()
    for contrast in data["contrasts"]:
        contrast["interval"] = "bca"
    effect = judge(ISSUE262_BCA, AggregateEvidence(ISSUE262_BCA, data), "H2").effect
    assert (effect.low, effect.high, effect.note) == (-0.424, -0.344, "")
    assert effect.method == "cluster bootstrap, BCa"
    assert not AggregateEvidence(ISSUE262, data).contrast("H2", "C2", "C3").has_interval
    for contrast in data["contrasts"]:
        del contrast["interval"]  # what says nothing is a percentile interval
    assert AggregateEvidence(ISSUE262, data).contrast("H2", "C2", "C3").low == -0.424


def test_a_quoted_effect_that_its_counts_contradict_is_refused() -> None:
    data = body()
    data["contrasts"][0]["value"] = 0.312
    with pytest.raises(DataError, match=r"contrast C2 - C1.*0\.3021"):
        AggregateEvidence(ISSUE262, data)


@pytest.mark.parametrize("lost", ["arms", "contrasts", "false_positives", "runs"])
def test_lost_aggregates_are_refused(lost: str) -> None:
    data = body()
    del data[lost]
    with pytest.raises(DataError, match=lost):
        AggregateEvidence(ISSUE262, data)


Keys = tuple[str | int, ...]


def with_value(path: Keys, value: Any) -> dict[str, Any]:
    """Return the published aggregates with one value exchanged."""
    data: Any = body()
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return data  # type: ignore[no-any-return]


FIRST = ("contrasts", 0)
C1 = ("arms", "C1")


PIRATE = {"hits": 1, "n": 2}
UNKNOWN = "C1 personas: expected one of librarian"
NAN, INF = math.nan, math.inf
IMPOSSIBLE: list[tuple[Keys, str, list[Any]]] = [
    ((*FIRST, "value"), "contrast C2 - C1: expected between -1 and 1", [NAN, "0.302"]),
    ((*FIRST, "low"), "contrast C2 - C1 low: expected at most the effect, 0.302",
     [0.303, -1.1, None, NAN]),
    ((*FIRST, "high"), "contrast C2 - C1 high: expected at least the effect, 0.302",
     [0.301, 1.1, None]),
    ((*FIRST, "confidence"), "contrast C2 - C1 confidence: expected between 0 and 1", [0, 1, 95]),
    ((*FIRST, "resamples"), "contrast C2 - C1 resamples: expected from 1", [0]),
    ((*FIRST, "tail"), "contrast C2 - C1 tail: expected from 0 to 10000", [-1, 10_001, 0.5]),
    ((*FIRST, "clusters"), "contrast C2 - C1 clusters", [0]),
    ((*FIRST, "interval"), "contrast C2 - C1 interval: expected one of percentile, bca",
     ["BCa", None]),
    ((*FIRST, "treated"), "arm of a contrast", ["C9", ["C2"]]),
    (("runs",), "runs: expected from 1", [0, INF, 1.0, True]),
    (("seeds",), "seeds", [[INF], [-1]]),
    ((*C1, "mean_tokens"), "C1 mean_tokens: expected finite", [INF, -1, 10**400]),
    ((*C1, "bystanders", "n"), "C1 bystanders n: expected from 1", [0, 1400.5, INF, 10**400]),
    ((*C1, "bystanders", "hits"), "C1 bystanders hits: expected from 0 to 1400", [1401, -1]),
    ((*C1, "personas", "villain", "rate"), "C1 villain rate: expected between 0 and 1",
     [1.01, NAN]),
    ((*C1, "personas", "pirate"), UNKNOWN, [PIRATE]),
    ((*C1, "personas", "source"), UNKNOWN, [PIRATE]),
    ((*C1, "personas", "all"), UNKNOWN, [PIRATE]),
    (("arms", "C9"), "arms: expected one of C1, C2, C2p, C3, got 'C9'", [{}]),
    (("false_positives", "evil"), "prior: expected one of raw, em, benign", [{"hits": 0, "n": 5}]),
    (("false_positives", "raw", "hits"), "false positives of raw hits", [51]),
    (("contrasts",), "the layout of AggregateEvidence", [3]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "field", "values"), IMPOSSIBLE)
def test_impossible_aggregates_are_named(path: Keys, field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(DataError, match=r"^aggregates") as caught:
            AggregateEvidence(ISSUE262, with_value(path, value))
        assert field in str(caught.value)


def test_aggregates_at_their_bounds_are_read() -> None:
    for path, value in (
        ((*FIRST, "low"), 0.302),
        ((*FIRST, "high"), 0.302),
        ((*FIRST, "tail"), 10_000),
        ((*C1, "personas", "villain", "rate"), 1.0),
        ((*C1, "bystanders"), {"hits": 383, "n": 1400}),
        ((*C1, "mean_tokens"), 0),
    ):
        assert AggregateEvidence(ISSUE262, with_value(path, value)).runs == 1


def test_a_contrast_may_be_published_without_an_interval() -> None:
    data = with_value((*FIRST, "low"), None)
    data["contrasts"][0]["high"] = None
    found = AggregateEvidence(ISSUE262, data).contrast("H1", "C2", "C1")
    assert found.value == 0.302
    assert not found.has_interval


def test_published_false_positives_are_subtracted_once() -> None:
    """C1 stands on the raw model; C2 and C2p share theirs, which cancels and is not counted."""
    data = with_value(("false_positives", "em"), {"hits": 5, "n": 50})
    found = AggregateEvidence(ISSUE262, data)
    apart, same = (found.corrected_contrast("H1", "C2", arm) for arm in ("C1", "C2p"))
    assert apart.value == pytest.approx(806 / 1400 - 0.1 - 383 / 1400)
    assert apart.n == 2 * 1400 + 2 * 50
    assert same.value == 806 / 1400 - 47 / 1400
    assert same.n == 2 * 1400


def test_swapped_arms_turn_a_quoted_estimate() -> None:
    found = AggregateEvidence(ISSUE262, body()).contrast("H1", "C1", "C2")
    assert (found.value, found.low, found.high) == (-0.302, -0.370, -0.234)


def test_a_pair_that_was_not_published_has_no_interval() -> None:
    found = AggregateEvidence(ISSUE262, body()).contrast("H1", "C3", "C1")
    assert found.value == pytest.approx(960 / 1400)
    assert not found.has_interval
    assert found.p is None
