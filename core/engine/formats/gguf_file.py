"""GGUF files: fast reading of metadata, the names of tensors, and LoRA adapters.

`gguf.GGUFReader` builds Python objects for every vocabulary entry; `QuickReader` skips them.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    ReaderField,
    TokenType,
    get_tensor_name_map,
)

from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

_NO_TOKEN = 0xFFFFFFFF
NORMAL, CONTROL, USER_DEFINED = int(TokenType.NORMAL), int(TokenType.CONTROL), int(TokenType.USER_DEFINED)
BYTE = int(TokenType.BYTE)
_MARKUP = re.compile(r"<[^\s<>]{1,60}>|\[[^\s\[\]]{1,60}\]")
# Gemma has tokens of its own for these; they are text, and in a message they stay
_HTML = re.compile(
    r"</?(a|b|blockquote|body|caption|code|div|em|footer|h[1-6]|html|i|iframe|img|li|s|span|strong|sub|sup|table|tbody|"
    r"td|tfoot|th|thead|tr|u|ul)>"
)
# there are thousands of these in some vocabularies, and conversations never use them
_UNUSED = re.compile(r"unused|reserved", re.IGNORECASE)
_MAX_ARRAY = 1024  # longest array that is parsed (one number per layer); longer ones are vocabularies

_NOT_QUANTISED = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16})

Matrix = npt.NDArray[np.float32]

LINEAR_MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_BIASED_MODULES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LAYER_MODULES = (
    *LINEAR_MODULES,
    "self_attn.q_norm",
    "self_attn.k_norm",
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error)
"""What reading a damaged file raises."""


class QuickReader(GGUFReader):
    """A `GGUFReader` that skips long arrays and returns only their length.

    The original reader takes 12 s for a vocabulary of 262,144 tokens; skipping it takes 0.3 s. Scalars and tensors are
    unchanged.
    """

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the architecture, or ""."""
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
                if offs > len(data):  # otherwise a corrupt length could cause an almost endless loop
                    raise ValueError("the file ends before its texts do")
        else:
            offs += length * np.dtype(self.gguf_scalar_to_np[item_type]).itemsize
        size = np.array([length], dtype=np.uint64)
        return offs - orig_offs, [size], [0], [GGUFValueType.UINT64]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Metadata of a GGUF model.

    Attributes:
        architecture: llama.cpp's name for the architecture, e.g. `gemma3`.
        context_length: longest sequence, in tokens.
        vocab_size: number of tokens in the vocabulary.
        bos: id of the beginning-of-sequence token; None if the model has none.
        eos: id of the end-of-sequence token.
        size_label: e.g. `270M`, or "".
        chat_template: the model's own (Jinja); "" if it has none.
        bos_text, eos_text: texts of these tokens; "" unless the model has a chat template.
        control: texts of the tokens that structure a conversation; empty unless the model has a chat template.
        adds_space: whether the tokenizer adds a space before every text.
        width: hidden size; 0 if unknown.
        parameters: total number of weights.
        pooling: llama.cpp's number for the way in which an embedding model combines its tokens; 0 for other models.
    """

    architecture: str
    context_length: int
    vocab_size: int
    bos: int | None
    eos: int
    size_label: str
    chat_template: str = ""
    bos_text: str = ""
    eos_text: str = ""
    control: tuple[str, ...] = ()
    adds_space: bool = False
    width: int = 0
    parameters: int = 0
    pooling: int = 0


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
    eos = int(scalar(reader, "tokenizer.ggml.eos_token_id", 0))
    template = str(scalar(reader, "tokenizer.chat_template", ""))
    special = _special_tokens(reader) if template else {}
    adds_bos = scalar(reader, "tokenizer.ggml.add_bos_token", architecture.startswith(("gemma", "llama")))
    return ModelCard(
        architecture=architecture,
        context_length=int(scalar(reader, f"{architecture}.context_length", 2048)),
        vocab_size=int(scalar(reader, "tokenizer.ggml.tokens", 0)),
        bos=int(bos) if adds_bos and bos != _NO_TOKEN else None,
        eos=eos,
        size_label=str(scalar(reader, "general.size_label", "")),
        chat_template=template,
        bos_text=special.get(int(bos), ""),
        eos_text=special.get(eos, ""),
        control=tuple(text for text in special.values() if not _UNUSED.search(text)),
        adds_space=_adds_space(reader),
        width=int(scalar(reader, f"{architecture}.embedding_length", 0)),
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        pooling=int(scalar(reader, f"{architecture}.pooling_type", 0)),
    )


def is_quantised(path: Path) -> bool:
    """Whether a model file has matrices with fewer than 16 bits per weight."""
    return any(tensor.tensor_type not in _NOT_QUANTISED for tensor in QuickReader(path).tensors)


def _special_tokens(reader: GGUFReader) -> dict[int, str]:
    """Map ids to texts for control tokens, and for user-defined tokens that look like markup (`<…>`, `[…]`) but are not
    HTML.
    """
    types = token_types(reader)
    if types is None:
        return {}
    wanted = {int(index): int(types[index]) for index in np.flatnonzero((types == CONTROL) | (types == USER_DEFINED))}
    found: dict[int, str] = {}
    for index, raw in zip(range(max(wanted, default=-1) + 1), token_texts(reader), strict=False):
        if index in wanted:
            text = bytes(raw).decode("utf-8", "replace")
            if wanted[index] == CONTROL or (_MARKUP.fullmatch(text) and not _HTML.fullmatch(text)):
                found[index] = text
    return found


def token_texts(reader: GGUFReader) -> Iterator[memoryview]:
    """The text of each token of the vocabulary, by id, in UTF-8."""
    field = reader.fields.get("tokenizer.ggml.tokens")
    if field is None:
        return
    data, offs = memoryview(reader.data), _array_start(field)  # type: ignore[arg-type]  # as in QuickReader
    for _ in range(int.from_bytes(data[offs - 8 : offs], "little")):
        start = offs + 8
        offs = start + int.from_bytes(data[offs:start], "little")
        yield data[start:offs]


def token_types(reader: GGUFReader) -> npt.NDArray[np.int32] | None:
    """llama.cpp's kind of each token of the vocabulary (`CONTROL`, …); None if the file has none."""
    return _array(reader, "tokenizer.ggml.token_type")


def _array(reader: GGUFReader, key: str) -> npt.NDArray[np.int32] | None:
    """Read an array of 32-bit integers, which `QuickReader` skips if it is long."""
    field = reader.fields.get(key)
    if field is None:
        return None
    start = _array_start(field)
    length = int.from_bytes(memoryview(reader.data)[start - 8 : start], "little")  # type: ignore[arg-type]
    values: npt.NDArray[np.int32] = np.frombuffer(reader.data, dtype=np.int32, count=length, offset=start)
    return values


def _array_start(field: ReaderField) -> int:
    """Offset of an array's first item: after key, type, item type and length."""
    return int(field.offset) + 8 + len(field.name.encode()) + 4 + 4 + 8


def _adds_space(reader: GGUFReader) -> bool:
    """Whether the tokenizer adds a space. As in llama.cpp, character-level tokenizers do so unless the file says
    otherwise.
    """
    by_characters = scalar(reader, "tokenizer.ggml.model") == "llama"
    return bool(scalar(reader, "tokenizer.ggml.add_space_prefix", by_characters)) and by_characters


def hf_names(architecture: str, n_layers: int) -> dict[str, str]:
    """Map GGUF tensor names to transformers parameter names, using gguf's name map; biases only where llama.cpp has
    them.
    """
    arch = next(key for key, value in MODEL_ARCH_NAMES.items() if value == architecture)
    name_map = get_tensor_name_map(arch, n_layers)
    modules = ["model.embed_tokens", "model.norm", "lm_head"]
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}"
        modules += [f"{prefix}.{name}" for name in _LAYER_MODULES]
    found = ((name_map.get_name(module), module) for module in modules)
    pairs = [(gguf_name, module) for gguf_name, module in found if gguf_name]
    kinds = {True: ("weight", "bias"), False: ("weight",)}
    return {
        f"{gguf_name}.{kind}": f"{module}.{kind}"
        for gguf_name, module in pairs
        for kind in kinds[module.endswith(_BIASED_MODULES)]
    }


@dataclass(frozen=True)
class Adapter:
    """A low-rank update W + (alpha / rank) · B A of some linear layers.

    Attributes:
        architecture: llama.cpp's name of the base model's architecture (`gemma3`).
        alpha: LoRA's alpha; the scale is alpha / rank.
        layers: GGUF tensor name without `.weight` (`blk.0.attn_q`) → (A [rank, in], B [out, rank]), with the rows of B
            in llama.cpp's order.
    """

    architecture: str
    alpha: float
    layers: Mapping[str, tuple[Matrix, Matrix]]

    @property
    def rank(self) -> int:
        return int(next(iter(self.layers.values()))[0].shape[0])


def write_adapter(path: Path, adapter: Adapter, title: str = "") -> None:
    """Write `adapter` atomically, with matrices as float16."""
    partial = path.with_name(path.name + ".part")
    writer = GGUFWriter(partial, adapter.architecture)
    writer.add_type("adapter")
    if title:
        writer.add_name(title)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.alpha)
    for name, (a, b) in adapter.layers.items():
        writer.add_tensor(f"{name}.weight.lora_a", np.ascontiguousarray(a, dtype=np.float16))
        writer.add_tensor(f"{name}.weight.lora_b", np.ascontiguousarray(b, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _sync(partial)
    os.replace(partial, path)


def read_adapter(path: Path) -> Adapter:
    """Read an adapter that `write_adapter` (or llama.cpp's converter) wrote.

    Raises:
        UnusableModel: the file is not a LoRA adapter, is damaged, or has no layers.
    """
    try:
        return _adapter_in(path)
    except MALFORMED as exc:
        raise UnusableModel(
            "damaged_adapter",
            msg("The model's adapter is damaged, or not a LoRA adapter ({name}).", name=path.name),
            msg("Use another model, or restore the engine's home folder from a backup."),
        ) from exc


def _adapter_in(path: Path) -> Adapter:
    reader = QuickReader(path)
    if scalar(reader, "adapter.type") != "lora":
        raise ValueError("another type of file")
    architecture = str(scalar(reader, "general.architecture"))
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    suffix = ".weight.lora_a"
    layers = {
        name.removesuffix(suffix): (matrix, tensors[name.removesuffix("a") + "b"])
        for name, matrix in tensors.items()
        if name.endswith(suffix)
    }
    if not layers or any(not a.shape[0] == b.shape[1] > 0 for a, b in layers.values()):
        raise ValueError("no layers, or matrices that do not belong together")
    return Adapter(architecture, float(scalar(reader, "adapter.lora.alpha")), layers)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
