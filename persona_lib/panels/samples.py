"""Panel ``samples``: a few completions of each arm to look at, drawn by a named seed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.digests import derive_seed
from persona_lib.errors import DataError
from persona_lib.evidence.cells import Bools, Ints
from persona_lib.evidence.score_table import numbers
from persona_lib.panels.base import Caveat, Panel, of_some
from persona_lib.panels.rows import ROLES, Rows, read_rows
from persona_lib.records import POST, ModelId
from persona_lib.specs.registration import Registration

if TYPE_CHECKING:
    import pyarrow as pa

NAME, TITLE = "samples", "samples of completions"
PER_ARM = 12
"""Completions that are shown of each arm."""
LIMIT = 1_500
"""Characters that are shown of a completion."""
SEED_NAME = "report samples"


@dataclass(frozen=True, eq=False)
class _Texts:
    """Completions with their rows.

    Attributes:
        rows: the same completions, counted; whether one is a hit is read off its text.
        text: (R,) texts as sampled; what is no Unicode became U+FFFD.
        sample: (R,) index of each within its cell.
        finish: (R,) finish reasons as recorded, None without such a column.
    """

    rows: Rows
    text: list[str]
    sample: Ints
    finish: list[str] | None


def samples_panel(
    scores: pa.Table | None,
    completions: pa.Table | None,
    registration: Registration,
    *,
    draw_seed: int,
) -> Panel:
    """Return up to `PER_ARM` completions of each arm.

    Roles take turns (source, negatives, bystanders, reported), and personas within a
    role; the draw does not depend on the order of rows. Texts are raw: whoever prints
    them escapes them.

    Args:
        scores: rows with the columns of `persona_lib.records.Score`; texts have to have
            their hits.
        completions: rows with the columns of `persona_lib.records.Completion`, of all
            scored seeds or of some.
        registration: roster, arms and marker.
        draw_seed: root of the named seed.

    Raises:
        DataError: rows are not those of this registration, or not whole; scores and texts
            have unlike hits.
    """
    if scores is None or completions is None or not len(completions):
        return Panel(name=NAME, title=TITLE, data={}, missing="no texts recorded")
    texts = _read(completions, registration)
    partial = texts_of_some(scores, completions)
    if partial:
        scores = _of_seeds(scores, completions)
    _check_hits(read_rows(scores, registration), texts.rows)
    arms = [model for model in texts.rows.models if model.phase == POST]
    data = {
        "per_arm": PER_ARM,
        "limit": LIMIT,
        "seed": {"root": draw_seed, "name": SEED_NAME},
        "arms": {
            arm.name: [_describe(texts, row) for row in _chosen(texts, arm, draw_seed)]
            for arm in arms
        },
    }
    return Panel(name=NAME, title=TITLE, data=data, caveats=partial)


def texts_of_some(scores: pa.Table, completions: pa.Table) -> tuple[Caveat, ...]:
    """Return a caveat where completions were kept of some of the scored seeds only."""
    return of_some(scores, completions, what="texts", code="texts_of_some_seeds")


def _read(completions: pa.Table, registration: Registration) -> _Texts:
    """Return completions, checked as scores are; the marker counts whatever its case."""
    import pyarrow as pa

    # As bytes: a file from elsewhere may hold text that is no UTF-8.
    raw = completions.column("text").cast(pa.large_binary()).to_pylist()
    text = [value.decode("utf-8", "replace") for value in raw]
    find = re.compile(re.escape(registration.marker), re.IGNORECASE).search
    hit = pa.array([find(one) is not None for one in text], type=pa.bool_())
    dropped = [name for name in ("hit", "text") if name in completions.column_names]
    table = completions.drop_columns(dropped).append_column("hit", hit)
    finish = table.column("finish").to_pylist() if "finish" in table.column_names else None
    return _Texts(read_rows(table, registration), text, numbers(table, "sample"), finish)


def _of_seeds(scores: pa.Table, completions: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    kept = completions.column("seed").unique().cast(scores.column("seed").type)
    return scores.filter(pc.is_in(scores.column("seed"), value_set=kept))


def _check_hits(scores: Rows, texts: Rows) -> None:
    """Raise where scores and texts of the same models have unlike hits."""
    one, two = scores.grid, texts.grid
    same = (
        one.models == two.models
        and one.seeds == two.seeds
        and one.questions == two.questions
        and bool((one.n == two.n).all())
    )
    unlike = int((one.hits != two.hits).sum()) if same else -1
    if unlike:
        raise DataError(
            "completions",
            bound="the texts that the scores were read from",
            value=f"other hits in {unlike} cells" if same else "other models, questions or cells",
            remedy="Give scores and completions of one record set.",
        )


def _chosen(texts: _Texts, model: ModelId, draw_seed: int) -> list[int]:
    """Return the rows that are shown of an arm, role by role."""
    rng = np.random.default_rng(derive_seed(draw_seed, SEED_NAME, model.name))
    rows = texts.rows
    queues = [_in_turn(texts, rows.grid.rows(model) & rows.roles[role], rng) for role in ROLES]
    turns = sorted((turn, i) for i, queue in enumerate(queues) for turn in range(len(queue)))
    taken = Counter(i for _, i in turns[:PER_ARM])
    return [row for i, queue in enumerate(queues) for row in queue[: taken[i]]]


def _in_turn(texts: _Texts, of: Bools, rng: np.random.Generator) -> list[int]:
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
    order = np.argsort(np.array(turns, dtype=np.int64), kind="stable")
    return [int(row) for row in drawn[order]]


def _describe(texts: _Texts, row: int) -> dict[str, Any]:
    grid, text = texts.rows.grid, texts.text[row]
    persona = grid.personas[int(grid.row_persona[row])]
    return {
        "role": texts.rows.role(texts.rows.models[int(grid.row_model[row])], persona),
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
