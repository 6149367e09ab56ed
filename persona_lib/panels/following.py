"""Panels ``discriminability`` and ``following``: do completions still sound like their persona?

*Discriminability* is the share of completions that a classifier, fitted on the raw model's
completions to other questions, gives to the persona that they were sampled under: it falls
to chance where personas are no longer told apart by the raw model's voices. *Following* is
what a judge answers; it is read only where the judge's calibration holds, its unscored share
is small, and it can tell a persona's own text from another's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from persona_lib.errors import DataError
from persona_lib.panels.base import Caveat, Panel
from persona_lib.panels.following_checks import (
    Agreement,
    agreement,
    calibration_gate,
    crossfit_gate,
    few_completions,
    gate,
    labels_gate,
    labels_shifted,
    no_information,
    place_of,
    sees_gate,
    separation_gate,
    share_of,
)
from persona_lib.panels.judge.base import UNSCORED, Judgement
from persona_lib.panels.judge.calibration import CalibrationResult, CalibrationSpec
from persona_lib.panels.judge.classifier import Prediction
from persona_lib.panels.judge.coverage import UnscoredCeiling, coverage
from persona_lib.panels.judge.triples import ANSWERS, YES
from persona_lib.panels.rows import estimate_json
from persona_lib.records import POST, PRE, ModelId
from persona_lib.specs.registration import RAW, Registration
from persona_lib.stats.directions import over_questions
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import Floats

_RAW = ModelId(PRE, RAW)
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
    found = {m: _clustered(rows, confidence, lambda p: p.rank == 0) for m, rows in of.items()}
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
            "personas": _personas(registration, rows, confidence),
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
    cells = [(*model, p) for model in of for p in registration.roster.all]
    scored = Counter((p.phase, p.model, p.persona) for p in predictions if not p.reason)
    caveats = few_completions({cell: scored[cell] for cell in cells})
    if gates[1].holds:
        caveats += labels_shifted(found, chance)
    else:
        caveats += (_blind(sees, chance),)
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
    ceiling: UnscoredCeiling,
    *,
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
        ceiling: how many may lack an answer.
        required: the registered calibration; None where it is not known.
        predictions: of the embedded classifier on the same completions; each has to have a
            judgement.
        seen: the questions that each of its folds was fitted on, where it is the judge.
        run: what a judge behind an API is, did and cost, as JSON data; else None.

    Raises:
        DataError: a completion was judged twice, or was predicted and not judged.
    """
    confidence = registration.statistics.confidence
    of: dict[ModelId, list[Judgement]] = {}
    for row in judgements:
        of.setdefault(row.model_id, []).append(row)
    _complete(judgements, predictions)
    guesses = _by_model(registration, predictions)
    agreed = {
        model: agreement(of[model], guesses[model])
        for model in _ordered(registration, of)
        if model in guesses
    }
    covered = coverage(judgements, ceiling)
    judges = {row.judge for row in (*judgements, *controls)}
    gates = [
        calibration_gate(calibration, judges, required),
        gate("unscored", covered.outcome, covered.share, covered.words, ceiling.share),
        separation_gate(of.get(_RAW, []), controls, confidence),
    ]
    if seen is not None:
        gates.append(crossfit_gate(predictions, seen))
    caveats = list(no_information(agreed))
    if not gates[0].holds:
        caveats.append(Caveat(code="judge_uncalibrated", words=gates[0].text))
    caveats += _doubts(registration, of, guesses)
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
                _answers(registration, model, of[model], agreed.get(model))
                for model in _ordered(registration, of)
            ],
            "controls": _cell(controls, confidence),
            "method": METHOD,
        },
        gates=tuple(gates),
        caveats=tuple(caveats),
    )


def _answers(
    registration: Registration, model: ModelId, rows: Sequence[Judgement], agreed: Agreement | None
) -> dict[str, Any]:
    """Return one model's answers, as JSON data."""
    confidence = registration.statistics.confidence
    return {
        "phase": model.phase,
        "model": model.name,
        "bystanders": estimate_json(_yes(registration, rows, confidence)),
        "agreement": None if agreed is None else agreed.to_json(),
        "personas": {
            persona: _cell([row for row in rows if row.persona == persona], confidence)
            for persona in registration.roster.all
        },
    }


def _doubts(
    registration: Registration,
    of: Mapping[ModelId, Sequence[Judgement]],
    guesses: Mapping[ModelId, Sequence[Prediction]],
) -> list[Caveat]:
    """Return caveats on what can be told at all: by a blind classifier, from few answers."""
    found = []
    if _RAW in guesses:
        chance = 1 / len(registration.roster.all)
        confidence = registration.statistics.confidence
        sees = _clustered(guesses[_RAW], confidence, lambda p: p.rank == 0)
        if not sees_gate(sees, chance).holds:
            found.append(_blind(sees, chance))
    scored = Counter(
        (row.phase, row.model, row.persona)
        for rows in of.values()
        for row in rows
        if row.answer != UNSCORED
    )
    cells = [(*model, p) for model in _ordered(registration, of) for p in registration.roster.all]
    return [*found, *few_completions({cell: scored[cell] for cell in cells})]


def _by_model(
    registration: Registration, predictions: Sequence[Prediction]
) -> dict[ModelId, list[Prediction]]:
    found: dict[ModelId, list[Prediction]] = {}
    for row in predictions:
        found.setdefault(row.model_id, []).append(row)
    return {model: found[model] for model in _ordered(registration, found)}


def _ordered(registration: Registration, found: Mapping[ModelId, object]) -> list[ModelId]:
    every = registration.models(arm.name for arm in registration.arms)
    return [model for model in every if model in found]


def _under(registration: Registration, model: ModelId) -> ModelId:
    return ModelId(PRE, registration.arm(model.name).prior if model.phase == POST else RAW)


def _clustered(rows: Sequence[Prediction], confidence: float, hit: Any) -> Estimate:
    """Return the share of scored predictions that are a hit, clustered by question."""
    return share_of([(row.question, bool(hit(row))) for row in rows if not row.reason], confidence)


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


def _personas(
    registration: Registration, rows: Sequence[Prediction], confidence: float
) -> dict[str, Any]:
    return {
        persona: estimate_json(
            _clustered([r for r in rows if r.persona == persona], confidence, lambda p: p.rank == 0)
        )
        for persona in registration.roster.all
    }


def _to_source(
    registration: Registration, rows: Sequence[Prediction], confidence: float
) -> Estimate:
    roster = registration.roster
    pool = [row for row in rows if row.persona in roster.bystanders]
    return _clustered(pool, confidence, lambda p: p.top == roster.source)


def _yes(registration: Registration, rows: Sequence[Judgement], confidence: float) -> Estimate:
    bystanders = registration.roster.bystanders
    scored = [r for r in rows if r.persona in bystanders and r.answer != UNSCORED]
    return share_of([(row.question, row.answer == YES) for row in scored], confidence)


def _cell(rows: Sequence[Judgement], confidence: float) -> dict[str, Any]:
    """Return the answers, the skips by reason, and both by question: yes, partial, no, unscored."""
    given = Counter(row.answer for row in rows)
    reasons = Counter(row.reason for row in rows if row.answer == UNSCORED)
    by_question: dict[str, Counter[str]] = {}
    for row in rows:
        by_question.setdefault(row.question, Counter())[row.answer] += 1
    scored = [(row.question, row.answer == YES) for row in rows if row.answer != UNSCORED]
    return {
        **{answer: given[answer] for answer in ANSWERS},
        "unscored": dict(sorted(reasons.items())),
        "n": len(rows),
        "share": estimate_json(share_of(scored, confidence)),
        "questions": {
            question: [counts[answer] for answer in (*ANSWERS, UNSCORED)]
            for question, counts in sorted(by_question.items())
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


def _blind(sees: Estimate, chance: float) -> Caveat:
    words = f"the probe is blind: raw accuracy {sees.interval_text}, chance {chance:.3f}"
    return Caveat(code="probe_blind", words=words)
