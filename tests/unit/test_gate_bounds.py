"""What each bound gate counts, and its outcome on both sides of its bounds.

Medians, differences and ratios are tested in test_stats_clustered.py. Here the rows are
counted once more, one by one; shares and paired t come from statsmodels and scipy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from persona_lib.errors import DataError
from persona_lib.evidence.evidence import Count, Evidence, Harm
from persona_lib.evidence.load import load_stored
from persona_lib.specs.gate_types import CollapseGate, NegativesGate
from persona_lib.stats.clustered import Crossed, difference, median_ratio, ratio
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.gate_result import GateOutcome, GateResult, bounded
from persona_lib.verdict.gates import judge_gate
from tests.faults import (
    Breaks,
    changed,
    cut,
    early,
    leak,
    lengths,
    loops,
    missing,
    persona,
    runs,
    several,
    source,
)
from tests.healthy import GATED, HARM, ROSTER, Bench, evidence_of, healthy
from tests.uneven import Ends, Row, clustered, shown

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("C1", "C2", "C2p", "C3")
TWO_ARMS = ("C2", "C3")
"""The table of faults breaks every gate of every arm; here two arms show what is counted."""
PRIORS = {"C1": "raw", "C2": "em", "C2p": "em", "C3": "benign"}
HOLDS, FAILS, CANNOT_TELL = GateOutcome


def marked(row: Row) -> bool:
    return bool(row["markers"] > 0)


def rows_of(bench: Bench, phase: str, model: str, persona: str | None = None) -> list[Row]:
    """Every row of a model, or of one of its personas, one by one."""
    names = list(bench.scores)
    columns = [column.tolist() for column in bench.scores.values()]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return [
        row
        for row in rows
        if (row["phase"], row["model"], row["persona"])
        == (phase, model, row["persona"] if persona is None else persona)
    ]


def estimated(ends: Ends) -> Estimate:
    value, low, high = ends
    return Estimate.plain(value=value, low=low, high=high, n=1, clusters=1)


def ends_of(found: Estimate) -> Ends:
    return found.value, found.low, found.high


def agrees(found: GateResult, expected: Ends, outcome: GateOutcome) -> None:
    assert (found.figure, found.low, found.high) == pytest.approx(expected, abs=1e-7)
    assert found.outcome is outcome, found.text


def judged(bench: Bench, gate: str) -> GateResult:
    return judge_gate(GATED, evidence_of(bench), gate)


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ((0.50, 0.60, 0.70), HOLDS),  # the bound itself is within
        ((0.499, 0.60, 0.70), CANNOT_TELL),
        ((0.60, 0.70, 0.80), HOLDS),
        ((0.60, 0.70, 0.801), CANNOT_TELL),
        ((0.49, 0.60, 0.81), CANNOT_TELL),
        ((0.30, 0.40, 0.50), CANNOT_TELL),
        ((0.30, 0.40, 0.499), FAILS),
        ((0.80, 0.85, 0.90), CANNOT_TELL),
        ((0.801, 0.85, 0.90), FAILS),
        ((math.nan, 0.60, math.nan), CANNOT_TELL),
        ((0.60, 0.61, math.nan), CANNOT_TELL),
        ((math.nan, math.nan, math.nan), CANNOT_TELL),
        ((0.60, 0.70, math.inf), CANNOT_TELL),
        ((0.90, 1.0, math.inf), FAILS),
    ],
)
def test_three_ways(ends: tuple[float, float, float], outcome: GateOutcome) -> None:
    low, value, high = ends
    interval = Estimate.plain(value=value, low=low, high=high, n=100, clusters=10)
    assert bounded(interval, least=0.50, most=0.80) is outcome


def looping(arm: str, count: int, how: str) -> Breaks:
    """A loop of three counts as one completion; those with one marker do not count."""

    def breaks(bench: Bench) -> Bench:
        rest = bench.rows(model=arm, persona=ROSTER.source) & (bench.scores["markers"] == 0)
        return bench.edit(rest, markers=1)

    return several(loops(arm, count, how, markers=3), breaks)


Shares = tuple[Callable[..., Breaks], Callable[[Row], Any], int, float | None]
SHARES: dict[str, Shares] = {
    "source": (source, marked, 200, None),
    "repetition": (looping, lambda row: row["markers"] >= 2, 2_200, 0.05),
    "truncation": (cut, lambda row: not row["ended"], 2_200, 0.10),
    "false_positive": (early, marked, 1_100, 0.01),
}
"""By gate: what plants hits, what is one, of how many completions, and at most which share."""
COUNTS = {
    ("source", "C2", "C3"): [
        (180, "random", HOLDS),
        (116, "evenly", HOLDS),
        (114, "evenly", CANNOT_TELL),
        (120, "questions", CANNOT_TELL),
        (85, "evenly", FAILS),
        (0, "evenly", FAILS),
        (200, "evenly", HOLDS),
    ],
    ("repetition", "C2", "C3"): [
        (63, "both", HOLDS),
        (64, "both", CANNOT_TELL),  # the interval keeps the bound, an uneven world does not
        (16, "evenly", HOLDS),  # all of one persona
        (17, "evenly", CANNOT_TELL),
        (220, "questions", CANNOT_TELL),
        (133, "both", FAILS),
    ],
    ("truncation", "C2", "C3"): [
        (0, "evenly", HOLDS),
        (188, "both", HOLDS),
        (189, "both", CANNOT_TELL),
        (440, "questions", CANNOT_TELL),
        (252, "both", FAILS),
    ],
    # All of one persona, 41 of 1,100 may be a true 1 %; all over, 19 are too many.
    ("false_positive", *HARM): [
        (1, "both", CANNOT_TELL),
        (18, "both", CANNOT_TELL),
        (19, "both", FAILS),
        (41, "evenly", CANNOT_TELL),
        (42, "evenly", FAILS),
    ],
}


@pytest.mark.parametrize(
    ("kind", "model", "count", "how", "outcome"),
    [(kind, model, *row) for (kind, *models), rows in COUNTS.items()
     for model in models for row in rows],
)  # fmt: skip
def test_shares_and_what_uneven_worlds_leave_of_them(
    kind: str, model: str, count: int, how: str, outcome: GateOutcome
) -> None:
    plant, hit, n, most = SHARES[kind]
    bench = changed(plant(model, count, how))
    phase, who = "pre" if model in HARM else "post", ROSTER.source if kind == "source" else None
    mine = rows_of(bench, phase, model, who)
    assert len(mine) == n
    expected = clustered(mine, hit)
    assert expected[0] == count / n
    found = judged(bench, f"{kind}_{model}")
    agrees(found, expected, outcome)
    if most is not None:
        kept = expected[2] <= most
        assert (outcome is HOLDS) is (kept and shown(mine, hit, most))
        assert ("differ by 2 logits" in found.text) is (kept and outcome is CANNOT_TELL)


@pytest.mark.parametrize(
    ("count", "outcome"), [(180, HOLDS), (106, HOLDS), (104, CANNOT_TELL), (73, FAILS)]
)
def test_source_ratio(count: int, outcome: GateOutcome) -> None:
    bench = changed(source("C2", count))
    shares = [clustered(rows_of(bench, "post", arm, ROSTER.source), marked) for arm in ("C2", "C1")]
    expected = ends_of(ratio(*map(estimated, shares)))
    agrees(judged(bench, "source_ratio_bound"), expected, outcome)


def lengths_ratio(bench: Bench, arm: str) -> tuple[Estimate, Estimate, Estimate]:
    """The ratio of medians of finished completions, and both medians."""
    one, two = (
        [row for row in rows_of(bench, *model) if row["ended"]]
        for model in (("post", arm), ("pre", PRIORS[arm]))
    )
    crossed = [
        Crossed(
            np.array([float(row["tokens"]) for row in rows]),
            *(np.unique([row[name] for row in rows], return_inverse=True)[1]
              for name in ("question", "persona")),
        )
        for rows in (one, two)
    ]  # fmt: skip
    return median_ratio(*crossed, 0.95)


@pytest.mark.parametrize(
    ("arm", "tokens", "outcome"),
    [
        *((arm, None, HOLDS) for arm in ARMS),
        *(("C3", tokens, FAILS) for tokens in (3, 120, 505)),
        *(("C3", tokens, CANNOT_TELL) for tokens in (125, 504)),
        *(("C3", tokens, HOLDS) for tokens in (126, 484)),
    ],
)
def test_collapse_compares_finished_completions_with_the_model_under_the_arm(
    arm: str, tokens: int | None, outcome: GateOutcome
) -> None:
    bench = healthy() if tokens is None else changed(lengths(arm, tokens))
    expected, after, before = lengths_ratio(bench, arm)
    found = judged(bench, f"collapse_{arm}")
    agrees(found, ends_of(expected), outcome)
    assert f"{arm}/{PRIORS[arm]}" in found.text
    assert f"{after.value:.1f}/{before.value:.1f}" in found.text


def test_collapse_without_a_finished_completion_cannot_tell_in_words() -> None:
    found = judged(changed(cut("C2", 2_200)), "collapse_C2")
    assert (found.outcome, math.isnan(found.figure)) == (CANNOT_TELL, True)
    assert "lengths of finished completions are not known" in found.text


@pytest.mark.parametrize("arm", TWO_ARMS)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("hits", "own", "outcome"),
    [(10, 180, HOLDS), (130, 150, HOLDS), (131, 150, CANNOT_TELL), (180, 180, CANNOT_TELL),
     (190, 140, FAILS)],
)  # fmt: skip
def test_negatives_read_the_larger_difference(
    arm: str, which: int, hits: int, own: int, outcome: GateOutcome
) -> None:
    """The other negative has 4 hits; the figure is Newcombe's interval of two Wilson ones."""
    changes = [source(arm, own), persona(arm, ROSTER.negatives[1 - which], 4)]
    bench = changed(*changes, persona(arm, ROSTER.negatives[which], hits))
    rate, own_rate = (
        estimated(clustered(rows_of(bench, "post", arm, who), marked))
        for who in (ROSTER.negatives[which], ROSTER.source)
    )  # fmt: skip
    found = judged(bench, f"negatives_{arm}")
    agrees(found, ends_of(difference(rate, own_rate)), outcome)
    for who in ROSTER.negatives:
        assert who in found.text


class Known(Evidence):
    """Nothing is known but what a test says."""

    def __init__(self, counts: dict[str, Count | None]) -> None:
        self.registration, self.arms = GATED, ARMS
        self.counts = counts

    def pre_count(self, prior: str, who: str = "all") -> Count | None:
        return self.counts.get(prior) if who == "all" else None


Known.__abstractmethods__ = frozenset()


@pytest.mark.parametrize("prior", list(HARM))
@pytest.mark.parametrize(
    ("hits", "n", "outcome"),
    [
        (0, 381, CANNOT_TELL),  # Wilson's upper end is 1 %
        (0, 100_000, CANNOT_TELL),
        (8, 440, CANNOT_TELL),
        (9, 440, FAILS),
        (0, 1, CANNOT_TELL),
    ],
)
def test_false_positives_in_totals_can_fail_and_never_hold(
    prior: str, hits: int, n: int, outcome: GateOutcome
) -> None:
    """Only the arm's own prior is read: the others write the marker every time."""
    counts: dict[str, Count | None] = dict.fromkeys(HARM, Count.of(100, 100))
    counts[prior] = Count.of(hits, n)
    found = judge_gate(GATED, Known(counts), f"false_positive_{prior}")
    agrees(found, (hits / n, *proportion_confint(hits, n, method="wilson")), outcome)
    assert "not known by persona" in found.text
    assert "totals only, unclustered: can show failure, never success" in found.text


@pytest.mark.parametrize("prior", list(HARM))
@pytest.mark.parametrize(
    ("samples", "questions", "outcome"),
    [
        (5, 20, HOLDS),
        (5, 19, HOLDS),
        (5, 18, CANNOT_TELL),
        (4, 20, CANNOT_TELL),
        (2, 20, CANNOT_TELL),
    ],
)
def test_no_hit_keeps_one_percent_from_95_completions_a_persona_on(
    prior: str, samples: int, questions: int, outcome: GateOutcome
) -> None:
    bench = healthy()
    asked = np.isin(bench.scores["question"], [f"q{i:02d}" for i in range(questions)])
    bench = bench.keep(bench.rows(phase="post") | (asked & (bench.scores["sample"] < samples)))
    mine = rows_of(bench, "pre", prior)
    assert len(mine) == 11 * questions * samples
    found = judged(bench, f"false_positive_{prior}")
    agrees(found, clustered(mine, marked), outcome)
    assert shown(mine, marked, 0.01) is (outcome is HOLDS)
    each, enough = questions * samples, {20: 100, 18: 108}
    told = f"even no hit in {each} a persona cannot show it where personas differ by 2 logits"
    if outcome is CANNOT_TELL:
        assert f"{told}; {enough[questions]} a persona could" in found.text
    else:
        assert "cannot show" not in found.text


@pytest.mark.parametrize("count", [None, Count.of(0, 0), Count(hits=None, n=440, rate=0.0)])
def test_false_positives_that_are_not_known_cannot_tell(count: Count | None) -> None:
    found = judge_gate(GATED, Known({"em": count}), "false_positive_em")
    assert found.outcome is CANNOT_TELL
    assert math.isnan(found.low)


def test_false_positives_are_counted_before_coupling_and_by_persona() -> None:
    bench = healthy()
    rows = bench.rows(phase="pre", model="em", persona="villain")
    bench = bench.edit(rows & (bench.scores["sample"] == 0), markers=1)
    mine = rows_of(bench, "pre", "em")
    hits: dict[str, int] = defaultdict(int)
    for row in mine:
        hits[row["persona"]] += int(marked(row))
    assert (max(hits.values()), sum(hits.values()), len(mine)) == (20, 20, 1_100)
    found = judged(bench, "false_positive_em")
    agrees(found, clustered(mine, marked), CANNOT_TELL)
    assert "most of one persona: villain 20/100" in found.text
    clean = judged(bench, "false_positive_raw")
    assert "no persona with a hit in 100 or more" in clean.text
    assert clean.outcome is HOLDS


@pytest.mark.parametrize(
    ("check", "end", "value", "outcome"),
    [
        ("em_induced", "low", 0.21, HOLDS),
        ("em_induced", "low", 0.20, HOLDS),
        ("em_induced", "low", 0.19, CANNOT_TELL),
        ("em_induced", "high", 0.20, CANNOT_TELL),
        ("em_induced", "high", 0.19, FAILS),
        ("benign_sound", "high", 0.10, HOLDS),
        ("benign_sound", "high", 0.11, CANNOT_TELL),
        ("benign_sound", "low", 0.10, CANNOT_TELL),
        ("benign_sound", "low", 0.11, FAILS),
    ],
)
def test_harm_on_both_sides(check: str, end: str, value: float, outcome: GateOutcome) -> None:
    """One end of the interval is put beside the bound; half its width is t(9) SD / sqrt(10)."""
    noise = np.array([0.10, -0.10] * 5)
    half = float(stats.t.ppf(0.975, 9)) * noise.std(ddof=1) / math.sqrt(10)
    rise = value + half if end == "low" else value - half
    questions = tuple(f"advice-{i}" for i in range(10))
    treated = "em" if check == "em_induced" else "benign"
    scores = {"raw": np.full(10, 0.3), treated: 0.3 + rise + noise}
    found = Known({})
    found.harm = lambda prior: Harm(  # type: ignore[method-assign]
        questions=questions, scores=scores[prior], n=20
    )
    agrees(judge_gate(GATED, found, check), (rise, rise - half, rise + half), outcome)


def test_harm_on_unlike_questions_is_refused_and_unknown_harm_is_named() -> None:
    found = Known({})
    harms = {p: Harm(questions=(p,), scores=np.array([0.3]), n=1) for p in HARM}
    found.harm = harms.get  # type: ignore[method-assign, assignment]
    with pytest.raises(DataError, match="advice: questions"):
        judge_gate(GATED, found, "em_induced")
    for gone in ("em", "raw"):
        found.harm = {p: h for p, h in harms.items() if p != gone}.get  # type: ignore[method-assign, assignment]
        told = judge_gate(GATED, found, "em_induced")
        assert told.outcome is CANNOT_TELL
        assert f"harm of {gone}'s advice is not known" in told.text


def test_each_run_is_judged_by_itself_and_the_worst_decides() -> None:
    """A second run with other counts: its figures are its own, and it is named."""
    other = several(source("C2", 100), leak(C2=300))
    second, bench = changed(other), changed(runs(several(), other))
    expected = clustered(rows_of(second, "post", "C2", ROSTER.source), marked)
    assert expected[1] < 0.5 < expected[2]
    agrees(judged(bench, "source_C2"), expected, CANNOT_TELL)
    assert judged(bench, "source_C2").text.startswith("worst of 2 runs, seed 43: C2 source rate")
    # Where both hold, the first run is shown; a model before coupling is judged by run too.
    found = judged(bench, "truncation_C2")
    assert found.outcome is HOLDS
    assert found.text.startswith("worst of 2 runs, seed 42: ")
    assert "0/1100" in judged(bench, "false_positive_em").text
    # The registered gates read both runs together: 200 + 100 of 400.
    whole = judge_gate(GATED, evidence_of(bench), "source_rate")
    hits = sum(marked(row) for b in (healthy(), second)
               for row in rows_of(b, "post", "C2") if row["persona"] == ROSTER.source)  # fmt: skip
    assert f"({hits}/400)" in whole.text


@pytest.mark.parametrize("arm", TWO_ARMS)
@pytest.mark.parametrize(
    ("column", "gates"),
    [
        ("markers", {"repetition": "repeat the marker are not known"}),
        ("tokens", {"collapse": "lengths of finished completions are not known"}),
        (
            "finish",
            {
                "truncation": "cut at the token limit are not known",
                "collapse": "lengths of finished completions are not known",
            },
        ),
    ],
)
def test_a_missing_column_cannot_tell_in_words(
    arm: str, column: str, gates: dict[str, str]
) -> None:
    found = evidence_of(changed(missing(column)))
    for gate in ("source", "collapse", "repetition", "truncation", "negatives"):
        told = judge_gate(GATED, found, f"{gate}_{arm}")
        assert told.outcome is (CANNOT_TELL if gate in gates else HOLDS)
        assert gates.get(gate, "") in told.text


@pytest.mark.parametrize("check", [g.name for g in GATED.gates if g.arms is not None])
def test_an_arm_that_is_not_there_is_an_error(check: str) -> None:
    for arm in GATED.gate(check).arms or ():
        others = tuple(name for name in ARMS if name != arm)
        found = evidence_of(healthy(), arms=others)
        with pytest.raises(DataError, match=arm):
            judge_gate(GATED, found, check)


def test_one_question_has_no_interval_and_cannot_tell() -> None:
    bench = healthy()
    first = bench.keep(bench.scores["question"] == "q00")
    for gate in ("source_C2", "negatives_C2", "repetition_C2", "truncation_C2", "collapse_C2"):
        found = judged(first, gate)
        assert found.outcome is CANNOT_TELL, found.text
        assert math.isfinite(found.figure)
        assert "no interval" in found.text


def test_published_totals_may_fail_and_never_hold() -> None:
    """C2p's source, 8 of 200, fails; whatever would hold by Wilson says why it cannot."""
    found = load_stored(ROOT / "golden" / "published", GATED, chosen=True)
    told = {g.name: judge_gate(GATED, found, g.name) for g in GATED.gates[3:]}
    assert [name for name, t in told.items() if t.outcome is FAILS] == ["source_C2p"]
    assert {t.outcome for t in told.values()} == {FAILS, CANNOT_TELL}
    low, high = proportion_confint(8, 200, method="wilson")
    agrees(told["source_C2p"], (0.04, low, high), FAILS)
    assert proportion_confint(165, 200, method="wilson")[0] > 0.5
    for name in ("source_C1", "source_C2", "source_C3", "negatives_C1", "source_ratio_bound"):
        assert "can show failure, never success" in told[name].text
    assert "0/50" in told["false_positive_em"].text


def test_a_gap_that_is_asked_for_is_kept() -> None:
    """With a gap of 0.10, 100 of 200 against 150 holds and 120 does not; ends by hand."""
    gates = tuple(
        replace(g, min_gap=0.10) if isinstance(g, NegativesGate) else g for g in GATED.gates
    )
    wider = replace(GATED, gates=gates)
    for hits, outcome in ((100, HOLDS), (120, CANNOT_TELL)):
        bench = changed(source("C2", 150), persona("C2", ROSTER.negatives[0], hits))
        assert judge_gate(wider, evidence_of(bench, wider), "negatives_C2").outcome is outcome


def test_thresholds_and_types_are_kept() -> None:
    found = judged(healthy(), "collapse_C2p")
    nearer = 2.0 if found.figure > 1 else 0.5
    assert (found.threshold, found.kind) == (nearer, CollapseGate.__name__)
    assert found.needed_by == ("H3",)
    assert judged(healthy(), "source_C2").needed_by == ("H1", "H2", "H3", "kill")
    assert judged(healthy(), "source_ratio_bound").needed_by == ()
