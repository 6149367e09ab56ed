"""Rows as the panels ``lengths`` and ``text`` read them, and how their figures are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.errors import DataError
from persona_lib.evidence.cells import Bools, Floats, Grid, Ints, Model, build
from persona_lib.evidence.evidence import ALL
from persona_lib.evidence.evidence import ROLES as POOLS
from persona_lib.panels.base import Caveat, of_some
from persona_lib.records import POST, PRE
from persona_lib.specs.registration import Registration
from persona_lib.stats.clustered import share
from persona_lib.stats.directions import Known
from persona_lib.stats.estimate import Estimate, none_if_nan

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ALL", "ROLES", "Rows", "ends", "known", "quantiles", "read_rows", "texts_of_some"]

ROLES = tuple(role for role in POOLS if role != ALL)
"""Roles of the roster, in the order in which they are shown."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one table, counted, with the registration that they belong to.

    Attributes:
        grid: rows and cells; rows are in the order of the table.
        registration: roles, arms and level of intervals.
    """

    grid: Grid
    registration: Registration

    @property
    def confidence(self) -> float:
        """Level of every interval."""
        return self.registration.statistics.confidence

    @cached_property
    def roles(self) -> Mapping[str, Bools]:
        """(R,) whether a row is of a role, by role; ``all`` first."""
        names = self.grid.personas
        found = {ALL: np.ones(self.grid.row_persona.shape, dtype=np.bool_)}
        for role in ROLES:
            members = [
                i for i, name in enumerate(names) if self.registration.roster.role(name) == role
            ]
            found[role] = np.isin(self.grid.row_persona, members)
        return found

    def of(self, model: Model) -> Bools:
        """Return (R,) whether a row is of a model."""
        return self.grid.of_model(model)

    def under(self, model: Model) -> Model | None:
        """Return the model that an arm was coupled on, None for others or where it is missing."""
        if model[0] != POST:
            return None
        prior = (PRE, self.registration.arm(model[1]).prior)
        return prior if prior in self.grid.models else None

    def share(self, flagged: Bools, rows: Bools) -> Estimate:
        """Return the share of some rows that are flagged, clustered by question."""
        hits, n = self.grid.by_question(flagged, rows)
        return share(hits, n, self.confidence)

    def cells(self, values: Bools | Floats) -> Floats:
        """Return (M, S, P, Q) means of a number over each cell, NaN where a cell is empty."""
        grid = self.grid
        at = (grid.row_model, grid.row_seed, grid.row_persona, grid.row_question)
        flat = np.ravel_multi_index(at, grid.n.shape)
        sums = np.bincount(flat, values.astype(np.float64), minlength=grid.n.size)
        means = np.full(grid.n.shape, np.nan)
        np.divide(sums.reshape(grid.n.shape), grid.n, out=means, where=grid.n > 0)
        return means


def read_rows(table: pa.Table, registration: Registration) -> Rows:
    """Return the rows of a table of scores, checked as `persona_lib.evidence.cells.build` does.

    Raises:
        DataError: a column, a name, a cell or a number that cannot be.
    """
    needed = [name for name in ("phase", "model") if name not in table.column_names]
    if needed:
        raise DataError(
            f"column {needed[0]}",
            bound="present",
            value="missing",
            remedy="Write the record set again.",
        )
    columns = [table.column(name).to_pylist() for name in ("phase", "model")]
    there = {name for phase, name in zip(*columns, strict=True) if phase == POST}
    arms = [arm.name for arm in registration.arms if arm.name in there]
    return Rows(build(table, registration, arms), registration)


def texts_of_some(scores: pa.Table, completions: pa.Table) -> tuple[Caveat, ...]:
    """Return a caveat where completions were kept of some of the scored seeds only.

    A recording of several seeds may keep the texts of one.
    """
    return of_some(scores, completions, what="texts", code="texts_of_some_seeds")


def ends(found: Estimate) -> dict[str, Any]:
    """Return an interval as JSON data, with its completions and questions."""
    return {
        "value": none_if_nan(found.value),
        "low": none_if_nan(found.low),
        "high": none_if_nan(found.high),
        "n": found.n,
        "questions": found.clusters,
    }


def known(found: Known, n: int, *, least: float | None = None) -> dict[str, Any]:
    """Return a mean over questions as JSON data; `least` cuts off ends that cannot be."""
    low = found.low
    if least is not None and low < least:
        low = least
    return {
        "value": none_if_nan(found.value),
        "low": none_if_nan(low),
        "high": none_if_nan(found.high),
        "n": n,
        "questions": found.n,
    }


def quantiles(values: Floats | Ints, levels: Sequence[float]) -> dict[str, float | None]:
    """Return quantiles by their level in percent, linear between order statistics."""
    if not values.size:
        return {f"{level:g}": None for level in levels}
    found = np.quantile(values, np.asarray(levels) / 100)
    return {f"{level:g}": float(value) for level, value in zip(levels, found, strict=True)}
