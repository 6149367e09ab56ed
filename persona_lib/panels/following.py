"""Panels ``discriminability`` and ``following``: do completions still sound like their persona?

*Discriminability* is the share of completions that a classifier, fitted on the raw model's
completions to other questions, gives to the persona that they were sampled under: it falls
to chance where personas are no longer told apart by the raw model's voices. *Following* is
what a judge answers; it is read only where the judge's calibration holds, its unscored share
is small, and it can tell a persona's own text from another's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from persona_lib.corpora.voices import Prediction
from persona_lib.errors import DataError
from persona_lib.panels.base import Caveat, Panel
from persona_lib.panels.following_checks import (
    UNSCORED_CEILING,
    Agreement,
    agreement,
    calibration_gate,
    crossfit_gate,
    few_completions,
    labels_gate,
    labels_shifted,
    no_information,
    place_of,
    sees_gate,
    separation_gate,
    share_of,
    unscored_gate,
    yes_share,
)
from persona_lib.panels.judge.base import UNSCORED, Judgement
from persona_lib.panels.judge.calibration import CalibrationResult, CalibrationSpec
from persona_lib.panels.judge.triples import ANSWERS
from persona_lib.panels.rows import estimate_json
from persona_lib.records import POST, PRE, ModelId, Place
from persona_lib.specs.registration import RAW, Registration
from persona_lib.stats.directions import over_questions
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import Floats

_RAW = ModelId(PRE, RAW)
_Row = TypeVar("_Row", Judgement, Prediction)
DISCRIMINABILITY = "how well personas are told apart, by the raw model's own voices"
FOLLOWING = "whether completions follow their persona, by a judge"
METHOD = {
    "accuracy": "share of scored completions given to their own persona, each by a fold that saw "
    "neither its question nor its text; Wilson's interval clustered by question",
    "change": "minus the raw model, and minus the pre-coupling model: mean over questions of the "
    "difference of their shares; t interval over questions",
    "to_source": "share of scored bystander completions given to the source",
    "accuracy_of_all": "the same with unscored completions counted as wrong",
    "yes": "share of judged completions that follow their persona; unscored ones are left out "
    "and counted; Wilson's interval clustered by question",
}


def discriminability_panel(
    registration: Registration,
    predictions: Sequence[Prediction],
    seen: Sequence[Sequence[str]],
    *,
    positives: Sequence[Prediction] | None = None,
) -> Panel:
    """Return how well personas are told apart in every model's completions.

    Args:
        registration: roster, arms and level of intervals.
        predictions: one for each completion, of the raw model's before coupling as well.
        seen: the questions that each fold was fitted on.
        positives: of the calibration triples of class ``positive``; None leaves the gate
            ``labels`` out.
    """
    confidence = registration.statistics.confidence
    chance = 1 / len(registration.roster.all)
    of = _by_model(registration, predictions)
    if not of:
        return Panel(
            name="discriminability", title=DISCRIMINABILITY, data={}, missing="nothing judged"
        )
    tables = {model: _accuracy(rows) for model, rows in of.items()}
    found = {model: _right(rows, confidence) for model, rows in of.items()}
    models = [
        {
            "phase": model.phase,
            "model": model.name,
            "accuracy": estimate_json(found[model]),
            "accuracy_of_all": estimate_json(
                share_of([(p.question, p.rank == 0) for p in rows], confidence)
            ),
            "n": len(rows),
            "unscored": dict(sorted(Counter(p.reason for p in rows if p.reason).items())),
            "personas": {
                persona: estimate_json(
                    _right([r for r in rows if r.persona == persona], confidence)
                )
                for persona in registration.roster.all
            },
            "to_source": estimate_json(_to_source(registration, rows, confidence)),
            "from_raw": _change(tables, model, _RAW, confidence),
            "from_own": _change(tables, model, _under(registration, model), confidence),
        }
        for model, rows in of.items()
    ]
    sees = found.get(_RAW, share_of([], confidence))
    gates = [crossfit_gate(predictions, seen), sees_gate(sees, chance)]
    if positives is not None:
        gates.append(labels_gate(positives, chance, confidence))
    caveats = _few(registration, of, [row for row in predictions if not row.reason])
    caveats += labels_shifted(found, chance) if gates[1].holds else _blind(sees, chance)
    return Panel(
        name="discriminability",
        title=DISCRIMINABILITY,
        data={"chance": chance, "confidence": confidence, "models": models, "method": METHOD},
        gates=tuple(gates),
        caveats=caveats,
    )


def following_panel(
    registration: Registration,
    judgements: Sequence[Judgement],
    controls: Sequence[Judgement],
    calibration: CalibrationResult,
    *,
    ceiling: float = UNSCORED_CEILING,
    required: CalibrationSpec | None = None,
    predictions: Sequence[Prediction] = (),
    seen: Sequence[Sequence[str]] | None = None,
    run: Mapping[str, Any] | None = None,
) -> Panel:
    """Return what a judge answers, by model and persona, and whether it may be read.

    Args:
        registration: roster, arms and level of intervals.
        judgements: of completions under their own persona.
        controls: of raw completions put under another persona: the answer should be no.
        calibration: of the same judge.
        ceiling: largest share of a model's completions that may lack an answer.
        required: the registered calibration; None where it is not known.
        predictions: of the embedded classifier on the same completions; each has to have a
            judgement.
        seen: the questions that each of its folds was fitted on, where it is the judge.
        run: what a judge behind an API is, did and cost, as JSON data; else None.

    Raises:
        DataError: a completion was judged twice, or was predicted and not judged.
        SpecError: the ceiling is no share.
    """
    confidence = registration.statistics.confidence
    _complete(judgements, predictions)
    of, guesses = _by_model(registration, judgements), _by_model(registration, predictions)
    agreed = {model: agreement(of[model], guesses[model]) for model in of if model in guesses}
    judges = {row.judge for row in (*judgements, *controls)}
    gates = [
        calibration_gate(calibration, judges, required),
        unscored_gate(judgements, ceiling),
        separation_gate(of.get(_RAW, []), controls, confidence),
    ]
    if seen is not None:
        gates.append(crossfit_gate(predictions, seen))
    caveats = no_information(agreed)
    if not gates[0].holds:
        caveats += (Caveat(code="judge_uncalibrated", words=gates[0].text),)
    if _RAW in guesses:
        caveats += _blind(_right(guesses[_RAW], confidence), 1 / len(registration.roster.all))
    caveats += _few(registration, of, [row for row in judgements if row.answer != UNSCORED])
    return Panel(
        name="following",
        title=FOLLOWING,
        data={
            "judge": calibration.judge,
            "rubric": calibration.rubric,
            "run": None if run is None else dict(run),
            "calibration": calibration.to_json(),
            "confidence": confidence,
            "models": [
                _answers(registration, model, rows, agreed.get(model)) for model, rows in of.items()
            ],
            "controls": _cell(controls, confidence),
            "method": METHOD,
        },
        gates=tuple(gates),
        caveats=caveats,
    )


def _answers(
    registration: Registration, model: ModelId, rows: Sequence[Judgement], agreed: Agreement | None
) -> dict[str, Any]:
    """Return one model's answers, as JSON data."""
    confidence, bystanders = registration.statistics.confidence, registration.roster.bystanders
    pool = [row for row in rows if row.persona in bystanders]
    return {
        "phase": model.phase,
        "model": model.name,
        "bystanders": estimate_json(yes_share(pool, confidence)),
        "agreement": None if agreed is None else agreed.to_json(),
        "personas": {
            persona: _cell([row for row in rows if row.persona == persona], confidence)
            for persona in registration.roster.all
        },
    }


def _few(
    registration: Registration, models: Iterable[ModelId], scored: Sequence[Place]
) -> tuple[Caveat, ...]:
    """Return the caveat on personas of models with few scored completions."""
    n = Counter((*row.model_id, row.persona) for row in scored)
    cells = [(*model, persona) for model in models for persona in registration.roster.all]
    return few_completions({cell: n[cell] for cell in cells})


def _by_model(registration: Registration, rows: Sequence[_Row]) -> dict[ModelId, list[_Row]]:
    """Return rows by model, in the registration's order."""
    every = registration.models(arm.name for arm in registration.arms)
    found = {model: [row for row in rows if row.model_id == model] for model in every}
    return {model: own for model, own in found.items() if own}


def _under(registration: Registration, model: ModelId) -> ModelId:
    return ModelId(PRE, registration.arm(model.name).prior if model.phase == POST else RAW)


def _right(rows: Sequence[Prediction], confidence: float) -> Estimate:
    """Return the share of scored predictions that are right, clustered by question."""
    return share_of([(row.question, row.rank == 0) for row in rows if not row.reason], confidence)


def _accuracy(rows: Sequence[Prediction]) -> dict[str, float]:
    """Return the share of right predictions by question."""
    n: Counter[str] = Counter(row.question for row in rows if not row.reason)
    hits: Counter[str] = Counter(row.question for row in rows if row.rank == 0)
    return {question: hits[question] / count for question, count in sorted(n.items())}


def _change(
    tables: Mapping[ModelId, Mapping[str, float]], model: ModelId, base: ModelId, confidence: float
) -> dict[str, Any] | None:
    """Return the change from another model, on the questions that both answered."""
    if base == model or base not in tables:
        return None
    shared = sorted(set(tables[model]) & set(tables[base]))
    values: Floats = np.array([tables[model][q] - tables[base][q] for q in shared])
    return estimate_json(over_questions(values, confidence), len(shared))


def _to_source(
    registration: Registration, rows: Sequence[Prediction], confidence: float
) -> Estimate:
    roster = registration.roster
    pool = [row for row in rows if row.persona in roster.bystanders and not row.reason]
    return share_of([(row.question, row.top == roster.source) for row in pool], confidence)


def _cell(rows: Sequence[Judgement], confidence: float) -> dict[str, Any]:
    """Return the answers, the skips by reason, and both by question: yes, partial, no, unscored."""
    given = Counter(row.answer for row in rows)
    reasons = Counter(row.reason for row in rows if row.answer == UNSCORED)
    cells = Counter((row.question, row.answer) for row in rows)
    return {
        **{answer: given[answer] for answer in ANSWERS},
        "unscored": dict(sorted(reasons.items())),
        "n": len(rows),
        "share": estimate_json(yes_share(rows, confidence)),
        "questions": {
            question: [cells[question, answer] for answer in (*ANSWERS, UNSCORED)]
            for question in sorted({row.question for row in rows})
        },
    }


def _complete(judgements: Sequence[Judgement], predictions: Sequence[Prediction]) -> None:
    """Raise where a completion was judged twice, or has a prediction and no judgement."""
    judged = Counter(place_of(row) for row in judgements)
    twice = [place for place, n in judged.items() if n > 1]
    missing = [place_of(row) for row in predictions if place_of(row) not in judged]
    for problem, found in (("judged once", twice), ("judged", missing)):
        if found:
            raise DataError(
                "judgements",
                bound=f"every completion {problem}",
                value=found[0],
                remedy="Hand over one judgement of each completion; unscored is one.",
            )


def _blind(sees: Estimate, chance: float) -> tuple[Caveat, ...]:
    """Return the caveat on a probe that does not tell the raw model's personas apart."""
    words = f"the probe is blind: raw accuracy {sees.interval_text}, chance {chance:.3f}"
    return () if sees_gate(sees, chance).holds else (Caveat(code="probe_blind", words=words),)
