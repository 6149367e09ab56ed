"""A stage that failed raises its error once in a command, and is not built again."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from persona_lib.errors import CorruptEntryError, DataError, FlatlandError, StoreError
from persona_lib.store.stage import Stage, build, walk
from persona_lib.store.store import Entry, Store
from tests.registered import ISSUE262, MICRO, session_under

BROKEN = DataError("rows", bound="whole", value="half", remedy="Mend it.")
AGAIN = (
    "broken C2 failed before in this command and is not built again: "
    "rows: expected whole, got 'half'. Mend it."
)


class Graph:
    """base -> broken -> below, and base -> sound; counts how often each is built."""

    def __init__(self, error: BaseException = BROKEN) -> None:
        self.built: list[str] = []
        self.error: BaseException | None = error
        self.base = self.stage("base")
        self.broken = self.stage("broken", base=self.base)
        self.below = self.stage("below", broken=self.broken)
        self.sound = self.stage("sound", base=self.base)

    def stage(self, name: str, **inputs: Stage) -> Stage:
        def work(out: Path, _: Mapping[str, Entry]) -> dict[str, Any]:
            self.built.append(name)
            if name == "broken" and self.error is not None:
                raise self.error
            (out / "file").write_text(name)
            return {}

        label = "C2" if name == "broken" else name
        return Stage(name=name, label=label, version=1, spec=name, work=work, inputs=inputs)


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def failure(wanted: Stage | list[Stage], store: Store, **options: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (any: its type is what is tested)
        build(wanted if isinstance(wanted, list) else [wanted], store, **options)
    return caught.value


def test_it_is_built_once_and_raised_again(graph: Graph, store: Store) -> None:
    assert failure(graph.below, store) is BROKEN
    for wanted in (graph.below, graph.broken, [graph.sound, graph.stage("costly"), graph.below]):
        again = failure(wanted, store)  # before anything else is built
        assert (type(again), str(again)) == (DataError, AGAIN)
        # The fields of its type, as text.
        assert vars(again) == {
            "field": "rows", "bound": "whole", "value": "half", "remedy": "Mend it.",
        }  # fmt: skip
        assert graph.built == ["base", "broken"]
    (entry,) = build([graph.sound], store)
    assert entry.built
    assert graph.built == ["base", "broken", "sound"]


def test_an_equal_stage_of_another_run_is_the_same_stage(graph: Graph, store: Store) -> None:
    """Two seeds share a base: each run has a stage object of its own for it."""
    other = Graph()
    failure(graph.below, store)
    assert str(failure(other.below, store)) == AGAIN
    assert other.built == []


def test_a_failure_while_building_for_others_counts(graph: Graph, tmp_path: Path) -> None:
    wanted = Graph().stage("elsewhere")
    lock = FileLock(tmp_path / "locks" / f"{wanted.key({}).digest}.lock")
    store = Store(tmp_path, on_wait=lambda _: lock.release())
    lock.acquire()
    (entry,) = build([wanted], store, spare=[graph.below])
    assert entry.built
    assert graph.built == ["base", "broken"]
    assert str(failure([graph.stage("other"), graph.below], store)) == AGAIN
    assert graph.built == ["base", "broken"]


@pytest.mark.parametrize(
    "commands", [(None, None), ("run1", "run2"), ("run1", None), ("run1", "run1")]
)
def test_processes_of_one_command_share_failures_and_no_others_do(
    commands: tuple[str | None, str | None], graph: Graph, tmp_path: Path
) -> None:
    first, second = (Store(tmp_path, command=command) for command in commands)
    assert failure(graph.below, first) is BROKEN
    same = commands == ("run1", "run1")
    error = failure(graph.below, second)
    assert str(error) == (AGAIN if same else str(BROKEN))
    assert type(error) is DataError
    assert graph.built == ["base", "broken"] + ([] if same else ["broken"])
    graph.error = None
    build([graph.below], Store(tmp_path, command="run3"))


def test_what_another_process_has_stored_meanwhile_is_taken(
    graph: Graph, store: Store, tmp_path: Path
) -> None:
    elsewhere = Graph()
    failure(graph.below, store)
    elsewhere.error = None
    build([elsewhere.broken], Store(tmp_path))
    build([graph.below], store)
    assert graph.built == ["base", "broken", "below"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), pytest.fail.Exception("x")])
def test_whoever_stops_a_build_has_not_made_it_fail(error: BaseException, store: Store) -> None:
    graph = Graph(error)
    for _ in range(2):
        with pytest.raises(type(error)):
            build([graph.below], store)
    assert graph.built == ["base", "broken", "broken"]
    graph.error = None
    build([graph.below], store)


def test_a_lock_that_cannot_be_taken_and_an_altered_entry_are_no_failures(
    graph: Graph, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr("persona_lib.store.store.FileLock.acquire", refuses)
        assert "cannot lock" in str(failure(graph.base, store))
    (entry,) = build([graph.base], store)
    (entry.path / "file").write_text("altered")
    for _ in range(2):
        error = failure(graph.sound, store)
        assert type(error) is CorruptEntryError
        assert "failed before" not in str(error)


def test_what_cannot_be_sealed_has_failed_as_well(store: Store) -> None:
    built: list[str] = []

    def writes_nothing(_: Path, __: Mapping[str, Entry]) -> dict[str, Any]:
        built.append("empty")
        return {}

    empty = Stage(name="empty", label="x", version=1, spec=0, work=writes_nothing)
    first, again = failure(empty, store), failure(empty, store)
    assert (type(first), type(again)) == (StoreError, StoreError)
    assert "wrote no file" in str(again)
    assert built == ["empty"]


def test_an_error_that_is_not_ours_is_one_line_with_its_type_and_place(store: Store) -> None:
    graph = Graph(RuntimeError("out of memory\nsecond line " + "x" * 5000))
    assert type(failure(graph.below, store)) is RuntimeError
    again = failure(graph.below, store)
    assert isinstance(again, FlatlandError)
    text = str(again)
    assert text.startswith(
        "broken C2 failed before in this command and is not built again: "
        "RuntimeError: out of memory second line xxx"
    )
    assert "\n" not in text
    assert len(text) < 500
    assert f"({Path(__file__).name}:" in text


def test_what_a_failure_held_in_memory_is_let_go(store: Store) -> None:
    """A traceback holds the frames of a training, and so its tensors."""

    class Tensor:
        pass

    kept: list[weakref.ref[Tensor]] = []

    def trains(_: Path, __: Mapping[str, Entry]) -> dict[str, Any]:
        tensor = Tensor()
        kept.append(weakref.ref(tensor))
        raise DataError("rows", bound="whole", value=tensor, remedy="Mend it.")

    stage = Stage(name="train", label="C1", version=1, spec=0, work=trains)
    failure(stage, store)
    again = failure(stage, store)
    gc.collect()
    assert "failed before" in str(again)
    assert kept[0]() is None


def test_what_comes_before_is_still_waited_for_after_a_failure(
    graph: Graph, tmp_path: Path
) -> None:
    """A stored stage whose proof is being made elsewhere is not to be read yet."""

    def on_wait(_: object) -> None:
        graph.built.append("wait")
        lock.release()

    store = Store(tmp_path, on_wait=on_wait)
    failure(graph.below, store)
    proof, late = graph.stage("proof"), graph.stage("late")
    build([late], store)
    reader = graph.stage("reader", late=dataclasses.replace(late, after=(proof,)))
    lock = FileLock(tmp_path / "locks" / f"{proof.key({}).digest}.lock")
    lock.acquire()
    build([reader], store)
    assert graph.built == ["base", "broken", "late", "wait", "proof", "reader"]


def test_a_worker_that_waited_for_the_one_that_failed_does_not_try_again(tmp_path: Path) -> None:
    """It has looked before the other one failed, and holds the lock after it."""
    first, second = Graph(), Graph()
    waiter = Store(tmp_path, command="run1")
    build([first.base], waiter)
    real = waiter.make_if_free

    def late(*arguments: Any) -> Entry | None:
        failure(first.below, Store(tmp_path, command="run1"))
        return real(*arguments)

    waiter.make_if_free = late  # type: ignore[method-assign]
    assert str(failure(second.below, waiter)) == AGAIN
    assert (first.built, second.built) == (["base", "broken"], [])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kind": 1, "text": 2}', '{"kind": "x"}', "[" * 100_000]
)
def test_a_note_that_cannot_be_read_is_no_failure(text: str, graph: Graph, tmp_path: Path) -> None:
    failure(graph.below, Store(tmp_path, command="run1"))
    (note,) = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]
    note.write_text(text)
    assert failure(graph.below, Store(tmp_path, command="run1")) is BROKEN


def test_a_session_trains_a_coupling_that_fails_once(tmp_path: Path) -> None:
    """Seven tests want it; as many trainings were begun for them."""
    session = session_under(ISSUE262, profile=MICRO, store_root=tmp_path)
    trained: list[str] = []

    def work_of(stage: Stage) -> Callable[..., dict[str, Any]]:
        def work(out: Path, _: Mapping[str, Entry]) -> dict[str, Any]:
            trained.append(f"{stage.name} {stage.label}")
            if stage.name == "coupling":
                raise StoreError("no room")
            (out / "file").write_text(stage.label)
            return {}

        return work

    for stage in walk(session.runs[0].targets(session.all_arms)):
        object.__setattr__(stage, "work", work_of(stage))
        object.__setattr__(stage, "preflight", None)
    messages = []
    for arm in (*["C1"] * 7, "C2"):
        with pytest.raises(StoreError) as caught:
            session.evidence((arm,))
        messages.append(str(caught.value))
    assert messages[0] == messages[-1] == "no room"
    assert set(messages[1:-1]) == {
        "coupling C1 failed before in this command and is not built again: no room"
    }
    assert {"coupling C1", "coupling C2"} <= set(trained)
    assert len(trained) == len(set(trained))
