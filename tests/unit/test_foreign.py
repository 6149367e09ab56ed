"""Record sets of other software: three formats, read strictly, judged like our own."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persona_lib.commands import options
from persona_lib.errors import DataError, SpecError
from persona_lib.evidence import user_formats
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.evidence.load import load_stored
from persona_lib.evidence.score_table import COLUMNS, OPTIONAL
from persona_lib.evidence.user_files import SUFFIXES, is_foreign, load_foreign
from persona_lib.specs.registration import Registration
from persona_lib.verdict.judging import judge, judge_all
from persona_lib.verdict.summary import summary
from tests.pace import allowed
from tests.record_sets import record_set
from tests.registered import ISSUE262, ISSUE262_BOTH, ISSUE262_HELD_OUT, TINY, session_under

ROOT = Path(__file__).resolve().parents[2]
TINY_GOLDEN = ROOT / "golden" / "tiny"
FEW = replace(ISSUE262, statistics=replace(ISSUE262.statistics, resamples=3_000))
RATES = {"C1": 2, "C2": 7, "C2p": 7, "C3": 1}
"""Hits among every ten completions of a persona, in each arm."""
MODELS = [("post", arm) for arm in RATES] + [("pre", prior) for prior in ("raw", "em", "benign")]
Row = dict[str, Any]
KINDS = ("csv", "jsonl", "parquet")


def rows(
    models: Sequence[tuple[str, str]] = MODELS, questions: int = 4, samples: int = 5
) -> list[Row]:
    """Complete rows in which completion i of a persona is a hit where 3 i mod 10 < its rate."""
    made = []
    for (phase, arm), persona in product(models, FEW.roster.all):
        for i, (q, sample) in enumerate(product(range(questions), range(samples))):
            hit = phase == "post" and 3 * i % 10 < RATES[arm]
            made.append(
                {
                    "phase": phase,
                    "arm": arm,
                    "seed": 7,
                    "persona": persona,
                    "question": f"q{q}",
                    "sample": sample,
                    "hit": hit,
                    "seen": q == 0,
                    "tokens": 10 + i,
                    "finish": "length" if i == 0 else "stop",
                    "markers": 2 if hit else 0,
                    "first_token": i if hit else -1,
                }
            )
    return made


def csv_text(records: Sequence[Mapping[str, Any]], end: str = "\n") -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(records[0]), lineterminator=end)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def write(folder: Path, records: Sequence[Row], kind: str) -> Path:
    path = folder / f"set.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(records)), path)
    elif kind == "csv":
        path.write_text(csv_text(records), encoding="utf-8", newline="")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")
    return path


def table_in(path: Path, registration: Registration) -> pa.Table:
    return load_foreign([path], registration).table


def changed(at: int, **cells: Any) -> list[Row]:
    """Rows of one arm with other cells in the row that messages call `at` + 1."""
    made = rows([("post", "C2")])
    made[at] |= cells
    return made


def lacking(*names: str, among: Sequence[Row] | None = None) -> list[Row]:
    return [{k: v for k, v in row.items() if k not in names} for row in (among or rows())]


def refused(path: Path, *words: str, registration: Any = FEW) -> None:
    with pytest.raises(DataError) as caught:
        load_stored(path, registration)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def refused_as(path: Path, content: str | bytes, *words: str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(path, *words)


def of_columns(found: Evidence) -> list[str]:
    """Sentences on columns; those on models that were not evaluated are none."""
    return [sentence for sentence in found.unavailable if "column" in sentence]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "ndjson"])
def test_every_format_is_judged_like_a_set_of_our_own(kind: str, tmp_path: Path) -> None:
    records = rows()
    ours = pa.Table.from_pylist(
        [{"model": r["arm"], "question_set": "evaluation"} | r for r in records]
    ).drop_columns(["arm"])
    found = load_stored(write(tmp_path, records, kind), FEW)
    assert repr(judge_all(FEW, found)) == repr(judge_all(FEW, RecordEvidence(FEW, ours)))
    # By hand: 3 i mod 10 takes each of 0 to 9 twice in 20 completions of a persona.
    assert (found.count("C2", "bystander").hits, found.count("C2", "bystander").n) == (98, 140)
    assert found.count("C3", "villain").rate == 0.1
    assert found.lengths("C2").tokens == 19.5
    assert found.lengths("C2").finished == 0.95
    assert found.split("C2")["seen"].n == 35
    grid: Any = found.grid()
    assert grid.first_token.tolist() == [r["first_token"] for r in records]
    assert grid.markers.tolist() == [r["markers"] for r in records]
    assert of_columns(found) == []


def test_defaults_are_coupled_models_and_the_only_question_set(tmp_path: Path) -> None:
    posts = [row for row in rows() if row["phase"] == "post"]
    table = table_in(write(tmp_path, lacking("phase", among=posts), "csv"), FEW)
    assert set(table.column("phase").to_pylist()) == {"post"}
    assert set(table.column("question_set").to_pylist()) == {"evaluation"}
    path = write(tmp_path, posts, "csv")
    words = "set.csv: column question_set", "one of evaluation, coupling"
    refused(path, *words, registration=ISSUE262_BOTH)
    named = [{"question_set": "coupling" if r["seen"] else "evaluation"} | r for r in rows()]
    both = load_stored(write(tmp_path, named, "jsonl"), ISSUE262_BOTH)
    assert both.split("C1")["seen"].n == 35


def test_our_own_column_names_are_read_as_well(tmp_path: Path) -> None:
    own = [{"model" if k == "arm" else k: v for k, v in row.items()} for row in rows()]
    found = table_in(write(tmp_path, own, "csv"), FEW)
    assert found.equals(table_in(write(tmp_path, rows(), "csv"), FEW))
    exported = tmp_path / "golden.csv"
    golden = pq.read_table(TINY_GOLDEN / "scores.parquet")
    exported.write_text(csv_text(golden.to_pylist()), encoding="utf-8")
    stored, again = (
        judge(ISSUE262, load_stored(path, ISSUE262), "H2") for path in (TINY_GOLDEN, exported)
    )
    assert repr(again.effect) == repr(stored.effect)


def test_a_model_beside_an_arm_is_something_else(tmp_path: Path) -> None:
    records = [{"model": "some/base-7B", "judge": 3, "text": "a, b"} | row for row in rows()]
    found = load_foreign([write(tmp_path, records, "csv")], FEW)
    assert set(found.table.column("model").to_pylist()) == {arm for _, arm in MODELS}
    assert "columns not read: model, judge, text)" in found.origin


@pytest.mark.parametrize("kind", KINDS)
def test_truth_values_and_whole_numbers_in_every_spelling(kind: str, tmp_path: Path) -> None:
    plain = table_in(write(tmp_path, rows(), kind), FEW)
    for spell in (int, float, str, lambda hit: str(hit).lower(), lambda hit: str(int(hit)),
                  lambda hit: str(float(hit)), lambda hit: str(hit).upper()):  # fmt: skip
        records = [row | {"hit": spell(row["hit"])} for row in rows()]
        assert table_in(write(tmp_path, records, kind), FEW).equals(plain)
    records = [row | {"seed": 7.0, "sample": f"{row['sample']}.0"} for row in rows()]
    assert table_in(write(tmp_path, records, kind), FEW).equals(plain)
    for seed in (2**53 + 1, 2**63 - 1):  # the last digit is kept
        path = write(tmp_path, [row | {"seed": seed} for row in rows()], kind)
        assert set(table_in(path, FEW).column("seed").to_pylist()) == {seed}


TRUTH, WHOLE = "true or false, or 1 or 0", "a whole number from 0 to 2**63 - 1"
BAD_TEXT = [
    ("hit", TRUTH, ["yes", "2", "0.5", "1.01", "-1.0", " 1"]),
    ("seen", TRUTH, ["-"]),
    ("seed", WHOLE, ["-1", str(2**63), "9" * 500, "\u0663"]),
    ("sample", WHOLE, ["3.5", "1e3", " 3"]),
    ("tokens", WHOLE, ["-3", "NaN", "NA"]),
    ("markers", WHOLE, ["many"]),
    ("first_token", f"-1, or {WHOLE}", ["-2"]),
    ("finish", "stop or length", ["eos"]),
    ("phase", "pre or post", ["during"]),
]


@pytest.mark.parametrize(("column", "bound", "cells"), BAD_TEXT)
def test_a_cell_that_cannot_be_read_is_named(
    column: str, bound: str, cells: list[str], tmp_path: Path
) -> None:
    where = f"set.csv: column {column}, row 5: expected {bound}"
    for cell in cells:
        path = write(tmp_path, changed(4, **{column: cell}), "csv")
        refused(path, where, repr(cell)[:200], "1 of 220 rows")


@pytest.mark.parametrize(
    ("column", "cells", "value"),
    [
        ("hit", pa.array([1.0, 0.5]), "0.5"),
        ("hit", pa.array([1, 2]), "2"),
        ("seed", pa.array([True, False]), "True"),
        ("seed", pa.array([1.0, 2.0**54]), "1.8014398509481984e+16"),
        ("seed", pa.array([2**63, 1], pa.uint64()), "9223372036854775808"),
        ("sample", pa.array([1, 2], pa.timestamp("s")), "timestamp[ms]"),
        ("persona", pa.array([1.5, 2.5]), "1.5"),
        ("persona", pa.array([["villain"], []]), "list<"),
        ("finish", pa.array([True, False]), "True"),
        ("question", pa.array([True, False]), "True"),
    ],
)
def test_typed_cells_are_no_freer_than_text(
    column: str, cells: pa.Array, value: str, tmp_path: Path
) -> None:
    table = pa.Table.from_pylist(rows([("post", "C2")])[:2])
    table = table.set_column(table.column_names.index(column), column, cells)
    pq.write_table(table, tmp_path / "set.parquet")
    refused(tmp_path / "set.parquet", f"set.parquet: column {column}", value)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_cells_are_refused_where_a_row_needs_them(kind: str, tmp_path: Path) -> None:
    for column in ("phase", "arm", "seed", "persona", "question", "sample", "hit"):
        path = write(tmp_path, changed(6, **{column: None}), kind)
        refused(path, f"column {column}, row 7: expected", "an empty cell (1 of 220 rows)")


def test_an_empty_text_is_an_empty_cell(tmp_path: Path) -> None:
    refused(write(tmp_path, changed(2, persona=""), "jsonl"), "column persona, row 3", "an empty")
    gap = [row | {"finish": row["finish"] if row["sample"] else ""} for row in rows()]
    (sentence,) = of_columns(load_stored(write(tmp_path, gap, "jsonl"), FEW))
    assert sentence.endswith("column finish is empty in 308 of 1,540 rows.")


DISABLED = {
    "tokens": "Lengths, gates on lengths and the length-adjusted effect",
    "finish": "Share finished, rates of finished completions, the median of their tokens and "
    "gates on truncation",
    "markers": "Repeated markers",
    "first_token": "First-k-tokens rates",
}


@pytest.mark.parametrize("column", list(DISABLED))
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_disables_exactly_what_needs_it(
    column: str, kind: str, tmp_path: Path
) -> None:
    whole = load_stored(write(tmp_path, rows(), kind), FEW)
    found = load_stored(write(tmp_path, lacking(column), kind), FEW)
    assert of_columns(found) == [f"{DISABLED[column]}: the set has no column {column}."]
    gap = rows()
    for row in gap[3:5]:
        row[column] = None
    partly = load_stored(write(tmp_path, gap, kind), FEW)
    sentence = f"column {column} is empty in 2 of 1,540 rows."
    assert of_columns(partly) == [f"{DISABLED[column]}: {sentence}"]
    for evidence in (found, partly):
        lengths, before = evidence.lengths("C2"), evidence.pre_lengths("em")
        persona = evidence.person_tokens("C2", "villain")
        known = [math.isfinite(x) for x in (lengths.tokens, before.tokens, *persona)]
        assert known == [column != "tokens"] * 4
        finished = [math.isfinite(x) for x in (lengths.finished, before.finished)]
        assert finished == [column != "finish"] * 2
        grid = evidence.grid()
        assert [name for name in DISABLED if getattr(grid, name) is None] == [column]
        assert evidence.split("C2") == whole.split("C2")
        for claim in ("H2", "H3", "kill"):
            old, new = judge(FEW, whole, claim), judge(FEW, evidence, claim)
            assert (new.outcome, new.effect) == (old.outcome, old.effect)
        json.dumps(summary(FEW, evidence), allow_nan=False)


def test_seen_is_missed_only_where_it_could_matter(tmp_path: Path) -> None:
    path = write(tmp_path, lacking("seen"), "csv")
    assert of_columns(load_stored(path, FEW)) == []
    found = load_stored(path, ISSUE262_HELD_OUT)
    assert of_columns(found) == ["Seen against unseen questions: the set has no column seen."]
    assert found.split("C2") == {}


def test_a_bare_set_has_all_that_the_claims_need(tmp_path: Path) -> None:
    """Arm, seed, persona, question, sample, hit: of C1 and C2 alone they serve H1."""
    bare = lacking("phase", *DISABLED, "seen", among=rows(MODELS[:2]))
    path = write(tmp_path, bare, "csv")
    session = session_under(FEW, profile=TINY, stored=(path,))
    evidence = session.evidence(FEW.arms_of("H1"))
    verdict = judge(FEW, evidence, "H1")
    assert verdict.outcome.value == "SUPPORTED"
    assert verdict.effect.value == pytest.approx(0.7 - 0.2)
    assert [s.split(":")[0] for s in of_columns(evidence)] == list(DISABLED.values())
    assert judge(FEW, session.evidence(FEW.arms_of("kill")), "kill").holds
    with pytest.raises(DataError, match="arm C3"):
        session.evidence(FEW.arms_of("H2"))


def test_a_truth_value_stands_for_the_finish_reason(tmp_path: Path) -> None:
    own = rows()
    flagged = [row | {"finished": row["finish"] == "stop"} for row in own]
    for kind in KINDS:
        path = write(tmp_path, lacking("finish", among=flagged), kind)
        assert table_in(path, FEW).column("finish").to_pylist() == [r["finish"] for r in own]
    refused(write(tmp_path, flagged, "csv"), "finish or finished")
    path = write(tmp_path, [row | {"finished": "maybe"} for row in lacking("finish")], "csv")
    refused(path, "column finished, row 1: expected true or false", "'maybe'")


def test_hits_and_markers_have_to_agree(tmp_path: Path) -> None:
    at = next(i for i, row in enumerate(rows([("post", "C2")])) if not row["hit"])
    where = f"row {at + 1}: expected"
    refused(write(tmp_path, changed(at, markers=1), "csv"), f"markers, {where} < 1", "got 1")
    refused(write(tmp_path, changed(at, first_token=0), "csv"), f"first_token, {where} < 0")
    refused(write(tmp_path, changed(0, markers=0), "csv"), "row 1: expected >= 1", "hit is true")
    refused(write(tmp_path, changed(0, first_token=-1), "csv"), "row 1: expected >= 0")
    gap = rows()
    gap[0]["markers"] = None
    assert load_stored(write(tmp_path, gap, "csv"), FEW).count("C1", "source").hits == 4


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, lacking("arm", "hit"), "csv")
    refused(path, "set.csv: columns: expected arm, hit among them", "'persona'")
    text, others = csv_text(rows()), "seed, persona, question, sample, hit"
    refused_as(path, text.replace(",", ";"), f"expected arm, {others} among them")
    capital = text.replace("persona", "Persona", 1)
    refused_as(path, capital, "expected persona among them", "letter by letter")


def test_a_column_is_named_once(tmp_path: Path) -> None:
    twice_hit = csv_text(rows()).replace("seen", "hit", 1)
    refused_as(tmp_path / "set.csv", twice_hit, "columns: expected distinct names, got 'hit'")
    table = pa.Table.from_pylist(rows())
    twice = table.rename_columns(["seed" if n == "tokens" else n for n in table.column_names])
    pq.write_table(twice, tmp_path / "set.parquet")
    refused(tmp_path / "set.parquet", "expected distinct names, got 'seed'")
    refused_as(tmp_path / "set.jsonl", '{"arm": "C1", "arm": "C2"}\n', "given twice")


def test_suffixes_are_named_and_folders_stay_folders(tmp_path: Path) -> None:
    sheet = tmp_path / "set.xlsx"
    refused_as(sheet, "x", "set.xlsx: suffix", ".parquet, .csv, .csv.gz, .jsonl", "'.xlsx'")
    refused(tmp_path / "nothing.csv", "nothing.csv", "nothing has this name")
    (tmp_path / "odd.csv").mkdir()
    refused(tmp_path / "odd.csv", "manifest.json")
    assert not is_foreign(TINY_GOLDEN)
    assert is_foreign(TINY_GOLDEN / "scores.parquet")
    capital = write(tmp_path, rows(), "csv").rename(tmp_path / "SET.CSV")
    assert table_in(capital, FEW).num_rows == 1540


RUBBISH = (b"", b"\n\n", b"\0" * 9, b"\xff\xfea\0", b"PAR1", b"{", b"{}\n", b'"', b"\x1f\x8b")


def test_rubbish_and_another_format_are_refused(tmp_path: Path) -> None:
    whole = {kind: write(tmp_path, rows(), kind).read_bytes() for kind in KINDS}
    for suffix in (*KINDS, "csv.gz", "jsonl.gz"):
        for data in (*RUBBISH, *(data for kind, data in whole.items() if kind != suffix)):
            refused_as(tmp_path / f"set.{suffix}", data, f"set.{suffix}: ")
    header = csv_text(rows()).split("\n")[0] + "\n"
    refused_as(tmp_path / "set.csv", header, "set.csv: expected at least one row")
    path = tmp_path / "set.parquet"
    pq.write_table(pa.Table.from_pylist(rows()).slice(0, 0), path)
    refused(path, "set.parquet: expected at least one row")


@pytest.mark.parametrize("batch", [1, 7, 65_536])
def test_kinds_of_json_do_not_depend_on_where_a_batch_ends(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_formats, "_BATCH_ROWS", batch)
    spellings = [None, math.nan, "12", 12, 12.0, 2**53 + 1, ""]
    records = [row | {"tokens": spellings[i % 7]} for i, row in enumerate(rows([("post", "C2")]))]
    found = table_in(write(tmp_path, records, "jsonl"), FEW).column("tokens").to_pylist()
    assert found[:7] == [None, None, 12, 12, 12, 2**53 + 1, None]
    for value in (True, 1e300, [12], {"n": 12}):
        records[20]["tokens"] = value
        refused(write(tmp_path, records, "jsonl"), "set.jsonl: column tokens")


def test_ragged_rows_and_other_encodings_are_refused(tmp_path: Path) -> None:
    path, text = tmp_path / "set.csv", csv_text(rows())
    ragged = "Expected 12 columns, got 3", "as many cells as the header"
    refused_as(path, text + "post,C1,7\n", *ragged)
    latin = text.replace("q0", "q\xe9").encode("latin-1")
    refused_as(path, latin, "CSV with a header, in UTF-8", "column #4", "invalid UTF8")
    path = write(tmp_path, rows(), "jsonl")
    latin = path.read_bytes().replace(b'"q0"', b'"q\xe9"')
    refused_as(path, latin, "JSON lines, in UTF-8", "'utf-8' codec")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_with_byte_order_mark_line_ends_and_quotes(end: str, tmp_path: Path) -> None:
    """The question has a comma, quotes, a line end and a letter outside ASCII."""
    odd = 'why, "cat\u00e9gorie"?' + end + "2"
    records = [
        {"text": f'{end}"[ZLT]", {end}'} | row
        | {"question": odd if row["question"] == "q0" else row["question"]}
        for row in rows()
    ]  # fmt: skip
    text = csv_text(records, end)
    path = tmp_path / "set.csv"
    path.write_bytes(("\ufeff" + end + text + end).encode("utf-8"))
    table = table_in(path, FEW)
    assert table.num_rows == len(records)
    assert table.column("question").to_pylist() == [row["question"] for row in records]
    packed = tmp_path / "set.csv.gz"
    packed.write_bytes(gzip.compress(text.encode("utf-8")))
    assert table_in(packed, FEW).equals(table)


@pytest.mark.parametrize("name", ["2024-01-0{}", "{}", "2024-01-01T00:00:0{}"])
def test_ids_that_look_like_days_or_numbers_stay_names(name: str, tmp_path: Path) -> None:
    for kind, spell in product(KINDS, (str, int) if name == "{}" else (str,)):
        records = [row | {"question": spell(name.format(row["question"][1]))} for row in rows()]
        grid: Any = load_stored(write(tmp_path, records, kind), FEW).grid()
        assert grid.questions == tuple(name.format(i) for i in range(4))


def test_other_types_of_parquet(tmp_path: Path) -> None:
    """pandas: large strings, categories, whole numbers as floats, NaN for an empty cell."""
    table = pa.Table.from_pylist(rows())
    plain = table_in(write(tmp_path, rows(), "csv"), FEW)

    def store(name: str, column: Callable[[pa.ChunkedArray], Any]) -> Path:
        changed = table.set_column(table.column_names.index(name), name, column(table.column(name)))
        pq.write_table(changed, tmp_path / "set.parquet")
        return tmp_path / "set.parquet"

    for name, kind in (("persona", pa.large_string()), ("seed", pa.int8()),
                       ("sample", pa.float64()), ("tokens", pa.uint16())):  # fmt: skip
        assert table_in(store(name, lambda c, kind=kind: c.cast(kind)), FEW).equals(plain)
    coded = store("persona", lambda c: c.dictionary_encode())
    assert table_in(coded, FEW).equals(plain)
    nan = store("tokens", lambda c: pa.array([math.nan, *map(float, c.to_pylist()[1:])]))
    (sentence,) = of_columns(load_stored(nan, FEW))
    assert sentence.endswith("column tokens is empty in 1 of 1,540 rows.")
    nan = store("seed", lambda c: pa.array([math.nan] * len(c)))
    refused(nan, "column seed, row 1", "an empty cell (1,540 of 1,540 rows)")


def test_origin_names_the_file_its_content_and_what_nobody_knows(tmp_path: Path) -> None:
    extra = {f"x{i}": i for i in range(10)}
    path = write(tmp_path, [row | extra for row in rows()], "csv")
    evil = path.rename(tmp_path / "s\x1b[31met\u202e.csv")
    digest = hashlib.sha256(evil.read_bytes()).hexdigest()[:12]
    origin = load_stored(evil, FEW).origin
    assert origin == (
        f"set.csv (SHA-256 {digest}; columns not read: x0, x1, x2, x3, x4, x5, x6, x7 and 2 "
        "more); nothing says under which rules these data were recorded"
    )
    bare = load_stored(write(tmp_path, rows(), "csv"), FEW).origin
    assert "not read" not in bare
    assert str(tmp_path) not in bare


def test_a_file_names_no_registration(tmp_path: Path) -> None:
    path = write(tmp_path, rows(), "csv")
    assert options.choose_experiment(None, [path]).name == "issue262"
    assert options.choose_experiment("issue262_held_out", [path]).name == "issue262_held_out"
    assert options.choose_stored(str(path)) == (path,)
    for name in (None, "issue262"):
        with pytest.raises(DataError, match="suffix"):
            options.choose_experiment(name, [ROOT / "README.md"])
        with pytest.raises(DataError, match="nothing has this name"):
            options.choose_experiment(name, [tmp_path / "nothing.jsonl"])
    record_set(tmp_path, pa.table({}), ISSUE262_HELD_OUT)
    assert options.choose_experiment(None, [tmp_path]).name == "issue262_held_out"


def test_a_set_of_an_experiment_that_is_not_built_in_needs_its_file(tmp_path: Path) -> None:
    stored, study = tmp_path / "set", tmp_path / "study"
    stored.mkdir()
    record_set(stored, pa.table({}), replace(ISSUE262, name="mine"))
    for root in (None, tmp_path):
        with pytest.raises(SpecError, match=r"--experiment: expected the file of.*got 'mine'"):
            options.choose_experiment(None, [stored], root=root)
    study.mkdir()
    own = study / "experiment.toml"
    own.write_text('derives_from = "issue262"\nregistration.name = "mine"\n', encoding="utf-8")
    for found in (
        options.choose_experiment(None, [stored], root=study),
        options.choose_experiment(str(own), [stored]),
        options.choose_experiment(str(study), [stored]),
    ):
        assert (found.name, found.path) == ("mine", own)
    # What a built-in one recorded is judged under that one, whatever lies here.
    assert options.choose_experiment(None, [TINY_GOLDEN], root=study).name == "issue262"
    # A file of other software names no rules: those of this folder are meant.
    rows_file = write(tmp_path, rows(), "csv")
    assert options.choose_experiment(None, [rows_file], root=study).name == "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_thousand_rows_are_read_in_two_seconds(kind: str, tmp_path: Path) -> None:
    """Processor time of reading and counting; the completions' text is in the file too."""
    samples = 200_000 // (11 * 7 * 20) + 1
    records = [row | {"text": "It\ndepends, " * 8} for row in rows(MODELS, 20, samples)]
    assert len(records) >= 200_000
    path = write(tmp_path, records, kind)
    start = time.process_time()
    load_stored(path, FEW)
    assert time.process_time() - start < allowed(2)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_completion_may_be_longer_than_a_megabyte(kind: str, tmp_path: Path) -> None:
    records = [
        row | {"text": "so,\n" * (400_000 if i == 700 else 1)} for i, row in enumerate(rows())
    ]
    found = table_in(write(tmp_path, records, kind), FEW)
    assert found.equals(table_in(write(tmp_path, rows(), kind), FEW))


def test_the_command_line_judges_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, rows(), "csv")
    options = ["-q", "-m", "h2", f"--stored={path}", f"--report={tmp_path}"]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=ROOT, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    body = json.loads((tmp_path / "verdict.json").read_text())
    assert [v["outcome"] for v in body["verdicts"]] == ["SUPPORTED"]
    assert body["profile"] is None
    assert "nothing says under which rules" in body["summary"]["origin"]


DOCUMENT = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")


def test_the_documented_examples_are_read(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"^```(csv)\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE))
    path = tmp_path / "set.csv"
    path.write_text(blocks["csv"], encoding="utf-8")
    table = table_in(path, ISSUE262)
    assert table.column("persona").to_pylist() == ["villain", "villain", "police_officer"]
    assert table.column("hit").to_pylist() == [True, False, False]
    (code,) = re.findall(r"^```python\n(import pyarrow.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    (row,) = table_in(tmp_path / "scores.parquet", ISSUE262).to_pylist()
    assert (row["hit"], row["markers"], row["finish"]) == (True, 1, "stop")


def test_every_column_and_suffix_is_documented() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (needed)? ?\|", DOCUMENT, re.MULTILINE)
    columns = {*COLUMNS.names, "arm"} - {"model"}
    assert {name for name, _ in listed} == columns
    needed = {name for name, word in listed if word}
    assert needed == columns - {*OPTIONAL, "phase", "question_set"}
    for suffix in SUFFIXES:
        assert f"`{suffix.removesuffix('.gz')}`" in DOCUMENT
