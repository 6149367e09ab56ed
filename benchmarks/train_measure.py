"""What train_step compares and measures, part by part."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import Report, say, spread, stopwatch, sync_of
from benchmarks.train_setup import PEAK_FLOPS, Shape, floor_operations, trainable
from benchmarks.train_variants import Ours, Stepper, Variant, gradients, ours
from persona_lib.digests import derive_seed
from persona_lib.specs.builtin import PROFILES
from persona_lib.train.encode import EncodedRow
from persona_lib.train.gpu.memory import CARD_GIB, GIB

LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 2.0**-6}
"""Largest relative difference of a step's loss."""
LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.98}
"""Least cosine between the gradients of one batch."""
RATIO_WANTED, SHARE_WANTED = 6.0, 0.45
_B_SCALE = 0.02
"""Spread of B where gradients are compared: with B = 0 those of A vanish."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One run: what is trained, on what, how often, and with what of ours.

    Attributes:
        model: the peft model; its adapter is put back between parts.
        batches: optimizer batches, the same for every variant.
        compiled, limit: whether ours may compile; bytes that its step may take.
        warmups, steps: steps before the clock runs; steps that are timed.
        curve: steps of the loss curves.
    """

    shape: Shape
    device: str
    model: Any
    batches: list[list[EncodedRow]]
    compiled: bool
    limit: int | None
    warmups: int
    steps: int
    curve: int
    report: Report


def compare_gradients(bench: Bench, published: Variant, packed: Variant) -> None:
    """Compare loss and gradient of one batch at an adapter that does something."""
    import torch

    draw = torch.Generator().manual_seed(derive_seed(0, "benchmark", "lora_B") % 2**63)
    with torch.no_grad():
        for name, value in trainable(bench.model).items():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=draw) * _B_SCALE)
    bench.model.train()
    first, wanted = gradients(bench.model, published, bench.batches[0])
    second, found = gradients(bench.model, packed, bench.batches[0])
    cosine = float(torch.nn.functional.cosine_similarity(wanted, found, dim=0))
    entry = {
        "published_loss": first,
        "ours_loss": second,
        "relative_loss": abs(second - first) / abs(first),
        "cosine": cosine,
        "relative_gradient": float((found - wanted).norm() / wanted.norm()),
    }
    bench.report.put("gradient", entry)
    tolerance = LOSS_TOLERANCE[bench.shape.dtype]
    bench.report.check(entry["relative_loss"] <= tolerance, "the losses of one batch differ")
    least = LEAST_COSINE[bench.shape.dtype]
    bench.report.check(cosine >= least, "the gradients of one batch differ")


def compare_curves(
    bench: Bench, published: Variant, packed: Variant, restore: Callable[[], None]
) -> None:
    """Compare the losses of both variants, step by step, from the same start."""
    found: dict[str, list[float]] = {}
    for variant in (packed, published):
        restore()  # the same start, and no gradient
        stepper = _stepper(bench, variant, bench.shape.curve_rate)
        losses = found[variant.name] = []
        for batch in bench.batches[: bench.curve]:
            losses.append(stepper.step(batch))
            say(f"curve, {variant.name}: {losses[-1]:.5f}")
    pairs = list(zip(found["ours"], found["published"], strict=True))
    max_relative = max(abs(a - b) / abs(b) for a, b in pairs)
    tolerance = LOSS_TOLERANCE[bench.shape.dtype]
    bench.report.put("curves", {
        **found, "learning_rate": bench.shape.curve_rate, "max_relative": max_relative,
        "tolerance": tolerance,
    })  # fmt: skip
    bench.report.check(max_relative <= tolerance, "the loss curves part")


def time_steps(bench: Bench, variant: Variant, label: str) -> None:
    """Time optimizer steps over the same batches, and enter them under `label`."""
    import torch

    sync, cuda = sync_of(bench.device), bench.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    bench.model.train()
    stepper = _stepper(bench, variant, PROFILES["qwen7b"].coupling.learning_rate)
    seconds: list[float] = []
    for number, batch in enumerate(bench.batches[: bench.warmups + bench.steps]):
        took = stopwatch(lambda batch=batch: stepper.step(batch), sync=sync)  # type: ignore[misc]
        say(f"step {number}, {label}: {took:.4f} s, {tokens_of(batch)} tokens")
        seconds.append(took)
    timed, batches = seconds[bench.warmups :], bench.batches[bench.warmups :]
    floors = [floor_operations(bench.shape, batch) / PEAK_FLOPS for batch in batches]
    shares = [floor / took for floor, took in zip(floors, timed, strict=False)]
    peak = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
    bench.report.put(
        f"time: {label}",
        {
            **spread(timed),
            "seconds": timed,
            "warmups": seconds[: bench.warmups],
            "tokens_per_second": sum(map(tokens_of, batches[: bench.steps])) / sum(timed),
            "floor_seconds": statistics.median(floors[: bench.steps]),
            "share_of_floor": statistics.median(shares) if cuda else None,
            "peak_gib": peak[0] / GIB if cuda else None,
            "reserved_gib": peak[1] / GIB if cuda else None,
        },
    )


def conclude(bench: Bench) -> None:
    """Enter the ratio of the medians, and whether what was wanted is reached."""
    ours_time, published_time = (
        bench.report.body["time: ours"],
        bench.report.body["time: published"],
    )
    ratio = published_time["median"] / ours_time["median"]
    entry = {"ratio": ratio, "share_of_floor": ours_time["share_of_floor"]}
    if bench.device == "cuda":
        entry["reached"] = {
            f"ratio >= {RATIO_WANTED}": ratio >= RATIO_WANTED,
            f"share >= {SHARE_WANTED}": ours_time["share_of_floor"] >= SHARE_WANTED,
            f"peak <= {CARD_GIB} GiB": ours_time["peak_gib"] <= CARD_GIB,
        }
    bench.report.put("result", entry)


def make_ours(bench: Bench, label: str) -> Ours:
    """Return ours, tried; enter what it settled on and how long that took."""
    import torch

    bench.model.train()
    if bench.device == "cuda":
        torch.cuda.empty_cache()
    made: list[Ours] = []
    took = stopwatch(
        lambda: made.append(
            ours(bench.model, bench.batches, compiled=bench.compiled, limit=bench.limit)
        ),
        sync=sync_of(bench.device),
    )  # fmt: skip
    bench.report.put(f"set up: {label}", {"seconds": took, **made[0].describe()})
    return made[0]


def _stepper(bench: Bench, variant: Variant, rate: float) -> Stepper:
    return Stepper(bench.model, variant, rate=rate, clip=bench.shape.clip)


def tokens_of(batch: Sequence[EncodedRow]) -> int:
    """Return the tokens of an optimizer batch, without padding."""
    return sum(len(row.tokens) for row in batch)
