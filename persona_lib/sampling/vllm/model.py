"""One base model in vLLM, with the adapter stacks of all arms.

The base weights are loaded once. On a GPU and in bfloat16 every stack is one LoRA of the
engine, and a batch may hold requests of all; elsewhere the weights in memory become those of
one stack after the other (`takes_adapters`). No merged weight is written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import FlatlandError, SpecError
from persona_lib.models.adapters import stack_adapters
from persona_lib.models.chat import turn_end
from persona_lib.models.combined import combine_adapters, merged_tensors
from persona_lib.models.loading import Dtype, other_ends, read_tokenizer
from persona_lib.sampling.vllm.setup import (
    import_vllm,
    lora_options,
    memory_share,
    plain_torch,
    takes_adapters,
)
from persona_lib.specs.sources import PLAIN, ChatFormat

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class VllmModel:
    """What `start_vllm` makes and `VllmEngine` samples from.

    Attributes:
        llm: the ``vllm.LLM``.
        params: what makes sampling parameters (``vllm.SamplingParams``).
        tokenizer: the base model's.
        ends: ids of the tokens that end a turn.
        positions: most tokens of a prompt and its completion together.
        dtype: of the weights.
        tensors: gives the base's weights with adapters added, where stacks are merged;
            None where they are adapters beside the weights.
        slots: stacks that vLLM may hold beside the weights; it has one slot more.
        rank: largest rank of such a stack.
        folder: where the adapters lie that vLLM reads, None where stacks are merged.
        stacks: folders of the adapters of each stack, by its name, oldest first.
        loras: the ``LoRARequest`` of each stack, none where they are merged.
    """

    llm: Any
    params: Callable[..., Any]
    tokenizer: PreTrainedTokenizerBase
    ends: tuple[int, ...]
    positions: int
    dtype: Dtype
    tensors: Callable[[Sequence[Path]], Iterator[tuple[str, Tensor]]] | None = None
    slots: int = 0
    rank: int = 0
    folder: tempfile.TemporaryDirectory[str] | None = None
    stacks: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    loras: dict[str, Any] = field(default_factory=dict)
    _held: str | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def add(self, name: str, paths: Sequence[Path]) -> None:
        """Add a stack; the engine may have sampled already.

        A stack that is there already is left as it is. Where all slots but the spare one are taken,
        the stack goes that was added, or added again, longest ago.

        Raises:
            SpecError: the name stands for another stack, or there is no room for this one.
            SpecError, DataError: see `start_vllm`.
        """
        if name in self.stacks:
            if self.stacks[name] != tuple(paths):
                raise SpecError(
                    "adapter",
                    bound="a name of its own for every stack",
                    value=name,
                    remedy="Add the other stack under another name: vLLM caches by name.",
                )
            self.stacks[name] = self.stacks.pop(name)
            return
        if self.tensors is not None:
            self.tensors(paths)  # refuses what does not fit, before anything is sampled
        else:
            self._write(name, paths)
        self.stacks[name] = tuple(paths)

    def become(self, name: str | None) -> None:
        """Where stacks are merged, put the weights of one in place; None is the base.

        A stack is added to the weights as stored, never to those of another stack.
        """
        if self.tensors is None or self._held == name:
            return
        # Unknown until all is done: after an error half of the weights may be new.
        self._held = _NEITHER
        weights = self.tensors(() if name is None else self.stacks[name])
        with plain_torch():
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        # Keys and values of the prompts were computed with other weights.
        if not self.llm.reset_prefix_cache():
            raise FlatlandError(
                "vLLM could not empty its prefix cache after a change of weights: a request "
                "is still under way, so sample from one thread at a time"
            )
        self._held = name

    def close(self) -> None:
        """Stop the engine, so that another can start, and delete the adapters written for it."""
        if self.folder is not None:
            self.folder.cleanup()
        if self.llm is None:
            return
        llm, self.llm = self.llm, None
        llm.llm_engine.engine_core.shutdown()
        del llm  # the last hold on its weights
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()

    def _write(self, name: str, paths: Sequence[Path]) -> None:
        """Write a stack as one adapter, and drop the oldest ones for which no slot is left."""
        rank = stack_adapters(paths).rank
        if self.folder is None or not self.slots or rank > self.rank:
            raise SpecError(
                "rank of a stack",
                bound=f"<= {self.rank if self.slots else 0}, for which the engine made room",
                value=rank,
                remedy="Start it with room for as many stacks (later) of this rank (rank).",
            )
        while len(self.loras) >= self.slots:
            oldest = next(iter(self.stacks))
            del self.stacks[oldest]
            gone = self.loras.pop(oldest)
            # Otherwise it would take the spare slot, and vLLM choose what to forget.
            self.llm.llm_engine.remove_lora(gone.lora_int_id)
            shutil.rmtree(gone.lora_path)
        # Numbers tell adapters apart inside vLLM: none is given twice, and 0 stands for none.
        number = next(self._numbers)
        place = Path(self.folder.name) / str(number)
        combine_adapters(paths, place)
        from vllm.lora.request import LoRARequest

        self.loras[name] = LoRARequest(name, number, str(place))


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
    memory: float | None = None,
    later: int = 0,
    rank: int = 0,
    chat: ChatFormat = PLAIN,
) -> VllmModel:
    """Load a base model into vLLM, in this process, with adapter stacks.

    Args:
        path: folder with config, safetensors weights and tokenizer.
        stacks: name of each stack and the folders of its adapters, in order.
        dtype: of the weights, and on a GPU of the adapters too.
        positions: most tokens of a prompt and its completion together.
        rows: most completions under way at a time.
        merge: put merged weights in place in memory instead of running adapters
            beside the base weights; by default see `takes_adapters`.
        memory: share of a GPU's memory that vLLM may take; by default `memory_share`.
        later: room for so many stacks that are added to the running engine
            (`VllmModel.add`), beside those given. Where stacks are merged, nothing is
            made room for, and any number can be added.
        rank: the largest rank of theirs.
        chat: how the chat template is used.

    Raises:
        PreflightError: vLLM is not installed.
        SpecError, DataError: an adapter is not a plain LoRA, is incomplete, belongs
            to another base model, or its rank is too large; float32 adapters on a GPU; or
            see `memory_share`.
        FlatlandError: vLLM itself refuses to start, as where the share is not free.
    """
    share = memory_share() if memory is None else memory
    vllm, on_cpu = import_vllm()
    merged = not takes_adapters(dtype, on_cpu=on_cpu) if merge is None else merge
    if not merged and not on_cpu and dtype == "float32":
        raise SpecError(
            "merge",
            bound="True for float32 on a GPU, where vLLM's kernels for LoRA take none",
            value=merge,
            remedy="Leave merge out, or load the base in bfloat16.",
        )
    tokenizer = read_tokenizer(path, chat)
    options: dict[str, Any] = {}
    if on_cpu:
        # A prompt that is read in two steps would take back a draw of its request's
        # generator, which torch cannot do on a CPU: each is read in one.
        options["enable_chunked_prefill"] = False
    if merged:
        for paths in stacks.values():
            merged_tensors(path, paths)  # refuses what does not fit, before anything is loaded
    else:
        ranks = [stack_adapters(paths).rank for paths in stacks.values()]
        options |= lora_options([*ranks, *[rank] * later])
    llm = _load(
        vllm,
        share,
        model=str(path),
        dtype=dtype,
        max_model_len=positions,
        max_num_seqs=rows,
        enforce_eager=True,  # on a GPU, compiling was not done after 6 minutes
        **options,
    )
    model = VllmModel(
        llm=llm,
        params=vllm.SamplingParams,
        tokenizer=tokenizer,
        ends=(turn_end(tokenizer).token, *other_ends(path, tokenizer)),
        positions=positions,
        dtype=dtype,
        tensors=partial(merged_tensors, path) if merged else None,
        slots=options.get("max_loras", 1) - 1,
        rank=options.get("max_lora_rank", 0),
        folder=tempfile.TemporaryDirectory(prefix="flatland-") if "max_loras" in options else None,
    )
    for name, paths in stacks.items():
        model.add(name, paths)
    return model


def _load(vllm: Any, share: float, **options: Any) -> Any:
    try:
        with plain_torch():
            return vllm.LLM(
                seed=0,
                generation_config="vllm",  # a recipe decides how to sample, not the checkpoint
                gpu_memory_utilization=share,
                use_tqdm_on_load=False,
                **options,
            )
    except (AssertionError, RuntimeError, ValueError) as error:
        raise FlatlandError(
            f"vLLM did not start: {error}. If memory is short, FLATLAND_VLLM_MEMORY sets the "
            f"share of a GPU's that it takes and that must be free ({share:g} now). Where "
            "another process used the GPU meanwhile, start again, or give each its own"
        ) from error
