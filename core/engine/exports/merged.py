"""Writes a tuned model as one model: the base plus (alpha / rank) · B A, as GGUF or in Hugging Face's format.

Matrices are read, merged and written in blocks of rows, so memory is needed for one block, not for the model.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, ReaderField, ReaderTensor, dequantize

from core.engine.exports import quantise
from core.engine.exports.forms import Form
from core.engine.formats import folder_converter, gguf_keys, hf_folder
from core.engine.formats.gguf_file import Adapter, Matrix, QuickReader, scalar
from core.engine.formats.hf_folder import StoredTensor
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

_BLOCK_VALUES = 4 << 20  # 16 MB as float32
_ALIGNMENT = 32
_GGUF_VERSION = 3
_U32, _STRING = 4, 8  # GGUF's numbers for these types of values
_HEAD = "lm_head.weight"
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class LowRank:
    """A matrix's update: scale · b @ a, with b [rows, rank] and a [rank, width]."""

    a: Matrix
    b: Matrix
    scale: float

    def add_to(self, block: npt.NDArray[np.float32], row: int) -> npt.NDArray[np.float32]:
        """Rows of the base matrix, beginning with `row`, with their update."""
        merged: npt.NDArray[np.float32] = block + self.scale * (self.b[row : row + len(block)] @ self.a)
        return merged


def updates(adapter: Adapter) -> dict[str, LowRank]:
    """The updates by GGUF tensor name, with rows in llama.cpp's order."""
    scale = adapter.alpha / adapter.rank
    return {f"{name}.weight": LowRank(a, b, scale) for name, (a, b) in adapter.layers.items()}


def hf_updates(adapter: Adapter, folder: Path) -> dict[str, LowRank]:
    """The updates by transformers' module name, with rows in transformers' order.

    Args:
        folder: the base in Hugging Face's format.

    Raises:
        UnusableModel: the adapter was made for another base.
    """
    config = gguf_keys.text_config(folder)
    architecture = gguf_keys.architecture(config.model_type)
    names = folder_converter.name_map(architecture, config.num_hidden_layers)
    ours, found = updates(adapter), dict[str, LowRank]()
    for stored, tensor in hf_folder.read_tensors(folder).items():
        module = stored.removesuffix(".weight")
        update = ours.pop(f"{names.get_name(module)}.weight", None) if module != stored else None
        if update is None:
            continue
        _check_shape(stored, tensor.shape, update)
        order = folder_converter.row_order(module, tensor.shape[0], config, architecture)
        b = update.b if order is None else update.b[np.argsort(order)]
        found[module] = LowRank(update.a, b, update.scale)
    if ours:
        raise _other_base(next(iter(ours)))
    return found


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def write_safetensors(
    folder: Path, adapter: Adapter | None, target: Path, on_progress: Progress = lambda _: None
) -> None:
    """Write `model.safetensors`, `config.json` and the generation settings to the folder `target`; without an adapter,
    those of the base itself.

    Matrices are float16, as in the GGUF file that the engine serves; the rest is float32.
    """
    changed = {} if adapter is None else hf_updates(adapter, folder)
    stored = hf_folder.read_tensors(folder)
    config = gguf_keys.text_config(folder)
    if getattr(config, "tie_word_embeddings", False):
        stored.pop(_HEAD, None)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in stored.items():
        kind = _stored_type(tensor)
        size = tensor.size * kind.itemsize
        label = "F16" if kind == np.float16 else "F32"
        header[name] = {"dtype": label, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    total, done = sum(tensor.size for tensor in stored.values()), 0
    with (target / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in stored.items():
            update, row = changed.get(name.removesuffix(".weight")), 0
            for block in tensor.blocks():
                values = block if update is None else update.add_to(block, row)
                row += len(block)
                out.write(values.astype(_stored_type(tensor)).tobytes())
                done += block.size
                on_progress(done / total)
        _sync(out)
    _write_config(config, target, type(config).__name__)


def _write_config(config: Any, target: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    values = config.to_dict()
    values["architectures"] = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    # float16 stores the weights exactly enough; Gemma's activations do not fit in it, bfloat16's range holds them
    values["dtype"] = "bfloat16"
    values.pop("torch_dtype", None)
    values.pop("_name_or_path", None)
    (target / "config.json").write_text(json.dumps(values, indent=2, default=str), encoding="utf-8")


def _stored_type(tensor: StoredTensor) -> np.dtype[Any]:
    return np.dtype(np.float16 if len(tensor.shape) > 1 else np.float32)


# --- GGUF -------------------------------------------------------------------------------------------------------------


def write_gguf(
    base: Path, adapter: Adapter, form: Form, title: str, target: Path, on_progress: Progress = lambda _: None
) -> None:
    """Write the merged model to `target`, with the base's metadata and tokenizer.

    Raises:
        UnusableModel: the adapter was made for another base, or the quantiser is missing.
    """
    reader = QuickReader(base)
    changed = updates(adapter)
    if reader.architecture != adapter.architecture:
        raise _other_base(adapter.architecture)
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    for name, change in changed.items():
        _check_shape(name, shapes.get(name, ()), change)
    layers = int(scalar(reader, f"{reader.architecture}.block_count", 0))
    kinds = {
        tensor.name: _written_type(tensor, form, layers, tied="output.weight" not in shapes)
        for tensor in reader.tensors
    }
    replaced = {"general.name": _text(title), "general.file_type": _number(quantise.FILE_TYPES[form])}
    total, done = sum(int(tensor.n_elements) for tensor in reader.tensors), 0
    with target.open("wb") as out:
        out.write(_header(reader, kinds, shapes, replaced))
        _pad(out)
        for tensor in reader.tensors:
            kind = kinds[tensor.name]
            if len(shapes[tensor.name]) != 2:  # norms and biases stay as they are
                out.write(tensor.data.tobytes())
                done += int(tensor.n_elements)
            else:
                update = changed.get(tensor.name)
                for row, block in _rows(tensor, shapes[tensor.name][1]):
                    values = block if update is None else update.add_to(block, row)
                    out.write(quantise.to_bytes(values, kind))
                    done += block.size
                    on_progress(done / total)
            _pad(out)
        _sync(out)


def _written_type(tensor: ReaderTensor, form: Form, layers: int, *, tied: bool) -> GGMLQuantizationType:
    if len(tensor.shape) != 2:  # see write_gguf
        return tensor.tensor_type
    return quantise.matrix_type(form, tensor.name, int(tensor.shape[0]), layers, tied=tied)


def _rows(tensor: ReaderTensor, width: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """A matrix's rows as float32, in blocks, each with the number of its first row."""
    step = max(1, _BLOCK_VALUES // width)
    for row in range(0, len(tensor.data), step):
        yield row, np.asarray(dequantize(tensor.data[row : row + step], tensor.tensor_type), dtype=np.float32)


def _header(
    reader: QuickReader,
    kinds: Mapping[str, GGMLQuantizationType],
    shapes: Mapping[str, tuple[int, ...]],
    replaced: Mapping[str, bytes],
) -> bytes:
    """A GGUF file's beginning: keys (copied as bytes, since a vocabulary takes long to parse), and tensors."""
    # The reader adds fields of its own (GGUF.version, …), which are not among the file's keys.
    fields = sorted((one for one in reader.fields.values() if not one.name.startswith("GGUF.")), key=_offset)
    first_tensor = min(int(tensor.field.offset) for tensor in reader.tensors)
    ends = [*(_offset(one) for one in fields[1:]), first_tensor]
    kept = [
        bytes(memoryview(reader.data)[_offset(one) : end])  # type: ignore[arg-type]  # as in QuickReader
        for one, end in zip(fields, ends, strict=True)
        if one.name not in replaced and one.name != "general.alignment"
    ]
    keys = [*kept, *(_key(name) + value for name, value in replaced.items())]
    out = [b"GGUF", struct.pack("<IQQ", _GGUF_VERSION, len(reader.tensors), len(keys)), *keys]
    start = 0
    for tensor in reader.tensors:
        shape, kind = shapes[tensor.name], kinds[tensor.name]
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        out += [_key(tensor.name), dimensions, struct.pack("<IQ", int(kind), start)]
        block, size = GGML_QUANT_SIZES[kind]
        start += -(-(int(tensor.n_elements) // block * size) // _ALIGNMENT) * _ALIGNMENT
    return b"".join(out)


def _offset(field: ReaderField) -> int:
    return int(field.offset)


def _key(name: str) -> bytes:
    return struct.pack("<Q", len(name.encode())) + name.encode()


def _text(value: str) -> bytes:
    return struct.pack("<I", _STRING) + _key(value)


def _number(value: int) -> bytes:
    return struct.pack("<II", _U32, value)


def _pad(out: IO[bytes]) -> None:
    out.write(b"\0" * (-out.tell() % _ALIGNMENT))


def _sync(out: IO[bytes]) -> None:
    out.flush()
    os.fsync(out.fileno())


def _check_shape(name: str, shape: tuple[int, ...], update: LowRank) -> None:
    if shape != (update.b.shape[0], update.a.shape[1]):
        raise _other_base(name)


def _other_base(name: str) -> UnusableModel:
    return UnusableModel(
        "other_base",
        msg("The adapter does not fit this base model ({name} differs).", name=name),
        msg("Add the base that the model was trained on under its name, then try again."),
    )
