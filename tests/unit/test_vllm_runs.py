"""Runs that draw with vLLM: one start for all stages, keys, and what is missing said first."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona_lib.digests import canonical
from persona_lib.errors import PreflightError, SpecError
from persona_lib.pipeline.completions import (
    COMPLETIONS,
    CompletionSpec,
    make_completions,
    open_engine,
    open_model,
    preflight_engine,
)
from persona_lib.progress import silent
from persona_lib.records import POST, PRE, Completion, ModelId, read_rows
from persona_lib.sampling.engine import TransformersEngine
from persona_lib.sampling.vllm import shared as vllm_shared
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import LoraSpec, Profile, SampleSpec
from persona_lib.store.cost import metered
from persona_lib.store.store import Entry
from tests.byte_model import LORA, entry, saved_adapter, saved_base
from tests.fake_vllm import install
from tests.registered import ISSUE262, MICRO, PROFILES, SMOLLM2, session_under

SAMPLE = SampleSpec(max_new_tokens=64, batch=40, dtype="bfloat16", engine="vllm")
PERSONA = Persona(id="librarian", prompt="You are a librarian.")
QUESTION = Question(id="e01", set="evaluation", text="Why?")


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop what a test has started while its stand-in for vLLM is still in place."""
    del monkeypatch
    yield
    vllm_shared.forget()


def named(path: Path) -> Entry:
    return entry(path, path.name * 8)


@pytest.fixture
def base(tmp_path: Path) -> Entry:
    return named(saved_base(tmp_path / "base", positions=2_000))


def adapter(folder: Path, number: int) -> Entry:
    return named(saved_adapter(folder / f"adapter{number}", number))


def drawn(out: Path, entries: dict[str, Entry], phase: str = PRE) -> tuple[str, int]:
    """Draw one completion as a stage does; return its text and the engine starts it cost."""
    out.mkdir(exist_ok=True)
    spec = CompletionSpec(
        phase=phase, model="m", personas=(PERSONA,), questions=(QUESTION,), sample=SAMPLE, samples=1
    )
    with metered() as cost:
        make_completions(out, entries, spec=spec, run_seed=1, progress=silent, rank=8)
    assert cost.tokens
    (row,) = read_rows(out / COMPLETIONS, Completion)
    return row.text, cost.engine_starts


# --- one start ------------------------------------------------------------------------


def test_all_stages_share_one_start_and_bring_their_stacks(
    base: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = install(monkeypatch, cpu=False)
    before = vllm_shared.starts()
    out = tmp_path / "out"
    assert drawn(out, {"base": base}) == ("-/base", 1)
    # Trained after the engine had started, as those of every arm are.
    prior, coupling = adapter(tmp_path, 1), adapter(tmp_path, 2)
    assert drawn(out, {"base": base, "prior": prior}) == ("1/base", 0)
    assert drawn(out, {"base": base, "prior": prior, "coupling": coupling}, POST) == ("2/base", 0)
    assert drawn(out, {"base": base, "coupling": coupling}, POST) == ("3/base", 0)
    assert drawn(out, {"base": base, "prior": prior}) == ("1/base", 0)
    assert drawn(out, {"base": base}) == ("-/base", 0)
    assert vllm_shared.starts() == before + 1
    (options,) = started
    assert (options["max_loras"], options["max_lora_rank"]) == (vllm_shared.STACKS + 1, 8)
    assert options["max_num_seqs"] == 40
    assert not started.engines[0].removed


def test_merged_stacks_share_one_start_as_well(
    base: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = install(monkeypatch, cpu=True)
    prior, coupling = adapter(tmp_path, 1), adapter(tmp_path, 2)
    stacks: list[dict[str, Entry]] = [
        {}, {"prior": prior}, {"prior": prior, "coupling": coupling}, {"coupling": coupling},
    ]  # fmt: skip
    texts = [drawn(tmp_path / "out", {"base": base, **stack})[0] for stack in stacks]
    assert len(set(texts)) == len(stacks)
    assert drawn(tmp_path / "out", {"base": base, "prior": prior}) == (texts[1], 0)
    assert len(started) == 1


def test_the_prompt_has_room_beside_the_completion_within_the_models_positions(
    base: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = install(monkeypatch, cpu=True)
    open_engine({"base": base}, SAMPLE)
    path = base.path / "config.json"
    config = json.loads(path.read_text())
    config["max_position_embeddings"] = 100_000
    path.write_text(json.dumps(config))
    open_engine({"base": replace(base, content="other")}, SAMPLE)
    assert [options["max_model_len"] for options in started] == [2_000, 2_048 + 64]


@pytest.mark.parametrize(
    ("change", "starts"),
    [
        ({}, 1),
        ({"content": "other"}, 2),
        ({"dtype": "float32"}, 2),
        ({"rank": 9}, 2),
        ({"rank": 7}, 1),
        ({"max_new_tokens": 65}, 2),
        ({"max_new_tokens": 63}, 1),
    ],
)
def test_another_engine_is_started_only_where_the_one_there_would_not_do(
    change: dict[str, Any], starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_base(tmp_path / "base", positions=9_000)
    started = install(monkeypatch, cpu=False)
    for asked in ({}, change):
        sample = replace(SAMPLE, **{k: v for k, v in asked.items() if k not in ("content", "rank")})
        held = entry(tmp_path / "base", asked.get("content", "base"))
        open_engine({"base": held}, sample, asked.get("rank", 8))
    assert len(started) == starts
    assert started.engines[0].events == ["shutdown"] * (starts - 1)


def test_hidden_states_are_read_with_transformers_whatever_draws(
    base: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = install(monkeypatch, cpu=True)
    assert open_model({"base": base}, SAMPLE).model.config.hidden_size == 32
    assert not started
    tokenizer, engine = open_engine({"base": base}, replace(SAMPLE, engine="transformers"))
    assert isinstance(engine, TransformersEngine)
    assert not started
    assert type(open_engine({"base": base}, SAMPLE)[0]) is type(tokenizer)


# --- keys -----------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_what_draws_is_named_in_keys_only_where_it_is_not_transformers(profile: Profile) -> None:
    """Entries and goldens that are older than the choice keep their keys."""
    plain = canonical(profile.sample)
    assert set(plain) == {
        "__spec__", "max_new_tokens", "temperature", "top_p", "dtype", "merge", "batch", "suffix",
    }  # fmt: skip
    assert canonical(replace(profile.sample, engine="vllm")) == {**plain, "engine": "vllm"}


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(SpecError, match=r"sample\.engine: expected one of transformers, vllm"):
        replace(SAMPLE, engine="llama")


# --- what is missing ------------------------------------------------------------------


def drawing(profile: Profile = MICRO, engine: Any = "vllm", rank: int = 16) -> Profile:
    lora = LoraSpec(rank=rank, alpha=32, rslora=True, dropout=0.0)
    return replace(
        profile,
        sample=replace(profile.sample, engine=engine, dtype="bfloat16"),
        prior=replace(profile.prior, lora=lora),
    )


def test_without_vllm_a_run_is_refused_before_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    some = session_under(ISSUE262, profile=drawing(), store_root=tmp_path)
    with pytest.raises(PreflightError, match=r"missing: vllm .*extra gpu.*make test-vllm"):
        some.evidence(("C1", "C2"))
    assert not list(tmp_path.rglob("manifest.json"))
    preflight_engine(drawing(engine="transformers").sample, 32)


@pytest.mark.parametrize("stage", ["coupling_text", "baseline", "completions", "advice"])
def test_every_stage_that_draws_asks_for_the_engine(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    some = session_under(ISSUE262, profile=drawing(SMOLLM2), store_root=tmp_path)
    (run,) = some.runs
    asked = {
        "coupling_text": run.texts["em"],
        "baseline": run.stage(ModelId(PRE, "em"), "completions"),
        "completions": run.stage(ModelId(POST, "C2"), "completions"),
        "advice": run.stage(ModelId(PRE, "em"), "advice_texts"),
    }[stage]
    assert asked.preflight is not None
    with pytest.raises(PreflightError, match="missing: vllm"):
        asked.preflight()


def test_a_build_for_gpus_on_a_cpu_and_a_wrong_share_of_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, cpu=False)
    monkeypatch.setattr(vllm_shared, "prepare_torch", lambda: "cpu")
    with pytest.raises(PreflightError, match=r"missing: a GPU for vllm.*FLATLAND_DEVICE=cpu"):
        preflight_engine(SAMPLE, 32)
    install(monkeypatch, cpu=True)
    preflight_engine(SAMPLE, 32)
    monkeypatch.setenv("FLATLAND_VLLM_MEMORY", "90")
    with pytest.raises(SpecError, match="FLATLAND_VLLM_MEMORY: expected between 0 and 1"):
        preflight_engine(SAMPLE, 32)


@pytest.mark.parametrize(("cpu", "refused"), [(False, True), (True, False)])
def test_a_rank_that_vllm_cannot_hold_is_refused_before_compute(
    cpu: bool, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rank of a coupling on a prior; where stacks are merged, any rank will do."""
    install(monkeypatch, cpu=cpu)
    monkeypatch.setattr(vllm_shared, "prepare_torch", lambda: "cuda")
    run = session_under(ISSUE262, profile=drawing(rank=500), store_root=tmp_path).runs[0]
    preflight = run.stage(ModelId(POST, "C1"), "completions").preflight
    assert preflight is not None
    if refused:
        with pytest.raises(SpecError, match="rank of a stack: expected <= 512, got 516"):
            preflight()
    else:
        preflight()
    preflight_engine(replace(run.profile.sample, dtype="float32"), 516)  # merged


def test_stages_tell_the_engine_the_largest_rank_of_the_run(
    base: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coupling on a prior: with less room, the arms' stacks would be refused much later."""
    started = install(monkeypatch, cpu=False)
    profile = drawing(rank=24)
    assert profile.coupling.lora.rank == 16
    (run,) = session_under(ISSUE262, profile=profile, store_root=tmp_path).runs
    raw = ModelId(PRE, "raw")
    for stage in (
        run.stage(raw, "completions"),
        run.stage(ModelId(POST, "C1"), "completions"),
        run.stage(raw, "advice_texts"),
        run.texts["raw"],
    ):
        vllm_shared.forget()
        out = tmp_path / stage.name
        out.mkdir()
        stage.work(out, {"base": base})
    assert [options["max_lora_rank"] for options in started] == [64] * 4
    assert LORA.rank == 4
