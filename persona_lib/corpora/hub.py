"""A dataset on the hub, pinned to a commit: is it to be had, and which records are taken.

Rows are streamed: from the commit's folder in the hub's cache where that is complete, and
from the hub otherwise. Any other way of loading may end, offline, in another version.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import DataError, FlatlandError, PreflightError, SpecError
from persona_lib.specs.sources import HubCorpus, Reservoir

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OFFLINE_SWITCHES = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE")
_ON = ("1", "true", "yes", "on")
_TIMEOUT_SECONDS = 10.0
_REFUSED = (401, 403)
_LOGIN = "hf auth login, or set HF_TOKEN"
_HIDDEN = "the message is not shown, as it holds a token"
_FIELDS = {"model": "model.base", "dataset": "corpus.repo"}
_DATA_SUFFIXES = frozenset({".parquet", ".json", ".jsonl", ".csv", ".arrow", ".gz", ".zst"})
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)")


def preflight_hub_corpus(spec: HubCorpus) -> None:
    """Check that a dataset is on this machine or that its commit can be reached.

    Nothing is downloaded; a cached dataset needs no network. PreflightError: the client is
    not installed, or the dataset is neither cached nor reachable.
    """
    if importlib.util.find_spec("datasets") is None:
        raise PreflightError(
            "the Python package datasets", remedy="Install it: pip install datasets."
        )
    if _cached(spec) is not None:
        return
    if offline():
        raise PreflightError(
            f"dataset {spec.repo} at revision {spec.revision} in the local cache",
            remedy=f"Unset {' and '.join(_OFFLINE_SWITCHES)}, or download it beforehand: "
            f"{download_command(spec.repo, spec.revision, kind='dataset')}.",
        )
    check_reached(spec.repo, spec.revision, kind="dataset")


def check_reached(repo: str, revision: str, *, kind: str) -> Any:
    """Return what the hub says of a commit that may be read; `kind` is ``dataset`` or ``model``.

    Of a model, with the sizes of its files.

    Raises:
        SpecError, PreflightError: it is not to be had, see `absent`.
    """
    try:
        api = client()
        found = api.repo_info(
            repo,
            repo_type=kind,
            revision=revision,
            timeout=_TIMEOUT_SECONDS,
            files_metadata=kind == "model",
        )
        if getattr(found, "gated", False):  # anybody may list its files
            api.auth_check(repo, repo_type=kind)
    except Exception as error:
        # The client raises a different family for each cause (no route, unknown
        # repository, unknown commit, gated repository).
        raise absent(repo, revision, kind, error) from error
    return found


def records_of(spec: HubCorpus) -> list[tuple[int, object]]:
    """Return `spec.rows` records in the order of the corpus, each with its row in the split.

    Rows are counted from 0. Only records that are returned are held in memory, however
    many are streamed past.

    Raises:
        PreflightError: see `preflight_hub_corpus`; or the download failed.
        DataError: there is no such split, the files cannot be read as a dataset, or the
            split holds fewer rows than are taken, or scanned.
    """
    scanned = spec.rows if spec.reservoir is None else spec.reservoir.scanned
    taken = range(spec.rows) if spec.reservoir is None else drawn_rows(spec.reservoir, spec.rows)
    wanted, held, seen = frozenset(taken), {}, 0
    for row, record in _stream(spec, scanned):
        seen = row + 1
        if row in wanted:
            held[row] = record
    if seen < scanned:
        raise DataError(
            f"{spec.repo}: rows of split {spec.split}",
            bound=f">= {scanned}",
            value=seen,
            remedy="Ask for fewer rows, or correct the split.",
        )
    return [(row, held[row]) for row in taken]


def drawn_rows(reservoir: Reservoir, rows: int) -> list[int]:
    """Return the first `rows` rows of the sample, counted from 0: `Reservoir` tells how.

    They are known before any row is read. Python's `randint` and `shuffle` have drawn the
    same numbers from a seed since Python 3.2.
    """
    draws = random.Random(reservoir.seed)
    held = list(range(reservoir.size))
    for row in range(reservoir.size, reservoir.scanned):
        place = draws.randint(0, row)
        if place < reservoir.size:
            held[place] = row
    draws.shuffle(held)
    return held[:rows]


def _stream(spec: HubCorpus, most: int) -> Iterator[tuple[int, object]]:
    """Yield up to so many records of the split, with their row; see `records_of` for errors."""
    preflight_hub_corpus(spec)
    import datasets

    cached = _cached(spec)
    where = (
        {"path": spec.repo, "revision": spec.revision} if cached is None else {"path": str(cached)}
    )
    try:
        found = datasets.load_dataset(**where, split=spec.split, streaming=True)
        yield from enumerate(islice(found, most))
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{spec.repo} at revision {spec.revision}",
            bound=f"rows in a split {spec.split}",
            value=f"{type(error).__name__}: {_first_line(error)}",
            remedy="Correct repository, revision or split in the profile.",
        ) from error
    except Exception as error:  # see check_reached
        raise absent(spec.repo, spec.revision, "dataset", error) from error


def offline() -> bool:
    """Whether the environment forbids the hub's clients to use the network."""
    return any(os.environ.get(name, "").lower() in _ON for name in _OFFLINE_SWITCHES)


def _cached(spec: HubCorpus) -> Path | None:
    """Return the commit's folder if all of its files are on this machine."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            spec.repo, repo_type="dataset", revision=spec.revision, local_files_only=True
        )
    except (LocalEntryNotFoundError, ValueError):  # ValueError: no name that the hub could have
        return None
    return Path(folder) if _is_complete(Path(folder)) else None


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds data (streaming leaves none), and every part of numbered parts."""
    names = [path.name for path in folder.rglob("*") if path.suffix in _DATA_SUFFIXES]
    parts = [found for name in names if (found := _SHARD.fullmatch(name))]
    series: dict[tuple[str, str, str], set[str]] = {}
    for found in parts:
        series.setdefault((found[1], found[3], found[4]), set()).add(found[2])
    return bool(names) and all(len(held) == int(key[1]) for key, held in series.items())


def absent(repo: str, revision: str, kind: str, error: Exception) -> FlatlandError:
    """Return the error for a dataset or model of the hub that is not to be had here.

    SpecError where its name or revision is wrong, and PreflightError where this machine
    lacks leave, network or a file. No message holds a token.
    """
    from huggingface_hub import errors

    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    found, field = cause or error, _FIELDS[kind]
    answer = found.response if isinstance(found, errors.HfHubHTTPError) else None
    if isinstance(found, errors.GatedRepoError):
        page = f"https://huggingface.co/{'' if kind == 'model' else 'datasets/'}{repo}"
        return PreflightError(
            f"{field}: access to {kind} {repo}, which is gated",
            remedy=f"Accept its licence at {page}, and log in: {_LOGIN}.",
        )
    if isinstance(found, errors.RevisionNotFoundError):
        return SpecError(
            field,
            bound=f"a branch, tag or commit of {repo}",
            value=f"hub:{repo}@{revision}",
            remedy=f"Copy the full commit from the file history of {repo}.",
        )
    if isinstance(found, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return SpecError(
            field,
            bound=f"a {kind} of the hub that this machine may read",
            value=f"hub:{repo}@{revision}",
            remedy=f"Correct the name. If it is private, log in: {_LOGIN}.",
        )
    if answer is not None and isinstance(found, errors.RemoteEntryNotFoundError):
        name = answer.request.url.path.rpartition("/")[2]
        return PreflightError(
            f"{field}: file {name} of {kind} {repo} at {revision}, which the hub lists and does "
            "not send",
            remedy="Try again later, or use another commit.",
        )
    if answer is not None and answer.status_code in _REFUSED:
        return PreflightError(
            f"{field}: a token that may read {kind} {repo} ({_first_line(found)})",
            remedy=f"Log in with another one: {_LOGIN}.",
        )
    return PreflightError(
        f"{kind} {repo} at {revision} ({type(error).__name__}: {_first_line(error)})",
        remedy="On a machine with network access run: "
        f"{download_command(repo, revision, kind=kind)}; set HF_HOME to the "
        f"cache that holds it. A gated {kind} also needs: hf auth login",
    )


def client() -> HfApi:
    """Return the hub's client; a request to its API that gets no answer ends after a while."""
    from huggingface_hub import HfApi, get_session

    session = get_session()
    before = session.event_hooks["request"]
    if _limit not in before:
        session.event_hooks = {**session.event_hooks, "request": [*before, _limit]}
    return HfApi()


def _limit(request: Any) -> None:
    """Limit the seconds of a request that the client would wait for without end."""
    given = request.extensions["timeout"].items()
    request.extensions["timeout"] = {what: held or _TIMEOUT_SECONDS for what, held in given}


def download_command(repo: str, revision: str, *, kind: str) -> str:
    """Return the command that downloads a commit of the hub."""
    of = "" if kind == "model" else f"--repo-type {kind} "
    return f"hf download {of}{repo} --revision {revision}"


def _first_line(error: BaseException) -> str:
    from huggingface_hub import get_token

    line = (str(error).strip().splitlines() or [""])[0]
    # A server may send back what it was sent, and a client may quote a header.
    token = get_token()
    return _HIDDEN if "Bearer" in line or (token is not None and token in line) else line
