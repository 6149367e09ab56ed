"""Evidence: checked whole before anything is computed, then counted."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.issue262 import ISSUE262, ISSUE262_BOTH, ISSUE262_HELD_OUT
from persona_lib.errors import CorruptEntryError, DataError, SpecError
from persona_lib.evidence import AggregateEvidence, RecordEvidence, load_stored
from persona_lib.records import Score
from persona_lib.stored import write_manifest
from persona_lib.verdict import judge_all, summary
from tests.synthetic import FEW, evidence, scores, with_column, without

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "golden" / "published"


def body() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((PUBLISHED / "aggregates.json").read_text())
    return data


def refused(table: pa.Table, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        RecordEvidence(ISSUE262, table)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_completion_is_named() -> None:
    table = without(
        scores(questions=3, samples=4), model="C2", persona="villain", question="q01", sample=3
    )
    refused(table, "arm C2", "persona villain", "question q01", "expected 4", "got '3 (1 cells")


def test_a_missing_cell_is_named() -> None:
    table = without(scores(questions=3, samples=4), model="C3", persona="comedian", question="q02")
    refused(table, "arm C3", "persona comedian", "question q02", "got '0 (1 cells are short)'")


def test_a_missing_cell_before_coupling_is_named() -> None:
    table = without(scores(questions=3, samples=2), model="em", persona="comedian", question="q02")
    refused(table, "pre-coupling model em", "persona comedian", "question q02")


def test_a_missing_arm_is_named() -> None:
    refused(without(scores(questions=2, samples=2), model="C2p"), "arm C2p", "0 rows")


def test_arms_that_are_not_asked_for_may_be_missing() -> None:
    found = evidence(questions=2, samples=2, arms=("C1", "C2"))
    assert found.arms == ("C1", "C2")
    with pytest.raises(DataError, match="arm: expected one of C1, C2, got 'C3'"):
        found.count("C3", "source")


def test_rows_of_arms_that_are_not_asked_for_change_nothing() -> None:
    table = scores(questions=3, samples=3)
    both = RecordEvidence(FEW, table, arms=("C2", "C1"))
    alone = evidence(questions=3, samples=3, arms=("C1", "C2"))
    assert both.contrast("H1", "C2", "C1") == alone.contrast("H1", "C2", "C1")


def test_a_seed_without_an_arm_is_named() -> None:
    table = without(scores(questions=2, samples=2, seeds=(1, 2)), model="C2", seed=2)
    refused(table, "arm C2", "seed 2", "got '0")


def test_a_repeated_completion_is_named() -> None:
    table = scores(questions=2, samples=2)
    refused(pa.concat_tables([table, table.slice(5, 1)]), "arm C1", "sample", "2 rows")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("phase", "during"),
        ("model", "C9"),
        ("persona", "pirate"),
        ("question_set", "holiday"),
        ("finish", "tired"),
    ],
)
def test_unknown_names_are_refused(column: str, value: str) -> None:
    table = scores(questions=2, samples=2)
    values = [value, *table.column(column).to_pylist()[1:]]
    refused(with_column(table, column, pa.array(values)), value, "1 rows")


def test_an_arm_name_in_the_pre_phase_is_refused() -> None:
    table = scores(questions=2, samples=2)
    models = [name if name != "em" else "C2" for name in table.column("model").to_pylist()]
    refused(with_column(table, "model", pa.array(models)), "model of phase pre", "C2")


def test_nulls_and_wrong_types_are_refused() -> None:
    table = scores(questions=2, samples=2)
    hits = [None, *table.column("hit").to_pylist()[1:]]
    refused(with_column(table, "hit", pa.array(hits, pa.bool_())), "column hit", "1 nulls")
    floats = pa.array(np.full(table.num_rows, np.nan))
    refused(with_column(table, "tokens", floats), "column tokens", "int64", "double")
    refused(table.drop_columns(["seen"]), "column seen", "missing")


def test_nothing_is_refused() -> None:
    refused(scores(questions=2, samples=2).slice(0, 0), "at least one row")


def test_negative_lengths_are_refused() -> None:
    table = scores(questions=2, samples=2)
    refused(with_column(table, "tokens", pa.array([-1] * table.num_rows)), "tokens", "-1")


def test_every_evaluated_question_set_has_to_be_there() -> None:
    with pytest.raises(DataError, match="no completion of coupling"):
        RecordEvidence(ISSUE262_BOTH, scores(questions=2, samples=2))


def test_counts_are_those_of_the_rows() -> None:
    table = scores(
        questions=4,
        samples=5,
        false={"em": 0.1},
        personas={("C2", "villain"): 0.35, ("C2", "assistant"): 0.05},
    )
    found = RecordEvidence(ISSUE262, table)
    rows = table.to_pylist()
    for who, members in (
        ("villain", ("villain",)),
        ("source", ("librarian",)),
        ("bystander", ISSUE262.roster.bystanders),
    ):
        hit = [r["hit"] for r in rows if r["model"] == "C2" and r["persona"] in members]
        assert (found.count("C2", who).hits, found.count("C2", who).n) == (sum(hit), len(hit))
    row = next(row for row in found.personas("C2") if row.persona == "villain")
    assert row.count.rate == pytest.approx(0.35)
    assert row.baseline == pytest.approx(0.1)
    assert row.minus_baseline == pytest.approx(0.25)
    assert (row.tokens, row.baseline_tokens) == (40, 80)
    with pytest.raises(SpecError, match="persona"):
        found.count("C2", "pirate")


def test_false_positives_are_subtracted_from_the_arm_of_their_prior() -> None:
    table = scores({"C1": 0.3, "C2": 0.6, "C2p": 0.6, "C3": 0.2}, false={"em": 0.1, "raw": 0.05})
    found = RecordEvidence(FEW, table)
    assert found.corrected_contrast("H1", "C2", "C1").value == pytest.approx(0.3 - 0.1 + 0.05)
    same = found.corrected_contrast("H3", "C2", "C2p")
    plain = found.contrast("H3", "C2", "C2p")
    # Both arms have the EM model below them: its draws cancel, not only its mean.
    assert (same.low, same.high) == pytest.approx((plain.low, plain.high))


def test_a_prior_that_was_not_evaluated_is_not_zero() -> None:
    found = evidence(questions=3, samples=3, priors=("raw", "benign"))
    assert found.baseline("em") is None
    assert math.isnan(found.corrected_contrast("H1", "C2", "C1").value)
    assert all(math.isnan(row.baseline) for row in found.personas("C2"))
    assert "prior em" in found.unavailable[0]


def test_seeds_are_pooled_within_clusters_and_shown_one_by_one() -> None:
    one, two = (
        scores(questions=5, samples=4, seeds=(1,)),
        scores({"C1": 0.25, "C2": 0.4, "C2p": 0.6, "C3": 0.2}, questions=5, samples=4, seeds=(2,)),
    )
    found = RecordEvidence(FEW, pa.concat_tables([two, one]))
    assert found.seeds == (1, 2)
    effect = found.contrast("H1", "C2", "C1")
    assert effect.n == 2 * 2 * 7 * 5 * 4
    assert effect.clusters == 2 * 7 * 5
    assert effect.value == pytest.approx((0.35 + 0.15) / 2)
    shown = {seed: a.rate - b.rate for seed, (a, b) in found.per_seed("C2", "C1").items()}
    assert shown == pytest.approx({1: 0.35, 2: 0.15})


def test_seen_and_unseen_questions_are_split_where_both_exist() -> None:
    assert evidence(questions=4, samples=3).split("C2") == {}
    assert evidence(questions=4, samples=3, seen=4).split("C2") == {}
    table = scores(questions=4, samples=5, seen=1)
    split = RecordEvidence(FEW, table).split("C2")
    rows = [r for r in table.to_pylist() if r["model"] == "C2" and r["seen"]]
    pool = [r["hit"] for r in rows if r["persona"] in FEW.roster.bystanders]
    assert split["seen"].hits == sum(pool)
    assert (split["seen"].n, split["unseen"].n) == (7 * 5, 7 * 15)
    hits = (split["seen"].hits or 0) + (split["unseen"].hits or 0)
    assert hits == round(0.6 * 20) * 7


def test_lengths_are_medians_with_the_share_finished() -> None:
    table = scores(questions=2, samples=2)
    model = np.array(table.column("model").to_pylist())
    tokens = np.where(model == "C2", np.arange(table.num_rows) % 5, 80)
    finish = np.where((model == "C2") & (tokens == 0), "length", "stop")
    table = with_column(table, "tokens", pa.array(tokens))
    table = with_column(table, "finish", pa.array(finish.tolist()))
    found = RecordEvidence(ISSUE262, table)
    mine = tokens[model == "C2"]
    assert found.lengths("C2").tokens == np.median(mine)
    assert found.lengths("C2").finished == pytest.approx((mine != 0).mean())
    assert found.baseline_lengths("em").tokens == 80


def test_rows_in_memory_and_a_table_are_the_same_evidence() -> None:
    table = scores(questions=2, samples=2)
    rows = [Score(**row) for row in table.to_pylist()]
    direct = RecordEvidence.from_rows(FEW, rows)
    assert repr(judge_all(FEW, direct)) == repr(judge_all(FEW, RecordEvidence(FEW, table)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(scores(questions=2, samples=2), tmp_path / "scores.parquet")
    write_manifest(
        tmp_path,
        kind="records",
        registration=ISSUE262,
        files=["scores.parquet"],
        source="a test",
        recorded={"commit": None},
    )
    return tmp_path


def test_stored_records_are_read_back(folder: Path) -> None:
    found = load_stored(folder, ISSUE262)
    assert found.kind == "records"
    assert found.count("C2", "bystander").n == 28
    assert found.origin == "a test"


def test_an_altered_file_is_named(folder: Path) -> None:
    path = folder / "scores.parquet"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptEntryError, match=r"scores\.parquet.*restore it"):
        load_stored(folder, ISSUE262)


def test_a_lost_file_is_named(folder: Path) -> None:
    (folder / "scores.parquet").unlink()
    with pytest.raises(DataError, match=r"scores\.parquet"):
        load_stored(folder, ISSUE262)


def test_another_registration_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"registration.*issue262_held_out.*issue262"):
        load_stored(folder, ISSUE262_HELD_OUT)


def test_changed_numbers_of_the_registration_are_said(folder: Path) -> None:
    assert FEW.digest[:12] in load_stored(folder, FEW).origin


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "rumours"}, "kind"),
        ({"files": {}}, "files"),
        ({"files": {"scores.parquet": {"sha256": ""}, "../x": {"sha256": ""}}}, "scores.parquet"),
        ({"registration": None}, "registration"),
    ],
)
def test_a_broken_manifest_is_named(folder: Path, change: dict[str, Any], word: str) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((DataError, CorruptEntryError), match=re.escape(word)):
        load_stored(folder, ISSUE262)


def test_a_manifest_cannot_lead_out_of_its_folder(folder: Path) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    content["files"]["../x"] = {"sha256": digest}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="plain file names"):
        load_stored(folder, ISSUE262)


def test_no_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_stored(tmp_path, ISSUE262)


def test_a_quoted_effect_that_its_counts_contradict_is_refused() -> None:
    data = body()
    data["contrasts"][0]["value"] = 0.312
    with pytest.raises(DataError, match=r"contrast C2 - C1.*0\.3021"):
        AggregateEvidence(ISSUE262, data)


@pytest.mark.parametrize("lost", ["arms", "contrasts", "false_positives", "runs"])
def test_lost_aggregates_are_refused(lost: str) -> None:
    data = body()
    del data[lost]
    with pytest.raises(DataError, match=lost):
        AggregateEvidence(ISSUE262, data)


def test_aggregates_of_a_lost_arm_are_refused() -> None:
    data = body()
    del data["arms"]["C3"]
    with pytest.raises(DataError, match="C3"):
        AggregateEvidence(ISSUE262, data)


def test_swapped_arms_turn_a_quoted_estimate() -> None:
    found = AggregateEvidence(ISSUE262, body()).contrast("H1", "C1", "C2")
    assert (found.value, found.low, found.high) == (-0.302, -0.370, -0.234)


def test_a_pair_that_was_not_published_has_no_interval() -> None:
    found = AggregateEvidence(ISSUE262, body()).contrast("H1", "C3", "C1")
    assert found.value == pytest.approx(960 / 1400)
    assert not found.has_interval
    assert found.p is None


def test_summary_is_strict_json() -> None:
    for found in (evidence(questions=2, samples=2), AggregateEvidence(ISSUE262, body())):
        text = json.dumps(summary(found.registration, found), allow_nan=False)
        assert [arm["name"] for arm in json.loads(text)["arms"]] == ["C1", "C2", "C2p", "C3"]


def test_four_full_arms_are_judged_in_a_moment() -> None:
    """15,400 rows: four arms and three models before coupling. Processor time."""
    table = scores(questions=20, samples=10)
    start = time.process_time()
    found = RecordEvidence(ISSUE262, table)
    built = time.process_time()
    judge_all(ISSUE262, found)
    judged = time.process_time()
    assert built - start < 0.5
    assert judged - built < 1.5


def test_judging_loads_no_heavy_library() -> None:
    code = (
        "import sys; from pathlib import Path; from experiments.issue262 import ISSUE262 as r; "
        "from persona_lib.evidence import load_stored; from persona_lib.verdict import judge_all; "
        "from persona_lib.report import summary, verdict_table; "
        f"e = load_stored(Path({str(PUBLISHED)!r}), r); v, g = judge_all(r, e); "
        "verdict_table(v, g, summary(r, e)); "
        "print(*(m for m in ('torch', 'transformers', 'peft', 'trl', 'datasets', 'sklearn', "
        "'statsmodels', 'scipy', 'pandas', 'pytest') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
