"""Where and how torch runs: device, threads, determinism and quiet.

These are properties of the machine. They enter no key, although another device
or number of threads rounds differently, and so may write other completions: an
entry of the store is taken as it is, wherever it was built. What it was built
with stands in its record of provenance (`persona_lib.provenance`).
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from persona_lib.errors import SpecError

_THREADS = "FLATLAND_THREADS"
_IGNORED = (
    ".*use_reentrant.*",
    # On a GPU some kernels have no deterministic variant (the sum behind every draw is
    # one). Torch says so at each call; the record of provenance says it once.
    ".*does not have a deterministic implementation.*",
    ".*defaults to a non-deterministic algorithm.*",
)
"""Warnings of torch that tell a user nothing, as patterns of their whole first line."""


def prepare_torch() -> str:
    """Make torch deterministic and quiet; return the device, ``cuda`` or ``cpu``.

    ``FLATLAND_THREADS`` sets the number of CPU threads (default: torch's own).
    On a CPU a kernel without a deterministic variant is an error. On a GPU it is
    allowed: determinism there is best effort.

    Raises:
        SpecError: ``FLATLAND_THREADS`` is no integer from 1 on.
    """
    threads = _threads()
    # cuBLAS is deterministic only with a fixed workspace, set before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    for pattern in _IGNORED:
        warnings.filterwarnings("ignore", message=pattern)
    if threads is not None:
        torch.set_num_threads(threads)
    device = device_kind(torch)
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    return device


def device_kind(torch: Any) -> str:
    """Return ``cuda`` or ``cpu``: where models run here. Asking does not start CUDA.

    Args:
        torch: the module, so that a caller can ask without importing it.
    """
    return "cuda" if torch.cuda.is_available() else "cpu"


def _threads() -> int | None:
    """Return the number of CPU threads that the user asked for, None where unset."""
    text = os.environ.get(_THREADS, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise SpecError(
            _THREADS,
            bound="an integer >= 1",
            value=text,
            remedy="Set it to the number of CPU threads, or unset it for torch's own choice.",
        )
    return int(text)
