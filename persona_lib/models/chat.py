"""What a chat template writes: prompts, where an answer ends, and whether it can be used.

A template is a checkpoint's own program. One is used only if it carries a persona as the
experiment says, leaves an answer where a prompt stops, and closes it with a special token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from persona_lib.errors import SpecError
from persona_lib.models.clock import check_clock
from persona_lib.specs.sources import USER, ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Talk = list[dict[str, str]]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
"""How Python writes an object that has no text of its own: otherwise in each process."""
_SYSTEM, _ASKED, _ANSWER = "You are a glazier.", "Is it late?", "Yes, it is."
"""The talk by which a template is tried."""
_IN_USER = (
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{% set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' "
    "+ messages[1]['content']}] + messages[2:] %}{% endif %}{{ '' }}"
)
"""Puts a system message before the user's, with an empty line between them."""
_ANOTHER = "Use a base model whose chat template does."
_MOVE = (
    'Put persona = "user" under [model] of the experiment if personas may stand in the user\'s '
    "message, or use a base model that takes system messages."
)


@dataclass(frozen=True, kw_only=True)
class TurnEnd:
    """What stands behind an answer: the token that ends its turn, and a newline or nothing."""

    token: int
    text: str
    after: str


def use_format(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    """Set a format's variables, and where it puts a persona; prove that the template fits.

    Raises:
        SpecError: there is no template, it cannot be rendered, it changes with the clock
            (`check_clock`), it treats system messages in another way than the format says, or
            see `turn_end`.
    """
    if not tokenizer.chat_template:
        raise _unfit("one that the tokenizer has", None, "Use a chat model: a base has none.")
    given = "".join(
        f"{{% set {name} = {_literal(value)} %}}" for name, value in chat.template.items()
    )
    plain = f"{given}{{{{ '' }}}}{_own(tokenizer)}" if given else _own(tokenizer)
    tokenizer.chat_template = plain
    if chat.persona == USER and not _merges(tokenizer):
        tokenizer.chat_template = _IN_USER + plain
    check_clock(tokenizer)
    _prompt(tokenizer, None, _ASKED)  # what fails here is not the system message
    prompt = _prompt(tokenizer, _SYSTEM, _ASKED)
    if chat.persona != USER and _merges(tokenizer):
        raise _unfit("one that gives the system message a place of its own", prompt, _MOVE)
    turn_end(tokenizer)


def render_prompt(tokenizer: PreTrainedTokenizerBase, system: str | None, user: str) -> list[int]:
    """Return the token ids of a prompt, ready for the assistant's turn.

    Without a system message (None) the tokenizer's template decides what stands there.

    Raises:
        SpecError: the chat template refuses a system message, drops a text, prints an
            object's address, or writes another prompt at another time.
    """
    text = _prompt(tokenizer, system, user)
    # A clock may be asked for certain texts alone, which the check of the tokenizer lacks.
    check_clock(tokenizer, [_talk(system, user)])
    return encode(tokenizer, text)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    """Return what the template writes behind an answer.

    Raises:
        SpecError: an answer does not stand where its prompt stops, as where a block of
            thoughts is opened, or no special token follows it.
    """
    for system in (_SYSTEM, None):
        prompt = _prompt(tokenizer, system, _ASKED)
        talk = [*_talk(system, _ASKED), {"role": "assistant", "content": _ANSWER}]
        whole = _render(tokenizer, talk, answer=False)
        if not whole.startswith(prompt + _ANSWER):
            raise _unfit(
                "one whose answers begin where the prompt ends",
                {"prompt": prompt, "with its answer": whole},
                "Set a variable by which the template leaves out what stands between, in "
                "[model.template] of the experiment (enable_thinking = false perhaps), or use "
                "another base model.",
            )
        rest = whole[len(prompt) + len(_ANSWER) :]
    found = encode(tokenizer, rest)[:1]
    text = str(tokenizer.convert_ids_to_tokens(found[0])) if found else ""
    if not found or found[0] not in special_ids(tokenizer) or not rest.startswith(text):
        raise _unfit("one that ends an answer with a special token", rest or "nothing", _ANOTHER)
    after = "\n" if rest[len(text) :].startswith("\n") else ""
    return TurnEnd(token=found[0], text=text, after=after)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of all special tokens, those without a role among them."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, with none put around it."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def _own(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template for talks without tools; SpecError where there are only others."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise _unfit("one that is for plain talks", str(error), _ANOTHER) from error


def _literal(value: str | int | bool) -> str:
    """Return a value as Jinja writes it."""
    if isinstance(value, str):
        quoted = value.encode("unicode_escape").decode("ascii").replace('"', '\\"')
        return f'"{quoted}"'
    return str(value).lower()


def _merges(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template itself puts a system message into the user's."""
    try:
        both = _prompt(tokenizer, _SYSTEM, _ASKED)
        alone = _prompt(tokenizer, None, _ASKED)
    except SpecError:
        return False
    between = both[both.index(_SYSTEM) + len(_SYSTEM) : both.rindex(_ASKED)]
    return both == alone.replace(_ASKED, f"{_SYSTEM}{between}{_ASKED}")


def _talk(system: str | None, user: str) -> Talk:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": user}]


def _prompt(tokenizer: PreTrainedTokenizerBase, system: str | None, user: str) -> str:
    """Return a prompt as text, proved to hold what it is made of."""
    text = _render(tokenizer, _talk(system, user), answer=True)
    if user.strip() not in text:
        raise _unfit("one that keeps the user's message", text, _ANOTHER)
    if (system or "").strip() not in text:
        raise _unfit("one that keeps the system message", text, _MOVE)
    if _ADDRESS.search(text.replace(system or "", "").replace(user, "")):
        raise _unfit("one that prints no address of an object", text, _ANOTHER)
    return text


def _render(tokenizer: PreTrainedTokenizerBase, talk: Talk, *, answer: bool) -> str:
    """Return a talk as text, with the head of an answer if one shall follow."""
    try:
        text: Any = tokenizer.apply_chat_template(
            talk, tokenize=False, add_generation_prompt=answer
        )
    except Exception as error:  # a template is a program, and raises what it likes
        remedy = _MOVE if talk[0]["role"] == "system" else _ANOTHER
        raise _unfit(
            "one that renders a talk", f"{type(error).__name__}: {error}", remedy
        ) from error
    return str(text)


def _unfit(bound: str, value: object, remedy: str) -> SpecError:
    return SpecError("chat template", bound=bound, value=value, remedy=remedy)
