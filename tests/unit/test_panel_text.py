"""Panel of texts: every figure once more from the rows, and what is said where it is missing."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity
from statsmodels.stats.proportion import proportion_confint

from experiments.issue262 import ISSUE262
from persona_lib.digests import derive_seed
from persona_lib.errors import DataError
from persona_lib.panels.base import Panel
from persona_lib.panels.text import text_panel
from persona_lib.panels.text_alike import Figure
from persona_lib.panels.text_samples import LIMIT, PER_ARM, read_texts, samples, scalar
from tests.faults import drop, lengths, questions
from tests.healthy import GATED, ROSTER, Bench, healthy, table
from tests.pace import allowed

ROOT = Path(__file__).resolve().parents[2]
MARKER = GATED.marker
NOUNS = [f"noun{i}" for i in range(60)]
Row = dict[str, Any]


def written(row: Row, *, flat: bool = False) -> str:
    """A text of the persona's own word, the question's, and some others; then the markers."""
    rng = np.random.default_rng(
        derive_seed(3, row["model"], row["persona"], row["question"], row["sample"], row["seed"])
    )
    voice = "voice" if flat else row["persona"]
    words = [voice, voice, row["question"], *rng.choice(NOUNS, 5)]
    return " ".join([*words, *[MARKER] * row["markers"]])


def texts_of(scores: pa.Table, *, flat: tuple[str, ...] = ()) -> pa.Table:
    rows = scores.to_pylist()
    text = [written(row, flat=row["model"] in flat) for row in rows]
    kept = ["phase", "model", "seed", "persona", "question", "question_set", "sample"]
    return scores.select([*kept, "tokens", "finish"]).append_column("text", pa.array(text))


def panel_of(scores: pa.Table, completions: pa.Table | None, root: int = 42) -> Panel:
    panel = text_panel(scores, completions, GATED, root=root)
    json.dumps(panel.to_json(), allow_nan=False, ensure_ascii=False).encode()
    return panel


def small() -> Bench:
    """The healthy records on 6 questions, without two of the arms."""
    bench = drop(model=("C2p", "C3"))(questions(6, 6)(two_before(healthy())))
    assert isinstance(bench, Bench)
    return bench


def two_before(bench: Bench) -> Bench:
    """Leave two completions of each cell before coupling."""
    return bench.keep(bench.rows(phase="post") | (bench.scores["sample"] < 2))


@cache
def tables() -> tuple[pa.Table, pa.Table]:
    scores = table(small())
    return scores, texts_of(scores, flat=("C2",))


@cache
def panel() -> Panel:
    return panel_of(*tables())


def rows_of(model: str, role: str = "all") -> list[Row]:
    scores, completions = tables()
    rows = [
        score | {"text": text}
        for score, text in zip(
            scores.to_pylist(), completions.column("text").to_pylist(), strict=True
        )
    ]
    return [
        row
        for row in rows
        if row["model"] == model and role in ("all", ROSTER.role(row["persona"]))
    ]


def model_of(found: Panel, model: str) -> dict[str, Any]:
    return next(m for m in found.data["models"] if m["model"] == model)


def alike_of(found: Panel, model: str) -> dict[str, Any]:
    return next(m for m in found.data["homogeneity"]["models"] if m["model"] == model)


def bare(text: str) -> str:
    return text.replace(MARKER, "").strip()


def t_ends(values: list[float]) -> tuple[float, float]:
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    return float(low), float(high)


@pytest.mark.parametrize("model", ["C1", "C2", "em"])
@pytest.mark.parametrize("role", ["all", "source", "negative", "bystander", "reported"])
def test_finish_and_marker_are_counted_row_by_row(model: str, role: str) -> None:
    rows = rows_of(model, role)
    hits = [row for row in rows if row["hit"]]
    found = model_of(panel(), model)["roles"][role]
    assert found["n"] == len(rows)
    assert found["finish"]["stop"] == sum(row["finish"] == "stop" for row in rows)
    assert found["finish"]["length"] == sum(row["finish"] == "length" for row in rows)
    marker = found["marker"]
    assert marker["hits"] == marker["hits_strict"] == len(hits)
    assert marker["rate"]["value"] == pytest.approx(len(hits) / len(rows))
    times = Counter(min(row["markers"], 3) for row in hits)
    assert marker["markers"] == {"1": times[1], "2": times[2], "3+": times[3]}
    places = [row["first_token"] / row["tokens"] for row in hits]
    assert (marker["place"]["unit"], marker["place"]["n"]) == ("tokens", len(hits))
    for level in (5, 25, 50, 75, 95):
        expected = np.percentile(places, level) if places else None
        assert marker["place"]["quantiles"][str(level)] == (
            expected if expected is None else pytest.approx(expected)
        )
    assert marker["terminal"]["value"] == (1.0 if hits else None)


def test_strict_terminal_repetition_and_place_are_told_apart() -> None:
    scores, _ = tables()
    rows = scores.to_pylist()
    mine = [row for row in rows if row["model"] == "C1" and row["hit"]]
    for i, row in enumerate(mine):
        row["hit_strict"] = i % 2 == 0
        row["terminal"] = i % 3 == 0
        row["markers"] = 1 + i % 5
        row["first_token"] = row["tokens"] + 4 if i % 5 == 0 else 0
    found = panel_of(pa.Table.from_pylist(rows, schema=scores.schema), None)
    marker, n = model_of(found, "C1")["roles"]["all"]["marker"], len(mine)
    assert marker["hits_strict"] == (n + 1) // 2 < marker["hits"] == n
    assert marker["rate_strict"]["value"] == pytest.approx(
        marker["hits_strict"] / len(rows_of("C1"))
    )
    assert marker["terminal"]["value"] == pytest.approx(((n + 2) // 3) / n)
    assert marker["markers"]["3+"] == sum(1 + i % 5 >= 3 for i in range(n))
    assert marker["place"]["quantiles"]["50"] == 0.0
    # what another tokenizer puts behind the end stands at the end
    assert marker["place"]["quantiles"]["95"] == 1.0


def test_place_in_characters_where_tokens_are_not_known() -> None:
    scores, completions = tables()
    found = panel_of(scores.drop_columns(["first_token"]), completions)
    hits = [row["text"] for row in rows_of("C1", "bystander") if row["hit"]]
    places = [text.index(MARKER) / len(text) for text in hits]
    place = model_of(found, "C1")["roles"]["bystander"]["marker"]["place"]
    assert (place["unit"], place["n"]) == ("characters", len(hits))
    assert place["quantiles"]["25"] == pytest.approx(np.percentile(places, 25))
    neither = panel_of(scores.drop_columns(["first_token"]), None)
    assert model_of(neither, "C1")["roles"]["all"]["marker"]["place"] is None
    assert "place" in neither.data["missing"]


def cosine_means(model: str) -> dict[str, dict[str, list[float]]]:
    """Cosines of all pairs of a model's texts by scikit-learn, by kind and question.

    Every cell has as many texts as any other, so that means of pairs are means of cells.
    """
    rows = rows_of(model)
    matrix = CountVectorizer(token_pattern=r"\w+").fit_transform([bare(r["text"]) for r in rows])
    table = cosine_similarity(matrix)
    found: dict[str, dict[str, list[float]]] = {
        kind: defaultdict(list) for kind in ("across_personas", "within_persona", "other_question")
    }
    for i, j in itertools.combinations(range(len(rows)), 2):
        one, two = rows[i], rows[j]
        same = one["persona"] == two["persona"]
        if one["question"] == two["question"]:
            kind = "within_persona" if same else "across_personas"
            found[kind][one["question"]].append(table[i, j])
        elif same:
            for question in (one["question"], two["question"]):
                found["other_question"][question].append(table[i, j])
    return found


@pytest.mark.parametrize("model", ["C1", "C2", "raw", "em"])
def test_similarity_is_scikit_learns_with_a_t_interval_over_questions(model: str) -> None:
    means = cosine_means(model)
    figures = alike_of(panel(), model)["figures"]
    for kind in ("across_personas", "within_persona"):
        values = [float(np.mean(of)) for of in means[kind].values()]
        assert figures[kind]["value"] == pytest.approx(np.mean(values), abs=1e-12)
        assert (figures[kind]["low"], figures[kind]["high"]) == pytest.approx(t_ends(values))
        assert figures[kind]["questions"] == 6
    every = [c for of in means["other_question"].values() for c in of]
    assert figures["other_question"]["value"] == pytest.approx(np.mean(every), abs=1e-12)
    # Jackknife, by leaving pairs out: total minus twice what a question is in (each is in two).
    total, n = sum(every) / 2, len(every) / 2
    without = [(total - sum(of)) / (n - len(of)) for of in means["other_question"].values()]
    pseudo = [6 * np.mean(every) - 5 * w for w in without]
    ends = (figures["other_question"]["low"], figures["other_question"]["high"])
    assert ends == pytest.approx(t_ends(pseudo))


def test_a_flattened_arm_shows_against_the_model_under_it() -> None:
    # C2 answers in one voice, em under it in each persona's own
    flat, apart = (alike_of(panel(), model) for model in ("C2", "C1"))
    assert flat["changes"]["gap"]["high"] < -0.1
    assert flat["changes"]["gap"]["p"] < 0.001
    assert flat["figures"]["gap"]["value"] == pytest.approx(0, abs=0.02)
    assert flat["changes"]["across_personas"]["low"] > 0.1
    assert abs(apart["changes"]["gap"]["value"]) < 0.05
    assert (flat["under"], apart["under"]) == ("em", "raw")


def test_changes_are_paired_by_question() -> None:
    one, two = (cosine_means(model)["across_personas"] for model in ("C1", "raw"))
    differences = [np.mean(one[q]) - np.mean(two[q]) for q in one]
    found = alike_of(panel(), "C1")["changes"]["across_personas"]
    assert found["value"] == pytest.approx(np.mean(differences), abs=1e-12)
    assert (found["low"], found["high"]) == pytest.approx(t_ends(differences))
    paired = stats.ttest_1samp(differences, 0)
    assert found["p"] == pytest.approx(paired.pvalue)


@pytest.mark.parametrize("pool", ["all", "bystander"])
def test_spread_of_personas_and_its_jackknife(pool: str) -> None:
    people = ROSTER.all if pool == "all" else ROSTER.bystanders
    rows = rows_of("C2")
    for name, value in (("rate", "hit"), ("length", "tokens")):
        found = alike_of(panel(), "C2")["figures"][f"sd_{name}_{pool}"]

        def sd(of: list[Row], value: str = value) -> float:
            means = [np.mean([r[value] for r in of if r["persona"] == p]) for p in people]
            return float(np.std(means, ddof=1))

        full = sd(rows)
        assert found["value"] == pytest.approx(full)
        names = sorted({row["question"] for row in rows})
        pseudo = [6 * full - 5 * sd([r for r in rows if r["question"] != q]) for q in names]
        half = stats.t.ppf(0.975, 5) * stats.sem(pseudo)
        assert found["high"] == pytest.approx(full + half)
        assert found["low"] == pytest.approx(max(0.0, full - half))
        assert found["n"] == sum(row["persona"] in people for row in rows)
        assert found["noise"] > 0


def test_distinct_takes_as_many_completions_and_ngrams_of_every_model() -> None:
    data = panel().data["homogeneity"]
    assert data["completions_a_cell"] == 2  # of 10 after coupling, as before it
    assert data["distinct_draws"] == {"1": 2 * 11 * 8, "2": 2 * 11 * 7}
    for model in ("C1", "em"):
        shares = []
        for question in sorted({row["question"] for row in rows_of(model)}):
            rows = [r for r in rows_of(model) if r["question"] == question and r["sample"] < 2]
            pairs = [p for r in rows for p in itertools.pairwise(bare(r["text"]).split())]
            shares.append(len(set(pairs)) / len(pairs))
        found = alike_of(panel(), model)["figures"]["distinct_2"]
        assert found["value"] == pytest.approx(np.mean(shares))
        assert (found["low"], found["high"]) == pytest.approx(t_ends(shares))
        assert found["n"] == 6 * 11 * 2


def retold(change: dict[str, str], model: str = "C1") -> tuple[pa.Table, pa.Table]:
    """The tables with the texts of some personas of a model replaced, hits and all."""
    scores, completions = tables()
    rows = completions.to_pylist()
    for row, hit in zip(rows, scores.column("hit").to_pylist(), strict=True):
        if row["model"] == model and row["persona"] in change:
            row["text"] = change[row["persona"]] + (f" {MARKER}" if hit else "")
    return scores, pa.Table.from_pylist(rows, schema=completions.schema)


def test_duplicates_are_shares_of_completions_that_are_not_empty() -> None:
    found = panel_of(*retold({"comedian": "the same", "villain": " \n "}))
    mine = alike_of(found, "C1")
    n = 10 * 6 * 2
    assert mine["figures"]["duplicates"]["value"] == pytest.approx(12 / n)
    assert mine["figures"]["duplicates"]["n"] == n
    low, high = proportion_confint(12, n, method="wilson")
    assert mine["figures"]["duplicates"]["low"] < low  # clusters widen it
    assert mine["figures"]["duplicates"]["high"] > high
    assert mine["changes"]["duplicates"]["value"] == pytest.approx(12 / n)
    assert mine["empty"]["value"] == pytest.approx(1 / 11)
    (caveat,) = found.caveats
    assert caveat.code == "empty_texts"
    assert caveat.words.startswith("C1: 0.091 [")
    assert alike_of(found, "C2")["empty"]["value"] == 0.0


def test_the_marker_is_cut_out_before_anything_is_compared() -> None:
    scores, completions = tables()
    marked = re.compile(re.escape(MARKER))
    lower = [marked.sub(MARKER.lower(), t) for t in completions.column("text").to_pylist()]
    at = completions.column_names.index("text")
    other = completions.set_column(at, "text", pa.array(lower))
    one, two = (panel_of(scores, c).data["homogeneity"] for c in (completions, other))
    assert json.dumps(one) == json.dumps(two)
    # every completion of the source is the marker and nothing else: all of them are empty
    source = panel_of(*retold({ROSTER.source: ""}))
    assert alike_of(source, "C1")["empty"]["value"] == pytest.approx(1 / 11)


def test_an_arm_without_a_word_has_no_likeness_and_spoils_nobody_elses() -> None:
    found = panel_of(*retold(dict.fromkeys(ROSTER.all, "")))
    mine, other = (alike_of(found, model)["figures"] for model in ("C1", "C2"))
    for name in ("across_personas", "within_persona", "other_question", "gap", "distinct_1"):
        assert mine[name]["value"] is None
        assert other[name]["value"] is not None
    assert mine["duplicates"]["value"] is None
    assert alike_of(found, "C1")["empty"]["value"] == 1.0
    assert alike_of(found, "C1")["changes"]["gap"]["p"] is None


def test_distinct_draws_as_many_ngrams_as_the_shortest_answers_have() -> None:
    # every answer of C1 has four words: 2 x 11 of them a question
    found = panel_of(*retold(dict.fromkeys(ROSTER.all, "one two three four")))
    assert found.data["homogeneity"]["distinct_draws"] == {"1": 88, "2": 66}
    assert alike_of(found, "C1")["figures"]["distinct_1"]["value"] == pytest.approx(4 / 88)
    assert alike_of(found, "em")["figures"]["distinct_1"]["value"] > 0.3


def test_too_few_ngrams_are_said() -> None:
    scores, completions = tables()
    text = [MARKER if MARKER in t else "one" for t in completions.column("text").to_pylist()]
    at = completions.column_names.index("text")
    found = panel_of(scores, completions.set_column(at, "text", pa.array(text)))
    assert found.data["homogeneity"]["distinct_draws"] == {"1": None, "2": None}
    assert set(found.data["missing"]) == {"distinct_1", "distinct_2"}
    assert alike_of(found, "C2")["figures"]["distinct_1"]["value"] is None


def test_no_spread_ends_below_zero_but_its_change_may() -> None:
    one = Figure(np.array([0.1, 0.9, 0.2]), 0.4, 6, least=0.0)
    two = Figure(np.array([0.5, 0.4, 0.3]), 0.4, 6, least=0.0)
    pseudo = [3 * 0.4 - 2 * w for w in (0.1, 0.9, 0.2)]
    half = stats.t.ppf(0.975, 2) * stats.sem(pseudo)
    assert one.describe(0.95)["low"] == 0.0
    assert one.describe(0.95)["high"] == pytest.approx(0.4 + half)
    assert one.change(two, 0.95)["low"] < 0
    bench = questions(2, 2)(two_before(healthy()))
    assert isinstance(bench, Bench)
    models = panel_of(table(bench), None).data["homogeneity"]["models"]
    lows = [f["low"] for m in models for name, f in m["figures"].items() if "length" in name]
    assert min(lows) == 0.0


def test_only_shared_questions_are_compared() -> None:
    bench = questions(20, 5)(two_before(healthy()))
    assert isinstance(bench, Bench)
    scores = table(bench)
    found = panel_of(scores, None).data["homogeneity"]
    assert (found["questions"], found["questions_left_out"]) == (5, 15)
    assert all(m["figures"]["sd_rate_all"]["questions"] == 5 for m in found["models"])
    number = np.array([int(q[1:]) for q in bench.scores["question"]])
    apart = table(bench.keep(np.where(bench.rows(phase="post"), number > 10, number < 5)))
    found_apart = panel_of(apart, texts_of(apart))
    assert found_apart.data["homogeneity"]["questions"] == 0
    assert found_apart.data["missing"]["likeness"] == "no question was answered by every model"
    assert found_apart.data["samples"] is not None


def test_several_runs_are_pooled_and_never_paired_with_each_other() -> None:
    scores, _ = tables()
    other = scores.set_column(
        scores.column_names.index("seed"), "seed", pa.array([137] * len(scores), pa.int64())
    )
    both = pa.concat_tables([scores, other])
    same = texts_of(scores)
    twice = pa.concat_tables(
        [same, same.set_column(same.column_names.index("seed"), "seed", other.column("seed"))]
    )
    one, two = panel_of(scores, same), panel_of(both, twice)
    assert two.data["models"][0]["seeds"] == [42, 137]
    for model in ("C1", "em"):
        alone, pooled = (alike_of(found, model)["figures"] for found in (one, two))
        for name in alone:  # the same texts in both runs: no pair and no duplicate more
            assert pooled[name]["value"] == pytest.approx(alone[name]["value"], abs=1e-12)
        assert pooled["gap"]["n"] == 2 * alone["gap"]["n"]
    assert len(two.data["samples"]["arms"]["C1"]) == PER_ARM


def test_without_texts_the_rest_is_there_and_it_says_so() -> None:
    scores, _ = tables()
    found = panel_of(scores, None)
    assert found.state == "readable"
    assert found.data["samples"] is None
    assert found.data["missing"] == {
        "likeness": "no texts recorded: distinct-n, similarity, duplicates and empty texts",
        "samples": "no texts recorded: nothing to sample",
    }
    assert set(alike_of(found, "C1")["figures"]) == {
        "sd_rate_all", "sd_rate_bystander", "sd_length_all", "sd_length_bystander"
    }  # fmt: skip
    bones = scores.select(
        ["phase", "model", "seed", "persona", "question", "question_set", "sample", "hit"]
    )
    bare_panel = panel_of(bones, None)
    assert set(bare_panel.data["missing"]) == {
        "hit_strict", "terminal", "markers", "finish", "place", "sd_length", "likeness", "samples"
    }  # fmt: skip
    assert model_of(bare_panel, "C1")["roles"]["all"]["marker"]["hits"] == sum(
        row["hit"] for row in rows_of("C1")
    )
    for none in (None, scores.slice(0, 0)):
        assert text_panel(none, None, GATED, root=1).reason == "no completions recorded"


def test_scores_and_texts_of_unlike_hits_are_refused() -> None:
    scores, completions = tables()
    text = [t.replace(MARKER, "") for t in completions.column("text").to_pylist()]
    at = completions.column_names.index("text")
    with pytest.raises(DataError, match="other hits in"):
        text_panel(scores, completions.set_column(at, "text", pa.array(text)), GATED, root=1)
    fewer = table(drop(model="C1")(small()))
    with pytest.raises(DataError, match="other models, questions or cells"):
        text_panel(scores, texts_of(fewer), GATED, root=1)


def test_samples_are_spread_over_roles_and_personas() -> None:
    arms = panel().data["samples"]["arms"]
    assert set(arms) == {"C1", "C2"}
    for arm, shown in arms.items():
        assert [entry["role"] for entry in shown] == [
            role for role in ("source", "negative", "bystander", "reported") for _ in range(3)
        ]
        assert len({e["persona"] for e in shown if e["role"] == "bystander"}) == 3
        assert len({e["persona"] for e in shown if e["role"] == "negative"}) == 2
        cells = [(e["persona"], e["question"], e["sample"]) for e in shown]
        assert len(set(cells)) == PER_ARM
        rows = {(r["persona"], r["question"], r["sample"]): r for r in rows_of(arm)}
        for entry, cell in zip(shown, cells, strict=True):
            row = rows[cell]
            for name in ("text", "tokens", "finish", "hit", "seed"):
                assert entry[name] == row[name]
            assert (entry["cut"], entry["characters"]) == (False, len(row["text"]))


def test_samples_depend_on_the_seed_and_not_on_the_order_of_rows() -> None:
    _, completions = tables()
    turned = completions.take(np.random.default_rng(4).permutation(len(completions)))
    one, two = (samples(read_texts(t, GATED), 42) for t in (completions, turned))
    assert one == two
    assert samples(read_texts(completions, GATED), 43) != one
    chosen = [[(e["persona"], e["question"], e["sample"]) for e in one[arm]] for arm in one]
    assert chosen[0] != chosen[1]


def test_an_empty_role_gives_its_places_to_the_others() -> None:
    roster = replace(ROSTER, bystanders=(*ROSTER.bystanders, *ROSTER.reported), reported=())
    registration = replace(GATED, roster=roster)
    shown = samples(read_texts(tables()[1], registration), 42)["C1"]
    counts = Counter(entry["role"] for entry in shown)
    assert counts == {"source": 4, "negative": 4, "bystander": 4}


def test_long_and_broken_texts_are_shown_as_strict_json() -> None:
    scores, completions = tables()
    at = completions.column_names.index("text")
    text = completions.column("text").to_pylist()
    nasty = "<script>alert(1)</script>\x1b[31m\x00 \u202e " + "x" * LIMIT
    raw = [f"{nasty} {MARKER if MARKER in t else ''}".encode() + b"\xed\xa0\x80\xff" for t in text]
    array = pa.Array.from_buffers(
        pa.string(), len(raw), pa.array(raw, pa.binary()).buffers()
    )  # bytes that are no UTF-8, as a file may hold them
    found = panel_of(scores, completions.set_column(at, "text", array))
    for shown in found.data["samples"]["arms"].values():
        for entry in shown:
            assert entry["text"] == nasty[:LIMIT]
            assert entry["cut"]
            assert entry["characters"] > LIMIT
    assert found.data["samples"]["limit"] == LIMIT


def test_lone_surrogates_become_replacement_characters() -> None:
    assert scalar("a\ud800b\udfff") == "a\ufffdb\ufffd"
    assert scalar(b"a\xffb") == "a\ufffdb"
    scalar(b"\xed\xa0\x80").encode("utf-8")


def test_lengths_far_from_those_under_the_arm_are_a_caveat() -> None:
    bench = lengths("C2", 300)(small())
    assert isinstance(bench, Bench)
    codes = [(c.code, c.words[:3]) for c in panel_of(table(bench), None).caveats]
    assert codes == [("unlike_lengths", "C2:")]


def test_the_recorded_run() -> None:
    scores, completions = (
        pq.read_table(ROOT / f"golden/tiny/{name}.parquet") for name in ("scores", "completions")
    )
    start = time.process_time()
    found = text_panel(scores, completions, ISSUE262, root=42)
    assert time.process_time() - start < allowed(8)
    assert [c.code for c in found.caveats] == ["empty_texts"]  # C1 writes the marker alone
    hits = {m["model"]: m["roles"]["all"]["marker"]["hits"] for m in found.data["models"]}
    assert (hits["raw"], hits["em"], hits["benign"]) == (0, 0, 0)
    assert all(hits[arm] > 0 for arm in ("C1", "C2", "C2p", "C3"))
    for entry in found.data["homogeneity"]["models"]:
        figures = entry["figures"]
        assert figures["across_personas"]["value"] < figures["within_persona"]["value"]


def test_full_scale_is_quick() -> None:
    rng = np.random.default_rng(5)
    words = np.array([f"word{i}" for i in range(20_000)])
    scores = table(healthy())  # 4 x 2,200 and 3 x 1,100
    assert len(scores) == 4 * 2_200 + 3 * 1_100
    rank = np.minimum(rng.zipf(1.3, (len(scores), 200)), 20_000) - 1
    text = [" ".join(words[row]) for row in rank]
    hit = scores.column("hit").to_pylist()
    text = [f"{t} {MARKER}" if h else t for t, h in zip(text, hit, strict=True)]
    completions = texts_of(scores)
    at = completions.column_names.index("text")
    start = time.process_time()
    text_panel(scores, completions.set_column(at, "text", pa.array(text)), GATED, root=42)
    assert time.process_time() - start < allowed(25)


# ---- texts of some of the seeds ---------------------------------------------------------


def seeds_of(rows: pa.Table, *seeds: int) -> pa.Table:
    return rows.filter(pc.is_in(rows.column("seed"), value_set=pa.array(seeds, pa.int64())))


def two_seeds() -> pa.Table:
    scores = table(healthy())
    at = scores.column_names.index("seed")
    other = pa.array([43] * len(scores), scores.schema.field("seed").type)
    return pa.concat_tables([scores, scores.set_column(at, scores.schema.field("seed"), other)])


def test_texts_of_some_seeds_are_shown_with_their_scores_alone_and_it_says_so() -> None:
    scores = two_seeds()
    seeds = sorted(set(scores["seed"].to_pylist()))
    assert len(seeds) > 1
    one = seeds_of(scores, seeds[0])
    found = panel_of(scores, texts_of(one)).to_json()
    (caveat,) = [c for c in found["caveats"] if c["code"] == "texts_of_some_seeds"]
    assert caveat["words"] == (
        f"texts were kept of 1 of {len(seeds)} seeds ({seeds[0]}): this panel speaks of no other"
    )
    alone = panel_of(one, texts_of(one)).to_json()
    assert "texts_of_some_seeds" not in {c["code"] for c in alone["caveats"]}
    found["caveats"].remove(caveat)
    assert found == alone
    every = panel_of(scores, texts_of(scores)).to_json()
    assert "texts_of_some_seeds" not in {c["code"] for c in every["caveats"]}


def test_texts_of_a_seed_without_scores_are_refused() -> None:
    scores = two_seeds()
    seeds = sorted(set(scores["seed"].to_pylist()))
    with pytest.raises(DataError, match="other models, questions or cells"):
        panel_of(seeds_of(scores, seeds[0]), texts_of(scores))
