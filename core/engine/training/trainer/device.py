"""The device on which a job is computed, with its dtype, threads and memory limits. Only this module makes these
choices.

The other modules create their tensors on the model's device and take sizes from `Device`. Currently the only device is
the CPU; to add another, write a function like `cpu` and add a branch in `choose`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from core.message import msg

_REPEATS = 5
_MIN_GAIN = 1.3  # below this speed-up, the precision of float32 matters more
# Including padding. Activations take 2 MB per token, so 1.3 GB in total; only a single longer example needs more.
_CPU_BATCH_TOKENS = 640
# 5 MB of bfloat16 weights at width 640 and 8 MB for the logits of 512 positions, so a tile fits in the cache
_CPU_HEAD_TILE = 4096
# PyTorch's allocators raise RuntimeError (CPU) or a subclass of it (`torch.OutOfMemoryError`).
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Device:
    """A device for tensors, with sizes chosen to suit it.

    Attributes:
        place: the torch device of the model and its batches.
        dtype: dtype of the frozen matrices and their products; trained matrices, hidden states and sums are float32.
        batch_tokens: maximum tokens, including padding, in one forward pass, unless a single example is longer.
        head_tile: number of vocabulary tokens that the output head processes at a time.
    """

    place: torch.device
    dtype: torch.dtype
    batch_tokens: int
    head_tile: int

    @property
    def dtype_name(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")


def cpu(dtype: torch.dtype = torch.float32) -> Device:
    """The CPU device."""
    return Device(torch.device("cpu"), dtype, _CPU_BATCH_TOKENS, _CPU_HEAD_TILE)


def choose(dtype: str, threads: int, on_message: Callable[[str], None]) -> Device:
    """Choose the device for a job on this machine.

    Args:
        dtype: `float32`, `bfloat16`, or `auto` for whichever is faster on this machine; the choice is reported to
            `on_message`.
        threads: CPU threads; 0 means all.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
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
