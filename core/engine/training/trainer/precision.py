"""Measures whether bfloat16 or float32 matrix multiplication is faster on this processor."""

from __future__ import annotations

import time

import torch

_REPEATS = 5
_MIN_GAIN = 1.3  # below this speed-up, the precision of float32 is worth more


def choose() -> tuple[torch.dtype, float]:
    """Choose the dtype of the frozen matrices; returns it and the speed-up of bfloat16. Takes about 0.2 s.

    Processors with AMX or AVX512-BF16 are several times faster in bfloat16; others emulate it and are slower.
    """
    float32_s, bfloat16_s = _seconds(torch.float32), _seconds(torch.bfloat16)
    gain = float32_s / bfloat16_s
    return (torch.bfloat16 if gain >= _MIN_GAIN else torch.float32), gain


def _seconds(dtype: torch.dtype) -> float:
    x, w = torch.ones(256, 640, dtype=dtype), torch.ones(4096, 640, dtype=dtype)
    durations = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        x @ w.T
        durations.append(time.perf_counter() - start)
    return min(durations)
