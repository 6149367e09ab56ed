"""`PackedTrunk`: the forward pass of a LoRA model over a pack, for Qwen2 and Llama.

- a layer is two functions of tensors, before and after attention, so that one compilation
  serves all layers and every length;
- adapters are computed in the base weights' precision from their float32 factors, as by
  autocast;
- in the last layer everything behind attention is computed only where the loss looks.

Dropout masks have the recipe's distribution; their draws are others than peft's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from persona_lib.errors import SpecError
from persona_lib.train.gpu.attention import Choice
from persona_lib.train.gpu.packing import PackedBatch

if TYPE_CHECKING:
    import torch

KINDS = ("qwen2", "llama")
"""Model types whose layers are known to be built so."""
_BEFORE = ("q_proj", "k_proj", "v_proj")
_AFTER = ("o_proj", "gate_proj", "up_proj", "down_proj")

Linear = tuple[Any, Any, tuple[Any, ...]]
"""Weight, bias or None, and for each active adapter its (A, B)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all layers share.

    Width of a head, epsilon of the norms, and for each module its name with scale and dropout
    of each active adapter.
    """

    dim: int
    epsilon: float
    adapters: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]


def unsupported(trunk: Any) -> str:
    """Return why a decoder (without its head) cannot be packed, or an empty string."""
    config = trunk.config
    if config.model_type not in KINDS:
        return f"model type {config.model_type} is none of {', '.join(KINDS)}"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"activation {config.hidden_act} is not silu"
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "attention is windowed"
    if getattr(config, "attention_dropout", 0.0):
        return "attention has dropout"
    return ""


class PackedTrunk:
    """Hidden states of packs, from the modules of a model.

    Args:
        trunk: the decoder without its head, with peft's layers in it.
        attention: the way of attention.
        compiled: fuse elementwise work with ``torch.compile``.
        checkpointing: keep only the residual between layers and recompute the rest.

    Raises:
        SpecError: see `unsupported`; or its layers do not all carry the same adapters.
    """

    def __init__(
        self, trunk: Any, attention: Choice, *, compiled: bool, checkpointing: bool = False
    ) -> None:
        reason = unsupported(trunk)
        if reason:
            raise SpecError(
                "packed training",
                bound=f"a decoder built like {' or '.join(KINDS)}",
                value=reason,
                remedy="Train without packing.",
            )
        self.trunk = trunk
        self.attention = attention
        self.compiled = compiled
        self.checkpointing = checkpointing
        self._pieces: dict[bool, tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def __call__(self, pack: PackedBatch) -> torch.Tensor:
        """Return (1, T, width) hidden states of a pack on the device; zero where no loss looks."""
        import torch

        trunk = self.trunk
        before, after = self._functions(trunk.training)
        # From the first layer on the state asks for a gradient: one compilation serves all.
        state = trunk.embed_tokens(pack.tokens[0]).requires_grad_(torch.is_grad_enabled())
        cos, sin = trunk.rotary_emb(state[None], pack.positions[None])
        mark = _dynamic if self.compiled else _as_it_is
        turns = (mark(cos[0, :, None]), mark(sin[0, :, None]))
        layout = self.attention.layout(pack.lengths, pack.starts, pack.longest)
        last = len(trunk.layers) - 1
        for number, layer in enumerate(trunk.layers):
            where = pack.needed if number == last else None

            def run(state: torch.Tensor, layer: Any = layer, where: Any = where) -> torch.Tensor:
                query, key, value = before(mark(state), turns, *_before_tensors(layer))
                mixed = self.attention.call(query, key, value, layout).flatten(1)
                if where is not None:
                    mixed, state = mixed.index_select(0, where), state.index_select(0, where)
                found: torch.Tensor = after(mark(mixed), mark(state), *_after_tensors(layer))
                return found

            if self.checkpointing and torch.is_grad_enabled():
                from torch.utils.checkpoint import checkpoint

                state = checkpoint(run, state, use_reentrant=False)
            else:
                state = run(state)
        states = trunk.norm(state)
        hidden = states.new_zeros(pack.tokens.shape[1], states.shape[1])
        found: torch.Tensor = hidden.index_copy(0, pack.needed, states)
        return found.unsqueeze(0)

    def _functions(self, training: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
        # Read once: recipes do not change while a model is trained.
        if training not in self._pieces:
            make = _compiled_pieces if self.compiled else layer_pieces
            self._pieces[training] = make(read_settings(self.trunk), training=training)
        return self._pieces[training]


def read_settings(trunk: Any) -> Settings:
    """Return what all layers share.

    Raises:
        SpecError: layers differ in their adapters, or one is more than plain LoRA.
    """
    found = [
        tuple(
            (name, _adapter_numbers(getattr(part, name)))
            for part, names in ((layer.self_attn, (*_BEFORE, "o_proj")), (layer.mlp, _AFTER[1:]))
            for name in names
        )
        for layer in trunk.layers
    ]
    if any(other != found[0] for other in found):
        raise SpecError(
            "packed training: adapters",
            bound="the same scales and dropouts in every layer",
            value="layers differ",
            remedy="Train without packing.",
        )
    attention = trunk.layers[0].self_attn
    return Settings(
        dim=attention.head_dim,
        epsilon=trunk.layers[0].input_layernorm.variance_epsilon,
        adapters=found[0],
    )


def layer_pieces(
    settings: Settings, *, training: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a layer as two functions of tensors, before and after attention.

    ``before(state, (cos, sin), norm, q, k, v)`` takes (T, width) and turns of shape
    (T, 1, dim), and returns queries, keys and values of shape (T, heads, dim).
    ``after(mixed, state, norm, o, gate, up, down)`` takes (T, heads * dim) and
    (T, width), and returns (T, width). Projections are `Linear` tuples.
    """
    import torch
    from torch.nn import functional

    adapters = dict(settings.adapters)

    def linear(x: torch.Tensor, module: Linear, name: str) -> torch.Tensor:
        weight, bias, factors = module
        out = functional.linear(x, weight, bias)
        for number, (scale, dropout) in enumerate(adapters[name]):
            a, b = factors[number]
            read = functional.dropout(x, dropout) if training and dropout else x
            inner = functional.linear(read, a.to(x.dtype))
            out = out + functional.linear(inner, (scale * b).to(x.dtype))
        return out

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + settings.epsilon)
        return weight * wide.to(x.dtype)

    def turn(x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * turns[0] + torch.cat((-second, first), dim=-1) * turns[1]

    def before(
        state: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        weight: torch.Tensor,
        *projections: Linear,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = projections
        x = norm(state, weight)
        query = linear(x, q, "q_proj").view(x.shape[0], -1, settings.dim)
        key = linear(x, k, "k_proj").view(x.shape[0], -1, settings.dim)
        value = linear(x, v, "v_proj").view(x.shape[0], -1, settings.dim)
        return turn(query, turns), turn(key, turns), value

    def after(
        mixed: torch.Tensor, state: torch.Tensor, weight: torch.Tensor, *projections: Linear
    ) -> torch.Tensor:
        o, gate, up, down = projections
        state = state + linear(mixed, o, "o_proj")
        x = norm(state, weight)
        inner = functional.silu(linear(x, gate, "gate_proj")) * linear(x, up, "up_proj")
        return state + linear(inner, down, "down_proj")

    return before, after


@cache
def _compiled_pieces(
    settings: Settings, *, training: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile once for all trainings of one recipe in a process."""
    import torch

    before, after = layer_pieces(settings, training=training)
    return torch.compile(before), torch.compile(after)


def _before_tensors(layer: Any) -> tuple[Any, ...]:
    projections = (_tensors(getattr(layer.self_attn, name)) for name in _BEFORE)
    return (layer.input_layernorm.weight, *projections)


def _after_tensors(layer: Any) -> tuple[Any, ...]:
    projections = (_tensors(getattr(layer.mlp, name)) for name in _AFTER[1:])
    norm = layer.post_attention_layernorm.weight
    return (norm, _tensors(layer.self_attn.o_proj), *projections)


def _active(module: Any) -> list[str]:
    if not hasattr(module, "lora_A") or module.disable_adapters:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _tensors(module: Any) -> Linear:
    base = module.base_layer if hasattr(module, "base_layer") else module
    factors = tuple(
        (module.lora_A[name].weight, module.lora_B[name].weight) for name in _active(module)
    )
    return base.weight, base.bias, factors


def _adapter_numbers(module: Any) -> tuple[tuple[float, float], ...]:
    """Return (scale, dropout) of each active adapter."""
    active = _active(module)
    variants = getattr(module, "lora_variant", {})
    if any(variants.get(name) is not None for name in active) or getattr(module, "merged", False):
        raise SpecError(
            "packed training: adapters",
            bound="plain LoRA, not merged",
            value=sorted(map(str, variants)),
            remedy="Train without packing.",
        )
    return tuple(
        (float(module.scaling[name]), float(getattr(module.lora_dropout[name], "p", 0.0)))
        for name in active
    )


def _dynamic(x: torch.Tensor) -> torch.Tensor:
    """Mark the first size as changing, so that nothing is compiled for each."""
    import torch

    torch._dynamo.maybe_mark_dynamic(x, 0)
    return x


def _as_it_is(x: torch.Tensor) -> torch.Tensor:
    return x
