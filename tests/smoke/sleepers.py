"""A process that builds a graph of slow stages, for tests that start several of them.

    python -m tests.smoke.sleepers STORE LOG [--seconds S] [--broken NAME]

The graph has a run's shape: a base, three priors, four arms. Every stage sleeps, and
writes a line to LOG when it begins and when it ends. Prints the stages that this process
built, in order.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from persona_lib.errors import DataError, FlatlandError
from persona_lib.store.stage import Stage, build
from persona_lib.store.store import Entry, Store

PRIORS = ("raw", "em", "benign")
ARMS = {"C1": "raw", "C2": "em", "C2p": "em", "C3": "benign"}
STAGES = ("base", *PRIORS, *ARMS, *(f"scores {arm}" for arm in ARMS))


def graph(log: Path, seconds: float, broken: str | None) -> list[Stage]:
    def note(name: str, what: str) -> None:
        line = json.dumps({"stage": name, "pid": os.getpid(), what: time.monotonic()})
        with log.open("a", encoding="utf-8") as file:  # appended in one write
            file.write(line + "\n")

    def stage(name: str, **inputs: Stage) -> Stage:
        def work(out: Path, _: Mapping[str, Entry]) -> dict[str, Any]:
            note(name, "begins")
            time.sleep(seconds)
            if name == broken:
                raise DataError(name, bound="whole", value="broken", remedy="Mend it.")
            (out / "file").write_text(name)
            note(name, "ends")
            return {}

        return Stage(name="stage", label=name, version=1, spec=name, work=work, inputs=inputs)

    base = stage("base")
    priors = {name: stage(name, base=base) for name in PRIORS}
    arms = {arm: stage(arm, prior=priors[prior]) for arm, prior in ARMS.items()}
    return [stage(f"scores {arm}", arm=made) for arm, made in arms.items()]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--broken")
    options = parser.parse_args()
    try:
        build(graph(options.log, options.seconds, options.broken), Store(options.store))
    except FlatlandError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
