"""The vLLM engine over an object that stands in for vLLM: what it asks for and refuses.

What vLLM itself answers is tested in tests/vllm, where it is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from persona_lib.digests import derive_seed
from persona_lib.errors import DataError, FlatlandError, PreflightError, SpecError
from persona_lib.sampling.engine import Request
from persona_lib.sampling.vllm.engine import AdapterRequest, VllmEngine, vllm_seed
from persona_lib.sampling.vllm.model import VllmModel, start_vllm
from persona_lib.sampling.vllm.setup import import_vllm, lora_options, memory_share, plain_torch
from persona_lib.specs.profile import SampleSpec
from persona_lib.store.cost import metered
from tests.byte_model import LORA, byte_tokenizer, saved_adapter, saved_base
from tests.fake_vllm import STOP_ID, FakeLlm, install

SPEC = SampleSpec(max_new_tokens=8, temperature=0.7, top_p=0.9)


def model(*names: str, merged: bool = False, positions: int = 200) -> VllmModel:
    def tensors(paths: Sequence[Path]) -> Iterator[tuple[str, Any]]:
        yield paths[0].name if paths else "base", None

    return VllmModel(
        llm=FakeLlm(),
        params=SimpleNamespace,
        tokenizer=byte_tokenizer(),
        ends=(STOP_ID,),
        positions=positions,
        dtype="float32",
        tensors=tensors if merged else None,
        stacks={name: (Path(name),) for name in names},
        loras={} if merged else {name: f"lora {name}" for name in names},
    )


def asked(*adapters: str | None, user: str = "Why?") -> list[Request]:
    return [
        AdapterRequest(system=None, user=user, seed=index, adapter=name)
        for index, name in enumerate(adapters)
    ]


def texts(engine: VllmEngine, requests: Sequence[Request], spec: SampleSpec = SPEC) -> list[str]:
    spec = replace(spec, dtype=engine._model.dtype)
    return [sampled.text for sampled in engine.sample(requests, spec)]


# --- batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
def test_a_batch_with_and_without_adapters_is_refused(merged: bool) -> None:
    host = model("C1", "C2", merged=merged)
    with pytest.raises(SpecError) as refusal:
        VllmEngine(host).sample(asked("C1", None, "C2"), SPEC)
    assert refusal.value.field == "requests of one batch"
    assert refusal.value.bound == "all with an adapter, or all without"
    assert refusal.value.value == "2 with an adapter, 1 without"
    assert "batch of its own" in refusal.value.remedy
    assert not host.llm.calls, "nothing may be sampled before the refusal"


def test_plain_requests_count_with_the_engines_own_adapter() -> None:
    plain = Request(system=None, user="Who?", seed=9)
    host = model("C1", "C2")
    assert texts(VllmEngine(host, "C2"), [plain, *asked("C1")]) == ["lora C2/base", "lora C1/base"]
    with pytest.raises(SpecError, match="requests of one batch"):
        VllmEngine(host).sample([plain, *asked("C1")], SPEC)
    with pytest.raises(SpecError, match="requests of one batch"):
        VllmEngine(host, "C2").sample([plain, *asked(None)], SPEC)


def test_stacks_share_one_batch_and_the_base_has_no_adapter_at_all() -> None:
    host = model("C1", "C2")
    found = texts(VllmEngine(host), asked("C2", "C1", "C2"))
    assert found == ["lora C2/base", "lora C1/base", "lora C2/base"]
    assert texts(VllmEngine(host), asked(None, None)) == ["-/base", "-/base"]
    assert [call.loras for call in host.llm.calls] == [["lora C2", "lora C1", "lora C2"], None]


def test_merged_weights_are_those_of_each_requests_stack_in_the_order_of_the_requests() -> None:
    host = model("C1", "C2", merged=True)
    engine = VllmEngine(host)
    assert texts(engine, asked(None)) == ["-/base"]
    assert host.llm.events == ["generate"], "the base's own weights are there already"
    assert texts(engine, asked("C2", "C1", "C2")) == ["-/C2", "-/C1", "-/C2"]
    assert texts(engine, asked("C1")) == ["-/C1"]
    assert texts(engine, asked(None)) == ["-/base"]
    change = ["reload_weights", "reset_prefix_cache"]
    assert host.llm.events == [
        "generate", *change, "generate", *change, "generate", "generate", *change, "generate",
    ]  # fmt: skip
    assert all(call.loras is None for call in host.llm.calls)


def test_weights_of_unknown_state_are_put_in_place_again() -> None:
    host = model("C1", merged=True)
    host.llm.cleared = False
    with pytest.raises(FlatlandError, match="prefix cache"):
        VllmEngine(host).sample(asked("C1"), SPEC)
    host.llm.cleared = True
    # Half of the weights might be C1's: the base must be read again, too.
    assert texts(VllmEngine(host), asked(None)) == ["-/base"]
    assert host.llm.events.count("reload_weights") == 2


# --- what is asked of vLLM ------------------------------------------------------------


def test_what_is_asked_of_vllm() -> None:
    host = model()
    requests = [Request(system="You are kind.", user="Why?", seed=s) for s in (5, 2**62 + 1)]
    VllmEngine(host).sample(requests, SPEC)
    (call,) = host.llm.calls
    prompt = byte_tokenizer().decode(call.prompts[0]["prompt_token_ids"])
    assert "You are kind." in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    assert [p.seed for p in call.params] == [5, 2**62 + 1]
    for params in call.params:
        assert (params.temperature, params.top_p, params.max_tokens, params.n) == (0.7, 0.9, 8, 1)
        assert (params.ignore_eos, params.stop_token_ids) == (True, [STOP_ID])
    VllmEngine(host, greedy=True).sample(requests, SPEC)
    assert {(p.temperature, p.top_p) for p in host.llm.calls[1].params} == {(0.0, 1.0)}


def test_both_finish_reasons_and_token_counts() -> None:
    host = model()
    with metered() as cost:
        (ended,) = VllmEngine(host).sample(asked(None), SPEC)
        host.llm.ends = False
        (cut,) = VllmEngine(host).sample(asked(None), SPEC)
    assert (ended.text, ended.tokens, ended.finish) == ("-/base", 6, "stop")
    assert (cut.text, cut.tokens, cut.finish) == ("-/base", 6, "length")
    assert (cost.tokens, cost.engine_starts) == (12, 0)
    assert VllmEngine(host).sample([], SPEC) == []
    assert len(host.llm.calls) == 2


# --- seeds ----------------------------------------------------------------------------


def test_seeds_keep_their_bits_and_are_folded_into_what_vllm_takes() -> None:
    assert vllm_seed(derive_seed(42, "a")) == derive_seed(42, "a")
    assert vllm_seed(-1) == 2**63 - 1, "-1 would stand for no seed"
    assert vllm_seed(2**64 + 3) == 3


def test_requests_that_would_draw_the_same_are_refused() -> None:
    engine = VllmEngine(model("C1", "C2"))
    twice = [Request(system=None, user="Why?", seed=s) for s in (7, 7 + 2**63)]
    with pytest.raises(SpecError, match=r"request\.seed.*7, 2 times"):
        engine.sample(twice, SPEC)
    apart = [
        AdapterRequest(system=None, user="Why?", seed=7, adapter="C1"),
        AdapterRequest(system=None, user="Why?", seed=7, adapter="C2"),
        AdapterRequest(system=None, user="Who?", seed=7, adapter="C2"),
    ]
    assert len(engine.sample(apart, SPEC)) == 3


# --- what else is refused ---------------------------------------------------------------


def test_unknown_stacks_other_dtypes_and_long_prompts_are_refused() -> None:
    with pytest.raises(SpecError, match=r"adapter: expected one of C1, got 'C9'"):
        VllmEngine(model("C1"), "C9")
    with pytest.raises(SpecError, match="no stack was loaded"):
        VllmEngine(model(), "em")
    with pytest.raises(SpecError, match="no stack was loaded"):
        VllmEngine(model()).sample(asked("C1"), SPEC)
    with pytest.raises(SpecError, match=r"sample\.dtype: expected float32"):
        VllmEngine(model()).sample(asked(None), SampleSpec(max_new_tokens=8, dtype="bfloat16"))
    host = model()
    VllmEngine(host).sample(asked(None), SPEC)
    length = len(host.llm.calls[0].prompts[0]["prompt_token_ids"])
    exact = SampleSpec(max_new_tokens=200 - length)
    assert VllmEngine(model()).sample(asked(None), exact)
    with pytest.raises(DataError, match=rf"<= {200 - length} \(positions 200"):
        VllmEngine(model()).sample(asked(None), SampleSpec(max_new_tokens=201 - length))


@pytest.mark.parametrize(
    ("ranks", "slots", "rank"),
    [([10], 2, 16), ([64, 64, 64, 64], 5, 64), ([65, 8], 3, 128), ([512], 2, 512)],
)
def test_one_slot_stays_empty_and_every_rank_has_room(
    ranks: list[int], slots: int, rank: int
) -> None:
    found = lora_options(ranks)
    assert found.pop("enable_lora") is True
    assert found == {"max_loras": slots, "max_cpu_loras": slots, "max_lora_rank": rank}
    assert lora_options([]) == {}
    with pytest.raises(SpecError, match=r"rank of a stack: expected <= 512, got 513"):
        lora_options([*ranks, 513])


# --- without vLLM, and starting it ------------------------------------------------------


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(PreflightError, match=r"extra gpu.*make test-vllm"):
        import_vllm()


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [("TRITON_F32_DEFAULT", "ieee", "tf32x3"), ("VLLM_USE_FLASHINFER_SAMPLER", "0", "1")],
)
def test_float32_is_multiplied_exactly_and_seeds_are_kept_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, name: str, ours: str, theirs: str
) -> None:
    install(monkeypatch, cpu=False)
    monkeypatch.setenv(name, theirs)
    import_vllm()
    assert os.environ[name] == theirs
    monkeypatch.delenv(name)
    import_vllm()
    assert os.environ[name] == ours


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return saved_base(tmp_path / "base")


def begin(checkpoint: Path, **more: Any) -> VllmModel:
    return start_vllm(checkpoint, {}, dtype="float32", positions=64, rows=4, **more)


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    return [saved_adapter(tmp_path / f"a{number}", number) for number in range(4)]


ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]


def test_on_a_gpu_each_stack_is_one_adapter(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = install(monkeypatch, cpu=False)
    prior, coupling = saved_adapter(tmp_path / "1", 1), saved_adapter(tmp_path / "2", 2)
    stacks = {"em": [prior], "C2": [prior, coupling]}
    started = start_vllm(checkpoint, stacks, dtype="bfloat16", positions=64, rows=4)
    assert (options[0]["max_loras"], options[0]["max_lora_rank"]) == (3, 8)
    assert started.tensors is None
    loras = list(started.loras.values())
    assert [(lora.lora_name, lora.lora_int_id) for lora in loras] == [("em", 1), ("C2", 2)]
    assert [lora.files for lora in loras] == [ADAPTER, ADAPTER]
    written = Path(started.loras["C2"].lora_path)
    assert written.exists()
    started.close()
    assert not written.exists()
    assert options.engines[0].events == ["shutdown"]


@pytest.mark.parametrize("cpu", [True, False])
def test_on_a_cpu_and_in_float32_weights_are_merged_and_nothing_is_written(
    cpu: bool, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = install(monkeypatch, cpu=cpu)
    prior = saved_adapter(tmp_path / "1", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    started = start_vllm(checkpoint, {"em": [prior]}, dtype="float32", positions=64, rows=4)
    assert "enable_lora" not in options[0]
    assert not started.loras
    assert started.tensors is not None
    name = "model.layers.0.self_attn.q_proj.weight"
    base, em = dict(started.tensors([])), dict(started.tensors(started.stacks["em"]))
    assert (em[name] - base[name]).abs().max() > 1e-2
    started.close()


def test_vllms_kernels_are_not_given_float32_adapters_on_a_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = install(monkeypatch, cpu=False)
    with pytest.raises(SpecError, match="merge: expected True for float32 on a GPU"):
        begin(checkpoint, merge=False)
    assert not options
    install(monkeypatch, cpu=True)
    assert begin(checkpoint, merge=False).tensors is None


@pytest.mark.parametrize("cpu", [True, False])
def test_vllm_is_not_compiled_and_leaves_room_for_training(
    cpu: bool, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = install(monkeypatch, cpu=cpu)
    threads, setter = torch.get_num_threads(), torch.set_num_threads
    begin(checkpoint)
    monkeypatch.setenv("FLATLAND_VLLM_MEMORY", " 0.5 ")
    begin(checkpoint)
    asked_for = [(o["enforce_eager"], o["gpu_memory_utilization"]) for o in options]
    assert asked_for == [(True, 0.35), (True, 0.5)]
    assert [o.get("enable_chunked_prefill") for o in options] == [False if cpu else None] * 2
    assert torch.set_num_threads is setter
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, AssertionError])
def test_what_vllm_says_when_it_does_not_start_is_said_with_the_remedy(
    kind: type[Exception], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = install(monkeypatch, cpu=True)
    options.failure = kind("Free memory on device is less than desired")
    setter = torch.set_num_threads
    with pytest.raises(FlatlandError, match=r"Free memory.*FLATLAND_VLLM_MEMORY.*\(0\.35 now"):
        begin(checkpoint)
    assert torch.set_num_threads is setter


@pytest.mark.parametrize("mode", [(True, False), (True, True), (False, False)])
def test_torch_is_as_it_was_after_vllm(mode: tuple[bool, bool]) -> None:
    """Its threads, which vLLM forbids to set, and its determinism, which vLLM does without."""
    threads, setter = torch.get_num_threads(), torch.set_num_threads
    torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])
    try:
        with plain_torch():
            assert not torch.are_deterministic_algorithms_enabled()
            torch.set_num_threads(threads + 1)
            torch.set_num_threads = lambda _: None
        assert torch.set_num_threads is setter
        assert torch.get_num_threads() == threads
        found = torch.are_deterministic_algorithms_enabled()
        assert (found, torch.is_deterministic_algorithms_warn_only_enabled()) == mode
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("cpu", [True, False])
def test_vllm_starts_and_samples_in_plain_torch(
    cpu: bool, checkpoint: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stand-in refuses any other."""
    install(monkeypatch, cpu=cpu)
    stacks = {"em": adapters[:1]}
    torch.use_deterministic_algorithms(True)
    try:
        host = start_vllm(checkpoint, stacks, dtype="bfloat16", positions=200, rows=4)
        assert len(texts(VllmEngine(host, "em"), asked("em"))) == 1
        assert torch.are_deterministic_algorithms_enabled()
        host.close()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("text", ["0", "1", "-0.1", "nan", "half", "35%"])
def test_a_share_of_memory_that_is_none_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATLAND_VLLM_MEMORY", text)
    with pytest.raises(SpecError, match=r"FLATLAND_VLLM_MEMORY: expected between 0 and 1") as error:
        memory_share()
    assert "unset it for 0.35" in error.value.remedy
    monkeypatch.setenv("FLATLAND_VLLM_MEMORY", " ")
    assert memory_share() == 0.35


# --- stacks that come later -----------------------------------------------------------


Start = Callable[..., tuple[VllmModel, FakeLlm]]


@pytest.fixture
def start(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start an engine without stacks, with room for some; it is closed in the end."""
    made: list[VllmModel] = []

    def starts(*, cpu: bool = False, **room: int) -> tuple[VllmModel, FakeLlm]:
        started = install(monkeypatch, cpu=cpu)
        dtype = "float32" if cpu else "bfloat16"
        options: dict[str, Any] = {"dtype": dtype, "positions": 200, "rows": 4, **room}
        made.append(start_vllm(checkpoint, {}, **options))
        return made[-1], started.engines[0]

    yield starts
    for host in made:
        host.close()


def test_the_spare_slot_stays_empty_however_many_stacks_come(
    start: Start, adapters: list[Path]
) -> None:
    host, llm = start(later=2, rank=8)
    for name, paths in (("a", adapters[:1]), ("b", adapters[1:2]), ("a", adapters[:1])):
        host.add(name, paths)
    with pytest.raises(SpecError, match="a name of its own for every stack"):
        host.add("a", adapters[1:2])
    gone = Path(host.loras["b"].lora_path)
    host.add("c", adapters[2:3])
    assert (llm.removed, list(host.stacks), list(host.loras)) == ([2], ["a", "c"], ["a", "c"])
    assert not gone.exists()
    with pytest.raises(SpecError, match=r"adapter: expected one of a, c, got 'b'"):
        VllmEngine(host).sample(asked("b"), replace(SPEC, dtype="bfloat16"))
    host.add("b", adapters[1:2])
    assert texts(VllmEngine(host), asked("b", "c")) == ["4/base", "3/base"], "no number twice"
    assert llm.removed == [2, 1]
    assert len(list(gone.parent.iterdir())) == host.slots == 2


@pytest.mark.parametrize(
    ("room", "most"), [({}, 0), ({"later": 2, "rank": 8}, 8), ({"later": 1, "rank": 9}, 16)]
)
def test_a_stack_without_room_is_refused_and_nothing_is_dropped(
    room: dict[str, int], most: int, start: Start, tmp_path: Path
) -> None:
    host, llm = start(**room)
    if room:
        host.add("small", [saved_adapter(tmp_path / "small", 1)])
    large = saved_adapter(tmp_path / "large", 2, replace(LORA, rank=17))
    with pytest.raises(SpecError, match=rf"rank of a stack: expected <= {most}, .*got 17"):
        host.add("large", [large])
    assert list(host.stacks) == (["small"] if room else [])
    assert not llm.removed


def test_where_weights_are_merged_any_number_of_stacks_is_added(
    start: Start, adapters: list[Path], tmp_path: Path
) -> None:
    host, llm = start(cpu=True)
    found = set()
    for number, path in enumerate(adapters):
        host.add(str(number), [path])
        found.update(texts(VllmEngine(host, str(number)), asked(str(number))))
    assert len(found) == 4
    assert found.isdisjoint(texts(VllmEngine(host), asked(None)))
    other = saved_adapter(tmp_path / "wide", 5, width=64)
    with pytest.raises(DataError, match="in the checkpoint"):
        host.add("wide", [other])
    assert "wide" not in host.stacks
    assert not llm.removed
