"""Helpers of the smoke tests: processes of a micro run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """One thread a process: several run side by side, and results are the same.

    Without the variables by which pytest knows continuous integration: its summary then
    repeats whole messages.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(store: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.smoke.driver", str(store), *options],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two processes that were started together on one empty store."""
    store = tmp_path_factory.mktemp("together")
    processes = [start(store), start(store)]
    return {"store": store, "reports": [finish(process) for process in processes]}
