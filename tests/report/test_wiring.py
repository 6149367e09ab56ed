"""``--report=DIR``: everything is written, without torch, and reads back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from persona_lib.report.numbers import check_report
from tests.report_bodies import ROOT

FIGURES = {"hero", "forest", "lengths", "cosines", "scatter"}
PROBE = """
import json, sys, time
import pytest
code = pytest.main(sys.argv[1:])
heavy = sorted(set(sys.modules) & {"torch", "transformers", "peft", "trl", "vllm"})
print(json.dumps({"code": int(code), "heavy": heavy, "seconds": time.process_time()}))
"""


def pytest_of(*arguments: str) -> tuple[dict[str, object], str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], str]:
    folder = tmp_path_factory.mktemp("wired")
    return folder, *pytest_of("-m", "h1", "--stored=golden/tiny", f"--report={folder}")


def test_stored_records_give_every_document_without_torch(
    told: tuple[Path, dict[str, object], str],
) -> None:
    folder, found, printed = told
    assert found["heavy"] == []
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "json")}
    assert written == {"verdict.json", "report.md", "report.html"} | figures
    for name in ("verdict.json", "report.md", "report.html"):
        assert f"written: {folder / name}" in printed
    assert check_report(folder) == []
    # The promise is 60 s over the run itself; processor time, because tests share a machine.
    assert isinstance(found["seconds"], float)
    assert found["seconds"] < 60


def test_the_marker_reads_back_what_lies_there(
    told: tuple[Path, dict[str, object], str], tmp_path: Path
) -> None:
    folder, _, _ = told
    found, printed = pytest_of("-m", "report", f"--report={folder}")
    assert found["code"] == 0, printed
    for path in ("verdict.json", "report.html", "report.md"):
        (tmp_path / path).write_bytes((folder / path).read_bytes())
    (tmp_path / "figures").symlink_to(folder / "figures")
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    (tmp_path / "report.md").write_text(page.replace("-0.010", "-0.011", 1), encoding="utf-8")
    found, printed = pytest_of("-m", "report", f"--report={tmp_path}")
    assert found["code"] == 1
    assert "report.md" in printed


def test_a_report_that_cannot_be_written_loses_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("in the way")
    found, printed = pytest_of("-m", "h1", "--stored=golden/tiny", f"--report={tmp_path}")
    assert "not everything could be written" in printed
    assert found["code"] == 1  # H1's own outcome, as without a report
    body = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    assert [verdict["name"] for verdict in body["verdicts"]] == ["H1"]
