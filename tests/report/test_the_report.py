"""``pytest -m report``: every number of a written report stands in its verdict.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from persona_lib.report.numbers import check_report

pytestmark = pytest.mark.report


def test_every_number_is_read_from_verdict_json(report_folder: Path) -> None:
    problems = check_report(report_folder)
    assert not problems, "\n".join([f"{report_folder}: {len(problems)} problems", *problems[:20]])
