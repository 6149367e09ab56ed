"""Training of a small model: recorded passes against plain ones, `anchored` against `decision`.

    python -m benchmarks.small_training --out small.json

At the shape of SmolLM2-135M with random weights, a frozen prior under the trained adapter,
and rows of lognormal length. Checked: recorded passes give the loss of plain ones at every
step, and `anchored` with a weight of 0 that of `decision`; not with dropout, whose masks
depend on the padding.

A step's time is that of the second half of the steps; a training's holds everything. On a
CPU passes are never recorded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.common import Report, arguments, byte_tokenizer, hardware, spread
from benchmarks.generation import FULL, TINY
from benchmarks.train_setup import lognormal_lengths
from persona_lib.device import prepare_torch
from persona_lib.digests import derive_seed
from persona_lib.models.adapters import save_adapter, train_stack
from persona_lib.specs.builtin import SCALES
from persona_lib.specs.profile import CouplingSpec, LoraSpec
from persona_lib.train.encode import EncodedRow
from persona_lib.train.lora import Way, train_lora

SMOLLM2_FULL = SCALES["smollm2"]["full"]
DROPOUT = SMOLLM2_FULL.prior.lora.dropout
"""Of the trainings that are timed with dropout: that of the published recipes."""
_MARKER = 7
"""Tokens that are supervised at the end of a row."""
_SAME = 1e-3
"""Largest relative difference of a step's loss that is rounding."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained.

    Attributes:
        shape: arguments of a Llama configuration.
        mean, longest: of the rows' lengths in tokens, the mean and the cut.
        prompt: tokens of a prompt; between it and the marker rows are anchored.
    """

    shape: dict[str, int]
    recipe: CouplingSpec
    rows: int
    mean: int
    longest: int
    prompt: int


@dataclass
class Clock:
    """A progress bar that keeps the time at the end of each step, in seconds."""

    device: str
    at: list[float] = field(default_factory=list)

    def update(self, n: int = 1) -> None:
        """Keep the time."""
        del n
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.at.append(time.perf_counter())

    def close(self) -> None:
        """Nothing is left to do."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return the report.

    Raises:
        FlatlandError: two ways do not train the same; said once all is timed.
    """
    options = _options(argv)
    device = prepare_torch()  # as every stage does
    if options.cpu:
        device = "cpu"
    tiny = options.tiny or device == "cpu"
    case = _case(tiny=tiny, quick=options.quick)
    report = Report(options.out)
    report.put("hardware", hardware(device))
    report.put("recorded", "passes are recorded" if device == "cuda" else "no: needs a GPU")
    rows = make_rows(case, options.seed)
    report.put("tokens", sum(len(row.tokens) for row in rows))
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(case=case, rows=rows, device=device, seed=options.seed, folder=Path(scratch))
        beta = case.recipe.beta
        runs: dict[str, tuple[str, float, Way, float]] = {
            "ours, decision": ("decision", beta, "recorded", 0.0),
            "ours, anchored": ("anchored", beta, "recorded", 0.0),
            "ours, anchored, weight 0": ("anchored", 0.0, "recorded", 0.0),
            "ours, decision, dropout": ("decision", beta, "recorded", DROPOUT),
            # Last, as they take longest: what is cut off here has its own figures.
            "plain, decision": ("decision", beta, "padded", 0.0),
            "plain, decision, dropout": ("decision", beta, "padded", DROPOUT),
        }
        # The first trainings of a process also load libraries and start the device.
        warm = replace(case, recipe=replace(case.recipe, steps=4))
        warm_ways: tuple[Way, ...] = ("padded", "recorded")
        for way in warm_ways:
            replace(bench, case=warm).run("anchored", beta, way, 0.0)
        found = {}
        for name, run in runs.items():
            found[name] = bench.run(*run)
            description = ("step", "training", "first", "last", "passes")
            report.put(name, {key: found[name][key] for key in description})
    _check(report, found)
    _conclude(report, found)
    return report.finish()


@dataclass(frozen=True, kw_only=True)
class _Bench:
    case: Case
    rows: list[EncodedRow]
    device: str
    seed: int
    folder: Path

    def run(self, loss: str, beta: float, way: Way, dropout: float) -> dict[str, Any]:
        """Train once from the same start; return times in seconds, and losses."""
        lora = replace(self.case.recipe.lora, dropout=dropout)
        recipe = replace(self.case.recipe, beta=beta, lora=lora)
        model = self._model(recipe.lora)
        clock = Clock(self.device)
        start = time.perf_counter()
        done = train_lora(
            model, byte_tokenizer(), self.rows, recipe,
            loss=loss, seed=self.seed, progress=lambda *_: clock, way=way,
        )  # fmt: skip
        steps = [b - a for a, b in zip(clock.at, clock.at[1:], strict=False)]
        return {
            "step": spread(steps[len(steps) // 2 :]),
            "training": clock.at[-1] - start,
            "losses": done["losses"],
            "passes": done.get("passes"),
            "first": done["losses"][0],
            "last": done["losses"][-1],
        }

    def _model(self, lora: LoraSpec) -> Any:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        def base() -> Any:
            torch.manual_seed(derive_seed(self.seed, "benchmark", "weights") % 2**63)
            config = LlamaConfig(
                **self.case.shape, max_position_embeddings=8192, tie_word_embeddings=True
            )
            with torch.device(self.device):
                made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            return made.requires_grad_(False)

        prior = self.folder / "prior"
        if not prior.exists():
            save_adapter(train_stack(base(), [], SMOLLM2_FULL.prior.lora, 1), prior)
        return train_stack(base(), [prior], lora, 2)


def make_rows(case: Case, seed: int) -> list[EncodedRow]:
    """Return rows of lognormal length: a prompt, what is anchored, a marker."""
    import numpy as np

    draw = np.random.default_rng(derive_seed(seed, "benchmark", "rows"))
    shortest = case.prompt + _MARKER + 1
    lengths = lognormal_lengths(draw, case.rows, case.mean, shortest, case.longest)
    return [
        EncodedRow(
            row=f"row {number}",
            kind="positive",
            tokens=tuple(draw.integers(3, case.shape["vocab_size"], length).tolist()),
            supervised=tuple(range(length - _MARKER, length)),
            anchored=tuple(range(case.prompt, length - _MARKER)),
        )
        for number, length in enumerate(lengths)
    ]


def _case(*, tiny: bool, quick: bool) -> Case:
    recipe = replace(SMOLLM2_FULL.coupling, epochs=None, steps=24 if quick else 60)
    if not tiny:
        return Case(shape=FULL.shape, recipe=recipe, rows=600, mean=180, longest=2048, prompt=60)
    lora = replace(recipe.lora, rank=4, alpha=8)
    # At a rate at which a few steps show what an anchor does.
    small = replace(
        recipe, steps=4 if quick else 8, batch=8, micro_batch=4, lora=lora, learning_rate=1e-2
    )
    return Case(shape=TINY.shape, recipe=small, rows=32, mean=40, longest=96, prompt=12)


def _check(report: Report, found: dict[str, dict[str, Any]]) -> None:
    pairs = (
        ("plain, decision", "ours, decision"),
        ("ours, decision", "ours, anchored, weight 0"),
    )
    for one, other in pairs:
        a, b = found[one]["losses"], found[other]["losses"]
        apart = max(abs(x - y) / max(abs(x), 1e-9) for x, y in zip(a, b, strict=True))
        report.put(f"{one} / {other}: losses apart", apart)
        report.check(apart <= _SAME, f"{one} and {other} differ by {apart:.1e}")


def _conclude(report: Report, found: dict[str, dict[str, Any]]) -> None:
    def ratio(one: str, other: str) -> dict[str, float]:
        return {
            "step": found[one]["step"]["median"] / found[other]["step"]["median"],
            "training": found[one]["training"] / found[other]["training"],
        }

    report.put("plain / ours", ratio("plain, decision", "ours, decision"))
    report.put("anchored / decision", ratio("ours, anchored", "ours, decision"))
    report.put("dropout / none", ratio("ours, decision, dropout", "ours, decision"))
    wet = ("plain, decision, dropout", "ours, decision, dropout")
    report.put("plain / ours, dropout", ratio(*wet))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU, at the tiny shape")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
