"""Memory and disk space that a base model needs and this machine has. On pages, estimates are labelled as such."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from core.engine import launcher_settings
from core.engine.formats.unusable_model import UnusableModel
from core.engine.job_rules import PARALLEL, training_device
from core.message import msg

_SERVER_BYTES = 350 << 20  # llama.cpp's process: buffers and prompt cache, measured on the packaged base
_TRAINER_BYTES = 900 << 20  # Python, torch, and the adapter with its optimizer
# The packaged base (18 layers, width 640) needs 2 MB of activations per token of a micro-batch, less on the CPU.
_ACTIVATION_BYTES = 174
_MICRO_BATCH_TOKENS = 512
_HIDDEN_BYTES = 4  # of a hidden state, float32
_WEIGHT_BYTES = 2  # the trainer keeps frozen matrices as bfloat16 where that is fast, otherwise as float32
_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Shape:
    """The figures that determine memory use.

    Attributes:
        parameters: number of parameters of the language model.
        layers, width: transformer blocks and hidden size.
        key_width: number of key heads × head size.
        context: longest sequence served, in tokens.
    """

    parameters: int
    layers: int
    width: int
    key_width: int
    context: int


def serving_bytes(file_bytes: int, shape: Shape) -> int:
    """Memory needed for serving: the file, the keys and values (float16, whole context) of all parallel requests, and
    the server.
    """
    cache = PARALLEL * shape.context * shape.layers * shape.key_width * 2 * 2
    return file_bytes + cache + _SERVER_BYTES


def training_bytes(shape: Shape) -> int:
    """Memory needed for training with bfloat16 matrices; without fast bfloat16, the weights take twice as much."""
    activations = activation_bytes(shape.layers, shape.width, _MICRO_BATCH_TOKENS)
    return shape.parameters * _WEIGHT_BYTES + activations + _TRAINER_BYTES


def activation_bytes(layers: int, width: int, tokens: int) -> int:
    """Memory for what a training pass over `tokens` tokens keeps for its backward pass."""
    return tokens * layers * width * _ACTIVATION_BYTES


def too_big_to_train(shape: Shape, available: int | None) -> str:
    """Why a base cannot be trained in `available` bytes (see `training_memory_bytes`), with what would fit; "" if it
    can.
    """
    overhead = _TRAINER_BYTES + checkpointed_bytes(shape.layers, shape.width, _MICRO_BATCH_TOKENS)
    needed = shape.parameters * _WEIGHT_BYTES + overhead
    if available is None or needed <= available:
        return ""
    fitting = max(0, available - overhead) / _WEIGHT_BYTES
    return msg(
        "training it needs at least {needed} GB of memory, and this machine has {available} GB, which is enough for "
        "about {fitting} million parameters",
        needed=gigabytes(needed),
        available=gigabytes(available),
        fitting=f"{fitting / 1e6:,.0f}",
    )


def training_memory_bytes(environ: Mapping[str, str]) -> int | None:
    """Memory for training with these settings; None if jobs are not trained on this machine's processor, so that only
    their trainer knows.

    Raises:
        ValueError: a setting is malformed.
    """
    device = training_device(environ)
    if not launcher_settings.is_local(environ) or device == "cuda" or (device == "auto" and _torch_knows_cuda()):
        return None
    return memory_bytes()


def _torch_knows_cuda() -> bool:
    """Whether PyTorch was built for CUDA. Its version says so; importing it would take a second."""
    try:
        return os.uname().sysname == "Linux" and not metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


def checkpointed_bytes(layers: int, width: int, tokens: int) -> int:
    """`activation_bytes` with gradient checkpointing: the hidden states of all layers, and the activations of one."""
    return tokens * layers * width * _HIDDEN_BYTES + activation_bytes(1, width, tokens)


def memory_bytes() -> int:
    """Memory of this machine, or of the container that limits it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # the file does not exist or contains "max"
            continue
    return min(limits)


def check_memory(needed: int, available: int) -> None:
    """Raise UnusableModel if `available` bytes of memory are not enough to serve a model."""
    if needed > available:
        raise UnusableModel(
            "too_big",
            msg(
                "Serving this model needs about {needed} GB of memory; this machine has {available} GB.",
                needed=gigabytes(needed),
                available=gigabytes(available),
            ),
            msg("Choose a smaller model, or a GGUF file of it with stronger quantisation."),
        )


def check_disk(needed: int, folder: Path) -> None:
    """Raise UnusableModel if fewer than `needed` bytes are free on the disk of `folder`."""
    free = free_bytes(folder)
    if needed > free:
        raise UnusableModel(
            "disk_full",
            msg(
                "{needed} GB are needed on the disk of the engine's home, and {free} GB are free.",
                needed=gigabytes(needed),
                free=gigabytes(free),
            ),
            msg("Free some space, or remove a base model that you no longer use."),
        )


def free_bytes(folder: Path) -> int:
    """Free space on the disk of `folder`, in bytes."""
    return shutil.disk_usage(folder).free


def gigabytes(size: int) -> str:
    """A size for a message, in GB (10⁹ bytes)."""
    return f"{size / 1e9:.1f}" if size >= 50_000_000 else f"{size / 1e9:.3f}"
