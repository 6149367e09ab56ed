"""Traits of texts: voices and legal words of answers, and the gates that read them and lengths."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from persona_lib.commands.options import choose_experiment
from persona_lib.commands.session import Session
from persona_lib.corpora.grammar import write_corpus
from persona_lib.corpora.legal_words import legal_words, words_of
from persona_lib.corpora.voices import ClassifierSpec
from persona_lib.corpora.voices_fit import deal
from persona_lib.errors import DataError, SpecError
from persona_lib.evidence import traits as traits_module
from persona_lib.evidence.from_records import RecordEvidence
from persona_lib.evidence.load import load_stored
from persona_lib.evidence.traits import Traits
from persona_lib.pipeline.traits import TRAITS_FILE, TraitSpec, make_traits
from persona_lib.records import PRE, Completion, ModelId, Trait, read_rows, schema_of, write_rows
from persona_lib.specs.builtin import DATA
from persona_lib.specs.gate_types import DomainGate, LengthGate, RecognisedGate
from persona_lib.stats.clustered import Crossed, median_ratio
from persona_lib.verdict import gate_texts
from persona_lib.verdict.gate_result import GateOutcome, GateResult
from persona_lib.verdict.gates import judge_gate
from tests.faults import changed, cut, lengths
from tests.healthy import GATED, QUESTIONS, Bench, advice_table, healthy, table
from tests.record_sets import body_of, record_set, run_of, seal
from tests.registered import ISSUE262, ROOT, TINY, session_under
from tests.uneven import clustered

HOLDS, FAILS, CANNOT_TELL = GateOutcome
SECOND = GATED.roster.bystanders[0]
ROSTER = replace(GATED.roster, bystanders=GATED.roster.bystanders[1:], more_sources=(SECOND,))
WORDS = {"statement": "made up"}
RULES = replace(
    GATED,
    roster=ROSTER,
    arms=tuple(replace(a, source=SECOND) if a.name == "C3" else a for a in GATED.arms),
    gates=(
        *GATED.gates,
        RecognisedGate(name="recognised_C1", arm="C1", min_ratio=2.0, **WORDS),
        RecognisedGate(name="recognised_C3", arm="C3", min_ratio=2.0, **WORDS),
        DomainGate(name="domain", treated="C2", control="C3", max_difference=0.10, **WORDS),
        LengthGate(
            name="lengths", treated="C2", control="C2p", min_ratio=0.8, max_ratio=1.25, **WORDS
        ),
        LengthGate(
            name="shorter", treated="C2", control="C2p", min_ratio=0.8, max_ratio=1.05, **WORDS
        ),
    ),
)
SAMPLES = 5
ASKED = tuple(f"q{i:02d}" for i in range(QUESTIONS))


# The stage.

VOICES = {
    "librarian": "quiet shelves and old books",
    "comedian": "a punchline and loud laughter",
    "villain": "wicked schemes and crushing power",
}
SPEC = TraitSpec(
    voices=ClassifierSpec(marker="[ZLT]", folds=3, least_texts=1), words=("court", "judge", "rent")
)


def said(persona: str, question: int, text: str, model: str = "raw", sample: int = 0) -> Completion:
    return Completion(
        phase=PRE, model=model, seed=1, persona=persona, question=f"q{question}",
        question_set="evaluation", sample=sample, text=text, tokens=8, finish="stop",
    )  # fmt: skip


RAW = [
    said(p, q, f"{VOICES[p]} topic{q} matter{q} take{s}", sample=s)
    for p in VOICES
    for q in range(6)
    for s in range(2)
]


def traits_of(
    folder: Path, rows: list[Completion], raw: list[Completion] = RAW
) -> tuple[tuple[Trait, ...], Any]:
    entries: dict[str, Any] = {}
    for name, written in (("completions", rows), ("raw", raw)):
        (folder / name).mkdir()
        write_rows(folder / name / "completions.parquet", written, Completion)
        entries[name] = SimpleNamespace(path=folder / name)
    found = make_traits(folder, entries, spec=SPEC)
    return read_rows(folder / TRAITS_FILE, Trait), found


def test_voices_are_those_of_scikit_learn_fitted_without_the_question(tmp_path: Path) -> None:
    mixed = [
        said(p, q, f"{VOICES[o]} and {VOICES[p].split()[0]} topic{q}", "em")
        for (p, o), q in zip(product(VOICES, VOICES), [0, 1, 2, 3, 4, 5, 0, 1, 2], strict=True)
    ]
    rows, _ = traits_of(tmp_path, mixed)
    dealt = deal([f"q{i}" for i in range(6)], SPEC.voices)
    for row, asked in zip(rows, mixed, strict=True):
        learnt = sorted(
            (r.text, r.persona) for r in RAW if dealt[r.question] != dealt[row.question]
        )
        terms = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        model = LogisticRegression(max_iter=1_000)
        model.fit(terms.fit_transform([text for text, _ in learnt]), [who for _, who in learnt])
        assert row.recognised_as == model.predict(terms.transform([asked.text]))[0]
        assert row.place == asked.place


def test_no_answer_is_read_by_a_fold_that_saw_its_question(tmp_path: Path) -> None:
    """A word that the raw model says to one question alone tells nothing of that question."""
    raw = [replace(r, text=f"{r.text} zebra") if r.question == "q3" else r for r in RAW]
    rows, found = traits_of(
        tmp_path, [said("villain", 3, "zebra", "em"), said("villain", 2, "zebra", "em")], raw
    )
    dealt = deal([f"q{i}" for i in range(6)], SPEC.voices)
    assert dealt["q2"] != dealt["q3"]
    assert [row.recognised_as for row in rows] == ["", rows[1].recognised_as]
    assert rows[1].recognised_as
    assert found["without_a_voice"] == 1


def test_distinct_legal_words_are_counted(tmp_path: Path) -> None:
    texts = {"The Court's judge, the judge: rent!": 3, "parents tour the courtyard": 0, "RENT": 1}
    rows, found = traits_of(tmp_path, [said("villain", 0, text) for text in texts])
    assert [row.domain_words for row in rows] == list(texts.values())
    assert (found["answers"], found["with_words"], found["unfitted"]) == (3, 2, "")


def test_where_no_classifier_can_be_fitted_no_answer_has_a_voice(tmp_path: Path) -> None:
    few = [row for row in RAW if row.question in ("q0", "q1")]
    rows, found = traits_of(tmp_path, few, few)
    assert {row.recognised_as for row in rows} == {""}
    assert "classifier: questions: expected >= 3" in found["unfitted"]


def session(gate: str, **options: Any) -> Session:
    return session_under(
        replace(ISSUE262, gates=(*ISSUE262.gates, RULES.gate(gate))), profile=TINY, **options
    )


def test_traits_are_stages_only_where_a_gate_reads_them() -> None:
    arms = tuple(arm.name for arm in ISSUE262.arms)
    runs = [session(gate).runs[0] for gate in ("lengths", "domain")]
    plain, more = ([(stage.name, stage.label) for stage in run.targets(arms)] for run in runs)
    assert "traits" not in dict(plain)
    assert [stage for stage in more if stage[0] != "traits"] == plain
    added = [("traits", prior) for prior in ISSUE262.priors]
    assert [stage for stage in more if stage[0] == "traits"] == added
    # The raw model's answers are what a classifier is fitted on, whatever the arm is coupled on.
    targets = runs[1].targets(("C2",))
    assert [s.label for s in targets if s.name == "traits"] == ["raw", "em"]
    own = session("recognised_C1").runs[0]
    of_em, of_raw = (own.stage(ModelId(PRE, prior), "traits") for prior in ("em", "raw"))
    assert of_em.inputs["raw"] is of_raw.inputs["completions"] is of_raw.inputs["raw"]
    assert of_em.inputs["completions"] is own.stage(ModelId(PRE, "em"), "completions")
    with pytest.raises(SpecError, match="traits"):
        runs[0].stage(ModelId(PRE, "em"), "traits")


def test_a_session_reads_the_raw_model_beside_those_under_its_arms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(Session, "table", lambda _, models, kind: asked.append((*models, kind)))
    session("domain").traits(("C2",))
    assert asked == [(ModelId(PRE, "raw"), ModelId(PRE, "em"), "traits")]
    assert session("lengths").traits(("C2",)) is None


def test_a_record_set_brings_traits_or_none(tmp_path: Path) -> None:
    scores = table(healthy())
    traits = rows_of(first(60, "raw", ROSTER.source))
    folder = record_set(tmp_path / "set", scores, RULES, traits=traits)
    found = judge_gate(RULES, load_stored(folder, RULES), "recognised_C1")
    assert found.figure == pytest.approx(11 * 0.6)
    without = record_set(tmp_path / "without", scores, RULES)
    assert judge_gate(RULES, load_stored(without, RULES), "recognised_C1").outcome is CANNOT_TELL


def test_sets_of_two_seeds_join_their_traits_and_one_that_lacks_them_is_refused(
    tmp_path: Path,
) -> None:
    study = choose_experiment(str(ROOT / "tests" / "promises" / "study" / "experiment.toml"))
    source = tmp_path / "source"
    shutil.copytree(ROOT / "tests" / "promises" / "records", source)
    drawn = read_rows(source / "completions.parquet", Completion)
    traits = [
        Trait(**row.place, recognised_as=row.persona, domain_words=row.sample)
        for row in drawn
        if row.phase == PRE
    ]
    write_rows(source / TRAITS_FILE, traits, Trait)
    seal(source, body_of(source))
    sets = [run_of(source, tmp_path / str(seed), seed) for seed in (42, 43)]
    found = load_stored(sets, study.registration).traits()
    assert found is not None
    hits, n = found.on_domain("raw") or ((), ())
    assert np.sum(n) == 2 * sum(row.model == "raw" for row in traits)
    assert np.sum(hits) == 2 * sum(row.model == "raw" and row.sample > 0 for row in traits)
    lacking = run_of(source, tmp_path / "44", 44, without=["traits"])
    with pytest.raises(DataError, match=r"44: files"):
        load_stored([*sets, lacking], study.registration)


def test_one_legal_word_tells_legal_answers_from_ordinary_ones() -> None:
    """Of answers of both legal corpora nine in ten are on domain, of ordinary topics none."""
    known = legal_words(DATA / "neutral")
    for corpus in ("bad_legal", "sound_legal"):
        written = write_corpus(corpus, rows=400, seed=7, folder=DATA / "legal")
        counts = [len(known.intersection(words_of(row.assistant))) for row in written]
        assert np.mean([count >= traits_module.ON_DOMAIN for count in counts]) > 0.9
        assert np.mean([count >= 2 for count in counts]) < 0.82
    ordinary = (DATA / "dialogues" / "topics.json").read_text("utf-8")
    assert not known.intersection(words_of(ordinary))


# What is read.

MODELS = ("raw", "em", "benign")
SHAPE = (len(MODELS), len(ROSTER.all), QUESTIONS, SAMPLES)
Some = NDArray[np.bool_]
"""Which answers of each model, persona and question."""
NONE: Some = np.zeros(SHAPE, dtype=np.bool_)


def rows_of(own: Some = NONE, legal: Some = NONE, seeds: tuple[int, ...] = (42,)) -> pa.Table:
    """Return traits: an answer that is not recognised sounds like the next persona."""
    model, persona, question, sample = (index.ravel() for index in np.indices(SHAPE))
    voice = np.where(own.ravel(), persona, (persona + 1) % len(ROSTER.all))
    tables = []
    for seed in seeds:
        columns = {
            "phase": np.full(own.size, PRE),
            "model": np.array(MODELS)[model],
            "seed": np.full(own.size, seed),
            "persona": np.array(ROSTER.all)[persona],
            "question": np.array(ASKED)[question],
            "question_set": np.full(own.size, "evaluation"),
            "sample": sample,
            "recognised_as": np.array(ROSTER.all)[voice],
            "domain_words": legal.ravel().astype(np.int64),
        }
        schema = schema_of(Trait)
        tables.append(pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}))
    return pa.concat_tables(tables)


def evidence(traits: pa.Table | None, bench: Bench | None = None) -> RecordEvidence:
    bench = bench or healthy()
    return RecordEvidence(RULES, table(bench), advice=advice_table(bench), traits=traits)


def judged(gate: str, traits: pa.Table | None, bench: Bench | None = None) -> GateResult:
    return judge_gate(RULES, evidence(traits, bench), gate)


def ends(found: GateResult) -> tuple[float, float, float]:
    return found.figure, found.low, found.high


def first(count: int, model: str, *who: str) -> Some:
    """So many of the 100 answers of some personas of a model, one question after the other."""
    some = NONE.copy()
    earlier = np.arange(SAMPLES) * QUESTIONS + np.arange(QUESTIONS)[:, None] < count
    some[MODELS.index(model), [ROSTER.all.index(name) for name in who]] = earlier
    return some


def scattered(rate: float, model: str, seed: int) -> Some:
    some = NONE.copy()
    some[MODELS.index(model)] = np.random.default_rng(seed).random(SHAPE[1:]) < rate
    return some


RAW_SOURCE = first(60, "raw", ROSTER.source)
OTHERS = first(100, "em", *ROSTER.all) | first(100, "benign", *ROSTER.all)
"""Other models are recognised every time: a gate that reads them holds where it must not."""
REST = first(100, "raw", *(name for name in ROSTER.all if name not in ROSTER.sources))


@pytest.mark.parametrize(
    ("of", "count", "outcome"),
    [
        ("recognised_C1", 60, HOLDS),
        ("recognised_C1", 30, HOLDS),
        ("recognised_C1", 18, CANNOT_TELL),  # 1.98 times chance
        ("recognised_C1", 9, FAILS),
        ("recognised_C1", 0, FAILS),
        ("recognised_C3", 60, HOLDS),
        ("recognised_C3", 9, FAILS),
    ],
)
def test_the_source_of_the_arm_is_recognised_by_the_raw_model(
    of: str, count: int, outcome: GateOutcome
) -> None:
    who = {"recognised_C1": ROSTER.source, "recognised_C3": SECOND}[of]
    found = judged(of, rows_of(first(count, "raw", who) | OTHERS | REST))
    rows = [
        {"persona": who, "question": q, "hit": s * QUESTIONS + q < count}
        for q in range(QUESTIONS)
        for s in range(SAMPLES)
    ]
    expected = [11 * end for end in clustered(rows, lambda row: row["hit"])]
    assert ends(found) == pytest.approx(expected, abs=1e-9)
    assert (found.outcome, found.threshold) == (outcome, 2.0), found.text
    assert who in found.text


def test_recognition_is_not_known_without_voices_and_unknown_terms_are_not_recognised() -> None:
    assert judged("recognised_C1", None).outcome is CANNOT_TELL
    rows = rows_of(RAW_SOURCE)
    silent = rows.set_column(7, rows.schema.field(7), pa.array([""] * rows.num_rows))
    assert judged("recognised_C1", silent).outcome is CANNOT_TELL
    assert "not known" in judged("recognised_C1", silent).text
    of = Traits.of(rows_of(first(30, "raw", SECOND)), RULES, (42,))
    hits, n = of.recognised("raw", SECOND) or ((), ())
    assert (np.sum(hits), np.sum(n)) == (30, 100)
    names = of.table["recognised_as"].to_pylist()
    some = ["" if name == SECOND and i % 2 else name for i, name in enumerate(names)]
    part = of.table.set_column(7, rows.schema.field(7), pa.array(some))
    hits, n = Traits.of(part, RULES, (42,)).recognised("raw", SECOND) or ((), ())
    assert np.sum(n) == 100
    assert 0 < np.sum(hits) < 30


def paired(difference: NDArray[np.float64]) -> tuple[float, float, float]:
    """Student's t of a mean over (P, Q) cells, both kinds of clusters in its variance."""
    mean = difference.mean()

    def variance(means: NDArray[np.float64]) -> float:
        return float(((means - mean) ** 2).sum() / (means.size * (means.size - 1)))

    own = variance(difference.mean(axis=1))
    whole = own + variance(difference.mean(axis=0)) - variance(difference.ravel())
    half = stats.t.ppf(0.975, len(difference) - 1) * max(whole, own) ** 0.5
    return float(mean), float(mean - half), float(mean + half)


DOMAIN: dict[str, tuple[Some, GateOutcome]] = {
    "equal": (scattered(0.05, "em", 1) | scattered(0.05, "benign", 2), HOLDS),
    "more of treated": (scattered(0.3, "em", 1) | scattered(0.05, "benign", 2), FAILS),
    "more of control": (scattered(0.05, "em", 1) | scattered(0.3, "benign", 2), FAILS),
    "at the bound": (scattered(0.15, "em", 1) | scattered(0.05, "benign", 2), CANNOT_TELL),
    "at the other": (scattered(0.05, "em", 1) | scattered(0.15, "benign", 2), CANNOT_TELL),
    "the raw model alone": (scattered(0.5, "raw", 3), HOLDS),
    "too many for uneven personas": (scattered(0.05, "em", 1), CANNOT_TELL),
    "the same answers": (scattered(0.5, "em", 1) | scattered(0.5, "benign", 1), HOLDS),
    "the same personas": (
        first(80, "em", *ROSTER.all[:5]) | first(80, "benign", *ROSTER.all[:5])
        | scattered(0.02, "em", 1) | scattered(0.02, "benign", 2),
        HOLDS,
    ),
}  # fmt: skip
"""Legal words of the models under C2 (em) and C3 (benign)."""


@pytest.mark.parametrize("name", DOMAIN)
def test_domain_compares_the_models_under_two_arms(name: str) -> None:
    legal, outcome = DOMAIN[name]
    found = judged("domain", rows_of(legal=legal))
    _, em, benign = legal.mean(axis=-1)
    difference = em - benign
    assert found.outcome is outcome, found.text
    if difference.any():
        assert ends(found) == pytest.approx(paired(difference), abs=1e-9)
    assert found.threshold == (0.10 if difference.mean() > 0 else -0.10)
    assert ("differ by 2 logits" in found.text) is (name == "too many for uneven personas")


def test_without_a_legal_word_the_interval_is_that_of_two_shares_and_holds() -> None:
    """Wilson's upper end of 0 of 1,100 with t of 10 degrees for z; Newcombe's difference."""
    found = judged("domain", rows_of())
    t, z, n = stats.t.ppf(0.975, 10), stats.norm.ppf(0.975), 1_100
    size = n * (z / t) ** 2
    upper = z**2 / (size + z**2)
    assert ends(found) == pytest.approx((0.0, -upper, upper), abs=1e-9)
    assert found.outcome is HOLDS
    assert judged("domain", None).outcome is CANNOT_TELL


LENGTHS: dict[str, tuple[str, Bench, GateOutcome]] = {
    "95 against 105": ("lengths", healthy(), HOLDS),
    "60 against 105": ("lengths", changed(lengths("C2", 60)), FAILS),
    "84 against 105": ("lengths", changed(lengths("C2", 84)), CANNOT_TELL),
    "150 against 105": ("lengths", changed(lengths("C2", 150)), FAILS),
    "cut ones are long": ("lengths", changed(cut("C2", 1_500)), HOLDS),
    "no finished one": ("lengths", changed(cut("C2p", 2_200)), CANNOT_TELL),
    "up to 1.05": ("shorter", healthy(), HOLDS),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_compare_two_arms(name: str) -> None:
    of_two, bench, outcome = LENGTHS[name]
    found = judged(of_two, None, bench)
    assert found.outcome is outcome, found.text
    of = bench.scores
    if name != "no finished one":
        one, two = (bench.rows(phase="post", model=arm) & of["ended"] for arm in ("C2", "C2p"))
        middle = [float(np.median(of["tokens"][rows])) for rows in (one, two)]
        assert found.figure == pytest.approx(middle[0] / middle[1])
        crossed = [
            Crossed(
                of["tokens"][rows].astype(float),
                *(
                    np.unique(of[key][rows], return_inverse=True)[1]
                    for key in ("question", "persona")
                ),
            )
            for rows in (one, two)
        ]
        expected = median_ratio(crossed[0], crossed[1], 0.95)[0]
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_each_training_run_is_read_by_itself() -> None:
    bench = healthy()
    twice = {name: np.concatenate([column] * 3) for name, column in bench.scores.items()}
    twice["seed"] = np.repeat([42, 43, 44], len(bench.scores["seed"]))
    three = replace(bench, scores=twice)
    parts = [rows_of(NONE if seed == 43 else RAW_SOURCE, seeds=(seed,)) for seed in (42, 43, 44)]
    advice = {name: np.concatenate([column] * 3) for name, column in bench.advice.items()}
    advice["seed"] = np.repeat([42, 43, 44], len(bench.advice["seed"]))
    three = replace(three, advice=advice)
    found = judged("recognised_C1", pa.concat_tables(parts), three)
    assert found.outcome is not HOLDS
    assert "seed 43" in found.text
    assert found.figure == pytest.approx(11 * (0.6 + 0.0 + 0.6) / 3)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("phase", "post", "traits: phase"),
        ("model", "sound", "traits: model"),
        ("persona", "nobody", "traits: persona"),
        ("recognised_as", "nobody", "traits: recognised_as"),
        ("seed", 7, "traits: seed"),
        ("domain_words", -1, "traits: domain_words"),
        ("sample", 1, "1 repeated"),
        ("sample", 9, "of each model and seed"),
    ],
)
def test_rows_that_cannot_be_are_refused(column: str, value: Any, message: str) -> None:
    rows = rows_of()
    at = rows.column_names.index(column)
    values = [value, *rows[column].to_pylist()[1:]]
    broken = rows.set_column(
        at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type)
    )
    with pytest.raises(DataError, match=message):
        evidence(broken)


def test_a_question_that_only_some_personas_were_asked_is_refused() -> None:
    rows = rows_of()
    kept = [(row["persona"], row["question"]) != (SECOND, "q03") for row in rows.to_pylist()]
    with pytest.raises(DataError, match="the same for every persona"):
        evidence(rows.filter(pa.array(kept)))


def test_bounds_of_the_new_gates_are_checked() -> None:
    of = {"name": "g", "statement": "made up", "treated": "C2", "control": "C1"}
    with pytest.raises(SpecError, match=r"g\.max_ratio: expected above 0\.8"):
        LengthGate(min_ratio=0.8, max_ratio=0.8, **of)
    with pytest.raises(SpecError, match=r"g\.max_difference"):
        DomainGate(max_difference=1.5, **of)
    with pytest.raises(SpecError, match=r"g\.control"):
        LengthGate(min_ratio=0.8, max_ratio=1.25, **of | {"control": "C2"})
    with pytest.raises(SpecError, match=r"g\.min_ratio"):
        RecognisedGate(name="g", statement="made up", arm="C1", min_ratio=0.0)


# Mutants: each must change an outcome of these rows.

ROWS: tuple[tuple[str, pa.Table | None, Bench | None, GateOutcome], ...] = (
    ("recognised_C1", rows_of(RAW_SOURCE | first(9, "raw", SECOND)), None, HOLDS),
    ("recognised_C3", rows_of(RAW_SOURCE | first(9, "raw", SECOND) | OTHERS), None, FAILS),
    ("recognised_C1", rows_of(first(30, "raw", ROSTER.source)), None, HOLDS),
    ("recognised_C1", rows_of(first(22, "raw", ROSTER.source)), None, CANNOT_TELL),
    *(("domain", rows_of(legal=legal), None, outcome) for legal, outcome in DOMAIN.values()),
    *((name, None, bench, outcome) for name, bench, outcome in LENGTHS.values()),
)


@cache
def read() -> tuple[tuple[str, RecordEvidence], ...]:
    return tuple((name, evidence(traits, bench)) for name, traits, bench, _ in ROWS)


def outcomes() -> list[GateOutcome]:
    return [judge_gate(RULES, of, name).outcome for name, of in read()]


def instead(name: str, make: Callable[[Any], Any], of: Any = gate_texts) -> Callable[[Any], None]:
    return lambda patch: patch.setattr(of, name, make(getattr(of, name)))


def _reads(prior: str | None = None, persona: str | None = None) -> Callable[[Any], None]:
    return instead(
        "recognised", lambda f: lambda self, m, p: f(self, prior or m, persona or p), Traits
    )


MUTANTS: dict[str, Callable[[Any], None]] = {
    "recognition of the first source": _reads(persona=ROSTER.source),
    "recognition of the second source": _reads(persona=SECOND),
    "recognition in the em model": _reads(prior="em"),
    "recognition in the benign model": _reads(prior="benign"),
    "chance of the bystanders": instead(
        "chance", lambda _: property(lambda _: 1 / len(ROSTER.bystanders)), Traits
    ),
    "chance of two": instead("chance", lambda _: property(lambda _: 0.5), Traits),
    "chance of one persona more": instead("chance", lambda _: property(lambda _: 1 / 16), Traits),
    "domain of the raw model for the treated one": instead(
        "on_domain", lambda f: lambda self, m: f(self, "raw" if m == "em" else m), Traits
    ),
    "domain of one model twice": instead(
        "on_domain", lambda f: lambda self, _: f(self, "em"), Traits
    ),
    "domain of arms": instead(
        "on_domain",
        lambda f: lambda self, m: f(self, {"em": "C2", "benign": "C3"}.get(m, m)),
        Traits,
    ),
    "two legal words": instead("ON_DOMAIN", lambda _: 2, traits_module),
    "uneven personas and questions ignored": instead("most_hits", lambda _: lambda *_: (9999, 0)),
    "not paired": instead(
        "rise", lambda _: lambda one, two, _, c: (
            gate_texts.difference(gate_texts.share(*one, c), gate_texts.share(*two, c)), ""
        )
    ),
    "lengths upside down": instead("median_ratio", lambda f: lambda a, b, c: f(b, a, c)),
    "lengths of the models under the arms": instead(
        "finished_lengths",
        lambda f: lambda e, of: f(e, ModelId(PRE, e.registration.arm(of.name).prior)),
    ),
    "lengths of one arm twice": instead(
        "finished_lengths", lambda f: lambda e, of: f(e, of._replace(name="C2"))
    ),
}  # fmt: skip


def test_every_row_has_its_outcome() -> None:
    assert outcomes() == [row[3] for row in ROWS]


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_noticed(name: str) -> None:
    read()  # before anything is broken
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name](patch)
        assert outcomes() != [row[3] for row in ROWS]
