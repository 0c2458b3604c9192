"""Training speed in tokens per second, without the start-up time, which dominates short jobs.

The best source is the engine's timed steps. Otherwise the speed comes from finished jobs minus their start-up time.
Before the first job, a quick measurement of this machine gives a rough estimate for the engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

_MATRIX_SIZE = 64  # the largest that OpenBLAS multiplies in the calling thread
_PRODUCTS_PER_TIMING = 80  # about half a millisecond together
_MEASURE_S = 0.25
_FLOP_PER_TOKEN = 1.4e9  # equivalent matrix FLOP per trained token: see docs/training.md, "The estimate"
STARTUP_S = 20.0
"""Engine: seconds from submit to the first step (check, upload, new process, loading weights)."""
HOSTED_STARTUP_S = 60.0
"""Hosted providers: seconds from `running` to the first step. Assumed, because no provider reports it."""
_MIN_STARTUP_MULTIPLE = 3.0  # shorter jobs measure the start-up time, not the speed


def speeds(jobs: Sequence[tuple[int, float]], startup_s: float) -> list[float]:
    """Tokens per second of each job, given as (trained tokens, training seconds). Short jobs are left out."""
    return [
        tokens / (seconds - startup_s)
        for tokens, seconds in jobs
        if tokens > 0 and seconds >= _MIN_STARTUP_MULTIPLE * startup_s
    ]


def training_s(tokens: int, speed: float, startup_s: float) -> float:
    """Seconds that a job takes: its start-up, plus its tokens at `speed` tokens per second.

    >>> training_s(tokens=12_000, speed=100.0, startup_s=20.0)
    140.0
    """
    return startup_s + tokens / speed


def rough_speed() -> float:
    """Estimated training speed of the engine on this machine, in tokens per second, from NumPy's matrix product.

    Takes a quarter of a second. It measures the CPU time of one thread and assumes that all cores are as fast, so
    other load does not affect the result. CPUs with fast bfloat16 train faster than this.
    """
    matrix = np.ones((_MATRIX_SIZE, _MATRIX_SIZE), dtype=np.float32)
    product = np.empty_like(matrix)
    deadline, fastest_s = time.perf_counter() + _MEASURE_S, float("inf")
    while fastest_s == float("inf") or time.perf_counter() < deadline:
        start = time.thread_time()
        for _ in range(_PRODUCTS_PER_TIMING):
            np.matmul(matrix, matrix, out=product)
        if (elapsed_s := time.thread_time() - start) > 0:  # 0 if the system's clock is too coarse
            fastest_s = min(fastest_s, elapsed_s / _PRODUCTS_PER_TIMING)
    return (os.cpu_count() or 1) * 2.0 * _MATRIX_SIZE**3 / fastest_s / _FLOP_PER_TOKEN
