"""Answers that were paid for, in one SQLite file, so that nobody pays for them again.

A row is found by its key alone: SHA-256 over the judge's spec, persona, question and text.
The file holds answers, no texts and no errors. ``synchronous = FULL`` brings an answer to
disk before `put` returns; triggers refuse to change or delete a row. The file has to lie on a
disk of this machine: SQLite's write-ahead log does not work across a network.

A run holds the lock of its judge from its first look to its last answer, so that processes
with the same judge take turns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from filelock import FileLock

from persona_lib.errors import CorruptEntryError, UnwritableStoreError
from persona_lib.panels.judge.triples import ANSWERS

FORMAT = 1
"""Version of the table, kept in the file."""

_LOCK_DIGITS = 16
_BUSY_SECONDS = 60.0
_TABLE = """
CREATE TABLE IF NOT EXISTS judgements (
    key TEXT PRIMARY KEY CHECK (length(key) = 64),
    judge TEXT NOT NULL CHECK (length(judge) = 64),
    answer TEXT NOT NULL CHECK (answer IN ({answers})),
    model TEXT NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER
) STRICT;
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON judgements
BEGIN SELECT RAISE(ABORT, 'a judgement is never changed'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON judgements
BEGIN SELECT RAISE(ABORT, 'a judgement is never deleted'); END;
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bought:
    """One answer.

    Attributes:
        key: see `persona_lib.panels.judge.base.key_of`.
        judge: digest of the judge's spec.
        answer: one of those that the file was made for.
        model: name of the model that answered, as the server gave it; "" if it did not.
        input_tokens, output_tokens: what it took; None where not counted.
    """

    key: str
    judge: str
    answer: str
    model: str
    input_tokens: int | None
    output_tokens: int | None


_COLUMNS = tuple(field.name for field in fields(Bought))


@dataclass(frozen=True)
class JudgementCache:
    """The judgements of one file, as `open_cache` opens it."""

    path: Path
    connection: sqlite3.Connection

    def get(self, keys: Iterable[str]) -> dict[str, Bought]:
        """Return what is there of these keys.

        Raises:
            CorruptEntryError: the file is damaged.
        """
        found = {}
        with _reported(self.path):
            for key in keys:
                row = self.connection.execute(
                    f"SELECT {', '.join(_COLUMNS)} FROM judgements WHERE key = ?",  # noqa: S608
                    (key,),
                ).fetchone()
                if row is not None:
                    found[key] = Bought(**dict(zip(_COLUMNS, row, strict=True)))
        return found

    def put(self, bought: Bought) -> None:
        """Bring one answer to disk. The first answer to a key stands.

        Raises:
            UnwritableStoreError: the disk is full, or the like.
            CorruptEntryError: the file is damaged, or the answer outside the vocabulary.
        """
        with _reported(self.path):
            self.connection.execute(
                "INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                astuple(bought),
            )


@contextmanager
def open_cache(
    path: Path, *, judge: str, answers: Sequence[str] = ANSWERS
) -> Iterator[JudgementCache]:
    """Open a cache and hold its judge's lock for as long.

    Args:
        path: the file; it and its folder are made where they are missing.
        judge: digest of the judge's spec.
        answers: the vocabulary of a new file.

    Raises:
        UnwritableStoreError: folder or file cannot be written.
        CorruptEntryError: the file is no cache, or a damaged one.
    """
    lock = FileLock(path.with_name(f"{path.name}.{judge[:_LOCK_DIGITS]}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    try:
        with _reported(path):
            # Every statement is its own transaction: it is on disk when it returns.
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        with closing(connection):
            with _reported(path), FileLock(path.with_name(f"{path.name}.lock")):
                _prepare(path, connection, answers)
            yield JudgementCache(path, connection)
    finally:
        lock.release()


def _prepare(path: Path, connection: sqlite3.Connection, answers: Sequence[str]) -> None:
    """Check that the file is a cache, and make its table where it is empty."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {row[0] for row in connection.execute("SELECT tbl_name FROM sqlite_master")}
    if version not in (0, FORMAT) or not tables <= {"judgements"}:
        raise CorruptEntryError(
            f"{path}: not a cache of judgements: format: expected {FORMAT}, got {version}. "
            "Choose another file, or read it with the version of Flatland that wrote it."
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if version == 0:
        words = ", ".join(f"'{answer}'" for answer in answers)
        connection.executescript(_TABLE.replace("{answers}", words))
        connection.execute(f"PRAGMA user_version = {FORMAT}")


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unwritable(path, error) from error
    except sqlite3.Error as error:
        raise CorruptEntryError(
            f"{path}: {error}. Move the file away: its answers would be bought again."
        ) from error


def _unwritable(path: Path, why: object) -> UnwritableStoreError:
    return UnwritableStoreError(f"{path}: {why}. Choose another place for the judge's cache.")
