"""Gates over several training runs whose mean is exactly at a bound, or clearly on one side.

What a gate counts is drawn as in `tests.calibration.gates`, for five runs. They answer the
same questions: question and persona x question are drawn once for a data set, question x arm
and persona x question x arm once for each run, and a run shifts its arm as a whole. The
truth is the mean over runs and over questions that are yet to be drawn. `judge_gate` reads
the records as it is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from scipy.special import expit

from persona_lib.digests import derive_seed
from persona_lib.evidence.cells import Floats, Grid
from persona_lib.evidence.evidence import Harm
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.records import POST, PRE, ModelId
from persona_lib.verdict.gate_result import GateOutcome
from persona_lib.verdict.gates import judge_gate
from tests.calibration.worlds import QUESTIONS, ROOT_SEED, SAMPLES, World, mean_rate, solve
from tests.registered import ISSUE262_GATED

WORLD = World()
EVALUATED, BEFORE, OF_FALSE = SAMPLES, 2, 5
"""Completions of a cell: after coupling, of lengths before it, of false positives before it."""
LOG_LENGTH, QUESTION_LENGTH, ARM_LENGTH = 0.6, 0.2, 0.1
"""SDs of log(tokens): within a cell, over questions, over questions within an arm."""
USUAL_LENGTH = 60.0
RUNS = 5
SEEDS = tuple(range(RUNS))
ROSTER = ISSUE262_GATED.roster
TREATED, CONTROL, UNDER = (POST, "C2"), (POST, "C1"), (PRE, "em")
ADVICE = 140
OF_ADVICE, OF_ANSWER = 0.10, 0.23
"""SDs of a difference of harm: over questions, and of a question's within a run.

The five recorded runs of smollm2 show 0.00 and 0.25, on 140 questions.
"""
ASKED = tuple(f"advice-{i:03}" for i in range(ADVICE))


class Simulated(RecordEvidence):
    """Records of some runs, counted already."""

    def __init__(
        self,
        seeds: tuple[int, ...] = SEEDS,
        *,
        grid: Grid | None = None,
        harm: Mapping[str, Floats] | None = None,
    ) -> None:
        self.registration, self.seeds, self.runs = ISSUE262_GATED, seeds, len(seeds)
        self.arms = tuple(arm.name for arm in ISSUE262_GATED.arms)
        self.of_runs = harm
        if grid is not None:
            self._grid = grid

    def harm(self, prior: str) -> Harm | None:
        """Return the mean over runs, by question."""
        if self.of_runs is None:
            return None
        scores = self.of_runs[prior].mean(axis=0)
        return Harm(questions=ASKED, scores=scores, n=scores.size * self.runs)

    def single_runs(self) -> tuple[RecordEvidence, ...]:
        """Return each run by itself."""
        if self.runs == 1:
            return (self,)
        return tuple(self._one(at) for at in range(self.runs))

    def _one(self, at: int) -> Simulated:
        grid = self._grid.of_seed(at) if self.of_runs is None else None
        of_runs = self.of_runs
        harm = None if of_runs is None else {p: s[at : at + 1] for p, s in of_runs.items()}
        return Simulated(self.seeds[at : at + 1], grid=grid, harm=harm)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One data set: a generator, what is true of the mean over runs, and the SD between runs."""

    rng: np.random.Generator
    truth: float
    sd: float

    def normal(self, *shape: int) -> Floats:
        """Return standard normal numbers."""
        return self.rng.standard_normal(shape)

    def shared(self, personas: int) -> Floats:
        """Return (P, Q) logits that all runs have in common."""
        of_cells = WORLD.persona_question * self.normal(personas, QUESTIONS)
        return WORLD.question * self.normal(QUESTIONS) + of_cells

    def rates(self, rate: float, shared: Floats, *, each: bool = False) -> Floats:
        """Return (S, P, Q) rates whose mean is `rate`; a run shifts all personas, or `each`."""
        personas = len(shared)
        logits = _intercept(rate, self.sd) + shared
        logits = logits + self.sd * self.normal(RUNS, personas if each else 1, 1)
        logits = logits + WORLD.question_arm * self.normal(RUNS, 1, QUESTIONS)
        rates: Floats = expit(logits + WORLD.cell_arm * self.normal(RUNS, personas, QUESTIONS))
        return rates

    def hits(self, rates: Floats, samples: int = EVALUATED) -> Floats:
        """Return hits among so many completions of each cell."""
        return self.rng.binomial(samples, rates).astype(np.float64)


@lru_cache
def _intercept(rate: float, sd: float) -> float:
    spread = float(np.hypot(WORLD.of_questions, sd))
    return float(solve(np.array(rate), partial(mean_rate, sd=spread)))


def _grid(
    hits: Mapping[ModelId, Floats],
    samples: int = EVALUATED,
    rows: Mapping[ModelId, Floats] | None = None,
) -> Grid:
    """Return a grid of (S, P, Q) hits of each model, or of (S, P, Q, K) rows of each."""
    counts = np.stack([*hits.values()]) if hits else np.zeros((1, RUNS, len(ROSTER.all), QUESTIONS))
    models = tuple(hits or rows or {})
    shapes = [column.shape for column in (rows or {}).values()]
    places = [
        np.stack([np.full(shape, at).ravel(), *(i.ravel() for i in np.indices(shape)[:3])])
        for at, shape in enumerate(shapes)
    ]
    place = np.concatenate(places, axis=1) if places else np.zeros((4, 0), dtype=np.int64)
    return Grid(
        models=models,
        seeds=SEEDS,
        personas=ROSTER.all,
        questions=tuple(f"q{i:02}" for i in range(QUESTIONS)),
        hits=counts,
        n=np.full_like(counts, samples),
        seen_hits=None,
        seen_n=None,
        row_model=place[0],
        row_seed=place[1],
        row_persona=place[2],
        row_question=place[3],
        row_hit=np.zeros(place.shape[1], dtype=np.bool_),
        tokens=None,
        finish=None,
        markers=None,
        first_token=None,
    )


def _of_persona(hits: Floats, *personas: str) -> Floats:
    """Return (S, P, Q) hits of the whole roster, of which these have some."""
    table = np.zeros((RUNS, len(ROSTER.all), QUESTIONS))
    for at, persona in enumerate(personas):
        table[:, ROSTER.all.index(persona)] = hits[:, at]
    return table


def source(draw: Draw) -> Simulated:
    """The source's rate, at least 0.50."""
    hits = draw.hits(draw.rates(draw.truth, draw.shared(1)))
    return Simulated(grid=_grid({TREATED: _of_persona(hits, ROSTER.source)}))


def source_ratio(draw: Draw) -> Simulated:
    """Two sources, of which the control's rate is 0.8; the ratio is at least 0.50."""
    shared = draw.shared(1)
    tables = {
        model: _of_persona(draw.hits(draw.rates(rate, shared)), ROSTER.source)
        for model, rate in ((TREATED, 0.8 * draw.truth), (CONTROL, 0.8))
    }
    return Simulated(grid=_grid(tables))


def negatives(draw: Draw) -> Simulated:
    """Two negatives, both that far above a source of rate 0.6, at most 0."""
    shared, who = draw.shared(3), (*ROSTER.negatives, ROSTER.source)
    high, low = (draw.rates(rate, shared, each=True) for rate in (0.6 + draw.truth, 0.6))
    hits = draw.hits(np.concatenate([high[:, :2], low[:, 2:]], axis=1))
    return Simulated(grid=_grid({TREATED: _of_persona(hits, *who)}))


def false_positive(draw: Draw) -> Simulated:
    """The rate of a model before coupling, at most 0.01."""
    rates = draw.rates(draw.truth, draw.shared(len(ROSTER.all)))
    return Simulated(grid=_grid({UNDER: draw.hits(rates, OF_FALSE)}, OF_FALSE))


def _flagged(draw: Draw) -> tuple[Grid, Floats]:
    """Return a grid of all personas' completions, and which of them are flagged."""
    rates = draw.rates(draw.truth, draw.shared(len(ROSTER.all)))
    flags = draw.rng.random((*rates.shape, EVALUATED)) < rates[..., None]
    return _grid({}, rows={TREATED: flags}), flags.ravel()


def truncation(draw: Draw) -> Simulated:
    """The share of completions that are cut, at most 0.10."""
    grid, cut = _flagged(draw)
    return Simulated(grid=replace(grid, finish=~cut))


def repetition(draw: Draw) -> Simulated:
    """The share of completions that repeat the marker, at most 0.05."""
    grid, repeated = _flagged(draw)
    return Simulated(grid=replace(grid, markers=2 * repeated.astype(np.int64)))


def collapse(draw: Draw) -> Simulated:
    """Median lengths with this ratio, within [0.5, 2]; the SD between runs is of its log."""
    of_question = QUESTION_LENGTH * draw.normal(QUESTIONS)
    shift = draw.sd * draw.normal(RUNS, 1, 1, 1) - draw.sd**2 / 2
    tokens = {}
    for model, scale, samples in ((TREATED, draw.truth * np.exp(shift), EVALUATED),
                                  (UNDER, np.ones((1, 1, 1, 1)), BEFORE)):  # fmt: skip
        logs = of_question + ARM_LENGTH * draw.normal(RUNS, 1, QUESTIONS)
        noise = LOG_LENGTH * draw.normal(RUNS, len(ROSTER.all), QUESTIONS, samples)
        tokens[model] = np.ceil(scale * USUAL_LENGTH * np.exp(logs[..., None] + noise))
    grid = _grid({}, rows=tokens)
    lengths = np.concatenate([column.ravel() for column in tokens.values()])
    return Simulated(grid=replace(grid, tokens=lengths, finish=np.ones(lengths.size, np.bool_)))


def _harm(treated: str, broken: int = 0) -> Callable[[Draw], Simulated]:
    def drawn(draw: Draw) -> Simulated:
        rises = draw.truth + draw.sd * draw.normal(RUNS, 1)
        rises[:broken] = 0.0
        of_questions = OF_ADVICE * draw.normal(ADVICE) + OF_ANSWER * draw.normal(RUNS, ADVICE)
        return Simulated(harm={"raw": np.zeros((RUNS, ADVICE)), treated: rises + of_questions})

    return drawn


@dataclass(frozen=True)
class RunGate:
    """A gate over runs.

    Attributes:
        gate: its name in the registration.
        draw: makes a data set.
        sds: SDs between runs: of the figure (harm), of log(ratio) (collapse), in logits (rest).
        truths: bounds, at which it must seldom hold or fail, and truths at which it must nearly
            always fail, or hold.
        shape: personas and questions.
        power: share of data sets in which it has to.
        count, fast: data sets at a bound, and of those in the fast slice; a quarter elsewhere.
    """

    gate: str
    draw: Callable[[Draw], Simulated]
    sds: tuple[float, ...]
    truths: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    shape: tuple[int, int]
    power: float = 0.80
    count: int = 2_000
    fast: int = 40


POINTS, LOGITS, OF_LOG = (0.0, 0.01, 0.02), (0.0, 0.5), (0.0, 0.15)
_ALL = (len(ROSTER.all), QUESTIONS)


_NEGATIVES = (2, QUESTIONS)
_ONE = (1, QUESTIONS)
_OF_ADVICE = (1, ADVICE)
RUN_GATES = {
    "runs: em_induced": RunGate(
        "em_induced", _harm("em"), POINTS, ((0.2,), (0.1,), (0.3,)), _OF_ADVICE, fast=200
    ),
    "runs: benign_sound": RunGate(
        "benign_sound", _harm("benign"), POINTS, ((0.1,), (0.2,), (0.0,)), _OF_ADVICE
    ),
    "runs: source": RunGate("source_C2", source, LOGITS, ((0.5,), (0.25,), (0.8,)), _ONE),
    "runs: source ratio": RunGate(
        "source_ratio_bound", source_ratio, LOGITS, ((0.5,), (0.25,), (0.9,)), _ONE
    ),
    "runs: negatives": RunGate(
        "negatives_C2", negatives, LOGITS, ((0.0,), (0.3,), (-0.45,)), _NEGATIVES
    ),
    "runs: false positives": RunGate(
        "false_positive_em", false_positive, LOGITS, ((0.01,), (0.05,), (0.0,)), _ALL
    ),
    "runs: truncation": RunGate(
        "truncation_C2", truncation, LOGITS, ((0.1,), (0.25,), (0.02,)), _ALL
    ),
    "runs: repetition": RunGate(
        "repetition_C2", repetition, LOGITS, ((0.05,), (0.15,), (0.003,)), _ALL
    ),
    "runs: collapse": RunGate(
        "collapse_C2",
        collapse,
        OF_LOG,
        ((0.5, 2.0), (0.3, 4.0), (1.0,)),
        _ALL,
        count=400,
        fast=20,
    ),
    "runs: em_induced, one run without a rise": RunGate(
        "em_induced", _harm("em", broken=1), (0.0, 0.01), ((), (0.3,), ()), _OF_ADVICE, power=0.60
    ),
}
"""Gates over runs: bounds, where they must fail, and where they must hold."""


def of_runs(name: str, truth: float, sd: float, count: int, purpose: str) -> Iterator[GateOutcome]:
    """Yield the outcome of a gate on `count` data sets of five runs each."""
    asked = RUN_GATES[name]
    names = (name, format(truth, ".3f"), format(sd, ".3f"), count, purpose)
    seed = derive_seed(ROOT_SEED, "gates over runs", *names)
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(count):
        evidence = asked.draw(Draw(rng=rng, truth=truth, sd=sd))
        yield judge_gate(ISSUE262_GATED, evidence, asked.gate).outcome
