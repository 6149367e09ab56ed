"""Another attention for a model, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attending(config: Any, name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """Let a transformers model attend with a function of ours.

    Transformers makes a mask only for names that have a function for it: under a name
    that is new to it, none is made.

    Args:
        config: the model's, which names its attention.
        name: under which transformers finds the function.
        attend: takes what transformers' own attention functions take.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, attend)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
