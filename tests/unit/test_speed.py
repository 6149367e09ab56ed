"""Statistics are quick: what the project promises, measured on one core."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.pace import allowed
from tests.record_sets import record_set
from tests.synthetic import scores

ROOT = Path(__file__).resolve().parents[2]


PROBE = """
import json, sys, time
from pathlib import Path
start = time.process_time()
from tests.registered import ISSUE262, STRICTER
from persona_lib.evidence.load import load_stored
from persona_lib.verdict.verdict import families
from persona_lib.report.terminal import verdict_table
from persona_lib.verdict.judging import Judging

evidence = load_stored(Path(sys.argv[1]), ISSUE262)
judging = Judging(ISSUE262, evidence, stricter=STRICTER[ISSUE262.name])
verdicts = [judging.claim(c.name) for c in ISSUE262.judged]
gates = [judging.gate(g.name) for g in ISSUE262.gates]
table = verdict_table(verdicts, gates, judging.summary, families=families(ISSUE262, verdicts))
seconds = time.process_time() - start
heavy = "torch transformers peft trl datasets sklearn statsmodels scipy.stats pytest"
loaded = sorted(set(heavy.split()) & set(sys.modules))
print(json.dumps({"seconds": seconds, "loaded": loaded, "lines": len(table.splitlines())}))
"""


def test_whole_verdict_of_a_full_scale_record_set(tmp_path: Path) -> None:
    """Four arms x 2,200 completions and three models before them: 2 s with imports.

    Processor time, because other tests run beside this one.
    """
    rates = {"C1": 0.27, "C2": 0.58, "C2p": 0.55, "C3": 0.40}
    table = scores(rates, questions=20, samples=10)
    assert table.num_rows == 7 * 2_200
    record_set(tmp_path, table)
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        found.append(json.loads(done.stdout))
    assert found[0]["loaded"] == []
    assert found[0]["lines"] > 30
    assert min(body["seconds"] for body in found) <= allowed(2.0)
