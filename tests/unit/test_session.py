"""Sessions: what was asked for, what is missing, and what each rule needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from persona_lib.commands import options
from persona_lib.commands.outcome import merge_summaries
from persona_lib.commands.plan import plan_text
from persona_lib.commands.session import Session
from persona_lib.errors import DataError, PreflightError, SealError, SpecError
from persona_lib.records import POST, PRE, ModelId
from persona_lib.specs.arms import Roster
from persona_lib.store import stage as graph
from persona_lib.store.stage import Stage
from tests.registered import ISSUE262, MICRO, QWEN7B, ROOT, experiment_of, session_under

EVIL = (replace(ISSUE262.arms[0], prior="evil"), *ISSUE262.arms[1:])
"""Arms of which one has a prior that no profile has a corpus for."""


def session(store: Path) -> Session:
    return session_under(ISSUE262, profile=MICRO, store_root=store)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: options.choose_experiment("x"), "--experiment: expected one of issue262"),
        (lambda: options.choose_seeds("1,one"), "--seeds: expected distinct integers"),
        (lambda: options.choose_arms("C1,C7", ISSUE262), "arm: expected one of C1, C2.*'C7'"),
        (lambda: options.choose_arms("", ISSUE262), "arm: expected one of C1, C2.*''"),
        (lambda: options.choose_seeds("1,1"), "--seeds: expected distinct integers"),
        (lambda: options.choose_seeds("-1"), "--seeds: expected distinct integers"),
        (lambda: options.choose_seeds(str(2**63)), "--seeds: expected distinct integers"),
        (lambda: options.choose_seeds("\u0661"), "--seeds: expected distinct integers"),
        (lambda: options.refuse_with_stored(seeds="1"), "--seeds: expected it to be left out"),
        (lambda: options.refuse_with_stored(engine="vllm"), "--engine: expected it to be left out"),
        (lambda: options.check_report(Path("/proc/x")), "--report: expected a folder that can"),
        (lambda: ISSUE262.arm("C9"), "arm: expected one of C1, C2, C2p, C3, got 'C9'"),
        (lambda: ISSUE262.claim("H9"), "claim: expected one of H1, H2, H3, kill, got 'H9'"),
        (lambda: Roster(source="a", negatives=(), bystanders=("b",)), "roster.negatives"),
        (
            lambda: Roster(source="a", negatives=("b",), bystanders=("a",)),
            "distinct names, got 'a'",
        ),
        (
            lambda: session_under(replace(ISSUE262, arms=EVIL), profile=MICRO).runs[0].corpora,
            "prior: expected one of em, benign, got 'evil'",
        ),
        (lambda: replace(ISSUE262, marker="  "), "marker: expected visible text"),
        (lambda: replace(ISSUE262, arms=()), "arms: expected at least one"),
    ],
)
def test_wrong_options_and_specs_are_refused_by_name(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        call()


@pytest.mark.parametrize(
    ("text", "arms"),
    [(None, ()), ("C2", ("C2",)), ("C3, C1", ("C1", "C3")), ("C2p,C2p", ("C2p",))],
)
def test_arms_come_in_the_registration_s_order(text: str | None, arms: tuple[str, ...]) -> None:
    assert options.choose_arms(text, ISSUE262) == arms


def test_folder_options_know_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves ``~`` alone behind an equals sign."""
    monkeypatch.setenv("HOME", "/home/somebody")
    home = Path("/home/somebody/x")
    assert options.choose_store("~/x", ROOT) == options.choose_data("~/x") == home
    assert options.choose_report("~/x") == home


def test_published_corpora_are_asked_for_before_compute(tmp_path: Path) -> None:
    profile = replace(QWEN7B, base=MICRO.base)
    some = session_under(ISSUE262, profile=profile, store_root=tmp_path)
    with pytest.raises(PreflightError, match=r"bad_legal_advice_6k\.jsonl.*--data"):
        some.evidence(("C1", "C2"))
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_session_wants_its_own_models_and_offers_to_build_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], set[str]]] = []

    def build(stages: list[Stage], store: object, *, spare: list[Stage]) -> None:
        del store
        drawn = [stage.inputs.get("completions") or stage.inputs["advice"] for stage in stages]
        named = [f"{s.name} {s.label} {by.seed}" for s, by in zip(stages, drawn, strict=True)]
        asked.append((named, {s.label for s in spare if s.name == "scores"}))
        raise InterruptedError

    monkeypatch.setattr(graph, "build", build)
    some = session(tmp_path)
    some.seeds, some.arms = (3, 5), ("C1", "C3")
    with pytest.raises(InterruptedError):
        some.evidence(("C1",))
    with pytest.raises(InterruptedError):
        some.table([ModelId(PRE, "benign")], "scores")
    assert asked == [
        (
            ["scores raw 3", "scores raw 5", "scores C1 3", "scores C1 5"],
            {"raw", "benign", "C1", "C3"},
        ),
        (["scores benign 3", "scores benign 5"], {"raw", "benign", "C1", "C3"}),
    ]  # fmt: skip


def test_stored_evidence_builds_no_arm(tmp_path: Path) -> None:
    some = session(tmp_path)
    some.stored = (ROOT / "golden" / "published",)
    with pytest.raises(SpecError, match="--stored"):
        some.table([ModelId(POST, "C1")], "scores")
    assert some.judging("H1").claim("H1").holds


def test_stored_evidence_under_changed_numbers_is_refused_unless_they_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = (ROOT / "golden" / "published",)
    moved = replace(ISSUE262, kill=replace(ISSUE262.kill, max_rate=0.06))
    monkeypatch.setitem(options.EXPERIMENTS, "issue262", experiment_of(moved))
    chosen = options.choose_experiment(None, stored)
    some = Session(experiment=chosen, profile=MICRO, stored=stored)
    with pytest.raises(SealError, match=r"kill\.max_rate: sealed 0\.05, now 0\.06"):
        some.judging("H1")
    with pytest.raises(DataError, match="digest"):
        some.evidence(("C1", "C2"))
    named = replace(some, chosen=True)
    assert "were not registered for these data" in named.evidence(("C1", "C2")).origin


def test_plan_lists_every_stage_and_what_is_stored(tmp_path: Path) -> None:
    text = plan_text(session_under(ISSUE262, profile=QWEN7B, store_root=tmp_path))
    assert "0 of 34 stages are stored" in text
    for word in ("prior", "coupling_text", "completions", "baseline", "C2p", "hours"):
        assert word.replace("hours", " h") in text
    assert not list(tmp_path.rglob("manifest.json"))


def test_summaries_of_different_arms_merge_in_reporting_order() -> None:
    def summary(*arms: tuple[str, int]) -> dict[str, object]:
        rows = [{"name": name, "order": order} for name, order in arms]
        checks = [{"name": f"source_{name}", "order": order} for name, order in reversed(arms)]
        away, priors = [f"not there: {name}" for name, _ in arms], [{"name": "raw", "order": 0}]
        return {"arms": rows, "priors": priors, "checks": checks, "unavailable": away}

    merged = merge_summaries([summary(("C2", 1), ("C3", 3)), summary(("C1", 0), ("C2", 1))])
    assert [row["name"] for row in merged["arms"]] == ["C1", "C2", "C3"]
    assert [row["name"] for row in merged["checks"]] == ["source_C1", "source_C2", "source_C3"]
    assert len(merged["priors"]) == 1
    assert merged["unavailable"] == ["not there: C2", "not there: C3", "not there: C1"]
