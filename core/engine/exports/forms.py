"""The forms in which a tuned model can be exported, with their files and estimated sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Form = Literal["gguf-adapter", "peft", "safetensors", "gguf-f16", "gguf-q8_0", "gguf-q4_k_m"]
FORMS: tuple[Form, ...] = get_args(Form)
MAX_KL = 1e-3
"""Largest KL divergence (nats) of a next token in a form that is not quantised."""
QUANTISED: frozenset[Form] = frozenset({"gguf-q8_0", "gguf-q4_k_m"})
MERGED_GGUF: frozenset[Form] = frozenset({"gguf-f16", "gguf-q8_0", "gguf-q4_k_m"})
MODEL, ADAPTER = "model.gguf", "adapter.gguf"
"""Names of the GGUF files in an export."""

# Bytes per parameter, with the scales of the blocks; q4_k_m has some matrices in 6 or 8 bits.
_BYTES: dict[Form, float] = {"safetensors": 2.0, "gguf-f16": 2.0, "gguf-q8_0": 1.0625, "gguf-q4_k_m": 0.9}
_EXTRA = 1 << 20  # model card, configuration
_TOKENIZER_BYTES_PER_TOKEN = 140  # tokenizer.json of large vocabularies: 33 MB for 262,144 tokens


@dataclass(frozen=True, slots=True)
class Size:
    """The figures of a model that determine its exports' sizes: parameters, tokens of the vocabulary, adapter bytes."""

    parameters: int
    vocabulary: int
    adapter_bytes: int

    def of(self, form: Form) -> int:
        """Estimated bytes of an export."""
        if form == "gguf-adapter":
            return self.adapter_bytes + _EXTRA
        if form == "peft":
            return 2 * self.adapter_bytes + _EXTRA  # float32 instead of float16
        return int(self.parameters * _BYTES[form]) + self.vocabulary * _TOKENIZER_BYTES_PER_TOKEN + _EXTRA
