"""The judge that a user names with ``--judge``: parsed, checked, made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona_lib.checks import POSITIVE, number
from persona_lib.errors import SpecError

if TYPE_CHECKING:
    from persona_lib.panels.judge.remote import RemoteJudge

CLASSIFIER = "classifier"
"""The judge that needs no network."""
_CACHE, _BROAD_CACHE = "judge.sqlite", "judge_broad.sqlite"
_FORM = "--judge claude:MODEL, --judge openai:MODEL or --judge openai:MODEL@REVISION"


@dataclass(frozen=True, kw_only=True)
class JudgeChoice:
    """A judge behind an API, as the user named it.

    Attributes:
        kind: ``claude`` or ``openai``.
        model: name of the model, as its server knows it.
        revision: tells two models of one name apart, "" where none was given.
        url: root of a server of one's own, None for the vendor's.
        budget: dollars that one run may spend, None for no limit; what a report shows and
            broad harm are a run each.
    """

    kind: str
    model: str
    revision: str = ""
    url: str | None = None
    budget: float | None = None

    def make(self, *, store: Path, marker: str, broad: bool = False) -> RemoteJudge:
        """Return the judge, of persona-following or of broad harm. Nothing is sent yet.

        Its cache lies in the store's folder.

        Raises:
            SpecError: a value is out of bounds, or no price is known for the budget.
            PreflightError: the SDK is not installed, or there is no key.
        """
        from persona_lib.panels.judge.make import make_judge
        from persona_lib.panels.judge.rubric import BROAD, FOLLOWING

        return make_judge(
            self.kind,
            self.model,
            cache=store / (_BROAD_CACHE if broad else _CACHE),
            base_url=self.url,
            budget=self.budget,
            revision=self.revision,
            marker=marker,
            rubric=BROAD if broad else FOLLOWING,
        )


def choose_judge(
    text: str | None, *, budget: str | None, url: str | None, report: str | None
) -> JudgeChoice | None:
    """Return the judge of ``--judge``; None for the embedded classifier.

    Raises:
        SpecError: another form, a budget or an address without a judge behind an API, or
            no ``--report`` that would show its answers.
    """
    if text in (None, CLASSIFIER):
        for name, value in (("--judge-budget", budget), ("--judge-url", url)):
            if value:
                raise SpecError(
                    name,
                    bound="a judge behind an API beside it",
                    # An address may hold a password, and errors land in logs.
                    value=value if name == "--judge-budget" else "an address",
                    remedy=f"Name the judge: {_FORM}.",
                )
        return None
    from persona_lib.panels.judge.make import KINDS

    kind, _, rest = str(text).partition(":")
    model, _, revision = rest.partition("@")
    if kind not in KINDS or not model.strip():
        raise SpecError(
            "--judge",
            bound=f"{CLASSIFIER}, or one of {', '.join(KINDS)} with a colon and a model",
            value=text,
            remedy=f"Write {_FORM}.",
        )
    if not report:
        raise SpecError(
            "--judge",
            bound="--report=DIR beside it: only a report shows what a judge says",
            value=text,
            remedy="Add --report=DIR, or leave --judge out.",
        )
    if budget and url:
        raise SpecError(
            "--judge-budget",
            bound="a vendor's own API, whose prices are known",
            value=f"{budget} for another server",
            remedy="Leave the budget out: a server of your own sends no bill.",
        )
    return JudgeChoice(kind=kind, model=model, revision=revision, url=url, budget=_dollars(budget))


def _dollars(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return number("--judge-budget", value, POSITIVE, remedy="Give dollars, for example 2.50.")
