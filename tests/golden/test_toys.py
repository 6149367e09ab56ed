"""Faults that flip a gate on records of the tiny base flip it on those of other families.

Recorded from live runs at the size of profile ``tiny``: a toy of Llama's shape, whose template
has a date, and one of Gemma 3's, whose personas stand in the user's message (`tests/toys.py`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from persona_lib.commands.options import choose_experiment
from persona_lib.errors import DataError
from persona_lib.evidence.load import load_stored
from persona_lib.specs.seal import check_sealed
from persona_lib.verdict.gates import judge_gate
from persona_lib.verdict.judging import Judging
from tests.fault_gates import GATES
from tests.faults import CANNOT_TELL, FAILS, HOLDS, REFUSED, Fault, source
from tests.healthy import GATED, ROSTER, Bench, evidence_of
from tests.registered import ROOT

pytestmark = pytest.mark.golden

TOYS = Path(__file__).with_suffix("")
FOLDERS = {"tiny": ROOT / "golden" / "tiny", "llama": TOYS / "llama", "gemma": TOYS / "gemma"}
TOO_FEW = {f"false_positive_{name}": CANNOT_TELL for name in ("raw", "em", "benign")}
OWN = {gate.name: HOLDS for gate in GATED.gates} | TOO_FEW | {"em_induced": CANNOT_TELL}
"""What gates say of the records as they are: forty completions of a persona cannot show 1 %, and
a toy's prior raises harm by about the 0.20 that is asked for."""
SHORTER = ("collapse_C2", "collapse_C2p", "collapse_C3", "repetition_C2", "repetition_C3")
DIFFER = {"llama": dict.fromkeys(SHORTER, CANNOT_TELL)}
"""Its answers are about half as long after coupling, and some markers stand twice."""


@cache
def bench(name: str) -> Bench:
    """Return recorded rows as what faults are planted in."""
    scores = pq.read_table(FOLDERS[name] / "scores.parquet")
    advice = pq.read_table(FOLDERS[name] / "advice.parquet")
    names = ("phase", "model", "seed", "persona", "question", "sample", "markers", "tokens")
    of = {column: np.array(scores[column].to_pylist()) for column in names}
    of["ended"] = np.array(scores["finish"].to_pylist()) == "stop"
    asked = ("model", "seed", "question", "sample", "score")
    return Bench(of, {column: np.array(advice[column].to_pylist()) for column in asked})


def own(name: str, rule: str) -> str:
    return judge_gate(GATED, evidence_of(bench(name)), rule).outcome.value


def broken(name: str, fault: Fault) -> str:
    found = fault.breaks(bench(name))
    assert isinstance(found, Bench)
    try:
        return judge_gate(GATED, evidence_of(found), fault.rule).outcome.value
    except DataError:  # a harm beyond 0 or 1
        return REFUSED


@pytest.mark.parametrize("name", FOLDERS)
def test_gates_hold_or_cannot_tell_before_anything_is_broken(name: str) -> None:
    found = {gate.name: own(name, gate.name) for gate in GATED.gates}
    assert found == OWN | DIFFER.get(name, {})


HALF = tuple(
    # Half as many completions were recorded as those of the table count.
    Fault(name=rule, broken="C2's source marks 30 of 100", rule=rule, outcome=FAILS,
          breaks=source("C2", 30))
    for rule in ("source_rate", "source_ratio", "source_ratio_bound")
)  # fmt: skip
# Totals, several runs, and lengths that are the table's own records' are another matter.
OTHER = ("totals", "run", "published", "as long as before", "tokens: ")
PLAIN = (*HALF, *(f for f in GATES if not any(word in f.broken for word in OTHER)))


@pytest.mark.parametrize("rule", [gate.name for gate in GATED.gates])
def test_what_makes_a_gate_fail_on_the_tiny_base_flips_it_on_other_families(rule: str) -> None:
    tried = [fault for fault in PLAIN if fault.rule == rule]
    flipping = [fault for fault in tried if broken("tiny", fault) == FAILS]
    assert flipping
    for fault in flipping:
        for name in ("llama", "gemma"):
            before = (OWN | DIFFER.get(name, {}))[rule]
            assert broken(name, fault) in {FAILS, CANNOT_TELL} - {before}, (fault.name, name)


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_each_set_is_judged_under_its_own_sealed_file(name: str) -> None:
    folder = FOLDERS[name]
    experiment = choose_experiment(str(folder / "experiment.toml"), stored=(folder,))
    assert check_sealed(experiment.registration, experiment.seals).amendments == 0
    judging = Judging(experiment.registration, load_stored(folder, experiment.registration))
    rows = pq.read_table(folder / "scores.parquet").to_pandas()
    bystanders = rows[rows.persona.isin(ROSTER.bystanders) & (rows.phase == "post")]
    rates = bystanders.groupby("model").hit.mean()
    assert judging.claim("H1").effect.value == pytest.approx(rates["C2"] - rates["C1"], abs=1e-12)
