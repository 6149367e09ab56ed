"""Generation: tokens a second of our batching against a loop over personas, and vLLM.

    python -m benchmarks.generation --out generation.json --model DIR

Same prompts, same number of completions, temperature 1. The loop reads each persona's
questions in one padded batch and calls ``generate``. First, in float32, both must write the
same greedy completions.

Without ``--model`` the weights are random, and the end of turn is given a chance of one in
`MEAN_TOKENS`, for which vLLM has no place: it needs ``--model``.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Report,
    arguments,
    byte_tokenizer,
    hardware,
    say,
    spread,
    stopwatch,
    sync_of,
)
from persona_lib.digests import derive_seed
from persona_lib.models.chat import render_prompt
from persona_lib.models.chatml import END, PAD
from persona_lib.models.loading import LoadedModel, decode, load_model
from persona_lib.sampling.engine import Request, TransformersEngine
from persona_lib.specs.personas import load_personas, load_questions
from persona_lib.specs.profile import SampleSpec

DATA = Path(__file__).resolve().parents[1] / "experiments" / "data"
MEAN_TOKENS = 60
"""Mean length of a completion where weights are random, in tokens."""
_GREEDY = 1e-5
"""A temperature at which the likeliest token is drawn, near ties too."""
_GREEDY_TOKENS = 16
_POSITIONS, _SHARE = 1024, 0.5
"""Of vLLM: most tokens of a prompt and its completion; share of a GPU's memory."""
_SAME = 0.95
"""Least share of greedy completions that must agree: near ties round either way."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Scale of one benchmark.

    Attributes:
        shape: arguments of a Llama configuration.
        samples: completions of each cell (persona and question).
        checked: personas and questions whose greedy completions are compared.
        repeats: timed runs of each variant.
    """

    shape: dict[str, int]
    personas: int
    questions: int
    samples: int
    checked: int
    spec: SampleSpec
    repeats: int


FULL = Size(
    shape={
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    },
    personas=6, questions=20, samples=10, checked=4, repeats=3,
    spec=SampleSpec(max_new_tokens=128, batch=1024, dtype="bfloat16"),
)  # fmt: skip
TINY = Size(
    shape={
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320,
    },
    personas=4, questions=3, samples=4, checked=3, repeats=3,
    spec=SampleSpec(max_new_tokens=24, batch=64),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One prompt: a persona's id, its system message and a question."""

    persona: str
    system: str
    user: str


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return the report.

    Raises:
        FlatlandError: ours and the plain loop write different greedy completions.
    """
    import torch

    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU, at the tiny shape")
    parser.add_argument("--model", type=Path, default=None, help="folder of a chat model")
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    size = TINY if options.tiny or device == "cpu" else FULL
    if options.quick:
        size = replace(size, repeats=1, samples=max(1, size.samples // 2))
    report = Report(options.out)
    report.put("hardware", hardware(device))
    cells = make_cells(size)
    loaded = load(options, size, device)
    report.put("scale", {
        "model": "given" if options.model else "random weights", **size.shape,
        "cells": len(cells), "samples": size.samples, "max_new_tokens": size.spec.max_new_tokens,
    })  # fmt: skip
    check(report, loaded, cells, size)
    loaded.model.to(getattr(torch, size.spec.dtype))
    time_both(report, loaded, cells, size, options.seed)
    time_vllm(report, options, cells, size)
    names = [name for name in report.body if name.startswith("rate: ")]
    rates = {name[6:]: report.body[name].get("tokens_per_second") for name in names}
    own = rates.pop("ours")
    report.put("result", {f"ours / {name}": own / rate for name, rate in rates.items() if rate})
    return report.finish()


def make_cells(size: Size) -> list[Cell]:
    """Return the first personas crossed with the first questions of the repository."""
    personas = load_personas(DATA / "personas.json")[: size.personas]
    questions = [q for one in load_questions(DATA / "questions.json").values() for q in one]
    return [
        Cell(persona=persona.id, system=persona.prompt, user=question.text)
        for persona in personas
        for question in questions[: size.questions]
    ]


def load(options: argparse.Namespace, size: Size, device: str) -> LoadedModel:
    """Return the model in float32: the one given, or one with random weights."""
    if options.model is not None:
        return load_model(options.model, dtype="float32", device=device)
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = byte_tokenizer()
    end, pad = tokenizer.convert_tokens_to_ids([END, PAD])
    torch.manual_seed(derive_seed(options.seed, "benchmark", "weights") % 2**63)
    config = LlamaConfig(
        **size.shape, max_position_embeddings=4096, tie_word_embeddings=False,
        eos_token_id=end, pad_token_id=pad, bos_token_id=None,
    )  # fmt: skip
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
        chance = 1 / MEAN_TOKENS
        bias = torch.zeros(config.vocab_size)
        bias[end] = math.log(config.vocab_size * chance / (1 - chance))
        model.get_output_embeddings().bias = torch.nn.Parameter(bias)
    model.eval().requires_grad_(False)
    return LoadedModel(model=model, tokenizer=tokenizer, end_of_turn=end, pad=pad, device=device)


def ours(
    loaded: LoadedModel, cells: Sequence[Cell], samples: int, spec: SampleSpec, seed: int
) -> list[tuple[str, int]]:
    """Return text and number of tokens of every completion, by our engine."""
    requests = [
        Request(
            system=cell.system, user=cell.user, seed=derive_seed(seed, cell.persona, cell.user, n)
        )
        for cell in cells
        for n in range(samples)
    ]
    found = TransformersEngine(loaded).sample(requests, spec)
    return [(one.text, one.tokens) for one in found]


def plain(
    loaded: LoadedModel, cells: Sequence[Cell], samples: int, spec: SampleSpec, seed: int
) -> list[tuple[str, int]]:
    """Return the same by ``generate``, one persona after the other."""
    import torch

    torch.manual_seed(seed)
    greedy = spec.temperature <= _GREEDY
    choice = {"do_sample": False} if greedy else {
        "do_sample": True, "temperature": spec.temperature, "top_p": spec.top_p, "top_k": 0,
    }  # fmt: skip
    found = []
    for persona in dict.fromkeys(cell.persona for cell in cells):
        prompts = [
            render_prompt(loaded.tokenizer, cell.system, cell.user)
            for cell in cells
            if cell.persona == persona
        ]
        width = max(map(len, prompts))
        tokens = [[loaded.pad] * (width - len(p)) + p for p in prompts]
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
        written = loaded.model.generate(
            input_ids=torch.tensor(tokens, device=loaded.model.device),
            attention_mask=torch.tensor(mask, device=loaded.model.device),
            max_new_tokens=spec.max_new_tokens, num_return_sequences=samples,
            eos_token_id=loaded.end_of_turn, pad_token_id=loaded.pad, **choice,
        )  # fmt: skip
        for row in written[:, width:].tolist():
            stop = row.index(loaded.end_of_turn) if loaded.end_of_turn in row else len(row)
            found.append((decode(loaded.tokenizer, row[:stop]), stop))
    return found


def check(report: Report, loaded: LoadedModel, cells: Sequence[Cell], size: Size) -> None:
    """Compare greedy completions of a few cells."""
    few = cells[:: max(1, len(cells) // size.checked**2)]
    spec = replace(size.spec, temperature=_GREEDY, max_new_tokens=_GREEDY_TOKENS, dtype="float32")
    pairs = list(zip(ours(loaded, few, 1, spec, 0), plain(loaded, few, 1, spec, 0), strict=True))
    same = sum(one == other for one, other in pairs) / len(pairs)
    report.put("greedy", {"completions": len(pairs), "share_equal": same})
    report.check(same >= _SAME, "ours and the plain loop differ where nothing is drawn")


def time_both(
    report: Report, loaded: LoadedModel, cells: Sequence[Cell], size: Size, seed: int
) -> None:
    """Time ours and the plain loop on the same prompts; a first small run warms both up."""
    for name, run in (("ours", ours), ("plain loop", plain)):
        run(loaded, cells[:2], 1, size.spec, seed)
        counts: list[int] = []

        def once(run: Any = run, counts: list[int] = counts) -> None:
            found = run(loaded, cells, size.samples, size.spec, seed)
            counts.append(sum(tokens for _, tokens in found))

        times = []
        for _ in range(size.repeats):
            times.append(stopwatch(once, sync=sync_of(loaded.device)))
            say(f"{name}: {counts[-1]} tokens in {times[-1]:.3f} s")
        _rate(report, name, times, counts)


def time_vllm(
    report: Report, options: argparse.Namespace, cells: Sequence[Cell], size: Size
) -> None:
    """Time vLLM on the same prompts, where it is installed and a model is given."""
    if importlib.util.find_spec("vllm") is None:
        report.put("rate: vllm", {"not_run": "vllm is not installed here"})
        return
    if options.model is None:
        report.put("rate: vllm", {"not_run": "vllm needs --model"})
        return

    def run() -> None:
        import torch

        from persona_lib.sampling.vllm.model import start_vllm
        from persona_lib.sampling.vllm.setup import plain_torch

        # What the other two have left on the device counts against vLLM's share of it.
        torch.cuda.empty_cache()
        held = start_vllm(
            options.model, {}, dtype=size.spec.dtype, positions=_POSITIONS,
            rows=size.spec.batch, memory=_SHARE,
        )  # fmt: skip
        engine = held.llm
        prompts = [
            {"prompt_token_ids": render_prompt(held.tokenizer, cell.system, cell.user)}
            for cell in cells
        ]
        choice = held.params(
            n=size.samples, temperature=size.spec.temperature, top_p=size.spec.top_p,
            max_tokens=size.spec.max_new_tokens, ignore_eos=True,
            stop_token_ids=list(held.ends),
        )  # fmt: skip
        counts: list[int] = []

        def once() -> None:
            found = engine.generate(prompts, choice, use_tqdm=False)
            counts.append(sum(len(one.token_ids) for each in found for one in each.outputs))

        try:
            with plain_torch():
                engine.generate(prompts[:2], choice, use_tqdm=False)
                times = [stopwatch(once) for _ in range(size.repeats)]
            _rate(report, "vllm", times, counts)
        finally:
            held.close()

    report.guard("vllm", run)


def _rate(report: Report, name: str, times: Sequence[float], counts: Sequence[int]) -> None:
    rates = sorted(count / took for count, took in zip(counts, times, strict=True))
    report.put(f"rate: {name}", {
        "tokens_per_second": rates[len(rates) // 2], "seconds": spread(times),
        "tokens": list(counts),
    })  # fmt: skip


if __name__ == "__main__":
    main()
