"""Checks that a checkpoint is whole: no tensor missing, too many, misshapen or not finite.

transformers fills in random values or passes over tensors, and only logs it; here these are
errors. Let pass are tensors that its own model class ignores, and a tied head that equals the
embedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_ADAPTER = "adapter_config.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_SHOWN = 3
_AGAIN = "Delete it and download or build the base model again, or use one whose files are whole."


@dataclass(frozen=True, kw_only=True)
class Header:
    """A tensor's file, shape and dtype ("F32", "BF16"), as a safetensors header has them."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the weight files that transformers reads: one, or else the shards of the index.

    Raises:
        DataError: there are none, or the index is not one.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    return tuple(folder / shard for shard in sorted(set(_weight_map(folder).values())))


def read_headers(folder: Path) -> dict[str, Header]:
    """Return what the headers say of every tensor; no weights are read.

    Raises:
        DataError: a file is broken or missing, or index and shards disagree.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Header] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118  (no mapping: it has no __iter__)
                    part = weights.get_slice(name)
                    if name in found:
                        raise _unfit(file, "tensors that no other shard has", [name])
                    shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
                    found[name] = Header(file=file, shape=shape, dtype=dtype)
        except (SafetensorError, OSError) as error:
            raise DataError(
                str(file), bound="a safetensors file", value=str(error), remedy=_AGAIN
            ) from error
    if not (folder / WEIGHTS).is_file():
        listed = _weight_map(folder)
        held = {name: header.file.name for name, header in found.items()}
        wrong = sorted(n for n in listed.keys() | held.keys() if listed.get(n) != held.get(n))
        if wrong:
            raise _unfit(folder / INDEX, "the tensors that its shards hold", wrong)
    return found


def check_names(folder: Path) -> Any:
    """Check names, shapes and types against config.json; return the model on device ``meta``.

    No weights are read.

    Raises:
        DataError: the checkpoint is not whole, its config is none, or an adapter's config
            stands beside it.
    """
    if (folder / _ADAPTER).is_file():  # its base would be loaded instead
        raise DataError(
            str(folder / _ADAPTER),
            bound="no such file beside a base model",
            value="an adapter's config",
            remedy="Delete it, or merge the adapter into the base model.",
        )
    headers = read_headers(folder)
    config = _config(folder, len(headers))
    model, info = _empty_model(folder, config, headers)
    _check_info(info, folder)
    floating = {name for name, weight in model.state_dict().items() if weight.is_floating_point()}
    coded = sorted(n for n in floating & headers.keys() if headers[n].dtype not in _FLOATS)
    if coded:
        raise _unfit(_file(folder), f"weights of type {', '.join(_FLOATS)}", coded, "of others")
    return model


def check_values(folder: Path) -> None:
    """Read every tensor of a checkpoint once: finite, and a tied head equal to the embedding.

    Raises:
        DataError: see `check_names`; or a value is NaN or infinite, or the head differs.
    """
    import torch
    from safetensors import safe_open

    tied = _tied(check_names(folder))
    headers = read_headers(folder)

    def read(name: str) -> Tensor:
        with safe_open(headers[name].file, framework="pt") as weights:
            tensor: Tensor = weights.get_tensor(name)
        return tensor

    _check_finite(((name, read(name)) for name in headers), folder)
    both = [pair for pair in tied.items() if headers.keys() >= set(pair)]
    differ = [target for target, source in both if not torch.equal(read(target), read(source))]
    if differ:
        raise _two_heads(folder, differ)


def check_loaded(model: nn.Module, info: Mapping[str, Any], folder: Path) -> None:
    """Check a loaded model and its ``output_loading_info``; `folder` may be a GGUF file.

    Raises:
        DataError: a tensor is missing, unexpected, of another shape, NaN or infinite, or
            a head that the config ties differs from the embedding.
    """
    _check_info(info, folder)
    weights = dict(model.named_parameters(remove_duplicate=False))
    pairs = _tied(model).items()
    differ = [target for target, source in pairs if weights.get(target) is not weights.get(source)]
    if differ:
        raise _two_heads(folder, differ)
    _check_finite(model.named_parameters(), folder)


def _tied(model: Any) -> dict[str, str]:
    """Return which weight is tied to which, as the config asks."""
    return dict(model.get_expanded_tied_weights_keys(all_submodels=True))


def _check_info(info: Mapping[str, Any], folder: Path) -> None:
    file = _file(folder)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise _unfit(file, "every tensor that config.json asks for", missing, "missing")
    if info["unexpected_keys"]:
        over = sorted(info["unexpected_keys"])
        raise _unfit(file, "only tensors that config.json asks for", over, "unexpected")
    shapes = [
        f"{name} {tuple(held)} for {tuple(wanted)}"
        for name, held, wanted in sorted(info["mismatched_keys"])
    ]
    if shapes or info["error_msgs"]:
        raise _unfit(file, "the shapes of config.json", [*shapes, *info["error_msgs"]], "wrong")


def _check_finite(tensors: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    import torch

    bad = []
    for name, tensor in tensors:
        if not tensor.is_floating_point() or torch.isfinite(tensor.sum(dtype=torch.float32)):
            continue
        # A sum tells quickly, and may overflow.
        if not bool(torch.isfinite(tensor).all()):
            bad.append(name)
    if bad:
        raise _unfit(_file(folder), "finite weights", bad, "with NaN or infinite values")


def _weight_map(folder: Path) -> dict[str, str]:
    index = folder / INDEX
    if not index.is_file():
        raise DataError(
            str(folder),
            bound=f"safetensors weights ({WEIGHTS} or {INDEX})",
            value="none",
            remedy=_AGAIN,
        )
    try:
        found = json.loads(index.read_text("utf-8"))["weight_map"]
        plain = all(isinstance(name, str) and Path(name).name == name for name in found.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        plain = False
    if not plain or not found:
        raise DataError(
            str(index),
            bound="a weight_map of tensor names to files beside it",
            value="something else",
            remedy=_AGAIN,
        )
    return dict(found)


def _config(folder: Path, tensors: int) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
        elsewhere = getattr(config, "transformers_weights", None)
    except Exception as error:  # each kind of config raises errors of its own
        raise _no_model(folder, error) from error
    if elsewhere is not None:
        raise DataError(
            f"{folder / 'config.json'}: transformers_weights",
            bound=f"absent, so that {WEIGHTS} or the shards of {INDEX} are read",
            value=elsewhere,
            remedy=_AGAIN,
        )
    # The model is made from the config before its tensors are compared.
    if not isinstance(layers, int) or layers > tensors:
        raise DataError(
            f"{folder / 'config.json'}: num_hidden_layers",
            bound=f"at most {tensors}, the number of tensors in the files",
            value=layers,
            remedy=_AGAIN,
        )
    return config


def _empty_model(folder: Path, config: Any, headers: Mapping[str, Header]) -> tuple[Any, Any]:
    """Let transformers load tensors without values: its renaming and tying then apply."""
    import torch
    from transformers import AutoModelForCausalLM

    empty = {name: torch.empty(held.shape, device="meta") for name, held in headers.items()}
    try:
        with torch.device("meta"):
            made = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        model, info = type(made).from_pretrained(
            None,
            config=made.config,  # of a composite model, its text model's
            state_dict=empty,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # each architecture raises errors of its own
        raise _no_model(folder, error) from error
    return model, info


def _no_model(folder: Path, error: Exception) -> DataError:
    cause = (str(error).strip().splitlines() or [""])[0]
    return DataError(
        str(folder / "config.json"),
        bound="a causal language model that transformers knows",
        value=f"{type(error).__name__}: {cause}",
        remedy=_AGAIN,
    )


def _two_heads(folder: Path, names: Sequence[str]) -> DataError:
    bound = "heads equal to the embedding, as tie_word_embeddings in config.json says"
    return _unfit(_file(folder), bound, names, "different")


def _unfit(file: Path, bound: str, names: Sequence[str], what: str = "wrong") -> DataError:
    more = ", ..." if len(names) > _SHOWN else ""
    value = f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"
    return DataError(str(file), bound=bound, value=value, remedy=_AGAIN)


def _file(folder: Path) -> Path:
    if folder.is_file():  # a GGUF
        return folder
    return folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
