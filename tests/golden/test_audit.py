"""docs/audit.py, which imports nothing of ours, agrees with the verdict on every recorded set.

And it sees one changed hit, and every number of a verdict that was moved.
"""

from __future__ import annotations

import ast
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from persona_lib.commands.outcome import write_outcome
from persona_lib.evidence.load import load_stored
from persona_lib.verdict.judging import Judging
from tests import own_runs
from tests.record_sets import rewrite
from tests.registered import REGISTRATIONS, ROOT, TINY, session_under

pytestmark = pytest.mark.golden

SCRIPT, GOLDEN, PROMISES = ROOT / "docs" / "audit.py", ROOT / "golden", ROOT / "tests" / "promises"
SETS = [(path.parent.name, "issue262") for path in sorted(GOLDEN.glob("*/manifest.json"))]
OTHERS = [("published_cells", "issue262_bca"), ("smollm2_first", "issue262_gated")]
"""Sets that tests judge under other rules too."""
Written = Callable[..., dict[str, Any]]
MOST_MISSED = 0.02
"""More than the error of any end of a bootstrap here, and half of that of any p."""


class Row(NamedTuple):
    number: str
    here: float
    verdict: float
    difference: float
    within: float
    agree: bool


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Return what is written of a golden set, on the arms that it has."""

    @cache
    def text(name: str, rules: str) -> str:
        folder, registration = GOLDEN / name, REGISTRATIONS[rules]
        arms = tuple(arm.name for arm in registration.arms)
        if (folder / "scores.parquet").exists():
            rows = pq.read_table(folder / "scores.parquet", columns=["phase", "model"]).to_pandas()
            arms = tuple(arm for arm in arms if arm in {*rows.model[rows.phase == "post"]})
        judging = Judging(registration, load_stored(folder, registration, chosen=True, arms=arms))
        claims = [one.name for one in registration.judged if {*one.arms} <= {*arms}]
        recorded = {
            "verdicts": {name: judging.claim(name).to_json() for name in claims},
            "gates": {},
            "summaries": [judging.summary],
        }
        session = session_under(registration, profile=TINY, stored=(folder,), chosen=True)
        return write_outcome(tmp_path_factory.mktemp(name), session, recorded).read_text("utf-8")

    def parsed(name: str, rules: str = "issue262") -> dict[str, Any]:
        body: dict[str, Any] = json.loads(text(name, rules))
        return body

    return parsed


def audited(folder: Path, body: dict[str, Any]) -> tuple[int, dict[str, Row]]:
    """Return the exit code of the script, and its rows by their names."""
    script = runpy.run_path(str(SCRIPT))
    code = script["main"]([folder], body)
    rows = [Row(*row) for row in script["table"]]
    return code, {row.number: row for row in rows}


def test_it_imports_nothing_of_ours() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported - {*sys.stdlib_module_names} == {"numpy", "pandas", "scipy"}


@pytest.mark.parametrize(("name", "rules"), [*SETS, *OTHERS])
def test_it_agrees_with_the_verdict(name: str, rules: str, written: Written) -> None:
    body = written(name, rules)
    code, rows = audited(GOLDEN / name, body)
    assert [row for row in rows.values() if not row.agree] == []
    assert code == 0
    for arm in body["summary"]["arms"]:
        assert f"{arm['name']} bystanders hits" in rows
        assert f"{arm['name']} librarian rate" in rows
    for claim in body["verdicts"]:
        effect = f"{claim['name']} {claim['effect']['method']}"
        assert rows[f"{effect} value"].verdict == claim["effect"]["value"]


def test_every_target_is_recomputed(written: Written) -> None:
    """Of five training runs, by pairs and by two samples, to 1e-9; what draws give, nearly."""
    _, rows = audited(GOLDEN / "smollm2", written("smollm2"))
    of = {
        "question-level paired t": "H1 H2 H3",
        "persona-level t, two-way SE": "H1 H2 H3",
        "exact sign-flip over personas": "H1 H2 H3",
        "Welch t over seeds": "H1 H2",
        "exact permutation over seeds": "H1 H2",
        "paired t over seeds": "H3",
        "exact sign-flip over seeds": "H3",
    }
    for method, claims in of.items():
        for claim in claims.split():
            row = rows[f"{claim} {method} p"]
            assert 0 < row.here <= 1
            assert abs(row.difference) <= 1e-9 * row.here
            if "exact" not in method:
                ends = [rows[f"{claim} {method} {part}"] for part in ("low", "value", "high")]
                assert ends[0].here < ends[1].here < ends[2].here
                assert max(abs(end.difference) for end in ends) <= 1e-9
    assert rows["kill one-sample t over seeds low"].here < 0.05
    for claim in ("H1", "H2", "H3", "kill"):
        for part in ("low", "high"):
            assert 0 < rows[f"{claim} cluster bootstrap (as published) {part}"].within < 0.01


@pytest.mark.parametrize("name", ["smollm2_seeds", "tiny"])
def test_one_changed_hit_is_seen(name: str, tmp_path: Path, written: Written) -> None:
    def change(table: pa.Table) -> pa.Table:
        hit = table.column("hit").to_pylist()
        columns = (table.column(of).to_pylist() for of in ("phase", "model", "persona"))
        at = [*zip(*columns, strict=True)].index(("post", "C2", "comedian"))
        hit[at] = not hit[at]
        return table.set_column(table.column_names.index("hit"), "hit", pa.array(hit))

    folder = shutil.copytree(GOLDEN / name, tmp_path / name)
    rewrite(folder / "scores.parquet", change)
    code, rows = audited(folder, written(name))
    assert code == 1
    differ = {row.number for row in rows.values() if not row.agree}
    assert abs(rows["C2 comedian hits"].difference) == 1
    assert {"C2 comedian hits", "C2 bystanders rate", "H1 question-level paired t low"} <= differ
    assert "C1 bystanders hits" not in differ


def test_one_changed_count_of_totals_is_seen(tmp_path: Path, written: Written) -> None:
    folder = shutil.copytree(GOLDEN / "published", tmp_path / "totals")
    body = json.loads((folder / "aggregates.json").read_text("utf-8"))
    body["arms"]["C2"]["personas"]["comedian"]["hits"] += 1
    (folder / "aggregates.json").write_text(json.dumps(body), "utf-8")
    code, rows = audited(folder, written("published"))
    assert code == 1
    differ = {row.number for row in rows.values() if not row.agree}
    assert {"C2 comedian hits", "C2 bystanders hits", "H1 exact sign-flip over personas value"} <= (
        differ
    )


def moved(value: Any) -> Any:
    """Return JSON data with every number of a count or an estimate moved."""
    if isinstance(value, list):
        return [moved(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: moved(one) for name, one in value.items()}
    drawn = str(value.get("method")).startswith("cluster bootstrap")
    for part in ("hits", "n", "rate", "value", "low", "high"):
        if isinstance(found.get(part), (int, float)):
            found[part] += MOST_MISSED if drawn and part != "value" else 2e-9
    if isinstance(found.get("p"), float):
        found["p"] *= 1 + 2e-9
        found["p"] += 2 * MOST_MISSED if drawn else 0.0
    return found


def test_every_moved_number_is_seen(written: Written) -> None:
    code, rows = audited(GOLDEN / "smollm2", moved(written("smollm2")))
    assert code == 1
    missed = [row for row in rows.values() if row.agree and not math.isnan(row.here)]
    assert missed == []
    assert len([row for row in rows.values() if not row.agree]) > 250


def test_a_number_that_is_missing_is_seen(written: Written) -> None:
    body = written("published_cells")
    look = next(e for e in body["verdicts"][0]["estimates"] if e["method"].startswith("question"))
    look["low"] = None
    welch = next(e for e in body["verdicts"][0]["estimates"] if e["method"].startswith("Welch"))
    welch["p"] = 0.5
    _, rows = audited(GOLDEN / "published_cells", body)
    assert sorted(row.number for row in rows.values() if not row.agree) == [
        "H1 Welch t over seeds p",
        "H1 question-level paired t low",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"source": "quoted", "high": 0.9},
        {"method": "a better bootstrap", "high": 0.9},
        {"method": "paired t over seeds", "p": 0.5},
        {"p": None},
    ],
    ids=lambda change: "".join(map(str, change.values())),
)
def test_an_effect_is_the_registered_one_whatever_it_is_called(
    change: dict[str, Any], written: Written
) -> None:
    body = written("smollm2_seeds")
    effect = body["verdicts"][0]["effect"]
    effect |= change
    _, rows = audited(GOLDEN / "smollm2_seeds", body)
    part = "p" if "p" in change else "high"
    assert not rows[f"H1 {effect['method']} {part}"].agree


@pytest.mark.parametrize(
    ("claim", "part", "by"),
    [("H2", "value", 0.001), ("H2", "low", 0.001), ("H2", "p", 1e-9), ("kill", "high", 1e-8)],
)
def test_an_effect_of_totals_that_was_moved_is_seen(
    claim: str, part: str, by: float, written: Written
) -> None:
    body = written("published")
    (effect,) = (verdict["effect"] for verdict in body["verdicts"] if verdict["name"] == claim)
    effect[part] += by
    _, rows = audited(GOLDEN / "published", body)
    assert [row.number for row in rows.values() if not row.agree] == [
        f"{claim} {effect['method']} {part}"
    ]


def test_a_run_and_the_script_as_a_reviewer_calls_them(tmp_path: Path) -> None:
    """The verdict of a command agrees; one of it that was altered is on the screen, exit code 1."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "h1 or h2 or h3 or kill"]
    command += ["--stored=golden/published_cells", *own_runs.PLUGIN, "-p", "no:cacheprovider"]
    environment = os.environ | {own_runs.VARIABLE: str(tmp_path)}
    subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=300
    )
    file = own_runs.newest(tmp_path) / "verdict.json"
    body = json.loads(file.read_text("utf-8"))
    assert audited(GOLDEN / "published_cells", body)[0] == 0
    body["summary"]["arms"][1]["bystanders"]["hits"] += 1
    file.write_text(json.dumps(body), "utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), "golden/published_cells", str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stderr
    assert [line.split()[:3] for line in lines if line.endswith("False")] == [
        ["C2", "bystanders", "hits"]
    ]
    assert lines[-2].startswith("not recomputed: H1 minus false positives")
    assert lines[-1] == f"1 of {len(lines) - 3} numbers differ"


def test_it_reads_the_verdict_of_the_first_release_and_refuses_another_format() -> None:
    body = json.loads((PROMISES / "verdict.json").read_text("utf-8"))
    assert audited(PROMISES / "records", body)[0] == 0
    with pytest.raises(SystemExit, match=r"verdict\.json: format: expected 2, got 3\. Judge"):
        audited(PROMISES / "records", body | {"format": 3})
