"""Makes a judge behind an API from what a user says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from persona_lib.checks import NOT_NEGATIVE, POSITIVE, member, number, whole
from persona_lib.digests import digest
from persona_lib.errors import SpecError
from persona_lib.panels.judge.base import JudgeSpec
from persona_lib.panels.judge.engine import Engine, key_from, require
from persona_lib.panels.judge.prices import Price, price_of
from persona_lib.panels.judge.remote import Limits, RemoteJudge
from persona_lib.panels.judge.rubric import FOLLOWING, Rubric
from persona_lib.panels.judge.sdks import ClaudeEngine, OpenAIEngine
from persona_lib.panels.judge.wire import Access, check_proxy, check_url


@dataclass(frozen=True)
class _Vendor:
    """How a kind of judge is reached: `variable` holds its key, `extra` installs its package."""

    engine: Callable[[JudgeSpec, Access], Engine]
    variable: str
    url: str
    package: str
    extra: str
    temperature: float | None


CLAUDE = "claude"
_VENDORS = {
    CLAUDE: _Vendor(
        engine=ClaudeEngine,
        variable="ANTHROPIC_API_KEY",
        url="https://api.anthropic.com",
        package="anthropic",
        extra="judge",
        temperature=None,
    ),
    "openai": _Vendor(
        engine=OpenAIEngine,
        variable="OPENAI_API_KEY",
        url="https://api.openai.com/v1",
        package="openai",
        extra="judge-openai",
        temperature=0.0,
    ),
}
KINDS = tuple(_VENDORS)
"""Judges behind an API."""
_OWN = "other"
_MOST_TOKENS = 100_000
_NAME_CHARACTERS = 200


def make_judge(
    kind: str,
    model: str,
    *,
    cache: Path,
    base_url: str | None = None,
    budget: float | None = None,
    price: Price | None = None,
    revision: str = "",
    temperature: float | str | None = "auto",
    max_tokens: int = 2048,
    thinking: str = "",
    marker: str = "[ZLT]",
    concurrency: int = 8,
    max_retries: int = 4,
    timeout: float = 60.0,
    deadline: float = 600.0,
    give_up_after: int = 20,
    rubric: Rubric = FOLLOWING,
) -> RemoteJudge:
    """Return a judge behind an API; nothing is sent before it is asked to judge.

    Args:
        kind: ``claude`` (Anthropic's SDK) or ``openai`` (OpenAI, or any server that
            speaks its chat completions).
        model: name of the model, as the server knows it.
        cache: file of the answers that were paid for; made where it is missing.
        base_url: root of another server's API; None for the vendor's own.
        budget: dollars that one run may spend, None for no limit.
        price: price of the model's tokens, where it is not the vendor's known one.
        revision: what tells two models of one name apart, such as a commit.
        temperature: sampling temperature; None leaves it to the model; ``auto`` means
            0 for ``openai`` and None for ``claude``, whose present models refuse one.
        max_tokens: ceiling on the tokens of an answer, hidden reasoning included.
        thinking: for ``claude``: ``disabled``, ``adaptive``, or "" for the model's own.
        marker: what is cut out of every text before it is sent.
        concurrency: requests on their way at any time.
        max_retries: how often the SDK sends a request again.
        timeout: seconds that the server may stay silent.
        deadline: seconds that a record may take, retries and waits included.
        give_up_after: records in a row without any reply, after which no other is asked.
        rubric: what is asked.

    Raises:
        SpecError: a value is out of bounds, or a budget is set and no price is known.
        PreflightError: the SDK is not installed, there is no key, or the environment
            names a proxy that cannot be used.
    """
    _check_words(kind, model, thinking, marker)
    vendor, own = _VENDORS[kind], base_url is not None
    limits = Limits(
        concurrency=whole("concurrency", concurrency, 1, 256, remedy="Ask fewer at a time."),
        deadline=number("deadline", deadline, POSITIVE, remedy="Give seconds."),
        give_up_after=whole("give_up_after", give_up_after, 1, remedy="Give a number of records."),
        budget=None
        if budget is None
        else number("judge-budget", budget, POSITIVE, remedy="Give dollars."),
    )
    if base_url is not None:
        check_url(base_url, vendor.variable)
    access = Access(
        base_url=base_url or vendor.url,
        own=own,
        variable=vendor.variable,
        timeout=number("timeout", timeout, POSITIVE, remedy="Give seconds."),
        max_retries=whole("max_retries", max_retries, 0, 20, remedy="Retry less often."),
    )
    spec = JudgeSpec(
        kind=kind,
        model=model,
        served_by=_OWN if own else vendor.package,
        revision=revision,
        rubric=digest(rubric),
        temperature=_temperature(temperature, vendor.temperature),
        max_tokens=whole("max_tokens", max_tokens, 16, _MOST_TOKENS, remedy="Ask for fewer."),
        thinking=thinking,
        marker=marker,
    )
    if price is None and not own:
        price = price_of(model)
    if budget is not None and price is None:
        raise SpecError(
            "judge-budget",
            bound="a model whose price is known",
            value=model,
            remedy="Give the price of its tokens, 0 for a server of your own, or no budget.",
        )
    require(vendor.package, vendor.extra)
    key_from(access)
    check_proxy(access)
    return RemoteJudge(
        spec=spec,
        make_engine=vendor.engine,
        access=access,
        limits=limits,
        price=price,
        cache=cache,
        rubric=rubric,
    )


def _check_words(kind: str, model: str, thinking: str, marker: str) -> None:
    member("judge", kind, KINDS)
    member("thinking", thinking, ("", "disabled", "adaptive") if kind == CLAUDE else ("",))
    if not model.strip() or len(model) > _NAME_CHARACTERS:
        bound = f"a name of at most {_NAME_CHARACTERS} characters"
        raise SpecError("judge model", bound=bound, value=model, remedy="Name the judge's model.")
    if not marker.strip():
        bound = "the marker of the registration"
        raise SpecError("marker", bound=bound, value=marker, remedy="A judge must not see it.")


def _temperature(asked: float | str | None, default: float | None) -> float | None:
    if asked is None or asked == "auto":
        return default if asked else None
    remedy = "Give a number, auto, or None for the model's own."
    return number("judge temperature", asked, NOT_NEGATIVE, remedy=remedy)
