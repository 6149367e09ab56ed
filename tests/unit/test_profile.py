"""Profiles: every bound names the field, says what was expected and what came."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from persona_lib.errors import SpecError
from persona_lib.specs.profile import CouplingSpec, TrainSpec
from persona_lib.specs.sources import GrammarCorpus, TinyBase
from tests.registered import PROFILES, QWEN7B, TINY

NAN, INF = math.nan, math.inf
SPECS: dict[str, Any] = {
    "base": TINY.base,
    "corpus": TINY.corpora["em"],
    "file": QWEN7B.corpora["em"],
    "prior": QWEN7B.prior,
    "hub": QWEN7B.corpora["benign"],
    "lora": TINY.coupling.lora,
    "train": TINY.coupling,
    "sample": TINY.sample,
    "scale": TINY.scale,
    "rates": TINY.rates,
}
SPEEDS = {field.name for field in fields(TINY.rates)} - {"measured_on", "gpu_gib"}
MEMORY = {"ram_gib", "disk_gib"}
NAMED = {"file": "corpus", "hub": "corpus", "prior": "train"}
WHOLE = (0, -1, 1.5, True)
REAL = (0.0, -1e-9, NAN, INF)
BOUNDS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    *(
        ("base", name, WHOLE)
        for name in ("layers", "width", "heads", "kv_heads", "ffn", "positions",
                     "dialogues", "steps", "batch")
    ),
    ("base", "vocabulary", (258, 0, 300.0)),
    ("base", "seed", (-1, 0.5)),
    ("base", "learning_rate", REAL),
    ("base", "sharpness", REAL),
    ("base", "kv_heads", (3,)),  # does not divide 4 heads
    ("base", "heads", (6, 128)),  # 128 wide: not whole, and parts that are not even
    ("corpus", "rows", WHOLE),
    ("corpus", "seed", (-1,)),
    ("file", "rows", WHOLE),
    ("hub", "rows", WHOLE),
    ("lora", "rank", WHOLE),
    ("lora", "alpha", WHOLE),
    ("lora", "dropout", (-0.1, 1.0, NAN)),
    ("lora", "targets", ((),)),
    ("train", "learning_rate", REAL),
    ("train", "clip", REAL),
    ("train", "epochs", REAL),
    ("prior", "steps", WHOLE),
    ("train", "batch", WHOLE),
    ("train", "micro_batch", (*WHOLE, 3)),
    ("train", "max_length", WHOLE),
    ("train", "warmup", (-0.01, 1.0, 1.5, NAN, INF)),
    ("train", "dtype", ("float16",)),
    ("train", "schedule", ("constant",)),
    ("train", "loss", ("best", "sft")),
    ("train", "beta", (-1.0, NAN, INF)),
    ("sample", "max_new_tokens", WHOLE),
    ("sample", "batch", WHOLE),
    ("sample", "temperature", REAL),
    ("sample", "top_p", (0.0, 1.01, NAN)),
    ("sample", "dtype", ("float16",)),
    *(("scale", field.name, WHOLE) for field in fields(TINY.scale)),
    ("scale", "coupling_ceiling", (TINY.scale.coupling_keep - 1,)),
    # A speed that is NaN was not measured.
    *(("rates", name, REAL) for name in sorted(MEMORY)),
    *(("rates", name, (0.0, -1e-9, INF)) for name in sorted(SPEEDS - MEMORY)),
    ("rates", "gpu_gib", (-1.0, NAN, INF)),  # 0: a CPU is enough
)  # fmt: skip
CASES = [(spec, name, value) for spec, name, values in BOUNDS for value in values]


@pytest.mark.parametrize(("spec", "name", "value"), CASES)
def test_a_value_out_of_bounds_is_refused_by_name(spec: str, name: str, value: object) -> None:
    with pytest.raises(SpecError) as caught:
        replace(SPECS[spec], **{name: value})
    assert caught.value.field == f"{NAMED.get(spec, spec)}.{name}"
    assert caught.value.bound
    assert caught.value.value is value
    assert caught.value.remedy.endswith(".")


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.1, -0.1), (0.9, 0.2), (NAN, 0.0), (0.0, NAN)])
def test_impossible_shares_of_dialogues_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(SpecError, match=r"legal_share, .*tag_share: expected >= 0, together <= 1"):
        TinyBase(legal_share=shares[0], tag_share=shares[1])


def test_bounds_themselves_are_allowed() -> None:
    TinyBase(legal_share=0.0, tag_share=1.0, vocabulary=259, heads=64, kv_heads=64, seed=0)
    replace(TINY.coupling, beta=0.0, warmup=0.0)
    replace(TINY.sample, top_p=1.0)
    replace(TINY.scale, coupling_ceiling=TINY.scale.coupling_keep)
    GrammarCorpus(name="bad_legal", rows=1)


def test_a_recipe_has_epochs_or_steps() -> None:
    for epochs, steps in ((1.0, 5), (None, None)):
        with pytest.raises(SpecError, match=r"train\.epochs: expected exactly one"):
            replace(TINY.prior, epochs=epochs, steps=steps)


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_prior_has_no_marker_loss_to_ignore(name: str) -> None:
    """Whatever is in a recipe is in a key: a field that nothing reads would retrain priors."""
    prior, coupling = PROFILES[name].prior, PROFILES[name].coupling
    assert type(prior) is TrainSpec
    assert type(coupling) is CouplingSpec
    only = {field.name for field in fields(coupling)} - {field.name for field in fields(prior)}
    assert only == {"loss", "beta"}
    assert prior.beta == 0.0


def test_a_marker_loss_keeps_the_weight_that_it_is_given() -> None:
    assert replace(replace(TINY.coupling, beta=0.25), clip=2.0).beta == 0.25
