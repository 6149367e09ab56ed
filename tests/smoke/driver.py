"""One process of a micro run, for tests that kill it or start two of them.

`build` hands over the stages that its process built, the content of every arm's scores
and completions, digests of what was said, how often base weights were read (by the
process, and as its entries say), and every fingerprint that they had after a stage. A
record carries its seed, so that its bytes differ under another seed whatever was drawn;
what was said does not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from persona_lib.digests import digest
from persona_lib.models import base_cache as shared
from persona_lib.pipeline.completions import COMPLETIONS
from persona_lib.pipeline.run import Run
from persona_lib.pipeline.setting import Folders
from persona_lib.progress import Bar
from persona_lib.records import POST, PRE, Completion, ModelId, read_rows
from persona_lib.specs.builtin import DATA
from persona_lib.store import store as store_module
from persona_lib.store.stage import walk
from persona_lib.store.store import Entry, Store
from tests.registered import ISSUE262_HELD_OUT, MICRO
from tests.shared_base import fingerprints


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
    real = store_module.write_manifest

    def seal(key: Any, *args: Any, **kwargs: Any) -> Any:
        if key.stage == stage:
            kill()
        return real(key, *args, **kwargs)

    store_module.write_manifest = seal


def sentence(entry: Entry) -> str:
    """Digest of persona, question, sample and text of every completion of a stage."""
    rows = read_rows(entry.path / COMPLETIONS, Completion)
    return digest([[row.persona, row.question, row.sample, row.text] for row in rows])


def build(
    found: Connection,
    folder: Path,
    *,
    seed: int = 1,
    arms: Sequence[str] = ("C1",),
    geometry: bool = False,
    die: str | None = None,
) -> None:
    """Build the arms in a store; `die` is the LABEL:N of a progress bar, or seal:STAGE."""
    if die and die.startswith("seal:"):
        die_while_sealing(die.removeprefix("seal:"))
        die = None
    run = Run(
        registration=ISSUE262_HELD_OUT,
        profile=MICRO,
        run_seed=seed,
        folders=Folders(experiment=DATA),
        progress=progress(die),
    )
    store = Store(folder)
    built, records = [], {}
    weights: set[str] = set()
    starts = 0
    asked = [*run.targets(arms), *(run.geometry_targets(arms) if geometry else ())]
    for stage in walk(asked):
        entry = stage.resolve(store)
        if entry.built:
            built.append(f"{stage.name} {stage.label}")
            starts += entry.cost["engine_starts"]
        weights.update(fingerprints().values())
    texts = {}
    for arm in arms:
        prior = run.registration.arm(arm).prior
        drawn = run.stage(ModelId(POST, arm), "completions").resolve(store)
        records[arm] = run.stage(ModelId(POST, arm), "scores").resolve(store).content
        records[f"{arm} text"] = drawn.content
        texts[f"completions {arm}"] = sentence(drawn)
        texts[f"baseline {prior}"] = sentence(
            run.stage(ModelId(PRE, prior), "completions").resolve(store)
        )
        texts[f"coupling_text {prior}"] = sentence(run.texts[prior].resolve(store))
    report: dict[str, Any] = {
        "built": built,
        "records": records,
        "said": texts,
        "loads": shared.loads(),
        "starts": starts,
        "weights": sorted(weights),
    }
    found.send(report)
