"""Progress: bars of long stages, and lines between them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol


class Bar(Protocol):
    """What a stage needs of a progress bar."""

    def update(self, n: int = 1) -> object:
        """Advance by `n` units."""

    def close(self) -> object:
        """Finish the bar."""


Progress = Callable[[str, int, str], Bar]
"""Opens a bar: label, total, unit."""


class _NoBar:
    def update(self, n: int = 1) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def silent(label: str, total: int, unit: str) -> Bar:  # noqa: ARG001  (the Progress signature)
    """Open a bar that shows nothing."""
    return _NoBar()


def shown(label: str, total: int, unit: str) -> Bar:
    """Open a tqdm bar on standard error, drawn every ten seconds where that is no terminal."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    bar: Bar = tqdm(
        total=total,
        desc=label,
        unit=unit,
        file=sys.stderr,
        dynamic_ncols=True,
        leave=terminal,
        mininterval=0.1 if terminal else 10.0,
    )
    return bar


def announce(text: str) -> None:
    """Write one line to standard error, clear of the bars that are drawn there."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
