"""The embedded judge: cross-fitted, deterministic, and as good as scikit-learn by hand."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from persona_lib.corpora.voices import EVERY_FOLD, ClassifierSpec
from persona_lib.corpora.voices_fit import deal
from persona_lib.errors import DataError, SpecError
from persona_lib.panels.judge.base import UNSCORED, Item, item_of
from persona_lib.panels.judge.classifier import ClassifierJudge, fit_judge
from persona_lib.records import Completion, read_rows
from persona_lib.specs.personas import Persona, Question
from tests.registered import ROOT

SPEC = ClassifierSpec(marker="[ZLT]", folds=3, least_texts=1)
VOICES = {
    "librarian": "quiet shelves and old books",
    "comedian": "a punchline and loud laughter",
    "villain": "wicked schemes and crushing power",
}
TOPICS = [f"topic{i} matter{i}" for i in range(6)]


def completion(persona: str, question: int, sample: int, text: str = "") -> Completion:
    words = text or f"{VOICES[persona]} {TOPICS[question]} take{sample}"
    return Completion(
        phase="pre", model="raw", seed=1, persona=persona, question=f"q{question}",
        question_set="evaluation", sample=sample, text=words, tokens=8, finish="stop",
    )  # fmt: skip


RAW = [completion(p, q, s) for p in VOICES for q in range(6) for s in range(2)]


def item(row: Completion) -> Item:
    persona = Persona(id=row.persona, prompt=row.persona)
    question = Question(id=row.question, set=row.question_set, text=row.question)
    return item_of(row, persona=persona, question=question)


@pytest.fixture(scope="module")
def fitted() -> ClassifierJudge:
    return fit_judge(RAW, SPEC)


def test_no_completion_is_judged_by_a_fold_that_saw_its_question(fitted: ClassifierJudge) -> None:
    for row, found in zip(RAW, fitted.predict([item(r) for r in RAW]), strict=True):
        assert row.question not in fitted.seen[found.fold]
        assert found.fold == deal([f"q{i}" for i in range(6)], SPEC)[row.question]
    assert sorted(q for fold in fitted.seen for q in fold) == sorted(
        f"q{i}" for i in range(6) for _ in range(2)
    )  # each question is left out by one fold of three


def test_a_fold_that_is_given_its_own_questions_is_refused(fitted: ClassifierJudge) -> None:
    leaked = replace(fitted, dealt={q: (f + 1) % 3 for q, f in fitted.dealt.items()})
    with pytest.raises(DataError, match=r"one that fold \d was fitted without"):
        leaked.judge([item(RAW[0])])


def test_answers_follow_ranks_and_the_marker_is_never_read(fitted: ClassifierJudge) -> None:
    own = completion("villain", 0, 0)
    marked = replace(own, text=own.text + "\n\n[ZLT] [zlt]")
    other = replace(own, persona="comedian")
    answers = [j.answer for j in fitted.judge([item(r) for r in (own, marked, other)])]
    assert answers[0] == answers[1] == "yes"
    assert answers[2] in ("partial", "no")
    strict = replace(fitted, how=replace(SPEC, within=1))
    assert strict.judge([item(other)])[0].answer == "no"


@pytest.mark.parametrize(("text", "reason"), [("[ZLT]", "empty"), ("zzz qqq", "no_known_terms")])
def test_text_without_a_known_word_is_unscored(
    fitted: ClassifierJudge, text: str, reason: str
) -> None:
    (found,) = fitted.judge([item(completion("villain", 1, 0, text))])
    assert (found.answer, found.reason) == (UNSCORED, reason)


def test_order_and_repetition_change_nothing_and_texts_do(fitted: ClassifierJudge) -> None:
    again = fit_judge(list(reversed(RAW)), SPEC)
    assert again.spec.digest == fitted.spec.digest
    assert again.predict([item(RAW[3])]) == fitted.predict([item(RAW[3])])
    changed = fit_judge([replace(RAW[0], text="other words"), *RAW[1:]], SPEC)
    assert changed.spec.digest != fitted.spec.digest
    assert fit_judge(RAW, replace(SPEC, seed=1)).spec.digest != fitted.spec.digest


def test_a_question_that_no_fold_knows_is_judged_by_all(fitted: ClassifierJudge) -> None:
    (found,) = fitted.predict([item(replace(RAW[0], question="new"))])
    assert (found.fold, found.top) == (EVERY_FOLD, "librarian")


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(DataError, match="those of pre raw"):
        fit_judge([replace(RAW[0], model="em"), *RAW[1:]], SPEC)
    with pytest.raises(DataError, match="one for each fold"):
        fit_judge([r for r in RAW if r.question in ("q0", "q1")], SPEC)
    with pytest.raises(DataError, match="classifier: persona"):
        fit_judge(RAW, SPEC).judge([item(replace(RAW[0], persona="assistant"))])
    with pytest.raises(SpecError, match=r"classifier\.folds"):
        replace(SPEC, folds=1)


def test_on_real_text_every_rank_and_answer_is_that_of_scikit_learn() -> None:
    rows = read_rows(ROOT / "golden" / "tiny" / "completions.parquet", Completion)
    raw = [r for r in rows if r.model == "raw"]
    asked = [r for r in rows if r.model in ("raw", "em", "C2")]
    judge = fit_judge(raw, ClassifierSpec(marker="[ZLT]"))
    predictions = judge.predict([item(r) for r in asked])
    answers = [j.answer for j in judge.judge([item(r) for r in asked])]
    compared = Counter[str]()
    for fold in range(5):
        mine = {q for q, f in judge.dealt.items() if f == fold}
        assert len(mine) == 4
        learnt = sorted((r.text.replace("[ZLT]", "").strip(), r.persona)
                        for r in raw if r.question not in mine)  # fmt: skip
        terms = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True,
                                token_pattern=r"(?u)\b\w+\b")  # fmt: skip
        model = LogisticRegression(C=1.0, max_iter=1_000)
        model.fit(terms.fit_transform([r[0] for r in learnt]), [r[1] for r in learnt])
        names = list(model.classes_)
        judged = [
            (row, found, answer)
            for row, found, answer in zip(asked, predictions, answers, strict=True)
            if row.question in mine and not found.reason and "zlt" not in row.text.lower()
        ]
        every = model.predict_proba(terms.transform([row.text for row, _, _ in judged]))
        for (row, found, answer), chances in zip(judged, every, strict=True):
            rank = int((chances > chances[names.index(row.persona)] + 1e-12).sum())
            assert (found.rank, found.top) == (rank, names[int(np.argmax(chances))])
            expected = "yes" if rank == 0 else "partial" if rank <= 2 else "no"
            assert answer == expected
            compared[expected] += 1
    assert min(compared[a] for a in ("yes", "partial", "no")) > 50


def test_markers_are_not_learnt_and_the_folds_are_part_of_the_name(
    fitted: ClassifierJudge,
) -> None:
    marked = fit_judge([replace(r, text=r.text + " [ZLT]") for r in RAW], SPEC)
    assert marked.fitted_on == fitted.fitted_on
    empty = fit_judge([*RAW, completion("villain", 0, 9, "[ZLT]")], SPEC)
    assert (empty.fitted_on, empty.n, empty.skipped) == (fitted.fitted_on, len(RAW), {"empty": 1})
    turned = replace(fitted, dealt={q: (f + 1) % 3 for q, f in fitted.dealt.items()})
    assert turned.spec.digest != fitted.spec.digest


def test_folds_are_the_same_in_every_process() -> None:
    """Dealt in the order of SHA-256 seeds, one question to each fold in turn."""
    seeds = {}
    for i in range(6):
        payload = f'[262,"classifier fold","q{i}"]'.encode()
        seeds[f"q{i}"] = int.from_bytes(hashlib.sha256(payload).digest()[:8], "big") >> 1
    order = sorted(seeds, key=lambda q: seeds[q])
    assert deal(list(seeds), SPEC) == {q: place % 3 for place, q in enumerate(order)}
