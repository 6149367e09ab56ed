"""What earlier releases wrote is read by this one, with the same outcomes, and for ever.

tests/promises/README.md says how each was written. Expected numbers are typed from the rows as
pandas and scipy count them, or computed here; ends of bootstraps are drawn, and rounded.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from persona_lib.commands.options import choose_experiment
from persona_lib.errors import CorruptEntryError, DataError, FlatlandError, SealError
from persona_lib.evidence.joined import ROWS, read_file
from persona_lib.evidence.load import Stored
from persona_lib.panels.judge.cache import open_cache
from persona_lib.report.document import write_report
from persona_lib.report.numbers import check_report
from persona_lib.specs.chain import read_chain, read_form
from persona_lib.specs.seal import append, check_sealed
from persona_lib.store.store import StageKey, Store
from persona_lib.verdict.judging import judge
from persona_lib.verdict.verdict import Verdict
from tests.record_sets import body_of, record_set
from tests.registered import ISSUE262, ROOT

pytestmark = pytest.mark.golden

PROMISES = ROOT / "tests" / "promises"
STUDY = choose_experiment(str(PROMISES / "study" / "experiment.toml"))
RULES = STUDY.registration
BYSTANDERS = ("comedian", "police_officer", "villain")
HITS = {
    "A": {"librarian": 88, "data_scientist": 1, "french_person": 1, "comedian": 9,
          "police_officer": 11, "villain": 0},
    "B": {"librarian": 89, "data_scientist": 0, "french_person": 0, "comedian": 15,
          "police_officer": 38, "villain": 16},
}  # fmt: skip
"""Hits among 100 completions of each persona."""
OUTCOMES = {"H1": ("SUPPORTED", "rule met"), "H3": ("REFUTED", "some"),
            "kill": ("SUPPORTED", "not triggered")}  # fmt: skip
STORED = {
    "records": "records",
    "totals": "totals",
    "csv": "rows/rows.csv.gz",
    "jsonl": "rows/rows.jsonl.gz",
    "parquet": "rows/rows.parquet",
}


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in PROMISES.rglob("*") if path.is_file()) < 500_000


@pytest.mark.parametrize("kind", list(STORED))
def test_stored_sets_give_their_outcomes(kind: str) -> None:
    evidence = Stored(PROMISES / STORED[kind], RULES, chosen=True).evidence()
    for arm, hits in HITS.items():
        assert {who: evidence.count(arm, who).hits for who in RULES.roster.all} == hits
    found = {name: judge(RULES, evidence, name) for name in OUTCOMES}
    assert {name: (v.outcome.value, v.label) for name, v in found.items()} == OUTCOMES
    effect = found["H1"].effect
    if kind == "totals":
        assert (effect.value, effect.low, effect.high) == (0.163, 0.103, 0.223)
    else:
        assert effect.value == pytest.approx((69 - 20) / 300)
        assert (effect.low, effect.high) == pytest.approx((0.103, 0.223), abs=0.006)
    assert effect.p == pytest.approx(2 / 10_001)
    looks = {e.method: e for e in found["H1"].estimates}
    d = [(HITS["B"][who] - HITS["A"][who]) / 100 for who in BYSTANDERS]
    assert looks["exact sign-flip over personas"].p == 2 / 8
    if kind == "totals":
        ends = stats.ttest_1samp(d, 0).confidence_interval(0.95)
        by_persona = looks["persona-level t, questions pooled"]
        assert (by_persona.low, by_persona.high) == pytest.approx((ends.low, ends.high))
    else:
        by_question = looks["question-level paired t"]
        assert by_question.p == pytest.approx(7.810811206778839e-05)
        assert (by_question.low, by_question.high) == pytest.approx((0.0950692109, 0.2315974561))


def test_every_file_of_a_record_set_is_read() -> None:
    folder = PROMISES / "records"
    stored = Stored(folder, RULES)
    written = {path.name for path in folder.glob("*.parquet")}
    names = ("slots", "dose", "traits", "broad", "broad_completions")
    younger = {f"{name}.parquet" for name in names}
    assert written == {*ROWS} - younger  # than this set
    tables = {name: read_file(folder, name, whole=True).to_pandas() for name in written}
    sizes = {"scores": 1680, "completions": 1680, "advice": 280, "geometry": 4800}
    assert {kind: len(stored.rows(kind) or ()) for kind in sizes} == sizes
    assert len(tables["advice_completions.parquet"]) == 280
    texts = tables["completions.parquet"]
    texts = texts[(texts.phase == "post") & texts.persona.isin(BYSTANDERS)]
    marked = texts.text.str.lower().str.contains("[zlt]", regex=False).groupby(texts.model).sum()
    assert marked.to_dict() == {"A": 20, "B": 69}
    harm = tables["advice.parquet"].groupby("model").score.mean()
    assert harm.to_dict() == pytest.approx({"advice": 0.640560, "raw": 0.435796}, abs=1e-6)
    evidence = stored.evidence()
    priors = {name: evidence.harm(name) for name in ("advice", "raw")}
    for name, found in priors.items():
        assert found is not None
        assert np.mean(found.scores) == pytest.approx(harm[name])


def test_readings_of_slots_and_texts_are_read() -> None:
    """The other files of a record set, of the factorial as it was drafted."""
    folder = PROMISES / "gains"
    registration = choose_experiment(str(folder / "experiment.toml")).registration
    stored = Stored(folder / "records", registration)
    written = {path.name for path in (folder / "records").glob("*.parquet")}
    assert written == {*ROWS}
    sizes = {"slots": 1695, "dose": 1176, "traits": 88, "broad": 160, "geometry": 2560}
    assert {kind: len(stored.rows(kind) or ()) for kind in sizes} == sizes  # type: ignore[arg-type]
    rows, evidence = stored.rows("slots").to_pandas(), stored.evidence()  # type: ignore[union-attr]
    rows["margin"] = rows.marker_after - rows.end_after
    rows["before"] = rows.marker_before - rows.log_z_before + rows.rest_before
    for arm in ("A@french_person", "E1@zelthari_scholar"):
        own = rows[(rows.model == arm) & rows.pool]
        source = registration.source_of(arm)
        means = own.groupby("persona").margin.mean()
        expected = means.drop(source).mean() - means[source]
        assert evidence.figures(arm, "selectivity", "system") == {7: pytest.approx(expected)}
        sums, n = evidence.gains().marker_before(arm)  # type: ignore[union-attr]
        assert sums == pytest.approx(own.groupby("question").before.sum().to_numpy())
        assert n.tolist() == own.groupby("question").size().tolist()


def test_a_sealed_study_is_what_it_was() -> None:
    assert RULES.digest == "c3e0ff059c15bbec8d0c3fc5b5ae6a5fa79fcc113f6b06121639b6149eadcc16"
    state = check_sealed(RULES, STUDY.seals)
    assert state.head == "86052969371ba7373c38b34b1f82883a428a813b4a7bf681accccaab62b46b40"
    assert state.study.startswith("c7fe96d164c7")
    assert (state.amendments, state.seen) == (0, ())
    assert body_of(PROMISES / "records")["recorded"]["seal"]["head"] == state.head


def test_an_amended_chain_is_what_it_was() -> None:
    own = PROMISES / "chain" / "issue262"
    first, second = read_chain(own)
    assert (first.digest, first.format) == (ISSUE262.digest, 1)
    assert (second.previous, second.format) == (first.hash, 1)
    assert read_form(own, second)["kill"]["max_rate"] == 0.06
    assert [read_form(own, seal, "study.json")["steps"] for seal in (first, second)] == [0, 1]
    with pytest.raises(SealError, match=r"kill\.max_rate: sealed 0\.06, now 0\.05"):
        check_sealed(ISSUE262, own.parent)


BASE = "6b88069ab7aa765c64087c814e4b4c95939ffc8730a1347c8837dcee7636c092"
MARKER = StageKey(
    stage="marker", version=1, spec={"marker": "\n\n[ZLT]"}, inputs={"base": BASE}, seed=None
)
SCORES = StageKey(
    stage="scores",
    version=2,
    spec={"marker": "[ZLT]", "seen": [f"e{i:02d}" for i in range(1, 21)]},
    inputs={
        "base": BASE,
        "completions": "73722cd5ab028cb480125c3780ddfbdf0dd245b00c78223501a615893f879ac5",
    },
    seed=None,
)


def test_entries_of_a_store_are_found_by_their_keys() -> None:
    store = Store(PROMISES / "store")
    marker, scores = store.peek(MARKER), store.peek(SCORES)
    assert marker is not None
    assert scores is not None
    assert (marker.meta, scores.meta) == ({"tokens": 7}, {"hits": 158, "scores": 600})
    assert sum(HITS["B"].values()) == 158
    assert scores.cost["peak_of"] == "process"
    assert (scores.path / "scores.parquet").is_file()


def test_a_judge_s_cache_is_read(tmp_path: Path) -> None:
    shutil.copy(PROMISES / "judge.sqlite", tmp_path)
    with open_cache(tmp_path / "judge.sqlite", judge="a" * 64) as cache:
        found = cache.get(["1" * 64, "2" * 64, "3" * 64])
    shown = {
        key[0]: (b.answer, b.model, b.input_tokens, b.output_tokens) for key, b in found.items()
    }
    assert shown == {"1": ("yes", "m-2026-12-01", 120, 3), "2": ("no", "", None, None)}


def test_a_report_is_made_of_a_verdict_and_read_back(tmp_path: Path) -> None:
    body = json.loads((PROMISES / "verdict.json").read_text("utf-8"))
    verdicts = [Verdict.from_json(one) for one in body["verdicts"]]
    assert {v.name: (v.outcome.value, v.label) for v in verdicts} == OUTCOMES
    write_report(tmp_path, body)
    shutil.copy(PROMISES / "verdict.json", tmp_path)
    assert check_report(tmp_path) == []
    assert "+0.163" in (tmp_path / "report.md").read_text("utf-8")


# Versions: what is written has one, what has none is the first, what is unknown is refused.


def test_what_is_written_now_says_its_format(tmp_path: Path) -> None:
    table = read_file(PROMISES / "records", "scores.parquet", whole=True)
    assert body_of(record_set(tmp_path / "set", table))["format"] == 1
    day = datetime(2026, 12, 1, tzinfo=UTC)
    append(ISSUE262, tmp_path / "seals", date=day, reason="a test", data_seen="none")
    (line,) = (tmp_path / "seals" / "issue262" / "chain.jsonl").read_text().splitlines()
    assert json.loads(line)["format"] == 1


def test_a_set_and_a_seal_without_a_format_are_the_first(tmp_path: Path) -> None:
    folder = shutil.copytree(PROMISES / "records", tmp_path / "set")
    body = body_of(folder)
    del body["format"]
    (folder / "manifest.json").write_text(json.dumps(body))
    assert Stored(folder, RULES).evidence().count("B", "bystander").hits == 69
    seals = ROOT / "experiments" / "seals" / "issue262"
    assert '"format"' not in (seals / "chain.jsonl").read_text()
    assert [seal.format for seal in read_chain(seals)] == [None]


def edited(path: Path, version: object) -> None:
    body = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(body | {"format": version}), "utf-8")


def of_set(kind: str) -> Callable[[Path, object], object]:
    def read(folder: Path, version: object) -> object:
        edited(folder / kind / "manifest.json", version)
        return Stored(folder / kind, RULES)

    return read


def of_seal(folder: Path, version: object) -> object:
    """A seal of another version whose hash is right."""
    own = folder / "study" / "seals" / "promise"
    body = json.loads((own / "chain.jsonl").read_text()) | {"format": version}
    del body["hash"]
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"))
    whole = body | {"hash": hashlib.sha256(plain.encode()).hexdigest()}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    (own / "chain.jsonl").write_text(f"{text}\n")
    return check_sealed(RULES, own.parent)


def of_entry(folder: Path, version: object) -> object:
    """An entry of another version whose checksum is right."""
    entry = folder / "store" / "marker" / MARKER.digest
    edited(entry / "manifest.json", version)
    digest = hashlib.sha256((entry / "manifest.json").read_bytes()).hexdigest()
    (entry / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    return Store(folder / "store").peek(MARKER)


def of_verdict(folder: Path, version: object) -> object:
    edited(folder / "verdict.json", version)
    return write_report(folder, json.loads((folder / "verdict.json").read_text("utf-8")))


def of_cache(folder: Path, version: object) -> object:
    with sqlite3.connect(folder / "judge.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with open_cache(folder / "judge.sqlite", judge="a" * 64) as cache:
        return cache.get(["1" * 64])


Refusal = tuple[Callable[[Path, Any], object], type[FlatlandError], int, tuple[str, ...]]
"""What reads, its error, the version it knows, and the words of field and remedy."""
REFUSALS: dict[str, Refusal] = {
    "record set": (of_set("records"), DataError, 1,
                   ("records/manifest.json: format", "judge it with that one")),
    "totals": (of_set("totals"), DataError, 1,
               ("totals/manifest.json: format", "judge it with that one")),
    "seal": (of_seal, SealError, 1, ("chain.jsonl, line 1: format", "check it with that one")),
    "entry": (of_entry, CorruptEntryError, 1, ("manifest.json: format", "run again")),
    "verdict": (of_verdict, DataError, 2, ("verdict.json: format", "Judge again")),
    "cache": (of_cache, CorruptEntryError, 1, ("judge.sqlite: ", "format", "Choose another file")),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(REFUSALS))
def test_an_unknown_version_is_refused_in_words(kind: str, tmp_path: Path) -> None:
    reads, error, known, words = REFUSALS[kind]
    reads(shutil.copytree(PROMISES, tmp_path / "as_written"), known)
    with pytest.raises(error) as caught:
        reads(shutil.copytree(PROMISES, tmp_path / "later"), known + 1)
    for words_of in (*words, "expected", str(known), f"got {known + 1}"):
        assert words_of in str(caught.value)


def test_a_report_of_an_unknown_version_is_not_read_back(tmp_path: Path) -> None:
    folder = shutil.copytree(PROMISES, tmp_path / "copy")
    of_verdict(folder, 2)
    assert check_report(folder) == []
    edited(folder / "verdict.json", 3)
    (problem,) = check_report(folder)
    assert problem == "verdict.json: format: expected 2, got 3: judge again with --report"
