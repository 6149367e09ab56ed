"""Say everything at once: what an experiment file lacks, what this machine lacks, the cost.

    flatland check experiment.toml

Nothing is downloaded or computed; unsealed drafts are checked too. The exit code is 1 where
something is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from persona_lib.commands import options
from persona_lib.commands.plan import missing_of, plan_text
from persona_lib.commands.session import Session
from persona_lib.errors import FlatlandError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="flatland check", description=__doc__)
    parser.add_argument("experiment", nargs="?", help="a file, or a built-in experiment")
    options.add_options(
        parser.add_argument, [name for name in options.RUN_OPTIONS if name != "experiment"]
    )
    given = parser.parse_args(arguments)
    try:
        session = Session.of(given, Path.cwd())
    except FlatlandError as error:
        for one in (error, *getattr(error, "others", ())):
            sys.stderr.write(f"{type(one).__name__}: {one}\n")
        return 1
    if session.experiment.evidence.only:
        words = "the rules are in order; the file says evidence.only, so that nothing is run"
        sys.stdout.write(f"{session.experiment.name}: {words}\n")
        return 0
    sys.stdout.write(f"{plan_text(session)}\n")
    return 1 if missing_of(session) else 0
