"""Rows of hidden-state cosines as arrays, checked whole: every cell once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from persona_lib.checks import checked, member
from persona_lib.errors import DataError
from persona_lib.models.hidden_states import READOUTS
from persona_lib.records import GeometryRow, ModelId, schema_of
from persona_lib.specs.registration import Registration
from persona_lib.stats.moments import Floats, mean_of_known

if TYPE_CHECKING:
    import pyarrow as pa

_WHERE = "geometry"


@dataclass(frozen=True)
class Where:
    """One place where states were read: readout, layer, centred or not."""

    readout: str
    layer: int
    centred: bool


@dataclass(frozen=True, eq=False)
class Look:
    """One model at one place.

    Attributes:
        seeds: run_seed of each run.
        cosines: (seeds, bystanders, questions) with the source, NaN where missing.
        ranks: (seeds,) effective ranks of the centroids.
        without: (seeds, questions) ranks without each question.
    """

    seeds: tuple[int, ...]
    cosines: Floats
    ranks: Floats
    without: Floats

    @property
    def by_question(self) -> Floats:
        """(questions,) means over the seeds and bystanders that are there."""
        return mean_of_known(self._by_cell, 0)

    def minus(self, other: Look) -> Floats:
        """Return (questions,) mean differences over the bystanders that both have."""
        return mean_of_known(self._by_cell - other._by_cell, 0)

    @property
    def _by_cell(self) -> Floats:
        """(bystanders, questions) means over seeds."""
        return mean_of_known(self.cosines, 0)

    @property
    def rank(self) -> float:
        """Mean rank over seeds, NaN where one seed has none."""
        return float(self.ranks.mean())

    @property
    def rank_without(self) -> Floats:
        """(questions,) mean ranks over seeds without each question."""
        return np.asarray(self.without.mean(axis=0))

    @property
    def missing(self) -> int:
        """Number of cosines that are not known."""
        return int(np.isnan(self.cosines).sum())

    @property
    def cells(self) -> int:
        """Number of cosines that are known."""
        return int(self.cosines.size) - self.missing

    @property
    def seed_cosines(self) -> list[float]:
        """Mean cosine of each seed, made like the pooled one."""
        return [float(mean_of_known(mean_of_known(c, 0), 0)) for c in self.cosines]


@dataclass(frozen=True, eq=False)
class GeometryTable:
    """What was recorded, by model and place.

    Attributes:
        models: phase and name, pre-coupling models first, in the registration's order.
        readouts, layers, questions: in order; questions as they come.
        blocks: blocks of the model.
        looks: by model and place.
    """

    models: tuple[ModelId, ...]
    readouts: tuple[str, ...]
    layers: tuple[int, ...]
    questions: tuple[str, ...]
    blocks: int
    looks: Mapping[tuple[ModelId, Where], Look]

    @cached_property
    def places(self) -> tuple[Where, ...]:
        """Every readout, layer and centring."""
        return tuple(
            Where(readout, layer, centred)
            for readout in self.readouts
            for layer in self.layers
            for centred in (False, True)
        )

    @property
    def missing(self) -> int:
        """Number of source-bystander cosines that are not known."""
        return sum(look.missing for look in self.looks.values())

    @property
    def cells(self) -> int:
        """Number of source-bystander cosines that were to be recorded."""
        return sum(look.cosines.size for look in self.looks.values())


def read_geometry(table: pa.Table, registration: Registration) -> GeometryTable:
    """Return the rows of a table as arrays.

    Raises:
        DataError: a column is wrong; a model, persona or readout is not the
            registration's; a cell is repeated or missing; ranks of one place differ.
        SpecError: an unknown model.
    """
    table = checked(table, schema_of(GeometryRow), _WHERE)
    column = {name: table.column(name).to_pylist() for name in table.column_names}
    run_of_row = list(zip(column["phase"], column["model"], column["seed"], strict=True))
    runs = tuple(sorted(set(run_of_row)))
    models = _models({ModelId(phase, name) for phase, name, _ in runs}, registration)
    readouts = _in_order("readout", column["readout"], READOUTS)
    layers = tuple(sorted(set(column["layer"])))
    questions = tuple(dict.fromkeys(column["question"]))
    personas = _in_order("persona", column["persona"], registration.roster.all[1:])
    if missing := sorted(set(registration.roster.bystanders) - set(personas)):
        raise _bad("persona", "every bystander", f"no rows of {missing[0]}")
    if len(set(column["blocks"])) != 1:
        raise _bad("blocks", "one depth", sorted(set(column["blocks"])))
    axes: list[tuple[Sequence[object], Sequence[object]]] = [
        (runs, run_of_row),
        (readouts, column["readout"]),
        (layers, column["layer"]),
        ((False, True), column["centred"]),
        (personas, column["persona"]),
        (questions, column["question"]),
    ]
    shape = tuple(len(known) for known, _ in axes)
    place = _flat(axes, shape)
    cosines, ranks, without = (
        _filled(column[name], place, shape) for name in ("cosine", "rank", "rank_without")
    )
    _same("rank", ranks, (4, 5))
    _same("rank_without", without, (4,))
    bystanders = [personas.index(name) for name in registration.roster.bystanders]
    looks = {}
    for model in models:
        mine = [i for i, (phase, name, _) in enumerate(runs) if (phase, name) == model]
        seeds = tuple(runs[i][2] for i in mine)
        for r, k, c in np.ndindex(len(readouts), len(layers), 2):
            looks[model, Where(readouts[r], layers[k], bool(c))] = Look(
                seeds,
                cosines[mine, r, k, c][:, bystanders],
                ranks[mine, r, k, c, 0, 0],
                without[mine, r, k, c, 0],
            )
    return GeometryTable(models, readouts, layers, questions, column["blocks"][0], looks)


def _models(there: Set[ModelId], registration: Registration) -> tuple[ModelId, ...]:
    known = registration.models(arm.name for arm in registration.arms)
    if unknown := sorted(there - set(known)):
        member("model", " ".join(unknown[0]), [" ".join(model) for model in known])
    return tuple(model for model in known if model in there)


def _in_order(field: str, found: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    there = set(found)
    if unknown := sorted(there - set(known)):
        raise _bad(field, f"one of {', '.join(known)}", unknown[0])
    return tuple(name for name in known if name in there)


def _flat(
    axes: Sequence[tuple[Sequence[object], Sequence[object]]], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return the place of every row in a flat array of all cells."""
    codes = []
    for known, column in axes:
        index = {name: i for i, name in enumerate(known)}
        codes.append([index[value] for value in column])
    place = np.asarray(np.ravel_multi_index(codes, shape), dtype=np.int64)
    cells = int(np.prod(shape))
    distinct = int(np.unique(place).size)
    if distinct != place.size:
        raise _bad("rows", "one row a cell", f"{place.size - distinct} repeated")
    if distinct != cells:
        raise _bad("rows", f"{cells} cells, all of them", f"{cells - distinct} missing")
    return place


def _filled(values: Sequence[float], place: NDArray[np.int64], shape: tuple[int, ...]) -> Floats:
    flat = np.full(int(np.prod(shape)), np.nan)
    flat[place] = values
    if np.isinf(flat).any():
        raise _bad("values", "finite, or NaN where missing", "infinite")
    return flat.reshape(shape)


def _same(field: str, values: Floats, axes: tuple[int, ...]) -> None:
    """Check that a number that stands in many rows is the same in all of them."""
    first = values
    for axis in axes:
        first = np.take(first, [0], axis=axis)
    if not np.array_equal(np.broadcast_to(first, values.shape), values, equal_nan=True):
        raise _bad(field, "the same number in every row of one place", "different numbers")


def _bad(field: str, bound: str, value: object) -> DataError:
    return DataError(
        f"{_WHERE}: {field}", bound=bound, value=value, remedy="Write the record set again."
    )
