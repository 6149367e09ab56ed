"""Training runs as the unit: differences over runs, and whether they bear a verdict out.

A run is a seed. Arms that share a seeded stage of the graph are compared as pairs, others
as two samples. `OverRuns` says whether the registered rule gives the same outcome on the
estimate over runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from persona_lib.evidence.evidence import Evidence
from persona_lib.specs.arms import ArmSpec
from persona_lib.specs.registration import RAW
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.moments import MIN_SEEDS
from persona_lib.stats.targets import NOT_ESTIMABLE as UNESTIMABLE
from persona_lib.stats.targets import (
    PAIR_METHOD,
    SEED_METHOD,
    TRAINING_RUNS,
    seeds_flipped,
    seeds_paired,
    seeds_permuted,
    seeds_rate,
    seeds_welch,
)
from persona_lib.stats.thresholds import above, below
from persona_lib.verdict.as_json import AsJson

BORNE_OUT, NOT_BORNE_OUT = "borne out", "not borne out"
NOT_ESTIMABLE, UNKNOWN, INVALID = "not estimable", "unknown", "invalid"
SIGN, OUTCOME = "sign", "outcome"

Rates = Mapping[int, float]
"""By seed, what one training run of an arm has."""


@dataclass(frozen=True, kw_only=True)
class OverRuns(AsJson):
    """Whether a verdict's outcome and sign are shown over training runs.

    Attributes:
        status: ``invalid`` where a needed gate does not hold, and nothing is read.
        missing: what is not shown: ``sign``, ``outcome``, both, or nothing.
        outcome: the registered rule's on the estimate over runs; "" without one.
        estimate: that estimate; None if only totals are known.
        text: all of it in words.
    """

    status: str
    missing: tuple[str, ...] = ()
    outcome: str = ""
    estimate: Estimate | None = None
    text: str = ""

    @property
    def shown(self) -> bool:
        """Runs show all of the verdict, or nothing is read."""
        return self.status in (BORNE_OUT, INVALID)


NOT_READ = OverRuns(status=INVALID, text="a needed gate does not hold: nothing is read over runs")


def shared_draws(one: ArmSpec, other: ArmSpec) -> tuple[str, ...]:
    """Return the draws of one seed that two arms both rest on: trained priors, coupling texts.

    Everything else is the same for every seed or drawn by the arm's name.
    """
    return tuple(draw for draw in _draws(one) if draw in _draws(other))


def _draws(arm: ArmSpec) -> list[str]:
    trained = dict.fromkeys(name for name in (arm.prior, arm.text_from) if name != RAW)
    return [*(f"prior {name}" for name in trained), f"text of {arm.text_from}"]


def rates_of_runs(evidence: Evidence, arm: str, who: str = "bystander") -> Rates:
    """Return the rate of an arm in each run that has it, {} where runs cannot be told apart."""
    if not evidence.tells_runs:
        return {}
    counts = {run.seeds[0]: run.count(arm, who) for run in evidence.single_runs()}
    return {seed: count.rate for seed, count in counts.items() if count.n}


def ratios_of_runs(evidence: Evidence, arm: str) -> Rates:
    """Return bystander rate / source rate by run, {} for totals or a source rate of 0."""
    source = rates_of_runs(evidence, arm, "source")
    if 0 in source.values():
        return {}
    rates = rates_of_runs(evidence, arm)
    return {seed: rate / source[seed] for seed, rate in rates.items() if seed in source}


def difference_over_runs(
    evidence: Evidence, arms: tuple[str, str], figures: tuple[Rates, Rates]
) -> tuple[Estimate, ...]:
    """Return the difference of two arms over training runs: t, then the exact p.

    Args:
        evidence: its registration names what the arms share.
        arms: treated and control.
        figures: what is compared, of each arm, by seed.

    Returns:
        Paired t and sign-flip over the seeds of both arms where the arms share a draw,
        otherwise Welch's t and the permutation test over all. The t alone below 3 seeds.
    """
    one, two = figures
    common = [seed for seed in one if seed in two]
    registration = evidence.registration
    shared = shared_draws(*(registration.arm(arm) for arm in arms))
    confidence = registration.statistics.confidence
    n = sum(evidence.count(arm, "bystander").n for arm in arms)
    if shared:
        a, b = (np.array([rates[seed] for seed in common]) for rates in figures)
        why = f"a seed's arms share {' and '.join(shared)}"
        left = len(one) + len(two) - 2 * len(common)
        are = "run without the other arm's is" if left == 1 else "runs without the other arm's are"
        why += f"; {left} {are} left out" if left else ""
        tests = (seeds_paired, seeds_flipped)
    else:
        a, b = (np.array(list(rates.values())) for rates in figures)
        why, tests = "the arms share no draw", (seeds_welch, seeds_permuted)
        if len(common) >= MIN_SEEDS:
            pairs = [np.array([rates[seed] for seed in common]) for rates in figures]
            paired = seeds_paired(*pairs, n=n, confidence=confidence)
            if paired.has_interval:
                why += f"; seeds as pairs, for what no graph shows: {paired.interval_text}"
    if shared and one and two and not common:
        note = f"{UNESTIMABLE}: no seed has runs of both arms"
        return (Estimate.bare(n, 0, confidence, PAIR_METHOD, note, target=TRAINING_RUNS),)
    if not a.size or not b.size:
        return ()
    enough = min(a.size, b.size) >= MIN_SEEDS
    found = [test(a, b, n=n, confidence=confidence) for test in tests[: 2 if enough else 1]]
    return (replace(found[0], note=f"{found[0].note}; {why}"), *found[1:])


def rate_over_runs(evidence: Evidence, arm: str) -> Estimate | None:
    """Return the mean bystander rate of one arm over training runs, None for totals."""
    rates = rates_of_runs(evidence, arm)
    if not rates:
        return None
    n, confidence = evidence.count(arm, "bystander").n, evidence.registration.statistics.confidence
    return seeds_rate(np.array(list(rates.values())), n=n, confidence=confidence)


def compare(
    outcome: str,
    effect: Estimate,
    over: Estimate | None,
    rule: Callable[[Estimate], str],
    evidence: Evidence,
) -> OverRuns:
    """Return whether training runs bear out an outcome, and the sign where it is shown.

    Args:
        outcome: of the registered rule.
        effect: the registered estimate.
        over: the estimate over training runs, None where none can be made.
        rule: the outcome of the registered rule on `over`; asked where it has an interval.
        evidence: has the number of runs.
    """
    if not evidence.tells_runs:
        return OverRuns(status=UNKNOWN, text="over training runs: not known from totals")
    if over is None or not over.has_interval:
        text = f"over training runs: {_why_not(evidence, over)}"
        return OverRuns(status=NOT_ESTIMABLE, estimate=over, text=text)
    found = rule(over)
    missing = _unshown_sign(effect, over) + ((OUTCOME,) if found != outcome else ())
    shown = over.interval_text + (f", {over.p_text}" if over.p is not None else "")
    sentence = "the same outcome"
    if missing:
        what = " and ".join(f"the {one}" for one in missing)
        sentence = f"{what} {'is' if len(missing) == 1 else 'are'} not shown"
        sentence += f" ({found})" if OUTCOME in missing else ""
    # Seeds of pairs; two samples have those of either arm.
    paired = over.method != SEED_METHOD
    runs = over.clusters or evidence.runs if paired else evidence.runs_text
    return OverRuns(
        status=NOT_BORNE_OUT if missing else BORNE_OUT,
        missing=missing,
        outcome=found,
        estimate=over,
        text=f"over {runs} training runs {sentence}: {shown}",
    )


def _why_not(evidence: Evidence, over: Estimate | None) -> str:
    if evidence.runs < MIN_SEEDS:
        runs = "1 run" if evidence.runs == 1 else f"{evidence.runs} runs"
        return f"run-to-run variance not estimable: {runs}, {MIN_SEEDS} are needed"
    if over is None:
        return "not estimable: a part is missing"
    head, _, rest = over.note.partition(":")
    # Enough runs in all: the rest says how many this comparison has.
    return f"{head}:{rest.split(';')[0]}" if head == UNESTIMABLE else f"not estimable: {head}"


def _unshown_sign(effect: Estimate, over: Estimate) -> tuple[str, ...]:
    """Return the sign if the registered interval excludes 0 and that over runs does not."""
    if not effect.signed or not effect.has_interval:
        return ()
    positive, negative = above(effect.low, 0), below(effect.high, 0)
    shown = (positive and above(over.low, 0)) or (negative and below(over.high, 0))
    return (SIGN,) if (positive or negative) and not shown else ()
