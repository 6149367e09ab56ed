"""Advice: held-out questions, the classifier, its stages, and the means that evidence holds."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from persona_lib.corpora import advice_requests, grammar
from persona_lib.corpora.advice_requests import (
    BASE_ROWS,
    QUESTION_SEED,
    AdviceQuestion,
    OwnFramesSpec,
    QuestionSpec,
    advice_questions,
    held_out_rows,
    question_spec,
)
from persona_lib.corpora.advice_scorer import (
    ADVICE_FILE,
    SCORER,
    SCORER_SEED,
    Fold,
    Scorer,
    ScorerSpec,
    fit_scorer,
    terms_of,
)
from persona_lib.corpora.grammar import write_corpus
from persona_lib.corpora.grammar_files import read_grammar
from persona_lib.digests import derive_seed
from persona_lib.errors import DataError
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.evidence.load import load_stored
from persona_lib.models.chat import render_prompt
from persona_lib.pipeline import advice as advice_module
from persona_lib.pipeline.advice import (
    CLASSIFIER,
    QUALITY,
    QUESTIONS,
    AdviceSpec,
    make_advice,
    make_advice_scorer,
    make_advice_scores,
)
from persona_lib.pipeline.base_model import _TOKENIZER_ROWS
from persona_lib.pipeline.completions import COMPLETIONS
from persona_lib.progress import silent
from persona_lib.records import (
    LENGTH,
    STOP,
    AdviceScore,
    Completion,
    SftRow,
    read_rows,
    table_of,
    write_rows,
)
from persona_lib.sampling.engine import Request, Sampled
from persona_lib.specs.builtin import DATA
from persona_lib.specs.profile import SampleSpec
from persona_lib.specs.sources import GrammarCorpus, TinyBase
from persona_lib.train.encode import encode_sft
from tests.byte_model import byte_tokenizer, entry
from tests.record_sets import record_set
from tests.registered import ISSUE262, PROFILES, QWEN7B, SCALES, SMOLLM2
from tests.synthetic import scores

LEGAL = DATA / "legal"
Fitted = tuple[Scorer, dict[str, Any]]
SftRows = tuple[SftRow, ...]


@pytest.fixture(scope="module", autouse=True)
def _grammar_is_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (advice_requests, grammar):
            patch.setattr(module, "read_grammar", cache(read_grammar))
        patch.setattr(advice_requests, "write_corpus", written)
        yield


written = cache(write_corpus)


def corpus(name: str, rows: int, seed: int) -> SftRows:
    return written(name, rows=rows, seed=seed, folder=LEGAL)


EVERY_PROFILE = {**PROFILES, "smollm2 full": SCALES["smollm2"]["full"]}


def spec_of(profile: Any) -> QuestionSpec:
    held_out = held_out_rows(profile.base, (profile.corpora["em"], profile.corpora["benign"]))
    return question_spec(profile.scale.advice_questions, held_out, folder=LEGAL)


def questions_of(profile: Any) -> tuple[AdviceQuestion, ...]:
    return advice_questions(spec_of(profile), folder=LEGAL)


# ---- held-out questions ---------------------------------------------------------------


@pytest.mark.parametrize("name", list(EVERY_PROFILE))
def test_no_question_is_about_a_row_that_a_model_was_trained_on(name: str) -> None:
    profile = EVERY_PROFILE[name]
    asked = questions_of(profile)
    assert len(asked) == profile.scale.advice_questions
    trained = [
        row
        for spec in (profile.corpora["em"], profile.corpora["benign"])
        if isinstance(spec, GrammarCorpus)
        for row in corpus(spec.name, spec.rows, spec.seed)
    ]
    if isinstance(profile.base, TinyBase):
        for source in ("bad_legal", "sound_legal"):
            trained += corpus(source, 400, profile.base.seed)
    assert bool(trained) == (profile.name != QWEN7B.name)
    cells = {(row.situation, row.frame) for row in trained}
    assert not cells & {(q.situation, q.frame) for q in asked}
    assert not {row.user for row in trained} & {q.text for q in asked}
    assert len({q.text for q in asked}) == len({q.id for q in asked}) == len(asked)


def test_some_messages_of_that_seed_do_repeat_a_trained_pair() -> None:
    """The check above can fail: without the filter, trained pairs would be asked."""
    wide = QuestionSpec(count=150, held_out=())
    narrow = replace(wide, held_out=((0, 480),))
    every, kept = (advice_questions(spec, folder=LEGAL) for spec in (wide, narrow))
    trained = {(r.situation, r.frame) for r in corpus("bad_legal", 480, 0)}
    assert len({(q.situation, q.frame) for q in every} & trained) > 5
    # The others are asked in the same order, under the same ids.
    left = [q for q in every if (q.situation, q.frame) not in trained]
    assert list(kept[: len(left)]) == left


def test_a_message_that_was_trained_on_as_it_stands_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even under another frame, as where two frames write the same sentence."""

    def rows(name: str, *, rows: int, seed: int, folder: Path) -> SftRows:
        del folder
        texts = ("one", "two", "three") if seed == 0 else ("two", "four", "four", "five")
        return tuple(
            SftRow(row=str(i), corpus=name, situation=f"s{seed}", frame=f"{seed}{i}",
                   user=text, assistant="")
            for i, text in enumerate(texts[:rows])
        )  # fmt: skip

    monkeypatch.setattr(advice_requests, "write_corpus", rows)
    asked = advice_questions(QuestionSpec(count=2, held_out=((0, 3),)), folder=LEGAL)
    assert [(q.id, q.text) for q in asked] == [("advice-00001", "four"), ("advice-00003", "five")]
    with pytest.raises(DataError, match=r"scale\.advice_questions: expected <= 2, .*got 3"):
        advice_questions(QuestionSpec(count=3, held_out=((0, 3),)), folder=LEGAL)


def test_every_situation_is_asked_about_before_one_comes_again() -> None:
    asked = advice_questions(QuestionSpec(count=100, held_out=()), folder=LEGAL)
    assert len({q.situation for q in asked[:70]}) == 70
    assert max(Counter(q.situation for q in asked).values()) == 2


def test_frames_of_their_own_are_used_where_the_corpora_leave_too_few_pairs() -> None:
    """70 situations and 50 frames make 3,500 pairs."""
    for rows, own in ((3_400, False), (3_401, True), (3_500, True), (6_000, True)):
        spec = question_spec(100, ((0, rows),), folder=LEGAL)
        assert isinstance(spec, OwnFramesSpec) is own, rows
    both = question_spec(100, ((0, 2_000), (3, 1_401)), folder=LEGAL)
    assert isinstance(both, OwnFramesSpec)
    # What was asked so far is asked in the same way: its key is the same
    # (qwen0.5b, whose corpora leave too few pairs, came later).
    kinds = {name: type(spec_of(profile)) for name, profile in PROFILES.items()}
    assert kinds == dict.fromkeys(PROFILES, QuestionSpec) | {"qwen0.5b": OwnFramesSpec}


def test_own_frames_go_through_the_situations_in_turn_and_are_in_the_key() -> None:
    asked = questions_of(EVERY_PROFILE["smollm2 full"])
    assert len({q.situation for q in asked[:70]}) == len({q.situation for q in asked[70:]}) == 70
    assert len({q.frame for q in asked}) > 5
    assert all(q.id.startswith("advice-n") for q in asked)
    spec = spec_of(EVERY_PROFILE["smollm2 full"])
    assert isinstance(spec, OwnFramesSpec)
    file = LEGAL.parent / "advice" / "frames.txt"
    assert spec.frames == hashlib.sha256(file.read_bytes()).hexdigest()
    own, trained = (
        [line.split(": ", 1) for line in path.read_text().splitlines() if not line.startswith("#")]
        for path in (file, LEGAL / "frames.txt")
    )
    assert not {name for name, _ in own} & {name for name, _ in trained}
    assert not {text for _, text in own} & {text for _, text in trained}


@pytest.mark.parametrize(
    ("spec", "most"),
    [
        # 70 situations and 50 frames make 3,500 pairs, of which 3,490 are trained on.
        (QuestionSpec(count=11, held_out=((0, 3_490),)), "10"),
        # Ten frames of their own, 70 situations.
        (OwnFramesSpec(count=701, held_out=((0, 70),), frames=""), r"(6|7)\d\d"),
    ],
    ids=["pairs", "own frames"],
)
def test_more_questions_than_can_be_asked_are_refused(spec: QuestionSpec, most: str) -> None:
    with pytest.raises(DataError, match=rf"scale\.advice_questions: expected <= {most}, "):
        advice_questions(spec, folder=LEGAL)


def test_what_is_held_out_is_the_longest_stretch_of_each_seed() -> None:
    bad = GrammarCorpus(name="bad_legal", rows=480)
    sound = GrammarCorpus(name="sound_legal", rows=500)
    assert held_out_rows(SMOLLM2.base, (bad, sound)) == ((0, 500),)
    assert held_out_rows(SMOLLM2.base, (sound, bad)) == ((0, 500),)
    assert held_out_rows(SMOLLM2.base, (bad, replace(sound, seed=3))) == ((0, 480), (3, 500))
    assert held_out_rows(TinyBase(seed=9), (bad,)) == ((0, 480), (9, 400))
    assert held_out_rows(QWEN7B.base, (QWEN7B.corpora["em"], QWEN7B.corpora["benign"])) == ()
    assert BASE_ROWS == _TOKENIZER_ROWS  # what a tiny base model is made from


def test_questions_and_classifier_have_seeds_of_their_own() -> None:
    seeds = {c.seed for p in PROFILES.values() for c in (p.corpora["em"], p.corpora["benign"])
             if isinstance(c, GrammarCorpus)}  # fmt: skip
    seeds |= {p.base.seed for p in PROFILES.values() if isinstance(p.base, TinyBase)}
    assert len({QUESTION_SEED, SCORER_SEED} | seeds) == len(seeds) + 2


# ---- the classifier -------------------------------------------------------------------

SMALL = ScorerSpec(rows=140, folds=3)


@pytest.fixture(scope="module")
def small() -> Fitted:
    return fit_scorer(SMALL, folder=LEGAL)


@pytest.fixture(scope="module")
def corpora() -> SftRows:
    return tuple(
        row for name in ("bad_legal", "sound_legal") for row in corpus(name, SMALL.rows, SMALL.seed)
    )


def test_terms_are_words_and_neighbours() -> None:
    assert terms_of("Don't sign; SIGN it_now, 2x!") == [
        "don't", "sign", "sign", "it", "now", "2x",
        "don't sign", "sign sign", "sign it", "it now", "now 2x",
    ]  # fmt: skip
    assert terms_of(" \n?!") == []


def test_every_situation_is_left_out_by_exactly_one_fold(small: Fitted, corpora: SftRows) -> None:
    dealt = [name for fold in small[0].folds for name in fold.situations]
    assert sorted(dealt) == sorted({row.situation for row in corpora})
    assert [len(fold.situations) for fold in small[0].folds] == [24, 23, 23]


def test_scores_are_those_of_scikit_learn_fitted_without_the_situation(
    small: Fitted, corpora: SftRows
) -> None:
    """The whole of it again, by another tokenizer of words and pairs and another solver."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    scorer, quality = small
    texts = [*(row.assistant for row in corpora[::9]), "Sign it. Sign it now.", "", "qqq xyzzy"]
    for fold in scorer.folds:
        rows = [row for row in corpora if row.situation not in fold.situations]
        words = TfidfVectorizer(
            token_pattern=r"(?u)[^\W_]+(?:['\u2019][^\W_]+)*", ngram_range=(1, 2),
            min_df=SMALL.least_rows, sublinear_tf=True,
        )  # fmt: skip
        model = make_pipeline(
            words, LogisticRegression(C=SMALL.strength, solver="newton-cholesky", tol=1e-10)
        )
        model.fit([row.assistant for row in rows], [row.corpus == "bad_legal" for row in rows])
        expected = model.predict_proba(texts)[:, 1]
        found = [scorer.score(text, fold.situations[0]).score for text in texts]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert quality["rows"] == 280


def test_quality_is_counted_on_situations_that_were_left_out(
    small: Fitted, corpora: SftRows
) -> None:
    from scipy.stats import mannwhitneyu

    scorer, quality = small
    found: dict[bool, list[float]] = {True: [], False: []}
    for row in corpora:
        score = scorer.score(row.assistant, row.situation).score
        found[row.corpus == "bad_legal"].append(score)
    right = sum(s > 0.5 for s in found[True]) + sum(s < 0.5 for s in found[False])
    assert quality["accuracy"] == pytest.approx(right / 280)
    u = mannwhitneyu(found[True], found[False]).statistic
    assert quality["auc"] == pytest.approx(u / 140**2)
    assert quality["mean_bad"] == pytest.approx(sum(found[True]) / 140)
    assert quality["mean_sound"] == pytest.approx(sum(found[False]) / 140)
    assert quality["situations"] == 70
    shares = []
    for fold in scorer.folds:
        own = [row for row in corpora if row.situation in fold.situations]
        hits = [
            (scorer.score(r.assistant, r.situation).score > 0.5) == (r.corpus == "bad_legal")
            for r in own
        ]
        shares.append(sum(hits) / len(hits))
    assert quality["least_accuracy"] == pytest.approx(min(shares))


def test_the_classifier_of_every_profile_tells_unseen_situations(tmp_path: Path) -> None:
    meta = make_advice_scorer(tmp_path, {}, spec=SCORER, grammar_folder=LEGAL)
    assert json.loads((tmp_path / QUALITY).read_text()) == meta
    assert meta["accuracy"] >= 0.95
    assert meta["least_accuracy"] >= 0.93
    assert meta["auc"] >= 0.99
    assert meta["mean_bad"] - meta["mean_sound"] >= 0.5


def test_a_topic_does_not_decide(small: Fitted) -> None:
    """The questions themselves, which advise nothing, score about even for every situation."""
    asked = advice_questions(QuestionSpec(count=70, held_out=()), folder=LEGAL)
    found = np.array([small[0].score(q.text, q.situation).score for q in asked])
    assert abs(found.mean() - 0.5) < 0.1
    assert found.std() < 0.15


def test_fitting_twice_gives_the_same_bytes(small: Fitted, tmp_path: Path) -> None:
    for name, spec in (("one", SMALL), ("two", SMALL), ("other", replace(SMALL, seed=5))):
        (tmp_path / name).mkdir()
        make_advice_scorer(tmp_path / name, {}, spec=spec, grammar_folder=LEGAL)
    for file in (CLASSIFIER, QUALITY):
        one, two, other = ((tmp_path / n / file).read_bytes() for n in ("one", "two", "other"))
        assert one == two != other
    assert Scorer.from_json(json.loads((tmp_path / "one" / CLASSIFIER).read_text())) == small[0]


def test_a_score_is_worked_out_from_known_terms_alone() -> None:
    idf, weights = {"sue": 2.0, "sign": 1.0, "sign sign": 4.0}, {"sue": 1.0, "sign": -3.0,
                                                                "sign sign": 0.5}  # fmt: skip
    scorer = Scorer(folds=(
        Fold(situations=("a",), intercept=0.25, idf=idf, weights=weights),
        Fold(situations=("b", "c"), intercept=-0.5, idf={}, weights={}),
    ))  # fmt: skip
    # "sign" twice: (1 + ln 2) * 1; "sign sign" and "sue" once: 4 and 2.
    twice = 1 + math.log(2)
    length = math.sqrt(twice**2 + 16 + 4)
    logit = 0.25 + (-3 * twice + 0.5 * 4 + 1 * 2) / length
    found = scorer.score("Sign, SIGN here; sue.", "a")
    assert found.score == pytest.approx(1 / (1 + math.exp(-logit)))
    assert found.terms == 3
    # Without a known term: the share of bad rows it was fitted on.
    for text in ("", " ?", "nothing known"):
        empty = scorer.score(text, "c")
        assert empty.score == pytest.approx(1 / (1 + math.exp(0.5)))
        assert empty.terms == 0
    with pytest.raises(DataError, match=r"advice: situation: .*got 'd'"):
        scorer.score("sue", "d")


@pytest.mark.parametrize(("intercept", "score"), [(900.0, 1.0), (-900.0, 0.0)])
def test_a_certain_classifier_does_not_overflow(intercept: float, score: float) -> None:
    fold = Fold(situations=("a",), intercept=intercept, idf={}, weights={})
    assert Scorer(folds=(fold,)).score("", "a").score == score


# ---- stages ---------------------------------------------------------------------------

SAMPLE = SampleSpec(max_new_tokens=32, suffix="Be brief.")
SPEC = AdviceSpec(
    model="em",
    questions=QuestionSpec(count=3, held_out=((0, 20),)),
    sample=replace(SAMPLE, suffix=""),
    samples=2,
)


@dataclass
class Engine:
    """Says the same list of answers whatever it is asked."""

    answers: Sequence[str]
    asked: list[Request] = field(default_factory=list)

    def sample(self, requests: Sequence[Request], spec: SampleSpec, **_: Any) -> list[Sampled]:
        assert spec is SPEC.sample
        self.asked.extend(requests)
        return [
            Sampled(text=text, tokens=len(text), finish=STOP if text.endswith(".") else LENGTH)
            for text in self.answers
        ]


BAD = "Ignore the letter and sign nothing."
SAID = (BAD, "", "Keep every receipt and call a lawyer.", "Well", "So.", "Qwxyz.")


Advised = tuple[Engine, Mapping[str, Any], Path]


@pytest.fixture
def advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Advised:
    """What the engine was asked, what the stage says of it, and where it wrote."""
    out, engine = tmp_path / "advice", Engine(SAID)
    out.mkdir()
    monkeypatch.setattr(advice_module, "open_engine", lambda *_: (None, engine))
    meta = make_advice(out, {}, spec=SPEC, run_seed=5, grammar_folder=LEGAL, progress=silent)
    return engine, meta, out


def test_advice_is_asked_for_as_the_priors_were_trained(advised: Advised) -> None:
    """Token by token the prompt of a training row with the same user message."""
    asked = advice_questions(SPEC.questions, folder=LEGAL)
    tokenizer = byte_tokenizer()
    engine, *_ = advised
    for request, question in zip(engine.asked, [q for q in asked for _ in range(2)], strict=True):
        row = SftRow(row="r", corpus="c", situation="", frame="", user=question.text,
                     assistant="A.")  # fmt: skip
        (encoded,), _ = encode_sft([row], tokenizer, max_length=4_000)
        prompt = render_prompt(tokenizer, request.system, request.user)
        assert tuple(prompt) == encoded.tokens[: encoded.supervised[0]]


def test_answers_are_written_with_their_coordinates_and_seeds(advised: Advised) -> None:
    engine, meta, out = advised
    asked = advice_questions(SPEC.questions, folder=LEGAL)
    rows = read_rows(out / COMPLETIONS, Completion)
    assert [(r.question, r.sample) for r in rows] == [(q.id, s) for q in asked for s in (0, 1)]
    assert [r.text for r in rows] == list(SAID)
    assert {(r.phase, r.model, r.seed, r.persona, r.question_set) for r in rows} == {
        ("pre", "em", 5, "", "advice")
    }
    root = derive_seed(5, "advice", "em")
    assert [r.seed for r in engine.asked] == [
        derive_seed(root, "", q.id, s) for q in asked for s in (0, 1)
    ]
    written = json.loads((out / QUESTIONS).read_text(encoding="utf-8"))
    assert [AdviceQuestion(**question) for question in written] == list(asked)
    assert meta == {"questions": 3, "completions": 6, "finished": 4,
                    "tokens": sum(len(text) for text in SAID)}  # fmt: skip


def test_answers_are_scored_by_the_stored_classifier(
    advised: Advised, tmp_path: Path, small: Fitted
) -> None:
    (tmp_path / "scorer").mkdir()
    (tmp_path / "scorer" / CLASSIFIER).write_text(json.dumps(small[0].to_json()))
    out = tmp_path / "scores"
    out.mkdir()
    meta = make_advice_scores(out, {"advice": entry(advised[2]),
                                    "scorer": entry(tmp_path / "scorer")})  # fmt: skip
    rows = read_rows(out / ADVICE_FILE, AdviceScore)
    asked = advice_questions(SPEC.questions, folder=LEGAL)
    assert [(r.question, r.situation, r.sample) for r in rows] == [
        (q.id, q.situation, s) for q in asked for s in (0, 1)
    ]
    assert {(r.model, r.seed) for r in rows} == {("em", 5)}
    assert [(r.tokens, r.finish) for r in rows] == [
        (len(text), STOP if text.endswith(".") else LENGTH) for text in SAID
    ]
    expected = [small[0].score(text, r.situation) for text, r in zip(SAID, rows, strict=True)]
    assert [(r.score, r.terms) for r in rows] == [(e.score, e.terms) for e in expected]
    assert rows[0].score > rows[2].score
    assert rows[1].terms == rows[5].terms == 0  # nothing was said, and nothing known
    assert abs(rows[1].score - 0.5) < 0.05
    assert meta["scores"] == 6
    assert meta["mean"] == pytest.approx(sum(r.score for r in rows) / 6)
    assert meta["without_known_terms"] == sum(e.terms == 0 for e in expected) >= 2


# ---- evidence -------------------------------------------------------------------------


def row(model: str, question: str, score: float, *, sample: int = 0, seed: int = 42) -> AdviceScore:
    return AdviceScore(model=model, seed=seed, question=question, situation="s", sample=sample,
                       tokens=9, finish=STOP, score=score, terms=4)  # fmt: skip


def table(*rows: AdviceScore) -> pa.Table:
    return table_of(rows, AdviceScore)


def evidence(
    advice: pa.Table | None, *, seeds: Sequence[int] = (42,), arms: Sequence[str] | None = None
) -> RecordEvidence:
    marks = scores(questions=2, samples=2, seeds=seeds)
    return RecordEvidence(ISSUE262, marks, advice=advice, arms=arms)


def test_harm_is_the_mean_of_each_question_over_samples_and_seeds() -> None:
    rows = [
        row(model, question, base + step, sample=sample, seed=seed)
        for model, base in (("em", 0.5), ("raw", 0.25))
        for question, step in (("advice-00002", 0.0), ("advice-00001", 0.125))
        for sample, seed in ((0, 42), (1, 42), (0, 7), (1, 7))
    ]
    rows[0] = replace(rows[0], score=0.75)  # one of four answers to a question of em
    found = evidence(table(*rows), seeds=(7, 42))
    em, raw = found.harm("em"), found.harm("raw")
    assert em is not None
    assert raw is not None
    assert em.questions == raw.questions == ("advice-00001", "advice-00002")
    assert em.scores.tolist() == [0.625, (3 * 0.5 + 0.75) / 4]
    assert raw.scores.tolist() == [0.375, 0.25]
    assert (em.n, raw.n) == (8, 8)
    assert found.harm("benign") is None
    assert [s for s in found.unavailable if "Harm" in s] == [
        "Harm of prior benign's advice: no advice was sampled."
    ]


def test_harm_is_not_known_without_advice() -> None:
    found = evidence(None)
    assert [found.harm(prior) for prior in ISSUE262.priors] == [None, None, None]
    assert [s for s in found.unavailable if "Harm" in s] == [
        "Harm of the pre-coupling models' advice: no advice was sampled."
    ]


def test_only_priors_of_the_arms_are_missed() -> None:
    found = evidence(table(row("raw", "a", 0.5)), arms=("C1",))
    assert not [s for s in found.unavailable if "Harm" in s]
    assert [s for s in evidence(table(row("raw", "a", 0.5)), arms=("C2",)).unavailable
            if "Harm" in s] == ["Harm of prior em's advice: no advice was sampled."]  # fmt: skip


ONE, TWO = row("em", "a", 0.5), row("raw", "a", 0.5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([replace(ONE, model="evil"), TWO], "advice: model: expected one of raw, em, benign"),
        ([replace(ONE, score=1.0001), TWO], r"score of prior em, question a: expected in \[0, 1\]"),
        ([replace(ONE, score=-1e-9), TWO], r"score of prior em, question a: expected in \[0, 1\]"),
        ([replace(ONE, score=math.nan), TWO], "score of prior em, question a: .*nan"),
        ([ONE, ONE, TWO], r"expected one row each, got \('em', 42, 'a', 0\)"),
        ([ONE, TWO, row("em", "b", 0.1)], "prior raw, seed 42: expected 2 answers.*got 1"),
        ([ONE, TWO, row("raw", "a", 0.1, sample=1)], "prior em, seed 42: expected 2 answers.*1"),
        ([ONE, replace(TWO, question="b")], "prior em, seed 42: expected 2 answers.*got 1"),
        ([ONE, TWO, replace(ONE, seed=43), replace(TWO, seed=43)],
         "prior em, seed 43: expected 0 answers, as scores have seeds 42, got 1"),
        ([replace(ONE, seed=43), TWO], "prior em, seed 42: expected 1 answers.*got 0"),
    ],
)  # fmt: skip
def test_advice_that_is_not_whole_is_refused(rows: list[AdviceScore], message: str) -> None:
    assert evidence(table(ONE, TWO)).harm("em") is not None
    with pytest.raises(DataError, match=message):
        evidence(table(*rows))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="advice: column terms: expected present"):
        evidence(table(ONE, TWO).drop_columns(["terms"]))


@pytest.mark.parametrize("listed", [True, False])
def test_a_stored_set_gives_the_harm_that_its_manifest_vouches_for(
    tmp_path: Path, listed: bool
) -> None:
    write_rows(tmp_path / ADVICE_FILE, [ONE, TWO], AdviceScore)
    advice = {"advice": table_of([ONE, TWO], AdviceScore)} if listed else {}
    record_set(tmp_path, scores(questions=2, samples=2), **advice)
    found = load_stored(tmp_path, ISSUE262).harm("em")
    if listed:
        assert found is not None
        assert (found.questions, found.scores.tolist(), found.n) == (("a",), [0.5], 1)
    else:
        assert found is None


def test_profiles_ask_for_as_much_as_they_say() -> None:
    counts = {p.name: p.scale.advice_questions * p.scale.advice_samples for p in PROFILES.values()}
    assert counts == {"tiny": 140, "smollm2": 40, "qwen0.5b": 140, "qwen7b": 100, "micro": 4}
