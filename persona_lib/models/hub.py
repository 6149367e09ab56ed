"""Base models from the hub, pinned to one commit; only safetensors, JSON, tokenizer files."""

from __future__ import annotations

from pathlib import Path

from persona_lib.corpora.hub import absent, check_reached
from persona_lib.corpora.hub import download_command as command_of
from persona_lib.errors import PreflightError, SpecError
from persona_lib.models.checkpoint import INDEX, WEIGHTS, check_names, weight_files
from persona_lib.models.snapshot import ALLOWED_FILES, IGNORED_FILES, Signature, signature
from persona_lib.specs.sources import COMMIT, HubBase

_ONE_OF_EACH = (("config.json",), ("tokenizer.json", "tokenizer.model"), (WEIGHTS, INDEX))
"""Files without which a snapshot is not complete, each with what may stand in its place."""
_whole: set[tuple[Path, Signature]] = set()
"""Snapshots whose names and shapes this process has checked."""


def check_revision(spec: HubBase) -> None:
    """Raise SpecError where a revision is no commit of 40 digits: branches and tags move."""
    if not COMMIT.fullmatch(spec.revision):
        raise SpecError(
            "base.revision",
            bound="a commit, 40 hexadecimal digits",
            value=spec.revision,
            remedy=f"Copy the full commit from the file history of {spec.repo}.",
        )


def cached_hub(spec: HubBase) -> Path | None:
    """Return the snapshot folder if every file is on this machine, otherwise None.

    Raises:
        SpecError: see `check_revision`.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    check_revision(spec)
    try:
        path = _snapshot(spec, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return path if is_complete(path) else None


def preflight_hub(spec: HubBase) -> None:
    """Check that the model is whole on this machine, or that its commit can be reached.

    Nothing is downloaded; of cached weights the headers alone are read.

    Raises:
        SpecError: see `check_revision`.
        DataError: it is cached and not whole, see `check_names`.
        PreflightError: it is neither cached nor reachable.
    """
    cached = cached_hub(spec)
    if cached is not None:
        # Taken first, so that a file that changes meanwhile is looked at again.
        mark = (cached, signature(cached))
        if mark not in _whole:
            check_names(cached)
            _whole.add(mark)
        return
    check_reached(spec.repo, spec.revision, kind="model")


def fetch_hub(spec: HubBase) -> Path:
    """Return the folder of the pinned snapshot, downloading what is not cached.

    Raises:
        SpecError: see `check_revision`.
        PreflightError: the download failed, or the repository has no safetensors.
    """
    path = cached_hub(spec)
    if path is None:
        try:
            path = _snapshot(spec, local_files_only=False)
        except Exception as error:  # see check_reached
            raise absent(spec.repo, spec.revision, "model", error) from error
    if not is_complete(path):
        raise PreflightError(
            f"config, tokenizer and safetensors weights of {spec.repo} at {spec.revision}",
            remedy=f"If the download is not complete, run: {download_command(spec)}. Otherwise use "
            "a repository that holds its weights as safetensors in its top folder.",
        )
    return path


def _snapshot(spec: HubBase, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            spec.repo,
            revision=spec.revision,
            local_files_only=local_files_only,
            # Files that are never fetched do not make a snapshot incomplete.
            allow_patterns=list(ALLOWED_FILES),
            ignore_patterns=list(IGNORED_FILES),
        )
    )


def download_command(spec: HubBase) -> str:
    """Return the command that downloads the pinned snapshot."""
    return command_of(spec.repo, spec.revision, kind="model")


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a config, a tokenizer and all shards of the weights.

    Raises:
        DataError: the index of the shards is none.
    """
    for names in _ONE_OF_EACH:
        if not any((folder / name).is_file() for name in names):
            return False
    return all(path.is_file() for path in weight_files(folder))
