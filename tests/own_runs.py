"""A plugin of runs that tests start: what each run writes by itself lies in the test's folder.

Every run writes verdict.json into ``.flatland/runs`` of its root. Without ``--report`` it
makes no panel and no document, which take longer than the judging.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PLUGIN = ("-p", "tests.own_runs")
VARIABLE = "FLATLAND_TESTS_RUNS"
"""Names the root of runs in the environment."""


def newest(root: Path) -> Path:
    """Return the folder of the newest run that was written below a root."""
    return root / ".flatland" / "runs" / "latest"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Move the root before anything is written: in each worker, and in who serves them."""
    # Imported by pytest first, which would warn otherwise that it cannot rewrite it.
    from persona_lib.plugin.fixtures import SESSION

    session.config.stash[SESSION].root = Path(os.environ[VARIABLE])
