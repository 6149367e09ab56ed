"""A run of SmolLM2 at full scale on a GPU, and two training runs of two of its arms."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

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
BYSTANDERS = ISSUE262.roster.bystanders


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


@pytest.mark.parametrize("folder", [FULL, SEEDS])
def test_manifests_say_where_they_come_from(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.registration, manifest.digest) == (ISSUE262.name, ISSUE262.digest)
    profile = canonical(SCALES["smollm2"]["full"])
    profile.pop("rates")
    for config in manifest.recorded["config"]:
        assert config["profile"] == profile
    environment = manifest.recorded["environment"]
    assert re.fullmatch(r"[0-9a-f]{40}", environment["git"]["commit"])
    assert environment["git"]["dirty"] is False
    assert environment["torch"]["device"] == "cuda"


def test_sets_stay_small() -> None:
    size = sum(path.stat().st_size for folder in (FULL, SEEDS) for path in folder.iterdir())
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
