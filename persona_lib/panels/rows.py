"""Score rows of a panel by model, role and question, and its estimates as JSON data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.evidence.cells import Bools, Grid, build
from persona_lib.evidence.evidence import ALL
from persona_lib.evidence.evidence import ROLES as POOLS
from persona_lib.evidence.score_table import columns_of
from persona_lib.records import POST, PRE, ModelId
from persona_lib.specs.registration import Registration
from persona_lib.stats.clustered import share
from persona_lib.stats.estimate import Estimate

if TYPE_CHECKING:
    import pyarrow as pa

ROLES = tuple(role for role in POOLS if role != ALL)
"""Roles of the roster, in the order in which they are shown."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Counted rows of one table, in its order, with the registration they belong to."""

    grid: Grid
    registration: Registration

    @property
    def confidence(self) -> float:
        """Level of every interval."""
        return self.registration.statistics.confidence

    @cached_property
    def models(self) -> tuple[ModelId, ...]:
        """The models, pre-coupling ones first."""
        return tuple(ModelId(*model) for model in self.grid.models)

    @cached_property
    def roles(self) -> Mapping[str, Bools]:
        """(R,) whether a row is of a role, by role; ``all`` first."""
        grid = self.grid
        of = np.array([[self.role(m, name) for name in grid.personas] for m in self.models])
        rows = of[grid.row_model, grid.row_persona]
        found = {role: rows == role for role in ROLES}
        return {ALL: np.ones(self.grid.row_persona.shape, dtype=np.bool_), **found}

    def role(self, model: ModelId, persona: str) -> str:
        """Return the role of a persona, as the model has it if it is an arm."""
        of = self.registration
        roster = of.roster_of(model.name) if model.phase == POST else of.roster
        return roster.role(persona)

    def pre_coupling(self, model: ModelId) -> ModelId | None:
        """Return the pre-coupling model of an arm; None for others or where it is missing."""
        if model.phase != POST:
            return None
        prior = ModelId(PRE, self.registration.arm(model.name).prior)
        return prior if prior in self.models else None

    def share(self, flagged: Bools, rows: Bools) -> Estimate:
        """Return the share of some rows that are flagged, clustered by question."""
        hits, n = self.grid.by_question(flagged, rows)
        return share(hits, n, self.confidence)


def read_rows(table: pa.Table, registration: Registration) -> Rows:
    """Return the rows of a table of scores, checked by `persona_lib.evidence.cells.build`.

    Raises:
        DataError: a column, a name, a cell or a number that cannot be.
    """
    columns = [columns_of(table).column(name).to_pylist() for name in ("phase", "model")]
    there = {name for phase, name in zip(*columns, strict=True) if phase == POST}
    arms = [arm.name for arm in registration.arms if arm.name in there]
    # Evidence of our own is not uneven, and was checked for it when it was judged.
    return Rows(build(table, registration, arms, uneven=True), registration)


def estimate_json(found: Estimate | None, n: int | None = None) -> dict[str, Any] | None:
    """Return an estimate as JSON data, with completions (`n` in place of its own) and questions."""
    if found is None:
        return None
    own = found.ends("questions")
    return own if n is None else {**own, "n": n}
