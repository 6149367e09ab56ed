"""Seal an experiment, amend one, check or export what is sealed.

    flatland seal experiment.toml --reason "..." --data-seen "..."
    flatland seal --check
    flatland seal --list
    flatland seal issue262 --prml DIR

The first adds a seal to the folder ``seals`` beside the file: the registration, or an
amendment of it, with the date of this machine's clock. Commit what it writes before any
run: docs/usage.md says why. The last writes each sealed claim as a PRML manifest. Built-in
experiments are named without a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from persona_lib.commands.options import choose_experiment
from persona_lib.commands.profiles import profile_of
from persona_lib.commands.session import Session
from persona_lib.errors import FlatlandError, SpecError
from persona_lib.specs.builtin import EXPERIMENTS, INSTALLED
from persona_lib.specs.chain import Seal, read_chain
from persona_lib.specs.experiment import FILE, Experiment
from persona_lib.specs.prml import export
from persona_lib.specs.seal import append, check_sealed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="flatland seal", description=__doc__)
    parser.add_argument("name", nargs="?", help="a file, or one of the built-in experiments")
    parser.add_argument("--reason", help="why it is registered, or amended")
    parser.add_argument("--data-seen", help='which data have been seen; state "none" if none')
    parser.add_argument("--prml", metavar="DIR", help="write its claims as PRML manifests there")
    parser.add_argument("--check", action="store_true", help="check every registration")
    parser.add_argument("--list", action="store_true", help="print every chain")
    options = parser.parse_args(arguments)
    modes = [bool(options.name), options.check, options.list]
    of_name = [options.reason or options.data_seen, options.prml]
    if sum(modes) != 1 or all(of_name) or (any(of_name) and not options.name):
        parser.error(
            "give an experiment with --reason and --data-seen, or one with --prml; or --check or "
            "--list, which take no experiment"
        )
    code = 0
    for folder, name in [("", options.name)] if options.name else _names(Path.cwd()):
        try:
            if options.name:
                text = _one(name, options)
            else:
                text = _check(name, Path(folder)) if options.check else _list(name, Path(folder))
        except (FlatlandError, OSError) as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            code = 1
        else:
            sys.stdout.write(f"{text}\n")
    return code


def _one(name: str, options: argparse.Namespace) -> str:
    """Seal one experiment, or export its seals."""
    experiment = choose_experiment(name)
    own = experiment.seals / experiment.name
    if options.prml:
        target = Path(options.prml) / experiment.name
        written = export(own, target)
        return f"{experiment.name}: {written} manifests, as sealed, in {target}"
    seal = seal_experiment(experiment, options.reason or "", options.data_seen or "")
    kind = f"amendment {seal.index} of {experiment.name}" if seal.index else experiment.name
    return f"sealed: {kind}, digest {seal.digest}\nhead {seal.hash}\ncommit {own} now"


def seal_experiment(experiment: Experiment, reason: str, data_seen: str) -> Seal:
    """Seal the rules of an experiment, and of a file its study; see `specs.seal.append`.

    Raises:
        SpecError: it came with an installed library, whose folder is nobody's record.
    """
    if experiment.is_builtin and INSTALLED:
        raise SpecError(
            "experiment",
            bound="a file of your own",
            value=experiment.name,
            remedy=f'Write one with derives_from = "{experiment.name}", and seal that.',
        )
    return append(
        experiment.registration,
        experiment.seals,
        study=_study(experiment),
        date=datetime.now(UTC),
        reason=reason,
        data_seen=data_seen,
    )


def _study(experiment: Experiment) -> dict[str, Any] | None:
    """Return the study of a file: its model at its scale, its corpora, personas and questions.

    None for a built-in experiment, and where stored evidence alone is judged.
    """
    if experiment.is_builtin or experiment.evidence.only:
        return None
    profile, _ = profile_of(experiment)
    return Session(experiment=experiment, profile=profile).study


def _check(name: str, folder: Path) -> str:
    known = {one.name: one for one in _known(Path.cwd())}
    if name not in known or known[name].seals != folder:
        read_chain(folder / name)
        return f"{name}: intact, but no experiment here has this name"
    one = known[name]
    state = check_sealed(
        one.registration,
        folder,
        study=_study(one),
        file="" if one.is_builtin else one.path.name,
    )
    study = f", study {state.study[:12]}" if state.study else ""
    return (
        f"{name}: sealed {state.date}, digest {state.digest[:12]}{study}, "
        f"{state.amendments} amendments, head {state.head}"
    )


def _list(name: str, folder: Path) -> str:
    seals = read_chain(folder / name)
    return "\n".join([name, *map(_lines, seals)]) if seals else f"{name}\n  not sealed"


def _lines(seal: Seal) -> str:
    return (
        f"  {seal.index} {seal.date} digest {seal.digest[:12]} hash {seal.hash[:12]}\n"
        f"    reason:    {seal.reason}\n"
        f"    data seen: {seal.data_seen}"
    )


def _known(root: Path) -> list[Experiment]:
    """Return the experiment of a folder, if it has one, and the built-in ones."""
    own = [choose_experiment(str(root / FILE))] if (root / FILE).is_file() else []
    return [*own, *EXPERIMENTS.values()]


def _names(root: Path) -> list[tuple[str, str]]:
    """Return folder and name of the seals of every experiment, then what else lies there."""
    known = [(str(one.seals), one.name) for one in _known(root)]
    present = [
        (folder, path.name)
        for folder in dict.fromkeys(folder for folder, _ in known)
        for path in (sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ())
        if not path.name.startswith(".")
    ]
    return list(dict.fromkeys([*known, *present]))
