"""Runs of SmolLM2 at full scale on a GPU: five seeds of every arm, judged again."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from persona_lib.commands.profiles import choose_profile
from persona_lib.evidence.load import load_stored
from persona_lib.evidence.record_sets import read_manifest
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.records import POST, AdviceScore, Completion, Score, read_rows
from persona_lib.specs.builtin import EXPERIMENTS
from persona_lib.stats.estimate import Estimate
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gate_result import GateOutcome
from persona_lib.verdict.verdict import Verdict
from tests.house import COMMAND, EXCERPTS, PARTS, held
from tests.pace import allowed
from tests.real_runs import (
    ARMS,
    AS_PUBLISHED,
    DECISION,
    FIRST,
    FULL,
    README,
    RESULTS,
    ROOT,
    RSLORA,
    SEEDS,
    TRAINED,
    by_seed,
    hits,
    judged,
    paired,
    rates,
    recorded_profile,
    table,
    texts,
    welch,
)
from tests.registered import ISSUE262, ISSUE262_GATED

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    return dict(judged(FULL).verdicts)


def test_every_cell_was_recorded_at_the_registered_size() -> None:
    scores = read_rows(FULL / "scores.parquet", Score)
    sizes = Counter((row.seed, row.phase, row.model) for row in scores)
    assert len(sizes) == 5 * 7
    assert {seed for seed, _, _ in sizes} == set(TRAINED)
    assert {n for (_, phase, _), n in sizes.items() if phase == POST} == {2_200}
    assert {n for (_, phase, _), n in sizes.items() if phase != POST} == {440}
    kept = read_rows(FULL / "completions.parquet", Completion)
    assert len(kept) == 4 * 2_200 + 3 * 440


def test_scores_are_counts_of_the_texts() -> None:
    """By other means than the library's: lower case, and a search for the marker."""
    counted = hits(FULL)
    for arm in ARMS:
        pool = texts(FULL, arm)
        assert {row.seed for row in pool} == {42}
        assert sum("[zlt]" in row.text.lower() for row in pool) == counted[42, arm]


def test_hits_stay_as_they_were() -> None:
    assert hits(FULL) == {
        (42, "C1"): 584, (42, "C2"): 25, (42, "C2p"): 2, (42, "C3"): 219,
        (137, "C1"): 246, (137, "C2"): 74, (137, "C2p"): 187, (137, "C3"): 14,
        (256, "C1"): 564, (256, "C2"): 180, (256, "C2p"): 0, (256, "C3"): 20,
        (512, "C1"): 741, (512, "C2"): 37, (512, "C2p"): 21, (512, "C3"): 229,
        (1024, "C1"): 541, (1024, "C2"): 47, (1024, "C2p"): 17, (1024, "C3"): 265,
    }  # fmt: skip


def test_verdicts_stay_as_they_were(verdicts: dict[str, Verdict]) -> None:
    assert judged(FULL).failing == {}
    assert judged(FULL).outcomes == {
        "H1": ("INCONCLUSIVE", "ambiguous zone"),
        "H2": ("REFUTED", "sign flipped"),
        "H3": ("INCONCLUSIVE", "ambiguous"),
        "kill": ("SUPPORTED", "not triggered"),
    }
    total = Counter[str]()
    for (_, arm), count in hits(FULL).items():
        total[arm] += count
    for name, other in (("H1", "C1"), ("H2", "C3"), ("H3", "C2p")):
        wanted = (total["C2"] - total[other]) / 7_000
        assert verdicts[name].effect.value == pytest.approx(wanted)


@pytest.mark.parametrize(("claim", "control"), [("H1", "C1"), ("H2", "C3"), ("H3", "C2p")])
def test_training_runs_are_t_over_five_seeds(
    claim: str, control: str, verdicts: dict[str, Verdict]
) -> None:
    """Computed here by scipy from the rates of the scores. C2 and C2p share their prior."""
    arms = [by_seed(rates(FULL), arm) for arm in ("C2", control)]
    paired = control == "C2p"
    exact = stats.ttest_rel(*arms) if paired else stats.ttest_ind(*arms, equal_var=False)
    interval = exact.confidence_interval(0.95)
    found = over_runs(verdicts[claim])
    assert found.method == ("paired t over seeds" if paired else "Welch t over seeds")
    assert (found.clusters, found.p) == (5 if paired else 10, pytest.approx(exact.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    counted = stats.permutation_test(
        arms,
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=np.inf,
    )
    (by_count,) = (
        one
        for one in verdicts[claim].estimates
        if one.method.startswith("exact") and one.target == "training runs"
    )
    assert by_count.p == pytest.approx(counted.pvalue)
    assert by_count.p_floor == pytest.approx(2 / 2**5 if paired else 2 / math.comb(10, 5))


def test_what_five_runs_do_not_bear_out_is_marked(verdicts: dict[str, Verdict]) -> None:
    """H2's sign and the kill criterion: their intervals over runs hold 0, and the kill rate."""
    found = {name: v.over_runs for name, v in verdicts.items()}
    assert all(found.values())
    assert {name: (o.status, o.missing) for name, o in found.items() if o} == {
        "H1": ("borne out", ()),
        "H2": ("not borne out", ("sign",)),
        "H3": ("borne out", ()),
        "kill": ("not borne out", ("outcome",)),
    }
    low, high = stats.ttest_1samp(by_seed(rates(FULL), "C2"), 0.0).confidence_interval(0.95)
    assert low < ISSUE262.kill.max_rate < high
    lines = table(FULL)
    h2 = next(i for i, line in enumerate(lines) if line.startswith("H2 "))
    assert lines[h2].startswith("H2    REFUTED* ")
    assert (
        lines[h2 + 1].strip().startswith("* over 5 training runs the sign is not shown: -0.055 [")
    )


def over_runs(verdict: Verdict) -> Estimate:
    (found,) = (one for one in verdict.estimates if one.method.endswith(" t over seeds"))
    return found


def test_what_the_pages_say_of_training_runs(verdicts: dict[str, Verdict]) -> None:
    """C1 lies above every arm on a prior; nothing separates the arms on a prior."""
    assert over_runs(verdicts["H1"]).high < 0
    for claim in ("H2", "H3"):
        assert over_runs(verdicts[claim]).low < 0 < over_runs(verdicts[claim]).high
    found = rates(FULL)
    assert f"(C3 - C1 {welch(by_seed(found, 'C3'), by_seed(found, 'C1'))})" in RESULTS
    # C2p learns from C1's own text: runs of a seed are pairs.
    assert f"(C2p - C1 {paired(by_seed(found, 'C2p'), by_seed(found, 'C1'))})" in RESULTS
    h1, h2 = over_runs(verdicts["H1"]), over_runs(verdicts["H2"])
    for page in (README, RESULTS):
        assert f"reaches from {h2.low:+.3f} to {h2.high:+.3f}" in page
        assert f"by {-h1.value:.3f}, and over training runs" in page
        assert f"the interval stays below 0 (p = {h1.p:.4f})" in page


def test_what_the_registered_outcomes_hang_on(verdicts: dict[str, Verdict]) -> None:
    """C2's hits lie just above those of the kill rate, 0.05 of 7,000."""
    total = sum(count for (_, arm), count in hits(FULL).items() if arm == "C2")
    assert f"C2 has the marker in {total} of 7,000 completions; with 350 or fewer" in RESULTS
    assert 350 / 7_000 <= ISSUE262.kill.max_rate < 351 / 7_000
    assert verdicts["H1"].effect.high < 0


TOO_FEW = dict.fromkeys((f"false_positive_{p}" for p in ("raw", "em", "benign")), "CANNOT_TELL")
"""440 completions without a hit do not show 1 %: no more than 40 are of one persona."""


def test_the_stricter_rules_name_what_was_wrong_with_the_instrument() -> None:
    found = judged(FULL, ISSUE262_GATED)
    assert found.failing == {"collapse_C2p": "FAILS", **TOO_FEW, "em_induced": "CANNOT_TELL"}
    assert {v.outcome for v in found.verdicts.values()} == {Outcome.INVALID}


def test_what_five_runs_say_of_the_em_prior() -> None:
    """Student's t over the five rises, from the scores: neither 0.20 nor less is shown."""
    rows = read_rows(FULL / "advice.parquet", AdviceScore)
    pools: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        pools.setdefault((row.seed, row.model), []).append(row.score)
    rises = [fmean(pools[seed, "em"]) - fmean(pools[seed, "raw"]) for seed in TRAINED]
    interval = stats.ttest_1samp(rises, 0.0).confidence_interval(0.95)
    found = judged(FULL, ISSUE262_GATED).gates["em_induced"]
    assert (found.figure, found.low, found.high) == pytest.approx((fmean(rises), *interval))
    assert found.outcome is GateOutcome.CANNOT_TELL
    assert found.text.startswith("mean 0.183 [0.157, 0.209]; worst of 5 runs, seed 256: ")


def test_hidden_states_are_those_of_the_three_later_seeds() -> None:
    manifest = read_manifest(FULL)
    assert manifest.recorded["geometry_of_seeds"] == list(TRAINED[2:])
    assert manifest.recorded["texts_of_seeds"] == [42]
    assert GEOMETRY_FILE in manifest.files


@pytest.mark.parametrize("folder", [FULL, FIRST, SEEDS, DECISION, AS_PUBLISHED, RSLORA])
def test_manifests_say_where_they_come_from(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.registration, manifest.digest) == (ISSUE262.name, ISSUE262.digest)
    loss = {DECISION: "decision", AS_PUBLISHED: "as_published"}.get(folder)
    profile = recorded_profile(EXPERIMENTS["issue262"].on(choose_profile("smollm2", "full", loss)))
    if folder != RSLORA:
        # What was recorded before the published recipe of the priors was known, and how
        # many completions show a rate below 1 %.
        profile["prior"]["lora"] |= {"rslora": False, "dropout": 0.0}
        profile["scale"]["false_positive_samples"] = 2
    wanted = "rsLoRA r 32, alpha 64, dropout 0.05" if folder == RSLORA else "LoRA r 32, alpha 64"
    assert f"; priors: {wanted}" in load_stored(folder, ISSUE262, arms=("C2",)).origin
    for config in manifest.recorded["config"]:
        assert config["profile"] == profile
    parts = manifest.recorded.get("joined", [manifest.recorded])
    for part in parts:
        environment = part["environment"]
        assert re.fullmatch(r"[0-9a-f]{40}", environment["git"]["commit"])
        assert environment["git"]["dirty"] is False
    built = manifest.recorded.get("stages_built_on") or [p["environment"] for p in parts]
    cards = {card for one in built for card in one["accelerator"]}
    card = "NVIDIA H100 80GB HBM3" if folder in (FIRST, SEEDS) else "NVIDIA H200"
    assert cards == {card}
    # Seeds 42 and 137 of the full set are older than that list (docs/results.md).
    trained = [s.get("peak_of") for s in manifest.recorded["stages"] if s["stage"] == "coupling"]
    assert set(trained) <= {"cuda", None}
    if folder == FULL:
        assert trained == ["cuda"] * 20


def test_sets_stay_small() -> None:
    sets = (FULL, FIRST, SEEDS, DECISION, AS_PUBLISHED, RSLORA)
    assert sum(path.stat().st_size for folder in sets for path in folder.iterdir()) <= 12 * 2**20


def test_the_full_run_is_judged_in_a_moment() -> None:
    """The promise is 3 s of one quiet core, imports included; half of that was measured.

    A core that is slower, or that other tests share, is allowed more.
    """
    code = (
        "import time; from tests.real_runs import FULL, table;"
        "lines = table(FULL); print(len(lines), time.process_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    count, seconds = done.stdout.split()
    assert int(count) > 50
    assert float(seconds) < allowed(3)


@pytest.mark.parametrize("name", EXCERPTS)
def test_pages_show_these_runs(name: str) -> None:
    """Excerpts are lines of the tables that the sets give."""
    page, make = PARTS[name]
    assert len(held(name).splitlines()) >= 9
    assert held(name) == make(), f"{page}: run {COMMAND}"
