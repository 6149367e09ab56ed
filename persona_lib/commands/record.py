r"""Record a run: scores, texts, hidden states, with config, environment and commit.

    flatland record golden/tiny --profile tiny --seeds 42

    flatland record golden/smollm2 --profile smollm2 --scale full \
        --seeds 42,137,256 --texts 42

    flatland record golden/decision --profile smollm2 --scale full \
        --loss decision --arms C1,C2 --without-text --no-geometry

All seeds go into one record set. Seeds that run at different times or places are recorded
one by one and judged together: --stored=runs/42,runs/137. A working tree with uncommitted
changes is refused, and stages that were built from one; so is a folder that holds something.
The tree is that of an experiment's own folder, and of the code unless pip installed it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.commands import options
from persona_lib.commands.session import Session
from persona_lib.corpora.advice_scorer import ADVICE_FILE
from persona_lib.corpora.broad import BROAD_FILE
from persona_lib.digests import digest
from persona_lib.errors import FlatlandError, PreflightError, SpecError
from persona_lib.evidence.joined import ROWS
from persona_lib.evidence.record_sets import (
    ADVICE_TEXTS_FILE,
    BROAD_TEXTS_FILE,
    RECORDS,
    SCORES_FILE,
    TEXTS_FILE,
    describe_seeds,
    write_manifest,
)
from persona_lib.models.hidden_states import GEOMETRY_FILE
from persona_lib.pipeline.dose import DOSE_FILE
from persona_lib.pipeline.slots import SLOTS_FILE
from persona_lib.pipeline.traits import TRAITS_FILE
from persona_lib.progress import shown
from persona_lib.records import POST, PRE, write_table
from persona_lib.store.provenance import (
    DISTRIBUTION,
    git_state,
    installed_version,
    is_dirty,
    provenance,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from persona_lib.store.stage import Stage

_SEAL = ("registration", "digest", "date", "amendments", "head")
"""What a manifest holds of the seal: sets that are judged together agree in all of it."""
_MOMENT = {"git", "installed", "date"}
"""What provenance says of the code and the time, and not of the machine."""


def record(
    session: Session,
    folder: Path,
    *,
    texts: Sequence[int] | None = None,
    geometry: bool = False,
) -> None:
    """Write a session's arms, by default all, and their pre-coupling models as a record set.

    Args:
        session: what to run; stages that are stored are not built again.
        folder: where to write; must not exist yet, or be empty. It appears whole or not at all.
        texts: run seeds whose completions are kept; all by default.
        geometry: also read hidden states, and keep their cosines and ranks.

    Raises:
        PreflightError: the working tree of the code, or of the user's folder, or the one
            that a stage was built from, has uncommitted changes or is no repository.
        SealError: the registration is not sealed as it stands.
        SpecError: the folder holds something already, or `texts` names a seed that the
            session has not.
    """
    session.check_seal()
    _check_clean(session)
    _check_place(folder)
    kept = session.seeds if texts is None else tuple(texts)
    _check_seeds(kept, session)
    arms = session.asked_arms
    tables = _tables(session, texts=kept, geometry=geometry)
    # Before anything is written: the draft itself would make the tree dirty.
    recorded = {
        **_recorded(session),
        **_origins(session, geometry=geometry),
        "texts_of_seeds": [seed for seed in session.seeds if seed in kept],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the final folder, so that one step makes it appear.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as draft:
        work = Path(draft) / folder.name
        work.mkdir()
        for name, table in tables.items():
            write_table(work / name, table, ROWS[name])
        write_manifest(
            work,
            kind=RECORDS,
            registration=session.registration,
            files=list(tables),
            source=_source(session, arms),
            recorded=recorded,
        )
        work.replace(folder)


def _check_clean(session: Session) -> None:
    """Raise PreflightError where a recording could not say what it came from.

    That is the commit of the code, or the version that pip installed; and the commit of the
    user's folder, unless the experiment lies with the code.
    """
    clean, installed = is_dirty() is False, installed_version() is not None
    if clean and session.experiment.is_builtin:
        return
    if clean or installed:
        if (dirty := git_state(session.root)[1]) is False:
            return
        if dirty is None:
            raise PreflightError(
                f"a clean working tree (git tracks no file of {session.root})",
                remedy="Commit the experiment and its seals there (git init), then record.",
            )
    raise PreflightError(
        "a clean working tree", remedy="Commit or remove what `git status` lists, then record."
    )


def _check_place(folder: Path) -> None:
    """Raise SpecError where the folder holds something, or nothing can be written there."""
    above = next(place for place in folder.absolute().parents if place.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise SpecError(
            "folder",
            bound="a place in a folder that can be written",
            value=str(folder),
            remedy=f"Name another folder: {above.name} is none, or cannot be written.",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(
            "folder",
            bound="an empty or a new folder",
            value=folder.name,
            remedy="Remove the old record set first if it is to be replaced.",
        )


def _source(session: Session, arms: Sequence[str]) -> str:
    words = f"a run of profile {session.profile_description}, {describe_seeds(session.seeds)}"
    return words if len(arms) == len(session.all_arms) else f"{words}, arms {', '.join(arms)} alone"


def _check_seeds(texts: Sequence[int], session: Session) -> None:
    unknown = [seed for seed in texts if seed not in session.seeds]
    if unknown:
        raise SpecError(
            "--texts",
            bound=f"seeds of the recording, {', '.join(map(str, session.seeds))}",
            value=unknown[0],
            remedy="Name seeds that --seeds has, or leave --texts out to keep all texts.",
        )


def _tables(session: Session, *, texts: Sequence[int], geometry: bool) -> dict[str, pa.Table]:
    """Return the rows of every file of the record set by name."""
    models = session.registration.models(session.asked_arms)
    before = [model for model in models if model.phase == PRE]
    tables = {SCORES_FILE: session.table(models, "scores")}
    advice = session.experiment.asks_advice
    if advice:
        tables[ADVICE_FILE] = session.table(before, "advice")
    broad = session.experiment.asks_broad
    if broad:
        tables[BROAD_FILE] = session.table(before, "broad")
    after = [model for model in models if model.phase == POST]
    if session.registration.reads_slots:
        tables[SLOTS_FILE] = session.table(after, "slots")
    if session.registration.dose is not None:
        tables[DOSE_FILE] = session.table(after, "dose")
    if (traits := session.traits(session.asked_arms)) is not None:
        tables[TRAITS_FILE] = traits
    if geometry:
        tables[GEOMETRY_FILE] = session.table(models, "geometry")
    if texts:
        tables[TEXTS_FILE] = session.table(models, "completions", seeds=texts)
    if texts and advice:
        tables[ADVICE_TEXTS_FILE] = session.table(before, "advice_texts", seeds=texts)
    if texts and broad:
        tables[BROAD_TEXTS_FILE] = session.table(before, "broad_texts", seeds=texts)
    return tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="flatland record", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write the record set")
    options.add_options(parser.add_argument, options.RUN_OPTIONS)
    parser.add_argument("--arms", help="arms to record, for example C1,C2 (default: all)")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--texts", help="seeds whose completions are kept (default: all)")
    kept.add_argument("--without-text", action="store_true", help="keep scores only")
    parser.add_argument(
        "--geometry",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read hidden states and keep their cosines and ranks (default: yes)",
    )
    given = parser.parse_args(arguments)
    try:
        session = Session.of(given, Path.cwd(), progress=shown)
        session.arms = options.choose_arms(given.arms, session.registration)
        texts = None if given.texts is None else options.choose_seeds(given.texts, "--texts")
        record(
            session,
            given.folder,
            texts=() if given.without_text else texts,
            geometry=given.geometry,
        )
    except FlatlandError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(f"recorded: {given.folder}\n")
    return 0


def _origins(session: Session, *, geometry: bool) -> dict[str, list[Any]]:
    """Return the commits and the machines that built the stages behind the records, each once."""
    from persona_lib.store.stage import walk

    commits: set[str] = set()
    machines: list[dict[str, Any]] = []
    for run in session.runs:
        final = run.targets(session.asked_arms)
        if geometry:
            final += run.geometry_targets(session.asked_arms)
        for stage in walk(final):
            description = stage.resolve(session.store).provenance
            commits.add(_commit(stage, description))
            machines.append({k: v for k, v in description.items() if k not in _MOMENT})
    once = {json.dumps(machine, sort_keys=True): machine for machine in machines}
    return {
        "stages_built_from": sorted(commits),
        "stages_built_on": [once[key] for key in sorted(once)],
    }


def _commit(stage: Stage, origin: Mapping[str, Any]) -> str:
    """Return the commit that a stage was built from, or the version where it was installed.

    Raises:
        PreflightError: the tree was dirty.
    """
    git, installed = origin["git"], origin.get("installed")
    if git["dirty"] is None and installed:
        return f"{DISTRIBUTION} {installed}"
    if git["dirty"] is not False:
        raise PreflightError(
            f"a clean origin of stage {stage.name} {stage.label}",
            remedy="It was built from a tree with uncommitted changes: record into "
            "an empty store (--store=DIR).",
        )
    return str(git["commit"])


def _recorded(session: Session) -> dict[str, Any]:
    from persona_lib.commands.outcome import stages_of

    own = session.experiment
    return {
        "config": [run.describe() for run in session.runs],
        "study": digest(session.study),
        "study_commit": None if own.is_builtin else git_state(session.root)[0],
        "environment": provenance(),
        # The head fixes the chain, and with it what its entries say.
        "seal": {key: value for key, value in asdict(session.seal).items() if key in _SEAL},
        "stages": stages_of(session, session.asked_arms),
    }
