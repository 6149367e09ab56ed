"""What is printed is the same on every machine: no sign of a zero, no locale, no clock."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from persona_lib.report import power
from persona_lib.report.formats import written
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.logit import length_adjusted
from persona_lib.stats.proportions import naive_z
from tests.printed import printed, reads
from tests.record_sets import record_set
from tests.synthetic import scores

ROOT = Path(__file__).resolve().parents[2]
ALMOST_ZERO = 1e-9
"""Far below what is printed; rounding on another processor may turn its sign."""


def _estimate(value: float, *, signed: bool) -> str:
    return Estimate(
        value=value, low=value, high=value, confidence=0.95, p=None, p_floor=None, n=1,
        clusters=None, method="m", signed=signed,
    ).interval_text  # fmt: skip


def _clustered(value: float) -> str:
    return Estimate.plain(value=value, low=value, high=value, n=1, clusters=2).interval_text


def _planned(effect: float) -> str:
    row = {"claim": "H1", "target": "training runs", "method": "m", "effect": effect,
           "now": None, "units": "", "power": 0.5, "needed": [], "notes": []}  # fmt: skip
    return next(power._row(row, 0, named=True))


PLACES: dict[str, tuple[Callable[[float], str], str]] = {
    "difference": (lambda x: _estimate(x, signed=True), "+0.000 [+0.000, +0.000]"),
    "rate": (lambda x: _estimate(x, signed=False), "0.000 [0.000, 0.000]"),
    "gate": (_clustered, "0.000 [0.000, 0.000]"),
    "power": (_planned, "+0.000"),
    "report, decimals": (lambda x: written(x, "f3"), "0.000"),
    "report, sign": (lambda x: written(x, "s3"), "+0.000"),
    "report, percent": (lambda x: written(x, "pct1"), "0.0"),
}


@pytest.mark.parametrize("value", [ALMOST_ZERO, -ALMOST_ZERO, -0.0])
@pytest.mark.parametrize("place", PLACES)
def test_a_printed_zero_has_one_sign(place: str, value: float) -> None:
    shown, expected = PLACES[place]
    assert expected in shown(value)
    assert "-" not in shown(value)


def test_equal_rates_have_a_z_of_plus_zero() -> None:
    assert "z = +0.00;" in naive_z(1, 3, 2, 6).note


@pytest.mark.parametrize("treated", [0, 1])
def test_log_odds_of_arms_that_are_alike_are_plus_zero(treated: int) -> None:
    """Whichever arm is called treated, the interval is its own mirror image."""
    hits = np.array([0, 0, 1, 1, 0, 1, 1, 0] * 2, bool)
    arm = np.repeat([treated, 1 - treated], 8)
    tokens = np.array([1, 2, 3, 4, 4, 3, 2, 1] * 2, float)
    clusters = np.r_[np.arange(8) % 4, np.arange(8) // 2]
    found = length_adjusted(hits, arm, tokens, clusters, confidence=0.95)
    odds, low, high = printed("log-odds # [#, #]", found.note)
    assert odds == "+0.000"
    assert reads(low, -float(high))
    assert found.interval_text.startswith("+0.000 [")


SIGNED = re.compile(r"\{[^{}]*:[^{}z]*\+[^{}z]*\.[^{}]*f\}")
"""A float printed in an f-string with its sign, and a zero's as well."""


@pytest.mark.parametrize("folder", ["persona_lib", "experiments"])
def test_every_printed_sign_spares_zero(folder: str) -> None:
    """``z`` in a format takes the sign from what is rounded to zero (PEP 682)."""
    assert SIGNED.search('f"{x:+.3f}"')
    assert not SIGNED.search('f"{x:+z.3f}"')
    for path in (ROOT / folder).rglob("*.py"):
        found = SIGNED.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found and found[0]}: write +z"


PROBE = """
import json, sys
from pathlib import Path
from tests.registered import ISSUE262
from persona_lib.evidence.load import load_stored
from persona_lib.report.terminal import verdict_table
from persona_lib.verdict.judging import judge_all
from persona_lib.verdict.summary import summary

for folder in sys.argv[1:]:
    evidence = load_stored(Path(folder), ISSUE262)
    verdicts, gates = judge_all(ISSUE262, evidence)
    body = summary(ISSUE262, evidence)
    told = [rule.to_json() for rule in (*verdicts, *gates)]
    print(json.dumps([told, body, verdict_table(verdicts, gates, body)]))
"""
ENVIRONMENTS = (
    {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
    {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
     "PYTHONHASHSEED": "1"},
)  # fmt: skip


def test_verdicts_know_no_time_zone_no_locale_and_no_hash_seed(tmp_path: Path) -> None:
    record_set(tmp_path, scores(questions=4, samples=5, seeds=(1, 2, 3)))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROBE, "golden/published", str(tmp_path)],
            cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for environment in ENVIRONMENTS
    ]  # fmt: skip
    ended = [process.communicate(timeout=120) for process in running]
    assert [error for _, error in ended] == ["", ""]
    one, other = ([json.loads(line) for line in out.splitlines()] for out, _ in ended)
    assert len(one) == len(other) == 2
    assert one == other
