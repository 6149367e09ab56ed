"""The pool: finished answers of the raw model, which every arm reads under every system message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from persona_lib.models.hidden_states import Passage
from persona_lib.models.slots import answer_before
from persona_lib.pipeline.setting import Setting
from persona_lib.records import STOP, Completion
from persona_lib.specs.personas import Persona, Question
from persona_lib.specs.profile import SampleSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """Whose answers an arm reads, to what, and under whose system message.

    Attributes:
        personas: the arm's source, then its bystanders: authors, and readers, in this order.
        questions: of whose answers each author has one.
        sample: how the prompts are asked.
        marker: an answer that holds it is none of the pool.
    """

    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    sample: SampleSpec
    marker: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One answer under one system message: `reader` is the persona whose message it is."""

    reader: Persona
    question: Question
    answer: Completion


def pool_spec(setting: Setting, arm: str) -> PoolSpec:
    """Return the pool of an arm: its source's and its bystanders' first answers."""
    registration = setting.registration
    roster = registration.roster_of(arm)
    readers = (roster.source, *roster.bystanders)
    questions = setting.questions(registration.evaluation_questions)
    known = {persona.id: persona for persona in setting.personas}
    return PoolSpec(
        personas=tuple(known[name] for name in readers),
        questions=questions[: setting.profile.scale.pool_questions],
        sample=setting.profile.sample,
        marker=registration.marker,
    )


def pool_of(drawn: Sequence[Completion], spec: PoolSpec) -> tuple[Completion, ...]:
    """Return the first answer of each author to each question that can be in the pool.

    It finished, is not blank and does not hold the marker. A cell may have none.

    Args:
        drawn: completions of the raw model.
        spec: which authors and questions.

    Returns:
        By author in the order of `spec.personas`, then by question.
    """
    first: dict[tuple[str, str], Completion] = {}
    for row in sorted(drawn, key=lambda row: row.sample):
        marked = answer_before(row.text, spec.marker)[1]
        if row.finish == STOP and row.text.strip() and not marked:
            first.setdefault((row.persona, row.question), row)
    cells = [(p.id, q.id) for p in spec.personas for q in spec.questions]
    return tuple(first[cell] for cell in cells if cell in first)


def part_of(pool: Sequence[Completion], answers: int) -> tuple[Completion, ...]:
    """Return at most so many answers of a pool, by turns one of each author.

    Authors begin at different questions, so that few answers cover many of both.
    """
    by_author: dict[str, list[Completion]] = {}
    for row in pool:
        by_author.setdefault(row.persona, []).append(row)
    turned = []
    for at, rows in enumerate(by_author.values()):
        first = at % len(rows)
        turned.append(rows[first:] + rows[:first])
    rounds = max(map(len, turned), default=0)
    found = [rows[turn] for turn in range(rounds) for rows in turned if turn < len(rows)]
    return tuple(found[:answers])


def readings_of(answers: Sequence[Completion], spec: PoolSpec) -> list[Reading]:
    """Return every answer under every reader's system message, reader by reader."""
    questions = {question.id: question for question in spec.questions}
    return [
        Reading(reader=reader, question=questions[answer.question], answer=answer)
        for reader in spec.personas
        for answer in answers
    ]


def passages_of(
    readings: Sequence[Reading], sample: SampleSpec, tokenizer: PreTrainedTokenizerBase, marker: str
) -> list[Passage]:
    """Return prompts and answers as tokens, each answer up to its slot."""
    from persona_lib.models.chat import encode, render_prompt

    prompts: dict[tuple[str, str], list[int]] = {}
    texts: dict[str, list[int]] = {}
    found = []
    for one in readings:
        key = one.reader.id, one.question.id
        if key not in prompts:
            asked = sample.asked(one.question.text)
            prompts[key] = list(render_prompt(tokenizer, one.reader.prompt, asked))
        text = answer_before(one.answer.text, marker)[0]
        if text not in texts:
            texts[text] = encode(tokenizer, text)
        found.append(Passage(prompt=prompts[key], response=texts[text]))
    return found
