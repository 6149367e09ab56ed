"""Helpers of the smoke tests: processes that judge, and processes of a micro run."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import own_runs
from tests.smoke import driver

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = [
    "tests.smoke.driver", "trl.trainer.sft_trainer", "datasets", "peft", "sklearn.metrics",
    "torch._dynamo", "torch._inductor.config", "transformers.models.llama.modeling_llama",
]  # fmt: skip
"""Imports of a micro run that take long."""


def environment() -> dict[str, str]:
    """One thread a process: several run side by side, and results are the same.

    Without the variables by which pytest knows continuous integration: its summary then
    repeats whole messages.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def python(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=environment() | variables, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip


def judge(
    *arguments: str, verdict: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest; its own run folder lies below `verdict`, or is thrown away."""
    with tempfile.TemporaryDirectory() as scrap:
        variables[own_runs.VARIABLE] = str(verdict or scrap)
        return python("-m", "pytest", *own_runs.PLUGIN, *arguments, **variables)


class Started(NamedTuple):
    """A process of `driver.build`, and where its report will arrive."""

    process: BaseProcess
    report: Connection

    def end(self) -> int | None:
        """Return how it ended, as `subprocess.Popen.returncode`."""
        self.process.join(600)
        self.report.close()
        return self.process.exitcode


def start(store: Path, **options: Any) -> Started:
    """Start `driver.build`, forked from a server that has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    received, sent = context.Pipe(duplex=False)
    with pytest.MonkeyPatch.context() as patch, sent:
        for name, value in environment().items():
            patch.setenv(name, value)
        process = context.Process(target=driver.build, args=(sent, store), kwargs=options)
        process.start()
    return Started(process, received)


def finish(started: Started) -> dict[str, Any]:
    """Return the report of a process that ends well."""
    found: dict[str, Any] = started.report.recv()
    assert started.end() == 0
    return found


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two processes that were started together on one empty store."""
    store = tmp_path_factory.mktemp("together")
    processes = [start(store), start(store)]
    return {"store": store, "reports": [finish(process) for process in processes]}
