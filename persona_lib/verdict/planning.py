"""Planning: assumptions, a planned size, and the power of rules on one contrast of two arms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from persona_lib.checks import DIFFERENCE, LEVEL, POSITIVE, number, whole
from persona_lib.digests import LATER, derive_seed
from persona_lib.specs.gate_types import (
    FalsePositiveBoundGate,
    Gate,
    RepetitionGate,
    TruncationGate,
)
from persona_lib.stats.moments import MIN_SEEDS
from persona_lib.stats.power import (
    PersonaDraws,
    Region,
    normal_power,
    persona_power,
    persona_power_of_many,
    t_power,
    welch_power,
)
from persona_lib.stats.uneven import samples_needed
from persona_lib.stats.variances import (
    Held,
    LogitSDs,
    Population,
    held_personas,
    persona_differences,
    population,
)

DRAWN = 60
"""Up to so many personas their differences are drawn; from there on their mean is normal."""
_LEAST_SETS = 20
_REMEDY = "Correct the planning assumptions."

PowerAt = Callable[[int], float]
"""Power by the number of units, all else as planned."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is assumed before any data.

    Attributes:
        origin: where the numbers come from, in words.
        control_rate: mean rate of the control arm.
        sds: spread over personas and questions, in logits.
        seed_sds: supposed SDs of an arm's rate over seeds, as rates.
        effect_factor: true effect of a difference claim, in multiples of its `min_effect`.
        levels: powers for which sizes are asked, up to `most` units.
        held: personas drawn for "these personas", in 20 sets of the roster's size or more.
        draws: groups of personas drawn for "personas at large".
        seed: seed of both kinds of draws.
        run_sds: supposed SDs over seeds of a contrast of transfer, as a pilot shows them.
    """

    origin: str
    control_rate: float
    sds: LogitSDs
    seed_sds: tuple[float, ...]
    effect_factor: float
    triage_effect: float
    levels: tuple[float, ...]
    most: int
    held: int
    draws: int
    seed: int
    run_sds: tuple[float, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        number("control_rate", self.control_rate, LEVEL, remedy=_REMEDY)
        number("effect_factor", self.effect_factor, POSITIVE, remedy=_REMEDY)
        number("triage_effect", self.triage_effect, DIFFERENCE, remedy=_REMEDY)
        for name in ("seed_sds", "run_sds"):
            for sd in getattr(self, name):
                number(name, sd, POSITIVE, remedy=_REMEDY)
        for level in self.levels:
            number("levels", level, LEVEL, remedy=_REMEDY)
        whole("most", self.most, MIN_SEEDS, remedy=_REMEDY)
        for name in ("held", "draws"):
            whole(name, getattr(self, name), 1, remedy=_REMEDY)
        whole("seed", self.seed, 0, remedy=_REMEDY)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Planned bystanders, questions of all sets, completions a cell and run, runs an arm."""

    personas: int
    questions: int
    samples: int
    seeds: int

    def __post_init__(self) -> None:
        for name in ("personas", "questions", "samples", "seeds"):
            whole(f"size.{name}", getattr(self, name), 1, remedy="Plan one at least.")

    @property
    def pooled(self) -> int:
        """Completions of each cell, all runs together."""
        return self.samples * self.seeds


@dataclass(frozen=True, kw_only=True)
class PowerRow:
    """The power of one claim for one target by one method.

    Attributes:
        target: target of inference, "" without a calculation.
        method: rule or test, as printed.
        effect: the assumed true difference.
        units: ``questions``, ``personas`` or ``seeds``: what `now` and `needed` count.
        power: probability that the rule holds.
        needed: for each level the least units that reach it, all else as planned; None
            if none up to the assumptions' `most` do. Empty without units.
    """

    claim: str
    target: str = ""
    method: str = ""
    effect: float | None = None
    units: str = ""
    now: int | None = None
    power: float | None = None
    needed: tuple[int | None, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two arms with a true difference `effect` (treated - control)."""

    effect: float
    size: Size
    assumptions: Assumptions

    @property
    def rates(self) -> tuple[float, float]:
        """True mean rates of the control and of the treated arm."""
        rate = self.assumptions.control_rate
        return (rate, rate + self.effect)

    @property
    def shared_sd(self) -> float:
        """SD that the planned questions give the difference, however many the personas."""
        return float(np.sqrt(self._parts.question / self.size.questions))

    def by_bootstrap(self, rule: Region) -> PowerAt:
        """Return the power of a rule on the published bootstrap, these personas held."""
        held, samples = self._held, self.size.pooled

        def power_at(questions: int) -> float:
            sd = np.sqrt(held.of_difference(questions, samples))
            se = np.sqrt(held.by_bootstrap(questions, samples))
            return float(normal_power(rule, self.effect, sd, se).mean())

        return power_at

    def over_questions(self, rule: Region) -> PowerAt:
        """Return the power of a rule on the question-level t, these personas held."""
        held, samples = self._held, self.size.pooled

        def power_at(questions: int) -> float:
            sd = np.sqrt(held.of_difference(questions, samples))
            return float(t_power(rule, self.effect, sd, questions - 1).mean())

        return power_at

    def over_personas(self, rule: Region) -> PowerAt:
        """Return the power of a rule on the persona-level t, personas at large."""
        questions, samples, parts = self.size.questions, self.size.pooled, self._parts
        draws = _drawn(self.assumptions, self.rates)
        drawn = persona_power(rule, draws, parts=parts, questions=questions, samples=samples)

        def power_at(personas: int) -> float:
            if personas <= DRAWN:
                return float(drawn[personas - 2])
            return persona_power_of_many(
                rule, self.effect, personas, parts=parts, questions=questions, samples=samples
            )

        return power_at

    def over_seeds(self, rule: Region, sd: float) -> PowerAt:
        """Return the power of a rule on Welch's t: this SD of runs, and their binomial noise."""
        completions = self.size.personas * self.size.questions * self.size.samples
        control, treated = (float(np.sqrt(sd**2 + b / completions)) for b in self._parts.binomial)

        def power_at(seeds: int) -> float:
            return welch_power(rule, self.effect, (control, treated), seeds)

        return power_at

    def of_control(self, rule: Region) -> float:
        """Return how often a rule on the control's own rate holds, these personas held."""
        sd = np.sqrt(self._held.of_rates(self.size.questions, self.size.pooled)[:, 0])
        return float(normal_power(rule, self.rates[0], sd, sd).mean())

    @property
    def _held(self) -> Held:
        return _held(self.assumptions, self.rates, self.size.personas)

    @cached_property
    def _parts(self) -> Population:
        return population(self.assumptions.sds, self.rates)


@dataclass(frozen=True, kw_only=True)
class GateSize:
    """What it takes until gates with this bound on all personas can hold.

    `planned` and `needed` are completions of each persona: `needed` the least among which no
    hit keeps the bound, None if none does.
    """

    gates: tuple[str, ...]
    bound: float
    planned: int
    needed: int | None


def gate_sizes(
    gates: Iterable[Gate],
    *,
    personas: int,
    questions: int,
    before: int,
    after: int,
    confidence: float,
) -> tuple[GateSize, ...]:
    """Return what each gate on the completions of all personas needs to hold at best.

    Args:
        gates: of any type; other types are left out.
        personas: of the roster, whole.
        questions: evaluation questions of all sets.
        before: completions of each cell before coupling, in one run.
        after: the same after coupling.
        confidence: level of the gates' intervals.
    """
    alike: dict[tuple[type[Gate], float, int], list[str]] = {}
    for gate in gates:
        if isinstance(gate, FalsePositiveBoundGate):
            bound, samples = gate.max_rate, before
        elif isinstance(gate, RepetitionGate | TruncationGate):
            bound, samples = gate.max_share, after
        else:
            continue
        alike.setdefault((type(gate), bound, samples), []).append(gate.name)
    found = []
    for (_, bound, samples), names in alike.items():
        least = samples_needed(personas, questions, bound, confidence)
        needed, planned = None if least is None else least * questions, samples * questions
        found.append(GateSize(gates=tuple(names), bound=bound, planned=planned, needed=needed))
    return tuple(found)


# Both draw the same numbers whatever the rates.
@lru_cache(maxsize=16)
def _held(assumptions: Assumptions, rates: tuple[float, float], personas: int) -> Held:
    seed = derive_seed(assumptions.seed, "power", "these personas", personas)
    sets = max(_LEAST_SETS, assumptions.held // personas)
    return held_personas(assumptions.sds, rates, personas, sets, seed)


@lru_cache(maxsize=16)
def _drawn(assumptions: Assumptions, rates: tuple[float, float]) -> PersonaDraws:
    seed = derive_seed(assumptions.seed, "power", "personas at large")
    rng = np.random.Generator(np.random.PCG64(seed))
    normals = rng.standard_normal((4, assumptions.draws, DRAWN))
    own = persona_differences(assumptions.sds, rates, normals[:3])
    return PersonaDraws(own, normals[3], rng.random(assumptions.draws))
