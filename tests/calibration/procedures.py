"""Every procedure that is printed, applied as it is shipped to data sets of known truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from persona_lib.digests import derive_seed
from persona_lib.specs.claim_types import TriageClaim
from persona_lib.stats import moments, targets
from persona_lib.stats.bootstrap import Clusters, difference
from persona_lib.stats.equivalence import tost
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.mixed import random_intercept
from persona_lib.stats.thresholds import above, at_most
from persona_lib.verdict.gate_result import GateOutcome
from tests.calibration import repeats, run_claims
from tests.calibration.gates import FAILS, GATES, HOLDS, outcomes
from tests.calibration.runs_of_gates import RUN_GATES, of_runs
from tests.calibration.worlds import (
    PERSONAS,
    QUESTIONS,
    ROOT_SEED,
    Floats,
    Sets,
    sets,
    training_runs,
)
from tests.registered import ISSUE262

CONFIDENCE = ISSUE262.statistics.confidence
TRIAGE = next(claim for claim in ISSUE262.claims if isinstance(claim, TriageClaim))
ALPHAS = (0.05, 0.0167, 0.001)
BAND = 0.05
RESAMPLES = 1_000
"""A tenth of what is registered: the mean of p < alpha over data sets hardly notices."""
COVERS, H3 = "interval holds the truth", "H3 passes"

Answers = dict[str, NDArray[np.bool_]]
"""By quantity, (B,) whether each data set of a batch had it."""


def below(alpha: float) -> str:
    """Return the name of the event p < alpha."""
    return f"p < {alpha:g}"


@dataclass(frozen=True)
class Tally:
    """How many of n data sets had an event.

    Attributes:
        hits: data sets that had it.
        n: data sets.
    """

    hits: int
    n: int

    @property
    def rate(self) -> float:
        """Share of data sets."""
        return self.hits / self.n

    @property
    def error(self) -> float:
        """Monte Carlo standard error of the share."""
        return math.sqrt(self.rate * (1 - self.rate) / self.n)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is simulated: a procedure on data of a world, for a target, under a truth.

    Attributes:
        procedure: a name in `PROCEDURES`, `GATES`, `RUN_GATES`, `repeats` or `run_claims`, or
            `WELCH`.
        target: whose difference it is taken for.
        world: a name in `WORLDS`, `repeats.PAIRS` or `run_claims.SEEDED`; of `WELCH`, "S seeds" in
            each arm; of a gate over runs, "5 runs, SD 0.5".
        truth: the difference that is true of the target; of a gate, what it compares; of claims
            over training runs, the effect of S1.
        shape: personas and questions.
    """

    procedure: str
    target: str
    world: str
    truth: float = 0.0
    shape: tuple[int, int] = (PERSONAS, QUESTIONS)

    @property
    def size(self) -> str:
        """Personas x questions, as printed."""
        return f"{self.shape[0]} x {self.shape[1]}"


@cache
def tallies(trial: Trial, count: int, purpose: str) -> Mapping[str, Tally]:
    """Return how often each event of a procedure came in `count` data sets."""
    if trial.procedure == WELCH:
        batches = [_welch(int(trial.world.split()[0]), count, purpose)]
    elif trial.procedure in RUN_GATES or trial.procedure in GATES:
        batches = [_gate(trial, count, purpose)]
    elif trial.procedure in run_claims.PROCEDURES:
        batches = [*run_claims.answers(trial.procedure, trial.world, trial.truth, count, purpose)]
    elif trial.procedure == run_claims.POOLED:
        batches = [_pooled(trial.world, count, purpose)]
    elif trial.procedure in repeats.BY_T or trial.procedure in repeats.BY_COUNT:
        batches = [_repeats(trial, count, purpose)]
    else:
        apply = PROCEDURES[trial.procedure]
        drawn = sets(
            trial.world, trial.target, trial.truth, count, shape=trial.shape, purpose=purpose
        )
        batches = [apply(batch, trial.truth) for batch in drawn]
    events = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    return {key: Tally(int(event.sum()), event.size) for key, event in events.items()}


def _t(m: moments.Moments, truth: float) -> Answers:
    p = moments.p_value(m)
    low, high = moments.interval(m, CONFIDENCE)
    return {
        **{below(alpha): p < alpha for alpha in ALPHAS},
        COVERS: (low <= truth) & (truth <= high),
    }


def _answers(estimates: Sequence[Estimate], truth: float) -> Answers:
    return {
        below(0.05): np.array([_p(e) < 0.05 for e in estimates]),
        COVERS: np.array([e.low <= truth <= e.high for e in estimates]),
    }


def _of_t(of: Callable[[Floats], moments.Moments]) -> Callable[[Sets, float], Answers]:
    return lambda batch, truth: _t(of(batch.differences), truth)


def _of_tost(of: Callable[[Floats], moments.Moments]) -> Callable[[Sets, float], Answers]:
    return lambda batch, _: {below(0.05): tost(of(batch.differences), BAND) < 0.05}


def _sign_flip(batch: Sets, truth: float) -> Answers:  # noqa: ARG001
    p = [
        _p(targets.sign_flip(treated, control, n=_completions(batch), confidence=CONFIDENCE))
        for control, treated in batch.hits / batch.samples
    ]
    return {below(0.05): np.array(p) < 0.05}


def _bootstrap(batch: Sets, truth: float) -> Answers:
    estimates = list(_bootstrapped(batch))
    return _answers(estimates, truth) | {H3: np.array([passes_h3(e) for e in estimates])}


def _bootstrapped(batch: Sets) -> Iterator[Estimate]:
    """Yield the published estimate; each data set's resamples have a seed that it decides."""
    for arms in batch.hits:
        yield _resampled(arms, batch.samples)


def _resampled(arms: Floats | NDArray[np.int64], samples: int) -> Estimate:
    """Return the published estimate of (2, G, Q) hits of a control and a treated arm."""
    control, treated = (
        Clusters(arm.ravel().astype(float), np.full(arm.size, float(samples))) for arm in arms
    )
    seeds = [
        derive_seed(ROOT_SEED, "resamples", arm, *map(int, hits.sum(axis=1)))
        for arm, hits in zip(("control", "treated"), arms, strict=True)
    ]
    return difference(
        treated, control, resamples=RESAMPLES, seeds=(seeds[1], seeds[0]), level=CONFIDENCE
    )


def passes_h3(estimate: Estimate) -> bool:
    """Return whether H3's registered null rule holds of an estimate.

    The thresholds are the registration's. That verdicts read them alike is tested.
    """
    return (
        at_most(abs(estimate.value), TRIAGE.null_effect)
        and _p(estimate) > TRIAGE.null_min_p
        and above(estimate.low, -TRIAGE.null_effect)
    )


def _mixed(batch: Sets, truth: float) -> Answers:
    hits = batch.hits.sum(axis=-1).astype(float)
    n = np.full(hits.shape[-1], float(batch.hits.shape[-1] * batch.samples))
    estimates = [
        random_intercept(treated, n, control, n, confidence=CONFIDENCE) for control, treated in hits
    ]
    return _answers(estimates, truth)


def _welch(seeds: int, count: int, purpose: str) -> Answers:
    n = 2 * seeds * PERSONAS * QUESTIONS
    estimates = [
        targets.seeds_welch(treated, control, n=n, confidence=CONFIDENCE)
        for treated, control in training_runs(seeds, count, purpose)
    ]
    return _answers(estimates, 0.0)


def _repeats(trial: Trial, count: int, purpose: str) -> Answers:
    a, b = repeats.drawn(repeats.PAIRS[trial.world], count, purpose)
    if trial.procedure in repeats.BY_T:
        return _t(repeats.BY_T[trial.procedure](a, b), trial.truth)
    return {below(0.05): repeats.BY_COUNT[trial.procedure](a, b) < 0.05}


def _pooled(world: str, count: int, purpose: str) -> Answers:
    drawn = run_claims.pooled_hits(run_claims.SEEDED[world], count, purpose)
    return _answers([_resampled(hits, n) for hits, n in drawn], 0.0)


def _gate(trial: Trial, count: int, purpose: str) -> Answers:
    if trial.procedure in RUN_GATES:
        sd = float(trial.world.rpartition(" ")[2])
        drawn = of_runs(trial.procedure, trial.truth, sd, count, purpose)
    else:
        drawn = outcomes(trial.procedure, trial.world, trial.truth, trial.shape, (count, purpose))
    found = list(drawn)
    return {
        HOLDS: np.array([outcome is GateOutcome.HOLDS for outcome in found]),
        FAILS: np.array([outcome is GateOutcome.FAILS for outcome in found]),
    }


def _p(estimate: Estimate) -> float:
    """Return p, 1 where there is none: what has no p rejects nothing."""
    return 1.0 if estimate.p is None else estimate.p


def _completions(batch: Sets) -> int:
    return int(batch.hits[0].size * batch.samples)


QUESTION_T, PERSONA_T = "question-level t", "persona-level t"
QUESTION_TOST, PERSONA_TOST = "question-level TOST", "persona-level TOST"
SIGN_FLIP, WELCH = "sign-flip over personas", "Welch t over seeds"
BOOTSTRAP, MIXED = "published bootstrap", "random-intercept mixed model"

PROCEDURES: Mapping[str, Callable[[Sets, float], Answers]] = {
    QUESTION_T: _of_t(moments.question_moments),
    PERSONA_T: _of_t(moments.persona_moments),
    QUESTION_TOST: _of_tost(moments.question_moments),
    PERSONA_TOST: _of_tost(moments.persona_moments),
    SIGN_FLIP: _sign_flip,
    BOOTSTRAP: _bootstrap,
    MIXED: _mixed,
}
