"""What a machine lacks for a run, all of it at once and before any compute."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from persona_lib.device import prepare_torch
from persona_lib.errors import FlatlandError, PreflightError
from persona_lib.specs.profile import Profile
from persona_lib.store.stage import Stage, unready
from persona_lib.store.store import Store

_GIB = 2**30


def lacking(profile: Profile, stages: Iterable[Stage], store: Store) -> list[FlatlandError]:
    """Return an error for each thing that is missing, none where a run can begin.

    Nothing is asked for where every stage is stored.
    """
    missing = unready(stages, store)
    if not missing:
        return []
    found = [*_gpu(profile), *_ram(profile), *_store(profile, store, missing[0])]
    for stage in missing:
        try:
            if stage.preflight is not None:
                stage.preflight()
        except FlatlandError as error:
            found.append(error)
    return list({str(error): error for error in found}.values())


def refuse(found: Sequence[FlatlandError]) -> None:
    """Raise what is missing: an error as it is, several as one."""
    if len(found) == 1:
        raise found[0]
    if found:
        texts = (str(error).removeprefix("missing: ") for error in found)
        parts = " ".join(f"({i}) {text}" for i, text in enumerate(texts, start=1))
        whole = f"{len(found)} things: {parts.removesuffix('.')}"
        raise PreflightError(whole, remedy="Nothing was computed.")


def check_weights(gib: float, name: str) -> None:
    """Raise PreflightError where weights of this size do not fit: on the GPU, if there is one.

    Training and sampling need more: that is not known before it was measured (`Rates`).
    """
    if prepare_torch() == "cuda":
        import torch

        free, where = torch.cuda.mem_get_info(0)[0] / _GIB, "GPU"
    else:
        free, where = _free_ram(), "machine"
    if free < gib:
        raise PreflightError(
            f"{gib:.1f} GiB of free memory of the {where} for the weights of {name} alone "
            f"({free:.1f} here)",
            remedy='Run on a larger one, set dtype = "bfloat16" under [model] of the experiment, '
            "or take a smaller model.",
        )


def _gpu(profile: Profile) -> list[FlatlandError]:
    """Return what is wrong with the GPU that a profile needs."""
    needed = profile.rates.gpu_gib
    if not needed:
        return []
    has = "there is no GPU here"
    if prepare_torch() == "cuda":
        import torch

        free, total = (size / _GIB for size in torch.cuda.mem_get_info(0))
        if free >= needed:
            return []
        has = f"{free:.0f} of {total:.0f} GiB are free here"
    return [
        PreflightError(
            f"a GPU with {needed:g} GiB of free memory for profile {profile.name} ({has})",
            remedy="Run on such a machine, or take a smaller model (--profile smollm2).",
        )
    ]


def _ram(profile: Profile) -> list[FlatlandError]:
    """Return what is wrong with the machine's own memory, where the system tells."""
    if _free_ram() >= profile.rates.ram_gib:
        return []
    return [
        PreflightError(
            f"{profile.rates.ram_gib:g} GiB of free memory for profile {profile.name} "
            f"({_free_ram():.1f} here)",
            remedy="End other programs, or run on a larger machine.",
        )
    ]


def _free_ram() -> float:
    """Return GiB that programs can still take, infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    kib = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return next(kib, math.inf) * 1024 / _GIB


def _store(profile: Profile, store: Store, first: Stage) -> list[FlatlandError]:
    """Return what is wrong with the store: it cannot be written, or its disk is full."""
    try:
        store.require_writable(f"{first.name} {first.label}")
    except FlatlandError as error:
        return [error]
    free, needed = shutil.disk_usage(store.root).free / _GIB, profile.rates.disk_gib
    if free >= needed:
        return []
    return [
        PreflightError(
            f"{needed:g} GiB of free disk for the store ({free:.1f} in {store.root})",
            remedy="Free space, or put the store on another disk (--store=DIR).",
        )
    ]
