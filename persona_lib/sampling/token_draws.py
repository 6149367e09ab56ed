"""What draws a token: one uniform number a row, and the inverse cumulative distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from persona_lib.errors import FlatlandError
from persona_lib.specs.profile import SampleSpec

if TYPE_CHECKING:
    import torch


def draw_tokens(logits: torch.Tensor, uniforms: torch.Tensor, spec: SampleSpec) -> torch.Tensor:
    """Draw one token per row by inverting the cumulative distribution.

    A token of probability zero is never drawn. With top_p, the smallest set of tokens whose mass
    reaches it is drawn from (Holtzman et al. 2020, arXiv:1904.09751).

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) numbers in [0, 1).
        spec: temperature and top_p.

    Raises:
        FlatlandError: a row's logits are no distribution (NaN, plus infinity, or minus
            infinity everywhere).
    """
    drawn, finite = drawn_tokens(logits, uniforms, spec)
    check_finite(finite)
    return drawn


def drawn_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, spec: SampleSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw as `draw_tokens`, without waiting for the device.

    Returns (rows,) token ids, and a scalar: False where they mean nothing, because some row's
    logits were no distribution.
    """
    import torch

    probabilities = torch.softmax(logits.float() / spec.temperature, dim=-1)
    if spec.top_p < 1:
        ordered, indices = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= spec.top_p
        dropped = torch.zeros_like(outside).scatter(-1, indices, outside)
        probabilities = probabilities.masked_fill(dropped, 0.0)
    # Summed in double: over 50,000 tokens float32 would misplace the boundaries.
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    aim = uniforms.to(cumulative).unsqueeze(1) * total
    drawn = torch.searchsorted(cumulative, aim, right=True)
    # An aim that rounds up to the total lies behind every token. The last one that can
    # be drawn is where the total is first reached; tokens behind it have no probability.
    last = torch.searchsorted(cumulative, total)
    # Where logits are no numbers, the search may end behind the vocabulary.
    last = last.clamp(max=cumulative.shape[1] - 1)
    return torch.minimum(drawn, last).squeeze(1), torch.isfinite(total).all()


def check_finite(finite: torch.Tensor) -> None:
    """Raise FlatlandError where logits were not finite. Waits for the device."""
    if not finite:
        raise FlatlandError(
            "sampling: the model's logits are not finite; its weights have diverged, "
            "so lower the learning rate of the recipe that trained them"
        )
