"""A score table in which every arm, seed, persona and question has a rate of its own."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pyarrow as pa

from persona_lib.records import POST
from tests.registered import ISSUE262
from tests.synthetic import scores

ROSTER = ISSUE262.roster
SEEDS, QUESTIONS, SAMPLES = (3, 5, 8), 8, 6
RATES = {"C1": 0.30, "C2": 0.55, "C2p": 0.50, "C3": 0.20, "raw": 0.05, "em": 0.15, "benign": 0.01}
BY_SEED = (0.0, -0.9, 0.5)
"""Logits by which the seeds' rates differ, in the order of `SEEDS`."""


def uneven() -> pa.Table:
    """Rates, lengths and finish reasons that no two cells share."""
    table = scores(questions=QUESTIONS, samples=SAMPLES, seeds=SEEDS, seen=3)
    rng = np.random.default_rng(4)
    rows = table.to_pylist()
    names = sorted({row["question"] for row in rows})
    of = {key: rng.normal(0, 0.6) for key in (*ROSTER.all, *names)}
    arm_question = {pair: rng.normal(0, 0.5) for pair in product(RATES, names)}
    for row in rows:
        rate, question = RATES[row["model"]], row["question"]
        if row["persona"] == ROSTER.source and row["phase"] == POST:
            rate = 0.7 + rate / 3
        logit = math.log(rate / (1 - rate)) + of[row["persona"]] + of[question]
        logit += arm_question[row["model"], question] + BY_SEED[SEEDS.index(row["seed"])]
        hit = bool(rng.random() < 1 / (1 + math.exp(-logit)))
        tokens = int(rng.gamma(8, 5 + 2 * RATES[row["model"]])) + 3
        row |= {
            "hit": hit,
            "hit_strict": hit,
            "terminal": hit,
            "first": 9 if hit else -1,
            "first_token": int(rng.integers(0, tokens)) if hit else -1,
            "markers": int(hit),
            "tokens": tokens,
            "finish": "stop" if rng.random() < 0.6 + RATES[row["model"]] / 2 else "length",
        }
    return pa.Table.from_pylist(rows, schema=table.schema)
