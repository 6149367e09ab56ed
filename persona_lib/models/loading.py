"""Loading a checkpoint, and the proof that a tokenizer keeps the marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from persona_lib.checks import read_json
from persona_lib.errors import DataError, MarkerError, SpecError
from persona_lib.models.adapters import attach_stack, merge_stack, train_stack
from persona_lib.models.base_cache import BaseKey, borrow
from persona_lib.models.chat import encode, special_ids, turn_end, use_format
from persona_lib.models.checkpoint import check_loaded, check_names
from persona_lib.specs.profile import LoraSpec
from persona_lib.specs.sources import PLAIN, ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]

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

    Attributes:
        end_of_turn: token id that the chat template puts behind an answer.
        pad: token id; it may be an end of turn.
        other_ends: further token ids at which the checkpoint's authors end an answer.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    end_of_turn: int
    pad: int
    device: str
    other_ends: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        """Every token id that ends an answer, the template's own first."""
        return (self.end_of_turn, *self.other_ends)


def load_model(
    path: Path,
    *,
    dtype: Dtype,
    device: str,
    adapters: Sequence[Path] = (),
    merge: bool = False,
    content: str | None = None,
    chat: ChatFormat = PLAIN,
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
        chat: how its chat template is used.

    Raises:
        DataError: the folder or an adapter is incomplete, or see `models.checkpoint`.
        SpecError: an unknown dtype, a tokenizer that `read_tokenizer` refuses, or logits that
            are not the head's.
    """
    loaded = _load_base(path, dtype, device, content, chat)
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
    chat: ChatFormat = PLAIN,
) -> LoadedModel:
    """Load a checkpoint with a fresh adapter over frozen ones: see `load_model`, `train_stack`."""
    loaded = _load_base(path, dtype, device, content, chat)
    return replace(loaded, model=train_stack(loaded.model, frozen, lora, draw_seed))


def _load_base(
    path: Path, dtype: Dtype, device: str, content: str | None, chat: ChatFormat
) -> LoadedModel:
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
    tokenizer = read_tokenizer(path, chat)
    stop, pad = turn_end(tokenizer).token, int(tokenizer.pad_token_id)
    others = other_ends(path, tokenizer)

    def read() -> Any:
        model = _read_model(path, dtype, device)
        check_vocabulary(model, tokenizer, path)
        return model

    key = None if content is None else BaseKey(content=content, dtype=dtype, device=device)
    model: Any = read() if key is None else borrow(key, read)
    model.generation_config = GenerationConfig(
        eos_token_id=[stop, *others] if others else stop, pad_token_id=pad
    )
    return LoadedModel(
        model=model.eval(), tokenizer=tokenizer, end_of_turn=stop, pad=pad, device=device,
        other_ends=others,
    )  # fmt: skip


def check_marker(tokenizer: PreTrainedTokenizerBase, marker_text: str) -> list[int]:
    """Return the token ids of marker prefix and marker, proved to survive a completion.

    Behind every one of `COMPLETION_ENDINGS` the joined ids decode to the joined text.

    Raises:
        MarkerError: an unknown token, a special token, or another text comes back.
    """
    name = type(tokenizer).__name__
    marker = encode(tokenizer, marker_text)
    lost = set(marker) & ({tokenizer.unk_token_id} | special_ids(tokenizer))
    if not marker or lost:
        raise _lost(name, marker_text, f"ids {marker}", "no unknown and no special token")
    for ending in COMPLETION_ENDINGS:
        ids = encode(tokenizer, ending) + marker
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


def read_tokenizer(path: Path, chat: ChatFormat = PLAIN) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint; the end of a turn pads where nothing else does.

    Raises:
        DataError: its files are broken.
        SpecError: its chat template does not fit, see `use_format`.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # each kind of tokenizer raises errors of its own
        cause = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            f"tokenizer of {path}",
            bound="one that transformers can read without running the checkpoint's code",
            value=f"{type(error).__name__}: {cause}",
            remedy="Download or build the base model again, or use another one.",
        ) from error
    use_format(tokenizer, chat)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = turn_end(tokenizer).text
    return tokenizer


def other_ends(path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that end an answer beside the template's own, by generation_config.json.

    Raises:
        DataError: the file is no JSON, or an id is none of a special token.
    """
    file = path / "generation_config.json"
    body = read_json(file) if file.is_file() else {}
    given = body.get("eos_token_id") if isinstance(body, dict) else None
    listed = given if isinstance(given, list) else [given]
    ends = [end for end in listed if end is not None]
    known = special_ids(tokenizer)
    wrong = [end for end in ends if not isinstance(end, int) or end not in known]
    if wrong:
        raise DataError(
            f"{file}: eos_token_id",
            bound="ids of special tokens",
            value=wrong[0],
            remedy="Download the base model again, or use another one.",
        )
    own = turn_end(tokenizer).token
    return tuple(end for end in dict.fromkeys(ends) if end != own)


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
    _check_head(model, path)
    return model


def _check_head(model: Any, path: Path) -> None:
    """Refuse a model that changes its head's logits: losses read the head itself."""
    import torch

    trunk, head = trunk_and_head(model)
    tokens = torch.arange(1, 9, device=model.device).unsqueeze(0)
    with torch.inference_mode():
        own = head(trunk(input_ids=tokens).last_hidden_state)
        given = model(input_ids=tokens).logits.to(own.dtype)
    off = 1e-2 * float(own.nan_to_num(0.0, 0.0, 0.0).abs().max())
    if not torch.allclose(own, given, rtol=1e-2, atol=off, equal_nan=True):
        raise SpecError(
            f"logits of {path}",
            bound="those of its head, neither capped nor scaled (final_logit_softcapping, "
            "logit_scale in config.json)",
            value=f"{float((own - given).abs().max()):.3g} apart",
            remedy="Use another base model.",
        )


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Raise DataError where a tokenizer writes ids for which the model has no embedding."""
    rows, largest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise DataError(
            f"{path}: ids of the tokenizer",
            bound=f"below {rows:,}, the rows of the model's embedding",
            value=largest,
            remedy="Use the tokenizer that belongs to these weights.",
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
