"""Run a transformers model with another attention function for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attending(config: Any, name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """Let the model of this config attend with `attend`, registered under `name`.

    Under a name that is new to it, transformers makes no mask.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, attend)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
