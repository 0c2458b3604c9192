"""Fast reading of GGUF files: `gguf.GGUFReader` builds Python objects for every vocabulary entry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFValueType

_NO_TOKEN = 0xFFFFFFFF
_MAX_ARRAY = 1024  # longest array that is parsed (one number per layer); longer ones are vocabularies


class QuickReader(GGUFReader):
    """A `GGUFReader` that skips long arrays and returns only their length.

    Reading a vocabulary of 262,144 tokens takes the original reader 12 s; skipping it takes 0.3 s. Scalars and tensors
    are unchanged.
    """

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, or ""."""
        return str(scalar(self, "general.architecture", ""))

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[npt.NDArray[Any]], list[int], list[GGUFValueType]]:
        if GGUFValueType(raw_type) != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item_type = GGUFValueType(self._get(orig_offs, np.uint32)[0])
        length = int(self._get(orig_offs + 4, np.uint64)[0])
        if item_type != GGUFValueType.STRING and length <= _MAX_ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        offs = orig_offs + 12
        if item_type == GGUFValueType.STRING:
            data = memoryview(self.data)  # type: ignore[arg-type]  # numpy arrays are buffers, but the type stubs lack that
            for _ in range(length):
                offs += 8 + int.from_bytes(data[offs : offs + 8], "little")
        else:
            offs += length * np.dtype(self.gguf_scalar_to_np[item_type]).itemsize
        size = np.array([length], dtype=np.uint64)
        return offs - orig_offs, [size], [0], [GGUFValueType.UINT64]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Metadata of a GGUF model.

    Attributes:
        architecture: llama.cpp's name of the architecture, e.g. `gemma3`.
        context_length: longest sequence, in tokens.
        vocab_size: number of tokens in the vocabulary.
        bos: id of the beginning-of-sequence token; None: the model has none.
        eos: id of the end-of-sequence token.
        size_label: e.g. `270M`, or "".
    """

    architecture: str
    context_length: int
    vocab_size: int
    bos: int | None
    eos: int
    size_label: str


def scalar(reader: GGUFReader, key: str, default: Any = None) -> Any:
    """The value of a key, or `default` if the file does not have it."""
    field = reader.fields.get(key)
    return default if field is None else field.contents()


def model_card(path: Path) -> ModelCard:
    """Read the metadata of a model file.

    Raises:
        ValueError: the file is not a GGUF model.
    """
    reader = QuickReader(path)
    architecture = reader.architecture
    if scalar(reader, "general.type", "model") != "model" or not architecture:
        raise ValueError(f"{path.name} is not a GGUF model")
    bos = scalar(reader, "tokenizer.ggml.bos_token_id", _NO_TOKEN)
    adds_bos = scalar(reader, "tokenizer.ggml.add_bos_token", architecture.startswith(("gemma", "llama")))
    return ModelCard(
        architecture=architecture,
        context_length=int(scalar(reader, f"{architecture}.context_length", 2048)),
        vocab_size=int(scalar(reader, "tokenizer.ggml.tokens", 0)),
        bos=int(bos) if adds_bos and bos != _NO_TOKEN else None,
        eos=int(scalar(reader, "tokenizer.ggml.eos_token_id", 0)),
        size_label=str(scalar(reader, "general.size_label", "")),
    )
