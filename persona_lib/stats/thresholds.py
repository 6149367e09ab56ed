"""Numbers against registered thresholds, and how a threshold is written down.

0.60 - 0.40 is 0.19999999999999996 in binary, so effects, rates and ratios are compared with
a tolerance far below what a count can tell apart. NaN fulfils no comparison.
"""

from __future__ import annotations

from decimal import Decimal

TOLERANCE = 1e-9
"""Two numbers closer than this are the same number."""


def at_least(x: float, bound: float) -> bool:
    """Return whether x >= bound."""
    return x >= bound - TOLERANCE


def at_most(x: float, bound: float) -> bool:
    """Return whether x <= bound."""
    return x <= bound + TOLERANCE


def above(x: float, bound: float) -> bool:
    """Return whether x > bound: the opposite of `at_most`, except for NaN."""
    return x > bound + TOLERANCE


def below(x: float, bound: float) -> bool:
    """Return whether x < bound: the opposite of `at_least`, except for NaN."""
    return x < bound - TOLERANCE


def shown(threshold: float) -> str:
    """Return a threshold whole, with two decimals at least: 0.20, 0.125, 0.0167."""
    units, _, decimals = f"{Decimal(repr(float(threshold))):f}".partition(".")
    return f"{units}.{decimals:0<2}"
