"""Stages as a graph: what is built, in which order, and what is checked beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from persona_lib.errors import PreflightError
from persona_lib.pipeline.machine import lacking, refuse
from persona_lib.store.stage import Stage, build, plan, unready, walk
from persona_lib.store.store import Entry, Store
from tests.registered import MICRO
from tests.unit.test_store import get_or_make


@dataclass
class Log:
    """What was built and what was asked for beforehand, in order."""

    built: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def stage(self, name: str, *, text: str = "", **options: Any) -> Stage:
        def work(out: Path, entries: Mapping[str, Entry]) -> dict[str, Any]:
            self.built.append(name)
            (out / "file").write_text(text or name)
            return {"read": sorted(entries)}

        options.setdefault("preflight", lambda: self.asked.append(name))
        return Stage(name=name, label=name, version=1, spec=name, work=work, **options)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def check(stages: list[Stage], store: Store) -> None:
    """As `Run.check` does, under a profile that needs no GPU."""
    refuse(lacking(MICRO, stages, store))


def names(stages: Any) -> list[str]:
    return [stage.name for stage in stages]


def test_what_comes_before_is_built_first_and_is_no_part_of_the_key(log: Log, store: Store) -> None:
    base = log.stage("base")
    proof = log.stage("proof", inputs={"base": base})
    after = log.stage("late", inputs={"base": base}, after=(proof,))
    entry = after.resolve(store)
    assert log.built == ["base", "proof", "late"]
    assert entry.meta == {"read": ["base"]}
    assert set(entry.key.inputs) == {"base"}
    plain = log.stage("late", inputs={"base": base})
    assert plain.resolve(store).key == entry.key
    assert log.built == ["base", "proof", "late"]


def test_a_stage_is_stored_whether_or_not_what_came_before_it_still_is(
    log: Log, store: Store
) -> None:
    log.stage("late").resolve(store)
    late = log.stage("late", after=(log.stage("proof"),))
    assert [(line.stage.name, line.stored) for line in plan([late], store)] == [
        ("proof", False),
        ("late", True),
    ]
    late.resolve(store)  # the proof is asked for all the same
    assert log.built == ["late", "proof"]


def test_what_fails_before_a_stage_stops_it(log: Log, store: Store) -> None:
    """As a marker that cannot be written stops whatever would be trained on it."""

    def broken(_: Path, __: Mapping[str, Entry]) -> dict[str, Any]:
        raise PreflightError("a part", remedy="Mend it.")

    proof = Stage(name="proof", label="", version=1, spec=0, work=broken)
    with pytest.raises(PreflightError, match="a part"):
        log.stage("late", after=(proof,)).resolve(store)
    assert log.built == []


def test_walking_yields_each_stage_once_after_all_that_it_needs(log: Log) -> None:
    base = log.stage("base")
    proof = log.stage("proof", inputs={"base": base})
    rows = log.stage("rows")
    prior = log.stage("prior", inputs={"base": base, "rows": rows}, after=(proof,))
    last = log.stage("last", inputs={"prior": prior}, after=(proof,))
    assert names(walk([last, prior, last])) == ["base", "proof", "rows", "prior", "last"]


def test_what_is_missing_is_checked_and_planned_with_what_comes_before(
    log: Log, store: Store
) -> None:
    late = log.stage("late", after=(log.stage("proof", estimate=3.0),), estimate=4.0)
    check([late], store)
    assert log.asked == ["proof", "late"]
    assert sum(line.seconds for line in plan([late], store)) == 7.0
    assert log.built == []
    late.after[0].resolve(store)
    check([late], store)
    assert log.asked == ["proof", "late", "late"]


def test_another_content_below_is_another_key_above(log: Log, store: Store) -> None:
    one, other = (log.stage("base", text=text, seed=seed) for seed, text in enumerate("ab"))
    same = log.stage("base", text="a", seed=2)
    keys = [
        log.stage("late", inputs={"base": base}).resolve(store).key for base in (one, other, same)
    ]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]
    assert log.built == ["base", "late", "base", "late", "base"]


def test_what_is_only_referred_to_is_checked_while_somebody_is_to_read_it(
    log: Log, store: Store
) -> None:
    """The entry is stored, but the weights that it names have gone from this machine."""

    def gone() -> None:
        raise PreflightError("the weights", remedy="Fetch them.")

    base = log.stage("base", reference=True, preflight=gone)
    reader = log.stage("reader", inputs={"base": base})
    last = log.stage("last", inputs={"reader": reader})
    for _ in range(2):
        with pytest.raises(PreflightError, match="the weights"):
            check([last], store)
        # All that is missing is raised at once, so that whatever is left is asked too.
        assert log.asked == ["reader", "last"]
        log.asked.clear()
        base.resolve(store)
    # Who reads that a store cannot be written is told of a stage that is missing.
    assert names(unready([last], store)) == ["reader", "last", "base"]
    reader.resolve(store)
    # Nothing that is left to build reads the weights: they are not missed.
    check([last], store)
    assert log.asked == ["last"]
    kept = log.stage("base", preflight=gone)
    check([log.stage("fresh", inputs={"base": kept})], store)
    assert log.asked == ["last", "fresh"]


# ---- several processes in one store ----------------------------------------------------


def diamond(log: Log) -> list[Stage]:
    """Two arms on one base, as in a run: base, proof, text, two couplings, two scores."""
    base = log.stage("base")
    proof = log.stage("proof", inputs={"base": base})
    text = log.stage("text", inputs={"base": base}, after=(proof,))
    couplings = [log.stage(f"coupling{arm}", inputs={"text": text}, after=(proof,)) for arm in "12"]
    return [
        log.stage(f"scores{arm}", inputs={"base": base, "coupling": coupling})
        for arm, coupling in zip("12", couplings, strict=True)
    ]


def test_a_process_by_itself_builds_depth_first(log: Log, store: Store) -> None:
    first, second = diamond(log)
    entries = build([second, first], store, spare=[log.stage("spare")])
    assert log.built == [
        "base", "proof", "text", "coupling2", "scores2", "coupling1", "scores1",
    ]  # fmt: skip
    assert [entry.key.stage for entry in entries] == ["scores2", "scores1"]
    assert [entry.content for entry in build([second, first], store)] == [
        entry.content for entry in entries
    ]
    assert len(log.built) == 7


class Elsewhere:
    """Another process, as its locks show it."""

    def __init__(self, store: Store) -> None:
        self.store, self.held = store, ExitStack()

    def builds(self, stage: Stage) -> None:
        """Hold the lock of a stage."""
        found = {line.stage: line.entry for line in plan([stage], self.store)}
        entries = {name: found[up] for name, up in stage.inputs.items()}
        key = stage.key({name: entry for name, entry in entries.items() if entry})
        self.held.enter_context(FileLock(self.store.root / "locks" / f"{key.digest}.lock"))


@pytest.fixture
def elsewhere(store: Store) -> Iterator[Elsewhere]:
    other = Elsewhere(store)
    with other.held:
        yield other


def waiting(log: Log, root: Path, then: Callable[[], object]) -> tuple[Store, list[str]]:
    """A store that notes when it waits, and does something then; and what it says."""
    sentences: list[str] = []

    def on_wait(sentence: str) -> None:
        sentences.append(sentence)
        log.built.append("wait")
        then()

    return Store(root, on_wait=on_wait), sentences


def test_what_is_built_elsewhere_is_passed_over_and_waited_for_last(
    log: Log, tmp_path: Path, elsewhere: Elsewhere
) -> None:
    store, sentences = waiting(log, tmp_path, elsewhere.held.close)
    first, second = diamond(log)
    text = first.inputs["coupling"].inputs["text"]
    build([text], store)
    elsewhere.builds(first.inputs["coupling"])
    build([first, second], store)
    assert log.built == [
        "base", "proof", "text", "coupling2", "scores2", "wait", "coupling1", "scores1",
    ]  # fmt: skip
    assert [one[: len("waiting for coupling1 coupling1 (")] for one in sentences] == [
        "waiting for coupling1 coupling1 ("
    ]


def test_rather_than_wait_it_builds_what_others_will_want(
    log: Log, tmp_path: Path, elsewhere: Elsewhere
) -> None:
    store, sentences = waiting(log, tmp_path, elsewhere.held.close)
    wanted, spare = log.stage("wanted"), log.stage("spare", inputs={"early": log.stage("early")})
    busy = log.stage("busy")
    elsewhere.builds(wanted)
    elsewhere.builds(busy)
    build([wanted], store, spare=[wanted, busy, spare])
    assert log.built == ["early", "spare", "wait", "wanted"]
    assert len(sentences) == 1  # nobody waits for a spare stage


def test_what_another_process_stores_meanwhile_is_taken_and_not_built(
    log: Log, tmp_path: Path, elsewhere: Elsewhere
) -> None:
    def stores() -> None:
        elsewhere.held.close()
        get_or_make(Store(tmp_path), wanted.key({}), lambda out: wanted.work(out, {}))

    store, _ = waiting(log, tmp_path, stores)
    wanted = log.stage("wanted")
    elsewhere.builds(wanted)
    (entry,) = build([wanted], store)
    assert log.built == ["wait", "wanted"]
    assert not entry.built
