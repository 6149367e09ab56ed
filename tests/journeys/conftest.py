"""The library as a user has it: a wheel, installed into a folder of its own."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from persona_lib.specs.builtin import FOLDER

ROOT = FOLDER.parent
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "persona_lib", "experiments")
_LEAST_SETUPTOOLS = 77
_NOT_USERS = ("CI", "BUILD_NUMBER", "FLATLAND_", "PYTEST_", "GIT_")
"""Variables of whoever runs the tests, which would change what a user sees."""


@dataclass(frozen=True)
class Installed:
    """A wheel, and the folder that it was installed into."""

    wheel: Path
    folder: Path

    @property
    def version(self) -> str:
        """What the wheel says that it is."""
        return self.wheel.name.split("-")[1]

    def python(
        self, *arguments: str, cwd: Path, before: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Python outside the checkout, with what is installed and nothing else of ours."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_USERS)}
        ahead = [str(self.folder)] if before is None else [str(before), str(self.folder)]
        # One thread: results are the same, and tests run side by side.
        own = {"PYTHONPATH": os.pathsep.join(ahead), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd, env=kept | own, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def pytest(
        self, *arguments: str, cwd: Path, before: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "pytest", *arguments, cwd=cwd, before=before)

    def flatland(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return self.python(str(self.folder / "bin" / "flatland"), *arguments, cwd=cwd)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of this checkout, built from a copy: a build leaves files beside its source."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    source.mkdir()
    for name in _SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    # What builds is taken from this environment if it is new enough; else pip fetches it.
    build = ["--no-build-isolation"] if _setuptools() >= _LEAST_SETUPTOOLS else []
    _pip("wheel", "--no-deps", *build, "-w", str(work), str(source))
    (wheel,) = work.glob("*.whl")
    _pip("install", "--no-deps", "--target", str(work / "site"), str(wheel))
    return Installed(wheel, work / "site")


def _setuptools() -> int:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
