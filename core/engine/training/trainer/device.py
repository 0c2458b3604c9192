"""The device on which a job is computed, with its dtype, threads and memory limits. Only this module makes these
choices.

The other modules create their tensors on the model's device and take sizes from `Device`. The sizes of GPUs were not
tried on hardware here; what uses them is tested on the CPU.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from core.engine.bases.machine import memory_bytes
from core.engine.job_rules import TRAINING_DEVICE_SETTING, TrainingDevice
from core.message import msg

_REPEATS = 5
_MIN_GAIN = 1.3  # below this speed-up, the precision of float32 matters more
# Including padding. Larger batches only take more memory; only a single longer example needs more.
_CPU_BATCH_TOKENS = 512
# Attention over a longer row of short texts costs more than padding does.
_CPU_ROW_TOKENS = 128
# 3 MB of bfloat16 weights at width 640 and 4 MB for the logits of 512 positions, so a tile fits in the cache
_CPU_HEAD_TILE = 2048
# Enough rows for the multiplications of a large GPU; the logits of one tile take 256 MB (float32).
_GPU_BATCH_TOKENS, _GPU_ROW_TOKENS, _GPU_HEAD_TILE = 8192, 2048, 8192
_MPS_BATCH_TOKENS = 2048
# PyTorch's allocators raise RuntimeError (CPU) or a subclass of it (`torch.OutOfMemoryError`).
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
_MEMINFO = Path("/proc/meminfo")


class DeviceMissing(RuntimeError):
    """The device that was asked for cannot be used here; `reason` says so to the user."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Device:
    """A device for tensors, with sizes chosen to suit it.

    Attributes:
        place: the torch device of the model and its batches.
        dtype: dtype of the frozen matrices and their products; trained matrices, hidden states and sums are float32.
        batch_tokens: maximum tokens, including padding, in one forward pass, unless a single example is longer.
        row_tokens: maximum tokens of several texts that are packed into one row.
        head_tile: number of vocabulary tokens that the output head processes at a time.
        processes: the job's processes on this machine, which share its memory unless each has a GPU.
    """

    place: torch.device
    dtype: torch.dtype
    batch_tokens: int
    row_tokens: int
    head_tile: int
    processes: int = 1

    @property
    def dtype_name(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def is_cpu(self) -> bool:
        """Whether a value can be read from a tensor without waiting for the device."""
        return str(self.place.type) == "cpu"

    def free_bytes(self) -> int:
        """Memory that is free on the device now; for the CPU this process's part of what the system can make
        available.
        """
        if self.place.type == "cuda":
            return int(torch.cuda.mem_get_info(self.place)[0])
        if self.place.type == "mps":
            return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
        return min(_available_bytes(), memory_bytes()) // self.processes


def cpu(dtype: torch.dtype = torch.float32) -> Device:
    """The CPU device."""
    return Device(torch.device("cpu"), dtype, _CPU_BATCH_TOKENS, _CPU_ROW_TOKENS, _CPU_HEAD_TILE)


def choose(dtype: str, threads: int, on_message: Callable[[str], None], name: TrainingDevice = "cpu") -> Device:
    """Choose the device for a job on this machine.

    Args:
        dtype: `float32`, `bfloat16`, or `auto` for whichever suits the device; the choice is reported to `on_message`.
        threads: CPU threads; 0 means all.
        name: see `core.engine.job_rules.TRAINING_DEVICE_SETTING`.

    Raises:
        DeviceMissing: PyTorch cannot use the device.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    kind = _kind(name)
    if kind != "cpu":
        device = _gpu(kind, dtype)
        on_message(msg("Computing on {device} in {name}.", device=_title(device), name=device.dtype_name))
        return device
    if dtype != "auto":
        return cpu(getattr(torch, dtype))
    fastest, gain = fastest_dtype()
    device = cpu(fastest)
    on_message(
        msg(
            "Computing in {name}: bfloat16 multiplies {gain} times as fast as float32 on this processor.",
            name=device.dtype_name,
            gain=f"{gain:.1f}",
        )
    )
    return device


def _kind(name: TrainingDevice) -> str:
    """The type of the torch device. Raises DeviceMissing."""
    found = [
        kind
        for kind, is_there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
        if is_there
    ]
    if name == "auto":
        return next(iter(found), "cpu")
    if name != "cpu" and name not in found:
        reason = msg(
            "{setting} asks for {name}, but PyTorch cannot use it here.", setting=TRAINING_DEVICE_SETTING, name=name
        )
        raise DeviceMissing(reason)
    return name


def _gpu(kind: str, dtype: str) -> Device:
    if dtype == "auto":
        dtype = "bfloat16" if kind == "mps" or torch.cuda.is_bf16_supported() else "float32"
    tokens = _GPU_BATCH_TOKENS if kind == "cuda" else _MPS_BATCH_TOKENS
    return Device(torch.device(kind), getattr(torch, dtype), tokens, _GPU_ROW_TOKENS, _GPU_HEAD_TILE)


def _title(device: Device) -> str:
    return str(torch.cuda.get_device_name(device.place) if device.place.type == "cuda" else device.place.type)


def _available_bytes() -> int:
    """Memory that the system can make available without swapping; all of it where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, ValueError, KeyError):
        return memory_bytes()


def fastest_dtype() -> tuple[torch.dtype, float]:
    """Return the faster dtype for frozen matrices on this CPU, and the speed-up of bfloat16. Takes about 0.2 s.

    Processors with AMX or AVX512-BF16 are several times faster in bfloat16; others emulate it and are slower.
    """
    float32_s, bfloat16_s = _matmul_seconds(torch.float32), _matmul_seconds(torch.bfloat16)
    gain = float32_s / bfloat16_s
    return (torch.bfloat16 if gain >= _MIN_GAIN else torch.float32), gain


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` means that the device ran out of memory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def _matmul_seconds(dtype: torch.dtype) -> float:
    x, w = torch.ones(256, 640, dtype=dtype), torch.ones(4096, 640, dtype=dtype)
    durations = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        x @ w.T
        durations.append(time.perf_counter() - start)
    return min(durations)
