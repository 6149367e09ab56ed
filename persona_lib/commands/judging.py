"""Who judges whether completions follow their persona, and what a judge is asked.

The embedded classifier always says how well personas are told apart; whether a
completion follows its persona it says only where no judge behind an API was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.checks import POSITIVE, number
from persona_lib.errors import SpecError
from persona_lib.panels.judge.calibration_spec import LEAST, MOST, CalibrationSpec, ClassSpec
from persona_lib.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.commands.session import Session
    from persona_lib.panels.judge.base import Item, Judgement, Report
    from persona_lib.panels.judge.calibration import CalibrationResult
    from persona_lib.panels.judge.classifier import FittedClassifier, Prediction
    from persona_lib.panels.judge.remote import RemoteJudge

CLASSIFIER = "classifier"
"""The judge that needs no network."""
CALIBRATION = CalibrationSpec(
    classes=(
        ClassSpec(name="positive", direction=LEAST, threshold=0.95, n=73),
        ClassSpec(name="red_team", direction=MOST, threshold=0.05, n=73),
        ClassSpec(name="negative", direction=MOST, threshold=0.05, n=73),
    ),
    confidence=0.95,
)
"""What a judge has to show before its answers are read: a clean sheet in every class."""
_CACHE = "judge.sqlite"
_FORM = "--judge claude:MODEL, --judge openai:MODEL or --judge openai:MODEL@REVISION"


@dataclass(frozen=True, kw_only=True)
class JudgeChoice:
    """A judge behind an API, as the user named it.

    Attributes:
        kind: ``claude`` or ``openai``.
        model: name of the model, as its server knows it.
        revision: what tells two models of one name apart, "" where nobody said.
        url: root of a server of one's own, None for the vendor's.
        budget: dollars that one run may spend, None for no limit.
    """

    kind: str
    model: str
    revision: str = ""
    url: str | None = None
    budget: float | None = None

    def make(self, *, store: Path, marker: str) -> RemoteJudge:
        """Return the judge; its cache lies in the store's folder. Nothing is sent yet.

        Raises:
            SpecError: a value is out of bounds, or no price is known for the budget.
            PreflightError: the SDK is not installed, or there is no key.
        """
        from persona_lib.panels.judge.make import make_judge

        return make_judge(
            self.kind,
            self.model,
            cache=store / _CACHE,
            base_url=self.url,
            budget=self.budget,
            revision=self.revision,
            marker=marker,
        )


def choose_judge(
    text: str | None, *, budget: str | None, url: str | None, report: str | None
) -> JudgeChoice | None:
    """Return the judge of ``--judge``; None for the embedded classifier.

    Raises:
        SpecError: the option has another form, an option beside it means nothing
            without it, or no report was asked for that would show its answers.
    """
    if text in (None, CLASSIFIER):
        for name, value in (("--judge-budget", budget), ("--judge-url", url)):
            if value:
                raise SpecError(
                    name,
                    bound="a judge behind an API beside it",
                    # An address may hold a password, and errors land in logs.
                    value=value if name == "--judge-budget" else "an address",
                    remedy=f"Name the judge: {_FORM}.",
                )
        return None
    from persona_lib.panels.judge.make import KINDS

    kind, _, rest = str(text).partition(":")
    model, _, revision = rest.partition("@")
    if kind not in KINDS or not model.strip():
        raise SpecError(
            "--judge",
            bound=f"{CLASSIFIER}, or one of {', '.join(KINDS)} with a colon and a model",
            value=text,
            remedy=f"Write {_FORM}.",
        )
    if not report:
        raise SpecError(
            "--judge",
            bound="--report=DIR beside it: only a report shows what a judge says",
            value=text,
            remedy="Add --report=DIR, or leave --judge out.",
        )
    if budget and url:
        raise SpecError(
            "--judge-budget",
            bound="a vendor's own API, whose prices are known",
            value=f"{budget} for another server",
            remedy="Leave the budget out: a server of your own sends no bill.",
        )
    return JudgeChoice(kind=kind, model=model, revision=revision, url=url, budget=_dollars(budget))


def _dollars(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return number("--judge-budget", value, POSITIVE, remedy="Give dollars, for example 2.50.")


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


def judge_texts(session: Session, texts: pa.Table) -> Judged:
    """Fit the classifier and judge every completion, the controls and the calibration.

    Args:
        session: whose registration, personas and judge are meant.
        texts: completions, those of the raw model before coupling among them.

    Raises:
        FlatlandError: as the judges raise it.
    """
    from persona_lib.commands.session import DATA
    from persona_lib.panels.judge.base import item_of
    from persona_lib.panels.judge.classifier import ClassifierSpec, fit_classifier
    from persona_lib.panels.judge.items import control_items, triple_items
    from persona_lib.panels.judge.triples import load_triples, triples_digest
    from persona_lib.records import PRE, Completion
    from persona_lib.specs.personas import load_personas, load_questions
    from persona_lib.specs.registration import RAW

    registration = session.registration
    rows = [Completion(**row) for row in texts.to_pylist()]
    personas = {p.id: p for p in load_personas(DATA / "personas.json")}
    listed = load_questions(DATA / "questions.json").values()
    questions = {q.id: q for several in listed for q in several}
    items = [
        item_of(row, persona=personas[row.persona], question=questions[row.question])
        for row in rows
    ]
    raw = [row for row in rows if (row.phase, row.model) == (PRE, RAW)]
    classifier = fit_classifier(raw, ClassifierSpec(marker=registration.marker))
    predictions = classifier.predict(items)
    triples = load_triples(DATA / "judge", tuple(personas), tuple(questions))
    asked = _Asked(
        items=items,
        controls=control_items(
            [item for item in items if (item.phase, item.model) == (PRE, RAW)],
            {name: personas[name].prompt for name in registration.roster.all},
            # One of each persona and question tells, and a judge may cost money.
            samples=None if session.text_judge is None else 1,
        ),
        triples=triple_items(
            triples,
            {name: persona.prompt for name, persona in personas.items()},
            {name: question.text for name, question in questions.items()},
        ),
        digest=triples_digest(triples),
    )
    answers = (
        _by_classifier(classifier, asked, predictions)
        if session.text_judge is None
        else _by_api(
            session.text_judge.make(store=session.store_root, marker=registration.marker),
            asked,
            session.progress,
        )
    )
    positives = [item for item in asked.triples if item.model == "positive"]
    return Judged(
        predictions=predictions,
        seen=classifier.seen,
        positives=classifier.predict(positives),
        **answers,
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Everything that a judge is asked."""

    items: Sequence[Item]
    controls: Sequence[Item]
    triples: Sequence[Item]
    digest: str

    def calibration(
        self, judgements: Sequence[Judgement], *, judge: str, rubric: str
    ) -> CalibrationResult:
        from persona_lib.panels.judge.calibration import judge_calibration
        from persona_lib.panels.judge.items import class_answers

        return judge_calibration(
            CALIBRATION,
            class_answers(judgements),
            judge=judge,
            rubric=rubric,
            triples=self.digest,
        )


def _by_classifier(
    judge: FittedClassifier, asked: _Asked, predictions: Sequence[Prediction]
) -> dict[str, Any]:
    # Every completion was predicted already, for the other panel.
    triples = judge.judge(asked.triples)[0]
    return {
        "judgements": judge.answers(asked.items, predictions)[0],
        "controls": judge.judge(asked.controls)[0],
        "calibration": asked.calibration(
            triples, judge=judge.spec.digest, rubric=judge.spec.rubric
        ),
        "run": None,
    }


def _by_api(judge: RemoteJudge, asked: _Asked, progress: Progress) -> dict[str, Any]:
    """Ask for everything in one run, which has one budget; the calibration comes first."""
    first, second = len(asked.triples), len(asked.controls)
    every = (*asked.triples, *asked.controls, *asked.items)
    judgements, report = judge.judge(every, progress=progress)
    spec = judge.spec
    return {
        "judgements": judgements[first + second :],
        "controls": judgements[first : first + second],
        "calibration": asked.calibration(judgements[:first], judge=spec.digest, rubric=spec.rubric),
        "run": {
            "kind": spec.kind,
            "model": spec.model,
            "revision": spec.revision,
            "served_by": spec.served_by,
            **_plain(report),
        },
    }


def _plain(report: Report) -> dict[str, Any]:
    """Return a report as strict JSON: what is not known is null."""
    description = asdict(report) | {"models": list(report.models)}
    for name in ("dollars", "dollars_at_most"):
        description[name] = None if math.isnan(description[name]) else description[name]
    return description
