"""Search of a recipe: C1 alone, coupling questions alone, and what is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from persona_lib.commands import recipe
from persona_lib.commands.recipe import SEARCH, grid, measured, search, table
from persona_lib.digests import canonical
from persona_lib.specs.builtin import DATA
from persona_lib.specs.personas import load_questions
from persona_lib.store import stage as graph
from persona_lib.store.stage import Stage, walk
from persona_lib.store.store import Store
from tests.registered import ISSUE262, MICRO, REGISTRATIONS, SCALES, TINY


def test_the_grid_has_every_combination_once_and_keeps_what_is_not_named() -> None:
    full = SCALES["smollm2"]["full"]
    assert grid(full) == [full.coupling]
    found = grid(full, learning_rates=(5e-5, 1e-4), epochs=(5, 10), losses=("decision",))
    assert [(one.loss, one.learning_rate, one.epochs) for one in found] == [
        ("decision", 5e-5, 5), ("decision", 5e-5, 10), ("decision", 1e-4, 5),
        ("decision", 1e-4, 10),
    ]  # fmt: skip
    plain = {replace(r, loss="anchored", learning_rate=1e-4, epochs=4) for r in found}
    assert plain == {full.coupling}
    assert len(grid(full, betas=(0.3, 1.0, 0.3))) == 2
    steps = replace(full, coupling=replace(full.coupling, epochs=None, steps=7))
    assert [(r.epochs, r.steps) for r in grid(steps)] == [(None, 7)]
    assert [(r.epochs, r.steps) for r in grid(steps, epochs=(2,))] == [(2, None)]


def stages_of_two(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    """The stages that a search of two recipes would build or may want later."""
    found: list[Stage] = []

    def build(stages: list[Stage], _: Store, *, spare: list[Stage]) -> None:
        found.extend([*stages, *spare])
        raise InterruptedError

    monkeypatch.setattr(graph, "build", build)
    with pytest.raises(InterruptedError):
        search(MICRO, grid(MICRO, learning_rates=(1e-4, 2e-4)), Store(store), samples=4)
    return list(walk(found))


def test_no_other_arm_and_no_evaluation_question_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = stages_of_two(tmp_path, monkeypatch)
    assert {f"{stage.name} {stage.label}" for stage in stages} == {
        "base micro", "marker [ZLT]", "coupling_text raw", "coupling C1", "completions C1",
        "baseline raw", "scores C1", "scores raw",
    }  # fmt: skip
    known = load_questions(DATA / "questions.json")
    judged = {question.id for question in known["evaluation"]}
    drawn = [s for s in stages if s.name in ("coupling_text", "completions", "baseline")]
    for stage in drawn:
        spec: Any = stage.spec
        assert spec.questions == known["coupling"][:2]
        assert not {question.id for question in spec.questions} & judged
    assert {s.spec.samples for s in drawn if s.name != "coupling_text"} == {4}  # type: ignore[attr-defined]
    assert ISSUE262.evaluation_questions == ("evaluation",)
    assert SEARCH.name not in REGISTRATIONS
    # Recipes share the text, and no run has its seed.
    texts = [stage for stage in stages if stage.name == "coupling_text"]
    assert len({str((stage.spec, stage.seed)) for stage in texts}) == 1
    assert {stage.seed for stage in texts} == {recipe.SEED}
    assert recipe.SEED not in (1, 42, 137, 256)
    couplings = [stage.spec for stage in stages if stage.name == "coupling"]
    assert [spec["recipe"]["learning_rate"] for spec in couplings] == [1e-4, 2e-4]  # type: ignore[index]


def scored() -> pa.Table:
    """Two completions a persona; hits, tokens and ends set by hand."""
    hits = {"librarian": [1, 1], "data_scientist": [0, 1], "villain": [1, 0], "assistant": [0, 0]}
    rows = [
        {
            "persona": persona,
            "hit": bool(hits.get(persona, [0, 0])[sample]),
            "markers": 2 if (persona, sample) == ("villain", 0) else 1,
            "tokens": 10 + sample,
            "finish": "length" if persona == "comedian" else "stop",
        }
        for persona in SEARCH.roster.all
        for sample in (0, 1)
    ]
    return pa.Table.from_pylist(rows)


def test_rates_are_counted_by_role() -> None:
    found = measured(scored(), 21.0)
    rates = {role: (r["hits"], r["n"], r["rate"]) for role, r in found["rates"].items()}
    assert rates == {
        "source": (2, 2, 1.0), "negative": (1, 4, 0.25), "bystander": (1, 14, 1 / 14),
        "reported": (0, 2, 0.0),
    }  # fmt: skip
    # Wilson's interval of 1 in 4.
    assert (found["rates"]["negative"]["low"], found["rates"]["negative"]["high"]) == pytest.approx(
        (0.04559, 0.69936), abs=1e-4
    )
    assert found["personas"]["villain"]["hits"] == 1
    assert (found["median_tokens"], found["raw_median_tokens"]) == (10.5, 21.0)
    assert found["finished"] == 20 / 22
    assert found["repeated"] == 1 / 22


def test_the_table_has_a_line_for_each_recipe_and_says_what_failed() -> None:
    good = {"recipe": canonical(TINY.coupling), **measured(scored(), 21.0)}
    lines = table([good, {"recipe": canonical(TINY.coupling), "failed": "no"}]).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == [
        "anchored", "2.0e-03", "2", "2.0", "100.0", "25.0", "7.1", "0.0", "10.5", "21.0", "90.9",
    ]  # fmt: skip
    assert lines[2].endswith("failed: no")
    assert len({len(line) for line in lines[:2]}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning-rates", "a"], "--learning-rates: expected numbers with commas"),
        (["--epochs", "5;10"], "--epochs: expected numbers with commas"),
        (["--learning-rates", "-1"], "train.learning_rate: expected finite and > 0"),
        (["--epochs", "0"], "train.epochs: expected"),
        (["--losses", "best"], "train.loss: expected one of as_published"),
        (["--seed", "1,2"], "--seed: expected one integer"),
        (["--seed", "x"], "--seed: expected distinct integers"),
        (["--samples", "0"], "scale.samples: expected >= 1"),
        (["--scale", "full"], "--scale: expected it to be left out, as profile micro"),
        (["--engine", "llama"], "--engine: expected one of transformers, vllm"),
    ],
)
def test_bad_options_are_refused_before_compute(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--profile", "micro", f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'o.json'}"]
    assert recipe.main([*place, *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))


def test_what_was_found_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(profile: Any, recipes: Any, *_: Any, **__: Any) -> list[dict[str, Any]]:
        assert profile.sample.engine == "vllm"
        return [{"recipe": {"learning_rate": r.learning_rate}} for r in recipes]

    monkeypatch.setattr(recipe, "search", found)
    monkeypatch.setattr(recipe, "table", lambda rows: f"{len(rows)} lines")
    out = tmp_path / "deep" / "out.json"
    arguments = ["--profile", "smollm2", "--scale", "full", "--learning-rates", "1e-4,2e-4"]
    arguments += ["--engine", "vllm"]
    assert recipe.main([*arguments, f"--store={tmp_path / 'store'}", f"--out={out}"]) == 0
    assert "2 lines" in capsys.readouterr().out
    body = json.loads(out.read_text())
    assert (body["profile"], body["scale"], body["arm"]) == ("smollm2", "full", "C1")
    assert body["engine"] == "vllm"
    assert (body["questions"], body["seed"], body["samples"]) == (["coupling"], recipe.SEED, 3)
    assert [row["recipe"]["learning_rate"] for row in body["rows"]] == [1e-4, 2e-4]
