"""Judges completions, controls and calibration triples for the panels on following."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from persona_lib.panels.judge.base import Judgement, Report, item_of
from persona_lib.panels.judge.calibration import CALIBRATION, CalibrationResult, judge_calibration
from persona_lib.panels.judge.classifier import ClassifierSpec, Prediction
from persona_lib.panels.judge.classifier_fit import fit_classifier
from persona_lib.panels.judge.items import class_answers, control_items, triple_items
from persona_lib.panels.judge.triples import POSITIVE, Triple, triples_digest
from persona_lib.progress import Progress, silent
from persona_lib.records import PRE, Completion, ModelId
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.registration import RAW, Registration
from persona_lib.stats.estimate import none_if_nan

if TYPE_CHECKING:
    from persona_lib.panels.judge.remote import RemoteJudge

_RAW = ModelId(PRE, RAW)
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
    classifier = fit_classifier(raw, ClassifierSpec(marker=registration.marker))
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
    if judge is None:
        spec, run = classifier.spec, None
        answers = (*classifier.judge(asked), *classifier.judge(controls))
        # Every completion was predicted already, for the other panel.
        answers += classifier.answers(items, predictions)
    else:  # one run, which has one budget; the calibration comes first
        spec = judge.spec
        answers, report = judge.judge((*asked, *controls, *items), progress=progress)
        run = {name: getattr(spec, name) for name in _NAMED} | _plain(report)
    first, second = len(asked), len(asked) + len(controls)
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


def _plain(report: Report) -> dict[str, Any]:
    """Return a report as strict JSON: what is not known is null."""
    plain = {name: none_if_nan(value) for name, value in asdict(report).items()}
    return plain | {"models": list(report.models)}
