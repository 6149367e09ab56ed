"""Packs: the same loss and gradient as padded rows, within the memory that there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.train_setup import QWEN
from persona_lib.errors import DataError, FlatlandError, SpecError
from persona_lib.models.adapters import train_stack
from persona_lib.models.loading import trunk_and_head
from persona_lib.specs.profile import LoraSpec
from persona_lib.train.encode import EncodedRow
from persona_lib.train.gpu import attention, packed, packed_setup
from persona_lib.train.gpu.attention import choose, padded_groups
from persona_lib.train.gpu.memory import GIB, StepShape, plan_memory, standing_bytes, token_bytes
from persona_lib.train.gpu.packed import PackedTrunk, unsupported
from persona_lib.train.gpu.packed_setup import prepare
from persona_lib.train.gpu.packing import PackedBatch, pack_rows, split_rows
from persona_lib.train.lora import Way, train_lora
from persona_lib.train.losses import PER_TOKEN, Batch, batch_loss, collate
from tests.byte_model import byte_tokenizer, small_model
from tests.registered import QWEN7B
from tests.unit.test_training import LOSSES, ROWS, SEED, SPEC, prior

LORA = SPEC.lora


def adapted(frozen: Sequence[Path] = (), lora: LoraSpec = LORA) -> Any:
    model = train_stack(small_model(), frozen, lora, 3)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B.default" in name:
                value.copy_(torch.randn(value.shape, generator=draw) * 0.3)
    return model


def way(dtype: torch.dtype = torch.float32) -> attention.Choice:
    return choose(device="cpu", dtype=dtype, heads=4, kv_heads=2, dim=8)


def gradient(
    model: Any, hidden: torch.Tensor, batch: Batch, loss: str, count: float
) -> tuple[float, list[torch.Tensor]]:
    value = batch_loss(hidden, trunk_and_head(model)[1], batch, loss=loss, beta=2.0, items=count)
    trained = [p for p in model.parameters() if p.requires_grad]
    return float(value.detach()), list(torch.autograd.grad(value, trained))


# ---- laying rows end to end ------------------------------------------------------------


def test_a_pack_by_hand() -> None:
    rows = (
        EncodedRow(row="a", kind="sft", tokens=(5, 6, 7), supervised=(2,), anchored=(1,)),
        EncodedRow(row="b", kind="sft", tokens=(8, 9, 10, 11), supervised=(2, 3), anchored=()),
    )
    pack = pack_rows(rows, pad=0, multiple=8, longest=6)
    assert pack.tokens.tolist() == [[5, 6, 7, 8, 9, 10, 11, 0]]
    assert pack.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0]
    assert pack.starts.tolist() == [0, 3, 7, 8]
    assert pack.starts.dtype == torch.int32
    assert pack.supervised.tolist() == [[0, 2], [0, 5], [0, 6]]
    assert pack.anchored.tolist() == [[0, 1]]
    assert pack.needed.tolist() == [0, 1, 4, 5]
    assert pack.lengths == (3, 4, 1)
    assert pack.longest == 6
    assert pack_rows(rows, pad=0, multiple=7).lengths == (3, 4)


@pytest.mark.parametrize("limit", [30, 41, 100, 400])
def test_every_row_is_in_one_pack_within_the_limit(limit: int) -> None:
    lengths = [30, 5, 5, 11, 29, 2, 17, 23, 1, 30]
    packs = split_rows(lengths, limit)
    assert sorted(index for pack in packs for index in pack) == list(range(10))
    sizes = [sum(lengths[index] for index in pack) for pack in packs]
    assert max(sizes) <= limit
    assert len(packs) <= 1 + sum(lengths) // (limit / 2)
    assert all(a < b for pack in packs for a, b in pairwise(pack))


def test_a_row_that_fits_no_pack_is_named() -> None:
    with pytest.raises(DataError, match=r"longest row.*33"):
        split_rows([4, 33], 32)


# ---- the same numbers ------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1_000, 60, 28])
@pytest.mark.parametrize("loss", LOSSES)
def test_packs_have_the_loss_and_gradient_of_padded_rows(
    loss: str, limit: int, tmp_path: Path
) -> None:
    model = adapted([prior(tmp_path / "prior")])
    trunk = trunk_and_head(model)[0]
    draw = torch.Generator().manual_seed(5)
    reference = [torch.randn(5, 32, generator=draw) for _ in ROWS]
    batch = collate(ROWS, pad=0, reference=reference)
    count = float(sum(len(r.supervised) for r in ROWS) if loss in PER_TOKEN else len(ROWS))
    wanted, wanted_grads = gradient(
        model, trunk(input_ids=batch.tokens).last_hidden_state, batch, loss, count
    )
    found, grads = 0.0, [torch.zeros_like(g) for g in wanted_grads]
    forward = PackedTrunk(trunk, way(), compiled=False)
    for pack in split_rows([len(row.tokens) for row in ROWS], limit):
        one = pack_rows(
            [ROWS[i] for i in pack], pad=0, reference=[reference[i] for i in pack], multiple=16
        )
        value, parts = gradient(model, forward(one), one, loss, count)
        found += value
        grads = [a + b for a, b in zip(grads, parts, strict=True)]
    assert found == pytest.approx(wanted, rel=1e-5)
    for a, b in zip(grads, wanted_grads, strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(b.norm())


def test_recomputing_changes_nothing() -> None:
    model = adapted(lora=replace(LORA, dropout=0.3)).train()
    trunk, pack = trunk_and_head(model)[0], pack_rows(ROWS, pad=0)
    found = []
    for again in (False, True):
        forward = PackedTrunk(trunk, way(), compiled=False, checkpointing=again)
        torch.manual_seed(1)
        found.append(gradient(model, forward(pack), pack, "sft", 1.0))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_dropout_is_of_the_recipe_s_rate() -> None:
    """With B of one module only, its output less the base's is linear in what it read."""
    model = adapted(lora=replace(LORA, dropout=0.25))
    trunk = trunk_and_head(model)[0]
    (still, _) = packed.layer_pieces(packed.read_settings(trunk), training=False)
    (moving, _) = packed.layer_pieces(packed.read_settings(trunk), training=True)
    layer = trunk.layers[0]
    state = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
    turns = (torch.ones(64, 1, 8), torch.zeros(64, 1, 8))
    arguments = (state, turns, *packed._before_tensors(layer))
    torch.manual_seed(3)
    with torch.no_grad():
        exact = still(*arguments)[2]
        draws = torch.stack([moving(*arguments)[2] for _ in range(400)])
    apart = (draws.mean(0) - exact).norm() / exact.norm()
    assert float(apart) < 0.1
    assert not torch.equal(draws[0], draws[1])
    # Var of a masked, scaled sum is rate / (1 - rate) times the sum of squares.
    weight = layer.self_attn.v_proj
    scale = weight.scaling["default"]
    read = torch.nn.functional.rms_norm(state, (32,), eps=trunk.config.rms_norm_eps)
    matrix = scale * weight.lora_B["default"].weight @ weight.lora_A["default"].weight
    expected = (read**2) @ (matrix.detach() ** 2).T * 0.25 / 0.75
    assert float(draws.var(0).mean() / expected.mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("loss", "limit"), [("as_published", 1_000), ("anchored", 30)])
def test_a_packed_training_is_the_padded_one(
    loss: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the trainer, with a last batch of three rows, in one pack a batch and in several."""
    monkeypatch.setattr(packed_setup, "split_rows", lambda lengths, _: split_rows(lengths, limit))
    frozen = [prior(tmp_path / "prior")]
    spec = replace(SPEC, steps=None, epochs=2, batch=4, micro_batch=2, learning_rate=1e-2)
    found = []
    ways: tuple[Way, ...] = ("padded", "packed")
    for way_of in ways:
        model = train_stack(small_model(), frozen, spec.lora, 3)
        report = train_lora(model, byte_tokenizer(), ROWS, spec, loss=loss, seed=SEED, way=way_of)
        trained = torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])
        assert report.get("passes", {"way": "padded"})["way"] == way_of
        found.append((report["losses"], trained.detach()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    assert len(found[0][0]) == 6
    assert float((found[0][1] - found[1][1]).norm() / found[0][1].norm()) < 1e-3


# ---- attention -------------------------------------------------------------------------


def test_the_first_way_that_is_right_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = way()
    assert found.name == "padded"
    assert set(found.refused) == {
        "varlen", "varlen, keys repeated", "flash_op", "flash_op, keys repeated",
    }  # fmt: skip
    original = attention.padded

    def leaks(*parts: Any) -> torch.Tensor:
        return original(*parts) * 1.001

    monkeypatch.setattr(attention, "padded", leaks)
    with pytest.raises(FlatlandError, match="differs from the rows alone"):
        way()
    monkeypatch.setattr(attention, "padded", lambda q, k, v, _: torch.nan * (q + k.sum() + v.sum()))
    with pytest.raises(FlatlandError, match="differs from the rows alone by inf"):
        way()


def test_padding_stays_within_groups_of_like_length() -> None:
    lengths = (100, 3, 700, 64, 120, 690, 2)
    indices, inverse = padded_groups(lengths, "cpu")
    cells = torch.cat([index.flatten() for index in indices])
    assert torch.equal(cells[inverse], torch.arange(sum(lengths)))
    assert [tuple(index.shape) for index in indices] == [(3, 64), (2, 120), (2, 700)]


# ---- what fits -------------------------------------------------------------------------

SHAPE = StepShape(
    layers=28, width=3584, kv_width=512, ffn=18944, vocabulary=152064, item=2,
    weights=2 * 7_615_616_512, trainable=80_740_352, compiled=True, looked_at=0.01,
)  # fmt: skip


def test_a_published_batch_fits_an_80_gb_card_without_recomputing() -> None:
    plan = plan_memory(SHAPE, limit=75 * GIB, longest=1024, batch_tokens=7_000)
    assert (plan.tokens, plan.checkpointing) == (7_000, False)
    assert plan.estimate <= 75 * GIB
    assert plan.estimate == standing_bytes(SHAPE) + 7_000 * token_bytes(SHAPE, checkpointing=False)


def test_less_memory_gives_smaller_packs_then_recomputing_then_an_error() -> None:
    asked = {"longest": 1024, "batch_tokens": 7_000}
    plans = [plan_memory(SHAPE, limit=gib * GIB, **asked) for gib in (75, 45, 24, 19)]
    assert [plan.checkpointing for plan in plans] == [False, False, True, True]
    assert 2_048 <= plans[1].tokens < plans[0].tokens
    assert plans[3].tokens >= 1_024
    for gib, plan in zip((75, 45, 24, 19), plans, strict=True):
        assert plan.estimate <= gib * GIB
    with pytest.raises(SpecError, match=r"train\.max_length"):
        plan_memory(SHAPE, limit=16 * GIB, **asked)


def test_what_a_token_takes() -> None:
    """Against sums over the tensors by name, for one layer of width 1 and feed-forward 1."""
    unit = replace(SHAPE, layers=1, width=1, kv_width=1, ffn=1, vocabulary=0)
    # Two residuals, queries, result; keys, values; gate, up, product; seven LoRA inputs
    # and their masks; eight transients of the backward pass. Two bytes each, masks one.
    assert token_bytes(unit, checkpointing=False) == 2 * (4 + 2 + 3 + 7) + 7 + 2 * 8
    many = replace(unit, layers=10)
    assert token_bytes(many, checkpointing=False) == 10 * 39 + 16
    assert token_bytes(many, checkpointing=True) == 10 * 2 + 39 + 16
    seen = replace(unit, vocabulary=100, looked_at=0.5)
    assert token_bytes(seen, checkpointing=False) == 39 + 16 + 14 * 50


# ---- falling back ----------------------------------------------------------------------


def ready(
    model: Any, monkeypatch: pytest.MonkeyPatch, failures: list[Exception], limit: int | None
) -> packed_setup.Packing:
    """Prepare a model whose first trials end in these errors."""
    trunk, head = trunk_and_head(model)
    original = packed_setup._try

    def tried(*arguments: Any) -> None:
        if failures:
            raise failures.pop(0)
        original(*arguments)

    def loss_of(hidden: torch.Tensor, pack: PackedBatch) -> torch.Tensor:
        return batch_loss(hidden, head, pack, loss="sft", beta=0.0, items=1.0)

    monkeypatch.setattr(packed_setup, "_try", tried)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    packed._compiled_pieces.cache_clear()
    return prepare(model, trunk, [ROWS[:4], ROWS[4:]], loss_of, pad=0, compiled=True, limit=limit)


def test_what_does_not_compile_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted()
    failures: list[Exception] = [RuntimeError("no compiler")]
    found = ready(model, monkeypatch, failures, None)
    assert not found.trunk.compiled
    assert found.notes["compiled, 100% of memory"] == "RuntimeError: no compiler"
    assert all(p.grad is None for p in model.parameters())
    assert ready(adapted(), monkeypatch, [], None).trunk.compiled


def test_what_runs_out_of_memory_is_given_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted()
    shape = packed_setup.step_shape(model, trunk_and_head(model)[0], compiled=True, looked_at=0.5)
    limit = standing_bytes(shape) + 70 * token_bytes(shape, checkpointing=False)
    first = ready(model, monkeypatch, [], 2 * limit)
    failures: list[Exception] = [torch.OutOfMemoryError("full")]
    second = ready(model, monkeypatch, failures, 2 * limit)
    assert second.trunk.compiled
    assert first.plan is not None
    assert second.plan is not None
    assert second.plan.estimate <= 0.75 * 2 * limit
    with pytest.raises(RuntimeError, match="broken"):
        ready(model, monkeypatch, [RuntimeError("broken")] * 2, None)


def test_decoders_that_are_built_otherwise_are_named() -> None:
    trunk = trunk_and_head(adapted())[0]
    assert unsupported(trunk) == ""
    trunk.config.model_type = "gemma2"
    assert "gemma2" in unsupported(trunk)
    with pytest.raises(SpecError, match="gemma2"):
        PackedTrunk(trunk, way(), compiled=False)
    trunk.config.model_type = "qwen2"
    trunk.layers[1].self_attn.q_proj.scaling["default"] *= 2
    with pytest.raises(SpecError, match="layers differ"):
        packed.read_settings(trunk)


def test_the_published_recipe_is_what_is_benchmarked() -> None:
    assert QWEN.lora == LoraSpec(rank=32, alpha=64, rslora=True, dropout=0.05)
    assert len(QWEN.lora.targets) == 7
    assert (QWEN.batch, QWEN.micro) == (QWEN7B.coupling.batch, QWEN7B.coupling.micro_batch)
    assert (QWEN.batch, QWEN.micro) == (16, 4)


@pytest.mark.parametrize(("free", "held", "gib"), [(79, 0, 75.0), (60, 10, 66.5), (20, 15, 33.25)])
def test_a_step_may_take_what_is_free_and_what_it_holds(
    free: int, held: int, gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than the card has, where another process or vLLM holds some of it."""
    monkeypatch.setattr(packed_setup, "free_bytes", lambda _: free * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: held * GIB)
    assert packed_setup.device_limit("cuda") == pytest.approx(gib * GIB)
    monkeypatch.undo()
    assert packed_setup.device_limit("cpu") is None
