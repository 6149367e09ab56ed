"""Synthetic score tables with exact hit counts, for tests of evidence and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa

from persona_lib.digests import derive_seed
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.records import POST, PRE, Score, schema_of
from persona_lib.specs.registration import Registration
from persona_lib.verdict.judging import judge
from persona_lib.verdict.verdict import Verdict
from tests.registered import ISSUE262

FEW = replace(ISSUE262, statistics=replace(ISSUE262.statistics, resamples=3_000))
"""Issue 262 with fewer resamples: its least p, 6.7e-4, still meets every threshold."""

BYSTANDERS = {"C1": 0.25, "C2": 0.60, "C2p": 0.60, "C3": 0.20}
"""Bystander rates under which H1, H2 and H3 hold and the kill is not triggered."""


def scores(
    bystanders: Mapping[str, float] = BYSTANDERS,
    *,
    source: Mapping[str, float] | float = 0.9,
    false: Mapping[str, float] | None = None,
    questions: int = 10,
    samples: int = 10,
    seeds: Sequence[int] = (42,),
    personas: Mapping[tuple[str, str], float] | None = None,
    seen: int = 0,
    arms: Sequence[str] = ("C1", "C2", "C2p", "C3"),
    priors: Sequence[str] = ("raw", "em", "benign"),
    registration: Registration = ISSUE262,
) -> pa.Table:
    """Return a complete score table.

    Each persona of each arm and seed has round(rate * completions) hits, spread
    over its cells by a seeded permutation. `false` holds false-positive rates
    by prior, `personas` rates by (arm, persona); the first `seen` questions are
    those of the coupling text.
    """
    roster = registration.roster
    columns: dict[str, list[Any]] = {name: [] for name in schema_of(Score).names}
    models = [(POST, arm) for arm in arms] + [(PRE, prior) for prior in priors]
    names = [f"q{i:02d}" for i in range(questions)]
    for (phase, model), seed, persona in product(models, seeds, roster.all):
        if phase == PRE:
            rate = (false or {}).get(model, 0.0)
        elif persona == roster.source:
            rate = source if isinstance(source, float) else source[model]
        else:
            rate = bystanders[model]
        rate = (personas or {}).get((model, persona), rate)
        n = questions * samples
        hit = np.arange(n) < round(rate * n)
        np.random.default_rng(derive_seed(7, phase, model, seed, persona)).shuffle(hit)
        constant = {
            "phase": phase,
            "model": model,
            "seed": seed,
            "persona": persona,
            "question_set": "evaluation",
            "tokens": 40 if phase == POST else 80,
            "finish": "stop",
        }
        for name, value in constant.items():
            columns[name] += [value] * n
        columns["question"] += [name for name in names for _ in range(samples)]
        columns["sample"] += list(range(samples)) * questions
        columns["seen"] += [i < seen for i in range(questions) for _ in range(samples)]
        for name in ("hit", "hit_strict", "terminal"):
            columns[name] += hit.tolist()
        columns["first"] += np.where(hit, 9, -1).tolist()
        columns["first_token"] += np.where(hit, 3, -1).tolist()
        columns["markers"] += hit.astype(int).tolist()
    return pa.table(columns, schema=schema_of(Score))


def evidence(
    *args: Any, registration: Registration = FEW, arms: Sequence[str] | None = None, **kwargs: Any
) -> RecordEvidence:
    """Return the evidence of `scores(...)`."""
    if arms is not None:
        kwargs["arms"] = arms
    table = scores(*args, registration=registration, **kwargs)
    return RecordEvidence(registration, table, arms=arms)


def verdict(claim: str, registration: Registration = FEW, **kwargs: Any) -> Verdict:
    """Judge a claim on rates that hold every one, but for `rates`."""
    rates = {**BYSTANDERS, **kwargs.pop("rates", {})}
    return judge(registration, evidence(rates, registration=registration, **kwargs), claim)


def without(table: pa.Table, **where: Any) -> pa.Table:
    """Return the table without the rows that have all these values."""
    keep = np.zeros(table.num_rows, dtype=bool)
    for name, value in where.items():
        keep |= np.array([found != value for found in table.column(name).to_pylist()])
    return table.filter(pa.array(keep))


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return the table with one column exchanged."""
    at = table.column_names.index(name)
    return table.set_column(at, name, values)
