"""How near the source's hidden states are to the bystanders', by arm and training run."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from persona_lib.checks import checked
from persona_lib.errors import DataError
from persona_lib.models.hidden_states import LAST_RESPONSE
from persona_lib.records import POST, GeometryRow, schema_of
from persona_lib.specs.registration import Registration


def nearness(
    table: pa.Table, registration: Registration, arm: str, depth: float
) -> dict[int, float]:
    """Return the mean cosine of the bystanders with the arm's source, by run seed.

    At the last token of responses, the mean over personas subtracted first, question by
    question; behind the recorded block that is nearest to a share `depth` of all. Empty
    responses have no state and are left out.

    Raises:
        DataError: a column is missing or mistyped, or a cosine outside [-1, 1].
    """
    rows = checked(table, schema_of(GeometryRow), "geometry")
    who = pa.array(registration.roster_of(arm).bystanders)
    rows = rows.filter(
        (pc.field("phase") == POST)
        & (pc.field("model") == arm)
        & (pc.field("readout") == LAST_RESPONSE)
        & pc.field("centred")
        & pc.is_in(pc.field("persona"), who)
    )
    if not rows.num_rows:
        return {}
    shares = np.abs(rows["layer"].to_numpy() / rows["blocks"].to_numpy() - depth)
    rows = rows.filter(pa.array(np.isclose(shares, shares.min())))
    cosines, seeds = rows["cosine"].to_numpy(), rows["seed"].to_numpy()
    if (np.abs(cosines[~np.isnan(cosines)]) > 1 + 1e-6).any():
        raise DataError(
            "geometry: column cosine",
            bound="in [-1, 1]",
            value=float(np.nanmax(np.abs(cosines))),
            remedy="Record the set again.",
        )
    known = ~np.isnan(cosines)
    return {
        int(seed): float(cosines[known & (seeds == seed)].mean())
        for seed in np.unique(seeds[known])
    }
