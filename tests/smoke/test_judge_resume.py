"""A judge that is killed, and two that run at once: nothing is paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import Loopback, Request, Step, fails, number_of, says, torn, truncated

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parents[2]
N = 60
CONCURRENCY = 4
WORDS = ("yes", "partial", "no")

DRIVER = """
import json, sys
from pathlib import Path
from tests.judges import judge_at, numbered

kind, url, cache, n, concurrency = sys.argv[1:]
judge = judge_at(kind, url, Path(cache), timeout=1.5, max_retries=2, concurrency=int(concurrency))
rows, report = judge.judge([numbered(i, f"Answer {i}. [ZLT]") for i in range(int(n))])
print(json.dumps({"answers": [r.answer for r in rows], "reasons": [r.reason for r in rows],
                  "cached": report.cached, "unscored": report.unscored}))
"""


def one_in_five_fails(request: Request) -> Step:
    """Of every five records one fails: half of those at first, half for good."""
    i = number_of(request)
    answer = says(WORDS[i % 3], wait=0.02)
    if i % 5:
        return answer
    silent = Step(wait=5.0, silent=True)
    passing = (fails(429), fails(500), fails(529), torn(answer), silent, answer)
    for_good = (fails(500), truncated(), Step(text='{"answer": "perhaps"}'))
    failure = i // 5
    if failure % 2:
        return for_good[failure // 2 % len(for_good)]
    return answer if request.nth else passing[failure // 2 % len(passing)]


LOST = {i for i in range(N) if i % 5 == 0 and i // 5 % 2}
"""Records that no patience gets an answer for."""


def start(kind: str, server: Loopback, cache: Path) -> subprocess.Popen[str]:
    secret = {name for name in os.environ if name.startswith(("ANTHROPIC_", "OPENAI_"))}
    environment = {name: value for name, value in os.environ.items() if name not in secret}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, kind, server.url, str(cache), str(N), str(CONCURRENCY)],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    sentence, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-2000:]
    report: dict[str, Any] = json.loads(sentence)
    return report


def check(report: dict[str, Any]) -> None:
    """Every record is scored as the server says, or counted as unscored with a reason."""
    assert len(report["answers"]) == N
    for i, (answer, reason) in enumerate(zip(report["answers"], report["reasons"], strict=True)):
        if i in LOST:
            assert answer == "unscored"
            assert reason in {"http_500", "bad_body", "vocabulary"}
        else:
            assert (answer, reason) == (WORDS[i % 3], "")
    assert sum(report["unscored"].values()) == len(LOST) == 6


@pytest.mark.parametrize("kind", ["claude", "openai"])
def test_a_killed_judge_resumes_and_pays_for_no_record_twice(kind: str, tmp_path: Path) -> None:
    cache = tmp_path / "judge.sqlite"
    with Loopback(one_in_five_fails, most=1000, seconds=600) as server:
        process = start(kind, server, cache)
        deadline = time.monotonic() + 300
        while sum(server.paid.values()) < N // 2:
            assert process.poll() is None, process.communicate()[1][-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        time.sleep(0.1)
        while server.at_once:  # what was on its way when it died
            time.sleep(0.01)
        before = sum(server.paid.values())
        assert N // 2 <= before < N - len(LOST)
        report = finish(start(kind, server, cache))
        check(report)
        # Answers that were made, and not yet on disk at the instant of the kill, are paid
        # for again: no more than requests were on their way.
        assert before - CONCURRENCY <= report["cached"] <= before
        again = {key for key, paid in server.paid.items() if paid > 1}
        assert sum(server.paid.values()) - (N - len(LOST)) == before - report["cached"]
        assert len(again) == before - report["cached"]
        assert max(server.paid.values()) <= 2
        # A third run finds all of them and asks only for what has no answer.
        total, asked = sum(server.paid.values()), len(server.seen)
        third = finish(start(kind, server, cache))
        check(third)
        assert third["cached"] == N - len(LOST)
        assert sum(server.paid.values()) == total
        assert {number_of(request) for request in server.seen[asked:]} == LOST


def test_two_judges_at_once_pay_for_each_record_once(tmp_path: Path) -> None:
    cache = tmp_path / "judge.sqlite"
    with Loopback(one_in_five_fails, most=1000, seconds=600) as server:
        together = [start("openai", server, cache) for _ in range(2)]
        reports = [finish(process) for process in together]
        for report in reports:
            check(report)
        assert sorted(report["cached"] for report in reports) == [0, N - len(LOST)]
        assert {paid for paid in server.paid.values() if paid} == {1}
