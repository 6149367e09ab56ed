"""Tries a foreign checkpoint before any compute, in a process of its own.

Its template is a program and its files are anybody's: the process has bounds of time and
memory, and whatever ends it becomes an error here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from persona_lib.errors import DataError, InputError, MarkerError, SpecError
from persona_lib.models.snapshot import Signature, signature
from persona_lib.specs.sources import ChatFormat

MOST_SECONDS = 60
"""Wall time of a try; loading the libraries takes most of it."""
MOST_BYTES = 6 * 2**30
"""Memory that a try may write to."""
_KINDS: Mapping[str, type[InputError]] = {
    kind.__name__: kind for kind in (SpecError, DataError, MarkerError)
}
_fit: set[tuple[Path, Signature, str]] = set()
"""What this process has tried."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run asks of a base model.

    Attributes:
        chat: how its chat template is used.
        marker: marker prefix and marker.
        newline: the marker loss looks at the newline behind an answer's end of turn.
        targets: names of the layers that get a LoRA.
    """

    chat: ChatFormat
    marker: str
    newline: bool
    targets: tuple[str, ...]


def probe(folder: Path, needs: Needs, *, weights: bool = True) -> None:
    """Check that a checkpoint's tokenizer, template and layers serve a run.

    Args:
        folder: the checkpoint.
        needs: what is asked of it.
        weights: they are there: their headers are compared with config.json.

    Raises:
        SpecError, MarkerError: its template, tokenizer or layers do not fit (`check_base`).
        DataError: it is not whole; or the try ran out of time or memory, or crashed.
    """
    asked = json.dumps({"folder": str(folder), "weights": weights, **asdict(needs)})
    mark = (folder, signature(folder), asked) if weights else None
    if mark is not None and mark in _fit:
        return
    found = _tried(folder, asked)
    if found is not None:
        raise found
    if mark is not None:
        _fit.add(mark)


def _tried(folder: Path, asked: str) -> InputError | None:
    """Return what is wrong, as the other process says it, or says nothing."""
    library = str(Path(__file__).resolve().parents[2])
    paths = [library, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    bound = f"one that can be read in {MOST_SECONDS} s and {MOST_BYTES / 2**30:g} GiB"
    remedy = "Look into its tokenizer and its chat template, or use another base model."
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "persona_lib.models.probe"],
            input=asked, env=environment, capture_output=True, text=True, errors="replace",
            timeout=MOST_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return DataError(f"base model {folder}", bound=bound, value="no end", remedy=remedy)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        cause = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return DataError(f"base model {folder}", bound=bound, value=cause, remedy=remedy)
    answer = json.loads(lines[-1])
    if not answer:
        return None
    kind = _KINDS.get(answer.pop("kind"), DataError)
    return kind(answer.pop("field"), **answer)


def check_base(folder: Path, needs: Needs, *, weights: bool = True) -> None:
    """Check, in this process, what `probe` asks.

    Raises:
        SpecError: the template does not fit (`use_format`), writes no newline where the loss
            needs one, or the model has no layer of a target's name or another attention.
        MarkerError: the tokenizer cannot write the marker.
        DataError: see `read_tokenizer`, `other_ends` and `check_names`.
    """
    from persona_lib.models.chat import turn_end
    from persona_lib.models.checkpoint import check_names
    from persona_lib.models.loading import (
        check_marker,
        check_vocabulary,
        other_ends,
        read_tokenizer,
    )

    tokenizer = read_tokenizer(folder, needs.chat)
    other_ends(folder, tokenizer)
    check_marker(tokenizer, needs.marker)
    if needs.newline and not turn_end(tokenizer).after:
        raise SpecError(
            "coupling.loss",
            bound="decision or anchored, as this chat template writes no newline behind an answer",
            value="as_published",
            remedy="Name one of them (--loss, or [model.coupling] of the experiment).",
        )
    if not weights:
        return
    model = check_names(folder)
    check_vocabulary(model, tokenizer, folder)
    if not type(model)._supports_sdpa:
        raise SpecError(
            "base",
            bound="a model whose attention torch can compute (sdpa)",
            value=type(model).__name__,
            remedy="Use another base model.",
        )
    layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    lacking = [name for name in needs.targets if name not in layers]
    if lacking:
        raise SpecError(
            "lora.targets",
            bound=f"names of layers of {type(model).__name__}",
            value=lacking[0],
            remedy="Name its linear layers under lora in [model.prior] and [model.coupling].",
        )


def _main() -> None:
    _bound_memory()
    given: dict[str, Any] = json.loads(sys.stdin.read())
    folder, weights = Path(given.pop("folder")), given.pop("weights")
    needs = Needs(
        chat=ChatFormat(**given.pop("chat")), targets=tuple(given.pop("targets")), **given
    )
    answer: dict[str, str] = {}
    try:
        check_base(folder, needs, weights=weights)
    except InputError as error:
        # Line breaks of a text are kept by `repr`, in which it is shown.
        value = error.value if isinstance(error.value, str) else repr(error.value)
        answer = {
            "kind": type(error).__name__, "field": error.field, "bound": error.bound,
            "value": value[:1000], "remedy": error.remedy,
        }  # fmt: skip
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def _bound_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))


if __name__ == "__main__":
    _main()
