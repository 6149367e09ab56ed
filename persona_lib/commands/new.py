"""Write the folder of a study that runs at once on the model that is built here.

    flatland new my_study
    cd my_study
    pytest -m h1

It is sealed as it is written. Change experiment.toml, then plan it and seal your own::

    pytest --plan
    flatland seal experiment.toml --reason "..." --data-seen none

Nothing that is there is overwritten. docs/extending.md has every key of experiment.toml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from persona_lib.commands.options import choose_experiment
from persona_lib.commands.seal import seal_experiment
from persona_lib.errors import FlatlandError, SpecError
from persona_lib.specs.builtin import FOLDER
from persona_lib.specs.experiment import FILE, TEMPLATE
from persona_lib.specs.seal import NONE_SEEN


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="flatland new",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to write; made where it does not exist")
    given = parser.parse_args(arguments)
    try:
        written = write_study(given.folder)
    except (FlatlandError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write("".join(f"written: {path}\n" for path in written))
    sys.stdout.write(f"next: cd {given.folder} && pytest -m h1\n")
    return 0


def write_study(folder: Path) -> list[Path]:
    """Copy the template of a study into a folder; return what was written.

    Raises:
        SpecError: a file of the template is there already.
        OSError: the folder cannot be written.
    """
    template = FOLDER / TEMPLATE
    files = {path: folder / _name(path) for path in sorted(template.iterdir())}
    for target in files.values():
        if target.exists():
            raise SpecError(
                "folder",
                bound=f"a folder without {target.name}",
                value=str(folder),
                remedy="Name another folder: nothing is overwritten.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in files.items():
        target.write_bytes(source.read_bytes())
    experiment = choose_experiment(str(folder / FILE))
    seal_experiment(experiment, "the study that flatland new writes", NONE_SEEN)
    return [*files.values(), experiment.seals / experiment.name]


def _name(path: Path) -> str:
    """Return what a file of the template is called in a study."""
    name = path.name.removesuffix(".txt")
    return f".{name}" if name == "gitignore" else name
