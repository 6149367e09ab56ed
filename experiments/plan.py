"""The plan: which stages a session needs, which are stored, what the rest may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from persona_lib.graph import Planned, plan
from persona_lib.pipeline import targets

if TYPE_CHECKING:
    from experiments.session import Session


def plan_text(session: Session) -> str:
    """Return the plan as text; nothing is built and nothing is downloaded."""
    profile, registration = session.profile, session.registration
    lines = [
        f"plan: {registration.name} ({registration.digest[:12]}) on {profile.name}: "
        f"{profile.summary}",
        f"store: {session.store_root}",
        "",
        f"{'stage':<16}{'of':<10}{'seed':>6}  {'stored':<8}{'time':>10}",
    ]
    seen: dict[tuple[str, str, int | None], Planned] = {}
    for run in session.runs:
        for line in plan(targets(run, session.all_arms), session.store):
            seen.setdefault((line.stage.name, line.stage.label, line.stage.seed), line)
    for (name, label, seed), line in seen.items():
        shown = "" if seed is None else str(seed)
        took = _duration(line.seconds)
        state, time = ("yes", f"took {took}") if line.stored else ("no", f"~ {took}")
        lines.append(f"{name:<16}{label:<10}{shown:>6}  {state:<8}{time:>12}")
    left = [line for line in seen.values() if not line.stored]
    lines += [
        "",
        f"{len(seen) - len(left)} of {len(seen)} stages are stored; the rest may take "
        f"{_duration(sum(line.seconds for line in left))}.",
        f"Estimates use speeds of this profile, measured on: {profile.rates.measured_on}.",
    ]
    return "\n".join(lines)


_MINUTES_FROM = 90
_HOURS_FROM = 90 * 60


def _duration(seconds: float) -> str:
    if seconds < _MINUTES_FROM:
        return f"{seconds:.0f} s"
    if seconds < _HOURS_FROM:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
