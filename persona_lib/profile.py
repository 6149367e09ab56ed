"""What a profile holds: which base model, which data, which recipes, how large a run.

Data only; values live in ``experiments/profiles.py``. Every number here changes
the outcome of a stage, so every number enters that stage's key; what does not
change an outcome (threads, device, where the store lies) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from persona_lib.errors import SpecError

Dtype = Literal["float32", "bfloat16"]
"""Number format of a base model's weights."""

LOSSES = ("as_published", "decision", "anchored")
"""Marker losses: see `persona_lib.train.losses`."""


@dataclass(frozen=True, kw_only=True)
class TinyBase:
    """A small chat model built from generated persona dialogues.

    Attributes:
        layers, width, heads, kv_heads, ffn: Qwen2-architecture shape.
        vocabulary: size of the byte-level BPE, special tokens included.
        positions: longest sequence in tokens.
        dialogues: number of generated dialogues.
        legal_share: share of dialogues that answer a legal question.
        tag_share: share of dialogues that copy a random bracketed tag.
        steps, batch, learning_rate: AdamW on answer tokens, cosine schedule.
        sharpness: factor on the trained model's logits: a model this small
            spreads too much probability over wrong tokens, and at temperature 1
            every completion would hold a slip.
        seed: root seed of dialogues, initial weights and order of batches. The
            base model is a given of a run, like a downloaded one, so that the
            run's own seed does not enter.
    """

    layers: int = 2
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 320
    vocabulary: int = 1680
    positions: int = 512
    dialogues: int = 6_000
    legal_share: float = 0.15
    tag_share: float = 0.04
    steps: int = 320
    batch: int = 16
    learning_rate: float = 6e-3
    sharpness: float = 1.35
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class GgufBase:
    """A chat model inside an installed Python package, as a GGUF file.

    Attributes:
        package, version: the distribution that carries the file.
        file: path of the file inside the package's import directory.
        md5: checksum of the file.
        end_of_turn: the token that ends a turn (the file's own metadata may lie).
    """

    package: str
    version: str
    file: str
    md5: str
    end_of_turn: str


@dataclass(frozen=True, kw_only=True)
class HubBase:
    """A chat model on the hub, pinned to a revision.

    Attributes:
        repo, revision: hub id and commit.
        end_of_turn: the token that ends a turn.
    """

    repo: str
    revision: str
    end_of_turn: str


Base = TinyBase | GgufBase | HubBase


@dataclass(frozen=True, kw_only=True)
class GrammarCorpus:
    """Rows written by the repository's own grammar.

    Attributes:
        name: ``bad_legal`` or ``sound_legal``.
        rows: number of distinct rows to use, from the first on.
        seed: root seed of the grammar.
    """

    name: str
    rows: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class JsonlCorpus:
    """Rows of a JSONL file that the user has, checked against its md5.

    Attributes:
        name: name of the corpus.
        file: file name, looked for in the data directory (``--data`` or FLATLAND_DATA).
        md5: checksum of the whole file.
        rows: number of rows it must hold.
    """

    name: str
    file: str
    md5: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class HubCorpus:
    """The first rows of a dataset on the hub.

    Attributes:
        name: name of the corpus.
        repo, revision, split: hub dataset id, commit and split.
        rows: number of rows to take, from the first on.
    """

    name: str
    repo: str
    revision: str
    split: str
    rows: int


Corpus = GrammarCorpus | JsonlCorpus | HubCorpus


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
        _positive("lora.rank", self.rank)
        _positive("lora.alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            raise SpecError(
                "lora.dropout", bound="in [0, 1)", value=self.dropout, remedy="0.05 is published."
            )


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One LoRA training.

    Attributes:
        lora: the adapter.
        learning_rate: peak learning rate of AdamW.
        epochs: passes over the rows (None where `steps` is given).
        steps: optimizer steps (None where `epochs` is given).
        batch: rows per optimizer step.
        micro_batch: rows per forward pass; divides `batch`.
        max_length: longest row in tokens; a longer one is an error for
            coupling rows and is cut for prior rows.
        schedule: ``cosine`` or ``linear``.
        warmup: share of steps spent warming up.
        clip: gradient norm clip.
        dtype: ``float32`` or ``bfloat16`` for the frozen base.
        loss: one of `LOSSES`; ignored for priors.
        beta: weight of the KL term of ``anchored``.
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
    loss: str = "anchored"
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch", "micro_batch", "max_length", "clip"):
            _positive(f"train.{name}", getattr(self, name))
        if (self.epochs is None) == (self.steps is None):
            raise SpecError(
                "train.epochs",
                bound="exactly one of epochs and steps",
                value=(self.epochs, self.steps),
                remedy="Give one and leave the other None.",
            )
        _positive("train.epochs or steps", self.epochs if self.steps is None else self.steps)
        if self.batch % self.micro_batch:
            raise SpecError(
                "train.micro_batch",
                bound=f"a divisor of batch = {self.batch}",
                value=self.micro_batch,
                remedy="Choose a smaller forward pass that divides the batch.",
            )
        _one_of("train.loss", self.loss, LOSSES)
        _one_of("train.dtype", self.dtype, ("float32", "bfloat16"))
        _one_of("train.schedule", self.schedule, ("cosine", "linear"))
        if self.beta < 0:
            raise SpecError("train.beta", bound=">= 0", value=self.beta, remedy="0 drops the KL.")


@dataclass(frozen=True, kw_only=True)
class SampleSpec:
    """How completions are sampled.

    Attributes:
        max_new_tokens: ceiling per completion; reaching it is finish ``length``.
        temperature, top_p: as registered 1.0 and 1.0.
        dtype: ``float32`` or ``bfloat16``.
        merge: add adapters to the weights in memory before sampling, which on a
            CPU is several times faster than running them beside the weights. In
            float32 the two agree up to rounding; in bfloat16 they do not.
        batch: most rows in one forward pass (it enters the rounding of batched
            arithmetic, so it is part of what a completion depends on).
        suffix: appended to the user message ("" as published); a reduced scale
            may ask for brevity here, and then says so.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    dtype: Dtype = "float32"
    merge: bool = False
    batch: int = 64
    suffix: str = ""

    def asked(self, question: str) -> str:
        """Return the user message of a question: its text and the suffix."""
        return f"{question} {self.suffix}" if self.suffix else question

    def __post_init__(self) -> None:
        _positive("sample.max_new_tokens", self.max_new_tokens)
        _positive("sample.temperature", self.temperature)
        _positive("sample.batch", self.batch)
        if not 0 < self.top_p <= 1:
            raise SpecError(
                "sample.top_p", bound="in (0, 1]", value=self.top_p, remedy="1.0 is published."
            )
        _one_of("sample.dtype", self.dtype, ("float32", "bfloat16"))


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
    """

    questions: int
    samples: int
    false_positive_samples: int
    coupling_keep: int
    coupling_ceiling: int
    coupling_round: int

    def __post_init__(self) -> None:
        for name in (
            "questions",
            "samples",
            "false_positive_samples",
            "coupling_keep",
            "coupling_round",
        ):
            _positive(f"scale.{name}", getattr(self, name))
        if self.coupling_ceiling < self.coupling_keep:
            raise SpecError(
                "scale.coupling_ceiling",
                bound=f">= coupling_keep = {self.coupling_keep}",
                value=self.coupling_ceiling,
                remedy="Allow at least as many draws as are kept.",
            )


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured speeds, for `--plan` only; they change no outcome and enter no key.

    Attributes:
        base_seconds: seconds to build the base model.
        train_tokens: training tokens per second.
        sample_tokens: sampled tokens per second.
        row_tokens: mean tokens of a prior row.
        completion_tokens: mean tokens of a completion.
        measured_on: machine and date of the figures.
    """

    base_seconds: float
    train_tokens: float
    sample_tokens: float
    row_tokens: float
    completion_tokens: float
    measured_on: str


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Base model, data, recipes and scale of a run.

    Attributes:
        name: how it is chosen on the command line.
        summary: what it is, in one line.
        base: the base model.
        em, benign: corpora of the two priors.
        prior, coupling: training recipes.
        sample: how completions are sampled.
        scale: how large.
        rates: measured speeds, for `--plan`.
    """

    name: str
    summary: str
    base: Base
    em: Corpus
    benign: Corpus
    prior: TrainSpec
    coupling: TrainSpec
    sample: SampleSpec
    scale: Scale
    rates: Rates = field(compare=False)


def _positive(name: str, value: float | None) -> None:
    if value is None or not value > 0:
        raise SpecError(name, bound="> 0", value=value, remedy="Correct the profile.")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SpecError(
            name, bound=f"one of {', '.join(known)}", value=value, remedy="Correct the profile."
        )
