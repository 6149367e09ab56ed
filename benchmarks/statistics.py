"""Statistics: the registered bootstrap against scipy's and against a loop over pandas.

    python -m benchmarks.statistics --out statistics.json

Two arms of clusters of equal size, so that a rate is the mean of cluster rates and
all three compute the same percentile interval of the same difference.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Report, arguments, hardware, spread, stopwatch
from persona_lib.digests import derive_seed
from persona_lib.stats.bootstrap import Clusters, difference, kept_draws

CLUSTERS, SIZE, LEVEL = 140, 10, 0.95
"""Clusters of an arm; completions of a cluster; confidence."""
_NORMAL_TAIL = 0.0584
"""Density of the normal distribution at its 2.5 % point."""
_TINY = 2_000
"""Resamples of the tiny shape: with fewer, ends wander too far to be compared."""
_ERRORS = 4.0
"""Standard errors of simulation by which two ends may differ."""

Estimate = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Hits of each cluster in two arms.

    Attributes:
        treated: (K,) hits out of `SIZE`.
        control: (K,) hits out of `SIZE`.
        resamples: bootstrap resamples.
        seed: root of the draws.
    """

    treated: NDArray[np.float64]
    control: NDArray[np.float64]
    resamples: int
    seed: int


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return the report.

    Raises:
        FlatlandError: the intervals differ by more than simulation does.
    """
    options = arguments(__doc__.splitlines()[0] if __doc__ else "").parse_args(argv)
    arms = make_arms(_TINY if options.tiny else 10_000, options.seed)
    repeats = 3 if options.tiny or options.quick else 7
    report = Report(options.out)
    report.put("hardware", hardware())
    report.put("data", {"clusters": CLUSTERS, "size": SIZE, "resamples": arms.resamples})
    ways: dict[str, Callable[[Arms], Estimate]] = {"ours": ours, "scipy": with_scipy}
    if importlib.util.find_spec("pandas"):
        ways["pandas loop"] = with_pandas
    else:
        report.put("pandas loop", "pandas is not installed here")
    intervals = {name: way(arms) for name, way in ways.items()}
    report.put("intervals", intervals)
    allowed = tolerance(intervals["ours"], arms.resamples)
    for name, interval in intervals.items():
        apart = max(abs(a - b) for a, b in zip(interval, intervals["ours"], strict=True))
        report.check(apart <= allowed, f"the interval of {name} is {apart:.4f} away from ours")
    medians = {}
    for name, way in ways.items():
        runs = 1 if options.tiny and way is with_pandas else repeats
        times = [stopwatch(lambda way=way: way(arms)) for _ in range(runs)]  # type: ignore[misc]
        report.put(f"time: {name}", spread(times))
        medians[name] = spread(times)["median"]
    own = medians.pop("ours")
    report.put("result", {f"{name} / ours": median / own for name, median in medians.items()})
    return report.finish()


def make_arms(resamples: int, seed: int) -> Arms:
    """Return two arms whose clusters differ in their rates."""
    draw = np.random.default_rng(derive_seed(seed, "benchmark", "clusters"))
    treated, control = (
        draw.binomial(SIZE, draw.beta(a, b, CLUSTERS)).astype(np.float64)
        for a, b in ((2.0, 2.0), (1.0, 3.0))
    )
    return Arms(treated=treated, control=control, resamples=resamples, seed=seed)


def ours(arms: Arms) -> Estimate:
    """The interval by `persona_lib.stats.bootstrap.difference`."""
    sizes = np.full(CLUSTERS, float(SIZE))
    seeds = (_seed(arms, "ours", "treated"), _seed(arms, "ours", "control"))
    kept_draws.cache_clear()  # a second run would find the draws of the first
    found = difference(
        Clusters(arms.treated, sizes),
        Clusters(arms.control, sizes),
        resamples=arms.resamples,
        seeds=seeds,
        level=LEVEL,
    )
    return found.low, found.high


def with_scipy(arms: Arms) -> Estimate:
    """The interval by ``scipy.stats.bootstrap``, vectorised."""
    from scipy import stats

    def statistic(a: Any, b: Any, axis: int = -1) -> Any:
        return a.mean(axis=axis) - b.mean(axis=axis)

    found = stats.bootstrap(
        (arms.treated / SIZE, arms.control / SIZE),
        statistic,
        n_resamples=arms.resamples,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(_seed(arms, "scipy")),
    ).confidence_interval
    return float(found.low), float(found.high)


def with_pandas(arms: Arms) -> Estimate:
    """The interval by a loop that samples each arm's rows anew, as scripts do."""
    import pandas as pd

    draw = np.random.default_rng(_seed(arms, "pandas"))
    frames = [pd.DataFrame({"rate": hits / SIZE}) for hits in (arms.treated, arms.control)]
    differences = []
    for _ in range(arms.resamples):
        means = [
            frame.sample(frac=1.0, replace=True, random_state=draw)["rate"].mean()
            for frame in frames
        ]
        differences.append(means[0] - means[1])
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def tolerance(interval: Estimate, resamples: int) -> float:
    """Return how far an end may be from another simulation's.

    A quantile q of B draws has the standard error sqrt(q (1 - q) / B) / f, f the
    density there (Cramer 1946, section 28.5), here a normal one of the interval's
    width; two simulations differ by sqrt(2) times as much.
    """
    deviation = (interval[1] - interval[0]) / (2 * 1.96)
    tail = (1 - LEVEL) / 2
    error = math.sqrt(tail * (1 - tail) / resamples) / _NORMAL_TAIL * deviation
    return _ERRORS * math.sqrt(2) * error


def _seed(arms: Arms, *names: str) -> int:
    return derive_seed(arms.seed, "benchmark", "bootstrap", *names)


if __name__ == "__main__":
    main()
