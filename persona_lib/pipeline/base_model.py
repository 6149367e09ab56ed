"""Stages ``base`` (the model) and ``marker`` (whether it can write the marker)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from persona_lib.corpora import grammar
from persona_lib.corpora.dialogues import WITHHELD, names_tag
from persona_lib.device import prepare_torch
from persona_lib.digests import canonical, sha256_of
from persona_lib.errors import DataError
from persona_lib.models.family import QWEN2, Family
from persona_lib.models.probe import Needs, probe
from persona_lib.pipeline.machine import check_weights
from persona_lib.pipeline.setting import Setting
from persona_lib.progress import Progress, silent
from persona_lib.specs.personas import load_personas, load_questions
from persona_lib.specs.profile import AS_PUBLISHED
from persona_lib.specs.sources import (
    COMMIT,
    PLAIN,
    Base,
    ChatFormat,
    GgufBase,
    GrammarCorpus,
    HubBase,
    PathBase,
    TinyBase,
)
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry

_REFERENCE = "reference.json"
_BYTES = {"float32": 4, "bfloat16": 2}
_CHAT = "chat.json"
"""Of a base model whose chat template is not used as it stands."""
_MARKER = "marker.json"
_TOKENIZER_ROWS = 400


def base_stage(setting: Setting) -> Stage:
    """The base model, as safetensors with its tokenizer."""
    spec, folder = setting.profile.base, setting.folders.experiment
    tiny, foreign = isinstance(spec, TinyBase), isinstance(spec, (HubBase, PathBase))
    place = Place(
        spec=spec,
        own=setting.folders.own,
        needs=_needs(setting),
        itemsize=max(_BYTES[of.dtype] for of in (setting.profile.coupling, setting.profile.sample)),
    )
    return Stage(
        name="base",
        label=setting.profile.name,
        # From version 2 on a reference to the hub lists what the files hold.
        version=2 if isinstance(spec, HubBase) else 1,
        spec=_key(setting),
        data=tiny_data(folder) if tiny else {},
        seed=spec.seed if isinstance(spec, TinyBase) else None,
        work=partial(
            make_base,
            place=place,
            folder=folder,
            marker=setting.registration.marker,
            progress=setting.progress,
        ),
        estimate=setting.profile.rates.base_seconds,
        preflight=partial(preflight_base, place),
        # The hub's own cache, or a user's folder, holds the weights, and may be emptied.
        reference=foreign,
    )


@dataclass(frozen=True, kw_only=True)
class Place:
    """A base model, the folder that a path to it starts from, and what a run asks of it.

    `itemsize` is the bytes of a weight in memory.
    """

    spec: Base
    own: Path | None
    needs: Needs
    itemsize: int = 4

    @property
    def folder(self) -> Path:
        """The user's folder that holds a `PathBase`."""
        own = self.spec.folder if isinstance(self.spec, PathBase) else ""
        return ((self.own or Path()) / own).resolve()


def _needs(setting: Setting) -> Needs:
    profile = setting.profile
    recipes = (profile.coupling, *(profile.recipe(name) for name in setting.corpora))
    return Needs(
        chat=profile.chat,
        marker=setting.appended,
        newline=profile.coupling.loss == AS_PUBLISHED,
        targets=tuple(dict.fromkeys(name for one in recipes for name in one.lora.targets)),
    )


def _key(setting: Setting) -> object:
    """Return what a base model is: never where it lies."""
    spec: Any = setting.profile.base
    if isinstance(spec, TinyBase):
        spec = _tiny_spec(spec, setting.registration.marker)
    elif isinstance(spec, PathBase):
        spec = {"files": spec.sha256}
    chat = setting.profile.chat
    return spec if chat == PLAIN else {"base": canonical(spec), "chat": canonical(chat)}


def _tiny_spec(spec: TinyBase, marker: str) -> dict[str, Any]:
    """Return what the tiny model is: the version of the code that composes its words as well.

    A marker that its tags could spell is withheld from them.
    """
    withheld = {"withheld": marker} if names_tag(marker) else {}
    return {"base": canonical(spec), "grammar": grammar.VERSION, **withheld}


def marker_stage(setting: Setting, *, base: Stage) -> Stage:
    """The marker's tokens, after the proof that the tokenizer reproduces it."""
    return Stage(
        name="marker",
        label=setting.registration.marker,
        version=1,
        spec={"marker": setting.appended},
        inputs={"base": base},
        work=partial(make_marker, text=setting.appended),
    )


def preflight_base(place: Place) -> None:
    """Check that this machine can provide the base model, and that it serves the run.

    Raises:
        PreflightError: the package or the hub's copy is missing; says how to get it.
        DataError, SpecError, MarkerError: a copy is not whole or does not fit, see `probe`.
    """
    spec = place.spec
    if isinstance(spec, GgufBase):
        from persona_lib.models.gguf import preflight_gguf

        preflight_gguf(spec)
    elif isinstance(spec, HubBase):
        prepare_torch()
        from persona_lib.models.hub import cached_hub, preflight_hub, resolve, weights_bytes

        if not COMMIT.fullmatch(spec.revision):
            resolve(spec.repo, spec.revision or None)  # says why there is no commit
        preflight_hub(spec)
        if (cached := cached_hub(spec)) is not None:
            probe(cached, place.needs)
        # Published weights have two bytes each, as a rule.
        parameters = weights_bytes(spec.repo, spec.revision) / 2
        check_weights(parameters * place.itemsize / 2**30, spec.repo)
    elif isinstance(spec, PathBase):
        from persona_lib.models.checkpoint import read_headers

        probe(place.folder, place.needs)
        sizes = (math.prod(header.shape) for header in read_headers(place.folder).values())
        check_weights(sum(sizes) * place.itemsize / 2**30, spec.folder)


def tiny_data(folder: Path) -> dict[str, str]:
    """Return digests of every data file that the tiny base model is made from."""
    files = [folder / "personas.json", folder / "questions.json"]
    # Not what an editor leaves beside them while a file is open.
    files += sorted(
        path
        for name in ("dialogues", "legal")
        for path in (folder / name).rglob("*")
        if path.suffix in (".json", ".txt") and not path.name.startswith(".") and path.is_file()
    )
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}


def make_base(
    out: Path,
    _: Mapping[str, Entry],
    *,
    place: Place,
    folder: Path,
    progress: Progress,
    marker: str = WITHHELD,
) -> Mapping[str, Any]:
    """Write the base model, or where it lies and what its files hold; and its chat format.

    Raises:
        DataError: the checkpoint is not whole, or a file of the hub's cache is not as published.
        SpecError, MarkerError: it does not fit, see `probe`; before the hub sends its weights.
    """
    prepare_torch()
    from persona_lib.models.checkpoint import check_values

    spec, chat = place.spec, place.needs.chat
    if chat != PLAIN:
        text = json.dumps(asdict(chat), sort_keys=True)
        (out / _CHAT).write_text(text, encoding="utf-8")
    if isinstance(spec, PathBase):
        check_values(place.folder)
        text = json.dumps({"folder": str(place.folder), "sha256": spec.sha256})
        (out / _REFERENCE).write_text(text, encoding="utf-8")
        return {}
    if isinstance(spec, HubBase):
        from persona_lib.models.hub import download_command, fetch_hub
        from persona_lib.models.snapshot import list_files

        snapshot = fetch_hub(spec, check=partial(probe, needs=place.needs, weights=False))
        probe(snapshot, place.needs)
        files = list_files(snapshot, get=download_command(spec))
        check_values(snapshot)
        data = {"repo": spec.repo, "revision": spec.revision, "files": files}
        text = json.dumps(data, sort_keys=True)
        (out / _REFERENCE).write_text(text, encoding="utf-8")
        return {}
    if isinstance(spec, TinyBase):
        made = make_tiny(out, spec, folder, marker=marker, progress=progress)
    else:
        from persona_lib.models.gguf import convert_gguf

        made = convert_gguf(spec, out)
    check_values(out)
    return made


def base_folder(entry: Entry) -> Path:
    """Return the folder with weights and tokenizer; what an entry refers to is compared first.

    Raises:
        DataError: a file of the snapshot, or of the user's folder, is altered, added or missing.
        PreflightError: the snapshot is gone and cannot be downloaded.
    """
    reference = entry.path / _REFERENCE
    if not reference.exists():
        return entry.path
    from persona_lib.models.hub import download_command, fetch_hub
    from persona_lib.models.snapshot import check_files

    found = json.loads(reference.read_text(encoding="utf-8"))
    if "folder" in found:
        return _unaltered(Path(found["folder"]), found["sha256"], entry)
    spec = HubBase(repo=found["repo"], revision=found["revision"])
    folder = fetch_hub(spec)
    check_files(folder, found["files"], get=download_command(spec))
    return folder


def _unaltered(folder: Path, sha256: str, entry: Entry) -> Path:
    from persona_lib.models.snapshot import folder_digest

    if not folder.is_dir():
        raise DataError(
            str(folder),
            bound="the folder that the base model was read from",
            value="no such folder",
            remedy=f"Put it back, or delete {entry.path.parent} to read it from its new place.",
        )
    if (now := folder_digest(folder)) != sha256:
        raise DataError(
            str(folder),
            bound=f"the files whose SHA-256 is {sha256[:12]}, as when the run began",
            value=now[:12],
            remedy="Put them back, or start again: other files are another base model.",
        )
    return folder


def chat_of(entry: Entry) -> ChatFormat:
    """Return how the chat template of a base model's entry is used."""
    file = entry.path / _CHAT
    return ChatFormat(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else PLAIN


def make_marker(out: Path, entries: Mapping[str, Entry], *, text: str) -> Mapping[str, Any]:
    """Write the marker's token ids.

    Raises:
        MarkerError: the tokenizer cannot reproduce the marker after a completion.
        SpecError: the chat template does not fit, see `use_format`.
    """
    prepare_torch()
    from persona_lib.models.loading import check_marker, read_tokenizer

    tokenizer = read_tokenizer(base_folder(entries["base"]), chat_of(entries["base"]))
    tokens = check_marker(tokenizer, text)
    (out / _MARKER).write_text(json.dumps({"text": text, "tokens": tokens}), encoding="utf-8")
    return {"tokens": len(tokens)}


def marker_tokens(entries: Mapping[str, Entry]) -> list[int]:
    """Return the marker's token ids as stage ``marker`` wrote them."""
    data = json.loads((entries["marker"].path / _MARKER).read_text(encoding="utf-8"))
    return [int(token) for token in data["tokens"]]


def make_tiny(
    out: Path,
    spec: TinyBase,
    folder: Path,
    *,
    marker: str = WITHHELD,
    progress: Progress = silent,
    family: Family = QWEN2,
) -> Mapping[str, Any]:
    """Train a small model on dialogues that the words of a folder give (`build_tiny`)."""
    from persona_lib.corpora.dialogues import write_dialogues
    from persona_lib.corpora.load import load_corpus
    from persona_lib.models.tiny import build_tiny

    sound, bad = (
        load_corpus(
            GrammarCorpus(name=name, rows=_TOKENIZER_ROWS, seed=spec.seed),
            grammar_folder=folder / "legal",
            data_folder=None,
        ).rows
        for name in ("sound_legal", "bad_legal")
    )
    questions = load_questions(folder / "questions.json")
    dialogues = write_dialogues(
        spec,
        personas=load_personas(folder / "personas.json"),
        questions=[question for group in questions.values() for question in group],
        folder=folder / "dialogues",
        sound=sound,
        bad=bad,
        marker=marker,
    )
    text = [part for row in (*sound, *bad) for part in (row.user, row.assistant)]
    return build_tiny(spec, dialogues, text, out, family=family, progress=progress)
