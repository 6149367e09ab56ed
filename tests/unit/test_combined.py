"""A stack as one adapter, and as merged tensors: both are peft's own stack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from persona_lib.errors import DataError, SpecError
from persona_lib.models.adapter_files import read_adapter
from persona_lib.models.combined import combine_adapters, merged_tensors
from tests.byte_model import LORA, logits, saved_adapter, small_model

COUPLING = replace(LORA, rank=6, alpha=9, rslora=False, targets=("q_proj", "down_proj"))
"""Another rank, alpha and scaling than the prior's, and fewer modules."""


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [
        saved_adapter(tmp_path / "prior", 1),
        saved_adapter(tmp_path / "coupling", 2, COUPLING),
    ]


def both_in_peft(pair: list[Path]) -> torch.Tensor:
    """Logits of peft with two adapters active side by side, each by its own config."""
    model = PeftModel.from_pretrained(small_model(), pair[0], adapter_name="prior")
    model.load_adapter(pair[1], adapter_name="coupling")
    model.base_model.set_adapter(["prior", "coupling"])
    return logits(model)


def test_the_combined_adapter_is_both(pair: list[Path], tmp_path: Path) -> None:
    stack = combine_adapters(pair, tmp_path / "one")
    assert stack.rank == 10
    one = read_adapter(tmp_path / "one")
    assert (one.rank, one.scale) == (10, 1.0)
    combined = logits(PeftModel.from_pretrained(small_model(), tmp_path / "one"))
    exact = both_in_peft(pair)
    torch.testing.assert_close(combined, exact, rtol=0, atol=1e-5)
    # The bound means something: each of the two moves the logits by far more.
    for alone in pair:
        apart = logits(PeftModel.from_pretrained(small_model(), alone)) - exact
        assert apart.abs().max() > 1e-1


def test_merged_tensors_are_both(pair: list[Path], tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "base")
    before = {path: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    model = small_model()
    tensors = dict(merged_tensors(tmp_path / "base", pair))
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    torch.testing.assert_close(logits(model), both_in_peft(pair), rtol=0, atol=1e-5)
    assert {path: path.read_bytes() for path in (tmp_path / "base").iterdir()} == before


def test_without_adapters_the_checkpoints_own_tensors_come(tmp_path: Path) -> None:
    small_model(torch.bfloat16).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    came = dict(merged_tensors(tmp_path, []))
    assert came.keys() == stored.keys()
    assert all(torch.equal(came[name], stored[name]) for name in stored)
    assert {tensor.dtype for tensor in came.values()} == {torch.bfloat16}


def test_weights_in_several_files_are_all_read(pair: list[Path], tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "base")
    whole = dict(merged_tensors(tmp_path / "base", pair))
    small_model().save_pretrained(tmp_path / "split", max_shard_size="40KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    split = dict(merged_tensors(tmp_path / "split", pair))
    assert split.keys() == whole.keys()
    assert all(torch.equal(split[name], whole[name]) for name in whole)


def test_what_does_not_fit_is_refused_before_the_first_tensor(
    pair: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="safetensors weights"):
        merged_tensors(tmp_path, pair)
    wide = {f"model.layers.{i}.self_attn.q_proj.weight": torch.zeros(32, 64) for i in range(2)}
    save_file(wide, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="the base model that the adapters were trained on"):
        merged_tensors(tmp_path, pair)
    with pytest.raises(SpecError, match="at least one"):
        combine_adapters([], tmp_path / "none")
    assert not (tmp_path / "none").exists()
