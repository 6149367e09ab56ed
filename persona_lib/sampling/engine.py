"""Sampling with transformers: requests in, completions with tokens and finish out.

Every request has its own stream of uniform numbers (`token_draws`), so that a completion
depends on its batch by rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from persona_lib.errors import DataError
from persona_lib.models.batches import pad_rows
from persona_lib.models.chat import render_prompt
from persona_lib.models.gpu_memory import free_bytes, rows_that_fit
from persona_lib.models.loading import LoadedModel, decode
from persona_lib.progress import Progress, silent
from persona_lib.records import LENGTH, STOP
from persona_lib.sampling.cuda_decode import decode as decode_static
from persona_lib.sampling.token_draws import draw_tokens
from persona_lib.specs.profile import SampleSpec
from persona_lib.store.cost import spent

if TYPE_CHECKING:
    import torch

_COMPACT_BELOW = 0.9
"""Finished rows leave the batch when the share still running falls below this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One completion to sample: messages (system None: the template's own), and a seed."""

    system: str | None
    user: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """One completion without its end of turn, which is not counted either.

    `finish` is ``stop`` or ``length``.
    """

    text: str
    tokens: int
    finish: str


class Engine(Protocol):
    """What samples completions from one loaded model."""

    def sample(
        self,
        requests: Sequence[Request],
        spec: SampleSpec,
        *,
        label: str = "sample",
        progress: Progress = silent,
    ) -> list[Sampled]:
        """Return one completion per request, in the order of the requests."""


class TransformersEngine:
    """Samples with transformers, in large batches of prompts of like length.

    On a CPU, a loop over a growing key-value cache from which finished rows are dropped; on
    a GPU, preallocated caches and CUDA graphs (`cuda_decode`). `static` asks for the second,
    which a model that attends to a window of tokens alone cannot have.

    Attributes:
        fewest_rows: most rows of one pass where the device had too little free memory for
            `SampleSpec.batch`; None where it had enough.
    """

    def __init__(self, loaded: LoadedModel, *, static: bool | None = None) -> None:
        self._loaded = loaded
        wanted = loaded.model.device.type == "cuda" if static is None else static
        self._static = wanted and not _slides(loaded.model)
        self.fewest_rows: int | None = None

    def sample(
        self,
        requests: Sequence[Request],
        spec: SampleSpec,
        *,
        label: str = "sample",
        progress: Progress = silent,
    ) -> list[Sampled]:
        """See `Engine`.

        Raises:
            DataError: a prompt and `max_new_tokens` together exceed the model's positions.
        """
        tokenizer = self._loaded.tokenizer
        prompts = [render_prompt(tokenizer, r.system, r.user) for r in requests]
        limit = getattr(self._loaded.model.config, "max_position_embeddings", None)
        check_positions(prompts, spec, limit)
        order = sorted(range(len(requests)), key=lambda index: (len(prompts[index]), index))
        results: list[Sampled | None] = [None] * len(requests)
        bar = progress(label, len(requests), "completion")
        try:
            chunks = (order[at : at + spec.batch] for at in range(0, len(order), spec.batch))
            for chunk in (piece for whole in chunks for piece in self._split(whole, prompts, spec)):
                uniforms = np.stack(
                    [_uniforms(requests[index].seed, spec.max_new_tokens) for index in chunk]
                )
                drawn = self._run([prompts[i] for i in chunk], uniforms, spec, bar)
                for index, (tokens, finish) in zip(chunk, drawn, strict=True):
                    text = decode(tokenizer, tokens)
                    results[index] = Sampled(text=text, tokens=len(tokens), finish=finish)
        finally:
            bar.close()
        done = [result for result in results if result is not None]
        spent(tokens=sum(result.tokens for result in done), batch_rows=self.fewest_rows)
        return done

    def _split(
        self, chunk: Sequence[int], prompts: Sequence[Sequence[int]], spec: SampleSpec
    ) -> list[Sequence[int]]:
        """Return a batch as it is, or in as many equal pieces as the GPU's memory asks for."""
        model = self._loaded.model
        free = free_bytes(model.device)
        if free is None:
            return [chunk]
        fit = rows_that_fit(
            free,
            model.config,
            itemsize=model.dtype.itemsize,
            positions=max(len(prompts[index]) for index in chunk) + spec.max_new_tokens,
        )
        size = -(-len(chunk) // -(-len(chunk) // fit))
        if size < len(chunk):
            self.fewest_rows = min(size, self.fewest_rows or size)
        return [chunk[start : start + size] for start in range(0, len(chunk), size)]

    def _run(
        self, prompts: Sequence[Sequence[int]], uniforms: np.ndarray, spec: SampleSpec, bar: Any
    ) -> list[tuple[list[int], str]]:
        """Sample one batch; `uniforms` has shape (rows, max_new_tokens)."""
        import torch

        model, ends = self._loaded.model, self._loaded.ends
        stops = torch.tensor(ends, device=model.device)
        draws = torch.from_numpy(uniforms).to(model.device)
        if self._static:
            return self._run_static(prompts, draws, spec, bar)
        written: list[list[int]] = [[] for _ in prompts]
        finish = [LENGTH] * len(prompts)
        with torch.inference_mode():
            logits, cache, mask = self._read_prompts(prompts)
            alive = torch.arange(len(prompts), device=model.device)
            running = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
            for step in range(spec.max_new_tokens):
                chosen = draw_tokens(logits, draws[alive, step], spec)
                for row, token, going in zip(
                    alive.tolist(), chosen.tolist(), running.tolist(), strict=True
                ):
                    if going and token in ends:
                        finish[row] = STOP
                        bar.update(1)
                    elif going:
                        written[row].append(token)
                running &= torch.isin(chosen, stops, invert=True)
                left = int(running.sum())
                if not left or step + 1 == spec.max_new_tokens:
                    break
                if left < _COMPACT_BELOW * len(running):
                    keep = running.nonzero().squeeze(1)
                    cache.batch_select_indices(keep)
                    alive, chosen, running, mask = (
                        alive[keep], chosen[keep], running[keep], mask[keep],
                    )  # fmt: skip
                positions = mask.sum(dim=1, keepdim=True)
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                logits = self._forward(chosen.unsqueeze(1), mask, positions, cache)
        bar.update(finish.count(LENGTH))
        return list(zip(written, finish, strict=True))

    def _run_static(
        self, prompts: Sequence[Sequence[int]], draws: torch.Tensor, spec: SampleSpec, bar: Any
    ) -> list[tuple[list[int], str]]:
        import torch

        ends = self._loaded.ends
        with torch.inference_mode():
            prompt = self._read_prompts(prompts)
        rows = decode_static(
            self._loaded.model, prompt, draws, spec, ends=ends, finished=bar.update
        ).tolist()
        stops = [next((at for at, token in enumerate(row) if token in ends), None) for row in rows]
        bar.update(stops.count(None))
        return [
            (row, LENGTH) if at is None else (row[:at], STOP)
            for row, at in zip(rows, stops, strict=True)
        ]

    def _read_prompts(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Return next-token logits, cache and mask of the prompts; equal ones are read once."""
        import torch
        from transformers import DynamicCache

        model = self._loaded.model
        places: dict[tuple[int, ...], int] = {}
        which = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
        tokens, mask = _pad_left(list(places), self._loaded.pad, model.device)
        cache = DynamicCache(config=model.config)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = self._forward(tokens, mask, positions, cache)
        rows = torch.tensor(which, device=model.device)
        cache.batch_select_indices(rows)
        return logits[rows], cache, mask[rows]

    def _forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Return (rows, vocabulary) logits behind the last token; extends the cache."""
        logits: torch.Tensor = self._loaded.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]


def _slides(model: Any) -> bool:
    """Whether some layer attends to the last tokens alone."""
    from transformers import DynamicCache

    return any(layer.is_sliding for layer in DynamicCache(config=model.config).layers)


def check_positions(prompts: Sequence[Sequence[int]], spec: SampleSpec, limit: int | None) -> None:
    """Raise DataError where a prompt and `max_new_tokens` exceed the model's positions."""
    longest = max((len(prompt) for prompt in prompts), default=0)
    if limit is not None and longest + spec.max_new_tokens > limit:
        raise DataError(
            "sample.max_new_tokens",
            bound=f"<= {limit - longest} (positions {limit}, longest prompt {longest})",
            value=spec.max_new_tokens,
            remedy="Lower max_new_tokens in the profile or shorten the prompts.",
        )


def _uniforms(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).random(count)


def _pad_left(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = pad_rows(prompts, pad, left=True)
    mask = pad_rows([[1] * len(prompt) for prompt in prompts], 0, left=True)
    return tokens.to(device), mask.to(device)
