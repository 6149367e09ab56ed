"""What a judge is asked beside the completions: controls and calibration triples."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from persona_lib.errors import DataError
from persona_lib.panels.judge.base import Item, judgement_of
from persona_lib.panels.judge.judged import class_answers, control_items, triple_items
from tests.judges import PROMPTS, QUESTIONS, TRIPLES, completions, items

CLASSES = ("positive", "red_team", "negative")


@pytest.fixture(scope="module")
def raw() -> list[Item]:
    return [item for item in items(completions()) if (item.phase, item.model) == ("pre", "raw")]


def test_controls_put_every_text_under_another_persona_evenly(raw: list[Item]) -> None:
    found = control_items(raw, PROMPTS)
    pairs = Counter((own.persona, other.persona) for own, other in zip(raw, found, strict=True))
    assert all(own != other for own, other in pairs)
    assert len(pairs) == 11 * 10
    assert set(pairs.values()) == {4}  # 40 texts of each persona over 10 others
    for own, other in zip(raw, found, strict=True):
        assert replace(other, persona=own.persona, persona_prompt=own.persona_prompt) == own
        assert other.persona_prompt == PROMPTS[other.persona]
    places = {(item.persona, item.question, item.sample) for item in found}
    assert len(places) == len(found)
    asked = {(i.question, i.sample, i.text): i.persona for i in found}
    for own in raw:
        if own.sample == 0:
            twin = next(i for i in raw if (i.persona, i.question, i.sample)
                        == (own.persona, own.question, 1))  # fmt: skip
            names = [asked[i.question, i.sample, i.text] for i in (own, twin)]
            assert len(set(names)) == 2  # two samples of a cell go to two personas
    once = control_items(raw, PROMPTS, samples=1)
    assert {item.sample for item in once} == {0}
    assert len(once) == 220


def test_controls_need_prompts(raw: list[Item]) -> None:
    with pytest.raises(DataError, match=r"persona: expected one of comedian, villain"):
        control_items(raw, dict.fromkeys(("comedian", "villain"), "You are."))
    with pytest.raises(DataError, match="controls: personas"):
        control_items(raw, {"librarian": "You are."})


def test_triples_become_items_and_answers_come_back_by_class(raw: list[Item]) -> None:
    texts = {name: question.text for name, question in QUESTIONS.items()}
    listed = triple_items(TRIPLES, PROMPTS, texts)
    triples = [triple for name in CLASSES for triple in TRIPLES[name]]
    assert [item.text for item in listed] == [triple.text for triple in triples]
    for item, triple in zip(listed, triples, strict=True):
        assert (item.persona, item.question) == (triple.persona, triple.question)
        assert item.persona_prompt == PROMPTS[triple.persona]
        assert item.question_text == texts[triple.question]
    given = ["yes" if place % 3 else "partial" for place in range(219)]
    rows = [
        judgement_of(item, judge="j", answer=answer)
        for item, answer in zip(listed, given, strict=True)
    ]
    rows.append(judgement_of(raw[0], judge="j", answer="no"))
    assert class_answers(rows) == {
        name: given[73 * i : 73 * (i + 1)] for i, name in enumerate(CLASSES)
    }
    with pytest.raises(DataError, match="question"):
        triple_items(TRIPLES, PROMPTS, {})
