"""Where and how torch runs: device, threads, determinism, silenced warnings.

None of it enters a key, although another device or number of threads rounds
differently: a stored entry is taken wherever it was built, and its record of provenance
holds what it was built with.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from persona_lib.errors import SpecError

_THREADS = "FLATLAND_THREADS"
_DEVICE = "FLATLAND_DEVICE"
_RECORDED = "FLATLAND_RECORDED_PASSES"
_WORKER = "PYTEST_XDIST_WORKER"
"""Set by pytest-xdist in each of its processes: gw0, gw1, ..."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_CPU = "cpu"
_NAMED = re.compile(r"cuda(?::([0-9]+))?")
_IGNORED = (
    ".*use_reentrant.*",
    # Some kernels have no deterministic variant on a GPU (the sum behind every draw is one).
    ".*does not have a deterministic implementation.*",
    ".*defaults to a non-deterministic algorithm.*",
)
"""Warnings of torch that are silenced, as patterns of their whole first line."""


def prepare_torch() -> str:
    """Make torch deterministic and quiet; return the device, ``cuda`` or ``cpu``.

    ``FLATLAND_THREADS`` sets the number of CPU threads (default: torch's own), and
    ``FLATLAND_DEVICE`` the device (default: see `choose_device`), the only GPU that this
    process then sees. Kernels without a deterministic variant are allowed on a GPU alone.

    Raises:
        SpecError: ``FLATLAND_THREADS`` is no integer from 1 on, or ``FLATLAND_DEVICE``
            no device of this machine; or the device was asked for too late.
    """
    threads = _threads()
    # cuBLAS is deterministic only with a fixed workspace, set before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    # Before anything that may start CUDA, which reads once what it may see.
    _take_device(torch)
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
    # Fills every new tensor with NaN, which shows what is read before it was written; on a
    # GPU that is a kernel for each.
    torch.utils.deterministic.fill_uninitialized_memory = (  # type: ignore[attr-defined]
        device != "cuda"
    )
    return device


@contextmanager
def determinism(*, strict: bool) -> Iterator[None]:
    """Let torch refuse nondeterministic kernels, or with ``strict=False`` take any, for a while."""
    import torch

    enabled = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(strict)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=lenient)


def recorded_passes() -> bool:
    """Return whether training on a GPU may record passes: unless the user says ``0``.

    Raises:
        SpecError: ``FLATLAND_RECORDED_PASSES`` is neither 0 nor 1.
    """
    text = os.environ.get(_RECORDED, "").strip()
    if text not in {"", "0", "1"}:
        raise SpecError(
            _RECORDED,
            bound="0 or 1",
            value=text,
            remedy="Set it to 0 to train without CUDA graphs, or unset it.",
        )
    return text != "0"


def device_kind(torch: Any) -> str:
    """Return ``cuda`` or ``cpu``, given the module torch. Asking does not start CUDA."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_device(wanted: str | None, worker: str | None, gpus: int) -> str:
    """Return where a process computes: ``cpu`` or ``cuda:N``.

    Args:
        wanted: ``cpu``, ``cuda`` (the first GPU), ``cuda:1``, or nothing: workers then go
            through the GPUs in turn, and a plain process takes the first.
        worker: name of the pytest-xdist worker (``gw3``), or None.
        gpus: number of GPUs that the process sees.

    Raises:
        SpecError: `wanted` is no device of this machine.
    """
    text = (wanted or "").strip()
    if text == _CPU or not (text or gpus):
        return _CPU
    if not text:
        turn = re.fullmatch(r"gw([0-9]+)", worker or "")
        return f"cuda:{int(turn[1]) % gpus if turn else 0}"
    named = _NAMED.fullmatch(text)
    index = int(named[1] or 0) if named else gpus
    if index >= gpus:
        known = f"cpu, or cuda:0 to cuda:{gpus - 1}" if gpus else "cpu (torch sees no GPU here)"
        raise SpecError(
            _DEVICE,
            bound=known,
            value=text,
            remedy="Name a device of this machine, or unset it for the first GPU there is.",
        )
    return f"cuda:{index}"


def only_device(visible: str | None, index: int) -> str:
    """Return ``CUDA_VISIBLE_DEVICES`` for one of the GPUs that are `visible` under it now."""
    return str(index) if visible is None else visible.split(",")[index].strip()


def _take_device(torch: Any) -> None:
    """Hide all GPUs but the chosen one: the trainer takes the first, whatever is current."""
    gpus = torch.cuda.device_count()
    wanted = os.environ.get(_DEVICE)
    chosen = choose_device(wanted, os.environ.get(_WORKER), gpus)
    seen = 0 if chosen == _CPU else 1
    if gpus <= seen:
        return
    index = 0 if chosen == _CPU else int(chosen.removeprefix("cuda:"))
    before = os.environ.get(_VISIBLE)
    os.environ[_VISIBLE] = only_device(before, index) if seen else ""
    if torch._C._cuda_getDeviceCount() == seen:
        if wanted and seen:
            os.environ[_DEVICE] = "cuda:0"  # its number from now on
        return
    # CUDA was started before; it does not look again.
    if before is None:
        del os.environ[_VISIBLE]
    else:
        os.environ[_VISIBLE] = before
    if chosen != "cuda:0":
        raise SpecError(
            _DEVICE,
            bound="the device that CUDA was started with in this process",
            value=chosen,
            remedy=f"Set {_VISIBLE} before the process starts.",
        )


def _threads() -> int | None:
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
