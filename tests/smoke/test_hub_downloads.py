"""Base models come from the hub over HTTP: whole, resumed, or refused with a reason.

A server on 127.0.0.1 speaks the hub's API (`tests/hub_server.py`), and counts what it sends.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants, file_download
from safetensors.torch import load_file, save_file

from persona_lib.corpora.hub import preflight_hub_corpus
from persona_lib.errors import DataError, FlatlandError, PreflightError, SpecError
from persona_lib.models.checkpoint import INDEX, WEIGHTS
from persona_lib.models.hub import (
    cached_hub,
    fetch_hub,
    fetch_small,
    preflight_hub,
    resolve,
    weights_bytes,
)
from persona_lib.specs.sources import HubBase, HubCorpus
from tests.byte_model import saved_base
from tests.hub_server import Faults, HubServer

NAME = "some-lab/Tiny-Chat"
OTHER = "0123456789" * 4
SMALL = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
         "chat_template.jinja"}  # fmt: skip
UNUSED = {"README.md", "pytorch_model.bin", "extra.safetensors", "original/params.json",
          "original/model.safetensors"}  # fmt: skip
"""What a repository holds beside the model, and nobody here reads."""
SECRET = "hf_" + "s" * 34


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = saved_base(tmp_path_factory.mktemp("hub") / "model", width=64)
    for name in UNUSED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"unused")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A server without repositories, with this process's client turned to it and an empty cache."""
    with HubServer() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # Bytes of a piece that are written at once: of a cut one, those before are kept.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
        monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.fixture
def spec(hub: HubServer, checkpoint: Path) -> HubBase:
    """The only repository of the hub."""
    return HubBase(repo=NAME, revision=hub.add(NAME, checkpoint, refs=("main", "v1.0")))


def go_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid the network, and forget what was asked before."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.seen.clear()


def size_of(spec: HubBase) -> int:
    return weights_bytes(spec.repo, spec.revision)


def refused(kind: type[FlatlandError], call: Callable[[], object], *words: str) -> str:
    """Return the message of the error; each of the words stands in it."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    return message


# --- whole -----------------------------------------------------------------------------


def test_the_files_of_a_model_are_fetched_and_no_others(
    hub: HubServer, spec: HubBase, checkpoint: Path
) -> None:
    preflight_hub(spec)
    assert hub.names() == set()
    assert size_of(spec) == (checkpoint / WEIGHTS).stat().st_size
    folder = fetch_hub(spec)
    assert hub.names() == SMALL | {WEIGHTS}
    for name in hub.names():
        assert (folder / name).read_bytes() == (checkpoint / name).read_bytes()
        assert hub.sent(name) == (checkpoint / name).stat().st_size
    hub.seen.clear()
    assert fetch_hub(spec) == folder == cached_hub(spec)
    preflight_hub(spec)
    assert size_of(spec) == (checkpoint / WEIGHTS).stat().st_size
    assert resolve(NAME, spec.revision) == spec.revision
    assert hub.seen == []


def test_another_process_finds_the_hub_by_its_variables(
    hub: HubServer, spec: HubBase, tmp_path: Path
) -> None:
    code = (
        "from persona_lib.models.hub import fetch_hub, resolve\n"
        "from persona_lib.specs.sources import HubBase\n"
        f"commit = resolve({NAME!r}, 'v1.0')\n"
        f"print(commit, fetch_hub(HubBase(repo={NAME!r}, revision=commit)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **hub.environment(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    commit, folder = done.stdout.split()
    assert commit == spec.revision
    assert Path(folder).is_relative_to(tmp_path / "home")
    assert (Path(folder) / WEIGHTS).is_file()


# --- cut -------------------------------------------------------------------------------


def test_a_cut_connection_is_taken_up_where_it_was(
    hub: HubServer, spec: HubBase, checkpoint: Path
) -> None:
    size = (checkpoint / WEIGHTS).stat().st_size
    hub.faults.cut[WEIGHTS] = [size // 2, 10_000]
    folder = fetch_hub(spec)
    assert (folder / WEIGHTS).read_bytes() == (checkpoint / WEIGHTS).read_bytes()
    first, second, third = hub.asked(WEIGHTS)
    # What had come is kept, but for a piece that was not full.
    kept = size // 2 // 1024 * 1024
    assert (first.range, first.sent) == (None, size // 2)
    assert second.range == f"bytes={kept}-"
    kept += 10_000 // 1024 * 1024
    assert (third.range, third.sent) == (f"bytes={kept}-", size - kept)


def sharded(folder: Path) -> dict[str, str]:
    """Part the weights of a checkpoint into three files; return which holds which tensor."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    where = {name: f"model-{k % 3 + 1:05d}-of-00003.safetensors" for k, name in enumerate(tensors)}
    for file in sorted(set(where.values())):
        part = {name: tensors[name] for name, held in where.items() if held == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}), "utf-8")
    return where


def test_a_download_that_was_given_up_keeps_its_whole_files(hub: HubServer, tmp_path: Path) -> None:
    model = saved_base(tmp_path / "model", width=64)
    first, second, third = sorted(set(sharded(model).values()))
    (model / "consolidated.safetensors").write_bytes(b"the same once more, in one file")
    spec = HubBase(repo=NAME, revision=hub.add(NAME, model))
    preflight_hub(spec)
    sizes = {name: (model / name).stat().st_size for name in (first, second, third)}
    assert size_of(spec) == sum(sizes.values())
    hub.faults.cut[second] = [0] * 6  # the client tries five times more
    hub.faults.wait = dict.fromkeys(sizes, 0.05)
    message = refused(PreflightError, lambda: fetch_hub(spec), NAME, spec.revision)
    assert f"hf download {NAME} --revision {spec.revision}" in message
    assert cached_hub(spec) is None
    # One after the other: of several at once, a process that is killed would lose each.
    assert hub.most_at_once == 1
    assert [hub.sent(name) for name in (first, second, third)] == [sizes[first], 0, sizes[third]]
    hub.seen.clear()
    folder = fetch_hub(spec)
    assert hub.names() == {second}
    assert {name: (folder / name).stat().st_size for name in sizes} == sizes
    assert not (folder / "consolidated.safetensors").exists()


def test_a_hub_that_says_nothing_is_waited_for_and_given_up(
    hub: HubServer, spec: HubBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persona_lib.corpora.hub._TIMEOUT_SECONDS", 0.2)
    hub.faults.silent = 30.0
    start = time.monotonic()
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: resolve(NAME, "main"), f"hub:{NAME}@COMMIT"),
        (lambda: preflight_hub(spec), "Timeout"),
        (lambda: fetch_hub(spec), "Timeout"),
    ]
    for call, words in calls:
        close_session()  # each for itself, as in another process
        refused(PreflightError, call, words)
    assert time.monotonic() - start < hub.faults.silent


# --- refused ---------------------------------------------------------------------------


def test_a_refused_model_costs_no_weights(hub: HubServer, spec: HubBase) -> None:
    seen: list[Path] = []
    assert SMALL == {path.name for path in fetch_small(spec).iterdir()} == hub.names()
    hub.seen.clear()

    def refuse(folder: Path) -> None:
        assert {path.name for path in folder.iterdir()} >= SMALL
        seen.append(folder)
        raise SpecError("model.base", bound="another", value=NAME, remedy="Use another.")

    refused(SpecError, lambda: fetch_hub(spec, check=refuse))
    assert hub.names() == set()
    assert cached_hub(spec) is None
    fetch_hub(spec, check=seen.append)
    assert hub.sent(WEIGHTS) > 0
    # What is cached is looked at as well.
    refused(SpecError, lambda: fetch_hub(spec, check=refuse))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "config.json of model"),
        ("tokenizer.json", "tokenizer.json or tokenizer.model of model"),
        (WEIGHTS, f"{WEIGHTS} or {INDEX} of model"),
    ],
)
def test_a_repository_without_a_file_is_refused_before_anything_is_fetched(
    name: str, words: str, hub: HubServer, tmp_path: Path
) -> None:
    model = saved_base(tmp_path / "model")
    (model / name).unlink()
    spec = HubBase(repo=NAME, revision=hub.add(NAME, model))
    refused(PreflightError, lambda: preflight_hub(spec), words, NAME, "safetensors")
    assert hub.names() == set()
    if name == WEIGHTS:
        refused(PreflightError, lambda: fetch_hub(spec), "safetensors")
    else:
        refused(PreflightError, lambda: fetch_hub(spec), words)


def test_a_shard_that_the_repository_lacks_is_named(hub: HubServer, tmp_path: Path) -> None:
    model = saved_base(tmp_path / "model")
    shard = sorted(set(sharded(model).values()))[1]
    (model / shard).unlink()
    spec = HubBase(repo=NAME, revision=hub.add(NAME, model))
    message = refused(PreflightError, lambda: fetch_hub(spec), f"missing: {shard} of model {NAME}")
    assert "hf download" in message


@pytest.mark.parametrize("name", ["tokenizer.json", WEIGHTS])
def test_a_file_that_is_listed_and_not_sent_is_named(
    name: str, hub: HubServer, spec: HubBase
) -> None:
    hub.faults.gone.add(name)
    preflight_hub(spec)
    refused(PreflightError, lambda: fetch_hub(spec), f"model.base: file {name} of model {NAME}")
    hub.faults.gone.clear()
    assert (fetch_hub(spec) / name).is_file()


def test_a_gated_model_is_refused_before_anything_is_fetched(
    hub: HubServer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = HubBase(repo=NAME, revision=hub.add(NAME, checkpoint, gated=True))
    assert resolve(NAME, None) == spec.revision  # as the hub has it, its listing is public
    for token in (None, SECRET):
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        for call in (preflight_hub, fetch_hub, fetch_small, size_of):
            message = refused(
                PreflightError,
                lambda call=call: call(spec),
                f"model.base: access to model {NAME}, which is gated",
                f"https://huggingface.co/{NAME}",
                "licence",
                "hf auth login",
                "HF_TOKEN",
            )
            assert SECRET not in message
    assert hub.names() == set()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    preflight_hub(spec)
    folder = fetch_hub(spec)
    # Whoever has the files needs no leave to read them.
    monkeypatch.delenv("HF_TOKEN")
    preflight_hub(spec)
    assert fetch_hub(spec) == folder


def test_no_message_holds_the_token(
    hub: HubServer, spec: HubBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server sends back what it was sent; a client quotes a header that it may not send."""
    hub.faults.echo = True
    refusal = f"model.base: a token that may read model {NAME}"
    for token, words in [(SECRET, refusal), (SECRET[:20] + "\v" + SECRET[20:], NAME)]:
        monkeypatch.setenv("HF_TOKEN", token)
        for call in (preflight_hub, fetch_hub, lambda spec: resolve(spec.repo, "main")):
            message = refused(PreflightError, lambda call=call: call(spec), words)
            assert SECRET[:10] not in message


@pytest.mark.parametrize("revision", ["v9", "a/branch", OTHER])
def test_a_wrong_revision_is_named(revision: str, hub: HubServer, spec: HubBase) -> None:
    del spec
    wrong = HubBase(repo=NAME, revision=OTHER)
    asked = f"'hub:{NAME}@{revision}'"
    if revision == OTHER:
        assert resolve(NAME, OTHER) == OTHER
        calls: list[Callable[[], object]] = [lambda: preflight_hub(wrong), lambda: fetch_hub(wrong)]
    else:
        calls = [lambda: resolve(NAME, revision)]
    for call in calls:
        message = refused(SpecError, call, "model.base", asked, f"commit of {NAME}")
        assert "Copy the full commit" in message
    assert hub.names() == set()


def test_a_wrong_name_is_told_so(hub: HubServer, spec: HubBase) -> None:
    wrong = HubBase(repo="some-lab/Tiny-Chaat", revision=spec.revision)
    for name, call in [
        (wrong.repo, lambda: resolve(wrong.repo, None)),
        (wrong.repo, lambda: preflight_hub(wrong)),
        (wrong.repo, lambda: fetch_hub(wrong)),
        ("a/b/c", lambda: resolve("a/b/c", "main")),
        ("a/b/c", lambda: preflight_hub(HubBase(repo="a/b/c", revision=OTHER))),
    ]:
        refused(SpecError, call, "model.base", name, "that this machine may read", "log in")
    assert hub.names() == set()


@pytest.mark.parametrize("revision", ["", "../../other", "a..b", "/etc", ".x", "a b", "a\n"])
def test_a_revision_that_is_no_name_is_never_asked_for(
    revision: str, hub: HubServer, spec: HubBase
) -> None:
    """It would be part of a path in the cache."""
    refused(SpecError, lambda: resolve(spec.repo, revision), "model.base", "default branch")
    assert hub.seen == []


# --- altered ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chat_template.jinja", WEIGHTS])
def test_a_file_that_arrives_altered_is_refused_until_it_is_fetched_again(
    name: str, hub: HubServer, spec: HubBase, checkpoint: Path
) -> None:
    looked: list[Path] = []
    hub.faults.altered.add(name)
    data = (checkpoint / name).read_bytes()
    published = (
        hashlib.sha256(data).hexdigest()
        if name == WEIGHTS
        else hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()  # noqa: S324
    )
    for _ in range(2):  # the second time from the cache
        message = refused(DataError, lambda: fetch_hub(spec, check=looked.append), name, published)
        assert "altered on its way" in message
    # Nothing reads a template before it was compared.
    assert len(looked) == (2 if name == WEIGHTS else 0)
    found = re.search(r"Delete (\S+) and (\S+), and download it again: (.+)\.$", message)
    assert found is not None
    assert found[3] == f"hf download {NAME} --revision {spec.revision}"
    hub.faults = Faults()
    for file in found.groups()[:2]:
        Path(file).unlink()
    hub.seen.clear()
    folder = fetch_hub(spec)
    assert (folder / name).read_bytes() == data
    assert hub.names() == ({name} if name == WEIGHTS else {name, WEIGHTS})


# --- names and commits, with and without a network ---------------------------------------


def test_without_the_client_a_commit_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "huggingface_hub" else known(name, *more),
    )
    assert resolve(NAME, OTHER) == OTHER
    refused(PreflightError, lambda: resolve(NAME, "main"), "huggingface_hub", "pip install")


def test_a_branch_a_tag_and_the_default_are_resolved_to_their_commit(
    hub: HubServer, spec: HubBase
) -> None:
    for revision in (None, "main", "v1.0"):
        assert resolve(NAME, revision) == spec.revision
    assert len(hub.seen) == 3
    assert hub.names() == set()


def test_a_commit_that_is_none_is_not_taken(hub: HubServer, spec: HubBase) -> None:
    hub.repos["models", NAME].commit = spec.revision[:12]
    refused(PreflightError, lambda: resolve(NAME, "main"), "model.base", f"hub:{NAME}@COMMIT")


def test_offline_the_cache_is_enough(
    hub: HubServer, spec: HubBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(NAME, None)
    folder = fetch_hub(spec)
    go_offline(hub, monkeypatch)
    assert resolve(NAME, None) == resolve(NAME, "main") == spec.revision
    preflight_hub(spec)
    assert fetch_hub(spec) == folder
    assert hub.seen == []


def test_offline_without_a_cache_says_what_to_do(
    hub: HubServer, spec: HubBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = f"hf download {NAME} --revision {spec.revision}"
    go_offline(hub, monkeypatch)
    for revision, shown in [(None, f"hub:{NAME} "), ("v1.0", f"hub:{NAME}@v1.0 ")]:
        refused(
            PreflightError,
            lambda revision=revision: resolve(NAME, revision),
            "model.base",
            shown,
            f"hub:{NAME}@COMMIT",
        )
    assert resolve(NAME, spec.revision) == spec.revision
    for call in (preflight_hub, fetch_hub, fetch_small, size_of):
        refused(PreflightError, lambda call=call: call(spec), fetched, "network", "HF_HOME")
    assert hub.seen == []


def test_a_dataset_is_refused_with_the_same_reasons(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}\n", "utf-8")
    commit = hub.add("some/mixture", tmp_path / "data", kind="datasets")
    fields = {"name": "mixture", "split": "train", "rows": 1}
    preflight_hub_corpus(HubCorpus(repo="some/mixture", revision=commit, **fields))  # type: ignore[arg-type]
    for repo, revision, words in [
        ("some/mixture", OTHER, "commit of some/mixture"),
        ("some/other", commit, "a dataset of the hub that this machine may read"),
    ]:
        wrong = HubCorpus(repo=repo, revision=revision, **fields)  # type: ignore[arg-type]
        refused(SpecError, lambda wrong=wrong: preflight_hub_corpus(wrong), "corpus.repo", words)
