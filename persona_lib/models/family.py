"""Architectures and chat formats that `persona_lib.models.tiny` builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from persona_lib.models.chatml import END, PAD, START, TEMPLATE


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a small model is, beyond its size.

    Attributes:
        architecture: of transformers, by the name that its config's class begins with.
        template: chat template; `end` stands behind an answer in it.
        special: special tokens, in the order of their ids.
        roles: roles of some of them, as tokenizers of transformers name them.
        ends: tokens of generation_config.json that end an answer.
        config: further fields of the config.
        rows: rows of the embedding beyond the vocabulary.
        gain: the last norm multiplies by its weight plus this.
    """

    architecture: str
    template: str
    end: str
    special: tuple[str, ...]
    roles: Mapping[str, str]
    ends: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    gain: float = 0.0

    @property
    def others(self) -> list[str]:
        """The special tokens without a role."""
        return [token for token in self.special if token not in self.roles.values()]


QWEN2 = Family(
    architecture="Qwen2",
    template=TEMPLATE,
    end=END,
    special=(PAD, START, END),
    roles={"eos_token": END, "pad_token": PAD},
    ends=(END,),
)
"""The base model of profile ``tiny``."""
