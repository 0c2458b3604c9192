"""Describes a model file or folder from its headers within a second, without loading the model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH_NAMES

from core.engine.bases import machine
from core.engine.bases.record import BaseRecord
from core.engine.formats import base_config, hf_folder
from core.engine.formats.gguf_file import MALFORMED, QuickReader, scalar
from core.engine.formats.hf_folder import HfFolder
from core.engine.formats.unusable_model import UnusableModel
from core.engine.job_rules import CONTEXT
from core.message import msg

_MAGIC = b"GGUF"
# Exceptions raised when a header value has a different type than in any valid model.
_LICENCE = re.compile(r"^license(?:_name)?:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


def describe_file(record: BaseRecord, path: Path, limit: int) -> BaseRecord:
    """Fill in the record with a GGUF file's figures; at most `limit` tokens of its context are served.

    Raises:
        UnusableModel: the file is not a GGUF model, is incomplete or split, has an architecture that llama.cpp does not
            support, or is too big for this machine.
    """
    try:
        described = _described(record, path)
    except UnusableModel:
        raise
    except MALFORMED as exc:
        raise hf_folder.cut_file(path) from exc
    return _fitting(described, limit)


def shape_of(path: Path, limit: int) -> machine.Shape:
    """The figures of a GGUF file that determine its memory use with at most `limit` tokens.

    Raises:
        UnusableModel: the file is not a complete GGUF model file, or its architecture is not supported.
    """
    return _described(BaseRecord("", "file", str(path), 0), path).shape(limit)


def check_file(path: Path) -> None:
    """Raise UnusableModel unless `path` is a complete GGUF model file."""
    try:
        _open(path)
    except UnusableModel:
        raise
    except MALFORMED as exc:
        raise hf_folder.cut_file(path) from exc


def _described(record: BaseRecord, path: Path) -> BaseRecord:
    reader = _open(path)
    architecture = reader.architecture
    if architecture not in MODEL_ARCH_NAMES.values():
        raise UnusableModel(
            "unknown_architecture",
            msg("The file {name} has an unsupported architecture: {architecture}.",
                name=path.name, architecture=repr(architecture)),
            msg("Choose another model, or update xllamacpp and gguf: newer versions support more models."),
        )  # fmt: skip
    if int(scalar(reader, "split.count", 0)) > 1:
        raise UnusableModel(
            "split_file",
            msg("The file {name} is one part of a split model.", name=path.name),
            msg("Merge the parts with llama-gguf-split --merge, then add the merged file."),
        )

    def figure(key: str, default: int = 0) -> int:
        value = scalar(reader, f"{architecture}.{key}", default)
        return int(max(value)) if isinstance(value, list) else int(value)

    width, heads = figure("embedding_length"), figure("attention.head_count", 1)
    head = figure("attention.key_length") or width // max(1, heads)
    return replace(
        record,
        gguf=str(path),
        architecture=architecture,
        family=architecture,
        licence=str(scalar(reader, "general.license", "")),
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        layers=figure("block_count"),
        width=width,
        key_width=(figure("attention.head_count_kv") or heads) * head,
        context=figure("context_length", 2048),
        size=path.stat().st_size,
        not_trainable=_not_trainable(reader),
    )


def _open(path: Path) -> QuickReader:
    """Open a reader for a complete GGUF model file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic = file.read(4)
    except PermissionError as exc:
        raise hf_folder.not_readable(path) from exc
    if magic != _MAGIC:
        raise UnusableModel(
            "not_gguf",
            msg("The file {name} is not a GGUF file.", name=path.name),
            msg("Choose a file that ends in .gguf, or a folder with config.json and .safetensors files."),
        )
    reader = QuickReader(path)
    end = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors), default=size + 1)
    if end > size:
        raise hf_folder.cut_file(path)
    if scalar(reader, "general.type", "model") != "model":
        raise UnusableModel(
            "not_a_model",
            msg("The file {name} is an adapter or another part of a model, not a model.", name=path.name),
            msg("Choose the base model's own file."),
        )
    return reader


def _not_trainable(reader: QuickReader) -> str:
    try:
        base_config.from_reader(reader)
    except base_config.UntrainableModel as exc:
        return str(exc)
    return ""


def describe_folder(record: BaseRecord, folder: HfFolder, limit: int) -> BaseRecord:
    """Fill in the record with a folder's figures; its architecture is set by the conversion. For `limit` see
    `describe_file`.

    Raises:
        UnusableModel: the model is too big for this machine.
    """
    config = folder.config
    width, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads") or 1
    head = _number(config, "head_dim") or width // heads
    described = replace(
        record,
        folder=str(folder.path),
        family=folder.model_type,
        licence=record.licence or licence_of(folder.path),
        parameters=folder.parameters,
        layers=_number(config, "num_hidden_layers"),
        width=width,
        key_width=(_number(config, "num_key_value_heads") or heads) * head,
        context=_number(config, "max_position_embeddings") or CONTEXT,
        size=sum(file.stat().st_size for file in {tensor.file for tensor in folder.tensors.values()}),
    )
    return _fitting(described, limit)


def _fitting(described: BaseRecord, limit: int) -> BaseRecord:
    """Return the record if this machine has enough memory to serve its model; otherwise raise UnusableModel."""
    needed = machine.serving_bytes(described.served_bytes, described.shape(limit))
    machine.check_memory(needed, machine.memory_bytes())
    return described


def _number(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) else 0


def licence_of(folder: Path) -> str:
    """The licence given in a folder's model card; "" if there is none."""
    try:
        found = _LICENCE.search((folder / "README.md").read_text(encoding="utf-8", errors="replace")[:20_000])
    except OSError:
        return ""
    return found.group(1) if found else ""
