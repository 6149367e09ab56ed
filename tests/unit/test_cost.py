"""What a stage costs: metered while it is built, kept beside its outcome, in no key."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from persona_lib.commands.outcome import stages_of
from persona_lib.pipeline.training import _tokens_trained
from persona_lib.store import cost as cost_module
from persona_lib.store.cost import CUDA, PROCESS, Cost, metered, spent
from persona_lib.store.keys import StageKey
from persona_lib.store.stage import Stage, plan
from persona_lib.store.store import Store
from tests.registered import TINY
from tests.unit.test_store import get_or_make, write_manifest

KEY = StageKey(stage="train", version=1, spec={}, inputs={}, seed=1)
ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20


def test_what_is_spent_goes_to_the_stage_that_is_being_built() -> None:
    spent(tokens=7, engine_starts=1)
    with metered() as outer:
        spent(tokens=3)
        spent(tokens=4, batch_rows=20)
        spent(engine_starts=1, batch_rows=10)
        spent(batch_rows=15)
        with metered() as inner:
            spent(tokens=100)
    spent(tokens=1000)
    assert (outer.tokens, outer.engine_starts, outer.batch_rows) == (7, 1, 10)
    assert (inner.tokens, inner.engine_starts, inner.batch_rows) == (100, 0, None)


def test_nothing_counted_is_not_zero_and_a_failure_leaves_no_meter_running() -> None:
    with metered() as cost:
        pass
    assert (cost.tokens, cost.batch_rows, cost.engine_starts) == (None, None, 0)
    with pytest.raises(KeyError), metered() as failed:
        raise KeyError
    spent(tokens=5)
    assert (failed.tokens, failed.peak_bytes) == (None, None)


PEAKS = """
from persona_lib.store.cost import metered
for size in (128, 32, 0):
    with metered() as cost:
        bytearray(b"x" * size * 2**20)
    print(cost.peak_of, cost.peak_bytes)
"""


def test_peak_memory_is_that_of_the_stage_alone() -> None:
    """A stage before this one took 96 MiB more; this one takes 32."""
    if not cost_module._reset_peaks():  # some sandboxes forbid it: then nothing is claimed
        with metered() as cost:
            pass
        assert (cost.peak_bytes, cost.peak_of) == (None, None)
        return
    # In a process of its own: what other tests left in this one may go at any moment, pages
    # of libraries among it, and a peak counts whatever the process holds.
    description = subprocess.run(
        [sys.executable, "-c", PEAKS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in description.stdout.splitlines()]
    assert [owner for owner, _ in lines] == [PROCESS] * 3
    peaks = [int(peak) / MIB for _, peak in lines]
    assert peaks[0] - peaks[1] == pytest.approx(192, abs=24), "two copies of 96 MiB"
    assert peaks[1] - peaks[2] == pytest.approx(64, abs=24)


def test_without_a_peak_of_its_own_it_is_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cost_module, "_RESET", tmp_path / "none" / "clear_refs")
    with metered() as cost:
        pass
    assert (cost.peak_bytes, cost.peak_of) == (None, None)


def test_on_a_gpu_the_tensors_peak_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"peak": 999}
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        reset_peak_memory_stats=lambda: held.update(peak=0),
        max_memory_allocated=lambda: held["peak"],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with metered() as cost:
        held["peak"] = 123
    assert (cost.peak_bytes, cost.peak_of) == (123, CUDA)
    with metered() as cost:
        pass
    assert cost.peak_bytes == 0


def make(out: Path) -> dict[str, Any]:
    (out / "a.txt").write_text("a")
    spent(tokens=12, engine_starts=1)
    return {"tokens": 5}


def test_an_entry_keeps_its_cost_and_its_content_does_not_know_it(tmp_path: Path) -> None:
    built = get_or_make(Store(tmp_path / "1"), KEY, make)
    found = Store(tmp_path / "1").peek(KEY)
    cheap = get_or_make(
        Store(tmp_path / "2"), KEY, lambda out: (out / "a.txt").write_text("a") and None
    )
    assert found is not None
    assert built.cost == found.cost
    assert (built.cost["tokens"], built.cost["engine_starts"]) == (12, 1)
    assert set(built.cost) == set(vars(Cost()))
    assert cheap.cost["tokens"] is None
    assert cheap.content == built.content


@pytest.mark.parametrize("older", [{"engine_starts": 3}, {}, None])
def test_an_entry_with_fewer_costs_or_none_is_read_and_shown(
    older: dict[str, int] | None, tmp_path: Path
) -> None:
    stage = Stage(name="train", label="C1", version=1, spec={}, work=lambda out, _: make(out))
    folder = stage.resolve(Store(tmp_path)).path.parent
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["cost"]
    manifest |= {} if older is None else {"cost": older}
    write_manifest(folder, json.dumps(manifest))
    store = Store(tmp_path)
    (planned,) = plan([stage], store)
    assert planned.stored
    assert planned.cost == (older or {})
    (description,) = costs_of(store, [stage])
    assert description["seconds"] is not None
    names = ("tokens", "peak_mib", "peak_of", "batch_rows")
    assert {description[name] for name in names} == {None}
    assert description["engine_starts"] == (3 if older else None)


def costs_of(store: Store, stages: list[Stage]) -> list[dict[str, Any]]:
    run = SimpleNamespace(run_seed=42, targets=lambda _: stages)
    session: Any = SimpleNamespace(runs=[run], store=store)
    return stages_of(session, ["C1"])


def test_the_verdict_tells_what_stages_cost(tmp_path: Path) -> None:
    def work(out: Path, _: Any) -> dict[str, Any]:
        spent(batch_rows=550)
        return make(out)

    built = Stage(name="train", label="C1", version=1, spec={}, work=work)
    missing = replace(built, label="C2", seed=7)
    store = Store(tmp_path)
    entry = built.resolve(store)
    first, second = costs_of(store, [built, missing])
    assert first == {
        "seed": 42, "stage": "train", "label": "C1", "stored": True,
        "seconds": round(entry.seconds, 3), "tokens": 12, "engine_starts": 1,
        "peak_mib": round(entry.cost["peak_bytes"] / MIB, 1), "peak_of": PROCESS,
        "batch_rows": 550, "key": entry.key.digest, "content": entry.content,
    }  # fmt: skip
    assert not second["stored"]
    assert second["key"] is second["content"] is None
    assert second["tokens"] is second["peak_mib"] is second["engine_starts"] is None


@pytest.mark.parametrize(
    ("rows", "steps", "expected"),
    [
        (32, 2, 1000),  # one pass of two whole batches
        (32, 40, 20_000),
        (33, 3, 1000),  # the third batch of the pass holds one row
        (33, 6, 2000),
        (32, 3, 1500),
    ],
)
def test_tokens_are_counted_as_often_as_they_are_trained_on(
    rows: int, steps: int, expected: int
) -> None:
    recipe = replace(TINY.coupling, batch=16)
    assert _tokens_trained({"rows": rows, "steps": steps, "tokens": 1000}, recipe) == expected
