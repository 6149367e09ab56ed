"""Adapter folders in peft's format, read and written: plain LoRA on linear layers only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.errors import DataError, SpecError

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor, nn

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_FREE_FIELDS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "peft_type",
        "peft_version",
        "r",
        "revision",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
"""Fields that do not change what the stored A and B mean, or that are read here."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One adapter as read from disk.

    Attributes:
        scale: alpha / rank, or alpha / sqrt(rank) with rsLoRA.
        factors: module name -> (A, B), float32 on the CPU; A is (rank, inputs), B is
            (outputs, rank), not scaled.
    """

    rank: int
    scale: float
    factors: Mapping[str, tuple[Tensor, Tensor]]


def read_adapter(path: Path) -> Adapter:
    """Read and check one adapter folder.

    Raises:
        SpecError: it is more than plain LoRA on linear layers.
        DataError: a file is absent, it holds no module, shapes disagree with the rank, or
            a weight is NaN or infinite.
    """
    import torch
    from safetensors.torch import load_file

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            bound = f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
            raise _broken(str(path), bound, f"no {name}")
    config = json.loads((path / CONFIG_FILE).read_text("utf-8"))
    _check_plain_lora(path, config)
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path / WEIGHTS_FILE).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise SpecError(
                f"{path}: tensor {key}",
                bound="lora_A and lora_B of linear layers",
                value=key,
                remedy="Train a plain LoRA on linear layers.",
            )
        sides.setdefault(match["module"], {})[match["side"]] = tensor.float()
    if not sides:
        raise _broken(str(path / WEIGHTS_FILE), "lora_A and lora_B of some module", "no tensor")
    for module, pair in sides.items():
        shapes = {side: tuple(tensor.shape) for side, tensor in pair.items()}
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != rank or pair["B"].shape[1] != rank:
            bound = f"A of {rank} rows and B of {rank} columns"
            raise _broken(f"{path}: module {module}", bound, shapes)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in pair.values()):
            raise _broken(f"{path}: module {module}", "finite weights", "NaN or infinite values")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    factors = {module: (pair["A"], pair["B"]) for module, pair in sides.items()}
    return Adapter(rank=rank, scale=scale, factors=factors)


def check_covers(model: nn.Module, path: Path) -> None:
    """Raise DataError where a module of the base that an adapter's config names has no tensors.

    peft would give it initial weights, whose B is zero: it would do nothing.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists
    from safetensors import safe_open
    from torch import nn

    config = LoraConfig.from_pretrained(str(path))
    with safe_open(path / WEIGHTS_FILE, framework="pt") as weights:
        held = {match["module"] for key in weights.keys() if (match := _KEY.fullmatch(key))}  # noqa: SIM118
    absent = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name not in held
        and check_target_module_exists(config, name)
    ]
    if absent:
        value = f"none for {len(absent)}, the first of them {absent[0]}"
        bound = f"lora_A and lora_B of every module that {CONFIG_FILE} names"
        raise _broken(str(path / WEIGHTS_FILE), bound, value)


def _broken(field: str, bound: str, value: object) -> DataError:
    return DataError(field, bound=bound, value=value, remedy="Train the adapter again.")


def _check_plain_lora(path: Path, config: Mapping[str, Any]) -> None:
    from peft import LoraConfig

    defaults = LoraConfig().to_dict()
    changed = {
        field: value
        for field, value in config.items()
        if field not in _FREE_FIELDS and value and value != defaults.get(field)
    }
    if config.get("peft_type") != "LORA":
        changed["peft_type"] = config.get("peft_type")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        # PiSSA and the like change the base weights: A and B alone are not the adapter.
        changed["init_lora_weights"] = config["init_lora_weights"]
    if changed:
        raise SpecError(
            f"{path}: {', '.join(sorted(changed))}",
            bound="a plain LoRA (no patterns, variants, biases or saved modules)",
            value=changed,
            remedy="Train it with one rank and one alpha for all modules.",
        )


def write_adapter(
    out: Path, config: LoraConfig, factors: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    """Write one adapter folder; equal adapters give equal bytes."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    body = config.to_dict()
    body.update(base_model_name_or_path=None, revision=None, inference_mode=True)
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in body.items()}
    text = json.dumps(plain, indent=2, sort_keys=True)
    (out / CONFIG_FILE).write_text(text + "\n", "utf-8")
    tensors = {
        f"base_model.model.{module}.lora_{side}.weight": tensor.detach()
        .to("cpu", torch.float32)
        .contiguous()
        for module, pair in factors.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    save_file(tensors, out / WEIGHTS_FILE, metadata={"format": "pt"})
