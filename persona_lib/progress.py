"""Progress: bars of long stages, and lines between them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol, TextIO


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


def shown(stream: TextIO | None = None) -> Progress:
    """Return a `Progress` that draws tqdm bars on `stream` (standard error by default).

    Where the stream is not a terminal, a bar is drawn at most every ten seconds,
    so that a log stays readable.
    """

    def start(label: str, total: int, unit: str) -> Bar:
        from tqdm import tqdm

        target = stream if stream is not None else sys.stderr
        bar: Bar = tqdm(
            total=total,
            desc=label,
            unit=unit,
            file=target,
            dynamic_ncols=True,
            leave=target.isatty(),
            mininterval=0.1 if target.isatty() else 10.0,
        )
        return bar

    return start


def announce(text: str) -> None:
    """Write one line to standard error, clear of the bars that are drawn there."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
