"""Stored files that no parser should see: each ends in its named error, soon and small."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persona_lib.errors import DataError
from persona_lib.evidence import bounded
from persona_lib.evidence.load import load_stored
from tests.pace import allowed
from tests.record_sets import body_of, record_set
from tests.registered import ISSUE262
from tests.synthetic import with_column

ROOT = Path(__file__).resolve().parents[2]
HEAD = b"arm,seed,persona,question,sample,hit\n"
LINE = b"C1,42,librarian,q0,0,1\n"
ROW = {"arm": "C1", "seed": 42, "persona": "librarian", "question": "q0", "sample": 0, "hit": True}
MIB = 2**20


def packed(path: Path, head: bytes, block: bytes, mib: int) -> None:
    """Write a head and so many MiB of a block, packed."""
    with gzip.open(path, "wb", 6) as file:
        file.write(head)
        for _ in range(mib):
            file.write(block * (MIB // len(block)))


def table(rows: int, **columns: object) -> pa.Table:
    made = {name: pa.array([value]).dictionary_encode() if isinstance(value, str) else
            pa.array([value]) for name, value in (ROW | columns).items()}  # fmt: skip
    return pa.table(made).take(pa.array([0] * rows))


def repeated(path: Path, part: pa.Table, times: int, **options: Any) -> None:
    """Write rows so many times over."""
    with pq.ParquetWriter(path, part.schema, compression="zstd", **options) as writer:
        for _ in range(times):
            writer.write_table(part)


def plain_names(path: Path) -> None:
    """Names of 2 MB each: 320 MB that pack to a few kilobytes, in no dictionary."""
    part = table(80, question="q" * 2_000_000)
    part = with_column(part, "question", part["question"].cast(pa.string()))
    repeated(path, part, 2, use_dictionary=False)


def dense(path: Path) -> None:
    """14,080 rows whose seed and question are unique: 8.7 thousand million cells."""
    cells = product(("C1", "C2", "C2p", "C3"), ISSUE262.roster.all, range(320))
    lines = [f"{arm},{i},{who},r{i},0,{i % 2}" for i, (arm, who, _) in enumerate(cells)]
    path.write_bytes(HEAD + "\n".join(lines).encode())


def nul_in_manifest(path: Path) -> None:
    record_set(path, pa.table({}))
    body = body_of(path)
    body["files"] = {"a\0b": {"sha256": "0" * 64}, **body["files"]}
    (path / "manifest.json").write_text(json.dumps(body))


def piped(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        record_set(path, pa.table({}))
        (path / name).unlink()
        os.mkfifo(path / name)

    return make


WIDE = {f"c{i}": i for i in range(100_000)}
DEEP = '{"arm": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
CASES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "rows of CSV": ("b.csv", lambda p: p.write_bytes(HEAD + LINE * 2_000_001),
                    "b.csv: rows: expected at most 2,000,000 rows"),
    "rows of JSON": ("b.jsonl", lambda p: p.write_bytes(b"{}\n" * 2_000_001),
                     "b.jsonl: rows: expected at most 2,000,000 rows"),
    "rows of Parquet": ("b.parquet", lambda p: repeated(p, table(1_000_000), 3),
                        "b.parquet: rows: expected at most 2,000,000 rows, got '3,000,000'"),
    "packed CSV": ("b.csv.gz", lambda p: packed(p, HEAD, LINE, 40),
                   "bytes unpacked, 200 for each packed one, got 'more'"),
    "packed JSON": ("b.jsonl.gz", lambda p: packed(p, b"", json.dumps(ROW).encode() + b"\n", 40),
                    "bytes unpacked, 200 for each packed one, got 'more'"),
    "one endless cell": ("b.csv", lambda p: p.write_bytes(HEAD + b'"' + b"a" * (60 * MIB)),
                         "at most 4,194,304 bytes"),
    "one endless line": ("b.jsonl.gz", lambda p: packed(p, b'{"a": "', b"a", 12),
                         "size of row 1: expected at most 4,194,304 bytes"),
    "a long name in a dictionary": (
        "b.parquet", lambda p: pq.write_table(table(1_000, question="q" * 2_000_000), p),
        "column question: expected at most 1,000 bytes a cell, got '2,000,000'"),
    "long names": ("b.parquet", plain_names,
                   "b.parquet: size of the columns: expected at most 268,435,456 bytes"),
    "columns of CSV": ("b.csv", lambda p: p.write_text(",".join(WIDE) + "\n"),
                       "b.csv: columns: expected at most 1,000 columns, got '100,000'"),
    "columns of JSON": ("b.jsonl", lambda p: p.write_text(json.dumps(ROW | WIDE)),
                        "b.jsonl: columns: expected at most 1,000 columns, got '100,006'"),
    "deep lists": ("b.jsonl", lambda p: p.write_text(DEEP), "nested more than 32 deep"),
    "deep objects": ("b.jsonl", lambda p: p.write_text('{"a": ' * 2_000 + "1" + "}" * 2_000),
                     "more than 32 deep"),
    "deep over lines": ("b.jsonl", lambda p: p.write_text('{"arm": ["]",\n' * 100_000),
                        "JSON lines"),
    "deep manifest": ("set", lambda p: (p.mkdir(), (p / "manifest.json").write_text(DEEP)),
                      "manifest.json"),
    "dense grid": ("b.csv", dense, "scores: cells: expected at most 16 for each of 14,080 rows, "
                   "got '4 models x 14,080 seeds x 11 personas x 14,080 questions'"),
    "a pipe": ("b.csv", os.mkfifo, "b.csv: expected a plain file"),
    "a pipe without suffix": ("pipe", os.mkfifo, "pipe: expected a plain file"),
    "an endless device": ("b.csv", lambda p: p.symlink_to("/dev/zero"), "expected a plain file"),
    "a pipe as manifest": ("set", piped("manifest.json"), "manifest.json: expected a plain file"),
    "a pipe as scores": ("set", piped("scores.parquet"), "scores.parquet: expected a plain file"),
    "a NUL in a manifest": ("set", nul_in_manifest, r"expected plain file names, got 'a\x00b"),
    "rows of a set": ("set", lambda p: record_set(p, table(2_000_001)),
                      "scores.parquet: rows: expected at most 2,000,000 rows"),
}  # fmt: skip

PROBE = """
import json, sys, time
from pathlib import Path
from tests.registered import ISSUE262
from persona_lib.errors import DataError
from persona_lib.evidence.load import load_stored
found = {}
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        load_stored(Path(path), ISSUE262)
        found[path] = ["judged", 0]
    except DataError as error:
        found[path] = [str(error), time.process_time() - start]
# Not by resource, which counts the parent's memory from before exec as well.
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({"found": found, "peak": int(status["VmHWM"].split()[0]) / 1024}))
"""


def test_each_ends_in_its_named_error_within_two_seconds_and_500_mib(tmp_path: Path) -> None:
    """Processor time of each, and the memory of all together in one process."""
    paths = {}
    for i, (case, (name, make, _)) in enumerate(CASES.items()):
        (tmp_path / str(i)).mkdir()
        paths[case] = str(tmp_path / str(i) / name)
        make(Path(paths[case]))
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *paths.values()],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    for case, (_, _, words) in CASES.items():
        message, seconds = answer["found"][paths[case]]
        assert words in message, f"{case}: {message}"
        assert "expected" in message, case
        assert seconds < allowed(2), case
    assert answer["peak"] < 500


def test_what_lies_at_the_bounds_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row too many, and a byte too many, are refused; the last that are allowed are not."""
    rows = [f"C1,42,{who},q0,{i},{i % 2}" for who in ISSUE262.roster.all for i in range(4)]
    path = tmp_path / "a.csv"
    path.write_bytes(HEAD + "\n".join(rows).encode() + b"\n")
    monkeypatch.setattr(bounded, "MOST_BYTES", path.stat().st_size)
    assert load_stored(path, ISSUE262, arms=("C1",)).count("C1", "source").n == 4
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(DataError, match=r"a\.csv: size: expected at most .* bytes"):
        load_stored(path, ISSUE262, arms=("C1",))
