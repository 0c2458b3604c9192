"""Converts a transformers configuration to llama.cpp's GGUF keys, by general rules.

transformers' configuration classes use the same name for a figure in all families, and gguf uses one name for each
tensor, so one conversion works for every family that both support. Only the differences are listed here: families with
another name, rotary embeddings that pair other rows, norms stored as w or 1 + w, layers without positions. Settings
that llama.cpp would compute differently are refused. `core.engine.bases.check` compares both programs' probabilities on
this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import MODEL_ARCH_NAMES

from core.engine.formats import layer_keys
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

# transformers' model type → llama.cpp's architecture, where they differ by more than `_text` and underscores.
_OTHER_NAMES = {"mistral": "llama", "ministral": "llama", "gemma4_unified_text": "gemma4"}
# llama.cpp rotates neighbouring rows (0, 1), (2, 3), …; transformers rotates (0, n/2), (1, n/2 + 1), …
PAIRED_ROWS = frozenset({"llama", "smollm3", "granite", "arcee"})
# transformers multiplies by (1 + w), llama.cpp by w
NORMS_FROM_ONE = frozenset({"gemma", "gemma2", "gemma3"})
_GEMMA3_27B_LAYERS = 62
_SMOLLM3_INTERVAL = 4  # llama.cpp's constant: every fourth layer has no positions
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor"}
_UNROTATED = 1e30  # a frequency divided by this is zero
_ROPE_DEFAULTS: Mapping[str, Any] = {"beta_fast": 32, "beta_slow": 1, "attention_factor": None, "truncate": True}


@dataclass(frozen=True)
class GgufKeys:
    """The contents of a folder's GGUF file besides its tensors and tokenizer.

    Attributes:
        architecture: llama.cpp's name.
        values: keys without the architecture's prefix.
        tensors: by name, tensors that transformers computes and llama.cpp reads from the file.
        key_width: number of key heads × head width, for the layer where this is largest.
    """

    architecture: str
    values: dict[str, Any]
    tensors: dict[str, npt.NDArray[np.float32]]
    key_width: int


def text_config(folder: Path) -> Any:
    """Read transformers' configuration of the language model in `folder`, without running any code from the folder.

    Raises:
        UnusableModel: transformers does not support the model type, or its configuration is broken.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as exc:
        raise unknown_architecture(str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__) from exc
    return config.get_text_config()


def architecture(model_type: str) -> str:
    """llama.cpp's name for an architecture.

    Raises:
        UnusableModel: llama.cpp has no architecture with a similar name.
    """
    known = set(MODEL_ARCH_NAMES.values())
    short = model_type.removesuffix("_text")
    for name in (_OTHER_NAMES.get(model_type, ""), model_type, short, short.replace("_", "")):
        if name in known:
            return name
    raise unknown_architecture(msg("llama.cpp has no architecture {name}", name=repr(model_type)))


def keys(config: Any) -> GgufKeys:
    """The keys for a configuration returned by `text_config`.

    Raises:
        UnusableModel: llama.cpp does not support the architecture, or computes one of its settings differently.
    """
    name = architecture(config.model_type)
    _check_family(config, name)
    layers = layer_keys.read(config, name)
    rope, local_rope = _rope(config)
    scaling, tensors, context = _scaling(config, rope, layers.head)
    values: dict[str, Any] = {
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "rope.dimension_count": int(layers.head * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config.vocab_size,
        **layers.values,
        **scaling,
        "context_length": min(context, layers.context),
    }
    if local_rope:
        values["rope.freq_base_swa"] = float(local_rope["rope_theta"])
        values["rope.dimension_count_swa"] = layers.local_head
    if hasattr(config, "rms_norm_eps"):
        values["attention.layer_norm_rms_epsilon"] = float(config.rms_norm_eps)
    elif (epsilon := getattr(config, "layer_norm_eps", None)) is not None:
        values["attention.layer_norm_epsilon"] = float(epsilon)
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, field, None):
            values[field] = float(getattr(config, field))
    return GgufKeys(name, values, tensors, layers.key_width)


def _rope(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the rotary embedding, and of the local layers' if it is different."""
    parameters = dict(getattr(config, "rope_parameters", None) or {})
    if "full_attention" in parameters:
        return dict(parameters["full_attention"]), dict(parameters.get("sliding_attention") or {})
    if "rope_theta" not in parameters:
        raise _unsupported("rope_parameters", parameters)
    return parameters, {}


def _scaling(
    config: Any, rope: dict[str, Any], head: int
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]], int]:
    """Keys and tensors for a scaled rotary embedding, and the longest sequence."""
    kind, context = str(rope.get("rope_type", "default")), int(config.max_position_embeddings)
    original = int(
        rope.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or context
    )
    if kind == "default":
        return {}, {}, context
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}, {}, context
    if kind == "yarn":
        for key in rope.keys() - _ROPE_KEYS:
            if key not in _ROPE_DEFAULTS or rope[key] not in (None, _ROPE_DEFAULTS[key]):
                raise _unsupported(f"rope_parameters.{key}", rope[key])
        keys = {"type": "yarn", "factor": float(rope["factor"]), "original_context_length": original}
        return {f"rope.scaling.{key}": value for key, value in keys.items()}, {}, context
    if kind == "llama3":
        return {}, {"rope_freqs.weight": _slowdown(config, kind)}, context
    if kind == "proportional":  # every dimension of a head has a frequency, which is zero in the last part
        return {"rope.dimension_count": head}, {"rope_freqs.weight": _slowdown(config, kind)}, context
    if kind == "longrope":
        short = np.asarray(rope["short_factor"], np.float32)
        keys = {"type": "longrope", "original_context_length": original, "attn_factor": _attention_factor(config, kind)}
        # llama.cpp uses the long factors if its whole cache is longer than the original context; transformers uses them
        # for each text that is longer. So the context is limited to the original one, where both use the short factors.
        return (
            {f"rope.scaling.{key}": value for key, value in keys.items()},
            {"rope_factors_long.weight": short, "rope_factors_short.weight": short},
            min(context, original),
        )
    raise _unsupported("rope_parameters.rope_type", kind)


def _slowdown(config: Any, kind: str) -> npt.NDArray[np.float32]:
    """The divisor of each frequency, as transformers computes it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = config.rope_parameters
    nested = "full_attention" in parameters
    where = {"layer_type": "full_attention"} if nested else {}
    computed, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu", **where)
    frequencies = computed.double().numpy()
    base = float((parameters["full_attention"] if nested else parameters)["rope_theta"])
    plain = base ** -(np.arange(len(frequencies), dtype=np.float64) / len(frequencies))
    slowdown = np.full(len(frequencies), _UNROTATED, np.float32)
    np.divide(plain, frequencies, out=slowdown, where=frequencies != 0, casting="same_kind")
    return slowdown


def _attention_factor(config: Any, kind: str) -> float:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    return float(ROPE_INIT_FUNCTIONS[kind](config, "cpu")[1])


def _check_family(config: Any, name: str) -> None:
    """Refuse settings that llama.cpp does not implement or replaces with a constant."""
    for field in ("num_experts", "num_local_experts", "n_routed_experts", "enable_moe_block"):
        if getattr(config, field, 0):
            raise _unsupported(field, getattr(config, field))
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        raise _unsupported("use_bidirectional_attention", config.use_bidirectional_attention)
    if shared := getattr(config, "num_kv_shared_layers", 0):
        first = config.num_hidden_layers - shared
        if config.layer_types[max(0, first - 2) : first] != ["sliding_attention", "full_attention"]:
            # llama.cpp uses the keys and values of the two layers before
            raise _unsupported("num_kv_shared_layers", shared)
    if name == "gemma3":
        scale = config.head_dim
        if config.num_hidden_layers == _GEMMA3_27B_LAYERS:
            scale = config.hidden_size // config.num_attention_heads
        if config.query_pre_attn_scalar != scale:
            raise _unsupported("query_pre_attn_scalar", config.query_pre_attn_scalar)
    if name == "smollm3":
        expected = [int((layer + 1) % _SMOLLM3_INTERVAL != 0) for layer in range(config.num_hidden_layers)]
        if [int(value) for value in config.no_rope_layers] != expected:
            raise _unsupported("no_rope_layers", config.no_rope_layers)


def unknown_architecture(detail: str) -> UnusableModel:
    """The error for a model that transformers or llama.cpp does not support."""
    return UnusableModel(
        "unknown_architecture",
        msg("This kind of model is not supported: {detail}.", detail=detail),
        msg("Choose another model, or update transformers and xllamacpp: newer versions support more models."),
    )


def _unsupported(field: str, value: object) -> UnusableModel:
    return UnusableModel(
        "unsupported_setting",
        msg("{field} is {value}, which cannot be converted.", field=field, value=repr(value)[:80]),
        msg("Use a GGUF file of this model: it can be served, and its family decides whether it can be trained."),
    )
