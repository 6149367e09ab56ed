"""Sampling: the loop against a plain one, the draw against its distribution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from persona_lib.errors import DataError, FlatlandError
from persona_lib.models.adapters import attach_stack
from persona_lib.models.chat import render_prompt
from persona_lib.models.gpu_memory import bytes_per_position, rows_that_fit
from persona_lib.models.loading import LoadedModel
from persona_lib.records import LENGTH, STOP
from persona_lib.sampling import cuda_decode as static_decode
from persona_lib.sampling.engine import Request, Sampled, TransformersEngine
from persona_lib.sampling.token_draws import draw_tokens
from persona_lib.specs.profile import SampleSpec
from tests.byte_model import LORA, loaded, ready, saved_adapter, small_model
from tests.progress_bar import Bar

LOADED = loaded()
REQUESTS = [
    Request(system="You are a librarian.", user="?" * (1 + i % 3), seed=100 + i) for i in range(7)
]


def likely_to_end() -> LoadedModel:
    """A model with a bias towards the end of turn: its embedding row also makes its logit."""
    ending = loaded()
    with torch.no_grad():
        ending.model.lm_head.weight[ending.end_of_turn] *= 3
    return ending


def stacked(folder: Path) -> LoadedModel:
    """A model beside whose weights a stack of two adapters is attached."""
    prior = saved_adapter(folder / "prior", 1, replace(LORA, rslora=False))
    return ready(attach_stack(small_model(), [prior, saved_adapter(folder / "coupling", 2)]).eval())


def alone(model: LoadedModel, request: Request, spec: SampleSpec) -> Sampled:
    """One completion, drawn token by token without cache, padding or batch."""
    tokens = list(render_prompt(model.tokenizer, request.system, request.user))
    uniforms = np.random.default_rng(request.seed).random(spec.max_new_tokens)
    written: list[int] = []
    finish = LENGTH
    for uniform in uniforms:
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([tokens])).logits[0, -1].double()
        cumulative = torch.softmax(logits / spec.temperature, -1).cumsum(-1).numpy()
        token = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
        if token == model.end_of_turn:
            finish = STOP
            break
        written.append(token)
        tokens.append(token)
    text = model.tokenizer.decode(written, skip_special_tokens=False)
    return Sampled(text=text, tokens=len(written), finish=finish)


@pytest.mark.parametrize(("batch", "temperature"), [(1, 0.7), (3, 1.0), (64, 0.7)])
@pytest.mark.parametrize("kind", ["plain", "likely to end", "adapted"])
def test_batched_sampling_equals_drawing_each_completion_alone(
    kind: str, batch: int, temperature: float, tmp_path: Path
) -> None:
    """With likely ends some rows stop early, leave the batch, and are not lost."""
    model = {"plain": loaded, "likely to end": likely_to_end}.get(kind, lambda: stacked(tmp_path))()
    spec = SampleSpec(max_new_tokens=24, batch=batch, temperature=temperature)
    found = TransformersEngine(model).sample(REQUESTS, spec)
    assert found == [alone(model, request, spec) for request in REQUESTS]
    if kind == "likely to end":
        assert {one.finish for one in found} == {STOP, LENGTH}
    if kind == "adapted":
        assert found != TransformersEngine(LOADED).sample(REQUESTS, spec)


@pytest.mark.parametrize(
    ("batch", "block", "look", "top_p"),
    [(1, 4, 5, 0.9), (5, 256, 1, 1.0), (5, 4, 5, 1.0), (64, 4, 1, 0.9), (64, 256, 5, 1.0)],
)
def test_preallocated_caches_give_the_same_completions(
    batch: int, block: int, look: int, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the block by which they grow, and however seldom anybody looks."""
    monkeypatch.setattr(static_decode, "BLOCK", block)
    monkeypatch.setattr(static_decode, "_LOOK_EVERY", look)
    ending = likely_to_end()
    spec = SampleSpec(max_new_tokens=24, batch=batch, top_p=top_p)
    count = 8 if batch == 1 else 40
    requests = [Request(system="s", user="u" * (1 + i % 4), seed=i) for i in range(count)]
    plain = TransformersEngine(ending, static=False).sample(requests, spec)
    assert TransformersEngine(ending, static=True).sample(requests, spec) == plain
    assert {one.finish for one in plain} == {STOP, LENGTH}
    assert ending.model.config._attn_implementation == "sdpa"


def test_preallocated_caches_work_beside_adapters(tmp_path: Path) -> None:
    model = stacked(tmp_path)
    spec = SampleSpec(max_new_tokens=24)
    plain = TransformersEngine(model, static=False).sample(REQUESTS, spec)
    assert TransformersEngine(model, static=True).sample(REQUESTS, spec) == plain


def test_preallocated_caches_leave_the_bar_complete() -> None:
    bar, spec = Bar(), SampleSpec(max_new_tokens=24)
    TransformersEngine(likely_to_end(), static=True).sample(REQUESTS, spec, progress=bar.start)
    assert sum(bar.steps) == len(REQUESTS)
    assert all(count >= 0 for count in bar.steps)


def decoded(model: LoadedModel) -> torch.Tensor:
    prompts = [render_prompt(model.tokenizer, "s", "u" * (1 + i % 4)) for i in range(40)]
    spec = SampleSpec(max_new_tokens=24)
    draws = torch.from_numpy(np.random.default_rng(3).random((40, 24)))
    prompt = TransformersEngine(model)._read_prompts(prompts)
    return static_decode.decode(
        model.model, prompt, draws, spec, ends=model.ends, finished=lambda _: None
    )


def test_behind_the_end_of_a_turn_there_are_only_ends() -> None:
    ending = likely_to_end()
    found = decoded(ending)
    assert found.shape == (40, 24)
    ended = (found == ending.end_of_turn).cummax(dim=1).values
    assert 0 < int(ended[:, -1].sum()) < 40
    assert bool((found[ended] == ending.end_of_turn).all())


@pytest.mark.parametrize("nth", [1, 2, 24])
def test_logits_that_break_at_a_later_token_are_noticed(
    nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, calls = static_decode.drawn_tokens, [0]

    def breaking(*given: object) -> tuple[torch.Tensor, torch.Tensor]:
        calls[0] += 1
        tokens, sound = drawn(*given)  # type: ignore[arg-type]
        return tokens, sound & (calls[0] != nth)

    monkeypatch.setattr(static_decode, "drawn_tokens", breaking)
    with pytest.raises(FlatlandError, match="not finite"):
        decoded(loaded())


def test_how_many_rows_fit() -> None:
    """Two layers, two key heads of width 8, in 4 bytes: 256 bytes a position."""
    config = small_model().config
    assert bytes_per_position(config, 4) == 2 * 2 * 2 * 8 * 4
    row = 512 * 256 + config.vocab_size * 32
    free = int(10.5 * row / 0.85)
    assert rows_that_fit(free, config, itemsize=4, positions=300) == 10
    assert rows_that_fit(free, config, itemsize=4, positions=512) == 10
    assert rows_that_fit(free, config, itemsize=4, positions=513) < 10
    assert rows_that_fit(0, config, itemsize=4, positions=512) == 1


@pytest.mark.parametrize(
    ("fit", "sizes"), [(1000, [48]), (48, [48]), (47, [24, 24]), (20, [16, 16, 16])]
)
def test_a_batch_is_split_only_where_memory_asks_for_it(
    fit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    ran = TransformersEngine._run

    def watched(self: TransformersEngine, prompts: list[list[int]], *rest: object) -> object:
        seen.append(len(prompts))
        return ran(self, prompts, *rest)  # type: ignore[arg-type]

    spec = SampleSpec(max_new_tokens=12, batch=64)
    requests = [Request(system="s", user="u", seed=i) for i in range(48)]
    plain = TransformersEngine(LOADED).sample(requests, spec)
    monkeypatch.setattr(TransformersEngine, "_run", watched)
    monkeypatch.setattr("persona_lib.sampling.engine.free_bytes", lambda _: 1)
    monkeypatch.setattr("persona_lib.sampling.engine.rows_that_fit", lambda *_, **__: fit)
    engine = TransformersEngine(LOADED)
    assert engine.sample(requests, spec) == plain
    assert seen == sizes
    assert engine.fewest_rows == (sizes[0] if len(sizes) > 1 else None)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    """Masses 0.5, 0.3, 0.15, 0.05: at 0.75 the first two stay, at 0.81 the first three."""
    logits = torch.log(torch.tensor([[0.15, 0.5, 0.05, 0.3]])).repeat(5_000, 1)
    uniforms = torch.from_numpy(np.random.default_rng(2).random(5_000))
    for top_p, kept in ((0.75, {1, 3}), (0.81, {0, 1, 3}), (0.5, {1})):
        drawn = draw_tokens(logits, uniforms, SampleSpec(max_new_tokens=1, top_p=top_p))
        assert set(drawn.tolist()) == kept


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_token_of_probability_zero_is_never_drawn(top_p: float) -> None:
    """Not at either end: a uniform of 1 is one whose product with the total rounds up to it."""
    gone, last = float("-inf"), float(np.nextafter(1, 0))
    only = [gone, 0.0, gone, gone]
    logits = torch.tensor([only] * 3 + [[0.0, 0.0, gone, gone], [gone, gone, 0.0, gone],
                                        [0.0, gone, 0.0, 0.0]])  # fmt: skip
    uniforms = torch.tensor([0.0, 0.5, last, 1.0, 1.0, 1.0], dtype=torch.float64)
    spec = SampleSpec(max_new_tokens=1, top_p=top_p)
    assert draw_tokens(logits, uniforms, spec).tolist() == [1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize(
    "row",
    [
        [0.0, float("nan"), 1.0],
        [0.0, float("inf"), 1.0],
        [float("-inf"), float("-inf"), float("-inf")],
    ],
    ids=["nan", "inf", "nothing left"],
)
def test_logits_of_a_diverged_model_are_refused(row: list[float], top_p: float) -> None:
    """In any row of the batch: a token drawn from them would look like any other."""
    logits = torch.tensor([[0.0, 1.0, 2.0], row])
    uniforms = torch.tensor([0.5, 0.5], dtype=torch.float64)
    with pytest.raises(FlatlandError, match=r"logits are not finite.*lower the learning rate"):
        draw_tokens(logits, uniforms, SampleSpec(max_new_tokens=1, top_p=top_p))


@pytest.mark.parametrize("static", [False, True])
def test_sampling_from_diverged_weights_is_refused(static: bool) -> None:
    broken = loaded()
    with torch.no_grad():
        broken.model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(FlatlandError, match="logits are not finite"):
        TransformersEngine(broken, static=static).sample(REQUESTS, SampleSpec(max_new_tokens=4))
    assert broken.model.config._attn_implementation == "sdpa"  # given back all the same


def test_prompt_and_completion_beyond_the_positions_are_refused() -> None:
    with pytest.raises(DataError, match=r"sample.max_new_tokens: expected <= \d+ \(positions 128"):
        TransformersEngine(loaded(positions=128)).sample(REQUESTS, SampleSpec(max_new_tokens=100))


def test_no_requests_no_completions() -> None:
    assert TransformersEngine(LOADED).sample([], SampleSpec(max_new_tokens=4)) == []
