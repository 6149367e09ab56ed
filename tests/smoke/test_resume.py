"""Killed runs resume, concurrent ones share, equal seeds give equal records.

One process reads the base weights once, whatever it builds, and writes none of them.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from persona_lib.commands.session import Session
from persona_lib.errors import CorruptEntryError
from persona_lib.records import POST, PRE, ModelId
from persona_lib.store.stage import plan
from tests.registered import ISSUE262_HELD_OUT, MICRO, session_under
from tests.smoke.conftest import finish, start

# One worker, so that the processes of fixture `together` are started once.
pytestmark = pytest.mark.smoke


def test_two_processes_on_an_empty_store_build_each_stage_once(together: dict[str, Any]) -> None:
    first, second = together["reports"]
    built = first["built"] + second["built"]
    assert len(built) == len(set(built)) >= 8
    assert first["records"] == second["records"]
    assert first["said"] == second["said"]


def test_killed_runs_resume_to_the_same_records(together: dict[str, Any], tmp_path: Path) -> None:
    """Killed while sampling, then training, then writing: the fourth process finishes."""
    for die in ("coupling text raw:3", "coupling C1:1", "seal:completions"):
        assert start(tmp_path, die=die).end() == -signal.SIGKILL, die
    report = finish(start(tmp_path))
    assert "base micro" not in report["built"]
    assert "coupling_text raw" not in report["built"]
    assert "coupling C1" not in report["built"]
    assert "completions C1" in report["built"]
    assert report["records"] == together["reports"][0]["records"]
    assert not list((tmp_path / "tmp").iterdir())


def test_another_seed_says_other_things(together: dict[str, Any]) -> None:
    report = finish(start(together["store"], seed=2))
    assert "base micro" not in report["built"]
    assert "coupling_text raw" in report["built"]
    other = together["reports"][0]["said"]
    assert set(report["said"]) == set(other) == {
        "completions C1", "baseline raw", "coupling_text raw",
    }  # fmt: skip
    # Where no adapter was trained, only the seeds of the draws can make a difference.
    assert {name for name, sentence in report["said"].items() if sentence == other[name]} == set()


def test_one_flipped_byte_anywhere_is_an_error_that_names_the_file(
    together: dict[str, Any],
) -> None:
    def session() -> Session:
        options: Any = {"seeds": (1,), "store_root": together["store"], "arms": ("C1",)}
        return session_under(ISSUE262_HELD_OUT, profile=MICRO, **options)

    def read() -> int:
        return session().table([ModelId(PRE, "raw"), ModelId(POST, "C1")], "scores").num_rows

    assert read() > 0
    whole = session()
    entries = [line.entry for line in plan(whole.runs[0].targets(("C1",)), whole.store)]
    files = [p for e in entries if e for p in sorted(e.path.parent.rglob("*")) if p.is_file()]
    assert len(files) > 30
    for path in files:
        _flip(path)
        with pytest.raises(CorruptEntryError) as caught:
            read()
        assert path.name in str(caught.value)
        assert "Delete the folder" in str(caught.value)
        _flip(path)
    assert read() > 0


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}


def test_every_kind_of_stage_leaves_the_one_base_as_it_was(tmp_path: Path) -> None:
    report = finish(start(tmp_path, arms=["C2"], geometry=True))
    kinds = {built.split()[0] for built in report["built"]}
    assert {
        "prior", "coupling_text", "coupling", "completions", "baseline", "advice", "geometry",
    } <= kinds  # fmt: skip
    assert report["loads"] == report["starts"] == 1
    assert len(report["weights"]) == 1

    weights = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.safetensors")}
    assert weights == {"base", "prior", "coupling"}
    for stage, beside in (("prior", set()), ("coupling", {"mask_proof.json"})):
        for payload in tmp_path.glob(f"{stage}/*/payload"):
            assert {p.name for p in payload.iterdir()} == ADAPTER | {"training.json"} | beside
            # Adapters, and not a model under an adapter's name.
            base = next(tmp_path.glob("base/*/payload/model.safetensors")).stat().st_size
            assert (payload / "adapter_model.safetensors").stat().st_size < base
