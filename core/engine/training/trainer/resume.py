"""Saves and restores the training state: adapter, optimizer, position. A kill -9 loses at most the steps since the last
save.

The order of examples and the learning rate are determined by seed and step, so no random state needs to be saved.
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
    """A job's progress.

    Attributes:
        step: completed steps.
        tokens: tokens seen in all epochs, including prompts.
        examples: examples seen in all epochs.
        dtype: dtype of the frozen matrices, fixed for the whole job.
    """

    step: int = 0
    tokens: int = 0
    examples: int = 0
    dtype: str = "auto"


def read_position(folder: Path) -> Position:
    """Read the saved position; return the start if nothing has been saved yet."""
    if not (folder / FILE).exists():
        return Position()
    with safe_open(folder / FILE, "pt") as file:
        meta = file.metadata()
    return Position(int(meta["step"]), int(meta["tokens"]), int(meta["examples"]), meta["dtype"])


def save(folder: Path, position: Position, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Save everything atomically and durably."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        tensors[f"{name}.value"] = parameter.detach()
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in state:
                tensors[f"{name}.{moment}"] = state[moment]
    meta = {"step": str(position.step), "tokens": str(position.tokens), "examples": str(position.examples)}
    partial = folder / (FILE + ".part")
    save_file(tensors, partial, {**meta, "dtype": position.dtype})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, folder / FILE)


def load(folder: Path, step: int, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Restore adapter and optimizer from the last `save`."""
    with safe_open(folder / FILE, "pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in parameters.items():
            parameter.copy_(file.get_tensor(f"{name}.value"))
            if f"{name}.exp_avg" in names:
                moments = {
                    moment: file.get_tensor(f"{name}.{moment}").to(parameter.device)
                    for moment in ("exp_avg", "exp_avg_sq")
                }
                steps = torch.tensor(float(step), device=parameter.device if optimizer.defaults["fused"] else "cpu")
                optimizer.state[parameter] = {"step": steps, **moments}
