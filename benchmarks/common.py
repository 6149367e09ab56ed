"""What all benchmarks share: a report that is whole after every entry, clocks, options."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from persona_lib.errors import FlatlandError
from persona_lib.models.chatml import END, PAD, START, TEMPLATE

_SAID = 2000
"""Characters of an error that are kept."""


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass
class Report:
    """A JSON document that is on disk, whole, after every entry.

    Attributes:
        out: where it is written; None prints only.
        body: what it holds so far.
    """

    out: Path | None
    body: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: Any) -> None:
        """Enter a value, print it, and write the document."""
        self.body[name] = value
        say(f"{name}: {json.dumps(value)}")
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            whole = self.out.with_suffix(".part")
            whole.write_text(json.dumps(self.body, indent=1) + "\n", encoding="utf-8")
            whole.replace(self.out)

    def check(self, holds: bool, what: str) -> None:
        """Enter what does not hold. The rest is still run, and `finish` refuses it."""
        if not holds:
            self.put("wrong", [*self.body.get("wrong", []), what])

    def finish(self) -> dict[str, Any]:
        """Return the document.

        Raises:
            FlatlandError: a check did not hold.
        """
        if self.body.get("wrong"):
            raise FlatlandError(
                f"benchmark: {'; '.join(self.body['wrong'])}; its times mean nothing"
            )
        return self.body

    def guard(self, name: str, run: Callable[[], Any]) -> None:
        """Run a part; enter its error, if any, as something wrong, and go on."""
        try:
            run()
        except Exception as problem:  # whatever it was, the rest goes on
            say(traceback.format_exc())
            self.check(False, f"{name} failed: {type(problem).__name__}: {problem}"[:_SAID])


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, least, greatest and number of repeated times, in seconds."""
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "runs": len(seconds),
    }


def stopwatch(run: Callable[[], Any], *, sync: Callable[[], None] | None = None) -> float:
    """Return the wall time of one call in seconds; `sync` waits for the device around it."""
    if sync:
        sync()
    start = time.perf_counter()
    run()
    if sync:
        sync()
    return time.perf_counter() - start


def sync_of(device: str) -> Callable[[], None] | None:
    """Return what waits for a device, None for a CPU."""
    import torch

    return torch.cuda.synchronize if device.startswith("cuda") else None


def hardware(device: str = "cpu") -> dict[str, Any]:
    """Return what a figure was measured with, and on which day (UTC)."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = torch.__version__
        found["threads"] = torch.get_num_threads()
        found["device"] = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    return found


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=None, help="write the report to this file")
    parser.add_argument("--tiny", action="store_true", help="a shape for any CPU, in seconds")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    return parser


def byte_tokenizer() -> Any:
    """Return a tokenizer of one token a byte with the ChatML format; nothing is fetched."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([PAD, START, END, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=TEMPLATE, eos_token=END, pad_token=PAD,
        additional_special_tokens=[START],
    )  # fmt: skip
