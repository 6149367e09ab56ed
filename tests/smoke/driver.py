"""One process of a micro run, for tests that kill it or start two of them.

    python -m tests.smoke.driver STORE [--seed N] [--arms C1,C2] [--die LABEL:N | --die seal:STAGE]

Prints one JSON object: the stages that this process built, and the digest of
every arm's scores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from experiments.issue262 import ISSUE262_HELD_OUT
from experiments.profiles import MICRO
from experiments.session import DATA
from persona_lib import store as store_module
from persona_lib.graph import walk
from persona_lib.pipeline import Folders, Run, targets
from persona_lib.progress import Bar
from persona_lib.records import POST
from persona_lib.store import Store


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyBar:
    """A progress bar that ends the process when it reaches `at`."""

    def __init__(self, at: int) -> None:
        self._left = at

    def update(self, n: int = 1) -> None:
        self._left -= n
        if self._left <= 0:
            kill()

    def close(self) -> None:
        """A bar has to close."""


def progress(die: str | None) -> Any:
    label, _, at = (die or "").rpartition(":")

    def start(shown: str, total: int, unit: str) -> Bar:
        del total, unit
        return DeadlyBar(int(at) if die and label == shown else 10**9)

    return start


def die_while_sealing(stage: str) -> None:
    """Kill the process when a stage's payload lies there and its manifest does not."""
    real = store_module.seal

    def seal(key: Any, *args: Any, **kwargs: Any) -> Any:
        if key.stage == stage:
            kill()
        return real(key, *args, **kwargs)

    store_module.seal = seal


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--arms", default="C1")
    parser.add_argument("--die")
    options = parser.parse_args()
    die = options.die
    if die and die.startswith("seal:"):
        die_while_sealing(die.removeprefix("seal:"))
        die = None
    run = Run(
        registration=ISSUE262_HELD_OUT,
        profile=MICRO,
        seed=options.seed,
        folders=Folders(experiment=DATA),
        progress=progress(die),
    )
    store = Store(Path(options.store))
    arms = options.arms.split(",")
    built, records = [], {}
    for stage in walk(targets(run, arms)):
        if stage.resolve(store).built:
            built.append(f"{stage.name} {stage.label}")
    for arm in arms:
        records[arm] = run.scores(POST, arm).resolve(store).content
        records[f"{arm} text"] = run.completions(POST, arm).resolve(store).content
    sys.stdout.write(json.dumps({"built": built, "records": records}) + "\n")


if __name__ == "__main__":
    main()
