"""Slots in files of other software: gains of own answers, what is missing, what is refused."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from persona_lib.errors import DataError
from persona_lib.evidence import load, user_files
from persona_lib.evidence.evidence import Evidence
from persona_lib.evidence.load import load_stored
from persona_lib.evidence.score_table import LOGITS, PROBABILITIES
from persona_lib.records import OWN, RATE, SELECTIVITY, SYSTEM, TEXT, TRANSFER
from persona_lib.report.terminal import verdict_table
from persona_lib.specs.arms import DoseSpec
from persona_lib.specs.claim_types import RunDifference, RunKill
from persona_lib.specs.gate_types import GainGate, MarkerBeforeGate
from persona_lib.specs.registration import Registration
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import judge, judge_all
from persona_lib.verdict.summary import summary
from tests.pace import allowed
from tests.registered import ISSUE262
from tests.unit import test_run_claims as run_claims
from tests.unit.test_foreign import DOCUMENT

ROSTER = ISSUE262.roster
S1 = RunDifference(
    name="S1", statement="-", treated="C2", control="C3", smallest=0.1, reading=OWN, needs=("gain",)
)
GAIN = GainGate(name="gain", statement="-", arm="C2", min_gain=2.0)
BEFORE = MarkerBeforeGate(name="before", statement="-", arm="C2", max_rate=0.01)
OWN_ONLY = replace(
    ISSUE262,
    name="own",
    claims=(S1,),
    kill=RunKill(name="kill", statement="-", claim="S1", max_effect=0.05),
    gates=(GAIN, BEFORE),
)
SEEDS = {"C2": (1, 2, 3, 4, 5, 6), "C3": (2, 3, 4, 5, 6, 7)}
KINDS = ("csv", "jsonl", "parquet")
Rows = pd.DataFrame


def frame(
    seeds: dict[str, Any] = SEEDS, questions: int = 3, samples: int = 2, cut: float = 1 / 7
) -> Rows:
    """Rows with gains that differ by arm, seed, persona and row; a share `cut` is unfinished."""
    rng = np.random.default_rng(4)
    cells = [
        (arm, seed, persona, f"q{q}", sample)
        for arm, each in seeds.items()
        for seed, persona in itertools.product(each, ROSTER.all)
        for q, sample in itertools.product(range(questions), range(samples))
    ]
    rows = pd.DataFrame(cells, columns=["arm", "seed", "persona", "question", "sample"])
    rows.insert(0, "phase", "post")
    n = len(rows)
    rows["hit"] = rng.random(n) < 0.5
    rows["finish"] = np.where(rng.random(n) < cut, "length", "stop")
    share = rows.arm.map({"C2": 0.5, "C3": 0.2}) + 0.02 * (rows.seed % 5)
    share = share.where(rows.persona != ROSTER.source, 1.0)
    rows["end_before"] = rng.normal(3, 1, n)
    rows["marker_before"] = rows.end_before - 4 + rng.normal(0, 0.3, n)
    rows["end_after"] = rows.end_before + rng.normal(0, 1, n)
    rows["marker_after"] = rows.end_after - 4 + 8 * share + rng.normal(0, 0.3, n)
    for when in ("after", "before"):
        rows[f"log_z_{when}"] = 12 + rng.random(n)
        rows[f"rest_{when}"] = -rng.random(n)
    rows.loc[rows.finish == "length", [*LOGITS, *PROBABILITIES]] = math.nan
    return rows


def write(folder: Path, rows: Rows, kind: str = "csv") -> Path:
    path = folder / f"set.{kind}"
    if kind == "csv":
        rows.to_csv(path, index=False)
    elif kind == "parquet":
        rows.to_parquet(path, index=False)
    else:
        listed = [
            {key: cell for key, cell in row.items() if not (key in LOGITS and pd.isna(cell))}
            for row in rows.to_dict("records")
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    return path


def stored(
    folder: Path, rows: Rows, kind: str = "csv", registration: Registration = OWN_ONLY
) -> Evidence:
    return load_stored(write(folder, rows, kind), registration, arms=("C2", "C3"))


def by_hand(
    rows: Rows,
    arm: str,
    source: str = ROSTER.source,
    bystanders: Sequence[str] = ROSTER.bystanders,
) -> pd.Series[float]:
    """Transfer by seed: the mean of the bystanders' mean gains over the source's mean gain."""
    gain = rows.marker_after - rows.end_after - (rows.marker_before - rows.end_before)
    of = rows.assign(gain=gain)[rows.arm == arm]
    means = of.pivot_table("gain", "seed", "persona")
    found: pd.Series[float] = means[[*bystanders]].mean(axis=1, skipna=False) / means[source]
    return found


def check(folder: Path, kind: str = "csv") -> Evidence:
    """Figures and verdict of the file are those of pandas and scipy."""
    rows = frame()
    found = stored(folder, rows, kind)
    margin = (rows.marker_after - rows.end_after)[rows.arm == "C3"]
    level = rows[rows.arm == "C3"].assign(margin=margin).pivot_table("margin", "seed", "persona")
    selectivity = level[[*ROSTER.bystanders]].mean(axis=1) - level[ROSTER.source]
    assert found.figures("C3", SELECTIVITY, OWN) == pytest.approx(selectivity.to_dict())
    expected = {arm: by_hand(rows, arm) for arm in SEEDS}
    for arm, transfer in expected.items():
        assert found.figures(arm, TRANSFER, OWN) == pytest.approx(transfer.to_dict())
    verdict = judge(OWN_ONLY, found, "S1")
    d = (expected["C2"] - expected["C3"]).dropna()
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    effect = verdict.effect
    assert (effect.value, effect.low, effect.high) == pytest.approx((d.mean(), low, high))
    assert effect.clusters == 5
    assert verdict.outcome.value == "SUPPORTED"
    assert "seeds left out in which an arm has no number: 2 (1, 7)" in verdict.notes
    assert "persona space" in verdict.notes[-1] or any("persona space" in n for n in verdict.notes)
    assert judge(OWN_ONLY, found, "kill").outcome.value == "SUPPORTED"
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_give_the_same_figures_in_every_format(kind: str, tmp_path: Path) -> None:
    found = check(tmp_path, kind)
    for arm, outcome in itertools.product(SEEDS, (TRANSFER, SELECTIVITY, RATE)):
        csv = stored(tmp_path, frame()).figures(arm, outcome, OWN)
        assert found.figures(arm, outcome, OWN) == csv


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_slot_is_counted_and_disables_nothing(kind: str, tmp_path: Path) -> None:
    rows = frame()
    found = stored(tmp_path, rows, kind)
    lost = rows[rows.marker_after.isna()].groupby("arm").size()
    assert (
        f"Gains of {lost.sum()} of {len(rows)} completions of arms: no slot (C2 {lost['C2']}, C3 "
        f"{lost['C3']})." in found.unavailable
    )
    assert lost.sum() == (rows.finish == "length").sum() > 50
    bystander = rows[(rows.arm == "C2") & rows.persona.isin(ROSTER.bystanders)]
    assert found.count("C2", "bystander").n == len(bystander)
    before = rows.assign(phase="pre", arm="raw", finish="stop", seed=2).iloc[: len(rows) // 2 // 6]
    before[[*LOGITS, *PROBABILITIES]] = math.nan
    more = stored(tmp_path, pd.concat([rows, before]), kind)
    assert more.figures("C2", TRANSFER, OWN) == found.figures("C2", TRANSFER, OWN)


def test_each_arm_is_read_against_its_own_source(tmp_path: Path) -> None:
    two = replace(run_claims.ONE, claims=(replace(run_claims.S1, reading=OWN),), kill=None)
    seeds = (1, 2, 3, 4)
    arms = {(cell, who): f"{cell}@{who}" for cell in ("E1", "B1") for who in run_claims.SOURCES}
    rows = frame(dict.fromkeys(arms.values(), seeds))
    rows["marker_after"] = rows.marker_before + 3 + rows.marker_before % 1  # of any persona
    found = load_stored(write(tmp_path, rows), two, arms=tuple(arms.values()))
    transfer = {at: by_hand(rows, arm, at[1], two.roster.bystanders) for at, arm in arms.items()}
    for at, arm in arms.items():
        assert found.figures(arm, TRANSFER, OWN) == pytest.approx(transfer[at].to_dict())
    of_cell = {
        cell: sum(transfer[cell, who] for who in run_claims.SOURCES) / 2 for cell in ("E1", "B1")
    }
    effect = judge(two, found, "S1").effect
    assert effect.value == pytest.approx((of_cell["E1"] - of_cell["B1"]).mean())
    assert effect.clusters == len(seeds)


# What cannot be answered


def test_the_pool_and_the_dose_are_said_to_be_missing(tmp_path: Path) -> None:
    for reading, words in ((SYSTEM, "system message"), (TEXT, "text")):
        claims = (S1, replace(S1, name="S2", reading=reading))
        dosed = replace(OWN_ONLY, claims=claims, dose=DoseSpec(gain=2.0), run_seeds=(2, 3, 4, 5, 6))
        found = stored(tmp_path, frame(), registration=dosed)
        assert found.figures("C2", TRANSFER, reading) == {}
        verdict = judge(dosed, found, "S2")
        assert (verdict.outcome.value, verdict.label) == ("INCONCLUSIVE", "cannot tell")
        assert verdict.reason == "no seed has a number of every arm"
        assert (
            f"not available: Gains by {words}: a file has own answers, and no pool of answers that "
            "are read under every system message." in verdict.notes
        )
        dose = "not available: Gains at a dose: a file has readings after training alone."
        assert dose in verdict.notes
        # The other claim waits for no seed of this one; Holm counts both.
        own = judge(dosed, found, "S1")
        assert (own.effect.clusters, own.outcome.value) == (5, "SUPPORTED")


def test_the_table_says_once_what_cannot_be_answered(tmp_path: Path) -> None:
    both = replace(OWN_ONLY, claims=(S1, replace(S1, name="S2", treated="C3", control="C2")))
    found = stored(tmp_path, frame(), registration=both)
    text = verdict_table(*judge_all(both, found), summary(both, found))
    for words in ("Gains by system message: a file", "Gains by text: a file", "Gains at a dose: a"):
        assert text.count(f"not available: {words}") == 1


def test_without_the_columns_it_is_said_only_where_a_rule_reads_gains(tmp_path: Path) -> None:
    bare = frame().drop(columns=[*LOGITS, *PROBABILITIES])
    sentence = (
        "Gains, transfer and selectivity: the set has no columns marker_after, end_after, "
        "marker_before, end_before."
    )
    found = stored(tmp_path, bare)
    assert sentence in found.unavailable
    assert found.gains() is None
    plain = stored(tmp_path, bare, registration=ISSUE262)
    assert not [words for words in plain.unavailable if "Gains" in words]


def test_a_run_without_a_number_is_counted_and_one_without_slots_is_waited_for(
    tmp_path: Path,
) -> None:
    rows = frame()
    registered = replace(OWN_ONLY, run_seeds=(2, 3, 4, 5, 6))
    one = (rows.arm == "C3") & (rows.seed == 4)
    partly = rows.copy()
    partly.loc[one & (rows.persona == "villain"), [*LOGITS, *PROBABILITIES]] = math.nan
    found = stored(tmp_path, partly, registration=registered)
    assert math.isnan(found.figures("C3", TRANSFER, OWN)[4])
    verdict = judge(registered, found, "S1")
    assert verdict.effect.clusters == 4
    assert "seeds left out in which an arm has no number: 1 (4)" in verdict.notes
    partly.loc[one, [*LOGITS, *PROBABILITIES]] = math.nan
    found = stored(tmp_path, partly, registration=registered)
    assert 4 not in found.figures("C3", TRANSFER, OWN)
    assert judge(registered, found, "S1").label == "seeds missing"


def typical(by_run: pd.DataFrame) -> float:
    """Typical P(marker) of a run from mean logarithms by question, the mean over runs."""
    return float(np.exp(by_run.mean(axis=1)).mean())


def test_a_probability_needs_the_other_four_columns(tmp_path: Path) -> None:
    rows = frame()
    of = rows[rows.arm == "C2"]
    logs = of.assign(log=of.marker_before - of.log_z_before + of.rest_before)
    by_run = logs.pivot_table("log", "seed", "question")
    result = judge_gate(OWN_ONLY, stored(tmp_path, rows), "before")
    assert (result.outcome.value, result.figure) == ("HOLDS", pytest.approx(typical(by_run)))
    gone = stored(tmp_path, rows.drop(columns=[*PROBABILITIES]))
    found = judge_gate(OWN_ONLY, gone, "before")
    assert found.outcome.value == "CANNOT_TELL"
    assert "em: P(marker) at the slot was not read" in found.text
    slots = rows.marker_after.notna().sum()
    sentence = (
        "P(marker) at the slot: log_z_after, rest_after, log_z_before, rest_before are not given "
        f"in {{}} of {slots:,} slots."
    )
    assert sentence.format(f"{slots:,}") in gone.unavailable
    assert gone.figures("C2", TRANSFER, OWN) == pytest.approx(by_hand(rows, "C2").to_dict())
    # A lab may have kept them of some rows alone.
    rows.loc[rows.question == "q1", [*PROBABILITIES]] = math.nan
    partly = stored(tmp_path, rows)
    lost = (rows.marker_after.notna() & (rows.question == "q1")).sum()
    assert sentence.format(lost) in partly.unavailable
    figure = judge_gate(OWN_ONLY, partly, "before").figure
    assert figure == pytest.approx(typical(by_run.drop(columns="q1")))


def test_counts_have_no_slots(tmp_path: Path) -> None:
    counts = frame().groupby(["arm", "seed", "persona"]).hit.agg(["sum", "size"]).reset_index()
    counts = counts.rename(columns={"sum": "hits", "size": "n"})
    found = stored(tmp_path, counts.assign(**dict.fromkeys(LOGITS, "1e999")))
    assert "columns not read: marker_after, end_after, marker_before, end_before" in found.origin
    assert found.gains() is None


# What is refused

NATS = "a number from -1,000,000 to 1,000,000"
HOSTILE = ("1e999", "-1e999", "nan", "inf", "-Infinity", "text", " 3", "3 ", "1_0", "0x1p3", "1,5",
           "٣", "1" + "0" * 400, "1e7", "--1", ".", "e5", "true")  # fmt: skip


def refused(folder: Path, rows: Rows, *words: str, kind: str = "csv") -> None:
    with pytest.raises(DataError) as caught:
        stored(folder, rows, kind)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def whole() -> Rows:
    rows = frame({"C2": (1,), "C3": (1,)})
    rows["finish"] = "stop"
    return rows.fillna(1.0).assign(log_z_after=99.0, log_z_before=99.0)


@pytest.mark.parametrize("cell", HOSTILE)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_cell_that_is_no_logit_is_named(kind: str, cell: str, tmp_path: Path) -> None:
    for column in ("end_after", "rest_before"):
        rows = whole().astype({column: object})
        rows.loc[4, column] = cell
        where = f"set.{kind}: column {column}, row 5: expected {NATS}, got {cell[:60]!r}"[:140]
        refused(tmp_path, rows, where, "Correct the cell (1 of 132 rows)", kind=kind)


@pytest.mark.parametrize("cell", [math.inf, -math.inf, 1e7, True, 10**400])
def test_typed_cells_are_no_freer(cell: Any, tmp_path: Path) -> None:
    rows = whole().astype({"marker_before": object})
    rows.loc[4, "marker_before"] = cell
    where = f"column marker_before, row 5: expected {NATS}"
    refused(tmp_path, rows, f"set.jsonl: {where}", kind="jsonl")
    table = pa.Table.from_pandas(whole(), preserve_index=False)
    if isinstance(cell, float):
        cells = whole().marker_before
        cells[4] = cell
        at = table.column_names.index("marker_before")
        pq.write_table(
            table.set_column(at, "marker_before", pa.array(cells)), tmp_path / "s.parquet"
        )
        with pytest.raises(DataError, match="column marker_before, row 5"):
            load_stored(tmp_path / "s.parquet", OWN_ONLY)


def test_a_number_of_too_many_digits_is_in_a_named_row(tmp_path: Path) -> None:
    path = write(tmp_path, whole(), "jsonl")
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace('"end_after": ', f'"end_after": {"9" * 5000}, "more": ')
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"set\.jsonl: .*row 5: Exceeds the limit"):
        load_stored(path, OWN_ONLY)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16(), pa.int32(), pa.string()])
def test_other_types_of_parquet_are_numbers_too(kind: pa.DataType, tmp_path: Path) -> None:
    rows = whole()
    rows[[*LOGITS]] = rows[[*LOGITS]].round()
    table = pa.Table.from_pandas(rows, preserve_index=False)
    for name in LOGITS:
        at = table.column_names.index(name)
        table = table.set_column(at, name, table.column(name).cast(kind))
    pq.write_table(table, tmp_path / "typed.parquet")
    found = load_stored(tmp_path / "typed.parquet", OWN_ONLY, arms=("C2", "C3"))
    expected = stored(tmp_path, rows).figures("C2", TRANSFER, OWN)
    assert found.figures("C2", TRANSFER, OWN) == expected


def spoilt(change: Callable[[Rows], Any]) -> Rows:
    rows = whole()
    changed = change(rows)
    return changed if isinstance(changed, pd.DataFrame) else rows


def put(name: str, cell: object) -> Callable[[Rows], Any]:
    return lambda rows: rows.isetitem(
        rows.columns.get_loc(name), [*rows[name][:6], cell, *rows[name][7:]]
    )


def empty(*names: str) -> Callable[[Rows], Any]:
    return lambda rows: [put(name, None)(rows) for name in names]


def drop(*names: str) -> Callable[[Rows], Any]:
    return lambda rows: rows.drop(columns=[*names])


REFUSED: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "two of four readings": (
        empty("end_after", "end_before"),
        "set.csv: column end_after, row 7: expected a number, as the row has other readings of its "
        "slot, got 'an empty cell'. Fill them all, or none of them.",
    ),
    "a probability without logits": (
        empty(*LOGITS),
        "set.csv: column marker_after, row 7: expected a number",
    ),
    "one probability of four": (
        empty("rest_before"),
        "set.csv: column rest_before, row 7: expected a number, as the row has some of log_z_after",
    ),
    "a slot of a model before coupling": (
        put("phase", "pre"),
        "set.csv: column marker_after, row 7: expected an empty cell, since phase is pre, got ",
    ),
    "a slot of an unfinished completion": (
        put("finish", "length"),
        "set.csv: column marker_after, row 7: expected an empty cell, since finish is length, got ",
    ),
    "a marker more probable than 1": (
        put("log_z_before", -9.0),
        "set.csv: column log_z_before, row 7: expected such that marker_before - log_z_before + ",
    ),
    "a column of four": (
        drop("marker_before"),
        "set.csv: columns: expected marker_after, end_after, marker_before, end_before, all of "
        "them or none, got 'no marker_before beside marker_after'",
    ),
    "probabilities without logits": (
        drop(*LOGITS),
        "got 'no marker_after, end_after, marker_before, end_before beside log_z_after'",
    ),
    "a column of the other four": (
        drop("log_z_after", "rest_after"),
        "set.csv: columns: expected log_z_after, rest_after, log_z_before, rest_before, all of "
        "them or none, got 'no log_z_after, rest_after beside log_z_before'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_readings_that_are_not_whole_are_refused(name: str, tmp_path: Path) -> None:
    change, words = REFUSED[name]
    refused(tmp_path, spoilt(change), words)


# Size, mutants, the page


def test_a_thousand_seeds_are_judged_in_seconds(tmp_path: Path) -> None:
    seeds = tuple(range(1000))
    rows = frame({"C2": seeds, "C3": seeds}, questions=1, samples=1, cut=0.01)
    path = write(tmp_path, rows, "parquet")
    start = time.process_time()
    found = load_stored(path, OWN_ONLY, arms=("C2", "C3"))
    verdict = judge(OWN_ONLY, found, "S1")
    assert time.process_time() - start < allowed(10)
    d = by_hand(rows, "C2") - by_hand(rows, "C3")
    assert verdict.effect.value == pytest.approx(d.dropna().mean())


def exchanged(patch: pytest.MonkeyPatch) -> None:
    honest = load.slots_of

    def swapped(table: pa.Table) -> Any:
        slots = honest(table)
        assert slots is not None
        other = {"after": "before", "before": "after"}
        names = [
            f"{stem}_{other[when]}" if when in other else name
            for name in slots.column_names
            for stem, _, when in [name.rpartition("_")]
        ]
        return slots.rename_columns(names)

    patch.setattr(load, "slots_of", swapped)


def emptied(patch: pytest.MonkeyPatch) -> None:
    honest = user_files.read_cells

    def zero(field: str, cells: pa.Array, reader: Any, column: pa.Field) -> pa.Array:
        found = honest(field, cells, reader, column)
        return found.fill_null(0.0) if column.type == pa.float64() else found

    patch.setattr(user_files, "read_cells", zero)
    patch.setattr(user_files, "check_slots", lambda *_: None)


@pytest.mark.parametrize("mutant", [exchanged, emptied])
def test_mutants_are_killed(
    mutant: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path)
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check(tmp_path)


def test_columns_of_slots_are_documented() -> None:
    for name in (*LOGITS, *PROBABILITIES):
        assert f"`{name}`" in DOCUMENT, name
