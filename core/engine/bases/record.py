"""One base model of the library: its properties, location and preparation state. Stored as `record.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from core.engine import json_file
from core.engine.bases import machine
from core.message import from_json, to_json

Source = Literal["file", "folder", "huggingface", "modelscope"]
State = Literal["waiting", "downloading", "converting", "checking", "ready", "failed"]
ACTIVE: frozenset[State] = frozenset({"waiting", "downloading", "converting", "checking"})
FILE = "record.json"


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """A base model.

    Attributes:
        id: the model id used in requests.
        source: how it was added.
        path: the user's GGUF file or folder, or the folder of a download.
        repo, revision: name and commit on a hub; "" for files and folders.
        asked_revision: branch, tag or commit as requested; "" for the newest one.
        no_checksum: whether the hub lacks a checksum for some file, so that only its size and completeness were
            checked.
        created: Unix seconds.
        state: preparation state; only `ready` models can be used.
        done, total: progress of the current state (bytes for a download, per mille for a conversion); 0 if unknown.
        error_code, error: why it failed, for the user; "" if it has not failed.
        gguf: the file that llama.cpp serves; "" until it exists.
        folder: the folder with the original weights, from which training starts; "" for a GGUF file.
        architecture: llama.cpp's name for the architecture.
        family: transformers' or llama.cpp's name for the model type (`mistral`, `qwen3`, …).
        licence: as stated by the model; "" if unknown.
        parameters, layers, width, key_width: see `machine.Shape`.
        context: the model's own context length, in tokens.
        size: size of the original weights, in bytes.
        not_trainable: why it can only be served; "" if it can be trained.
        chat: whether it has a chat format.
    """

    id: str
    source: Source
    path: str
    created: int
    state: State = "waiting"
    repo: str = ""
    revision: str = ""
    asked_revision: str = ""
    no_checksum: bool = False
    done: int = 0
    total: int = 0
    error_code: str = ""
    error: str = ""
    gguf: str = ""
    folder: str = ""
    architecture: str = ""
    family: str = ""
    licence: str = ""
    parameters: int = 0
    layers: int = 0
    width: int = 0
    key_width: int = 0
    context: int = 0
    size: int = 0
    not_trainable: str = ""
    chat: bool = True

    @property
    def served_bytes(self) -> int:
        """Size of the file that llama.cpp serves: the GGUF file itself, or a folder's matrices as float16."""
        return 2 * self.parameters if self.folder else self.size

    def shape(self, limit: int) -> machine.Shape:
        """The figures that determine its memory use if at most `limit` tokens are served."""
        return machine.Shape(self.parameters, self.layers, self.width, self.key_width, min(limit, self.context))


_MESSAGES = ("error", "not_trainable")


def read(folder: Path) -> BaseRecord | None:
    """Read the record in `folder`; None if there is none or it cannot be read."""
    try:
        raw: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {field.name for field in fields(BaseRecord)} & raw.keys()
        values = {name: raw[name] for name in known}
        for name in _MESSAGES:
            values[name] = from_json(values.get(name, "")) or ""
        return BaseRecord(**values)
    except (OSError, ValueError, TypeError):
        return None


def write(folder: Path, record: BaseRecord) -> None:
    """Replace the record in `folder`, durably."""
    values = asdict(record)
    for name in _MESSAGES:
        values[name] = to_json(getattr(record, name))
    json_file.write(folder / FILE, values)
