"""What a judge is asked beside the completions: calibration triples and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from persona_lib.errors import DataError
from persona_lib.panels.judge.base import Item, Judgement
from persona_lib.panels.judge.triples import Triple

CALIBRATION = "calibration"
"""Phase of an item that was made of a calibration triple; its model is the class."""


def triple_items(
    triples: Mapping[str, Sequence[Triple]],
    prompts: Mapping[str, str],
    questions: Mapping[str, str],
) -> tuple[Item, ...]:
    """Return an item for every triple, class by class, in order.

    Args:
        triples: of each class, as `persona_lib.panels.judge.triples.load_triples` reads them.
        prompts: system message of each persona.
        questions: text of each question.

    Raises:
        DataError: a persona without a prompt, or a question without a text.
    """
    return tuple(
        Item(
            phase=CALIBRATION,
            model=name,
            seed=0,
            persona=triple.persona,
            question=triple.question,
            question_set=CALIBRATION,
            sample=place,
            persona_prompt=_known("persona", triple.persona, prompts),
            question_text=_known("question", triple.question, questions),
            text=triple.text,
        )
        for name, listed in triples.items()
        for place, triple in enumerate(listed)
    )


def class_answers(judgements: Sequence[Judgement]) -> dict[str, list[str]]:
    """Return the answers to `triple_items` by class, as `judge_calibration` reads them."""
    answers: dict[str, list[str]] = {}
    for judgement in judgements:
        if judgement.phase == CALIBRATION:
            answers.setdefault(judgement.model, []).append(judgement.answer)
    return answers


def control_items(
    items: Sequence[Item], prompts: Mapping[str, str], *, samples: int | None = None
) -> tuple[Item, ...]:
    """Return items whose text is put under another persona, so that the answer should be no.

    Personas stand in a circle, in the order of `prompts`; the one asked about is 1, 2, ...
    steps on, by question and sample. A control's coordinates are those of the completion that
    the persona asked about gave to the question; no two controls share them.

    Args:
        items: completions under their own personas.
        prompts: system message of each persona, two or more.
        samples: only samples below this number; None for all.

    Raises:
        DataError: a persona without a prompt, or fewer than two personas.
    """
    circle = list(prompts)
    if len(circle) < 2:  # noqa: PLR2004
        raise DataError(
            "controls: personas", bound=">= 2", value=circle, remedy="Give every persona's prompt."
        )
    order = {question: i for i, question in enumerate(sorted({item.question for item in items}))}
    found = []
    for item in items:
        if samples is not None and item.sample >= samples:
            continue
        _known("persona", item.persona, prompts)
        steps = 1 + (order[item.question] + item.sample) % (len(circle) - 1)
        other = circle[(circle.index(item.persona) + steps) % len(circle)]
        found.append(replace(item, persona=other, persona_prompt=prompts[other]))
    return tuple(found)


def _known(field: str, name: str, texts: Mapping[str, str]) -> str:
    if name not in texts:
        raise DataError(
            field, bound=f"one of {', '.join(texts)}", value=name, remedy="Give its text as well."
        )
    return texts[name]
