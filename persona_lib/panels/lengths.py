"""Panel ``lengths``: how long completions are, against the pre-coupling model and between arms.

An arm that writes less has less room for a marker. Two arms that share no lengths cannot be
compared at equal length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.evidence.cells import Bools, Floats
from persona_lib.evidence.evidence import ALL
from persona_lib.panels.base import Caveat, Panel
from persona_lib.panels.rows import Rows, estimate_json, read_rows
from persona_lib.records import POST, ModelId
from persona_lib.specs.claim_types import RunClaim
from persona_lib.specs.registration import Registration
from persona_lib.stats.clustered import median, median_ratio
from persona_lib.stats.directions import over_questions
from persona_lib.stats.estimate import Estimate
from persona_lib.stats.lengths import REFUSE, WARN, common_support
from persona_lib.stats.thresholds import above, shown
from persona_lib.verdict.gate_result import GateOutcome, bounded

if TYPE_CHECKING:
    import pyarrow as pa

NAME, TITLE = "lengths", "lengths of completions, in tokens"
LEVELS = (5, 25, 50, 75, 95)
"""Quantiles that are shown, in percent."""
BINS = 24
"""Bins of the histogram between 1 and the longest completion, before equal edges are joined."""
MIN_RATIO, MAX_RATIO = 0.5, 2.0
"""An arm collapsed unless its median over its pre-coupling model's lies within, interval and
all: the bounds of the gates ``collapse_*``."""
MAX_CUT = 0.10
"""Largest share of completions cut at the token limit: the bound of ``truncation_*``."""
BYSTANDER = "bystander"
_UNLIKE = {
    REFUSE: ("no_common_support", "share too few lengths to be compared at equal length"),
    WARN: (
        "little_common_support",
        "share few lengths: a comparison at equal length rests on a part of them",
    ),
}
"""Code and words of the caveat on two arms' common support, by its grade."""
Runs = Mapping[int, Estimate | None]
"""An arm's ratio of lengths by run_seed."""

METHOD = {
    "quantiles": "of all completions, linear between order statistics; the interval of the "
    "median is Woodruff's, clustered by question",
    "mean": "mean over questions of the questions' means; t interval over questions",
    "finished": "share that ended before the token limit; Wilson's interval clustered by question",
    "histogram": "counts in [edge, next edge), edges common to all models: 0, then whole numbers "
    "in about equal steps of the logarithm",
    "ratio": "median of the arm's finished completions over its pre-coupling model's; interval "
    "of a ratio of two independent ones, clustered by question",
    "support": "bystanders of both arms: AUC of length, common range of the trimmed lengths, and "
    "the share of completions inside it of the arm that has fewer there",
}


def lengths_panel(scores: pa.Table | None, registration: Registration) -> Panel:
    """Return the panel of completion lengths.

    Args:
        scores: rows with the columns of `persona_lib.records.Score`, of any models of the
            registration; ``tokens`` and ``finish`` may be missing. None where there are none.
        registration: roster, arms, claims and level of intervals.

    Raises:
        DataError: the rows are not those of this registration, or not whole.
    """
    if scores is None or not len(scores):
        return Panel(name=NAME, title=TITLE, data={}, missing="no completions recorded")
    rows = read_rows(scores, registration)
    if rows.grid.tokens is None:
        return Panel(name=NAME, title=TITLE, data={}, missing="no numbers of tokens recorded")
    tokens = rows.grid.tokens
    edges = bin_edges(tokens)
    models = [_of_model(rows, tokens, model, edges) for model in rows.models]
    runs = {
        arm: {
            seed: _length_ratio(rows, arm, rows.grid.row_seed == at)
            for at, seed in enumerate(rows.grid.seeds)
            if rows.grid.has(arm, at)
        }
        for arm in rows.models
        if arm.phase == POST
    }
    supports = _supports(rows, tokens)
    unknown = "no finish reasons recorded: finished completions are not known"
    data = {
        "confidence": rows.confidence,
        "edges": edges,
        "models": models,
        "ratios": [_ratio(rows, arm, own) for arm, own in runs.items()],
        "support": supports,
        "bounds": {"ratio": [MIN_RATIO, MAX_RATIO], "cut": MAX_CUT},
        "method": METHOD,
        "missing": {"finished": unknown} if rows.grid.finish is None else {},
    }
    caveats = [*_collapsed(rows, runs), *_unlike(supports), *_truncated(rows)]
    return Panel(name=NAME, title=TITLE, data=data, caveats=tuple(caveats))


def _finished_median(rows: Rows, model: ModelId) -> Estimate | None:
    """Return the median tokens of a model's finished completions, None where not known."""
    lengths = rows.grid.finished_lengths(rows.grid.rows(model))
    if lengths is None or not lengths.values.size:
        return None
    return median(lengths.values, lengths.questions, rows.confidence)


def _length_ratio(rows: Rows, arm: ModelId, kept: Bools | None = None) -> Estimate | None:
    """Return an arm's median finished length over its pre-coupling model's, None if not known.

    Clustered by persona and question, as the collapse gate reads it.

    Args:
        rows: of every model.
        arm: the arm.
        kept: (R,) rows to read; None for all.
    """
    under = rows.pre_coupling(arm)
    if under is None:
        return None
    of = (rows.grid.rows(model) & (True if kept is None else kept) for model in (arm, under))
    one, two = (rows.grid.finished_lengths(own) for own in of)
    if one is None or two is None or not (one.values.size and two.values.size):
        return None
    return median_ratio(one, two, rows.confidence)[0]


def bin_edges(tokens: Floats) -> list[int]:
    """Return the histogram's edges: 0, 1, then whole numbers evenly apart in the logarithm.

    The last edge lies above the longest completion.
    """
    most = int(tokens.max()) + 1
    steps = np.geomspace(1, max(most, 2), BINS + 1).round().astype(int)
    return [0, *(int(edge) for edge in np.unique(steps))]


def _of_model(rows: Rows, tokens: Floats, model: ModelId, edges: list[int]) -> dict[str, Any]:
    under, of = rows.pre_coupling(model), rows.grid.rows(model)
    roles = {role: _summary(rows, tokens, of & mine, edges) for role, mine in rows.roles.items()}
    return {
        "phase": model.phase,
        "model": model.name,
        "under": under.name if under else None,
        "seeds": list(rows.grid.seeds),
        ALL: roles.pop(ALL),
        "roles": roles,
    }


def _summary(rows: Rows, tokens: Floats, of: Bools, edges: list[int]) -> dict[str, Any]:
    sums, n = rows.grid.by_question(tokens, of)
    means = sums[n > 0] / n[n > 0]
    middle = median(tokens[of], rows.grid.row_question[of].astype(float), rows.confidence)
    finish = rows.grid.finish
    return {
        "n": int(of.sum()),
        "quantiles": _quantiles(tokens[of]),
        "median": estimate_json(middle),
        "mean": estimate_json(over_questions(means, rows.confidence), int(of.sum())),
        "finished": None if finish is None else estimate_json(rows.share(finish, of)),
        "histogram": np.histogram(tokens[of], bins=edges)[0].tolist(),
    }


def _quantiles(values: Floats) -> dict[str, float | None]:
    """Return quantiles by their level in percent, linear between order statistics."""
    found = np.quantile(values, np.asarray(LEVELS) / 100) if values.size else [None] * len(LEVELS)
    return {
        f"{level:g}": None if value is None else float(value)
        for level, value in zip(LEVELS, found, strict=True)
    }


def _ratio(rows: Rows, arm: ModelId, runs: Runs) -> dict[str, Any]:
    """Return an arm's ratio, pooled and run by run, with the medians behind it."""
    under = rows.pre_coupling(arm)
    return {
        "arm": arm.name,
        "under": rows.registration.arm(arm.name).prior,
        "after": estimate_json(_finished_median(rows, arm)),
        "before": None if under is None else estimate_json(_finished_median(rows, under)),
        "ratio": estimate_json(_length_ratio(rows, arm)),
        "seeds": {str(seed): estimate_json(one) for seed, one in runs.items()},
    }


def _supports(rows: Rows, tokens: Floats) -> list[dict[str, Any]]:
    """Return the common support of the two arms of every registered contrast."""
    found = []
    for claim in rows.registration.claims:
        if isinstance(claim, RunClaim):
            continue  # it compares cells, and reads no lengths
        arms = [ModelId(POST, name) for name in (claim.treated, claim.control)]
        entry: dict[str, Any] = {
            "claim": claim.name,
            "treated": claim.treated,
            "control": claim.control,
        }
        if absent := [arm for arm in arms if arm not in rows.models]:
            entry |= {"support": None, "words": f"{absent[0].name} was not recorded"}
        else:
            one, two = (tokens[rows.grid.rows(arm) & rows.roles[BYSTANDER]] for arm in arms)
            support = common_support(one, two)
            entry |= {
                "support": {**asdict(support), "grade": support.grade},
                "n": {"treated": one.size, "control": two.size},
                "words": support.text,
            }
        found.append(entry)
    return found


def _collapsed(rows: Rows, runs: Mapping[ModelId, Runs]) -> list[Caveat]:
    """Raise where a run's ratio is not shown to keep within its bounds; the worst run is named."""
    caveats = []
    for arm, own in runs.items():
        if rows.pre_coupling(arm) is None or rows.grid.finish is None:
            continue  # what was not recorded says nothing of the arm
        for seed, found in own.items():
            figure = "no finished completions"
            if found is not None:
                if bounded(found, least=MIN_RATIO, most=MAX_RATIO) is GateOutcome.HOLDS:
                    continue
                figure = found.rounded(2)
            run = f" (seed {seed})" if len(rows.grid.seeds) > 1 else ""
            words = (
                f"{arm.name}{run}: median length of finished completions over that of "
                f"{rows.registration.arm(arm.name).prior} is not shown to lie within "
                f"[{shown(MIN_RATIO)}, {shown(MAX_RATIO)}]: {figure}"
            )
            caveats.append(Caveat(code="collapsed", words=words))
    return caveats


def _unlike(supports: list[dict[str, Any]]) -> list[Caveat]:
    caveats = []
    for entry in [one for one in supports if one["support"] is not None]:
        grade = entry["support"]["grade"]
        if grade in _UNLIKE:
            code, sentence = _UNLIKE[grade]
            words = (
                f"{entry['claim']}: bystanders of {entry['treated']} and {entry['control']} "
                f"{sentence} ({entry['words']})"
            )
            caveats.append(Caveat(code=code, words=words))
    return caveats


def _truncated(rows: Rows) -> list[Caveat]:
    if rows.grid.finish is None:
        return []
    caveats = []
    for model in rows.models:
        cut = rows.share(~rows.grid.finish, rows.grid.rows(model))
        if not math.isnan(cut.value) and above(cut.value, MAX_CUT):
            words = (
                f"{model.name}: {cut.interval_text} of {cut.n:,} completions were cut at the token "
                f"limit, more than {shown(MAX_CUT)}: their lengths are the limit's"
            )
            caveats.append(Caveat(code="truncated", words=words))
    return caveats
