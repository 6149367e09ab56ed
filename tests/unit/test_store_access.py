"""A store among several accounts, processes and commands: what is readable, what is said."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persona_lib.store.stage import Stage, build
from persona_lib.store.store import Store
from tests.unit.test_store import (
    KEY,
    REPOSITORY,
    built_elsewhere,
    get_or_make,
    opened,
    write_payload,
)

NOBODY = 65534


def private(folder: Path) -> None:
    """Write as safetensors does: for nobody else to read."""
    write_payload(folder)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(
    ("mask", "file", "folder"),
    [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o077, 0o600, 0o700), (0o002, 0o644, 0o755)],
)
def test_a_finished_entry_is_readable_by_whom_the_umask_allows(
    mask: int, file: int, folder: int, umask: Callable[[int], int], tmp_path: Path
) -> None:
    umask(mask)
    entry = get_or_make(Store(tmp_path), KEY, private)
    payload = {oct(p.stat().st_mode & 0o777) for p in entry.path.rglob("*") if p.is_file()}
    folders = {oct(p.stat().st_mode & 0o777) for p in entry.path.rglob("*") if p.is_dir()}
    assert (payload, folders) == ({oct(file)}, {oct(folder)})
    whole = 0o777 & ~mask
    assert {p.stat().st_mode & 0o777 for p in (entry.path, entry.path.parent)} == {whole}
    assert (entry.path.parent / "manifest.json").stat().st_mode & 0o777 == whole & 0o666


# Imports come first: an account that is nobody cannot read this one's packages.
STRANGER = f"""
import os, sys
from tests.unit.test_store import KEY, OTHER, Path, Store, get_or_make, never
from persona_lib.pipeline.machine import lacking, refuse
from persona_lib.store.stage import Stage, build, plan
from persona_lib.errors import FlatlandError
from tests.registered import MICRO

def check_machine(stages, store):
    refuse(lacking(MICRO, stages, store))

if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
store = Store(Path(sys.argv[1]))
stage = Stage(name=KEY.stage, label="x", version=1, spec=KEY.spec, work=never, data=KEY.inputs,
              seed=KEY.seed)
missing = Stage(name=KEY.stage, label="C2", version=2, spec=KEY.spec, work=never)
try:
    print(get_or_make(store, KEY, never).built, build([stage], store)[0].built)
    print([line.stored for line in plan([stage, missing], store)])
    check_machine([stage], store)
except FlatlandError as error:
    print(type(error).__name__, error)
for act in (check_machine, build):
    try:
        act([missing], store)
    except FlatlandError as error:
        print(type(error).__name__, error)
"""


def child(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(root)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def stranger(root: Path) -> list[str]:
    """What an account that cannot write the store gets from it."""
    done = child(STRANGER, root)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A store of another account that any account can reach (pytest's own folders are private)."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    before = os.umask(0o022)
    get_or_make(Store(place / "store"), KEY, private)
    os.umask(before)
    for path in place.rglob("*"):
        if path.is_dir() and os.getuid() != 0:
            path.chmod(0o555)
    yield place / "store"
    for path in place.rglob("*"):
        if path.is_dir() and os.getuid() != 0:
            path.chmod(0o755)
    shutil.rmtree(place)


def test_a_store_of_another_account_is_judged_and_planned_from(foreign: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in foreign.rglob("*")}
    stored, planned, *refused = stranger(foreign)
    assert (stored, planned) == ("False False", "[True, False]")
    assert refused[0] == (
        f"UnwritableStoreError {foreign}: cannot be created or written (Permission denied), and "
        "train C2 is not stored. Make it a writable folder, or choose another place for the store "
        "(--store=DIR)."
    )
    assert refused[1] == refused[0].replace("train C2", "train")
    assert {path: path.stat().st_mtime_ns for path in foreign.rglob("*")} == before


@pytest.mark.parametrize("place", ["", "train", "train/{}", "train/{}/payload/weights.bin"])
def test_what_another_account_may_not_read_is_named_with_the_remedy(
    place: str, foreign: Path
) -> None:
    (foreign / place.format(KEY.digest)).chmod(0)
    first = stranger(foreign)[0]
    (foreign / place.format(KEY.digest)).chmod(0o755)
    assert first.startswith(f"StoreError {foreign}")
    assert "cannot read (Permission denied). Its owner can make" in first
    assert "chmod -R a+rX STORE" in first


# ---- waiting ----------------------------------------------------------------------------

WAITING = (
    r"waiting for train C1 \({key}\), which is being built by process {pid} on {host}, "
    r"since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC{more}"
)


def sentence(pid: int = os.getpid(), more: str = "") -> str:
    host = re.escape(os.uname().nodename)
    return WAITING.format(key=KEY.digest[:12], pid=pid, host=host, more=more)


@pytest.fixture
def wanted() -> Stage:
    return Stage(
        name=KEY.stage, label="C1", version=1, spec=KEY.spec, data=KEY.inputs, seed=KEY.seed,
        work=lambda out, _: write_payload(out),
    )  # fmt: skip


@pytest.mark.parametrize("commands", [(None, None), ("one", "another"), ("one", None)])
def test_a_waiter_is_told_what_is_built_by_whom_and_since_when(
    commands: tuple[str | None, str | None], wanted: Stage, tmp_path: Path
) -> None:
    told: list[str] = []
    with built_elsewhere(tmp_path, command=commands[0]) as (go_on, _):
        store = Store(
            tmp_path, command=commands[1], on_wait=lambda text: (told.append(text), go_on.set())
        )
        (entry,) = build([wanted], store)
    assert not entry.built
    (text,) = told
    assert re.fullmatch(sentence(), text)
    names = {path.name for path in entry.path.parent.iterdir()}
    assert names == {"manifest.json", "manifest.sha256", "payload"}


def test_it_is_written_to_standard_error_but_not_by_workers_of_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with built_elsewhere(tmp_path, command="one"):
        Store(tmp_path, command="one").report_waiting(KEY)
        assert capsys.readouterr() == ("", "")
        Store(tmp_path).report_waiting(KEY, "C1")
        out, error = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(sentence() + "\n", error)


def test_a_holder_that_cannot_be_named_is_told_of_as_well(tmp_path: Path) -> None:
    """It has begun at this moment, or ends; or a process that it started outlived it."""
    told: list[str] = []
    store = Store(tmp_path, on_wait=told.append)
    opened(tmp_path)
    store.report_waiting(KEY, "C1")
    killed = child(KILLED, tmp_path)
    store.report_waiting(KEY, "C1")
    pid = int(killed.stdout)
    assert told[0].endswith("which is being built by another process")
    more = "; it has ended, and something that it started still holds the lock"
    assert re.fullmatch(sentence(pid, more), told[1])


KILLED = """
import os, sys
from tests.unit.test_store import KEY, Path, Store, get_or_make

def dies(folder):
    print(os.getpid(), flush=True)
    os._exit(1)

get_or_make(Store(Path(sys.argv[1])), KEY, dies)
"""
