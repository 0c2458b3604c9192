"""Writes how calls end. Nothing waits for it, and nothing that it meets reaches a caller.

A write that fails because the disk is full is kept in memory and tried again, so that the tokens of a paid answer are
not lost. If the engine ends before that, the call is `unknown` after the next start.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from core.engine.shadow import shadow_store
from core.engine.store import EngineStore

_MAX_UNSAVED = 10_000

_log = logging.getLogger(__name__)


class Recorder:
    """Saves the ends of calls, in order. May be called by several threads."""

    def __init__(self, store: EngineStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._unsaved: deque[Callable[[], None]] = deque(maxlen=_MAX_UNSAVED)

    def save(self, act: Callable[..., None], call_id: str, **values: object) -> bool:
        """Carry out `act(store, call_id, **values)`, now or later; return whether it is saved now. Never raises."""
        with self._lock:
            self._unsaved.append(partial(self._carry_out, act, call_id, values))
        return self.retry()

    def retry(self) -> bool:
        """Save what could not be saved before; return whether everything is saved."""
        with self._lock:
            while self._unsaved:
                try:
                    self._unsaved[0]()
                except Exception as exc:
                    _log.error("The end of a relayed call cannot be stored yet: %s", exc)
                    return False
                self._unsaved.popleft()
        return True

    def _carry_out(self, act: Callable[..., None], call_id: str, values: dict[str, object]) -> None:
        try:
            act(self._store, call_id, **values)
        except (sqlite3.OperationalError, OSError):
            raise
        except Exception:  # a value that cannot be stored: the call is recorded without it
            _log.exception("The end of a relayed call cannot be stored")
            shadow_store.end_unknown(self._store, call_id)
