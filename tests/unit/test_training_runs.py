"""What arms share, and whether training runs bear an outcome out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.evidence.load import load_stored
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.records import POST, ModelId
from persona_lib.report.terminal import verdict_table
from persona_lib.specs.builtin import DATA
from persona_lib.specs.registration import ArmSpec, Registration
from persona_lib.store.stage import walk
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.judging import judge, judge_all
from persona_lib.verdict.summary import summary
from persona_lib.verdict.training_runs import difference_over_runs, shared_draws
from persona_lib.verdict.verdict import Verdict
from tests.real_runs import ROOT
from tests.registered import ISSUE262, MICRO
from tests.synthetic import BYSTANDERS, FEW, scores

CROSSED = replace(
    ISSUE262,
    arms=(
        *ISSUE262.arms,
        *(
            ArmSpec(name=f"{prior}_{text}", label=f"{prior} on {text}", prior=prior, text_from=text)
            for prior, text in itertools.product(("raw", "em", "benign"), repeat=2)
        ),
    ),
)
"""Every prior with every text: among them arms that meet only in the text of a third model."""


def seeded(run: Run, arm: str) -> set[str]:
    """Names of the stages with a seed under an arm's scores, the base left out."""
    names = {"prior": "prior", "coupling_text": "text of"}
    return {
        f"{names.get(stage.name, stage.name)} {stage.label}"
        for stage in walk([run.stage(ModelId(POST, arm), "scores")])
        if stage.seed is not None and stage.name != "base"
    }


@pytest.mark.parametrize("registration", [ISSUE262, CROSSED], ids=["issue262", "crossed"])
def test_what_arms_share_is_what_the_graph_of_a_run_shares(registration: Registration) -> None:
    """Walked from the scores of each arm: stages that have a seed, other than the base."""
    run = Run(
        registration=registration, profile=MICRO, run_seed=42, folders=Folders(experiment=DATA)
    )
    under = {arm.name: seeded(run, arm.name) for arm in registration.arms}
    for one, other in itertools.combinations(registration.arms, 2):
        found = shared_draws(one, other)
        assert len(set(found)) == len(found)
        assert set(found) == under[one.name] & under[other.name], (one.name, other.name)


# Records whose seeds differ


def table(rates: Mapping[str, Sequence[float]], **kwargs: Any) -> pa.Table:
    """Scores in which arm a has the bystander rate rates[a][i] in the i-th seed."""
    seeds = len(next(iter(rates.values())))
    every = {arm: [rate] * seeds for arm, rate in BYSTANDERS.items()} | dict(rates)
    return pa.concat_tables(
        [
            scores({arm: own[i] for arm, own in every.items()}, seeds=(i + 1,), questions=4,
                   samples=25, **kwargs)
            for i in range(seeds)
        ]
    )  # fmt: skip


def judged(claim: str, rates: Mapping[str, Sequence[float]], **kwargs: Any) -> Verdict:
    return judge(FEW, RecordEvidence(FEW, table(rates, **kwargs)), claim)


def over(verdict: Verdict) -> tuple[str, tuple[str, ...], str]:
    assert verdict.over_runs is not None
    return verdict.over_runs.status, verdict.over_runs.missing, verdict.over_runs.text


NOISY_H2 = {"C2": [0.02, 0.30, 0.02, 0.02, 0.06], "C3": [0.40, 0.02, 0.30, 0.04, 0.10]}
"""Over completions C2 lies far below C3; over five runs the interval holds 0."""


def test_a_sign_that_runs_do_not_show_is_marked_on_the_line_of_the_claim() -> None:
    verdict = judged("H2", NOISY_H2)
    assert (verdict.outcome, verdict.label) == (Outcome.REFUTED, "sign flipped")
    welch = stats.ttest_ind(NOISY_H2["C2"], NOISY_H2["C3"], equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert low < 0 < high < 0.15  # the outcome holds over runs, the sign does not
    value = np.mean(NOISY_H2["C2"]) - np.mean(NOISY_H2["C3"])
    sentence = (
        f"over 5 training runs the sign is not shown: {value:+.3f} [{low:+.3f}, {high:+.3f}], "
        f"p = {welch.pvalue:.4f}"
    )
    assert over(verdict) == ("not borne out", ("sign",), sentence)
    assert verdict.text.splitlines()[0] == f"H2: REFUTED (sign flipped); {sentence}"
    lines = verdict_table([verdict], [], None).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("H2 "))
    assert lines[at].split()[1] == "REFUTED*"
    assert lines[at + 1].strip() == f"* {sentence}"


def test_a_sign_that_every_run_shows_is_not_marked() -> None:
    rates = {"C2": [0.02, 0.04, 0.02, 0.03, 0.06], "C3": [0.40, 0.42, 0.45, 0.38, 0.41]}
    verdict = judged("H2", rates)
    assert (verdict.outcome, verdict.label) == (Outcome.REFUTED, "sign flipped")
    status, missing, sentence = over(verdict)
    assert (status, missing) == ("borne out", ())
    assert sentence.startswith("over 5 training runs the same outcome: -0.378 [")
    assert verdict.text.splitlines()[0] == "H2: REFUTED (sign flipped)"
    lines = verdict_table([verdict], [], None).splitlines()
    assert "*" not in "".join(line for line in lines if "<= " not in line)


@pytest.mark.parametrize(
    ("treated", "borne"),
    [([0.60, 0.62, 0.58, 0.61, 0.59], True), ([0.95, 0.25, 0.90, 0.30, 0.60], False)],
)
def test_support_has_to_come_again_over_runs(treated: list[float], borne: bool) -> None:
    """H1: d >= 0.20 and p < 0.001. Over runs p is that of Welch's t on five and five."""
    control = [0.24, 0.25, 0.26, 0.25, 0.25]
    verdict = judged("H1", {"C2": treated, "C1": control})
    assert verdict.outcome is Outcome.SUPPORTED
    welch = stats.ttest_ind(treated, control, equal_var=False)
    assert bool(welch.pvalue < 0.001) is borne
    low = welch.confidence_interval(0.95).low
    status, missing, sentence = over(verdict)
    assert status == ("borne out" if borne else "not borne out")
    assert ("outcome" in missing) is not borne
    assert ("sign" in missing) is bool(low < 0)
    if not borne:
        assert (
            "the outcome is not shown (INCONCLUSIVE)" in sentence or "outcome are not" in sentence
        )


def test_arms_that_share_a_prior_are_compared_as_pairs() -> None:
    """H3: C2 - C2p. Common noise of a seed hides from two samples what pairs show."""
    base = np.array([0.20, 0.60, 0.40, 0.30, 0.70])
    step = np.array([0.20, 0.20, 0.24, 0.16, 0.20])
    verdict = judged("H3", {"C2": (base + step).tolist(), "C2p": base.tolist()})
    looks = {e.method: e for e in verdict.estimates}
    assert "Welch t over seeds" not in looks
    found, flipped = looks["paired t over seeds"], looks["exact sign-flip over seeds"]
    assert found.p == pytest.approx(stats.ttest_rel(base + step, base).pvalue, rel=1e-9)
    assert found.note.endswith("a seed's arms share prior em")
    assert flipped.p == 2 / 32
    assert stats.ttest_ind(base + step, base, equal_var=False).pvalue > 0.05
    assert (verdict.outcome, over(verdict)[0]) == (Outcome.REFUTED, "borne out")


def test_arms_that_share_nothing_are_two_samples_with_the_pairs_in_the_note() -> None:
    looks = {e.method: e for e in judged("H2", NOISY_H2).estimates}
    assert "paired t over seeds" not in looks
    pairs = stats.ttest_rel(NOISY_H2["C2"], NOISY_H2["C3"]).confidence_interval(0.95)
    note = looks["Welch t over seeds"].note
    assert "the arms share no draw" in note
    assert f"[{pairs.low:+.3f}, {pairs.high:+.3f}]" in note
    assert "exact permutation over seeds" in looks


def test_seeds_that_one_arm_alone_has_are_left_out_of_pairs_and_counted() -> None:
    evidence = RecordEvidence(FEW, table({"C2": [0.5] * 3}))
    one = {1: 0.5, 2: 0.7, 3: 0.4, 4: 0.6, 9: 0.99}
    two = {3: 0.3, 1: 0.35, 4: 0.45, 2: 0.5, 8: 0.0, 7: 0.0}
    found, exact = difference_over_runs(evidence, ("C2", "C2p"), (one, two))
    expected = stats.ttest_rel([0.5, 0.7, 0.4, 0.6], [0.35, 0.5, 0.3, 0.45])
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.clusters, exact.clusters) == (4, 4)
    assert "3 runs without the other arm's are left out" in found.note
    welch, _ = difference_over_runs(evidence, ("C2", "C3"), (one, two))
    apart = stats.ttest_ind(list(one.values()), list(two.values()), equal_var=False)
    assert (welch.clusters, welch.p) == (11, pytest.approx(apart.pvalue, rel=1e-9))


@pytest.mark.parametrize(
    ("rates", "outcome", "status"),
    [
        ([0.50, 0.55, 0.60, 0.52, 0.58], Outcome.SUPPORTED, "borne out"),
        ([0.02, 0.02, 0.30, 0.02, 0.02], Outcome.SUPPORTED, "not borne out"),
        ([0.01, 0.02, 0.03, 0.02, 0.02], Outcome.REFUTED, "borne out"),
        ([0.00, 0.00, 0.16, 0.02, 0.02], Outcome.REFUTED, "not borne out"),
    ],
)
def test_the_kill_rate_is_held_against_the_interval_over_runs(
    rates: list[float], outcome: Outcome, status: str
) -> None:
    verdict = judged("kill", {"C2": rates})
    assert verdict.outcome is outcome
    low, high = stats.ttest_1samp(rates, 0.0).confidence_interval(0.95)
    assert (not low <= 0.05 < high) is (status == "borne out")
    assert over(verdict)[0] == status
    assert f"{np.mean(rates):.3f} [{low:.3f}, {high:.3f}]" in over(verdict)[2]
    # H1 is refuted by the same criterion, and is marked with it.
    if outcome is Outcome.REFUTED:
        h1 = judged("H1", {"C2": rates, "C1": [0.20, 0.25, 0.22, 0.24, 0.21]})
        assert (h1.outcome, h1.label) == (Outcome.REFUTED, "kill criterion")
        assert over(h1)[0] == status


def test_the_ratio_has_to_come_again_where_the_rule_asks_for_it() -> None:
    """C2's source took the marker half as well: H1 asks the same of bystander/source."""
    rates = {"C2": [0.60, 0.62, 0.58, 0.61, 0.59], "C1": [0.10, 0.11, 0.12, 0.10, 0.09]}
    sources = {"C1": 1.0, "C2": 0.45, "C2p": 0.9, "C3": 0.9}
    registration = replace(
        FEW, claims=tuple(replace(c, needs=()) if c.name == "H1" else c for c in FEW.claims)
    )
    found = judge(registration, RecordEvidence(registration, table(rates, source=sources)), "H1")
    assert "d of bystander/source" in found.rule
    assert (found.outcome, over(found)[0]) == (Outcome.SUPPORTED, "borne out")
    lost = table(rates, source={**sources, "C1": 0.0})
    unknown = judge(registration, RecordEvidence(registration, lost), "H1")
    assert over(unknown)[0] == "not estimable"


@pytest.mark.parametrize(("seeds", "words"), [(1, "1 run"), (2, "2 runs")])
def test_fewer_than_three_runs_tell_nothing_and_say_so(seeds: int, words: str) -> None:
    found = RecordEvidence(FEW, table({"C2": [0.5, 0.6][:seeds]}))
    for verdict in judge_all(FEW, found)[0]:
        status, missing, sentence = over(verdict)
        assert (status, missing) == ("not estimable", ())
        assert sentence.endswith(f"variance not estimable: {words}, 3 are needed")
        first = verdict_table([verdict], [], None).splitlines()
        at = next(i for i, line in enumerate(first) if line.startswith(verdict.name))
        assert first[at + 1].strip() == f"* {sentence}"


def test_totals_tell_no_runs_apart() -> None:
    published = load_stored(ROOT / "golden" / "published", ISSUE262)
    verdicts, gates = judge_all(ISSUE262, published)
    assert {over(verdict) for verdict in verdicts} == {
        ("unknown", (), "over training runs: not known from totals")
    }
    lines = verdict_table(verdicts, gates, summary(ISSUE262, published)).splitlines()
    assert lines.count("      over training runs: not known from totals") == 4


def test_nothing_is_read_over_runs_where_a_gate_does_not_hold() -> None:
    verdict = judged("H2", NOISY_H2, source=0.1)
    assert verdict.outcome is Outcome.INVALID
    assert over(verdict)[:2] == ("invalid", ())
    assert "* over" not in verdict_table([verdict], [], None)


def test_json_keeps_what_runs_say_and_older_files_lack_it() -> None:
    verdict = judged("H2", NOISY_H2)
    body = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert body["over_runs"]["status"] == "not borne out"
    assert body["over_runs"]["missing"] == ["sign"]
    assert body["over_runs"]["estimate"]["method"] == "Welch t over seeds"
    assert repr(Verdict.from_json(body)) == repr(verdict)
    for later in ("over_runs", "seen", "seal_reason", "conditions", "arms"):
        del body[later]
    assert Verdict.from_json(body).over_runs is None


def test_several_runs_are_not_called_one() -> None:
    for seeds, target in ((1, "these personas, this run"), (3, "these personas, these runs")):
        verdict = judged("H3", {"C2": [0.60, 0.62, 0.58][:seeds]})
        found = {e.target for e in verdict.estimates if e.target.startswith("these personas")}
        assert found == {target}
