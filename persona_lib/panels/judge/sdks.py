"""Judges through the SDKs of Anthropic (messages) and of OpenAI (chat completions)."""

from __future__ import annotations

from typing import Any

from persona_lib.panels.judge.base import JudgeSpec
from persona_lib.panels.judge.engine import CUT, REFUSAL, Engine, Reply, tokens_of
from persona_lib.panels.judge.hidden import name_of
from persona_lib.panels.judge.rubric import Prompt
from persona_lib.panels.judge.wire import Access

_CLAUDE_STOPS = {"refusal": REFUSAL, "max_tokens": CUT, "model_context_window_exceeded": CUT}
_OPENAI_STOPS = {"content_filter": REFUSAL, "length": CUT}
_THOUGHT = "</think>"


class ClaudeEngine(Engine):
    """Asks through `anthropic.AsyncAnthropic`: the Messages API.

    Args:
        spec: model and sampling. A temperature is sent only where the spec has one:
            the present models do not know it, and the SDK has no argument for it.
        access: address, timeout, retries.
    """

    def __init__(self, spec: JudgeSpec, access: Access) -> None:
        import anthropic

        super().__init__(anthropic, anthropic.AsyncAnthropic, access)
        self._options: dict[str, Any] = {"model": spec.model, "max_tokens": spec.max_tokens}
        if spec.thinking:
            self._options["thinking"] = {"type": spec.thinking}
        if spec.temperature is not None:
            self._options["extra_body"] = {"temperature": spec.temperature}

    async def _exchange(self, prompt: Prompt) -> Reply:
        message = await self._client.messages.create(
            system=prompt.system,
            messages=[{"role": "user", "content": prompt.user}],
            **self._options,
        )
        return _claude_reply(message, self._key)


def _claude_reply(message: Any, secret: str) -> Reply:
    """Read a message; the SDK does not check that a server sends what it should."""
    usage = getattr(message, "usage", None)
    read = [
        getattr(usage, name, None) or 0
        for name in ("cache_creation_input_tokens", "cache_read_input_tokens")
    ]
    count = getattr(usage, "input_tokens", None)
    # Thinking comes first, in blocks of its own.
    text = "".join(block.text for block in message.content if block.type == "text")
    return Reply(
        text=text,
        stop=_CLAUDE_STOPS.get(str(message.stop_reason), ""),
        model=name_of(message.model, secret),
        tokens=tokens_of(
            count + sum(read) if isinstance(count, int) else None,
            getattr(usage, "output_tokens", None),
        ),
    )


class OpenAIEngine(Engine):
    """Asks through `openai.AsyncOpenAI`: OpenAI, or a server of one's own.

    Args:
        spec: model and sampling; a temperature is sent only where the spec has one.
        access: address, timeout, retries.
    """

    def __init__(self, spec: JudgeSpec, access: Access) -> None:
        import openai

        super().__init__(openai, openai.AsyncOpenAI, access)
        # Servers of one's own know the older name; OpenAI's newer models refuse it.
        limit = "max_tokens" if access.own else "max_completion_tokens"
        self._options: dict[str, Any] = {"model": spec.model, limit: spec.max_tokens}
        if spec.temperature is not None:
            self._options["temperature"] = spec.temperature

    async def _exchange(self, prompt: Prompt) -> Reply:
        completion = await self._client.chat.completions.create(
            messages=[
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ],
            **self._options,
        )
        return _openai_reply(completion, self._key)


def _openai_reply(completion: Any, secret: str) -> Reply:
    """Read a chat completion; the SDK does not check that a server sends what it should."""
    usage = getattr(completion, "usage", None)
    choice = completion.choices[0]
    refused = getattr(choice.message, "refusal", None)
    return Reply(
        # Some servers leave what a model thinks in its text.
        text=(choice.message.content or "").rpartition(_THOUGHT)[2],
        stop=REFUSAL if refused else _OPENAI_STOPS.get(str(choice.finish_reason), ""),
        model=name_of(completion.model, secret),
        tokens=tokens_of(
            getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        ),
    )
