"""Panels of a session: what each is made from, and that none can harm the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persona_lib.commands import panels
from persona_lib.commands.outcome import write_outcome
from persona_lib.commands.panels import panels_of
from persona_lib.commands.session import Session
from persona_lib.errors import DataError
from persona_lib.panels import lengths
from tests import own_runs, synthetic
from tests.gain_worlds import DOSED, World, dose, slots
from tests.record_sets import reseeded
from tests.registered import ISSUE262, ROOT, TINY, session_under
from tests.unit.test_joined import exported

ARMS = ("C1", "C2", "C2p", "C3")


def stored(path: Path) -> Session:
    return session_under(ISSUE262, profile=TINY, stored=(path,))


def states(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: panel["state"] for name, panel in found.items()}


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Names of the panels that need a judge, which are left empty: fitting takes a second."""
    names = ("discriminability", "following")
    monkeypatch.setattr(panels, "_followed", lambda *_: {name: {"caveats": []} for name in names})
    return names


def test_panels_of_a_recording_hold_the_models_of_the_arms_that_were_judged() -> None:
    found = panels_of(stored(ROOT / "golden" / "tiny"), ("C1", "C2"))
    assert states(found)["lengths"] == states(found)["samples"] == "readable"
    models = [(m["phase"], m["model"]) for m in found["lengths"]["data"]["models"]]
    assert sorted(models) == [("post", "C1"), ("post", "C2"), ("pre", "em"), ("pre", "raw")]
    assert set(found["samples"]["data"]["arms"]) == {"C1", "C2"}
    geometry = found["geometry"]
    assert geometry["state"] == "readable", geometry["reason"]
    assert geometry["gates"][0]["outcome"] == "HOLDS"
    json.dumps(found, allow_nan=False)


def test_a_file_without_texts_has_lengths_alone_and_published_totals_have_nothing(
    tmp_path: Path,
) -> None:
    table = pq.read_table(ROOT / "golden" / "tiny" / "scores.parquet")
    found = panels_of(stored(exported(tmp_path / "mine.csv", table)), ARMS)
    assert states(found)["lengths"] == "readable"
    assert states(found)["samples"] == states(found)["geometry"] == "unavailable"
    found = panels_of(stored(ROOT / "golden" / "published"), ARMS)
    assert set(states(found).values()) == {"unavailable"}
    assert all(panel["reason"] for panel in found.values())


@pytest.mark.usefixtures("unjudged")
def test_a_panel_that_cannot_be_made_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise DataError("lengths", bound="a panel", value="none", remedy="Repair it.")

    monkeypatch.setattr(lengths, "lengths_panel", broken)
    found = panels_of(stored(ROOT / "golden" / "tiny"), ARMS)
    assert found["lengths"]["state"] == "unavailable"
    assert "Repair it." in found["lengths"]["reason"]
    assert found["samples"]["state"] == "readable"


@pytest.mark.usefixtures("unjudged")
def test_verdict_json_has_panels_only_where_a_report_is_asked_for(tmp_path: Path) -> None:
    session = stored(ROOT / "golden" / "tiny")
    judging = session.judging("H1")
    verdict = judging.claim("H1").to_json()
    recorded = {"verdicts": {"H1": verdict}, "gates": {}, "summaries": [judging.summary]}
    assert session.arms == ()  # as in the process that writes, under pytest-xdist
    for asked in (False, True):
        path = write_outcome(tmp_path / str(asked), session, recorded, panels=asked)
        assert bool(json.loads(path.read_text())["panels"]) is asked
        assert session.arms == ("C1", "C2")


BROKEN = """
import sys
import pytest

def broken(*_):
    raise MemoryError("a panel needs more than there is")

class Saboteur:
    def pytest_collection_finish(self):
        from persona_lib.commands import panels
        panels.panels_of = broken

sys.exit(pytest.main(sys.argv[1:], plugins=[Saboteur()]))
"""


def test_a_panel_that_breaks_the_report_loses_no_verdict(tmp_path: Path) -> None:
    """Not one of our errors: the verdict was written before any panel was made."""
    report = tmp_path / "report"
    arguments = ["-q", "-m", "h1", "--stored=golden/tiny", f"--report={report}"]
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, *arguments, *own_runs.PLUGIN, "-p", "no:cacheprovider"],
        cwd=ROOT, env=os.environ | {own_runs.VARIABLE: str(tmp_path)}, capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "a panel needs more than there is" in done.stdout + done.stderr
    assert list(report.iterdir()) == []
    body = json.loads((own_runs.newest(tmp_path) / "verdict.json").read_text())
    assert [v["name"] for v in body["verdicts"]] == ["H1"]
    assert body["panels"] == {}


def test_panels_say_of_which_seeds_they_are(
    monkeypatch: pytest.MonkeyPatch, unjudged: tuple[str, ...]
) -> None:
    def codes(found: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
        names = (*unjudged, "samples", "geometry")
        return {n: [c["code"] for c in found[n]["caveats"]] for n in names}

    session = stored(ROOT / "golden" / "tiny")
    assert "of_some_seeds" not in str(codes(panels_of(session, ARMS)))
    rows = panels._rows

    def of_two_seeds(*given: Any, **more: Any) -> pa.Table | None:
        found = rows(*given, **more)
        scored = found is not None and given[2] == "scores"
        return pa.concat_tables([found, reseeded(43)(found)]) if scored else found

    monkeypatch.setattr(panels, "_rows", of_two_seeds)
    for name, found in codes(panels_of(session, ARMS)).items():
        of = "states" if name == "geometry" else "texts"
        assert [c for c in found if c.endswith("of_some_seeds")] == [f"{of}_of_some_seeds"], name


def test_slots_and_doses_are_read_of_arms_alone_and_no_dose_unless_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[list[tuple[str, str]], str]] = []

    def table(_: Session, models: Any, kind: str) -> pa.Table:
        asked.append((list(models), kind))
        return slots({}) if kind == "slots" else dose({})

    monkeypatch.setattr(Session, "table", table)
    live = session_under(ISSUE262, profile=TINY)
    arms = [("post", "C1"), ("post", "C2")]
    assert panels._rows(live, ("C1", "C2"), "slots") is not None
    assert panels._rows(live, ("C1", "C2"), "dose") is None
    assert asked == [(arms, "slots")]
    assert panels._rows(session_under(DOSED, profile=TINY), ("C1", "C2"), "dose") is not None
    assert asked[1:] == [(arms, "dose")]


@pytest.mark.usefixtures("unjudged")
def test_gains_of_a_recording_are_those_of_the_arms_that_were_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = stored(ROOT / "golden" / "tiny")
    assert panels_of(session, ARMS)["gains"]["reason"] == "no slots recorded"
    recorded = slots({(arm, 42): World() for arm in ARMS})
    rows = type(session.opened).rows
    monkeypatch.setattr(
        type(session.opened),
        "rows",
        lambda opened, kind: recorded if kind == "slots" else rows(opened, kind),
    )
    found = panels_of(session, ("C1", "C3"))["gains"]
    assert [run["arm"] for run in found["data"]["runs"]] == ["C1", "C3"]
    # 11 personas, 20 questions and 5 completions were scored; 4 questions have a slot here.
    assert [run["left_out"] for run in found["data"]["runs"]] == [1100 - 44] * 2
    assert found["data"]["read_by"] == []


@pytest.mark.usefixtures("unjudged")
def test_gains_of_a_file_of_other_software_are_shown(tmp_path: Path) -> None:
    read = {
        (r["model"], r["persona"], r["question"]): r
        for r in slots({(arm, 1): World() for arm in ARMS}).to_pylist()
        if not r["pool"] and (r["model"], r["question"]) != ("C2", "q03")
    }
    table = synthetic.scores(questions=4, samples=1, seeds=(1,))
    of = [
        read.get((r["model"], r["persona"], r["question"]), {}) if r["phase"] == "post" else {}
        for r in table.to_pylist()
    ]
    for name in ("marker_after", "end_after", "marker_before", "end_before"):
        values = pa.array([one.get(name) for one in of], pa.float64())
        table = table.append_column(name, values)
    found = panels_of(stored(exported(tmp_path / "mine.parquet", table)), ARMS)["gains"]
    assert found["state"] == "readable", found["reason"]
    runs = {run["arm"]: run for run in found["data"]["runs"]}
    assert [runs[arm]["left_out"] for arm in ARMS] == [0, 11, 0, 0]
    assert runs["C1"]["readings"]["own"]["transfer"] == pytest.approx(0.25 * 0.6)
    assert runs["C1"]["marker_before"] is None  # log Z was not given
