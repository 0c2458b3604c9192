"""A tiny random Gemma 3 as GGUF, with the same keys and tensor names as the real one, so that real jobs run in seconds.

The vocabulary is SentencePiece (scores, byte fallback): Gemma's special tokens, the 256 byte tokens, printable
ASCII, line breaks, a few merges and a few dozen Chinese characters. Every other character falls back to bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

NAME = "tiny-gemma"
CONTEXT = 512  # tokens; small, so that a line that exceeds it is easy to write
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
PAD, EOS, BOS, UNK = 0, 1, 2, 3

_HIDDEN, _FFN, _HEADS, _KV_HEADS = 64, 128, 2, 1
_HEAD = 256  # as in the real model
_ROPE_BASE, _SLIDING_WINDOW, _EPS = 1_000_000.0, 64, 1e-6
# all other characters fall back to bytes
_CHARACTERS = "，。！？、：“”一的是了人不在他有这个来到时空朝飞行光怪兽英雄奥特曼唐宋元明清"
_MERGES = (
    "us",
    "er",
    "th",
    "he",
    "in",
    "on",
    "▁t",
    "▁a",
    "user",
    "mo",
    "del",
    "model",
    "奥特",
    "奥特曼",
    "怪兽",
    "英雄",
)


def vocabulary() -> list[tuple[str, float, TokenType]]:
    """Return (text, score, type) of every token, in the order of their ids."""
    rows = [(text, -1000.0, TokenType.CONTROL) for text in SPECIAL]
    rows += [(text, -1000.0, TokenType.NORMAL) for text in ("\n", "\n\n")]
    rows += [(f"<0x{byte:02X}>", -1000.0, TokenType.BYTE) for byte in range(256)]
    # As in the real vocabulary: the score is minus the rank of the merge, and single characters come last.
    seen = [*_MERGES, "▁", *(chr(code) for code in range(0x21, 0x7F)), *_CHARACTERS, "de", "el", "se", "er"]
    texts = list(dict.fromkeys(seen))
    return rows + [(text, float(-rank), TokenType.NORMAL) for rank, text in enumerate(texts)]


def write_tiny_gemma(path: str | Path, *, layers: int = 2, context: int = CONTEXT, seed: int = 0) -> Path:
    """Write the model to `path` (about 1 MB) and return the path. The same seed gives the same bytes.

    Args:
        path: file to write; its folder must exist.
        layers: number of transformer blocks; every sixth one attends globally, as in Gemma 3.
        context: `gemma3.context_length`, tokens.
        seed: seed of the random weights.
    """
    path = Path(path)
    writer = GGUFWriter(str(path), "gemma3")
    _metadata(writer, layers, context)
    random = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    tensors: dict[str, np.ndarray] = {
        "output_norm.weight": np.ones(_HIDDEN, np.float32),
        "token_embd.weight": weight(len(vocabulary()), _HIDDEN),
    }
    for block in range(layers):
        tensors |= {f"blk.{block}.{name}.weight": value for name, value in _block(weight).items()}
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(writer: GGUFWriter, layers: int, context: int) -> None:
    """The keys of the real gemma-3-270m, with small numbers."""
    writer.add_type("model")
    writer.add_name("Tiny Gemma 3 for tests")
    writer.add_size_label("100K")
    writer.add_context_length(context)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_FFN)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_rms_eps(_EPS)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_rope_freq_base(_ROPE_BASE)
    writer.add_sliding_window(_SLIDING_WINDOW)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    texts, scores, types = zip(*vocabulary(), strict=True)
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNK)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(True)
    writer.add_add_sep_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _block(weight: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of one block; norms are stored as 1 + weight, as llama.cpp's converter does for Gemma."""
    ones = np.ones(_HIDDEN, np.float32)
    return {
        "attn_k": weight(_KV_HEADS * _HEAD, _HIDDEN),
        "attn_k_norm": np.ones(_HEAD, np.float32),
        "attn_norm": ones,
        "attn_output": weight(_HIDDEN, _HEADS * _HEAD),
        "attn_q": weight(_HEADS * _HEAD, _HIDDEN),
        "attn_q_norm": np.ones(_HEAD, np.float32),
        "attn_v": weight(_KV_HEADS * _HEAD, _HIDDEN),
        "ffn_down": weight(_HIDDEN, _FFN),
        "ffn_gate": weight(_FFN, _HIDDEN),
        "ffn_norm": ones,
        "ffn_up": weight(_FFN, _HIDDEN),
        "post_attention_norm": ones,
        "post_ffw_norm": ones,
    }
