"""An object that stands in for vLLM, and a package that holds it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.byte_model import END, SPECIAL, byte_tokenizer

STOP_ID = SPECIAL.index(END)


class FakeLlm:
    """Writes the name of its adapter and of its weights, then ends, or runs into the limit."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []
        self.events: list[str] = []
        self.removed: list[int] = []
        self.weights = "base"
        self.ends = True
        self.cleared = True
        core = SimpleNamespace(shutdown=lambda: self.events.append("shutdown"))
        self.llm_engine = SimpleNamespace(remove_lora=self.removed.append, engine_core=core)

    def generate(
        self, prompts: Sequence[Any], params: Any, *, use_tqdm: bool, lora_request: Any = None
    ) -> list[Any]:
        assert not use_tqdm
        assert not torch.are_deterministic_algorithms_enabled(), "vLLM is made for plain torch"
        assert lora_request is None or len(lora_request) == len(prompts)
        self.calls.append(SimpleNamespace(prompts=prompts, params=params, loras=lora_request))
        self.events.append("generate")
        tokenizer = byte_tokenizer()
        outputs = []
        for index in range(len(prompts)):
            lora = (
                getattr(lora_request[index], "lora_int_id", lora_request[index])
                if lora_request
                else "-"
            )
            tokens = tokenizer.encode(f"{lora}/{self.weights}", add_special_tokens=False)
            row = SimpleNamespace(token_ids=[*tokens, STOP_ID] if self.ends else tokens)
            outputs.append(SimpleNamespace(outputs=[row]))
        return outputs

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        assert not torch.are_deterministic_algorithms_enabled()
        self.events.append(method)
        self.weights = weights_of(kwargs["weights_iterator"])

    def reset_prefix_cache(self) -> bool:
        self.events.append("reset_prefix_cache")
        return self.cleared


def weights_of(named: Any) -> str:
    """Return a name for weights: a digest of them, or the names of those that are None."""
    words, found = "", hashlib.sha256()
    for name, tensor in named:
        if tensor is None:
            words += name
        else:
            found.update(tensor.numpy().tobytes())
    return words or found.hexdigest()[:8]


class Started(list[dict[str, Any]]):
    """The options of every engine that was started, and the engines."""

    def __init__(self) -> None:
        super().__init__()
        self.engines: list[FakeLlm] = []
        self.failure: Exception | None = None


def install(monkeypatch: pytest.MonkeyPatch, *, cpu: bool) -> Started:
    """Put a package vllm in place, built for a CPU or a GPU; return what it will start."""
    started = Started()

    class Llm(FakeLlm):
        def __init__(self, **given: Any) -> None:
            super().__init__()
            assert not torch.are_deterministic_algorithms_enabled()
            if cpu:  # as vLLM does there
                monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
            if started.failure is not None:
                raise started.failure
            started.append(given)
            started.engines.append(self)

    def request(name: str, number: int, place: str) -> SimpleNamespace:
        files = sorted(path.name for path in Path(place).iterdir())
        return SimpleNamespace(lora_name=name, lora_int_id=number, lora_path=place, files=files)

    platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: cpu))
    cleanup = SimpleNamespace(cleanup_dist_env_and_memory=lambda: None)
    for name, module in {
        "vllm": SimpleNamespace(LLM=Llm, SamplingParams=SimpleNamespace, platforms=platforms),
        "vllm.platforms": platforms,
        "vllm.lora": SimpleNamespace(),
        "vllm.lora.request": SimpleNamespace(LoRARequest=request),
        "vllm.distributed": SimpleNamespace(),
        "vllm.distributed.parallel_state": cleanup,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv("FLATLAND_VLLM_MEMORY", raising=False)
    return started
