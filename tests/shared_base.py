"""What the shared base weights of this process are, byte for byte."""

from __future__ import annotations

import hashlib

import torch

from persona_lib.models.base_cache import _SHELF, BaseKey


def fingerprints() -> dict[BaseKey, str]:
    """Return a SHA-256 over the names and bytes of all weights, for each base that is held."""
    with _SHELF.lock:
        return {key: _fingerprint(model) for key, (model, _) in _SHELF.held.items()}


def _fingerprint(model: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
