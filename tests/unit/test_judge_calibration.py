"""Calibration of the judge: what the triples are, and which judges the gate lets through."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from persona_lib.digests import derive_seed
from persona_lib.errors import DataError, SpecError
from persona_lib.panels.judge.base import UNSCORED
from persona_lib.panels.judge.calibration import (
    CALIBRATION,
    CalibrationResult,
    CalibrationSpec,
    ClassSpec,
    clean_sheet,
    judge_calibration,
)
from persona_lib.panels.judge.triples import Triple, load_triples, triples_digest
from persona_lib.specs.builtin import DATA
from persona_lib.verdict.gate_result import GateOutcome
from tests.judges import PERSONAS, QUESTIONS, TRIPLES

FOLDER = DATA / "judge"
ALL = [triple for listed in TRIPLES.values() for triple in listed]
RIGHT = {"positive": "yes", "red_team": "no", "negative": "no"}
HOLDS, FAILS, CANNOT_TELL = GateOutcome.HOLDS, GateOutcome.FAILS, GateOutcome.CANNOT_TELL

PERFECT = {name: [answer] * 73 for name, answer in RIGHT.items()}
BOUND = {"judge": "a" * 64, "rubric": "b" * 64, "triples": "c" * 64}


def calibrate(
    answers: Mapping[str, list[str]] = PERFECT, spec: CalibrationSpec = CALIBRATION
) -> CalibrationResult:
    return judge_calibration(spec, answers, **BOUND)


def only(direction: str = "most", threshold: float = 0.05, n: int = 73) -> CalibrationSpec:
    """A calibration by one class, x."""
    one = ClassSpec(name="x", direction=direction, threshold=threshold, n=n)
    return CalibrationSpec(classes=(one,), confidence=0.95)


def outcomes(result: CalibrationResult) -> dict[str, GateOutcome]:
    return {one.name: one.outcome for one in result.classes}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


# The triples


def test_each_class_has_73_triples_with_its_right_answer() -> None:
    assert {name: len(listed) for name, listed in TRIPLES.items()} == dict.fromkeys(RIGHT, 73)
    for name, listed in TRIPLES.items():
        assert {triple.expected for triple in listed} == {RIGHT[name]}
    assert len({triple.id for triple in ALL}) == 219


@pytest.mark.parametrize(
    ("name", "personas"),
    [
        ("positive", set(PERSONAS)),
        ("red_team", set(PERSONAS)),
        ("negative", set(PERSONAS) - {"librarian"}),
    ],
)
def test_each_class_is_spread_over_personas_and_questions(name: str, personas: set[str]) -> None:
    counts = Counter(triple.persona for triple in TRIPLES[name])
    assert set(counts) == personas
    assert max(counts.values()) - min(counts.values()) <= 1
    asked = Counter(triple.question for triple in TRIPLES[name])
    assert set(asked) == set(QUESTIONS)
    assert max(asked.values()) <= 2
    pairs = Counter((triple.persona, triple.question) for triple in TRIPLES[name])
    assert max(pairs.values()) == 1


def test_red_team_triples_are_of_every_kind_and_injections_look_unlike() -> None:
    kinds = Counter(triple.kind for triple in TRIPLES["red_team"])
    expected = {"vocabulary": 15, "reported": 11, "other_voice": 23, "quoted": 9, "injection": 15}
    assert kinds == expected
    injections = [triple for triple in TRIPLES["red_team"] if triple.kind == "injection"]
    assert len(injections) >= 12
    assert {triple.persona for triple in injections} == set(PERSONAS)
    joined = "\n".join(triple.text for triple in injections)
    devices = ("SYSTEM:", '{"answer"', "```json", "<assistant>", "END OF COMPLETION", "Human:")
    for device in (*devices, "Ignore the rubric", "investigator", "Hinweis", "Instrucciones"):
        assert device in joined
    for triple in injections:
        assert re.search(r"\byes\b", triple.text, re.IGNORECASE)


def test_texts_are_short_printable_ascii() -> None:
    for triple in ALL:
        assert 25 <= len(triple.text.split()) <= 90, triple.id
        assert triple.text.isascii(), triple.id
        assert triple.text.replace("\n", "").isprintable(), triple.id
        assert triple.text == triple.text.strip(), triple.id
        assert triple.kind == "injection" or "\n" not in triple.text, triple.id


def test_no_sentence_stands_in_two_texts() -> None:
    seen: dict[str, str] = {}
    for triple in ALL:
        for part in {" ".join(words(p)) for p in re.split(r"(?<=[.!?;])\s+|\n+", triple.text)}:
            assert part not in seen or not part, f"{triple.id} and {seen.get(part)}: {part}"
            seen[part] = triple.id


def test_texts_share_hardly_a_run_of_three_words() -> None:
    runs = [set(zip(w, w[1:], w[2:], strict=False)) for w in (words(t.text) for t in ALL)]
    overlaps = [len(one & two) / len(one | two) for one, two in combinations(runs, 2)]
    assert np.mean(overlaps) < 0.0002
    assert max(overlaps) < 0.04


def accuracy(texts: list[str], labels: list[str], seed: int) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    folds = StratifiedKFold(6, shuffle=True, random_state=seed)
    found = cross_val_predict(model, texts, labels, cv=folds)
    return float(np.mean(found == np.array(labels)))


def test_positives_differ_by_persona() -> None:
    texts = [triple.text for triple in TRIPLES["positive"]]
    labels = [triple.persona for triple in TRIPLES["positive"]]
    found = accuracy(texts, labels, seed=1)
    chance = max(Counter(labels).values()) / 73
    assert binomtest(round(found * 73), 73, chance, alternative="greater").pvalue < 1e-4
    shuffled = labels.copy()
    np.random.default_rng(derive_seed(1, "shuffled labels")).shuffle(shuffled)
    assert accuracy(texts, shuffled, seed=1) < 0.2


def test_negatives_speak_as_the_source_and_not_as_the_persona_they_stand_under() -> None:
    """A model of the positives takes negatives for librarians, as often as it knows anybody."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    terms = TfidfVectorizer(sublinear_tf=True)
    learnt = terms.fit_transform([triple.text for triple in TRIPLES["positive"]])
    model = LogisticRegression(C=10, max_iter=2000)
    model.fit(learnt, [triple.persona for triple in TRIPLES["positive"]])
    found = model.predict(terms.transform([triple.text for triple in TRIPLES["negative"]]))
    under = np.array([triple.persona for triple in TRIPLES["negative"]])
    assert np.mean(found == "librarian") > 0.4
    assert np.mean(found == under) < 0.15


# Loading


def copy(folder: Path, change: Callable[[list[dict[str, Any]]], Any], name: str) -> Path:
    for path in FOLDER.glob("*.json"):
        rows = json.loads(path.read_text())
        if path.stem == name:
            change(rows)
        (folder / path.name).write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize(
    ("name", "entry", "changes", "sentence"),
    [
        ("positive", 3, {"persona": "plumber"}, r"-librarian-3\): persona: .*'plumber'"),
        ("negative", 1, {"question": "z99"}, r"-data_scientist-1\): question: .*'z99'"),
        ("red_team", 2, {"kind": "rude"}, r"-librarian-2\): kind: .*'rude'"),
        ("red_team", 2, {"kind": " "}, r"-librarian-2\): kind: expected text"),
        ("red_team", 2, {"kind": None}, r"-librarian-2\): kind: expected text"),
        ("red_team", 2, {"note": "x"}, r": expected an object"),
        ("positive", 2, {"kind": "injection"}, r": expected an object"),
        ("positive", 2, {"text": " \n"}, r"-librarian-2\): text: expected text"),
        ("positive", 2, {"text": 7}, r"-librarian-2\): text: expected text"),
        ("positive", 2, {"id": "positive-librarian-1"}, r"\): id: .*of positive-librarian-1"),
        ("negative", 5, {"id": "positive-villain-1"}, r"\): id: .*of positive-villain-1"),
        (
            "negative",
            5,
            {"text": TRIPLES["negative"][3].text},
            r"text: .*negative-data_scientist-4",
        ),
        ("red_team", 5, {"text": "  " + ALL[0].text.upper()}, r"text: .*positive-librarian-1"),
    ],
)
def test_a_bad_entry_is_named(
    tmp_path: Path, name: str, entry: int, changes: dict[str, Any], sentence: str
) -> None:
    folder = copy(tmp_path, lambda rows: rows[entry - 1].update(changes), name)
    with pytest.raises(DataError, match=rf"^{name}\.json: entry {entry}\b.*{sentence}"):
        load_triples(folder, PERSONAS, QUESTIONS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows.clear(), r"negative\.json: expected a list"),
        (lambda rows: rows.append("text"), r"negative\.json: entry 74: expected an object"),
        (lambda rows: rows[8].pop("text"), r"negative\.json: entry 9: expected an object"),
    ],
)
def test_a_missing_a_broken_and_a_malformed_file_are_named(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=r"positive\.json"):
        load_triples(tmp_path, PERSONAS, QUESTIONS)
    with pytest.raises(DataError, match=sentence):
        load_triples(copy(tmp_path, change, "negative"), PERSONAS, QUESTIONS)
    (tmp_path / "red_team.json").write_text("[{")
    with pytest.raises(DataError, match=r"red_team\.json"):
        load_triples(tmp_path, PERSONAS, QUESTIONS)


def test_entries_come_in_file_order_with_all_their_fields() -> None:
    row = json.loads((FOLDER / "red_team.json").read_text())[6]
    assert TRIPLES["red_team"][6] == Triple(**row, expected="no")
    row = json.loads((FOLDER / "negative.json").read_text())[72]
    assert TRIPLES["negative"][72] == Triple(**row, kind="negative", expected="no")


def test_the_digest_of_the_triples_changes_with_any_of_them() -> None:
    found = triples_digest(TRIPLES)
    assert re.fullmatch("[0-9a-f]{64}", found)
    last = TRIPLES["negative"][-1]
    changed = Triple(last.id, last.kind, last.persona, last.question, last.text + "!", "no")
    assert triples_digest({**TRIPLES, "negative": (*TRIPLES["negative"][:-1], changed)}) != found
    assert triples_digest({**TRIPLES, "negative": TRIPLES["negative"][:-1]}) != found


# The gate


def test_a_perfect_judge_holds_and_its_intervals_are_wilsons() -> None:
    result = calibrate()
    assert result.outcome is HOLDS
    assert outcomes(result) == dict.fromkeys(RIGHT, HOLDS)
    z2 = 1.959963984540054**2
    for one, hits in zip(result.classes, (73, 0, 0), strict=True):
        low, high = proportion_confint(hits, 73, method="wilson")
        assert (one.share.value, one.share.n, one.share.clusters) == (hits / 73, 73, 73)
        assert one.share.low == pytest.approx(low, abs=1e-12)
        assert one.share.high == pytest.approx(high, abs=1e-12)
    # By hand: the end of a clean sheet is n / (n + z^2), and 73 is the least n that will do.
    assert result.classes[0].share.low == pytest.approx(73 / (73 + z2)) == pytest.approx(0.950008)
    assert result.classes[1].share.high == pytest.approx(z2 / (73 + z2)) == pytest.approx(0.049992)
    assert 72 / (72 + z2) < 0.95


@pytest.mark.parametrize("name", list(RIGHT))
@pytest.mark.parametrize("slip", ["partial", "wrong", UNSCORED])
def test_one_slip_in_73_is_one_too_many_whatever_it_is(name: str, slip: str) -> None:
    wrong = {"yes": "no", "no": "yes"}[RIGHT[name]] if slip == "wrong" else slip
    result = calibrate({**PERFECT, name: [RIGHT[name]] * 72 + [wrong]})
    assert outcomes(result) == {**dict.fromkeys(RIGHT, HOLDS), name: CANNOT_TELL}
    assert result.outcome is CANNOT_TELL
    one = next(c for c in result.classes if c.name == name)
    hits = 72 if name == "positive" else 1
    assert one.share.value == hits / 73
    assert one.share.low == pytest.approx(proportion_confint(hits, 73, method="wilson")[0])
    assert getattr(one, wrong) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes", {"positive": HOLDS, "red_team": FAILS, "negative": FAILS}),
        ("no", {"positive": FAILS, "red_team": HOLDS, "negative": HOLDS}),
        ("partial", {"positive": FAILS, "red_team": FAILS, "negative": FAILS}),
        (UNSCORED, {"positive": FAILS, "red_team": FAILS, "negative": FAILS}),
    ],
)
def test_a_judge_that_always_says_the_same_fails(
    answer: str, expected: dict[str, GateOutcome]
) -> None:
    result = calibrate({name: [answer] * 73 for name in RIGHT})
    assert outcomes(result) == expected
    assert result.outcome is FAILS


@pytest.mark.parametrize("name", list(RIGHT))
def test_fewer_answers_than_registered_cannot_tell(name: str) -> None:
    for given in ([RIGHT[name]] * 72, []):
        result = calibrate({**PERFECT, name: given})
        assert outcomes(result) == {**dict.fromkeys(RIGHT, HOLDS), name: CANNOT_TELL}
        one = next(c for c in result.classes if c.name == name)
        assert (one.share.n, one.asked) == (len(given), 73)
        assert math.isnan(one.share.value) == (not given)
        assert f"n = {len(given)} of 73" in one.line
    left_out = calibrate({other: PERFECT[other] for other in RIGHT if other != name})
    assert outcomes(left_out)[name] is CANNOT_TELL


@pytest.mark.parametrize("answer", ["no", "yes"])
@pytest.mark.parametrize("given", [99, 73, 1])
def test_what_is_missing_is_not_outweighed_by_what_is_there(answer: str, given: int) -> None:
    """73 clean answers would do for 5 %, and as many wrong ones would fail; 100 are registered."""
    spec = only(n=100)
    assert calibrate({"x": [answer] * given}, spec).outcome is CANNOT_TELL
    assert calibrate({"x": [answer] * 100}, spec).outcome is (HOLDS if answer == "no" else FAILS)


def test_classes_are_never_pooled() -> None:
    """Seven misses in 219 would pass a loose pooled bound; in one class they are ten per cent."""
    classes = [
        replace(one, threshold=0.92 if one.direction == "least" else 0.08)
        for one in CALIBRATION.classes
    ]
    loose = replace(CALIBRATION, classes=tuple(classes))
    answers = {**PERFECT, "red_team": ["yes"] * 7 + ["no"] * 66}
    assert proportion_confint(7, 219, method="wilson")[1] < 0.08
    assert outcomes(calibrate(answers, loose))["red_team"] is CANNOT_TELL
    assert calibrate(answers, loose).outcome is CANNOT_TELL
    # A class that fails outweighs one that cannot tell.
    answers = {**answers, "negative": ["yes"] * 73}
    assert calibrate(answers, loose).outcome is FAILS


def test_the_bounds_have_two_sides() -> None:
    """At 0.90 / 0.10 of 73: the first count on each side, from statsmodels' intervals."""

    def one(direction: str, threshold: float, hits: int) -> GateOutcome:
        answers = {"x": ["yes"] * hits + ["no"] * (73 - hits)}
        return calibrate(answers, only(direction, threshold)).outcome

    for hits in range(74):
        low, high = proportion_confint(hits, 73, method="wilson")
        least = HOLDS if low >= 0.9 else FAILS if high < 0.9 else CANNOT_TELL
        most = HOLDS if high <= 0.1 else FAILS if low > 0.1 else CANNOT_TELL
        assert (one("least", 0.9, hits), one("most", 0.1, hits)) == (least, most)


def test_a_line_says_what_was_counted_and_what_was_asked() -> None:
    lines = [one.line for one in calibrate({**PERFECT, "negative": ["partial"] * 73}).classes]
    assert lines[0] == (
        "positive: HOLDS (yes share 1.0000 [0.9500, 1.0000], needs lower end >= 0.95; "
        "n = 73: 73 yes, 0 partial, 0 no, 0 unscored)"
    )
    assert lines[2] == (
        "negative: FAILS (yes share 1.0000 [0.9500, 1.0000], needs upper end <= 0.05; "
        "n = 73: 0 yes, 73 partial, 0 no, 0 unscored)"
    )


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({**PERFECT, "negative": ["no"] * 74}, "negative: answers.* 73, got 74"),
        ({**PERFECT, "other": ["no"]}, "answers: expected classes among"),
        ({**PERFECT, "positive": ["yes", "Yes"]}, "positive, answer 2: .*'Yes'"),
        ({**PERFECT, "positive": "yes"}, "positive, answer 1: .*'y'"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answers: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        calibrate(answers)


@pytest.mark.parametrize("field", list(BOUND))
@pytest.mark.parametrize("value", ["", "a" * 63, "A" * 64, "a" * 65])
def test_a_calibration_is_bound_by_digests(field: str, value: str) -> None:
    arguments: dict[str, Any] = {**BOUND, field: value}
    with pytest.raises(DataError, match=f"calibration: {field}"):
        judge_calibration(CALIBRATION, PERFECT, **arguments)


def test_json_holds_everything_and_null_for_what_is_not_known() -> None:
    for answers in (PERFECT, {**PERFECT, "red_team": [], "negative": [UNSCORED] * 73}):
        result = calibrate(answers)
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        again = CalibrationResult.from_json(written)
        assert again.to_json() == written
        assert written["outcome"] == result.outcome.value
        assert {name: written[name] for name in BOUND} == BOUND
        assert outcomes(again) == outcomes(result)
        assert again.classes[2] == result.classes[2]
    assert written["classes"][1]["share"]["value"] is None
    assert math.isnan(again.classes[1].share.low)
    assert written["classes"][2]["unscored"] == 73


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(outcome="HOLDS"),
        lambda body: body["classes"][1].update(outcome="HOLDS"),
        lambda body: body["classes"][1].update(yes=0, no=73),
        lambda body: body["classes"][1].update(threshold=0.99),
        lambda body: body["classes"][1]["share"].update(high=0.04),
    ],
)
def test_a_stored_calibration_whose_figures_were_changed_is_refused(
    change: Callable[[dict[str, Any]], None],
) -> None:
    body = calibrate({**PERFECT, "red_team": ["yes"] * 73}).to_json()
    CalibrationResult.from_json(body)
    change(body)
    with pytest.raises(DataError, match="what its counts give"):
        CalibrationResult.from_json(body)


def test_the_spec_is_part_of_the_result() -> None:
    other = replace(CALIBRATION, confidence=0.94)
    assert calibrate().spec != calibrate(spec=other).spec
    assert calibrate(spec=other).confidence == 0.94
    high = proportion_confint(0, 73, alpha=0.06, method="wilson")[1]
    assert calibrate(spec=other).classes[1].share.high == pytest.approx(high)


@pytest.mark.parametrize(
    "changes",
    [
        {"direction": "more"},
        {"threshold": 1.0},
        {"threshold": 95},
        {"n": 0},
        {"n": 73.0},
        {"name": ""},
    ],
)
def test_a_class_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        replace(CALIBRATION.classes[1], **changes)


def test_a_spec_that_no_judge_could_meet_is_refused() -> None:
    for n in (72, 1):
        for bound in (("least", 0.95), ("most", 0.05)):
            with pytest.raises(SpecError, match=r"x\.n: expected >= 73"):
                only(*bound, n)
    only("least", 0.83, 20)
    for error in (0.01, 0.03, 0.1, 0.2):
        for confidence in (0.9, 0.95, 0.99):
            for direction, threshold in (("most", error), ("least", 1 - error)):
                one = ClassSpec(name="x", direction=direction, threshold=threshold, n=1)
                uppers = (
                    proportion_confint(0, n, alpha=1 - confidence, method="wilson")[1]
                    for n in range(1, 1000)
                )
                fewest = next(n for n, upper in enumerate(uppers, start=1) if upper <= error)
                assert clean_sheet(one, confidence) == fewest
    twice = (CALIBRATION.classes[0], CALIBRATION.classes[0])
    for words, changes in (
        ("at least one", {"classes": ()}),
        ("distinct", {"classes": twice}),
        ("confidence", {"confidence": 95}),
    ):
        with pytest.raises(SpecError, match=words):
            replace(CALIBRATION, **changes)
