"""Base weights, read once in a process and shared by every stage.

A stage gets a private module tree over shared tensors. A write into one moves its version
counter, which is compared before the weights are shared again.
"""

from __future__ import annotations

import copy
import gc
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
    """What tells base weights apart: digest of the base's entry, dtype, device."""

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
    """Return a private module tree over shared weight tensors; `read` reads them if need be.

    One base is held at a time: another content or device drops what is held.
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
            # Modules and trainers lie in reference cycles that hold memory of the device.
            gc.collect()
        return _over_same_tensors(found[0])


def loads() -> int:
    """Return how often this process has read base weights to share them."""
    return _SHELF.loads


def forget() -> None:
    """Let go of the held weights; the count of `loads` stays."""
    with _SHELF.lock:
        _SHELF.held.clear()


def _over_same_tensors(model: nn.Module) -> nn.Module:
    """Return a copy of the modules whose parameters are new objects over the same storage."""
    from torch.nn import Parameter

    memo: dict[int, Any] = {
        id(weight): Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _versions(model: nn.Module) -> tuple[int, ...]:
    """Return the version counters, which every write in place moves."""
    return tuple(weight._version for weight in model.parameters())
