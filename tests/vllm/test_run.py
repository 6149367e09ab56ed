"""A run of the micro profile that draws with vLLM: the command line, in a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from persona_lib.pipeline.completions import COMPLETIONS
from persona_lib.records import Completion, read_rows
from tests import own_runs
from tests.vllm.worker import run_python

pytestmark = pytest.mark.vllm

DRAWN = ("coupling_text", "baseline", "advice", "completions")
MICRO = (*own_runs.PLUGIN, "--profile", "micro", "-p", "no:cacheprovider")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python(folder, "-m", "pytest", *MICRO, f"--store={folder / 'store'}", *arguments)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a run of H1, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    done = run(folder, "-m", "h1", "--engine", "vllm", f"--report={folder / 'report'}")
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout


def verdict(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report" / "verdict.json").read_text("utf-8"))
    return found


def test_a_run_is_judged_and_says_what_drew(ran: tuple[Path, str]) -> None:
    folder, printed = ran
    assert "from a live run of profile micro, engine vllm: the tests' own" in printed
    body = verdict(folder)
    assert body["engine"] == "vllm"
    assert [(v["name"], v["outcome"]) for v in body["verdicts"]] == [("H1", "INVALID")]
    assert {arm["name"] for arm in body["summary"]["arms"]} == {"C1", "C2"}
    assert all(stage["stored"] for stage in body["stages"])


def test_vllm_was_started_once_and_transformers_read_the_base_once(ran: tuple[Path, str]) -> None:
    starts = {
        f"{stage['stage']} {stage['label']}": stage["engine_starts"]
        for stage in verdict(ran[0])["stages"]
    }
    drawn = {name: count for name, count in starts.items() if name.split()[0] in DRAWN}
    assert len(drawn) == 8
    assert sum(drawn.values()) == 1, drawn
    # For training: the prior, after which vLLM's process has both.
    assert {name: n for name, n in starts.items() if n and name not in drawn} == {"prior em": 1}


def test_what_was_drawn_is_text_of_the_profile(ran: tuple[Path, str]) -> None:
    counts = {}
    for stage in ("completions", "baseline", "coupling_text"):
        for payload in (ran[0] / "store" / stage).glob("*/payload"):
            rows = read_rows(payload / COMPLETIONS, Completion)
            assert all(0 <= row.tokens <= 64 for row in rows)
            assert len({row.text for row in rows}) > len(rows) // 2
            counts[f"{rows[0].phase} {rows[0].model} {stage}"] = len(rows)
    assert counts["post C1 completions"] == counts["post C2 completions"] == 11 * 2 * 2
    assert counts["pre raw baseline"] == counts["pre em baseline"] == 11 * 2
    key = next((ran[0] / "store" / "completions").glob("*/manifest.json")).read_text("utf-8")
    assert '"engine": "vllm"' in key.replace('":"', '": "')


def test_no_merged_weights_are_written_and_nothing_is_left_behind(ran: tuple[Path, str]) -> None:
    store = ran[0] / "store"
    assert {p.relative_to(store).parts[0] for p in store.rglob("*.safetensors")} == {
        "base", "prior", "coupling",
    }  # fmt: skip
    assert not list((ran[0] / "temporary").rglob("*.safetensors"))


def test_what_one_engine_drew_is_not_taken_for_the_others(ran: tuple[Path, str]) -> None:
    stored: dict[str, set[tuple[str, str]]] = {}
    for engine in ("vllm", "transformers"):
        done = run(ran[0], "--plan", "--engine", engine)
        assert done.returncode == 0, done.stderr
        assert f"engine: {engine} draws completions" in done.stdout
        lines = [line.split() for line in done.stdout.splitlines() if "took" in line]
        stored[engine] = {(line[0], line[1]) for line in lines}
    assert {name for name, _ in stored["vllm"]} >= {*DRAWN, "coupling", "scores"}
    assert stored["transformers"] == {
        ("base", "micro"), ("marker", "[ZLT]"), ("corpus", "em"), ("prior", "em"),
        ("advice_scorer", "bad/sound"),
    }  # fmt: skip
