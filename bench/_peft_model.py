"""The packaged base with peft's LoRA layers, for rivals of our trainer. Needs requirements-bench.txt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def load(folder: Path, seed: int, rank: int, alpha: float) -> tuple[Any, Any]:
    """Load converted weights in float32.

    Returns:
        The model, with the same adapter as our trainer at its start (A generated layer by layer, B zero), and a
        tokenizer that only knows padding and the end, because the examples are token ids.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from core.engine.formats.gguf_file import LINEAR_MODULES

    torch.set_num_threads(os.cpu_count() or 1)
    config = AutoConfig.for_model(**json.loads((folder / "config.json").read_text()))
    base = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    base.load_state_dict({k: v.float() for k, v in load_file(folder / "weights.safetensors").items()}, strict=False)
    base.tie_weights()
    targets = [name.rsplit(".")[-1] for name in LINEAR_MODULES]
    tuned = get_peft_model(base, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in base.model.layers:
            for module in LINEAR_MODULES:
                a = layer.get_submodule(module).lora_A["default"].weight
                bound = a.shape[1] ** -0.5
                a.uniform_(-bound, bound, generator=generator)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")))
    words.pad_token, words.eos_token = "<pad>", "<eos>"
    return tuned, words
