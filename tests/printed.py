"""Printed numbers, compared as numbers: another processor may round to the neighbour."""

from __future__ import annotations

import re
from decimal import Decimal

NUMBER = r"([-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?)"
"""One printed number, as a group of a pattern."""


def printed(pattern: str, text: str) -> list[str]:
    """Return the numbers that stand where a pattern holds ``#``; the words must be there once.

    Args:
        pattern: literal text, with ``#`` for every number.
        text: what was printed.
    """
    (found,) = re.finditer(re.escape(pattern).replace(r"\#", NUMBER), text)
    return list(found.groups())


def reads(number: str, value: float, places: int | None = None) -> bool:
    """Return whether a printed number is `value` to the digits that are printed.

    Half a unit of the last digit, and a millionth of it for either side of a tie. The
    sign of a zero is no digit. `places` is how many decimals there have to be.
    """
    exponent = Decimal(number).as_tuple().exponent
    assert isinstance(exponent, int)
    if places is not None and exponent != -places:
        return False
    return abs(float(number) - value) <= 0.5 * 10.0**exponent * (1 + 1e-6)
