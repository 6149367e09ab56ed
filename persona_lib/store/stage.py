"""Stages as a graph: what each one reads, how it is keyed, built, planned.

A stage's key holds the *content* of what it reads, so an upstream stage that was
built anew to the same bytes leaves everything below it cached, and one that came
out different does not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persona_lib.errors import FlatlandError, SpecError
from persona_lib.store.store import Entry, StageKey, Store

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.2

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
        after: stages that must have gone well before this one is built or taken,
            though nothing of theirs is read; they are not in its key.
        data: digests of data files it reads.
        seed: root seed of its draws.
        estimate: seconds that it is expected to take.
        preflight: raises if this machine lacks something that `work` needs.
        reference: the entry only says where on this machine its content lies, so
            that the preflight is asked again whenever somebody is to read it.
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

    def peek(self, store: Store) -> Entry | None:
        """Return the entry if it and everything it reads are stored, else None."""
        entries: dict[str, Entry] = {}
        for name, stage in self.inputs.items():
            entry = stage.peek(store)
            if entry is None:
                return None
            entries[name] = entry
        return store.peek(self.key(entries))


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
        """What the entry says of its cost (`persona_lib.store.cost`), empty where there is none."""
        return {} if self.entry is None else self.entry.cost


def walk(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Yield every stage once, whatever it needs before itself."""
    seen: set[int] = set()

    def visit(stage: Stage) -> Iterator[Stage]:
        if id(stage) in seen:
            return
        seen.add(id(stage))
        for upstream in (*stage.after, *stage.inputs.values()):
            yield from visit(upstream)
        yield stage

    for stage in stages:
        yield from visit(stage)


def build(stages: Iterable[Stage], store: Store, *, spare: Iterable[Stage] = ()) -> list[Entry]:
    """Return the entries of stages, building them and all that they need.

    Alone, a process builds in the order of `walk`. Where others build in the same
    store, it passes over what one of them is building and takes the next stage that
    is ready; it waits only while there is none, and takes over what a process that
    failed or died has left.

    Args:
        stages: what is wanted.
        store: where entries are kept.
        spare: what somebody will want of this store: built, with all that it needs,
            rather than waiting. What fails there is told to whoever wants it.

    Raises:
        FlatlandError: see `Store.get_or_make`; or a wanted stage failed before in this
            command (`Store.failures`), which is told before anything else is built.
        Exception: whatever the work of a wanted stage raises.
    """
    wanted = list(stages)
    builder = _Builder(store)
    left = list(walk(wanted))
    if store.failures:
        builder.refuse_failed(left)
    others = list(walk(spare))
    description: set[str] = set()
    while left:
        if builder.advance(left):
            continue
        if builder.advance(others, lenient=True):
            continue
        # All that is ready is being built elsewhere.
        for key in builder.busy:
            if key.digest not in description:
                store.report_waiting(key)
                description.add(key.digest)
        time.sleep(_POLL_SECONDS)
    return [builder.entries[id(stage)] for stage in wanted]


class _Builder:
    """Takes the first stage that is ready and free, and remembers what is stored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.entries: dict[int, Entry] = {}
        self.busy: list[StageKey] = []

    def refuse_failed(self, stages: list[Stage]) -> None:
        """Take what is stored; raise what is known of the first stage that failed before."""
        for stage in stages:
            if not self._ready(stage):
                continue
            key = stage.key({name: self.entries[id(up)] for name, up in stage.inputs.items()})
            entry, failed = self._store.peek(key), self._store.failures.of(key)
            if entry is not None:
                self.entries[id(stage)] = entry
            elif failed is not None:
                raise failed

    def advance(self, left: list[Stage], *, lenient: bool = False) -> bool:
        """Take stages out of `left` that are stored; stop behind the first that was built.

        Returns whether any was taken. With `lenient`, a stage that fails is taken out
        as well, and what needs it is never ready.
        """
        taken = False
        self.busy = [] if not lenient else self.busy
        for stage in list(left):
            if id(stage) in self.entries:
                left.remove(stage)
                continue
            if not self._ready(stage):
                continue
            try:
                entry = self._take(stage)
            except Exception as error:
                if not lenient:
                    raise
                # It is told where a test or a command wants it.
                trace = None if isinstance(error, FlatlandError) else error
                _LOG.warning("%s %s: failed: %s", stage.name, stage.label, error, exc_info=trace)
                left.remove(stage)
                continue
            if entry is None:
                continue
            self.entries[id(stage)] = entry
            left.remove(stage)
            taken = True
            if entry.built:
                # Meanwhile an earlier one may have been stored by somebody else.
                break
        return taken

    def _ready(self, stage: Stage) -> bool:
        return all(id(up) in self.entries for up in (*stage.after, *stage.inputs.values()))

    def _take(self, stage: Stage) -> Entry | None:
        entries = {name: self.entries[id(up)] for name, up in stage.inputs.items()}
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
            self.busy.append(key)
        return entry


def plan(stages: Iterable[Stage], store: Store) -> list[Planned]:
    """Return what is stored and what the rest may cost; builds nothing."""
    lines = []
    for stage in walk(stages):
        entry = stage.peek(store)
        seconds = stage.estimate if entry is None else entry.seconds
        lines.append(Planned(stage=stage, seconds=seconds, entry=entry))
    return lines


def check_machine(stages: Iterable[Stage], store: Store) -> None:
    """Run the preflight of every stage that would have to be built.

    A stage that is only a reference is asked as well while something that reads
    it would have to be built: what it refers to may have gone since.

    Raises:
        PreflightError: something is missing, found before any compute is spent.
        DataError: something is there and is not what the profile says.
    """
    every = list(walk(stages))
    missing = {id(stage) for stage in every if stage.peek(store) is None}
    read = {id(up) for stage in every if id(stage) in missing for up in stage.inputs.values()}
    for stage in every:
        needed = id(stage) in missing or (stage.reference and id(stage) in read)
        if stage.preflight is not None and needed:
            stage.preflight()
