"""Power of claims over training runs, against the noncentral t, statsmodels and a simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from persona_lib.commands.plan import planning, power_of
from persona_lib.errors import DataError, SpecError
from persona_lib.report.power import power_text
from persona_lib.specs.registration import Registration
from persona_lib.stats.power import paired_power
from persona_lib.verdict.planning import Size
from persona_lib.verdict.power import power_plan
from tests.registered import MICRO, PLANNING, session_under
from tests.unit.test_run_claims import FACTORIAL, KILL, S1, D

SIZE = Size(personas=6, questions=20, samples=10, seeds=12)


def rows(registration: Registration = FACTORIAL, **size: Any) -> dict[tuple[str, str], Any]:
    found = power_plan(registration, replace(SIZE, **size), PLANNING)["rows"]
    return {(row["claim"], row["method"].rpartition(" ")[2]): row for row in found}


@pytest.mark.parametrize("level", [0.05, 0.0125])
@pytest.mark.parametrize("seeds", [3, 10, 24])
@pytest.mark.parametrize("sd", [0.05, 0.2])
def test_the_power_is_that_of_the_noncentral_t(sd: float, seeds: int, level: float) -> None:
    t = stats.t.ppf(1 - level / 2, seeds - 1)
    exact = stats.nct.sf(t, seeds - 1, D * np.sqrt(seeds) / sd)
    theirs = TTestPower().power(D / sd, seeds, level / 2, alternative="larger")
    assert paired_power(D, sd, seeds, level) == pytest.approx(exact, abs=1e-9)
    assert paired_power(D, sd, seeds, level) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(("sd", "seeds"), [(0.1, 12), (0.2, 24)])
def test_the_power_is_the_share_of_simulated_experiments(sd: float, seeds: int) -> None:
    """At a true effect of 2 d; p against d at a quarter of 5 %, as for the smallest of four p."""
    d = np.random.default_rng(18).normal(2 * D, sd, (20_000, seeds))
    test = stats.ttest_1samp(d, D, axis=1)
    share = ((test.pvalue < 0.05 / 4) & (d.mean(axis=1) > D)).mean()
    assert rows(seeds=seeds)["S1", f"{sd:.2f}"]["power"] == pytest.approx(share, abs=0.011)


def test_the_least_seeds_are_the_least() -> None:
    found = rows()
    for sd in (0.05, 0.10, 0.20):
        for claim, excess, level in (("S3", D, 0.0125), ("kill", D / 2, 0.05)):
            row = found[claim, f"{sd:.2f}"]
            for wanted, seeds in zip((0.80, 0.90), row["needed"], strict=True):
                reached, less = (
                    stats.nct.sf(stats.t.ppf(1 - level / 2, n - 1), n - 1, excess * n**0.5 / sd)
                    for n in (seeds, seeds - 1)
                )
                assert less < wanted <= reached
    wide = replace(FACTORIAL, claims=(replace(S1, smallest=5.0),), kill=None)
    assert rows(wide)["S1", "0.05"]["needed"] == [3, 3]


def test_holm_s_strictest_level_is_that_of_the_number_of_claims() -> None:
    alone = replace(FACTORIAL, claims=(S1,))
    t = stats.t.ppf(0.975, 11)
    expected = stats.nct.sf(t, 11, D * 12**0.5 / 0.1)
    assert rows(alone)["S1", "0.10"]["power"] == pytest.approx(expected)
    assert rows()["S1", "0.10"]["power"] < expected - 0.05


def test_what_has_no_power_says_why() -> None:
    assert rows(seeds=2)["S1", "0.05"]["power"] is None
    assert "at least 3 seeds" in rows(seeds=2)["S1", "0.05"]["notes"][0]
    nats = replace(FACTORIAL, claims=(replace(S1, outcome="selectivity"),), kill=KILL)
    assert "of transfer alone" in rows(nats)["S1", ""]["notes"][0]
    assert "of transfer alone" in rows(nats)["kill", ""]["notes"][0]
    text = power_text(power_plan(FACTORIAL, SIZE, PLANNING))
    assert "a true effect of 2 x its d, at Holm's strictest" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_file_of_one_s_own_replaces_single_numbers(tmp_path: Path) -> None:
    own = tmp_path / "assumptions.toml"
    own.write_text('origin = "a pilot"\nrun_sds = [0.03]\n', encoding="utf-8")
    found = planning(own)
    assert found == replace(PLANNING, origin="a pilot", run_sds=(0.03,))
    session = session_under(FACTORIAL, profile=MICRO)
    mine = replace(session.experiment, path=tmp_path / "experiment.toml")
    plan = power_of(replace(session, experiment=mine))
    assert {r["method"] for r in plan["rows"]} == {"paired t, SD 0.03"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("run_sds = [0.0]", SpecError, r"run_sds: expected finite and > 0, got 0\.0"),
        ("run_sd = [0.1]", SpecError, r"run_sd: expected one of .*Did you mean run_sds"),
        ("run_sds = [", DataError, r"assumptions\.toml: expected TOML"),
    ],
)
def test_a_wrong_file_is_named(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    own = tmp_path / "assumptions.toml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        planning(own)


@pytest.mark.parametrize(("sd", "seeds"), [(0.0, 5), (-0.1, 5), (0.1, 2)])
def test_impossible_sizes_are_refused(sd: float, seeds: int) -> None:
    with pytest.raises(DataError, match=r"sd: expected finite and|seeds: expected >="):
        paired_power(0.1, sd, seeds, 0.05)
