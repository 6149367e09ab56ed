"""The recorded runs of SmolLM2, split by seed and named one by one, are what they are together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.issue262 import ISSUE262
from persona_lib.evidence.load import Stored
from persona_lib.verdict.judging import judge_all
from persona_lib.verdict.summary import summary
from tests.real_runs import FULL
from tests.record_sets import split

pytestmark = pytest.mark.golden


def test_five_sets_are_judged_as_the_joined_one(tmp_path: Path) -> None:
    """Verdicts, estimates, gates, origin: to the byte. Texts and states: row by row."""
    parts, found = split(FULL, tmp_path), []
    for paths in (FULL, [parts[i] for i in (3, 0, 4, 2, 1)]):
        stored = Stored(paths, ISSUE262)
        evidence = stored.evidence()
        verdicts, gates = judge_all(ISSUE262, evidence)
        body = [x.to_json() for x in (*verdicts, *gates)], summary(ISSUE262, evidence)
        rows = [t.to_pandas() for t in map(stored.rows, ("scores", "completions", "geometry")) if t]
        found.append((json.dumps(body, allow_nan=False), rows))
    (joined, rows), (several, other) = found
    assert several == joined
    assert len(rows) == 3
    assert all(one.equals(two) for one, two in zip(rows, other, strict=True))
