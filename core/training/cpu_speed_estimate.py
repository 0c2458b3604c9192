"""How fast training goes. Its start-up is no part of the speed: a job of a few tokens is nearly all start-up.

The engine times each step, which is the best source. Without that, finished jobs tell, the time of their start-up taken
off. Before any job, a quick measurement of this machine gives a rough figure for the engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

_SIDE = 64  # of the matrices: the largest that OpenBLAS multiplies in the calling thread
_PRODUCTS = 80  # timed together: about half a millisecond
_LOOK_S = 0.25
_FLOP_A_TOKEN = 1.4e9  # of these products, for a token that our trainer learns: see docs/training.md, "The estimate"
START_S = 20.0
"""At the engine, from the button to the first step: check, upload, a process of its own, weights."""
HOSTED_START_S = 60.0
"""At a provider, from `running` to the first step. Assumed: no provider tells it, and small jobs take minutes."""
_SHORTEST = 3.0  # times the start-up: below, how long the start-up took decides the result, not the speed


def speeds(jobs: Sequence[tuple[int, float]], start_s: float) -> list[float]:
    """Tokens a second of each job of (trained tokens, seconds of training) that is long enough to tell."""
    return [tokens / (seconds - start_s) for tokens, seconds in jobs if tokens > 0 and seconds >= _SHORTEST * start_s]


def training_s(tokens: int, speed: float, start_s: float) -> float:
    """Seconds of a job: its start-up, and its tokens at `speed` tokens a second.

    >>> training_s(tokens=12_000, speed=100.0, start_s=20.0)
    140.0
    """
    return start_s + tokens / speed


def rough_speed() -> float:
    """Tokens a second that our trainer should learn the packaged base at here, from how fast numpy multiplies.

    Takes a quarter of a second. What is timed is the processor time of one thread, and all cores are assumed to be as
    fast: other work on them (an engine that starts, a job) does not make the machine look slow. Processors that
    multiply bfloat16 faster do better than this.
    """
    one = np.ones((_SIDE, _SIDE), dtype=np.float32)
    product = np.empty_like(one)
    ends, fastest = time.perf_counter() + _LOOK_S, float("inf")
    while fastest == float("inf") or time.perf_counter() < ends:
        start = time.thread_time()
        for _ in range(_PRODUCTS):
            np.matmul(one, one, out=product)
        if (took := time.thread_time() - start) > 0:  # 0: the clock of this system is too coarse
            fastest = min(fastest, took / _PRODUCTS)
    return (os.cpu_count() or 1) * 2.0 * _SIDE**3 / fastest / _FLOP_A_TOKEN
