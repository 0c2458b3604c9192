"""Tiny random models of every family that the engine trains, as GGUF, with arbitrary keys and tensors.

The vocabulary is that of `tests.support.tiny_gemma`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from tests.support.tiny_gemma import BOS, EOS, PAD, UNK, vocabulary

CONTEXT = 512


@dataclass(frozen=True)
class TinyModel:
    """The model to write.

    Attributes:
        keys: keys of the architecture, without its prefix, that override those of `sizes`; None omits a key. tied:
            whether the head is the embedding. biases: linear layers of a block that have a bias, by their GGUF names.
            extra: more tensors by name. padding: unused rows of the embedding beyond the vocabulary.
        chat_template: the model's own; "" for none. adds_bos: whether texts begin with a token of their own.
    """

    architecture: str
    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head: int = 16
    keys: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = True
    biases: tuple[str, ...] = ()
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    padding: int = 0
    chat_template: str = ""
    adds_bos: bool = True

    def sizes(self) -> dict[str, Any]:
        """The keys that converters write."""
        common = {
            "context_length": CONTEXT,
            "embedding_length": self.width,
            "block_count": self.layers,
            "feed_forward_length": 2 * self.width,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.freq_base": 1_000_000.0,
        }
        if self.architecture != "qwen2":
            common |= {"attention.key_length": self.head, "attention.value_length": self.head}
        if self.architecture == "gemma3":
            common["attention.sliding_window"] = 64
        return {name: value for name, value in {**common, **self.keys}.items() if value is not None}

    def write(self, path: Path, seed: int = 0) -> Path:
        """Write the model to `path` and return the path. The same seed gives the same bytes."""
        writer = GGUFWriter(str(path), self.architecture)
        writer.add_type("model")
        for name, value in self.sizes().items():
            _add(writer, f"{self.architecture}.{name}", value)
        self._tokenizer(writer)
        for name, tensor in self._tensors(np.random.default_rng(seed)).items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _tokenizer(self, writer: GGUFWriter) -> None:
        if self.chat_template:
            writer.add_chat_template(self.chat_template)
        texts, scores, types = (list(column) for column in zip(*vocabulary(), strict=True))
        texts += [f"<unused{number}>" for number in range(self.padding)]
        scores += [-1000.0] * self.padding
        types += [types[0]] * self.padding
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(texts)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(BOS)
        writer.add_eos_token_id(EOS)
        writer.add_unk_token_id(UNK)
        writer.add_pad_token_id(PAD)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_space_prefix(False)

    def _tensors(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        def matrix(rows: int, columns: int) -> np.ndarray:
            numbers = random.standard_normal((rows, columns)) / np.sqrt(columns)
            return numbers.astype(np.float16).astype(np.float32)  # the precision that the conversion preserves

        def norm(width: int) -> np.ndarray:
            return (1 + random.standard_normal(width) * 0.2).astype(np.float32)

        words, queries, keys = len(vocabulary()) + self.padding, self.heads * self.head, self.kv_heads * self.head
        tensors = {"token_embd.weight": matrix(words, self.width), "output_norm.weight": norm(self.width)}
        if not self.tied:
            tensors["output.weight"] = matrix(words, self.width)
        for block in range(self.layers):
            shapes = {
                "attn_q": (queries, self.width),
                "attn_k": (keys, self.width),
                "attn_v": (keys, self.width),
                "attn_output": (self.width, queries),
                "ffn_gate": (2 * self.width, self.width),
                "ffn_up": (2 * self.width, self.width),
                "ffn_down": (self.width, 2 * self.width),
            }
            norms = {"attn_norm": self.width, "ffn_norm": self.width}
            if self.architecture != "qwen2":
                norms |= {"attn_q_norm": self.head, "attn_k_norm": self.head}
            if self.architecture == "gemma3":
                norms |= {"post_attention_norm": self.width, "post_ffw_norm": self.width}
            made = {f"{name}.weight": matrix(*shape) for name, shape in shapes.items()}
            # scales a block's output; otherwise rounding over many blocks would dominate
            small = min(1.0, 8 / self.layers)
            made |= {f"{name}.weight": norm(width) * (small if "post" in name else 1) for name, width in norms.items()}
            made |= {f"{name}.bias": norm(shapes[name][0]) - 1 for name in self.biases}
            tensors |= {f"blk.{block}.{name}": value for name, value in made.items()}
        return tensors | {name: matrix(1, int(np.prod(shape))).reshape(shape) for name, shape in self.extra.items()}


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value < 0:
        writer.add_int32(key, value)
    else:
        writer.add_uint32(key, value)
