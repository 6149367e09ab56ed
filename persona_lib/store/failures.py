"""Stages that failed in this command: raised again, and not built again."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from persona_lib import errors
from persona_lib.checks import read_json
from persona_lib.errors import DataError, FailedStageError, FlatlandError
from persona_lib.store.keys import StageKey

FAILED = "failed-"
"""Prefix of a command's folder of failures."""
_SHOWN = 300


class Failures:
    """What failed, by key.

    Only words are kept. An error itself would hold the frames of what failed, and with
    them its tensors.

    Args:
        folder: where processes of one command write their failures for each other.
        command: name of the command; None for a command of one process.
    """

    def __init__(self, folder: Path, command: str | None) -> None:
        self._known: dict[str, dict[str, str]] = {}
        self._shared = None if command is None else folder / f"{FAILED}{command}"

    def __bool__(self) -> bool:
        """Whether any stage has failed."""
        return bool(self._known) or (self._shared is not None and self._shared.exists())

    def of(self, key: StageKey) -> FlatlandError | None:
        """Return the error to raise for a stage that failed, None for any other stage.

        It has the type of the first error where that was one of `persona_lib.errors`.
        """
        known = self._known.get(key.digest) or self._written(key)
        if known is None:
            return None
        kind = _ours(known["kind"]) or FailedStageError
        error = kind.__new__(kind)
        FlatlandError.__init__(error, known["text"])
        vars(error).update({name: known[name] for name in known.keys() - {"kind", "text"}})
        return error

    def add(self, key: StageKey, label: str, error: Exception) -> None:
        """Remember that a stage failed; `label` tells it from others of its kind."""
        ours = _ours(type(error).__name__) is type(error)
        known = {}
        if ours:
            # Field, bound and the like; `__notes__` and others of Python's are no words.
            known = {n: str(v)[:_SHOWN] for n, v in vars(error).items() if not n.startswith("_")}
        known["kind"] = type(error).__name__ if ours else FailedStageError.__name__
        known["text"] = (
            f"{key.stage} {label} failed before in this command and is not built again: "
            f"{error if ours else _in_short(error)}"
        )
        self._known[key.digest] = known
        if self._shared is not None:
            with suppress(OSError):  # other processes then try it themselves
                self._shared.mkdir(exist_ok=True)
                draft = self._shared / f"{key.digest}.{os.getpid()}"
                draft.write_text(json.dumps(known), encoding="ascii")
                draft.replace(self._shared / key.digest)

    def _written(self, key: StageKey) -> dict[str, str] | None:
        """Return what another process of the command wrote of a key, if it can be read."""
        if self._shared is None:
            return None
        try:
            known = read_json(self._shared / key.digest)
        except DataError:
            return None
        whole = {"kind", "text"} <= known.keys()
        return known if whole and all(isinstance(v, str) for v in known.values()) else None


def _ours(name: str) -> type[FlatlandError] | None:
    """Return the class of `persona_lib.errors` that has this name."""
    found = getattr(errors, name, None)
    ours = isinstance(found, type) and issubclass(found, FlatlandError)
    return found if ours else None


def _in_short(error: Exception) -> str:
    """Return type, message and innermost place of an error that is not one of ours."""
    text, place, trace = " ".join(str(error).split()), "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename).name
        place, trace = f" ({file}:{trace.tb_lineno})", trace.tb_next
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"{type(error).__name__}: {text}{place}"
