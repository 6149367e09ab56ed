"""One process reads the base weights once, whatever it builds, and writes none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.smoke.conftest import finish, start

pytestmark = pytest.mark.smoke

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
