"""A transformers configuration as llama.cpp's GGUF keys, by rule.

transformers' configuration classes have one name for each figure in all families, and gguf one name for each tensor, so
one conversion serves every family that both know. What differs is named here: families with another name, rotary
embeddings that pair other rows, norms stored as w or 1 + w, layers without positions. A setting that llama.cpp would
compute differently is refused. `core.engine.bases.check` compares both programs' probabilities on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import MODEL_ARCH_NAMES

from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

# transformers' model type → llama.cpp's architecture, where they differ by more than `_text` and underscores
_OTHER_NAMES = {"mistral": "llama", "ministral": "llama", "gemma4_text": "gemma4"}
# llama.cpp rotates neighbouring rows (0, 1), (2, 3), …; transformers rotates (0, n/2), (1, n/2 + 1), …
PAIRED_ROWS = frozenset({"llama", "smollm3", "granite", "arcee"})
# transformers multiplies by (1 + w), llama.cpp by w
NORMS_FROM_ONE = frozenset({"gemma", "gemma2", "gemma3"})
_WINDOWED = frozenset({"gemma3"})  # llama.cpp computes local attention in these
_GEMMA3_27B_LAYERS = 62
_SMOLLM3_INTERVAL = 4  # llama.cpp's constant: every fourth layer has no positions
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor"}
_ROPE_DEFAULTS: Mapping[str, Any] = {"beta_fast": 32, "beta_slow": 1, "attention_factor": None, "truncate": True}


@dataclass(frozen=True)
class GgufKeys:
    """What the GGUF of a folder contains besides its tensors and tokenizer.

    Attributes:
        architecture: llama.cpp's name.
        values: keys without the architecture's prefix.
        tensors: tensors that transformers computes and llama.cpp reads, by name.
    """

    architecture: str
    values: dict[str, Any]
    tensors: dict[str, npt.NDArray[np.float32]]


def text_config(folder: Path) -> Any:
    """transformers' configuration of the language model in `folder`; no code of the folder is run.

    Raises:
        UnusableModel: transformers does not know the model's type, or its configuration is broken.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as exc:
        raise unknown_architecture(str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__) from exc
    return config.get_text_config()


def architecture(model_type: str) -> str:
    """llama.cpp's name of an architecture.

    Raises:
        UnusableModel: llama.cpp has none with a similar name.
    """
    known = set(MODEL_ARCH_NAMES.values())
    short = model_type.removesuffix("_text")
    for name in (_OTHER_NAMES.get(model_type, ""), model_type, short, short.replace("_", "")):
        if name in known:
            return name
    raise unknown_architecture(msg("llama.cpp has no architecture {name}", name=repr(model_type)))


def keys(config: Any) -> GgufKeys:
    """The keys for a configuration of `text_config`.

    Raises:
        UnusableModel: llama.cpp does not know the architecture, or computes one of its settings differently.
    """
    name = architecture(config.model_type)
    for field in ("num_experts", "num_local_experts", "n_routed_experts"):
        if getattr(config, field, 0):
            raise _unsupported(field, getattr(config, field))
    heads, width = config.num_attention_heads, config.hidden_size
    head = getattr(config, "head_dim", None) or width // heads
    rope, local_rope = _rope(config)
    values: dict[str, Any] = {
        "embedding_length": width,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": int(head * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    if local_rope:
        values["rope.freq_base_swa"] = float(local_rope["rope_theta"])
    if hasattr(config, "rms_norm_eps"):
        values["attention.layer_norm_rms_epsilon"] = float(config.rms_norm_eps)
    elif (epsilon := getattr(config, "layer_norm_eps", None)) is not None:
        values["attention.layer_norm_epsilon"] = float(epsilon)
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, field, None):
            values[field] = float(getattr(config, field))
    scaling, tensors, context = _scaling(config, rope)
    values |= scaling
    # the longest sequence that both programs compute alike
    values["context_length"] = min(context, _window(config, name, values))
    _check_family(config, name, head)
    return GgufKeys(name, values, tensors)


def _rope(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the rotary embedding, and of the local layers' one if it is another."""
    parameters = dict(getattr(config, "rope_parameters", None) or {})
    if "full_attention" in parameters:
        return dict(parameters["full_attention"]), dict(parameters.get("sliding_attention") or {})
    if "rope_theta" not in parameters:
        raise _unsupported("rope_parameters", parameters)
    return parameters, {}


def _scaling(config: Any, rope: dict[str, Any]) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]], int]:
    """Keys and tensors of a stretched rotary embedding, and the longest sequence."""
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
    if kind == "longrope":
        short = np.asarray(rope["short_factor"], np.float32)
        keys = {"type": "longrope", "original_context_length": original, "attn_factor": _attention_factor(config, kind)}
        # llama.cpp takes the long factors as soon as its whole cache is longer than the original context, transformers
        # for each text that is: so the context ends there, and both find the short factors
        return (
            {f"rope.scaling.{key}": value for key, value in keys.items()},
            {"rope_factors_long.weight": short, "rope_factors_short.weight": short},
            min(context, original),
        )
    raise _unsupported("rope_parameters.rope_type", kind)


def _slowdown(config: Any, kind: str) -> npt.NDArray[np.float32]:
    """By how much each frequency is divided, as transformers computes it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    base = float(config.rope_parameters["rope_theta"])
    plain = base ** -(np.arange(len(frequencies), dtype=np.float64) / len(frequencies))
    slowdown: npt.NDArray[np.float32] = (plain / frequencies.double().numpy()).astype(np.float32)
    return slowdown


def _attention_factor(config: Any, kind: str) -> float:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    return float(ROPE_INIT_FUNCTIONS[kind](config, "cpu")[1])


def _window(config: Any, name: str, values: dict[str, Any]) -> int:
    """Sets the keys of local attention; returns the longest sequence that both compute alike."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    local = [kind == "sliding_attention" for kind in kinds] if kinds else [bool(window)]
    if not window or not any(local):
        return int(config.max_position_embeddings)
    if name not in _WINDOWED:
        return int(window)
    values["attention.sliding_window"] = int(window)
    values["attention.sliding_window_pattern"] = local
    return int(config.max_position_embeddings)


def _check_family(config: Any, name: str, head: int) -> None:
    """Refuse settings for which llama.cpp has a constant."""
    if name == "gemma3":
        layers = config.num_hidden_layers
        scale = config.hidden_size // config.num_attention_heads if layers == _GEMMA3_27B_LAYERS else head
        if config.query_pre_attn_scalar != scale:
            raise _unsupported("query_pre_attn_scalar", config.query_pre_attn_scalar)
    if name == "smollm3":
        expected = [int((layer + 1) % _SMOLLM3_INTERVAL != 0) for layer in range(config.num_hidden_layers)]
        if [int(value) for value in config.no_rope_layers] != expected:
            raise _unsupported("no_rope_layers", config.no_rope_layers)


def unknown_architecture(detail: str) -> UnusableModel:
    """The error of a model that transformers or llama.cpp does not know."""
    return UnusableModel(
        "unknown_architecture",
        msg("This kind of model is not known here: {detail}.", detail=detail),
        msg("Choose another model, or update transformers and xllamacpp: new versions know more models."),
    )


def _unsupported(field: str, value: object) -> UnusableModel:
    return UnusableModel(
        "unsupported_setting",
        msg("{field} is {value}, which cannot be converted.", field=field, value=repr(value)[:80]),
        msg("Use a GGUF file of this model: it can be served, and its family decides whether it can be trained."),
    )
