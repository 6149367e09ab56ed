"""A run that waits for another process says so where its user sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from persona_lib.store.stage import walk
from persona_lib.store.store import Store
from tests import own_runs
from tests.registered import ISSUE262, MICRO, session_under
from tests.smoke.conftest import ROOT, environment

pytestmark = pytest.mark.smoke


def test_a_run_says_what_it_waits_for(tmp_path: Path) -> None:
    session = session_under(ISSUE262, profile=MICRO, store_root=tmp_path)
    (base,) = [s for s in walk(session.runs[0].targets(["C1"])) if s.name == "base"]
    begun, end = threading.Event(), threading.Event()

    def hold(_: Path) -> None:
        begun.set()
        assert end.wait(120)
        raise InterruptedError

    command = [sys.executable, "-m", "pytest", *own_runs.PLUGIN, "-q", "-m", "h1", "--profile",
               "micro", f"--store={tmp_path}", "-p", "no:cacheprovider"]  # fmt: skip
    own = environment() | {own_runs.VARIABLE: str(tmp_path / "runs")}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Store(tmp_path).make_if_free, base.key({}), hold)
        assert begun.wait(60)
        run = subprocess.Popen(
            command, cwd=ROOT, env=own, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )  # fmt: skip
        limit = threading.Timer(120, run.kill)
        limit.start()
        assert run.stderr is not None
        said = next((line for line in run.stderr if "waiting for" in line), "")
        limit.cancel()
        os.killpg(run.pid, 9)
        run.communicate()
        end.set()
    host = re.escape(os.uname().nodename)
    who = rf"being built by process {os.getpid()} on {host}, since "
    assert re.search(rf"waiting for base micro \([0-9a-f]{{12}}\), which is {who}", said)
