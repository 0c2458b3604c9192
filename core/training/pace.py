"""How fast the engine will probably train on this machine, before any job has shown it: rough, and called so."""

from __future__ import annotations

import time

import numpy as np

_SIDE = 1024  # of the matrices: a product of 20 ms on two cores, large enough for all of them
_LOOK_S = 0.25
_FLOP_A_TOKEN = 1.0e9  # our trainer's, on gemma-3-270m in float32: see docs/training.md, "The estimate"
START_S = 20.0
"""From the button to the first step: check, upload, a process of its own, weights."""


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
