"""The content-addressed store: a stage is built once, and verified on every read.

An entry lies in ``<root>/<stage>/<digest of its key>/`` and appears there in one
rename, complete, or not at all. ``<root>/tmp`` holds entries being built and
``<root>/locks`` one lock file for each key. The store relies on POSIX renames and
on ``flock``, which it tries before the first build. Reading writes nothing.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from persona_lib.errors import CorruptEntryError, StoreError
from persona_lib.progress import announce
from persona_lib.store import builders, disk
from persona_lib.store.cost import metered
from persona_lib.store.entry import (
    PAYLOAD,
    Entry,
    Signature,
    entry_of,
    sync,
    verify,
    write_manifest,
)
from persona_lib.store.failures import FAILED, Failures
from persona_lib.store.keys import RESERVED, StageKey
from persona_lib.store.provenance import JSON

__all__ = ["JSON", "Entry", "Maker", "StageKey", "Store"]

Maker = Callable[[Path], Mapping[str, JSON] | None]
"""Writes the payload into the folder given; returns JSON to keep beside it, or None."""

_LOG = logging.getLogger(__name__)
_LOCKS, _TMP = RESERVED


class Store:
    """A folder of entries, shared by any number of threads and processes.

    Args:
        root: the folder; made before the first build.
        on_wait: called with a sentence when this process begins to wait for another
            command's build; by default it goes to standard error.
        command: what the processes of one command have in common and no other
            command has; they tell each other which stages failed.

    Attributes:
        failures: what failed since this object was made, or in its command.
    """

    def __init__(
        self,
        root: Path,
        *,
        on_wait: Callable[[str], None] = announce,
        command: str | None = None,
    ) -> None:
        self.root = Path(root).expanduser().absolute()
        self._on_wait = on_wait
        self._verified: dict[str, Signature] = {}
        self._writable = False
        self._command = command and hashlib.sha256(command.encode()).hexdigest()[:16]
        self.failures = Failures(self.root / _TMP, self._command)

    def folder(self, key: StageKey) -> Path:
        """Return where the entry of `key` lies, whether it exists or not."""
        return self.root / key.stage / key.digest

    def peek(self, key: StageKey) -> Entry | None:
        """Return the entry of `key`, verified, or None; writes nothing.

        The manifest, names and sizes of files are checked on every call. Contents are
        hashed on the first call, and again after a change of time stamp, size or inode.

        Raises:
            CorruptEntryError: a file of the entry is not what was written.
            StoreError: the entry cannot be read.
        """
        folder = self.folder(key)
        with disk.reported(folder, "read"):
            for path in (folder.parent, folder):
                try:
                    path.lstat()
                except (FileNotFoundError, NotADirectoryError):
                    return None
                if not path.is_dir():
                    raise CorruptEntryError(
                        f"{path}: is no folder. Delete it and run again; it will be rebuilt."
                    )
            manifest, signature = verify(key, folder, self._verified.get(key.digest))
        self._verified[key.digest] = signature
        return entry_of(key, folder, manifest, built=False)

    def make_if_free(self, key: StageKey, make: Maker) -> Entry | None:
        """Return the entry of `key`, building it where it is missing; never wait.

        When a builder fails or is killed, the next caller builds.

        Args:
            key: what is wanted.
            make: writes at least one file into the empty folder it is given,
                in sub-folders if it likes, and returns JSON data or None.

        Returns:
            The entry, or None while somebody else is building it.

        Raises:
            CorruptEntryError: a stored file is not what was written.
            DataError: `make` returned something that JSON cannot hold.
            UnwritableStoreError: see `require_writable`.
            StoreError: the entry cannot be read or written (no space left, say),
                or `make` wrote no file, or something that is not a plain file.
            Exception: whatever else `make` raises; nothing is stored then.
        """
        found = self.peek(key)
        if found is not None:
            return found
        self.require_writable(key.stage)
        with self._lock(key) as free:
            # Whoever held the lock before may have built it.
            return (self.peek(key) or self._build(key, make)) if free else None

    def require_writable(self, missing: str) -> None:
        """Make and try the store's folders and its locks, once, before anything is computed.

        `missing` is what has to be built, for messages.

        Raises:
            UnwritableStoreError: a folder cannot be made or written, or locks of its
                file system do not exclude.
        """
        if self._writable:
            return
        for folder in (self.root, self.root / _TMP, self.root / _LOCKS):
            disk.probe(folder, missing)
        disk.probe_locks(self.root / _LOCKS)
        self._sweep()
        self._writable = True

    def report_waiting(self, key: StageKey, label: str = "") -> None:
        """Say who builds `key`, unless it is a process of the same command."""
        who, command = builders.describe(self.root / _TMP, key.digest)
        name = f"{key.stage} {label}".rstrip()
        sentence = f"waiting for {name} ({key.digest[:12]}), which is being built by {who}"
        _LOG.info("%s", sentence)
        if command is None or command != self._command:
            self._on_wait(sentence)

    @contextmanager
    def _lock(self, key: StageKey) -> Iterator[bool]:
        """Hold the lock of a key; yield whether it was to be had. It is freed if we die."""
        path = self.root / _LOCKS / f"{key.digest}.lock"
        lock, free = FileLock(path), True
        with disk.reported(path, "lock"):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                free = False
        try:
            yield free
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove what killed builders left: a day old, and the key's lock is free."""
        with suppress(OSError):  # what stays, or is removed by another process, harms nobody
            for folder in (self.root / _TMP).iterdir():
                if not builders.is_old(folder):
                    continue
                if folder.name.startswith((FAILED, builders.GONE)):
                    shutil.rmtree(folder, ignore_errors=True)
                digest = builders.key_of(folder)
                if digest is not None and builders.is_abandoned(folder):
                    path = self.root / _LOCKS / f"{digest}.lock"
                    with suppress(Timeout), FileLock(path, blocking=False):
                        builders.discard(folder)

    def _build(self, key: StageKey, make: Maker) -> Entry:
        """Build an entry; the caller holds the lock of its key.

        Should locks fail to exclude, nothing false is stored: a builder that lost its folder
        fails, and of two that finish the first wins.
        """
        tmp, folder = self.root / _TMP, self.folder(key)
        for rubbish in tmp.glob(f"{key.digest}.*"):
            with suppress(OSError):
                if builders.is_abandoned(rubbish):
                    builders.discard(rubbish)
        work = tmp / builders.work_name(key.digest)
        try:
            with disk.reported(work, "write"):
                (work / PAYLOAD).mkdir(parents=True)
                builders.write_note(work, self._command)
            started = time.perf_counter()
            with metered() as cost:
                meta = _made(make, work / PAYLOAD)
            seconds = time.perf_counter() - started
            with disk.reported(work, "write"):
                (work / builders.NOTE).unlink()
                manifest = write_manifest(key, work, meta, seconds, cost)
                folder.parent.mkdir(exist_ok=True)
                if not _moved(work, folder):
                    _LOG.warning("%s %s: built twice, elsewhere first", key.stage, key.digest[:12])
                    shutil.rmtree(work, ignore_errors=True)
                    return self._stored(key)
                sync(folder.parent)
                sync(self.root)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        _LOG.info("%s %s: built in %.1f s", key.stage, key.digest[:12], seconds)
        return entry_of(key, folder, manifest, built=True)

    def _stored(self, key: StageKey) -> Entry:
        entry = self.peek(key)
        if entry is None:
            raise StoreError(f"{self.folder(key)}: was removed while it was read. Run again.")
        return entry


def _moved(work: Path, folder: Path) -> bool:
    """Rename a finished entry to its place; return whether the place was free."""
    try:
        work.replace(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _made(make: Maker, payload: Path) -> Mapping[str, JSON] | None:
    """Call `make`.

    Raises:
        StoreError: the disk is full or read-only, or the folder is not the one that was
            given to `make` any more; files that were written before would be missing.
        Exception: whatever else `make` raises.
    """
    # As long as it is open, no other folder can have its inode.
    with disk.reported(payload, "write"):
        given = os.open(payload, os.O_RDONLY | os.O_DIRECTORY)
    try:
        meta = make(payload)
    except Exception as error:
        _refuse_another(payload, given, error)
        instead = disk.no_room(error, payload)
        if instead is not None:
            raise instead from error
        raise
    else:
        _refuse_another(payload, given, None)
        return meta
    finally:
        os.close(given)


def _refuse_another(payload: Path, given: int, cause: Exception | None) -> None:
    try:
        same = os.path.samestat(os.fstat(given), payload.lstat())
    except OSError:
        same = False
    if not same:
        raise StoreError(
            f"{payload}: was removed or replaced while a stage wrote into it. Leave the folder "
            "tmp of a store alone; on a network file system without locks between machines, "
            "give each machine a store of its own (--store=DIR). Then run again."
        ) from cause
