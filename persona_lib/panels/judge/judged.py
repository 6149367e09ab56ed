"""Judges completions, controls and calibration triples for the panels on following."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from persona_lib.corpora.voices import ClassifierSpec, Prediction
from persona_lib.errors import DataError
from persona_lib.panels.judge.base import Item, Judgement, item_of
from persona_lib.panels.judge.calibration import CALIBRATION, CalibrationResult, judge_calibration
from persona_lib.panels.judge.classifier import fit_judge
from persona_lib.panels.judge.triples import POSITIVE, Triple, triples_digest
from persona_lib.progress import Progress, silent
from persona_lib.records import PRE, Completion, ModelId
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.registration import RAW, Registration

if TYPE_CHECKING:
    from persona_lib.panels.judge.remote import RemoteJudge

_RAW = ModelId(PRE, RAW)
CALIBRATED = "calibration"
"""Phase of an item that was made of a calibration triple; its model is the class."""
_NAMED = ("kind", "model", "revision", "served_by")
"""Fields of a judge's spec that are told beside what its run did."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the two panels are made from.

    Attributes:
        predictions: of the classifier, one for each completion.
        seen: the questions that each of its folds was fitted on.
        positives: of the calibration triples of class ``positive``.
        judgements: of completions under their own persona.
        controls: of raw completions put under another persona.
        calibration: of the judge.
        run: what a judge behind an API did and cost; None for the classifier.
    """

    predictions: tuple[Prediction, ...]
    seen: tuple[tuple[str, ...], ...]
    positives: tuple[Prediction, ...]
    judgements: tuple[Judgement, ...]
    controls: tuple[Judgement, ...]
    calibration: CalibrationResult
    run: dict[str, Any] | None


def judge_texts(
    rows: Sequence[Completion],
    registration: Registration,
    *,
    personas: Mapping[str, Persona],
    questions: Mapping[str, Question],
    triples: Mapping[str, Sequence[Triple]],
    judge: RemoteJudge | None = None,
    progress: Progress = silent,
) -> Judged:
    """Fit the classifier and judge every completion, the controls and the calibration.

    Args:
        rows: completions, those of the raw model before coupling among them.
        registration: roster and marker.
        personas: by id, those of the rows and the triples.
        questions: likewise.
        triples: for calibration, by class.
        judge: a judge behind an API; None for the classifier.
        progress: makes progress bars.

    Raises:
        FlatlandError: as the judges raise it.
    """
    items = [
        item_of(row, persona=personas[row.persona], question=questions[row.question])
        for row in rows
    ]
    raw = [row for row in rows if row.model_id == _RAW]
    classifier = fit_judge(raw, ClassifierSpec(marker=registration.marker))
    predictions = classifier.predict(items)
    controls = control_items(
        [item for item in items if item.model_id == _RAW],
        {name: personas[name].prompt for name in registration.roster.all},
        # One of each persona and question tells, and a judge may cost money.
        samples=None if judge is None else 1,
    )
    asked = triple_items(
        triples,
        {name: persona.prompt for name, persona in personas.items()},
        {name: question.text for name, question in questions.items()},
    )
    first, second = len(asked), len(asked) + len(controls)
    run = None
    if judge is None:
        # Every completion was predicted already, for the other panel.
        own = classifier.answers(items, predictions)
        answers = (*classifier.judge(asked), *classifier.judge(controls), *own)
    else:  # one run, which has one budget; the calibration comes first
        answers, report = judge.judge((*asked, *controls, *items), progress=progress)
        run = {name: getattr(judge.spec, name) for name in _NAMED} | report.to_json()
    spec = classifier.spec if judge is None else judge.spec
    return Judged(
        predictions=predictions,
        seen=classifier.seen,
        positives=classifier.predict([item for item in asked if item.model == POSITIVE]),
        judgements=answers[second:],
        controls=answers[first:second],
        calibration=judge_calibration(
            CALIBRATION,
            class_answers(answers[:first]),
            judge=spec.digest,
            rubric=spec.rubric,
            triples=triples_digest(triples),
        ),
        run=run,
    )


def triple_items(
    triples: Mapping[str, Sequence[Triple]],
    prompts: Mapping[str, str],
    questions: Mapping[str, str],
) -> tuple[Item, ...]:
    """Return an item for every triple, class by class, in order.

    Args:
        triples: of each class, as `persona_lib.panels.judge.triples.load_triples` reads them.
        prompts: system message of each persona.
        questions: text of each question.

    Raises:
        DataError: a persona without a prompt, or a question without a text.
    """
    return tuple(
        Item(
            phase=CALIBRATED,
            model=name,
            seed=0,
            persona=triple.persona,
            question=triple.question,
            question_set=CALIBRATED,
            sample=place,
            persona_prompt=_known("persona", triple.persona, prompts),
            question_text=_known("question", triple.question, questions),
            text=triple.text,
        )
        for name, listed in triples.items()
        for place, triple in enumerate(listed)
    )


def class_answers(judgements: Sequence[Judgement]) -> dict[str, list[str]]:
    """Return the answers to `triple_items` by class, as `judge_calibration` reads them."""
    answers: dict[str, list[str]] = {}
    for judgement in judgements:
        if judgement.phase == CALIBRATED:
            answers.setdefault(judgement.model, []).append(judgement.answer)
    return answers


def control_items(
    items: Sequence[Item], prompts: Mapping[str, str], *, samples: int | None = None
) -> tuple[Item, ...]:
    """Return items whose text is put under another persona, so that the answer should be no.

    Personas stand in a circle, in the order of `prompts`; the one asked about is 1, 2, ...
    steps on, by question and sample. A control's coordinates are those of the completion that
    the persona asked about gave to the question; no two controls share them.

    Args:
        items: completions under their own personas.
        prompts: system message of each persona, two or more.
        samples: only samples below this number; None for all.

    Raises:
        DataError: a persona without a prompt, or fewer than two personas.
    """
    circle = list(prompts)
    if len(circle) < 2:  # noqa: PLR2004
        raise DataError(
            "controls: personas", bound=">= 2", value=circle, remedy="Give every persona's prompt."
        )
    order = {question: i for i, question in enumerate(sorted({item.question for item in items}))}
    found = []
    for item in items:
        if samples is not None and item.sample >= samples:
            continue
        _known("persona", item.persona, prompts)
        steps = 1 + (order[item.question] + item.sample) % (len(circle) - 1)
        other = circle[(circle.index(item.persona) + steps) % len(circle)]
        found.append(replace(item, persona=other, persona_prompt=prompts[other]))
    return tuple(found)


def _known(field: str, name: str, texts: Mapping[str, str]) -> str:
    if name not in texts:
        raise DataError(
            field, bound=f"one of {', '.join(texts)}", value=name, remedy="Give its text as well."
        )
    return texts[name]
