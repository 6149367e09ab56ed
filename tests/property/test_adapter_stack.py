"""A stack of adapters is the adapters, one after the other."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from persona_lib.models.adapters import attach_stack, merge_stack, stack_adapters
from persona_lib.specs.profile import LoraSpec

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    # At the usual 0.02 attention is all but uniform in a model this narrow; at 0.2 logits
    # are so large that their own rounding in float32 comes near the bound on differences.
    "initializer_range": 0.1,
}
FAMILIES: dict[str, Any] = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
}
IDS = torch.arange(24).reshape(2, 12) * 5 % 64


def lora(rank: int, alpha: int, rslora: bool, targets: tuple[str, ...]) -> LoraSpec:
    return LoraSpec(rank=rank, alpha=alpha, rslora=rslora, dropout=0.5, targets=targets)


recipes = st.builds(
    lora,
    rank=st.integers(1, 16),
    alpha=st.integers(1, 64),
    rslora=st.booleans(),
    targets=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=7, unique=True).map(tuple),
)


def base(family: str) -> Any:
    torch.manual_seed(0)
    model, config = FAMILIES[family]
    return model(config(**SHAPE)).eval().requires_grad_(False)


def write(recipe: LoraSpec, folder: Path, seed: int, family: str) -> Path:
    """Let peft write an adapter whose A and B are both far from zero."""
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        use_rslora=recipe.rslora,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base(family), config)
    model.save_pretrained(folder)
    draw = torch.Generator().manual_seed(seed)
    scale = recipe.alpha / (math.sqrt(recipe.rank) if recipe.rslora else recipe.rank)
    # Each adapter moves the weights by about the same, whatever its scale.
    size = 0.3 / math.sqrt(scale * math.sqrt(recipe.rank))
    tensors = load_file(folder / "adapter_model.safetensors")
    drawn = {
        key: torch.randn(value.shape, generator=draw) * size / value.shape[1] ** 0.25
        for key, value in tensors.items()
    }
    save_file(drawn, folder / "adapter_model.safetensors")
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def assert_same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal in float32: no logit further off than 1e-5, and all of them together no more."""
    assert got.dtype == wanted.dtype == torch.float32
    assert float((got - wanted).abs().max()) <= 1e-5
    assert distance(got, wanted) < 1e-5


def assert_stack_is_its_adapters(family: str, paths: list[Path]) -> torch.Tensor:
    """Attached and merged; return the logits of adapters merged one by one."""
    model = base(family)
    for path in paths:
        model = PeftModel.from_pretrained(model, path).merge_and_unload()
    wanted = logits(model)
    assert_same(logits(attach_stack(base(family), paths)), wanted)
    assert_same(logits(merge_stack(base(family), paths)), wanted)
    return wanted


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    chosen=st.lists(recipes, min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
    family=st.sampled_from(list(FAMILIES)),
)
def test_stack_equals_adapters_one_after_the_other(
    chosen: list[LoraSpec], seed: int, family: str
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        paths = [
            write(recipe, Path(scratch) / str(index), seed + index, family)
            for index, recipe in enumerate(chosen)
        ]
        wanted = assert_stack_is_its_adapters(family, paths)
        assert distance(logits(base(family)), wanted) > 1e-2, "adapters without effect"

        several = PeftModel.from_pretrained(base(family), paths[0], adapter_name="a0")
        for index, path in enumerate(paths[1:], start=1):
            several.load_adapter(path, f"a{index}")
        several.base_model.set_adapter([f"a{index}" for index in range(len(paths))])
        assert_same(logits(several.eval()), wanted)

        assert stack_adapters(paths).rank == sum(recipe.rank for recipe in chosen)


def test_scales_are_folded_into_b(tmp_path: Path) -> None:
    """Factors against a calculation by hand, for one module that only one adapter has."""
    first = write(lora(4, 8, True, ("q_proj",)), tmp_path / "1", 1, "llama")
    second = write(lora(2, 6, False, ("k_proj",)), tmp_path / "2", 2, "llama")
    stack = stack_adapters([first, second])
    module = "model.layers.1.self_attn.k_proj"
    raw = load_file(second / "adapter_model.safetensors")
    a, b = stack.factors[module]
    assert stack.ranks == (4, 2)
    assert a.shape == (6, 48)
    assert b.shape == (24, 6)
    assert not a[:4].any()
    assert not b[:, :4].any()
    torch.testing.assert_close(a[4:], raw[f"base_model.model.{module}.lora_A.weight"])
    torch.testing.assert_close(b[:, 4:], 3.0 * raw[f"base_model.model.{module}.lora_B.weight"])
    q = "model.layers.0.self_attn.q_proj"
    raw = load_file(first / "adapter_model.safetensors")
    folded = stack.factors[q][1][:, :4]
    torch.testing.assert_close(folded, 4.0 * raw[f"base_model.model.{q}.lora_B.weight"])
