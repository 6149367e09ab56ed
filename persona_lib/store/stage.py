"""Stages: where key, version, estimate, preflight and work of a step are declared.

A stage's key holds the *content* of what it reads, so an upstream stage that was
built anew to the same bytes leaves everything below it cached, and one that came
out different does not.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persona_lib.errors import FlatlandError, SpecError
from persona_lib.store.store import Entry, StageKey, Store

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.2
_REPORTED_PASS = 2
"""Not the first: that builder may begin or end at this moment."""

Work = Callable[[Path, Mapping[str, Entry]], Mapping[str, Any]]
"""Writes a stage's files into a folder, reading its inputs; returns JSON about it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One cached step.

    Attributes:
        name: kind of stage, a folder of the store ("coupling").
        label: which one of its kind, for people ("C2").
        version: version of its code.
        spec: every number and text that changes its outcome.
        work: builds it.
        inputs: the stages it reads, by the name it knows them by.
        after: stages that must succeed before this one is built or taken, though it
            reads nothing of them; they are not in its key.
        data: digests of data files it reads.
        seed: the seed of its draws: the run_seed, or one derived from it.
        estimate: seconds that it is expected to take.
        preflight: raises if this machine lacks something that `work` needs.
        reference: the entry only says where on this machine its content lies, so
            that the preflight is run again before anything reads it.
    """

    name: str
    label: str
    version: int
    spec: object
    work: Work
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    after: tuple[Stage, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    estimate: float = 0.0
    preflight: Callable[[], None] | None = None
    reference: bool = False

    def key(self, entries: Mapping[str, Entry]) -> StageKey:
        """Return the key, given the entries of the inputs.

        Raises:
            SpecError: an input and a data file share a name.
        """
        clash = sorted(set(self.data) & set(entries))
        if clash:
            raise SpecError(
                f"stage {self.name}: inputs",
                bound="names that no data file has",
                value=clash[0],
                remedy="Rename the input or the data file.",
            )
        contents = {name: entry.content for name, entry in entries.items()}
        return StageKey(
            stage=self.name,
            version=self.version,
            spec=self.spec,
            inputs={**self.data, **contents},
            seed=self.seed,
        )

    def resolve(self, store: Store) -> Entry:
        """Return the entry, building it and what it needs where they are not stored.

        Raises:
            FlatlandError, Exception: see `build`.
        """
        return build((self,), store)[0]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One line of a plan: a stage, seconds it took or may take, and its entry if it is stored."""

    stage: Stage
    seconds: float
    entry: Entry | None = None

    @property
    def stored(self) -> bool:
        """Whether there is an entry."""
        return self.entry is not None

    @property
    def cost(self) -> Mapping[str, Any]:
        """The cost that the entry records (`persona_lib.store.cost`), empty without an entry."""
        return {} if self.entry is None else self.entry.cost


def walk(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Yield every stage once, whatever it needs before itself."""
    seen: set[Stage] = set()

    def visit(wanted: Iterable[Stage]) -> Iterator[Stage]:
        for stage in wanted:
            if stage not in seen:
                seen.add(stage)
                yield from visit((*stage.after, *stage.inputs.values()))
                yield stage

    yield from visit(stages)


def plan(stages: Iterable[Stage], store: Store) -> list[Planned]:
    """Return what is stored and what the rest may cost; builds nothing."""
    return [
        Planned(stage=stage, entry=entry, seconds=entry.seconds if entry else stage.estimate)
        for stage, entry in _stored(stages, store).items()
    ]


def unready(stages: Iterable[Stage], store: Store) -> list[Stage]:
    """Return every stage that would have to be built, in the order of `walk`.

    Behind them stand stored ones that are only references, if one of those before reads them:
    what they refer to may have gone since.
    """
    found = _stored(stages, store)
    missing = [stage for stage, entry in found.items() if entry is None]
    read = {up for stage in missing for up in stage.inputs.values()}
    return [*missing, *(s for s, entry in found.items() if entry and s.reference and s in read)]


def _stored(stages: Iterable[Stage], store: Store) -> dict[Stage, Entry | None]:
    """Return every stage in the order of `walk`, with its entry if all it reads is stored."""
    found: dict[Stage, Entry | None] = {}
    for stage in walk(stages):
        inputs = {name: found[up] for name, up in stage.inputs.items()}
        entries = {name: entry for name, entry in inputs.items() if entry is not None}
        found[stage] = store.peek(stage.key(entries)) if len(entries) == len(inputs) else None
    return found


def build(stages: Iterable[Stage], store: Store, *, spare: Iterable[Stage] = ()) -> list[Entry]:
    """Return the entries of stages, building them and all that they need in the order of `walk`.

    Where others build in the same store, a process skips what one of them is building, and
    waits only while no other stage is ready. It takes over from one that failed or died.

    Args:
        stages: what is wanted.
        store: where entries are kept.
        spare: stages to build while all wanted ones are locked; failures are only logged.

    Raises:
        FlatlandError: see `Store.make_if_free`; or a wanted stage failed before in this
            command (`Store.failures`), which is raised before anything else is built.
        Exception: whatever the work of a wanted stage raises.
    """
    wanted = list(stages)
    builder = _Builder(store)
    left = list(walk(wanted))
    if store.failures:
        builder.refuse_failed(left)
    others = list(walk(spare))
    passes: Counter[StageKey] = Counter()
    while left:
        if builder.advance(left):
            continue
        waiting = builder.busy
        if builder.advance(others, lenient=True):
            continue
        # All that is ready is being built elsewhere.
        for key, label in waiting.items():
            passes[key] += 1
            if passes[key] == _REPORTED_PASS:
                store.report_waiting(key, label)
        time.sleep(_POLL_SECONDS)
    return [builder.entries[stage] for stage in wanted]


class _Builder:
    """Takes the first stage that is ready and free, and remembers what is stored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.entries: dict[Stage, Entry] = {}
        self.busy: dict[StageKey, str] = {}

    def refuse_failed(self, stages: list[Stage]) -> None:
        """Take what is stored; raise what is known of the first stage that failed before."""
        for stage in filter(self._is_ready, stages):
            key = stage.key(self._inputs(stage))
            entry, failed = self._store.peek(key), self._store.failures.of(key)
            if entry is not None:
                self.entries[stage] = entry
            elif failed is not None:
                raise failed

    def advance(self, left: list[Stage], *, lenient: bool = False) -> bool:
        """Take stages out of `left` that are stored; stop behind the first that was built.

        Return whether any was taken. With `lenient`, a stage that fails is taken out
        as well, and what needs it is never ready.
        """
        taken = False
        self.busy = {}
        for stage in list(left):
            if not self._is_ready(stage):
                continue
            try:
                entry = self.entries.get(stage) or self._take(stage)
            except Exception as error:
                if not lenient:
                    raise
                # It is raised where a test or a command wants it.
                trace = None if isinstance(error, FlatlandError) else error
                _LOG.warning("%s %s: failed: %s", stage.name, stage.label, error, exc_info=trace)
                left.remove(stage)
                continue
            if entry is None:
                continue
            self.entries[stage] = entry
            left.remove(stage)
            taken = True
            if entry.built:
                # Meanwhile another process may have stored an earlier one.
                break
        return taken

    def _is_ready(self, stage: Stage) -> bool:
        return all(up in self.entries for up in (*stage.after, *stage.inputs.values()))

    def _inputs(self, stage: Stage) -> dict[str, Entry]:
        return {name: self.entries[up] for name, up in stage.inputs.items()}

    def _take(self, stage: Stage) -> Entry | None:
        entries = self._inputs(stage)
        key, failures = stage.key(entries), self._store.failures
        begun = False

        def make(out: Path) -> Mapping[str, Any]:
            # Asked with the lock held: a worker of this command may have had it before.
            failed = failures.of(key)
            if failed is not None:
                raise failed
            nonlocal begun
            begun = True
            return stage.work(out, entries)

        try:
            entry = self._store.make_if_free(key, make)
        except Exception as error:
            if begun:
                failures.add(key, stage.label, error)
            raise
        if entry is None:
            self.busy[key] = stage.label
        return entry
