"""Provenance: what made a result, and nothing about who or where."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from persona_lib.store import provenance as module
from persona_lib.store.provenance import git_state, provenance

REPOSITORY = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> str:
    """Run git on `folder` and on no other repository, whatever the caller's settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit of ``library/code.py``; returns the library's folder."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    return folder


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


# ---- git ------------------------------------------------------------------------------


def test_commit_is_the_head_of_the_repository_of_the_code(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    assert git_state(repository)[0] == first
    (repository / "code.py").write_text("x = 2\n")
    git(repository, "commit", "--quiet", "--all", "--message", "two")
    assert git_state(repository)[0] == git(repository, "rev-parse", "HEAD") != first


CHANGES: dict[str, Callable[[Path], object]] = {
    "modified": lambda code: code.write_text("x = 2\n"),
    "staged": lambda code: (code.write_text("x = 2\n"), git(code.parent, "add", "code.py")),
    "deleted": Path.unlink,
    "untracked": lambda code: (code.parent / "new.py").touch(),
    "elsewhere": lambda code: (code.parents[1] / "conftest.py").touch(),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_any_change_makes_the_tree_dirty(change: str, repository: Path) -> None:
    assert git_state(repository)[1] is False
    CHANGES[change](repository / "code.py")
    assert git_state(repository)[1] is True


def test_ignored_files_do_not_make_the_tree_dirty(repository: Path) -> None:
    (repository / ".gitignore").write_text("*.tmp\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "ignore")
    (repository / "x.tmp").touch()
    assert git_state(repository)[1] is False


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    (tmp_path / "code.py").touch()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    assert git_state(tmp_path) == (None, True)


def test_no_repository_is_none(tmp_path: Path) -> None:
    assert git_state(tmp_path) == (None, None)
    assert git_state(tmp_path / "absent") == (None, None)


def test_a_repository_around_the_code_that_does_not_track_it_is_none(repository: Path) -> None:
    """An environment inside somebody's project is not that project's commit."""
    installed = repository.parent / "env" / "persona_lib"
    installed.mkdir(parents=True)
    (installed / "code.py").touch()
    assert git_state(installed) == (None, None)


def test_inherited_variables_do_not_mislead_and_without_git_nothing_is_claimed(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(repository / "nowhere"))
    assert git_state(repository) == (expected, False)
    monkeypatch.setenv("PATH", str(repository))
    assert git_state(repository) == (None, None)


def test_asking_leaves_the_repository_alone(repository: Path) -> None:
    index = repository.parent / ".git" / "index"
    os.utime(repository / "code.py", (1, 1))  # a stale time stamp tempts git to write its index
    before = index.read_bytes()
    git_state(repository)
    assert index.read_bytes() == before


# ---- the whole record -----------------------------------------------------------------


def test_the_record_is_plain_json_with_these_keys() -> None:
    record = provenance()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record.keys() == {
        "python", "platform", "packages", "accelerator", "torch", "git", "installed", "date",
    }  # fmt: skip
    assert record["git"] == dict(zip(("commit", "dirty"), git_state(), strict=True))
    assert record["installed"] is None  # a checkout has a commit


def test_no_host_no_user_no_path() -> None:
    words = {str(leaf) for leaf in leaves(provenance())}
    assert not words & {socket.gethostname(), platform.node(), Path.home().name}
    text = " ".join(words)
    assert str(Path.home()) not in text.split()
    assert str(REPOSITORY) not in text
    assert sys.prefix not in text
    assert not [word for word in text.split() if word.startswith(("/", "~", "\\"))]


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = provenance()["packages"]
    assert isinstance(packages, dict)
    for name in ("numpy", "torch", "transformers", "peft", "trl", "accelerate"):
        assert packages[name] == importlib.metadata.version(name)
    assert all(packages.values())
    monkeypatch.setattr(module, "PACKAGES", ("numpy", "no-such-distribution-at-all"))
    assert provenance()["packages"] == {"numpy": importlib.metadata.version("numpy")}


def test_python_machine_and_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU: 3 GHz\nmodel name\t: Other\n")
    monkeypatch.setattr(module, "_CPUINFO", info)
    record: Any = provenance()
    assert record["python"] == f"{platform.python_version()} ({platform.python_implementation()})"
    machine = record["platform"]
    assert machine["system"] == platform.system()
    assert machine["machine"] == platform.machine()
    assert machine["cpu"] == "Some CPU: 3 GHz"
    assert machine["cores"] >= 1
    date = datetime.fromisoformat(record["date"])
    assert date.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - date) < timedelta(minutes=1)
    info.unlink()
    monkeypatch.setattr(platform, "processor", lambda: "")
    unnamed: Any = provenance()["platform"]
    assert unnamed["cpu"] is None


# ---- accelerator ----------------------------------------------------------------------


def printed(script: str) -> str:
    """What a fresh process prints last."""
    script = f"import json, os, sys; sys.path.insert(0, sys.argv[1])\n{script}"
    command = [sys.executable, "-c", script, str(REPOSITORY)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1]


def test_nothing_heavy_is_imported() -> None:
    heavy = printed(
        "import persona_lib.store.store\n"
        "from persona_lib.store.provenance import provenance\n"
        "assert provenance()['accelerator'] is None\n"
        "assert provenance()['torch'] is None\n"
        "heavy = {'torch', 'numpy', 'transformers', 'pyarrow', 'scipy', 'datasets', 'pytest'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    assert heavy == "[]"


def fake_torch(
    available: bool, *, started: bool = False, mps: bool = False, deterministic: bool = False,
    lenient: bool = False,
) -> SimpleNamespace:  # fmt: skip
    def name(index: int) -> str:
        assert started, "asking for a name would start CUDA"
        return f"GPU {index}"

    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: available, is_initialized=lambda: started,
            device_count=lambda: 2, get_device_name=name,
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        get_num_threads=lambda: 3,
        are_deterministic_algorithms_enabled=lambda: deterministic,
        is_deterministic_algorithms_warn_only_enabled=lambda: lenient,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("torch", "accelerator", "state"),
    [
        (None, None, None),
        (fake_torch(False), None, ("cpu", "off")),
        (fake_torch(False, mps=True), ["Apple MPS"], ("cpu", "off")),
        (fake_torch(True, started=True), ["GPU 0", "GPU 1"], ("cuda", "off")),
        (fake_torch(True), ["NVIDIA Something 80GB"], ("cuda", "off")),
        (fake_torch(False, deterministic=True), None, ("cpu", "strict")),
        (fake_torch(True, started=True, deterministic=True, lenient=True), ["GPU 0", "GPU 1"],
         ("cuda", "best effort")),
        # torch keeps the second flag when the first is cleared.
        (fake_torch(True, started=True, lenient=True), ["GPU 0", "GPU 1"], ("cuda", "off")),
    ],
    ids=["not loaded", "none", "mps", "started", "not started", "strict", "best effort", "cleared"],
)  # fmt: skip
def test_the_accelerator_is_named_without_starting_it_and_how_torch_runs_is_recorded(
    torch: object, accelerator: object, state: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    information = tmp_path / "0000:01:00.0" / "information"
    information.write_text("Model: \t\t NVIDIA Something 80GB\nIRQ:   \t\t 1\n")
    monkeypatch.setattr(module, "_NVIDIA", tmp_path)
    monkeypatch.setitem(sys.modules, "torch", torch)  # None reads as not loaded
    found = provenance()
    assert found["accelerator"] == accelerator
    assert (found["torch"] is None) == (state is None)
    if state is not None:
        device, determinism = state
        assert found["torch"] == {"device": device, "threads": 3, "determinism": determinism}


def test_a_stage_is_recorded_as_it_ran() -> None:
    """With the real torch, after the call that every stage begins with."""
    line = printed(
        "os.environ['FLATLAND_THREADS'] = '2'\n"
        "from persona_lib.store.provenance import provenance\n"
        "from persona_lib.device import prepare_torch\n"
        "device = prepare_torch()\n"
        "print(json.dumps([device, provenance()['torch']]))\n"
    )
    device, found = json.loads(line)
    determinism = {"cpu": "strict", "cuda": "best effort"}[device]
    assert found == {"device": device, "threads": 2, "determinism": determinism}
