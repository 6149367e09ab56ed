"""Training speed: an optimizer step as it was published against ours.

    python -m benchmarks.train_step --out train_step.json

Same model and optimizer batches. First the loss and gradient of one batch, then loss curves
without dropout, then times with dropout. The share of the floor is the time that a step's
matrix products would take at the card's own rate, over the time it took.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.common import Report, arguments, hardware
from benchmarks.train_measure import (
    Bench,
    compare_curves,
    compare_gradients,
    conclude,
    make_ours,
    time_steps,
    tokens_of,
)
from benchmarks.train_setup import (
    QWEN,
    TINY,
    make_batches,
    make_model,
    make_rows,
    set_dropout,
    trainable,
)
from benchmarks.train_variants import Published, snapshot
from persona_lib.train.gpu.memory import GIB
from persona_lib.train.gpu.packed_setup import device_limit


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return the report.

    Raises:
        FlatlandError: the variants do not compute the same; said once all is timed.
    """
    options = _options(argv)
    bench = _bench(options)
    report, restore = bench.report, snapshot(bench.model)
    published = Published(bench.model, bench.shape)

    def correctness() -> None:
        set_dropout(bench.model, 0.0)
        packed = make_ours(bench, "ours, no dropout")
        compare_gradients(bench, published, packed)
        compare_curves(bench, published, packed, restore)

    def time_ours() -> None:
        set_dropout(bench.model, bench.shape.lora.dropout)
        time_steps(bench, make_ours(bench, "ours"), "ours")

    parts: list[tuple[str, Callable[[], Any]]] = [
        ("correctness", correctness),
        ("ours", time_ours),
        ("published", lambda: time_steps(bench, published, "published")),
        ("result", lambda: conclude(bench)),
    ]
    for name, part in parts:
        restore()
        report.guard(name, part)
    return report.finish()


def _bench(options: argparse.Namespace) -> Bench:
    """Make model, rows and batches, and begin the report."""
    import torch

    for module in ("transformers", "peft"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    tiny = options.tiny or device == "cpu"
    shape = replace(TINY if tiny else QWEN, loss=options.loss)
    warmups, steps, curve = (1, 3, 3) if tiny else (2, 6, 6) if options.quick else (2, 10, 20)
    rows = make_rows(shape, options.seed)
    batches = make_batches(rows, shape, options.seed, max(curve, warmups + steps))
    report = Report(options.out)
    report.put("hardware", hardware(device))
    report.put("shape", asdict(shape))
    report.put("tokens", {"rows": sum(map(len, batches)), "batches": list(map(tokens_of, batches))})
    model = make_model(shape, device, options.seed, dropout=shape.lora.dropout)
    if device == "cuda":
        torch.cuda.synchronize()
    report.put("parameters", {
        "all": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in trainable(model).values()),
    })  # fmt: skip
    limit = device_limit(device) if options.limit_gib is None else int(options.limit_gib * GIB)
    return Bench(
        shape=shape, device=device, model=model, batches=batches,
        compiled=device == "cuda", limit=limit, warmups=warmups, steps=steps, curve=curve,
        report=report,
    )  # fmt: skip


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU, at the tiny shape")
    parser.add_argument("--loss", choices=("as_published", "sft"), default="as_published",
                        help="the loss looks at the marker, or at whole answers")  # fmt: skip
    parser.add_argument("--limit-gib", type=float, default=None, help="memory that ours may take")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
