"""A judge through the OpenAI SDK: chat completions, of OpenAI or of a server of one's own."""

from __future__ import annotations

from typing import Any

from persona_lib.panels.judge.base import JudgeSpec
from persona_lib.panels.judge.engine import CUT, REFUSAL, Reply, SdkEngine, tokens_of
from persona_lib.panels.judge.hidden import name_of
from persona_lib.panels.judge.rubric import Prompt
from persona_lib.panels.judge.wire import Access

KEY = "OPENAI_API_KEY"
"""Environment variable of the API key."""
URL = "https://api.openai.com/v1"
"""Where the API is, unless another address is given."""

_STOPS = {"content_filter": REFUSAL, "length": CUT}
_THOUGHT = "</think>"


class OpenAIEngine(SdkEngine):
    """Asks through `openai.AsyncOpenAI`.

    Args:
        spec: model and sampling; a temperature is sent only where the spec has one.
        access: address, timeout, retries.
    """

    def __init__(self, spec: JudgeSpec, access: Access) -> None:
        import openai

        super().__init__(openai, openai.AsyncOpenAI, KEY, access)
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
        return _reply(completion, self._key)


def _reply(completion: Any, secret: str) -> Reply:
    """Read a chat completion; the SDK does not check that a server sends what it should."""
    usage = getattr(completion, "usage", None)
    choice = completion.choices[0]
    text = choice.message.content or ""
    # Some servers leave what a model thinks in its text.
    text = text.rpartition(_THOUGHT)[2]
    refused = getattr(choice.message, "refusal", None)
    return Reply(
        text=text,
        stop=REFUSAL if refused else _STOPS.get(str(choice.finish_reason), ""),
        model=name_of(completion.model, secret),
        tokens=tokens_of(
            getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        ),
    )
