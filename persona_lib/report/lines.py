"""Lines of text for a terminal: at most 100 columns, without controls."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from persona_lib.errors import clean

WIDTH = 100


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return a text without controls in lines of at most `WIDTH`."""
    return textwrap.wrap(
        clean(text), WIDTH, initial_indent=indent, subsequent_indent=indent or "  "
    ) or [indent]


def listed(head: str, parts: Sequence[str]) -> list[str]:
    """Return parts behind what they are, nothing where there are none."""
    return wrapped(f"{head}: {', '.join(parts)}") if parts else []


def percent(rate: float | None, digits: int = 1) -> str:
    """Return a proportion in percent, a dash where it is not known."""
    return "-" if rate is None else f"{100 * rate:.{digits}f}"


def number(value: float | None, digits: int) -> str:
    """Return a number with so many decimals, a dash where it is not known."""
    return "-" if value is None else f"{value:.{digits}f}"


def named(name: str, width: int, row: str) -> list[str]:
    """Return a row under its name; a name too long for its column has a line of its own."""
    name = clean(name)
    if len(name) < width:
        return [f"{name:<{width}}{row}"]
    return [*wrapped(name), " " * width + row]
