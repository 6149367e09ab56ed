"""Evidence of published aggregates: counts where given, quoted estimates, gaps named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from persona_lib.errors import DataError
from persona_lib.evidence_base import ALL, Count, Evidence, Lengths
from persona_lib.registration import Registration
from persona_lib.stats.bootstrap import nothing, p_floor
from persona_lib.stats.estimate import QUOTED, Estimate, nan_if_none
from persona_lib.stats.proportions import wilson

_ROUNDING = 0.0006
"""Largest gap between a rate printed to three digits and the count behind it."""
_WILSON = "Wilson, clusters ignored"
_NO_CLUSTERS = "aggregates hold no cells to draw from"

UNAVAILABLE = (
    "Cluster bootstrap: it needs (persona, question) cells; effects, intervals and p are quoted.",
    "Bystander/source contrast: its interval needs cells; only the two ratios are computed.",
    "Mixed model: it needs counts of every persona in every arm.",
    "Length quantiles and share finished: only mean tokens were published.",
    "Anything per question, and seen against unseen questions: questions were pooled.",
    "False positives per persona: only the total of each pre-coupling model was published.",
)


class AggregateEvidence(Evidence):
    """Evidence of published totals.

    Args:
        registration: the registration to judge under.
        body: the parsed ``aggregates.json``. ``arms`` holds, by arm,
            ``bystanders`` as {hits, n}, ``personas`` by name as {hits, n} or,
            where only a rounded rate was printed, {rate, n}, and
            ``mean_tokens``; ``false_positives`` holds {hits, n} by prior;
            ``contrasts`` lists {treated, control, value, low, high, confidence,
            tail, resamples, clusters}, where `tail` of `resamples` bootstrap
            draws lay beyond 0.
        origin: where the numbers come from.

    Raises:
        DataError: a number is missing or malformed, or a quoted effect
            contradicts the counts.
    """

    kind = "aggregates"
    unavailable = UNAVAILABLE

    def __init__(
        self, registration: Registration, body: Mapping[str, Any], *, origin: str = "aggregates"
    ) -> None:
        self.registration = registration
        self.origin = origin
        try:
            self._read(body)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                "aggregates",
                bound="the layout of AggregateEvidence",
                value=repr(error),
                remedy="Restore aggregates.json.",
            ) from error

    def _read(self, body: Mapping[str, Any]) -> None:
        names = [arm.name for arm in self.registration.arms]
        for name in (*body["arms"], *names):
            if name not in names or name not in body["arms"]:
                raise DataError(
                    "aggregates: arms",
                    bound=f"exactly {', '.join(names)}",
                    value=name,
                    remedy="Judge these numbers under the registration they belong to.",
                )
        self.arms = tuple(names)
        self.seeds = tuple(int(seed) for seed in body["seeds"])
        self.runs = int(body["runs"])
        self._tokens = {arm: float(body["arms"][arm]["mean_tokens"]) for arm in names}
        self._pools = {arm: _count(body["arms"][arm]["bystanders"]) for arm in names}
        self._personas = {
            arm: {
                self.members(who)[0]: _count(c) for who, c in body["arms"][arm]["personas"].items()
            }
            for arm in names
        }
        self._false = {
            self._prior(prior): _count(c) for prior, c in body["false_positives"].items()
        }
        self._quoted = {
            (str(q["treated"]), str(q["control"])): self._quote(q) for q in body["contrasts"]
        }

    def count(self, arm: str, who: str) -> Count:
        """Return the hits of an arm on a role or a persona."""
        self.check_arm(arm)
        if who == "bystander":
            return self._pools[arm]
        unknown = Count(hits=None, n=0, rate=math.nan)
        found = [self._personas[arm].get(persona, unknown) for persona in self.members(who)]
        if len(found) == 1:
            return found[0]
        if any(c.hits is None for c in found):
            return unknown
        return Count.of(sum(c.hits or 0 for c in found), sum(c.n for c in found))

    def baseline(self, prior: str, who: str = ALL) -> Count | None:
        """Return the hits of a pre-coupling model, None where they are not known."""
        return self._false.get(prior) if who == ALL else None

    def lengths(self, arm: str) -> Lengths:
        """Return the lengths of an arm's completions."""
        self.check_arm(arm)
        return Lengths(statistic="mean", tokens=self._tokens[arm], finished=math.nan)

    def baseline_lengths(self, prior: str) -> Lengths:
        """Return the lengths of a pre-coupling model's completions."""
        self._prior(prior)
        return Lengths(statistic="mean", tokens=math.nan, finished=math.nan)

    def contrast(
        self,
        claim: str,  # noqa: ARG002  (names the draws; there are none)
        treated: str,
        control: str,
    ) -> Estimate:
        """Return the quoted difference; without one, the bare difference of rates."""
        found = self._quoted.get((treated, control))
        if found is not None:
            return found
        turned = self._quoted.get((control, treated))
        if turned is not None:
            return replace(turned, value=-turned.value, low=-turned.high, high=-turned.low)
        a, b = self.count(treated, "bystander"), self.count(control, "bystander")
        return self._bare(a.rate - b.rate, a.n + b.n, "difference of published rates")

    def ratio_contrast(
        self,
        claim: str,  # noqa: ARG002  (names the draws; there are none)
        treated: str,
        control: str,
    ) -> Estimate:
        """Return the difference of published ratios, without an interval."""
        counts = [self.count(a, who) for a in (treated, control) for who in ("bystander", "source")]
        n = sum(c.n for c in counts)
        method = "bystander/source, from published rates"
        if not (counts[1].rate and counts[3].rate):
            level = self.registration.statistics.confidence
            return nothing(n, None, level, method, "a source rate is 0: the ratio is undefined")
        value = counts[0].rate / counts[1].rate - counts[2].rate / counts[3].rate
        return self._bare(value, n, method)

    def corrected_contrast(
        self,
        claim: str,  # noqa: ARG002  (names the draws; there are none)
        treated: str,
        control: str,
    ) -> Estimate:
        """Return the difference after published false positives, without an interval."""
        a, b = self.count(treated, "bystander"), self.count(control, "bystander")
        false = [self.baseline(self.registration.arm(arm).prior) for arm in (treated, control)]
        method = "minus false positives, from published totals"
        if false[0] is None or false[1] is None:
            level = self.registration.statistics.confidence
            return nothing(0, None, level, method, "false positives were not published")
        value = (a.rate - false[0].rate) - (b.rate - false[1].rate)
        return self._bare(value, a.n + b.n + false[0].n + false[1].n, method)

    def bystander_rate(self, claim: str, arm: str) -> Estimate:  # noqa: ARG002
        """Return the rate with Wilson's interval, which ignores clusters."""
        count, level = self.count(arm, "bystander"), self.registration.statistics.confidence
        low, high = count.interval(level)
        return Estimate(
            value=count.rate,
            low=low,
            high=high,
            confidence=level,
            p=None,
            p_floor=None,
            n=count.n,
            clusters=None,
            method=_WILSON,
            note=_NO_CLUSTERS,
            signed=False,
        )

    def person_tokens(self, arm: str, persona: str) -> tuple[float, float]:  # noqa: ARG002
        """Return (NaN, NaN): lengths of personas were not published."""
        return (math.nan, math.nan)

    def _bare(self, value: float, n: int, method: str) -> Estimate:
        level = self.registration.statistics.confidence
        return replace(nothing(n, None, level, method, _NO_CLUSTERS), value=value)

    def _quote(self, q: Mapping[str, Any]) -> Estimate:
        treated, control = (self.registration.arm(str(q[k])).name for k in ("treated", "control"))
        a, b = self._pools[treated], self._pools[control]
        value, floor = float(q["value"]), p_floor(int(q["resamples"]))
        if abs(value - (a.rate - b.rate)) > _ROUNDING:
            raise DataError(
                f"aggregates: contrast {treated} - {control}",
                bound=f"{a.rate - b.rate:.4f}, as its counts give, to three digits",
                value=value,
                remedy="Correct the quoted effect or the counts.",
            )
        return Estimate(
            value=value,
            low=nan_if_none(q["low"]),
            high=nan_if_none(q["high"]),
            confidence=float(q["confidence"]),
            p=min(1.0, floor * (int(q["tail"]) + 1)),
            p_floor=floor,
            n=a.n + b.n,
            clusters=int(q["clusters"]),
            method="cluster bootstrap (as published)",
            source=QUOTED,
        )

    def _prior(self, prior: str) -> str:
        if prior not in self.registration.priors:
            raise DataError(
                "aggregates: prior",
                bound=f"one of {', '.join(self.registration.priors)}",
                value=prior,
                remedy="Name a prior of the registration.",
            )
        return prior


def _count(entry: Mapping[str, Any]) -> Count:
    n = int(entry["n"])
    if "hits" in entry:
        hits = int(entry["hits"])
        wilson(hits, n)  # checks 0 <= hits <= n
        return Count.of(hits, n)
    rate = float(entry["rate"])
    if not 0 <= rate <= 1:
        raise DataError(
            "aggregates: rate", bound="between 0 and 1", value=rate, remedy="Give a proportion."
        )
    return Count(hits=None, n=n, rate=rate)
