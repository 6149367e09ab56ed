"""The content-addressed store: every long stage is built once and verified on every read.

An entry lies in ``<root>/<stage>/<digest of its key>/`` and appears there in one
rename, complete, or not at all. ``<root>/tmp`` holds entries being built and
``<root>/locks`` one lock file for each key. The store relies on POSIX renames and
on ``flock``. `persona_lib.entries` says what an entry
holds, `persona_lib.keys` what it is found by.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from persona_lib.cost import metered
from persona_lib.entries import PAYLOAD, Entry, Signature, entry_of, seal, sync, verify
from persona_lib.errors import StoreError, UnwritableStoreError
from persona_lib.keys import RESERVED, StageKey
from persona_lib.provenance import JSON

__all__ = ["JSON", "Entry", "Maker", "StageKey", "Store"]

Maker = Callable[[Path], Mapping[str, JSON] | None]
"""Writes the payload into the folder given; returns JSON to keep beside it, or None."""

_LOG = logging.getLogger(__name__)
_LOCKS, _TMP = RESERVED
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_POLL_SECONDS = 0.1
_WORK_FOLDER = re.compile(r"([0-9a-f]{64})\.[0-9a-f]+")
_LEFT_AFTER_SECONDS = 24 * 3600.0


class Store:
    """A folder of entries, shared by any number of threads and processes.

    Args:
        root: the folder; made where it is missing.
        on_wait: called with the key once, when somebody else is building it
            and this call starts to wait.

    Raises:
        UnwritableStoreError: the folder cannot be made or written. This is
            found out here, before anything is computed.
    """

    def __init__(self, root: Path, *, on_wait: Callable[[StageKey], None] | None = None) -> None:
        self.root = Path(root).expanduser().absolute()
        self._on_wait = on_wait
        self._verified: dict[str, Signature] = {}
        for folder in (self.root, self.root / _TMP, self.root / _LOCKS):
            _probe(folder)
        self._sweep()

    def folder(self, key: StageKey) -> Path:
        """Return where the entry of `key` lies, whether it exists or not."""
        return self.root / key.stage / key.digest

    def peek(self, key: StageKey) -> Entry | None:
        """Return the entry of `key`, verified, or None; never builds.

        The manifest is checked on every call, and so are names and sizes of all
        files. Contents are hashed on the first call of this object, and again
        whenever a time stamp, size or inode has changed since.

        Raises:
            CorruptEntryError: a file of the entry is not what was written.
            StoreError: the entry cannot be read.
        """
        folder = self.folder(key)
        with _reported(folder, "read"):
            if not os.path.lexists(folder):
                return None
            manifest, signature = verify(key, folder, self._verified.get(key.digest))
        self._verified[key.digest] = signature
        return entry_of(key, folder, manifest, built=False)

    def get_or_make(self, key: StageKey, make: Maker) -> Entry:
        """Return the entry of `key`, building it first where it is missing.

        However many callers want the same key, one of them builds it and the
        others wait. When the builder fails or is killed, the next one builds.

        Args:
            key: what is wanted.
            make: writes at least one file into the empty folder it is given,
                in sub-folders if it likes, and returns JSON data or None.

        Raises:
            CorruptEntryError: a stored file is not what was written.
            DataError: `make` returned something that JSON cannot hold.
            StoreError: the entry cannot be read or written (no space left, say),
                or `make` wrote no file, or something that is not a plain file.
            Exception: whatever else `make` raises; nothing is stored then.
        """
        found = self.make_if_free(key, make)
        if found is not None:
            return found
        self.tell_waiting(key)
        path = self._lock_of(key)
        with _reported(path, "lock"):
            lock = FileLock(path)
            lock.acquire(poll_interval=_POLL_SECONDS)
        try:
            # Whoever held the lock before may have built it.
            return self.peek(key) or self._build(key, make)
        finally:
            lock.release()

    def make_if_free(self, key: StageKey, make: Maker) -> Entry | None:
        """Return the entry of `key`, building it where it is missing; never wait.

        Returns:
            The entry, or None while somebody else is building it.

        Raises:
            CorruptEntryError, DataError, StoreError, Exception: see `get_or_make`.
        """
        found = self.peek(key)
        if found is not None:
            return found
        path = self._lock_of(key)
        lock = FileLock(path)
        with _reported(path, "lock"):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                return None
        # The kernel frees the lock when its holder dies.
        try:
            return self.peek(key) or self._build(key, make)
        finally:
            lock.release()

    def tell_waiting(self, key: StageKey) -> None:
        """Say that this caller waits for somebody else's build of `key`."""
        _LOG.info("%s %s: being built elsewhere, waiting", key.stage, key.digest[:12])
        if self._on_wait is not None:
            self._on_wait(key)

    def _lock_of(self, key: StageKey) -> Path:
        return self.root / _LOCKS / f"{key.digest}.lock"

    def _sweep(self) -> None:
        """Remove what killed builders left of keys that nobody has asked for since.

        A build holds its key's lock for as long as it has a folder here, so that a
        folder whose lock is free belongs to nobody. The age leaves time to look at it.
        """
        latest = time.time() - _LEFT_AFTER_SECONDS
        with suppress(OSError):  # rubbish that stays, or that somebody else removes, harms nobody
            for folder in (self.root / _TMP).iterdir():
                named = _WORK_FOLDER.fullmatch(folder.name)
                if named and folder.stat().st_mtime < latest:
                    path = self.root / _LOCKS / f"{named[1]}.lock"
                    with suppress(Timeout), FileLock(path, blocking=False):
                        shutil.rmtree(folder, ignore_errors=True)

    def _build(self, key: StageKey, make: Maker) -> Entry:
        """Build an entry; the caller holds the lock of its key."""
        tmp, folder = self.root / _TMP, self.folder(key)
        # Whoever left these is dead, or it would hold the lock.
        for rubbish in tmp.glob(f"{key.digest}.*"):
            shutil.rmtree(rubbish, ignore_errors=True)
        work = tmp / f"{key.digest}.{secrets.token_hex(8)}"
        try:
            with _reported(work, "write"):
                (work / PAYLOAD).mkdir(parents=True)
            started = time.perf_counter()
            with metered() as cost:
                meta = _made(make, work / PAYLOAD)
            seconds = time.perf_counter() - started
            with _reported(work, "write"):
                manifest = seal(key, work, meta, seconds, cost)
                folder.parent.mkdir(exist_ok=True)
                work.replace(folder)
                sync(folder.parent)
                sync(self.root)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        _LOG.info("%s %s: built in %.1f s", key.stage, key.digest[:12], seconds)
        return entry_of(key, folder, manifest, built=True)


def _made(make: Maker, payload: Path) -> Mapping[str, JSON] | None:
    """Call `make`; a disk that is full or read-only becomes a `StoreError`."""
    try:
        return make(payload)
    except OSError as error:
        # A path outside the payload is the maker's own trouble, not the store's.
        ours = error.filename is None or Path(str(error.filename)).is_relative_to(payload)
        if error.errno in _NO_ROOM and ours:
            raise _unable(payload, "write", error) from error
        raise


def _probe(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="probe-") as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise UnwritableStoreError(
            f"{folder}: cannot be created or written ({error.strerror}). "
            "Make it a writable folder, or choose another place for the store."
        ) from error


@contextmanager
def _reported(path: Path, action: str) -> Iterator[None]:
    """Turn an error of the operating system into a `StoreError` that names the path."""
    try:
        yield
    except OSError as error:
        raise _unable(path, action, error) from error


def _unable(path: Path, action: str, error: OSError) -> StoreError:
    where = path if error.filename is None else error.filename
    return StoreError(
        f"{where}: cannot {action} ({error.strerror or error}). "
        "Check free space and permissions of the store, then run again."
    )
