"""What a judge is asked, what it answers, and what became of every record.

A judge reads a persona's system prompt, a question and a completion, and says whether the
completion speaks as that persona: ``yes``, ``partial`` or ``no``. Anything else leaves the
record ``unscored``, with a reason. A judge returns one judgement for each item, in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from persona_lib.digests import digest
from persona_lib.errors import DataError
from persona_lib.marker import TEXT_LIMIT
from persona_lib.panels.judge.triples import ANSWERS
from persona_lib.records import Completion, Place
from persona_lib.specs.personas import Persona, Question
from persona_lib.verdict.as_json import AsJson

UNSCORED = "unscored"
"""In place of an answer where there is none; the judgement's reason says why."""

PROMPT_LIMIT = 4_000
"""Characters that a persona's prompt and a question may have each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item(Place):
    """One completion to be judged.

    Attributes:
        persona_prompt: the system message that the completion was sampled under.
        question_text: the user message.
        text: the completion as sampled, marker and all.
    """

    persona_prompt: str
    question_text: str
    text: str

    def __post_init__(self) -> None:
        for name in ("persona_prompt", "question_text"):
            if len(getattr(self, name)) > PROMPT_LIMIT:
                raise DataError(
                    f"{name} of {self.persona}/{self.question}",
                    bound=f"at most {PROMPT_LIMIT:,} characters",
                    value=len(getattr(self, name)),
                    remedy="Shorten it: a judge has to read it whole.",
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement(Place):
    """What one judge said of one completion.

    Attributes:
        judge: digest of the judge's `JudgeSpec`.
        answer: one of its rubric's (for following ``yes``, ``partial``, ``no``), or `UNSCORED`.
        reason: why it is unscored, a fixed code; "" where there is an answer.
    """

    judge: str
    answer: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """Everything that can change what a judge answers; its digest names the judge.

    Attributes:
        kind: ``claude``, ``openai``, or the kind of a judge that needs no server.
        model: name of the model, as its server knows it.
        served_by: ``anthropic``, ``openai``, or ``other`` for a server of one's own.
        revision: tells two models of one name apart, such as the commit of the weights
            on a server of one's own; "" where none was given.
        rubric: digest of the rubric.
        temperature: sampling temperature; None leaves it to the model.
        max_tokens: ceiling on the tokens of an answer, hidden reasoning included.
        thinking: ``disabled`` or ``adaptive`` where the API is to be told; "" leaves
            it to the model.
        marker: what is cut out of the text beforehand.
        text_limit: characters of the text that are read.
    """

    kind: str
    model: str
    served_by: str
    revision: str = ""
    rubric: str
    temperature: float | None
    max_tokens: int
    thinking: str = ""
    marker: str
    text_limit: int = TEXT_LIMIT

    @property
    def digest(self) -> str:
        """SHA-256 of the spec, 64 hexadecimal digits."""
        return digest(self)


@dataclass(frozen=True, kw_only=True)
class Report(AsJson):
    """What a run of a judge did; figures are of this run alone.

    Attributes:
        n: records.
        answers: records by answer, of all that the rubric has.
        unscored: records without an answer, by reason.
        cached: records whose answer was in the cache before; they cost nothing.
        shortened: records whose text was cut at the limit.
        requests: HTTP requests sent, retries among them.
        unmetered: requests that may have been paid for without a count of tokens: timed
            out, cut off, or answered without one.
        input_tokens, output_tokens: of the requests that were metered.
        dollars: price of those tokens; NaN where no price is known.
        dollars_at_most: with every unmetered request at its worst case; NaN likewise.
        models: names of the models that answered, as the server gave them.
        stopped_by_budget: records were left unasked because of the budget.
    """

    n: int
    answers: Mapping[str, int]
    unscored: Mapping[str, int] = field(default_factory=dict)
    cached: int = 0
    shortened: int = 0
    requests: int = 0
    unmetered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = math.nan
    dollars_at_most: float = math.nan
    models: tuple[str, ...] = ()
    stopped_by_budget: bool = False


def item_of(completion: Completion, *, persona: Persona, question: Question) -> Item:
    """Return the item for a completion to `question` that was sampled as `persona`.

    Raises:
        DataError: persona or question are not those of the completion, or too long.
    """
    for name, given, own in (
        ("persona", persona.id, completion.persona),
        ("question", question.id, completion.question),
    ):
        if given != own:
            raise DataError(name, bound=own, value=given, remedy="Pass the completion's own.")
    return Item(
        **completion.place,
        persona_prompt=persona.prompt,
        question_text=question.text,
        text=completion.text,
    )


def judgement_of(
    item: Item,
    *,
    judge: str,
    answer: str,
    reason: str = "",
    answers: Sequence[str] = ANSWERS,
) -> Judgement:
    """Return the judgement of an item.

    Args:
        item: the item.
        judge: digest of the judge's spec.
        answer: one of `answers`, or `UNSCORED`.
        reason: why it is unscored.
        answers: the vocabulary.

    Raises:
        ValueError: the answer is outside the vocabulary, an answer comes with a reason, or
            an unscored record with none.
    """
    if answer not in (*answers, UNSCORED) or (answer == UNSCORED) != bool(reason):
        raise ValueError(f"no judgement: answer {answer!r}, reason {reason!r}")
    return Judgement(**item.place, judge=judge, answer=answer, reason=reason)


def key_of(spec_digest: str, persona_prompt: str, question: str, text: str) -> str:
    """Return the name of one judgement: SHA-256 over judge and everything it reads.

    Args:
        spec_digest: digest of the judge's spec, which holds model, rubric and sampling.
        persona_prompt: the persona's system message, as in the prompt.
        question: the user message, as in the prompt.
        text: the completion as `prepared`.
    """
    return digest(["judgement", spec_digest, persona_prompt, question, text])
