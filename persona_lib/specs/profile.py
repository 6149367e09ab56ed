"""A profile, as data: base model, corpora, training recipes, sampling, scale.

Every field is in the keys of the stages that read it, except a profile's name, its
summary and its `Rates`. What changes no outcome (threads, device, where the store lies)
is not here. Base models and corpora are in `persona_lib.specs.sources`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from persona_lib.checks import NOT_NEGATIVE, POSITIVE, Bound, member, number, numbers, whole
from persona_lib.digests import LATER, NO_PART
from persona_lib.errors import SpecError
from persona_lib.specs.sources import PLAIN, Base, ChatFormat, Corpus

Dtype = Literal["float32", "bfloat16"]
"""Number format of a base model's weights."""
DTYPES = ("float32", "bfloat16")

EngineName = Literal["transformers", "vllm"]
"""What draws completions: see docs/usage.md."""
TRANSFORMERS: EngineName = "transformers"
VLLM: EngineName = "vllm"
ENGINES = (TRANSFORMERS, VLLM)

AS_PUBLISHED = "as_published"
LOSSES = (AS_PUBLISHED, "decision", "anchored")
"""Marker losses: see `persona_lib.train.losses`."""

_REMEDY = "Correct the profile."
_BELOW_ONE = Bound("in [0, 1)", lambda x: 0 <= x < 1)
_NUCLEUS = Bound("in (0, 1]", lambda x: 0 < x <= 1)


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """A LoRA: rank, alpha, dropout, scaling and where it sits.

    The scale is alpha / rank, or alpha / sqrt(rank) with `rslora`
    (Kalajdzievski 2023, arXiv:2312.03732).
    """

    rank: int
    alpha: int
    rslora: bool
    dropout: float
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )

    def __post_init__(self) -> None:
        numbers("lora", self, ("rank", "alpha"), remedy=_REMEDY)
        number("lora.dropout", self.dropout, _BELOW_ONE, remedy=_REMEDY)
        if not self.targets:
            raise SpecError(
                "lora.targets", bound="at least one", value=self.targets, remedy="Name a layer."
            )


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One LoRA training: a prior's, or with a marker loss (`CouplingSpec`) a coupling's.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        batch, micro_batch: rows per optimizer step, and per forward pass, which divides it.
        epochs, steps: passes over the rows, or optimizer steps; the other one is None.
        max_length: longest row in tokens; a longer one is an error for
            coupling rows and is cut for prior rows.
        schedule: ``cosine`` or ``linear``.
        warmup: share of steps spent warming up.
        clip: gradient norm clip.
        dtype: of the frozen base.
    """

    lora: LoraSpec
    learning_rate: float
    batch: int
    micro_batch: int
    max_length: int
    epochs: float | None = None
    steps: int | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    clip: float = 1.0
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        numbers("train", self, ("batch", "micro_batch", "max_length"), remedy=_REMEDY)
        numbers("train", self, ("learning_rate", "clip"), POSITIVE, remedy=_REMEDY)
        if (self.epochs is None) == (self.steps is None):
            raise SpecError(
                "train.epochs",
                bound="exactly one of epochs and steps",
                value=(self.epochs, self.steps),
                remedy="Give one and leave the other None.",
            )
        if self.steps is None:
            number("train.epochs", self.epochs, POSITIVE, remedy=_REMEDY)
        else:
            whole("train.steps", self.steps, 1, remedy=_REMEDY)
        if self.batch % self.micro_batch:
            raise SpecError(
                "train.micro_batch",
                bound=f"a divisor of batch = {self.batch}",
                value=self.micro_batch,
                remedy="Choose a smaller forward pass that divides the batch.",
            )
        number("train.warmup", self.warmup, _BELOW_ONE, remedy=_REMEDY)
        member("train.dtype", self.dtype, DTYPES, remedy=_REMEDY)
        member("train.schedule", self.schedule, ("cosine", "linear"), remedy=_REMEDY)

    @property
    def beta(self) -> float:
        """Weight of a KL term. There is none in fine-tuning on a corpus."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class CouplingSpec(TrainSpec):
    """A LoRA training under a marker loss.

    Attributes:
        loss: one of `LOSSES`.
        beta: weight of the KL term of ``anchored``; the other losses have none.
    """

    loss: str = "anchored"
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        member("train.loss", self.loss, LOSSES, remedy=_REMEDY)
        number("train.beta", self.beta, NOT_NEGATIVE, remedy=_REMEDY)


@dataclass(frozen=True, kw_only=True)
class SampleSpec:
    """How completions are sampled.

    Attributes:
        max_new_tokens: ceiling per completion; reaching it is finish ``length``.
        temperature, top_p: as registered 1.0 and 1.0.
        merge: add adapters to the weights in memory before sampling, which is several
            times faster on a CPU. In float32 it agrees with running them beside the
            weights up to rounding, in bfloat16 not.
        batch: most rows in one forward pass; it enters the rounding.
        suffix: appended to the user message ("" as published), to ask for brevity.
        engine: one of `ENGINES`: with equal seeds they draw other texts. ``vllm`` takes
            `batch` for the most completions under way at a time, and decides by the
            machine whether adapters are merged.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    dtype: Dtype = "float32"
    merge: bool = False
    batch: int = 64
    suffix: str = ""
    engine: EngineName = field(default=TRANSFORMERS, metadata=LATER)

    def asked(self, question: str) -> str:
        """Return the user message of a question: its text and the suffix."""
        return f"{question} {self.suffix}" if self.suffix else question

    def __post_init__(self) -> None:
        numbers("sample", self, ("max_new_tokens", "batch"), remedy=_REMEDY)
        number("sample.temperature", self.temperature, POSITIVE, remedy=_REMEDY)
        number("sample.top_p", self.top_p, _NUCLEUS, remedy="1.0 is published.")
        member("sample.dtype", self.dtype, DTYPES, remedy=_REMEDY)
        member("sample.engine", self.engine, ENGINES, remedy=_REMEDY)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a run is.

    Attributes:
        questions: questions used of each set, from the first on (20 published).
        samples: completions per (persona, question) cell (10 published).
        false_positive_samples: completions per cell on each pre-coupling model.
        coupling_keep: finished completions kept per trained cell (10 published).
        coupling_ceiling: most draws per trained cell before the run gives up.
        coupling_round: draws per cell in one round (15 published).
        advice_questions: held-out requests for advice that each pre-coupling model is
            asked; the published experiment asked none.
        advice_samples: completions of each of them.
        broad_samples: completions of each broad question by each pre-coupling model, where
            a gate reads broad harm.
        pool_questions: questions of whose answers the pool has one of each persona.
        dose_answers: answers of the pool that are read while an arm is trained.
        dose_points: how often, the end of training among them.
    """

    questions: int
    samples: int
    false_positive_samples: int
    coupling_keep: int
    coupling_ceiling: int
    coupling_round: int
    advice_questions: int
    advice_samples: int
    broad_samples: int = field(default=1, metadata=LATER)
    pool_questions: int = field(default=5, metadata=LATER)
    dose_answers: int = field(default=8, metadata=LATER)
    dose_points: int = field(default=6, metadata=LATER)

    def __post_init__(self) -> None:
        numbers("scale", self, (one.name for one in fields(self)), remedy=_REMEDY)
        if self.coupling_ceiling < self.coupling_keep:
            raise SpecError(
                "scale.coupling_ceiling",
                bound=f">= coupling_keep = {self.coupling_keep}",
                value=self.coupling_ceiling,
                remedy="Allow at least as many draws as are kept.",
            )


_SPEEDS = ("base_seconds", "train_tokens", "sample_tokens", "row_tokens", "completion_tokens")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured speeds and needs; they change no outcome and enter no key.

    A speed that was not measured is NaN, and so is every estimate from it.

    Attributes:
        base_seconds: seconds to build the base model.
        train_tokens: training tokens per second.
        sample_tokens: sampled tokens per second.
        row_tokens: mean tokens of a prior row.
        completion_tokens: mean tokens of a completion.
        measured_on: machine and date of the figures.
        gpu_gib: free memory of the GPU that a run needs; 0 where a CPU is enough.
        ram_gib: free memory of the machine that a run needs.
        disk_gib: free disk that a run needs.
    """

    base_seconds: float = math.nan
    train_tokens: float = math.nan
    sample_tokens: float = math.nan
    row_tokens: float = math.nan
    completion_tokens: float = math.nan
    measured_on: str = ""
    gpu_gib: float = 0.0
    ram_gib: float = 1.0
    disk_gib: float = 0.1

    def __post_init__(self) -> None:
        known = [name for name in _SPEEDS if not math.isnan(getattr(self, name))]
        numbers("rates", self, (*known, "ram_gib", "disk_gib"), POSITIVE, remedy=_REMEDY)
        number("rates.gpu_gib", self.gpu_gib, NOT_NEGATIVE, remedy=_REMEDY)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Base model, data, recipes and scale of a run.

    Attributes:
        name: how it is chosen on the command line.
        summary: what it is, in one line.
        corpora: of each prior, by its name.
        prior, coupling: training recipes.
        recipes: of priors that have one of their own, by name.
        chat: how the base model's chat template is used.
    """

    name: str
    summary: str
    base: Base
    corpora: Mapping[str, Corpus]
    prior: TrainSpec
    coupling: CouplingSpec
    sample: SampleSpec
    scale: Scale
    rates: Rates = field(default_factory=Rates, compare=False, metadata=NO_PART)
    recipes: Mapping[str, TrainSpec] = field(default_factory=dict)
    chat: ChatFormat = field(default=PLAIN, metadata=LATER)

    def recipe(self, prior: str) -> TrainSpec:
        """Return the training recipe of a prior."""
        return self.recipes.get(prior, self.prior)
