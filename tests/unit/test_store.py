"""The store: built once, complete or absent, verified on every read."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from persona_lib.errors import (
    CorruptEntryError,
    DataError,
    SpecError,
    StoreError,
    UnwritableStoreError,
)
from persona_lib.store.store import Entry, StageKey, Store

REPOSITORY = Path(__file__).resolve().parents[2]

PAYLOAD = {
    "weights.bin": bytes(range(256)) * 40,
    "notes.txt": b"three rows\n",
    "nested/deeper/rows.txt": b"one\ntwo\n",
}
# Three payload files, two manifests and four folders are synced before the rename,
# the folders of the stage and of the store after it.
SYNCS_BEFORE, SYNCS = 9, 11
SEALED = ("manifest.json", "manifest.sha256", *(f"payload/{name}" for name in PAYLOAD))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    rate: float = 1e-4
    steps: int = 10


KEY = StageKey(stage="train", version=1, spec=Recipe(), inputs={"corpus": "ab" * 32}, seed=42)
OTHER = dataclasses.replace(KEY, seed=43)


def write_payload(folder: Path) -> dict[str, Any]:
    for name, data in PAYLOAD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {"loss": 0.25, "pair": (1, 2)}


def never(folder: Path) -> NoReturn:
    raise AssertionError(f"{folder} must not be built")


def read_payload(entry: Entry) -> dict[str, bytes]:
    files = [path for path in entry.path.rglob("*") if path.is_file()]
    return {path.relative_to(entry.path).as_posix(): path.read_bytes() for path in files}


def leftovers(root: Path) -> list[Path]:
    return list((root / "tmp").iterdir())


def get_or_make(store: Store, key: StageKey, make: Callable[[Path], Any]) -> Entry:
    """The entry of a key; who is building it is reported once, and waited for."""
    entry = store.make_if_free(key, make)
    if entry is None:
        store.report_waiting(key)
    while entry is None:
        time.sleep(0.005)
        entry = store.make_if_free(key, make)
    return entry


def opened(root: Path) -> Store:
    """A store that was tried as it is before its first build."""
    store = Store(root)
    store.require_writable("train")
    return store


# ---- building and finding -------------------------------------------------------------


def test_a_second_call_finds_what_the_first_built(tmp_path: Path) -> None:
    built = get_or_make(Store(tmp_path), KEY, write_payload)
    found = get_or_make(Store(tmp_path), KEY, never)
    assert (built.built, found.built) == (True, False)
    assert found == dataclasses.replace(built, built=False)
    assert read_payload(found) == PAYLOAD
    folder = built.path.parent
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == set(SEALED)
    # As JSON gives it back, in both: a tuple is a list.
    assert built.meta == {"loss": 0.25, "pair": [1, 2]}
    pairs = [[name, hashlib.sha256(data).hexdigest()] for name, data in sorted(PAYLOAD.items())]
    text = json.dumps(pairs, separators=(",", ":"))
    assert built.content == hashlib.sha256(text.encode()).hexdigest()
    assert leftovers(tmp_path) == []


def test_content_depends_on_the_payload_alone(tmp_path: Path) -> None:
    def later_and_backwards(folder: Path) -> None:
        for name in reversed(PAYLOAD):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(PAYLOAD[name])
            os.utime(folder / name, (1, 1))

    def renamed(folder: Path) -> None:
        write_payload(folder)
        (folder / "notes.txt").rename(folder / "note.txt")

    store = Store(tmp_path)
    content = get_or_make(store, KEY, write_payload).content
    assert get_or_make(store, OTHER, later_and_backwards).content == content
    third = dataclasses.replace(KEY, seed=44)
    assert get_or_make(store, third, renamed).content != content


def test_peek_never_builds_nor_writes(tmp_path: Path) -> None:
    root = tmp_path / "store"
    assert Store(root).peek(KEY) is None
    assert list(tmp_path.iterdir()) == []
    built = get_or_make(Store(root), KEY, write_payload)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert Store(root).peek(KEY) == dataclasses.replace(built, built=False)
    assert get_or_make(Store(root), KEY, never) == Store(root).make_if_free(KEY, never)
    assert Store(root).peek(OTHER) is None
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_the_manifest_holds_key_time_and_provenance(tmp_path: Path) -> None:
    def slow(folder: Path) -> None:
        time.sleep(0.05)
        write_payload(folder)

    entry = get_or_make(Store(tmp_path), KEY, slow)
    folder = entry.path.parent
    subprocess.run(["sha256sum", "--check", "manifest.sha256"], cwd=folder, check=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert KEY.canonical_json == KEY_JSON
    assert manifest["key"] == json.loads(KEY_JSON)
    assert {"python", "platform", "packages", "git", "date"} <= manifest["provenance"].keys()
    assert entry.provenance == manifest["provenance"]
    assert 0.05 <= entry.seconds < 60


def test_an_entry_can_be_deleted_and_is_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = get_or_make(store, KEY, write_payload)
    assert all(path.stat().st_mode & 0o200 for path in first.path.rglob("*"))
    shutil.rmtree(first.path.parent)
    again = get_or_make(store, KEY, write_payload)
    assert again.built
    assert again.content == first.content


# ---- keys (tests/property/test_store_properties.py says what tells two apart) -----------

KEY_JSON = (
    '{"inputs":{"corpus":"' + "ab" * 32 + '"},"seed":42,'
    '"spec":{"__spec__":"Recipe","rate":0.0001,"steps":10},"stage":"train","version":1}'
)


def test_a_key_does_not_follow_later_changes_of_what_it_was_made_from() -> None:
    spec, inputs = {"layers": [1, 2]}, {"corpus": "ab" * 32}
    key = StageKey(stage="train", version=1, spec=spec, inputs=inputs, seed=1)
    before = key.digest
    assert before == hashlib.sha256(key.canonical_json.encode()).hexdigest()
    spec["layers"].append(3)
    inputs["more"] = "cd" * 32
    assert key.digest == before
    assert dict(key.inputs) == {"corpus": "ab" * 32}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stage", "../train"),
        ("stage", "Train"),
        ("stage", ""),
        ("stage", "tmp"),
        ("stage", "locks"),
        ("version", 0),
        ("version", True),
        ("version", "1"),
        ("seed", 1.0),
        ("seed", True),
        ("inputs", {"corpus": "rows.jsonl"}),
        ("inputs", {"corpus": None}),
        ("spec", Path("weights")),
        ("spec", float("nan")),
    ],
)
def test_a_bad_key_is_refused_when_it_is_made(field: str, value: object) -> None:
    changes: dict[str, Any] = {field: value}
    with pytest.raises(SpecError, match=field):
        dataclasses.replace(KEY, **changes)


# ---- verification ---------------------------------------------------------------------


def assert_corrupt(root: Path, name: str) -> None:
    """Both ways to read refuse the entry, name the file and say what to do."""
    reads: list[Callable[[], object]] = [
        lambda: Store(root).peek(KEY),
        lambda: get_or_make(Store(root), KEY, never),
    ]
    for read in reads:
        with pytest.raises(CorruptEntryError) as caught:
            read()
        message = str(caught.value)
        assert name in message
        assert f"Delete the folder {root / 'train' / KEY.digest} and run again" in message


def changed(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def linked(path: Path) -> None:
    path.rename(Path(str(path).partition("/train/")[0]) / "elsewhere")
    path.symlink_to(Path(str(path).partition("/train/")[0]) / "elsewhere")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "last bit": (lambda path: path.write_bytes(changed(path.read_bytes())), ""),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), ""),
    "missing": (Path.unlink, ": is missing"),
    "a link": (linked, ": is not a plain file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), ": is missing"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), ": is not a plain file"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("name", SEALED)
def test_a_damaged_file_is_caught_and_named(name: str, damage: str, tmp_path: Path) -> None:
    path = get_or_make(Store(tmp_path), KEY, write_payload).path.parent / name
    harm, what = DAMAGES[damage]
    harm(path)
    assert_corrupt(tmp_path, f"{name}{what}")


@pytest.mark.parametrize("line", ["", "0" * 63 + "  manifest.json\n", "0" * 64 + "  other.json\n"])
def test_what_is_no_checksum_is_not_blamed_on_the_manifest(line: str, tmp_path: Path) -> None:
    path = get_or_make(Store(tmp_path), KEY, write_payload).path.parent / "manifest.sha256"
    path.write_text(line)
    assert_corrupt(tmp_path, f"{path}: is no checksum of manifest.json")


@pytest.mark.parametrize("name", ["payload/extra", "payload/nested/.hidden", "manifest.json.bak"])
def test_an_extra_file_is_caught_and_named(name: str, tmp_path: Path) -> None:
    (get_or_make(Store(tmp_path), KEY, write_payload).path.parent / name).touch()
    assert_corrupt(tmp_path, f"{name}: is not listed")


def test_an_entry_without_a_manifest_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "train" / KEY.digest / "payload").mkdir(parents=True)
    assert_corrupt(tmp_path, "manifest.json: is missing")


@pytest.mark.parametrize("place", ["", KEY.digest])
@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_a_folder_that_became_something_else_is_named(
    place: str, kind: str, tmp_path: Path
) -> None:
    path = get_or_make(Store(tmp_path), KEY, write_payload).path.parents[0 if place else 1]
    shutil.rmtree(path)
    path.write_text("x") if kind == "file" else path.symlink_to(tmp_path / "none")
    for read in (Store(tmp_path).peek, lambda key: get_or_make(Store(tmp_path), key, never)):
        with pytest.raises(CorruptEntryError, match=f"^{path}: is no folder. Delete it and run"):
            read(KEY)


def test_an_entry_under_the_name_of_another_is_caught(tmp_path: Path) -> None:
    store = Store(tmp_path)
    get_or_make(store, OTHER, write_payload)
    store.folder(OTHER).rename(store.folder(KEY))
    assert_corrupt(tmp_path, "manifest.json: belongs to another key")


def write_manifest(folder: Path, text: str) -> None:
    """Replace an entry's manifest by hand, and its checksum with it."""
    (folder / "manifest.json").write_text(text)
    line = f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n"
    (folder / "manifest.sha256").write_text(line)


def resummed(root: Path, change: Callable[[dict[str, Any]], object] | str) -> None:
    folder = get_or_make(Store(root), KEY, write_payload).path.parent
    if not isinstance(change, str):
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        change = json.dumps(manifest)
    write_manifest(folder, change)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.pop(name)


def having(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.update(fields)


FILE = {"name": "x", "sha256": "0" * 64, "size": 3}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (having(format=2), "format: expected 1, got 2 of another version"),
        (having(format="1"), "format: expected 1, got '1' of another version"),
        (having(content="0" * 64), "states a content digest"),
        (without("format"), "is no manifest ('format')"),
        *((without(name), f"is no manifest (field {name} is missing)")
          for name in ("key", "content", "files", "meta", "seconds", "provenance")),
        (having(files=None), "is no manifest (field files is of type NoneType)"),
        (having(files={}), "is no manifest (field files is of type dict)"),
        (having(files=[3]), "is no manifest (files: no JSON object)"),
        (having(files=[{**FILE, "size": "3"}]), "(files: field size is of type str)"),
        (having(files=[{"name": "x", "size": 3}]), "(files: field sha256 is missing)"),
        (having(files=[{**FILE, "name": 1}]), "(files: field name is of type int)"),
        (having(meta=None), "(field meta is of type NoneType)"),
        (having(meta=[1]), "(field meta is of type list)"),
        (having(seconds="x"), "(field seconds is of type str)"),
        (having(seconds=True), "(field seconds is of type bool)"),
        (having(provenance=[]), "(field provenance is of type list)"),
        (having(cost=3), "(cost: no JSON object)"),
        (having(cost={"tokens": "x"}), "(cost: field tokens is of type str)"),
        (having(key="x"), "(field key is of type str)"),
        (having(key={"x": 1e999}), "is no manifest"),
        ("[]", "is no manifest"),
        ("{", "is no manifest"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        (" " * (4 * 2**20 + 1), "has more than 4,194,304 bytes"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_manifest_that_was_altered_with_its_checksum_is_caught(
    change: Any, what: str, tmp_path: Path
) -> None:
    resummed(tmp_path, change)
    began = time.process_time()
    assert_corrupt(tmp_path, "manifest.json: ")
    assert_corrupt(tmp_path, what)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("name", ["../../notes.txt", "/etc/passwd"])
def test_a_manifest_reaches_no_file_outside_its_entry(name: str, tmp_path: Path) -> None:
    def lists(manifest: dict[str, Any]) -> None:
        manifest["files"].append({**FILE, "name": name})
        pairs = sorted([file["name"], file["sha256"]] for file in manifest["files"])
        text = json.dumps(pairs, separators=(",", ":"))
        manifest["content"] = hashlib.sha256(text.encode()).hexdigest()

    resummed(tmp_path, lists)
    assert_corrupt(tmp_path, f"{name}: is missing")


def before_syncs(patch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Do something with each descriptor before it is synced."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        act(descriptor)
        real(descriptor)

    patch.setattr(os, "fsync", fsync)


def test_a_build_syncs_every_file_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    store = Store(tmp_path)
    before_syncs(monkeypatch, lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    folder = get_or_make(store, KEY, write_payload).path.parent
    expected = [*folder.rglob("*"), folder, folder.parent, tmp_path]
    assert sorted(synced) == sorted(path.stat().st_ino for path in expected)
    assert len(synced) == SYNCS


def test_contents_are_hashed_once_and_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(file.name)
        return real(file, name)

    get_or_make(Store(tmp_path), KEY, write_payload)
    store = Store(tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", counted)
    for _ in range(3):
        store.peek(KEY)
    assert len(hashed) == len(PAYLOAD)
    path = store.folder(KEY) / "payload" / "weights.bin"
    path.write_bytes(PAYLOAD["weights.bin"][::-1])
    with pytest.raises(CorruptEntryError, match=r"weights\.bin"):
        store.peek(KEY)


def test_bytes_that_arrive_after_make_returned_are_caught(tmp_path: Path) -> None:
    """A maker that forgets to close a file must not poison its own process."""
    forgotten: list[Any] = []

    def careless(folder: Path) -> None:
        write_payload(folder)
        forgotten.append((folder / "late.txt").open("w"))
        forgotten[0].write("buffered")

    store = Store(tmp_path)
    get_or_make(store, KEY, careless)
    forgotten[0].close()
    with pytest.raises(CorruptEntryError, match=r"late\.txt: has 8 bytes instead of 0"):
        get_or_make(store, KEY, never)


# ---- failures while building ----------------------------------------------------------


def assert_nothing_stored(root: Path) -> None:
    assert leftovers(root) == []
    assert not (root / "train" / KEY.digest).exists()
    assert get_or_make(Store(root), KEY, write_payload).built


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), PermissionError(13, "x")])
def test_what_make_raises_comes_through(error: BaseException, tmp_path: Path) -> None:
    def fails(folder: Path) -> NoReturn:
        write_payload(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        get_or_make(Store(tmp_path), KEY, fails)
    assert caught.value is error
    assert_nothing_stored(tmp_path)


@pytest.mark.parametrize(
    ("make", "error", "what"),
    [
        (lambda f: (f / "empty").mkdir(), StoreError, "stage train wrote no file"),
        (lambda f: (f / "link").symlink_to("x"), StoreError, "link: not a plain file"),
        (lambda f: os.mkfifo(f / "pipe"), StoreError, "pipe: not a plain file"),
        *((lambda f, meta=meta: (write_payload(f), meta)[1], DataError, "meta of stage train")
          for meta in ({"loss": float("nan")}, {"path": Path("x")}, 7, {"log": "x" * 2**22})),
    ],
)  # fmt: skip
def test_what_cannot_be_an_entry_is_an_error(
    make: Any, error: type[Exception], what: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=what):
        get_or_make(Store(tmp_path), KEY, make)
    assert_nothing_stored(tmp_path)


@pytest.mark.parametrize(
    ("call", "code"), [*((n, errno.ENOSPC) for n in range(SYNCS)), (3, errno.EROFS), (3, errno.EIO)]
)
def test_a_disk_that_fails_while_sealing_is_a_store_error(
    call: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = Store(tmp_path), iter(range(100))

    def failing(_: int) -> None:
        if next(calls) == call:
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        before_syncs(patch, failing)
        with pytest.raises(StoreError, match=rf"{KEY.digest}\..*: cannot write .*run again"):
            get_or_make(store, KEY, write_payload)
    assert leftovers(tmp_path) == []
    assert get_or_make(store, KEY, write_payload).built == (call < SYNCS_BEFORE)


IN_THE_WAY = ("file", "file/store", "file/a/b", "store", "store/tmp", "store/locks")


@pytest.mark.parametrize("place", [*IN_THE_WAY, "/proc/flatland", "/proc", "/dev/null"])
def test_a_store_that_cannot_be_written_is_named_before_anything_is_built(
    place: str, tmp_path: Path
) -> None:
    if place in IN_THE_WAY:
        file = tmp_path / ("file" if place.startswith("file") else place)
        file.parent.mkdir(exist_ok=True)
        file.write_text("in the way")
    root = tmp_path / ("store" if place.startswith("store") else place)
    assert Store(root).peek(KEY) is None
    with pytest.raises(
        UnwritableStoreError,
        match=f"^{tmp_path / place}: cannot be created or written .*, and train is not stored. "
        "Make it a writable folder, or choose another place",
    ):
        get_or_make(Store(root), KEY, never)


def test_trying_a_store_leaves_nothing_behind(tmp_path: Path) -> None:
    opened(tmp_path / "new" / "store")
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert names == {"new", "new/store", "new/store/tmp", "new/store/locks"}


# ---- threads and processes ------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_threads_build_once(shared: bool, tmp_path: Path) -> None:
    builds: list[Path] = []
    store, start = Store(tmp_path), threading.Barrier(6)

    def slow(folder: Path) -> None:
        builds.append(folder)
        time.sleep(0.05)
        write_payload(folder)

    def want(_: int) -> Entry:
        mine = store if shared else Store(tmp_path)
        start.wait()
        return get_or_make(mine, KEY, slow)

    with ThreadPoolExecutor(6) as pool:
        entries = list(pool.map(want, range(6)))
    assert len(builds) == 1
    assert sum(entry.built for entry in entries) == 1
    assert len({entry.content for entry in entries}) == 1


@contextmanager
def built_elsewhere(
    root: Path, key: StageKey = KEY, *, fails: bool = False, command: str | None = None
) -> Iterator[tuple[threading.Event, Future[Entry]]]:
    """Another thread builds a key until the event is set; with the future of its entry."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        write_payload(folder)
        begun.set()
        assert go_on.wait(60)
        if fails:
            raise ValueError("no")

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(get_or_make, Store(root, command=command), key, slow)
        assert begun.wait(60)
        try:
            yield go_on, future
        finally:
            go_on.set()


def test_a_waiter_says_so_once_and_gets_what_the_other_built(tmp_path: Path) -> None:
    sentences: list[str] = []
    with built_elsewhere(tmp_path) as (go_on, first):
        waiter = Store(tmp_path, on_wait=lambda text: (sentences.append(text), go_on.set()))
        second = get_or_make(waiter, KEY, never)
        assert first.result().content == second.content
    get_or_make(waiter, OTHER, write_payload)
    assert len(sentences) == 1


def test_a_waiter_builds_when_the_builder_fails(tmp_path: Path) -> None:
    with built_elsewhere(tmp_path, fails=True) as (go_on, first):
        waiter = Store(tmp_path, on_wait=lambda _: go_on.set())
        assert get_or_make(waiter, KEY, write_payload).built
        with pytest.raises(ValueError, match="no"):
            first.result()


def left_behind(root: Path, name: str, *, hours: float) -> Path:
    folder = root / "tmp" / name
    (folder / "payload").mkdir(parents=True)
    (folder / "payload" / "weights.bin").write_bytes(b"half")
    then = time.time() - hours * 3600
    os.utime(folder, (then, then))
    return folder


@pytest.mark.parametrize("name", [f"{OTHER.digest}.", "gone-", "failed-"])
def test_opening_removes_what_was_left_long_ago_by_whoever_is_dead(
    name: str, tmp_path: Path
) -> None:
    opened(tmp_path)
    left_behind(tmp_path, f"{name}{'a' * 16}", hours=25)
    young = left_behind(tmp_path, f"{name}{'b' * 16}", hours=23)
    foreign = left_behind(tmp_path, "somebody's notes", hours=1000)
    opened(tmp_path)
    assert set(leftovers(tmp_path)) == {young, foreign}
    assert read_payload(get_or_make(Store(tmp_path), KEY, write_payload)) == PAYLOAD


def test_a_live_build_of_another_key_is_left_alone_however_old_it_is(tmp_path: Path) -> None:
    with built_elsewhere(tmp_path, OTHER) as (go_on, other):
        (work,) = leftovers(tmp_path)
        os.utime(work, (1, 1))
        get_or_make(Store(tmp_path), KEY, write_payload)
        assert leftovers(tmp_path) == [work]
        go_on.set()
        assert read_payload(other.result()) == PAYLOAD
    assert get_or_make(Store(tmp_path), OTHER, never)


def test_rubbish_that_cannot_be_removed_does_not_keep_a_store_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path)
    left_behind(tmp_path, f"{OTHER.digest}.{'a' * 16}", hours=25)

    def refuses(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr("persona_lib.store.store.FileLock", refuses)
        opened(tmp_path)
    assert len(leftovers(tmp_path)) == 1


# It imports the store alone, so that starting it is quick.
CHILD = """
import json, os, shutil, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from persona_lib.store.store import StageKey, Store

root, die, source = Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
key = StageKey(**json.loads(sys.argv[5]))
calls = iter(range(100))
real_fsync, real_replace = os.fsync, os.replace
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)

def fsync(descriptor):
    if die == f"fsync {next(calls)}":
        kill()
    real_fsync(descriptor)

def replace(source, target):
    if die == "before rename":
        kill()
    real_replace(source, target)
    if die == "after rename":
        kill()

def make(folder):
    with (root / "builds").open("a") as side:
        side.write("built\\n")
    shutil.copytree(source, folder, dirs_exist_ok=True)
    if die == "make":
        (folder / "notes.txt").write_bytes(b"three r")
        kill()
    time.sleep(60 if die == "hang" else 0)
    return {"loss": 0.25, "pair": [1, 2]}

os.fsync, os.replace = fsync, replace
Store(root).make_if_free(key, make)
"""


def start_child(root: Path, die: str, calm: Entry) -> subprocess.Popen[str]:
    """Start a process that builds `KEY` in `root`, and dies at `die`."""
    arguments = (REPOSITORY, root, die, calm.path, KEY.canonical_json)
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


UNFINISHED = ("make", *(f"fsync {n}" for n in range(SYNCS_BEFORE)), "before rename")
FINISHED = ("after rename", *(f"fsync {n}" for n in range(SYNCS_BEFORE, SYNCS)))


@pytest.mark.parametrize("die", [*UNFINISHED, *FINISHED])
def test_a_killed_builder_leaves_all_or_nothing(die: str, tmp_path: Path) -> None:
    uninterrupted = get_or_make(Store(tmp_path / "calm"), KEY, write_payload)
    root = tmp_path / "killed"
    opened(root)
    live = root / "tmp" / f"{OTHER.digest}.0"
    live.mkdir()

    child = start_child(root, die, uninterrupted)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert (Store(root).peek(KEY) is not None) == (die in FINISHED)

    make: Callable[[Path], Any] = never if die in FINISHED else write_payload
    entry = get_or_make(Store(root), KEY, make)
    assert (entry.content, entry.meta) == (uninterrupted.content, uninterrupted.meta)
    assert read_payload(entry) == PAYLOAD
    assert leftovers(root) == [live]


def test_a_waiter_takes_over_from_a_killed_builder(tmp_path: Path) -> None:
    calm = get_or_make(Store(tmp_path / "calm"), KEY, write_payload)
    child = start_child(tmp_path, "hang", calm)
    wait_for(tmp_path / "builds")
    entry = get_or_make(Store(tmp_path, on_wait=lambda _: child.kill()), KEY, write_payload)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert entry.built
    assert entry.content == calm.content
    assert leftovers(tmp_path) == []
