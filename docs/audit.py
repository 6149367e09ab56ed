"""Recompute the numbers of a verdict from its records, with no code of this project.

    pytest -m "h1 or h2 or h3 or kill" --stored=golden/smollm2
    python docs/audit.py golden/smollm2 .flatland/runs/latest/verdict.json

Reads scores.parquet, or aggregates.json, of one folder or several; arms and roster are those of
verdict.json. Counts, closed forms and exact p have to agree to 1e-9 (a p relative to itself),
ends and p of bootstraps to five standard errors of two sets of draws: the verdict's, and 5,000
with a seed of this file. Quoted effects have to be the counts' to their last digit, their ends and
p those of the file. Rules and gates are not judged again. Exit code 1: a number differs.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

FORMAT, NAN = 2, np.nan
CLOSED, DIGIT, DRAWS, SEED, ERRORS = 1e-9, 5e-4 + 1e-9, 5_000, 1, 5
KINDS = {"cluster bootstrap (as published)": "percentile", "cluster bootstrap, BCa": "BCa"}
table: list[tuple[Any, ...]] = []
left: list[str] = []
COLUMNS = ["number", "here", "verdict", "difference", "within", "agree"]


def check(name: str, here: dict[str, float], verdict: dict[str, Any], **offs: float) -> None:
    """Compare numbers; one that is missing here has to be missing there."""
    for part, number in here.items():
        there = NAN if verdict[part] is None else float(verdict[part])
        off = offs.get(part, CLOSED * (abs(number) if part == "p" else 1))
        agree = abs(number - there) <= off or bool(np.isnan([number, there]).all())
        table.append((f"{name} {part}", number, there, number - there, off, agree))


def share(hit: pd.Series, level: float) -> dict[str, float]:
    """Return a count, its rate and Wilson's interval."""
    low, high = stats.binomtest(int(hit.sum()), hit.size).proportion_ci(level, "wilson")
    return {"hits": hit.sum(), "n": hit.size, "rate": hit.mean(), "low": low, "high": high}


def gap(one: Any, *other: Any, axis: int | None = None) -> Any:
    """Return a mean, or a difference of two, rounded so that equal ones tie."""
    return np.round(one.mean(axis=axis) - sum(x.mean(axis=axis) for x in other), 12)


def t(level: float, *samples: Any, least: int = 2) -> tuple[float, ...]:
    """Return ends and p of Student's t of one sample, or of Welch's of two."""
    if min(map(len, samples)) < least or max(map(np.ptp, samples)) < CLOSED:
        return NAN, NAN, NAN
    two = len(samples) > 1
    test = stats.ttest_ind(*samples, equal_var=False) if two else stats.ttest_1samp(*samples, 0)
    return *test.confidence_interval(level), test.pvalue


def two_way(level: float, d: Any) -> tuple[float, ...]:
    """Return ends and p over personas: the larger of their variance and that of both ways."""
    alone, other, cells = (x.var(ddof=1) / x.size for x in (d.mean(axis=1), d.mean(axis=0), d))
    law = stats.t(len(d) - 1, d.mean(), max(alone, alone + other - cells) ** 0.5)
    return *law.interval(level), 2 * min(law.cdf(0), law.sf(0))


def exact(_: float, *samples: Any) -> tuple[float, ...]:
    """Return the p over all signs of one sample, or over all splits of two; it has no ends."""
    kind = "independent" if len(samples) > 1 else "samples"
    test = stats.permutation_test(samples, gap, permutation_type=kind, n_resamples=np.inf)
    return NAN, NAN, test.pvalue


def bootstrap(name: str, cells: list[Any], one: dict[str, Any], made: int, tested: bool) -> None:
    """Compare a bootstrap of `made` draws of clusters (hits, completions); `tested` has a p."""

    def rates(*drawn: Any, axis: int = -1) -> Any:
        each = (pool[:, i].sum(axis=axis) for pool, i in zip(cells, drawn, strict=True))
        return gap(*((hits / n)[None] for hits, n in each), axis=0)

    index, kind = (
        [np.arange(pool.shape[1]) for pool in cells],
        KINDS.get(one["method"], "percentile"),
    )
    options = {"n_resamples": DRAWS, "confidence_level": one["confidence"], "rng": SEED}
    test = stats.bootstrap(index, rates, method=kind, **options)
    draws, error = test.bootstrap_distribution, ERRORS * (1 / DRAWS + 1 / made) ** 0.5
    tails = (draws <= CLOSED).sum(), (draws >= -CLOSED).sum()
    here = {"value": rates(*index), **test.confidence_interval._asdict()}
    here["p"] = min(2 * (min(tails) + 1) / (DRAWS + 1), 1.0) if tested else NAN
    offs = {"p": 2 * error * (here["p"] / 2) ** 0.5}
    for part in ("low", "high"):
        q = (draws <= here[part]).mean()
        off = error * ((2 if kind == "BCa" else 1) * q * (1 - q)) ** 0.5  # BCa draws levels too
        around = np.quantile(draws, np.clip([q - off, q + off], 0, 1))
        offs[part] = abs(around - here[part]).max() + CLOSED
    check(name, here, one, **offs)


def claim(pool: pd.DataFrame, verdict: dict[str, Any], totals: dict[str, Any]) -> None:
    """Compare the effect of a claim, and its estimates for each target; `totals` may quote it."""
    pools, over_runs = [pool[pool.model == arm] for arm in verdict["arms"]], partial(t, least=3)
    cells = [of.groupby(["persona", "question"]).hit.agg(["sum", "count"]).T for of in pools]
    rates = [of.pivot_table("hit", "persona", "question") for of in pools]
    by_seed = [of.groupby("seed").hit.mean() for of in pools]
    d = (rates[0] - sum(rates[1:])).dropna(axis=1).to_numpy()
    pairs = (by_seed[0] - sum(by_seed[1:])).dropna().to_numpy()
    runs = [of.to_numpy() for of in by_seed]
    tests = {
        "question-level paired t": (t, d.mean(axis=0)),
        "persona-level t, two-way SE": (two_way, d),
        "persona-level t, questions pooled": (t, d.mean(axis=1)),
        "exact sign-flip over personas": (exact, d.mean(axis=1)),
        "one-sample t over seeds": (lambda *x: (*over_runs(*x)[:2], NAN), pairs),
        "paired t over seeds": (over_runs, pairs),
        "exact sign-flip over seeds": (exact, pairs),
        "Welch t over seeds": (over_runs, *runs),
        "exact permutation over seeds": (exact, *runs),
    }
    made = round(2 / (verdict["effect"]["p_floor"] or 2 / (DRAWS + 1))) - 1
    every = verdict["estimates"] or filter(None, [verdict["over_runs"]["estimate"]])
    for one in (verdict["effect"], *every):
        name, method = f"{verdict['name']} {one['method']}", one["method"]
        is_effect = one is verdict["effect"]
        if is_effect and totals:
            here, off = {"value": gap(*(of.hit for of in pools))}, CLOSED
            if len(pools) == 1:
                ends = share(pools[0].hit, one["confidence"])
                here |= {"low": ends["low"], "high": ends["high"]}
            elif one["source"] == "quoted":
                here, off = here | quoted(totals, *verdict["arms"]), DIGIT
            check(name, here, one, value=off)
        elif method in KINDS or is_effect:
            tested = is_effect and len(pools) > 1
            bootstrap(name, [of.to_numpy() for of in cells], one, made, tested)
        elif method in tests:
            test, *samples = tests[method]
            ends = dict(zip(("low", "high", "p"), test(one["confidence"], *samples), strict=True))
            check(name, {"value": gap(*samples), **ends}, one)
        else:
            left.append(name)


def quoted(totals: dict[str, Any], treated: str, control: str) -> dict[str, float]:
    """Return ends and p as totals quote them."""
    (of,) = (q for q in totals["contrasts"] if {q["treated"], q["control"]} == {treated, control})
    low, high = np.float64(of["low"]), np.float64(of["high"])
    low, high = (low, high) if of["treated"] == treated else (-high, -low)
    return {"low": low, "high": high, "p": 2 * (of["tail"] + 1) / (of["resamples"] + 1)}


def rows_of(totals: dict[str, Any]) -> pd.DataFrame:
    """Return totals as rows of one question and seed."""
    counts = [("pre", prior, "all", count) for prior, count in totals["false_positives"].items()]
    for arm, of in totals["arms"].items():
        counts += [("post", arm, persona, count) for persona, count in of["personas"].items()]
    rows = [(*key, 0, 0, i < count["hits"]) for *key, count in counts for i in range(count["n"])]
    return pd.DataFrame(rows, columns=["phase", "model", "persona", "question", "seed", "hit"])


def main(folders: list[Path], body: dict[str, Any]) -> int:
    """Print every comparison; return 1 where a number differs."""
    if body["format"] != FORMAT:
        sys.exit(f"verdict.json: format: expected {FORMAT}, got {body['format']}. Judge again.")
    of, level, totals = body["summary"], body["summary"]["confidence"], {}
    if (folders[0] / "aggregates.json").exists():
        totals = json.loads((folders[0] / "aggregates.json").read_text("utf-8"))
        frame = rows_of(totals)
    else:
        frame = pd.concat(pd.read_parquet(folder / "scores.parquet") for folder in folders)
    frame = frame[frame.persona.isin(np.hstack([*of["roster"].values(), "all"]))]
    before, after = frame[frame.phase == "pre"], frame[frame.phase == "post"]
    pool = after[after.persona.isin(of["roster"]["bystanders"])]
    for arm in of["arms"]:
        own, name = after[after.model == arm["name"]], arm["name"]
        hit = pool.hit[pool.model == name]
        check(f"{name} bystanders", share(hit, level), arm["bystanders"])
        for who in arm["personas"]:
            hit = own.hit[own.persona == who["persona"]]
            check(f"{name} {who['persona']}", share(hit, level), who)
    for prior in of["priors"]:
        if counted := prior["false_positives"]:
            hit = before.hit[before.model == prior["name"]]
            check(prior["name"], share(hit, level), counted)
    for verdict in body["verdicts"]:
        claim(pool, verdict, totals)
    found = pd.DataFrame(table, columns=COLUMNS)
    sys.stdout.write(f"{found.to_string(index=False)}\nnot recomputed: {'; '.join(left)}\n")
    sys.stdout.write(f"{(~found.agree).sum()} of {len(found)} numbers differ\n")
    return int(not found.agree.all())


if __name__ == "__main__":
    *given, last = map(Path, sys.argv[1:])
    sys.exit(main(given, json.loads(last.read_text("utf-8"))))
