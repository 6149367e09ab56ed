"""``--report=DIR``: everything is written, without torch, and reads back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from persona_lib.report.numbers import check_report
from tests import own_runs
from tests.loopback import Loopback, says
from tests.pace import allowed
from tests.record_sets import record_set
from tests.report_bodies import ROOT, report_of

FIGURES = {"hero", "forest", "lengths", "cosines", "scatter"}
PROBE = """
import json, sys, time
import pytest
code = pytest.main(sys.argv[1:])
heavy = sorted(set(sys.modules) & {"torch", "transformers", "peft", "trl", "vllm"})
print(json.dumps({"code": int(code), "heavy": heavy, "seconds": time.process_time()}))
"""


def pytest_of(*arguments: str) -> tuple[dict[str, object], str]:
    keys = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in keys}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", PROBE, *own_runs.PLUGIN, "-q", "-p", "no:cacheprovider"]
    with tempfile.TemporaryDirectory() as scrap:
        done = subprocess.run(
            [*command, *arguments],
            cwd=ROOT, env=environment | {own_runs.VARIABLE: scrap}, capture_output=True,
            text=True, check=True, timeout=1200,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], str]:
    folder = tmp_path_factory.mktemp("wired")
    return folder, *pytest_of("-m", "h1", "--stored=golden/tiny", f"--report={folder}")


def test_stored_records_give_every_document_without_torch(
    description: tuple[Path, dict[str, object], str],
) -> None:
    folder, found, printed = description
    assert found["heavy"] == []
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "json")}
    assert written == {"verdict.json", "report.md", "report.html"} | figures
    for name in ("verdict.json", "report.md", "report.html"):
        assert f"written: {folder / name}" in printed
    assert check_report(folder) == []
    assert "Cost of the judge" not in (folder / "report.md").read_text(encoding="utf-8")
    # The promise is 60 s over the run itself; processor time, because tests share a machine.
    assert isinstance(found["seconds"], float)
    assert found["seconds"] < allowed(60)


def test_the_marker_reads_back_what_lies_there(
    description: tuple[Path, dict[str, object], str], tmp_path: Path
) -> None:
    folder, _, _ = description
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


def one_sample(folder: Path) -> Path:
    """The first sample of every cell of golden/tiny, as a record set of its own."""
    first, golden = pc.field("sample") == 0, ROOT / "golden" / "tiny"
    scores, completions = (
        pq.read_table(golden / f"{name}.parquet").filter(first)
        for name in ("scores", "completions")
    )
    return record_set(folder, scores, completions=completions)


def test_a_judge_behind_an_api_is_asked_once_and_its_cost_is_told(tmp_path: Path) -> None:
    stored, out = one_sample(tmp_path / "set"), tmp_path / "out"
    # Two whole commands, each of which fits a classifier first: minutes on a busy machine.
    with Loopback(lambda _: says("yes"), most=3000, seconds=900) as server:
        asked = (
            "-m", "h1", f"--stored={stored}", f"--report={out}", f"--store={tmp_path / 'store'}",
            "--judge=openai:m@1", f"--judge-url={server.url}/v1",
        )  # fmt: skip
        pytest_of(*asked)
        first = len(server.seen)
        body = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
        page = (out / "report.md").read_text(encoding="utf-8")
        pytest_of(*asked)
        assert len(server.seen) == first  # answers are cached in the store's folder
    panel = body["panels"]["following"]
    cells = 11 * 20
    assert panel["data"]["run"]["n"] == 219 + cells + 4 * cells
    assert panel["data"]["run"]["requests"] == first
    assert panel["state"] == "INVALID"  # one that says yes to everything
    assert "## Cost of the judge" in page
    assert f"| requests, retries among them | {first:,} |" in page
    assert "| dollars | – |" in page
    assert check_report(out) == []


def test_the_figures_of_the_docs_are_those_of_the_real_run() -> None:
    """Every interval that docs/results.md quotes of golden/smollm2 stands in its report."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    start = page.index("### What else was recorded")
    quoted = re.findall(
        r"[+-]?\d+\.\d+ \[[+-]?\d+\.\d+, [+-]?\d+\.\d+\]",
        page[start : page.index("\n## ", start + 1)],
    )
    assert len(quoted) >= 12
    description = (report_of("real") / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert [one for one in quoted if one not in description] == []
