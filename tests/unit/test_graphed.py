"""Recorded passes: what they compute, when they are made, and which are refused.

Recordings here behave as CUDA graphs do, on a CPU: one shape, and results that stand in
the same tensors every time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from persona_lib.models.adapters import TRAINABLE, train_stack
from persona_lib.models.loading import trunk_and_head
from persona_lib.train import lora, trainer
from persona_lib.train.gpu import graphed as module
from persona_lib.train.gpu import recording
from persona_lib.train.gpu.graphed import GraphedTrunk, difference, graphed
from persona_lib.train.gpu.passes import padded_length, split_passes
from persona_lib.train.gpu.recording import Recording, Trunk, plain_trunk
from persona_lib.train.lora import train_lora
from tests.byte_model import VOCABULARY, byte_tokenizer, small_model
from tests.unit.test_packing import adapted
from tests.unit.test_training import LOSSES, SEED, SPEC, make_rows, prior


class Recorded:
    """A pass of one shape whose results stand where those of the last pass stood."""

    def __init__(self, trunk: Trunk, tokens: torch.Tensor, trained: Sequence[torch.Tensor]) -> None:
        self._trunk, self._shape, self._trained = trunk, tokens.shape, list(trained)
        self._hidden = trunk(tokens).detach().clone()
        self._grads = [torch.full_like(part, torch.nan) for part in trained]
        self._alive: torch.Tensor | None = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        assert tokens.shape == self._shape, "a recording holds for one shape"
        # Recorded kernels do not know whether autograd listens.
        with torch.enable_grad():
            self._alive = self._trunk(tokens)
        self._hidden.copy_(self._alive.detach())
        return self._hidden.detach()

    def backward(self, sent: torch.Tensor) -> Sequence[torch.Tensor]:
        assert self._alive is not None
        found = torch.autograd.grad(self._alive, self._trained, sent)
        for buffer, grad in zip(self._grads, found, strict=True):
            buffer.copy_(grad)
        return self._grads


def trained(model: Any) -> list[torch.Tensor]:
    return [value for value in model.parameters() if value.requires_grad]


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=draw)


def seen_by(hidden: torch.Tensor) -> torch.Tensor:
    draw = torch.Generator().manual_seed(8)
    return (hidden * torch.randn(hidden.shape, generator=draw)).sum()


def over(
    model: Any, *, limit: int = 10_000, record: Callable[..., Recording] | None = Recorded
) -> tuple[Trunk, GraphedTrunk]:
    plain = plain_trunk(trunk_and_head(model)[0])
    return plain, GraphedTrunk(plain, trained(model), pad=0, limit=limit, record=record)


# ---- lengths ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "padded"),
    [(1, 64), (64, 64), (65, 128), (257, 320), (512, 512), (513, 640), (1024, 1024), (1025, 1280),
     (2049, 2560)],
)  # fmt: skip
def test_padded_lengths_by_hand(length: int, padded: int) -> None:
    assert padded_length(length) == padded


def test_padding_adds_a_quarter_at_most_and_few_lengths_occur() -> None:
    lengths = range(1, 4097)
    padded = [padded_length(length) for length in lengths]
    assert all(a <= b <= max(64, a + 63, a * 1.25) for a, b in zip(lengths, padded, strict=True))
    assert padded == sorted(padded)
    assert len(set(padded)) == 8 + 4 * 3


# ---- passes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "limit", "passes"),
    [
        # 4 x 64 tokens: another pass would cost more than it spares.
        ([9, 60, 20, 64], 10_000, [[0, 2, 1, 3]]),
        # 4 x 2,048 tokens whole; 2 x 64 and 2 x 2,048 apart: not enough is spared.
        ([2000, 60, 1900, 64], 10_000, [[1, 3, 2, 0]]),
        # 4 x 4,096 whole; 2 x 64 and 2 x 4,096 apart.
        ([4000, 60, 4096, 64], 20_000, [[1, 3], [0, 2]]),
        # Under a limit: the long ones one by one, alone even above it.
        ([2000, 60, 1900, 64], 4_000, [[1, 3], [2], [0]]),
        ([2000, 60, 1900, 64], 100, [[1], [3], [2], [0]]),
        # An odd number: the short part is the smaller one.
        ([900, 10, 1000], 1_500, [[1], [0], [2]]),
        ([5], 1, [[0]]),
    ],
)
def test_passes_by_hand(lengths: list[int], limit: int, passes: list[list[int]]) -> None:
    assert split_passes(lengths, limit) == passes


def test_every_row_is_in_one_pass_within_the_limit() -> None:
    draw = torch.Generator().manual_seed(2)
    for limit in (64, 500, 3_000, 40_000):
        lengths = torch.randint(1, 2_500, (16,), generator=draw).tolist()
        passes = split_passes(lengths, limit)
        assert sorted(index for part in passes for index in part) == list(range(16))
        for part in passes:
            assert len(part) in (1, 2, 4, 8, 16)
            longest = max(lengths[index] for index in part)
            assert len(part) == 1 or len(part) * padded_length(longest) <= limit


# ---- the same numbers ------------------------------------------------------------------


def test_the_plain_pass_is_the_decoder_s_own() -> None:
    model = adapted()
    trunk = trunk_and_head(model)[0]
    before = trunk.config._attn_implementation
    found = plain_trunk(trunk)(tokens(3, 17))
    torch.testing.assert_close(found, trunk(input_ids=tokens(3, 17)).last_hidden_state)
    assert trunk.config._attn_implementation == before
    with pytest.raises(IndexError):
        plain_trunk(trunk)(torch.full((1, 3), VOCABULARY + 5))
    assert trunk.config._attn_implementation == before


class Operations(TorchDispatchMode):
    """Names of all operations, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique"}
"""Operations whose result the host has to see before it goes on."""


def test_nothing_in_a_pass_waits_for_the_host() -> None:
    """What waits cannot be recorded. The decoder's own way does wait, to find out its mask."""
    model = adapted()
    trunk = trunk_and_head(model)[0]
    with Operations() as own:
        trunk(input_ids=tokens(2, 64), use_cache=False)
    assert own.names & WAITING
    plain = plain_trunk(trunk)
    with Operations() as found:
        hidden = plain(tokens(2, 64))
        torch.autograd.grad(hidden, trained(model), torch.zeros_like(hidden))
    assert {"mm", "embedding"} < found.names
    assert not found.names & WAITING


def test_gradients_add_up_over_passes_and_begin_anew_after_a_step() -> None:
    """Two passes of one recording, whose second would overwrite what the first left."""
    model = adapted()
    plain, trunk = over(model)
    for _ in range(2):
        trunk(tokens(2, 9))
        assert trunk.recorded == [], "a shape is recorded when it comes for the third time"
    batches = [tokens(2, length, length) for length in (30, 41, 12)]
    # A shape without a recording (3 rows) between two that have one.
    batches.insert(1, tokens(3, 22))
    for step in range(3):
        for value in trained(model):
            value.grad = None
        for batch in batches:
            seen_by(trunk(batch)).backward()
        found = [value.grad.clone() for value in trained(model)]  # type: ignore[union-attr]
        total = sum(seen_by(plain(batch)) for batch in batches)
        wanted = torch.autograd.grad(total, trained(model))  # type: ignore[arg-type]
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
        assert trunk.recorded == [(2, 64), *([(3, 64)] if step == 2 else [])]


@pytest.mark.parametrize(
    ("loss", "limit", "shape"),
    [(loss, *(((10_000, (8, 64)), (200, (2, 64)))[i % 2])) for i, loss in enumerate(LOSSES)],
)
def test_a_recorded_training_is_the_plain_one(
    loss: str,
    limit: int,
    shape: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = replace(SPEC, steps=5, micro_batch=4)
    rows, frozen = make_rows(16), [prior(tmp_path / "prior")]
    made: list[GraphedTrunk] = []

    def graphs(model: Any, trunk: Any, *, pad: int) -> GraphedTrunk:
        assert trunk is trunk_and_head(model)[0]
        made.append(over(model, limit=limit)[1])
        assert pad == byte_tokenizer().pad_token_id
        return made[0]

    def run(way: lora.Way | None) -> tuple[list[float], list[torch.Tensor]]:
        model = train_stack(small_model(), frozen, spec.lora, 3)
        report = train_lora(model, byte_tokenizer(), rows, spec, loss=loss, seed=SEED, way=way)
        describe = {"way": "recorded", "limit": limit, "recorded": [list(shape)]}
        assert report.get("passes") == (describe if way else None)
        return report["losses"], [v for n, v in model.named_parameters() if f".{TRAINABLE}." in n]

    losses, weights = run(None)
    monkeypatch.setattr(lora, "graphed", graphs)
    again, recorded = run("recorded")
    assert made[0].recorded == [shape]
    assert again == pytest.approx(losses, rel=1e-5)
    for got, want in zip(recorded, weights, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


# ---- what is not recorded --------------------------------------------------------------


class Shifted(Recorded):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) * 1.01


class Doubled(Recorded):
    def backward(self, sent: torch.Tensor) -> Sequence[torch.Tensor]:
        return [grad * 2 for grad in super().backward(sent)]


class Stale(Recorded):
    """Never looks at the tokens of a later pass."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.pad(tokens[:, :1], (0, tokens.shape[1] - 1)))


class NewMasks(Recorded):
    """Draws other masks than the plain pass would, as if it had a generator of its own."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        torch.rand(1)
        return super().forward(tokens)


class OneMask(Recorded):
    """Keeps the masks that it was recorded with."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return super().forward(tokens)


WET = replace(SPEC.lora, dropout=0.3)


def awake() -> Any:
    """A model in training mode whose adapter does something, under dropout."""
    return adapted(lora=WET).train()


def test_after_a_recording_that_failed_all_are_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Memory may be short, and what recordings hold is what plain passes need."""
    tried: list[int] = []

    def record(trunk: Trunk, batch: torch.Tensor, weights: Sequence[torch.Tensor]) -> Recording:
        tried.append(batch.shape[1])
        if batch.shape[1] > 64:
            raise RuntimeError("out of memory")
        return Recorded(trunk, batch, weights)

    model = adapted()
    plain, trunk = over(model, record=record)
    for length in (40, 40, 40, 90, 90, 90, 40, 90, 200, 200, 200):
        torch.testing.assert_close(trunk(tokens(2, length)), plain(tokens(2, length)))
        assert trunk.recorded == ([(2, 64)] if tried == [64] else [])
    assert tried == [64, 128]
    assert len(caplog.messages) == 1
    assert "without recorded passes" in caplog.messages[0]


def accumulator(parameter: torch.Tensor) -> Any:
    """The node that adds to a parameter's gradient; it lives as long as a graph holds it."""
    return parameter.view_as(parameter).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


def test_no_graph_of_an_earlier_pass_is_alive_when_one_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU its nodes would draw another stream into the recording, and spoil it."""
    model = train_stack(small_model(), [], SPEC.lora, 3)
    weight, plain = trained(model)[0], plain_trunk(trunk_and_head(model)[0])
    alive: list[bool] = []

    def marked(batch: torch.Tensor) -> torch.Tensor:
        hidden = plain(batch)
        accumulator(weight).metadata["of a pass"] = True
        return hidden

    def record(trunk: Trunk, batch: torch.Tensor, weights: Sequence[torch.Tensor]) -> Recording:
        del trunk
        alive.append("of a pass" in accumulator(weight).metadata)
        return Recorded(plain, batch, weights)

    made = GraphedTrunk(marked, trained(model), pad=0, limit=200, record=record)
    monkeypatch.setattr(lora, "graphed", lambda *_, **__: made)
    kept = marked(tokens(1, 5))
    assert "of a pass" in accumulator(weight).metadata, "while its graph is alive"
    del kept
    assert "of a pass" not in accumulator(weight).metadata
    train_lora(
        model, byte_tokenizer(), make_rows(16), replace(SPEC, steps=5), loss="sft", seed=SEED,
        way="recorded",
    )  # fmt: skip
    assert alive
    assert not any(alive)


class Graphs:
    """What `CudaRecorder` asks of torch, and in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: "default stream")
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "set_stream", self.asked.append)
        monkeypatch.setattr(
            torch._C, "_cuda_endAllocateToPool", lambda *of: self.asked.append(of), raising=False
        )


def test_after_a_failed_recording_torch_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(monkeypatch)
    monkeypatch.setattr(recording, "_CudaRecording", failing)
    with pytest.raises(RuntimeError, match="stream is capturing"):
        recording.CudaRecorder()(plain_trunk(None), tokens(1, 4), [])
    assert graphs.asked == ["default stream", (1, (0, 7))]


def test_recordings_share_one_pool_and_leave_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, pools = Graphs(monkeypatch), []
    monkeypatch.setattr(recording, "_CudaRecording", lambda *of: pools.append(of[3]) or object())
    record = recording.CudaRecorder()
    first, second = (record(plain_trunk(None), tokens(1, 4), []) for _ in range(2))
    assert pools == [(0, 7)] * 2
    assert record._first is first is not second, "a pool goes with the last graph in it"
    assert graphs.asked == []


def failing(*_: Any) -> Recording:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (Shifted, "differs from the plain one by 1.0e-02"),
        (Doubled, "differs from the plain one by 1.0e+00"),
        (Stale, "differs from the plain one"),
        (NewMasks, "differs from the plain one"),
        (OneMask, "differs from the plain one"),
        (failing, "without recorded passes, which are several times faster"),
    ],
)
def test_a_recording_that_is_wrong_or_fails_is_not_used(
    record: Callable[..., Recording], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = awake() if record in (NewMasks, OneMask) else adapted()
    plain, trunk = over(model, record=record)
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            batch = tokens(2, 40, number)
            torch.manual_seed(5)
            found = trunk(batch)
            torch.manual_seed(5)
            torch.testing.assert_close(found, plain(batch))
    assert trunk.recorded == []
    assert len(caplog.messages) == 1, "it is tried once"
    assert sentence in caplog.messages[0]
    assert "shape (2, 64)" in caplog.messages[0]


@pytest.mark.parametrize(
    ("given", "recorded"), [({"record": None}, []), ({"limit": 4 * 64}, [(4, 64)])]
)
def test_without_a_recorder_and_above_the_limit_nothing_is_recorded(
    given: dict[str, Any], recorded: list[tuple[int, int]]
) -> None:
    plain, trunk = over(adapted(), **given)
    for length in (64, 65) * 4:
        torch.testing.assert_close(trunk(tokens(4, length)), plain(tokens(4, length)))
    assert trunk.recorded == recorded


def test_what_is_not_finite_is_as_far_off_as_can_be() -> None:
    model = adapted()
    plain, _ = over(model)

    class Broken(Recorded):
        def backward(self, sent: torch.Tensor) -> Sequence[torch.Tensor]:
            return [torch.full_like(part, torch.nan) for part in super().backward(sent)]

    batch = tokens(2, 64)
    right, broken = (kind(plain, batch, trained(model)) for kind in (Recorded, Broken))
    error, bound = difference(plain, right, batch, trained(model))
    assert error < 1e-6
    assert bound == 1e-3
    assert difference(plain, broken, batch, trained(model)) == (float("inf"), 1e-3)


def test_the_bound_is_that_of_the_base_s_precision() -> None:
    """An adapter is float32 whatever the base is."""
    model = train_stack(small_model(torch.bfloat16), [], SPEC.lora, 3)
    assert trained(model)[0].dtype == torch.float32
    plain, trunk = over(model)
    batch = tokens(2, 64)
    made = Recorded(plain, batch, trained(model))
    assert difference(plain, made, batch, trained(model)) == (pytest.approx(0), 5e-2)
    for _ in range(3):
        trunk(batch)
    assert trunk.recorded == [(2, 64)]


def test_masks_of_a_recording_are_those_of_the_plain_pass() -> None:
    """Draw by draw, and the check of a recording takes none of a training's draws."""
    model = awake()
    plain, trunk = over(model)
    batches = [tokens(2, 64, number) for number in range(6)]
    torch.manual_seed(5)
    wanted = [plain(batch).detach().clone() for batch in batches]
    torch.manual_seed(5)
    found = [trunk(batch).detach().clone() for batch in batches]
    assert trunk.recorded == [(2, 64)]
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)
    torch.manual_seed(6)
    assert not torch.allclose(plain(batches[0]), wanted[0], rtol=1e-2), "dropout does something"


class OnCuda:
    """A model that says that it is on a GPU."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.device = torch.device("cuda")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def test_the_way_that_a_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted()
    assert lora._way(model) == "padded"
    assert lora._way(OnCuda(model)) == "recorded"  # type: ignore[arg-type]
    monkeypatch.setattr(trainer, "CHECKPOINTING_FROM", 0)
    assert lora._way(OnCuda(model)) == "packed"  # type: ignore[arg-type]
    trunk_and_head(model)[0].config.model_type = "gpt2"
    assert lora._way(OnCuda(model)) == "padded"  # type: ignore[arg-type]


def test_who_gets_recordings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Models on CUDA whose memory can be reckoned, within a share of it; dropout or not."""
    model = adapted()
    trunk = trunk_and_head(model)[0]
    free = 4_000_000
    monkeypatch.setattr(module, "free_bytes", lambda _: free)
    assert graphed(model, trunk, pad=0) is None, "on a CPU"
    found = graphed(OnCuda(model), trunk, pad=0)  # type: ignore[arg-type]
    assert found is not None
    shape = module.step_shape(model, trunk, compiled=False, looked_at=0.0)
    each = module.token_bytes(shape, checkpointing=False) + 32 * VOCABULARY
    assert found.limit == int(free * 0.25) // each > 10
    assert isinstance(found._record, recording.CudaRecorder)
    (sentence,) = caplog.messages
    assert "little of the GPU's memory is free (0.0 GiB)" in sentence
    assert f"passes of at most {found.limit} tokens" in sentence
    monkeypatch.setattr(module, "free_bytes", lambda _: 1000 * free)
    monkeypatch.setenv("FLATLAND_RECORDED_PASSES", "0")
    plain = graphed(OnCuda(model), trunk, pad=0)  # type: ignore[arg-type]
    assert plain is not None
    assert (plain._record, len(caplog.messages)) == (None, 1)
    monkeypatch.delenv("FLATLAND_RECORDED_PASSES")
    wet = train_stack(small_model(), [], WET, 3)
    found = graphed(OnCuda(wet), trunk_and_head(wet)[0], pad=0)  # type: ignore[arg-type]
    assert found is not None
    assert isinstance(found._record, recording.CudaRecorder)
    monkeypatch.setattr(module, "unsupported", lambda _: "built otherwise")
    assert graphed(OnCuda(model), trunk, pad=0) is None  # type: ignore[arg-type]
