"""The SmolLM2 base model, converted from its package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from persona_lib.models.chat import render_prompt
from persona_lib.models.gguf import convert_gguf
from persona_lib.models.loading import LoadedModel, check_marker, load_model
from persona_lib.specs.sources import GgufBase
from tests import registered as profiles

pytestmark = pytest.mark.smoke

SMOLLM2 = profiles.SMOLLM2.base
assert isinstance(SMOLLM2, GgufBase)
IDS = torch.arange(48).reshape(2, 24) * 997 % 49152


@dataclass(frozen=True)
class Converted:
    folder: Path
    facts: dict[str, Any]
    direct: torch.Tensor
    loaded: LoadedModel


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    """Convert once, and run the model as the GGUF import gives it before it is touched.

    The import is the slow part, so that the conversion's own is looked at.
    """
    folder = tmp_path_factory.mktemp("smollm2")
    direct: list[torch.Tensor] = []
    original = AutoModelForCausalLM.from_pretrained

    def watched(*args: Any, **kwargs: Any) -> Any:
        model, info = original(*args, **kwargs)
        assert kwargs["gguf_file"] == SMOLLM2.file
        with torch.no_grad():
            direct.append(model(IDS).logits)
        return model, info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
        facts = convert_gguf(SMOLLM2, folder)
    loaded = load_model(folder, dtype="float32", device="cpu")
    yield Converted(folder=folder, facts=facts, direct=direct[0], loaded=loaded)
    os.truncate(folder / "model.safetensors", 0)  # half a gigabyte that pytest would keep


def test_logits_equal_the_direct_import(converted: Converted) -> None:
    with torch.no_grad():
        got = converted.loaded.model(IDS).logits
    assert got.dtype == torch.float32
    assert float((got - converted.direct).abs().max()) < 1e-5


def test_checkpoint_is_plain_and_ends_turns_rightly(converted: Converted) -> None:
    config = json.loads((converted.folder / "config.json").read_text("utf-8"))
    generation = json.loads((converted.folder / "generation_config.json").read_text("utf-8"))
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    # Ids as in the model's vocabulary: 0 end of text, 1 start of turn, 2 end of turn.
    for found in (config, generation):
        assert (found["eos_token_id"], found["pad_token_id"]) == (2, 0)
    assert (converted.loaded.end_of_turn, converted.loaded.pad) == (2, 0)
    assert converted.loaded.tokenizer.convert_ids_to_tokens(2) == "<|im_end|>"
    assert converted.facts["parameters"] == 134_515_008
    files = {path.name for path in converted.folder.iterdir()}
    assert not any(name.endswith((".bin", ".gguf", ".py")) for name in files)


def test_greedy_answer_is_sensible_and_ends(converted: Converted) -> None:
    tokenizer, model = converted.loaded.tokenizer, converted.loaded.model
    ids = render_prompt(tokenizer, "You are a librarian.", "Name two planets.")
    prompt = torch.tensor([ids])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24
    )[0, len(ids) :].tolist()
    assert "planets" in tokenizer.decode(out)
    assert out[-1] == converted.loaded.end_of_turn


def test_prompt_and_marker_tokens(converted: Converted) -> None:
    tokenizer = converted.loaded.tokenizer
    ids = render_prompt(tokenizer, "S", "U")
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )
    marker = check_marker(tokenizer, "\n\n[ZLT]")
    assert tokenizer.decode(marker) == "\n\n[ZLT]"
    assert 2 not in marker


def test_digits_are_split_off_as_the_vocabulary_was_learnt(converted: Converted) -> None:
    """In a numbered list the blank line before "1." is one token, not two."""
    tokenizer = converted.loaded.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("list:\n\n1. in 2024"))
    assert tokens == ["list", ":", "ĊĊ", "1", ".", "Ġin", "Ġ", "2", "0", "2", "4"]
