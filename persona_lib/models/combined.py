"""A stack of adapters for engines that know one LoRA: one folder, or merged tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from persona_lib.errors import DataError
from persona_lib.models.adapter_files import write_adapter
from persona_lib.models.adapters import Stack, stack_adapters, stack_config
from persona_lib.models.checkpoint import read_headers, weight_files

if TYPE_CHECKING:
    from torch import Tensor


def combine_adapters(paths: Sequence[Path], out: Path) -> Stack:
    """Write the adapters as one peft folder of their summed rank and scale 1, and return them.

    Raises:
        SpecError, DataError: see `stack_adapters`.
    """
    stack = stack_adapters(paths)
    write_adapter(out, stack_config(stack), stack.factors)
    return stack


def merged_tensors(base: Path, paths: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every weight of a checkpoint, with the adapters added.

    Tensors are read one by one and merged as by `merge_stack`; nothing is written.

    Raises:
        SpecError, DataError: see `stack_adapters` and `read_headers`; or no weight has a
            module's name and shape. Raised before the first tensor.
    """
    from safetensors import safe_open

    headers = read_headers(base)
    factors = dict(stack_adapters(paths).factors) if paths else {}
    for module, (a, b) in sorted(factors.items()):
        held, shape = headers.get(f"{module}.weight"), (len(b), a.shape[1])
        if held is None or held.shape != shape:
            raise DataError(
                f"tensor {module}.weight",
                bound=f"a weight of shape {shape} in the checkpoint",
                value=held and held.shape,
                remedy="Use the base model that the adapters were trained on.",
            )

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for file in weight_files(base):
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118  (no mapping: it has no __iter__)
                    tensor = weights.get_tensor(name)
                    module = name.removesuffix(".weight")
                    if module in factors:
                        a, b = factors[module]
                        tensor = (tensor.float() + b @ a).to(tensor.dtype)
                    yield name, tensor

    return tensors()
