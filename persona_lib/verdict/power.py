"""Power before data: what each claim can show at the planned size, and what it would take.

Each claim gives one row for each target of inference; `_ROWS` has a function for each type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from typing import Any

from persona_lib.digests import canonical
from persona_lib.records import TRANSFER
from persona_lib.specs.claim_types import (
    DifferenceClaim,
    KillCriterion,
    RunClaim,
    RunContrast,
    RunDifference,
    RunKill,
    TriageClaim,
)
from persona_lib.specs.registration import Registration
from persona_lib.stats.bootstrap import MIN_CLUSTERS, p_floor
from persona_lib.stats.exact import flip_floor
from persona_lib.stats.moments import MIN_SEEDS
from persona_lib.stats.power import (
    AtMost,
    Equivalent,
    Exceeds,
    Null,
    Region,
    paired_power,
    smallest,
)
from persona_lib.stats.targets import (
    NOT_ESTIMABLE,
    PERSONAS_AT_LARGE,
    TRAINING_RUNS,
    population_refusal,
    these_personas,
)
from persona_lib.stats.thresholds import at_most, shown
from persona_lib.verdict.other_looks import EQUIVALENCE_ALPHA
from persona_lib.verdict.planning import Assumptions, Contrast, PowerAt, PowerRow, Size
from persona_lib.verdict.run_claims import alpha_of

_WITHOUT_END = 10**9
"""Personas enough that only what they share is left."""
_LEAST_SHOWN = 0.001
RUN_FACTOR = 2.0
"""True effect of a claim over training runs, in multiples of its d."""


def power_plan(registration: Registration, size: Size, assumptions: Assumptions) -> dict[str, Any]:
    """Return the power of every claim and of the kill criterion as JSON data, a `PowerRow` each."""
    rows: list[PowerRow] = []
    for claim in registration.judged:
        of_type = _ROWS.get(type(claim))
        if of_type is None:
            words = f"no power calculation for this type ({type(claim).__name__})"
            rows.append(PowerRow(claim=claim.name, notes=(words,)))
        else:
            rows += of_type(claim, registration, size, assumptions)
    return {
        "registration": registration.name,
        "size": asdict(size),
        "assumptions": canonical(assumptions),
        "rows": [canonical(asdict(row)) for row in rows],
    }


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a claim asks of its contrast, for all targets.

    Attributes:
        published: the registered rule on the published bootstrap, and its printed name.
        tested: the rule on a t test, and what stands before the name of that test.
        blocked: why the registered rule cannot hold at all, or "".
        max_p: p that a claim on personas at large has to reach, if it has one.
        unreached: why no size can give a high power, or "".
    """

    claim: str
    contrast: Contrast
    published: Region
    published_name: str
    tested: Region
    test: str = ""
    blocked: str = ""
    max_p: float | None = None
    unreached: str = ""

    def row(
        self,
        target: str,
        method: str,
        units: str,
        power_at: PowerAt,
        *,
        least: int = 1,
        blocked: str = "",
        notes: Sequence[str] = (),
        floor: Callable[[float], str] | None = None,
    ) -> PowerRow:
        """Return the row of a target.

        Args:
            target: target of inference.
            method: rule or test.
            units: field of the size that the search changes.
            power_at: power by their number.
            least: fewest of them that allow a claim.
            blocked: why there is no power at the planned size, or "".
            notes: further notes.
            floor: gives why a level is out of reach at any number, or "".
        """
        assumptions, now = self.contrast.assumptions, getattr(self.contrast.size, units)
        levels, most = assumptions.levels, assumptions.most
        needed = tuple(smallest(power_at, level, least, most) for level in levels)
        sentence = [blocked, *notes]
        missed = [level for level, found in zip(levels, needed, strict=True) if found is None]
        if missed:
            why = self.unreached or (floor(missed[0]) if floor else "")
            sentence.append(why or f"{_percent(missed[0])} is not reached with {most:,} {units}")
        return PowerRow(
            claim=self.claim,
            target=target,
            method=method,
            effect=self.contrast.effect,
            units=units,
            now=now,
            power=None if blocked else power_at(now),
            needed=needed,
            notes=tuple(note for note in sentence if note),
        )


def _rows_of(asked: _Asked) -> Iterator[PowerRow]:
    """Yield the row of the registered rule, then one of a test for each target."""
    contrast, size = asked.contrast, asked.contrast.size
    these = these_personas(size.seeds)
    if not 0 < contrast.rates[1] < 1:
        rate = f"a control rate of {shown(contrast.rates[0])} and a difference of"
        words = f"no power calculation: {rate} {contrast.effect:+.3g} are no rate together"
        yield PowerRow(claim=asked.claim, effect=contrast.effect, notes=(words,))
        return
    name = asked.published_name
    if asked.blocked:
        yield PowerRow(claim=asked.claim, target=these, method=name, notes=(asked.blocked,))
    else:
        alone = size.personas == size.questions == 1
        yield asked.row(
            these,
            name,
            "questions",
            contrast.by_bootstrap(asked.published),
            least=MIN_CLUSTERS if size.personas == 1 else 1,
            blocked="one cluster: no interval, no p" if alone else "",
        )
    yield asked.row(
        these,
        f"{asked.test}question t",
        "questions",
        contrast.over_questions(asked.tested),
        least=2,
        blocked=_one("question", size.questions),
    )
    yield _at_large(asked)
    unknown = f"{NOT_ESTIMABLE}: at least {MIN_SEEDS} seeds" if size.seeds < MIN_SEEDS else ""
    for sd in contrast.assumptions.seed_sds:
        yield asked.row(
            TRAINING_RUNS,
            f"{asked.test}Welch t, SD {100 * sd:g}",
            "seeds",
            contrast.over_seeds(asked.tested, sd),
            least=MIN_SEEDS,
            blocked=unknown,
        )


def _at_large(asked: _Asked) -> PowerRow:
    """Return the row of personas at large; too few are refused in words."""
    contrast, size = asked.contrast, asked.contrast.size
    target, method = PERSONAS_AT_LARGE, f"{asked.test}persona t"
    if note := _one("question", size.questions):  # no number of personas helps
        return PowerRow(claim=asked.claim, target=target, method=method, notes=(note,))
    power_at = contrast.over_personas(asked.tested)

    def floor(level: float) -> str:
        if power_at(_WITHOUT_END) >= level:
            return ""
        return (
            f"{_percent(level)} is not reached by more personas alone: {size.questions} questions "
            f"leave the difference an SD of {contrast.shared_sd:.3f}, however many personas"
        )

    least, notes = 2, [""]
    if asked.max_p is not None:
        least = next(k for k in count(2) if flip_floor(k) < asked.max_p)
        notes = [population_refusal(size.personas, asked.max_p)]
    return asked.row(
        target,
        method,
        "personas",
        power_at,
        least=least,
        blocked=_one("persona", size.personas),
        notes=notes,
        floor=floor,
    )


def _difference(
    claim: DifferenceClaim, registration: Registration, size: Size, assumptions: Assumptions
) -> Iterable[PowerRow]:
    rule = Exceeds(min_effect=claim.min_effect, max_p=claim.max_p)
    effect = assumptions.effect_factor * claim.min_effect
    resamples = registration.statistics.resamples
    few = p_floor(resamples) >= claim.max_p
    half = (
        f"a true effect of {shown(effect)} is not above the threshold of "
        f"{shown(claim.min_effect)}, which the estimate itself has to reach: at most about one half"
    )
    return _rows_of(
        _Asked(
            claim=claim.name,
            contrast=Contrast(effect=effect, size=size, assumptions=assumptions),
            published=rule,
            published_name="published bootstrap",
            tested=rule,
            blocked=f"{resamples:,} resamples cannot give p < {shown(claim.max_p)}" if few else "",
            max_p=claim.max_p,
            unreached=half if at_most(effect, claim.min_effect) else "",
        )
    )


def _triage(
    claim: TriageClaim, registration: Registration, size: Size, assumptions: Assumptions
) -> Iterable[PowerRow]:
    effect, band = assumptions.triage_effect, claim.null_effect
    confidence = registration.statistics.confidence
    outside = f"a true effect of {effect:+.3g} does not lie inside +-{shown(band)}"
    return _rows_of(
        _Asked(
            claim=claim.name,
            contrast=Contrast(effect=effect, size=size, assumptions=assumptions),
            published=Null(band=band, min_p=claim.null_min_p, confidence=confidence),
            published_name="published rule",
            tested=Equivalent(band=band, alpha=EQUIVALENCE_ALPHA),
            test="TOST, ",
            unreached="" if abs(effect) < band else outside,
        )
    )


def _kill(
    kill: KillCriterion,
    registration: Registration,  # noqa: ARG001  (every type has the same arguments)
    size: Size,
    assumptions: Assumptions,
) -> Iterable[PowerRow]:
    """A point rule has no power: how often it fires by chance."""
    contrast = Contrast(effect=0.0, size=size, assumptions=assumptions)
    fires = contrast.of_control(AtMost(most=kill.max_rate))
    sentence = f"below {_LEAST_SHOWN}" if fires < _LEAST_SHOWN else f"of {fires:.3f}"
    words = (
        f"a point rule has no power; where {kill.arm} leaks at the control's rate of "
        f"{shown(assumptions.control_rate)}, a rate <= {shown(kill.max_rate)} comes by chance "
        f"with a probability {sentence}"
    )
    yield PowerRow(
        claim=kill.name, target=these_personas(size.seeds), method="point rule", notes=(words,)
    )


def _run_claim(
    claim: RunClaim, registration: Registration, size: Size, assumptions: Assumptions
) -> Iterable[PowerRow]:
    """SUPPORTED at a true effect of 2 d, at Holm's strictest level."""
    level = alpha_of(registration.statistics.confidence) / len(registration.run_claims)
    effect = RUN_FACTOR * claim.smallest
    rows = _over_seeds(claim, size, assumptions, excess=effect - claim.smallest, level=level)
    return (replace(row, effect=effect if row.target else None) for row in rows)


def _run_kill(
    kill: RunKill, registration: Registration, size: Size, assumptions: Assumptions
) -> Iterable[PowerRow]:
    """How often it is triggered where there is no effect."""
    claim = next(one for one in registration.run_claims if one.name == kill.claim)
    level = alpha_of(registration.statistics.confidence)
    rows = _over_seeds(claim, size, assumptions, excess=kill.max_effect, level=level)
    return (replace(row, claim=kill.name, effect=0.0 if row.target else None) for row in rows)


def _over_seeds(
    claim: RunClaim, size: Size, assumptions: Assumptions, *, excess: float, level: float
) -> Iterator[PowerRow]:
    """Yield a row for each supposed SD: the truth lies `excess` beyond the bound."""
    if claim.outcome != TRANSFER:
        words = f"no power calculation: SDs over seeds are supposed of {TRANSFER} alone"
        yield PowerRow(claim=claim.name, notes=(words,))
        return
    few = f"{NOT_ESTIMABLE}: at least {MIN_SEEDS} seeds" if size.seeds < MIN_SEEDS else ""
    for sd in assumptions.run_sds:
        power_at = partial(paired_power, excess, sd, level=level)
        levels, most = assumptions.levels, assumptions.most
        yield PowerRow(
            claim=claim.name,
            target=TRAINING_RUNS,
            method=f"paired t, SD {shown(sd)}",
            units="seeds",
            now=size.seeds,
            power=None if few else power_at(size.seeds),
            needed=tuple(smallest(power_at, one, MIN_SEEDS, most) for one in levels),
            notes=(few,) if few else (),
        )


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def _one(unit: str, planned: int) -> str:
    return f"one {unit}: no standard error, no p" if planned == 1 else ""


_ROWS: Mapping[type[Any], Callable[..., Iterable[PowerRow]]] = {
    DifferenceClaim: _difference,
    TriageClaim: _triage,
    KillCriterion: _kill,
    RunDifference: _run_claim,
    RunContrast: _run_claim,
    RunKill: _run_kill,
}
"""One function for each type whose power can be calculated."""
