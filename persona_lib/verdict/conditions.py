"""Conditions: the comparisons of a rule as data, and the words that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import gt, lt

from persona_lib.specs.gate_types import Limits
from persona_lib.stats.estimate import nan_if_none
from persona_lib.stats.thresholds import above, at_least, at_most, below, shown

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": at_least,
    "<=": at_most,
    ">": above,
    "<": below,
}
_EXACT: dict[str, Callable[[float, float], bool]] = {">": gt, "<": lt}
RULE_MET = "rule met"
Row = tuple[str, str]
"""What conditions give if all of a row are met: an outcome, and its label."""
HOLDING: Row = ("HOLDS", "")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One comparison of a number with a registered bound.

    Attributes:
        measure: what is compared, in words: "d", "p", "C2 bystander rate".
        operator: one of `OPERATORS`.
        bound: the registered number.
        value: the number on this evidence, NaN if there is none.
        met: whether the comparison holds; NaN meets none.
        gives: the outcome if all conditions with this label are met.
        label: the label of that outcome, "" for a gate.
    """

    measure: str
    operator: str
    bound: float
    value: float
    met: bool
    gives: str
    label: str = ""

    @property
    def text(self) -> str:
        """The comparison in words: ``d >= 0.20``."""
        return f"{self.measure} {self.operator} {shown(self.bound + 0.0)}"  # no -0.00


def condition(
    measure: str,
    operator: str,
    bound: float,
    value: float | None,
    row: Row,
    *,
    exact: bool = False,
) -> Condition:
    """Return a condition of a row; a bound is met within rounding, or `exact` as that of a p."""
    number = nan_if_none(value)
    compared = (_EXACT if exact else OPERATORS)[operator](number, bound)
    return Condition(
        measure=measure,
        operator=operator,
        bound=bound,
        value=number,
        met=bool(compared),
        gives=row[0],
        label=row[1],
    )


def within(limits: Limits, low: float, high: float, *, each: bool = False) -> tuple[Condition, ...]:
    """Return what a bound gate asks of the interval [low, high].

    With `each`, several numbers have to keep the bounds; the ends are those of the worst.
    """
    every = "each " if each else ""
    asked = (
        condition(f"{every}lower end", ">=", limits.least, low, HOLDING),
        condition(f"{every}upper end", "<=", limits.most, high, HOLDING),
    )
    return tuple(one for one in asked if abs(one.bound) != float("inf"))


def all_met(conditions: Sequence[Condition], label: str = RULE_MET) -> bool:
    """Return whether there are conditions of a label and all are met."""
    asked = [one.met for one in conditions if one.label == label]
    return bool(asked) and all(asked)


def unmet_text(conditions: Sequence[Condition]) -> str:
    """Return the conditions that are not met: ``unmet: d >= 0.20, p < 0.001``."""
    return f"unmet: {', '.join(one.text for one in conditions if not one.met)}"


def rule_text(conditions: Sequence[Condition]) -> str:
    """Return a rule in words: ``d >= 0.20 and p < 0.001``, other labels before theirs."""
    rows: dict[str, list[str]] = {}
    for one in conditions:
        rows.setdefault(one.label, []).append(one.text)
    return "; ".join(
        f"{'' if label in ('', RULE_MET) else f'{label}: '}{' and '.join(texts)}"
        for label, texts in rows.items()
    )
