"""Writes an adapter in the format of Hugging Face's PEFT: `adapter_model.safetensors` and `adapter_config.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from core.engine.exports.merged import hf_updates
from core.engine.formats.gguf_file import Adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""What PEFT puts before a module's name."""


def write(folder: Path, adapter: Adapter, origin: str, target: Path) -> None:
    """Write the adapter to the folder `target`.

    Args:
        folder: the base in Hugging Face's format.
        origin: the base's name on a hub, or its path.

    Raises:
        UnusableModel: the adapter was made for another base.
    """
    from safetensors.numpy import save_file

    layers = hf_updates(adapter, folder)
    tensors = {}
    for module, update in layers.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(update.a, dtype=np.float32)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(update.b, dtype=np.float32)
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    with (target / WEIGHTS).open("rb") as file:
        os.fsync(file.fileno())
    alpha = adapter.alpha
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin,
        "r": adapter.rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in layers}),
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_rslora": False,
    }
    (target / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
