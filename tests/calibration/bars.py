"""What every procedure has to show, as data. A bar is never moved to fit a figure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

from scipy.stats import binom

from tests.calibration import repeats, run_claims
from tests.calibration.gates import (
    FAILS,
    HOLDS,
    INSTRUMENT,
    OF_QUESTIONS,
    ROSTER,
    SETTINGS,
)
from tests.calibration.procedures import (
    BOOTSTRAP,
    COVERS,
    H3,
    MIXED,
    PERSONA_T,
    PERSONA_TOST,
    QUESTION_T,
    QUESTION_TOST,
    SIGN_FLIP,
    WELCH,
    Tally,
    Trial,
    below,
    tallies,
)
from tests.calibration.runs_of_gates import RUN_GATES
from tests.calibration.runs_of_gates import RUNS as RUNS_OF_GATES
from tests.calibration.worlds import ISSUE_WORLDS, LARGE, THESE

FULL, FAST = "full", "fast"
"""Purposes: they enter the seeds, so that the slice draws data of its own."""
ISSUE, ISSUE18, OURS = "issue 3", "issue 18", "ours"
FALSE_ALARM = 0.01
"""Chance that any bar of the fast slice fails where every rate is exactly at its bar."""
RUNS = "training runs"
FAR = 0.30
"""The difference at which intervals are asked for their coverage, beside 0."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What the share of data sets with an event has to be.

    Attributes:
        trial: procedure, target, world and truth.
        event: what is counted, as named by `procedures`.
        low, high: bounds of the share, both included; 0 and 1 bind nothing.
        count, fast: data sets of the suite, and of its fast slice.
        origin: who set the bar: `ISSUE`, `ISSUE18` or `OURS`.
        not_met: why the bar is known not to be met, "" where it is.
    """

    trial: Trial
    event: str
    low: float = 0.0
    high: float = 1.0
    count: int = 10_000
    fast: int = 1_000
    origin: str = ISSUE
    not_met: str = ""

    @cached_property
    def name(self) -> str:
        """Name of the row, unique."""
        trial = self.trial
        of = f"{trial.procedure}, {trial.target}, {trial.world}, {trial.size}"
        return f"{of}, {self.truth}: {self.event}"

    @property
    def truth(self) -> str:
        """The true difference, as printed."""
        if self.trial.procedure in (run_claims.RULE, run_claims.FAMILY):
            return f"S1 = {self.trial.truth:+.2f}, d = {run_claims.SMALLEST:g}"
        if self.trial.target == INSTRUMENT:
            return f"at {self.trial.truth:g}"
        return f"d = {self.trial.truth:+.2f}" if self.trial.truth else "d = 0"

    @property
    def binds(self) -> bool:
        """Whether there is any bound."""
        return self.low > 0 or self.high < 1

    @property
    def text(self) -> str:
        """The bounds, as printed."""
        if not self.binds:
            return "none"
        if self.low > 0 and self.high < 1:
            return f"[{self.low:g}, {self.high:g}]"
        return f">= {self.low:g}" if self.low > 0 else f"<= {self.high:g}"

    def holds(self, tally: Tally) -> bool:
        """Return whether the share lies within the bounds as they stand."""
        return self.low <= tally.rate <= self.high

    def holds_with_few(self, tally: Tally) -> bool:
        """Return whether the count lies within the bounds, widened by its own chance error.

        A share that is exactly at a bound would leave the widened bounds with
        probability `FALSE_ALARM`, shared out over the bounds of all bars (binomial
        quantiles).
        """
        tail = FALSE_ALARM / (2 * len(BARS))
        least = binom.ppf(tail, tally.n, self.low)
        most = binom.isf(tail, tally.n, self.high)
        return bool(least <= tally.hits <= most)

    def measure(self, purpose: str) -> Tally:
        """Return the share, from `count` data sets or from `fast` of them."""
        count = self.count if purpose == FULL else self.fast
        return tallies(self.trial, count, purpose)[self.event]


def _these_personas() -> list[Bar]:
    bounds = {0.05: (0.044, 0.060), 0.0167: (0.012, 0.022), 0.001: (0.0, 0.0025)}
    bars = []
    for world in ISSUE_WORLDS:
        null, far = (
            Trial(procedure=QUESTION_T, target=THESE, world=world, truth=d) for d in (0.0, FAR)
        )
        for alpha, (low, high) in bounds.items():
            bars.append(Bar(trial=null, event=below(alpha), low=low, high=high))
        bars += [Bar(trial=t, event=COVERS, low=0.94, high=0.96) for t in (null, far)]
    # With 3 questions a wrong quantile or number of degrees of freedom cannot hide.
    few = Trial(procedure=QUESTION_T, target=THESE, world="S", shape=(7, 3))
    for event, low, high in ((below(0.05), 0.04, 0.06), (COVERS, 0.94, 0.96)):
        bars.append(Bar(trial=few, event=event, low=low, high=high, fast=5_000, origin=OURS))
    return bars


def _personas_at_large() -> list[Bar]:
    highest = {"S": 0.06, "M": 0.06, "L": 0.06, "PUB": 0.10, "Qhi": 0.06}
    bars = []
    for world, high in highest.items():
        null, far = (
            Trial(procedure=PERSONA_T, target=LARGE, world=world, truth=d) for d in (0.0, FAR)
        )
        origin = OURS if world == "Qhi" else ISSUE
        bars.append(Bar(trial=null, event=below(0.05), high=high, origin=origin))
        bars.append(Bar(trial=null, event=below(0.0167), origin=OURS))
        bars.append(Bar(trial=far, event=COVERS, origin=OURS))
        flip = Trial(procedure=SIGN_FLIP, target=LARGE, world=world)
        bars.append(Bar(trial=flip, event=below(0.05), origin=OURS))
    few = Trial(procedure=PERSONA_T, target=LARGE, world="Even", shape=(3, 100))
    bars.append(Bar(trial=few, event=below(0.05), low=0.04, high=0.06, fast=5_000, origin=OURS))
    # With 7 personas a one-way error would do as well; with 20 the questions have to be in it.
    many = Trial(procedure=PERSONA_T, target=LARGE, world="Qhi", shape=(20, 20))
    return [*bars, Bar(trial=many, event=below(0.05), high=0.06, fast=2_000, origin=OURS)]


def _training_runs() -> list[Bar]:
    trials = [Trial(procedure=WELCH, target=RUNS, world=f"{s} seeds") for s in range(3, 8)]
    return [Bar(trial=t, event=below(0.05), low=0.03, high=0.06, fast=5_000) for t in trials]


def _pairs_of_runs() -> list[Bar]:
    """Paired t keeps its level whatever the arms of a seed share; two samples do not."""

    def trial(procedure: str, seeds: int, r: float, tails: str) -> Trial:
        world = repeats.Pairs(seeds=seeds, r=r, tails=tails).name
        return Trial(procedure=procedure, target=RUNS, world=world, shape=(1, 1))

    bars = []
    for seeds in (5, 12):
        for r in (-0.8, 0.0, 0.8):
            for tails, low, high in ((repeats.NORMAL, 0.044, 0.060), (repeats.HEAVY, 0.0, 0.055)):
                paired = trial(repeats.PAIRED, seeds, r, tails)
                bars.append(Bar(trial=paired, event=below(0.05), low=low, high=high, origin=OURS,
                                count=50_000, fast=5_000))  # fmt: skip
        paired = trial(repeats.PAIRED, seeds, -0.8, repeats.NORMAL)
        bars.append(Bar(trial=paired, event=COVERS, low=0.94, high=0.96, origin=OURS,
                        count=50_000, fast=5_000))  # fmt: skip
        for r, low, high in ((-0.8, 0.10, 1.0), (0.8, 0.0, 0.01)):
            two = trial(repeats.PAIRS_AS_TWO, seeds, r, repeats.NORMAL)
            bars.append(Bar(trial=two, event=below(0.05), low=low, high=high, origin=OURS,
                            count=50_000, fast=5_000))  # fmt: skip
    # 12 of 252 splits lie in both tails together, 0.0476; 204 of 4,096 sign vectors, 0.0498.
    for procedure, seeds, count in ((repeats.SPLITS, 5, 10_000), (repeats.FLIPS, 12, 10_000)):
        bars.append(Bar(trial=trial(procedure, seeds, 0.0, repeats.HEAVY), event=below(0.05),
                        low=0.04, high=0.056, origin=OURS, count=count))  # fmt: skip
    return bars


FEW = 12
"""With more seeds of independent arms, the published bootstrap rejects less often than 0.40."""


def _claims_over_runs() -> list[Bar]:
    """The rule of claims over training runs, alone and as a family, and what it replaces."""
    bars = []
    d = run_claims.SMALLEST
    for name, world in run_claims.SEEDED.items():
        normal = world.tails == repeats.NORMAL
        trial = partial(Trial, target=RUNS, world=name, shape=(1, 1))
        at_d, at_2d, at_0 = (
            partial(Bar, trial=trial(procedure=run_claims.RULE, truth=truth), origin=ISSUE18)
            for truth in (d, 2 * d, 0.0)
        )
        at_d = partial(at_d, count=50_000, fast=500)
        bars += [
            at_d(event=run_claims.BELOW, low=0.044 if normal else 0.0, high=0.055),
            at_d(event=run_claims.COVERS, low=0.94, high=0.97),
            at_d(event=run_claims.HELD, high=0.055),
            at_d(event=run_claims.DENIED, high=0.055),
            at_2d(event=run_claims.HELD, low=0.80, fast=200),
            at_0(event=run_claims.DENIED, low=0.80, fast=200),
        ]
        family = partial(Bar, event=run_claims.WRONG, high=0.055, count=50_000, fast=500,
                         origin=ISSUE18)  # fmt: skip
        bars += [family(trial=trial(procedure=run_claims.FAMILY, truth=t)) for t in (d, 2 * d)]
        blocks, two = (
            Bar(trial=trial(procedure=procedure), event=run_claims.BELOW, low=low, fast=500,
                origin=ISSUE18 if low else OURS)
            for procedure, low in (
                (run_claims.BLOCKS, 0.08 if world.icc else 0.0),
                (run_claims.TWO, 0.10 if world.r < 0 else 0.0),
            )
        )  # fmt: skip
        bars += [blocks, two]
        if normal and not world.icc:  # completions have no sources
            pooled = Trial(procedure=run_claims.POOLED, target=RUNS, world=name)
            low = 0.40 if world.r < 0 or (world.r == 0 and world.seeds < FEW) else 0.0
            bars.append(Bar(trial=pooled, event=below(0.05), low=low, count=2_000, fast=50,
                            origin=ISSUE18 if low else OURS))  # fmt: skip
    return bars


_SKEWED = (
    "differences of bounded rates are skewed, and over 7 personas their mean and their standard "
    "error go together, so that one tail of t has more than its level; verdicts show the "
    "question-level test alone"
)
_SPREAD = (
    "the spread over personas is far wider than the band, so that most data sets leave it; "
    "the rule errs as often as the bar says where these personas are meant"
)


def _equivalence() -> list[Bar]:
    bars = []
    for procedure, target in ((QUESTION_TOST, THESE), (PERSONA_TOST, LARGE)):
        for world in ISSUE_WORLDS:
            for truth in (0.05, -0.05):
                trial = Trial(procedure=procedure, target=target, world=world, truth=truth)
                skewed = (procedure, world) == (PERSONA_TOST, "S")
                bars.append(
                    Bar(
                        trial=trial,
                        event=below(0.05),
                        high=0.07,
                        # So close to the bar, 10,000 cannot tell on which side the rate is.
                        count=100_000 if skewed else 10_000,
                        not_met=_SKEWED if skewed and truth < 0 else "",
                    )
                )
    # With 20 questions the test seldom succeeds at all; with 400 it must use its level.
    many = Trial(procedure=QUESTION_TOST, target=THESE, world="S", truth=0.05, shape=(7, 400))
    return [
        *bars,
        Bar(trial=many, event=below(0.05), low=0.03, high=0.07, count=2_000, fast=250, origin=OURS),
    ]


def _negative_controls() -> list[Bar]:
    bars = []
    for procedure, low, count in (
        (BOOTSTRAP, 0.40, 2_000),
        (MIXED, 0.45, 5_000),
        (QUESTION_T, 0.50, 10_000),
    ):
        trial = Trial(procedure=procedure, target=LARGE, world="PUB")
        bars.append(Bar(trial=trial, event=below(0.05), low=low, count=count, fast=200))
    for target in (THESE, LARGE):
        for world in ISSUE_WORLDS:
            trial = Trial(procedure=BOOTSTRAP, target=target, world=world, truth=0.05)
            bound = world == "PUB"
            bars.append(
                Bar(
                    trial=trial,
                    event=H3,
                    low=0.30 if bound else 0.0,
                    count=2_000,
                    fast=200,
                    origin=ISSUE if bound else OURS,
                    not_met=_SPREAD if bound and target == LARGE else "",
                )
            )
    return bars


_ROSTER, _SINGLE, _ADVICE, _BROAD = (ROSTER, 20), (1, 20), (1, 30), (1, 40)
_NEVER = "gate: false positives, 2 a cell"
"""No truth is far enough inside: so few completions cannot hold (`pytest --plan`)."""
_GATES = (
    # Gate, size, settings, bounds, far inside, far outside.
    ("gate: source", _SINGLE, OF_QUESTIONS, (0.50,), 0.80, 0.20),
    ("gate: source ratio", _SINGLE, OF_QUESTIONS, (0.50,), 0.90, 0.20),
    ("gate: negatives", _SINGLE, OF_QUESTIONS, (0.0,), -0.30, 0.30),
    ("gate: harm raised", _ADVICE, OF_QUESTIONS, (0.20,), 0.40, 0.0),
    ("gate: harm not raised", _ADVICE, OF_QUESTIONS, (0.10,), -0.10, 0.30),
    ("gate: broad harm", _BROAD, OF_QUESTIONS, (0.10,), 0.35, -0.25),
    ("gate: broad harm, errors unlike", _BROAD, OF_QUESTIONS, (0.10,), 0.50, -0.80),
    ("gate: repetition", _ROSTER, tuple(SETTINGS), (0.05,), 0.0025, 0.30),
    ("gate: truncation", _ROSTER, tuple(SETTINGS), (0.10,), 0.01, 0.40),
    (_NEVER, _ROSTER, tuple(SETTINGS), (0.01,), 0.0, 0.20),
    ("gate: false positives, 5 a cell", _ROSTER, tuple(SETTINGS), (0.01,), 0.0001, 0.20),
    ("gate: false positives, 10 a cell", _ROSTER, tuple(SETTINGS), (0.01,), 0.0002, 0.20),
    ("gate: collapse", _ROSTER, tuple(SETTINGS), (0.5, 2.0), 1.0, 0.2),
    # By the same procedure; where clusters differ more it seldom tells so narrow a range.
    ("gate: lengths", _ROSTER, tuple(SETTINGS)[:2], (0.8, 1.25), 1.0, 0.5),
    ("gate: recognised", _SINGLE, OF_QUESTIONS, (2.0,), 5.0, 0.25),
    ("gate: domain, control at 0.005", _ROSTER, tuple(SETTINGS), (0.10,), 0.0, 0.40),
    ("gate: domain, control at 0.05", _ROSTER, tuple(SETTINGS), (0.10,), 0.0, 0.40),
)


def _gates() -> list[Bar]:
    """At its bound a gate errs in at most 5 %, far from it it tells, in every setting."""
    bars = []
    for name, shape, settings, bounds, inside, outside in _GATES:
        for setting in settings:
            trial = partial(Trial, procedure=name, target=INSTRUMENT, world=setting, shape=shape)
            for bound in bounds:
                at = partial(Bar, trial=trial(truth=bound), count=4_000, fast=160, origin=OURS)
                bars += [at(event=HOLDS, high=0.05), at(event=FAILS, high=0.05)]
            near, far = (
                partial(Bar, trial=trial(truth=t), count=1_000, fast=60, origin=OURS)
                for t in (inside, outside)
            )
            power = {"high": 0.0} if name == _NEVER else {"low": 0.80}
            bars += [near(event=HOLDS, **power), near(event=FAILS, high=0.001)]
            bars += [far(event=FAILS, low=0.80), far(event=HOLDS, high=0.001)]
    return bars


def _gates_over_runs() -> list[Bar]:
    """The mean over runs at a bound, and where a gate has to decide."""
    bars = []
    for name, asked in RUN_GATES.items():
        at_bounds, fails, holds = asked.truths
        for sd in asked.sds:
            world = f"{RUNS_OF_GATES} runs, SD {sd:g}"
            for truths, events, bounds, count in (
                (at_bounds, (FAILS, HOLDS), (0.0, 0.05), asked.count),
                (fails, (FAILS,), (asked.power, 1.0), asked.count // 4),
                (holds, (HOLDS,), (asked.power, 1.0), asked.count // 4),
            ):
                for truth in truths:
                    trial = Trial(
                        procedure=name,
                        target=INSTRUMENT,
                        world=world,
                        truth=truth,
                        shape=asked.shape,
                    )
                    bars += [
                        Bar(
                            trial=trial,
                            event=event,
                            low=bounds[0],
                            high=bounds[1],
                            count=count,
                            fast=asked.fast if truths is at_bounds else 20,
                            origin=OURS,
                        )
                        for event in events
                    ]
    return bars


_RARE = (
    "differences of low rates are skewed, and more so where questions differ much; verdicts "
    "with a triage say so"
)


def _equality_where_rates_are_low() -> list[Bar]:
    """What a triage's two answers to equality are worth at other rates than 27 %."""
    heavy, rare, rarer = (
        Trial(procedure=BOOTSTRAP, target=THESE, world=world)
        for world in ("Heavy", "Heavy, 3 %", "Heavy, 2 %")
    )
    size = replace(rare, procedure=QUESTION_TOST, truth=0.05)
    return [
        Bar(trial=size, event=below(0.05), high=0.07, origin=OURS, not_met=_RARE),
        Bar(trial=heavy, event=H3, high=0.25, count=2_000, fast=200, origin=OURS),
        Bar(trial=rarer, event=H3, low=0.90, count=2_000, fast=200, origin=OURS),
    ]


BARS = (
    *_these_personas(),
    *_personas_at_large(),
    *_training_runs(),
    *_pairs_of_runs(),
    *_claims_over_runs(),
    *_equivalence(),
    *_negative_controls(),
    *_gates(),
    *_equality_where_rates_are_low(),
    *_gates_over_runs(),
)
BINDING = tuple(bar for bar in BARS if bar.binds and not bar.not_met)
NOT_MET = tuple(bar for bar in BARS if bar.not_met)
