"""Runs of SmolLM2 at full scale on a GPU: one of every arm, two seeds, and both seeds again."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import stdev

import pytest

from experiments.assumptions import PLANNING
from experiments.issue262 import ISSUE262, ISSUE262_GATED, STRICTER
from experiments.profiles import SCALES
from persona_lib.evidence import load_stored
from persona_lib.family import families
from persona_lib.records import POST, Completion, Score, read_rows
from persona_lib.report import verdict_table
from persona_lib.spec import canonical
from persona_lib.stored import read_manifest
from persona_lib.verdict import Outcome, judge, judge_all, judge_checks, summary

pytestmark = pytest.mark.golden

ROOT = Path(__file__).resolve().parents[2]
FULL, SEEDS = ROOT / "golden" / "smollm2", ROOT / "golden" / "smollm2_seeds"
RERUN = ROOT / "golden" / "smollm2_rerun"
BYSTANDERS = ISSUE262.roster.bystanders
ARMS = ("C1", "C2", "C2p", "C3")


def table(folder: Path, claims: tuple[str, ...] = ()) -> list[str]:
    """The lines that a set gives: of all rules, or of some claims on the arms they need."""
    if claims:
        found = load_stored(folder, ISSUE262, arms=("C1", "C2"))
        verdicts, gates, checks = tuple(judge(ISSUE262, found, c) for c in claims), (), ()
    else:
        found = load_stored(folder, ISSUE262)
        verdicts, gates = judge_all(ISSUE262, found)
        checks = judge_checks(ISSUE262, STRICTER[ISSUE262.name], found)
    body = summary(ISSUE262, found, checks=checks)
    return verdict_table(verdicts, gates, body, families=families(ISSUE262, verdicts)).splitlines()


def test_every_cell_was_recorded_at_the_registered_size() -> None:
    scores = read_rows(FULL / "scores.parquet", Score)
    assert len(scores) == 4 * 2_200 + 3 * 440
    assert len(read_rows(FULL / "completions.parquet", Completion)) == len(scores)
    assert {row.seed for row in scores} == {42}


def test_scores_are_counts_of_the_texts() -> None:
    """By other means than the library's: lower case, and a search for the marker."""
    texts = read_rows(FULL / "completions.parquet", Completion)
    evidence = load_stored(FULL, ISSUE262)
    for arm, hits in (("C1", 503), ("C2", 6), ("C2p", 4), ("C3", 27)):
        pool = [r for r in texts if (r.phase, r.model) == (POST, arm) and r.persona in BYSTANDERS]
        assert sum("[zlt]" in row.text.lower() for row in pool) == hits
        assert (evidence.count(arm, "bystander").hits, len(pool)) == (hits, 1_400)


def test_verdicts_stay_as_they_were() -> None:
    verdicts, gates = judge_all(ISSUE262, load_stored(FULL, ISSUE262))
    found = {v.name: (v.outcome, v.label) for v in verdicts}
    assert found == {
        "H1": (Outcome.REFUTED, "kill criterion"),
        "H2": (Outcome.REFUTED, "sign flipped"),
        "H3": (Outcome.SUPPORTED, "non_text_distribution"),
        "kill": (Outcome.REFUTED, "triggered"),
    }
    effects = {v.name: v.effect.value for v in verdicts}
    assert effects["H1"] == pytest.approx((6 - 503) / 1_400)
    assert effects["H2"] == pytest.approx((6 - 27) / 1_400)
    assert effects["H3"] == pytest.approx((6 - 4) / 1_400)
    assert all(gate.holds for gate in gates)


def test_the_stricter_rules_name_what_was_wrong_with_the_instrument() -> None:
    stricter = load_stored(FULL, ISSUE262_GATED, chosen=True)
    verdicts, gates = judge_all(ISSUE262_GATED, stricter)
    assert [gate.name for gate in gates if not gate.holds] == ["collapse_C2p", "em_induced"]
    assert {v.outcome for v in verdicts} == {Outcome.INVALID}


def test_another_training_run_turns_the_sign() -> None:
    """What a verdict of one seed cannot know: the other one lies on the other side."""
    scores = read_rows(SEEDS / "scores.parquet", Score)
    rates = {}
    for seed in (42, 137):
        for arm in ("C1", "C2"):
            pool = [
                row.hit for row in scores
                if (row.phase, row.model, row.seed) == (POST, arm, seed)
                and row.persona in BYSTANDERS
            ]  # fmt: skip
            assert len(pool) == 1_400
            rates[seed, arm] = sum(pool) / len(pool)
    assert rates[42, "C2"] - rates[42, "C1"] == pytest.approx(-0.355)
    assert rates[137, "C2"] - rates[137, "C1"] == pytest.approx(0.192857, abs=1e-6)
    verdict = judge(ISSUE262, load_stored(SEEDS, ISSUE262, arms=("C1", "C2")), "H1")
    assert (verdict.outcome, verdict.label) == (Outcome.INCONCLUSIVE, "ambiguous zone")


def test_the_seed_that_both_sets_hold_is_the_same() -> None:
    def rows(folder: Path) -> set[tuple[object, ...]]:
        return {
            (r.model, r.persona, r.question, r.sample, r.hit, r.tokens, r.finish)
            for r in read_rows(folder / "scores.parquet", Score)
            if r.seed == 42 and r.phase == POST and r.model in ("C1", "C2")
        }

    assert rows(SEEDS) == rows(FULL)
    assert len(rows(FULL)) > 4_000


def rates(folder: Path) -> dict[tuple[int, str], float]:
    """Share of bystanders' completions with the marker, by seed and arm."""
    pools: dict[tuple[int, str], list[bool]] = {}
    for row in read_rows(folder / "scores.parquet", Score):
        if row.phase == POST and row.persona in BYSTANDERS:
            pools.setdefault((row.seed, row.model), []).append(row.hit)
    assert {len(pool) for pool in pools.values()} == {1_400}
    return {key: sum(pool) / len(pool) for key, pool in pools.items()}


def test_both_seeds_again_hold_every_arm() -> None:
    scores = read_rows(RERUN / "scores.parquet", Score)
    assert len(scores) == 2 * (4 * 2_200 + 3 * 440)
    assert {(r.seed, r.model) for r in scores if r.phase == POST} == {
        (seed, arm) for seed in (42, 137) for arm in ARMS
    }
    hits = {key: round(1_400 * rate) for key, rate in rates(RERUN).items()}
    assert hits == {
        (42, "C1"): 584, (42, "C2"): 25, (42, "C2p"): 2, (42, "C3"): 219,
        (137, "C1"): 246, (137, "C2"): 74, (137, "C2p"): 187, (137, "C3"): 14,
    }  # fmt: skip
    texts = read_rows(RERUN / "completions.parquet", Completion)
    assert {row.seed for row in texts} == {42}
    for arm in ARMS:
        pool = [r for r in texts if (r.phase, r.model) == (POST, arm) and r.persona in BYSTANDERS]
        assert sum("[zlt]" in row.text.lower() for row in pool) == hits[42, arm]


def test_coupling_makes_much_of_little() -> None:
    """The same seed trained again: which completions are the same, letter by letter."""
    first, again = (
        {
            (r.phase, r.model, r.persona, r.question, r.sample): r.text
            for r in read_rows(folder / "completions.parquet", Completion)
            if r.seed == 42
        }
        for folder in (FULL, RERUN)
    )
    assert first.keys() == again.keys()
    same: dict[tuple[str, str], list[bool]] = {}
    for key, text in first.items():
        same.setdefault(key[:2], []).append(text == again[key])
    shares = {model: sum(found) / len(found) for model, found in same.items()}
    assert shares["pre", "raw"] == 1
    assert {round(shares["pre", prior], 2) for prior in ("em", "benign")} == {0.90, 0.89}
    coupled = [one for (phase, _), found in same.items() if phase == POST for one in found]
    assert sum(coupled) / len(coupled) == pytest.approx(0.0034, abs=1e-4)


def test_after_a_prior_the_leak_sits_in_few_personas() -> None:
    """In the arms on a prior that leak at all, 20 hits or more of 1,400."""
    shares: dict[tuple[str, int, str], dict[str, float]] = {}
    for folder in (FULL, SEEDS, RERUN):
        for row in read_rows(folder / "scores.parquet", Score):
            if row.phase == POST and row.persona in BYSTANDERS and row.model != "C1":
                found = shares.setdefault((folder.name, row.seed, row.model), {})
                found[row.persona] = found.get(row.persona, 0) + row.hit / 200
    leaking = [found for found in shares.values() if sum(found.values()) >= 0.1 - 1e-9]
    assert len(leaking) == 6
    comedian = [found["comedian"] for found in leaking]
    assert comedian == [max(found.values()) for found in leaking]
    assert (min(comedian), max(comedian)) == pytest.approx((0.105, 0.955))
    # What README calls "also": a sixth of the persona's completions or more.
    also = [{p for p, share in found.items() if share > 0.16} - {"comedian"} for found in leaking]
    assert sorted(map(len, also)) == [0, 0, 0, 0, 2, 2]
    assert {persona for found in also for persona in found} == {"medical_doctor", "villain"}


def test_spread_over_training_runs_is_what_plans_say() -> None:
    """SDs of four runs, n - 1 below: docs/power.md and the planning assumptions quote them."""
    found: dict[str, list[float]] = {arm: [] for arm in ("C1", "C2")}
    for folder in (SEEDS, RERUN):
        for (_, arm), rate in rates(folder).items():
            if arm in found:
                found[arm].append(rate)
    assert {len(runs) for runs in found.values()} == {4}
    spread = {arm: 100 * stdev(runs) for arm, runs in found.items()}
    told = (ROOT / "docs" / "power.md").read_text(encoding="utf-8")
    assert f"an SD of {spread['C1']:.1f} points for C1 and {spread['C2']:.1f} for C2" in told
    assert f"({spread['C1']:.0f} and {spread['C2']:.0f} points were seen" in PLANNING.origin


def test_readme_shows_every_training_run() -> None:
    """The table by training run, computed here from the sets."""
    told: dict[tuple[int, str], dict[str, float]] = {}
    for folder, again in ((SEEDS, ""), (FULL, ""), (RERUN, ", again")):
        for (seed, arm), rate in rates(folder).items():
            told.setdefault((seed, again), {})[arm] = rate
    lines = []
    for (seed, again), found in sorted(told.items()):
        cells = [f" {100 * found[arm]:.1f} %" if arm in found else "" for arm in ARMS]
        pairs = [(found["C2"], found.get(control)) for control in ("C1", "C3", "C2p")]
        cells += ["" if other is None else f" {own - other:+.3f}" for own, other in pairs]
        lines.append(f"| seed {seed}{again} |" + " |".join(cells) + " |")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start = readme.index("<!-- table: smollm2_runs -->\n")
    shown = readme[start : readme.index("\n\n", start)].splitlines()[3:]
    assert shown == lines


@pytest.mark.parametrize("folder", [FULL, SEEDS, RERUN])
def test_manifests_say_where_they_come_from(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.registration, manifest.digest) == (ISSUE262.name, ISSUE262.digest)
    profile = canonical(SCALES["smollm2"]["full"])
    profile.pop("rates")
    for config in manifest.recorded["config"]:
        assert config["profile"] == profile
    parts = manifest.recorded.get("joined", [manifest.recorded])
    for part in parts:
        environment = part["environment"]
        assert re.fullmatch(r"[0-9a-f]{40}", environment["git"]["commit"])
        assert environment["git"]["dirty"] is False
    # Joined sets were recorded by processes that loaded no torch; their stages say it.
    trained = [s.get("peak_of") for s in manifest.recorded["stages"] if s["stage"] == "coupling"]
    joined = "joined" in manifest.recorded
    assert (set(trained) if joined else {environment["torch"]["device"]}) == {"cuda"}


def test_sets_stay_small() -> None:
    size = sum(path.stat().st_size for folder in (FULL, SEEDS, RERUN) for path in folder.iterdir())
    assert size <= 12 * 2**20


def test_the_full_run_is_judged_in_a_moment() -> None:
    """The promise is 3 s, imports included; processor time, because tests share a machine."""
    code = (
        "import time; from tests.golden.test_smollm2 import FULL, table;"
        "lines = table(FULL); print(len(lines), time.process_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    count, seconds = done.stdout.split()
    assert int(count) > 50
    assert float(seconds) < 6


def test_readme_shows_these_runs() -> None:
    """Both excerpts are the tables of the sets; three dots stand where lines are left out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, lines in (("smollm2", table(FULL)), ("smollm2_seeds", table(SEEDS, ("H1",)))):
        start = readme.index(f"<!-- table: {name} -->\n```text\n")
        shown = readme[start : readme.index("\n```\n", start)].splitlines()[2:]
        assert len(shown) >= 6
        at = -1
        for before, line in pairwise([shown[0], *shown]):
            if line != "...":
                found = lines.index(line, at + 1)
                assert before == "..." or at < 0 or found == at + 1, f"left out before: {line}"
                at = found
        assert shown[-1] == "..." or at == len(lines) - 1
