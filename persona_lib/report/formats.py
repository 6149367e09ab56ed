"""How a number is written in a report: one function, and the forms that it knows."""

from __future__ import annotations

from persona_lib.errors import DataError
from persona_lib.stats.thresholds import shown

_SMALL_P = 0.001
"""Below this a p is written as a power of ten, as in the verdict table."""
_FIXED = {"f0": 0, "f1": 1, "f2": 2, "f3": 3, "f4": 4}
_SIGNED = {"s2": 2, "s3": 3, "s4": 4}
_PERCENT = {"pct0": 0, "pct1": 1, "pct2": 2}
FORMS = ("n", "id", "p", "bound", *_FIXED, *_SIGNED, *_PERCENT)
"""``n``: a whole number with separators; ``id``: one without; ``p``; ``bound``: a threshold,
written whole; ``f``: decimals; ``s``: with a sign; ``pct``: times 100."""


def written(value: float, form: str) -> str:
    """Return a number as it is printed.

    Args:
        value: a finite number.
        form: one of `FORMS`.

    Raises:
        DataError: no such form, or a whole number was asked of one that is not.
    """
    if form in ("n", "id"):
        if value != int(value):
            raise DataError(
                "number of a report",
                bound="a whole number",
                value=value,
                remedy="Write it with decimals.",
            )
        return f"{int(value):,}" if form == "n" else str(int(value))
    if form == "p":
        return f"{value:.4f}" if value >= _SMALL_P else _power(value)
    if form == "bound":
        return shown(value + 0.0)  # -0.0 is a bound of 0
    if form in _FIXED:
        return f"{value:z.{_FIXED[form]}f}"
    if form in _SIGNED:
        return f"{value:+z.{_SIGNED[form]}f}"
    if form in _PERCENT:
        return f"{100 * value:z.{_PERCENT[form]}f}"
    raise DataError(
        "form of a number",
        bound=f"one of {', '.join(FORMS)}",
        value=form,
        remedy="Add the form to persona_lib/report/formats.py and to the checker.",
    )


def _power(p: float) -> str:
    mantissa, exponent = f"{p:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
