"""Base models from the hub, pinned to one commit; only safetensors, JSON, tokenizer files."""

from __future__ import annotations

import glob
import importlib.util
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from persona_lib.corpora.hub import absent, check_reached, client
from persona_lib.corpora.hub import download_command as command_of
from persona_lib.errors import PreflightError, SpecError
from persona_lib.models.checkpoint import INDEX, WEIGHTS, check_names, weight_files
from persona_lib.models.snapshot import (
    IGNORED_FILES,
    SMALL_FILES,
    Signature,
    check_small,
    list_files,
    signature,
)
from persona_lib.specs.sources import COMMIT, HubBase

_ONE_OF_EACH = (("config.json",), ("tokenizer.json", "tokenizer.model"), (WEIGHTS, INDEX))
"""Files without which a snapshot is not complete, each with what may stand in its place."""
_REF = re.compile(r"\w(?:[\w/+-]|\.(?!\.))*")
_FIELD = "model.base"
_whole: set[tuple[Path, Signature]] = set()
"""Snapshots whose names and shapes this process has checked."""


def resolve(repo: str, revision: str | None) -> str:
    """Return the commit, 40 hexadecimal digits, that a branch or tag of a model stands for.

    None is the default branch. A commit is returned as it is, and no hub is asked. If the hub
    cannot be reached, the commit is the one that its cache on this machine has for that name.

    Raises:
        SpecError: the hub has no such model, or the model no such revision.
        PreflightError: the client is not installed, the model is gated, or the commit cannot
            be found out here.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    # It becomes part of a path in the cache.
    if revision is not None and not _REF.fullmatch(revision):
        raise SpecError(
            _FIELD,
            bound="a branch, a tag or a commit behind the @",
            value=f"hub:{repo}@{revision}",
            remedy="Leave the @ out for the default branch.",
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise PreflightError(
            "the Python package huggingface_hub",
            remedy='Install it: pip install "flatland-personas[live]".',
        )
    from huggingface_hub.errors import RevisionResolutionError

    try:
        found: str = client().resolve_revision(repo, revision=revision).resolved
    except RevisionResolutionError as error:
        raise _unresolved(repo, revision, "neither the hub nor its cache can tell") from error
    except Exception as error:  # each cause has an error of its own
        raise absent(repo, revision or "main", "model", error) from error
    if not COMMIT.fullmatch(found):
        raise _unresolved(repo, revision, "the hub gave something else")
    return found


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
        SpecError: see `check_revision`; or the name is none that a model can have.
    """
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    check_revision(spec)
    try:
        path = _snapshot(spec, SMALL_FILES, local=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise absent(spec.repo, spec.revision, "model", error) from error
    return path if is_complete(path) else None


def preflight_hub(spec: HubBase) -> None:
    """Check that the model is whole on this machine, or that its commit can be had.

    Nothing is downloaded; of cached weights the headers alone are read.

    Raises:
        SpecError: see `check_revision`; or the hub has no such model or commit.
        DataError: it is cached and not whole, see `check_names`.
        PreflightError: it is neither cached nor reachable, it is gated, or it lacks its
            config, its tokenizer or safetensors.
    """
    cached = cached_hub(spec)
    if cached is not None:
        # Taken first, so that a file that changes meanwhile is looked at again.
        mark = (cached, signature(cached))
        if mark not in _whole:
            check_names(cached)
            _whole.add(mark)
        return
    lacking = _lacking(_listed(spec))
    if lacking:
        raise _incomplete(spec, lacking)


def weights_bytes(repo: str, commit: str) -> int:
    """Return the size of a model's weights on disk; of those not cached, as the hub says.

    Raises:
        FlatlandError: see `preflight_hub`.
    """
    spec = HubBase(repo=repo, revision=commit)
    cached = cached_hub(spec)
    if cached is not None:
        return sum(path.stat().st_size for path in weight_files(cached))
    sizes = {name: n for name, n in _listed(spec).items() if name.endswith(".safetensors")}
    # Beside the shards there may be all weights again, in a file of another layout.
    shards = [size for name, size in sizes.items() if "-of-" in name]
    return sizes.get(WEIGHTS) or sum(shards or sizes.values())


def fetch_small(spec: HubBase) -> Path:
    """Return the folder of the pinned snapshot with its config, tokenizer and template.

    Its weights are there only if they were before. Each file is compared with its published
    checksum.

    Raises:
        SpecError: see `check_revision`; or the hub has no such model or commit.
        PreflightError: the download failed, or the model is gated.
        DataError: a file is not what the hub published.
    """
    path = cached_hub(spec) or _download(spec, SMALL_FILES)
    check_small(path, get=download_command(spec))
    return path


def fetch_hub(spec: HubBase, *, check: Callable[[Path], None] | None = None) -> Path:
    """Return the folder of the pinned snapshot, downloading what is not cached.

    `check` is given the folder as `fetch_small` returns it, and may raise: weights that are
    not cached are fetched only afterwards, and compared with their checksums.

    Raises:
        FlatlandError: see `fetch_small`; or the repository has no safetensors.
    """
    path = fetch_small(spec)
    if check is not None:
        check(path)
    if cached_hub(spec) is None:
        index = path / INDEX
        shards = [shard.name for shard in weight_files(path)] if index.is_file() else []
        _download(spec, [glob.escape(name) for name in (WEIGHTS, *shards)])
        lacking = _lacking_in(path)
        if lacking:
            raise _incomplete(spec, lacking)
    list_files(path, get=download_command(spec))
    return path


def _download(spec: HubBase, patterns: Sequence[str]) -> Path:
    try:
        client()  # for its limit of time
        return _snapshot(spec, patterns, local=False)
    except Exception as error:  # each cause has an error of its own
        raise absent(spec.repo, spec.revision, "model", error) from error


def _snapshot(spec: HubBase, patterns: Sequence[str], *, local: bool) -> Path:
    """Return the snapshot's folder, with the files that match. A cut connection is taken up."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            spec.repo,
            revision=spec.revision,
            local_files_only=local,
            # Files that are never fetched do not make a snapshot incomplete.
            allow_patterns=list(patterns),
            ignore_patterns=list(IGNORED_FILES),
            # The client keeps whole files alone: a run that is killed loses one at most.
            max_workers=1,
        )
    )


def _listed(spec: HubBase) -> dict[str, int]:
    """Return name and size in bytes of each file in the top folder, as the hub lists them."""
    files = check_reached(spec.repo, spec.revision, kind="model").siblings or ()
    return {file.rfilename: file.size or 0 for file in files if "/" not in file.rfilename}


def download_command(spec: HubBase) -> str:
    """Return the command that downloads the pinned snapshot."""
    return command_of(spec.repo, spec.revision, kind="model")


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a config, a tokenizer and all shards of the weights.

    Raises:
        DataError: the index of the shards is none.
    """
    return not _lacking_in(folder)


def _lacking_in(folder: Path) -> list[str]:
    lacking = _lacking({path.name for path in folder.iterdir() if path.is_file()})
    return lacking or [path.name for path in weight_files(folder) if not path.is_file()]


def _lacking(names: Collection[str]) -> list[str]:
    return [" or ".join(each) for each in _ONE_OF_EACH if not set(each) & set(names)]


def _incomplete(spec: HubBase, lacking: Sequence[str]) -> PreflightError:
    return PreflightError(
        f"{', '.join(lacking)} of model {spec.repo} at {spec.revision}",
        remedy=f"If the download is not complete, run: {download_command(spec)}. Otherwise use "
        "a repository that holds its weights as safetensors in its top folder.",
    )


def _unresolved(repo: str, revision: str | None, why: str) -> PreflightError:
    name = f"hub:{repo}" if revision is None else f"hub:{repo}@{revision}"
    return PreflightError(
        f"{_FIELD}: the commit that {name} stands for; {why}",
        remedy=f"Name the commit, 40 hexadecimal digits: hub:{repo}@COMMIT.",
    )
