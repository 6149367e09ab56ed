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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Self

from filelock import FileLock

from persona_lib.errors import CorruptEntryError, StoreError, UnwritableStoreError

FORMAT = 1
"""Version of the table, kept in the file."""

_LOCK_DIGITS = 16
_BUSY_SECONDS = 60.0
_TABLE = """
CREATE TABLE IF NOT EXISTS judgements (
    key TEXT PRIMARY KEY CHECK (length(key) = 64),
    judge TEXT NOT NULL CHECK (length(judge) = 64),
    answer TEXT NOT NULL CHECK (answer IN ('yes', 'partial', 'no')),
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
        answer: one of `ANSWERS`.
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


class JudgementCache:
    """The judgements of one file, for one judge; a context manager that holds its lock.

    Args:
        path: the file; it and its folder are made where they are missing.
        judge: digest of the judge's spec.
    """

    def __init__(self, path: Path, *, judge: str) -> None:
        self.path = path
        self._judge = judge
        self._lock = FileLock(path.with_name(f"{path.name}.{judge[:_LOCK_DIGITS]}.lock"))
        self._open: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        """Wait for the lock, then open the file.

        Raises:
            UnwritableStoreError: folder or file cannot be written.
            CorruptEntryError: the file is no cache, or a damaged one.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise UnwritableStoreError(
                f"{self.path}: {error.strerror}. Choose another place for the judge's cache."
            ) from error
        try:
            with self._reported(), FileLock(self.path.with_name(f"{self.path.name}.lock")):
                self._open = self._connect()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
        self._lock.release()

    def get(self, keys: Iterable[str]) -> dict[str, Bought]:
        """Return what is there of these keys.

        Raises:
            CorruptEntryError: the file is damaged.
        """
        found = {}
        with self._reported():
            for key in keys:
                row = self._connection.execute(
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
        with self._reported():
            self._connection.execute(
                "INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                astuple(bought),
            )

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            raise StoreError(f"{self.path}: not open. Use the cache as a context manager.")
        return self._open

    def _connect(self) -> sqlite3.Connection:
        # Every statement is its own transaction: it is on disk when it returns.
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = {row[0] for row in connection.execute("SELECT tbl_name FROM sqlite_master")}
            if version not in (0, FORMAT) or not tables <= {"judgements"}:
                raise CorruptEntryError(
                    f"{self.path}: not a cache of judgements of format {FORMAT}. "
                    "Choose another file."
                )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if version == 0:
                connection.executescript(_TABLE)
                connection.execute(f"PRAGMA user_version = {FORMAT}")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UnwritableStoreError(
                f"{self.path}: {error}. Choose another place for the judge's cache."
            ) from error
        except sqlite3.Error as error:
            raise CorruptEntryError(
                f"{self.path}: {error}. Move the file away: its answers would be bought again."
            ) from error
