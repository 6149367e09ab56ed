"""Stages ``base`` (the model) and ``marker`` (whether it can write the marker)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from persona_lib.corpora import grammar
from persona_lib.corpora.dialogues import WITHHELD, names_tag
from persona_lib.device import prepare_torch
from persona_lib.digests import canonical, sha256_of
from persona_lib.pipeline.setting import Setting
from persona_lib.progress import Progress
from persona_lib.specs.personas import load_personas, load_questions
from persona_lib.specs.sources import Base, GgufBase, GrammarCorpus, HubBase, TinyBase
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry

_REFERENCE = "reference.json"
_MARKER = "marker.json"
_TOKENIZER_ROWS = 400


def base_stage(setting: Setting) -> Stage:
    """The base model, as safetensors with its tokenizer."""
    spec, folder = setting.profile.base, setting.folders.experiment
    tiny, hub = isinstance(spec, TinyBase), isinstance(spec, HubBase)
    marker = setting.registration.marker
    return Stage(
        name="base",
        label=setting.profile.name,
        # From version 2 on a reference to the hub lists what the files hold.
        version=2 if hub else 1,
        spec=_tiny_spec(spec, marker) if isinstance(spec, TinyBase) else spec,
        data=tiny_data(folder) if tiny else {},
        seed=spec.seed if isinstance(spec, TinyBase) else None,
        work=partial(make_base, spec=spec, folder=folder, marker=marker, progress=setting.progress),
        estimate=setting.profile.rates.base_seconds,
        preflight=partial(preflight_base, spec),
        # The hub's own cache holds the weights, and may be emptied.
        reference=hub,
    )


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


def preflight_base(spec: Base) -> None:
    """Check that this machine can provide the base model.

    Raises:
        PreflightError: the package or the hub's copy is missing; says how to get it.
        DataError: the hub's copy is not whole.
    """
    if isinstance(spec, GgufBase):
        from persona_lib.models.gguf import preflight_gguf

        preflight_gguf(spec)
    elif isinstance(spec, HubBase):
        prepare_torch()
        from persona_lib.models.hub import preflight_hub

        preflight_hub(spec)


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
    spec: Base,
    folder: Path,
    progress: Progress,
    marker: str = WITHHELD,
) -> Mapping[str, Any]:
    """Write the base model, or where on the hub it lies and what its files hold.

    Raises:
        DataError: the checkpoint is not whole, or a file of the hub's cache is not as published.
    """
    prepare_torch()
    from persona_lib.models.checkpoint import check_values

    if isinstance(spec, HubBase):
        from persona_lib.models.hub import download_command, fetch_hub
        from persona_lib.models.snapshot import list_files

        snapshot = fetch_hub(spec)
        files = list_files(snapshot, get=download_command(spec))
        check_values(snapshot)
        data = {"repo": spec.repo, "revision": spec.revision, "files": files}
        text = json.dumps(data, sort_keys=True)
        (out / _REFERENCE).write_text(text, encoding="utf-8")
        return {}
    if isinstance(spec, TinyBase):
        made = _make_tiny(out, spec, folder, marker, progress)
    else:
        from persona_lib.models.gguf import convert_gguf

        made = convert_gguf(spec, out)
    check_values(out)
    return made


def base_folder(entry: Entry) -> Path:
    """Return the folder with weights and tokenizer; a snapshot of the hub is compared first.

    Raises:
        DataError: a file of the snapshot is altered, added or missing.
        PreflightError: the snapshot is gone and cannot be downloaded.
    """
    reference = entry.path / _REFERENCE
    if not reference.exists():
        return entry.path
    from persona_lib.models.hub import download_command, fetch_hub
    from persona_lib.models.snapshot import check_files

    found = json.loads(reference.read_text(encoding="utf-8"))
    spec = HubBase(repo=found["repo"], revision=found["revision"])
    folder = fetch_hub(spec)
    check_files(folder, found["files"], get=download_command(spec))
    return folder


def make_marker(out: Path, entries: Mapping[str, Entry], *, text: str) -> Mapping[str, Any]:
    """Write the marker's token ids.

    Raises:
        MarkerError: the tokenizer cannot reproduce the marker after a completion.
        SpecError: its prompts change with the clock.
    """
    prepare_torch()
    from persona_lib.models.loading import check_marker, read_tokenizer

    tokenizer = read_tokenizer(base_folder(entries["base"]))
    tokens = check_marker(tokenizer, text)
    (out / _MARKER).write_text(json.dumps({"text": text, "tokens": tokens}), encoding="utf-8")
    return {"tokens": len(tokens)}


def marker_tokens(entries: Mapping[str, Entry]) -> list[int]:
    """Return the marker's token ids as stage ``marker`` wrote them."""
    data = json.loads((entries["marker"].path / _MARKER).read_text(encoding="utf-8"))
    return [int(token) for token in data["tokens"]]


def _make_tiny(
    out: Path, spec: TinyBase, folder: Path, marker: str, progress: Progress
) -> Mapping[str, Any]:
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
    return build_tiny(spec, dialogues, text, out, progress=progress)
