"""Converts a Hugging Face folder to the GGUF file that llama.cpp serves.

Tensors are read, converted and written in blocks of rows, so the conversion needs less than 150 MB of memory for a
model of any size. Matrices become float16, which is lossless for bfloat16 weights between 6e-8 and 65,504.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import MODEL_ARCH_NAMES, GGUFWriter, TensorNameMap, get_tensor_name_map

from core.engine.formats import gguf_keys, hf_tokenizer
from core.engine.formats.gguf_keys import GgufKeys
from core.engine.formats.hf_folder import HfFolder, StoredTensor
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_COMPUTED = ("rotary_emb.inv_freq", "masked_bias", "attn.bias")


def convert(folder: HfFolder, target: Path, on_progress: Callable[[float], None] = lambda _: None) -> GgufKeys:
    """Write `folder` to the GGUF file `target`, atomically; `on_progress` is called with the fraction written.

    Raises:
        UnusableModel: llama.cpp does not support the architecture, a tensor, the tokenizer or a setting.
        OSError: the disk is full.
    """
    config = gguf_keys.text_config(folder.path)
    keys = gguf_keys.keys(config)
    names = _gguf_names(folder, keys, tied=bool(getattr(config, "tie_word_embeddings", False)))
    rows = folder.tensors[_EMBEDDING].shape[0]
    partial = target.with_name(target.name + ".part")
    writer = GGUFWriter(partial, keys.architecture)
    try:
        writer.add_type("model")
        writer.add_name(folder.path.name)
        writer.add_file_type(1)  # mostly float16
        for key, value in keys.values.items():
            _add(writer, f"{keys.architecture}.{key}", value)
        hf_tokenizer.write(writer, folder.path, rows, keys.architecture)
        for name, tensor in keys.tensors.items():
            writer.add_tensor_info(name, tensor.shape, tensor.dtype, tensor.nbytes)
        for stored, name in names.items():
            source = folder.tensors[stored]
            kind = _kind(source)
            writer.add_tensor_info(name, source.shape, kind, source.size * kind.itemsize)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_tensors(writer, folder, keys, names, config, on_progress)
    finally:
        writer.close()
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)
    return keys


def name_map(architecture: str, layers: int) -> TensorNameMap:
    """gguf's names for an architecture's tensors."""
    key = next(key for key, value in MODEL_ARCH_NAMES.items() if value == architecture)
    return get_tensor_name_map(key, layers)


def paired_rows(rows: int, heads: int) -> npt.NDArray[np.int64]:
    """The order in which llama.cpp stores the rows of a query or key matrix of `PAIRED_ROWS` families.

    Row i of the result is row `order[i]` of transformers: the two halves of each head are interleaved.
    """
    order: npt.NDArray[np.int64] = np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)
    return order


def row_order(module: str, rows: int, config: Any, architecture: str) -> npt.NDArray[np.int64] | None:
    """The order of the rows of a module's matrix (or bias) in GGUF; None if it is the same as in transformers."""
    heads = _paired_heads(module, config, architecture)
    return None if heads is None else paired_rows(rows, heads)


def _paired_heads(module: str, config: Any, architecture: str) -> int | None:
    """The number of heads that a module's rows belong to if their order differs from transformers'; otherwise None."""
    if architecture not in gguf_keys.PAIRED_ROWS or not module.endswith((".q_proj", ".k_proj")):
        return None
    heads = int(config.num_attention_heads)
    return int(getattr(config, "num_key_value_heads", None) or heads) if module.endswith(".k_proj") else heads


def _gguf_names(folder: HfFolder, keys: GgufKeys, *, tied: bool) -> dict[str, str]:
    """Map transformers' parameter names to GGUF tensor names, for all tensors to write."""
    if _EMBEDDING not in folder.tensors:
        raise _unknown_tensor(_EMBEDDING, msg("The folder has no tensor {name}.", name=_EMBEDDING))
    known = name_map(keys.architecture, keys.values["block_count"])
    names: dict[str, str] = {}
    for stored in folder.tensors:
        if stored.endswith(_COMPUTED) or (stored == _HEAD and tied):
            continue
        name = known.get_name(stored, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise _unknown_tensor(stored, msg("llama.cpp has no tensor for {name}.", name=stored))
        names[stored] = name if name.endswith((".weight", ".bias")) else f"{name}.weight"
    return names


def _write_tensors(
    writer: GGUFWriter,
    folder: HfFolder,
    keys: GgufKeys,
    names: dict[str, str],
    config: Any,
    on_progress: Callable[[float], None],
) -> None:
    assert writer.fout is not None
    out = writer.fout[0]
    writer.write_padding(out, out.tell())
    for tensor in keys.tensors.values():
        out.write(tensor.tobytes())
        writer.write_padding(out, tensor.nbytes)
    total = sum(folder.tensors[stored].size for stored in names)
    done = 0
    for stored in names:
        source = folder.tensors[stored]
        kind, written = _kind(source), 0
        for block in _blocks(stored, source, config, keys.architecture):
            data = block.astype(kind).tobytes()
            out.write(data)
            written += len(data)
        writer.write_padding(out, written)
        done += source.size
        on_progress(done / total)
    out.flush()


def _blocks(stored: str, source: StoredTensor, config: Any, architecture: str) -> Iterator[npt.NDArray[np.float32]]:
    """Yield a tensor's values in the form that llama.cpp expects."""
    heads = _paired_heads(stored.rpartition(".")[0], config, architecture)
    if heads is not None:
        rows = source.shape[0] // heads
        for block in source.blocks(together=rows):
            yield block[paired_rows(len(block), len(block) // rows)]
        return
    shift = 1.0 if architecture in gguf_keys.NORMS_FROM_ONE and stored.endswith("norm.weight") else 0.0
    for block in source.blocks():
        yield block + shift if shift else block


def _kind(tensor: StoredTensor) -> np.dtype[Any]:
    """float16 for matrices, float32 for norms and biases."""
    return np.dtype(np.float16 if len(tensor.shape) > 1 else np.float32)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, int(value))


def _unknown_tensor(name: str, reason: str) -> UnusableModel:
    return UnusableModel("unknown_tensor", reason, msg("Use a GGUF file of this model, or another model."))
