"""A stack of adapters in the two forms that another engine can take.

Some engines know one LoRA a request and nothing of stacks. They get the stack as
*one* adapter folder, or the base model's tensors with the stack added on the way
from the file into memory. Only the folder is ever written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from persona_lib.errors import DataError
from persona_lib.models.adapter_files import write_adapter
from persona_lib.models.adapters import Stack, stack_adapters, stack_config

if TYPE_CHECKING:
    from torch import Tensor


def combine_adapters(paths: Sequence[Path], out: Path) -> Stack:
    """Write the adapters as one standard peft folder, and return them.

    Its rank is the sum of theirs: A is stacked by rows, B by columns with every
    scale folded in, and alpha equals the rank, so that the folder's own scale is 1.

    Raises:
        SpecError, DataError: see `stack_adapters`.
    """
    stack = stack_adapters(paths)
    write_adapter(out, stack_config(stack), stack.factors)
    return stack


def merged_tensors(base: Path, paths: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every weight of a checkpoint, with the adapters added.

    One tensor after the other is read, ``W + B A`` computed in float32 and cast back
    to the dtype of W; nothing is written. In float32 this equals the attached stack
    up to rounding; in bfloat16 small changes of W may be rounded away.

    Args:
        base: folder with safetensors weights.
        paths: adapter folders; without any, the checkpoint's own weights.

    Raises:
        SpecError, DataError: see `stack_adapters`; or the checkpoint has no weights,
            or none of a module's name and shape. Raised before the first tensor.
    """
    from safetensors import safe_open

    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise DataError(
            str(base),
            bound="a folder with safetensors weights",
            value="none",
            remedy="Build the base model again.",
        )
    factors = dict(stack_adapters(paths).factors) if paths else {}
    _check_shapes(
        files, {f"{module}.weight": (len(b), a.shape[1]) for module, (a, b) in factors.items()}
    )

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for file in files:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118  (no mapping: it has no __iter__)
                    tensor = weights.get_tensor(name)
                    module = name.removesuffix(".weight")
                    if module in factors:
                        a, b = factors[module]
                        tensor = (tensor.float() + b @ a).to(tensor.dtype)
                    yield name, tensor

    return tensors()


def _check_shapes(files: Sequence[Path], wanted: dict[str, tuple[int, int]]) -> None:
    """Refuse adapters of another base model, or of a weight that is stored nowhere."""
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as weights:
            held = wanted.keys() & set(weights.keys())
            found.update({name: tuple(weights.get_slice(name).get_shape()) for name in held})
    for name, shape in sorted(wanted.items()):
        if found.get(name) != shape:
            raise DataError(
                f"tensor {name}",
                bound=f"a weight of shape {shape} in the checkpoint",
                value=found.get(name),
                remedy="Use the base model that the adapters were trained on.",
            )
