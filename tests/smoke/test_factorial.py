"""The factorial experiment, every arm of one seed at micro size, live and from records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pytest

from persona_lib.commands import record
from persona_lib.commands.session import Session
from persona_lib.records import DosePoint, SlotReading, schema_of
from persona_lib.specs.builtin import EXPERIMENTS, PROFILES
from tests import own_runs
from tests.record_sets import record_set
from tests.smoke.conftest import judge, python

pytestmark = pytest.mark.smoke

FACTORIAL = EXPERIMENTS["factorial"]
RULES = FACTORIAL.registration
SEED = 7
ALL = "s1 or s2 or s3 or s4 or kill or gate"


class Ran(NamedTuple):
    """A live run: its store, verdict.json, and its records as a set."""

    session: Session
    body: dict[str, Any]
    stored: Path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("factorial")
    run = ("--experiment=factorial", "--profile=micro", f"--seeds={SEED}")
    done = judge("-m", ALL, *run, f"--store={folder / 'store'}", verdict=folder / "live")
    assert done.returncode == 1, done.stdout[-2_000:] + done.stderr[-2_000:]
    profile = FACTORIAL.on(PROFILES["micro"])
    session = Session(
        experiment=FACTORIAL, profile=profile, seeds=(SEED,), store_root=folder / "store"
    )
    tables = record._tables(session, texts=(SEED,), geometry=True)
    scores = tables.pop("scores.parquet")
    named = {name.removesuffix(".parquet"): table for name, table in tables.items()}
    return Ran(
        session, body_of(folder / "live"), record_set(folder / "set", scores, RULES, **named)
    )


def body_of(folder: Path) -> dict[str, Any]:
    path = own_runs.newest(folder) / "verdict.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_every_claim_and_gate_is_judged_and_one_seed_decides_nothing(ran: Ran) -> None:
    assert {one["name"] for one in ran.body["verdicts"]} == {"S1", "S2", "S3", "S4", "kill"}
    assert {one["name"] for one in ran.body["gates"]} == {gate.name for gate in RULES.gates}
    assert {one["outcome"] for one in ran.body["verdicts"]} == {"INVALID"}
    assert all(one["effect"]["low"] is None for one in ran.body["verdicts"])
    built = [(one["stage"], one["label"]) for one in ran.body["stages"] if one["stored"]]
    for arm in RULES.arms:
        assert {("coupling", arm.name), ("slots", arm.name), ("geometry", arm.name)} <= {*built}
    assert {("traits", prior) for prior in RULES.priors} <= {*built}
    assert {("broad_scores", prior) for prior in RULES.priors} <= {*built}
    # Sources of a seed share its priors and the text that each of them wrote.
    assert [label for stage, label in built if stage == "coupling_text"] == [
        "raw",
        *RULES.priors[1:],
    ]


def test_every_arm_reads_one_pool_under_the_message_of_its_source_and_of_bystanders(
    ran: Ran,
) -> None:
    models = [m for m in RULES.models(a.name for a in RULES.arms) if m.phase == "post"]
    slots, dose = (ran.session.table(models, kind) for kind in ("slots", "dose"))
    assert (slots.schema, dose.schema) == (schema_of(SlotReading), schema_of(DosePoint))
    for arm in RULES.arms:
        roster = RULES.roster_of(arm.name)
        readers = {roster.source, *roster.bystanders}
        own = slots.filter((pc.field("model") == arm.name) & pc.field("pool"))
        assert set(own["persona"].to_pylist()) == readers
        assert set(own["author"].to_pylist()) <= readers
        texts = set(zip(*(own[k].to_pylist() for k in ("author", "question")), strict=True))
        assert own.num_rows == len(texts) * len(readers)
        curve = dose.filter(pc.field("model") == arm.name)
        assert set(curve["step"].to_pylist()) == {0, 1}
        assert set(curve["persona"].to_pylist()) == readers


def test_records_are_judged_as_the_run_was_and_without_torch(ran: Ran, tmp_path: Path) -> None:
    code = (
        "import sys, pytest; code = pytest.main(sys.argv[1:]); "
        "sys.exit(99 if 'torch' in sys.modules else int(code))"
    )
    of = (*own_runs.PLUGIN, "--experiment=factorial", f"--stored={ran.stored}")
    done = python("-c", code, "-m", ALL, *of, **{own_runs.VARIABLE: str(tmp_path)})
    assert done.returncode == 1, done.stdout[-2_000:]
    found = body_of(tmp_path)
    for kind in ("verdicts", "gates"):
        said = [{one["name"]: (one["outcome"], one.get("text")) for one in body[kind]}
                for body in (ran.body, found)]  # fmt: skip
        assert said[0] == said[1], kind
