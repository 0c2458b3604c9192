"""Which number format multiplies faster on this processor: measured, not looked up."""

from __future__ import annotations

import time

import torch

_REPEATS = 5
_WORTH_IT = 1.3  # bfloat16 costs two roundings per product; below this gain float32 is the better bargain


def choose() -> tuple[torch.dtype, float]:
    """(dtype, how many times faster bfloat16 is than float32) for the frozen matrices; takes about 0.2 s.

    Processors with AMX or AVX512-BF16 are several times faster in bfloat16; others emulate it and are slower.
    """
    slow, fast = _seconds(torch.float32), _seconds(torch.bfloat16)
    gain = slow / fast
    return (torch.bfloat16 if gain >= _WORTH_IT else torch.float32), gain


def _seconds(dtype: torch.dtype) -> float:
    x, w = torch.ones(256, 640, dtype=dtype), torch.ones(4096, 640, dtype=dtype)
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        x @ w.T
        taken.append(time.perf_counter() - start)
    return min(taken)
