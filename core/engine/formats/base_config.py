"""Converts a GGUF's metadata to a transformers configuration; rejects files with keys that cannot be converted.

llama.cpp serves the file and transformers trains it; if only one of them respected a key, the trained model would
differ from the one served. `tests/engine/test_parity.py` compares the two, key by key. The meaning of each key and its
default follow llama.cpp (`load_arch_hparams` of gemma3, qwen2 and qwen3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.engine.formats.gguf_file import QuickReader, hf_names
from core.message import listed, msg

TRAINABLE = frozenset({"gemma3", "qwen2", "qwen3"})
"""Architectures whose matrices have the same layout in GGUF and transformers (llama's query and key rows do not)."""

_MODEL_TYPES = {"gemma3": "gemma3_text"}

# Keys that do not affect text logits: names, training sizes, images, pooling of embeddings.
_IGNORED_PREFIXES = ("vocab_size", "rope.scaling.finetuned", "pooling_type", "vision.", "mm.", "tensor_data_layout")
# Keys that are accepted only with these neutral values, because no other values are implemented here.
_NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),  # handled separately for gemma3
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_beta_fast": (32,),  # llama.cpp's server ignores this key and uses its own value
    "rope.scaling.yarn_beta_slow": (1,),
    "rope.scaling.yarn_ext_factor": (-1, 1),  # -1: default of the scaling type; 1: full yarn
    "rope.scaling.yarn_log_multiplier": (0,),
    "use_parallel_residual": (False,),
}
_LAYERS_OF_GEMMA3_27B = 62  # llama.cpp recognises the 27B model by its layer count and scales its attention differently
_GEMMA3_PERIOD, _GEMMA3_LOCAL_BASE = 6, 10_000.0
_ROPE_BASE = 10_000.0


class UntrainableModel(ValueError):
    """The file can be served but not trained; the message names the key or tensor responsible."""


def read(path: Path) -> dict[str, Any]:
    """Read a model file's configuration, for `transformers.AutoConfig.for_model`.

    Raises:
        UntrainableModel: an unsupported architecture, key or tensor.
    """
    return from_reader(QuickReader(path))


def from_reader(reader: QuickReader) -> dict[str, Any]:
    """Like `read`, for an open file."""
    values = {name: field.contents() for name, field in reader.fields.items()}
    architecture = str(values.get("general.architecture", ""))
    if architecture not in TRAINABLE:
        raise UntrainableModel(
            msg(
                "general.architecture is {architecture}; only {trainable} can be trained",
                architecture=repr(architecture),
                trainable=listed(sorted(TRAINABLE)),
            )
        )
    prefix = f"{architecture}."
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    keys = _Keys(architecture, own)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" not in tensors:
        raise UntrainableModel(msg("it has no tensor token_embd.weight"))
    config = {"model_type": _MODEL_TYPES.get(architecture, architecture), **_sizes(keys)}
    config["vocab_size"] = int(tensors["token_embd.weight"].shape[1])
    config["tie_word_embeddings"] = "output.weight" not in tensors
    scaling = _rope_scaling(keys, config["max_position_embeddings"])
    rope = {"rope_theta": float(keys.take("rope.freq_base", _ROPE_BASE)), **scaling}
    config |= _gemma3(keys, config, rope) if architecture == "gemma3" else {"rope_parameters": rope}
    keys.reject_remaining()
    _reject_unknown_tensors(architecture, config["num_hidden_layers"], tensors)
    return config


class _Keys:
    """An architecture's keys. Each key is taken once; any that remain are unsupported."""

    def __init__(self, architecture: str, values: Mapping[str, Any]) -> None:
        self.architecture, self._values = architecture, dict(values)

    def take(self, key: str, default: Any = None) -> Any:
        """Take the value of a key. A list of equal per-layer values counts as that value."""
        value = self._values.pop(key, default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise self.unsupported(key, value, msg("it differs between layers"))
            value = value[0]
        return value

    def pattern(self, key: str, default: int) -> Any:
        """Take a key whose value may be one number or a list with one number per layer."""
        return self._values.pop(key, default)

    def required(self, key: str) -> int:
        """Take a key that must exist."""
        value = self.take(key)
        if value is None:
            raise UntrainableModel(msg("the file has no key {key}", key=f"{self.architecture}.{key}"))
        return int(value)

    def expect(self, key: str, expected: Any) -> None:
        """Remove a key from the config and reject it unless it has the only supported value."""
        value = self.take(key, expected)
        if value != expected:
            raise self.unsupported(key, value, msg("only {expected} is supported", expected=expected))

    def reject_remaining(self) -> None:
        """Raise for the first key that was not taken and could affect the model."""
        for key, value in self._values.items():
            if key.startswith(_IGNORED_PREFIXES):
                continue
            if key not in _NEUTRAL_VALUES:
                raise self.unsupported(key, value, msg("this key is not supported"))
            if value not in _NEUTRAL_VALUES[key]:
                raise self.unsupported(
                    key, value, msg("only {expected} is supported", expected=_NEUTRAL_VALUES[key][0])
                )

    def unsupported(self, key: str, value: Any, reason: str) -> UntrainableModel:
        actual = repr(value) if not isinstance(value, str) or len(value) < 40 else msg("a long text")
        full_key = f"{self.architecture}.{key}"
        return UntrainableModel(msg("{key} is {actual}; {reason}", key=full_key, actual=actual, reason=reason))


def _sizes(keys: _Keys) -> dict[str, Any]:
    width, heads = keys.required("embedding_length"), keys.required("attention.head_count")
    head = int(keys.take("attention.key_length", width // heads))
    if keys.architecture == "qwen2" and head * heads != width:
        raise keys.unsupported("attention.key_length", head, msg("llama.cpp loads only {width}", width=width // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        keys.expect(key, head)
    for key in ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"):
        keys.expect(key, head)
    keys.expect("embedding_length_out", width)
    return {
        "max_position_embeddings": keys.required("context_length"),
        "num_hidden_layers": keys.required("block_count"),
        "hidden_size": width,
        "intermediate_size": keys.required("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(keys.take("attention.head_count_kv", heads)),
        "head_dim": head,
        "rms_norm_eps": float(keys.take("attention.layer_norm_rms_epsilon", 0.0)),
    }


def _rope_scaling(keys: _Keys, context: int) -> dict[str, Any]:
    """Return `rope_type` and its parameters. As in llama.cpp, a factor without a type means linear scaling."""
    kind = keys.take("rope.scaling.type", "linear")
    old = keys.take("rope.scale_linear", 0.0)  # the key's name before 2024
    factor = float(keys.take("rope.scaling.factor", old)) or 1.0  # 0: no scaling
    original = int(keys.take("rope.scaling.original_context_length", context))
    if kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    if kind not in ("none", "linear"):
        raise keys.unsupported("rope.scaling.type", kind, msg("only none, linear and yarn are supported"))
    return {"rope_type": "default"} if factor == 1.0 or kind == "none" else {"rope_type": "linear", "factor": factor}


def _gemma3(keys: _Keys, config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    """Local and global attention layers with their RoPE parameters, and the scaling of queries."""
    if rope["rope_type"] == "yarn":
        raise keys.unsupported("rope.scaling.type", "yarn", msg("that is not supported with local attention layers"))
    layers, width, heads = (config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    window = int(keys.take("attention.sliding_window", 0))
    local = _local_layers(keys, layers) if window else [False] * layers
    local_base = float(keys.take("rope.freq_base_swa", _GEMMA3_LOCAL_BASE))
    return {
        "sliding_window": window or config["max_position_embeddings"],  # transformers requires a value even if unused
        "layer_types": ["sliding_attention" if is_local else "full_attention" for is_local in local],
        "rope_parameters": {
            "full_attention": dict(rope),
            "sliding_attention": {"rope_type": "default", "rope_theta": local_base},
        },
        "query_pre_attn_scalar": width // heads if layers == _LAYERS_OF_GEMMA3_27B else config["head_dim"],
    }


def _local_layers(keys: _Keys, layers: int) -> list[bool]:
    """Whether each layer uses local attention: all layers except every sixth, or as the file specifies (a period of 0
    means all).
    """
    pattern = keys.pattern("attention.sliding_window_pattern", _GEMMA3_PERIOD)
    if not isinstance(pattern, list):
        return [pattern == 0 or (layer + 1) % int(pattern) != 0 for layer in range(layers)]
    if len(pattern) != layers:
        raise keys.unsupported(
            "attention.sliding_window_pattern", pattern, msg("the model has {layers} layers", layers=layers)
        )
    return [bool(value) for value in pattern]


def _reject_unknown_tensors(architecture: str, layers: int, tensors: Iterable[str]) -> None:
    known = hf_names(architecture, layers)
    for name in tensors:
        if name not in known:
            raise UntrainableModel(msg("the tensor {name} is not supported", name=name))
