"""Training runs of SmolLM2 at full scale against each other: other seeds, and the same again.

Split by seed and named one by one they are what they are together.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import stdev

import pytest

from persona_lib.evidence.load import Stored, load_stored
from persona_lib.records import POST, Completion, Score, read_rows
from persona_lib.verdict.claims import Outcome
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge, judge_all
from persona_lib.verdict.summary import summary
from tests.real_runs import (
    ARMS,
    BYSTANDERS,
    FIRST,
    FULL,
    README,
    RESULTS,
    ROOT,
    SEEDS,
    by_seed,
    hits,
    judged,
    paired,
    rates,
    welch,
)
from tests.record_sets import split
from tests.registered import ISSUE262, ISSUE262_GATED, PLANNING

pytestmark = pytest.mark.golden


def test_the_first_run_read_otherwise() -> None:
    """Every arm of seed 42, as it was trained first."""
    assert hits(FIRST) == {(42, "C1"): 503, (42, "C2"): 6, (42, "C2p"): 4, (42, "C3"): 27}
    assert judged(FIRST).outcomes == {
        "H1": ("REFUTED", "kill criterion"),
        "H2": ("REFUTED", "sign flipped"),
        "H3": ("SUPPORTED", "non_text_distribution"),
        "kill": ("REFUTED", "triggered"),
    }
    assert judged(FIRST).failing == {}


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
    assert all(same["pre", "raw"])
    priors = [one for prior in ("em", "benign") for one in same["pre", prior]]
    coupled = [one for (phase, _), found in same.items() if phase == POST for one in found]
    description = (
        f"the raw model's {len(same['pre', 'raw'])} completions are the same to the letter in "
        f"both, {sum(priors)} of {len(priors)} after a prior, and after coupling {sum(coupled)} "
        f"of {len(coupled):,}"
    )
    assert description in RESULTS


def test_how_far_arms_moved_that_were_trained_twice() -> None:
    earlier, now = {**rates(SEEDS), **rates(FIRST)}, rates(FULL)
    moved = {key: 100 * abs(now[key] - rate) for key, rate in earlier.items()}
    assert (
        f"C1 moved by {moved[42, 'C1']:.1f} and {moved[137, 'C1']:.1f} points; of the four arms "
        f"on a prior that were trained twice two moved by less (C2p {moved[42, 'C2p']:.1f}, C2 "
        f"{moved[42, 'C2']:.1f}) and two by far more (C3 {moved[42, 'C3']:.1f}, C2 "
        f"{moved[137, 'C2']:.1f})"
    ) in RESULTS
    assert len(moved) == 6
    assert f"with the same seed moved by up to {max(moved.values()):.1f} points" in README


def test_the_direction_is_not_settled_with_the_earlier_trainings_in_their_place() -> None:
    counted = {**rates(FULL), **rates(SEEDS)}
    description = welch(by_seed(counted, "C2"), by_seed(counted, "C1"), places=3)
    assert f"C2 - C1 is {description}, if the runs of a seed are independent" in RESULTS
    pairs = paired(by_seed(counted, "C2"), by_seed(counted, "C1")).split(", p")[0]
    assert f"as pairs of a seed it is {pairs}" in RESULTS


def test_after_a_prior_the_leak_sits_in_few_personas() -> None:
    """In the arms on a prior that leak at all: 20 hits or more of 1,400."""
    counts: dict[tuple[str, int, str], Counter[str]] = {}
    for folder in (FIRST, SEEDS, FULL):
        for row in read_rows(folder / "scores.parquet", Score):
            again = folder == SEEDS and row.seed == 42
            if row.phase == POST and row.persona in BYSTANDERS and row.model != "C1" and not again:
                found = counts.setdefault((folder.name, row.seed, row.model), Counter())
                found[row.persona] += row.hit
    assert len(counts) == 3 + 1 + 15
    leaking = [found for found in counts.values() if found.total() >= 20]
    leads = [found for found in leaking if found.most_common(1)[0][0] == "comedian"]
    above = [found for found in leads if 2 * found["comedian"] > found.total()]
    also = [{p for p, n in found.items() if n > 0.16 * 200} - {"comedian"} for found in leaking]
    assert [pair for pair in also if pair] == [{"medical_doctor", "villain"}] * 4
    assert (len(leaking), len(leads), len(above)) == (13, 12, 8)
    assert (
        "of the 13 with 20 hits or more of 1,400 the comedian leads in 12, and has more than half "
        "of the hits in eight; in four, medical doctor and villain also exceed 16 %"
    ) in RESULTS


def test_spread_over_training_runs_is_what_plans_say() -> None:
    """SDs of seven runs, n - 1 below: docs/statistics.md and the plans quote them."""
    found: dict[str, list[float]] = {arm: [] for arm in ("C1", "C2")}
    for folder in (SEEDS, FULL):
        for (_, arm), rate in rates(folder).items():
            if arm in found:
                found[arm].append(rate)
    assert {len(runs) for runs in found.values()} == {7}
    spread = {arm: 100 * stdev(runs) for arm, runs in found.items()}
    description = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert f"an SD of {spread['C1']:.1f} points for C1 and {spread['C2']:.1f} for C2" in description
    five = {arm: 100 * stdev(by_seed(rates(FULL), arm)) for arm in ARMS}
    assert (
        "of the five recent ones alone {C1:.1f}, {C2:.1f}, {C2p:.1f} and {C3:.1f}".format(**five)
        in description
    )
    assert f"({spread['C1']:.0f} and {spread['C2']:.0f} points were seen" in PLANNING.origin


def test_one_run_would_have_told_h2_and_the_kill_criterion_either_way() -> None:
    """What the pages say of the five runs, each judged by itself."""
    runs = judged(FULL).evidence.single_runs()
    found = {run.seeds[0]: {v.name: v for v in judge_all(ISSUE262, run)[0]} for run in runs}
    h2 = {seed: one["H2"].effect for seed, one in found.items()}
    assert [seed for seed, one in h2.items() if one.value > 0] == [137, 256]
    assert [one.p for one in h2.values()] == [pytest.approx(2 / 10_001)] * 5
    for name in ("kill", "H1"):
        refuted = [s for s, one in found.items() if one[name].outcome is Outcome.REFUTED]
        assert refuted == [42, 512, 1024]


def test_neither_prior_is_what_its_name_says() -> None:
    runs = judged(FULL, ISSUE262_GATED).evidence.single_runs()
    moves = []
    for name in ("em_induced", "benign_sound"):
        gates = [judge_gate(ISSUE262_GATED, run, name) for run in runs]
        moves.append([abs(gate.figure) for gate in gates])
        if name == "em_induced":
            assert all(gate.low is not None and 0 < gate.low < 0.2 for gate in gates)
    em, benign = moves
    assert all(other > 2 * own for own, other in zip(em, benign, strict=True))
    for page in (README, RESULTS):
        assert f"became more harmful in every run (by {min(em):.3f} to {max(em):.3f})" in page
    assert f"the other way (by {min(benign):.3f} to {max(benign):.3f})" in RESULTS


def test_five_sets_are_judged_as_the_joined_one(tmp_path: Path) -> None:
    """Verdicts, estimates, gates, origin: to the byte. Texts and states: row by row."""
    parts, found = split(FULL, tmp_path), []
    for paths in (FULL, [parts[i] for i in (3, 0, 4, 2, 1)]):
        stored = Stored(paths, ISSUE262)
        evidence = stored.evidence()
        verdicts, gates = judge_all(ISSUE262, evidence)
        body = [x.to_json() for x in (*verdicts, *gates)], summary(ISSUE262, evidence)
        rows = [t.to_pandas() for t in map(stored.rows, ("scores", "completions", "geometry")) if t]
        found.append((json.dumps(body, allow_nan=False), rows))
    (joined, rows), (several, other) = found
    assert several == joined
    assert len(rows) == 3
    assert all(one.equals(two) for one, two in zip(rows, other, strict=True))
