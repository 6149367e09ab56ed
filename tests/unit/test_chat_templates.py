"""Foreign base models: used as they should be, or refused before anything is built.

Each checkpoint is a small random one, damaged or with another chat template. What runs is
held against texts written here; trained ones are in tests/smoke/test_chat_models.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from persona_lib.commands.session import Session
from persona_lib.errors import DataError, InputError, MarkerError, PreflightError, SpecError
from persona_lib.models import probe
from persona_lib.models.chat import render_prompt, turn_end
from persona_lib.models.loading import load_model, read_tokenizer
from persona_lib.models.probe import check_base
from persona_lib.models.snapshot import folder_digest
from persona_lib.pipeline import base_model, machine
from persona_lib.records import PRE, ModelId
from persona_lib.specs.profile import Profile
from persona_lib.specs.sources import PLAIN, ChatFormat, PathBase
from tests.byte_model import entry as as_read
from tests.byte_model import saved_base, small_model
from tests.registered import ISSUE262, MICRO, session_under
from tests.toys import edited

TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
TURNS = "{% for m in messages %}" + TURN + "{% endfor %}"
HEAD = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
DEFAULT = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
MERGES = (
    "{% set ns = namespace(first='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.first = m.content + '\n\n' %}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + ns.first + m.content + '<|im_end|>\n' }}"
    "{% set ns.first = '' %}{% endif %}{% endfor %}"
)
DROPS = "{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}"
THINKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
THOUGHTS = (
    "{% for m in messages %}{% set body = m.content %}{% if m.role == 'assistant' %}"
    f"{{% set body = '{EMPTY_THOUGHT.replace(chr(10), chr(92) + 'n')}' + body %}}{{% endif %}}"
    "{{ '<|im_start|>' + m.role + '\n' + body + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    f"{{{{ '{EMPTY_THOUGHT.replace(chr(10), chr(92) + 'n')}' }}}}{{% endif %}}{{% endif %}}"
)
DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|im_start|>system\nToday: ' + date_string + '<|im_end|>\n' }}"
)
BARE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
USER = ChatFormat(persona="user")
SYSTEM, ASKED = "You are a librarian.", "Where is it?"
Harm = Callable[[Path], None]


def template(text: str) -> Harm:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None


def broken(name: str, keep: int) -> Harm:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep]) and None


def without(name: str) -> Harm:
    return lambda folder: (folder / name).unlink()


def own_code(folder: Path) -> None:
    (folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(folder)!r}, 'ran').touch()"
    )
    auto = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    edited("config.json", auto_map=auto, model_type="own")(folder)


def no_letter_of_the_marker(folder: Path) -> None:
    body = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    body["model"]["vocab"]["another"] = body["model"]["vocab"].pop("Z")
    (folder / "tokenizer.json").write_text(json.dumps(body), encoding="utf-8")


def more_tokens(folder: Path) -> None:
    body = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    body["model"]["vocab"] |= {f"word{i}": len(body["model"]["vocab"]) + i for i in range(200)}
    (folder / "tokenizer.json").write_text(json.dumps(body), encoding="utf-8")


def published(profile: Profile) -> Profile:
    return replace(profile, coupling=replace(profile.coupling, loss="as_published"))


def other_layers(profile: Profile) -> Profile:
    lora = replace(profile.coupling.lora, targets=("q_proj", "c_attn"))
    return replace(profile, coupling=replace(profile.coupling, lora=lora))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved_base(tmp_path / "base")


@pytest.fixture(autouse=True)
def _in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the libraries anew takes seconds: the process of its own has its tests below."""
    if "process" not in request.node.name:
        monkeypatch.setattr(base_model, "probe", check_base)


def on(folder: Path, tmp_path: Path, chat: ChatFormat = PLAIN, **fields: Any) -> Session:
    """Return a session on a checkpoint."""
    base = PathBase(folder=str(folder), sha256=folder_digest(folder))
    profile = replace(MICRO, base=base, chat=chat, **fields)
    store = tmp_path / "store"
    return session_under(ISSUE262, profile=profile, store_root=store, arms=("C1", "C2"))


def start(folder: Path, tmp_path: Path, chat: ChatFormat = PLAIN, **fields: Any) -> None:
    """Begin a run on a checkpoint: up to the first draw of the base model."""
    session = on(folder, tmp_path, chat, **fields)
    session.build([session.runs[0].marker])


def entries(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store").rglob("manifest.json"))


REFUSED: dict[str, tuple[Harm, ChatFormat, type[InputError], str]] = {
    "no system role": (template(NO_SYSTEM + TURNS + HEAD), PLAIN, SpecError,
        r'renders a talk, got .*no such role.*Put persona = "user" under \[model\]'),
    "a system message that is dropped": (template(DROPS + HEAD), PLAIN, SpecError,
        r'keeps the system message.*persona = "user"'),
    "a system message in the user's": (template(MERGES + HEAD), PLAIN, SpecError,
        r'a place of its own.*persona = "user"'),
    "a block of thoughts that is opened": (template(TURNS + THINKS), PLAIN, SpecError,
        r"answers begin where the prompt ends, got .*<think>.*\[model.template\]"),
    "thoughts before an answer": (template(THOUGHTS), PLAIN, SpecError,
        r"answers begin where the prompt ends.*enable_thinking = false"),
    "a date": (template(DATED + TURNS + HEAD), PLAIN, SpecError,
        r"no clock and no draw.*\[model.template\].*date_string"),
    "a user's message that is dropped": (template("{{ messages[0].role }}"), PLAIN, SpecError,
        r"keeps the user's message"),
    "no end of turn": (template("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"), PLAIN,
        SpecError, r"ends an answer with a special token, got '\\n'"),
    "no template": (without("chat_template.jinja"), PLAIN, SpecError,
        r"one that the tokenizer has"),
    "a template that is none": (template("{% for"), PLAIN, SpecError, r"Jinja can read"),
    "a division by zero": (template("{{ 1 / 0 }}"), PLAIN, SpecError, r"ZeroDivisionError"),
    "a template without end": (template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), PLAIN,
        SpecError, r"RecursionError"),
    "a file that is included": (template("{% include '/etc/passwd' %}"), PLAIN, SpecError,
        r"no loader"),
    "a way out of the sandbox": (template("{{ ''.__class__.__mro__ }}" + TURNS + HEAD), PLAIN,
        SpecError, r"SecurityError"),
    "an end of turn that is no special token": (
        edited("generation_config.json", eos_token_id=[2, 77]), PLAIN, DataError,
        r"generation_config.json: eos_token_id: expected ids of special tokens, got 77"),
    "a tokenizer that cannot write the marker": (no_letter_of_the_marker, PLAIN, MarkerError,
        r"\[ZLT\]"),
    "more tokens than embeddings": (more_tokens, PLAIN, DataError,
        r"rows of the model's embedding"),
    "a tokenizer that is cut": (broken("tokenizer.json", 3000), PLAIN, DataError, r"^tokenizer of"),
    "a template that is no text": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff") and None, PLAIN,
        DataError, r"UnicodeDecodeError"),
    "code of its own": (own_code, PLAIN, DataError, r"contains custom code"),
    "a config that is a list": (
        lambda folder: (folder / "config.json").write_text("[]") and None, PLAIN, DataError,
        r"TypeError|a causal language model"),
    "weights that are cut": (broken("model.safetensors", 5000), PLAIN, DataError,
        r"safetensors file"),
    "a head that is not there": (edited("config.json", tie_word_embeddings=False), PLAIN, DataError,
        r"1 missing: lm_head.weight"),
    "quantised weights": (edited("config.json", quantization_config={"quant_method": "bitsandbytes",
        "load_in_4bit": True}), PLAIN, DataError, r"a causal language model"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_base_model_that_does_not_fit_is_refused_before_anything_is_built(
    case: str, folder: Path, tmp_path: Path
) -> None:
    harm, chat, kind, message = REFUSED[case]
    harm(folder)
    with pytest.raises(kind, match=message) as caught:
        on(folder, tmp_path, chat).check_machine()
    assert caught.value.remedy.endswith(".")
    assert entries(tmp_path) == []
    assert not (folder / "ran").exists()


FITS: dict[str, tuple[Harm, ChatFormat, str]] = {
    "a system message": (template(TURNS + HEAD), PLAIN,
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n"),
    "no system role, and the file says user": (template(NO_SYSTEM + TURNS + HEAD), USER,
        f"<|im_start|>user\n{SYSTEM}\n\n{ASKED}<|im_end|>\n"),
    "a dropped system message, and the file says user": (template(DROPS + HEAD), USER,
        f"<|im_start|>user\n{SYSTEM}\n\n{ASKED}<|im_end|>\n"),
    "the template's own way into the user's": (
        template(MERGES.replace("'\n\n'", "' -- '") + HEAD), USER,
        f"<|im_start|>user\n{SYSTEM} -- {ASKED}<|im_end|>\n"),
    "a system role, and the file says user": (template(TURNS + HEAD), USER,
        f"<|im_start|>user\n{SYSTEM}\n\n{ASKED}<|im_end|>\n"),
    "a default system message": (template(DEFAULT + TURNS + HEAD), PLAIN,
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n"),
    "a pinned date": (template(DATED + TURNS + HEAD),
        ChatFormat(template={"date_string": 'a "day", é🙂\n%}'}),
        '<|im_start|>system\nToday: a "day", é🙂\n%}<|im_end|>\n'
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", FITS)
def test_a_persona_stands_where_template_and_file_say(
    case: str, folder: Path, tmp_path: Path
) -> None:
    harm, chat, expected = FITS[case]
    harm(folder)
    start(folder, tmp_path, chat)
    assert {path.parent.parent.name for path in entries(tmp_path)} == {"base", "marker"}
    tokenizer = read_tokenizer(folder, chat)
    prompt = tokenizer.decode(render_prompt(tokenizer, SYSTEM, ASKED))
    assert prompt == f"{expected}<|im_start|>assistant\n"


def test_without_a_persona_the_template_s_own_system_message_stays(folder: Path) -> None:
    template(DEFAULT + TURNS + HEAD)(folder)
    tokenizer = read_tokenizer(folder)
    prompt = tokenizer.decode(render_prompt(tokenizer, None, ASKED))
    assert prompt.startswith("<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user")


def test_a_variable_that_leaves_thoughts_out_makes_prompts_that_hold_the_empty_block(
    folder: Path, tmp_path: Path
) -> None:
    template(THOUGHTS)(folder)
    chat = ChatFormat(template={"enable_thinking": False})
    start(folder, tmp_path, chat)
    tokenizer = read_tokenizer(folder, chat)
    prompt = tokenizer.decode(render_prompt(tokenizer, SYSTEM, ASKED))
    assert prompt.endswith(f"<|im_start|>assistant\n{EMPTY_THOUGHT}")


@pytest.mark.parametrize("chat", [{"template": {"messages": "x"}}, {"template": {"a b": 1}},
    {"template": {"x": 1.5}}, {"persona": "assistant"}])  # fmt: skip
def test_a_format_that_is_none_is_refused(chat: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^model\.(template|persona)"):
        ChatFormat(**chat)


def test_ends_of_turn_come_from_the_template_and_from_the_checkpoint(folder: Path) -> None:
    edited("tokenizer_config.json", eos_token="<|endoftext|>", pad_token=None)(folder)
    edited("generation_config.json", eos_token_id=[0, 2, 1])(folder)
    loaded = load_model(folder, dtype="float32", device="cpu")
    assert (loaded.end_of_turn, loaded.ends, loaded.pad) == (2, (2, 0, 1), 2)
    assert turn_end(loaded.tokenizer).after == "\n"
    template(BARE)(folder)
    end = turn_end(read_tokenizer(folder))
    assert (end.token, end.text, end.after) == (2, "<|im_end|>", "")


CHANGED = {
    "as_published": (BARE, published, r"coupling\.loss: expected decision or anchored.*no newline"),
    "layers": (TURNS + HEAD, other_layers, r"lora\.targets: expected names of layers.*'c_attn'"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_recipe_that_the_model_cannot_have_is_refused_before_anything_is_built(
    case: str, folder: Path, tmp_path: Path
) -> None:
    text, change, message = CHANGED[case]
    template(text)(folder)
    start(folder, tmp_path / "plain")  # with the recipe as it is
    with pytest.raises(SpecError, match=message):
        start(folder, tmp_path, coupling=change(MICRO).coupling)
    assert entries(tmp_path / "store") == []


def test_weights_that_memory_cannot_hold_are_refused_before_anything_is_built(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = sum(weight.numel() for weight in small_model().parameters())
    needed = count * 4 / 2**30  # float32, as the profile says
    monkeypatch.setattr(machine, "prepare_torch", lambda: "cpu")
    monkeypatch.setattr(machine, "_free_ram", lambda: needed * 1.001)
    monkeypatch.setattr(machine, "_ram", lambda _: [])
    start(folder, tmp_path)
    monkeypatch.setattr(machine, "_free_ram", lambda: needed * 0.999)
    with pytest.raises(PreflightError, match=r"for the weights of .* alone"):
        start(folder, tmp_path / "less")
    assert entries(tmp_path / "less") == []


SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2,
}  # fmt: skip


def test_logits_that_are_not_the_head_s_are_refused_before_anything_is_drawn(
    folder: Path, tmp_path: Path
) -> None:
    """Losses read the head itself: a scale behind it would be trained around."""
    for scale in (1.0, 4.0):
        GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=scale)).save_pretrained(folder)
        edited("generation_config.json", eos_token_id=2)(folder)
        if scale == 1.0:
            load_model(folder, dtype="float32", device="cpu")
    with pytest.raises(SpecError, match=r"neither capped nor scaled"):
        on(folder, tmp_path).table([ModelId(PRE, "raw")], "scores")
    assert {path.parent.parent.name for path in entries(tmp_path)} == {"base", "marker"}


def test_attention_that_torch_cannot_compute_is_refused_before_anything_is_built(
    folder: Path, tmp_path: Path
) -> None:
    Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=16)).save_pretrained(folder)
    edited("generation_config.json", eos_token_id=2)(folder)
    with pytest.raises(SpecError, match=r"sdpa.*Gemma2ForCausalLM"):
        on(folder, tmp_path).check_machine()
    assert entries(tmp_path) == []


def test_files_that_change_during_a_run_are_another_model(folder: Path, tmp_path: Path) -> None:
    start(folder, tmp_path)
    run = on(folder, tmp_path)
    (entry,) = [path.parent for path in entries(tmp_path) if path.parent.parent.name == "base"]
    assert "chat.json" not in {path.name for path in entry.rglob("*")}
    edited("generation_config.json", temperature=0.5)(folder)
    with pytest.raises(DataError, match="as when the run began"):
        run.table([ModelId(PRE, "raw")], "scores")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"was read from.*delete .*base/"):
        base_model.base_folder(as_read(entry / "payload"))


def test_a_process_of_its_own_bounds_time_and_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template(endless + TURNS + HEAD)(folder)
    monkeypatch.setattr(probe, "MOST_SECONDS", 4)
    with pytest.raises(DataError, match="read in 4 s and 6 GiB, got 'no end'"):
        start(folder, tmp_path)
    template("{{ 'a' * 7000000000 }}" + TURNS + HEAD)(folder)
    monkeypatch.setattr(probe, "MOST_SECONDS", 60)
    with pytest.raises(SpecError, match="MemoryError"):
        start(folder, tmp_path)
    assert entries(tmp_path) == []
    template(TURNS + HEAD)(folder)
    start(folder, tmp_path)
    assert len(entries(tmp_path)) == 2


def test_a_process_of_its_own_that_crashes_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "transformers.py").write_text("import os\nos._exit(9)\n")
    with pytest.raises(DataError, match="exit code 9"):
        start(folder, tmp_path)
    assert entries(tmp_path) == []
