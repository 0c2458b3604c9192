"""Converts the figures that differ between a model's layers to llama.cpp's GGUF keys.

Layers may attend to a window or to everything, have heads of two widths, use the keys and values of an earlier layer,
and have their own embedding (Gemma 4). transformers has one configuration per layer; llama.cpp has keys that hold one
value for all layers, one value for layers with a window (`…_swa`), or a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Architectures for which llama.cpp implements windows; for others, the context is limited to the window.
_WINDOWED = frozenset({"gemma3", "gemma4"})
_LOCAL = "sliding_attention"


@dataclass(frozen=True)
class LayerKeys:
    """The layers' keys.

    Attributes:
        head: head width in layers without a window.
        local_head: head width in layers with a window.
        key_width: number of key heads × head width, for the layer where this is largest.
        context: the longest sequence for which transformers and llama.cpp compute the same.
        values: keys without the architecture's prefix.
    """

    head: int
    local_head: int
    key_width: int
    context: int
    values: dict[str, Any]


def read(config: Any, architecture: str) -> LayerKeys:
    """Read the keys from a configuration returned by `gguf_keys.text_config`."""
    kinds = getattr(config, "layer_types", None)
    count = config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    local = [kind == _LOCAL for kind in kinds] if kinds else [bool(window)] * count
    layers = [config.per_layer_config[index] for index in range(count)]
    widths = [getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads for layer in layers]
    key_heads = [getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads for layer in layers]
    head, local_head = _width(widths, local, False), _width(widths, local, True)
    values: dict[str, Any] = {
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": _one_or_list(key_heads),
        "attention.key_length": head,
        "attention.value_length": head,
        "feed_forward_length": _one_or_list(_feed_forward(config, count)),
    }
    context = int(config.max_position_embeddings)
    if architecture in _WINDOWED:
        values |= {"attention.key_length_swa": local_head, "attention.value_length_swa": local_head}
    if window and any(local):
        if architecture in _WINDOWED:
            values |= {"attention.sliding_window": int(window), "attention.sliding_window_pattern": local}
        else:
            context = min(context, int(window))
    if architecture == "gemma4":  # keys that this architecture requires, even if they are 0
        values["attention.shared_kv_layers"] = getattr(config, "num_kv_shared_layers", 0)
        values["embedding_length_per_layer_input"] = getattr(config, "hidden_size_per_layer_input", 0) or 0
    key_width = max(heads * width for heads, width in zip(key_heads, widths, strict=True))
    return LayerKeys(head, local_head, key_width, context, values)


def _feed_forward(config: Any, count: int) -> list[int]:
    """Inner width of each layer's feed-forward network; layers that share keys and values may have twice the width."""
    width, shared = int(config.intermediate_size), getattr(config, "num_kv_shared_layers", 0)
    wide = 2 if getattr(config, "use_double_wide_mlp", False) else 1
    return [width * (wide if layer >= count - shared else 1) for layer in range(count)]


def _width(widths: list[int], local: list[bool], is_local: bool) -> int:
    """Head width of one kind of layer; if there are no such layers, that of the others."""
    return next((width for width, one in zip(widths, local, strict=True) if one == is_local), widths[0])


def _one_or_list(values: list[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else values
