"""Records of other software that are not alike: seeds, questions, names, completions a cell."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from persona_lib.commands.options import choose_experiment
from persona_lib.errors import DataError, SpecError
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.load import Stored, load_stored
from persona_lib.evidence.user_files import Extra
from persona_lib.panels.lengths import lengths_panel
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge
from persona_lib.verdict.summary import summary
from persona_lib.verdict.verdict import Verdict
from tests.registered import ISSUE262, ISSUE262_GATED
from tests.synthetic import FEW

ROSTER = ISSUE262.roster
SEEDS = {"C2": (1, 2, 3, 4, 5, 6), "C2p": (1, 2, 3, 4, 5), "C3": (2, 3, 4, 5, 9)}
RATES = {"C1": 0.3, "C2": 0.55, "C2p": 0.45, "C3": 0.25, "em": 0.02, "benign": 0.02}


def frame(
    seeds: Mapping[str, Sequence[int]] = SEEDS,
    *,
    questions: int = 6,
    samples: int | Mapping[tuple[str, int], int] = 4,
    own: Sequence[str] = (),
    phase: str = "post",
) -> pd.DataFrame:
    """Rows whose rates differ by seed, persona and question; `own` have questions of their own."""
    rng = np.random.default_rng(11)
    by_seed = {s: rng.normal(0, 0.5) for s in range(10)}
    by_persona = {p: rng.normal(0, 0.7) for p in ROSTER.all}
    by_question = rng.normal(0, 0.6, questions)
    made = []
    for arm, each in seeds.items():
        for seed, persona, q in itertools.product(each, ROSTER.all, range(questions)):
            count = samples if isinstance(samples, int) else samples.get((arm, seed), 4)
            rate = 0.9 if persona == ROSTER.source and phase == "post" else RATES[arm]
            logit = math.log(rate / (1 - rate)) + by_seed[seed] + by_persona[persona]
            chance = 1 / (1 + math.exp(-logit - by_question[q]))
            name = f"{persona}-{q}" if persona in own else f"q{q}"
            for sample in range(count):
                hit = int(rng.random() < chance)
                made.append((phase, arm, seed, persona, name, sample, hit, 20 + 5 * q + seed))
    names = ("phase", "arm", "seed", "persona", "question", "sample", "hit", "tokens")
    return pd.DataFrame(made, columns=names)


def stored(folder: Path, rows: pd.DataFrame, *arms: str, extra: Extra = "refuse") -> Evidence:
    path = folder / "set.csv"
    rows.to_csv(path, index=False)
    return load_stored(path, FEW, arms=arms or ("C2", "C2p", "C3"), extra=extra)


def refused(folder: Path, rows: pd.DataFrame, *words: str, extra: Extra = "refuse") -> None:
    with pytest.raises(DataError) as caught:
        stored(folder, rows, extra=extra)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def bystanders(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    return rows[(rows.arm == arm) & rows.persona.isin(ROSTER.bystanders)]


def by_seed(rows: pd.DataFrame, arm: str) -> pd.Series[float]:
    return bystanders(rows, arm).groupby("seed").hit.mean()


def by_persona(rows: pd.DataFrame, arm: str) -> pd.Series[float]:
    return bystanders(rows, arm).groupby("persona").hit.mean()


def looks(verdict: Verdict) -> dict[str, Estimate]:
    return {look.method: look for look in verdict.estimates}


def unavailable(evidence: Evidence, words: str) -> list[str]:
    return [sentence for sentence in evidence.unavailable if words in sentence]


def splits_p(one: Sequence[float], two: Sequence[float]) -> float:
    """The exact two-sided permutation p, every split enumerated."""
    pool = [*one, *two]
    found = []
    for chosen in itertools.combinations(range(len(pool)), len(one)):
        picked = [pool[i] for i in chosen]
        rest = [pool[i] for i in range(len(pool)) if i not in chosen]
        found.append(np.mean(picked) - np.mean(rest))
    observed = np.mean(one) - np.mean(two)
    above = sum(x >= observed - 1e-12 for x in found)
    below = sum(x <= observed + 1e-12 for x in found)
    return min(1.0, 2 * min(above, below) / len(found))


# Seeds


def test_arms_with_other_seeds_are_judged_on_all_of_them(tmp_path: Path) -> None:
    rows = frame()
    found = stored(tmp_path, rows)
    assert (found.seeds, found.runs) == ((1, 2, 3, 4, 5, 6, 9), 6)
    verdict = judge(FEW, found, "H2")
    one, two = (bystanders(rows, arm) for arm in ("C2", "C3"))
    assert verdict.effect.value == pytest.approx(one.hit.mean() - two.hit.mean(), abs=1e-12)
    assert (verdict.effect.n, verdict.effect.clusters) == (len(one) + len(two), 2 * 7 * 6)
    # Whole (persona, question) clusters, of 24 completions in C2 and of 20 in C3.
    rng, draws = np.random.default_rng(0), []
    for of in (one, two):
        cells = of.groupby(["persona", "question"]).hit.agg(["sum", "size"]).to_numpy()
        picked = cells[rng.integers(0, len(cells), (20_000, len(cells)))].sum(axis=1)
        draws.append(picked[:, 0] / picked[:, 1])
    ends = np.quantile(draws[0] - draws[1], (0.025, 0.975))
    assert (verdict.effect.low, verdict.effect.high) == pytest.approx(ends, abs=0.006)
    # Six and five runs are two samples: Welch, and every one of 462 splits.
    runs = [by_seed(rows, arm).to_numpy() for arm in ("C2", "C3")]
    welch = stats.ttest_ind(*runs, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    over = looks(verdict)["Welch t over seeds"]
    assert (over.p, over.low, over.high) == pytest.approx((welch.pvalue, low, high), rel=1e-9)
    assert looks(verdict)["exact permutation over seeds"].p == pytest.approx(splits_p(*runs))
    assert verdict.over_runs is not None
    assert verdict.over_runs.text.startswith("over 6 and 5 training runs ")
    assert "6 and 5 training runs pooled: the interval holds for these runs" in verdict.notes
    remark = (
        "arms differ in the seeds of their training runs (C2 1, 2, 3, 4, 5, 6; C2p 1, 2, 3, 4, 5; "
        "C3 2, 3, 4, 5, 9): rates, the cluster bootstrap and two samples of runs take all; runs "
        "as pairs those of both arms"
    )
    assert remark in verdict.notes


def test_these_personas_are_read_from_the_rates_of_all_runs(tmp_path: Path) -> None:
    rows = frame()
    found = looks(judge(FEW, stored(tmp_path, rows), "H2"))
    cells = [
        bystanders(rows, arm).pivot_table("hit", "persona", "question") for arm in ("C2", "C3")
    ]
    difference = cells[0] - cells[1]
    by_question = stats.ttest_1samp(difference.mean(axis=0), 0.0)
    assert found["question-level paired t"].p == pytest.approx(by_question.pvalue, rel=1e-9)
    flips = stats.permutation_test(
        (difference.mean(axis=1),), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert found["exact sign-flip over personas"].p == pytest.approx(flips.pvalue, abs=1e-12)


def test_pairs_of_runs_are_those_that_both_arms_have(tmp_path: Path) -> None:
    """H3: both arms stand on the EM prior of a seed; C2 has a sixth."""
    rows = frame()
    found = looks(judge(FEW, stored(tmp_path, rows), "H3"))
    one, two = by_seed(rows, "C2"), by_seed(rows, "C2p")
    pairs = stats.ttest_rel(one.loc[two.index], two)
    paired = found["paired t over seeds"]
    assert (paired.clusters, paired.p) == (5, pytest.approx(pairs.pvalue, rel=1e-9))
    assert "1 run without the other arm's is left out" in paired.note
    assert {method for method in found if method.startswith("seed ")} == {
        f"seed {seed} alone" for seed in (1, 2, 3, 4, 5)
    }


def test_too_few_pairs_of_runs_are_counted_in_words(tmp_path: Path) -> None:
    verdict = judge(FEW, stored(tmp_path, frame(SEEDS | {"C2p": (1, 2, 9)})), "H3")
    assert verdict.over_runs is not None
    words = "over training runs: run-to-run variance not estimable: 2 pairs of runs, 3 are needed"
    assert verdict.over_runs.text == words


def test_a_summary_lists_the_runs_that_each_arm_has(tmp_path: Path) -> None:
    rows = frame()
    body = summary(FEW, stored(tmp_path, rows))
    json.dumps(body, allow_nan=False)
    for arm in body["arms"]:
        rates = {run["seed"]: run["bystanders"]["rate"] for run in arm["by_seed"]}
        assert rates == pytest.approx(by_seed(rows, arm["name"]).to_dict())


def test_a_gate_is_read_on_the_runs_that_its_arm_has(tmp_path: Path) -> None:
    rows = frame()
    found = stored(tmp_path, rows)
    for arm, own in SEEDS.items():
        source = rows[(rows.arm == arm) & (rows.persona == ROSTER.source)]
        gate = judge_gate(ISSUE262_GATED, found, f"source_{arm}")
        assert gate.figure == pytest.approx(source.groupby("seed").hit.mean().mean())
        assert f"worst of {len(own)} runs" in gate.text
    ratio = judge_gate(ISSUE262_GATED, stored(tmp_path, rows, "C2", "C3"), "source_C3")
    assert ratio.holds


def test_a_gate_on_two_arms_is_read_on_the_one_seed_of_both(tmp_path: Path) -> None:
    rows = frame({"C1": (1, 2, 3), "C2": (3, 4, 5)})
    rates = {}
    for arm in ("C1", "C2"):
        source = rows[(rows.arm == arm) & (rows.persona == ROSTER.source)]
        rates[arm] = source[source.seed == 3].hit.mean()
        assert rates[arm] != source.hit.mean()
    gate = judge_gate(ISSUE262_GATED, stored(tmp_path, rows, "C1", "C2"), "source_ratio_bound")
    assert gate.figure == pytest.approx(rates["C2"] / rates["C1"])


def test_a_model_before_coupling_may_have_one_seed_of_its_own(tmp_path: Path) -> None:
    before = frame({"em": (0,), "benign": (0,)}, phase="pre")
    found = stored(tmp_path, pd.concat([frame(), before]))
    assert found.seeds == (1, 2, 3, 4, 5, 6, 9)
    gate = judge_gate(ISSUE262_GATED, found, "false_positive_em")
    em = before[before.arm == "em"]
    assert gate.figure == pytest.approx(em.hit.mean())
    corrected = judge(FEW, found, "H2").estimates
    (value,) = [e.value for e in corrected if e.method.startswith("minus false positives")]
    rates = [f.hit.mean() for f in (*(bystanders(frame(), arm) for arm in ("C2", "C3")),
             *(bystanders(before, prior) for prior in ("em", "benign")))]  # fmt: skip
    assert value == pytest.approx(rates[0] - rates[1] - rates[2] + rates[3])


def test_a_length_panel_says_nothing_of_runs_that_there_are_not(tmp_path: Path) -> None:
    rows = frame()
    rows["finish"] = "stop"
    before = frame({"em": (*range(1, 7), 9), "benign": (*range(1, 7), 9)}, phase="pre")
    before["finish"] = "stop"
    path = tmp_path / "set.csv"
    pd.concat([rows, before]).to_csv(path, index=False)
    panel = lengths_panel(Stored(path, FEW).rows("scores"), FEW)
    ratios = {one["arm"]: set(one["seeds"]) for one in panel.data["ratios"]}
    assert ratios == {arm: {str(seed) for seed in own} for arm, own in SEEDS.items()}
    assert not [caveat for caveat in panel.caveats if caveat.code == "collapsed"]


# Cells


def test_a_lost_completion_is_no_miss_in_uneven_sets_either(tmp_path: Path) -> None:
    rows = frame()
    one = (rows.arm == "C3") & (rows.seed == 9) & (rows.persona == "villain")
    lost = rows[~(one & (rows.question == "q2") & (rows["sample"] == 3))]
    where = "scores: arm C3, persona villain, question q2, seed 9: expected 4 completions"
    refused(tmp_path, lost, where, "got '3 (1 cells are short)'")
    refused(
        tmp_path, rows[~one], "scores: arm C3, persona villain, question q0, seed 9", "got '0 (6"
    )
    whole = rows[rows.persona != "villain"]
    refused(tmp_path, whole, "scores: persona villain: expected completions of every persona")


def test_runs_may_have_more_completions_than_others_and_say_so(tmp_path: Path) -> None:
    rows = frame(samples={("C2", 2): 9, ("C3", 9): 1})
    found = stored(tmp_path, rows)
    verdict = judge(FEW, found, "H2")
    one, two = (bystanders(rows, arm) for arm in ("C2", "C3"))
    assert verdict.effect.value == pytest.approx(one.hit.mean() - two.hit.mean(), abs=1e-12)
    runs = [by_seed(rows, arm) for arm in ("C2", "C3")]
    welch = stats.ttest_ind(*runs, equal_var=False)
    assert looks(verdict)["Welch t over seeds"].value == pytest.approx(
        runs[0].mean() - runs[1].mean()
    )
    assert looks(verdict)["Welch t over seeds"].p == pytest.approx(welch.pvalue, rel=1e-9)
    (sentence,) = [note for note in verdict.notes if "differ in their completions" in note]
    assert sentence == (
        "training runs differ in their completions (C2 168 to 378; C3 42 to 168): pooled rates "
        "weigh training runs by these, statistics over training runs weigh all alike"
    )


# Questions

CROSSED = {"question-level paired t", "persona-level t, two-way SE"}


def test_questions_of_their_own_leave_what_does_not_cross_them(tmp_path: Path) -> None:
    rows = frame(own=ROSTER.all)
    found = stored(tmp_path, rows)
    verdict = judge(FEW, found, "H2")
    assert not CROSSED & set(looks(verdict))
    one, two = (by_persona(rows, arm) for arm in ("C2", "C3"))
    expected = stats.ttest_rel(one, two)
    low, high = expected.confidence_interval(0.95)
    personas = looks(verdict)["persona-level t, questions pooled"]
    assert (personas.p, personas.low, personas.high) == pytest.approx(
        (expected.pvalue, low, high), rel=1e-9
    )
    flips = stats.permutation_test(
        (one - two,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert looks(verdict)["exact sign-flip over personas"].p == pytest.approx(flips.pvalue)
    assert verdict.effect.clusters == 2 * 7 * 6
    assert verdict.effect.has_interval
    assert "Welch t over seeds" in looks(verdict)
    # TOST over question means stands beside H3 where questions are crossed.
    tost = [m for m in looks(judge(FEW, stored(tmp_path, frame()), "H3")) if m.startswith("TOST")]
    assert len(tost) == 1
    assert not [m for m in looks(judge(FEW, found, "H3")) if m.startswith("TOST")]
    assert unavailable(found, "nested in personas") == [
        "Inference for these personas (t and TOST over questions), and two-way clustering by "
        "persona and question: bystanders were not all asked the same (6 questions each, 42 in "
        "all, nested in personas). Personas at large are read with the questions of each pooled."
    ]
    json.dumps(summary(FEW, found), allow_nan=False)


def test_one_question_of_its_own_is_enough_and_those_of_the_source_are_nothing(
    tmp_path: Path,
) -> None:
    rows = frame()
    one = (rows.persona == "villain") & (rows.question == "q5")
    found = stored(tmp_path, rows.assign(question=rows.question.where(~one, "q-villain")))
    assert not CROSSED & set(looks(judge(FEW, found, "H2")))
    assert unavailable(found, "6 questions each, 7 in all, 6 of them of more than one")
    fewer = stored(tmp_path, rows[~one])
    verdict = judge(FEW, fewer, "H2")
    assert unavailable(fewer, "5 to 6 questions each, 6 in all")
    assert (
        "bystanders differ in their completions over all training runs (C2 120 to 144; C2p 100 to "
        "120; C3 100 to 120): pooled rates weigh bystanders by these, statistics over bystanders "
        "weigh all alike"
    ) in verdict.notes
    source = stored(tmp_path, frame(own=(ROSTER.source,)))
    assert set(looks(judge(FEW, source, "H2"))) >= CROSSED
    assert not unavailable(source, "asked")


def test_arms_that_were_asked_other_questions_are_refused(tmp_path: Path) -> None:
    rows = frame()
    other = rows.assign(question=rows.question.where(rows.arm != "C3", "r" + rows.question))
    refused(tmp_path, other, "scores: arm C2, persona librarian, question rq0, seed 1", "got '0")


ONE, APART = dict.fromkeys(SEEDS, (3,)), {"C2": (1, 2), "C2p": (3,), "C3": (4, 5, 9)}
BEFORE = frame({"em": (3,), "benign": (1, 2, 9)}, questions=1, phase="pre")
ODD = {
    "one run": frame(ONE),
    "no seed of both arms": frame(APART),
    "one question": frame(questions=1),
    "one question each": frame(questions=1, own=ROSTER.all),
    "one completion": frame(ONE, questions=1, samples=1),
    "no hits": frame().assign(hit=0),
    "hits alone": frame(APART, own=("villain",)).assign(hit=1),
    "priors in other runs": pd.concat([frame(APART), BEFORE]),
    "priors in other runs, own questions": pd.concat([frame(own=("comedian",)), BEFORE]),
}


@pytest.mark.parametrize("case", ODD)
def test_whatever_is_uneven_is_judged_without_a_warning(case: str, tmp_path: Path) -> None:
    found = stored(tmp_path, ODD[case])
    for claim in ("H2", "H3", "kill"):
        verdict = judge(FEW, found, claim)
        json.dumps(verdict.to_json(), allow_nan=False)
        assert " nan" not in verdict.text
        if case == "no seed of both arms" and claim == "H3":
            assert verdict.over_runs is not None
            assert verdict.over_runs.text == (
                "over training runs: run-to-run variance not estimable: no seed has runs of both "
                "arms"
            )
    for gate in ISSUE262_GATED.gates:
        if "C1" not in (gate.arms or ("C1",)):
            judge_gate(ISSUE262_GATED, found, gate.name)
    json.dumps(summary(FEW, found), allow_nan=False)


# Names


def others(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one persona, two arms and one prior that the registration does not name."""
    first = rows[rows.seed == 1]
    return pd.concat([
        rows,
        rows[rows.persona == "villain"].assign(persona="confab"),
        first[first.arm == "C2"].assign(arm="D7"),
        first[(first.arm == "C2") & (first.persona == "comedian")].assign(arm="E8"),
        first[first.arm == "C2"].assign(arm="sweet", phase="pre"),
    ])  # fmt: skip


def test_names_beyond_the_registration_are_named_with_the_remedy(tmp_path: Path) -> None:
    rows = frame()
    offer = 'With extra = "ignore" under [evidence] of an experiment file'
    refused(tmp_path, others(rows), "scores: arm: expected one of C1", "D7 in 264 rows, E8 in 24")
    persona = others(rows)[lambda r: ~r.arm.isin(("D7", "E8", "sweet"))]
    refused(tmp_path, persona, "scores: persona: ", "got 'confab in 384 rows'", offer)
    before = others(rows)[lambda r: ~r.arm.isin(("D7", "E8")) & (r.persona != "confab")]
    refused(tmp_path, before, "scores: pre-coupling model: expected one of raw", "sweet in 264")


def test_they_are_left_out_and_counted_where_the_file_says_so(tmp_path: Path) -> None:
    rows = frame()
    plain, more = stored(tmp_path, rows), others(rows)
    found = stored(tmp_path, more, extra="ignore")
    for claim in ("H2", "H3", "kill"):
        assert repr(judge(FEW, found, claim)) == repr(judge(FEW, plain, claim))
    left = len(more) - len(rows)
    words = (
        f"; {left:,} of {len(more):,} rows were left out, as the registration does not name them: "
        "arm D7 in 264 rows, E8 in 24 rows; pre-coupling model sweet in 264 rows; persona confab "
        "in 384 rows; nothing says"
    )
    assert words in found.origin
    assert "left out" not in stored(tmp_path, rows, extra="ignore").origin
    assert "left out" in summary(FEW, found)["origin"]


@pytest.mark.parametrize(
    ("column", "name", "wrong"),
    [("persona", "villain", "Villain"), ("persona", "police_officer", "police officer"),
     ("persona", "comedian", "comediann"), ("arm", "C2p", "C2P"), ("arm", "C3", "c3")],
)  # fmt: skip
def test_a_misspelt_name_is_answered_with_the_near_one(
    column: str, name: str, wrong: str, tmp_path: Path
) -> None:
    rows = frame().replace({column: {name: wrong}})
    refused(tmp_path, rows, f"{wrong} in ", f"Did you mean {name}? ")
    # Left out, it is missed, and the error says what may be meant.
    words = f"scores: {column} {name}: expected completions", f"The rows of {wrong} were left out"
    refused(tmp_path, rows, *words, extra="ignore")


@pytest.mark.parametrize("wrong", ["Seed", "seeds", "run_seed"])
def test_a_misspelt_column_is_answered_with_the_near_one(wrong: str, tmp_path: Path) -> None:
    refused(tmp_path, frame().rename(columns={"seed": wrong}), f"Did you mean {wrong} for seed? ")


def test_a_misspelt_path_is_answered_with_the_near_ones(tmp_path: Path) -> None:
    stored(tmp_path, frame())
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "experiment.toml").touch()
    for wrong, meant in (("Study/experiment.toml", "study"),
                         ("study/experment.toml", "study/experiment.toml")):  # fmt: skip
        with pytest.raises(SpecError, match=rf"near it: {tmp_path}/{meant}\."):
            choose_experiment(str(tmp_path / wrong))
    for wrong in ("Set.csv", "sett.csv", "set.CSV"):
        if (tmp_path / wrong).exists():
            continue  # where capitals make no difference
        with pytest.raises(DataError, match=rf"near it: {tmp_path}/set\.csv\."):
            load_stored(tmp_path / wrong, FEW)
