"""The last durable step: adapter, optimizer, position. A kill -9 costs at most the steps since then.

The order of examples and the learning rate follow from seed and step, so no generator state needs to be kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FILE = "resume.safetensors"


@dataclass(frozen=True, slots=True)
class Position:
    """How far the job is.

    Attributes:
        step: steps done.
        tokens: tokens seen, all epochs, prompts included.
        examples: examples seen, all epochs.
        dtype: type of the frozen matrices, kept for the whole job.
    """

    step: int = 0
    tokens: int = 0
    examples: int = 0
    dtype: str = "auto"


def read_position(folder: Path) -> Position:
    """Where to go on; the start, for a job that has not got anywhere yet."""
    if not (folder / FILE).exists():
        return Position()
    with safe_open(folder / FILE, "pt") as file:
        meta = file.metadata()
    return Position(int(meta["step"]), int(meta["tokens"]), int(meta["examples"]), meta["dtype"])


def save(folder: Path, position: Position, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Write everything beside and rename it, on the disk before this returns."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors[f"{name}.value"] = parameter.detach()
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in state:
                tensors[f"{name}.{moment}"] = state[moment]
    meta = {"step": str(position.step), "tokens": str(position.tokens), "examples": str(position.examples)}
    beside = folder / (FILE + ".part")
    save_file(tensors, beside, {**meta, "dtype": position.dtype})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, folder / FILE)


def load(folder: Path, step: int, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Put adapter and optimizer back as `save` found them."""
    with safe_open(folder / FILE, "pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in parameters.items():
            parameter.copy_(file.get_tensor(f"{name}.value"))
            if f"{name}.exp_avg" in names:
                moments = {moment: file.get_tensor(f"{name}.{moment}") for moment in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
