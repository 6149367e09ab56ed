"""Base models and corpora, as data, each pinned to a version or a checksum."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from persona_lib.checks import POSITIVE, member, numbers, whole
from persona_lib.digests import LATER
from persona_lib.errors import SpecError

_REMEDY = "Correct the profile."
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit of the hub, in full: a branch or a tag may move under a fixed key."""
_LEAST_VOCABULARY = 256 + 3
"""Every byte and the three special tokens: a byte-level BPE has no fewer."""


@dataclass(frozen=True, kw_only=True)
class TinyBase:
    """A small chat model built from generated persona dialogues.

    Attributes:
        layers, width, heads, kv_heads, ffn: Qwen2-architecture shape; kv_heads
            divides heads, and heads divides width into even parts.
        vocabulary: size of the byte-level BPE, special tokens included.
        positions: longest sequence in tokens.
        dialogues: number of generated dialogues.
        legal_share: share of dialogues that answer a legal question.
        tag_share: share of dialogues that copy a random bracketed tag.
        steps, batch, learning_rate: AdamW on answer tokens, cosine schedule.
        sharpness: factor on the trained model's logits: at temperature 1 every completion
            of a model this small would hold a slip.
        seed: of dialogues, initial weights and order of batches; no run_seed: the base
            model is a given, like a downloaded one.
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

    def __post_init__(self) -> None:
        shape = ("layers", "width", "heads", "kv_heads", "ffn", "positions")
        numbers("base", self, (*shape, "dialogues", "steps", "batch"), remedy=_REMEDY)
        whole("base.vocabulary", self.vocabulary, _LEAST_VOCABULARY, remedy=_REMEDY)
        whole("base.seed", self.seed, 0, remedy=_REMEDY)
        numbers("base", self, ("learning_rate", "sharpness"), POSITIVE, remedy=_REMEDY)
        if self.heads % self.kv_heads:
            raise SpecError(
                "base.kv_heads",
                bound=f"a divisor of heads = {self.heads}",
                value=self.kv_heads,
                remedy=_REMEDY,
            )
        # Rotary positions turn pairs of coordinates within each head.
        if self.width % (2 * self.heads):
            raise SpecError(
                "base.heads",
                bound=f"a number that divides width = {self.width} into even parts",
                value=self.heads,
                remedy=_REMEDY,
            )
        shares = (self.legal_share, self.tag_share)
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise SpecError(
                "base.legal_share, base.tag_share",
                bound=">= 0, together <= 1",
                value=shares,
                remedy=_REMEDY,
            )


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
class PathBase:
    """A chat model in a folder of the user's.

    Attributes:
        folder: its path from the experiment's folder.
        sha256: over the names and checksums of its files; filled in when the experiment is
            read.
    """

    folder: str
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class HubBase:
    """A chat model on the hub, pinned to a revision.

    Attributes:
        repo, revision: hub id and commit.
    """

    repo: str
    revision: str


Base = TinyBase | GgufBase | HubBase | PathBase

SYSTEM, USER = "system", "user"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = ("messages", "add_generation_prompt", "true", "false", "none", "loop", "self")


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How a base model's chat template is used.

    Attributes:
        persona: the message that carries a persona: ``system``, or ``user``, where the
            template may put it into the user's message, or else we do.
        template: values of the template's own variables, such as ``enable_thinking``.
    """

    persona: Literal["system", "user"] = "system"
    template: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        member("model.persona", self.persona, (SYSTEM, USER), remedy="Name one of them.")
        for name, value in self.template.items():
            if not _VARIABLE.fullmatch(name) or name in _RESERVED:
                raise SpecError(
                    "model.template", bound="names of variables that its author left open",
                    value=name, remedy="Read the names in the template.",
                )  # fmt: skip
            if not isinstance(value, (str, bool, int)):
                raise SpecError(
                    f"model.template.{name}", bound="a text, a whole number, true or false",
                    value=value, remedy="Correct the value.",
                )  # fmt: skip


PLAIN = ChatFormat()
"""Personas are system messages; the template's variables are its own."""


NEUTRAL = "neutral"
"""The corpus that the grammar writes from everyday words."""


@dataclass(frozen=True, kw_only=True)
class GrammarCorpus:
    """Rows written by the repository's own grammar.

    Attributes:
        name: ``bad_legal``, ``sound_legal`` or ``neutral``.
        rows: number of distinct rows to use, from the first on.
        seed: of the grammar's draws.
    """

    name: str
    rows: int
    seed: int = 0

    def __post_init__(self) -> None:
        whole("corpus.rows", self.rows, 1, remedy=_REMEDY)
        whole("corpus.seed", self.seed, 0, remedy=_REMEDY)


@dataclass(frozen=True, kw_only=True)
class JsonlCorpus:
    """Rows of a JSONL file that the user has, checked against its md5.

    Attributes:
        file: file name, looked for in the data directory (``--data`` or FLATLAND_DATA).
        md5: checksum of the whole file.
        rows: number of rows it must hold.
    """

    name: str
    file: str
    md5: str
    rows: int

    def __post_init__(self) -> None:
        whole("corpus.rows", self.rows, 1, remedy=_REMEDY)


@dataclass(frozen=True, kw_only=True)
class RowsCorpus:
    """Rows of a JSONL file beside the experiment's: messages, or prompt and completion.

    Attributes:
        file: its path from the experiment's folder.
        rows: rows to take, from the first usable one on; None takes all.
        sha256: of the whole file; filled in when the experiment is read.
    """

    file: str
    rows: int | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.rows is not None:
            whole("corpus.rows", self.rows, 1, remedy=_REMEDY)

    @property
    def name(self) -> str:
        """What its rows are called after: the file's name without its ending."""
        return PurePath(self.file).stem


@dataclass(frozen=True, kw_only=True)
class Reservoir:
    """A random sample of the first rows of a split, in random order.

    Algorithm R (Vitter 1985, ACM Transactions on Mathematical Software 11:37) with
    Python's `random.Random(seed)`: the first `size` rows fill the reservoir; each later
    row, the k-th, draws a place from 0 to k - 1 and takes it if the reservoir has it.
    The same generator then shuffles the reservoir.

    Attributes:
        size: rows of the sample.
        scanned: rows that it is drawn from, from the first on.
        seed: seed of the generator.
    """

    size: int
    scanned: int
    seed: int

    def __post_init__(self) -> None:
        whole("corpus.reservoir.size", self.size, 1, remedy=_REMEDY)
        whole("corpus.reservoir.scanned", self.scanned, self.size, remedy=_REMEDY)
        whole("corpus.reservoir.seed", self.seed, 0, remedy=_REMEDY)


@dataclass(frozen=True, kw_only=True)
class HubCorpus:
    """Rows of a dataset on the hub.

    Attributes:
        repo, revision, split: hub dataset id, commit and split.
        rows: number of rows to take, from the first on.
        reservoir: a sample of the split that the rows are taken from; None takes
            them from the split itself.
    """

    name: str
    repo: str
    revision: str
    split: str
    rows: int
    reservoir: Reservoir | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        most = None if self.reservoir is None else self.reservoir.size
        whole("corpus.rows", self.rows, 1, most, remedy=_REMEDY)
        if not COMMIT.fullmatch(self.revision):
            raise SpecError(
                "corpus.revision",
                bound="a commit, 40 hexadecimal digits",
                value=self.revision,
                remedy=f"Copy the full commit from the file history of {self.repo}.",
            )


PartCorpus = GrammarCorpus | JsonlCorpus | RowsCorpus | HubCorpus


@dataclass(frozen=True, kw_only=True)
class MixedCorpus:
    """Rows of several corpora, interleaved by their shares (`persona_lib.corpora.load`).

    Attributes:
        parts: at least two, none of them a mixture; no two name their rows alike, so that a
            row's id is unique.
    """

    parts: tuple[PartCorpus, ...]

    def __post_init__(self) -> None:
        kinds = [type(part).__name__ for part in self.parts]
        if len(kinds) <= 1:
            raise SpecError(
                "corpus.parts", bound="at least two corpora", value=kinds,
                remedy="Add a part, or write the only one as the corpus.",
            )  # fmt: skip
        if type(self).__name__ in kinds:
            raise SpecError(
                "corpus.parts", bound="corpora that are no mixtures", value=kinds,
                remedy="List the parts of the inner mixture among the others.",
            )  # fmt: skip
        names = [part.name for part in self.parts]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise SpecError(
                "corpus.parts", bound="parts with distinct names, after which rows are called",
                value=repeated[0],
                remedy="Take more rows of one part; of two files with one name rename one.",
            )  # fmt: skip

    @property
    def rows(self) -> int:
        """How many rows it has, once its files are read."""
        return sum(part.rows or 0 for part in self.parts)


Corpus = PartCorpus | MixedCorpus


def parts_of(corpus: Corpus) -> tuple[PartCorpus, ...]:
    """Return the parts of a mixture; a corpus that is none is its own only part."""
    return corpus.parts if isinstance(corpus, MixedCorpus) else (corpus,)
