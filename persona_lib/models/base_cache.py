"""Base weights, read once in a process and lent to every stage.

What is lent is a copy of the modules over the *same* tensors. A stage may hang
adapters on its copy, put merged matrices in place of the lent ones, register
hooks, or leave it half changed after an error: all of that goes with the copy,
and there is nothing to take off or to put back. Only a write into a lent tensor
would reach the next stage. Such a write moves the tensor's version counter, which
is looked at before the weights are lent again.

Trainers are served in the same way. They change a model's config, add hooks and
switch modes, but the base is frozen under them and no optimizer holds it.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from persona_lib.store.cost import spent

if TYPE_CHECKING:
    from torch import nn

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BaseKey:
    """What tells one set of base weights from another.

    Attributes:
        content: digest of the store's entry of the base model.
        dtype: of the weights.
        device: where they lie.
    """

    content: str
    dtype: str
    device: str


@dataclass
class _Shelf:
    """The base models that this process holds: one content, in the dtypes asked for."""

    held: dict[BaseKey, tuple[nn.Module, tuple[int, ...]]] = field(default_factory=dict)
    loads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_SHELF = _Shelf()


def borrow(key: BaseKey, read: Callable[[], nn.Module]) -> nn.Module:
    """Return a model of one's own over weights that all borrowers share.

    One base is held at a time: asking for another content, or for another device,
    drops what is held. Tensors that somebody still uses live on until they are let go.

    Args:
        key: which weights.
        read: reads them, where this process does not hold them.
    """
    with _SHELF.lock:
        found = _SHELF.held.get(key)
        if found is not None and _versions(found[0]) != found[1]:
            _LOG.warning("the shared base weights were written to; they are read again")
            del _SHELF.held[key]
            found = None
        if found is None:
            for other in list(_SHELF.held):
                if (other.content, other.device) != (key.content, key.device):
                    del _SHELF.held[other]
            model = read()
            _SHELF.loads += 1
            spent(engine_starts=1)
            found = _SHELF.held[key] = (model, _versions(model))
        elif key.device != "cpu":
            # Modules and trainers lie in reference cycles, and what the last stage put on
            # the device goes only when they are collected.
            gc.collect()
        return _over_same_tensors(found[0])


def loads() -> int:
    """Return how often this process has read base weights to share them."""
    return _SHELF.loads


def forget() -> None:
    """Let go of the held weights; the count of `loads` stays."""
    with _SHELF.lock:
        _SHELF.held.clear()


def fingerprints() -> dict[BaseKey, str]:
    """Return a SHA-256 over the names and bytes of all weights, for each base that is held."""
    with _SHELF.lock:
        return {key: _fingerprint(model) for key, (model, _) in _SHELF.held.items()}


def _over_same_tensors(model: nn.Module) -> nn.Module:
    """Return a copy of the modules whose parameters are new objects over the same storage."""
    from torch.nn import Parameter

    memo: dict[int, Any] = {
        id(weight): Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _versions(model: nn.Module) -> tuple[int, ...]:
    """Return the version counters, which every write in place moves, whoever makes it."""
    return tuple(weight._version for weight in model.parameters())


def _fingerprint(model: nn.Module) -> str:
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
