"""A progress bar that remembers what it was told."""

from __future__ import annotations


class Bar:
    """Opens as itself: give `start` as the progress of what is tested."""

    def __init__(self) -> None:
        self.opened: tuple[str, int, str] | None = None
        self.steps: list[int] = []
        self.closed = 0

    def start(self, label: str, total: int, unit: str) -> Bar:
        self.opened = (label, total, unit)
        return self

    def update(self, n: int = 1) -> None:
        assert not self.closed
        self.steps.append(n)

    def close(self) -> None:
        self.closed += 1
