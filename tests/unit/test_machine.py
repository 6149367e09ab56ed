"""What a machine lacks: all of it at once, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from persona_lib.errors import DataError, PreflightError, UnwritableStoreError
from persona_lib.pipeline import machine
from persona_lib.pipeline.machine import lacking, refuse
from persona_lib.specs.profile import Profile
from persona_lib.store.stage import Stage
from persona_lib.store.store import Entry, Store
from tests.registered import MICRO

MOST = 1e9
"""GiB that no machine has."""


def needing(**rates: float) -> Profile:
    return replace(MICRO, rates=replace(MICRO.rates, **rates))


def broken() -> None:
    raise DataError("rows.jsonl", bound="md5 1", value="2", remedy="Fetch it again.")


def work(out: Path, _: Mapping[str, Entry]) -> dict[str, Any]:
    (out / "file").write_text("made")
    return {}


FIRST = Stage(name="corpus", label="em", version=1, spec="corpus", work=work)
SECOND = Stage(
    name="prior", label="em", version=1, spec="prior", work=work, preflight=broken,
    inputs={"corpus": FIRST},
)  # fmt: skip


def test_everything_is_said_at_once_and_in_one_sentence_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "prepare_torch", lambda: "cpu")
    profile = needing(gpu_gib=80.0, ram_gib=MOST, disk_gib=MOST)
    found = lacking(profile, [SECOND, SECOND], Store(tmp_path))
    assert [type(error) for error in found] == [PreflightError] * 3 + [DataError]
    for error, word in zip(found, ("GPU", "memory", "disk", r"rows.jsonl"), strict=True):
        assert word in str(error)
    with pytest.raises(PreflightError) as caught:
        refuse(found)
    text = str(caught.value)
    assert text.startswith("missing: 4 things: (1) a GPU with 80 GiB of free memory for profile")
    for n in (2, 3, 4):
        assert f". ({n}) " in text
    assert text.endswith("Fetch it again. Nothing was computed.")
    assert text.count("missing: ") == 1
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_model_larger_than_the_card_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 2**30
    monkeypatch.setattr(machine, "prepare_torch", lambda: "cuda")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (20 * gib, 24 * gib))
    (error,) = lacking(needing(gpu_gib=40.0), [FIRST], Store(tmp_path))
    assert isinstance(error, PreflightError)
    assert "a GPU with 40 GiB of free memory" in str(error)
    assert "20 of 24 GiB are free here" in str(error)
    assert lacking(needing(gpu_gib=20.0), [FIRST], Store(tmp_path)) == []


def test_one_thing_is_raised_as_it_is_and_nothing_where_nothing_is_missing(tmp_path: Path) -> None:
    refuse([])
    with pytest.raises(DataError, match=r"rows\.jsonl: expected md5 1, got '2'"):
        refuse(lacking(needing(), [SECOND], Store(tmp_path)))
    assert lacking(needing(), [FIRST], Store(tmp_path)) == []


def test_of_a_store_that_cannot_be_written_no_space_is_asked() -> None:
    (error,) = lacking(needing(disk_gib=MOST), [FIRST], Store(Path("/proc/flatland")))
    assert isinstance(error, UnwritableStoreError)
    assert "corpus em is not stored" in str(error)


def test_a_store_that_has_everything_asks_for_no_machine(tmp_path: Path) -> None:
    for stage in (FIRST, SECOND):
        stage.resolve(Store(tmp_path))
    profile = needing(ram_gib=MOST, disk_gib=MOST)
    assert lacking(profile, [SECOND], Store(tmp_path)) == []
