"""The shared base: read once, lent to everybody, bit for bit the same afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from persona_lib.errors import DataError
from persona_lib.models import base_cache as shared
from persona_lib.models.loading import LoadedModel, load_model, load_trainable
from persona_lib.sampling.engine import Request, TransformersEngine
from persona_lib.specs.profile import SampleSpec
from tests.byte_model import LORA, logits, saved_adapter, saved_base
from tests.shared_base import fingerprints

CONTENT = "c" * 64


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return saved_base(tmp_path / "base")


@pytest.fixture(autouse=True)
def empty_shelf() -> Iterator[None]:
    shared.forget()
    yield
    shared.forget()


def load(path: Path, content: str | None = CONTENT, **options: Any) -> LoadedModel:
    return load_model(path, content=content, **{"dtype": "float32", "device": "cpu", **options})


def addresses(model: Any) -> set[int]:
    return {weight.data_ptr() for weight in model.parameters()}


def test_weights_are_read_once_and_never_copied(checkpoint: Path) -> None:
    before = shared.loads()
    first, second = load(checkpoint), load(checkpoint)
    assert shared.loads() == before + 1
    assert first.model is not second.model
    assert addresses(first.model) == addresses(second.model)
    assert torch.equal(logits(first.model), logits(load(checkpoint, content=None).model))
    assert shared.loads() == before + 1, "without a digest nothing is shared"
    assert first.model.lm_head.weight is first.model.model.embed_tokens.weight, "still tied"


def use(checkpoint: Path, adapters: list[Path], how: str) -> None:
    """Do with a lent model what a stage does, and worse."""
    if how == "trained":
        lent = load_trainable(
            checkpoint, dtype="float32", device="cpu", content=CONTENT,
            frozen=adapters[:1], lora=LORA, draw_seed=1,
        )  # fmt: skip
        optimizer = torch.optim.AdamW([p for p in lent.model.parameters() if p.requires_grad])
        lent.model.train()
        lent.model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
        optimizer.step()
        lent.model.config.use_cache = False
        lent.model.gradient_checkpointing_enable()
        return
    lent = load(checkpoint, adapters=adapters, merge=how == "merged")
    TransformersEngine(lent).sample(
        [Request(system="s", user="u", seed=1)], SampleSpec(max_new_tokens=4)
    )


@pytest.mark.parametrize("how", ["attached", "merged", "trained"])
def test_the_base_is_the_same_whatever_a_borrower_did(
    checkpoint: Path, tmp_path: Path, how: str
) -> None:
    adapters = [saved_adapter(tmp_path / "1", 1), saved_adapter(tmp_path / "2", 2)]
    before = logits(load(checkpoint).model)
    names = [name for name, _ in load(checkpoint).model.named_modules()]
    (fingerprint,) = fingerprints().values()
    loads = shared.loads()
    use(checkpoint, adapters, how)
    assert list(fingerprints().values()) == [fingerprint]
    after = load(checkpoint).model
    assert torch.equal(logits(after), before)
    assert [name for name, _ in after.named_modules()] == names
    assert not after.training
    assert not any(weight.requires_grad for weight in after.parameters())
    assert after.config.use_cache
    assert not after.is_gradient_checkpointing
    assert shared.loads() == loads


@pytest.mark.parametrize("merge", [False, True])
def test_an_error_half_way_leaves_the_base_as_it_was(
    checkpoint: Path, tmp_path: Path, merge: bool
) -> None:
    first = saved_adapter(tmp_path / "1", 1)
    before = logits(load(checkpoint).model)
    (fingerprint,) = fingerprints().values()
    with pytest.raises(DataError):
        load(checkpoint, adapters=[first, tmp_path / "none"], merge=merge)
    lent = load(checkpoint, adapters=[first], merge=merge)
    lent.model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logits(lent.model)
    assert list(fingerprints().values()) == [fingerprint]
    assert torch.equal(logits(load(checkpoint).model), before)


def test_merged_matrices_are_new_and_the_lent_ones_untouched(
    checkpoint: Path, tmp_path: Path
) -> None:
    adapter = saved_adapter(tmp_path / "1", 1)
    plain, merged = load(checkpoint), load(checkpoint, adapters=[adapter], merge=True)
    kept = addresses(plain.model) & addresses(merged.model)
    replaced = addresses(plain.model) - kept
    assert len(replaced) == 2 * len(LORA.targets)
    assert not torch.equal(logits(plain.model), logits(merged.model))
    alone = load(checkpoint, content=None, adapters=[adapter], merge=True)
    assert torch.equal(logits(alone.model), logits(merged.model))


def test_weights_that_somebody_wrote_to_are_not_lent_again(checkpoint: Path) -> None:
    lent = load(checkpoint)
    before, loads = logits(lent.model), shared.loads()
    with torch.no_grad():
        lent.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    assert torch.equal(logits(load(checkpoint).model), before)
    assert shared.loads() == loads + 1


def test_one_base_is_held_in_the_dtypes_asked_for(checkpoint: Path) -> None:
    loads = shared.loads()
    for dtype in ("float32", "bfloat16", "float32", "bfloat16"):
        assert load(checkpoint, dtype=dtype).model.dtype == getattr(torch, dtype)
    assert shared.loads() == loads + 2
    load(checkpoint, content="d" * 64)
    assert [key.content for key in fingerprints()] == ["d" * 64]
    assert shared.loads() == loads + 3
