"""Sampling with vLLM: the same requests, many arms in one full batch.

A completion depends on its own request's seed, but the same seed gives another text than
with transformers. The two engines agree, and are compared, where nothing is drawn (`greedy`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from persona_lib.errors import SpecError
from persona_lib.models.chat import render_prompt
from persona_lib.models.loading import decode
from persona_lib.progress import Progress, silent
from persona_lib.records import LENGTH, STOP
from persona_lib.sampling.engine import Request, Sampled, check_positions
from persona_lib.sampling.vllm.model import VllmModel
from persona_lib.sampling.vllm.setup import plain_torch
from persona_lib.specs.profile import SampleSpec
from persona_lib.store.cost import spent

_SEEDS = 2**63
"""vLLM's seeds are signed 64-bit integers, and -1 stands for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRequest(Request):
    """A request that names its adapter stack; None is the base model as it is."""

    adapter: str | None


def vllm_seed(seed: int) -> int:
    """Return a request's seed as vLLM takes it, in [0, 2**63)."""
    return seed % _SEEDS


class VllmEngine:
    """Samples with vLLM from one base model and its adapter stacks.

    Args:
        model: see `start_vllm`.
        adapter: the stack of plain requests; None is the base model.
        greedy: take the most probable token, to compare engines; a recipe always draws.

    Raises:
        SpecError: the model has no such stack.
    """

    def __init__(
        self, model: VllmModel, adapter: str | None = None, *, greedy: bool = False
    ) -> None:
        self._model = model
        self._adapter = adapter
        self._greedy = greedy
        self._check_names([adapter])

    def sample(
        self,
        requests: Sequence[Request],
        spec: SampleSpec,
        *,
        label: str = "sample",
        progress: Progress = silent,
    ) -> list[Sampled]:
        """See `sampling.engine.Engine`.

        With adapters beside the weights, all requests make one batch; with merged weights, one for
        each stack. `start_vllm` was told batch and merge: those of `spec` have no say.

        Raises:
            SpecError: some requests have an adapter and some have none; a stack is unknown; two
                requests would draw the same completion; or another dtype was loaded.
            DataError: a prompt and `max_new_tokens` together exceed the positions.
        """
        names = [r.adapter if isinstance(r, AdapterRequest) else self._adapter for r in requests]
        self._check_names(names)
        _check_unmixed(names)
        self._check_dtype(spec)
        prompts = [render_prompt(self._model.tokenizer, r.system, r.user) for r in requests]
        check_positions(prompts, spec, self._model.positions)
        _check_seeds(requests, names, prompts)
        groups = [list(range(len(requests)))] if requests else []
        if self._model.tensors is not None:
            groups = [
                [i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)
            ]
        results: list[Sampled | None] = [None] * len(requests)
        bar = progress(label, len(requests), "completion")
        try:
            for group in groups:
                found = self._run([(prompts[i], requests[i].seed, names[i]) for i in group], spec)
                for index, sampled in zip(group, found, strict=True):
                    results[index] = sampled
                bar.update(len(group))
        finally:
            bar.close()
        done = [result for result in results if result is not None]
        spent(tokens=sum(result.tokens for result in done))
        return done

    def _run(
        self, rows: Sequence[tuple[list[int], int, str | None]], spec: SampleSpec
    ) -> list[Sampled]:
        """Sample one batch of (prompt, seed, stack)."""
        model = self._model
        model.become(rows[0][2])
        loras = None
        if model.tensors is None and rows[0][2] is not None:
            loras = [model.loras[name] for _, _, name in rows if name is not None]
        with plain_torch():
            outputs = model.llm.generate(
                [{"prompt_token_ids": prompt} for prompt, _, _ in rows],
                [self._params(seed, spec) for _, seed, _ in rows],
                lora_request=loras,
                use_tqdm=False,
            )
        return [self._sampled(list(output.outputs[0].token_ids)) for output in outputs]

    def _params(self, seed: int, spec: SampleSpec) -> Any:
        return self._model.params(
            n=1,
            seed=vllm_seed(seed),
            temperature=0.0 if self._greedy else spec.temperature,
            top_p=1.0 if self._greedy else spec.top_p,
            max_tokens=spec.max_new_tokens,
            # Only the ends of turn that we know end one.
            ignore_eos=True,
            stop_token_ids=list(self._model.ends),
            detokenize=False,
        )

    def _sampled(self, tokens: list[int]) -> Sampled:
        ended = bool(tokens) and tokens[-1] in self._model.ends
        written = tokens[:-1] if ended else tokens
        text = decode(self._model.tokenizer, written)
        return Sampled(text=text, tokens=len(written), finish=STOP if ended else LENGTH)

    def _check_names(self, names: Sequence[str | None]) -> None:
        unknown = sorted({name for name in names if name is not None} - set(self._model.stacks))
        if unknown:
            raise SpecError(
                "adapter",
                bound=f"one of {', '.join(self._model.stacks) or '(no stack was loaded)'}",
                value=unknown[0],
                remedy="Give the stack to start_vllm, or add it (VllmModel.add).",
            )

    def _check_dtype(self, spec: SampleSpec) -> None:
        if spec.dtype != self._model.dtype:
            raise SpecError(
                "sample.dtype",
                bound=f"{self._model.dtype}, in which the model was loaded",
                value=spec.dtype,
                remedy="Start another engine for another dtype.",
            )


def _check_unmixed(names: Sequence[str | None]) -> None:
    """Refuse a mixed batch, which vLLM has been seen to answer with the wrong adapter."""
    without = names.count(None)
    if 0 < without < len(names):
        raise SpecError(
            "requests of one batch",
            bound="all with an adapter, or all without",
            value=f"{len(names) - without} with an adapter, {without} without",
            remedy="Sample the base model in a batch of its own.",
        )


def _check_seeds(
    requests: Sequence[Request], names: Sequence[str | None], prompts: Sequence[list[int]]
) -> None:
    """Refuse two requests of one model that would draw the same completion."""
    drawn = Counter(
        (name, tuple(prompt), vllm_seed(request.seed))
        for request, name, prompt in zip(requests, names, prompts, strict=True)
    )
    for (_, _, seed), count in drawn.items():
        if count > 1:
            raise SpecError(
                "request.seed",
                bound="a seed of its own for every request of a prompt",
                value=f"{seed}, {count} times",
                remedy="Derive each seed with spec.derive_seed from the sample's coordinates.",
            )
