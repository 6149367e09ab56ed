"""``pytest -m report``: every number of a written report stands in its verdict.json."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from persona_lib.report.numbers import check_report
from tests.report_bodies import ROOT, body_of, write

pytestmark = pytest.mark.report


def test_every_number_is_read_from_verdict_json(report_folder: Path) -> None:
    problems = check_report(report_folder)
    assert not problems, "\n".join([f"{report_folder}: {len(problems)} problems", *problems[:20]])


def test_the_figures_of_the_docs_are_those_of_the_real_run(tmp_path: Path) -> None:
    """Every interval that docs/report.md quotes of golden/smollm2 stands in its report."""
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    start = page.index("## The same page of a real model")
    quoted = re.findall(
        r"[+-]?\d+\.\d+ \[[+-]?\d+\.\d+, [+-]?\d+\.\d+\]",
        page[start : page.index("\n## ", start + 1)],
    )
    assert len(quoted) >= 12
    made = write(tmp_path / "real", body_of("golden/smollm2")) / "report.md"
    told = made.read_text(encoding="utf-8").replace("\\", "")
    assert [one for one in quoted if one not in told] == []
