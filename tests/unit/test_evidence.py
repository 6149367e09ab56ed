"""Evidence: checked whole before anything is computed, then counted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from persona_lib.checks import checked
from persona_lib.errors import DataError, SpecError
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.records import Score, schema_of
from persona_lib.verdict.judging import judge_all
from tests.registered import ISSUE262
from tests.synthetic import FEW, evidence, scores, with_column, without


def refused(table: pa.Table, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        RecordEvidence(ISSUE262, table)
    for word in words:
        assert word in str(caught.value)


def test_arms_that_are_not_asked_for_may_be_missing() -> None:
    found = evidence(questions=2, samples=2, arms=("C1", "C2"))
    assert found.arms == ("C1", "C2")
    with pytest.raises(DataError, match="arm: expected one of C1, C2, got 'C3'"):
        found.count("C3", "source")
    with pytest.raises(SpecError, match="persona"):
        found.count("C2", "pirate")


def test_rows_of_arms_that_are_not_asked_for_change_nothing() -> None:
    """Not even where those arms are unfinished, or ran with more seeds and other questions."""
    extra = scores(questions=5, samples=2, seeds=(43,), arms=("C3",), priors=())
    table = pa.concat_tables([extra, scores(questions=3, samples=3)])
    both = RecordEvidence(FEW, table, arms=("C2", "C1"))
    alone = evidence(questions=3, samples=3, arms=("C1", "C2"))
    assert both.contrast("H1", "C2", "C1") == alone.contrast("H1", "C2", "C1")


def test_unknown_names_and_wrong_types_are_refused() -> None:
    table = scores(questions=2, samples=2)
    for column, value in (("phase", "during"), ("model", "C9"), ("persona", "pirate"),
                          ("question_set", "holiday"), ("finish", "tired")):  # fmt: skip
        values = [value, *table.column(column).to_pylist()[1:]]
        refused(with_column(table, column, pa.array(values)), value, "1 rows")
    models = [name if name != "em" else "C2" for name in table.column("model").to_pylist()]
    refused(with_column(table, "model", pa.array(models)), "model of phase pre", "C2")
    floats = pa.array(np.full(table.num_rows, np.nan))
    refused(with_column(table, "tokens", floats), "column tokens", "int64", "double")


@pytest.mark.parametrize(("name", "wrong"), [("markers", 0), ("first_token", -1)])
def test_hits_and_their_markers_have_to_agree(name: str, wrong: int) -> None:
    """A hit without a marker, and a marker without a hit."""
    table = scores(questions=2, samples=2)
    values = table.column(name).to_pylist()
    hit = table.column("hit").to_pylist().index(True)
    miss = table.column("hit").to_pylist().index(False)
    for at, value in ((hit, wrong), (miss, 1)):
        changed = [*values[:at], value, *values[at + 1 :]]
        refused(with_column(table, name, pa.array(changed, pa.int64())), name, f"row {at + 1}: ")


def test_every_row_keeps_its_place_on_the_axes() -> None:
    table = scores(questions=4, samples=3, seeds=(7, 3))
    table = table.take(np.random.default_rng(1).permutation(table.num_rows))
    grid = RecordEvidence(FEW, table).grid()
    rows = table.to_pylist()
    places = zip(grid.row_model, grid.row_seed, grid.row_persona, grid.row_question, strict=True)
    assert [
        (*grid.models[m], grid.seeds[s], grid.personas[p], grid.questions[q])
        for m, s, p, q in places
    ] == [(r["phase"], r["model"], r["seed"], r["persona"], r["question"]) for r in rows]
    assert grid.row_hit.tolist() == [r["hit"] for r in rows]
    assert grid.tokens.tolist() == [r["tokens"] for r in rows]
    counted = np.zeros_like(grid.hits)
    at = (grid.row_model, grid.row_seed, grid.row_persona, grid.row_question)
    np.add.at(counted, at, grid.row_hit)
    assert (counted == grid.hits).all()


def test_text_columns_may_be_large_strings() -> None:
    """pandas writes them; other encodings of text are refused by name."""
    table = scores(questions=2, samples=2)
    names = [field.name for field in table.schema if field.type == pa.string()]
    assert {"phase", "model", "persona", "question", "finish"} <= set(names)
    large = table
    for name in names:
        large = with_column(large, name, table.column(name).cast(pa.large_string()))
    assert checked(large, schema_of(Score), "scores").equals(table)
    first, second = (judge_all(FEW, RecordEvidence(FEW, t)) for t in (table, large))
    assert repr(first) == repr(second)
    coded = with_column(table, "persona", table.column("persona").dictionary_encode())
    refused(coded, "column persona", "expected string", "dictionary")
    nulls = pa.array([None, *["stop"] * (table.num_rows - 1)], pa.large_string())
    refused(with_column(table, "finish", nulls), "column finish", "1 nulls")


def test_names_in_messages_cannot_steer_a_terminal() -> None:
    """A question's id stands in the field of the message, where no repr protects the reader."""
    attack = "\x1b]0;PWN\x07q\x9b31m\u202e\nH1: SUPPORTED"
    table = scores(questions=2, samples=2)
    ids = [attack if q == "q01" else q for q in table.column("question").to_pylist()]
    table = with_column(table, "question", pa.array(ids))
    for bad in (without(table, model="C2", question=attack, sample=1),
                pa.concat_tables([table, table.slice(2, 1)])):  # fmt: skip
        with pytest.raises(DataError) as caught:
            RecordEvidence(ISSUE262, bad)
        text = str(caught.value)
        assert "question q H1: SUPPORTED" in text
        assert text.isprintable()


def test_a_model_below_both_arms_cancels_and_is_not_counted() -> None:
    """C2 and C2p stand on the EM model: what is subtracted from one is given back by the other.

    With 2 x 2 completions many draws are exactly 0, and belong to both tails of p.
    """
    table = scores({"C1": 0.3, "C2": 0.5, "C2p": 0.25, "C3": 0.2}, false={"em": 0.25},
                   questions=2, samples=2)  # fmt: skip
    found = RecordEvidence(FEW, table)
    same, plain = (f("H3", "C2", "C2p") for f in (found.corrected_contrast, found.contrast))
    assert same.method != plain.method
    assert replace(same, method=plain.method) == plain
    assert (same.n, same.clusters) == (2 * 7 * 4, 2 * 7 * 2)


def test_a_prior_that_was_not_evaluated_is_not_zero() -> None:
    found = evidence(questions=3, samples=3, priors=("raw", "benign"))
    assert found.pre_count("em") is None
    assert math.isnan(found.corrected_contrast("H1", "C2", "C1").value)
    assert all(math.isnan(row.pre_rate) for row in found.personas("C2"))
    assert "prior em" in found.unavailable[0]


def test_each_training_run_is_read_once_however_many_gates_ask() -> None:
    both = pa.concat_tables([scores(questions=5, samples=4, seeds=(s,)) for s in (1, 2)])
    found = RecordEvidence(FEW, both)
    runs = found.single_runs()
    assert [run.seeds for run in runs] == [(1,), (2,)]
    assert all(one is again for one, again in zip(runs, found.single_runs(), strict=True))
    assert [run.single_runs() for run in runs] == [(run,) for run in runs]


def test_seen_and_unseen_questions_are_split_where_both_exist() -> None:
    assert evidence(questions=4, samples=3).split("C2") == {}
    assert evidence(questions=4, samples=3, seen=4).split("C2") == {}
    split = evidence(questions=4, samples=5, seen=1).split("C2")
    assert (split["seen"].n, split["unseen"].n) == (7 * 5, 7 * 15)
