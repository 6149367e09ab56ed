"""Disk errors of the store: no lock, no room, no permission, each with what to do.

Libraries report "no room" by an `OSError`, by an exception of their own that quotes the
system, or by a short count. All become one `StoreError`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from persona_lib.errors import FlatlandError, StoreError, UnwritableStoreError

_ELSEWHERE = "the store on another disk (--store=DIR)"
_REMEDIES = {
    errno.ENOSPC: f"Free space on that disk, or put {_ELSEWHERE}, then run again.",
    errno.EDQUOT: f"Free some of this account's quota, or put {_ELSEWHERE}, then run again.",
    errno.EFBIG: f"Raise the limit (ulimit -f unlimited), or put {_ELSEWHERE}, then run again.",
    errno.EROFS: f"Make that disk writable, or put {_ELSEWHERE}, then run again.",
}
"""What to do, by error number; these are the numbers that mean "no room"."""
_QUOTED = re.compile(r"\b(?:os error|errno)[ :=]{0,2}(\d+)\b", re.IGNORECASE)
_SHORT_WRITE = re.compile(
    # numpy; torch's two writers; C++ streams; SQLite
    r"requested and \d+ written|inline_container|PytorchStreamWriter|basic_ios|iostream"
    r"|write.{0,40} failed|failed (?:to write|writing)|disk is full",
    re.IGNORECASE,
)


# ---- opening ----------------------------------------------------------------------------


def probe(folder: Path, missing: str) -> None:
    """Make a folder of the store where it is missing, and write a file in it.

    `missing` is what has to be built there, for the message.

    Raises:
        UnwritableStoreError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="probe-") as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise UnwritableStoreError(
            f"{folder}: cannot be created or written ({error.strerror}), and {missing} is not "
            "stored. Make it a writable folder, or choose another place for the store "
            "(--store=DIR)."
        ) from error


def probe_locks(folder: Path) -> None:
    """Check that a lock in `folder` excludes others, and is free once it is given back.

    flock(2) locks belong to an open file: one opened twice here meets what two processes
    of this machine would. Whether locks reach other machines cannot be seen from one.

    Raises:
        UnwritableStoreError: locks are unsupported, exclude nobody, or are never freed.
    """
    now = fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        with (
            tempfile.NamedTemporaryFile(dir=folder, prefix="probe-") as first,
            Path(first.name).open("r+b") as second,  # NFS locks what is open for writing
        ):
            fcntl.flock(first.fileno(), now)
            with suppress(BlockingIOError, PermissionError):
                fcntl.flock(second.fileno(), now)
                raise _without_locks(folder, "flock gave one lock to two holders at once")
            fcntl.flock(first.fileno(), fcntl.LOCK_UN)
            fcntl.flock(second.fileno(), now)
    except OSError as error:
        raise _without_locks(folder, f"flock failed: {error.strerror or error}") from error


def _without_locks(folder: Path, found: str) -> UnwritableStoreError:
    return UnwritableStoreError(
        f"{folder}: this file system has no working locks ({found}), and two processes could "
        "spoil each other's stages. Put the store on a local disk (--store=DIR), or mount "
        "this file system with locks (Lustre: -o flock)."
    )


# ---- no room, no permission -------------------------------------------------------------


@contextmanager
def reported(path: Path, action: str) -> Iterator[None]:
    """Turn an error of the operating system into a `StoreError` that names the path.

    Args:
        path: what is named where the error names nothing.
        action: ``read``, ``write`` or ``lock``.
    """
    try:
        yield
    except OSError as error:
        where = Path(str(path if error.filename is None else error.filename))
        if error.errno in _REMEDIES:
            raise _no_room(where, error.errno) from error
        remedy = "Check free space and permissions of the store, then run again."
        if action == "read" and isinstance(error, PermissionError):
            remedy = "Its owner can make the store readable to others: chmod -R a+rX STORE."
        raise StoreError(
            f"{where}: cannot {action} ({error.strerror or error}). {remedy}"
        ) from error


def no_room(error: Exception, folder: Path) -> StoreError | None:
    """Return what to raise instead of `error` if it says that `folder` cannot hold more.

    None for every other error, errors of ours, and errors about another place. The folder
    is not cleared yet: the sizes of its files are looked at.
    """
    if isinstance(error, FlatlandError):
        return None
    met = [(one, code) for one in _chain(error) if (code := _code(one, folder)) in _REMEDIES]
    paths = [_path_of(one) for one, _ in met]
    if not met or any(path and not path.is_relative_to(folder.resolve()) for path in paths):
        return None
    return _no_room(paths[0] or folder, met[0][1])


def cut_off(path: Path, size: int) -> StoreError | None:
    """Return an error if a file of `size` bytes ends where this process may write no more.

    numpy's `tofile` loses its last block in silence; the file then ends at the limit.
    """
    limit = _limit()
    return _no_room(path, errno.EFBIG) if limit is not None and size >= limit else None


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and all that it was raised from or while handling."""
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop(0)
        if one is not None and one not in found:
            found.append(one)
            left += [one.__cause__, one.__context__]
    return found


def _path_of(error: BaseException) -> Path | None:
    """Return the path that an error of the operating system names, links followed."""
    name = error.filename if isinstance(error, OSError) else None
    return Path(os.fsdecode(name)).resolve() if isinstance(name, (str, bytes, Path)) else None


def _code(error: BaseException, folder: Path) -> int | None:
    """Return the error number that an error carries, quotes, or must have met."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    quoted = _QUOTED.search(text)
    if quoted:
        return int(quoted[1])
    for code in _REMEDIES:
        if os.strerror(code) in text:
            return code
    return _short_write(folder) if _SHORT_WRITE.search(text) else None


def _short_write(folder: Path) -> int | None:
    """Return why a write into a folder fell short, where that can still be seen."""
    limit = _limit()
    with suppress(OSError):
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        if limit is not None and any(size >= limit for size in sizes):
            return errno.EFBIG
        if os.statvfs(folder).f_bavail == 0:
            return errno.ENOSPC
    return None


def _no_room(path: Path, code: int) -> StoreError:
    """Return the error that says what is free where `path` lies, and which limit holds."""
    facts = [os.strerror(code)]
    folder = next((p for p in (path, *path.parents) if p.is_dir()), Path("/"))
    with suppress(OSError):
        usage, state = shutil.disk_usage(folder), os.statvfs(folder)
        facts.append(f"{usage.free:,} of {usage.total:,} bytes are free there now")
        if state.f_files and not state.f_favail:
            facts.append("no more files can be made there")
    limit = _limit()
    if code == errno.EFBIG and limit is not None:
        facts.append(f"this process may write at most {limit:,} bytes to a file (ulimit -f)")
    return StoreError(f"{path}: cannot write ({'; '.join(facts)}). {_REMEDIES[code]}")


def _limit() -> int | None:
    """Return how many bytes a file that this process writes may have, None for any number."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
