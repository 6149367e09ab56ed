"""How slow this machine is just now, for tests that bound seconds of processor time."""

from __future__ import annotations

import time

import numpy as np

QUIET = 0.03
"""Seconds of `_work` on a quiet core of 2.4 GHz, where the bounds were set."""
SLACK = 2.0
"""What other work on the same cores may cost beyond what `_work` sees."""


def allowed(seconds: float) -> float:
    """Return what a promise of so many seconds is worth here and now, with slack.

    A slower machine is given more time, a faster one no less. Measure with
    `time.process_time`, the best of several where it is cheap: the bound is there to
    find work that grows with the square of the data, not a busy machine.
    """
    return seconds * SLACK * max(1.0, min(_work() for _ in range(3)) / QUIET)


def _work() -> float:
    """Return the processor time of a fixed piece of work, half Python, half numpy."""
    start = time.process_time()
    total = 0
    for i in range(400_000):
        total += i & 7
    values = np.sqrt(np.arange(400_000.0)[::-1] % 1013)
    np.sort(values)
    return time.process_time() - start
