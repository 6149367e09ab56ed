"""Gates on simulated instruments that are exactly at a bound, or clearly on one side.

What a gate reads is drawn as in `worlds`: logit-normal, with what new questions bring.
A number that lies at its bound should let a gate hold in about 2.5 % of data sets, the
side of a 95 % interval that matters; one far inside should let it hold nearly always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from persona_lib.gate_base import GateOutcome, bounded
from persona_lib.spec import derive_seed
from persona_lib.stats.clustered import Interval, difference, median, ratio, share
from persona_lib.stats.proportions import wilson
from tests.calibration.worlds import ROOT_SEED, SAMPLES, World, mean_rate, solve

INSTRUMENT = "the instrument"
"""Target of a gate: it speaks of no difference between arms."""
HOLDS, FAILS = "gate holds", "gate fails"

CONFIDENCE = 0.95
ROSTER = 11
EVALUATED, BEFORE = SAMPLES, 2
"""Completions of a cell: after coupling, and of the model before it."""
WORLD = World()
LOG_LENGTH, QUESTION_LENGTH, ARM_LENGTH = 0.6, 0.2, 0.1
"""SDs of log(tokens): within a cell, over questions, over questions within an arm."""
USUAL_LENGTH = 60.0

Floats = NDArray[np.float64]
Outcomes = Iterator[GateOutcome]


def _generator(*names: str | float | int) -> np.random.Generator:
    words = [format(n, ".3f") if isinstance(n, float) else n for n in names]
    return np.random.Generator(np.random.PCG64(derive_seed(ROOT_SEED, "gates", *words)))


def _rates(
    rng: np.random.Generator, rate: float, personas: int, questions: int, shared: Floats | None
) -> Floats:
    """Return (personas, questions) rates of one arm, of expectation `rate`."""
    intercept = solve(np.array(rate), partial(mean_rate, sd=WORLD.of_questions))
    of_question = WORLD.question * rng.standard_normal(questions) if shared is None else shared
    logits = intercept + of_question + WORLD.question_arm * rng.standard_normal(questions)
    sd = float(np.hypot(WORLD.persona_question, WORLD.cell_arm))
    cells: Floats = expit(logits + sd * rng.standard_normal((personas, questions)))
    return cells


def _share(rng: np.random.Generator, rate: float, personas: int, questions: int) -> Interval:
    cells = _rates(rng, rate, personas, questions, None)
    hits = rng.binomial(EVALUATED, cells).sum(axis=0).astype(float)
    return share(hits, np.full(questions, float(personas * EVALUATED)), CONFIDENCE)


def _pair(rng: np.random.Generator, one: float, two: float, questions: int) -> list[Interval]:
    """Return two personas' rates on the same questions."""
    shared = WORLD.question * rng.standard_normal(questions)
    n = np.full(questions, float(EVALUATED))
    drawn = [rng.binomial(EVALUATED, _rates(rng, r, 1, questions, shared)[0]) for r in (one, two)]
    return [share(hits.astype(float), n, CONFIDENCE) for hits in drawn]


def source(rng: np.random.Generator, truth: float, questions: int) -> GateOutcome:
    """The source of an arm, at least 0.50."""
    return bounded(_share(rng, truth, 1, questions), least=0.50)


def ceiling(rng: np.random.Generator, truth: float, questions: int) -> GateOutcome:
    """A share of an arm's completions (cut, or with a repeated marker), at most 0.10."""
    return bounded(_share(rng, truth, ROSTER, questions), most=0.10)


def source_ratio(rng: np.random.Generator, truth: float, questions: int) -> GateOutcome:
    """Two sources whose rates have this ratio, at least 0.50."""
    return bounded(ratio(*_pair(rng, 0.8 * truth, 0.8, questions)), least=0.50)


def negatives(rng: np.random.Generator, truth: float, questions: int) -> GateOutcome:
    """A trained negative that far above its source, at most 0."""
    return bounded(difference(*_pair(rng, 0.6 + truth, 0.6, questions)), most=0.0)


def false_positive(rng: np.random.Generator, truth: float, questions: int) -> GateOutcome:
    """A model before coupling; Wilson's interval, clusters ignored, at most 0.01."""
    hits = int(rng.binomial(BEFORE, _rates(rng, truth, ROSTER, questions, None)).sum())
    n = BEFORE * ROSTER * questions
    low, high = wilson(hits, n, CONFIDENCE)
    return bounded(Interval(value=hits / n, low=low, high=high, n=n, units=n), most=0.01)


def collapse(rng: np.random.Generator, truth: float, questions: int) -> GateOutcome:
    """Median lengths with this ratio, within [0.5, 2]."""
    of_question = QUESTION_LENGTH * rng.standard_normal(questions)
    found = []
    for scale, samples in ((truth, EVALUATED), (1.0, BEFORE)):
        each = np.repeat(np.arange(questions), ROSTER * samples)
        logs = of_question + ARM_LENGTH * rng.standard_normal(questions)
        logs = logs[each] + LOG_LENGTH * rng.standard_normal(each.size)
        tokens = np.ceil(scale * USUAL_LENGTH * np.exp(logs))
        found.append(median(tokens, each.astype(float), CONFIDENCE))
    return bounded(ratio(*found), least=0.5, most=2.0)


GATES: dict[str, Callable[[np.random.Generator, float, int], GateOutcome]] = {
    "gate: source": source,
    "gate: share at most": ceiling,
    "gate: source ratio": source_ratio,
    "gate: negatives": negatives,
    "gate: false positives": false_positive,
    "gate: collapse": collapse,
}


def outcomes(name: str, truth: float, questions: int, count: int, purpose: str) -> Outcomes:
    """Yield the outcome of a gate on `count` instruments of this truth."""
    rng = _generator(name, truth, questions, count, purpose)
    for _ in range(count):
        yield GATES[name](rng, truth, questions)
