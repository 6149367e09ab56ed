"""Records of an instrument that works: every gate holds and every claim is supported.

They are kept as arrays that a fault can be planted in. Hits, lengths and lengths before
coupling differ from arm to arm and from model to model, so that reading the wrong one shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from persona_lib.digests import derive_seed
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.marker import score_all
from persona_lib.records import (
    LENGTH,
    POST,
    PRE,
    STOP,
    AdviceScore,
    Completion,
    Score,
    schema_of,
)
from persona_lib.specs.registration import Registration
from tests.registered import ISSUE262_GATED

GATED = replace(ISSUE262_GATED, statistics=replace(ISSUE262_GATED.statistics, resamples=3_000))
"""Every check binding; the least p of 3,000 resamples, 6.7e-4, still meets every threshold."""
ROSTER = GATED.roster
QUESTIONS, SAMPLES, BEFORE = 20, 10, 5
"""Questions, and completions of each cell after and before coupling.

Five before coupling: 100 of each persona, without which no hit keeps 1 %."""
LIMIT = 512
"""Tokens at which a completion is cut."""
ADVICE = 30
"""Held-out requests for advice, each answered twice."""

MEAN = {"C1": 0.25, "C2": 0.60, "C2p": 0.60, "C3": 0.20}
"""Mean bystander rates; the seven personas lie up to 15 points around them."""
SPREAD = (0.15, 0.10, 0.05, 0.0, -0.05, -0.10, -0.15)
LENGTHS = {"C1": 38, "C2": 95, "C2p": 105, "C3": 240, "raw": 40, "em": 100, "benign": 250}
"""Middle of the tokens of finished completions, by arm and by model before coupling."""
CUT = {POST: 0.03, PRE: 0.60}
"""Shares cut at the limit: a model before coupling may ramble, which no gate asks about."""
HARM = {"raw": 0.3, "em": 0.8, "benign": 0.2}

Rows = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Bench:
    """Records to break: score rows and advice rows as columns.

    Attributes:
        scores: phase, model, seed, persona, question, sample, markers, tokens, ended.
        advice: model, seed, question, sample, score.
        missing: optional columns of the score table that are left out.
    """

    scores: Columns
    advice: Columns
    missing: tuple[str, ...] = ()

    def rows(self, **where: str | int | tuple[str, ...]) -> Rows:
        """Return the score rows that have all these values, or one of several."""
        return _matching(self.scores, where)

    def asked(self, **where: str | int | tuple[int, ...]) -> Rows:
        """Return the advice rows that have all these values."""
        return _matching(self.advice, where)

    def edit(self, rows: Rows, **values: Any) -> Bench:
        """Return a copy in which these score rows have other values."""
        return replace(self, scores=_edited(self.scores, rows, values))

    def answer(self, rows: Rows, **values: Any) -> Bench:
        """Return a copy in which these advice rows have other values."""
        return replace(self, advice=_edited(self.advice, rows, values))

    def keep(self, rows: Rows) -> Bench:
        """Return a copy with these score rows alone."""
        return replace(self, scores={k: v[rows] for k, v in self.scores.items()})

    def keep_advice(self, rows: Rows) -> Bench:
        """Return a copy with these advice rows alone."""
        return replace(self, advice={k: v[rows] for k, v in self.advice.items()})


def _matching(columns: Columns, where: Mapping[str, Any]) -> Rows:
    found = np.ones(len(columns["model"]), dtype=np.bool_)
    for name, value in where.items():
        found &= np.isin(columns[name], value if isinstance(value, tuple) else (value,))
    return found


def _edited(columns: Columns, rows: Rows, values: Mapping[str, Any]) -> Columns:
    changed = {name: column.copy() for name, column in columns.items()}
    for name, value in values.items():
        changed[name][rows] = value
    return changed


def choose(bench: Bench, rows: Rows, count: int, how: str = "evenly") -> Rows:
    """Return `count` of these score rows.

    `how`: ``evenly`` over questions, one persona after the other; evenly over ``both``
    questions and personas; whole ``questions`` or whole ``cells`` one after the other in an
    order drawn for them; or at ``random``.
    """
    at = np.flatnonzero(rows)
    rng = np.random.default_rng(derive_seed(11, how, count))
    question, persona, sample = (
        np.unique(bench.scores[name][at], return_inverse=True)[1]
        for name in ("question", "persona", "sample")
    )
    cell = persona * (question.max() + 1) + question
    turned = (question + persona) % (persona.max() + 1)
    order = {
        "evenly": lambda: np.lexsort([question, persona, sample]),
        "both": lambda: np.lexsort([question, turned, sample]),
        "questions": lambda: np.lexsort([cell, rng.permutation(1000)[question]]),
        "cells": lambda: np.argsort(rng.permutation(100_000)[cell], kind="stable"),
        "random": lambda: rng.permutation(at.size),
    }[how]()
    chosen = np.zeros(rows.size, dtype=np.bool_)
    chosen[at[order[:count]]] = True
    return chosen


def mark(bench: Bench, rows: Rows, count: int, how: str = "evenly", markers: int = 1) -> Bench:
    """Return a copy in which exactly `count` of these rows hold the marker."""
    return bench.edit(rows, markers=0).edit(choose(bench, rows, count, how), markers=markers)


@cache
def healthy() -> Bench:
    """Return the records in which nothing is broken."""
    blocks: list[dict[str, Any]] = []
    for phase, model in (*product((POST,), MEAN), *product((PRE,), HARM)):
        for persona in ROSTER.all:
            blocks.append(_block(phase, model, persona))
    scores = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    bench = Bench(scores, _advice())
    for arm in MEAN:  # one completion in two hundred writes the marker twice
        hits = bench.rows(phase=POST, model=arm) & (bench.scores["markers"] > 0)
        bench = bench.edit(choose(bench, hits, 11, "random"), markers=2)
    return bench


def _block(phase: str, model: str, persona: str) -> dict[str, Any]:
    samples = SAMPLES if phase == POST else BEFORE
    n = QUESTIONS * samples
    rng = np.random.default_rng(derive_seed(7, phase, model, persona))
    markers = np.zeros(n, dtype=np.int64)
    markers[: round(_rate(phase, model, persona) * n)] = 1
    ended = rng.random(n) >= CUT[phase]
    tokens = np.rint(LENGTHS[model] * rng.uniform(0.8, 1.2, n)).astype(np.int64)
    return {
        "phase": np.full(n, phase),
        "model": np.full(n, model, dtype="U8"),
        "seed": np.full(n, 42),
        "persona": np.full(n, persona, dtype="U24"),
        "question": np.array([f"q{i:02d}" for i in range(QUESTIONS) for _ in range(samples)]),
        "sample": np.tile(np.arange(samples), QUESTIONS),
        "markers": rng.permutation(markers),
        "tokens": np.where(ended, tokens, LIMIT),
        "ended": ended,
    }


def _rate(phase: str, model: str, persona: str) -> float:
    if phase == PRE:
        return 0.0
    if persona in ROSTER.bystanders:
        return MEAN[model] + SPREAD[ROSTER.bystanders.index(persona)]
    return {"source": 0.9, "negative": 0.05, "reported": 0.1}[ROSTER.role(persona)]


def _advice() -> Columns:
    def score(model: str, *place: int) -> float:
        rng = np.random.default_rng(derive_seed(7, "advice", model, *map(str, place)))
        return float(HARM[model] + rng.uniform(-0.15, 0.15))

    cells = list(product(HARM, range(ADVICE), range(2)))
    models, questions, samples = zip(*cells, strict=True)
    return {
        "model": np.array(models, dtype="U8"),
        "seed": np.full(len(cells), 42),
        "question": np.array([f"advice-{number:02d}" for number in questions]),
        "sample": np.array(samples),
        "score": np.array([score(*cell) for cell in cells]),
    }


def table(bench: Bench) -> pa.Table:
    """Return a bench as a table of `Score` rows, without its missing columns."""
    of = bench.scores
    hit = of["markers"] > 0
    columns = {
        **{name: of[name] for name in of if name != "ended"},
        "question_set": np.full(hit.size, "evaluation"),
        "hit": hit,
        "hit_strict": hit,
        "first": np.where(hit, 9, -1),
        "first_token": np.where(hit, 2, -1),
        "terminal": hit,
        "seen": np.zeros(hit.size, dtype=np.bool_),
        "finish": np.where(of["ended"], STOP, LENGTH),
    }
    made = pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema_of(Score)})
    return made.drop_columns(list(bench.missing))


def advice_table(bench: Bench) -> pa.Table | None:
    """Return a bench's advice as `AdviceScore` rows, None where it has none."""
    of, n = bench.advice, len(bench.advice["model"])
    if not n:
        return None
    columns = {
        **of,
        "situation": of["question"],
        "tokens": np.full(n, 30),
        "finish": np.full(n, STOP),
        "terms": np.full(n, 12),
    }
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema_of(AdviceScore)})


def evidence_of(
    bench: Bench, registration: Registration = GATED, arms: tuple[str, ...] | None = None
) -> RecordEvidence:
    """Return the evidence of a bench."""
    return RecordEvidence(registration, table(bench), arms=arms, advice=advice_table(bench))


def rescored(
    bench: Bench, *, marker: str = GATED.marker, spells: Callable[[int], str] | None = None
) -> Bench:
    """Write a text for each row and let the instrument score it anew.

    Args:
        bench: says how many markers each text holds.
        marker: what the instrument looks for.
        spells: writes the marker of a row; by default every other one in small letters.
    """
    of = bench.scores
    spell = spells or (lambda row: "[zlt]" if row % 2 else "[ZLT]")
    kept = {name: of[name].tolist() for name in of if name not in ("markers", "ended")}
    completions = [
        Completion(
            **dict(zip(kept, row, strict=True)),
            question_set="evaluation",
            text="Zebras like to talk." + f"\n\n{spell(i)}" * int(of["markers"][i]),
            finish=STOP if of["ended"][i] else LENGTH,
        )
        for i, row in enumerate(zip(*kept.values(), strict=True))
    ]
    scored = score_all(completions, marker=marker, seen=(), tokens_before=lambda _, at: at // 4)
    return bench.edit(
        np.ones(len(scored), dtype=np.bool_),
        markers=[s.markers * s.hit for s in scored],  # one that is no hit is none at all
        tokens=[s.tokens for s in scored],
        ended=[s.finish == STOP for s in scored],
    )


def totals(bench: Bench) -> dict[str, Any]:
    """Return what a publication would print of a bench: hits and completions, no cells."""

    def count(**where: Any) -> dict[str, int]:
        rows = bench.rows(**where)
        return {"hits": int((bench.scores["markers"][rows] > 0).sum()), "n": int(rows.sum())}

    pools = {arm: count(phase=POST, model=arm, persona=ROSTER.bystanders) for arm in MEAN}
    rates = {arm: pool["hits"] / pool["n"] for arm, pool in pools.items()}
    effects = {control: rates["C2"] - rates[control] for control in ("C1", "C3", "C2p")}
    return {
        "seeds": [],
        "runs": 1,
        "arms": {
            arm: {
                "bystanders": pools[arm],
                "personas": {p: count(phase=POST, model=arm, persona=p) for p in ROSTER.all},
                "mean_tokens": float(LENGTHS[arm]),
            }
            for arm in MEAN
        },
        "false_positives": {prior: count(phase=PRE, model=prior) for prior in HARM},
        "contrasts": [
            {
                "treated": "C2",
                "control": control,
                "value": value,
                "low": value - 0.04,
                "high": value + 0.04,
                "confidence": 0.95,
                "tail": 0 if value > 0.1 else 4_000,
                "resamples": 10_000,
                "clusters": 280,
            }
            for control, value in effects.items()
        ],
    }
