"""Runs the engine with one change: it waits 12 seconds for the rest of a request instead of a minute."""

from __future__ import annotations

from core.engine.__main__ import main
from core.engine.api import connections

BODY_IDLE_TIMEOUT_S = 12.0  # not the time for headers: a test tells them apart

if __name__ == "__main__":
    connections.BODY_IDLE_TIMEOUT_S = BODY_IDLE_TIMEOUT_S
    main()
