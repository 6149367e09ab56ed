"""The loop of a judge behind an API: bounded, resumable, within a budget.

A record is asked for once. Its answer is on disk before the worker that got it asks for
another, so that a run which dies loses no more than the requests on their way. Whatever goes
wrong leaves the record unscored, with a reason; only a cache that cannot be written ends the
run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from persona_lib.marker import prepared, sendable
from persona_lib.panels.judge.base import (
    UNSCORED,
    Item,
    Judgement,
    JudgeSpec,
    Report,
    judgement_of,
    key_of,
)
from persona_lib.panels.judge.cache import Bought, JudgementCache, open_cache
from persona_lib.panels.judge.engine import Engine, Reply, Unanswered
from persona_lib.panels.judge.hidden import name_of
from persona_lib.panels.judge.prices import Price, Purse
from persona_lib.panels.judge.rubric import FOLLOWING, Prompt, Rubric, prompt_of, read_answer
from persona_lib.panels.judge.wire import METER, Access, Meter
from persona_lib.progress import Bar, Progress, silent

BUDGET = "budget"
"""Reason: not asked, because the answer might have cost more than was left."""
GAVE_UP = "gave_up"
"""Reason: not asked, because the server had failed many times in a row."""
DEADLINE = "deadline"
"""Reason: no answer in the time that a record may take, retries and waiting included."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a run goes; nothing of it changes an answer.

    Attributes:
        concurrency: requests on their way at any time.
        deadline: seconds that a record may take, the SDK's retries and waits included.
        give_up_after: unanswered records in a row, after which no other is asked.
        budget: dollars that one run may spend, None for no limit.
    """

    concurrency: int
    deadline: float
    give_up_after: int
    budget: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """One prompt, and the places of the items that it stands for."""

    key: str
    prompt: Prompt
    places: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    answer: str
    reason: str = ""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class RemoteJudge:
    """A judge behind an API. Make it with `persona_lib.panels.judge.make.make_judge`.

    Attributes:
        spec: what it is.
        make_engine: connects to the server, once for each run.
        access: where the server is; no key is kept here.
        limits: how far a run goes.
        price: price of its tokens, None where it is not known.
        cache: file of the answers that were paid for.
        rubric: what is asked; its digest is in the spec.
    """

    spec: JudgeSpec
    make_engine: Callable[[JudgeSpec, Access], Engine]
    access: Access
    limits: Limits
    price: Price | None
    cache: Path
    rubric: Rubric = FOLLOWING

    def judge(
        self, items: Sequence[Item], *, progress: Progress = silent
    ) -> tuple[tuple[Judgement, ...], Report]:
        """Return one judgement for each item, in order, and what the run did.

        Waits while another process runs the same judge on the same cache. It cannot be
        called from inside an event loop.

        Raises:
            StoreError: the cache cannot be read or written.
            PreflightError: the key has gone from the environment.
        """
        works, shortened = self._works(items)
        purse = Purse(self.price, self.limits.budget)
        with (
            closing(progress("judging", len(items), "completion")) as bar,
            open_cache(self.cache, judge=self.spec.digest, answers=self.rubric.answers) as cache,
        ):
            known = cache.get(work.key for work in works)
            outcomes = {
                key: _Outcome(answer=row.answer, model=name_of(row.model, ""))
                for key, row in known.items()
            }
            bar.update(sum(len(work.places) for work in works if work.key in known))
            run = _Run(judge=self, purse=purse, cache=cache, bar=bar)
            todo = [work for work in works if work.key not in known]
            if todo:
                outcomes |= asyncio.run(run.all(todo))
        return self._describe(items, works, outcomes), _report(
            works,
            outcomes,
            answers=self.rubric.answers,
            known=set(known),
            shortened=shortened,
            requests=run.requests,
            purse=purse,
        )

    def _works(self, items: Sequence[Item]) -> tuple[list[_Work], int]:
        """Return the distinct prompts of the items, and how many texts were cut."""
        works: dict[str, _Work] = {}
        shortened = 0
        for place, item in enumerate(items):
            text, cut = prepared(item.text, marker=self.spec.marker, limit=self.spec.text_limit)
            shortened += cut
            read = (sendable(item.persona_prompt), sendable(item.question_text), text)
            key = key_of(self.spec.digest, *read)
            if key not in works:
                works[key] = _Work(key=key, prompt=prompt_of(*read, self.rubric))
            works[key].places.append(place)
        return list(works.values()), shortened

    def _describe(
        self, items: Sequence[Item], works: Sequence[_Work], outcomes: Mapping[str, _Outcome]
    ) -> tuple[Judgement, ...]:
        """Return the judgements in the order of their items."""
        by_place = {place: outcomes[work.key] for work in works for place in work.places}
        found = [by_place[place] for place in range(len(items))]
        return tuple(
            judgement_of(
                item,
                judge=self.spec.digest,
                answer=one.answer,
                reason=one.reason,
                answers=self.rubric.answers,
            )
            for item, one in zip(items, found, strict=True)
        )


@dataclass(kw_only=True)
class _Run:
    """One pass over the prompts that the cache does not know."""

    judge: RemoteJudge
    purse: Purse
    cache: JudgementCache
    bar: Bar
    failed_in_a_row: int = 0
    requests: int = 0

    async def all(self, works: Sequence[_Work]) -> dict[str, _Outcome]:
        """Return what became of each prompt. Workers share one queue: the first free one takes."""
        outcomes: dict[str, _Outcome] = {}
        queue = iter(works)
        engine = self.judge.make_engine(self.judge.spec, self.judge.access)
        try:
            workers = min(self.judge.limits.concurrency, len(works))
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._worker(queue, engine, outcomes))
        except BaseExceptionGroup as several:
            # One worker failed and the others were called off: its error is the story.
            raise several.exceptions[0] from None
        finally:
            await engine.close()
        return outcomes

    async def _worker(
        self, queue: Iterator[_Work], engine: Engine, outcomes: dict[str, _Outcome]
    ) -> None:
        for work in queue:
            outcomes[work.key] = await self._one(work, engine)
            self.bar.update(len(work.places))

    async def _one(self, work: _Work, engine: Engine) -> _Outcome:
        """Ask for one prompt, if server and budget allow; keep its answer."""
        if self.failed_in_a_row >= self.judge.limits.give_up_after:
            return _Outcome(answer=UNSCORED, reason=GAVE_UP)
        prompt = work.prompt.system + work.prompt.user
        each = self.purse.worst(prompt, self.judge.spec.max_tokens)
        # A retry that the SDK made after silence may have been paid for as well.
        worst = each * (self.judge.access.max_retries + 1)
        if not await self.purse.reserve(worst):
            return _Outcome(answer=UNSCORED, reason=BUDGET)
        meter = Meter()
        METER.set(meter)
        reply: Reply | None = None
        failure = ""
        try:
            async with asyncio.timeout(self.judge.limits.deadline):
                reply = await engine.ask(work.prompt)
        except Unanswered as error:
            failure = error.reason
        except TimeoutError:
            failure = DEADLINE
        tokens = None if reply is None else reply.tokens
        self.requests += meter.sent
        unmetered = max(0, meter.sent - meter.refused - (tokens is not None))
        await self.purse.settle(worst, tokens=tokens, unmetered=unmetered, each=each)
        self.failed_in_a_row = self.failed_in_a_row + 1 if reply is None else 0
        if reply is None:
            return _Outcome(answer=UNSCORED, reason=failure)
        return self._read(work, reply)

    def _read(self, work: _Work, reply: Reply) -> _Outcome:
        """Read a reply, and bring its answer to disk."""
        rubric = self.judge.rubric
        answer, reason = ("", reply.stop) if reply.stop else read_answer(reply.text, rubric)
        if reason:
            return _Outcome(answer=UNSCORED, reason=reason, model=reply.model)
        read, written = reply.tokens if reply.tokens is not None else (None, None)
        self.cache.put(
            Bought(
                key=work.key,
                judge=self.judge.spec.digest,
                answer=answer,
                model=reply.model,
                input_tokens=read,
                output_tokens=written,
            )
        )
        return _Outcome(answer=answer, model=reply.model)


def _report(
    works: Sequence[_Work],
    outcomes: Mapping[str, _Outcome],
    *,
    answers: Sequence[str],
    known: set[str],
    shortened: int,
    requests: int,
    purse: Purse,
) -> Report:
    """Count records, not prompts: several records may share one prompt."""
    given: Counter[str] = Counter(dict.fromkeys(answers, 0))
    unscored: Counter[str] = Counter()
    for work in works:
        outcome = outcomes[work.key]
        if outcome.answer == UNSCORED:
            unscored[outcome.reason] += len(work.places)
        else:
            given[outcome.answer] += len(work.places)
    return Report(
        n=sum(len(work.places) for work in works),
        answers=dict(given),
        unscored=dict(sorted(unscored.items())),
        cached=sum(len(work.places) for work in works if work.key in known),
        shortened=shortened,
        requests=requests,
        unmetered=purse.unmetered,
        input_tokens=purse.input_tokens,
        output_tokens=purse.output_tokens,
        dollars=purse.dollars,
        dollars_at_most=purse.dollars_at_most,
        models=tuple(sorted({o.model for o in outcomes.values() if o.model})),
        stopped_by_budget=purse.exhausted,
    )
