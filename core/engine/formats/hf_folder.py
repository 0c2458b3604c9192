"""A model folder in Hugging Face's format: `config.json`, `*.safetensors`, `tokenizer.json`.

Only headers are read to describe it; tensors are read in blocks of rows, so that no reader needs memory for more than
one block. A safetensors file consists of 8 bytes with the length of a JSON header, the header, and the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_BLOCK_BYTES = 16 << 20  # as float32; larger blocks are not faster
_NUMPY_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
# Models that also read images store their language model under one of these prefixes.
_LANGUAGE_PREFIXES = (("model.language_model.", "model."), ("language_model.model.", "model."), ("language_model.", ""))
# Parts that are not the language model, in folders that store it without a prefix.
_OTHER_MODULES = ("vision_tower", "vision_model", "visual", "multi_modal_projector", "audio_tower", "embed_vision")
_HEAD = "lm_head."


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor is stored: file, position in bytes, type (`F32`, `BF16`, …) and shape."""

    file: Path
    start: int
    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def blocks(self, together: int = 1) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the values as float32, in blocks of whole rows; groups of `together` consecutive rows are never
        split.
        """
        kind = _NUMPY_TYPES[self.kind]
        rows, width = (self.shape[0], self.size // max(1, self.shape[0])) if len(self.shape) > 1 else (1, self.size)
        step = max(1, _BLOCK_BYTES // max(1, 4 * width * together)) * together
        with self.file.open("rb") as file:
            file.seek(self.start)
            for row in range(0, rows, step):
                count = min(step, rows - row) * width
                raw = np.fromfile(file, dtype=kind, count=count)
                values = (
                    (raw.astype(np.uint32) << 16).view(np.float32) if self.kind == "BF16" else raw.astype(np.float32)
                )
                yield values.reshape(-1, width) if len(self.shape) > 1 else values


@dataclass(frozen=True)
class HfFolder:
    """A checked folder.

    Attributes:
        config: the contents of `config.json`; for a model that also reads images, only the text part.
        tensors: parameter name as in transformers' causal language model (`model.layers.0…`) → where it is stored.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @property
    def parameters(self) -> int:
        """Number of parameters of the language model."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def model_type(self) -> str:
        """transformers' name for the architecture."""
        return str(self.config.get("model_type", ""))


def open_folder(path: Path) -> HfFolder:
    """Read and check the headers of a folder.

    Raises:
        UnusableModel: a file is missing, truncated, unreadable or of an unsupported kind.
    """
    config = _config(path)
    if not (path / "tokenizer.json").is_file():
        raise UnusableModel(
            "no_tokenizer",
            msg("The folder {path} has no tokenizer.json.", path=path),
            msg("Copy the model's tokenizer files into it (save_pretrained of the tokenizer writes them)."),
        )
    return HfFolder(path, config, read_tensors(path))


def _config(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise UnusableModel(
            "no_config",
            msg("The folder {path} has no config.json.", path=path),
            msg("Choose the folder that save_pretrained wrote, or a .gguf file."),
        ) from exc
    except PermissionError as exc:
        raise not_readable(path / "config.json") from exc
    except (ValueError, RecursionError) as exc:
        raise _bad_json(path / "config.json") from exc
    if not isinstance(raw, dict):
        raise _bad_json(path / "config.json")
    if raw.get("quantization_config"):
        raise UnusableModel(
            "quantised_folder",
            msg("The weights in {path} are quantised (quantization_config).", path=path),
            msg("Use the folder with the original weights, or a GGUF file of the model."),
        )
    text = raw.get("text_config")
    return {**text, "architectures": raw.get("architectures")} if isinstance(text, dict) else raw


def _bad_json(file: Path) -> UnusableModel:
    return UnusableModel("bad_config", msg("{path} is not valid JSON.", path=file), msg("Copy or download it again."))


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Find where a folder's tensors are stored, by parameter name.

    Raises:
        UnusableModel: a file is missing, truncated or unreadable, or has tensors of an unsupported kind.
    """
    files = sorted(path.glob("*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        except PermissionError as exc:
            raise not_readable(index) from exc
        except (ValueError, RecursionError, AttributeError, TypeError) as exc:  # truncated, or not an index file
            raise _bad_json(index) from exc
        if missing := sorted(wanted - {file.name for file in files}):
            raise UnusableModel(
                "missing_weights",
                msg("The folder {path} has no {name}.", path=path, name=missing[0]),
                msg("Copy or download the missing file."),
            )
        files = [file for file in files if file.name in wanted]
    if not files:
        raise UnusableModel(
            "no_weights",
            msg("The folder {path} has no .safetensors file.", path=path),
            msg("Save the model with safe_serialization=True; other weight files are not read."),
        )
    stored: dict[str, StoredTensor] = {}
    for file in files:
        stored |= _header(file)
    prefixed = any(name.startswith(prefix) for name in stored for prefix, _ in _LANGUAGE_PREFIXES)
    named = ((_language_name(name, prefixed), tensor) for name, tensor in stored.items())
    return {name: tensor for name, tensor in named if name is not None}


def check_weights(file: Path) -> None:
    """Raise UnusableModel unless `file` is a complete safetensors file."""
    _header(file)


def _header(file: Path) -> dict[str, StoredTensor]:
    """Read the header of one file: its tensors."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            first = stream.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else _MAX_HEADER + 1
            header = json.loads(stream.read(length)) if length <= min(size, _MAX_HEADER) else None
    except PermissionError as exc:
        raise not_readable(file) from exc
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise cut_file(file)
    header.pop("__metadata__", None)
    try:
        tensors, end = _stored(file, 8 + length, header)
    except UnusableModel:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise cut_file(file) from exc
    if 8 + length + end > size:
        raise cut_file(file)
    return tensors


def _stored(file: Path, data_start: int, header: dict[str, Any]) -> tuple[dict[str, StoredTensor], int]:
    """A header's tensors, and where the last one ends.

    Raises:
        UnusableModel: a tensor is of an unsupported kind.
        AttributeError, KeyError, TypeError, ValueError: an entry violates the format.
    """
    tensors, end = {}, 0
    for name, entry in header.items():
        if entry["dtype"] not in _NUMPY_TYPES:
            if entry["dtype"].startswith(("I", "U", "BOOL")):
                continue  # positions and masks, not weights
            raise UnusableModel(
                "tensor_type",
                msg(
                    "{name} in {file} has the type {kind}, which is not supported.",
                    name=name,
                    file=file.name,
                    kind=entry["dtype"],
                ),
                msg("Use the folder with the weights in bfloat16, float16 or float32."),
            )
        (start, stop), shape = entry["data_offsets"], tuple(entry["shape"])
        if min(start, *shape) < 0 or stop - start != math.prod(shape) * np.dtype(_NUMPY_TYPES[entry["dtype"]]).itemsize:
            # such a tensor would read another tensor's data, or claim more memory than the file has
            raise ValueError(name)
        end = max(end, stop)
        tensors[name] = StoredTensor(file, data_start + start, entry["dtype"], shape)
    return tensors, end


def _language_name(stored: str, prefixed: bool) -> str | None:
    """A parameter's name in the language model; None if it belongs to another part, such as the image encoder.

    Args:
        prefixed: whether the folder's language model has a prefix, so that parameters without one (except the head)
            belong to another part.
    """
    for prefix, replacement in _LANGUAGE_PREFIXES:
        if stored.startswith(prefix):
            return replacement + stored.removeprefix(prefix)
    is_other = (
        not stored.startswith(_HEAD) if prefixed else any(part in _OTHER_MODULES for part in stored.split(".")[:2])
    )
    return None if is_other else stored


def cut_file(file: Path) -> UnusableModel:
    """The error for a file that ends early."""
    return UnusableModel(
        "cut_file",
        msg("The file {name} is incomplete: it ends before its data does.", name=file.name),
        msg("Download or copy it again."),
    )


def not_readable(path: Path) -> UnusableModel:
    """The error for a path that the engine has no permission to read."""
    return UnusableModel(
        "not_readable",
        msg("The engine has no permission to read {path}.", path=path),
        msg("Give the engine's user access to it, or copy it to a folder that it can read."),
    )
