"""Panels ``discriminability`` and ``following``: do completions still sound like their persona?

*Discriminability* is the share of completions that a classifier, fitted on the raw model's
completions to other questions, gives to the persona that they were sampled under. It needs
no judgement of following: where it falls to chance, personas can no longer be told apart by
the way the raw model speaks. *Following* is what a judge answers, yes, partial or no; it is
read only where the judge's calibration holds, its unscored share is small, and it can tell
a persona's own text from another's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from persona_lib.gate_base import GateOutcome, GateResult, bounded
from persona_lib.judge.base import UNSCORED, Judgement
from persona_lib.judge.calibration import CalibrationResult
from persona_lib.judge.classifier import Prediction
from persona_lib.judge.coverage import UnscoredCeiling, coverage
from persona_lib.judge.triples import ANSWERS, YES
from persona_lib.panels.base import Caveat, Panel
from persona_lib.panels.text_rows import ends, known
from persona_lib.records import POST, PRE
from persona_lib.registration import RAW, Registration
from persona_lib.stats.clustered import Interval, difference, share
from persona_lib.stats.directions import over_questions
from persona_lib.stats.moments import Floats
from persona_lib.stats.thresholds import above, shown

Model = tuple[str, str]

DISCRIMINABILITY = "how well personas are told apart, by the raw model's own voices"
FOLLOWING = "whether completions follow their persona, by a judge"
METHOD = {
    "accuracy": "share of scored completions given to their own persona, each by a fold that saw "
    "neither its question nor its text; Wilson's interval clustered by question",
    "change": "minus the raw model, and minus the model under the arm: mean over questions of the "
    "difference of their shares; t interval over questions",
    "to_source": "share of scored bystander completions given to the source",
    "yes": "share of judged completions that follow their persona; unscored ones are left out "
    "and counted; Wilson's interval clustered by question",
}


def discriminability_panel(
    registration: Registration, predictions: Sequence[Prediction], seen: Sequence[Sequence[str]]
) -> Panel:
    """Return how well personas are told apart in every model's completions.

    Args:
        registration: roster, arms and level of intervals.
        predictions: one for each completion, of the raw model's before coupling as well.
        seen: the questions that each fold was fitted on.
    """
    confidence = registration.statistics.confidence
    chance = 1 / len(registration.roster.all)
    of = _by_model(registration, predictions)
    if not of:
        return Panel(
            name="discriminability", title=DISCRIMINABILITY, data={}, missing="nothing judged"
        )
    tables = {model: _accuracy(rows) for model, rows in of.items()}
    models = [
        {
            "phase": model[0],
            "model": model[1],
            "accuracy": ends(_clustered(rows, confidence, lambda p: p.rank == 0)),
            "unscored": dict(sorted(Counter(p.reason for p in rows if p.reason).items())),
            "personas": _personas(registration, rows, confidence),
            "to_source": ends(_to_source(registration, rows, confidence)),
            "from_raw": _change(tables, model, (PRE, RAW), confidence),
            "from_own": _change(tables, model, _under(registration, model), confidence),
        }
        for model, rows in of.items()
    ]
    raw = of.get((PRE, RAW), [])
    sees = _clustered(raw, confidence, lambda p: p.rank == 0)
    gates = (_crossfit(predictions, seen), _sees(sees, chance))
    caveats: tuple[Caveat, ...] = ()
    if gates[1].outcome is not GateOutcome.HOLDS:
        words = f"the probe is blind: raw accuracy {sees.text()}, chance {chance:.3f}"
        caveats = (Caveat(code="probe_blind", words=words),)
    return Panel(
        name="discriminability",
        title=DISCRIMINABILITY,
        data={"chance": chance, "confidence": confidence, "models": models, "method": METHOD},
        gates=gates,
        caveats=caveats,
    )


def following_panel(
    registration: Registration,
    judgements: Sequence[Judgement],
    controls: Sequence[Judgement],
    calibration: CalibrationResult,
    ceiling: UnscoredCeiling,
) -> Panel:
    """Return what a judge answers, by model and persona, and whether it may be read.

    Args:
        registration: roster, arms and level of intervals.
        judgements: of completions under their own persona.
        controls: of raw completions put under another persona: the answer should be no.
        calibration: of the same judge.
        ceiling: how many may lack an answer.
    """
    confidence = registration.statistics.confidence
    of: dict[Model, list[Judgement]] = {}
    for row in judgements:
        of.setdefault((row.phase, row.model), []).append(row)
    models = [
        {
            "phase": model[0],
            "model": model[1],
            "bystanders": ends(_yes(registration, of[model], confidence)),
            "personas": {
                persona: _cell([row for row in of[model] if row.persona == persona])
                for persona in registration.roster.all
            },
        }
        for model in _ordered(registration, of)
    ]
    covered = coverage(judgements, ceiling)
    gates = (
        _gate("calibration", calibration.outcome, math.nan, _calibrated(calibration)),
        _gate("unscored", covered.outcome, covered.share, covered.words, ceiling.share),
        _tells(of.get((PRE, RAW), []), controls, confidence),
    )
    caveats = []
    if not gates[0].holds:
        caveats.append(Caveat(code="judge_uncalibrated", words=gates[0].text))
    return Panel(
        name="following",
        title=FOLLOWING,
        data={
            "judge": calibration.judge,
            "rubric": calibration.rubric,
            "calibration": calibration.to_json(),
            "confidence": confidence,
            "models": models,
            "method": METHOD,
        },
        gates=gates,
        caveats=tuple(caveats),
    )


def _by_model(
    registration: Registration, predictions: Sequence[Prediction]
) -> dict[Model, list[Prediction]]:
    found: dict[Model, list[Prediction]] = {}
    for row in predictions:
        found.setdefault((row.phase, row.model), []).append(row)
    return {model: found[model] for model in _ordered(registration, found)}


def _ordered(registration: Registration, found: Mapping[Model, object]) -> list[Model]:
    every = [(PRE, prior) for prior in registration.priors]
    every += [(POST, arm.name) for arm in registration.arms]
    return [model for model in every if model in found]


def _under(registration: Registration, model: Model) -> Model:
    return (PRE, registration.arm(model[1]).prior if model[0] == POST else RAW)


def _clustered(rows: Sequence[Prediction], confidence: float, hit: Any) -> Interval:
    """Return the share of scored predictions that are a hit, clustered by question."""
    return _share([(row.question, bool(hit(row))) for row in rows if not row.reason], confidence)


def _share(rows: Sequence[tuple[str, bool]], confidence: float) -> Interval:
    n: Counter[str] = Counter(question for question, _ in rows)
    hits: Counter[str] = Counter(question for question, hit in rows if hit)
    names = sorted(n)
    return share(
        np.array([float(hits[q]) for q in names]),
        np.array([float(n[q]) for q in names]),
        confidence,
    )


def _accuracy(rows: Sequence[Prediction]) -> dict[str, float]:
    """Return the share of right predictions by question."""
    n: Counter[str] = Counter(row.question for row in rows if not row.reason)
    hits: Counter[str] = Counter(row.question for row in rows if row.rank == 0)
    return {question: hits[question] / count for question, count in sorted(n.items())}


def _change(
    tables: Mapping[Model, Mapping[str, float]], model: Model, base: Model, confidence: float
) -> dict[str, Any] | None:
    """Return the change from another model, on the questions that both answered."""
    if base == model or base not in tables:
        return None
    shared = sorted(set(tables[model]) & set(tables[base]))
    values: Floats = np.array([tables[model][q] - tables[base][q] for q in shared])
    return known(over_questions(values, confidence), len(shared))


def _personas(
    registration: Registration, rows: Sequence[Prediction], confidence: float
) -> dict[str, Any]:
    return {
        persona: ends(
            _clustered([r for r in rows if r.persona == persona], confidence, lambda p: p.rank == 0)
        )
        for persona in registration.roster.all
    }


def _to_source(
    registration: Registration, rows: Sequence[Prediction], confidence: float
) -> Interval:
    roster = registration.roster
    pool = [row for row in rows if row.persona in roster.bystanders]
    return _clustered(pool, confidence, lambda p: p.top == roster.source)


def _yes(registration: Registration, rows: Sequence[Judgement], confidence: float) -> Interval:
    bystanders = registration.roster.bystanders
    scored = [r for r in rows if r.persona in bystanders and r.answer != UNSCORED]
    return _share([(row.question, row.answer == YES) for row in scored], confidence)


def _cell(rows: Sequence[Judgement]) -> dict[str, Any]:
    given = Counter(row.answer for row in rows)
    reasons = Counter(row.reason for row in rows if row.answer == UNSCORED)
    return {
        **{answer: given[answer] for answer in ANSWERS},
        "unscored": dict(sorted(reasons.items())),
        "n": len(rows),
    }


def _crossfit(predictions: Sequence[Prediction], seen: Sequence[Sequence[str]]) -> GateResult:
    """No completion was judged by a fold that was fitted on its question."""
    leaked = sum(
        0 <= row.fold < len(seen) and row.question in seen[row.fold] for row in predictions
    )
    outcome = GateOutcome.FAILS if leaked else GateOutcome.HOLDS
    text = f"{leaked} of {len(predictions)} completions judged by a fold that saw their question"
    return _gate("crossfit", outcome, float(leaked), text, 0.0)


def _sees(sees: Interval, chance: float) -> GateResult:
    outcome = bounded(sees, least=chance)
    if outcome is GateOutcome.HOLDS and not above(sees.low, chance):
        outcome = GateOutcome.CANNOT_TELL
    text = f"raw accuracy {sees.text()}, needs lower end above chance, {chance:.3f}"
    return _gate("probe_sees", outcome, sees.value, text, chance)


def _tells(
    own: Sequence[Judgement], controls: Sequence[Judgement], confidence: float
) -> GateResult:
    """The judge says yes to a persona's own text more often than to another's."""
    pools = [
        _share([(r.question, r.answer == YES) for r in rows if r.answer != UNSCORED], confidence)
        for rows in (own, controls)
    ]
    gap = difference(*pools)
    outcome = bounded(gap, least=0.0)
    if outcome is GateOutcome.HOLDS and not above(gap.low, 0.0):
        outcome = GateOutcome.CANNOT_TELL
    text = (
        f"raw yes share {pools[0].value:.3f} under the own persona, {pools[1].value:.3f} under "
        f"another: {gap.text()}, needs lower end above {shown(0.0)}"
    )
    return _gate("tells_personas_apart", outcome, gap.value, text, 0.0)


def _calibrated(result: CalibrationResult) -> str:
    return "; ".join(one.line for one in result.classes)


def _gate(
    name: str, outcome: GateOutcome, figure: float, text: str, threshold: float = math.nan
) -> GateResult:
    return GateResult(
        name=name,
        statement=name.replace("_", " "),
        outcome=outcome,
        figure=figure,
        threshold=threshold,
        text=text,
        kind="panel",
    )
