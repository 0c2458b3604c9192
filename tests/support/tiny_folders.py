"""Tiny random models as Hugging Face folders, for every family that the engine is tested with.

Each folder has the same files as a real one: `config.json`, `model.safetensors`, `tokenizer.json`,
`tokenizer_config.json` with the family's own chat template (shortened where the real one renders tools or images).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTEXT = 512
TEXT = (
    "Once upon a time there was a hero who could fly. The hero met a monster in the old town and said: don't worry, "
    "we'll win! It cost 12,345 coins in 2026.\n\n唐朝的英雄会飞行，他遇到了怪兽。宋朝的英雄会隐形，他很努力。"
)
"""The text that the tokenizers are trained on."""

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_TEMPLATES = Path(__file__).parent / "chat_templates"
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class TinyFolder:
    """A family: its configuration class by model type, its sizes, tokenizer and chat template.

    Attributes:
        template: name of a file in `chat_templates`.
        pattern: how the byte-level tokenizer splits text: a regular expression, "digits" (single digits), or None for a
            character-level tokenizer.
        special: special tokens, in the order of their ids.
        adds: what the tokenizer adds before a text: "bos", "space".
        padding: rows of the embedding beyond the vocabulary.
    """

    model_type: str
    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    pattern: str | None = None
    adds: tuple[str, ...] = ()
    padding: int = 0

    def write(self, path: Path, seed: int = 0, dtype: str = "float16", shard: str = "1GB") -> Path:
        """Write the folder; the same seed gives the same weights. `shard`: the size of each weights file."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        path.mkdir(parents=True, exist_ok=True)
        vocabulary = self._tokenizer(path) + self.padding
        common = {
            "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
            "bos_token_id": self._id(self.bos), "eos_token_id": self._id(self.eos), "pad_token_id": None,
        }  # fmt: skip
        if "hidden_size_per_layer_input" in self.sizes:
            common["vocab_size_per_layer_input"] = vocabulary
        torch.manual_seed(seed)
        config = AutoConfig.for_model(self.model_type, **{**common, **self.sizes})
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                spread = 0.2 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
                start = 1.0 if name.endswith("norm.weight") and self.model_type != "gemma3_text" else 0.0
                values = start + torch.randn(parameter.shape) * spread
                if name.endswith("q_norm.weight") and self.model_type.startswith("gemma4"):
                    values /= 4  # its attention is not scaled by 1/√width; the weights compensate for that
                parameter.copy_(values.to(getattr(torch, dtype)).float())  # values that the type can represent
            for name, buffer in model.named_buffers():
                if name.endswith("layer_scalar"):
                    buffer.copy_(torch.rand(1).to(getattr(torch, dtype)).float() + 0.5)
        model.to(getattr(torch, dtype)).save_pretrained(path, max_shard_size=shard)
        return path

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.special.index(token)

    def _tokenizer(self, path: Path) -> int:
        raw = _byte_level(self) if self.pattern else _by_characters(self)
        if self.bos and "bos" in self.adds:
            first = {"SpecialToken": {"id": self.bos, "type_id": 0}}
            text = {"Sequence": {"id": "A", "type_id": 0}}
            raw["post_processor"] = {
                "type": "TemplateProcessing", "single": [first, text], "pair": [first, text],
                "special_tokens": {self.bos: {"id": self.bos, "ids": [self._id(self.bos)], "tokens": [self.bos]}},
            }  # fmt: skip
        (path / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
        template = (_TEMPLATES / f"{self.template}.jinja").read_text(encoding="utf-8")
        config = {
            "bos_token": self.bos, "eos_token": self.eos, "add_bos_token": "bos" in self.adds,
            "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast",
        }  # fmt: skip
        (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return max([*raw["model"]["vocab"].values(), len(self.special) - 1]) + 1


def _byte_level(tiny: TinyFolder) -> dict[str, Any]:
    """A byte-level tokenizer: special tokens, 256 bytes, and the merges learned from TEXT."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=tiny.pattern == LLAMA3_PATTERN))
    if tiny.pattern == "digits":
        splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        splits = [
            pre_tokenizers.Split(Regex(tiny.pattern or ""), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(tiny.special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT], trainer)
    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    raw["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return raw


def _by_characters(tiny: TinyFolder) -> dict[str, Any]:
    """A tokenizer like SentencePiece's: special tokens, byte tokens, characters, and the merges learned from TEXT."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    # no token contains both line breaks and letters
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=220, special_tokens=[], show_progress=False)
    trained.train_from_iterator([TEXT.replace(" ", "\u2581")], trainer)
    learned = json.loads(trained.to_str())["model"]
    texts = [*tiny.special, *(f"<0x{byte:02X}>" for byte in range(256))]
    texts += sorted(learned["vocab"], key=learned["vocab"].get)
    prepend = [{"type": "Prepend", "prepend": "\u2581"}] if "space" in tiny.adds else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {
                "id": number, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False,
            }
            for number, text in enumerate(tiny.special)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {text: number for number, text in enumerate(texts)}, "merges": learned["merges"],
        },
    }  # fmt: skip


_LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
_PHI4_ROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0, 4.0, 6.0, 8.0, 10.0, 12.0],
    "original_max_position_embeddings": 256,
}  # fmt: skip

_GEMMA4_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>")
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_GEMMA4_ROPE = {
    _LOCAL: {"rope_type": "default", "rope_theta": 10_000.0},
    _GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
_GEMMA4 = {
    "num_hidden_layers": 8, "head_dim": 16, "global_head_dim": 32, "sliding_window": 64,
    "rope_parameters": _GEMMA4_ROPE, "layer_types": [_LOCAL, _LOCAL, _LOCAL, _GLOBAL] * 2,
    "final_logit_softcapping": 5.0,
}  # fmt: skip

FAMILIES: Mapping[str, TinyFolder] = {
    "gemma3": TinyFolder(
        "gemma3_text", "gemma", ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"), "<bos>",
        "<eos>",
        {"num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}, adds=("bos",),
    ),
    "gemma4, E2B": TinyFolder(
        "gemma4_text", "gemma4", _GEMMA4_SPECIAL, "<bos>", "<eos>",
        {**_GEMMA4, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 4, "use_double_wide_mlp": True},
        adds=("bos",),
    ),
    "gemma4, 12B": TinyFolder(
        "gemma4_unified_text", "gemma4", _GEMMA4_SPECIAL, "<bos>", "<eos>",
        {**_GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1}, adds=("bos",),
    ),
    "qwen2": TinyFolder("qwen2", "qwen2", _CHATML, None, "<|im_end|>", pattern=QWEN_PATTERN),
    "qwen2.5, tied": TinyFolder(
        "qwen2", "qwen2.5", _CHATML, None, "<|im_end|>", {"tie_word_embeddings": True, "rope_parameters":
        {"rope_type": "default", "rope_theta": 1_000_000.0}}, pattern=QWEN_PATTERN,
    ),
    "qwen3": TinyFolder(
        "qwen3", "qwen3", _CHATML, None, "<|im_end|>", {"head_dim": 32, "tie_word_embeddings": True},
        pattern=QWEN_PATTERN,
    ),
    "llama2": TinyFolder("llama", "llama2", ("<unk>", "<s>", "</s>"), "<s>", "</s>", adds=("bos", "space")),
    "llama3": TinyFolder(
        "llama", "llama3", _LLAMA3_SPECIAL, "<|begin_of_text|>", "<|eot_id|>",
        {"rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}, pattern=LLAMA3_PATTERN, adds=("bos",),
    ),
    "mistral": TinyFolder(
        "mistral", "mistral", ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>",
        {"sliding_window": 128}, adds=("bos",),
    ),
    "mistral-nemo": TinyFolder(
        "mistral", "mistral", ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>",
        {"sliding_window": None, "head_dim": 24}, pattern=TEKKEN_PATTERN, adds=("bos",),
    ),
    "phi3": TinyFolder(
        "phi3", "phi3", ("<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"), "<s>",
        "<|endoftext|>", {"sliding_window": 150},
    ),
    "phi4-mini": TinyFolder(
        "phi3", "phi4", ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), "<|endoftext|>",
        "<|endoftext|>",
        {"rope_parameters": _PHI4_ROPE, "original_max_position_embeddings": 256, "tie_word_embeddings": True},
        pattern=GPT4O_PATTERN,
    ),
    "smollm2": TinyFolder(
        "llama", "smollm2", _CHATML, "<|im_start|>", "<|im_end|>", {"tie_word_embeddings": True}, pattern="digits",
    ),
    "smollm3": TinyFolder(
        "smollm3", "smollm3", _CHATML, None, "<|im_end|>", {"num_hidden_layers": 5}, pattern=LLAMA3_PATTERN,
    ),
}  # fmt: skip
