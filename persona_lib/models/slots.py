"""The slot: where a marker would first stand in an answer, and what a model predicts there.

The slot lies behind the answer's own text: before a marker that the answer holds, and the
white space in front of that, else at the answer's end. There the model chooses between the
marker's first token and the end of its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from persona_lib.errors import FlatlandError
from persona_lib.models.batches import pad_rows, predicting_states
from persona_lib.models.hidden_states import Passage, check_passages
from persona_lib.models.loading import LoadedModel, trunk_and_head
from persona_lib.progress import Progress, silent
from persona_lib.store.cost import spent

if TYPE_CHECKING:
    import torch

MARKER, END, LOG_Z, REST = COLUMNS = ("marker", "end", "log_z", "rest")
"""Columns of a reading, in nats: logits of the marker's first token and of the end of turn, the
logarithm of the sum of all exponentiated logits, and log P of the marker's remaining tokens."""
TOKENS_A_PASS, TOKENS_ON_GPU = 4_096, 65_536
"""Padded tokens of one forward pass, on a CPU and on a GPU."""

Floats = NDArray[np.float64]
Hidden = Callable[["torch.Tensor"], "torch.Tensor"]
"""(rows, length) tokens, padded on the right, to (rows, length, width) hidden states."""


@dataclass(frozen=True, kw_only=True)
class SlotTokens:
    """What is read at a slot: the marker's token ids, its prefix among them, and the turn's end."""

    marker: tuple[int, ...]
    end: int


def answer_before(text: str, marker: str) -> tuple[str, bool]:
    """Return an answer up to its slot, and whether it holds the marker, whatever its case."""
    at = text.lower().find(marker.lower())
    # Lower case may have another length: then the marker is sought as it stands.
    if len(text.lower()) != len(text):
        at = text.find(marker)
    return (text, False) if at < 0 else (text[:at].rstrip(), True)


def read_slots(
    loaded: LoadedModel,
    passages: Sequence[Passage],
    tokens: SlotTokens,
    *,
    label: str = "slots",
    progress: Progress = silent,
) -> Floats:
    """Return what a model predicts at the slot behind each passage.

    Args:
        loaded: the model.
        passages: at least one, whose response ends at the slot; a prompt has a token or more.
        tokens: what is read.
        label: name on the progress bar.
        progress: opens the progress bar.

    Returns:
        (passages, 4), the columns of `COLUMNS`; sums are float32.

    Raises:
        DataError: an empty prompt, or a passage longer than the model's positions.
        FlatlandError: a reading is not finite.
    """
    check_passages(loaded, passages, extra=len(tokens.marker))
    trunk, head = trunk_and_head(loaded.model)
    with closing(progress(label, len(passages), "answer")) as bar:
        found = read_at(
            decoder_pass(trunk), head, passages, tokens,
            pad=loaded.pad, device=loaded.model.device, done=bar.update,
        )  # fmt: skip
    if not np.isfinite(found).all():
        raise FlatlandError(
            f"{label}: a logit is not finite; the model's weights have diverged, so lower the "
            "learning rate of the recipe that trained them"
        )
    return found


def decoder_pass(trunk: Any) -> Hidden:
    """Return the pass of a decoder, as transformers runs it, without a cache."""

    def run(tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = trunk(input_ids=tokens, use_cache=False).last_hidden_state
        return found

    return run


def read_at(
    hidden: Hidden,
    head: Any,
    passages: Sequence[Passage],
    tokens: SlotTokens,
    *,
    pad: int,
    device: Any,
    done: Callable[[int], object] = lambda _: None,
) -> Floats:
    """Return the readings of `read_slots` by a decoder and its head.

    Args:
        hidden: the decoder.
        head: hidden states to logits.
        passages: as in `read_slots`.
        tokens: what is read.
        pad: token id behind shorter rows.
        device: of the decoder.
        done: called with the number of passages of each pass.
    """
    import torch

    rows = [[*p.prompt, *p.response, *tokens.marker] for p in passages]
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
    # A longer passage is a pass of its own.
    most = TOKENS_ON_GPU if device.type == "cuda" else TOKENS_A_PASS
    parts = []
    with torch.inference_mode():
        for chunk in _chunks([len(rows[index]) for index in order], most):
            chosen = [rows[order[at]] for at in chunk]
            batch = pad_rows(chosen, pad).to(device)
            parts.append(_read(hidden(batch), head, [len(row) for row in chosen], tokens))
            done(len(chosen))
    spent(tokens=sum(map(len, rows)))
    found: Floats = np.concatenate(parts)[np.argsort(order)]
    return found


def _read(states: torch.Tensor, head: Any, lengths: Sequence[int], tokens: SlotTokens) -> Floats:
    """Return the readings of rows that end with the marker."""
    import torch

    size = len(tokens.marker)
    where = torch.tensor(
        [(row, length - size + at) for row, length in enumerate(lengths) for at in range(size)],
        device=states.device,
    )
    logits = head(predicting_states(states, where)).float().unflatten(0, (len(lengths), size))
    log_z = torch.logsumexp(logits, dim=-1)
    wanted = torch.tensor(tokens.marker, device=states.device).expand(len(lengths), -1)
    of_marker = logits.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    rest = (of_marker - log_z)[:, 1:].sum(dim=1)
    columns = (of_marker[:, 0], logits[:, 0, tokens.end], log_z[:, 0], rest)
    return np.asarray(torch.stack(columns, dim=1).double().cpu().numpy())


def _chunks(lengths: Sequence[int], most: int) -> list[range]:
    """Return which of these ascending lengths share a pass of at most so many padded tokens."""
    found, start = [], 0
    for at, length in enumerate(lengths):
        if at > start and (at + 1 - start) * length > most:
            found.append(range(start, at))
            start = at
    return [*found, range(start, len(lengths))]
