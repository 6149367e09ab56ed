"""Options of the command line, from text: profile, registration, seeds, arms, folders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from persona_lib.checks import member, near_paths, unknown
from persona_lib.commands.profiles import choose_profile, pinned_base
from persona_lib.errors import SpecError
from persona_lib.specs.builtin import DATA, EXPERIMENTS, FOLDER
from persona_lib.specs.experiment import FILE, Experiment, load_experiment
from persona_lib.specs.personas import load_personas, load_questions
from persona_lib.specs.structure import Gathered, named

if TYPE_CHECKING:
    from persona_lib.specs.registration import Registration

HIDDEN = ".flatland"
"""Folder of store, runs and reports under the user's root."""
OPTIONS: dict[str, dict[str, str]] = {
    "experiment": {
        "metavar": "NAME|FILE",
        "help": "experiment to run or to judge under: a built-in one, or a file (default: "
        "experiment.toml of this folder, or else issue262)",
    },
    "profile": {"help": "base model, data and scale (default: tiny)"},
    "scale": {"help": "scale of a profile that has several: smollm2 reduced, full"},
    "loss": {"help": "marker loss in place of the profile's: anchored, decision, ..."},
    "engine": {"help": "what draws completions: transformers (default) or vllm (docs/usage.md)"},
    "seeds": {"help": "run seeds, for example 42,137 (default: 42)"},
    "stored": {
        "metavar": "DIR|FILE[,...]",
        "help": "judge stored evidence, or Parquet, CSV or JSONL files of records written by "
        "other software (docs/usage.md); train nothing. Several are judged as one: record "
        "sets of one experiment with other seeds, or files with the same columns",
    },
    "store": {"metavar": "DIR", "help": "stage cache (default: .flatland/store)"},
    "data": {"metavar": "DIR", "help": "folder with the published corpora"},
    "plan": {"action": "store_true", "help": "print stages and costs; run nothing"},
    "judge": {
        "metavar": "NAME",
        "help": "who says whether completions follow their persona, in the report: classifier "
        "(default), claude:MODEL, openai:MODEL or openai:MODEL@REVISION (docs/usage.md)",
    },
    "judge-budget": {"metavar": "DOLLARS", "help": "what that judge may cost at most"},
    "judge-url": {"metavar": "URL", "help": "another server that speaks its API"},
    "report": {
        "metavar": "DIR",
        "help": "make the panels and the report as well, there; -m report reads it back "
        "(every run writes verdict.json into a folder of its own under .flatland/runs)",
    },
}
"""Options of pytest, some of them of the commands as well, and what is said of each."""
RUN_OPTIONS = ("experiment", "profile", "scale", "loss", "engine", "seeds", "store", "data")
"""Those that say what is run."""
FOLDERS = ("store", "stored", "report", "data")
"""Those whose value may be a folder."""
DEFAULT_EXPERIMENT = "issue262"
DEFAULT_SEEDS = (42,)
_LARGEST_SEED = 2**63 - 1
"""Seeds are kept as 64-bit integers in records."""


def add_options(add: Callable[..., object], names: Iterable[str] = tuple(OPTIONS)) -> None:
    """Add options to a parser, by its method ``addoption`` or ``add_argument``."""
    for name in names:
        add(f"--{name}", **OPTIONS[name])


def choose_experiment(
    name: str | None, stored: Sequence[Path] = (), *, root: Path | None = None
) -> Experiment:
    """Return an experiment by name or file; else that of stored evidence, else that of `root`.

    Whether it may judge that evidence is for `persona_lib.evidence.load.Stored` to say. What a
    file names (corpora, personas, questions, model) is read too, unless evidence is stored.

    Raises:
        SpecError: no such experiment, or its file or one that it names is wrong; it holds the
            other errors.
        DataError: the file cannot be read; or as `persona_lib.evidence.load.registration_of`.
    """
    own, recorded = None if root is None else root / FILE, None
    if stored:
        from persona_lib.evidence.load import registration_of

        recorded = registration_of(stored)  # asked of a named experiment too: what it refuses
    if name is None and recorded in EXPERIMENTS:
        name = recorded
    elif name is None and own is not None and own.is_file():
        name = str(own)
    elif name is None and recorded is not None:
        raise SpecError(
            "--experiment",
            bound="the file of an experiment, as stored evidence names one that is not built in",
            value=recorded,
            remedy=f"Give the file that it was recorded with: --experiment=DIR/{FILE}.",
        )
    name = name or DEFAULT_EXPERIMENT
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    path = Path(name).expanduser()
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        alike = near_paths(path)
        beside = f"; near it: {', '.join(alike)}" if alike else ""
        remedy = f"No such file is there{beside}."
        raise unknown("--experiment", name, [*EXPERIMENTS, "or a file"], remedy)
    experiment = load_experiment(path, builtin=FOLDER)
    return experiment if stored or experiment.evidence.only else _with_files(experiment)


def _with_files(experiment: Experiment) -> Experiment:
    """Return an experiment whose files are checked, and what they hold is pinned."""
    from persona_lib.corpora.file_rows import pinned

    where, priors, found = experiment.path.name, dict(experiment.priors), Gathered()
    for name, prior in experiment.priors.items():
        if prior.corpus is not None:
            with found.check(), named(f"{where}: priors.{name}.corpus"):
                corpus = pinned(prior.corpus, experiment.path.parent)
                priors[name] = replace(prior, corpus=corpus)
    base = None
    with found.check(), named(where):
        profile = choose_profile(None, model=experiment.model)
        with found.check():
            experiment.on(profile)
        with found.check(), named(f"{where}: model.base"):
            base = pinned_base(profile.base, experiment.path.parent)
        _check_questions(experiment, profile.scale.questions, found)
    _check_personas(experiment, found)
    found.refuse()
    return replace(experiment, priors=priors, base=base)


def _check_personas(experiment: Experiment, found: Gathered) -> None:
    """Find personas of the roster that the file of personas does not have."""
    where, roster = experiment.path.name, experiment.registration.roster
    with found.check():
        with named(f"{where}: words.personas"):
            known = [one.id for one in load_personas(experiment.personas or DATA / "personas.json")]
        for role in ("negatives", "bystanders", "reported"):
            for name in getattr(roster, role):
                with found.check():
                    _known(f"{where}: registration.roster.{role}", name, known)
        _known(f"{where}: registration.roster.source", roster.source, known)


def _check_questions(experiment: Experiment, count: int, found: Gathered) -> None:
    """Find sets of questions that are missing or too small; `count` of each are asked."""
    where, rules = experiment.path.name, experiment.registration
    with found.check():
        with named(f"{where}: words.questions"):
            known = load_questions(experiment.questions or DATA / "questions.json")
        keys = ("coupling_questions", "evaluation_questions")
        asked = {name: key for key in keys for name in getattr(rules, key)}
        for name, key in asked.items():
            with found.check():
                _known(f"{where}: registration.{key}", name, tuple(known))
                if len(known[name]) < count:
                    raise SpecError(
                        f"{where}: registration.{key}",
                        bound=f"sets of {count} questions or more, as the scale asks",
                        value=f"{len(known[name])} of {name}",
                        remedy="Add questions to the set, or choose a smaller model.",
                    )


def _known(field: str, name: str, known: Sequence[str]) -> None:
    member(field, name, known, remedy="Correct the name, or add it to the file under [words].")


def choose_seeds(text: str | None, option: str = "--seeds") -> tuple[int, ...]:
    """Return the seeds of ``42,137``, as an option names them.

    Raises:
        SpecError: not a list of distinct non-negative integers.
    """
    if text is None:
        return DEFAULT_SEEDS
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isascii() and part.isdecimal()]
    whole = len(numbers) == len(parts) and len(set(numbers)) == len(numbers)
    if not whole or max(numbers) > _LARGEST_SEED:
        raise SpecError(
            option,
            bound="distinct integers from 0 to 2**63 - 1, with commas between them",
            value=text,
            remedy=f"For example {option} 42,137.",
        )
    return tuple(numbers)


def choose_arms(text: str | None, registration: Registration) -> tuple[str, ...]:
    """Return the arms of ``C1,C2`` in the registration's order; of None all, as ().

    Raises:
        SpecError: the registration has no such arm.
    """
    if text is None:
        return ()
    named = {registration.arm(part.strip()).name for part in text.split(",")}
    return tuple(arm.name for arm in registration.arms if arm.name in named)


def choose_store(text: str | None, root: Path) -> Path:
    """Return the store's folder: the option, FLATLAND_STORE, or .flatland/store of a root."""
    return _folder(text or os.environ.get("FLATLAND_STORE")) or root / HIDDEN / "store"


def choose_data(text: str | None) -> Path | None:
    """Return the folder of the user's corpora: the option, or FLATLAND_DATA."""
    return _folder(text or os.environ.get("FLATLAND_DATA"))


def choose_stored(text: str | None) -> tuple[Path, ...]:
    """Return folders or files of stored evidence, with commas between them, as written.

    A text that names something as a whole is that path, whatever commas are in it.
    """
    if not text:
        return ()
    whole = Path(text).expanduser()
    if os.path.lexists(whole):
        return (whole,)
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise SpecError(
            "--stored",
            bound="paths with commas between them",
            value=text,
            remedy="For example --stored=runs/42,runs/137.",
        )
    return tuple(Path(part).expanduser() for part in parts)


def choose_report(text: str) -> Path:
    """Return the folder of a report, absolute."""
    return Path(text).expanduser().resolve()


def check_report(folder: Path, option: str = "--report") -> None:
    """Raise SpecError where nothing could be written into a folder, before compute is spent.

    The folder is made where it does not exist. `option` names it, for the error.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SpecError(
            option,
            bound="a folder that can be written",
            value=str(folder),
            remedy=f"Name another folder ({error.strerror}).",
        ) from error


def refuse_with_stored(**options: object) -> None:
    """Raise SpecError for an option that means nothing beside ``--stored``."""
    for name, value in options.items():
        if value:
            raise SpecError(
                f"--{name}",
                bound="it to be left out beside --stored, which runs nothing",
                value=value,
                remedy=f"Leave --{name} out, or leave --stored out to run.",
            )


def _folder(text: str | None) -> Path | None:
    """Return an absolute folder; a shell leaves ``~`` alone behind an equals sign."""
    return Path(text).expanduser().resolve() if text else None
