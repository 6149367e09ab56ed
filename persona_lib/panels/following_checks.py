"""Gates and caveats of the panels ``discriminability`` and ``following``.

They notice names of personas that changed places (`labels_gate`, `labels_shifted`,
`sees_gate`), a fold that judged what it had learnt (`crossfit_gate`), a judge that is not the
calibrated one or has a sign turned round (`calibration_gate`), answers that do not depend on
whose text it is (`separation_gate`), and answers shuffled within a model (`agreement`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from persona_lib.checks import SHARE, number
from persona_lib.corpora.voices import EVERY_FOLD, Prediction
from persona_lib.digests import digest
from persona_lib.errors import DataError
from persona_lib.panels.base import Caveat
from persona_lib.panels.judge.base import UNSCORED, Judgement
from persona_lib.panels.judge.calibration import (
    LEAST,
    MOST,
    CalibrationResult,
    CalibrationSpec,
    wilson_share,
)
from persona_lib.panels.judge.triples import CLASSES, YES
from persona_lib.records import ModelId, Place
from persona_lib.stats.clustered import difference, share
from persona_lib.stats.estimate import Estimate, p_is
from persona_lib.stats.thresholds import above, below, shown
from persona_lib.verdict.as_json import AsJson
from persona_lib.verdict.gate_result import GateOutcome, GateResult, bounded

FEW = 20
"""A persona with fewer scored completions in a model raises the caveat ``few_completions``."""
UNSCORED_CEILING = 0.05
"""Largest share of a model's completions that may lack an answer."""
ALPHA = 0.01
"""Level at which a judge's answers have to go with the probe's."""


def share_of(rows: Sequence[tuple[str, bool]], confidence: float) -> Estimate:
    """Return the share of (question, hit) that are hits, clustered by question."""
    n: Counter[str] = Counter(question for question, _ in rows)
    hits: Counter[str] = Counter(question for question, hit in rows if hit)
    names = sorted(n)
    return share(
        np.array([float(hits[q]) for q in names]),
        np.array([float(n[q]) for q in names]),
        confidence,
    )


def yes_share(rows: Sequence[Judgement], confidence: float) -> Estimate:
    """Return the share of scored judgements that are yes, clustered by question."""
    scored = [row for row in rows if row.answer != UNSCORED]
    return share_of([(row.question, row.answer == YES) for row in scored], confidence)


def unscored_gate(judgements: Sequence[Judgement], ceiling: float) -> GateResult:
    """Few completions lack an answer, in every model by itself.

    Failures that fall on one arm alone move a difference between arms, however small their
    share of the whole.

    Args:
        judgements: of every model; none gives CANNOT_TELL.
        ceiling: largest share of unscored ones, in [0, 1].

    Raises:
        SpecError: the ceiling is no share.
    """
    number("unscored ceiling", ceiling, SHARE, remedy=f"{UNSCORED_CEILING} is the default.")
    n = Counter(row.model_id for row in judgements)
    lost = Counter(row.model_id for row in judgements if row.answer == UNSCORED)
    if not n:
        return gate("unscored", GateOutcome.CANNOT_TELL, math.nan, "nothing was judged", ceiling)
    worst = max(n, key=lambda model: lost[model] / n[model])
    figure = lost[worst] / n[worst]
    text = (
        f"unscored {lost[worst]}/{n[worst]} of {' '.join(worst)}, at most {shown(ceiling)} allowed"
    )
    if above(figure, ceiling):
        return gate("unscored", GateOutcome.FAILS, figure, f"panel INVALID: {text}", ceiling)
    return gate("unscored", GateOutcome.HOLDS, figure, text, ceiling)


def crossfit_gate(predictions: Sequence[Prediction], seen: Sequence[Sequence[str]]) -> GateResult:
    """No completion was judged by a fold that was fitted on its question.

    Without the questions that each fold has seen, or with a fold that is not among them, the
    outcome is CANNOT_TELL.
    """
    learnt = [frozenset(questions) for questions in seen]
    every = frozenset[str]().union(*learnt)
    leaked = unknown = 0
    for row in predictions:
        if row.fold == EVERY_FOLD:
            leaked += row.question in every
        elif 0 <= row.fold < len(learnt):
            leaked += row.question in learnt[row.fold]
        else:
            unknown += 1
    text = f"{leaked} of {len(predictions)} completions judged by a fold that saw their question"
    outcome = GateOutcome.FAILS if leaked else GateOutcome.HOLDS
    if not leaked and (unknown or not learnt or not predictions):
        outcome, text = GateOutcome.CANNOT_TELL, f"{text}; folds not known: {unknown}"
    return gate("crossfit", outcome, float(leaked), text, 0.0)


def sees_gate(sees: Estimate, chance: float) -> GateResult:
    """The probe tells the raw model's personas apart better than a guess."""
    text = f"raw accuracy {sees.interval_text}, needs lower end above chance, {chance:.3f}"
    return _above("probe_sees", sees, chance, text)


def labels_gate(positives: Sequence[Prediction], chance: float, confidence: float) -> GateResult:
    """The probe's names are those of the personas: triples written as a persona are given to it.

    A probe that is fitted on wrong names finds itself right; triples were written apart from
    the completions. Personas that merely sound unlike the triples bring the share down to
    chance; below it only wrong names do.
    """
    scored = [row for row in positives if not row.reason]
    hits = sum(row.rank == 0 for row in scored)
    found = wilson_share(hits, len(scored), confidence)
    text = (
        f"positive triples given to their persona {hits}/{len(scored)}: {found.interval_text}, "
        f"needs lower end above chance, {chance:.3f}"
    )
    return _above("labels", found, chance, text)


def separation_gate(
    own: Sequence[Judgement], controls: Sequence[Judgement], confidence: float
) -> GateResult:
    """The judge says yes to a persona's own text more often than to another's.

    Args:
        own: judgements of the raw model's completions.
        controls: of the same completions, each put under another persona
            (`persona_lib.panels.judge.judged.control_items`).
        confidence: level of the interval of the difference.
    """
    pools = [yes_share(rows, confidence) for rows in (own, controls)]
    gap = difference(*pools)
    text = (
        f"raw yes share {pools[0].interval_text} under the own persona, "
        f"{pools[1].interval_text} under another: {gap.interval_text}, "
        f"needs lower end above {shown(0.0)}"
    )
    return _above("tells_personas_apart", gap, 0.0, text)


def calibration_gate(
    result: CalibrationResult,
    judges: set[str],
    required: CalibrationSpec | None = None,
) -> GateResult:
    """The judge whose answers these are passed the registered calibration.

    It fails where the calibration is of another judge or specification, where its outcome is
    not what its counts give, or where a class has the wrong sign (`CLASSES`).

    Args:
        result: the calibration.
        judges: digests of the judges whose answers are shown.
        required: the registered specification, None where it is not known.
    """
    worst = next(
        (one for one in result.classes if one.outcome is result.outcome), result.classes[0]
    )
    end = worst.share.low if worst.direction == LEAST else worst.share.high
    problem = _problem(result, judges, required)
    return gate(
        "calibration",
        GateOutcome.FAILS if problem else result.outcome,
        end,
        problem or "; ".join(one.line for one in result.classes),
        worst.threshold,
        ends=worst.share,
    )


def _problem(result: CalibrationResult, judges: set[str], required: CalibrationSpec | None) -> str:
    """Return why a calibration does not count, "" where it does."""
    others = sorted(judges - {result.judge})
    if others:
        return f"calibrated is judge {result.judge[:12]}, answers are of {others[0][:12]}"
    if required is not None and digest(required) != result.spec:
        return f"calibrated under {result.spec[:12]}, registered is {digest(required)[:12]}"
    signs = {one.name: one.direction for one in result.classes}
    wanted = {name: LEAST if answer == YES else MOST for name, answer in CLASSES.items()}
    for name in (*wanted, *signs):
        if signs.get(name) != wanted.get(name):
            got, expected = signs.get(name, "nothing"), wanted.get(name, "no such class")
            return f"class {name} asks for {got}, expected {expected}"
    try:
        CalibrationResult.from_json(result.to_json())
    except DataError:
        return "its outcome is not what its counts give"
    return ""


@dataclass(frozen=True, kw_only=True)
class Agreement(AsJson):
    """How a judge's yes goes with the probe's right guess, within one model.

    Attributes:
        n: completions that both scored.
        yes, right, both: of those the judge's yes, the probe's right guesses, both.
        p: probability of as many as `both` if the answers were dealt anew to the model's
            completions; NaN where even the best deal would not lie below `ALPHA`, as
            where every answer is the same.
    """

    n: int
    yes: int
    right: int
    both: int
    p: float


def agreement(judgements: Sequence[Judgement], predictions: Sequence[Prediction]) -> Agreement:
    """Return how the answers of one model go with the probe's guesses, matched by coordinates.

    Shuffling the answers leaves n, yes and right as they are and makes `both`
    hypergeometric: p is exact (Fisher 1935, JRSS 98:39, one-sided), whatever the clusters.
    """
    from scipy.stats import hypergeom

    guesses = {place_of(row): row.rank == 0 for row in predictions if not row.reason}
    pairs = [
        (row.answer == YES, guesses[place_of(row)])
        for row in judgements
        if row.answer != UNSCORED and place_of(row) in guesses
    ]
    n, yes, right = len(pairs), sum(y for y, _ in pairs), sum(r for _, r in pairs)
    both = sum(y and r for y, r in pairs)
    deal = hypergeom(n, right, yes)
    testable = n > 0 and deal.sf(min(yes, right) - 1) <= ALPHA
    p = float(deal.sf(both - 1)) if testable else math.nan
    return Agreement(n=n, yes=yes, right=right, both=both, p=p)


def no_information(found: Mapping[ModelId, Agreement]) -> tuple[Caveat, ...]:
    """Name the models whose answers go with the probe no better than shuffled ones."""
    return tuple(
        Caveat(
            code="no_information",
            words=f"answers of {' '.join(model)} go with the probe no better than shuffled ones: "
            f"{one.both:,} of {one.n:,} are yes and right, "
            f"{one.yes * one.right / one.n:,.1f} expected, {p_is(one.p)}",
        )
        for model, one in found.items()
        if above(one.p, ALPHA)
    )


def labels_shifted(accuracy: Mapping[ModelId, Estimate], chance: float) -> tuple[Caveat, ...]:
    """Name the models whose accuracy lies below chance.

    One voice for every persona gives chance; only names that changed places give less.
    """
    return tuple(
        Caveat(
            code="labels_shifted",
            words=f"{' '.join(model)}: accuracy {found.interval_text} lies below chance, "
            f"{chance:.3f}: names of its personas may have changed places",
        )
        for model, found in accuracy.items()
        if below(found.high, chance)
    )


def few_completions(scored: Mapping[tuple[str, str, str], int]) -> tuple[Caveat, ...]:
    """Say how many (phase, model, persona) have few scored completions, and which has fewest."""
    few = {cell: n for cell, n in scored.items() if n < FEW}
    if not few:
        return ()
    cell = min(few, key=lambda name: few[name])
    words = (
        f"{len(few)} of {len(scored)} personas of models have fewer than {FEW} scored "
        f"completions; fewest: {' '.join(cell)}, {few[cell]}"
    )
    return (Caveat(code="few_completions", words=words),)


def gate(
    name: str,
    outcome: GateOutcome,
    figure: float,
    text: str,
    threshold: float = math.nan,
    *,
    ends: Estimate | None = None,
) -> GateResult:
    """Return a panel's own gate; `ends` is the interval of its figure."""
    return GateResult(
        name=name,
        statement=name.replace("_", " "),
        outcome=outcome,
        figure=figure,
        threshold=threshold,
        text=text,
        low=math.nan if ends is None else ends.low,
        high=math.nan if ends is None else ends.high,
        kind="panel",
    )


def _above(name: str, found: Estimate, bound: float, text: str) -> GateResult:
    """Return a gate that holds where the whole interval lies above the bound."""
    outcome = bounded(found, least=bound)
    if outcome is GateOutcome.HOLDS and not above(found.low, bound):
        outcome = GateOutcome.CANNOT_TELL
    return gate(name, outcome, found.value, text, bound, ends=found)


def place_of(row: Place) -> tuple[str | int, ...]:
    """Return the coordinates of a completion."""
    return tuple(row.place.values())
