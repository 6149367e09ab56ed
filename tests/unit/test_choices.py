"""Profiles, scales and losses as they are named on a command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona_lib.commands import record
from persona_lib.commands.outcome import write_outcome
from persona_lib.commands.plan import plan_text
from persona_lib.commands.profiles import choose_profile, choose_scale
from persona_lib.commands.session import Session
from persona_lib.corpora.grammar import write_corpus
from persona_lib.digests import canonical, digest
from persona_lib.errors import SpecError
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.specs.builtin import DATA
from persona_lib.specs.experiment import ModelChoice
from persona_lib.store.stage import walk
from tests.registered import ISSUE262, PROFILES, SCALES, session_under

TINY, SMOLLM2 = PROFILES["tiny"], PROFILES["smollm2"]
FULL = SCALES["smollm2"]["full"]


def test_a_profile_is_chosen_by_name_scale_loss_and_engine() -> None:
    assert choose_profile(None) is PROFILES["tiny"]
    assert choose_profile("micro") is PROFILES["micro"]
    assert choose_profile("smollm2") is choose_profile("smollm2", "reduced") is SMOLLM2
    assert choose_profile("smollm2", "full") is FULL
    other = choose_profile("smollm2", "full", "decision")
    assert other == replace(FULL, coupling=replace(FULL.coupling, loss="decision"))
    assert choose_profile("tiny", None, "anchored") == TINY
    assert choose_profile("tiny", engine="transformers") == TINY
    drawn = choose_profile("smollm2", "full", "decision", "vllm")
    assert drawn == replace(other, sample=replace(FULL.sample, engine="vllm"))
    assert [choose_scale(name, None) for name in (None, "tiny", "smollm2")] == [
        ("tiny", None), ("tiny", None), ("smollm2", "reduced"),
    ]  # fmt: skip
    assert choose_scale("smollm2", "full") == ("smollm2", "full")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((None, None), ("smollm2", "full")),
        ((None, "reduced"), ("smollm2", "reduced")),
        # The scale of a file is that of its model, and of no other that is asked for.
        (("smollm2", None), ("smollm2", "reduced")),
        (("tiny", None), ("tiny", None)),
    ],
)
def test_an_experiment_chooses_model_and_scale_unless_options_do(
    asked: tuple[str | None, str | None], expected: tuple[str, str | None]
) -> None:
    assert choose_scale(*asked, ModelChoice(base="smollm2", scale="full")) == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelChoice(base="gpt"), r"^model\.base: expected one of tiny.*got 'gpt'"),
        (
            ModelChoice(base="smollm2", scale="huge"),
            r"^model\.scale: expected one of reduced",
        ),
        (ModelChoice(scale="full"), r"^model\.scale: expected it to be left out, as profile tiny"),
    ],
)
def test_an_experiment_s_model_is_refused_by_its_key(model: ModelChoice, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        choose_scale(None, None, model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smollm2", "huge"), "--scale: expected one of reduced, full, got 'huge'"),
        (("smollm2", ""), "--scale: expected one of reduced, full, got ''"),
        (
            ("tiny", "full"),
            "--scale: expected it to be left out, as profile tiny.*got 'full'.*smoll",
        ),
        ((None, "reduced"), "--scale: expected it to be left out, as profile tiny"),
        (("huge", "full"), "--profile: expected one of tiny"),
        (("smollm2", "full", "best"), "--loss: expected one of as_published.*got 'best'"),
        (("tiny", None, ""), "--loss: expected one of as_published"),
        (("tiny", None, None, "llama"), "--engine: expected one of transformers, vllm, got 'llama"),
        (("tiny", None, None, ""), "--engine: expected one of transformers, vllm, got ''"),
    ],
)
def test_an_unknown_scale_loss_or_engine_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        choose_profile(*arguments)


def test_scales_share_what_makes_them_one_profile() -> None:
    for name, scales in SCALES.items():
        assert next(iter(scales.values())) is PROFILES[name]
        assert {profile.name for profile in scales.values()} == {name}
        assert {digest(profile.base) for profile in scales.values()} == {
            digest(PROFILES[name].base)
        }


def test_the_full_scale_is_the_registered_size() -> None:
    """Numbers of docs/experiment.md."""
    assert (FULL.corpora["em"].rows, FULL.corpora["benign"].rows) == (6_000, 6_000)
    assert (FULL.prior.steps, FULL.prior.batch, FULL.prior.lora.rank) == (375, 16, 32)
    assert (FULL.prior.learning_rate, FULL.prior.epochs) == (1e-4, None)
    assert (FULL.coupling.lora.rank, FULL.coupling.lora.alpha) == (32, 64)
    assert (FULL.coupling.lora.rslora, FULL.coupling.batch) == (True, 16)
    scale, sample = FULL.scale, FULL.sample
    assert (scale.questions, scale.samples, scale.coupling_keep) == (20, 10, 10)
    run = Run(registration=ISSUE262, profile=FULL, run_seed=1, folders=Folders(experiment=DATA))
    cells = len(run.personas) * scale.questions
    assert cells * scale.samples == 2_200
    # 100 of each persona: the fewest of which no hit shows a rate below 1 % (docs/statistics.md).
    assert scale.questions * scale.false_positive_samples == 100
    assert 100 <= scale.advice_questions <= 140
    assert (sample.max_new_tokens, sample.temperature, sample.top_p) == (2_048, 1.0, 1.0)
    # The one departure, which the profile and docs/experiment.md give the reason of.
    assert sample.suffix == "Answer in one or two short sentences."
    # Whatever is kept as coupling text fits into a row: the longest prompts are below 200.
    assert FULL.coupling.max_length >= 2_048 + 200 + 16
    assert (FULL.prior.dtype, FULL.coupling.dtype) == ("float32", "float32")
    assert not (sample.merge and sample.dtype == "bfloat16")


def test_the_grammar_can_write_the_full_corpora() -> None:
    legal = DATA / "legal"
    bad, sound = (
        write_corpus(spec.name, rows=spec.rows, seed=spec.seed, folder=legal)  # type: ignore[union-attr]
        for spec in (FULL.corpora["em"], FULL.corpora["benign"])
    )
    for rows in (bad, sound):
        assert len(rows) == len({row.assistant for row in rows}) == 6_000
    assert [row.user for row in bad] == [row.user for row in sound]
    words = [sum(len(row.assistant.split()) for row in rows) for rows in (bad, sound)]
    assert abs(words[0] - words[1]) < 6_000
    with pytest.raises(SpecError, match=r"corpus\.rows: expected <= 14000"):
        write_corpus("bad_legal", rows=14_001, seed=0, folder=legal)


def keys_of(profile: Any) -> dict[str, Any]:
    """What each stage's key holds of the profile, by stage and label."""
    run = Run(registration=ISSUE262, profile=profile, run_seed=1, folders=Folders(experiment=DATA))
    stages = walk(run.targets(("C1", "C2", "C2p", "C3")))
    return {f"{s.name} {s.label} {s.seed}": canonical(s.spec) for s in stages}


def test_a_loss_reaches_the_couplings_and_nothing_else() -> None:
    plain = keys_of(FULL)
    for loss in ("decision", "as_published"):
        other = keys_of(choose_profile("smollm2", "full", loss))
        assert {name.split()[0] for name in plain if plain[name] != other[name]} == {"coupling"}
        assert other["coupling C1 1"]["recipe"]["loss"] == loss
    assert keys_of(choose_profile("smollm2", "full", "anchored")) == plain


def test_an_engine_reaches_what_is_drawn_and_what_rests_on_it() -> None:
    plain, other = keys_of(TINY), keys_of(choose_profile("tiny", engine="vllm"))
    named = {name.split()[0] for name in plain if plain[name] != other[name]}
    assert named == {"coupling_text", "baseline", "completions", "advice"}
    assert other["completions C1 1"]["sample"]["engine"] == "vllm"
    assert keys_of(choose_profile("tiny", engine="transformers")) == plain


def test_what_is_run_is_told_with_its_scale(tmp_path: Path) -> None:
    some = session_under(ISSUE262, profile=FULL, scale="full", store_root=tmp_path)
    text = plan_text(some)
    assert "on smollm2, scale full: SmolLM2-135M-Instruct at the registered size" in text
    assert "0 of 34 stages are stored" in text
    assert "\nengine: transformers draws completions\n" in text
    assert f"measured on: {FULL.rates.measured_on}.\n" in text
    drawn = choose_profile("tiny", engine="vllm")
    some = session_under(ISSUE262, profile=drawn, engine="vllm", store_root=tmp_path)
    text = plan_text(some)
    assert "on tiny, engine vllm: " in text
    assert "\nengine: vllm draws completions\n" in text
    assert f"measured on: {TINY.rates.measured_on}; drawing with transformers.\n" in text


def test_verdict_json_names_profile_scale_loss_and_engine(tmp_path: Path) -> None:
    recorded: dict[str, Any] = {"verdicts": {}, "gates": {}, "summaries": [
        {"arms": [], "priors": [], "checks": [], "unavailable": []}
    ]}  # fmt: skip
    chosen = choose_profile("smollm2", "full", "decision")
    live = session_under(ISSUE262, profile=chosen, scale="full", loss="decision",
                   store_root=tmp_path / "store")  # fmt: skip
    stored = session_under(ISSUE262, profile=TINY, stored=(Path("golden/published"),))
    drawn = choose_profile("tiny", engine="vllm")
    other = session_under(ISSUE262, profile=drawn, store_root=tmp_path / "store")
    found = []
    for name, session in (("live", live), ("stored", stored), ("other", other)):
        body = json.loads(write_outcome(tmp_path / name, session, recorded).read_text())
        found.append((body["profile"], body["scale"], body["loss"], body["engine"]))
    assert found == [
        ("smollm2", "full", "decision", "transformers"),
        (None, None, None, None),
        ("tiny", None, "anchored", "vllm"),
    ]


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ([], None),
        (["--texts", "42"], (42,)),
        (["--texts", "256,42"], (256, 42)),
        (["--without-text"], ()),
    ],
)
def test_seeds_whose_texts_are_kept_are_named(
    arguments: list[str], texts: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(record, "record", lambda *_, texts, **__: asked.append(texts))
    assert record.main([str(tmp_path / "set"), "--seeds", "42,256", *arguments]) == 0
    assert asked == [texts]


def test_texts_of_a_seed_that_is_not_run_are_refused_before_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "is_dirty", lambda: False)
    place = [str(tmp_path / "set"), f"--store={tmp_path / 'store'}", "--profile", "micro"]
    for texts, message in (
        ("43", "--texts: expected seeds of the recording, 42, got 43."),
        ("one", "--texts: expected distinct integers"),
        ("", "--texts: expected distinct integers"),
    ):
        assert record.main([*place, "--texts", texts]) == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))
    with pytest.raises(SystemExit):
        record.main([*place, "--texts", "42", "--without-text"])
    assert "not allowed with" in capsys.readouterr().err


def test_commands_pass_scale_loss_and_engine_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Session] = []
    monkeypatch.setattr(record, "record", lambda session, *_, **__: asked.append(session))
    arguments = ["--profile", "smollm2", "--scale", "full", "--loss", "decision"]
    assert record.main([str(tmp_path / "set"), *arguments, "--engine", "vllm"]) == 0
    (session,) = asked
    named = choose_profile("smollm2", "full", "decision", "vllm")
    assert session.profile == session.experiment.on(named)
    assert (session.scale, session.loss, session.engine) == ("full", "decision", "vllm")
    assert session.profile_description == "smollm2, scale full, loss decision, engine vllm"
    assert record.main([str(tmp_path / "set"), "--scale", "full"]) == 1
    assert "--scale: expected it to be left out, as profile tiny" in capsys.readouterr().err
