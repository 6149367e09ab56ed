"""The cost of a stage beside its time: tokens, peak memory, base models read.

A stage is metered while it is built (`metered`); whatever samples, trains or reads
reports to the meter (`spent`). None of it is in a key or in a payload.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
CUDA, PROCESS = "cuda", "process"
"""Whose peak memory: tensors on the GPU, or the whole process in main memory."""


@dataclass
class Cost:
    """The cost of one stage.

    Attributes:
        tokens: sampled, trained on (each as often as it was) or read; None if not counted.
        peak_bytes: peak memory during the stage; None if unknown.
        peak_of: `CUDA` or `PROCESS`; a process's peak includes whatever it held before.
        engine_starts: how often base weights were read.
        batch_rows: most rows sampled together if memory did not allow the whole batch
            of the spec, else None.
    """

    tokens: int | None = None
    peak_bytes: int | None = None
    peak_of: str | None = None
    engine_starts: int = 0
    batch_rows: int | None = None


_METER: ContextVar[Cost | None] = ContextVar("flatland_cost", default=None)


@contextmanager
def metered() -> Iterator[Cost]:
    """Meter what is done inside; the peak is set if it succeeds."""
    cost = Cost()
    token = _METER.set(cost)
    own = _reset_peaks()
    try:
        yield cost
    finally:
        _METER.reset(token)
    cost.peak_bytes, cost.peak_of = _peak(own=own)


def spent(*, tokens: int = 0, engine_starts: int = 0, batch_rows: int | None = None) -> None:
    """Add to the cost of the stage that is being built, if there is one."""
    cost = _METER.get()
    if cost is None:
        return
    if tokens:
        cost.tokens = (cost.tokens or 0) + tokens
    cost.engine_starts += engine_starts
    if batch_rows is not None:
        cost.batch_rows = min(batch_rows, cost.batch_rows or batch_rows)


def _reset_peaks() -> bool:
    """Let peaks begin anew; return whether the process's could."""
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()
    with suppress(OSError):
        _RESET.write_text("5")  # proc(5): sets the peak resident set size to the present one
        return True
    return False


def _peak(*, own: bool) -> tuple[int | None, str | None]:
    cuda = _cuda()
    if cuda is not None:
        return int(cuda.max_memory_allocated()), CUDA
    if not own:
        # The whole process's so far may be another stage's.
        return None, None
    with suppress(OSError, StopIteration, ValueError):
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024, PROCESS
    return None, None


def _cuda() -> Any:
    """Return torch.cuda where this process has begun to use it, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
