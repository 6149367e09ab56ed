"""Seal a registration, amend one, check or export what is sealed.

    flatland seal issue262 --reason "..." --data-seen "..."
    flatland seal --check
    flatland seal --list
    flatland seal issue262 --prml DIR

The first adds a seal to golden/prereg: the registration, or an amendment of it, with the
date of this machine's clock. Commit what it writes before any run: docs/usage.md says
why. The last writes each sealed claim as a PRML manifest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from experiments.issue262 import REGISTRATIONS
from persona_lib.checks import member
from persona_lib.commands.session import PREREG
from persona_lib.errors import FlatlandError
from persona_lib.specs.chain import Seal, read_chain
from persona_lib.specs.prml import export
from persona_lib.specs.seal import append, check_sealed


def main(arguments: Sequence[str] | None = None, *, folder: Path = PREREG) -> int:
    """Run the command on the folders of registrations in `folder`; return its exit code."""
    parser = argparse.ArgumentParser(prog="flatland seal", description=__doc__)
    parser.add_argument("name", nargs="?", help=f"registration: {', '.join(REGISTRATIONS)}")
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
            "give a registration with --reason and --data-seen, or one with --prml, or --check, "
            "or --list"
        )
    code = 0
    for name in [options.name] if options.name else _names(folder):
        try:
            if options.prml:
                target = Path(options.prml) / name
                written = export(folder / name, target)
                text = f"{name}: {written} manifests, as sealed, in {target}"
            elif options.name:
                text = _seal(name, options.reason, options.data_seen, folder)
            else:
                text = _check(name, folder) if options.check else _list(name, folder)
        except (FlatlandError, OSError) as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            code = 1
        else:
            sys.stdout.write(f"{text}\n")
    return code


def _seal(name: str, reason: str | None, data_seen: str | None, folder: Path) -> str:
    remedy = "Enter it in REGISTRATIONS of experiments/issue262.py first."
    member("registration", name, tuple(REGISTRATIONS), remedy=remedy)
    seal = append(
        REGISTRATIONS[name],
        folder,
        date=datetime.now(UTC),
        reason=reason or "",
        data_seen=data_seen or "",
    )
    kind = f"amendment {seal.index} of {name}" if seal.index else name
    return f"sealed: {kind}, digest {seal.digest}\nhead {seal.hash}\ncommit {folder / name} now"


def _check(name: str, folder: Path) -> str:
    if name not in REGISTRATIONS:
        read_chain(folder / name)
        return f"{name}: intact, but no registration of experiments/issue262.py has this name"
    state = check_sealed(REGISTRATIONS[name], folder)
    return (
        f"{name}: sealed {state.date}, digest {state.digest[:12]}, "
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


def _names(folder: Path) -> list[str]:
    """Return the registrations of the code, then what else has a folder."""
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return list(dict.fromkeys([*REGISTRATIONS, *(n for n in present if not n.startswith("."))]))
