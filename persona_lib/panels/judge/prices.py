"""Prices of judges, as data, and the arithmetic of a budget.

A price is what its publisher's page said on a date. Look it up again before a large run;
`make_judge(price=...)` takes another one.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from persona_lib.checks import NOT_NEGATIVE, numbers

_MILLION = 1_000_000
_OVERHEAD_TOKENS = 512
"""Room for what a server wraps around a prompt: roles, separators, a template."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What tokens of one model cost.

    Attributes:
        model: the model's name at its publisher's own API.
        input, output: dollars for a million tokens; what is thought counts as output.
        source: where that was read, in words, and when.
    """

    model: str
    input: float
    output: float
    source: str

    def __post_init__(self) -> None:
        remedy = "Give dollars for a million tokens; 0 for a server of your own."
        numbers("price", self, ("input", "output"), NOT_NEGATIVE, remedy=remedy)

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """Return the dollars that these tokens cost."""
        return (input_tokens * self.input + output_tokens * self.output) / _MILLION

    def worst(self, prompt: str, max_tokens: int) -> float:
        """Return the most that one request can cost.

        A prompt has no more tokens than bytes of UTF-8; the server may add 512.
        """
        return self.of(len(prompt.encode("utf-8")) + _OVERHEAD_TOKENS, max_tokens)


_CLAUDE = "Anthropic's overview of its models, as it stood in November 2026"
_HAIKU = f"{_CLAUDE}; for prompts of up to 100,000 tokens, which ours never exceed"

PRICES: tuple[Price, ...] = (
    Price(model="claude-haiku-5-5", input=0.10, output=0.50, source=_HAIKU),
    Price(model="claude-sonnet-5-5", input=2.0, output=10.0, source=_CLAUDE),
    Price(model="claude-opus-5-5", input=4.0, output=20.0, source=_CLAUDE),
    Price(model="claude-fable-5-2", input=8.0, output=40.0, source=_CLAUDE),
    Price(model="claude-sonnet-5", input=2.0, output=10.0, source=_CLAUDE),
    Price(model="claude-opus-5", input=5.0, output=25.0, source=_CLAUDE),
    Price(model="claude-haiku-4-5", input=1.0, output=5.0, source=_CLAUDE),
    Price(model="claude-haiku-4-5-20251001", input=1.0, output=5.0, source=_CLAUDE),
)
"""Known prices. A name is looked up whole: a relative of a known model has no price."""


def price_of(model: str) -> Price | None:
    """Return the known price of a model, or None."""
    return next((price for price in PRICES if price.model == model), None)


class Purse:
    """What a run has spent, what is on its way, and whether another request fits.

    Args:
        price: price of the tokens, None where it is not known.
        budget: dollars that the run may spend at most, None for no limit.
    """

    def __init__(self, price: Price | None, budget: float | None) -> None:
        self._price = price
        self._budget = math.inf if budget is None else budget
        self._reserved = 0.0
        self._underway = 0
        self._changed = asyncio.Condition()
        self.exhausted = False
        self.input_tokens = 0
        self.output_tokens = 0
        self.unmetered = 0
        self._lost = 0.0

    @property
    def dollars(self) -> float:
        """Price of the metered tokens, NaN where none is known."""
        if self._price is None:
            return math.nan
        return self._price.of(self.input_tokens, self.output_tokens)

    @property
    def dollars_at_most(self) -> float:
        """The same with every unmetered request at its worst case."""
        return self.dollars + self._lost

    async def reserve(self, worst: float) -> bool:
        """Set aside the worst case of a record, and return whether it fits.

        Waits for requests on their way, which may give back what they have set aside. Once
        something does not fit, nothing does: which records are left must not depend on how
        long they are.
        """
        async with self._changed:
            while not self.exhausted:
                spent = 0.0 if self._price is None else self.dollars_at_most
                if spent + self._reserved + worst <= self._budget:
                    self._reserved += worst
                    self._underway += 1
                    return True
                if self._underway == 0:
                    self.exhausted = True
                    self._changed.notify_all()
                    return False
                await self._changed.wait()
            return False

    async def settle(
        self, worst: float, *, tokens: tuple[int, int] | None, unmetered: int, each: float
    ) -> None:
        """Give back what was reserved for a record and book what it took.

        Args:
            worst: what `reserve` set aside.
            tokens: input and output tokens of the answer; None where nobody told.
            unmetered: requests that may have been paid for unseen.
            each: the most that one request can cost.
        """
        async with self._changed:
            self._underway -= 1
            # Rounding must not leave a crumb behind when nothing is on its way.
            self._reserved = self._reserved - worst if self._underway else 0.0
            if tokens is not None:
                self.input_tokens += tokens[0]
                self.output_tokens += tokens[1]
            self.unmetered += unmetered
            self._lost += unmetered * each
            self._changed.notify_all()

    def worst(self, prompt: str, max_tokens: int) -> float:
        """Return the most that one request can cost, 0 where no price is known."""
        return 0.0 if self._price is None else self._price.worst(prompt, max_tokens)
