"""Loading a checkpoint, rendering prompts, and the proof that a tokenizer keeps the marker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from persona_lib.errors import DataError, MarkerError, SpecError
from persona_lib.models.adapters import attach_stack, merge_stack, train_stack
from persona_lib.models.base_cache import BaseKey, borrow
from persona_lib.models.checkpoint import check_loaded, check_names
from persona_lib.models.clock import check_clock
from persona_lib.specs.profile import LoraSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
"""How Python writes an object that has no text of its own: otherwise in each process."""
COMPLETION_ENDINGS = (
    "It depends on the case.",
    "What a day!",
    "Is that so?",
    "and that is all",
    'She said: "Not today."',
    "It costs 25",
    "- one\n- two",
    "a list:\n\n1. first\n2. second",
    "`code`",
    "(see above)",
    "Voilà, c’est très bien à Málaga",
    "知識は力なり。",
    "Good luck 🙂",
    "trailing space ",
)
"""How completions end; the marker must survive after each of them."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A transformers or peft model in eval mode, ready to run.

    `end_of_turn` and `pad` are token ids, and may be equal.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    end_of_turn: int
    pad: int
    device: str


def load_model(
    path: Path,
    *,
    dtype: Dtype,
    device: str,
    adapters: Sequence[Path] = (),
    merge: bool = False,
    content: str | None = None,
) -> LoadedModel:
    """Load a checkpoint from a folder, without network, in eval mode, gradients off.

    Attention is ``sdpa``, which on a CPU gives the same bits on every call. The checkpoint's own
    sampling defaults are dropped.

    Args:
        path: folder with config, safetensors weights and tokenizer.
        dtype: of the base weights; adapters stay in float32.
        device: ``cpu``, ``cuda`` or ``cuda:0``.
        adapters: folders of adapters, applied together.
        merge: add them to the weights in memory instead of attaching them (`merge_stack`).
        content: digest of the base model, under which its weights are shared (`base_cache`);
            None reads them anew.

    Raises:
        DataError: the folder or an adapter is incomplete, or see `models.checkpoint`.
        SpecError: an unknown dtype, or a tokenizer that `read_tokenizer` refuses.
    """
    loaded = _load_base(path, dtype, device, content)
    if not adapters:
        return loaded
    apply = merge_stack if merge else attach_stack
    return replace(loaded, model=apply(loaded.model, adapters).eval())


def load_trainable(
    path: Path,
    *,
    dtype: Dtype,
    device: str,
    lora: LoraSpec,
    draw_seed: int,
    frozen: Sequence[Path] = (),
    content: str | None = None,
) -> LoadedModel:
    """Load a checkpoint with a fresh adapter over frozen ones: see `load_model`, `train_stack`."""
    loaded = _load_base(path, dtype, device, content)
    return replace(loaded, model=train_stack(loaded.model, frozen, lora, draw_seed))


def _load_base(path: Path, dtype: Dtype, device: str, content: str | None) -> LoadedModel:
    from transformers import GenerationConfig

    if dtype not in ("float32", "bfloat16"):
        raise SpecError(
            "dtype", bound="float32 or bfloat16", value=dtype, remedy="Correct the recipe."
        )
    if not (path / "config.json").is_file():
        raise DataError(
            str(path),
            bound="a folder with config.json, weights and tokenizer",
            value="no config.json",
            remedy="Build the base model again.",
        )
    tokenizer = read_tokenizer(path)
    stop, pad = end_of_turn_id(tokenizer), int(tokenizer.pad_token_id)

    def read() -> Any:
        model = _read_model(path, dtype, device)
        _check_vocabulary(model, tokenizer, path)
        return model

    key = None if content is None else BaseKey(content=content, dtype=dtype, device=device)
    model: Any = read() if key is None else borrow(key, read)
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=pad)
    return LoadedModel(
        model=model.eval(), tokenizer=tokenizer, end_of_turn=stop, pad=pad, device=device
    )


def render_prompt(tokenizer: PreTrainedTokenizerBase, system: str | None, user: str) -> list[int]:
    """Return the token ids of a prompt, ready for the assistant's turn.

    Without a system message (None) the tokenizer's template decides what stands there.

    Raises:
        SpecError: the chat template refuses a system message, drops a text, prints an
            object's address, or writes another prompt at another time.
    """
    from jinja2 import TemplateError

    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": user})
    try:
        text: Any = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError) as error:
        raise _bad_template(str(error)) from error
    if (system or "").strip() not in text or user.strip() not in text:
        raise _bad_template(text)
    if _ADDRESS.search(text.replace(system or "", "").replace(user, "")):
        raise _bad_template(text, "a template that prints no address of an object")
    # A clock may be asked for certain texts alone, which the check of the tokenizer lacks.
    check_clock(tokenizer, [messages])
    return _encode(tokenizer, text)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that ends a turn.

    Raises:
        SpecError: the tokenizer names none, or it is not one special token.
    """
    token = tokenizer.eos_token
    ids = [] if token is None else _encode(tokenizer, token)
    if len(ids) != 1 or ids[0] not in tokenizer.all_special_ids:
        raise SpecError(
            "end of turn",
            bound="one special token",
            value=token if not ids else (token, ids),
            remedy="Name the token that ends a turn in the base model's profile.",
        )
    return ids[0]


def check_marker(tokenizer: PreTrainedTokenizerBase, marker_text: str) -> list[int]:
    """Return the token ids of marker prefix and marker, proved to survive a completion.

    Behind every one of `COMPLETION_ENDINGS` the joined ids decode to the joined text.

    Raises:
        MarkerError: an unknown token, a special token, or another text comes back.
    """
    name = type(tokenizer).__name__
    marker = _encode(tokenizer, marker_text)
    lost = set(marker) & ({tokenizer.unk_token_id} | set(tokenizer.all_special_ids))
    if not marker or lost:
        raise _lost(name, marker_text, f"ids {marker}", "no unknown and no special token")
    for ending in COMPLETION_ENDINGS:
        ids = _encode(tokenizer, ending) + marker
        back = decode(tokenizer, ids)
        if back != ending + marker_text:
            raise _lost(name, marker_text, back, f"{ending + marker_text!r} after decoding")
    return marker


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Return the text of tokens as it stands, special tokens and spaces among it."""
    return str(
        tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    )


def read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint; the end of a turn pads where nothing else does.

    Raises:
        SpecError: its prompts change with the clock, see `check_clock`.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path, local_files_only=True, trust_remote_code=False
    )
    check_clock(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _read_model(path: Path, dtype: Dtype, device: str) -> Any:
    """Return the weights of a checkpoint, proved to be all from its files."""
    import torch
    from transformers import AutoModelForCausalLM

    check_names(path)
    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told by `check_loaded`, with the tensor's name
    )
    model = model.to(device).requires_grad_(False)
    check_loaded(model, info, path)
    return model


def _check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Refuse a tokenizer that writes ids for which the model has no embedding."""
    rows, largest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise DataError(
            f"{path}: ids of the tokenizer",
            bound=f"below {rows:,}, the rows of the model's embedding",
            value=largest,
            remedy="Use the tokenizer that belongs to these weights.",
        )


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _bad_template(
    value: str, bound: str = "a template that keeps the system and the user message"
) -> SpecError:
    return SpecError(
        "chat template",
        bound=bound,
        value=value,
        remedy="Choose a base model whose chat format has system messages, and depends on them "
        "and the user's alone.",
    )


def _lost(name: str, marker_text: str, value: str, bound: str) -> MarkerError:
    return MarkerError(
        f"marker {marker_text!r} with {name}",
        bound=bound,
        value=value,
        remedy="Choose a marker that this tokenizer can write, or another base model.",
    )


def trunk_and_head(model: Any) -> tuple[Any, Any]:
    """Return the decoder without its head, and the head, of a (peft) causal model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_decoder(), base.get_output_embeddings()
