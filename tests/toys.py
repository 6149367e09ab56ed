"""Small chat models of other families, with templates that are hard as real ones are.

Each is trained as the base of profile ``tiny`` is, on the same dialogues; templates and
tokens are our own, and behave like those of the family.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from persona_lib.device import prepare_torch
from persona_lib.models.family import QWEN2, Family
from persona_lib.pipeline.base_model import make_tiny
from persona_lib.specs.builtin import DATA
from persona_lib.specs.sources import TinyBase

LLAMA = Family(
    architecture="Llama",
    # A date in every system turn, and content without spaces at its ends.
    template=(
        "{{ bos_token }}{% if date_string is not defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{% set rest = messages %}{% set told = '' %}"
        "{% if messages[0].role == 'system' %}"
        "{% set told = messages[0].content | trim %}{% set rest = messages[1:] %}{% endif %}"
        "{{ '<|head|>system<|tail|>\n\nToday: ' + date_string + '\n\n' + told + '<|eot|>' }}"
        "{% for m in rest %}"
        "{{ '<|head|>' + m.role + '<|tail|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant<|tail|>\n\n' }}{% endif %}"
    ),
    end="<|eot|>",
    special=("<|begin|>", "<|end|>", "<|eot|>", "<|eom|>", "<|head|>", "<|tail|>"),
    roles={"bos_token": "<|begin|>", "eos_token": "<|end|>"},
    ends=("<|end|>", "<|eom|>", "<|eot|>"),
    config={"tie_word_embeddings": False},
    rows=61,
)
"""Several ends of a turn, no padding, no newline behind a turn, a date, a head of its own."""
GEMMA = Family(
    architecture="Gemma3Text",
    template=(
        "{{ bos_token }}{% set first = '' %}{% set rest = messages %}"
        "{% if messages[0].role == 'system' %}"
        "{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}{% endif %}"
        "{% for m in rest %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles take turns, user first') }}{% endif %}"
        "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' "
        "+ (first if loop.first else '') + m.content | trim + '</turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
    ),
    end="</turn>",
    special=("<pad>", "<eos>", "<bos>", "<turn>", "</turn>"),
    roles={"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"},
    ends=("<eos>", "</turn>"),
    config={"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64},
    rows=48,
    gain=1.0,
)
"""The system message in the user's; the tokenizer's end is not that of a turn; windows."""
QWEN = replace(
    QWEN2,
    template="{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful toy.<|im_end|>\n' }}{% endif %}" + QWEN2.template,
    roles={"eos_token": QWEN2.end, "pad_token": QWEN2.end},
    ends=(QWEN2.end, "<|endoftext|>"),
    rows=83,
)
"""A default system message; padding is the end of a turn; embeddings that are the head."""
FAMILIES: Mapping[str, Family] = {"llama": LLAMA, "gemma": GEMMA, "qwen": QWEN}


def build_toy(family: Family, spec: TinyBase, out: Path) -> Path:
    """Train a small model of a family into an existing folder; return the folder."""
    prepare_torch()
    # A date is of no day of this training.
    dated = family.template.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    make_tiny(out, spec, DATA, family=replace(family, template=dated))
    (out / "chat_template.jinja").write_text(family.template, encoding="utf-8")
    return out


def edited(file: str, **fields: Any) -> Callable[[Path], None]:
    """Return what sets fields of a JSON file of a checkpoint."""

    def edit(folder: Path) -> None:
        path = folder / file
        body = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(body | fields), encoding="utf-8")

    return edit
