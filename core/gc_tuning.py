"""Keeps the garbage collector from looking at everything again and again.

Streamlit runs a full collection after every rerun of a page. With all that the pages import and keep that is a tenth
of a second each time, in which no other thread of the process runs: more than the page itself takes.
"""

from __future__ import annotations

import gc
import time
from typing import Any

_LONG_S = 0.01  # a collection that took longer than this is worth setting its survivors aside
_WHOLE_S = 20.0  # how long what has died since it was set aside may stay in memory; a whole look takes about 0.1 s


class GcFreezer:
    """Called by the collector. What survived a long full collection is set aside (`gc.freeze`), and is looked at again
    only once in a while, so that nothing leaks.

    Args:
        long_s: seconds from which on a collection is long.
        whole_s: seconds between collections that look at everything.
    """

    def __init__(self, long_s: float = _LONG_S, whole_s: float = _WHOLE_S) -> None:
        self._long_s, self._whole_s = long_s, whole_s
        self._began = self._whole_at = time.monotonic()

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        """`phase` and `info` as `gc.callbacks` gives them."""
        if info["generation"] < 2:
            return
        now = time.monotonic()
        if phase == "stop":
            if now - self._began > self._long_s:
                gc.freeze()
            return
        self._began = now
        if now - self._whole_at > self._whole_s:
            self._whole_at = now
            gc.unfreeze()


def freeze_long_lived() -> None:
    """From now on, in this process, full collections are short."""
    if not any(isinstance(callback, GcFreezer) for callback in gc.callbacks):
        gc.callbacks.append(GcFreezer())
