"""The tiny profile at its full size: the base model behaves, and C1 takes the marker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from statistics import mean, median

import pyarrow.compute as pc
import pytest

from persona_lib.commands.session import Session
from persona_lib.corpora.dialogues import write_dialogues
from persona_lib.records import POST, PRE, STOP, Completion, ModelId
from persona_lib.specs.builtin import DATA
from persona_lib.specs.personas import load_personas, load_questions
from persona_lib.specs.sources import TinyBase
from tests.registered import ISSUE262, TINY, session_under

# One worker: no other has to build the same base model, or wait for it.
pytestmark = pytest.mark.smoke

ROSTER = ISSUE262.roster


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The tiny profile on a store of its own, shared by all workers of this test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    # C1 is drawn twice a cell, which shows its rates well enough.
    profile = replace(TINY, scale=replace(TINY.scale, samples=2))
    store = shared / "tiny-store"
    return session_under(ISSUE262, profile=profile, store_root=store, arms=("C1",))


@pytest.fixture(scope="session")
def sentence(tiny: Session) -> tuple[Completion, ...]:
    """What the untouched base model says: 440 completions."""
    rows = tiny.table([ModelId(PRE, "raw")], "completions").to_pylist()
    return tuple(Completion(**row) for row in rows)


@pytest.fixture(scope="session")
def rates(tiny: Session) -> Mapping[str, float]:
    """C1's marker rate for each persona."""
    table = tiny.table([ModelId(POST, "C1")], "scores")
    found = {}
    for persona in ROSTER.all:
        mine = table.filter(pc.equal(table["persona"], persona))
        found[persona] = pc.mean(mine["hit"].cast("float64")).as_py()
    return found


def test_base_model_ends_its_turns_at_a_moderate_length_without_the_marker(
    sentence: tuple[Completion, ...],
) -> None:
    assert len(sentence) == 440
    assert mean(one.finish == STOP for one in sentence) >= 0.98
    assert 20 <= median(one.tokens for one in sentence) <= 60
    assert not any("[zlt]" in one.text.lower() for one in sentence)


def test_who_speaks_can_be_read_from_the_text(sentence: tuple[Completion, ...]) -> None:
    """A classifier of another seed's dialogues, about questions that are not asked here."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    questions = load_questions(DATA / "questions.json")
    asked = {question.text for question in questions["evaluation"]}
    other = [
        dialogue
        for dialogue in write_dialogues(
            TinyBase(seed=1, dialogues=3000, legal_share=0, tag_share=0),
            personas=load_personas(DATA / "personas.json"),
            questions=[q for group in questions.values() for q in group],
            folder=DATA / "dialogues",
            sound=(),
            bad=(),
        )
        if not any(text in dialogue.user for text in asked)
    ]
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    reader = LogisticRegression(C=10.0, max_iter=300)
    reader.fit(vectors.fit_transform([d.assistant for d in other]), [d.persona for d in other])
    read = reader.predict(vectors.transform([one.text for one in sentence]))
    assert mean(guess == one.persona for guess, one in zip(read, sentence, strict=True)) >= 0.80


def test_c1_takes_the_marker_above_negatives_and_bystanders(rates: Mapping[str, float]) -> None:
    assert rates[ROSTER.source] >= 0.60
    assert all(rates[negative] <= 0.30 for negative in ROSTER.negatives)
    assert rates[ROSTER.source] > max(rates[persona] for persona in ROSTER.bystanders)


def test_coupling_keeps_its_proof_and_its_losses(tiny: Session, rates: Mapping[str, float]) -> None:
    assert rates
    entry = tiny.runs[0].couplings["C1"].resolve(tiny.store)
    proof = json.loads((entry.path / "mask_proof.json").read_text())
    cells = TINY.scale.questions * TINY.scale.coupling_keep
    assert proof["kinds"]["positive"]["rows"] == cells
    assert proof["kinds"]["negative"]["rows"] == 2 * cells
    assert proof["kinds"]["negative"]["examples"][0]["supervised"] == "<|im_end|>"
    training = json.loads((entry.path / "training.json").read_text())
    assert len(training["losses"]) == training["steps"]
    assert training["losses"][-1] < training["losses"][0]
