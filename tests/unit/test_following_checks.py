"""Faults of a judge and of its probe: which gate or caveat each of them fires, and no other."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import hypergeom, t
from statsmodels.stats.proportion import proportion_confint

from persona_lib.corpora.voices import EVERY_FOLD, ClassifierSpec, Prediction
from persona_lib.errors import DataError
from persona_lib.panels.base import Panel
from persona_lib.panels.following import discriminability_panel, following_panel
from persona_lib.panels.following_checks import (
    Agreement,
    agreement,
    calibration_gate,
    crossfit_gate,
    few_completions,
    labels_gate,
    labels_shifted,
    no_information,
    sees_gate,
)
from persona_lib.panels.judge.base import UNSCORED, Item, Judgement
from persona_lib.panels.judge.calibration import (
    CALIBRATION,
    LEAST,
    MOST,
    CalibrationResult,
    CalibrationSpec,
    judge_calibration,
)
from persona_lib.panels.judge.classifier import ClassifierJudge, fit_judge
from persona_lib.panels.judge.judged import control_items, judge_texts, triple_items
from persona_lib.records import Completion
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.gate_result import GateOutcome
from tests.judges import PERSONAS, PROMPTS, QUESTIONS, TRIPLES, completions, items
from tests.registered import ISSUE262

HOLDS, FAILS, CANNOT_TELL = GateOutcome
PERFECT = {"positive": ["yes"] * 73, "red_team": ["no"] * 73, "negative": ["no"] * 73}
TURNED = {"yes": "no", "no": "yes"}
RAW, C2 = ("pre", "raw"), ("post", "C2")
DIGEST = "d" * 64
NEXT = {
    name: ISSUE262.roster.all[(place + 1) % 11] for place, name in enumerate(ISSUE262.roster.all)
}


def model_of(row: Completion | Item | Judgement | Prediction) -> tuple[str, str]:
    return (row.phase, row.model)


def of(panel: Panel, model: tuple[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = next(
        m for m in panel.data["models"] if (m["phase"], m["model"]) == model
    )
    return found


def fit(rows: Sequence[Completion]) -> ClassifierJudge:
    return fit_judge([r for r in rows if model_of(r) == RAW], ClassifierSpec(marker="[ZLT]"))


@cache
def fitted() -> ClassifierJudge:
    return fit(completions())


@cache
def predicted() -> tuple[Prediction, ...]:
    return fitted().predict(items(completions()))


@cache
def judged() -> tuple[Judgement, ...]:
    return fitted().judge(items(completions()))


@cache
def controls() -> tuple[Judgement, ...]:
    raw = [item for item in items(completions()) if model_of(item) == RAW]
    return fitted().judge(control_items(raw, PROMPTS))


def asked() -> tuple[Item, ...]:
    questions = {name: question.text for name, question in QUESTIONS.items()}
    return triple_items(TRIPLES, PROMPTS, questions)


def positives(judge: ClassifierJudge) -> list[Prediction]:
    return [row for row in judge.predict(asked()) if row.model == "positive"]


def calibrated(
    answers: Mapping[str, Sequence[str]] = PERFECT,
    spec: CalibrationSpec = CALIBRATION,
    judge: str = "",
) -> CalibrationResult:
    judge = judge or fitted().spec.digest
    return judge_calibration(spec, answers, judge=judge, rubric=DIGEST, triples=DIGEST)


def following(rows: Sequence[Judgement], **given: object) -> Panel:
    parts = {
        "required": CALIBRATION,
        "predictions": predicted(),
        "seen": fitted().seen,
        "ceiling": 0.2,
        **given,
    }
    others = parts.pop("controls", controls())
    return following_panel(ISSUE262, rows, others, calibrated(), **parts)  # type: ignore[arg-type]


def outcomes(panel: Panel) -> dict[str, GateOutcome]:
    return {gate.name: gate.outcome for gate in panel.gates}


def codes(panel: Panel) -> Counter[str]:
    return Counter(caveat.code for caveat in panel.caveats)


# Healthy: nothing fires


def test_a_sound_judge_fires_nothing() -> None:
    panel = following(judged())
    assert set(outcomes(panel).values()) == {HOLDS}
    assert set(outcomes(panel)) == {"calibration", "unscored", "tells_personas_apart", "crossfit"}
    assert panel.state == "readable"
    assert panel.caveats == ()
    json.dumps(panel.to_json(), allow_nan=False)


def test_a_sound_probe_fires_nothing() -> None:
    panel = discriminability_panel(
        ISSUE262, predicted(), fitted().seen, positives=positives(fitted())
    )
    assert outcomes(panel) == {"crossfit": HOLDS, "probe_sees": HOLDS, "labels": HOLDS}
    assert panel.caveats == ()


# Personas relabelled


def renamed(*models: tuple[str, str]) -> list[Completion]:
    """The completions, those of these models (or of all) each under the next persona's name."""
    return [
        replace(row, persona=NEXT[row.persona]) if model_of(row) in models or not models else row
        for row in completions()
    ]


def test_names_that_changed_places_before_the_fit_fail_the_labels() -> None:
    """The probe learns the wrong names and finds itself right; only the triples can tell."""
    rows = renamed()
    judge = fit(rows)
    predictions = judge.predict(items(rows))
    panel = discriminability_panel(ISSUE262, predictions, judge.seen, positives=positives(judge))
    assert outcomes(panel) == {"crossfit": HOLDS, "probe_sees": HOLDS, "labels": FAILS}
    assert panel.state == "INVALID"


def test_names_of_one_arm_that_changed_places_are_named() -> None:
    predictions = fitted().predict(items(renamed(C2)))
    panel = discriminability_panel(ISSUE262, predictions, fitted().seen)
    assert codes(panel) == {"labels_shifted": 1}
    assert panel.caveats[0].words.startswith("post C2: accuracy 0.0")
    assert panel.state == "readable"


def test_one_voice_for_everybody_is_not_taken_for_changed_names() -> None:
    rows = [
        replace(row, top="librarian", rank=0 if row.persona == "librarian" else 1)
        if model_of(row) == C2 and not row.reason
        else row
        for row in predicted()
    ]
    panel = discriminability_panel(ISSUE262, rows, fitted().seen)
    assert codes(panel) == {}
    found = of(panel, C2)
    assert found["to_source"]["value"] == 1
    assert found["accuracy"]["value"] == pytest.approx(1 / 11, abs=0.02)
    assert found["from_own"]["high"] < 0


def test_names_of_raw_that_changed_places_blind_the_probe_and_the_judge() -> None:
    rows = renamed(RAW)
    predictions = fitted().predict(items(rows))
    panel = discriminability_panel(ISSUE262, predictions, fitted().seen)
    assert outcomes(panel)["probe_sees"] is FAILS
    assert codes(panel) == {"probe_blind": 1}
    answers = fitted().judge(items(rows))
    panel = following(answers, predictions=predictions)
    assert outcomes(panel)["tells_personas_apart"] is not HOLDS
    assert codes(panel)["probe_blind"] == 1
    assert panel.state == "INVALID"


@pytest.mark.parametrize(
    ("hits", "outcome"), [(0, FAILS), (1, FAILS), (2, CANNOT_TELL), (11, CANNOT_TELL), (12, HOLDS)]
)
def test_labels_hold_the_interval_against_chance(hits: int, outcome: GateOutcome) -> None:
    rows = [replace(predicted()[0], rank=0 if i < hits else 4, reason="") for i in range(73)]
    lost = replace(predicted()[0], rank=-1, reason="empty")
    found = labels_gate([*rows, lost], 1 / 11, 0.95)
    low, high = proportion_confint(hits, 73, method="wilson")
    assert (found.figure, found.low, found.high) == pytest.approx((hits / 73, low, high), abs=1e-12)
    assert found.outcome is outcome
    assert labels_gate([lost], 1 / 11, 0.95).outcome is CANNOT_TELL


def test_only_an_interval_that_lies_apart_from_chance_decides() -> None:
    near = Estimate.plain(value=0.05, low=0.01, high=0.20, n=50, clusters=10)
    assert labels_shifted({C2: near}, 1 / 11) == ()
    (found,) = labels_shifted({C2: replace(near, high=0.09)}, 1 / 11)
    assert found.code == "labels_shifted"
    touching = Estimate.plain(value=0.3, low=1 / 11, high=0.5, n=50, clusters=10)
    assert sees_gate(touching, 1 / 11).outcome is CANNOT_TELL
    assert sees_gate(replace(touching, low=0.092), 1 / 11).outcome is HOLDS


# Answers shuffled


def shuffled(rows: Sequence[Judgement], model: tuple[str, str], seed: int) -> list[Judgement]:
    """Deal the answers of one model anew to its scored completions."""
    places = [i for i, r in enumerate(rows) if model_of(r) == model and r.answer != UNSCORED]
    dealt = np.random.default_rng(seed).permutation(places)
    found = list(rows)
    for place, other in zip(places, dealt, strict=True):
        found[place] = replace(rows[place], answer=rows[other].answer)
    return found


@pytest.mark.parametrize("model", [("pre", "em"), ("pre", "benign"), *(
    ("post", arm) for arm in ("C1", "C2", "C2p", "C3")), RAW])  # fmt: skip
def test_answers_shuffled_within_a_model_are_named(model: tuple[str, str]) -> None:
    panel = following(shuffled(judged(), model, seed=3))
    assert codes(panel) == {"no_information": 1}
    assert panel.caveats[0].words.startswith(f"answers of {model[0]} {model[1]} go with")


def test_answers_shuffled_among_own_and_controls_tell_nobody_apart() -> None:
    raw = [row for row in judged() if model_of(row) == RAW]
    mixed = shuffled([*raw, *controls()], RAW, seed=5)
    panel = following(
        [*mixed[: len(raw)], *(r for r in judged() if model_of(r) != RAW)],
        controls=mixed[len(raw) :],
    )
    assert outcomes(panel)["tells_personas_apart"] is not HOLDS
    assert panel.state == "INVALID"


@pytest.mark.parametrize("answer", ["yes", "no", "partial"])
def test_a_judge_that_always_says_the_same_tells_nobody_apart(answer: str) -> None:
    rows, others = (
        [r if r.answer == UNSCORED else replace(r, answer=answer) for r in listed]
        for listed in (judged(), controls())
    )
    panel = following(rows, controls=others)
    assert outcomes(panel)["tells_personas_apart"] is CANNOT_TELL
    assert outcomes(following(judged(), controls=()))["tells_personas_apart"] is CANNOT_TELL
    assert codes(panel)["no_information"] == 0  # nothing to shuffle: said by p = null
    assert all(model["agreement"]["p"] is None for model in panel.data["models"])


def test_the_unscored_tell_nothing_of_whom_the_judge_hears() -> None:
    raw = [row for row in judged() if model_of(row) == RAW]
    lost = {row.question for row in raw if int(row.question[1:]) % 2}
    answers, others = (
        [replace(r, answer=UNSCORED, reason="timeout") if r.question in lost else r for r in rows]
        for rows in (raw, controls())
    )
    kept = [[r.answer == "yes" for r in rows if r.answer != UNSCORED] for rows in (answers, others)]
    assert [len(rows) for rows in kept] == [220, 220]
    panel = following(answers, controls=others, predictions=(), seen=None)
    assert "crossfit" not in outcomes(panel)
    found = next(gate for gate in panel.gates if gate.name == "tells_personas_apart")
    assert found.figure == pytest.approx(np.mean(kept[0]) - np.mean(kept[1]))


@pytest.mark.parametrize("both", [24, 26, 30])
def test_agreement_is_the_tail_of_a_hypergeometric(both: int) -> None:
    """40 completions: 30 yes, 32 right, `both` of them both."""
    yes = [True] * 30 + [False] * 10
    right = [True] * both + [False] * (30 - both) + [True] * (32 - both) + [False] * (both - 22)
    base = next(row for row in predicted() if model_of(row) == C2)
    own = next(row for row in judged() if model_of(row) == C2)
    guesses = [replace(base, sample=i, rank=0 if r else 5, reason="") for i, r in enumerate(right)]
    answers = [
        replace(own, persona=base.persona, question=base.question, sample=i,
                answer="yes" if y else "partial")
        for i, y in enumerate(yes)
    ]  # fmt: skip
    lost = replace(answers[0], sample=40, answer=UNSCORED, reason="timeout")
    dumb = replace(guesses[0], sample=41, rank=-1, reason="empty")
    found = agreement(
        [*answers, lost, replace(answers[0], sample=41)],
        [*guesses, replace(guesses[0], sample=40), dumb],
    )
    assert (found.n, found.yes, found.right, found.both) == (40, 30, 32, both)
    assert found.p == pytest.approx(hypergeom.sf(both - 1, 40, 32, 30), rel=1e-9)
    fired = [caveat.code for caveat in no_information({C2: found})]
    assert fired == (["no_information"] if found.p > 0.01 else [])


def test_what_no_shuffle_could_change_fires_nothing() -> None:
    assert no_information({C2: Agreement(n=10, yes=10, right=9, both=9, p=math.nan)}) == ()


# Calibration


def inverted(spec: CalibrationSpec) -> CalibrationSpec:
    return replace(
        spec,
        classes=tuple(
            replace(one, direction=MOST if one.direction == LEAST else LEAST,
                    threshold=1 - one.threshold)
            for one in spec.classes
        ),
    )  # fmt: skip


def gate_of(
    result: CalibrationResult, required: CalibrationSpec | None = None, judge: str = ""
) -> tuple[GateOutcome, str]:
    found = calibration_gate(result, {judge or fitted().spec.digest}, required)
    return found.outcome, found.text


@pytest.mark.parametrize(
    ("answers", "outcome", "end", "threshold"),
    [
        (PERFECT, HOLDS, proportion_confint(73, 73, method="wilson")[0], 0.95),
        # The figure is of the class that cannot tell.
        ({**PERFECT, "red_team": ["no"] * 72}, CANNOT_TELL,
         proportion_confint(0, 72, method="wilson")[1], 0.05),
    ],
    ids=["clean", "too few answers"],
)  # fmt: skip
def test_a_clean_sheet_holds_and_one_that_is_short_cannot_tell(
    answers: Mapping[str, Sequence[str]], outcome: GateOutcome, end: float, threshold: float
) -> None:
    found = calibration_gate(calibrated(answers), {fitted().spec.digest}, CALIBRATION)
    assert found.outcome is outcome
    assert (found.figure, found.threshold) == (pytest.approx(end), threshold)


def test_an_inverted_sign_fails_a_judge_that_is_always_wrong() -> None:
    wrong = {name: [TURNED[answer] for answer in listed] for name, listed in PERFECT.items()}
    upside = calibrated(wrong, inverted(CALIBRATION))
    assert upside.outcome is HOLDS  # by its own rule: the sign has to be looked at
    outcome, text = gate_of(upside)
    assert (outcome, text) == (FAILS, "class positive asks for most, expected least")
    for name, listed in PERFECT.items():
        turned = {**PERFECT, name: [TURNED[answer] for answer in listed]}
        assert gate_of(calibrated(turned), CALIBRATION)[0] is FAILS


def test_a_class_that_is_left_out_or_unknown_fails() -> None:
    two = replace(CALIBRATION, classes=CALIBRATION.classes[:2])
    answers = {name: PERFECT[name] for name in ("positive", "red_team")}
    assert gate_of(calibrated(answers, two)) == (
        FAILS, "class negative asks for nothing, expected most",
    )  # fmt: skip
    more = replace(
        CALIBRATION, classes=(*CALIBRATION.classes, replace(CALIBRATION.classes[0], name="easy"))
    )
    answers = {**PERFECT, "easy": PERFECT["positive"]}
    assert "class easy" in gate_of(calibrated(answers, more))[1]


def test_a_calibration_of_another_judge_or_rule_or_with_altered_outcome_fails() -> None:
    assert gate_of(calibrated(), judge="e" * 64)[0] is FAILS
    assert gate_of(calibrated(judge="e" * 64))[0] is FAILS
    softer = replace(
        CALIBRATION, classes=tuple(replace(one, n=80) for one in CALIBRATION.classes)
    )  # fmt: skip
    outcome, text = gate_of(calibrated(), softer)
    assert outcome is FAILS
    assert "registered is" in text
    bad = calibrated({**PERFECT, "negative": ["yes"] * 73})
    forged = replace(bad, classes=tuple(replace(one, outcome=HOLDS) for one in bad.classes))
    assert forged.outcome is HOLDS
    assert gate_of(forged)[0] is FAILS


def test_the_embedded_judge_is_not_calibrated_on_toy_text_and_says_so() -> None:
    found = judge_texts(
        completions(), ISSUE262, personas=PERSONAS, questions=QUESTIONS, triples=TRIPLES
    )
    assert (found.predictions, found.judgements) == (predicted(), judged())
    assert (found.controls, found.positives) == (controls(), tuple(positives(fitted())))
    outcome, text = gate_of(found.calibration, CALIBRATION)
    assert outcome is FAILS, text


def test_the_panel_asks_whose_answers_it_shows() -> None:
    others = [replace(row, judge="e" * 64) for row in judged()]
    assert outcomes(following(others))["calibration"] is FAILS
    assert codes(following(others)) == {"judge_uncalibrated": 1}


# Cross-fit


def test_the_classifier_on_its_own_questions_fails_both_panels() -> None:
    leaked = [replace(row, fold=(row.fold + 1) % 5) for row in predicted()]
    assert outcomes(discriminability_panel(ISSUE262, leaked, fitted().seen))["crossfit"] is FAILS
    panel = following(judged(), predictions=leaked)
    assert outcomes(panel)["crossfit"] is FAILS
    assert panel.state == "INVALID"
    # One completion is enough.
    one = [leaked[0], *predicted()[1:]]
    assert outcomes(following(judged(), predictions=one))["crossfit"] is FAILS


def test_crossfit_counts_what_every_fold_judged_and_knows_what_it_cannot_tell() -> None:
    row = replace(predicted()[0], question="q1")
    seen = (("q2", "q3"), ("q1", "q3"))
    for fold, question, outcome in (
        (0, "q1", HOLDS), (1, "q1", FAILS), (EVERY_FOLD, "q1", FAILS), (EVERY_FOLD, "q9", HOLDS),
        (2, "q1", CANNOT_TELL), (-2, "q1", CANNOT_TELL),
    ):  # fmt: skip
        asked_of = replace(row, fold=fold, question=question)
        assert crossfit_gate([asked_of], seen).outcome is outcome, (fold, question)
    assert crossfit_gate([row], ()).outcome is CANNOT_TELL
    leaked, lost = replace(row, fold=1), replace(row, fold=7)
    assert crossfit_gate([leaked, lost], seen).outcome is FAILS
    assert crossfit_gate([], seen).outcome is CANNOT_TELL


# Counts


def test_every_completion_is_judged_once() -> None:
    with pytest.raises(DataError, match="every completion judged,"):
        following(judged()[1:])
    with pytest.raises(DataError, match="every completion judged once"):
        following([*judged(), judged()[0]])


def test_cells_show_answers_and_skips_by_question() -> None:
    model = next(m for m in following(judged()).data["models"] if m["model"] == "C1")
    cell = model["personas"]["software_engineer"]
    rows = [r for r in judged() if (r.model, r.persona) == ("C1", "software_engineer")]
    for question in {row.question for row in rows}:
        given = Counter(row.answer for row in rows if row.question == question)
        assert cell["questions"][question] == [
            given["yes"], given["partial"], given["no"], given[UNSCORED],
        ]  # fmt: skip
    assert cell["n"] == 40
    assert sum(cell["unscored"].values()) == sum(row.answer == UNSCORED for row in rows) > 5
    yes, scored = (
        sum(row.answer == "yes" for row in rows), sum(row.answer != UNSCORED for row in rows),
    )  # fmt: skip
    assert cell["share"]["value"] == pytest.approx(yes / scored)
    assert cell["share"]["n"] == scored


def test_too_many_unscored_make_the_panel_invalid() -> None:
    lost = [
        replace(r, answer=UNSCORED, reason="timeout")
        if model_of(r) == ("post", "C3") and r.sample == 0
        else r
        for r in judged()
    ]
    panel = following(lost)
    assert outcomes(panel)["unscored"] is FAILS
    asked_of = [r for r in lost if (r.model, r.persona) == ("C3", "villain")]
    cell = of(panel, ("post", "C3"))["personas"]["villain"]
    assert cell["unscored"] == Counter(r.reason for r in asked_of if r.reason)


def test_accuracy_is_a_count_with_the_unscored_left_out_or_counted_as_wrong() -> None:
    panel = discriminability_panel(ISSUE262, predicted(), fitted().seen)
    for name in (("pre", "em"), ("post", "C1")):
        rows = [row for row in predicted() if model_of(row) == name]
        hits, scored = sum(row.rank == 0 for row in rows), sum(not row.reason for row in rows)
        model = of(panel, name)
        assert model["n"] == len(rows) == (n := 440)
        assert model["accuracy_of_all"]["value"] == pytest.approx(hits / n)
        assert model["accuracy"]["value"] == pytest.approx(hits / scored)
        assert model["accuracy"]["n"] == scored
        # Never narrower than if completions were independent.
        low, high = proportion_confint(hits, scored, method="wilson")
        assert model["accuracy"]["low"] <= low < high <= model["accuracy"]["high"]
    assert of(panel, RAW)["from_raw"] is None


def test_bystanders_are_pooled_and_an_arm_is_held_against_the_model_under_it() -> None:
    bystanders = set(ISSUE262.roster.bystanders)
    panel = discriminability_panel(ISSUE262, predicted(), fitted().seen)
    found = {(m["phase"], m["model"]): m for m in panel.data["models"]}
    pool = [r for r in predicted() if model_of(r) == C2 and not r.reason]
    to_source = [r.top == "librarian" for r in pool if r.persona in bystanders]
    assert found[C2]["to_source"]["n"] == len(to_source) < len(pool)
    assert found[C2]["to_source"]["value"] == pytest.approx(np.mean(to_source))
    rates = {}
    for model in (C2, RAW, ("pre", "em")):
        rates[model] = [
            np.mean([r.rank == 0 for r in predicted()
                     if model_of(r) == model and not r.reason and r.question == q])
            for q in sorted({r.question for r in predicted()})
        ]  # fmt: skip
    own, raw = (np.subtract(rates[C2], rates[m]) for m in (("pre", "em"), RAW))
    for key, change in (("from_own", own), ("from_raw", raw)):
        half = t.ppf(0.975, 19) * change.std(ddof=1) / math.sqrt(20)
        ends = [found[C2][key][end] for end in ("low", "value", "high")]
        middle = change.mean()
        assert ends == pytest.approx([middle - half, middle, middle + half])
    answers = [
        r.answer == "yes"
        for r in judged()
        if model_of(r) == C2 and r.persona in bystanders and r.answer != UNSCORED
    ]
    model = next(m for m in following(judged()).data["models"] if m["model"] == "C2")
    assert model["bystanders"]["n"] == len(answers)
    assert model["bystanders"]["value"] == pytest.approx(np.mean(answers))


def test_few_completions_name_the_smallest_cell() -> None:
    cells = {("post", "C1", "villain"): 20, ("post", "C1", "comedian"): 19, (*RAW, "villain"): 3}
    (found,) = few_completions(cells)
    assert found.words.startswith("2 of 3 personas")
    assert found.words.endswith("pre raw villain, 3")
    assert few_completions({("post", "C1", "villain"): 20}) == ()
    # Raw has two samples of 20 questions: without half of them and one more, 19 are left.
    kept = [
        place
        for place, row in enumerate(judged())
        if (*model_of(row), row.persona) != (*RAW, "villain")
        or (row.sample == 0 and row.question != "e01")
    ]
    answers, guesses = [judged()[i] for i in kept], [predicted()[i] for i in kept]
    assert codes(following(answers, predictions=guesses)) == {"few_completions": 1}
    there = set(kept)
    silent = [
        row if i in there else replace(row, top="", rank=-1, reason="empty")
        for i, row in enumerate(predicted())
    ]
    assert codes(discriminability_panel(ISSUE262, silent, fitted().seen)) == {"few_completions": 1}
    assert codes(discriminability_panel(ISSUE262, guesses, fitted().seen)) == {"few_completions": 1}
