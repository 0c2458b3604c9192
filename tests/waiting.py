"""Waiting for something real (a process, a thread) without sleeping for a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.02


def until(look: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """The first true answer of `look()`; fails, naming `what`, when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(_POLL_S)
    return found
