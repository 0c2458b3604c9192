"""The transformers configuration of a GGUF: every key is carried over, or the file is refused by the key's name.

llama.cpp serves the file, transformers computes its training; a key that only one of them follows would tune another
model than the one that answers. `tests/test_engine_parity.py` compares the two, key by key. The meaning of a key, and
its default where the file lacks it, are llama.cpp's (`load_arch_hparams` of gemma3, qwen2 and qwen3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.engine.gguf_file import QuickReader
from core.message import msg

TRAINABLE = frozenset({"gemma3", "qwen2", "qwen3"})
"""Architectures whose matrices lie in GGUF as they do in transformers (llama's query and key rows are permuted)."""

_MODEL_TYPES = {"gemma3": "gemma3_text"}

# Keys of the architecture that change no logit of a text: names, sizes of training, images, embeddings' pooling.
_WITHOUT_EFFECT = ("vocab_size", "rope.scaling.finetuned", "pooling_type", "vision.", "mm.", "tensor_data_layout")
# Keys that are fine where they say "off", and that nothing here computes otherwise.
_ONLY_OFF: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),  # gemma3 has one
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_beta_fast": (32,),  # llama.cpp's server ignores the file and uses its own
    "rope.scaling.yarn_beta_slow": (1,),
    "rope.scaling.yarn_ext_factor": (-1, 1),  # -1: as the type of scaling has it; 1: yarn in full
    "rope.scaling.yarn_log_multiplier": (0,),
    "use_parallel_residual": (False,),
}
_LAYERS_OF_GEMMA3_27B = 62  # llama.cpp knows the 27B model by them, and scales its attention otherwise
_GEMMA3_PERIOD, _GEMMA3_LOCAL_BASE = 6, 10_000.0
_ROPE_BASE = 10_000.0


class UntrainableModel(ValueError):
    """The file can be served, not trained; the message names the key or the tensor that is the reason."""


def read(path: Path) -> dict[str, Any]:
    """The configuration of a model file, for `transformers.AutoConfig.for_model`.

    Raises:
        UntrainableModel: an architecture, a key or a tensor that is not computed here.
    """
    return from_reader(QuickReader(path))


def from_reader(reader: QuickReader) -> dict[str, Any]:
    """As `read`, of an open file."""
    values = {name: field.contents() for name, field in reader.fields.items()}
    architecture = str(values.get("general.architecture", ""))
    if architecture not in TRAINABLE:
        raise UntrainableModel(
            msg(
                "general.architecture is {architecture}, and only {trainable} are trained here",
                architecture=repr(architecture),
                trainable=", ".join(sorted(TRAINABLE)),
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
    keys.refuse_the_rest()
    _refuse_unknown_tensors(architecture, config["num_hidden_layers"], tensors)
    return config


class _Keys:
    """The keys of an architecture; each is taken once, and what is left is not understood."""

    def __init__(self, architecture: str, values: Mapping[str, Any]) -> None:
        self.architecture, self._values = architecture, dict(values)

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key. A list of equal values, one a layer, is that value."""
        value = self._values.pop(key, default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise self.refused(key, value, msg("it differs between layers"))
            value = value[0]
        return value

    def pattern(self, key: str, default: int) -> Any:
        """A key that may be one number or one value a layer."""
        return self._values.pop(key, default)

    def needed(self, key: str) -> int:
        value = self.take(key)
        if value is None:
            raise UntrainableModel(msg("the file has no key {key}", key=f"{self.architecture}.{key}"))
        return int(value)

    def same(self, key: str, expected: Any) -> None:
        """Take a key that is only understood with this value."""
        value = self.take(key, expected)
        if value != expected:
            raise self.refused(key, value, msg("only {expected} is computed here", expected=expected))

    def refuse_the_rest(self) -> None:
        for key, value in self._values.items():
            if key.startswith(_WITHOUT_EFFECT):
                continue
            if key not in _ONLY_OFF:
                raise self.refused(key, value, msg("this key is not known here"))
            if value not in _ONLY_OFF[key]:
                raise self.refused(key, value, msg("only {expected} is computed here", expected=_ONLY_OFF[key][0]))

    def refused(self, key: str, value: Any, reason: str) -> UntrainableModel:
        said = repr(value) if not isinstance(value, str) or len(value) < 40 else msg("a long text")
        place = f"{self.architecture}.{key}"
        return UntrainableModel(msg("{key} is {said}, and {reason}", key=place, said=said, reason=reason))


def _sizes(keys: _Keys) -> dict[str, Any]:
    width, heads = keys.needed("embedding_length"), keys.needed("attention.head_count")
    head = int(keys.take("attention.key_length", width // heads))
    if keys.architecture == "qwen2" and head * heads != width:
        raise keys.refused("attention.key_length", head, msg("llama.cpp loads only {width}", width=width // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        keys.same(key, head)
    for key in ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"):
        keys.same(key, head)
    keys.same("embedding_length_out", width)
    return {
        "max_position_embeddings": keys.needed("context_length"),
        "num_hidden_layers": keys.needed("block_count"),
        "hidden_size": width,
        "intermediate_size": keys.needed("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(keys.take("attention.head_count_kv", heads)),
        "head_dim": head,
        "rms_norm_eps": float(keys.take("attention.layer_norm_rms_epsilon", 0.0)),
    }


def _rope_scaling(keys: _Keys, context: int) -> dict[str, Any]:
    """`rope_type` and its numbers. llama.cpp scales linearly where the file has a factor and no type."""
    kind = keys.take("rope.scaling.type", "linear")
    old = keys.take("rope.scale_linear", 0.0)  # the name before 2024
    factor = float(keys.take("rope.scaling.factor", old)) or 1.0  # 0: not scaled
    original = int(keys.take("rope.scaling.original_context_length", context))
    if kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    if kind not in ("none", "linear"):
        raise keys.refused("rope.scaling.type", kind, msg("only none, linear and yarn are computed here"))
    return {"rope_type": "default"} if factor == 1.0 or kind == "none" else {"rope_type": "linear", "factor": factor}


def _gemma3(keys: _Keys, config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    """Local and global attention, each with its own rotation; and what queries are divided by."""
    if rope["rope_type"] == "yarn":
        raise keys.refused("rope.scaling.type", "yarn", msg("with layers of local attention it is not computed here"))
    layers, width, heads = (config[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    window = int(keys.take("attention.sliding_window", 0))
    local = _local_layers(keys, layers) if window else [False] * layers
    local_base = float(keys.take("rope.freq_base_swa", _GEMMA3_LOCAL_BASE))
    return {
        "sliding_window": window or config["max_position_embeddings"],  # transformers wants one, used or not
        "layer_types": ["sliding_attention" if one else "full_attention" for one in local],
        "rope_parameters": {
            "full_attention": dict(rope),
            "sliding_attention": {"rope_type": "default", "rope_theta": local_base},
        },
        "query_pre_attn_scalar": width // heads if layers == _LAYERS_OF_GEMMA3_27B else config["head_dim"],
    }


def _local_layers(keys: _Keys, layers: int) -> list[bool]:
    """Which layers attend locally: all but every sixth one, or as the file has it (a period of 0: all of them)."""
    pattern = keys.pattern("attention.sliding_window_pattern", _GEMMA3_PERIOD)
    if not isinstance(pattern, list):
        return [pattern == 0 or (layer + 1) % int(pattern) != 0 for layer in range(layers)]
    if len(pattern) != layers:
        raise keys.refused(
            "attention.sliding_window_pattern", pattern, msg("the model has {layers} layers", layers=layers)
        )
    return [bool(one) for one in pattern]


def _refuse_unknown_tensors(architecture: str, layers: int, tensors: Iterable[str]) -> None:
    from core.engine.weights import hf_names

    known = hf_names(architecture, layers)
    for name in tensors:
        if name not in known:
            raise UntrainableModel(msg("the tensor {name} is not computed here", name=name))
