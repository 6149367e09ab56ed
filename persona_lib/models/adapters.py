"""Stacks of adapters over a base model, and a fresh one to train on top.

A *stack* is several adapters as one: ranks are concatenated and every scale is folded into
B, so that ``W x + B A x`` equals ``W x + s1 B1 A1 x + s2 B2 A2 x``. peft's
``add_weighted_adapter(combination_type="cat")`` scales wrongly with rsLoRA.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persona_lib.digests import derive_seed
from persona_lib.errors import DataError, FlatlandError, SpecError
from persona_lib.models.adapter_files import Adapter, check_covers, read_adapter, write_adapter
from persona_lib.specs.profile import LoraSpec

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import Tensor, nn

PRIOR = "prior"
"""Name of the frozen stack inside a model."""
TRAINABLE = "default"
"""Name of the adapter being trained (peft writes this name without a sub-folder)."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Several adapters as one, scale 1.

    Attributes:
        factors: module name -> (A, B), float32 on the CPU; A is (rank, inputs), B is
            (outputs, rank) with every scale folded in; zero where an adapter has no part.
        ranks: ranks of the adapters, in order.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    ranks: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Total rank."""
        return sum(self.ranks)


def stack_adapters(paths: Sequence[Path]) -> Stack:
    """Return adapters as one: ``A = [A1; A2]``, ``B = [s1 B1, s2 B2]``.

    ``s = alpha / r``, or ``alpha / sqrt(r)`` with rsLoRA (Kalajdzievski 2023, arXiv:2312.03732).

    Raises:
        SpecError: no adapter, or one that is more than plain LoRA on linear layers.
        DataError: a folder is incomplete, or shapes disagree.
    """
    import torch

    if not paths:
        raise SpecError(
            "adapters", bound="at least one", value=(), remedy="Use the base model as it is."
        )
    adapters = [read_adapter(path) for path in paths]
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for module in sorted({name for adapter in adapters for name in adapter.factors}):
        inputs, outputs = _widths(module, adapters)
        rows, columns = [], []
        for adapter in adapters:
            if module in adapter.factors:
                a, b = adapter.factors[module]
            else:
                a, b = torch.zeros(adapter.rank, inputs), torch.zeros(outputs, adapter.rank)
            rows.append(a)
            columns.append(adapter.scale * b)
        factors[module] = (torch.cat(rows), torch.cat(columns, dim=1))
    return Stack(factors=factors, ranks=tuple(adapter.rank for adapter in adapters))


def attach_stack(model: nn.Module, paths: Sequence[Path]) -> PeftModel:
    """Return `model` with the adapters attached as ONE frozen float32 adapter, `PRIOR`.

    Float32 also over a bfloat16 base: each module then rounds once. There is no dropout.

    Raises:
        SpecError, DataError: see `stack_adapters`; or the model lacks a module.
    """
    import torch
    from peft import get_peft_model

    stack = stack_adapters(paths)
    for module, factors in stack.factors.items():
        _linear(model, module, factors)
    for path in paths:
        check_covers(model, path)
    with torch.random.fork_rng(devices=[]):  # peft draws initial weights; they are replaced
        attached: Any = get_peft_model(model, stack_config(stack), adapter_name=PRIOR)
    layers = _lora_layers(attached, PRIOR)
    with torch.no_grad():
        for module, (a, b) in stack.factors.items():
            layers[module].lora_A[PRIOR].weight.copy_(a)
            layers[module].lora_B[PRIOR].weight.copy_(b)
    if set(layers) != set(stack.factors):
        raise DataError(
            "attached modules",
            bound=f"the {len(stack.factors)} modules of the adapters",
            value=sorted(set(layers) ^ set(stack.factors)),
            remedy="Use the base model that the adapters were trained on.",
        )
    attached.base_model.set_adapter([PRIOR])
    attached.base_model.set_requires_grad(PRIOR, False)
    return attached.eval()


def merge_stack(model: nn.Module, paths: Sequence[Path]) -> nn.Module:
    """Add the adapters to the weights of `model`, in memory, and return it.

    ``W + B A`` is computed in float32, cast to the dtype of W, and put into a new tensor: the old
    one may be shared. bfloat16 may round small changes away.

    Raises:
        SpecError, DataError: see `stack_adapters`; or the model lacks a module, or a weight
            is shared with another module.
    """
    import torch
    from torch import nn

    stack = stack_adapters(paths)
    targets = {module: _linear(model, module, factors) for module, factors in stack.factors.items()}
    holders = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for module, linear in targets.items():
        if holders[id(linear.weight)] > 1:
            raise SpecError(
                f"target module {module}",
                bound="a weight of its own",
                value="shared with another module",
                remedy="Attach the stack instead of merging it.",
            )
    for path in paths:
        check_covers(model, path)
    with torch.no_grad():
        for module, (a, b) in stack.factors.items():
            weight = targets[module].weight
            change = b.to(weight.device) @ a.to(weight.device)
            merged = (weight.float() + change).to(weight.dtype)
            targets[module].weight = nn.Parameter(merged, requires_grad=weight.requires_grad)
    return model


def train_stack(
    model: nn.Module, frozen: Sequence[Path], lora: LoraSpec, draw_seed: int
) -> PeftModel:
    """Return `model` in eval mode with a fresh trainable adapter over frozen ones.

    The frozen ones are one (`PRIOR`) and stay active; the fresh one (`TRAINABLE`) is the first
    active one, at which trainers look. Its B starts at zero; its A is drawn module by module
    from `draw_seed`, uniform within ``1 / sqrt(inputs)`` as peft's default does.

    Raises:
        SpecError: a target of `lora` names no linear module of the model.
        SpecError, DataError: see `attach_stack`.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    _check_targets(model, lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        use_rslora=lora.rslora,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        if frozen:
            peft_model: Any = attach_stack(model, frozen)
            peft_model.add_adapter(TRAINABLE, config)
            peft_model.set_adapter(TRAINABLE)
        else:
            peft_model = get_peft_model(model, config, adapter_name=TRAINABLE)
    peft_model.base_model.set_adapter([TRAINABLE, *([PRIOR] if frozen else [])])
    if frozen:
        peft_model.base_model.set_requires_grad(PRIOR, False)
    with torch.no_grad():
        for module, layer in _lora_layers(peft_model, TRAINABLE).items():
            weight = layer.lora_A[TRAINABLE].weight
            bound = 1 / math.sqrt(weight.shape[1])
            draw = torch.Generator().manual_seed(derive_seed(draw_seed, "lora_A", module))
            weight.copy_((torch.rand(weight.shape, generator=draw) * 2 - 1) * bound)
            layer.lora_B[TRAINABLE].weight.zero_()
    return peft_model.eval()


def save_adapter(model: PeftModel, out: Path) -> None:
    """Write the trained adapter (`TRAINABLE`) of `model` as a standard folder.

    Raises:
        FlatlandError: a weight is NaN or infinite; nothing is written.
    """
    import torch

    factors = {
        module: (layer.lora_A[TRAINABLE].weight, layer.lora_B[TRAINABLE].weight)
        for module, layer in _lora_layers(model, TRAINABLE).items()
    }
    for module, pair in factors.items():
        if not all(bool(torch.isfinite(factor).all()) for factor in pair):
            raise FlatlandError(
                f"adapter {TRAINABLE}: the weights of {module} are not finite; the training has "
                "diverged, so lower the learning rate of the recipe"
            )
    write_adapter(out, model.peft_config[TRAINABLE], factors)


def _widths(module: str, adapters: Sequence[Adapter]) -> tuple[int, int]:
    """Return (inputs, outputs) of a module, on which all adapters must agree."""
    seen = {
        (adapter.factors[module][0].shape[1], adapter.factors[module][1].shape[0])
        for adapter in adapters
        if module in adapter.factors
    }
    if len(seen) != 1:
        raise DataError(
            f"adapters: module {module}",
            bound="the same width in every adapter",
            value=sorted(seen),
            remedy="Stack adapters of one base model only.",
        )
    return seen.pop()


def _linear(model: nn.Module, module: str, factors: tuple[Tensor, Tensor]) -> nn.Linear:
    from torch import nn

    found = dict(model.named_modules()).get(module)
    wanted = (factors[1].shape[0], factors[0].shape[1])
    if not isinstance(found, nn.Linear) or tuple(found.weight.shape) != wanted:
        shape = tuple(found.weight.shape) if isinstance(found, nn.Linear) else None
        raise DataError(
            f"module {module}",
            bound=f"a linear layer of shape {wanted}",
            value=type(found).__name__ if shape is None else shape,
            remedy="Use the base model that the adapter was trained on.",
        )
    return found


def _check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Raise SpecError for a target that matches nothing; peft passes over it."""
    from torch import nn

    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    absent = [target for target in targets if target not in linear]
    if absent or not targets:
        raise SpecError(
            "lora.targets",
            bound=f"some of {', '.join(sorted(linear))}",
            value=absent,
            remedy="Name linear layers of the base model.",
        )


def _lora_layers(model: nn.Module, name: str) -> dict[str, Any]:
    """Return module name -> LoRA layer where adapter `name` is."""
    from peft.tuners.lora import LoraLayer

    root = "base_model.model."
    return {
        module.removeprefix(root): layer
        for module, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.lora_A
    }


def stack_config(stack: Stack) -> LoraConfig:
    """Return peft's configuration of a stack as one adapter of scale 1."""
    from peft import LoraConfig

    return LoraConfig(
        r=stack.rank,
        lora_alpha=stack.rank,
        use_rslora=False,
        lora_dropout=0.0,
        target_modules=sorted(stack.factors),
        bias="none",
        inference_mode=True,
        task_type="CAUSAL_LM",
    )
