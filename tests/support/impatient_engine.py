"""Runs the engine with one change: it waits ten seconds for the rest of a request instead of a minute."""

from __future__ import annotations

from core.engine.__main__ import main
from core.engine.api import connections

if __name__ == "__main__":
    connections.BODY_IDLE_TIMEOUT_S = connections.HEADERS_TIMEOUT_S
    main()
