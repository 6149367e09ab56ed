"""Which profile a run has: base model, recipes and sizes, from an experiment and options."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from persona_lib.checks import member
from persona_lib.errors import PreflightError, SpecError
from persona_lib.specs.builtin import FOLDER, PROFILES, SCALES
from persona_lib.specs.experiment import Experiment, ModelChoice
from persona_lib.specs.parts import RECIPES, base_table, changed, compose, is_base, names_of
from persona_lib.specs.parts import SCALES as SCALE_FILES
from persona_lib.specs.profile import ENGINES, LOSSES, Profile
from persona_lib.specs.sources import Base, HubBase, PathBase

if TYPE_CHECKING:
    from persona_lib.specs.profile import EngineName

DEFAULT_RECIPE, DEFAULT_SCALE = "anchored", "small"
"""Of a base model that no profile names."""
_ONE = "Name one of them (docs/extending.md)."


def profile_of(
    experiment: Experiment,
    name: str | None = None,
    scale: str | None = None,
    loss: str | None = None,
    engine: str | None = None,
) -> tuple[Profile, str | None]:
    """Return the profile of an experiment's model, or of options in its place, and its scale.

    It has the corpora and recipes of the experiment's priors, unless nothing is run.

    Raises:
        SpecError: see `choose_profile` and `Experiment.on`.
    """
    profile = choose_profile(name, scale, loss, engine, model=experiment.model)
    if name is not None:
        profile = replace(profile, base=named_base(profile.base))
    elif experiment.base is not None:
        profile = replace(profile, base=experiment.base)
    if not experiment.evidence.only:
        profile = experiment.on(profile)
    return profile, choose_scale(name, scale, experiment.model)[1]


def choose_profile(
    name: str | None,
    scale: str | None = None,
    loss: str | None = None,
    engine: str | None = None,
    *,
    model: ModelChoice | None = None,
) -> Profile:
    """Return the profile that an option names, or that of a model, with what options change.

    Args:
        name: of a profile, or ``hub:`` or ``path:`` and a base model; None for the model's.
        scale: in place of the model's or the profile's first.
        loss: marker loss in place of the recipe's.
        engine: in place of the profile's.
        model: what an experiment says; nothing of it counts where `name` is given.

    Raises:
        SpecError: there is no such profile, recipe, scale, loss or engine, or a key or a value
            under ``model`` is wrong.
    """
    model = model if model is not None and name is None else ModelChoice(base=name or "tiny")
    known, at = choose_scale(name, scale, model)
    if is_base(known):
        profile = _any_model(model, known, at or DEFAULT_SCALE)
    else:
        profile = PROFILES[known] if at is None else SCALES[known][at]
        if model.recipe is not None:
            raise SpecError(
                "model.recipe", bound=f"it to be left out, as profile {known} has its own",
                value=model.recipe, remedy="Change single fields under [model.coupling].",
            )  # fmt: skip
    profile = changed(profile, model.tables(), "model")
    if loss is not None:
        remedy = "Name a marker loss (docs/experiment.md), or leave --loss out for the profile's."
        member("--loss", loss, LOSSES, remedy=remedy)
        profile = replace(profile, coupling=replace(profile.coupling, loss=loss))
    if engine is not None:
        member("--engine", engine, ENGINES, remedy="Name an engine (docs/usage.md).")
        sample = replace(profile.sample, engine=cast("EngineName", engine))
        profile = replace(profile, sample=sample)
    return profile


def choose_scale(
    profile: str | None, scale: str | None, model: ModelChoice | None = None
) -> tuple[str, str | None]:
    """Return a profile and its scale: those named, or the experiment's, or the profile's first.

    The scale is None where the profile has one alone.

    Raises:
        SpecError: there is no such profile, or it has no such scale.
    """
    model = model or ModelChoice()
    name, field = (model.base, "model.base") if profile is None else (profile, "--profile")
    option = "--scale"
    if profile is None and scale is None and model.scale is not None:
        scale, option = model.scale, "model.scale"
    if is_base(name):
        scales = names_of(FOLDER, SCALE_FILES)
        member(option, at := DEFAULT_SCALE if scale is None else scale, scales, remedy=_ONE)
        return name, at
    remedy = "Name a built-in profile, or hub:ORG/NAME or path:FOLDER."
    member(field, name, tuple(PROFILES), remedy=remedy)
    known = SCALES.get(name)
    if known is None:
        if scale is None:
            return name, None
        raise SpecError(
            option,
            bound=f"it to be left out, as profile {name} has one scale",
            value=scale,
            remedy=f"Leave {option} out; profiles with scales: {', '.join(SCALES)}.",
        )
    chosen = next(iter(known)) if scale is None else scale
    member(option, chosen, tuple(known), remedy=f"Name a scale of profile {name}.")
    return name, chosen


def _any_model(model: ModelChoice, base: str, scale: str) -> Profile:
    """Return the profile of a base model that no profile names, by a recipe and a scale."""
    recipe = model.recipe or DEFAULT_RECIPE
    member("model.recipe", recipe, names_of(FOLDER, RECIPES), remedy=_ONE)
    place = base.partition(":")[2].partition("@")[0]
    body = {
        "name": Path(place).name or "model",
        "summary": f"{base}, recipe {recipe}, scale {scale}",
        "base": base_table(base),
        "parts": [f"{RECIPES}/{recipe}", f"{SCALE_FILES}/{scale}"],
    }
    return compose(body, FOLDER, "model")


def named_base(base: Base) -> Base:
    """Return the base of an option, pinned; a folder is named from the current one."""
    if isinstance(base, PathBase):
        base = replace(base, folder=str(Path(base.folder).expanduser().resolve()))
    return pinned_base(base, Path())


def pinned_base(base: Base, folder: Path) -> Base:
    """Return a base by its commit, or by what its files hold.

    Where the hub cannot be reached a branch stays one: `preflight_base` says so.

    Args:
        base: perhaps a branch on the hub, or a folder.
        folder: of the experiment, from which a folder is named.

    Raises:
        SpecError, DataError: no such folder, branch or repository; or see
            `persona_lib.models.snapshot.used_files`.
    """
    if isinstance(base, PathBase):
        from persona_lib.models.snapshot import folder_digest

        return replace(base, sha256=folder_digest(folder / base.folder))
    if isinstance(base, HubBase):
        from persona_lib.models.hub import resolve

        with suppress(PreflightError):
            return replace(base, revision=resolve(base.repo, base.revision or None))
    return base
