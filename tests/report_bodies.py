"""Bodies of verdict.json for tests of the report: judged once, from stored records.

Bodies and reports lie in the folder that tests/conftest.py makes for all workers.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests import own_runs

ROOT = Path(__file__).resolve().parents[1]
SCIENCE = "h1 or h2 or h3 or kill or gate"
EVIL = (
    '<script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31mred\x1b[0m \x1b]0;t\x07 & "q" '
    "'s' </code></pre></section> ```\n````\n```text\n# heading\n| a | b |\n- 7 of 9 "
    "\u202eevil\u202c "
    "[x](javascript:alert(3)) ![y](http://example.org/z.png) **b** `c` \x00\x9b2J \u200b\u2028end"
)

NAME = "<i>A|</i> $x_1$ 9\u202e"
"""A hostile name of one line."""


def _shared(name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` fills once, whichever worker comes first."""
    folder = Path(os.environ["FLATLAND_TESTS_SHARED"]) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = folder.with_suffix(".draft")
            make(draft)
            draft.rename(folder)
    return folder


def _judge(stored: str, experiment: str, folder: Path) -> None:
    chosen = [f"--experiment={experiment}"] if experiment else []
    with tempfile.TemporaryDirectory() as scrap:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", SCIENCE, f"--stored={stored}", *chosen,
             f"--report={folder}", *own_runs.PLUGIN, "-p", "no:cacheprovider", "-p", "no:xdist"],
            cwd=ROOT, env=os.environ | {own_runs.VARIABLE: scrap}, capture_output=True,
            check=False, timeout=300,
        )  # fmt: skip


@cache
def _judged(stored: str, experiment: str) -> str:
    name = f"judged-{stored}-{experiment}".replace("/", "-")
    folder = _shared(name, partial(_judge, stored, experiment))
    return (folder / "verdict.json").read_text(encoding="utf-8")


def body_of(stored: str = "golden/tiny", experiment: str = "") -> dict[str, Any]:
    """Return a fresh copy of what judging these records wrote."""
    return copy.deepcopy(json.loads(_judged(stored, experiment)))


def live() -> dict[str, Any]:
    """Return golden/tiny as a live run of two seeds would tell it."""
    body = body_of()
    body["profile"] = "tiny"
    body["stages"] = [
        {
            "seed": 42,
            "stage": "train",
            "label": "C1",
            "stored": True,
            "seconds": 12.345,
            "tokens": 45678,
            "peak_mib": 812.6,
            "peak_of": "cuda",
            "engine_starts": 0,
            "batch_rows": None,
        },
        {"seed": 137, "stage": "train", "label": "C1", "stored": False, "seconds": None},
    ]
    for arm in body["summary"]["arms"]:
        first = arm["by_seed"][0]
        arm["by_seed"] = [first, {**copy.deepcopy(first), "seed": 137}]
    body["panels"]["gains"] = _dosed()
    return body


def _dosed() -> dict[str, Any]:
    """Return the panel of gains of two arms of two seeds, of which one never reaches the gain."""
    from persona_lib.panels.gains import gains_panel
    from tests.gain_worlds import DOSED, World, dose, slots

    worlds = {
        (arm, seed): World(gain=gain, system=share, before=-3.0137)
        for arm, share in (("C1", 0.2031), ("C2", 0.5017))
        for seed, gain in ((42, 8.137), (137, 9.071 if arm == "C1" else 2.113))
    }
    panel = gains_panel(slots(worlds), DOSED, dose=dose(worlds))
    return dict(json.loads(json.dumps(panel.to_json(), allow_nan=False)))


def factorial() -> dict[str, Any]:
    """Return twelve arms of two sources and three seeds under claims over runs alone."""
    return dict(json.loads(_factorial()))


@cache
def _factorial() -> str:
    from persona_lib.panels.gains import gains_panel
    from persona_lib.verdict.judging import judge_all
    from persona_lib.verdict.summary import summary
    from persona_lib.verdict.verdict import families
    from tests.gain_worlds import FACTORIAL, dose, evidence, slots
    from tests.gain_worlds import factorial as worlds_of

    worlds = worlds_of((3, 5, 8))
    found = evidence(worlds, FACTORIAL, samples=1)
    verdicts, _ = judge_all(FACTORIAL, found)
    panel = gains_panel(slots(worlds), FACTORIAL, dose=dose(worlds))
    body = {
        "format": 2,
        "registration": FACTORIAL.name,
        "registration_digest": FACTORIAL.digest,
        "verdicts": [verdict.to_json() for verdict in verdicts],
        "gates": [],
        "families": [family.to_json() for family in families(FACTORIAL, verdicts)],
        "summary": summary(FACTORIAL, found),
        "panels": {"gains": panel.to_json()},
    }
    return json.dumps(body, allow_nan=False)


def poisoned() -> dict[str, Any]:
    """Return golden/tiny with a hostile text wherever others may write one."""
    body = body_of()
    panel = body["panels"]["samples"]
    for samples in panel["data"]["arms"].values():
        samples[0]["text"] = EVIL
        samples[1]["text"] = "\n" + EVIL
        samples[0]["question"] = "e<b>01</b>|*\x1b[2J"
    body["summary"]["origin"] = f"others' records: {EVIL}"
    body["verdicts"][0]["notes"].append(EVIL)
    body["summary"]["arms"][0]["personas"][0]["persona"] = "<i>libr|arian</i> $x_1$ 9"
    panel["title"] = EVIL
    gains = body["panels"]["gains"] = _dosed()
    found = gains["data"]
    for one in (*found["runs"][:2], *found["curves"][:2], found["cells"][0]):
        one |= {name: NAME for name in ("arm", "cell", "source") if name in one}
    found["read_by"] = [EVIL]
    return body


def write(folder: Path, body: dict[str, Any]) -> Path:
    """Write verdict.json and its report into a folder."""
    from persona_lib.report.document import write_report

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    write_report(folder, body)
    return folder


BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    "tiny": body_of,
    "live": live,
    "factorial": factorial,
    "poisoned": poisoned,
    "published": partial(body_of, "golden/published"),
    "real": partial(body_of, "golden/smollm2"),
}


@cache
def report_of(name: str) -> Path:
    """Return the folder of a report of `BODIES`, one for all tests: copy what is to be changed."""
    return _shared(f"report-{name}", lambda folder: write(folder, BODIES[name]()))
