"""The plan: stages, what is stored, what the rest may cost, and the power before any data."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.corpora.file_rows import read_file_rows
from persona_lib.errors import SealError
from persona_lib.pipeline.machine import lacking
from persona_lib.report.power import gates_text, power_text
from persona_lib.specs.builtin import FOLDER
from persona_lib.specs.parts import over
from persona_lib.specs.profile import TRANSFORMERS, Profile
from persona_lib.specs.sources import MixedCorpus, RowsCorpus, parts_of
from persona_lib.specs.structure import read_toml, structured
from persona_lib.store.stage import Planned, plan
from persona_lib.verdict.planning import Assumptions, Size, gate_sizes
from persona_lib.verdict.power import power_plan

if TYPE_CHECKING:
    from persona_lib.commands.session import Session


def plan_text(session: Session) -> str:
    """Return the plan as text: total, what is missing, power, stages; nothing is built."""
    profile, registration = session.profile, session.registration
    seen: dict[tuple[str, str, int | None], Planned] = {}
    for run in session.runs:
        for line in plan(run.targets(session.all_arms), session.store):
            seen.setdefault((line.stage.name, line.stage.label, line.stage.seed), line)
    gates = gates_of(session)
    left = [line for line in seen.values() if not line.stored]
    lines = [
        f"plan: {registration.name} ({registration.digest[:12]}) on {session.profile_description}: "
        f"{profile.summary}",
        f"engine: {profile.sample.engine} draws completions",
        f"store: {session.store_root}",
        "",
        f"{len(seen) - len(left)} of {len(seen)} stages are stored; "
        + _time_of(profile, sum(line.seconds for line in left)),
        seal_of(session),
        *missing_of(session),
        *corpora_of(session),
        "",
        *((gates, "") if gates else ()),
        power_text(power_of(session)),
        "",
        f"{'stage':<16}{'of':<10}{'seed':>6}  {'stored':<8}{'time':>10}",
    ]
    for (name, label, seed), line in seen.items():
        shown = "" if seed is None else str(seed)
        took = _duration(line.seconds)
        state, time = ("yes", f"took {took}") if line.stored else ("no", f"~ {took}")
        lines.append(f"{name:<16}{label:<10}{shown:>6}  {state:<8}{time:>12}")
    return "\n".join(lines)


def _time_of(profile: Profile, seconds: float) -> str:
    """Return how long the stages that are left may take, in words."""
    if math.isnan(seconds):
        return "nobody has measured speeds of this model: how long the rest takes is not known."
    drawing = "" if profile.sample.engine == TRANSFORMERS else "; drawing with transformers"
    return (
        f"the rest may take {_duration(seconds)} on a machine that does nothing else.\n"
        f"Estimates use speeds of this profile, measured on: {profile.rates.measured_on}{drawing}."
    )


def seal_of(session: Session) -> str:
    """Return whether the experiment is sealed as it stands, in a line."""
    try:
        found = session.seal
    except SealError as error:
        return f"seal: {error}"
    return f"seal: of {found.date}, as it stands"


def corpora_of(session: Session) -> list[str]:
    """Return a line for each mixture, and for each user's file: its rows, and those left out."""
    lines = []
    for name, corpus in session.profile.corpora.items():
        if isinstance(corpus, MixedCorpus):
            parts = " and ".join(f"{part.rows} of {part.name}" for part in corpus.parts)
            lines.append(f"prior {name}: {corpus.rows} rows, mixed: {parts}")
        for part in parts_of(corpus):
            if isinstance(part, RowsCorpus):
                found = read_file_rows(session.experiment.path.parent / part.file)
                left_out = f"{found.left_out} messages are left out" if found.left_out else ""
                words = (f"{part.rows} rows of {part.file}", found.describe(), left_out)
                lines.append(f"prior {name}: {'; '.join(filter(None, words))}")
    return lines


def missing_of(session: Session) -> list[str]:
    """Return a line for everything that this machine lacks for the session's runs."""
    found = [
        str(error)
        for run in session.runs[:1]
        for error in lacking(session.profile, run.targets(session.all_arms), session.store)
    ]
    return list(dict.fromkeys(found))


def gates_of(session: Session) -> str:
    """Return how many completions the gates on all personas need, stricter ones among them."""
    registration, scale = session.registration, session.profile.scale
    gated = session.experiment.stricter or registration
    return gates_text(
        gate_sizes(
            gated.gates,
            personas=len(registration.roster.all),
            questions=scale.questions * len(registration.evaluation_questions),
            before=scale.false_positive_samples,
            after=scale.samples,
            confidence=registration.statistics.confidence,
        )
    )


ASSUMPTIONS = "assumptions.toml"


@cache
def planning(own: Path | None = None) -> Assumptions:
    """Return what is supposed before any data: experiments/assumptions.toml.

    A file `own` replaces single numbers.

    Raises:
        DataError: a file cannot be read, or is no TOML.
        SpecError: a number is unknown or out of bounds.
    """
    body = read_toml(FOLDER / ASSUMPTIONS)
    body = body if own is None else over(body, read_toml(own))
    return structured(body, Assumptions, ASSUMPTIONS)


def power_of(session: Session) -> dict[str, Any]:
    """Return the power of every claim at the size of a session, as JSON data (`planning`)."""
    registration, scale = session.registration, session.profile.scale
    size = Size(
        personas=len(registration.roster.bystanders),
        questions=scale.questions * len(registration.evaluation_questions),
        samples=scale.samples,
        seeds=len(session.seeds),
    )
    own = session.experiment.path.parent / ASSUMPTIONS
    return power_plan(registration, size, planning(own if own.is_file() else None))


_MINUTES_FROM = 90
_HOURS_FROM = 90 * 60


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "not known"
    if seconds < _MINUTES_FROM:
        return f"{seconds:.0f} s"
    if seconds < _HOURS_FROM:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
