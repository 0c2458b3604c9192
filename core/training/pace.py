"""How fast training goes. Its start-up is no part of the speed: a job of a few tokens is nearly all start-up.

The engine times each step, which is the best source. Without that, finished jobs tell, the time of their start-up taken
off. Before any job, a quick measurement of this machine gives a rough figure for the engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

_SIDE = 1024  # of the matrices: a product of 20 ms on two cores, large enough for all of them
_LOOK_S = 0.25
_FLOP_A_TOKEN = 1.0e9  # our trainer's, on gemma-3-270m in float32: see docs/training.md, "The estimate"
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
    """Tokens a second that our trainer should learn gemma-3-270m at here, from how fast numpy multiplies.

    Takes a quarter of a second on all cores. Processors that multiply bfloat16 faster do better than this.
    """
    one = np.ones((_SIDE, _SIDE), dtype=np.float32)
    began, fastest = time.perf_counter(), float("inf")
    while (start := time.perf_counter()) - began < _LOOK_S:
        one @ one
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * _SIDE**3 / fastest / _FLOP_A_TOKEN
