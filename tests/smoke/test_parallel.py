"""Several processes on one store share the work: each stage once, and nobody waits in vain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.smoke.conftest import ROOT
from tests.smoke.sleepers import STAGES

pytestmark = pytest.mark.smoke


class Sleepers:
    """Processes of `tests.smoke.sleepers` on one store, and what they have logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.jsonl"
        self.log.touch()

    def start(self, *options: str) -> subprocess.Popen[str]:
        place = [str(self.folder / "store"), str(self.log)]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.smoke.sleepers", *place, *options],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def until(self, stage: str) -> int:
        """Wait until a stage begins; return who builds it."""
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            for line in self.lines():
                if line["stage"] == stage:
                    return int(line["pid"])
            time.sleep(0.01)
        raise AssertionError(f"{stage} never began")

    def built(self) -> dict[str, tuple[int, float, float]]:
        """Who built each stage, from when to when; each may have ended once only."""
        begun: dict[tuple[str, int], float] = {}
        found: dict[str, tuple[int, float, float]] = {}
        for line in self.lines():
            stage, pid = line["stage"], line["pid"]
            if "begins" in line:
                begun[stage, pid] = line["begins"]
            else:
                assert stage not in found, f"{stage} was built twice"
                found[stage] = (pid, begun[stage, pid], line["ends"])
        return found


@pytest.fixture
def sleepers(tmp_path: Path) -> Sleepers:
    return Sleepers(tmp_path)


def end(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    return [process.communicate(timeout=60)[1] for process in processes]


def test_two_processes_build_the_arms_side_by_side_and_each_stage_once(sleepers: Sleepers) -> None:
    processes = [sleepers.start(), sleepers.start()]
    end(processes)
    assert [process.returncode for process in processes] == [0, 0]
    built = sleepers.built()
    assert sorted(built) == sorted(STAGES)
    pids = {process.pid for process in processes}
    assert {pid for pid, _, _ in built.values()} == pids
    work = sum(ends - begins for _, begins, ends in built.values())
    overlap = sum(
        max(0.0, min(e, other_e) - max(b, other_b))
        for pid, b, e in built.values()
        for other, other_b, other_e in built.values()
        if pid < other
    )
    # The base alone, then eleven by two: 0.42. Depth first with waiting would give none.
    assert overlap > 0.1 * work


def test_when_one_is_killed_the_other_goes_on(sleepers: Sleepers) -> None:
    processes = [sleepers.start("--seconds", "0.8") for _ in range(2)]
    pid = sleepers.until("C2")
    os.kill(pid, signal.SIGKILL)
    end(processes)
    assert sorted(process.returncode for process in processes) == [-signal.SIGKILL, 0]
    built = sleepers.built()
    assert sorted(built) == sorted(STAGES)
    assert built["C2"][0] != pid


def test_a_stage_that_fails_is_the_same_clear_error_in_each(sleepers: Sleepers) -> None:
    processes = [sleepers.start("--broken", "C2") for _ in range(2)]
    description = end(processes)
    assert [process.returncode for process in processes] == [1, 1]
    error = "DataError: C2: expected whole, got 'broken'. Mend it."
    assert [text.splitlines()[-1] for text in description] == [error, error]
    assert all(line == error or line.startswith("waiting for stage ")
               for text in description for line in text.splitlines())  # fmt: skip
    built = sleepers.built()
    assert not {"C2", "scores C2"} & set(built)
    assert {"base", "em"} < set(built)
