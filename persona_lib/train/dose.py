"""Dose: what a model predicts at the slots of fixed answers while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from persona_lib.errors import FlatlandError
from persona_lib.models.hidden_states import Passage
from persona_lib.models.loading import trunk_and_head
from persona_lib.models.slots import (
    COLUMNS,
    END,
    MARKER,
    Floats,
    Hidden,
    SlotTokens,
    decoder_pass,
    read_at,
)
from persona_lib.train.gpu.packed import unsupported
from persona_lib.train.gpu.recording import plain_trunk

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, kw_only=True)
class Dose:
    """What is read while an adapter is trained, and how often.

    Attributes:
        passages: prompts and answers up to their slots.
        tokens: what is read there.
        points: readings after the first step, the last one at the end of training.
    """

    passages: Sequence[Passage]
    tokens: SlotTokens
    points: int


class Watch:
    """Reads a model at the steps of a dose; training goes on as if it had not been read."""

    def __init__(self, model: PeftModel, dose: Dose, *, steps: int, pad: int) -> None:
        self._model, self._dose, self._pad = model, dose, pad
        self.steps = dose_steps(steps, dose.points)
        self.margins: dict[int, Floats] = {}

    def read(self, step: int) -> None:
        """Read the model if this step is one of the dose's.

        Raises:
            FlatlandError: a logit is not finite.
        """
        if step not in self.steps or step in self.margins:
            return
        model, dose = self._model, self._dose
        training = model.training
        model.eval()
        try:
            found = read_at(
                _hidden(model), trunk_and_head(model)[1], dose.passages, dose.tokens,
                pad=self._pad, device=model.device,
            )  # fmt: skip
        finally:
            model.train(training)
        margins = found[:, COLUMNS.index(MARKER)] - found[:, COLUMNS.index(END)]
        if not np.isfinite(margins).all():
            raise FlatlandError(
                f"step {step}: a logit is not finite; lower the learning rate of the recipe"
            )
        self.margins[step] = margins

    def describe(self) -> dict[str, Any]:
        """Return steps and mean margins (nats) as JSON data."""
        means = {step: float(margins.mean()) for step, margins in self.margins.items()}
        return {"steps": list(means), "mean_margin": list(means.values())}


def dose_steps(steps: int, points: int) -> tuple[int, ...]:
    """Return 0, and up to so many steps until the last, closer together at the beginning.

    The i-th of n lies at (i / n)^2 of the training: gains rise fast at first.
    """
    later = [max(1, round(steps * (at / points) ** 2)) for at in range(1, points + 1)]
    return tuple(dict.fromkeys([0, *later]))


def _hidden(model: PeftModel) -> Hidden:
    """Return the decoder as training runs it on this device, without a graph."""
    trunk, _ = trunk_and_head(model)
    if model.device.type == "cuda" and not unsupported(trunk):
        return plain_trunk(trunk)
    return decoder_pass(trunk)
