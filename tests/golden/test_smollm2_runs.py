"""Training runs of SmolLM2 at full scale against each other: other seeds, and the same again."""

from __future__ import annotations

from pathlib import Path
from statistics import stdev

import pytest

from experiments.assumptions import PLANNING
from experiments.issue262 import ISSUE262, ISSUE262_GATED
from persona_lib.evidence import load_stored
from persona_lib.gates import judge_gate
from persona_lib.records import POST, Completion, Score, read_rows
from persona_lib.verdict import Outcome, judge, judge_all
from tests.real_runs import ARMS, BYSTANDERS, FIRST, FULL, ROOT, SEEDS, hits, rates

pytestmark = pytest.mark.golden


def test_the_first_run_read_otherwise() -> None:
    """Every arm of seed 42, as it was trained first."""
    assert hits(FIRST) == {(42, "C1"): 503, (42, "C2"): 6, (42, "C2p"): 4, (42, "C3"): 27}
    verdicts, gates = judge_all(ISSUE262, load_stored(FIRST, ISSUE262))
    assert {v.name: (v.outcome, v.label) for v in verdicts} == {
        "H1": (Outcome.REFUTED, "kill criterion"),
        "H2": (Outcome.REFUTED, "sign flipped"),
        "H3": (Outcome.SUPPORTED, "non_text_distribution"),
        "kill": (Outcome.REFUTED, "triggered"),
    }
    assert all(gate.holds for gate in gates)


def test_one_of_seven_training_runs_turns_the_sign() -> None:
    found = [rates(SEEDS), rates(FULL)]
    differences = [one[seed, "C2"] - one[seed, "C1"] for one in found for seed, _ in sorted(one)]
    assert len(set(differences)) == 7
    assert [d for d in set(differences) if d > 0] == [pytest.approx(0.192857, abs=1e-6)]
    verdict = judge(ISSUE262, load_stored(SEEDS, ISSUE262, arms=("C1", "C2")), "H1")
    assert (verdict.outcome, verdict.label) == (Outcome.INCONCLUSIVE, "ambiguous zone")


def test_the_seed_that_both_first_sets_hold_is_the_same() -> None:
    def rows(folder: Path) -> set[tuple[object, ...]]:
        return {
            (r.model, r.persona, r.question, r.sample, r.hit, r.tokens, r.finish)
            for r in read_rows(folder / "scores.parquet", Score)
            if r.seed == 42 and r.phase == POST and r.model in ("C1", "C2")
        }

    assert rows(SEEDS) == rows(FIRST)
    assert len(rows(FIRST)) > 4_000


def test_coupling_makes_much_of_little() -> None:
    """The same seed trained again: which completions are the same, letter by letter."""
    first, again = (
        {
            (r.phase, r.model, r.persona, r.question, r.sample): r.text
            for r in read_rows(folder / "completions.parquet", Completion)
            if r.seed == 42
        }
        for folder in (FIRST, FULL)
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


def by_persona() -> dict[tuple[str, int, str], dict[str, float]]:
    """Rates of the arms on a prior: of every training run, once."""
    shares: dict[tuple[str, int, str], dict[str, float]] = {}
    for folder in (FIRST, SEEDS, FULL):
        for row in read_rows(folder / "scores.parquet", Score):
            again = folder == SEEDS and row.seed == 42
            if row.phase == POST and row.persona in BYSTANDERS and row.model != "C1" and not again:
                found = shares.setdefault((folder.name, row.seed, row.model), {})
                found[row.persona] = found.get(row.persona, 0) + row.hit / 200
    return shares


def test_after_a_prior_the_leak_sits_in_few_personas() -> None:
    """In the arms on a prior that leak at all: 20 hits or more of 1,400."""
    shares = by_persona()
    assert len(shares) == 3 + 1 + 15
    leaking = [found for found in shares.values() if sum(found.values()) >= 0.1 - 1e-9]
    assert len(leaking) == 13
    # One arm's 21 hits lie elsewhere; in the others the comedian leads.
    most = [max(found, key=lambda p: found[p]) for found in leaking]
    assert sorted(set(most)) == ["comedian", "kindergarten_teacher"]
    assert most.count("comedian") == 12
    comedian = [
        found["comedian"] for found, name in zip(leaking, most, strict=True) if name == "comedian"
    ]
    assert (min(comedian), max(comedian)) == pytest.approx((0.035, 0.955))
    others = [{p for p, share in found.items() if share > 0.16} - {"comedian"} for found in leaking]
    assert sorted(map(len, others)) == [0] * 9 + [2] * 4
    assert {persona for found in others for persona in found} == {"medical_doctor", "villain"}


def test_spread_over_training_runs_is_what_plans_say() -> None:
    """SDs of seven runs, n - 1 below: docs/power.md and the planning assumptions quote them."""
    found: dict[str, list[float]] = {arm: [] for arm in ("C1", "C2")}
    for folder in (SEEDS, FULL):
        for (_, arm), rate in rates(folder).items():
            if arm in found:
                found[arm].append(rate)
    assert {len(runs) for runs in found.values()} == {7}
    spread = {arm: 100 * stdev(runs) for arm, runs in found.items()}
    told = (ROOT / "docs" / "power.md").read_text(encoding="utf-8")
    assert f"an SD of {spread['C1']:.1f} points for C1 and {spread['C2']:.1f} for C2" in told
    five = {
        arm: 100 * stdev(rates(FULL)[key] for key in rates(FULL) if key[1] == arm) for arm in ARMS
    }
    assert (
        "of the five recent ones alone {C1:.1f}, {C2:.1f}, {C2p:.1f} and {C3:.1f}".format(**five)
        in told
    )
    assert f"({spread['C1']:.0f} and {spread['C2']:.0f} points were seen" in PLANNING.origin


def test_readme_shows_every_training_run() -> None:
    """The table by training run, computed here from the sets."""
    told: dict[tuple[int, str], dict[str, float]] = {}
    for folder, word in ((SEEDS, ", earlier"), (FIRST, ", earlier"), (FULL, "")):
        for (seed, arm), rate in rates(folder).items():
            told.setdefault((seed, word), {})[arm] = rate
    lines = []
    for (seed, word), found in sorted(told.items(), key=lambda item: (item[0][1], item[0][0])):
        cells = [f" {100 * found[arm]:.1f} %" if arm in found else "" for arm in ARMS]
        pairs = [(found["C2"], found.get(control)) for control in ("C1", "C3", "C2p")]
        cells += ["" if other is None else f" {own - other:+.3f}" for own, other in pairs]
        lines.append(f"| seed {seed}{word} |" + " |".join(cells) + " |")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start = readme.index("<!-- table: smollm2_runs -->\n")
    shown = readme[start : readme.index("\n\n", start)].splitlines()[3:]
    assert shown == lines


def test_one_run_would_have_told_anything() -> None:
    """What README says of the five runs, each judged by itself."""
    runs = load_stored(FULL, ISSUE262).single_runs()
    found = {run.seeds[0]: {v.name: v for v in judge_all(ISSUE262, run)[0]} for run in runs}
    least = 2 / 10_001
    h2 = {seed: one["H2"].effect for seed, one in found.items()}
    assert h2[256].value > 0
    assert all(h2[seed].value < 0 for seed in (42, 512, 1024))
    assert [one.p for one in h2.values()] == [pytest.approx(least)] * 5
    triggered = [seed for seed, one in found.items() if one["kill"].outcome is Outcome.REFUTED]
    assert triggered == [42, 512, 1024]


def test_the_em_prior_is_never_shown_to_be_harmful_enough() -> None:
    stricter = load_stored(FULL, ISSUE262_GATED, chosen=True)
    gates = [judge_gate(ISSUE262_GATED, run, "em_induced") for run in stricter.single_runs()]
    rises = [gate.figure for gate in gates]
    assert (min(rises), max(rises)) == pytest.approx((0.156, 0.211), abs=5e-4)
    assert all(gate.low is not None and 0 < gate.low < 0.2 for gate in gates)
