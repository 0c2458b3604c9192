"""The folders that vLLM reads: a base model's in Hugging Face's format, and PEFT's of an adapter. Each is written once.

Everything is in `vllm/` of the engine's home, and may be deleted while the engine is stopped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from core.engine.api.errors import ApiError, disk_full, is_disk_full, unavailable
from core.engine.exports import merged, peft_folder, tokenizer
from core.engine.formats import gguf_file, weights
from core.engine.formats.base_config import UntrainableModel
from core.engine.formats.unusable_model import UnusableModel
from core.engine.serve_settings import LLAMA, SERVE
from core.engine.serving.llama import BaseModel
from core.message import msg

_KEY_CHARS = 12  # of a hash


class VllmFolders:
    """The folders in one engine's home. Its methods take seconds to minutes; call them from a pool thread."""

    def __init__(self, home: Path) -> None:
        self._home, self._root = home, home / "vllm"

    @property
    def log(self) -> Path:
        """The output of a server that the engine starts."""
        self._root.mkdir(exist_ok=True)
        return self._root / "server.log"

    def of_base(self, base: BaseModel) -> Path:
        """The base's folder: its own, or one that is written from a GGUF file.

        Raises:
            ApiError: 400 if the file cannot be converted, 507 if the disk is full.
        """
        if base.folder is not None:
            return base.folder
        source = self._source(base)

        def write(part: Path) -> None:
            merged.write_safetensors(source, None, part)
            tokenizer.write(base.gguf, None, source, part)

        return self._written(weights.vllm_dir(base.gguf, self._home).name, write)

    def of_adapter(self, base: BaseModel, adapter: Path) -> Path:
        """The adapter's folder, whose name is also the adapter's name on the server.

        Raises:
            ApiError: 503 if the adapter is missing or was made for another base, 507 if the disk is full.
        """
        try:
            name = _adapter_name(adapter)
        except FileNotFoundError as exc:
            raise unavailable(
                msg("The adapter {name} is no longer in the engine's home directory.", name=adapter.name)
            ) from exc
        source = base.folder or self._source(base)
        return self._written(
            name, lambda part: peft_folder.write(source, gguf_file.read_adapter(adapter), str(source), part)
        )

    def adapters(self, adapter: Path) -> list[Path]:
        """The folders written for an adapter, also if its file was deleted."""
        return [
            folder
            for folder in self._root.glob("*-" + "?" * _KEY_CHARS)
            if folder.name[: -_KEY_CHARS - 1] == adapter.stem
        ]

    def delete_adapter(self, folder: Path) -> None:
        """Delete an adapter's folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def _source(self, base: BaseModel) -> Path:
        try:
            return weights.convert(base.gguf, weights.cache_dir(base.gguf, self._home), print)
        except UntrainableModel as exc:
            raise ApiError(
                400,
                msg(
                    "vLLM needs {name} as a folder from Hugging Face, and its GGUF file cannot be converted: {reason}. "
                    "Add the model's folder as a base model, or set {setting}={value}.",
                    name=base.name,
                    reason=exc,
                    setting=SERVE,
                    value=LLAMA,
                ),
                param="model",
                code="model_not_supported",
            ) from exc

    def _written(self, name: str, write: Callable[[Path], None]) -> Path:
        folder = self._root / name
        if folder.is_dir():
            return folder
        part = self._root / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            write(part)
            os.replace(part, folder)
        except UnusableModel as exc:
            raise unavailable(exc.message) from exc
        except Exception as exc:  # libraries raise errors of many kinds about files that they do not know
            if is_disk_full(exc):
                raise disk_full() from exc
            raise unavailable(msg("{parent} cannot be written: {reason}.", parent=folder, reason=exc)) from exc
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return folder


def _adapter_name(adapter: Path) -> str:
    """A name for this file's content, so that servers shared by several engines do not confuse adapters."""
    stat = adapter.stat()
    key = f"{adapter.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    return f"{adapter.stem}-{hashlib.sha256(key.encode()).hexdigest()[:_KEY_CHARS]}"
