"""The built-in experiments and profiles by the names that tests use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from persona_lib.commands.plan import planning
from persona_lib.commands.session import Session
from persona_lib.specs.builtin import EXPERIMENTS, FOLDER, PROFILES, SCALES
from persona_lib.specs.derived_gates import derived_gates, with_derived_gates
from persona_lib.specs.experiment import Experiment
from persona_lib.specs.registration import Registration

ROOT = FOLDER.parent
"""The checkout."""
REGISTRATIONS = {name: one.registration for name, one in EXPERIMENTS.items()}
OF_RATES = {name: one for name, one in REGISTRATIONS.items() if not one.run_claims}
"""Registrations whose claims read rates: those of issue 262."""
ISSUE262 = REGISTRATIONS["issue262"]
ISSUE262_HELD_OUT = REGISTRATIONS["issue262_held_out"]
ISSUE262_BOTH = REGISTRATIONS["issue262_both"]
ISSUE262_GATED = REGISTRATIONS["issue262_gated"]
ISSUE262_BCA = REGISTRATIONS["issue262_bca"]
ROLES = EXPERIMENTS["issue262"].priors
CHECKS = derived_gates(ISSUE262, ROLES)
STRICTER = {name: one.stricter for name, one in EXPERIMENTS.items() if one.stricter is not None}
_OF_ISSUE262 = EXPERIMENTS["issue262"].on
"""A profile with the corpora of that experiment's priors, as a run of it has it."""
TINY, SMOLLM2, QWEN7B, MICRO = (
    _OF_ISSUE262(PROFILES[name]) for name in ("tiny", "smollm2", "qwen7b", "micro")
)
SMOLLM2_FULL = _OF_ISSUE262(SCALES["smollm2"]["full"])
PLANNING = planning()

__all__ = ["PROFILES", "SCALES"]


def gated(registration: Registration) -> Registration:
    """Return a registration with its derived gates, which claims then need."""
    return with_derived_gates(registration, ROLES)


def experiment_of(registration: Registration, seals: Path = FOLDER / "seals") -> Experiment:
    """Return the built-in experiment under other rules, sealed elsewhere perhaps."""
    known = EXPERIMENTS.get(registration.name)
    if known is not None and known.registration == registration:
        return replace(known, seals=seals)
    stricter = None if registration.name.endswith("_gated") else gated(registration)
    like = EXPERIMENTS["issue262"]
    return replace(like, registration=registration, stricter=stricter, seals=seals)


def session_under(registration: Registration, **options: Any) -> Session:
    """Return a session of `experiment_of` a registration."""
    return Session(experiment=experiment_of(registration), **options)
