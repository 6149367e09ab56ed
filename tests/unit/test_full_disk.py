"""A full disk, a quota, a file limit: one error of the store, whatever library wrote."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from safetensors import SafetensorError

from persona_lib.errors import DataError, StoreError
from persona_lib.store.store import Store
from tests.unit.test_store import KEY, get_or_make, leftovers, write_payload

LIMIT = 100_000
FILE = "weights.npy"  # np.save would add the ending itself
NUMBERS = np.random.default_rng(0).random(50_000)


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit` bytes: EFBIG, as from ``ulimit -f``."""
    # Python ignores SIGXFSZ, which would end the process.
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- real writers under a real limit ----------------------------------------------------


def save_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {f"word{n}": n for n in range(9_000)}
    Tokenizer(models.WordLevel(words, unk_token="word0")).save(str(path))


def save_gzip(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        file.write(NUMBERS.tobytes())


def save_torch(path: Path, *, zipped: bool) -> None:
    import torch

    torch.save(torch.from_numpy(NUMBERS), path, _use_new_zipfile_serialization=zipped)


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: safetensors.numpy.save_file({"x": NUMBERS}, path),
    "parquet": lambda path: pq.write_table(pa.table({"x": NUMBERS}), path),
    "tokenizer": save_tokenizer,
    "text": lambda path: path.write_text(json.dumps(NUMBERS.tolist())),
    "gzip": save_gzip,
    "npy": lambda path: np.save(path, NUMBERS),
    "npz": lambda path: np.savez(path, x=NUMBERS),
    "tofile": NUMBERS.tofile,
    "torch": lambda path: save_torch(path, zipped=True),
    "torch, old form": lambda path: save_torch(path, zipped=False),
}


def writing(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        WRITERS[name](folder / FILE)

    return make


@pytest.mark.parametrize("name", list(WRITERS))
def test_nothing_that_was_cut_short_is_stored_whoever_writes(name: str, tmp_path: Path) -> None:
    """Some writers lose their last block in silence: numpy's `tofile` does."""
    writing(name)(tmp_path)
    (file,) = tmp_path.iterdir()
    size = file.stat().st_size
    assert size > LIMIT
    root = tmp_path / "store"
    store = Store(root)
    for limit in (LIMIT, *(size - missing for missing in (1, 7, 8, 100, 4_000, 5_000))):
        with at_most(limit), pytest.raises(StoreError) as caught:
            get_or_make(store, KEY, writing(name))
        text = str(caught.value)
        assert text.startswith(f"{root / 'tmp' / KEY.digest}.")
        assert "cannot write (File too large; " in text
        assert f"this process may write at most {limit:,} bytes to a file (ulimit -f)" in text
        assert text.endswith(
            "Raise the limit (ulimit -f unlimited), or put the store on another disk "
            "(--store=DIR), then run again."
        )
        assert store.peek(KEY) is None
        assert leftovers(root) == []
    assert get_or_make(store, KEY, write_payload).built


def test_a_file_within_the_limit_is_stored(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "x").write_bytes(b"x" * 199_999)

    with at_most(200_000):
        assert get_or_make(Store(tmp_path), KEY, make).built


# ---- what a full disk makes libraries say -----------------------------------------------

FULL = "No space left on device"


def wrapped(outer: Exception, inner: Exception, *, how: str) -> Exception:
    """Raise `outer` because of `inner`, while handling it, or while hiding it."""
    try:
        try:
            raise inner
        except Exception as error:
            if how == "cause":
                raise outer from error
            if how == "hidden":
                raise outer from None
            raise outer  # noqa: B904  (that is the case)
    except Exception as error:
        return error


def caused(outer: Exception, inner: Exception) -> Exception:
    """An error that was given its cause outside of any handler, as executors do."""
    outer.__cause__ = inner
    return outer


FULL_DISKS: dict[str, Exception] = {
    "safetensors": SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)"),
    "rust": Exception(f"{FULL} (os error 28)"),
    "arrow": OSError(28, f"[Errno 28] Error writing bytes to file. Detail: [errno 28] {FULL}"),
    "arrow without a number": OSError(f"Error writing bytes to file. Detail: [errno 28] {FULL}"),
    "torch, old form": RuntimeError(f"write(): fd 3 failed with {FULL}"),
    "the system": OSError(28, FULL),
    "words alone": RuntimeError(f"could not flush: {FULL}"),
    "cause": wrapped(RuntimeError("saving failed"), OSError(28, FULL), how="cause"),
    "context": wrapped(ValueError("half a file"), OSError(28, FULL), how="context"),
    "hidden": wrapped(ValueError("half a file"), OSError(28, FULL), how="hidden"),
    "cause alone": caused(RuntimeError("a worker failed"), OSError(28, FULL)),
    "deep": wrapped(
        ValueError("a"), wrapped(KeyError("b"), SafetensorError("os error 28"), how="cause"),
        how="context",
    ),
}  # fmt: skip


def raised(error: BaseException, root: Path) -> Exception:
    """What the store raises where a maker raises `error`."""

    def make(folder: Path) -> NoReturn:
        write_payload(folder)
        raise error

    with pytest.raises(Exception) as caught:  # noqa: PT011  (any: its type is what is tested)
        get_or_make(Store(root), KEY, make)
    return caught.value


@pytest.mark.parametrize("case", list(FULL_DISKS))
def test_a_full_disk_is_named_with_what_is_free(case: str, tmp_path: Path) -> None:
    found = raised(FULL_DISKS[case], tmp_path)
    assert type(found) is StoreError
    assert str(found).startswith(f"{tmp_path / 'tmp' / KEY.digest}.")
    assert f"cannot write ({FULL}; " in str(found)
    total = shutil.disk_usage(tmp_path).total
    assert f" of {total:,} bytes are free there now)" in str(found)
    assert "Free space on that disk, or put the store on another disk (--store=DIR)" in str(found)
    assert found.__cause__ is FULL_DISKS[case]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EDQUOT, "Free some of this account's quota"),
        (errno.EROFS, "Make that disk writable"),
        (errno.EFBIG, "Raise the limit"),
    ],
)
@pytest.mark.parametrize("quoted", [True, False])
def test_each_refusal_has_its_own_remedy(
    code: int, remedy: str, quoted: bool, tmp_path: Path
) -> None:
    error = SafetensorError(f"I/O error: x (os error {code})") if quoted else OSError(code, "x")
    text = str(raised(error, tmp_path))
    assert f"cannot write ({os.strerror(code)}; " in text
    assert f"). {remedy}" in text
    assert "ulimit -f)" not in text  # there is no limit here to be named


def test_a_limit_that_was_not_met_is_not_named(tmp_path: Path) -> None:
    with at_most(LIMIT):
        text = str(raised(OSError(errno.ENOSPC, FULL), tmp_path))
    assert FULL in text
    assert "ulimit" not in text


def statvfs_with(patch: pytest.MonkeyPatch, **values: int) -> None:
    real = os.statvfs
    names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree",
             "f_favail", "f_flag", "f_namemax")  # fmt: skip

    def statvfs(path: Any) -> os.statvfs_result:
        state = real(path)
        return os.statvfs_result([values.get(name, getattr(state, name)) for name in names])

    patch.setattr(os, "statvfs", statvfs)


@pytest.mark.parametrize(
    "error",
    [OSError("12 requested and 5 written"), RuntimeError("PytorchStreamWriter failed"),
     ValueError("28 rows of 27")],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("free", [0, 1])
def test_a_short_write_without_a_reason_is_a_full_disk_if_the_disk_is_full(
    error: Exception, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statvfs_with(monkeypatch, f_bavail=free)
    full = free == 0 and not isinstance(error, ValueError)
    found = raised(error, tmp_path)
    assert type(found) is (StoreError if full else type(error))
    assert (FULL in str(found)) == full


def test_a_disk_that_can_hold_no_more_files_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statvfs_with(monkeypatch, f_files=1000, f_ffree=0, f_favail=0)
    text = str(raised(OSError(errno.ENOSPC, FULL), tmp_path))
    assert "bytes are free there now; no more files can be made there" in text


# ---- what is no full disk ---------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("No such file or directory (os error 2)"),
        SafetensorError("Error while deserializing header: invalid header length"),
        ValueError("28 rows of 27"),
        OSError(errno.ENOENT, "gone"),
        OSError(errno.EIO, "broken"),
        MemoryError("28"),
        RuntimeError("write failed"),
        wrapped(
            DataError("rows", bound="whole", value=1, remedy="Mend it."),
            OSError(errno.ENOSPC, FULL),
            how="cause",
        ),
    ],
    ids=str,
)
def test_another_error_comes_through_as_it_is(error: Exception, tmp_path: Path) -> None:
    assert raised(error, tmp_path) is error


def test_only_a_full_disk_below_the_store_is_blamed_on_it(tmp_path: Path) -> None:
    elsewhere = OSError(errno.ENOSPC, FULL, "/var/cache/weights")
    error = wrapped(RuntimeError(f"cannot fetch: {FULL}"), elsewhere, how="cause")
    assert raised(error, tmp_path) is error
    assert raised(elsewhere, tmp_path) is elsewhere
    gone = FileNotFoundError(errno.ENOENT, "gone", "/var/cache/weights")
    found = raised(wrapped(SafetensorError("os error 28"), gone, how="context"), tmp_path)
    assert type(found) is StoreError
    assert FULL in str(found)


@pytest.mark.parametrize("followed", [True, False])
def test_a_file_of_the_stage_is_named_even_through_a_link(followed: bool, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    def make(folder: Path) -> NoReturn:
        place = folder.resolve() if followed else folder
        raise OSError(errno.ENOSPC, FULL, str(place / "model.safetensors"))

    with pytest.raises(StoreError, match=r"model\.safetensors: cannot write"):
        get_or_make(Store(tmp_path / "link"), KEY, make)
