"""Garbage collection: freeze long-lived objects so that full collections stay short.

Streamlit runs a full collection after every rerun of a page. With everything that pages import and cache it takes
about 0.1 s, during which no other thread runs: longer than the page itself.
"""

from __future__ import annotations

import gc
import time
from typing import Any

_FREEZE_AFTER_S = 0.01  # survivors of a collection that took longer than this are frozen
_UNFREEZE_INTERVAL_S = 20.0  # how long unreachable frozen objects can stay in memory; a complete collection takes 0.1 s


class GcFreezer:
    """A `gc.callbacks` entry. Freezes the survivors of a long full collection (`gc.freeze`) and unfreezes them at
    intervals, so that nothing leaks.

    Args:
        freeze_after_s: duration in seconds from which a full collection counts as long.
        unfreeze_interval_s: seconds between complete collections.
    """

    def __init__(
        self, freeze_after_s: float = _FREEZE_AFTER_S, unfreeze_interval_s: float = _UNFREEZE_INTERVAL_S
    ) -> None:
        self._freeze_after_s, self._unfreeze_interval_s = freeze_after_s, unfreeze_interval_s
        self._started = self._last_unfrozen = time.monotonic()

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        """See `gc.callbacks` for `phase` and `info`."""
        if info["generation"] < 2:
            return
        now = time.monotonic()
        if phase == "stop":
            if now - self._started > self._freeze_after_s:
                gc.freeze()
            return
        self._started = now
        if now - self._last_unfrozen > self._unfreeze_interval_s:
            self._last_unfrozen = now
            gc.unfreeze()


def freeze_long_lived() -> None:
    """Install the callback in this process, once."""
    if not any(isinstance(callback, GcFreezer) for callback in gc.callbacks):
        gc.callbacks.append(GcFreezer())
