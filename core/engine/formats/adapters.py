"""Reads and writes LoRA adapters as GGUF files, the format of llama.cpp (general.type=adapter, adapter.type=lora)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter

from core.engine.formats.gguf_file import QuickReader, scalar
from core.engine.formats.weights import LINEAR_MODULES, hf_names

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """A low-rank update W + (alpha / rank) · B A of some linear layers.

    Attributes:
        architecture: llama.cpp's name of the base model's architecture (`gemma3`).
        alpha: LoRA's alpha; the scale is alpha / rank.
        layers: transformers module name (`model.layers.0.self_attn.q_proj`) → (A [rank, in], B [out, rank]).
    """

    architecture: str
    alpha: float
    layers: Mapping[str, tuple[Matrix, Matrix]]

    @property
    def rank(self) -> int:
        return int(next(iter(self.layers.values()))[0].shape[0])


def write(path: Path, adapter: Adapter, name: str = "") -> None:
    """Write `adapter` atomically, with matrices as float16."""
    n_layers = 1 + max(int(module.split(".")[2]) for module in adapter.layers)
    gguf_names = {hf: gguf for gguf, hf in hf_names(adapter.architecture, n_layers).items()}
    partial = path.with_name(path.name + ".part")
    writer = GGUFWriter(partial, adapter.architecture)
    writer.add_type("adapter")
    if name:
        writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.alpha)
    for module, (a, b) in adapter.layers.items():
        base = gguf_names[f"{module}.weight"]
        writer.add_tensor(f"{base}.lora_a", np.ascontiguousarray(a, dtype=np.float16))
        writer.add_tensor(f"{base}.lora_b", np.ascontiguousarray(b, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _sync(partial)
    os.replace(partial, path)


def read(path: Path) -> Adapter:
    """Read an adapter that `write` (or llama.cpp's converter) wrote.

    Raises:
        ValueError: the file is not a LoRA adapter.
    """
    reader = QuickReader(path)
    if scalar(reader, "adapter.type") != "lora":
        raise ValueError(f"{path.name} is not a LoRA adapter")
    architecture = str(scalar(reader, "general.architecture"))
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    blocks = 1 + max(int(name.split(".")[1]) for name in tensors)
    layers = {
        hf.removesuffix(".weight"): (tensors[f"{gguf}.lora_a"], tensors[f"{gguf}.lora_b"])
        for gguf, hf in hf_names(architecture, blocks).items()
        if f"{gguf}.lora_a" in tensors and hf.removesuffix(".weight").endswith(LINEAR_MODULES)
    }
    return Adapter(architecture, float(scalar(reader, "adapter.lora.alpha")), layers)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
