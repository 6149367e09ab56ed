"""Prompts that a clock or a draw changes are refused, in the stage before all compute."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from persona_lib.errors import SpecError
from persona_lib.models.chat import render_prompt
from persona_lib.models.clock import check_clock
from persona_lib.models.loading import load_model, read_tokenizer
from persona_lib.pipeline.base_model import make_marker
from tests.byte_model import byte_tokenizer, entry, small_model

TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNLESS_SYSTEM = "{% if messages[0].role != 'system' %}"
CHANGING = {
    "a date": "{{ strftime_now('%d %B %Y') }}",
    "a time of day": "{{ strftime_now('%H:%M') }}",
    "seconds": "{{ strftime_now('%S') }}",
    "parts of a second": "{{ strftime_now('%f') }}",
    "a year": "{{ strftime_now('%Y') }}",
    "a date that is kept in a variable": "{% set now = strftime_now('%x') %}On {{ now }}: ",
    "the function under another name": "{% set now = strftime_now %}{{ now('%A') }}",
    "only where it is known": "{% if strftime_now is defined %}{{ strftime_now('%j') }}{% endif %}",
    "a default system message": UNLESS_SYSTEM + "Today is {{ strftime_now('%A') }}.{% endif %}",
    "one day a year": "{% if strftime_now('%d %m') == '25 12' %}Merry Christmas! {% endif %}",
    "leap days": "{% if strftime_now('%d %m') == '29 02' %}Leap!{% endif %}",
    "weekends": "{% if strftime_now('%w') in '06' %}Rest. {% endif %}",
    "nights": "{% if strftime_now('%H') | int < 6 %}Good night. {% endif %}",
    "from some year on": "{% if strftime_now('%Y') | int > 2040 %}Old. {% endif %}",
    "its length alone": "{{ strftime_now('%B') | length }}",
    "a macro": "{% macro today() %}{{ strftime_now('%d') }}{% endmacro %}{{ today() }}",
    "a draw": "{{ ['Hello', 'Hi'] | random }} ",
    "a draw from the messages": "{{ (messages | random).role }}{{ range(9) | random }}",
    "random text": "{{ lipsum(1, False) }}",
}
STEADY = {
    "nothing": "",
    "a date that is not used": "{% set today = strftime_now('%d') %}",
    "a question whether it is known": "{% if strftime_now is defined %}On. {% endif %}",
    "a constant format": "{{ strftime_now('Day') }}",
    "a variable of that name": "{% set strftime_now = 'today' %}{{ strftime_now }}",
    "a comment": "{# strftime_now('%d') #}",
    "counting": "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ range(3) | list }}",
    "a namespace": "{% set n = namespace(x=1) %}{{ n.x }}{{ dict(a=1).a }}",
}


def tokenizer(extra: str) -> Any:
    made = byte_tokenizer()
    made.chat_template = extra + TURNS
    return made


def at(moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock that transformers' own function for templates reads."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            assert tz is None
            return moment

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


@pytest.mark.parametrize("case", CHANGING)
def test_a_template_whose_prompts_change_is_refused(case: str) -> None:
    with pytest.raises(SpecError, match="chat template") as caught:
        check_clock(tokenizer(CHANGING[case]))
    assert "no clock and no draw" in caught.value.bound
    texts = list(caught.value.value.values())
    assert len(texts) == 2
    assert texts[0] != texts[1]


@pytest.mark.parametrize("case", STEADY)
def test_a_template_whose_prompts_do_not_change_is_taken(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tokenizer(STEADY[case])
    check_clock(made)
    prompts = []
    for moment in (datetime(2001, 2, 3, 4, 5, 6), datetime(2026, 12, 25, 17, 18, 19)):
        at(moment, monkeypatch)
        prompts.append([render_prompt(made, system, "Q?") for system in (None, "S")])
    assert prompts[0] == prompts[1]


def test_the_clock_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is replaced in a copy of the template: whoever else renders reads the clock."""
    at(datetime(2031, 11, 28), monkeypatch)
    made = tokenizer("{{ strftime_now('%d.%m.%Y') }} {{ ['only'] | random }}")

    def rendered() -> str:
        asked = [{"role": "user", "content": "Q?"}]
        return str(made.apply_chat_template(asked, tokenize=False))

    before = rendered()
    with pytest.raises(SpecError):
        check_clock(made)
    assert rendered() == before
    assert before.startswith("28.11.2031 only")


def test_the_message_shows_the_first_difference_and_the_way_out() -> None:
    made = tokenizer("x" * 500 + "Today is {{ strftime_now('%Y') }}. ")
    with pytest.raises(SpecError) as caught:
        check_clock(made)
    first, other = caught.value.value.values()
    assert first.startswith("xxx")
    assert "Today is 1950. <|im_start|>" in first
    assert "Today is 1951. <|im_start|>" in other
    assert "strftime_now" in caught.value.bound
    assert "every day" in caught.value.remedy


def test_a_clock_of_another_name_is_refused_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a later transformers may offer it: what is not known to be steady is none."""
    compile_template = chat_template_utils._compile_jinja_template

    def with_today(template: str) -> Any:
        compiled = compile_template(template)
        if "today" not in compiled.environment.globals:
            compiled.globals["today"] = compiled.environment.globals["today"] = lambda: "Monday"
        return compiled

    monkeypatch.setattr(chat_template_utils, "_compile_jinja_template", with_today)
    for use in ("{{ today() }}", "{{ today }}"):
        with pytest.raises(SpecError, match="today"):
            check_clock(tokenizer(use))
    check_clock(tokenizer("{% set asked = today() %}"))


def test_stage_marker_and_every_loading_refuse_it(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "base")
    tokenizer(CHANGING["a default system message"]).save_pretrained(tmp_path / "base")
    (tmp_path / "out").mkdir()
    with pytest.raises(SpecError, match="no clock") as caught:
        make_marker(tmp_path / "out", {"base": entry(tmp_path / "base")}, text="\n\n[ZLT]")
    assert str(tmp_path / "base") in caught.value.field
    assert not list((tmp_path / "out").iterdir())
    for use in (
        lambda: read_tokenizer(tmp_path / "base"),
        lambda: load_model(tmp_path / "base", dtype="float32", device="cpu"),
    ):
        with pytest.raises(SpecError, match="no clock"):
            use()


def test_several_templates_are_judged_by_the_one_that_is_used() -> None:
    made = byte_tokenizer()
    date = CHANGING["a date"] + TURNS
    made.chat_template = {"default": TURNS, "tool_use": date}
    check_clock(made)
    made.chat_template = {"default": date, "tool_use": TURNS}
    with pytest.raises(SpecError, match="no clock"):
        check_clock(made)


@pytest.mark.parametrize(
    "branch", ["{{ strftime_now('%Y-%m') }}", "{{ range(100) | random }}"], ids=["date", "draw"]
)
def test_a_clock_that_is_asked_for_some_texts_alone_is_found_with_them(branch: str) -> None:
    """The texts that the tokenizer is checked with do not reach it; the run's own do."""
    made = tokenizer("{% if 'librarian' in messages[0].content %}" + branch + "{% endif %}")
    check_clock(made)
    render_prompt(made, "You are a comedian.", "A question?")
    with pytest.raises(SpecError, match="chat template"):
        render_prompt(made, "You are a librarian.", "A question?")


@pytest.mark.parametrize(
    "text", ["{{ raise_exception }}", "{{ messages | map(attribute='role') }}", "{{ cycler('a') }}"]
)
def test_a_template_that_prints_an_object_s_address_is_refused(text: str) -> None:
    """It differs in every process; an address that a message holds does not."""
    with pytest.raises(SpecError, match="prints no address of an object"):
        render_prompt(tokenizer(text), "A system message.", "A question?")
    render_prompt(tokenizer(""), "What is <x at 0x7f00>?", "And <y at 0x1>?")
