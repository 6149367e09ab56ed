"""Whether enough of a panel was scored to read anything off it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from persona_lib.checks import SHARE, number, whole
from persona_lib.panels.judge.base import UNSCORED, Judgement
from persona_lib.stats.thresholds import above, shown
from persona_lib.verdict.gate_result import GateOutcome


@dataclass(frozen=True, kw_only=True)
class UnscoredCeiling:
    """How many records of an arm may lack an answer before nothing is read off the rest.

    Attributes:
        share: largest allowed share of unscored records, in [0, 1].
        least: fewest records an arm has to have.
    """

    share: float = 0.05
    least: int = 1

    def __post_init__(self) -> None:
        number("share", self.share, SHARE, remedy="The ceiling is a share of the records.")
        whole("least", self.least, 1, remedy="An arm without a record says nothing.")


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Whether enough records were scored.

    Attributes:
        outcome: holds; fails, where the share of an arm lies above the ceiling: the panel
            is then INVALID; or cannot tell, where an arm has too few records.
        share: the largest unscored share of any arm, NaN without a record.
        words: the outcome in one line.
    """

    outcome: GateOutcome
    share: float
    words: str


def coverage(judgements: Sequence[Judgement], ceiling: UnscoredCeiling) -> Coverage:
    """Hold the unscored share of every arm against the ceiling.

    Arms (phase, model) are looked at one by one: failures that fall on one arm alone
    move a difference between arms, however small their share of the whole.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for row in judgements:
        cell = counts.setdefault((row.phase, row.model), [0, 0])
        cell[0] += row.answer == UNSCORED
        cell[1] += 1
    if not counts:
        return Coverage(outcome=GateOutcome.CANNOT_TELL, share=math.nan, words="nothing was judged")
    (phase, model), (lost, n) = max(counts.items(), key=lambda arm: arm[1][0] / arm[1][1])
    share = lost / n
    words = f"unscored {lost}/{n} of {phase} {model}, at most {shown(ceiling.share)} allowed"
    if above(share, ceiling.share):
        words = f"panel INVALID: {words}"
        return Coverage(outcome=GateOutcome.FAILS, share=share, words=words)
    few = [arm for arm, (_, have) in counts.items() if have < ceiling.least]
    if few:
        words = f"{few[0][0]} {few[0][1]} has fewer than {ceiling.least} records"
        return Coverage(outcome=GateOutcome.CANNOT_TELL, share=share, words=words)
    return Coverage(outcome=GateOutcome.HOLDS, share=share, words=words)
