"""The console script ``flatland``: commands beside the science tests that pytest runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "new": "write the folder of a study that runs at once",
    "check": "say what an experiment lacks here, and what it will cost",
    "seal": "seal an experiment, amend one, or check what is sealed",
    "record": "keep a run's scores and texts as a record set",
    "recipe": "try coupling recipes on C1 alone",
}
"""Each is `main` of the module of that name in `persona_lib.commands`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 2 for a name that is none of `COMMANDS`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        return int(import_module(f"persona_lib.commands.{given[0]}").main(given[1:]))
    asked = given[:1] in (["--help"], ["-h"])
    lines = [f"  flatland {name:<8}{what}" for name, what in COMMANDS.items()]
    text = "\n".join(["usage: flatland COMMAND [--help]", "", *lines, ""])
    (sys.stdout if asked else sys.stderr).write(text)
    return 0 if asked else 2
