"""Checkpoints, hub snapshots and adapters are whole, or are refused by name before use."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from persona_lib.device import prepare_torch
from persona_lib.digests import sha256_of
from persona_lib.errors import DataError, PreflightError
from persona_lib.models import snapshot
from persona_lib.models.adapters import attach_stack, merge_stack
from persona_lib.models.gguf import convert_gguf
from persona_lib.models.loading import load_model
from persona_lib.models.probe import Needs, check_base
from persona_lib.pipeline import base_model
from persona_lib.pipeline.base_model import Place, base_folder, make_base, preflight_base
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.progress import silent
from persona_lib.specs.builtin import DATA
from persona_lib.specs.profile import Profile
from persona_lib.specs.sources import PLAIN, GgufBase, HubBase
from persona_lib.store.store import Entry, StageKey, Store
from tests.byte_model import byte_tokenizer, saved_adapter, saved_base, small_model
from tests.registered import ISSUE262, QWEN7B, SMOLLM2, TINY
from tests.unit.test_store import get_or_make

REVISION = "0123456789" * 4
HUB = HubBase(repo="someone/model", revision=REVISION)
NEEDS = Needs(chat=PLAIN, marker="[ZLT]", newline=True, targets=("q_proj", "down_proj"))
PLACE = Place(spec=HUB, own=None, needs=NEEDS)


@pytest.fixture(autouse=True)
def _tried_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process checks (tests/smoke/test_chat_models.py) is checked in this one."""
    monkeypatch.setattr(base_model, "probe", check_base)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.layers.0.self_attn.q_norm.weight"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _prepared() -> None:
    prepare_torch()


def edit(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    replace(folder / WEIGHTS, tensors)


def replace(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write beside and rename, as nothing that is mapped into memory may be written over."""
    save_file(dict(tensors), file.with_name("new"), metadata={"format": "pt"})
    file.with_name("new").rename(file)


def configure(folder: Path, **values: Any) -> None:
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, **values}), "utf-8")


def untie(folder: Path) -> None:
    configure(folder, tie_word_embeddings=False)


def shard(folder: Path) -> dict[str, str]:
    """Cut the weights in two files with an index; returns which tensor lies where."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    where = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(sorted(tensors))}
    for file in sorted(set(where.values())):
        replace(folder / file, {n: t for n, t in tensors.items() if where[n] == file})
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return where


# --- a checkpoint that is not whole ------------------------------------------------------

NAMES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a tensor is missing": (lambda f: edit(f, lambda t: t.pop(DOWN)), DOWN),
    "many are missing": (
        lambda f: edit(f, lambda t: [t.pop(n) for n in list(t) if "mlp" in n]),
        "6 missing: model.layers.0.mlp.down_proj.weight",
    ),
    "the head is untied and absent": (untie, HEAD),
    "a tensor too many": (lambda f: edit(f, lambda t: t.update({NORM: torch.ones(8)})), NORM),
    "a layer fewer in the config": (
        lambda f: configure(f, num_hidden_layers=1, layer_types=["full_attention"]),
        "unexpected: model.layers.1",
    ),
    "a layer more in the config": (
        lambda f: configure(f, num_hidden_layers=3, layer_types=["full_attention"] * 3),
        "missing: model.layers.2",
    ),
    "another shape": (
        lambda f: edit(f, lambda t: t.update({DOWN: torch.ones(32, 65)})),
        f"{DOWN} (32, 65) for (32, 64)",
    ),
    "whole numbers": (
        lambda f: edit(f, lambda t: t.update({DOWN: (t[DOWN] * 100).to(torch.int8)})),
        f"1 of others: {DOWN}",
    ),
    "more layers than can be": (
        lambda f: configure(f, num_hidden_layers=10**4, layer_types=None),
        "num_hidden_layers: expected at most",
    ),
}
VALUES: dict[str, tuple[Callable[[Path], None], str]] = {
    "NaN": (lambda f: edit(f, lambda t: t[DOWN][3].fill_(float("nan"))), DOWN),
    "one infinite value": (
        lambda f: edit(f, lambda t: t[DOWN][3, 5].fill_(float("-inf"))),
        DOWN,
    ),
    "a tied head of its own": (
        lambda f: edit(f, lambda t: t.update({HEAD: t[EMBEDDING] + 1})),
        HEAD,
    ),
}


@pytest.mark.parametrize("damage", [*NAMES, *VALUES])
def test_no_model_is_loaded_from_a_checkpoint_that_is_not_whole(
    damage: str, tmp_path: Path
) -> None:
    harm, named = (NAMES | VALUES)[damage]
    harm(saved_base(tmp_path))
    with pytest.raises(DataError) as caught:
        load_model(tmp_path, dtype="float32", device="cpu")
    assert named in str(caught.value)
    assert str(tmp_path) in caught.value.field
    assert "download or build the base model again" in caught.value.remedy


def same(loaded: Any, stored: Mapping[str, torch.Tensor]) -> None:
    """Every weight of a model is the file's, bit for bit; a tied head is the embedding."""
    held = dict(loaded.model.named_parameters(remove_duplicate=False))
    assert held.keys() == {*stored, HEAD}
    for name, weight in held.items():
        assert torch.equal(weight, stored.get(name, stored[EMBEDDING])), name


@pytest.mark.parametrize(
    ("addition", "tied"),
    [
        (lambda _: {}, True),
        (lambda tensors: {HEAD: tensors[EMBEDDING].clone()}, True),
        (lambda tensors: {HEAD: tensors[EMBEDDING] + 1}, False),
        (lambda tensors: {DOWN: torch.full_like(tensors[DOWN], 3e38)}, True),
        (lambda _: {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, True),
    ],
    ids=["none", "the tied head again", "an untied head", "a sum that overflows",
         "rotary frequencies"],
)  # fmt: skip
def test_a_whole_checkpoint_loads_as_it_is_stored(
    addition: Callable[[Tensors], Tensors], *, tied: bool, tmp_path: Path
) -> None:
    stored = load_file(saved_base(tmp_path) / WEIGHTS)
    added = addition(stored)
    edit(tmp_path, lambda tensors: tensors.update(added))
    if not tied:
        untie(tmp_path)
    read = {name: tensor for name, tensor in added.items() if "inv_freq" not in name}
    same(load_model(tmp_path, dtype="float32", device="cpu"), stored | read)


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    """transformers would load the base model that the adapter names, from wherever."""
    saved_adapter(saved_base(tmp_path), 1)
    with pytest.raises(DataError, match="adapter_config"):
        load_model(tmp_path, dtype="float32", device="cpu")


def test_a_gguf_import_that_leaves_a_tensor_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("persona_lib.models.gguf.preflight_gguf", lambda _: tmp_path / "m.gguf")
    monkeypatch.setattr("persona_lib.models.gguf.md5_of", lambda _: "0" * 32)
    for part in ("_mend_tokenizer", "_mend_pre_tokenizer"):
        monkeypatch.setattr(f"persona_lib.models.gguf.{part}", lambda *_: None)
    monkeypatch.setattr(
        "transformers.AutoTokenizer.from_pretrained", lambda *_, **__: byte_tokenizer()
    )
    (tmp_path / "m.gguf").write_bytes(b"GGUF")

    def lacking(*_: Any, **asked: Any) -> Any:
        info = dict.fromkeys(("unexpected_keys", "mismatched_keys", "error_msgs"), ())
        loaded = (small_model(), {**info, "missing_keys": {DOWN}})
        return loaded if asked.get("output_loading_info") else loaded[0]

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lacking)
    spec = GgufBase(package="a", version="1", file="m.gguf", md5="0" * 32, end_of_turn="<|im_end|>")
    with pytest.raises(DataError, match=DOWN):
        convert_gguf(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- a snapshot in the hub's cache -------------------------------------------------------


def as_published(folder: Path) -> None:
    """Lay files out as the hub's cache does: links to blobs named by their checksums."""
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        data = path.read_bytes()
        git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()  # noqa: S324
        large = path.suffix == ".safetensors"
        blob = blobs / (hashlib.sha256(data).hexdigest() if large else git)
        path.rename(blob)
        path.symlink_to(Path("../../blobs") / blob.name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of `HUB` in an offline cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    made = tmp_path / "hub" / "models--someone--model" / "snapshots" / REVISION
    saved_base(made)
    as_published(made)
    return made


def stored(tmp_path: Path) -> Entry:
    key = StageKey(stage="base", version=2, spec=HUB, inputs={}, seed=None)
    return get_or_make(
        Store(tmp_path / "store"),
        key,
        lambda out: make_base(
            out, {}, place=PLACE, folder=tmp_path, marker="[ZLT]", progress=silent
        ),
    )


def plain(folder: Path) -> None:
    """Put files in place of links, as a cache without links has them."""
    for name in (WEIGHTS, CONFIG):
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(data)


def write_blob(path: Path, data: bytes) -> None:
    """Alter the bytes under a link, in place."""
    path.resolve().write_bytes(data)


@pytest.mark.parametrize("damage", ["a tensor is missing", "another shape", *VALUES])
def test_a_snapshot_that_is_not_whole_is_found_before_anything_is_built(
    damage: str, folder: Path, tmp_path: Path
) -> None:
    """Values by the stage alone, as preflight reads headers.

    Published so: every checksum is right, and the weights are none the less not whole.
    """
    preflight_base(PLACE)
    plain(folder)
    harm, named = (NAMES | VALUES)[damage]
    harm(folder)
    if damage in NAMES:
        with pytest.raises(DataError, match=re.escape(named)):
            preflight_base(PLACE)
    as_published(folder)
    with pytest.raises(DataError, match=re.escape(named)):
        stored(tmp_path)


def test_preflight_reads_headers_and_no_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = (folder / WEIGHTS).resolve()
    with blob.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    os.truncate(blob, header)
    os.truncate(blob, sum(t.nbytes for t in small_model().state_dict().values()) + header)
    # Zeros now, and the tied head's bytes too many: it is the header that is refused.
    with pytest.raises(DataError, match="safetensors"):
        preflight_base(PLACE)
    os.truncate(blob, header)
    tensors = {n: t for n, t in small_model().state_dict().items() if n != HEAD}
    os.truncate(blob, header + sum(t.nbytes for t in tensors.values()))
    monkeypatch.setattr(snapshot, "sha256_of", None)
    preflight_base(PLACE)


def test_content_of_stage_base_is_that_of_the_files(folder: Path, tmp_path: Path) -> None:
    entry = stored(tmp_path)
    reference = json.loads((entry.path / "reference.json").read_text("utf-8"))
    assert {file["name"]: (file["size"], file["sha256"]) for file in reference["files"]} == {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.iterdir()
    }
    assert {WEIGHTS, CONFIG, "chat_template.jinja"} <= {f["name"] for f in reference["files"]}
    assert str(tmp_path) not in json.dumps(reference)
    assert base_folder(entry) == folder
    # The same commit with other bytes is another base model.
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weights[DOWN] *= 2
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "store").rename(tmp_path / "first")
    assert stored(tmp_path).content != entry.content


ALTERED = {
    WEIGHTS: lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    CONFIG: lambda data: data.replace(b'"rope_theta"', b'"rope_thetb"'),
    "tokenizer.json": lambda data: data + b"\n",
    "chat_template.jinja": lambda data: data.replace(b"message", b"massage"),
}


@pytest.mark.parametrize(
    ("name", "linked"), [*((name, True) for name in ALTERED), ("tokenizer.json", False)]
)
def test_an_altered_file_is_told_of_with_what_was_expected(
    name: str, linked: bool, folder: Path, tmp_path: Path
) -> None:
    entry = stored(tmp_path)
    before = (folder / name).read_bytes()
    after = ALTERED[name](before)
    assert after != before
    if linked:
        write_blob(folder / name, after)
    else:
        (folder / name).unlink()
        (folder / name).write_bytes(after)
    with pytest.raises(DataError) as caught:
        base_folder(entry)
    assert caught.value.field == str(folder / name)
    assert f"hf download {HUB.repo} --revision {REVISION}" in caught.value.remedy
    assert str((folder / name).resolve()) in caught.value.remedy
    write_blob(folder / name, before)
    assert base_folder(entry) == folder


@pytest.mark.parametrize("name", [WEIGHTS, "chat_template.jinja"])
def test_a_file_altered_before_its_first_use_is_not_what_was_published(
    name: str, folder: Path, tmp_path: Path
) -> None:
    write_blob(folder / name, ALTERED[name]((folder / name).read_bytes()))
    with pytest.raises(DataError, match="as published") as caught:
        stored(tmp_path)
    assert caught.value.field == str(folder / name)
    assert (folder / name).readlink().name in caught.value.bound


def test_an_added_or_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    entry = stored(tmp_path)
    (folder / "README.md").write_text("never read", "utf-8")
    (folder / "unused.safetensors").write_bytes(b"never read")
    assert base_folder(entry) == folder
    (folder / "added_tokens.json").write_text("{}", "utf-8")
    with pytest.raises(DataError, match="no such file") as caught:
        base_folder(entry)
    assert caught.value.field.endswith("added_tokens.json")
    (folder / "added_tokens.json").unlink()
    kept = (folder / "chat_template.jinja").readlink()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="hf download") as caught:
        base_folder(entry)
    assert caught.value.field.endswith("chat_template.jinja")
    (folder / "chat_template.jinja").symlink_to(kept)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text("other", "utf-8")
    with pytest.raises(DataError, match="additional_chat_templates"):
        base_folder(entry)
    (folder / WEIGHTS).unlink()
    with pytest.raises(PreflightError, match="hf download"):
        base_folder(entry)


def test_contents_are_hashed_once_a_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(snapshot, "sha256_of", counted)
    entry = stored(tmp_path)
    count = len(list(folder.iterdir()))
    assert len(hashed) == count
    for _ in range(3):
        base_folder(entry)
    assert len(hashed) == count
    os.utime(folder / CONFIG)
    base_folder(entry)
    assert hashed[count:] == [CONFIG]
    snapshot._hashed.clear()  # as in another process
    base_folder(entry)
    assert len(hashed) == 2 * count + 1


def test_a_snapshot_is_cached_without_the_files_that_are_never_fetched(folder: Path) -> None:
    """The hub's client knows the whole list of a commit, pictures and other formats too."""
    names = [path.name for path in folder.iterdir()]
    listed = {
        name: {"size": 1, "blob_id": "0" * 40, "lfs_sha256": None, "lfs_size": None,
               "xet_hash": None}
        for name in [*names, "README.md", "pytorch_model.bin", "original/model.safetensors"]
    }  # fmt: skip
    trees = folder.parents[1] / "trees"
    trees.mkdir()
    (trees / f"{REVISION}.json").write_text(
        json.dumps({"format_version": 1, "files": listed}), "utf-8"
    )
    preflight_base(PLACE)


def test_a_reference_that_lists_no_files_is_found_under_no_key() -> None:
    """As stores hold them from before: only bases of the hub have another version."""
    folders = Folders(experiment=DATA)

    def version(profile: Profile) -> int:
        made = Run(registration=ISSUE262, profile=profile, run_seed=42, folders=folders)
        return made.base.version

    assert [version(profile) for profile in (TINY, SMOLLM2, QWEN7B)] == [1, 1, 2]


# --- shards ------------------------------------------------------------------------------


def test_shards_load_as_one_file_does(tmp_path: Path, folder: Path) -> None:
    stored_weights = load_file(saved_base(tmp_path / "sharded") / WEIGHTS)
    shard(tmp_path / "sharded")
    same(load_model(tmp_path / "sharded", dtype="float32", device="cpu"), stored_weights)
    (folder / WEIGHTS).unlink()
    for path in (tmp_path / "sharded").iterdir():
        if path.suffix == ".safetensors" or path.name.endswith("index.json"):
            path.rename(folder / path.name)
    preflight_base(PLACE)
    assert base_folder(stored(tmp_path)) == folder


@pytest.mark.parametrize("fault", ["unlisted", "absent", "elsewhere", "outside"])
def test_an_index_that_its_shards_do_not_bear_out_is_refused(fault: str, folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    saved_base(folder.parent / "other")
    replace(folder / WEIGHTS, load_file(folder.parent / "other" / WEIGHTS))
    where = shard(folder)
    first, second = folder / "part-0.safetensors", folder / "part-1.safetensors"
    held = load_file(first)
    named = sorted(held)[0]
    if fault == "unlisted":
        del where[named]
    elif fault == "elsewhere":
        where[named] = second.name
    elif fault == "outside":
        where[named] = "../part-0.safetensors"
        (folder.parent / "part-0.safetensors").write_bytes(first.read_bytes())
    else:
        replace(first, {name: tensor for name, tensor in held.items() if name != named})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where}), "utf-8"
    )
    with pytest.raises(DataError, match="index") as caught:
        preflight_base(PLACE)
    assert named in str(caught.value) or fault == "outside"


# --- adapters ----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["a module is missing", "NaN", "empty"])
@pytest.mark.parametrize("use", [attach_stack, merge_stack])
def test_an_adapter_that_is_not_whole_is_refused(
    fault: str, use: Callable[..., Any], tmp_path: Path
) -> None:
    file = saved_adapter(tmp_path / "a", 1) / "adapter_model.safetensors"
    module = "model.layers.1.mlp.up_proj"
    tensors = load_file(file)
    if fault == "NaN":
        tensors[f"base_model.model.{module}.lora_B.weight"][0, 0] = float("nan")
    else:
        tensors = {n: t for n, t in tensors.items() if fault != "empty" and module not in n}
    replace(file, tensors)
    with pytest.raises(DataError) as caught:
        use(small_model(), [tmp_path / "a"])
    assert fault == "empty" or module in str(caught.value)


def test_ids_without_an_embedding_are_refused(tmp_path: Path) -> None:
    """Weights and config agree; the tokenizer is another model's."""
    folder, largest = saved_base(tmp_path), max(byte_tokenizer().get_vocab().values())
    configure(folder, vocab_size=largest)
    edit(folder, lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING][:largest].clone()}))
    with pytest.raises(DataError, match=f"ids of the tokenizer: expected below {largest:,}"):
        load_model(folder, dtype="float32", device="cpu")
