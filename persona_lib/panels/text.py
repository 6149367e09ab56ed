"""Panel ``text``: how completions end, where the marker stands, how alike they are.

If persona space is flattened, answers of different personas to one question come to be
as alike as answers of one persona. A dozen completions of each arm stand beside the
figures, drawn by a named seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.errors import DataError
from persona_lib.evidence.cells import Bools, Floats, Model
from persona_lib.evidence.score_table import flags
from persona_lib.panels.base import Caveat, Panel
from persona_lib.panels.lengths import LEVELS, MAX_RATIO, MIN_RATIO, length_ratio
from persona_lib.panels.text_alike import (
    MIN_NGRAMS,
    Alike,
    alike,
    describe,
    shared_questions,
    spreads,
)
from persona_lib.panels.text_rows import Rows, ends, quantiles, read_rows, texts_of_some
from persona_lib.panels.text_samples import LIMIT, PER_ARM, SEED_NAME, Texts, read_texts, samples
from persona_lib.records import POST
from persona_lib.specs.registration import Registration
from persona_lib.stats.clustered import median
from persona_lib.stats.thresholds import above, at_least, at_most, shown

if TYPE_CHECKING:
    import pyarrow as pa

NAME, TITLE = "text", "texts: endings, marker, likeness, samples"
MAX_EMPTY = 0.05
"""Share of empty completions above which a caveat says so."""
_MANY = 3

_NO_TEXTS = "no texts recorded"
METHOD = {
    "marker": "whatever its case, unless strict; place: tokens before the first marker over "
    "tokens of the completion, 1 at most (characters where tokens are not recorded)",
    "sd": "standard deviation over personas of their means over the questions that all models "
    "answered; jackknife over questions; noise: what personas without any difference would show",
    "distinct": "expected share of distinct n-grams of words among a fixed number drawn without "
    "replacement (rarefaction, Hurlbert 1971) from all answers to one question in one run, the "
    "same number for every model and question; mean over questions, t interval. As many "
    "completions of each persona and question as the model with fewest has",
    "similarity": "mean cosine of word counts of two completions of one run: of two personas "
    "that answer one question (across_personas), of one persona that answers one question "
    "(within_persona), of one persona that answers two questions (other_question; jackknife over "
    "questions); gap is within_persona - across_personas: 0 where personas are not told apart. "
    "Longer texts have larger cosines",
    "duplicates": "share of completions that are not empty whose text occurs more than once in "
    "the same run, on as many completions of each persona and question as distinct-n",
    "changes": "minus the model under the arm, paired by question; t interval and p over "
    "questions, each look by itself",
    "text": "the marker is cut out first; words are runs of letters, digits and underscores, "
    "case folded; without words a text takes no part in similarity",
}


def text_panel(
    scores: pa.Table | None,
    completions: pa.Table | None,
    registration: Registration,
    *,
    root: int,
) -> Panel:
    """Return the panel of texts.

    Args:
        scores: rows with the columns of `persona_lib.records.Score`, of any models of
            the registration; all that are not needed for a rate may be missing.
        completions: rows with the columns of `persona_lib.records.Completion`; None
            where no texts were recorded. Where they are of some seeds only, the panel
            is of those seeds and says so.
        registration: roster, arms, marker and level of intervals.
        root: root of the seed by which samples are chosen.

    Raises:
        DataError: rows that are not those of this registration, or not whole; scores
            and texts that contradict each other.
    """
    if scores is None or not len(scores):
        return Panel(name=NAME, title=TITLE, data={}, missing="no completions recorded")
    partial: tuple[Caveat, ...] = ()
    if completions is not None and len(completions):
        partial = texts_of_some(scores, completions)
        if partial:
            scores = _of_seeds(scores, completions)
    rows = read_rows(scores, registration)
    texts = None
    if completions is not None and len(completions):
        texts = read_texts(completions, registration)
        _agree(rows, texts.rows)
    found = None if texts is None else alike(texts)
    likeness = describe(rows, _joined(rows, found))
    data = {
        "confidence": rows.confidence,
        "marker": registration.marker,
        "models": _models(rows, scores, texts),
        "homogeneity": _homogeneity(rows, texts, found, likeness),
        "samples": None if texts is None else _samples(texts, root),
        "method": METHOD,
        "missing": _missing(rows, scores, texts, found),
    }
    caveats = [*partial, *_unlike_lengths(rows), *_empty_texts(texts, found)]
    return Panel(name=NAME, title=TITLE, data=data, caveats=tuple(caveats))


def _of_seeds(scores: pa.Table, completions: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    kept = completions.column("seed").unique().cast(scores.column("seed").type)
    return scores.filter(pc.is_in(scores.column("seed"), value_set=kept))


def _agree(scores: Rows, texts: Rows) -> None:
    """Raise where scores and texts of the same models tell of unlike hits."""
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


def _models(rows: Rows, scores: pa.Table, texts: Texts | None) -> list[dict[str, Any]]:
    """Return endings and markers of every model, over all personas and role by role."""
    in_tokens = rows.grid.tokens is not None and rows.grid.first_token is not None
    places = None if texts is None or in_tokens else _in_characters(texts)
    models = []
    for model in rows.grid.models:
        roles = {}
        for role, mine in rows.roles.items():
            of = rows.of(model) & mine
            marker = _marker(rows, scores, of)
            if texts is not None and places is not None:
                there = texts.rows.of(model) & texts.rows.roles[role] & texts.rows.grid.row_hit
                marker["place"] = _place(texts.rows, places, there, "characters")
            roles[role] = {"n": int(of.sum()), "finish": _finish(rows, of), "marker": marker}
        entry = {"phase": model[0], "model": model[1], "seeds": list(rows.grid.seeds)}
        models.append(entry | {"roles": roles})
    return models


def _finish(rows: Rows, of: Bools) -> dict[str, Any] | None:
    finish = rows.grid.finish
    if finish is None:
        return None
    return {
        "stop": int((of & finish).sum()),
        "length": int((of & ~finish).sum()),
        "finished": ends(rows.share(finish, of)),
    }


def _marker(rows: Rows, scores: pa.Table, of: Bools) -> dict[str, Any]:
    """Return how often, where and how many times the marker is written."""
    grid = rows.grid
    hit = of & grid.row_hit
    columns = {
        name: flags(scores, name) if name in scores.column_names else None
        for name in ("hit_strict", "terminal")
    }
    strict, terminal = columns["hit_strict"], columns["terminal"]
    found: dict[str, Any] = {
        "hits": int(hit.sum()),
        "hits_strict": None if strict is None else int((of & strict).sum()),
        "rate": ends(rows.share(grid.row_hit, of)),
        "rate_strict": None if strict is None else ends(rows.share(strict, of)),
        "terminal": None if terminal is None else ends(rows.share(terminal, hit)),
        "markers": None,
        "place": None,
    }
    if grid.markers is not None:
        times = np.minimum(grid.markers[hit], _MANY)
        found["markers"] = {
            name: int((times == n).sum()) for n, name in ((1, "1"), (2, "2"), (_MANY, "3+"))
        }
    if grid.tokens is not None and grid.first_token is not None:
        measured = hit & (grid.first_token >= 0) & (grid.tokens > 0)
        share = np.zeros(grid.tokens.shape)
        np.divide(grid.first_token, grid.tokens, out=share, where=measured)
        found["place"] = _place(rows, np.minimum(share, 1.0), measured, "tokens")
    return found


def _place(rows: Rows, share: Floats, of: Bools, unit: str) -> dict[str, Any]:
    """Return where in its completion the first marker stands, from 0 to 1."""
    middle = median(share[of], rows.grid.row_question[of].astype(float), rows.confidence)
    return {
        "unit": unit,
        "n": int(of.sum()),
        "quantiles": quantiles(share[of], LEVELS),
        "median": ends(middle),
    }


def _in_characters(texts: Texts) -> Floats:
    """Return (R,) characters before the first marker over all, 0 where there is none."""
    share = np.zeros(len(texts.text))
    for row in np.flatnonzero(texts.rows.grid.row_hit).tolist():
        share[row] = texts.first_marker(row) / len(texts.text[row])
    return share


def _joined(rows: Rows, found: Alike | None) -> dict[Model, dict[str, Any]]:
    figures = spreads(rows)
    if found is None:
        return figures
    return {model: figures[model] | found.figures[model] for model in figures}


def _homogeneity(
    rows: Rows, texts: Texts | None, found: Alike | None, models: list[dict[str, Any]]
) -> dict[str, Any]:
    shared = shared_questions(rows).size
    data: dict[str, Any] = {
        "questions": int(shared),
        "questions_left_out": len(rows.grid.questions) - int(shared),
        "completions_a_cell": None if found is None else found.kept,
        "distinct_draws": None if found is None else found.sizes,
        "models": models,
    }
    for entry in models:
        model = (entry["phase"], entry["model"])
        entry["empty"] = None
        if texts is not None and found is not None:
            entry["empty"] = ends(texts.rows.share(found.empty, texts.rows.of(model)))
            # A share of completions has Wilson's interval; its change stays paired.
            entry["figures"]["duplicates"] = found.duplicates[model]
    return data


def _samples(texts: Texts, root: int) -> dict[str, Any]:
    return {
        "per_arm": PER_ARM,
        "limit": LIMIT,
        "seed": {"root": root, "name": SEED_NAME},
        "arms": samples(texts, root),
    }


def _missing(
    rows: Rows, scores: pa.Table, texts: Texts | None, found: Alike | None
) -> dict[str, str]:
    """Return a sentence for each part that has nothing to show."""
    no_place = rows.grid.tokens is None or rows.grid.first_token is None
    names = ("hit_strict", "terminal", "markers")
    sentence = {
        name: f"no column {name} recorded" for name in names if name not in scores.column_names
    }
    if rows.grid.finish is None:
        sentence["finish"] = "no finish reasons recorded"
    if no_place and texts is None:
        sentence["place"] = "neither tokens before the marker nor texts recorded"
    if rows.grid.tokens is None:
        sentence["sd_length"] = "no numbers of tokens recorded"
    if not shared_questions(rows).size:
        sentence["sd"] = "no question was answered by every model"
    return sentence | _missing_texts(texts, found)


def _missing_texts(texts: Texts | None, found: Alike | None) -> dict[str, str]:
    if texts is None:
        return {
            "likeness": f"{_NO_TEXTS}: distinct-n, similarity, duplicates and empty texts",
            "samples": f"{_NO_TEXTS}: nothing to sample",
        }
    if found is None:
        return {"likeness": "no question was answered by every model"}
    few = f"no question has {MIN_NGRAMS} n-grams in any model: n ="
    return {f"distinct_{n}": f"{few} {n}" for n, size in found.sizes.items() if size is None}


def _unlike_lengths(rows: Rows) -> list[Caveat]:
    caveats = []
    for arm in rows.grid.models:
        found = length_ratio(rows, arm) if arm[0] == POST else None
        if found is None or (at_least(found.value, MIN_RATIO) and at_most(found.value, MAX_RATIO)):
            continue
        words = (
            f"{arm[1]}: completions are {found.value:.2f} times as long as those of the model "
            "under it: cosines rise with length, so that their change may be one of length"
        )
        caveats.append(Caveat(code="unlike_lengths", words=words))
    return caveats


def _empty_texts(texts: Texts | None, found: Alike | None) -> list[Caveat]:
    if texts is None or found is None:
        return []
    caveats = []
    for model in texts.rows.grid.models:
        empty = texts.rows.share(found.empty, texts.rows.of(model))
        if above(empty.value, MAX_EMPTY):
            words = (
                f"{model[1]}: {empty.interval_text} of {empty.n:,} completions are empty without "
                f"the marker, more than {shown(MAX_EMPTY)}: likeness speaks of the others"
            )
            caveats.append(Caveat(code="empty_texts", words=words))
    return caveats
