"""Who builds an entry: work folders, builders that died, what a waiter reads of them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from persona_lib.checks import read_json
from persona_lib.errors import DataError

NOTE = "builder.json"
"""What a builder writes of itself beside the payload while it builds; not part of an entry."""
GONE = "gone-"
"""Prefix of folders that are being removed."""
_LEFT_AFTER_SECONDS = 24 * 3600.0
_WORK_FOLDER = re.compile(r"([0-9a-f]{64})\.(?:([0-9a-f]{8})-(\d+)-(\d+)-)?[0-9a-f]+")


def work_name(digest: str) -> str:
    """Return a new name for a folder in which this process builds the key of `digest`."""
    pid = os.getpid()
    return f"{digest}.{_here()}-{pid}-{_started(pid)}-{secrets.token_hex(8)}"


def write_note(work: Path, command: str | None) -> None:
    """Write who builds in `work`, since when, and in which command."""
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    note = {"host": os.uname().nodename, "pid": os.getpid(), "since": since, "command": command}
    (work / NOTE).write_text(json.dumps(note), encoding="utf-8")


def describe(tmp: Path, digest: str) -> tuple[str, str | None]:
    """Return who builds the key of `digest`, in words, and the command that it belongs to."""
    for work in tmp.glob(f"{digest}.*"):
        with suppress(OSError, DataError, KeyError):
            note = read_json(work / NOTE)
            who = f"process {note['pid']} on {note['host']}, since {note['since']}"
            if is_abandoned(work):
                who += "; it has ended, and something that it started still holds the lock"
            return who, note["command"]
    return "another process", None


def key_of(folder: Path) -> str | None:
    """Return the digest of the key that is or was built in a folder, None for other names."""
    named = _WORK_FOLDER.fullmatch(folder.name)
    return named[1] if named else None


def is_old(path: Path) -> bool:
    """Whether nobody has made, renamed or removed anything in a folder for a day.

    Raises:
        OSError: there is no such folder.
    """
    return path.stat().st_mtime < time.time() - _LEFT_AFTER_SECONDS


def is_abandoned(folder: Path) -> bool:
    """Whether the builder of a work folder is dead; one of another machine is after a day.

    Raises:
        OSError: there is no such folder.
    """
    named = _WORK_FOLDER.fullmatch(folder.name)
    if named is None:
        return False
    _, where, pid, start = named.groups()
    return is_old(folder) if where != _here() else _started(int(pid)) != start


def discard(folder: Path) -> None:
    """Remove a work folder in one step: a builder that lives never goes on with half of it."""
    gone = folder.with_name(f"{GONE}{secrets.token_hex(8)}")
    with suppress(OSError):  # another process was faster
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@functools.cache
def _here() -> str:
    """Return eight digits that identify this machine, since it was started, and container."""
    name = os.uname().nodename
    with suppress(OSError):
        name += Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        name += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _started(pid: int) -> str | None:
    """Return when a process was started, in ticks since the machine was; None if it is dead."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        with suppress(ProcessLookupError):  # a system without /proc
            with suppress(PermissionError):
                os.kill(pid, 0)
            return "0"
        return None
    # proc(5): the name in brackets may hold anything; state is the third field, start the 22nd.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
