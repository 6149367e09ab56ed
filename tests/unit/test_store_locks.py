"""Locks of the store: tried when it is opened; and what holds where they exclude nobody."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from persona_lib.errors import StoreError, UnwritableStoreError
from persona_lib.store.store import Store
from tests.unit.test_store import (
    KEY,
    OTHER,
    PAYLOAD,
    before_syncs,
    get_or_make,
    left_behind,
    leftovers,
    never,
    opened,
    read_payload,
    start_child,
    wait_for,
    write_payload,
)

# ---- opening ----------------------------------------------------------------------------


def everybody(_: int, __: int) -> None:
    """Stand in for flock(2) where it succeeds for every caller."""


def failing(code: int) -> Callable[[int, int], None]:
    def flock(_: int, __: int) -> None:
        raise OSError(code, os.strerror(code))

    return flock


def never_given_back(file: int, operation: int, real: Any = fcntl.flock) -> None:
    if not operation & fcntl.LOCK_UN:
        real(file, operation)


@pytest.mark.parametrize(
    ("flock", "found"),
    [
        (everybody, "flock gave one lock to two holders at once"),
        (failing(errno.ENOSYS), "flock failed: Function not implemented"),
        (failing(errno.ENOLCK), "flock failed: No locks available"),
        (failing(errno.EOPNOTSUPP), "flock failed: Operation not supported"),
        (failing(errno.EWOULDBLOCK), "flock failed: Resource temporarily unavailable"),
        (never_given_back, "flock failed: Resource temporarily unavailable"),
    ],
)
def test_a_file_system_without_working_locks_is_refused(
    flock: Any, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UnwritableStoreError) as caught:
        opened(tmp_path / "store")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'store' / 'locks'}: ")
    assert f"no working locks ({found})" in text
    assert "Put the store on a local disk (--store=DIR)" in text
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_network_file_system_that_says_no_by_another_number_has_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock held by another process is EWOULDBLOCK on most file systems and EACCES on some."""
    real = fcntl.flock

    def flock(file: int, operation: int) -> None:
        try:
            real(file, operation)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "held") from error

    monkeypatch.setattr(fcntl, "flock", flock)
    assert get_or_make(Store(tmp_path), KEY, write_payload).built


# ---- a live builder's files, whatever locks are worth ------------------------------------


@pytest.fixture
def useless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that exclude nobody, and that opening a store did not find out."""
    monkeypatch.setattr("persona_lib.store.disk.probe_locks", lambda _: None)
    monkeypatch.setattr(fcntl, "flock", everybody)


@pytest.mark.usefixtures("useless")
def test_two_that_hold_one_lock_leave_each_other_s_files_alone(tmp_path: Path) -> None:
    half, go_on = threading.Event(), threading.Event()
    names = list(PAYLOAD)

    def in_two_parts(folder: Path) -> None:
        (folder / names[0]).write_bytes(PAYLOAD[names[0]])
        half.set()
        assert go_on.wait(60)
        for name in names[1:]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(PAYLOAD[name])

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get_or_make, Store(tmp_path), KEY, in_two_parts)
        assert half.wait(60)
        quick = get_or_make(Store(tmp_path), KEY, write_payload)
        assert len(leftovers(tmp_path)) == 1  # the slow one's
        go_on.set()
        late = slow.result()
    assert read_payload(late) == read_payload(quick) == PAYLOAD
    # Of two that finish, the first is kept.
    assert (quick.built, late.built) == (True, False)
    assert leftovers(tmp_path) == []
    assert get_or_make(Store(tmp_path), KEY, never).content == quick.content


def test_a_live_process_that_lost_its_lock_keeps_its_files(tmp_path: Path) -> None:
    calm = get_or_make(Store(tmp_path / "calm"), KEY, write_payload)
    root = tmp_path / "root"
    opened(root)
    child = start_child(root, "hang", calm)
    try:
        wait_for(root / "builds")
        # A lock on a file that has gone excludes nobody who makes the file anew.
        (root / "locks" / f"{KEY.digest}.lock").unlink()
        (theirs,) = leftovers(root)
        entry = get_or_make(Store(root), KEY, write_payload)
        assert entry.built
        assert leftovers(root) == [theirs]
    finally:
        child.kill()
        child.communicate(timeout=60)
    # Its folder goes when the key is built again and it is dead.
    shutil.rmtree(entry.path.parent)
    get_or_make(Store(root), KEY, write_payload)
    assert leftovers(root) == []


@pytest.mark.parametrize("how", ["removed", "moved away"])
@pytest.mark.parametrize("when", ["and goes on", "and stumbles", "while it is sealed"])
def test_who_loses_its_folder_stores_nothing_and_says_so(
    how: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A maker that makes folders as it goes would write on, and seal what is left."""
    store, calls = Store(tmp_path / "store"), iter(range(100))

    def lose() -> None:
        (work,) = leftovers(store.root)
        shutil.rmtree(work) if how == "removed" else work.rename(tmp_path / "elsewhere")

    def loses(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"first")
        if when != "while it is sealed":
            lose()
            if when == "and goes on":
                folder.mkdir(parents=True)
        (folder / "notes.txt").write_bytes(b"second")

    def sealing(_: int) -> None:
        if when == "while it is sealed" and next(calls) == 1:
            lose()

    with monkeypatch.context() as patch:
        before_syncs(patch, sealing)
        with pytest.raises(StoreError) as caught:
            get_or_make(store, KEY, loses)
    assert ("cannot write (No such file" if when == "while it is sealed" else
            "was removed or replaced while a stage wrote into it") in str(caught.value)  # fmt: skip
    assert store.peek(KEY) is None
    assert leftovers(store.root) == []
    assert get_or_make(store, KEY, write_payload).built


# ---- who is dead ------------------------------------------------------------------------

NAME = re.compile(r"(?P<key>[0-9a-f]{64})\.(?P<where>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-\w+")


def own_name(root: Path) -> re.Match[str]:
    """The name under which this process builds `KEY`, taken apart."""
    names: list[str] = []

    def make(folder: Path) -> None:
        names.append(folder.parent.name)
        write_payload(folder)

    get_or_make(Store(root), KEY, make)
    found = NAME.fullmatch(names[0])
    assert found is not None
    return found


def started(pid: int) -> str:
    """Field 22 of proc(5): ticks after boot at which a process began."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_the_name_tells_who_builds_without_naming_the_machine(tmp_path: Path) -> None:
    name = own_name(tmp_path)
    assert (name["key"], name["pid"]) == (KEY.digest, str(os.getpid()))
    assert name["start"] == started(os.getpid())
    assert os.uname().nodename not in name[0]


@pytest.mark.parametrize(
    ("case", "hours", "stays"),
    [
        ("alive", 1000, True),  # a training may take weeks
        ("dead", 0, False),
        ("zombie", 0, False),
        ("another with its number", 0, False),
        ("elsewhere", 23, True),
        ("elsewhere", 25, False),
        ("unnamed", 23, True),
        ("unnamed", 25, False),
    ],
)
def test_only_what_the_dead_left_is_removed_by_the_next_builder(
    case: str, hours: float, stays: bool, tmp_path: Path
) -> None:
    where, child = own_name(tmp_path)["where"], subprocess.Popen(["sleep", "600"])
    try:
        owner = f"{where}-{child.pid}-{started(child.pid)}-ab"
        if case in ("dead", "zombie"):
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        if case == "dead":
            child.wait()
        if case == "another with its number":
            owner = f"{where}-{child.pid}-{int(started(child.pid)) - 1}-ab"
        if case == "elsewhere":
            owner = f"{'0' * 8}-{os.getpid()}-{started(os.getpid())}-ab"
        name = f"{OTHER.digest}." + ("ab" if case == "unnamed" else owner)
        left = left_behind(tmp_path, name, hours=hours)
        store = Store(tmp_path)
        get_or_make(store, OTHER, write_payload)
        assert left.exists() == stays
        assert leftovers(tmp_path) == ([left] if stays else [])
    finally:
        child.kill()
        child.wait()


def test_a_live_builder_s_folder_whose_lock_is_free_is_left(tmp_path: Path) -> None:
    left = left_behind(tmp_path, own_name(tmp_path)[0], hours=1000)
    opened(tmp_path)
    assert left.exists()


def test_a_folder_is_out_of_its_builder_s_reach_before_its_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were its builder alive after all, it would find all of its files or none."""
    root, seen, real = tmp_path / "store", [], shutil.rmtree
    opened(root)
    left = left_behind(root, f"{KEY.digest}.ab", hours=1000)

    def rmtree(path: Any, **options: Any) -> None:
        seen.append((left.exists(), (Path(path) / "payload" / "weights.bin").exists()))
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    opened(root)
    assert seen == [(False, True)]
    assert leftovers(root) == []
