"""A stage that failed is told once in a command, and not built again."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from experiments.issue262 import ISSUE262
from experiments.profiles import MICRO
from persona_lib.commands.session import Session
from persona_lib.errors import CorruptEntryError, DataError, FlatlandError, StoreError
from persona_lib.store.stage import Stage, build, walk
from persona_lib.store.store import Entry, Store

BROKEN = DataError("rows", bound="whole", value="half", remedy="Mend it.")


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


def description(wanted: list[Stage], store: Store, **options: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (any: its type is what is tested)
        build(wanted, store, **options)
    return caught.value


def test_it_is_built_once_and_the_second_asker_is_told_the_same(tmp_path: Path) -> None:
    graph, store = Graph(), Store(tmp_path)
    assert description([graph.below], store) is BROKEN
    again = [description([wanted], store) for wanted in (graph.below, graph.broken, graph.below)]
    assert graph.built == ["base", "broken"]
    expected = (
        "broken C2 failed before in this command and is not built again: "
        "rows: expected whole, got 'half'. Mend it."
    )
    assert {(type(error), str(error)) for error in again} == {(DataError, expected)}
    # What its type promises it has, as text.
    (fields,) = {tuple(sorted(vars(error).items())) for error in again}
    assert dict(fields) == {
        "field": "rows", "bound": "whole", "value": "half", "remedy": "Mend it.",
    }  # fmt: skip


def test_what_does_not_need_it_is_built_all_the_same(tmp_path: Path) -> None:
    graph, store = Graph(), Store(tmp_path)
    description([graph.below], store)
    (entry,) = build([graph.sound], store)
    assert entry.built
    assert graph.built == ["base", "broken", "sound"]


def test_the_second_asker_is_told_before_anything_else_is_built(tmp_path: Path) -> None:
    graph, store = Graph(), Store(tmp_path)
    description([graph.below], store)
    error = description([graph.sound, graph.stage("costly"), graph.below], store)
    assert "failed before" in str(error)
    assert graph.built == ["base", "broken"]


def test_an_equal_stage_of_another_run_is_the_same_stage(tmp_path: Path) -> None:
    """Two seeds share a base: each run has a stage object of its own for it."""
    first, second, store = Graph(), Graph(), Store(tmp_path)
    description([first.below], store)
    assert "failed before" in str(description([second.below], store))
    assert second.built == []


def test_a_failure_while_building_for_others_counts(tmp_path: Path) -> None:
    graph, wanted = Graph(), Graph().stage("elsewhere")
    lock = FileLock(tmp_path / "locks" / f"{wanted.key({}).digest}.lock")
    store = Store(tmp_path, on_wait=lambda _: lock.release())
    lock.acquire()
    build([wanted], store, spare=[graph.below])
    assert graph.built == ["base", "broken"]
    error = description([graph.below], store)
    assert isinstance(error, DataError)
    assert "got 'half'. Mend it." in str(error)  # the first that is told of it, and in full
    assert graph.built == ["base", "broken"]


def test_another_command_builds_it_again(tmp_path: Path) -> None:
    graph = Graph()
    description([graph.below], Store(tmp_path))
    assert description([graph.below], Store(tmp_path)) is BROKEN
    graph.error = None
    build([graph.below], Store(tmp_path))
    assert graph.built == ["base", "broken", "broken", "broken", "below"]


def test_what_somebody_else_has_stored_meanwhile_is_taken(tmp_path: Path) -> None:
    graph, store, elsewhere = Graph(), Store(tmp_path), Graph()
    description([graph.below], store)
    elsewhere.error = None
    build([elsewhere.broken], Store(tmp_path))
    build([graph.below], store)
    assert graph.built == ["base", "broken", "below"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), pytest.fail.Exception("x")])
def test_whoever_stops_a_build_has_not_made_it_fail(error: BaseException, tmp_path: Path) -> None:
    graph, store = Graph(error), Store(tmp_path)
    for _ in range(2):
        with pytest.raises(type(error)):
            build([graph.below], store)
    assert graph.built == ["base", "broken", "broken"]
    graph.error = None
    build([graph.below], store)


def test_waiting_and_a_lock_that_cannot_be_taken_are_no_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, store = Graph(), Store(tmp_path)
    graph.error = None

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr("persona_lib.store.store.FileLock.acquire", refuses)
        assert "cannot lock" in str(description([graph.base], store))
    build([graph.below], store)
    assert graph.built == ["base", "broken", "below"]


def test_an_altered_entry_is_no_failure_of_its_stage(tmp_path: Path) -> None:
    graph, store = Graph(), Store(tmp_path)
    (entry,) = build([graph.base], store)
    (entry.path / "file").write_text("altered")
    for _ in range(2):
        error = description([graph.sound], store)
        assert type(error) is CorruptEntryError
        assert "failed before" not in str(error)


def test_what_cannot_be_sealed_has_failed_as_well(tmp_path: Path) -> None:
    built: list[str] = []

    def writes_nothing(_: Path, __: Mapping[str, Entry]) -> None:
        built.append("empty")

    empty: Any = Stage(name="empty", label="x", version=1, spec=0, work=writes_nothing)  # type: ignore[arg-type]
    store = Store(tmp_path)
    first, again = description([empty], store), description([empty], store)
    assert (type(first), type(again)) == (StoreError, StoreError)
    assert "wrote no file" in str(again)
    assert built == ["empty"]


def test_an_error_that_is_not_ours_is_one_line_with_its_type_and_place(tmp_path: Path) -> None:
    graph, store = Graph(RuntimeError("out of memory\nsecond line " + "x" * 5000)), Store(tmp_path)
    assert type(description([graph.below], store)) is RuntimeError
    again = description([graph.below], store)
    assert isinstance(again, FlatlandError)
    text = str(again)
    assert text.startswith(
        "broken C2 failed before in this command and is not built again: "
        "RuntimeError: out of memory second line xxx"
    )
    assert "\n" not in text
    assert len(text) < 500
    assert f"({Path(__file__).name}:" in text


def test_what_a_failure_held_in_memory_is_let_go(tmp_path: Path) -> None:
    """A traceback holds the frames of a training, and so its tensors."""

    class Tensor:
        pass

    kept: list[weakref.ref[Tensor]] = []

    def trains(_: Path, __: Mapping[str, Entry]) -> dict[str, Any]:
        tensor = Tensor()
        kept.append(weakref.ref(tensor))
        raise DataError("rows", bound="whole", value=tensor, remedy="Mend it.")

    store = Store(tmp_path)
    stage = Stage(name="train", label="C1", version=1, spec=0, work=trains)
    description([stage], store)
    again = description([stage], store)
    gc.collect()
    assert "failed before" in str(again)
    assert kept[0]() is None


def test_what_comes_before_is_still_waited_for_after_a_failure(tmp_path: Path) -> None:
    """A stored stage whose proof is being made elsewhere is not to be read yet."""
    graph = Graph()

    def on_wait(_: object) -> None:
        graph.built.append("wait")
        lock.release()

    store = Store(tmp_path, on_wait=on_wait)
    description([graph.below], store)
    proof, late = graph.stage("proof"), graph.stage("late")
    build([late], store)
    reader = graph.stage("reader", late=dataclasses.replace(late, after=(proof,)))
    lock = FileLock(tmp_path / "locks" / f"{proof.key({}).digest}.lock")
    lock.acquire()
    build([reader], store)
    assert graph.built == ["base", "broken", "late", "wait", "proof", "reader"]


# ---- several processes of one command ---------------------------------------------------


def test_workers_of_one_command_tell_each_other(tmp_path: Path) -> None:
    graph, other = Graph(), Graph()
    description([graph.below], Store(tmp_path, command="run1"))
    error = description([other.below], Store(tmp_path, command="run1"))
    assert type(error) is DataError
    assert "broken C2 failed before in this command" in str(error)
    assert other.built == []


@pytest.mark.parametrize("command", ["run2", None])
def test_what_failed_in_one_command_is_built_by_another(
    command: str | None, tmp_path: Path
) -> None:
    graph = Graph()
    description([graph.below], Store(tmp_path, command="run1"))
    graph.error = None
    build([graph.below], Store(tmp_path, command=command))
    assert graph.built == ["base", "broken", "broken", "below"]


def test_a_worker_that_waited_for_the_one_that_failed_does_not_try_again(tmp_path: Path) -> None:
    """It has looked before the other one failed, and holds the lock after it."""
    first, second = Graph(), Graph()
    waiter = Store(tmp_path, command="run1")
    build([first.base], waiter)
    real = waiter.make_if_free

    def late(*arguments: Any) -> Entry | None:
        description([first.below], Store(tmp_path, command="run1"))
        return real(*arguments)

    waiter.make_if_free = late  # type: ignore[method-assign]
    assert "failed before" in str(description([second.below], waiter))
    assert (first.built, second.built) == (["base", "broken"], [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": 1, "text": 2}', '{"kind": "x"}'])
def test_a_note_that_cannot_be_read_is_no_failure(text: str, tmp_path: Path) -> None:
    graph = Graph()
    description([graph.below], Store(tmp_path, command="run1"))
    (note,) = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]
    note.write_text(text)
    assert description([graph.below], Store(tmp_path, command="run1")) is BROKEN


# ---- a science session ------------------------------------------------------------------


def test_a_session_trains_a_coupling_that_fails_once(tmp_path: Path) -> None:
    """Seven tests want it; as many trainings were begun for them."""
    session = Session(registration=ISSUE262, profile=MICRO, store_root=tmp_path)
    run = session.runs[0]
    trained: list[str] = []

    def work_of(stage: Stage) -> Callable[..., dict[str, Any]]:
        def work(out: Path, _: Mapping[str, Entry]) -> dict[str, Any]:
            trained.append(f"{stage.name} {stage.label}")
            if stage.name == "coupling":
                raise StoreError("no room")
            (out / "file").write_text(stage.label)
            return {}

        return work

    for stage in walk(run.targets(session.all_arms)):
        object.__setattr__(stage, "work", work_of(stage))
        object.__setattr__(stage, "preflight", None)
    messages = []
    for _ in range(7):
        with pytest.raises(StoreError) as caught:
            session.evidence(("C1",))
        messages.append(str(caught.value))
    assert [name for name in trained if name.startswith("coupling ")] == ["coupling C1"]
    assert messages[0] == "no room"
    assert set(messages[1:]) == {
        "coupling C1 failed before in this command and is not built again: no room"
    }
    with pytest.raises(StoreError, match="no room"):
        session.evidence(("C2",))
    assert len(trained) == len(set(trained))
