"""Logit-normal worlds in which the truth is known, and data sets drawn from them.

The logit of the rate of a cell is intercept[arm] + persona + question + persona x
question + persona x arm + question x arm + persona x question x arm. The last three
are drawn for each arm anew, so that a difference of two arms holds two of each.
Hits are binomial.

What is drawn anew decides whose question a data set answers:

- `THESE`: personas and what an arm does to each of them are drawn first, and held.
  Then intercepts are found for which the expected rate of *these* personas, over
  questions that are yet to be drawn, is exactly `RATE` and `RATE` + difference.
- `LARGE`: intercepts are the population's; personas are drawn like everything else,
  and the difference is that of the two populations of personas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from persona_lib.digests import derive_seed

Floats = NDArray[np.float64]

ROOT_SEED = 262
RATE = 0.274
"""Expected rate of the control arm, and of both without a difference, where no world says else."""
PERSONAS, QUESTIONS, SAMPLES = 7, 20, 10
THESE, LARGE = "these personas", "personas at large"
CHUNK = 1_000
"""Data sets that are drawn at once; part of what a seed draws."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Standard deviations, in logits.

    Attributes:
        persona: of personas, in the control and in the treated arm.
        correlation: of a persona's effect between the two arms.
        persona_arm: persona x arm, beside what `correlation` leaves free.
        question: of questions.
        persona_question: persona x question.
        question_arm: question x arm.
        cell_arm: persona x question x arm.
        rate: expected rate of the control arm.
    """

    persona: tuple[float, float] = (2.2, 2.2)
    correlation: float = 1.0
    persona_arm: float = 0.3
    question: float = 0.5
    persona_question: float = 0.6
    question_arm: float = 0.3
    cell_arm: float = 0.4
    rate: float = RATE

    @property
    def of_questions(self) -> float:
        """Return the SD of everything that new questions bring, for one persona and arm."""
        parts = (self.question, self.persona_question, self.question_arm, self.cell_arm)
        return float(np.sqrt(np.square(parts).sum()))

    def of_everything(self, arm: int) -> float:
        """Return the SD of the logit of a cell of an arm, over all that is drawn."""
        return float(np.hypot(np.hypot(self.persona[arm], self.persona_arm), self.of_questions))


WORLDS = {
    "S": World(persona_arm=0.3),
    "M": World(persona_arm=1.0),
    "L": World(persona_arm=2.0),
    "PUB": World(persona=(2.2, 0.5), correlation=0.5, persona_arm=0.0),
    "Qhi": World(persona_arm=1.0, question_arm=0.8),
    # Ours, not the issue's: where personas are alike their differences are nearly normal,
    # so that t over three of them shows a wrong number of degrees of freedom.
    "Even": World(persona=(0.1, 0.1), persona_arm=1.0),
    # Ours: questions that differ much, and rates at which an absolute band says little.
    "Heavy": World(question=1.5),
    "Heavy, 3 %": World(question=1.5, rate=0.03),
    "Heavy, 2 %": World(question=1.5, rate=0.02),
}
ISSUE_WORLDS = ("S", "M", "L", "PUB", "Qhi")
SEED_SD = 0.10
"""SD of the mean rate over training runs of one arm."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_GRID = np.linspace(-40.0, 40.0, 16_001)
"""Linear interpolation between these misses a mean rate by less than 1e-6."""
_WIDEST = 20.0


def mean_rate(location: Floats, sd: float) -> Floats:
    """Return E expit(location + sd Z), Z standard normal (Gauss-Hermite, 120 nodes)."""
    rates: Floats = expit(np.asarray(location)[..., None] + sd * _NODES) @ _WEIGHTS
    return rates


@dataclass(frozen=True)
class Sets:
    """A batch of data sets.

    Attributes:
        hits: (B, 2, G, Q) hits among `samples`; arm 0 is the control.
        samples: completions of each cell.
    """

    hits: NDArray[np.int64]
    samples: int

    @property
    def differences(self) -> Floats:
        """(B, G, Q) rates of the treated arm minus rates of the control arm."""
        both: Floats = self.hits / self.samples
        return both[:, 1] - both[:, 0]


def sets(
    name: str,
    target: str,
    difference: float,
    count: int,
    *,
    shape: tuple[int, int] = (PERSONAS, QUESTIONS),
    purpose: str = "",
) -> Iterator[Sets]:
    """Yield `count` data sets of a world, `CHUNK` at a time, each chunk from its own seed.

    Args:
        name: of the world.
        target: `THESE` or `LARGE`: what is held and what is drawn anew.
        difference: the truth, treated - control, as a difference of rates.
        count: data sets.
        shape: personas and questions of each.
        purpose: enters the seed: other purposes draw other data.
    """
    for start in range(0, count, CHUNK):
        names = (name, target, format(difference, "+.3f"), *shape, purpose, start)
        rng = np.random.Generator(np.random.PCG64(derive_seed(ROOT_SEED, "worlds", *names)))
        batch = (min(CHUNK, count - start), *shape)
        yield _draw(rng, WORLDS[name], target, difference, batch)


def personas_of(rng: np.random.Generator, world: World, count: int, personas: int) -> Floats:
    """Return (count, 2, personas) logits of personas, by arm."""
    first, second, *arms = rng.standard_normal((4, count, personas))
    rho = world.correlation
    both = np.stack([first, rho * first + np.sqrt(1 - rho**2) * second], axis=1)
    effects: Floats = both * np.array(world.persona)[:, None]
    return effects + world.persona_arm * np.stack(arms, axis=1)


def of_questions(rng: np.random.Generator, world: World, batch: tuple[int, int, int]) -> Floats:
    """Return (count, 2, personas, questions) logits of all that new questions bring."""
    count, personas, questions = batch
    parts = world.question * rng.standard_normal((count, 1, 1, questions))
    parts = parts + world.persona_question * rng.standard_normal((count, 1, personas, questions))
    parts = parts + world.question_arm * rng.standard_normal((count, 2, 1, questions))
    total: Floats = parts + world.cell_arm * rng.standard_normal((count, 2, personas, questions))
    return total


def intercepts(world: World, personas: Floats, target: str, difference: float) -> Floats:
    """Return (B, 2) intercepts that make the difference true of the target."""
    wanted = np.array([world.rate, world.rate + difference])
    if target == LARGE:
        sds = [world.of_everything(arm) for arm in (0, 1)]
        found = [
            solve(rate, partial(mean_rate, sd=sd)) for rate, sd in zip(wanted, sds, strict=True)
        ]
        return np.broadcast_to(np.array(found), personas.shape[:2])
    table = _table(world.of_questions)

    def rate(x: Floats) -> Floats:
        means: Floats = np.interp(x[..., None] + personas, _GRID, table).mean(axis=-1)
        return means

    return solve(np.broadcast_to(wanted, personas.shape[:2]), rate)


def training_runs(seeds: int, count: int, purpose: str = "") -> Iterator[tuple[Floats, Floats]]:
    """Yield the rates of two arms, (S,) each, that differ by their training runs alone.

    Seven personas of world S and their questions are drawn once and held. A run
    shifts all of their logits by a normal number, with mean and SD such that the
    mean rate of a run has mean `RATE` and SD `SEED_SD`; each persona then has 200
    completions. The arms are runs of the same kind: no difference is true.
    """
    cells, location, sd = _runs()
    rng = np.random.default_rng(derive_seed(ROOT_SEED, "training runs", seeds, count, purpose))
    shifts = location + sd * rng.standard_normal((count, 2, seeds, 1))
    tables = np.stack([expit(_GRID[:, None] + row).mean(axis=1) for row in cells])
    rates = np.concatenate([np.interp(shifts, _GRID, table) for table in tables], axis=-1)
    trials = QUESTIONS * SAMPLES
    drawn: Floats = rng.binomial(trials, rates).mean(axis=-1) / trials
    yield from zip(drawn[:, 1], drawn[:, 0], strict=True)


def _draw(
    rng: np.random.Generator,
    world: World,
    target: str,
    difference: float,
    batch: tuple[int, int, int],
) -> Sets:
    personas = personas_of(rng, world, *batch[:2])
    logits = intercepts(world, personas, target, difference)[..., None] + personas
    rates = expit(logits[..., None] + of_questions(rng, world, batch))
    return Sets(rng.binomial(SAMPLES, rates), SAMPLES)


@lru_cache
def _table(sd: float) -> Floats:
    return mean_rate(_GRID, sd)


@lru_cache
def _runs() -> tuple[Floats, float, float]:
    """Return (G, Q) logits of cells, and mean and SD of a run's shift."""
    world = WORLDS["S"]
    rng = np.random.default_rng(derive_seed(ROOT_SEED, "cells of training runs"))
    cells = world.persona[0] * rng.standard_normal((PERSONAS, 1))
    cells = cells + world.question * rng.standard_normal((1, QUESTIONS))
    cells += world.persona_question * rng.standard_normal((PERSONAS, QUESTIONS))
    table = expit(_GRID[:, None] + cells.ravel()).mean(axis=1)

    def at(location: Floats, sd: Floats) -> Floats:
        rates: Floats = np.interp(location + sd * _NODES, _GRID, table)
        return rates

    def centre(sd: Floats) -> Floats:
        return solve(np.array(RATE), lambda x: at(x, sd) @ _WEIGHTS)

    def spread(sd: Floats) -> Floats:
        rates = at(centre(sd), sd)
        found: Floats = np.sqrt((rates - rates @ _WEIGHTS) ** 2 @ _WEIGHTS)
        return found

    sd = solve(np.array(SEED_SD), spread, low=0.0, high=5.0)
    return cells, float(centre(sd)), float(sd)


def solve(
    wanted: Floats, rising: Callable[[Floats], Floats], low: float = -_WIDEST, high: float = _WIDEST
) -> Floats:
    """Return x with rising(x) = wanted, by bisection, in the shape of `wanted`."""
    lower, upper = np.full(np.shape(wanted), low), np.full(np.shape(wanted), high)
    middle: Floats = (lower + upper) / 2
    for _ in range(45):
        below = rising(middle) < wanted
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
        middle = (lower + upper) / 2
    return middle
