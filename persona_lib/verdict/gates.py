"""Judging gates: each at most once, bound gates on every training run and over all of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

import persona_lib.verdict.gate_broad
import persona_lib.verdict.gate_gains
import persona_lib.verdict.gate_texts  # noqa: F401  (registers its rules)
from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.gate_types import CollapseGate, FalsePositiveBoundGate, Gate, Limits
from persona_lib.specs.registration import Registration
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import MIN_SEEDS, student_quantile
from persona_lib.verdict.conditions import within
from persona_lib.verdict.gate_bounds import POINT_GATES
from persona_lib.verdict.gate_result import GateOutcome, GateResult, Reading, bounded, rule

HOLDS, FAILS, CANNOT_TELL = GateOutcome
_SEVERITY = (HOLDS, CANNOT_TELL, FAILS)
Ask = Callable[[int | None, float], Reading]
"""Reads a gate on the run at a place, or on all together (None), at a confidence."""


class GateBook:
    """The gates of a registration on some evidence; each is read when it is first asked for."""

    def __init__(self, registration: Registration, evidence: Evidence) -> None:
        self.registration = registration
        self.evidence = evidence
        self._judged: dict[str, GateResult] = {}

    def gate(self, name: str) -> GateResult:
        """Judge one gate; see `judge_gate` for errors."""
        name = self.registration.gate(name).name  # as registered
        if name not in self._judged:
            self._judged[name] = judge_gate(self.registration, self.evidence, name)
        return self._judged[name]


def judge_gate(registration: Registration, evidence: Evidence, gate_name: str) -> GateResult:
    """Read one gate: as registered on all runs together, a bound gate by `read_runs`.

    Raises:
        SpecError: no such gate, or no rule for its type.
        DataError: the evidence lacks an arm that the gate names.
    """
    gate = registration.gate(gate_name)
    for arm in gate.arms or ():
        evidence.check_arm(arm)
    reading = _read(gate, evidence)
    return GateResult(
        name=gate.name,
        statement=gate.statement,
        outcome=reading.outcome,
        figure=reading.figure,
        threshold=reading.threshold,
        text=reading.text,
        low=reading.low,
        high=reading.high,
        needed_by=tuple(claim.name for claim in registration.judged if gate.name in claim.needs),
        kind=type(gate).__name__,
        order=registration.gates.index(gate),
        conditions=reading.conditions,
    )


def _read(gate: Gate, evidence: Evidence) -> Reading:
    runs = _runs_of(gate, evidence)
    if isinstance(gate, POINT_GATES) or len(runs) == 1:
        return rule(gate, evidence if isinstance(gate, POINT_GATES) else runs[0])

    def ask(at: int | None, confidence: float) -> Reading:
        return rule(gate, _at(evidence if at is None else runs[at], confidence))

    seeds = [run.seeds[0] for run in runs]
    return read_runs(ask, seeds, gate.limits, evidence.registration.statistics.confidence)


def _runs_of(gate: Gate, evidence: Evidence) -> Sequence[Evidence]:
    """Return the training runs that have every model that a gate reads; all if none has.

    Only records of other software have models in some of the runs.
    """
    runs, arms = evidence.single_runs(), gate.arms or ()
    if not evidence.uneven:
        return runs
    before: list[str] = []
    if isinstance(gate, CollapseGate | FalsePositiveBoundGate):
        before = [evidence.registration.arm(arm).prior for arm in arms]
    after = () if isinstance(gate, FalsePositiveBoundGate) else arms

    def whole(run: Evidence) -> bool:
        counts = [run.count(arm, "bystander") for arm in after]
        known = [*counts, *(run.pre_count(prior) for prior in before)]
        return all(count is not None and count.n for count in known)

    return tuple(run for run in runs if whole(run)) or runs


def read_runs(ask: Ask, seeds: Sequence[int], limits: Limits, confidence: float) -> Reading:
    """Return the reading of a bound gate over two training runs or more.

    It holds if every run by itself does and the interval of the mean over runs does too
    (`over_runs`). It fails if that whole interval is beyond a bound, or one run is: by the
    whole of its own interval at confidence 1 - (1 - confidence) / 2 R, and apart from the
    others (`_apart`): of five runs whose mean is at the bound, one has its own interval beyond
    it in 12 % of data sets. Otherwise it cannot tell. Two runs (below `MIN_SEEDS`) have no interval
    over runs: the worst is shown, and fails the gate at confidence 1 - (1 - confidence) / 2.

    Args:
        ask: reads the gate.
        seeds: (R,) run seeds.
        limits: what the gate asks of its number.
        confidence: level of intervals, as registered.
    """
    each = [ask(at, confidence) for at in range(len(seeds))]
    few = len(seeds) < MIN_SEEDS
    strict = 1 - (1 - confidence) / (len(seeds) if few else 2 * len(seeds))
    fails = [at for at, one in enumerate(each) if one.outcome is FAILS]
    broken = [at for at in fails if ask(at, strict).outcome is FAILS]
    every = all(one.outcome is HOLDS for one in each)
    worst = max(range(len(seeds)), key=lambda at: (*_badness(each[at], limits), -at))
    own = each[worst]
    words = f"worst of {len(seeds)} runs, seed {seeds[worst]}: {own.text}"
    if few:
        if fails and not broken:
            words += f"; of two runs one has to fail at {100 * strict:.4g} %"
        outcome = HOLDS if every else FAILS if broken else CANNOT_TELL
        return replace(own, outcome=outcome, text=words)
    mean = over_runs(each, ask(None, confidence), limits, confidence)
    outcome = bounded(mean, least=limits.least, most=limits.most)
    if outcome is HOLDS and not every:
        outcome = CANNOT_TELL
    if outcome is not FAILS and broken:
        named = ", ".join(str(seeds[at]) for at in broken)
        words += f"; beyond the bound at {100 * strict:.4g} % by itself: seed {named}"
        if any(_apart(each, at, limits, strict) for at in broken):
            outcome, words = FAILS, f"{words}, apart from the others"
    words = f"mean {mean.interval_text}; {words}"
    asked = within(limits, mean.low, mean.high, each=bool(own.parts))
    return Reading(outcome, mean.value, own.threshold, words, mean.low, mean.high, conditions=asked)


def over_runs(
    each: Sequence[Reading], pooled: Reading, limits: Limits, confidence: float
) -> Estimate:
    """Return the mean over training runs of a gate's number, and its interval.

    Student's t of R figures, df = R - 1 (Student 1908). Runs share their questions, which
    this spread lacks: the interval is widened to contain that of all runs together, and
    ends where the number does; NaN if a run has no figure or all together no interval.
    If K numbers each have to keep the bound (`Reading.parts`), each has an interval at
    confidence 1 - (1 - confidence) / K; the worst is returned.

    Args:
        each: (R,) readings of single runs.
        pooled: the reading of all runs together.
        limits: what the gate asks of its number.
        confidence: level of the interval.
    """
    figures = np.array([[part.value for part in _parts(one)] for one in each])
    runs = len(each)
    shared_out = 1 - (1 - confidence) / figures.shape[1]
    half = student_quantile(runs - 1, shared_out) * figures.std(axis=0, ddof=1) / math.sqrt(runs)
    means = figures.mean(axis=0)
    least, most = limits.span
    found = []
    for mean, reach, part in zip(means, half, _parts(pooled), strict=True):
        # np.minimum and np.maximum, which hand a NaN on
        low, high = np.minimum(mean - reach, part.low), np.maximum(mean + reach, part.high)
        low, high = float(np.maximum(low, least)), float(np.minimum(high, most))
        ends = (low, high) if math.isfinite(low + high) else (math.nan, math.nan)
        found.append(replace(part, value=float(mean), low=ends[0], high=ends[1]))

    def badness(one: Estimate) -> tuple[int, float]:
        outcome = bounded(one, least=limits.least, most=limits.most)
        return _SEVERITY.index(outcome), _beyond(one.value, limits)

    return max(found, key=badness)


def _apart(each: Sequence[Reading], at: int, limits: Limits, confidence: float) -> bool:
    """Return whether a run is further beyond a bound than the spread of the others explains.

    For R normal figures around the bound, the distance of one over the standard deviation
    of the R - 1 others is Student's t with df = R - 2.
    """
    others = np.array([one.figure for i, one in enumerate(each) if i != at])
    reach = student_quantile(len(others) - 1, confidence) * others.std(ddof=1)
    return bool(_beyond(each[at].figure, limits) > reach)


def _beyond(figure: float, limits: Limits) -> float:
    """Return how far a number lies beyond the nearer bound, negative inside."""
    return max(limits.least - figure, figure - limits.most)


def _badness(reading: Reading, limits: Limits) -> tuple[int, float]:
    """Rank the outcome, then how far it lies beyond; a missing figure is worst."""
    beyond = _beyond(reading.figure, limits)
    return _SEVERITY.index(reading.outcome), math.inf if math.isnan(beyond) else beyond


def _parts(reading: Reading) -> tuple[Estimate, ...]:
    """Return the numbers that each have to keep the bound."""
    value, low, high = reading.figure, reading.low, reading.high
    return reading.parts or (Estimate.plain(value, low, high, n=0, clusters=0),)


def _at(evidence: Evidence, confidence: float) -> Evidence:
    """Return the same evidence, whose intervals have this confidence."""
    registration = evidence.registration
    if registration.statistics.confidence == confidence:
        return evidence
    seen = copy.copy(evidence)
    statistics = replace(registration.statistics, confidence=confidence)
    seen.registration = replace(registration, statistics=statistics)
    return seen
