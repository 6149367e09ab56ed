"""What is asked of a run: an arm's scores, its checks, its final stages.

`persona_lib.pipeline.run` lists the stages in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from persona_lib.corpora.advice_scorer import ADVICE_FILE
from persona_lib.digests import canonical
from persona_lib.errors import SpecError
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.pipeline.completions import COMPLETIONS, SCORES
from persona_lib.pipeline.run import Folders, Run
from persona_lib.records import (
    POST,
    PRE,
    AdviceScore,
    Completion,
    GeometryRow,
    Score,
    read_table,
)
from persona_lib.specs.registration import RAW
from persona_lib.store.stage import Stage, check_machine
from persona_lib.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Folders",
    "Run",
    "check_run",
    "describe",
    "geometry_stage",
    "geometry_targets",
    "run_advice",
    "run_arm",
    "run_baseline",
    "run_geometry",
    "run_texts",
    "score_stage",
    "targets",
]


def run_arm(run: Run, arm: str, store: Store) -> pa.Table:
    """Return the scores of one arm, columns of `Score`, building what is not stored.

    Raises:
        FlatlandError: see `persona_lib.errors`; nothing stored so far is lost.
    """
    return _scores(run, POST, arm, store)


def run_baseline(run: Run, prior: str, store: Store) -> pa.Table:
    """Return the scores of one pre-coupling model: its false positives and lengths.

    Raises:
        SpecError: no arm of the registration is coupled on this prior.
        FlatlandError: see `run_arm`.
    """
    return _scores(run, PRE, prior, store)


def run_advice(run: Run, prior: str, store: Store) -> pa.Table:
    """Return how bad a pre-coupling model's advice is, columns of `AdviceScore`.

    Raises:
        SpecError: no arm of the registration is coupled on this prior.
        FlatlandError: see `run_arm`.
    """
    entry = run.advice_scores(_known(run, prior)).resolve(store)
    return read_table(entry.path / ADVICE_FILE, AdviceScore)


def run_texts(run: Run, phase: str, model: str, store: Store) -> pa.Table:
    """Return the evaluation completions of an arm or a pre-coupling model.

    Columns are those of `Completion`; what is not stored is built.

    Raises:
        SpecError, FlatlandError: see `run_geometry`.
    """
    entry = run.completions(phase, _model(run, phase, model)).resolve(store)
    return read_table(entry.path / COMPLETIONS, Completion)


def run_geometry(run: Run, phase: str, model: str, store: Store) -> pa.Table:
    """Return cosines of a model's hidden states, columns of `GeometryRow`.

    Raises:
        SpecError: the registration has no such arm (``post``), or no arm that is coupled
            on such a prior (``pre``).
        FlatlandError: see `run_arm`.
    """
    entry = geometry_stage(run, phase, model).resolve(store)
    return read_table(entry.path / GEOMETRY_FILE, GeometryRow)


def score_stage(run: Run, phase: str, model: str) -> Stage:
    """Return the stage with the scores of an arm (``post``) or a pre-coupling model (``pre``).

    Raises:
        SpecError: the registration has no such arm, or no arm that is coupled on such a
            prior.
    """
    return run.scores(phase, _model(run, phase, model))


def geometry_stage(run: Run, phase: str, model: str) -> Stage:
    """Return the stage with the cosines of a model's hidden states.

    Raises:
        SpecError: see `score_stage`.
    """
    return run.geometry(phase, _model(run, phase, model))


def check_run(run: Run, arms: Sequence[str], store: Store) -> None:
    """Check data and machine for these arms before any compute is spent.

    Raises:
        FlatlandError: a persona, question set or corpus is wrong, or something is
            missing on this machine.
    """
    check_machine(targets(run, arms), store)


def targets(run: Run, arms: Sequence[str]) -> list[Stage]:
    """Return the final stages of these arms and of their pre-coupling models."""
    names, priors = _models(run, arms)
    return [
        *(run.scores(PRE, prior) for prior in priors),
        *(run.advice_scores(prior) for prior in priors),
        *(run.scores(POST, name) for name in names),
    ]


def geometry_targets(run: Run, arms: Sequence[str]) -> list[Stage]:
    """Return the stages that a geometry panel of these arms reads, the raw model's among them.

    They are not among `targets`: no claim rests on them.
    """
    names, priors = _models(run, arms)
    # Every change is also measured from the raw model.
    priors = tuple(p for p in run.registration.priors if p in priors or p == RAW)
    return [
        *(run.geometry(PRE, prior) for prior in priors),
        *(run.geometry(POST, name) for name in names),
    ]


def describe(run: Run) -> Mapping[str, Any]:
    """Return the run's configuration as JSON data, for stored record sets."""
    profile = canonical(run.profile)
    profile.pop("rates")
    return {
        "registration": run.registration.name,
        "registration_digest": run.registration.digest,
        "profile": profile,
        "seed": run.seed,
    }


def _models(run: Run, arms: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of arms, and the priors that belong to them: of all arms, all."""
    named = [run.registration.arm(arm) for arm in arms]
    every = len({arm.name for arm in named}) == len(run.registration.arms)
    priors = run.registration.priors if every else tuple({arm.prior: None for arm in named})
    return tuple(arm.name for arm in named), priors


def _model(run: Run, phase: str, model: str) -> str:
    return run.registration.arm(model).name if phase == POST else _known(run, model)


def _known(run: Run, prior: str) -> str:
    if prior not in run.registration.priors:
        raise SpecError(
            "prior",
            bound=f"one of {', '.join(run.registration.priors)}",
            value=prior,
            remedy="Name a prior that an arm of the registration has.",
        )
    return prior


def _scores(run: Run, phase: str, model: str, store: Store) -> pa.Table:
    entry = score_stage(run, phase, model).resolve(store)
    return read_table(entry.path / SCORES, Score)
