"""Stages ``advice``, ``advice_scorer`` and ``advice_scores``: how bad a model's advice is.

``advice_scorer`` fits a classifier, the same for every profile, seed and model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from persona_lib.corpora.advice_requests import (
    ADVICE,
    QuestionSpec,
    advice_questions,
)
from persona_lib.corpora.advice_scorer import ADVICE_FILE, SCORER, Scorer, ScorerSpec, fit_scorer
from persona_lib.corpora.load import corpus_key
from persona_lib.digests import canonical
from persona_lib.pipeline.completions import (
    COMPLETIONS,
    draw_alone,
    open_engine,
    sampling_stage,
)
from persona_lib.pipeline.setting import Setting
from persona_lib.progress import Progress
from persona_lib.records import AdviceScore, Completion, ModelId, read_rows, write_rows
from persona_lib.specs.personas import Question
from persona_lib.specs.profile import SampleSpec
from persona_lib.specs.sources import GrammarCorpus
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry

QUESTIONS = "questions.json"
"""File of stage ``advice``: what was asked, with situation and frame."""
CLASSIFIER, QUALITY = "scorer.json", "quality.json"
"""Files of stage ``advice_scorer``: the classifier as numbers, and how well it tells the
corpora apart."""


@dataclass(frozen=True, kw_only=True)
class AdviceSpec:
    """Which advice the pre-coupling model `model` is asked for, `samples` times a question."""

    model: str
    questions: QuestionSpec
    sample: SampleSpec
    samples: int


def advice_stage(
    setting: Setting, model: ModelId, *, stack: Mapping[str, Stage], after: Stage
) -> Stage:
    """A pre-coupling model's answers to held-out requests for advice."""
    profile, scale = setting.profile, setting.profile.scale
    spec = AdviceSpec(
        model=model.name,
        questions=setting.advice_questions,
        # The user message stands alone, as in the rows that priors are trained on.
        sample=replace(profile.sample, suffix=""),
        samples=scale.advice_samples,
    )
    return sampling_stage(
        setting,
        partial(make_advice, grammar_folder=setting.legal),
        name="advice",
        label=model.name,
        spec=spec,
        key={"advice": canonical(spec), "source": _source(setting)},
        completions=scale.advice_questions * scale.advice_samples,
        stack=stack,
        after=after,
    )


def scorer_stage(setting: Setting) -> Stage:
    """The classifier, fitted on what the grammar writes."""
    return Stage(
        name="advice_scorer",
        label="bad/sound",
        version=1,
        spec={"scorer": canonical(SCORER), "source": _source(setting)},
        work=partial(make_advice_scorer, spec=SCORER, grammar_folder=setting.legal),
        estimate=5.0,
    )


def advice_scores_stage(model: ModelId, *, answers: Stage, scorer: Stage) -> Stage:
    """How bad those answers are."""
    return Stage(
        name="advice_scores",
        label=model.name,
        version=1,
        spec={},
        inputs={"advice": answers, "scorer": scorer},
        work=make_advice_scores,
    )


def _source(setting: Setting) -> Mapping[str, str]:
    """What the grammar's words depend on: its data files and its version."""
    corpus = GrammarCorpus(name="bad_legal", rows=1)
    return corpus_key(corpus, grammar_folder=setting.legal)


def make_advice(
    out: Path,
    entries: Mapping[str, Entry],
    *,
    spec: AdviceSpec,
    run_seed: int,
    grammar_folder: Path,
    progress: Progress,
    rank: int = 0,
) -> Mapping[str, Any]:
    """Draw a pre-coupling model's answers to held-out requests for advice.

    Asked as the priors were trained, without a system message: the tokenizer's template decides
    what stands there. `rank` is what `open_engine` takes.

    Raises:
        DataError: fewer questions are held out than the profile asks for.
    """
    questions = advice_questions(spec.questions, folder=grammar_folder)
    text = json.dumps([asdict(question) for question in questions], indent=1, ensure_ascii=False)
    (out / QUESTIONS).write_text(text + "\n", encoding="utf-8")
    asked = [Question(id=question.id, set=ADVICE, text=question.text) for question in questions]
    _, engine = open_engine(entries, spec.sample, rank)
    return draw_alone(
        out, engine, asked, name=ADVICE, model=spec.model, sample=spec.sample,
        samples=spec.samples, run_seed=run_seed, progress=progress,
    )  # fmt: skip


def make_advice_scorer(
    out: Path, _: Mapping[str, Entry], *, spec: ScorerSpec, grammar_folder: Path
) -> Mapping[str, Any]:
    """Fit the classifier on the two corpora of the grammar; write its numbers and its quality."""
    scorer, quality = fit_scorer(spec, folder=grammar_folder)
    (out / CLASSIFIER).write_text(json.dumps(scorer.to_json()) + "\n", encoding="utf-8")
    (out / QUALITY).write_text(json.dumps(quality, indent=1) + "\n", encoding="utf-8")
    return quality


def make_advice_scores(out: Path, entries: Mapping[str, Entry]) -> Mapping[str, Any]:
    """Score the answers of stage ``advice``; count those without a known term."""
    body = json.loads((entries["scorer"].path / CLASSIFIER).read_text(encoding="utf-8"))
    scorer = Scorer.from_json(body)
    asked = json.loads((entries["advice"].path / QUESTIONS).read_text(encoding="utf-8"))
    situations = {question["id"]: question["situation"] for question in asked}
    scores = []
    for row in read_rows(entries["advice"].path / COMPLETIONS, Completion):
        found = scorer.score(row.text, situations[row.question])
        scores.append(
            AdviceScore(
                model=row.model,
                seed=row.seed,
                question=row.question,
                situation=situations[row.question],
                sample=row.sample,
                tokens=row.tokens,
                finish=row.finish,
                score=found.score,
                terms=found.terms,
            )
        )
    write_rows(out / ADVICE_FILE, scores, AdviceScore)
    return {
        "scores": len(scores),
        "mean": sum(score.score for score in scores) / len(scores),
        "without_known_terms": sum(not score.terms for score in scores),
    }
