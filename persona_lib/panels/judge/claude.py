"""A judge through Anthropic's SDK: the Messages API."""

from __future__ import annotations

from typing import Any

from persona_lib.panels.judge.base import JudgeSpec
from persona_lib.panels.judge.engine import CUT, REFUSAL, Reply, SdkEngine, tokens_of
from persona_lib.panels.judge.hidden import name_of
from persona_lib.panels.judge.rubric import Prompt
from persona_lib.panels.judge.wire import Access

KEY = "ANTHROPIC_API_KEY"
"""Environment variable of the API key."""
URL = "https://api.anthropic.com"
"""Where the API is, unless another address is given."""

_STOPS = {"refusal": REFUSAL, "max_tokens": CUT, "model_context_window_exceeded": CUT}


class ClaudeEngine(SdkEngine):
    """Asks through `anthropic.AsyncAnthropic`.

    Args:
        spec: model and sampling. A temperature is sent only where the spec has one:
            the present models do not know it, and the SDK has no argument for it.
        access: address, timeout, retries.
    """

    def __init__(self, spec: JudgeSpec, access: Access) -> None:
        import anthropic

        super().__init__(anthropic, anthropic.AsyncAnthropic, KEY, access)
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
        return _reply(message, self._key)


def _reply(message: Any, secret: str) -> Reply:
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
        stop=_STOPS.get(str(message.stop_reason), ""),
        model=name_of(message.model, secret),
        tokens=tokens_of(
            count + sum(read) if isinstance(count, int) else None,
            getattr(usage, "output_tokens", None),
        ),
    )
