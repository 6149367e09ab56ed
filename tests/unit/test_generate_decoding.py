"""What decoding does for a GPU's sake: it changes no completion, and can be shown on a CPU.

Each way of decoding is held against the plain one: transformers' own cache, a look after
every step, nothing at fixed addresses.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, DynamicCache
from transformers.integrations import sdpa_attention

from persona_lib import cuda_steps, decoding, kv_cache
from persona_lib.decoding import How, how_on
from persona_lib.errors import FlatlandError
from persona_lib.generate import Request, TransformersEngine
from persona_lib.kv_cache import block_cache, bytes_per_position, grouped, rows_that_fit
from persona_lib.models.loading import LoadedModel
from persona_lib.profile import SampleSpec
from persona_lib.progress import Bar
from persona_lib.records import LENGTH, STOP
from tests.byte_model import loaded, ready, small_model

CEILING = 40
SPEC = SampleSpec(max_new_tokens=CEILING, batch=64)
REQUESTS = [
    Request(system="s" * (1 + i % 5), user="?" * (1 + i % 3), seed=300 + i) for i in range(48)
]
WAYS = {
    "blocks": How(blocks=True),
    "masks": How(masks=True),
    "eight steps at once": How(every=8),
    "seven, which does not divide the ceiling": How(every=7),
    "more than the ceiling": How(every=100),
    "as on a GPU": How(every=8, blocks=True, masks=True),
    "fixed addresses": How(every=8, blocks=True, masks=True, graphs=True),
    "fixed addresses, each step": How(blocks=True, graphs=True),
}


def ending() -> LoadedModel:
    """A model that ends its turns often, so that rows stop at many lengths."""
    model = small_model()
    with torch.no_grad():
        model.lm_head.weight[2] *= 4
    return ready(model)


ENDING = ending()
PLAIN = TransformersEngine(ENDING, How()).sample(REQUESTS, SPEC)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that caches of these short texts grow several times."""
    monkeypatch.setattr(kv_cache.BlockLayer, "block", 16)
    monkeypatch.setattr(decoding, "block_cache", lambda config: block_cache(config, block=16))


def test_the_requests_ask_for_everything() -> None:
    finishes = Counter(sampled.finish for sampled in PLAIN)
    assert min(finishes[STOP], finishes[LENGTH]) >= 5
    assert len({sampled.tokens for sampled in PLAIN}) >= 10
    assert {s.tokens for s in PLAIN if s.finish == LENGTH} == {CEILING}


@pytest.mark.parametrize("name", list(WAYS))
def test_no_way_of_decoding_changes_a_completion(name: str) -> None:
    found = TransformersEngine(ENDING, WAYS[name]).sample(REQUESTS, SPEC)
    assert found == PLAIN


@pytest.mark.parametrize("name", ["as on a GPU", "fixed addresses"])
def test_every_way_works_in_small_batches_and_with_a_nucleus(name: str) -> None:
    spec = SampleSpec(max_new_tokens=CEILING, batch=7, top_p=0.9, temperature=0.8)
    plain = TransformersEngine(ENDING, How()).sample(REQUESTS, spec)
    assert TransformersEngine(ENDING, WAYS[name]).sample(REQUESTS, spec) == plain
    assert plain != PLAIN


@pytest.mark.parametrize("name", ["as on a GPU", "fixed addresses"])
def test_rows_leave_the_batch_and_the_cache_grows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, grown = [], []
    keep, reserve = decoding.Rows.keep, kv_cache.BlockLayer.reserve

    def watched_keep(self: Any, rows: torch.Tensor) -> None:
        kept.append((len(self.index), len(rows)))
        keep(self, rows)

    def watched_reserve(self: Any, positions: int) -> bool:
        grown.append(reserve(self, positions))
        return grown[-1]

    monkeypatch.setattr(decoding.Rows, "keep", watched_keep)
    monkeypatch.setattr(kv_cache.BlockLayer, "reserve", watched_reserve)
    assert TransformersEngine(ENDING, WAYS[name]).sample(REQUESTS, SPEC) == PLAIN
    assert len(kept) >= 2
    assert all(after < before for before, after in kept)
    assert sum(grown) >= 2 * ENDING.model.config.num_hidden_layers


def test_a_look_is_taken_only_every_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look makes the processor wait for the device."""
    looks: list[int] = []
    look = decoding._look

    def watched(rows: Any) -> Any:
        looks.append(rows.steps)
        return look(rows)

    monkeypatch.setattr(decoding, "_look", watched)
    TransformersEngine(loaded(), How(every=8)).sample(REQUESTS[:3], SPEC)
    assert looks == [1, 9, 17, 25, 33, 40]


@pytest.mark.parametrize("name", ["as on a GPU", "fixed addresses"])
def test_the_bar_counts_every_completion_once(name: str) -> None:
    class Counting:
        total = 0

        def update(self, n: int = 1) -> None:
            self.total += n

        def close(self) -> None:
            pass

    bar = Counting()

    def progress(*_: Any) -> Bar:
        return bar

    TransformersEngine(ENDING, WAYS[name]).sample(REQUESTS, SPEC, progress=progress)
    assert bar.total == len(REQUESTS)


@pytest.mark.parametrize("name", ["as on a GPU", "fixed addresses"])
def test_diverged_logits_are_an_error_however_seldom_one_looks(name: str) -> None:
    broken = loaded()
    with torch.no_grad():
        broken.model.model.norm.weight[0] = float("nan")
    with pytest.raises(FlatlandError, match="diverged"):
        TransformersEngine(broken, WAYS[name]).sample(REQUESTS, SPEC)


def test_a_capture_that_fails_falls_back_to_single_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here every capture fails, because there is no CUDA."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    begun = cuda_steps.GraphSteps.__init__

    def on_a_gpu(self: Any, *args: Any) -> None:
        begun(self, *args)
        self._capture = True

    monkeypatch.setattr(cuda_steps.GraphSteps, "__init__", on_a_gpu)
    assert TransformersEngine(ENDING, WAYS["fixed addresses"]).sample(REQUESTS, SPEC) == PLAIN
    assert sum("no CUDA graph could be captured" in line for line in caplog.messages) == 1


def test_fixed_addresses_stay_while_no_row_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph would read and write must be the same tensors at each of its steps."""
    seen: dict[int, set[tuple[int, ...]]] = {}
    step = cuda_steps.GraphSteps._step

    def watched(self: Any) -> None:
        tensors = [self._last, self._positions, self._column, self._cursor, self._seen]
        tensors += [room for layer in self._rows.cache.layers for room in layer.room]
        tensors += [self._rows.written, self._rows.running, self._rows.sound, self._rows.draws]
        step(self)
        key = tuple(tensor.data_ptr() for tensor in tensors)
        seen.setdefault(len(self._rows.index) * 1000 + self._seen.shape[1], set()).add(key)

    monkeypatch.setattr(cuda_steps.GraphSteps, "_step", watched)
    assert TransformersEngine(ENDING, WAYS["fixed addresses"]).sample(REQUESTS, SPEC) == PLAIN
    assert len(seen) >= 3
    assert all(len(addresses) == 1 for addresses in seen.values())


# --- the cache ------------------------------------------------------------------------


def test_a_block_cache_gives_the_logits_of_the_dynamic_one() -> None:
    model = small_model()
    tokens = torch.randint(3, 250, (3, 50), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 50, dtype=torch.long)
    mask[0, :9] = mask[2, :4] = 0
    dynamic, blocks = DynamicCache(config=model.config), block_cache(model.config, block=16)
    done = 0
    with torch.inference_mode():
        for size in (20, 1, 1, 9, 1, 5, 13):
            here = slice(done, done + size)
            logits = [
                model(
                    input_ids=tokens[:, here],
                    attention_mask=mask[:, : done + size],
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, here],
                    past_key_values=cache,
                ).logits
                for cache in (dynamic, blocks)
            ]
            done += size
            torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)
            assert blocks.get_seq_length() == dynamic.get_seq_length() == done
            for one, other in zip(dynamic.layers, blocks.layers, strict=True):
                assert torch.equal(one.keys, other.keys) or done > 20
                assert other.room[0].shape[2] == -(-done // 16) * 16
            if size == 9:
                rows = torch.tensor([2, 0, 0])
                tokens, mask = tokens[rows], mask[rows]
                dynamic.batch_select_indices(rows)
                blocks.batch_select_indices(rows)


def test_within_a_block_nothing_is_moved() -> None:
    model = small_model()
    cache = block_cache(model.config, block=16)
    addresses = []
    with torch.inference_mode():
        for token in range(20):
            model(input_ids=torch.tensor([[3 + token]]), past_key_values=cache)
            addresses.append(cache.layers[0].room[0].data_ptr())
    assert len(set(addresses[:16])) == len(set(addresses[16:])) == 1
    assert addresses[0] != addresses[-1]


def test_what_a_mask_hides_is_zero_and_no_rubbish() -> None:
    """Nothing times a NaN is a NaN: unfilled room may not hold one."""
    model = small_model()
    cache = block_cache(model.config, block=16)
    with torch.inference_mode():
        model(input_ids=torch.tensor([[5, 6, 7]]), past_key_values=cache)
    assert all((room[:, :, 3:] == 0).all() for layer in cache.layers for room in layer.room)


# --- attention of one token -----------------------------------------------------------


def test_grouped_attention_equals_repeated_keys() -> None:
    draw = torch.Generator().manual_seed(3)
    query = torch.randn(5, 6, 1, 8, generator=draw)
    key, value = (torch.randn(5, 2, 11, 8, generator=draw) for _ in range(2))
    mask = torch.ones(5, 1, 1, 11, dtype=torch.bool)
    mask[1, ..., :4] = mask[3, ..., :9] = False
    out, none = grouped(None, query, key, value, mask, scaling=0.3, dropout=0.0)
    scores = query @ key.repeat_interleave(3, dim=1).transpose(2, 3) * 0.3
    shares = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    expected = (shares @ value.repeat_interleave(3, dim=1)).transpose(1, 2)
    assert none is None
    torch.testing.assert_close(out, expected)


def test_older_releases_get_our_attention_and_lose_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def watched(*args: Any, **options: Any) -> Any:
        calls.append(args[1].shape[2])
        return grouped(*args, **options)

    monkeypatch.delattr(sdpa_attention, "pack_gqa", raising=False)
    kv_cache._register_grouped()
    AttentionInterface.register(kv_cache._GROUPED, watched)
    try:
        # Without `pack_gqa` the prompts go through repeated keys, as in an older release.
        monkeypatch.setattr(sdpa_attention, "use_gqa_in_sdpa", lambda *_: False)
        found = TransformersEngine(ENDING, WAYS["as on a GPU"]).sample(REQUESTS, SPEC)
    finally:
        AttentionInterface.register(kv_cache._GROUPED, grouped)
    assert found == PLAIN
    assert set(calls) > {1}
    assert ENDING.model.config._attn_implementation == "sdpa"


# --- memory ---------------------------------------------------------------------------


def test_how_many_rows_fit() -> None:
    """Two layers, two key heads of width 8, in 4 bytes: 256 bytes a position."""
    config = small_model().config
    assert bytes_per_position(config, 4) == 2 * 2 * 2 * 8 * 4
    row = 512 * 256 + 300 * 32
    free = int(10.5 * row / 0.85)
    assert rows_that_fit(free, config, itemsize=4, positions=300) == 10
    assert rows_that_fit(free, config, itemsize=4, positions=512) == 10
    assert rows_that_fit(0, config, itemsize=4, positions=512) == 1


def test_a_batch_is_split_only_where_memory_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    begun = decoding.Rows.__init__

    def watched(self: Any, model: Any, prompts: Any, *args: Any) -> None:
        sizes.append(len(prompts))
        begun(self, model, prompts, *args)

    monkeypatch.setattr(decoding.Rows, "__init__", watched)
    for fit, expected in ((1000, [48]), (48, [48]), (47, [24, 24]), (20, [16, 16, 16])):
        sizes.clear()
        monkeypatch.setattr("persona_lib.generate.free_bytes", lambda _: 1)
        monkeypatch.setattr("persona_lib.generate.rows_that_fit", lambda *_, fit=fit, **__: fit)
        engine = TransformersEngine(ENDING)
        assert engine.sample(REQUESTS, SPEC) == PLAIN
        assert sizes == expected
        assert engine.fewest_rows == (expected[0] if len(expected) > 1 else None)


def test_a_cpu_keeps_what_its_records_were_drawn_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a GPU replays graphs only for whom asks for it."""
    assert how_on(torch.device("cpu")) == How(every=1, blocks=False, masks=False, graphs=False)
    gpu = How(every=8, blocks=True, masks=True, graphs=False)
    assert how_on(torch.device("cuda")) == gpu
    monkeypatch.setenv("FLATLAND_CUDA_GRAPHS", "1")
    assert how_on(torch.device("cuda")).graphs
    assert not how_on(torch.device("cpu")).graphs
