"""Refuses chat templates whose prompts change with the clock, or by chance.

transformers lets a template ask for the time (``strftime_now``), and Jinja lets it draw
(``random``, ``lipsum``). No key of the store would know.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from persona_lib.errors import SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLOCK = "strftime_now"
_PURE = frozenset({"range", "dict", "cycler", "joiner", "namespace", "raise_exception"})
"""Globals of a template that give the same whenever they are called."""
_DAYS = 366
_FIRST_YEAR, _YEARS = 1950, 200
_SHOWN_BEFORE, _SHOWN_AFTER = 20, 40
_PIN = (
    "If the template has a variable for it, set that in [model.template] of the experiment "
    '(date_string = "26 Jul 2024" perhaps); else use a base model, or a commit of it, whose '
    "template writes the same prompt every day."
)
_USER = {"role": "user", "content": "A question?"}
_TALKS = ([{"role": "system", "content": "A system message."}, _USER], [_USER])
_numbers = itertools.count()


class _Moment(str):
    """What an unknown global gives at one time: a text that can also be called."""

    __slots__ = ()

    def __call__(self, *_: Any, **__: Any) -> str:
        return str(self)


def check_clock(
    tokenizer: PreTrainedTokenizerBase, talks: Sequence[list[dict[str, str]]] = _TALKS
) -> None:
    """Refuse a chat template that writes another prompt at another time, or by chance.

    A template that mentions a clock or a draw renders each of `talks` for each day of a leap year,
    in other years, hours, minutes and seconds. It is compiled under a text of its own (a comment
    stands before it), and its globals are replaced in that copy alone.

    Raises:
        SpecError: two renderings differ, or the template cannot be rendered.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    if not tokenizer.chat_template:
        return
    try:
        asked, draws = _asked(tokenizer.get_chat_template())
    except (TemplateError, ValueError) as error:
        remedy = "Download the base model again, or use another one."
        raise _refused(tokenizer, "one that Jinja can read", str(error), remedy) from error
    if not asked and not draws:
        return
    variant = f"{{# {next(_numbers)} #}}{tokenizer.get_chat_template()}"
    compiled: Any = _compile_jinja_template(variant)
    for talk in talks:
        first: tuple[datetime, str] | None = None
        for index, moment in enumerate(_moments()):
            for name in asked:
                description = moment.strftime if name == _CLOCK else _Moment(f"{name} at {moment}")
                compiled.globals[name] = description
            compiled.environment.filters["random"] = lambda _, many, i=index: _pick(many, i)
            text = _render(tokenizer, talk, variant)
            first = first or (moment, text)
            if text != first[1]:
                raise _changing(tokenizer, first, (moment, text), sorted(asked))


@lru_cache(maxsize=32)
def _asked(template: str) -> tuple[frozenset[str], bool]:
    """Return the globals of a template that may change, and whether it draws."""
    from jinja2 import nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(template).environment
    tree = environment.parse(template)
    named = {node.name for node in tree.find_all(nodes.Name)}
    draws = any(node.name == "random" for node in tree.find_all(nodes.Filter))
    return frozenset(named & (environment.globals.keys() - _PURE)), draws


def _render(tokenizer: PreTrainedTokenizerBase, talk: list[dict[str, str]], template: str) -> str:
    from jinja2 import TemplateError

    try:
        text: Any = tokenizer.apply_chat_template(
            talk, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise _refused(tokenizer, "one that renders at any time", str(error)) from error
    return str(text)


def _moments() -> Iterator[datetime]:
    """Yield every day of a leap year, each in another year, hour, minute and second."""
    start = datetime(2000, 1, 1)
    for index in range(_DAYS):
        day = start + timedelta(days=index)
        year = _FIRST_YEAR + index % _YEARS
        # The 29th of February wants a leap year.
        year += -year % 4 if (day.month, day.day) == (2, 29) else 0
        yield day.replace(
            year=year, hour=index % 24, minute=index % 60, second=(7 * index) % 60,
            microsecond=(997 * index) % 1_000_000,
        )  # fmt: skip


def _pick(many: Any, index: int) -> Any:
    items = list(many)
    return items[index % len(items)] if items else ""


def _changing(
    tokenizer: PreTrainedTokenizerBase,
    first: tuple[datetime, str],
    other: tuple[datetime, str],
    asked: Sequence[str],
) -> SpecError:
    same = len(os.path.commonprefix([first[1], other[1]]))  # noqa: RUF071  (no paths)
    shown = slice(max(0, same - _SHOWN_BEFORE), same + _SHOWN_AFTER)
    return _refused(
        tokenizer,
        f"one whose prompts no clock and no draw ({', '.join(asked) or 'random'}) changes",
        {f"{moment:%Y-%m-%d %H:%M:%S}": text[shown] for moment, text in (first, other)},
    )


def _refused(
    tokenizer: PreTrainedTokenizerBase, bound: str, value: object, remedy: str = _PIN
) -> SpecError:
    return SpecError(
        f"chat template of {tokenizer.name_or_path or type(tokenizer).__name__}",
        bound=bound,
        value=value,
        remedy=remedy,
    )
