"""Evidence of published totals: counts, and estimates that were quoted with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from persona_lib.checks import (
    DIFFERENCE,
    LEVEL,
    NOT_NEGATIVE,
    SHARE,
    Bound,
    did_you_mean,
    member,
    number,
    whole,
)
from persona_lib.errors import DataError
from persona_lib.evidence.evidence import ALL, Count, Evidence, Lengths
from persona_lib.specs.registration import INTERVALS, PERCENTILE, Registration
from persona_lib.stats.bootstrap import CLUSTER_METHOD, named, p_floor
from persona_lib.stats.estimate import QUOTED, Estimate

_ROUNDING = 0.0006
"""Largest gap between a rate printed to three digits and the count behind it."""
_REMEDY = "Correct aggregates.json."
_MOST = 2**53
"""Largest count: beyond it a float no longer holds every integer."""

_NO_PERSONAS = (
    "Inference for a target (these personas, personas at large, training runs) and TOST: they need "
    "cells, and several runs.",
    "Mixed model: it needs counts of every persona in every arm.",
)
_NO_QUESTIONS = (
    "Inference for these personas and for training runs, and TOST: they need cells, and several "
    "runs.",
)
"""Instead of the above, where the count of every bystander is known in every arm."""
_UNAVAILABLE = (
    "Cluster bootstrap: it needs (persona, question) cells; effects, intervals and p are quoted.",
    "Bystander/source contrast: its interval needs cells; only the two ratios are computed.",
    "Length quantiles and share finished: only mean tokens were published.",
    "Anything per question, and seen against unseen questions: questions were pooled.",
    "False positives per persona: only the total of each pre-coupling model was published.",
)


class AggregateEvidence(Evidence):
    """Evidence of published totals.

    Args:
        registration: the registration to judge under.
        body: the parsed ``aggregates.json``. ``arms`` holds, by arm, ``bystanders`` as
            {hits, n}, ``personas`` by name as {hits, n} or {rate, n}, ``mean_tokens``, and
            perhaps ``quoted``, persona rates as {rate, n} that the publication also states:
            `remarks` compares them with the counts. ``false_positives`` holds {hits, n} by
            prior. ``contrasts`` lists {treated, control, value, low, high, confidence, tail,
            resamples, clusters}: `tail` of `resamples` draws lay beyond 0; `low` and `high`
            are null where no interval was published. ``interval`` is its kind, percentile by
            default; one of another kind than the registered is not read.
        arms: arms that have to be there; all of the registration's by default.
        origin: where the numbers come from.

    Raises:
        DataError: an arm or a number is missing, malformed or out of bounds; a name is
            unknown; bystanders' counts do not add up to their pool; or a quoted effect
            contradicts the counts or its own interval.
    """

    kind = "aggregates"
    tells_runs = False
    no_clusters = "aggregates hold no cells to draw from"
    known_as = "published"
    """How rates and totals came to be known, in words."""

    def __init__(
        self,
        registration: Registration,
        body: Mapping[str, Any],
        *,
        arms: Sequence[str] | None = None,
        origin: str = "aggregates",
    ) -> None:
        self.registration = registration
        self.origin = origin
        self.arms = self.named(arms)
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
        known = all(self.by_persona(arm) is not None for arm in self.arms)
        self.unavailable = (*(_NO_QUESTIONS if known else _NO_PERSONAS), *_UNAVAILABLE)

    def _read(self, body: Mapping[str, Any]) -> None:
        known = tuple(arm.name for arm in self.registration.arms)
        for name in body["arms"]:
            _name("aggregates: arms", name, known)
        for name in self.arms:
            _name("aggregates: arms", name, tuple(body["arms"]))
        self.seeds = tuple(_whole("seeds", seed, 0) for seed in body["seeds"])
        self.runs = _whole("runs", body["runs"], 1)
        self._tokens: dict[str, float] = {}
        self._pools: dict[str, Count] = {}
        self._personas: dict[str, dict[str, Count]] = {}
        remarks: list[str] = []
        for arm, entry in body["arms"].items():
            self._tokens[arm] = _number(f"{arm} mean_tokens", entry["mean_tokens"], NOT_NEGATIVE)
            self._pools[arm] = _count(f"{arm} bystanders", entry["bystanders"])
            self._personas[arm] = {}
            for persona, count in entry["personas"].items():
                _name(f"aggregates: {arm} personas", persona, self.registration.roster.all)
                self._personas[arm][persona] = _count(f"{arm} {persona}", count)
            self._check_sum(arm)
            remarks += self._compared(arm, entry.get("quoted", {}))
        self.remarks = tuple(remarks)
        self._false: dict[str, Count] = {}
        for prior, count in body["false_positives"].items():
            _name("aggregates: prior", prior, self.registration.priors)
            self._false[prior] = _count(f"false positives of {prior}", count)
        self._quoted: dict[tuple[str, str], Estimate] = {}
        for quoted in body["contrasts"]:
            pair = (quoted["treated"], quoted["control"])
            for arm in pair:
                _name("aggregates: arm of a contrast", arm, tuple(body["arms"]))
            self._quoted[pair] = self._quote(*pair, quoted)

    def _check_sum(self, arm: str) -> None:
        """Raise DataError where all bystanders are counted and their pool says otherwise."""
        found = [self._personas[arm].get(p) for p in self.registration.roster.bystanders]
        known = [(c.hits, c.n) for c in found if c is not None and c.hits is not None]
        pool = self._pools[arm]
        total = (sum(hits for hits, _ in known), sum(n for _, n in known))
        if len(known) == len(found) and total != (pool.hits, pool.n):
            raise DataError(
                f"aggregates: {arm} personas",
                bound=f"bystanders that add up to {pool.hits}/{pool.n}",
                value=f"{total[0]}/{total[1]}",
                remedy="Correct the counts. Rates that a publication states beside other counts "
                "belong under 'quoted'.",
            )

    def _compared(self, arm: str, quoted: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return a sentence where quoted persona rates contradict the counts, or none."""
        rates: dict[str, Count] = {}
        for persona, entry in quoted.items():
            _name(f"aggregates: {arm} quoted", persona, self.registration.roster.all)
            rates[persona] = _count(f"{arm} quoted {persona}", entry)
        differ = [
            f"{persona} {rate.rate:.1%} against {known.rate:.1%}"
            for persona, rate in rates.items()
            if (known := self._personas[arm].get(persona)) is not None
            and abs(rate.rate - known.rate) > _ROUNDING
        ]
        sentence, pool = "", self._pools[arm]
        if set(rates) == set(self.registration.roster.bystanders):
            hits = round(sum(rate.rate * rate.n for rate in rates.values()))
            if hits != pool.hits:
                sentence = f" They come to {hits:,} hits of {pool.n:,}, its total is {pool.hits:,}."
        if not differ and not sentence:
            return []
        where = f" Quoted against counted: {', '.join(differ)}." if differ else ""
        return [
            f"{arm}: persona rates that the publication quotes contradict its counts, which are "
            f"used.{sentence}{where}"
        ]

    def count(self, arm: str, who: str) -> Count:
        """Return the hits of an arm on a role or a persona."""
        self.check_arm(arm)
        if who == "bystander":
            return self._pools[arm]
        unknown = Count(hits=None, n=0, rate=math.nan)
        found = [self._personas[arm].get(persona, unknown) for persona in self.members(who, arm)]
        if len(found) == 1:
            return found[0]
        if any(c.hits is None for c in found):
            return unknown
        return Count.of(sum(c.hits or 0 for c in found), sum(c.n for c in found))

    def pre_count(self, prior: str, who: str = ALL) -> Count | None:
        """Return the hits of a pre-coupling model, None where they are not known."""
        return self._false.get(prior) if who == ALL else None

    def lengths(self, arm: str) -> Lengths:
        """Return the lengths of an arm's completions."""
        self.check_arm(arm)
        return Lengths(statistic="mean", tokens=self._tokens[arm], finished=math.nan)

    def pre_lengths(self, prior: str) -> Lengths:
        """Return the lengths of a pre-coupling model's completions."""
        member("prior", prior, self.registration.priors)
        return Lengths(statistic="mean", tokens=math.nan, finished=math.nan)

    def contrast(self, claim: str, treated: str, control: str) -> Estimate:  # noqa: ARG002
        """Return the quoted difference; without one, the bare difference of rates."""
        found = self._quoted.get((treated, control))
        if found is not None:
            return found
        turned = self._quoted.get((control, treated))
        if turned is not None:
            return replace(turned, value=-turned.value, low=-turned.high, high=-turned.low)
        a, b = self.count(treated, "bystander"), self.count(control, "bystander")
        return self._bare(a.rate - b.rate, a.n + b.n, f"difference of {self.known_as} rates")

    def ratio_contrast(self, claim: str, treated: str, control: str) -> Estimate:  # noqa: ARG002
        """Return the difference of published ratios, without an interval."""
        counts = [self.count(a, who) for a in (treated, control) for who in ("bystander", "source")]
        n = sum(c.n for c in counts)
        method = f"bystander/source, from {self.known_as} rates"
        if not (counts[1].rate and counts[3].rate):
            note = "a source rate is 0: the ratio is undefined"
            return self._bare(math.nan, n, method, note)
        value = counts[0].rate / counts[1].rate - counts[2].rate / counts[3].rate
        return self._bare(value, n, method)

    def corrected_contrast(self, claim: str, treated: str, control: str) -> Estimate:  # noqa: ARG002
        """Return the difference after published false positives, without an interval."""
        a, b = self.count(treated, "bystander"), self.count(control, "bystander")
        false = [self.pre_count(self.registration.arm(arm).prior) for arm in (treated, control)]
        method = f"minus false positives, from {self.known_as} totals"
        if false[0] is None or false[1] is None:
            return self._bare(math.nan, 0, method, f"false positives were not {self.known_as}")
        n, value = a.n + b.n, a.rate - b.rate
        # Two arms on one prior lose the same false positives: nothing is left of them.
        if self.registration.arm(treated).prior != self.registration.arm(control).prior:
            n += false[0].n + false[1].n
            value -= false[0].rate - false[1].rate
        return self._bare(value, n, method)

    def bystander_rate(self, claim: str, arm: str) -> Estimate:  # noqa: ARG002
        """Return the rate with Wilson's interval, which ignores clusters."""
        count, level = self.count(arm, "bystander"), self.registration.statistics.confidence
        low, high = count.interval(level)
        found = self._bare(count.rate, count.n, "Wilson, clusters ignored")
        return replace(found, low=low, high=high, signed=False)

    def person_tokens(self, arm: str, persona: str) -> tuple[float, float]:  # noqa: ARG002
        """Return (NaN, NaN): lengths of personas were not published."""
        return (math.nan, math.nan)

    def _bare(self, value: float, n: int, method: str, note: str = "") -> Estimate:
        level = self.registration.statistics.confidence
        return Estimate.bare(n, None, level, method, note or self.no_clusters, value=value)

    def _quote(self, treated: str, control: str, q: Mapping[str, Any]) -> Estimate:
        a, b = self._pools[treated], self._pools[control]
        field = f"contrast {treated} - {control}"
        value = _number(field, q["value"], DIFFERENCE)
        if abs(value - (a.rate - b.rate)) > _ROUNDING:
            raise DataError(
                f"aggregates: {field}",
                bound=f"{a.rate - b.rate:.4f}, as its counts give, to three digits",
                value=value,
                remedy="Correct the quoted effect or the counts.",
            )
        low, high = _interval(field, q["low"], value, q["high"])
        kind, note = q.get("interval", PERCENTILE), ""
        _name(f"aggregates: {field} interval", kind, INTERVALS, remedy=_REMEDY)
        if kind != (registered := self.registration.statistics.interval):
            low = high = math.nan
            note = f"a {kind} interval was published, {registered} is registered: not read"
        resamples = _whole(f"{field} resamples", q["resamples"], 1)
        tail = _whole(f"{field} tail", q["tail"], 0, resamples)
        floor = p_floor(resamples)
        return Estimate(
            value=value,
            low=low,
            high=high,
            confidence=_number(f"{field} confidence", q["confidence"], LEVEL),
            p=min(1.0, floor * (tail + 1)),
            p_floor=floor,
            n=a.n + b.n,
            clusters=_whole(f"{field} clusters", q["clusters"], 1),
            method=named(CLUSTER_METHOD, registered),
            source=QUOTED,
            note=note,
        )


def _name(
    field: str,
    value: object,
    known: Sequence[str],
    *,
    remedy: str = "Judge these numbers under the registration they belong to.",
) -> None:
    if value not in known:
        bound = f"one of {', '.join(known)}"
        raise DataError(field, bound=bound, value=value, remedy=did_you_mean(value, known) + remedy)


def _number(field: str, value: object, bound: Bound) -> float:
    return number(f"aggregates: {field}", value, bound, remedy=_REMEDY, error=DataError)


def _whole(field: str, value: object, least: int, most: int = _MOST) -> int:
    return whole(f"aggregates: {field}", value, least, most, remedy=_REMEDY, error=DataError)


def _interval(field: str, low: object, value: float, high: object) -> tuple[float, float]:
    """Return the quoted ends, (NaN, NaN) where neither was published."""
    if low is None and high is None:
        return (math.nan, math.nan)
    below = Bound(f"at most the effect, {value}", lambda x: -1 <= x <= value)
    above = Bound(f"at least the effect, {value}", lambda x: value <= x <= 1)
    return (_number(f"{field} low", low, below), _number(f"{field} high", high, above))


def _count(field: str, entry: Mapping[str, Any]) -> Count:
    n = _whole(f"{field} n", entry["n"], 1)
    if "hits" in entry:
        return Count.of(_whole(f"{field} hits", entry["hits"], 0, n), n)
    return Count(hits=None, n=n, rate=_number(f"{field} rate", entry["rate"], SHARE))
