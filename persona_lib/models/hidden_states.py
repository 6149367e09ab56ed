"""Hidden states of a model, pooled over prompt and response, and their cosines by persona."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persona_lib.checks import member, numbers, whole
from persona_lib.digests import LATER
from persona_lib.errors import DataError, FlatlandError, SpecError
from persona_lib.models.batches import pad_rows
from persona_lib.models.loading import LoadedModel, trunk_and_head
from persona_lib.progress import Progress, silent
from persona_lib.records import GeometryRow, ModelId
from persona_lib.stats.directions import centred, centroid_ranks, cosines
from persona_lib.store.cost import spent

if TYPE_CHECKING:
    import torch

GEOMETRY_FILE = "geometry.parquet"
"""File of stage ``geometry``, and of a stored record set that has it."""

READOUTS = ("prompt_mean", "last_token", "response_mean")
"""The mean over a prompt's tokens (as published), its last token, and the mean over the
tokens of the model's own response to it."""
LAST_RESPONSE = "last_response"
"""The last token of that response, from which its end of turn is predicted."""

_REMEDY = "Correct the spec of the geometry."


@dataclass(frozen=True, kw_only=True)
class GeometrySpec:
    """Where hidden states are read: behind blocks `layers` of a model of `of` blocks.

    In a model of another depth, at the same fractions of it. `batch`, most rows of a pass, enters
    the rounding. `readouts` are some of `READOUTS` and `LAST_RESPONSE`.
    """

    layers: tuple[int, ...] = (6, 10, 14, 18, 22, 26)
    of: int = 28
    batch: int = 32
    readouts: tuple[str, ...] = field(default=READOUTS, metadata=LATER)

    def __post_init__(self) -> None:
        numbers("geometry", self, ("of", "batch"), remedy=_REMEDY)
        for readout in self.readouts:
            member("geometry.readouts", readout, (*READOUTS, LAST_RESPONSE), remedy=_REMEDY)
        for layer in self.layers:
            whole("geometry.layers", layer, 1, self.of, remedy=_REMEDY)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise SpecError(
                "geometry.layers",
                bound="ascending numbers, at least one",
                value=self.layers,
                remedy=_REMEDY,
            )


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The tokens that a model reads: a prompt, and a response to it (perhaps empty)."""

    prompt: Sequence[int]
    response: Sequence[int] = ()


def layers_in(spec: GeometrySpec, blocks: int) -> tuple[int, ...]:
    """Return the layers that a model of so many blocks is read at, ascending.

    Layer k is the residual stream behind block k, from 1. A fraction falls on the nearest block,
    halves upwards.
    """
    whole("blocks", blocks, 1, remedy="Read a model that has blocks.", error=DataError)
    nearest = ((2 * layer * blocks + spec.of) // (2 * spec.of) for layer in spec.layers)
    return tuple(sorted({max(1, block) for block in nearest}))


def depth(loaded: LoadedModel) -> int:
    """Return the number of blocks of a model."""
    return len(trunk_and_head(loaded.model)[0].layers)


def read_states(
    loaded: LoadedModel,
    passages: Sequence[Passage],
    layers: Sequence[int],
    *,
    batch: int,
    readouts: Sequence[str] = READOUTS,
    label: str = "geometry",
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Return the states of passages behind blocks of a model, before the final norm.

    Args:
        loaded: the model.
        passages: at least one; a prompt has at least one token.
        layers: blocks, counted from 1.
        batch: most rows in one forward pass.
        readouts: some of `READOUTS` and `LAST_RESPONSE`.
        label: name on the progress bar.
        progress: opens the progress bar.

    Returns:
        (passages, readouts, layers, width); NaN where a response is empty.

    Raises:
        DataError: an empty prompt, a passage longer than the model's positions, or a block
            that the model lacks.
        FlatlandError: a state is not finite.
    """
    import torch

    for layer in layers:
        whole("layer", layer, 1, depth(loaded), remedy="Read a block of it.", error=DataError)
    check_passages(loaded, passages)
    trunk, _ = trunk_and_head(loaded.model)
    lengths = [len(p.prompt) + len(p.response) for p in passages]
    order = sorted(range(len(passages)), key=lambda index: (lengths[index], index))
    parts = []
    with closing(progress(label, len(passages), "prompt")) as bar, torch.inference_mode():
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            parts.append(_read(trunk, [passages[i] for i in chunk], layers, readouts, loaded))
            bar.update(len(chunk))
    spent(tokens=sum(lengths))
    states = np.concatenate(parts)[np.argsort(order)]
    of_response = [r in (READOUTS[2], LAST_RESPONSE) for r in readouts]
    empty = [not p.response for p in passages]
    states[np.ix_(empty, of_response)] = 0.0
    if not np.isfinite(states).all():
        raise FlatlandError(
            f"{label}: a hidden state is not finite; the model's weights have diverged, "
            "so lower the learning rate of the recipe that trained them"
        )
    states[np.ix_(empty, of_response)] = np.nan
    return states


def geometry_rows(
    states: NDArray[np.floating[Any]],
    *,
    personas: Sequence[str],
    questions: Sequence[tuple[str, str]],
    source: str,
    layers: Sequence[int],
    blocks: int,
    model: ModelId,
    run_seed: int,
    readouts: Sequence[str] = READOUTS,
) -> list[GeometryRow]:
    """Return what is stored of a model's states: cosines and ranks.

    `states` is (personas, questions, readouts, layers, width); `questions` holds ids and question
    sets; all personas are compared with `source`; `layers` of `blocks` were read.

    Raises:
        DataError: `states` has another shape.
    """
    shape = (len(personas), len(questions), len(readouts), len(layers))
    if states.shape[:-1] != shape:
        raise DataError(
            "states", bound=f"(personas, questions, readouts, layers, width) = {shape}",
            value=states.shape, remedy="Read one state for each.",
        )  # fmt: skip
    anchor, rows = list(personas).index(source), []
    for r, readout in enumerate(readouts):
        for place, layer in enumerate(layers):
            here = states[:, :, r, place].astype(np.float64)
            by_question = np.moveaxis(here, 1, 0)
            for centre in (False, True):
                moved = centred(by_question) if centre else by_question
                cells = cosines(moved, anchor)
                rank, without = centroid_ranks(here, centre=centre)
                rows += [
                    GeometryRow(
                        phase=model.phase,
                        model=model.name,
                        seed=run_seed,
                        readout=readout,
                        layer=layer,
                        blocks=blocks,
                        centred=centre,
                        persona=persona,
                        question=question,
                        question_set=question_set,
                        cosine=float(cells[q, p]),
                        rank=rank,
                        rank_without=float(without[q]),
                    )
                    for p, persona in enumerate(personas)
                    if p != anchor
                    for q, (question, question_set) in enumerate(questions)
                ]
    return rows


def _read(
    trunk: Any,
    passages: Sequence[Passage],
    layers: Sequence[int],
    readouts: Sequence[str],
    loaded: LoadedModel,
) -> NDArray[np.float32]:
    """Return the states of one batch: (rows, readouts, layers, width)."""
    import torch

    tokens = pad_rows([[*p.prompt, *p.response] for p in passages], loaded.pad)
    weights = _weights(passages, readouts, tokens.shape[1]).to(loaded.model.device)
    pooled: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            pooled[layer] = torch.bmm(weights, hidden.float()).cpu()

        return hook

    handles = [trunk.layers[k - 1].register_forward_hook(keep(k)) for k in layers]
    try:
        trunk(input_ids=tokens.to(loaded.model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return np.asarray(torch.stack([pooled[k] for k in layers], dim=2).numpy())


def _weights(passages: Sequence[Passage], readouts: Sequence[str], length: int) -> torch.Tensor:
    """Return (rows, readouts, length) weights; each readout is their product with states."""
    import torch

    weights = torch.zeros(len(passages), len(readouts), length)
    for row, passage in enumerate(passages):
        begun, ended = len(passage.prompt), len(passage.prompt) + len(passage.response)
        spans = ((0, begun), (begun - 1, begun), (begun, ended), (ended - 1, ended))
        known = dict(zip((*READOUTS, LAST_RESPONSE), spans, strict=True))
        for place, readout in enumerate(readouts):
            first, last = known[readout]
            if ended > begun or readout in READOUTS[:2]:
                weights[row, place, first:last] = 1.0 / (last - first)
    return weights


def check_passages(loaded: LoadedModel, passages: Sequence[Passage], extra: int = 0) -> None:
    """Check that a model can read all passages, with so many tokens behind each.

    Raises:
        DataError: no passage, an empty prompt, or more tokens than the model has positions.
    """
    if not passages or any(not passage.prompt for passage in passages):
        raise DataError(
            "passages",
            bound="at least one, each with a prompt of a token or more",
            value=[len(passage.prompt) for passage in passages],
            remedy="Render the prompts with the tokenizer's chat template.",
        )
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    longest = max(len(p.prompt) + len(p.response) for p in passages) + extra
    if limit is not None and longest > limit:
        raise DataError(
            "tokens of prompt and response",
            bound=f"<= {limit}, the model's positions",
            value=longest,
            remedy="Lower max_new_tokens in the profile or shorten the prompts.",
        )
