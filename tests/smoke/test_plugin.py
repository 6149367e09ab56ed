"""The command line as a user has it: exit codes, tables, files, workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.issue262 import ISSUE262
from persona_lib.stored import RECORDS, write_manifest
from tests.smoke.conftest import ROOT, environment
from tests.synthetic import BYSTANDERS, scores

pytestmark = pytest.mark.smoke
SCIENCE = "h1 or h2 or h3 or kill or gate"


def run(*arguments: str, report: Path | None = None) -> subprocess.CompletedProcess[str]:
    extra = [f"--report={report}"] if report else []
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, *extra],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def store_records(folder: Path, table: pa.Table) -> Path:
    folder.mkdir()
    pq.write_table(table, folder / "scores.parquet")
    write_manifest(
        folder,
        kind=RECORDS,
        registration=ISSUE262,
        files=["scores.parquet"],
        source="made up for a test",
        recorded={},
    )
    return folder


def outcome(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return {name: found[name] for name in ("verdicts", "gates", "summary", "registration_digest")}


def test_published_table_passes_h1_and_fails_h2_and_h3(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    done = run("-m", SCIENCE, "--stored=golden/published", f"--junitxml={junit}",
               report=tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert "2 failed, 5 passed" in done.stdout
    found = {v["name"]: v["outcome"] for v in outcome(tmp_path)["verdicts"]}
    assert found == {"H1": "SUPPORTED", "H2": "REFUTED", "H3": "REFUTED", "kill": "SUPPORTED"}
    properties = {
        p.attrib["name"]: p.attrib["value"]
        for p in ElementTree.parse(junit).iter("property")  # noqa: S314  (our own file)
    }
    assert properties["H2.outcome"] == "REFUTED"
    assert json.loads(properties["flatland_verdict"])["effect"]


def test_two_workers_give_the_same_verdicts_as_none(tmp_path: Path) -> None:
    stored = store_records(tmp_path / "set", scores(seen=3))
    for name, extra in (("one", []), ("two", ["-n", "2"])):
        done = run("-m", SCIENCE, f"--stored={stored}", *extra, report=tmp_path / name)
        assert done.returncode == 0, done.stdout[-3000:]
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


def test_invalid_claim_is_an_error_of_the_fixture_and_stays_in_the_table(tmp_path: Path) -> None:
    stored = store_records(tmp_path / "set", scores(source={**dict.fromkeys(BYSTANDERS, 0.9),
                                                            "C2": 0.2}))  # fmt: skip
    done = run("-m", "h1 or gate", f"--stored={stored}", report=tmp_path)
    assert done.returncode == 1
    assert "InvalidClaimError" in done.stdout
    assert "1 error" in done.stdout
    (verdict,) = outcome(tmp_path)["verdicts"]
    assert verdict["outcome"] == "INVALID"
    gates = {g["name"]: g["outcome"] for g in outcome(tmp_path)["gates"]}
    assert gates["source_rate"] == "FAILS"


def test_bad_record_sets_are_errors_that_name_the_place(tmp_path: Path) -> None:
    table = scores()
    cases = {
        "missing": table.slice(1),
        "twice": pa.concat_tables([table, table.slice(0, 1)]),
        "null": table.set_column(
            table.column_names.index("tokens"),
            pa.field("tokens", pa.int64()),
            pa.array([None, *table.column("tokens").to_pylist()[1:]], type=pa.int64()),
        ),
    }
    expected = {"missing": "cell", "twice": "duplicate", "null": "tokens"}
    for name, bad in cases.items():
        stored = store_records(tmp_path / name, bad)
        done = run("-q", "-m", "h1", f"--stored={stored}", report=tmp_path / "report")
        assert done.returncode == 1, name
        assert "DataError" in done.stdout, name
        assert expected[name] in done.stdout.lower(), done.stdout[-1500:]


def test_altered_record_set_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    stored = store_records(tmp_path / "set", scores())
    path = stored / "scores.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    done = run("-q", "-m", "h1", f"--stored={stored}", report=tmp_path)
    assert done.returncode == 1
    assert "CorruptEntryError" in done.stdout
    assert "scores.parquet" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "huge"], "--profile: expected one of tiny"),
        (["--experiment", "x"], "--experiment: expected one of issue262"),
        (["--seeds", "a"], "--seeds: expected distinct integers"),
        (["--stored", "golden/none"], "manifest.json"),
    ],
)
def test_wrong_options_end_in_one_clear_line(arguments: list[str], message: str) -> None:
    done = run("-m", "h1", *arguments)
    assert done.returncode == 4
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_folder_option_that_moves_pytest_s_root_is_explained(tmp_path: Path) -> None:
    done = run("-m", "h1", "--stored", str(store_records(tmp_path / "set", scores())))
    assert done.returncode == 4
    assert "--stored=DIR" in done.stderr


def test_store_that_cannot_be_written_is_named() -> None:
    done = run("-q", "-m", "h1", "--profile", "micro", "--store", "/proc/flatland")
    assert done.returncode == 1
    assert "UnwritableStoreError" in done.stdout
    assert "/proc/flatland" in done.stdout


def test_plan_prints_stages_and_trains_nothing(tmp_path: Path) -> None:
    done = run("--plan", "--profile", "qwen7b", f"--store={tmp_path / 'store'}")
    assert done.returncode == 0, done.stderr
    assert "0 of 27 stages are stored" in done.stdout
    assert not list(tmp_path.rglob("manifest.json"))


def test_bare_run_leaves_science_out_and_says_how_to_run_it() -> None:
    done = run("--collect-only", "-q", "tests/golden", "tests")
    assert "tests/science" not in done.stdout
    assert "tests/golden/test_published.py" in done.stdout
    shown = run("--collect-only", "tests/science")
    assert 'science: pytest -m h1, or pytest -m "h1 or h2' in shown.stdout
    assert "test_em_raises_the_bystander_rate" in shown.stdout


def test_micro_run_end_to_end_with_two_workers(tmp_path: Path) -> None:
    """Every arm live: the workers share the store; judging it again gives the same."""
    common = ["-m", SCIENCE, "--profile", "micro", "--seeds", "3,5"]
    common.append(f"--store={tmp_path / 'store'}")
    first = run(*common, "-n", "2", report=tmp_path / "first")
    assert first.returncode in (0, 1), first.stdout[-3000:]
    again = run(*common, report=tmp_path / "again")
    assert again.returncode == first.returncode
    assert outcome(tmp_path / "first") == outcome(tmp_path / "again")
    assert len(outcome(tmp_path / "first")["summary"]["arms"]) == 4
    stages = json.loads((tmp_path / "again" / "verdict.json").read_text())["stages"]
    assert all(stage["stored"] for stage in stages)
    assert {stage["seed"] for stage in stages} == {3, 5}
