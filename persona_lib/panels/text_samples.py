"""Completions to look at: a few of each arm, drawn by a named seed and spread over roles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.digests import derive_seed
from persona_lib.evidence.cells import Bools, Ints, Model
from persona_lib.evidence.score_table import numbers
from persona_lib.panels.text_rows import ROLES, Rows, read_rows
from persona_lib.records import POST
from persona_lib.specs.registration import Registration

if TYPE_CHECKING:
    import pyarrow as pa

PER_ARM = 12
"""Completions that are shown of each arm."""
LIMIT = 1_500
"""Characters that are shown of a completion."""
SEED_NAME = "report samples"

_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class Texts:
    """Completions with their rows.

    Attributes:
        rows: the same completions, counted; a hit is one whatever the marker's case.
        text: (R,) texts as sampled; what is no Unicode became U+FFFD.
        sample: (R,) index of each within its cell.
        finish: (R,) finish reasons as recorded, None without such a column.
    """

    rows: Rows
    text: list[str]
    sample: Ints
    finish: list[str] | None

    def first_marker(self, row: int) -> int:
        """Return the characters before the first marker of a row, -1 where there is none."""
        found = _finder(self.rows.registration)(self.text[row])
        return -1 if found is None else found.start()


def read_texts(completions: pa.Table, registration: Registration) -> Texts:
    """Return completions, checked as scores are; whether each is a hit is read off its text.

    Raises:
        DataError: the rows are not those of this registration, or not whole.
    """
    import pyarrow as pa

    # As bytes: a file from elsewhere may hold text that is no UTF-8.
    raw = completions.column("text").cast(pa.large_binary()).to_pylist()
    text = [scalar(value) for value in raw]
    find = _finder(registration)
    hit = pa.array([find(one) is not None for one in text], type=pa.bool_())
    table = completions.drop_columns([n for n in ("hit",) if n in completions.column_names])
    table = table.drop_columns(["text"]).append_column("hit", hit)
    finish = table.column("finish").to_pylist() if "finish" in table.column_names else None
    return Texts(
        rows=read_rows(table, registration),
        text=text,
        sample=numbers(table, "sample"),
        finish=finish,
    )


def _finder(registration: Registration) -> Callable[[str], re.Match[str] | None]:
    """Return what finds the marker, whatever its case: the registered meaning of a hit."""
    return re.compile(re.escape(registration.marker), re.IGNORECASE).search


def scalar(text: str | bytes) -> str:
    """Return text that every encoder takes: what is no Unicode becomes U+FFFD."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return _SURROGATES.sub("\ufffd", text)


def samples(texts: Texts, root: int) -> dict[str, list[dict[str, Any]]]:
    """Return up to `PER_ARM` completions of each arm, as JSON data.

    Roles take turns (source, negatives, bystanders, reported), and personas within a
    role; the draw does not depend on the order of rows. Texts are raw: whoever prints
    them escapes them.

    Args:
        texts: completions of any models.
        root: root of the named seed.
    """
    arms = [model for model in texts.rows.grid.models if model[0] == POST]
    return {
        model[1]: [_describe(texts, row) for row in chosen(texts, model, root)] for model in arms
    }


def chosen(texts: Texts, model: Model, root: int) -> list[int]:
    """Return the rows that are shown of an arm, role by role."""
    rng = np.random.default_rng(derive_seed(root, SEED_NAME, model[1]))
    rows = texts.rows
    queues = [_in_turn(texts, rows.of(model) & rows.roles[role], rng) for role in ROLES]
    taken = [0] * len(queues)
    left = PER_ARM
    while left and any(n < len(queue) for n, queue in zip(taken, queues, strict=True)):
        for i, queue in enumerate(queues):
            if left and taken[i] < len(queue):
                taken[i] += 1
                left -= 1
    return [row for n, queue in zip(taken, queues, strict=True) for row in queue[:n]]


def _in_turn(texts: Texts, of: Bools, rng: np.random.Generator) -> list[int]:
    """Return rows in a drawn order in which no persona comes twice before all came once."""
    grid = texts.rows.grid
    at = np.flatnonzero(of)
    keys = (grid.row_seed, grid.row_question, texts.sample, grid.row_persona)
    at = at[np.lexsort([key[at] for key in reversed(keys)])]
    drawn = at[rng.permutation(at.size)]
    before: Counter[int] = Counter()
    turns = []
    for persona in grid.row_persona[drawn].tolist():
        turns.append(before[persona])
        before[persona] += 1
    order: Sequence[int] = np.argsort(np.array(turns, dtype=np.int64), kind="stable").tolist()
    return [int(drawn[i]) for i in order]


def _describe(texts: Texts, row: int) -> dict[str, Any]:
    grid, text = texts.rows.grid, texts.text[row]
    persona = grid.personas[int(grid.row_persona[row])]
    return {
        "role": texts.rows.registration.roster.role(persona),
        "persona": persona,
        "question": grid.questions[int(grid.row_question[row])],
        "seed": grid.seeds[int(grid.row_seed[row])],
        "sample": int(texts.sample[row]),
        "tokens": None if grid.tokens is None else int(grid.tokens[row]),
        "finish": None if texts.finish is None else texts.finish[row],
        "hit": bool(grid.row_hit[row]),
        "text": text[:LIMIT],
        "characters": len(text),
        "cut": len(text) > LIMIT,
    }
